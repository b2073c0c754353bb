// Numbers and times for reading. null and undefined are unknown and shown as such, never as 0.

export const UNKNOWN = "–";

type Maybe = number | null | undefined;

const unknown = (n: Maybe): n is null | undefined => n === null || n === undefined || Number.isNaN(n);

const three = (n: number): string => (n >= 100 ? n.toFixed(0) : n >= 10 ? n.toFixed(1) : n.toFixed(2));

function scaled(n: number, step: number, units: readonly string[]): [string, string] {
  let i = 0;
  let v = n;
  while (v >= step && i < units.length - 1) {
    v /= step;
    i++;
  }
  // 1023.9 must not read 1024 of the smaller unit
  if (i > 0 && i < units.length - 1 && Number(three(v)) >= step) {
    v /= step;
    i++;
  }
  return [i === 0 ? String(Math.round(v)) : three(v), units[i]!];
}

export function bytes(n: Maybe): string {
  if (unknown(n)) return UNKNOWN;
  const [v, u] = scaled(Math.abs(n), 1024, ["B", "KiB", "MiB", "GiB", "TiB", "PiB"]);
  return `${n < 0 ? "−" : ""}${v} ${u}`;
}

/** 12 345 -> 12.3k; exact below 10 000. */
export function count(n: Maybe): string {
  if (unknown(n)) return UNKNOWN;
  if (Math.abs(n) < 10_000) return exact(Number.isInteger(n) ? n : Math.round(n * 10) / 10);
  const [v, u] = scaled(Math.abs(n), 1000, ["", "k", "M", "G", "T"]);
  return `${n < 0 ? "−" : ""}${v}${u}`;
}

/** All digits, grouped. */
export function exact(n: Maybe): string {
  if (unknown(n)) return UNKNOWN;
  const [whole, part] = String(Math.abs(n)).split(".");
  const grouped = /e/.test(whole!) ? whole! : whole!.replace(/\B(?=(\d{3})+(?!\d))/g, ",");
  return `${n < 0 ? "−" : ""}${grouped}${part ? `.${part}` : ""}`;
}

export function micros(us: Maybe): string {
  if (unknown(us)) return UNKNOWN;
  if (us < 1000) return `${Math.round(us)} µs`;
  if (us < 1e6) return `${three(us / 1e3)} ms`;
  return duration(us / 1e3);
}

/** A length of time in milliseconds, two units at most. */
export function duration(ms: Maybe): string {
  if (unknown(ms)) return UNKNOWN;
  const v = Math.max(0, ms);
  if (v < 1000) return `${Math.round(v)} ms`;
  if (v < 6e4) return `${(v / 1e3).toFixed(1)} s`;
  if (v < 36e5) return `${Math.floor(v / 6e4)}m ${Math.floor((v % 6e4) / 1e3)}s`;
  if (v < 864e5) return `${Math.floor(v / 36e5)}h ${Math.floor((v % 36e5) / 6e4)}m`;
  return `${Math.floor(v / 864e5)}d ${Math.floor((v % 864e5) / 36e5)}h`;
}

export const rate = (n: Maybe): string => (unknown(n) ? UNKNOWN : n > 0 && n < 10 ? n.toFixed(1) : count(Math.round(n)));

const pad = (n: number, w = 2): string => String(n).padStart(w, "0");

/** Local wall clock with milliseconds; with the date if it is not today's. */
export function clock(iso: string | null | undefined, now = Date.now(), ms = true): string {
  const d = iso ? new Date(iso) : undefined;
  if (!d || Number.isNaN(d.getTime())) return UNKNOWN;
  const n = new Date(now);
  const today = d.getFullYear() === n.getFullYear() && d.getMonth() === n.getMonth() && d.getDate() === n.getDate();
  const time = `${pad(d.getHours())}:${pad(d.getMinutes())}:${pad(d.getSeconds())}${ms ? `.${pad(d.getMilliseconds(), 3)}` : ""}`;
  return today ? time : `${pad(d.getMonth() + 1)}-${pad(d.getDate())} ${time}`;
}

export function ago(iso: string | null | undefined, now = Date.now()): string {
  const t = iso ? Date.parse(iso) : NaN;
  return Number.isNaN(t) ? UNKNOWN : now - t < 1000 ? "now" : `${duration(Math.floor((now - t) / 1000) * 1000)} ago`.replace(/\.0 s/, " s");
}

export const plural = (n: number, one: string, many = `${one}s`): string => `${exact(n)} ${n === 1 ? one : many}`;

/** POLICY_DENIED -> Policy denied. */
export function words(name: string | null | undefined): string {
  if (!name) return UNKNOWN;
  const s = name.replace(/_/g, " ").toLowerCase();
  return s.charAt(0).toUpperCase() + s.slice(1);
}

export const hostPort = (ip: string | undefined, port: number | undefined): string =>
  !ip ? UNKNOWN : port ? (ip.includes(":") ? `[${ip}]:${port}` : `${ip}:${port}`) : ip;
