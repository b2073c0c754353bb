// The two ends of a flow: what to call them, and which filter a click on them adds.

import type { Flow } from "../api/types";
import { hostPort } from "./format";
import type { Token } from "./filters";

export type Side = "source" | "destination";

export interface End {
  side: Side;
  namespace?: string;
  /** Pod, workload, DNS name or address: the best name known. */
  name: string;
  /** Which of these `name` is. */
  kind: "pod" | "workload" | "service" | "name" | "ip" | "reserved";
  address: string;
  port?: number;
}

// Hubble's reserved identities.
const RESERVED: Record<number, string> = { 1: "host", 2: "world", 6: "remote-node", 7: "kube-apiserver", 9: "world-ipv4", 10: "world-ipv6" };

export function end(f: Flow, side: Side): End {
  const namespace = f[`${side}_namespace`];
  const pod = f[`${side}_pod`];
  const workload = f[`${side}_workload`];
  const names = f[`${side}_names`];
  const port = f[`${side}_port`];
  const address = hostPort(f[`${side}_ip`], port);
  const base = { side, namespace, address, port };
  if (pod) return { ...base, name: pod, kind: "pod" };
  if (workload) return { ...base, name: workload, kind: "workload" };
  if (side === "destination" && f.destination_service) {
    return { ...base, namespace: f.destination_service_namespace, name: f.destination_service, kind: "service" };
  }
  if (names?.length) return { ...base, name: names[0]!, kind: "name" };
  const reserved = RESERVED[f[`${side}_identity`] ?? -1];
  if (reserved && reserved !== "world" && !reserved.startsWith("world-")) return { ...base, name: reserved, kind: "reserved" };
  return { ...base, name: address, kind: "ip" };
}

/** The filter that finds this end again, on this side. */
export function endToken(f: Flow, side: Side, not = false): Token {
  const e = end(f, side);
  switch (e.kind) {
    case "pod":
      return { field: `${side}_pod`, value: e.namespace ? `${e.namespace}/${e.name}` : e.name, not };
    case "workload":
      return { field: `${side}_workload`, value: e.name, not };
    case "service":
      return { field: "service", value: e.namespace ? `${e.namespace}/${e.name}` : e.name, not };
    case "name":
      return { field: "name", value: e.name, not };
    default:
      return { field: `${side}_ip`, value: f[`${side}_ip`] ?? "", not };
  }
}

const sum = (a?: number, b?: number): number | undefined => (a === undefined && b === undefined ? undefined : (a ?? 0) + (b ?? 0));

export const bytesOf = (f: Flow): number | undefined => sum(f.bytes_out, f.bytes_in);
export const packetsOf = (f: Flow): number | undefined => sum(f.packets_out, f.packets_in);

/** One line that says why: the drop reason, or the rule that let it pass. */
export function reasonOf(f: Flow): string {
  const rule = f.policy_name
    ? `${f.policy_namespace ? `${f.policy_namespace}/` : ""}${f.policy_name}${f.policy_rule === undefined ? "" : `#${f.policy_rule}`}`
    : "";
  if (f.drop_reason) {
    const why = rule || f.policies_selecting?.join(", ") || f.drop_location || "";
    return why ? `${f.drop_reason} · ${why}` : f.drop_reason;
  }
  return rule;
}
