import { describe, expect, test } from "vitest";
import type { Completeness } from "../api/types";
import { byCause, judge, maxLag, nodeLevel } from "./health";
import { cell, numeric } from "./result";

const ok: Completeness = {
  from: null, until: null, nodes_expected: 3, nodes_reporting: 3, lost_events: 0, lost_flows: 0, unattributed_bytes: 0, late_ms: 10, complete: true, causes: [],
};

describe("completeness", () => {
  test("no answer is not complete", () => expect(judge(undefined).level).toBe("unknown"));
  test("complete", () => expect(judge(ok)).toEqual({ level: "good", text: "Complete", why: [] }));
  test("events only: a warning; nodes or flows missing: bad", () => {
    expect(judge({ ...ok, complete: false, lost_events: 5 })).toMatchObject({ level: "warn" });
    expect(judge({ ...ok, complete: false, nodes_reporting: 2 })).toMatchObject({ level: "bad", why: ["1 of 3 nodes did not report."] });
    expect(judge({ ...ok, complete: false, lost_flows: 1 }).level).toBe("bad");
  });
  test("incomplete without a cause says so", () => expect(judge({ ...ok, complete: false }).why).toHaveLength(1));
});

test("losses by cause, largest first", () => {
  const sums = byCause([
    { stage: "ring", cause: "full", node: "a", events: 1 },
    { stage: "ring", cause: "full", node: "b", events: 2 },
    { stage: "disk", cause: "full", node: "a", flows: 1 },
  ]);
  expect(sums).toEqual([
    { stage: "disk", cause: "full", events: 0, flows: 1, bytes: 0, nodes: ["a"] },
    { stage: "ring", cause: "full", events: 3, flows: 0, bytes: 0, nodes: ["a", "b"] },
  ]);
});

test("nodes", () => {
  expect(nodeLevel({ name: "a", connected: false })).toBe("bad");
  expect(nodeLevel({ name: "a", connected: true, lag_ms: 20_000 })).toBe("warn");
  expect(nodeLevel({ name: "a", connected: true, lag_ms: 20, lost_events: 0 })).toBe("good");
  expect(maxLag([{ name: "a", connected: false, lag_ms: 9e9 }, { name: "b", connected: true, lag_ms: 5 }])).toBe(5);
  expect(maxLag([])).toBeNull();
});

test("cells of a result", () => {
  expect(cell(null, "Utf8")).toBe("NULL");
  expect(cell("", "Utf8")).toBe("''");
  expect(cell(1234567, "UInt64", "bytes")).toBe("1,234,567");
  expect(cell(8080, "UInt16", "destination_port")).toBe("8080");
  expect(cell(["a"], "List(Utf8)")).toBe('["a"]');
  expect(cell(false, "Boolean")).toBe("false");
  expect(numeric("Float64")).toBe(true);
  expect(numeric("Utf8")).toBe(false);
});
