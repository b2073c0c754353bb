// Cells of an SQL result.

import { exact, UNKNOWN } from "./format";

export const numeric = (type: string): boolean => /^(u?int|float|decimal|double|real|bigint|smallint|integer)/i.test(type);

/** Ports, numbers of rules and the like are names: no grouping. */
const isName = (column: string): boolean => /(^|_)(port|identity|pid|seq|rule|revision|version|status|year)$/.test(column);

export function cell(v: unknown, type: string, column = ""): string {
  if (v === null || v === undefined) return "NULL";
  if (typeof v === "number") return numeric(type) && Number.isInteger(v) && !isName(column) ? exact(v) : String(v);
  if (typeof v === "object") return JSON.stringify(v);
  return v === "" ? "''" : String(v);
}

export const EXAMPLES: readonly { name: string; sql: string }[] = [
  {
    name: "What is being dropped, by which rule",
    sql: `SELECT drop_reason, policy_namespace, policy_name, policy_rule,
       source_workload, destination_workload, destination_port,
       sum(attempts) AS attempts, max(end_time) AS last
FROM flows
WHERE verdict = 'DROPPED' AND end_time >= now() - INTERVAL '1 hour'
GROUP BY 1, 2, 3, 4, 5, 6, 7
ORDER BY attempts DESC
LIMIT 50`,
  },
  {
    name: "Top talkers",
    sql: `SELECT source_namespace, source_workload, destination_namespace, destination_workload,
       sum(bytes_out + bytes_in) AS bytes, count(DISTINCT flow_id) AS flows
FROM flows
WHERE end_time >= now() - INTERVAL '15 minutes'
GROUP BY 1, 2, 3, 4
ORDER BY bytes DESC
LIMIT 20`,
  },
  {
    name: "Slowest pairs by round-trip time",
    sql: `SELECT source_workload, destination_workload, destination_port,
       approx_percentile_cont(rtt_us, 0.5) AS p50_us,
       approx_percentile_cont(rtt_us, 0.99) AS p99_us, count(*) AS samples
FROM flows
WHERE rtt_us IS NOT NULL AND end_time >= now() - INTERVAL '1 hour'
GROUP BY 1, 2, 3
ORDER BY p99_us DESC
LIMIT 20`,
  },
  {
    name: "Who leaves the cluster",
    sql: `SELECT source_namespace, source_workload, destination_names, destination_ip, destination_port,
       sum(bytes_out) AS sent, sum(bytes_in) AS received
FROM flows
WHERE destination_namespace IS NULL AND source_namespace IS NOT NULL
  AND end_time >= now() - INTERVAL '24 hours'
GROUP BY 1, 2, 3, 4, 5
ORDER BY sent DESC
LIMIT 50`,
  },
  {
    name: "Does it balance? Bytes no flow accounts for",
    sql: `SELECT node, interface, sum(rx_bytes + tx_bytes) AS counted, sum(unattributed_bytes) AS unattributed
FROM counters
WHERE time >= now() - INTERVAL '1 hour'
GROUP BY 1, 2
ORDER BY unattributed DESC`,
  },
  {
    name: "What was lost, where and why",
    sql: `SELECT date_trunc('minute', time) AS minute, node, stage, cause, sum(events) AS events, sum(flows) AS flows
FROM losses
WHERE time >= now() - INTERVAL '24 hours'
GROUP BY 1, 2, 3, 4
ORDER BY minute DESC`,
  },
];

const ENDS = ["identity", "namespace", "pod", "workload", "workload_kind", "labels", "names", "node"];
const side = (s: string): string[] => ENDS.map((c) => `${s}_${c}`);

export const TABLES: readonly { name: string; help: string; columns: readonly string[] }[] = [
  {
    name: "flows",
    help: "one row per connection per interval",
    columns: [
      "flow_id", "seq", "start_time", "end_time", "cluster", "node", "interface", "reporter", "direction", "ip_version",
      "protocol", "source_ip", "source_port", "destination_ip", "destination_port", "backend_ip", "backend_port",
      ...side("source"), ...side("destination"), "destination_service", "destination_service_namespace",
      "process_name", "pid", "verdict", "drop_reason", "drop_location", "policy_kind", "policy_namespace", "policy_name",
      "policy_rule", "policy_revision", "policies_selecting", "packets_out", "bytes_out", "packets_in", "bytes_in",
      "attempts", "tcp_flags", "tcp_state", "retransmits", "rtt_us", "connect_us", "closed", "estimated",
    ],
  },
  { name: "l7", help: "requests", columns: ["flow_id", "time", "protocol", "method", "path", "host", "status", "latency_us", "query", "qtypes", "rcode", "ips"] },
  { name: "counters", help: "interfaces, per minute", columns: ["time", "node", "interface", "rx_bytes", "rx_packets", "tx_bytes", "tx_packets", "unattributed_bytes", "unattributed_packets"] },
  { name: "losses", help: "what was missed", columns: ["time", "node", "stage", "cause", "events", "flows", "bytes"] },
  { name: "drops", help: "kernel drops", columns: [] },
  { name: "policies", help: "as they were", columns: ["valid_from", "valid_to"] },
  { name: "endpoints", help: "as they were", columns: ["valid_from", "valid_to"] },
  { name: "identities", help: "as they were", columns: ["valid_from", "valid_to"] },
  { name: "services", help: "as they were", columns: ["valid_from", "valid_to"] },
  { name: "nodes", help: "as they were", columns: ["valid_from", "valid_to"] },
  { name: "edges_1m", help: "roll-up per minute and edge", columns: [] },
];

export const short = (v: string): string => (v === UNKNOWN || v.length <= 200 ? v : `${v.slice(0, 199)}…`);
