// Who talks to whom. A picture, and the same as a table.

import { createEffect, createMemo, createSignal, onCleanup, Show } from "solid-js";
import * as api from "../../api/client";
import { layout, type Memory } from "../../graph/layout";
import { Icon } from "../../parts/icon";
import { useKeys } from "../../parts/keys";
import { Empty, Failed, Loading } from "../../parts/state";
import { go, page } from "../../routes";
import { toParams } from "../../state/filters";
import { exact, plural } from "../../state/format";
import { prepare } from "../../state/map";
import { createQuery } from "../../state/query";
import { setShown, status } from "../../state/store";
import { label, query } from "../../state/time";
import type { MapBy } from "../../state/url";
import { Canvas } from "./canvas";
import { MapPanel } from "./panel";
import { EdgeTable } from "./table";

const BY: MapBy[] = ["workload", "namespace", "pod"];

export function MapView() {
  const [chosen, setChosen] = createSignal<string | null>(null);
  const q = createQuery(
    () => [...query(page.range), ["by", page.by], ...toParams(page.tokens)] as [string, string][],
    (p, s) => api.map(p, s),
    () => (page.range.kind === "live" ? 5000 : null),
  );
  createEffect(() => {
    const a = q.data();
    if (a) setShown({ what: page.range.kind === "live" ? "Map, last 5m" : `Map, ${label(page.range).toLowerCase()}`, completeness: a.completeness });
  });
  onCleanup(() => setShown(undefined));

  const graph = createMemo(() => (q.data() ? prepare(q.data()!) : undefined));
  let memory: Memory | undefined;
  let memoryFor = "";
  // the same members keep the same picture, whatever their counters do
  const shape = createMemo(() => {
    const g = graph();
    return g ? JSON.stringify([g.nodes.map((n) => n.id).sort(), g.edges.map((e) => `${e.source}>${e.target}`).sort()]) : "";
  });
  const placed = createMemo(() => {
    if (!shape()) return undefined;
    const g = graph()!;
    const question = JSON.stringify([page.by, page.tokens]);
    if (question !== memoryFor) memory = undefined;
    memoryFor = question;
    const p = layout(
      g.nodes.map((n) => ({ id: n.id, island: g.island.get(n.id)!, label: n.name })),
      g.edges,
      memory,
    );
    memory = p.memory;
    return p;
  });
  useKeys({ Escape: () => setChosen(null), t: () => go({ table: !page.table }) });

  return (
    <div class="map">
      <div class="map-main">
        <div class="toolbar">
          <div class="segments" role="group" aria-label="Group by">
            {BY.map((by) => (
              <button
                type="button"
                classList={{ on: page.by === by }}
                aria-pressed={page.by === by}
                data-testid={`by-${by}`}
                onClick={() => {
                  setChosen(null);
                  go({ by });
                }}
              >
                {by}
              </button>
            ))}
          </div>
          <Show when={graph()}>
            {(g) => (
              <span class="muted count">
                {plural(g().nodes.length, page.by === "namespace" ? "member" : "node")}, {plural(g().edges.length, "edge")}
                <Show when={g().hiddenNodes + g().hiddenEdges > 0}>
                  <b class="warn-text">
                    {" "}
                    · {exact(g().hiddenNodes)} more nodes and {exact(g().hiddenEdges)} more edges are only in the table; a filter helps
                  </b>
                </Show>
              </span>
            )}
          </Show>
          <Show when={page.range.kind === "live"}>
            <span class="muted hint">last 5 minutes, renewed every 5 s</span>
          </Show>
          <span class="grow" />
          <button type="button" class="button quiet" data-testid="map-toggle" onClick={() => go({ table: !page.table })}>
            <Icon name={page.table ? "graph" : "table"} />
            {page.table ? "As map" : "As table"}
          </button>
        </div>
        <div class="map-body">
          <Show when={q.data()} fallback={<Show when={q.error()} fallback={<Loading what="the map" rows={6} />}>{(e) => <Failed error={e()} again={q.again} />}</Show>}>
            {(a) => (
              <Show when={a().edges.length + a().nodes.length > 0} fallback={<Nobody />}>
                <Show when={!page.table} fallback={<EdgeTable answer={a()} by={page.by} />}>
                  <Show when={placed()}>
                    {(p) => <Canvas graph={graph()!} placed={p()} chosen={chosen()} choose={setChosen} />}
                  </Show>
                </Show>
              </Show>
            )}
          </Show>
          <Show when={chosen() !== null && graph()}>
            {(g) => <MapPanel graph={g()} chosen={chosen()!} choose={setChosen} />}
          </Show>
        </div>
      </div>
    </div>
  );
}

function Nobody() {
  const s = () => status.data();
  return (
    <Empty title={page.tokens.length ? "Nobody matches" : "Nobody talks to anybody"}>
      <p>{page.tokens.length ? "No flow in this time range passes the filter, so there is nothing to draw." : "No flow was recorded in this time range."}</p>
      <Show when={s()}>
        {(s) => (
          <p class="muted">
            {s().nodes.reporting} of {plural(s().nodes.expected, "node")} reporting, {exact(s().flows_stored)} flows stored.
          </p>
        )}
      </Show>
      <div class="actions">
        <Show when={page.tokens.length > 0}>
          <button type="button" class="button" onClick={() => go({ tokens: [] })}>
            Clear the filter
          </button>
        </Show>
        <button type="button" class="button" onClick={() => go({ range: { kind: "last", span: "24h" } })}>
          Look at the last 24 h
        </button>
      </div>
    </Empty>
  );
}
