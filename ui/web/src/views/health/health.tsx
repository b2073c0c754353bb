// Can what the other views show be trusted? Storage, losses by cause, every node.

import { createEffect, For, onCleanup, Show } from "solid-js";
import * as api from "../../api/client";
import type { StatusAnswer } from "../../api/types";
import { Failed, Loading } from "../../parts/state";
import { ago, bytes, clock, count, duration, exact, plural, rate } from "../../state/format";
import { byCause, judge } from "../../state/health";
import { createQuery } from "../../state/query";
import { nodes, now, setShown, status } from "../../state/store";
import { Nodes } from "./nodes";

export function Health() {
  const losses = createQuery(
    () => [["since", "1h"]] as [string, string][],
    (p, s) => api.losses(p, s),
    () => 10_000,
  );
  createEffect(() => {
    const s = status.data();
    if (s) setShown({ what: "The relay's own account", completeness: s.completeness });
  });
  onCleanup(() => setShown(undefined));
  return (
    <div class="health" data-testid="health-view">
      <Show when={status.data()} fallback={<Show when={status.error()} fallback={<Loading what="health" rows={5} />}>{(e) => <Failed error={e()} again={status.again} />}</Show>}>
        {(s) => <Summary s={s()} />}
      </Show>
      <section>
        <h2>Losses in the last hour</h2>
        <Show when={losses.data()} fallback={<Show when={losses.error()} fallback={<p class="muted">Loading …</p>}>{(e) => <p class="note warn">{e().message}</p>}</Show>}>
          {(l) => (
            <Show
              when={l().losses.length}
              fallback={<p class="calm">Nothing was lost at any stage: kernel, ring, agent, network, disk.</p>}
            >
              <div class="scroll-x">
                <table class="grid" data-testid="losses-table">
                  <thead>
                    <tr>
                      <th>Stage</th>
                      <th>Cause</th>
                      <th>Nodes</th>
                      <th class="num">Events</th>
                      <th class="num">Flows</th>
                      <th class="num">Bytes</th>
                      <th>Last</th>
                    </tr>
                  </thead>
                  <tbody>
                    <For each={byCause(l().losses)}>
                      {(c) => (
                        <tr>
                          <td>{c.stage}</td>
                          <td>{c.cause}</td>
                          <td>{c.nodes.join(", ") || "–"}</td>
                          <td class="num">{exact(c.events)}</td>
                          <td class="num">{exact(c.flows)}</td>
                          <td class="num">{bytes(c.bytes)}</td>
                          <td class="muted">
                            {ago(
                              l()
                                .losses.filter((x) => x.stage === c.stage && x.cause === c.cause)
                                .map((x) => x.time)
                                .sort()
                                .at(-1),
                              now(),
                            )}
                          </td>
                        </tr>
                      )}
                    </For>
                  </tbody>
                </table>
              </div>
              <p class="muted foot">
                Lost events are news that came too fast; counters of bytes and packets do not depend on them. Lost flows and bytes are missing
                from history.
              </p>
            </Show>
          )}
        </Show>
      </section>
      <section>
        <h2>Nodes</h2>
        <Show when={nodes.data()} fallback={<Show when={nodes.error()} fallback={<Loading what="nodes" rows={3} />}>{(e) => <p class="note warn">{e().message}</p>}</Show>}>
          {(n) => (
            <Show when={n().nodes.length} fallback={<p class="calm">No node is known yet. Nodes appear when their agent connects to this relay.</p>}>
              <Nodes nodes={n().nodes} />
            </Show>
          )}
        </Show>
      </section>
    </div>
  );
}

function Summary(p: { s: StatusAnswer }) {
  const v = () => judge(p.s.completeness);
  const tile = (name: string, value: string, note: string, bad = false) => (
    <div class="tile" classList={{ bad }}>
      <dt>{name}</dt>
      <dd>{value}</dd>
      <span class="muted">{note}</span>
    </div>
  );
  return (
    <section>
      <dl class="summary">
        {tile("Complete", v().level === "good" ? "Yes" : "No", v().why[0] ?? "nothing is missing", v().level !== "good")}
        {tile("Nodes", `${p.s.nodes.reporting} / ${p.s.nodes.expected}`, p.s.nodes.reporting < p.s.nodes.expected ? "some do not report" : "all report", p.s.nodes.reporting < p.s.nodes.expected)}
        {tile("Flows", `${rate(p.s.flows_per_s)}/s`, `${count(p.s.flows_stored)} stored`)}
        {tile("Storage", bytes(p.s.storage.bytes), `${plural(p.s.storage.segments, "segment")}, ${p.s.storage.disk_free_bytes === null ? "free space not known" : `${bytes(p.s.storage.disk_free_bytes)} free`}`)}
        {tile("Oldest flow", p.s.storage.oldest ? duration(now() - Date.parse(p.s.storage.oldest)) : "–", p.s.storage.oldest ? clock(p.s.storage.oldest, now(), false) : "nothing is stored yet")}
        {tile("Ingest", p.s.storage.ingest === "ok" ? "Running" : "Stopped", p.s.storage.ingest === "ok" ? "what is acknowledged is on disk" : p.s.storage.ingest.replace(/^stopped:\s*/, ""), p.s.storage.ingest !== "ok")}
      </dl>
      <p class="muted foot">
        Weir {p.s.version}, mode {p.s.mode}, up {duration(p.s.uptime_s * 1000)}.
      </p>
    </section>
  );
}
