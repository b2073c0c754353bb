// Layout of the map: members in columns inside their island (namespace), islands in columns beside one another.
// The same graph gives the same picture whatever order it comes in; ranks and order of an earlier picture are kept,
// so that a refresh with a few new members does not move the rest.

import { arrange, byName, pair, type Arranged, type Box, type Lane, type Link, type Memory } from "./arrange";

export type { Box, Lane, Link, Memory } from "./arrange";

export interface Member {
  id: string;
  island: string;
  label: string;
}

export interface Placed {
  nodes: Map<string, Box>;
  islands: (Box & { members: number })[];
  /** Lanes of a link, by `source>target` of its members. */
  lanes: (l: Link) => Lane[];
  width: number;
  height: number;
  /** To be given to the next layout. */
  memory: Memory;
}

const NODE_H = 28;
const PAD = 16;
const HEAD = 26;
const CHAR = 6.9;

export const nodeWidth = (label: string): number => Math.round(Math.min(Math.max(label.length, 6), 26) * CHAR + 38);

export function layout(members: readonly Member[], links: readonly Link[], memory: Memory = { rank: new Map(), order: new Map() }): Placed {
  const known = new Map([...members].sort((a, b) => byName(a.id, b.id)).map((m) => [m.id, m]));
  const islandOf = (id: string): string => known.get(id)!.island;
  const mine = links.filter((l) => known.has(l.source) && known.has(l.target));
  const ids = [...new Set([...known.values()].map((m) => m.island))].sort(byName);
  const next: Memory = { rank: new Map(), order: new Map() };

  const inner = new Map<string, Arranged>();
  for (const island of ids) {
    const items = [...known.values()].filter((m) => m.island === island).map((m) => ({ id: m.id, w: nodeWidth(m.label), h: NODE_H }));
    const own = mine.filter((l) => islandOf(l.source) === island && islandOf(l.target) === island);
    inner.set(island, arrange(items, own, { x: 84, y: 12, maxRows: 9 }, memory, next));
  }
  const key = (island: string) => `island ${island}`;
  const between = mine
    .map((l) => ({ source: key(islandOf(l.source)), target: key(islandOf(l.target)) }))
    .filter((l) => l.source !== l.target);
  const sizes = ids.map((island) => {
    const a = inner.get(island)!;
    return { id: key(island), w: Math.max(a.w, island.length * CHAR) + PAD * 2, h: a.h + HEAD + PAD * 2 };
  });
  const outer = arrange(sizes, between, { x: 78, y: 26, maxRows: 6, aspect: 1.9 }, memory, next);

  const nodes = new Map<string, Box>();
  const islands = ids.map((island) => {
    const box = outer.boxes.get(key(island))!;
    const a = inner.get(island)!;
    for (const b of a.boxes.values()) nodes.set(b.id, { ...b, x: box.x + PAD + b.x, y: box.y + HEAD + PAD + b.y });
    return { ...box, id: island, members: a.boxes.size };
  });
  const lanes = (l: Link): Lane[] => {
    const a = islandOf(l.source);
    const b = islandOf(l.target);
    if (a !== b) return outer.lanes.get(pair({ source: key(a), target: key(b) })) ?? [];
    const box = outer.boxes.get(key(a))!;
    const dx = box.x + PAD;
    const dy = box.y + HEAD + PAD;
    return (inner.get(a)!.lanes.get(pair(l)) ?? []).map((v) => ({ x0: v.x0 + dx, x1: v.x1 + dx, y: v.y + dy }));
  };
  return { nodes, islands, lanes, width: outer.w, height: outer.h, memory: next };
}
