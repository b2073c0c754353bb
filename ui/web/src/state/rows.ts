// Rows of the flows table: one per connection, its intervals merged. Gaps stand between them, where they happened.

import type { Flow, Gap } from "../api/types";

export interface FlowRow {
  kind: "flow";
  key: string;
  /** End of the first interval that came: a row keeps its time as it keeps its place. */
  time: string;
  /** Newest facts, counters summed over the intervals seen. */
  flow: Flow;
  intervals: number;
  seqs: ReadonlySet<string>;
}

export interface GapRow {
  kind: "gap";
  key: string;
  time: string;
  lost: number | null;
  cause: string;
}

export type Row = FlowRow | GapRow;

export type Event = { flow: Flow } | { gap: Gap; time: string };

/** With `reporter=all` every interface's row is a row of its own. */
export const keyOf = (f: Flow, all: boolean): string =>
  all ? `${f.flow_id}|${f.node ?? ""}|${f.interface ?? ""}|${f.reporter ?? ""}|${f.direction ?? ""}` : f.flow_id;

const intervalOf = (f: Flow): string => `${f.node ?? ""}|${f.interface ?? ""}|${f.reporter ?? ""}|${f.seq ?? f.start_time}`;

const place = (f: Flow): string => `${f.node ?? ""}|${f.interface ?? ""}|${f.reporter ?? ""}`;

const COUNTERS = ["packets_out", "bytes_out", "packets_in", "bytes_in", "attempts", "retransmits"] as const;

export const newRow = (f: Flow, all = false): FlowRow => ({
  kind: "flow",
  key: keyOf(f, all),
  time: f.end_time,
  flow: f,
  intervals: 1,
  seqs: new Set([intervalOf(f)]),
});

/**
 * Adds an interval; one that is already in (a replay after reconnect) changes nothing. The same packets seen at another
 * interface are not counted again: the row is the source's account where there is one, else the first that came.
 */
export function merge(row: FlowRow, f: Flow): FlowRow {
  if (place(f) !== place(row.flow)) {
    return f.reporter === "SOURCE" && row.flow.reporter !== "SOURCE" ? { ...newRow(f), key: row.key, time: row.time } : row;
  }
  const id = intervalOf(f);
  if (row.seqs.has(id)) return row;
  const newer = f.end_time >= row.flow.end_time;
  const [late, early] = newer ? [f, row.flow] : [row.flow, f];
  const flow: Flow = { ...early, ...late };
  for (const c of COUNTERS) {
    const a = row.flow[c];
    const b = f[c];
    if (a !== undefined || b !== undefined) flow[c] = (a ?? 0) + (b ?? 0);
  }
  if (row.flow.start_time < flow.start_time) flow.start_time = row.flow.start_time;
  if (f.start_time < flow.start_time) flow.start_time = f.start_time;
  flow.closed = row.flow.closed || f.closed;
  return { ...row, flow, intervals: row.intervals + 1, seqs: new Set(row.seqs).add(id) };
}

/** An answer of /flows, newest first. */
export function fromAnswer(flows: readonly Flow[], all = false): FlowRow[] {
  const rows = new Map<string, FlowRow>();
  for (const f of flows) {
    const key = keyOf(f, all);
    const old = rows.get(key);
    rows.set(key, old ? merge(old, f) : newRow(f, all));
  }
  return [...rows.values()].sort((a, b) => (a.time < b.time ? 1 : a.time > b.time ? -1 : 0));
}

/**
 * The live list. New connections come on top; a row that is already shown is updated where it stands.
 * Held events wait until `resume`, so that nothing moves under a reader.
 */
export class Live {
  rows: Row[] = [];
  /** Events that came while paused: also those beyond the cap. */
  held = 0;
  /** Rows that left at the bottom. */
  evicted = 0;
  /** Held events that did not fit any more. */
  overflow = 0;
  paused = false;
  private waiting: Event[] = [];
  private gaps = 0;

  constructor(
    readonly cap = 5000,
    readonly all = false,
  ) {}

  push(events: readonly Event[]): void {
    if (!events.length) return;
    if (this.paused) {
      this.held += events.length;
      this.waiting.push(...events);
      // one less than fits: the gap that tells of the rest needs its place
      if (this.waiting.length >= this.cap) {
        const cut = this.waiting.length - this.cap + 1;
        this.overflow += cut;
        this.waiting = this.waiting.slice(cut);
      }
      return;
    }
    this.apply(events);
  }

  resume(): void {
    this.paused = false;
    const events = this.waiting;
    this.waiting = [];
    this.held = 0;
    if (this.overflow > 0) {
      const first = events[0];
      const time = first ? ("flow" in first ? first.flow.start_time : first.time) : new Date().toISOString();
      this.apply([{ gap: { lost: this.overflow, cause: "paused for longer than the page keeps; look at history" }, time }]);
      this.overflow = 0;
    }
    this.apply(events);
  }

  /** Rows of before the stream began go below what it has brought. */
  seed(rows: readonly FlowRow[]): void {
    const have = new Set(this.rows.map((r) => r.key));
    this.rows = this.rows.concat(rows.filter((r) => !have.has(r.key))).slice(0, this.cap);
  }

  clear(): void {
    this.rows = [];
    this.waiting = [];
    this.held = this.evicted = this.overflow = 0;
  }

  private apply(events: readonly Event[]): void {
    if (!events.length) return;
    const at = new Map<string, number>();
    this.rows.forEach((r, i) => at.set(r.key, i));
    const old = this.rows.slice();
    const fresh: Row[] = [];
    const freshAt = new Map<string, number>();
    for (const e of events) {
      if ("gap" in e) {
        fresh.push({ kind: "gap", key: `gap-${this.gaps++}`, time: e.time, lost: Number.isFinite(e.gap.lost) ? e.gap.lost : null, cause: e.gap.cause });
        continue;
      }
      const key = keyOf(e.flow, this.all);
      const i = at.get(key);
      const j = freshAt.get(key);
      if (i !== undefined) old[i] = merge(old[i] as FlowRow, e.flow);
      else if (j !== undefined) fresh[j] = merge(fresh[j] as FlowRow, e.flow);
      else {
        freshAt.set(key, fresh.length);
        fresh.push(newRow(e.flow, this.all));
      }
    }
    // events of several nodes come a little out of order; a batch is put in order, what is shown stays
    const rows = fresh.sort((a, b) => (a.time < b.time ? 1 : a.time > b.time ? -1 : 0)).concat(old);
    if (rows.length > this.cap) {
      this.evicted += rows.length - this.cap;
      rows.length = this.cap;
    }
    this.rows = rows;
  }
}
