// The map as a table: all of it, also what the picture leaves out.

import { createMemo, createSignal, For } from "solid-js";
import type { MapAnswer, MapEdge, MapNode } from "../../api/types";
import { go, page } from "../../routes";
import { add, type Token } from "../../state/filters";
import { bytes, exact, micros } from "../../state/format";
import { nodeToken } from "../../state/map";
import type { MapBy } from "../../state/url";

type Key = "source" | "target" | "bytes" | "packets" | "flows" | "dropped" | "rtt_us";
const COLUMNS: { key: Key; name: string; num?: boolean }[] = [
  { key: "source", name: "From" },
  { key: "target", name: "To" },
  { key: "bytes", name: "Bytes", num: true },
  { key: "packets", name: "Packets", num: true },
  { key: "flows", name: "Flows", num: true },
  { key: "dropped", name: "Dropped", num: true },
  { key: "rtt_us", name: "RTT", num: true },
];

export function EdgeTable(p: { answer: MapAnswer; by: MapBy }) {
  const [sort, setSort] = createSignal<{ key: Key; up: boolean }>({ key: "bytes", up: false });
  const nodes = createMemo(() => new Map(p.answer.nodes.map((n) => [n.id, n])));
  const node = (id: string): MapNode => nodes().get(id) ?? { id, name: id, kind: "workload" };
  const full = (id: string) => {
    const n = node(id);
    return n.namespace && n.namespace !== n.name ? `${n.namespace}/${n.name}` : n.name;
  };
  const rows = createMemo(() => {
    const { key, up } = sort();
    const value = (e: MapEdge) => (key === "source" || key === "target" ? full(e[key]) : (e[key] ?? -1));
    return [...p.answer.edges].sort((a, b) => (value(a) < value(b) ? -1 : value(a) > value(b) ? 1 : 0) * (up ? 1 : -1));
  });
  const open = (e: MapEdge) => {
    const t = [nodeToken(node(e.source), p.by, "source_"), nodeToken(node(e.target), p.by, "destination_")].filter((t): t is Token => t !== null);
    go({ view: "flows", tokens: t.reduce(add, page.tokens) });
  };
  return (
    <div class="scroll" data-testid="map-table">
      <table class="grid wide-grid">
        <thead>
          <tr>
            <For each={COLUMNS}>
              {(c) => (
                <th classList={{ num: c.num }} aria-sort={sort().key === c.key ? (sort().up ? "ascending" : "descending") : undefined}>
                  <button type="button" onClick={() => setSort({ key: c.key, up: sort().key === c.key ? !sort().up : !c.num })}>
                    {c.name}
                    {sort().key === c.key ? (sort().up ? " ↑" : " ↓") : ""}
                  </button>
                </th>
              )}
            </For>
            <th>Ports</th>
            <th />
          </tr>
        </thead>
        <tbody>
          <For each={rows().slice(0, 2000)}>
            {(e) => (
              <tr>
                <td>{full(e.source)}</td>
                <td>{full(e.target)}</td>
                <td class="num">{bytes(e.bytes)}</td>
                <td class="num">{exact(e.packets)}</td>
                <td class="num">{exact(e.flows)}</td>
                <td class="num" classList={{ "bad-text": e.dropped > 0 }}>
                  {e.dropped > 0 ? `✕ ${exact(e.dropped)}` : "0"}
                </td>
                <td class="num">{micros(e.rtt_us)}</td>
                <td class="mono">{e.ports.join(" ")}</td>
                <td>
                  <button type="button" class="button quiet small" onClick={() => open(e)}>
                    Flows
                  </button>
                </td>
              </tr>
            )}
          </For>
        </tbody>
      </table>
    </div>
  );
}
