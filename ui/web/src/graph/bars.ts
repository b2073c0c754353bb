// Geometry of the timeline: stacked verdicts, and where the scale and the ticks are.

import type { Bucket } from "../api/types";

export const STACK = ["dropped", "error", "audit", "forwarded"] as const;
export type Part = (typeof STACK)[number];

export interface Bar {
  part: Part;
  x: number;
  y: number;
  w: number;
  h: number;
}

export const total = (b: Bucket): number => b.forwarded + b.dropped + b.audit + b.error;

/** The next 1, 2 or 5 times a power of ten. */
export function nice(max: number): number {
  if (max <= 1) return 1;
  const p = 10 ** Math.floor(Math.log10(max));
  const m = max / p;
  return (m <= 1 ? 1 : m <= 2 ? 2 : m <= 5 ? 5 : 10) * p;
}

/** Bars of one bucket, from the bottom. What is not zero is seen: at least 2 px, taken from the tallest. */
export function bars(b: Bucket, max: number, x: number, w: number, h: number): Bar[] {
  const heights = STACK.map((part) => {
    const n = b[part];
    return { part, h: n <= 0 ? 0 : Math.max(2, (n / max) * h) };
  });
  const over = heights.reduce((s, v) => s + v.h, 0) - h;
  if (over > 0) {
    const tallest = heights.reduce((a, v) => (v.h > a.h ? v : a));
    tallest.h = Math.max(2, tallest.h - over);
  }
  let y = h;
  return heights
    .filter((v) => v.h > 0)
    .map((v) => {
      y -= v.h;
      return { part: v.part, x, y, w, h: v.h };
    });
}

const STEPS = [1e3, 5e3, 15e3, 3e4, 6e4, 3e5, 9e5, 18e5, 36e5, 108e5, 216e5, 432e5, 864e5, 6048e5];

/** Round local times between the bounds, not more than fit. */
export function ticks(from: number, until: number, most: number, offsetMs = new Date(from).getTimezoneOffset() * 6e4): number[] {
  const span = until - from;
  if (span <= 0 || most < 1) return [];
  const step = STEPS.find((s) => span / s <= most) ?? Math.ceil(span / most / 864e5) * 864e5;
  const out: number[] = [];
  for (let t = Math.ceil((from - offsetMs) / step) * step + offsetMs; t < until; t += step) out.push(t);
  return out;
}

export function tickLabel(t: number, span: number): string {
  const d = new Date(t);
  const p = (n: number) => String(n).padStart(2, "0");
  if (span > 2 * 864e5) return `${p(d.getMonth() + 1)}-${p(d.getDate())}${d.getHours() ? ` ${p(d.getHours())}:00` : ""}`;
  return `${p(d.getHours())}:${p(d.getMinutes())}${span < 6e5 ? `:${p(d.getSeconds())}` : ""}`;
}
