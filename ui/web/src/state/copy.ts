// The same question elsewhere: as a command, as curl.

import type { Flow } from "../api/types";
import { field } from "./fields";
import { toParams, type Token } from "./filters";
import { query, type Range } from "./time";

export const shell = (v: string): string => (/^[\w@%+=:,./-]+$/.test(v) ? v : `'${v.replace(/'/g, "'\\''")}'`);

/** `weir observe` with Hubble's flags; what has no flag is said in a comment. */
export function toObserve(tokens: readonly Token[], range: Range): string {
  const out = ["weir observe"];
  const left: string[] = [];
  if (range.kind === "live") out.push("--follow");
  else if (range.kind === "last") out.push(`--since ${range.span}`);
  else out.push(`--since ${range.since} --until ${range.until}`);
  for (const t of tokens) {
    const flag = field(t.field)?.flag;
    if (flag) out.push(`${t.not ? "--not " : ""}${flag} ${shell(t.value)}`);
    else left.push(`${t.not ? "-" : ""}${t.field}=${t.value}`);
  }
  return out.join(" ") + (left.length ? `  # no flag for ${left.join(" ")}` : "");
}

export function flowObserve(f: Flow): string {
  const out = ["weir observe"];
  const flag = (name: string, v: string | number | undefined) => v !== undefined && v !== 0 && out.push(`${name} ${shell(String(v))}`);
  flag("--from-ip", f.source_ip);
  flag("--from-port", f.source_port);
  flag("--to-ip", f.destination_ip);
  flag("--to-port", f.destination_port);
  flag("--protocol", f.protocol?.toLowerCase());
  // a second either side: the command filters by event time
  const at = (iso: string, by: number) => new Date(Date.parse(iso) + by).toISOString();
  out.push(`--since ${at(f.start_time, -1000)} --until ${at(f.end_time, 1000)}`);
  return out.join(" ");
}

export function flowsUrl(tokens: readonly Token[], range: Range, extra: [string, string][] = []): string {
  return `flows?${new URLSearchParams([...query(range), ...toParams(tokens), ...extra])}`;
}

export const curl = (base: string, path: string): string => `curl -s ${shell(base + path)}`;

export const curlSql = (base: string, sql: string): string =>
  `curl -s -H 'Accept: application/json' -H 'Content-Type: text/plain' --data-binary '${sql.replace(/'/g, "'\\''")}' ${shell(`${base}sql`)}`;
