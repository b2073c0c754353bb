import { describe, expect, test } from "vitest";
import type { MapAnswer, MapEdge } from "../api/types";
import { CALLERS, nodeToken, OUTSIDE, prepare } from "./map";

const edge = (source: string, target: string, bytes = 1, dropped = 0): MapEdge => ({ source, target, bytes, packets: 1, flows: 1, dropped, ports: ["TCP/80"] });
const completeness = { from: null, until: null, nodes_expected: 1, nodes_reporting: 1, lost_events: 0, lost_flows: 0, unattributed_bytes: 0, late_ms: 0, complete: true, causes: [] };
const answer = (n: number, worlds: number): MapAnswer => ({
  nodes: [
    ...Array.from({ length: n }, (_, i) => ({ id: `w${i}`, namespace: "a", name: `w${i}`, kind: "workload" })),
    ...Array.from({ length: worlds }, (_, i) => ({ id: `x${i}`, name: `10.0.0.${i}`, kind: "world" })),
  ],
  edges: [...Array.from({ length: worlds }, (_, i) => edge("w0", `x${i}`, i)), ...Array.from({ length: n - 1 }, (_, i) => edge("w0", `w${i + 1}`, i))],
  completeness,
});

describe("map", () => {
  test("small graphs are whole", () => {
    const g = prepare(answer(3, 2));
    expect([g.nodes.length, g.edges.length, g.hiddenNodes, g.hiddenEdges]).toEqual([5, 4, 0, 0]);
  });
  test("outside is folded by weight and its edges are summed", () => {
    const a = answer(2, 30);
    const g = prepare(a, 240, 700, 10);
    expect(g.nodes.filter((n) => g.island.get(n.id) === OUTSIDE)).toHaveLength(10);
    expect(g.nodes.at(-1)!.name).toBe("21 more");
    const sum = (list: MapEdge[]) => list.reduce((s, e) => s + e.bytes, 0);
    expect(sum(g.edges)).toBe(sum(a.edges));
    expect(g.edges.reduce((s, e) => s + e.flows, 0)).toBe(a.edges.length);
  });
  test("who calls in stands apart from who is called", () => {
    const a: MapAnswer = {
      nodes: [{ id: "in", name: "1.1.1.1", kind: "world" }, { id: "w", namespace: "a", name: "w", kind: "workload" }, { id: "out", name: "x.example", kind: "name" }],
      edges: [edge("in", "w"), edge("w", "out")],
      completeness,
    };
    const g = prepare(a);
    expect([g.island.get("in"), g.island.get("w"), g.island.get("out")]).toEqual([CALLERS, "a", OUTSIDE]);
  });
  test("too many are cut by weight, counted, and drops stay", () => {
    const a = answer(50, 0);
    a.edges.push(edge("w49", "w0", 0, 5));
    a.edges.find((e) => e.target === "w1")!.dropped = 3;
    const g = prepare(a, 10);
    expect(g.hiddenNodes).toBe(40);
    expect(g.hiddenEdges).toBeGreaterThan(0);
    expect(g.nodes.map((n) => n.id)).toEqual(expect.arrayContaining(["w0", "w1", "w49"]));
  });
  test("tokens of members", () => {
    expect(nodeToken({ id: "1", namespace: "a", name: "web", kind: "pod" }, "pod", "source_")).toEqual({ field: "source_pod", value: "a/web", not: false });
    expect(nodeToken({ id: "1", namespace: "a", name: "a", kind: "workload" }, "namespace")).toEqual({ field: "namespace", value: "a", not: false });
    expect(nodeToken({ id: "1", name: "12 more", kind: "world" }, "workload")).toBeNull();
    expect(nodeToken({ id: "1", name: "10.0.0.1", kind: "world" }, "workload", "destination_")).toEqual({ field: "destination_ip", value: "10.0.0.1", not: false });
  });
});
