// The map's answer, made drawable: what is outside is grouped, what is too much is left out by weight and counted.

import type { MapAnswer, MapEdge, MapNode } from "../api/types";
import type { Token } from "./filters";
import type { MapBy } from "./url";

export interface Graph {
  nodes: MapNode[];
  /** Node id -> island. */
  island: Map<string, string>;
  edges: MapEdge[];
  /** Left out of the picture; the table has them. */
  hiddenNodes: number;
  hiddenEdges: number;
}

/** What is called from inside, and what calls in: on the two sides of the picture. */
export const OUTSIDE = "outside";
export const CALLERS = "outside-in";
export const NODES = "nodes";
const folds = (island: string): string => `${island}:rest`;

function islandOf(n: MapNode, calls: ReadonlyMap<string, number>): string {
  if (n.kind === "world" || n.kind === "name") return (calls.get(n.id) ?? 0) > 0 ? CALLERS : OUTSIDE;
  if (n.kind === "host") return NODES;
  return n.namespace || "no namespace";
}

export function prepare(a: MapAnswer, maxNodes = 240, maxEdges = 700, maxOutside = 14): Graph {
  const weight = new Map<string, number>();
  const drops = new Set<string>();
  const calls = new Map<string, number>();
  for (const e of a.edges) {
    calls.set(e.source, (calls.get(e.source) ?? 0) + 1);
    calls.set(e.target, (calls.get(e.target) ?? 0) - 1);
    for (const id of [e.source, e.target]) {
      weight.set(id, (weight.get(id) ?? 0) + e.bytes + 1);
      if (e.dropped > 0) drops.add(id);
    }
  }
  const heavy = (x: MapNode, y: MapNode): number =>
    Number(drops.has(y.id)) - Number(drops.has(x.id)) || (weight.get(y.id) ?? 0) - (weight.get(x.id) ?? 0) || (x.id < y.id ? -1 : 1);

  const island = new Map(a.nodes.map((n) => [n.id, islandOf(n, calls)]));
  const isOut = (n: MapNode): boolean => island.get(n.id) === OUTSIDE || island.get(n.id) === CALLERS;
  const inside = a.nodes.filter((n) => !isOut(n)).sort(heavy);
  const kept = inside.slice(0, maxNodes);
  const nodes: MapNode[] = [...kept];
  const folded = new Map<string, string>();
  for (const side of [CALLERS, OUTSIDE]) {
    const all = a.nodes.filter((n) => island.get(n.id) === side).sort(heavy);
    const shown = all.length > maxOutside ? all.slice(0, maxOutside - 1) : all;
    nodes.push(...shown);
    const rest = all.slice(shown.length);
    if (!rest.length) continue;
    rest.forEach((n) => folded.set(n.id, folds(side)));
    nodes.push({ id: folds(side), name: `${rest.length} more`, kind: "world", namespace: null });
    island.set(folds(side), side);
  }

  const ids = new Set(nodes.map((n) => n.id));
  const to = (id: string): string => folded.get(id) ?? id;
  const merged = new Map<string, MapEdge>();
  let lostEdges = 0;
  for (const e of a.edges) {
    const source = to(e.source);
    const target = to(e.target);
    if (!ids.has(source) || !ids.has(target)) {
      lostEdges++;
      continue;
    }
    const key = `${source}\0${target}`;
    const old = merged.get(key);
    if (!old) merged.set(key, { ...e, source, target, ports: [...e.ports] });
    else {
      old.bytes += e.bytes;
      old.packets += e.packets;
      old.flows += e.flows;
      old.dropped += e.dropped;
      old.ports = [...new Set([...old.ports, ...e.ports])];
      old.rtt_us = null;
    }
  }
  const edges = [...merged.values()].sort((x, y) => Number(y.dropped > 0) - Number(x.dropped > 0) || y.bytes - x.bytes || (edgeKey(x) < edgeKey(y) ? -1 : 1));
  return {
    nodes,
    island,
    edges: edges.slice(0, maxEdges),
    hiddenNodes: inside.length - kept.length,
    hiddenEdges: lostEdges + Math.max(0, edges.length - maxEdges),
  };
}

export const edgeKey = (e: MapEdge): string => `${e.source}\u2192${e.target}`;

/** The filter that shows this node's flows, or null where none says it. */
export function nodeToken(n: MapNode, by: MapBy, side: "" | "source_" | "destination_" = ""): Token | null {
  const make = (field: string, value: string): Token | null => (value ? { field: side + field, value, not: false } : null);
  if (n.kind === "name") return { field: "name", value: n.name, not: false };
  if (n.kind === "service") return { field: "service", value: n.namespace ? `${n.namespace}/${n.name}` : n.name, not: false };
  if (n.kind === "host") return make("ip", /^[\d.:a-f]+$/i.test(n.name) ? n.name : "") ?? { field: "node", value: n.name, not: false };
  if (n.kind === "world") return /^[\d.:a-f/]+$/i.test(n.name) ? make("ip", n.name) : null;
  if (by === "namespace") return make("namespace", n.namespace || n.name);
  if (n.kind === "pod") return make("pod", n.namespace ? `${n.namespace}/${n.name}` : n.name);
  return make("workload", n.name);
}
