import { expect, test } from "vitest";
import type { Flow } from "../api/types";
import { bytesOf, end, endToken, reasonOf } from "./ends";

const f = (more: Partial<Flow>): Flow => ({ flow_id: "1", start_time: "", end_time: "", source_ip: "10.0.0.1", source_port: 1, destination_ip: "10.0.0.2", destination_port: 80, ...more });

test("the best name of an end", () => {
  expect(end(f({}), "source")).toMatchObject({ name: "10.0.0.1:1", kind: "ip" });
  expect(end(f({ source_names: ["a.b"] }), "source")).toMatchObject({ name: "a.b", kind: "name" });
  expect(end(f({ destination_service: "s", destination_service_namespace: "n" }), "destination")).toMatchObject({ name: "s", namespace: "n", kind: "service" });
  expect(end(f({ source_workload: "w", source_namespace: "n" }), "source")).toMatchObject({ name: "w", namespace: "n", kind: "workload" });
  expect(end(f({ source_pod: "p", source_workload: "w" }), "source")).toMatchObject({ name: "p", kind: "pod" });
  expect(end(f({ source_identity: 1 }), "source")).toMatchObject({ name: "host", kind: "reserved" });
  expect(end(f({ source_identity: 2 }), "source").kind).toBe("ip");
});
test("its filter", () => {
  expect(endToken(f({ source_pod: "p", source_namespace: "n" }), "source")).toEqual({ field: "source_pod", value: "n/p", not: false });
  expect(endToken(f({}), "destination", true)).toEqual({ field: "destination_ip", value: "10.0.0.2", not: true });
});
test("bytes and reasons", () => {
  expect(bytesOf(f({}))).toBeUndefined();
  expect(bytesOf(f({ bytes_out: 1 }))).toBe(1);
  expect(reasonOf(f({ drop_reason: "POLICY_DENIED", policies_selecting: ["a/b"] }))).toBe("POLICY_DENIED · a/b");
  expect(reasonOf(f({ policy_namespace: "a", policy_name: "b", policy_rule: 0 }))).toBe("a/b#0");
});
