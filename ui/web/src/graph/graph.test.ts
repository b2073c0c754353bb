import { describe, expect, test } from "vitest";
import { bars, nice, ticks, total } from "./bars";
import { curve, edgeWidth, place } from "./edges";
import { ranks } from "./arrange";
import { layout, type Box, type Link, type Member } from "./layout";

// A seeded graph with cycles.
function sample(n: number, e: number, seed = 1): { members: Member[]; links: Link[] } {
  let s = seed;
  const next = (k: number) => ((s = (s * 1664525 + 1013904223) >>> 0), s % k);
  const members = Array.from({ length: n }, (_, i) => ({ id: `n${i}`, island: `ns${i % 7}`, label: `member-${i}` }));
  const links = Array.from({ length: e }, () => ({ source: `n${next(n)}`, target: `n${next(n)}` }));
  return { members, links };
}
const overlap = (a: Box, b: Box) => a.x < b.x + b.w && b.x < a.x + a.w && a.y < b.y + b.h && b.y < a.y + a.h;

describe("layout", () => {
  test("same graph, same picture, whatever the order", () => {
    const { members, links } = sample(40, 90);
    const a = layout(members, links);
    const b = layout([...members].reverse(), [...links].reverse());
    expect([...b.nodes].sort()).toEqual([...a.nodes].sort());
    expect(b.islands.length).toBe(7);
  });
  test("nothing overlaps and members stay in their island", () => {
    const { members, links } = sample(120, 300, 5);
    const p = layout(members, links);
    const boxes = [...p.nodes.values()];
    expect(boxes).toHaveLength(120);
    for (let i = 0; i < boxes.length; i++) for (let j = 0; j < i; j++) expect(overlap(boxes[i]!, boxes[j]!)).toBe(false);
    for (let i = 0; i < p.islands.length; i++) for (let j = 0; j < i; j++) expect(overlap(p.islands[i]!, p.islands[j]!)).toBe(false);
    for (const m of members) {
      const box = p.nodes.get(m.id)!;
      const island = p.islands.find((i) => i.id === m.island)!;
      expect(box.x >= island.x && box.y >= island.y && box.x + box.w <= island.x + island.w && box.y + box.h <= island.y + island.h).toBe(true);
    }
  });
  test("with the memory of the last picture, known members keep their rank", () => {
    const { members, links } = sample(30, 60);
    const a = layout(members, links);
    const b = layout([...members, { id: "new", island: "ns0", label: "new" }], [...links, { source: "new", target: "n3" }], a.memory);
    for (const m of members) expect(b.memory.rank.get(m.id)).toBe(a.memory.rank.get(m.id));
  });
  test("callers are left of callees", () => {
    const r = ranks(["a", "b", "c"], [{ source: "c", target: "a" }, { source: "a", target: "b" }]);
    expect([r.get("c"), r.get("a"), r.get("b")]).toEqual([0, 1, 2]);
  });
  test("a caller of a busy caller is still left of it", () => {
    const links = ["a>b", "b>c", "b>d", "b>e", "x>b"].map((l) => ({ source: l[0]!, target: l[2]! }));
    const r = ranks(["a", "b", "c", "d", "e", "x"], links);
    for (const l of links) expect(r.get(l.source)!).toBeLessThan(r.get(l.target)!);
  });
  test("a link that passes a column has a lane there, clear of the boxes", () => {
    const members = ["a", "b", "c"].map((id) => ({ id, island: id, label: id }));
    const p = layout(members, [{ source: "a", target: "b" }, { source: "b", target: "c" }, { source: "a", target: "c" }]);
    const lanes = p.lanes({ source: "a", target: "c" });
    expect(lanes).toHaveLength(1);
    const b = p.islands.find((i) => i.id === "b")!;
    expect(lanes[0]!.y < b.y || lanes[0]!.y > b.y + b.h).toBe(true);
    expect(p.lanes({ source: "a", target: "b" })).toEqual([]);
  });
  test("cycles end", () => {
    const r = ranks(["a", "b"], [{ source: "a", target: "b" }, { source: "b", target: "a" }]);
    expect([r.get("a"), r.get("b")]).toEqual([0, 1]);
  });
  test("empty", () => expect(layout([], [])).toMatchObject({ width: 0, height: 0, islands: [] }));
  test("2,000 members and 10,000 edges do not hang the page", () => {
    const { members, links } = sample(2000, 10_000);
    const t = performance.now();
    layout(members, links);
    expect(performance.now() - t).toBeLessThan(5000);
  });
});

describe("edges", () => {
  const a = { id: "a", x: 0, y: 0, w: 100, h: 28 };
  test("width grows with bytes and is bounded", () => {
    expect(edgeWidth(0)).toBe(1);
    expect(edgeWidth(1e6)).toBeGreaterThan(edgeWidth(1e3));
    expect(edgeWidth(1e30)).toBe(7);
  });
  test("forward, backward and in one column all end at the target's side", () => {
    for (const b of [{ ...a, x: 300 }, { ...a, x: -300 }, { ...a, y: 200 }]) {
      const c = curve(a, b);
      const end = c.at(1);
      expect(end.x < b.x || end.x > b.x + b.w).toBe(true);
      expect(c.path).not.toMatch(/NaN/);
    }
  });
  test("labels avoid boxes and one another, the important ones first", () => {
    const line = (y: number) => (t: number) => ({ x: t * 400, y });
    const size = { w: 60, h: 16, must: false };
    const box = { id: "b", x: 170, y: -10, w: 60, h: 20 };
    const [first, second] = place([{ ...size, at: line(0) }, { ...size, at: line(0) }], [box]);
    expect(Math.abs(first!.x - 200)).toBeGreaterThan(60);
    expect(Math.abs(first!.x - second!.x)).toBeGreaterThan(60);
    const wall = { id: "w", x: -100, y: -50, w: 800, h: 100 };
    expect(place([{ ...size, at: line(0) }], [wall])).toEqual([]);
    expect(place([{ ...size, must: true, at: line(0) }], [wall])).toHaveLength(1);
  });
});

describe("timeline", () => {
  const bucket = { time: "", forwarded: 1000, dropped: 1, audit: 0, error: 0, bytes: 0, lost: 0 };
  test("what is not zero is seen, and the bar keeps its height", () => {
    const b = bars(bucket, 1001, 0, 10, 60);
    expect(b.map((r) => r.part)).toEqual(["dropped", "forwarded"]);
    expect(b[0]!.h).toBe(2);
    expect(b.reduce((s, r) => s + r.h, 0)).toBeCloseTo(60);
    expect(bars({ ...bucket, forwarded: 0, dropped: 0 }, 10, 0, 10, 60)).toEqual([]);
    expect(total(bucket)).toBe(1001);
  });
  test("scale", () => expect([0, 1, 3, 17, 99, 4200].map(nice)).toEqual([1, 1, 5, 20, 100, 5000]));
  test("ticks are round and not too many", () => {
    const from = Date.parse("2026-01-01T00:00:07Z");
    const t = ticks(from, from + 3_600_000, 8, 0);
    expect(t.length).toBeLessThanOrEqual(8);
    expect(t.every((v) => v % 900_000 === 0)).toBe(true);
    expect(ticks(from, from, 8)).toEqual([]);
  });
});
