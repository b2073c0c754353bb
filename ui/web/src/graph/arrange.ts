// Boxes in columns from callers to callees. A link that passes a column gets a lane through it, so that it does not
// run over the boxes there. Deterministic: ties are broken by name.

export interface Link {
  source: string;
  target: string;
}

export interface Size {
  id: string;
  w: number;
  h: number;
}

export interface Box extends Size {
  x: number;
  y: number;
}

/** A lane through one column. */
export interface Lane {
  x0: number;
  x1: number;
  y: number;
}

export interface Memory {
  rank: Map<string, number>;
  order: Map<string, number>;
}

export interface Arranged {
  boxes: Map<string, Box>;
  /** `source>target` -> lanes on the way, in the order they are passed. */
  lanes: Map<string, Lane[]>;
  w: number;
  h: number;
}

export interface Gaps {
  x: number;
  y: number;
  /** Width by height the whole should at most have: spreads what is long and flat. */
  aspect?: number;
  maxRows: number;
}

export const byName = (a: string, b: string): number => (a < b ? -1 : a > b ? 1 : 0);
export const pair = (l: Link): string => `${l.source}>${l.target}`;
const LANE_H = 8;

/** An order in which few links go back (Eades, Lin, Smyth): sinks to the end, sources to the front, else who calls most. */
export function sequence(ids: readonly string[], links: readonly Link[]): string[] {
  const out = new Map<string, Set<string>>(ids.map((id) => [id, new Set()]));
  const into = new Map<string, Set<string>>(ids.map((id) => [id, new Set()]));
  for (const l of links) {
    if (l.source === l.target || !out.has(l.source) || !into.has(l.target)) continue;
    out.get(l.source)!.add(l.target);
    into.get(l.target)!.add(l.source);
  }
  const left = new Set([...ids].sort(byName));
  const head: string[] = [];
  const tail: string[] = [];
  const take = (id: string): void => {
    left.delete(id);
    for (const t of out.get(id)!) into.get(t)!.delete(id);
    for (const s of into.get(id)!) out.get(s)!.delete(id);
  };
  while (left.size) {
    let again = false;
    for (const id of left) {
      if (out.get(id)!.size === 0 && into.get(id)!.size > 0) {
        tail.push(id);
        take(id);
        again = true;
      } else if (into.get(id)!.size === 0) {
        head.push(id);
        take(id);
        again = true;
      }
    }
    if (again) continue;
    let best: string | undefined;
    let most = -Infinity;
    for (const id of left) {
      const d = out.get(id)!.size - into.get(id)!.size;
      if (d > most) {
        most = d;
        best = id;
      }
    }
    head.push(best!);
    take(best!);
  }
  return head.concat(tail.reverse());
}

/** Longest paths over the links that go forward in the sequence. Ranks of an earlier picture are kept. */
export function ranks(ids: readonly string[], links: readonly Link[], kept: ReadonlyMap<string, number> = new Map()): Map<string, number> {
  const order = sequence(ids, links);
  const place = new Map(order.map((id, i) => [id, i]));
  const targets = new Map<string, string[]>();
  for (const l of links) {
    if (!place.has(l.source) || !place.has(l.target) || place.get(l.target)! <= place.get(l.source)!) continue;
    const list = targets.get(l.source);
    if (list) list.push(l.target);
    else targets.set(l.source, [l.target]);
  }
  const rank = new Map(order.map((id) => [id, kept.get(id) ?? 0]));
  for (const id of order) {
    for (const t of targets.get(id) ?? []) {
      if (!kept.has(t)) rank.set(t, Math.max(rank.get(t)!, rank.get(id)! + 1));
    }
  }
  return rank;
}

/** Sorts each column by where the neighbours are. */
function untangle(cols: string[][], near: ReadonlyMap<string, readonly string[]>, kept: ReadonlyMap<string, number>): void {
  const row = new Map<string, number>();
  const number = (c: string[]) => c.forEach((id, i) => row.set(id, i - (c.length - 1) / 2));
  for (const c of cols) {
    c.sort((a, b) => (kept.get(a) ?? 0) - (kept.get(b) ?? 0) || byName(a, b));
    number(c);
  }
  const centre = (id: string): number => {
    const n = near.get(id) ?? [];
    return n.length ? n.reduce((s, o) => s + row.get(o)!, 0) / n.length : row.get(id)!;
  };
  for (let pass = 0; pass < 8; pass++) {
    for (const c of pass % 2 ? [...cols].reverse() : cols) {
      const at = new Map(c.map((id) => [id, kept.get(id) ?? centre(id)]));
      c.sort((a, b) => at.get(a)! - at.get(b)! || byName(a, b));
      number(c);
    }
  }
}

