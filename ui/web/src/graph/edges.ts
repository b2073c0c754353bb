// Geometry of the map's edges.

import type { Box, Lane } from "./layout";

export interface Point {
  x: number;
  y: number;
}

export interface Curve {
  path: string;
  /** Point at a share of the way. */
  at: (t: number) => Point;
  /** Triangle at the target. */
  tip: string;
}

const n = (v: number): string => v.toFixed(1);

/** 1 px for nothing, 7 px for a tebibyte: one step per factor of about 60. */
export const edgeWidth = (bytes: number): number => Math.min(7, 1 + Math.log10(Math.max(1, bytes)) / 2);

type Cubic = [Point, Point, Point, Point];

function on([a, b, c, d]: Cubic, t: number): Point {
  const u = 1 - t;
  const f = (k: "x" | "y") => u * u * u * a[k] + 3 * u * u * t * b[k] + 3 * u * t * t * c[k] + t * t * t * d[k];
  return { x: f("x"), y: f("y") };
}

/** From one point to the other, level at both ends. */
function glide(a: Point, b: Point): Cubic {
  const dx = (b.x - a.x) * 0.45;
  const bend = Math.abs(dx) < 20 ? Math.sign(b.x - a.x || 1) * 20 : dx;
  return [a, { x: a.x + bend, y: a.y }, { x: b.x - bend, y: b.y }, b];
}

/** Leaves at the right and enters at the left, or the other way round if the target is left; through the lanes given. */
export function curve(a: Box, b: Box, width = 1, lanes: readonly Lane[] = [], shift = 0): Curve {
  const size = 5 + width * 0.6;
  const ahead = b.x >= a.x + a.w + 12;
  const back = b.x + b.w <= a.x - 12;
  const ay = a.y + a.h / 2;
  const by = b.y + b.h / 2;
  const parts: Cubic[] = [];
  let dir: 1 | -1;
  if (ahead || back) {
    dir = ahead ? 1 : -1;
    let from: Point = { x: ahead ? a.x + a.w : a.x, y: ahead ? ay : ay + 5 };
    for (const l of lanes) {
      const y = l.y + shift;
      const [x0, x1] = ahead ? [l.x0, l.x1] : [l.x1, l.x0];
      parts.push(glide(from, { x: x0, y }), glide({ x: x0, y }, { x: x1, y }));
      from = { x: x1, y };
    }
    parts.push(glide(from, { x: ahead ? b.x - size : b.x + b.w + size, y: ahead ? by : by + 5 }));
  } else {
    // same column: a bow on the right
    dir = -1;
    const from = { x: a.x + a.w, y: ay };
    const to = { x: b.x + b.w + size, y: by };
    const x = Math.max(from.x, to.x) + 30 + Math.abs(ay - by) * 0.12;
    parts.push([from, { x, y: ay }, { x, y: by }, to]);
  }
  const t = parts.at(-1)![3];
  const half = size * 0.62;
  const lengths = parts.map((c) => Math.hypot(c[3].x - c[0].x, c[3].y - c[0].y));
  const whole = lengths.reduce((s, l) => s + l, 0) || 1;
  return {
    path: `M${n(parts[0]![0].x)} ${n(parts[0]![0].y)}${parts.map((c) => `C${c.slice(1).map((p) => `${n(p.x)} ${n(p.y)}`).join(" ")}`).join("")}`,
    at(share) {
      let rest = share * whole;
      let i = 0;
      while (i < parts.length - 1 && rest > lengths[i]!) rest -= lengths[i++]!;
      return on(parts[i]!, Math.min(1, rest / (lengths[i] || 1)));
    },
    tip: `M${n(t.x + dir * size)} ${n(t.y)}L${n(t.x)} ${n(t.y - half)}L${n(t.x)} ${n(t.y + half)}Z`,
  };
}

interface Size {
  w: number;
  h: number;
}

const touches = (p: Point, s: Size, q: Point, r: Size, gap: number): boolean =>
  Math.abs(p.x - q.x) < (s.w + r.w) / 2 + gap && Math.abs(p.y - q.y) < (s.h + r.h) / 2 + gap / 2;

const TRIES = [0.5, 0.42, 0.58, 0.34, 0.66, 0.26, 0.74, 0.18, 0.82];

/**
 * Places labels on their curves, in order of importance: never over a box or another label.
 * One that finds no place is left out, unless it must be seen.
 */
export function place<T extends Size & { at: (t: number) => Point; must: boolean }>(labels: readonly T[], boxes: readonly Box[]): (T & Point)[] {
  const taken = boxes.map((b) => ({ x: b.x + b.w / 2, y: b.y + b.h / 2, w: b.w, h: b.h }));
  const out: (T & Point)[] = [];
  for (const l of labels) {
    let p = TRIES.map(l.at).find((p) => !taken.some((b) => touches(p, l, b, b, 4)));
    if (!p && l.must) p = l.at(0.5);
    if (!p) continue;
    taken.push({ ...p, w: l.w, h: l.h });
    out.push({ ...l, ...p });
  }
  return out;
}
