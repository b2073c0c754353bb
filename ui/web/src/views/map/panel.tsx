// What is chosen on the map: a member with its edges, or an edge with its numbers; and the way to its flows.

import { For, Show } from "solid-js";
import type { MapEdge, MapNode } from "../../api/types";
import { Icon } from "../../parts/icon";
import { addFilter, go, page } from "../../routes";
import { add, type Token } from "../../state/filters";
import { bytes, exact, micros, plural } from "../../state/format";
import { edgeKey, nodeToken, type Graph } from "../../state/map";

export function MapPanel(p: { graph: Graph; chosen: string; choose: (id: string | null) => void }) {
  const node = () => p.graph.nodes.find((n) => n.id === p.chosen);
  const edge = () => p.graph.edges.find((e) => edgeKey(e) === p.chosen);
  const named = (id: string): MapNode => p.graph.nodes.find((n) => n.id === id) ?? { id, name: id, kind: "workload" };
  const full = (n: MapNode) => (n.namespace && n.namespace !== n.name ? `${n.namespace}/${n.name}` : n.name);
  return (
    <aside class="detail" data-testid="map-panel" aria-label="Chosen on the map">
      <header>
        <h2>{node() ? full(node()!) : edge() ? "Edge" : "Gone"}</h2>
        <button type="button" class="button quiet" aria-label="Close" title="Close (Esc)" onClick={() => p.choose(null)}>
          <Icon name="close" />
        </button>
      </header>
      <div class="detail-body">
        <Show when={!node() && !edge()}>
          <p class="muted">It sent and received nothing in the time range any more.</p>
        </Show>
        <Show when={node()}>{(n) => <NodePart node={n()} graph={p.graph} named={named} full={full} choose={p.choose} />}</Show>
        <Show when={edge()}>{(e) => <EdgePart edge={e()} named={named} full={full} />}</Show>
      </div>
    </aside>
  );
}

interface Shared {
  named: (id: string) => MapNode;
  full: (n: MapNode) => string;
}

function NodePart(p: Shared & { node: MapNode; graph: Graph; choose: (id: string | null) => void }) {
  const out = () => p.graph.edges.filter((e) => e.source === p.node.id);
  const into = () => p.graph.edges.filter((e) => e.target === p.node.id);
  const token = () => nodeToken(p.node, page.by);
  const sum = (list: MapEdge[], k: "bytes" | "dropped" | "flows") => list.reduce((s, e) => s + e[k], 0);
  return (
    <>
      <p class="muted">
        {p.node.kind}
        {p.node.namespace ? ` in ${p.node.namespace}` : ""}
      </p>
      <dl class="tiles">
        <div>
          <dt>On edges from it</dt>
          <dd>{bytes(sum(out(), "bytes"))}</dd>
        </div>
        <div>
          <dt>On edges to it</dt>
          <dd>{bytes(sum(into(), "bytes"))}</dd>
        </div>
        <div>
          <dt>Flows</dt>
          <dd>{exact(sum(out(), "flows") + sum(into(), "flows"))}</dd>
        </div>
        <div>
          <dt>Dropped</dt>
          <dd classList={{ "bad-text": sum(out(), "dropped") + sum(into(), "dropped") > 0 }}>{exact(sum(out(), "dropped") + sum(into(), "dropped"))}</dd>
        </div>
      </dl>
      <Show when={token()}>
        {(t) => (
          <div class="actions">
            <button type="button" class="button primary" onClick={() => go({ view: "flows", tokens: add(page.tokens, t()) })}>
              Show its flows
            </button>
            <button type="button" class="button" onClick={() => addFilter(t())}>
              Only this
            </button>
            <button type="button" class="button" onClick={() => (p.choose(null), addFilter({ ...t(), not: true }))}>
              All but this
            </button>
          </div>
        )}
      </Show>
      <Peers title="Calls" edges={out()} other={(e) => e.target} {...p} />
      <Peers title="Is called by" edges={into()} other={(e) => e.source} {...p} />
    </>
  );
}

function Peers(p: Shared & { title: string; edges: MapEdge[]; other: (e: MapEdge) => string; choose: (id: string | null) => void }) {
  return (
    <Show when={p.edges.length}>
      <h3>
        {p.title} {p.edges.length}
      </h3>
      <ul class="peers">
        <For each={p.edges}>
          {(e) => (
            <li>
              <button type="button" onClick={() => p.choose(edgeKey(e))}>
                <span class="one">{p.full(p.named(p.other(e)))}</span>
                <span class="mono muted one">{e.ports.slice(0, 2).join(" ")}</span>
                <span class="num" classList={{ "bad-text": e.dropped > 0 }}>
                  {e.dropped > 0 ? `✕ ${exact(e.dropped)}` : bytes(e.bytes)}
                </span>
              </button>
            </li>
          )}
        </For>
      </ul>
    </Show>
  );
}

function EdgePart(p: Shared & { edge: MapEdge }) {
  const tokens = (): Token[] =>
    [nodeToken(p.named(p.edge.source), page.by, "source_"), nodeToken(p.named(p.edge.target), page.by, "destination_")].filter((t) => t !== null);
  const flows = (more: Token[] = []) => go({ view: "flows", tokens: [...tokens(), ...more].reduce(add, page.tokens) });
  return (
    <>
      <div class="ends">
        <div class="end-card">
          <span class="tag">from</span>
          <b>{p.full(p.named(p.edge.source))}</b>
        </div>
        <div class="between" aria-hidden="true">
          ↓
        </div>
        <div class="end-card">
          <span class="tag">to</span>
          <b>{p.full(p.named(p.edge.target))}</b>
        </div>
      </div>
      <dl class="tiles">
        <div>
          <dt>Bytes</dt>
          <dd>{bytes(p.edge.bytes)}</dd>
        </div>
        <div>
          <dt>Packets</dt>
          <dd>{exact(p.edge.packets)}</dd>
        </div>
        <div>
          <dt>Flows</dt>
          <dd>{exact(p.edge.flows)}</dd>
        </div>
        <div>
          <dt>Dropped</dt>
          <dd classList={{ "bad-text": p.edge.dropped > 0 }}>{exact(p.edge.dropped)}</dd>
        </div>
        <div>
          <dt>RTT</dt>
          <dd>{micros(p.edge.rtt_us)}</dd>
        </div>
      </dl>
      <h3>{plural(p.edge.ports.length, "port")}</h3>
      <p class="mono">{p.edge.ports.join("  ")}</p>
      <div class="actions">
        <button type="button" class="button primary" onClick={() => flows()}>
          Show its flows
        </button>
        <Show when={p.edge.dropped > 0}>
          <button type="button" class="button" onClick={() => flows([{ field: "verdict", value: "DROPPED", not: false }])}>
            Only the dropped
          </button>
        </Show>
      </div>
    </>
  );
}
