import { describe, expect, test } from "vitest";
import { HOME, read, root, VIEWS, write, type Page } from "./url";

const cut = (s: string): [string, string] => {
  const i = s.indexOf("?");
  return i < 0 ? [`/${s}`, ""] : [`/${s.slice(0, i)}`, s.slice(i)];
};

describe("url", () => {
  test("home is short", () => expect(write(HOME)).toBe("flows"));
  test("unknown path is flows", () => {
    expect(read("/", "").view).toBe("flows");
    expect(read("/nope", "").view).toBe("flows");
  });
  test("round trip of every part", () => {
    const ranges: Page["range"][] = [
      { kind: "live" },
      { kind: "last", span: "1h" },
      { kind: "fixed", since: "2026-01-02T03:04:05.006Z", until: "2026-01-02T04:00:00.000Z" },
    ];
    for (const view of VIEWS)
      for (const range of ranges)
        for (const by of ["workload", "pod", "namespace"] as const)
          for (const table of [false, true])
            for (const sql of [null, "SELECT '&?=#+ %' -- ü\nFROM flows"])
              for (const flow of [null, "00ff"]) {
                const page: Page = {
                  view,
                  range,
                  by,
                  table,
                  sql,
                  flow,
                  tokens: [
                    { field: "namespace", value: "a&b", not: true },
                    { field: "label", value: "k=v w", not: false },
                  ],
                };
                expect(read(...cut(write(page)))).toEqual(page);
              }
  });
  test("prefix of a proxy", () => {
    expect(root("/")).toBe("/");
    expect(root("/flows")).toBe("/");
    expect(root("/weir/map")).toBe("/weir/");
    expect(root("/a/b/")).toBe("/a/b/");
    expect(read("/weir/map", "?by=pod")).toMatchObject({ view: "map", by: "pod" });
  });
  test("bad values fall back", () => {
    expect(read("/map", "?by=nonsense&as=x&since=yesterday")).toEqual({ ...HOME, view: "map" });
  });
});
