import { describe, expect, test } from "vitest";
import type { Flow } from "../api/types";
import { fromAnswer, Live, merge, newRow, type FlowRow } from "./rows";

const at = (s: number): string => `2026-01-01T00:00:${String(s).padStart(2, "0")}.000000000Z`;
const flow = (id: string, seq: number, s: number, more: Partial<Flow> = {}): Flow => ({
  flow_id: id,
  seq,
  node: "a",
  interface: "eth0",
  reporter: "SOURCE",
  start_time: at(s),
  end_time: at(s + 1),
  bytes_out: 10,
  bytes_in: 5,
  ...more,
});
const ids = (l: Live): string[] => l.rows.map((r) => (r.kind === "flow" ? r.flow.flow_id : `gap:${r.lost}`));

describe("merge", () => {
  test("sums deltas, keeps the earliest start and the newest facts", () => {
    const r = merge(newRow(flow("x", 0, 1, { tcp_state: "OPEN", rtt_us: 9 })), flow("x", 1, 2, { tcp_state: "CLOSED", closed: true }));
    expect(r.flow).toMatchObject({ bytes_out: 20, bytes_in: 10, start_time: at(1), end_time: at(3), tcp_state: "CLOSED", rtt_us: 9, closed: true });
    expect(r.intervals).toBe(2);
  });
  test("the order of intervals does not matter", () => {
    const a = flow("x", 0, 1, { tcp_state: "OPEN" });
    const b = flow("x", 1, 2, { tcp_state: "CLOSED" });
    expect(merge(newRow(b), a).flow).toEqual(merge(newRow(a), b).flow);
  });
  test("a repeated interval counts once", () => {
    const a = flow("x", 0, 1);
    const r = newRow(a);
    expect(merge(r, a)).toBe(r);
    expect(merge(merge(r, flow("x", 1, 2)), a).flow.bytes_out).toBe(20);
  });
  test("the same packets at another interface are not counted twice; the source's account is preferred", () => {
    const src = [flow("x", 0, 1), flow("x", 1, 2)];
    const dst = [flow("x", 0, 1, { node: "b", reporter: "DESTINATION", bytes_out: 9 }), flow("x", 1, 2, { node: "b", reporter: "DESTINATION" })];
    for (const order of [[...src, ...dst], [...dst, ...src], [dst[0]!, src[0]!, dst[1]!, src[1]!]]) {
      const [r] = fromAnswer(order);
      expect(r!.flow).toMatchObject({ reporter: "SOURCE", bytes_out: 20, bytes_in: 10 });
      expect(r!.intervals).toBe(2);
    }
    expect(fromAnswer(dst)[0]!.flow.bytes_out).toBe(19);
  });
  test("unknown counters stay unknown", () => {
    const a = flow("x", 0, 1, { bytes_out: undefined, bytes_in: undefined });
    expect(merge(newRow(a), { ...a, seq: 1 }).flow.bytes_out).toBeUndefined();
  });
});

test("an answer becomes one row per connection, newest first", () => {
  const rows = fromAnswer([flow("a", 0, 1), flow("b", 0, 5), flow("a", 1, 3)]);
  expect(rows.map((r) => [r.flow.flow_id, r.flow.bytes_out])).toEqual([
    ["b", 10],
    ["a", 20],
  ]);
});
test("with all reporters every interface has its row", () => {
  expect(fromAnswer([flow("a", 0, 1), flow("a", 0, 1, { node: "b", reporter: "DESTINATION" })], true)).toHaveLength(2);
});

describe("live", () => {
  test("new on top, updates in place", () => {
    const l = new Live();
    l.push([{ flow: flow("a", 0, 1) }, { flow: flow("b", 0, 2) }]);
    l.push([{ flow: flow("a", 1, 3) }, { flow: flow("c", 0, 4) }]);
    expect(ids(l)).toEqual(["c", "b", "a"]);
    expect((l.rows[2] as FlowRow).flow.bytes_out).toBe(20);
  });
  test("rows that do not change keep their identity", () => {
    const l = new Live();
    l.push([{ flow: flow("a", 0, 1) }]);
    const before = l.rows[0];
    l.push([{ flow: flow("b", 0, 2) }]);
    expect(l.rows[1]).toBe(before);
  });
  test("gaps stand where they happened; an unknown loss has no number", () => {
    const l = new Live();
    l.push([{ flow: flow("a", 0, 1) }]);
    l.push([{ gap: { lost: 7, cause: "ring" }, time: at(3) }]);
    l.push([{ flow: flow("b", 0, 4) }, { gap: { lost: Number.NaN, cause: "cut" }, time: at(9) }]);
    expect(ids(l)).toEqual(["gap:null", "b", "gap:7", "a"]);
  });
  test("paused: nothing moves, what comes is held and counted, resume shows it", () => {
    const l = new Live();
    l.push([{ flow: flow("a", 0, 1) }]);
    const before = l.rows;
    l.paused = true;
    l.push([{ flow: flow("b", 0, 2) }, { flow: flow("a", 1, 2) }]);
    expect(l.rows).toBe(before);
    expect(l.held).toBe(2);
    l.resume();
    expect(ids(l)).toEqual(["b", "a"]);
    expect(l.held).toBe(0);
  });
  test("held beyond the cap becomes a gap with the number", () => {
    const l = new Live(3);
    l.paused = true;
    l.push(Array.from({ length: 10 }, (_, i) => ({ flow: flow(`f${i}`, 0, 10 + i) })));
    expect(l.held).toBe(10);
    l.resume();
    expect(ids(l)).toEqual(["f9", "f8", "gap:8"]);
  });
  test("overflow gap is shown when there is room", () => {
    const l = new Live(5);
    l.paused = true;
    l.push(Array.from({ length: 7 }, (_, i) => ({ flow: flow("same", i, 10 + i) })));
    l.resume();
    expect(ids(l)).toEqual(["same", "gap:3"]);
  });
  test("cap evicts at the bottom and counts", () => {
    const l = new Live(2);
    for (let i = 0; i < 5; i++) l.push([{ flow: flow(`f${i}`, 0, i) }]);
    expect(ids(l)).toEqual(["f4", "f3"]);
    expect(l.evicted).toBe(3);
  });
  test("seed goes below and does not double", () => {
    const l = new Live();
    l.push([{ flow: flow("b", 0, 5) }]);
    l.seed(fromAnswer([flow("b", 0, 5), flow("a", 0, 1)]));
    expect(ids(l)).toEqual(["b", "a"]);
  });
});
