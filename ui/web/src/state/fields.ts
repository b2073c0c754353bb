// The fields one can filter by: the names of the query parameters of /api/v1.

export interface Field {
  name: string;
  help: string;
  /** Values that are known without asking. */
  values?: readonly string[];
  /** Flag of `weir observe` (Hubble's name), if there is one. */
  flag?: string;
}

export const VERDICTS = ["FORWARDED", "DROPPED", "AUDIT", "REDIRECTED", "ERROR"] as const;
export const PROTOCOLS = ["TCP", "UDP", "SCTP", "ICMPv4", "ICMPv6"] as const;

export const FIELDS: readonly Field[] = [
  { name: "namespace", help: "either end", flag: "--namespace" },
  { name: "workload", help: "either end: Deployment, StatefulSet, …", flag: "--workload" },
  { name: "pod", help: "either end: ns/name or a prefix", flag: "--pod" },
  { name: "verdict", help: "what happened", values: VERDICTS, flag: "--verdict" },
  { name: "drop_reason", help: "why it was dropped", flag: "--drop-reason-desc" },
  { name: "port", help: "either end", flag: "--port" },
  { name: "protocol", help: "transport", values: PROTOCOLS, flag: "--protocol" },
  { name: "ip", help: "either end: address or CIDR", flag: "--ip" },
  { name: "name", help: "either end: DNS name", flag: "--fqdn" },
  { name: "service", help: "destination service", flag: "--service" },
  { name: "node", help: "node that saw it", flag: "--node-name" },
  { name: "process", help: "name of the local process" },
  { name: "label", help: "either end: key=value", flag: "--label" },
  { name: "source_namespace", help: "", flag: "--from-namespace" },
  { name: "source_workload", help: "", flag: "--from-workload" },
  { name: "source_pod", help: "ns/name or a prefix", flag: "--from-pod" },
  { name: "source_ip", help: "address or CIDR", flag: "--from-ip" },
  { name: "source_port", help: "", flag: "--from-port" },
  { name: "destination_namespace", help: "", flag: "--to-namespace" },
  { name: "destination_workload", help: "", flag: "--to-workload" },
  { name: "destination_pod", help: "ns/name or a prefix", flag: "--to-pod" },
  { name: "destination_ip", help: "address or CIDR", flag: "--to-ip" },
  { name: "destination_port", help: "", flag: "--to-port" },
  { name: "interface", help: "interface that saw it", flag: "--interface" },
  { name: "flow_id", help: "one connection" },
  { name: "reporter", help: "all = every interface's row", values: ["all", "SOURCE", "DESTINATION", "HOST", "EXTERNAL"] },
];

const byName = new Map(FIELDS.map((f) => [f.name, f]));

export const field = (name: string): Field | undefined => byName.get(name);

// What people type out of habit.
const ALIASES: Record<string, string> = {
  ns: "namespace",
  from: "source_pod",
  to: "destination_pod",
  src: "source_ip",
  dst: "destination_ip",
  source: "source_workload",
  destination: "destination_workload",
  dport: "destination_port",
  sport: "source_port",
  proto: "protocol",
  reason: "drop_reason",
  svc: "service",
  fqdn: "name",
  dns: "name",
};

export const canonical = (name: string): string => {
  const low = name.toLowerCase();
  return ALIASES[low] ?? low;
};
