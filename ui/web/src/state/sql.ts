// Filters as SQL over the table `flows`.

import type { Flow } from "../api/types";
import type { Token } from "./filters";
import { spanMs, type Range } from "./time";

export const lit = (v: string): string => `'${v.replace(/'/g, "''")}'`;

const both = (make: (side: string) => string): string => `(${make("source")} OR ${make("destination")})`;

const podIs = (side: string, v: string): string => {
  const cut = v.indexOf("/");
  const name = cut < 0 ? v : v.slice(cut + 1);
  const pod = name === "" ? "" : `starts_with(${side}_pod, ${lit(name)})`;
  const ns = cut < 0 ? "" : `${side}_namespace = ${lit(v.slice(0, cut))}`;
  return [ns, pod].filter(Boolean).join(" AND ") || "true";
};

const ipIs = (side: string, v: string): string =>
  v.includes("/") ? `cidr_contains(${lit(v)}, ${side}_ip)` : `${side}_ip = ${lit(v)}`;

const port = (v: string): string => (/^\d+$/.test(v) ? v : lit(v));

/** One token as a condition, or null if SQL needs none. */
function condition(t: Token): string | null {
  const v = t.value;
  const sided = /^(source|destination)_(namespace|pod|workload|ip|port)$/.exec(t.field);
  if (sided) {
    const [, side, what] = sided as unknown as [string, string, string];
    if (what === "pod") return `(${podIs(side, v)})`;
    if (what === "ip") return ipIs(side, v);
    if (what === "port") return `${side}_port = ${port(v)}`;
    return `${side}_${what} = ${lit(v)}`;
  }
  switch (t.field) {
    case "namespace":
    case "workload":
      return both((s) => `${s}_${t.field} = ${lit(v)}`);
    case "pod":
      return both((s) => `(${podIs(s, v)})`);
    case "ip":
      return both((s) => ipIs(s, v));
    case "port":
      return both((s) => `${s}_port = ${port(v)}`);
    case "label":
      return both((s) => `array_has(${s}_labels, ${lit(v)})`);
    case "name":
      return both((s) => `array_has(${s}_names, ${lit(v)})`);
    case "process":
      return `process_name = ${lit(v)}`;
    case "service": {
      const cut = v.indexOf("/");
      return cut < 0
        ? `destination_service = ${lit(v)}`
        : `(destination_service_namespace = ${lit(v.slice(0, cut))} AND destination_service = ${lit(v.slice(cut + 1))})`;
    }
    case "reporter":
      return v === "all" ? null : `reporter = ${lit(v)}`;
    default:
      return `${t.field} = ${lit(v)}`;
  }
}

export function windowSql(r: Range): string {
  if (r.kind === "fixed") return `end_time >= TIMESTAMP ${lit(r.since)} AND start_time < TIMESTAMP ${lit(r.until)}`;
  const seconds = Math.round((spanMs(r.kind === "last" ? r.span : "5m") ?? 3e5) / 1000);
  return `end_time >= now() - INTERVAL '${seconds} seconds'`;
}

export function where(tokens: readonly Token[], range: Range): string[] {
  const parts = [windowSql(range)];
  const groups = new Map<string, { not: boolean; all: string[] }>();
  for (const t of tokens) {
    const c = condition(t);
    if (c === null) continue;
    const key = `${t.not}|${t.field}`;
    const group = groups.get(key) ?? { not: t.not, all: [] };
    group.all.push(c);
    groups.set(key, group);
  }
  for (const { not, all } of groups.values()) {
    const or = all.length > 1 ? `(${all.join(" OR ")})` : all[0]!;
    // unknown is not equal: NOT over NULL must keep the row
    parts.push(not ? `${or} IS NOT TRUE` : or);
  }
  return parts;
}

export function toSql(tokens: readonly Token[], range: Range, limit = 200): string {
  return `SELECT start_time, verdict, drop_reason, protocol,
       source_namespace, source_pod, source_ip, source_port,
       destination_namespace, destination_pod, destination_ip, destination_port,
       bytes_out, bytes_in, packets_out, packets_in, rtt_us, node
FROM flows
WHERE ${where(tokens, range).join("\n  AND ")}
ORDER BY start_time DESC
LIMIT ${limit}`;
}

export const flowSql = (f: Flow): string => `SELECT * FROM flows WHERE flow_id = ${lit(f.flow_id)} ORDER BY node, interface, seq`;
