import { describe, expect, test } from "vitest";
import { FIELDS } from "./fields";
import { add, format, fromParams, guess, invert, parse, remove, swapEnds, toParams, words, type Token } from "./filters";

const t = (field: string, value: string, not = false): Token => ({ field, value, not });

describe("parse", () => {
  test("fields, negation, order", () => {
    expect(parse("namespace=shop -port=53 verdict=DROPPED").tokens).toEqual([t("namespace", "shop"), t("port", "53", true), t("verdict", "DROPPED")]);
  });
  test("quotes keep spaces and equal signs", () => {
    expect(parse('label="app=a b" process="x \\"y\\""').tokens).toEqual([t("label", "app=a b"), t("process", 'x "y"')]);
    expect(parse("label=app=web").tokens).toEqual([t("label", "app=web")]);
  });
  test("!= and ! exclude, both together include", () => {
    expect(parse("ns!=a !ns=b -ns!=c").tokens).toEqual([t("namespace", "a", true), t("namespace", "b", true), t("namespace", "c")]);
  });
  test("colon as equal sign, but not inside IPv6", () => {
    expect(parse("ns:shop fd00::1 2001:db8::/32").tokens).toEqual([t("namespace", "shop"), t("ip", "fd00::1"), t("ip", "2001:db8::/32")]);
  });
  test("verdict and protocol in any case", () => {
    expect(parse("verdict=dropped proto=tcp protocol=icmpV4").tokens).toEqual([t("verdict", "DROPPED"), t("protocol", "TCP"), t("protocol", "ICMPv4")]);
  });
  test("errors are said, the rest is kept", () => {
    const p = parse("nope=1 namespace= shop port=80");
    expect(p.errors.map((e) => e.word)).toEqual(["nope=1", "namespace="]);
    expect(p.tokens).toEqual([t("workload", "shop"), t("port", "80")]);
  });
  test("same token twice is one", () => expect(parse("port=1 port=1").tokens).toHaveLength(1));
  test("empty and blank", () => {
    expect(parse("")).toEqual({ tokens: [], errors: [] });
    expect(words("  \t ")).toEqual([]);
    expect(parse("-").errors).toHaveLength(1);
  });
  test.each([
    ["443", "port"],
    ["70000", "workload"],
    ["10.0.0.0/8", "ip"],
    ["10.1.2.3", "ip"],
    ["fe80::1", "ip"],
    ["shop/web", "pod"],
    ["api.example.com", "name"],
    ["dropped", "verdict"],
    ["udp", "protocol"],
    ["web-7", "workload"],
  ])("guess %s is %s", (word, field) => expect(guess(word).field).toBe(field));
});

test("format and parse round-trip over all fields and hard values", () => {
  const values = ["a", "a b", 'q"q', "back\\slash", "x=y", "-lead", "ü→", "10.0.0.0/8", "::1", "'", "a\tb"];
  for (const f of FIELDS.filter((f) => !["verdict", "protocol", "drop_reason"].includes(f.name))) {
    for (const value of values) {
      for (const not of [false, true]) {
        const token = t(f.name, value, not);
        expect(parse(format([token]))).toEqual({ tokens: [token], errors: [] });
        expect(fromParams(new URLSearchParams(toParams([token])))).toEqual([token]);
      }
    }
  }
});

describe("edit", () => {
  test("add drops the opposite", () => expect(add([t("port", "1", true)], t("port", "1"))).toEqual([t("port", "1")]));
  test("remove, invert", () => {
    const list = [t("port", "1"), t("ip", "::1")];
    expect(remove(list, t("port", "1"))).toEqual([t("ip", "::1")]);
    expect(invert(list, t("port", "1"))).toEqual([t("port", "1", true), t("ip", "::1")]);
  });
  test("swapping ends twice is nothing", () => {
    const list = FIELDS.map((f) => t(f.name, "x"));
    expect(swapEnds(swapEnds(list))).toEqual(list);
    expect(swapEnds([t("source_pod", "a/b"), t("node", "n")])).toEqual([t("destination_pod", "a/b"), t("node", "n")]);
  });
  test("parameters that are no filter are left alone", () => {
    expect(fromParams(new URLSearchParams("since=1h&q=SELECT&namespace=a&-port=53&pod="))).toEqual([t("namespace", "a"), t("port", "53", true)]);
  });
});
