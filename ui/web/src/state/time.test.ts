import { describe, expect, test } from "vitest";
import { bounds, fixed, fromParams, label, pin, query, spanMs, toParams, widen } from "./time";

const NOW = Date.parse("2026-05-01T12:00:00Z");

describe("time", () => {
  test("spans", () => {
    expect(spanMs("5m")).toBe(300_000);
    expect(spanMs("1.5h")).toBe(5_400_000);
    expect(spanMs("5")).toBeUndefined();
    expect(spanMs("m")).toBeUndefined();
  });
  test("parameters round trip", () => {
    for (const r of [{ kind: "live" }, { kind: "last", span: "3d" }, fixed(NOW - 1000, NOW)] as const) {
      const p = new URLSearchParams(toParams(r));
      expect(fromParams(p.get("since"), p.get("until"))).toEqual(r);
    }
    expect(fromParams("1h", "now")).toEqual({ kind: "last", span: "1h" });
  });
  test("nonsense is live", () => {
    expect(fromParams("x", "y")).toEqual({ kind: "live" });
    expect(fromParams("2026-01-02T00:00:00Z", "2026-01-01T00:00:00Z")).toEqual({ kind: "live" });
    expect(fromParams("2026-01-02T00:00:00Z", null)).toEqual({ kind: "live" });
  });
  test("bounds, pin, widen", () => {
    expect(bounds({ kind: "last", span: "1h" }, NOW)).toEqual([NOW - 3_600_000, NOW]);
    expect(bounds({ kind: "live" }, NOW)).toEqual([NOW - 300_000, NOW]);
    expect(pin({ kind: "last", span: "1h" }, NOW)).toEqual(fixed(NOW - 3_600_000, NOW));
    const f = fixed(NOW - 4000, NOW - 2000);
    expect(pin(f, NOW)).toBe(f);
    expect(bounds(widen(f, NOW), NOW)).toEqual([NOW - 5000, NOW - 1000]);
    expect(bounds(widen({ kind: "last", span: "1h" }, NOW), NOW)[1]).toBe(NOW);
  });
  test("fixed puts bounds in order and is never empty", () => {
    expect(fixed(NOW, NOW - 5)).toEqual(fixed(NOW - 5, NOW));
    expect(bounds(fixed(NOW, NOW), 0)).toEqual([NOW, NOW + 1]);
  });
  test("live asks for five minutes", () => expect(query({ kind: "live" })).toEqual([["since", "5m"]]));
  test("label", () => {
    expect(label({ kind: "last", span: "1h" })).toBe("Last 1h");
    expect(label(fixed(NOW, NOW + 1000))).toMatch(/^\d\d-\d\d \d\d:\d\d:\d\d – \d\d:\d\d:\d\d$/);
  });
});
