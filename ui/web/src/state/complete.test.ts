import { describe, expect, test } from "vitest";
import { ask, fieldChoices, put, valueChoices } from "./complete";

describe("completion", () => {
  test("what is asked", () => {
    expect(ask("")).toEqual({ kind: "field", prefix: "", not: false });
    expect(ask("port=1 -nam")).toEqual({ kind: "field", prefix: "nam", not: true });
    expect(ask("namespace=sh")).toEqual({ kind: "value", field: "namespace", prefix: "sh", not: false });
    expect(ask("-ns=")).toEqual({ kind: "value", field: "namespace", prefix: "", not: true });
    expect(ask('process="a b')).toEqual({ kind: "value", field: "process", prefix: "a b", not: false });
    expect(ask("label=app=w")).toMatchObject({ field: "label", prefix: "app=w" });
    expect(ask("ns!=x")).toEqual({ kind: "value", field: "namespace", prefix: "x", not: true });
  });
  test("fields: by prefix, then by a later word", () => {
    const names = fieldChoices(ask("name")).map((c) => c.label);
    expect(names.slice(0, 2)).toEqual(["namespace", "name"]);
    expect(names).toContain("source_namespace");
    expect(fieldChoices(ask("zzz"))).toEqual([]);
    expect(fieldChoices(ask("-por"))[0]!.text).toBe("-port=");
  });
  test("values are quoted where needed and keep the sign", () => {
    const a = ask("-process=a");
    expect(valueChoices(a, ["a b", "ab", "x"]).map((c) => c.text)).toEqual(['-process="a b"', "-process=ab"]);
  });
  test("put replaces the last word only", () => {
    expect(put("port=1 nam", "name=")).toBe("port=1 name=");
    expect(put('port=1 process="a b', 'process="a b$&c"')).toBe('port=1 process="a b$&c"');
    expect(put("", "x=")).toBe("x=");
  });
});
