// The window a view looks at. Live has no bounds; the rest is `since` and `until` as the API takes them.

export type Range = { kind: "live" } | { kind: "last"; span: string } | { kind: "fixed"; since: string; until: string };

export const LIVE: Range = { kind: "live" };
export const PRESETS = ["5m", "1h", "24h", "7d"] as const;

const UNITS: Record<string, number> = { ms: 1, s: 1e3, m: 6e4, h: 36e5, d: 864e5, w: 6048e5 };

/** `5m` in milliseconds, or undefined. */
export function spanMs(text: string): number | undefined {
  const m = /^(\d+(?:\.\d+)?)(ms|s|m|h|d|w)$/.exec(text.trim());
  return m ? Number(m[1]) * UNITS[m[2]!]! : undefined;
}

export function fromParams(since: string | null, until: string | null): Range {
  if (since && spanMs(since) !== undefined && (!until || until === "now")) return { kind: "last", span: since };
  const a = since ? Date.parse(since) : NaN;
  const b = until ? Date.parse(until) : NaN;
  if (Number.isNaN(a) || Number.isNaN(b) || b <= a) return LIVE;
  return { kind: "fixed", since: new Date(a).toISOString(), until: new Date(b).toISOString() };
}

export function toParams(r: Range): [string, string][] {
  if (r.kind === "last") return [["since", r.span]];
  if (r.kind === "fixed") {
    return [
      ["since", r.since],
      ["until", r.until],
    ];
  }
  return [];
}

/** Milliseconds since the epoch; a live view's charts show its last `liveSpan`. */
export function bounds(r: Range, now: number, liveSpan = 5 * 6e4): [number, number] {
  if (r.kind === "fixed") return [Date.parse(r.since), Date.parse(r.until)];
  return [now - (r.kind === "last" ? (spanMs(r.span) ?? liveSpan) : liveSpan), now];
}

export function fixed(from: number, until: number): Range {
  const [a, b] = from <= until ? [from, until] : [until, from];
  return { kind: "fixed", since: new Date(a).toISOString(), until: new Date(Math.max(b, a + 1)).toISOString() };
}

/** A relative window means another thing to who opens the link later: pin it. */
export function pin(r: Range, now: number): Range {
  const [a, b] = bounds(r, now);
  return r.kind === "fixed" ? r : fixed(a, b);
}

/** What the API is asked; a live view asks for its last five minutes. */
export function query(r: Range): [string, string][] {
  return r.kind === "live" ? [["since", "5m"]] : toParams(r);
}

/** Twice as wide around the same middle, not into the future. */
export function widen(r: Range, now: number): Range {
  const [a, b] = bounds(r, now);
  const half = (b - a) / 2;
  return fixed(a - half, Math.min(b + half, Math.max(now, b)));
}

const pad = (n: number, w = 2): string => String(n).padStart(w, "0");

/** Local time, as <input type="datetime-local" step="1"> wants it. */
export function toLocalInput(ms: number): string {
  const d = new Date(ms);
  return `${d.getFullYear()}-${pad(d.getMonth() + 1)}-${pad(d.getDate())}T${pad(d.getHours())}:${pad(d.getMinutes())}:${pad(d.getSeconds())}`;
}

export function label(r: Range): string {
  if (r.kind === "live") return "Live";
  if (r.kind === "last") return `Last ${r.span}`;
  const a = new Date(r.since);
  const b = new Date(r.until);
  const day = (d: Date) => `${pad(d.getMonth() + 1)}-${pad(d.getDate())}`;
  const hms = (d: Date) => `${pad(d.getHours())}:${pad(d.getMinutes())}:${pad(d.getSeconds())}`;
  return `${day(a)} ${hms(a)} – ${day(a) === day(b) ? "" : `${day(b)} `}${hms(b)}`;
}