/** Heights: each box goes towards its neighbours as far as order and gaps allow. */
function settle(cols: string[][], near: ReadonlyMap<string, readonly string[]>, h: (id: string) => number, gap: number, H: number): Map<string, number> {
  const y = new Map<string, number>();
  for (const c of cols) {
    const free = H - c.reduce((s, id) => s + h(id), 0);
    const g = free / (c.length + 1);
    let at = g;
    for (const id of c) {
      y.set(id, at);
      at += h(id) + g;
    }
  }
  const mid = (id: string) => y.get(id)! + h(id) / 2;
  for (let pass = 0; pass < 6; pass++) {
    for (const c of pass % 2 ? [...cols].reverse() : cols) {
      const wish = c.map((id) => {
        const n = near.get(id) ?? [];
        const want = n.length ? n.reduce((s, o) => s + mid(o), 0) / n.length - h(id) / 2 : y.get(id)!;
        return (want + y.get(id)!) / 2;
      });
      let floor = 0;
      c.forEach((id, i) => {
        y.set(id, Math.max(wish[i]!, floor));
        floor = y.get(id)! + h(id) + gap;
      });
      let roof = H;
      for (let i = c.length - 1; i >= 0; i--) {
        const id = c[i]!;
        y.set(id, Math.min(y.get(id)!, roof - h(id)));
        roof = y.get(id)! - gap;
      }
    }
  }
  return y;
}

export function arrange(items: readonly Size[], links: readonly Link[], gaps: Gaps, kept: Memory, next: Memory): Arranged {
  const size = new Map(items.map((i) => [i.id, i]));
  const ids = [...size.keys()].sort(byName);
  const unique = [...new Map(links.filter((l) => l.source !== l.target && size.has(l.source) && size.has(l.target)).map((l) => [pair(l), l])).values()].sort(
    (a, b) => byName(pair(a), pair(b)),
  );
  const rank = ranks(ids, unique, kept.rank);
  rank.forEach((r, id) => next.rank.set(id, r));

  // a column too long goes on beside itself
  const levels = new Map<number, string[]>();
  for (const id of ids) levels.set(rank.get(id)!, [...(levels.get(rank.get(id)!) ?? []), id]);
  const cols = [...levels.entries()]
    .sort((a, b) => a[0] - b[0])
    .flatMap(([, c]) => {
      const parts = Math.ceil(c.length / gaps.maxRows);
      const per = Math.ceil(c.length / parts);
      return Array.from({ length: parts }, (_, i) => c.slice(i * per, (i + 1) * per)).filter((p) => p.length > 0);
    });
  const column = new Map<string, number>();
  cols.forEach((c, i) => c.forEach((id) => column.set(id, i)));

  // lanes; with very many links they would only push the boxes apart
  const near = new Map<string, string[]>();
  const join = (a: string, b: string) => {
    near.set(a, [...(near.get(a) ?? []), b]);
    near.set(b, [...(near.get(b) ?? []), a]);
  };
  const chains = new Map<string, string[]>();
  for (const l of unique) {
    const a = column.get(l.source)!;
    const b = column.get(l.target)!;
    const step = a < b ? 1 : -1;
    const chain: string[] = [];
    if (unique.length <= 400) {
      for (let c = a + step; c !== b && a !== b; c += step) {
        const id = `lane ${pair(l)} ${c}`;
        cols[c]!.push(id);
        chain.push(id);
      }
    }
    chains.set(pair(l), chain);
    [l.source, ...chain, l.target].reduce((p, q) => (join(p, q), q));
  }
  untangle(cols, near, kept.order);
  cols.forEach((c) => c.forEach((id, i) => next.order.set(id, i - (c.length - 1) / 2)));

  const h = (id: string): number => size.get(id)?.h ?? LANE_H;
  const widths = cols.map((c) => Math.max(0, ...c.map((id) => size.get(id)?.w ?? 0)));
  const w = widths.reduce((s, v) => s + v, 0) + gaps.x * Math.max(0, cols.length - 1);
  const least = Math.max(0, ...cols.map((c) => c.reduce((s, id) => s + h(id), 0) + gaps.y * (c.length - 1)));
  const H = gaps.aspect ? Math.max(least, Math.min(w / gaps.aspect, least * 2.2)) : least;
  const most = Math.max(1, ...cols.map((c) => c.length));
  const y = settle(cols, near, h, gaps.y + (H - least) / (most + 1) / 2, H);

  // what is not used above and below is cut
  const top = Math.min(...cols.flat().map((id) => y.get(id)!), H);
  const bottom = Math.max(...cols.flat().map((id) => y.get(id)! + h(id)), 0);
  for (const [id, v] of y) y.set(id, v - top);

  const boxes = new Map<string, Box>();
  const left: number[] = [];
  let x = 0;
  cols.forEach((c, i) => {
    left.push(x);
    for (const id of c) {
      const s = size.get(id);
      if (s) boxes.set(id, { ...s, x: x + (widths[i]! - s.w) / 2, y: y.get(id)! });
    }
    x += widths[i]! + gaps.x;
  });
  const lanes = new Map<string, Lane[]>();
  for (const [key, chain] of chains) {
    lanes.set(
      key,
      chain.map((id) => {
        const c = Number(id.slice(id.lastIndexOf(" ") + 1));
        return { x0: left[c]!, x1: left[c]! + widths[c]!, y: y.get(id)! + LANE_H / 2 };
      }),
    );
  }
  return { boxes, lanes, w, h: Math.max(0, bottom - top) };
}
