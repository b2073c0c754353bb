import { describe, expect, test } from "vitest";
import { curl, curlSql, flowObserve, flowsUrl, shell, toObserve } from "./copy";
import { parse } from "./filters";
import { lit, toSql, where } from "./sql";

const LAST = { kind: "last", span: "1h" } as const;
const w = (text: string): string[] => where(parse(text).tokens, LAST).slice(1);

describe("sql", () => {
  test("literals cannot break out", () => expect(lit("o'; DROP --")).toBe("'o''; DROP --'"));
  test("both ends, one end", () => {
    expect(w("namespace=a")).toEqual(["(source_namespace = 'a' OR destination_namespace = 'a')"]);
    expect(w("source_namespace=a")).toEqual(["source_namespace = 'a'"]);
  });
  test("same field is OR, other fields are AND", () => {
    expect(w("verdict=DROPPED verdict=ERROR node=n")).toEqual(["(verdict = 'DROPPED' OR verdict = 'ERROR')", "node = 'n'"]);
  });
  test("exclusion keeps rows where it is unknown", () => {
    expect(w("-port=53 -port=54")).toEqual(["((source_port = 53 OR destination_port = 53) OR (source_port = 54 OR destination_port = 54)) IS NOT TRUE"]);
  });
  test("pods, addresses, labels, services", () => {
    expect(w("source_pod=shop/web")).toEqual(["(source_namespace = 'shop' AND starts_with(source_pod, 'web'))"]);
    expect(w("destination_ip=10.0.0.0/8")).toEqual(["cidr_contains('10.0.0.0/8', destination_ip)"]);
    expect(w("label=a=b")).toEqual(["(array_has(source_labels, 'a=b') OR array_has(destination_labels, 'a=b'))"]);
    expect(w("service=shop/web")).toEqual(["(destination_service_namespace = 'shop' AND destination_service = 'web')"]);
    expect(w("reporter=all")).toEqual([]);
  });
  test("window", () => {
    expect(where([], LAST)).toEqual(["end_time >= now() - INTERVAL '3600 seconds'"]);
    expect(toSql([], { kind: "fixed", since: "2026-01-01T00:00:00.000Z", until: "2026-01-02T00:00:00.000Z" })).toContain(
      "end_time >= TIMESTAMP '2026-01-01T00:00:00.000Z' AND start_time < TIMESTAMP '2026-01-02T00:00:00.000Z'",
    );
  });
});

describe("copy as", () => {
  test("shell quoting", () => {
    expect(shell("a/b:1")).toBe("a/b:1");
    expect(shell("it's $x")).toBe("'it'\\''s $x'");
  });
  test("observe", () => {
    expect(toObserve(parse("ns=shop -port=53 process=x").tokens, LAST)).toBe(
      "weir observe --since 1h --namespace shop --not --port 53  # no flag for process=x",
    );
    expect(toObserve([], { kind: "live" })).toBe("weir observe --follow");
  });
  test("one flow", () => {
    const f = { flow_id: "1", start_time: "2026-01-01T00:00:10.5Z", end_time: "2026-01-01T00:00:11Z", source_ip: "::1", destination_ip: "10.0.0.1", destination_port: 80, protocol: "TCP" };
    expect(flowObserve(f)).toBe(
      "weir observe --from-ip ::1 --to-ip 10.0.0.1 --to-port 80 --protocol tcp --since 2026-01-01T00:00:09.500Z --until 2026-01-01T00:00:12.000Z",
    );
  });
  test("curl", () => {
    expect(flowsUrl(parse("-ns=a").tokens, LAST)).toBe("flows?since=1h&-namespace=a");
    expect(curl("http://h/api/v1/", "flows?since=1h&-namespace=a")).toBe("curl -s 'http://h/api/v1/flows?since=1h&-namespace=a'");
    expect(curlSql("http://h/api/v1/", "SELECT 'x'")).toContain("--data-binary 'SELECT '\\''x'\\'''");
  });
});
