// What the health strip says, and the sums behind the health view.

import type { Cause, Completeness, NodeInfo } from "../api/types";
import { bytes, duration, exact, plural } from "./format";

export type Level = "good" | "warn" | "bad" | "unknown";

export interface Verdict {
  level: Level;
  text: string;
  /** One sentence each: what is missing. */
  why: string[];
}

export function judge(c: Completeness | null | undefined): Verdict {
  if (!c) return { level: "unknown", text: "Not known", why: ["No answer has come yet."] };
  const why: string[] = [];
  const missing = c.nodes_expected - c.nodes_reporting;
  if (missing > 0) why.push(`${missing} of ${plural(c.nodes_expected, "node")} did not report.`);
  if (c.lost_flows > 0) why.push(`${plural(c.lost_flows, "flow record")} lost.`);
  if (c.lost_events > 0) why.push(`${plural(c.lost_events, "event")} lost; counters are not affected by lost events.`);
  if (c.unattributed_bytes > 0) why.push(`${bytes(c.unattributed_bytes)} counted on interfaces but not attributed to a flow.`);
  if ((c.late_ms ?? 0) > 10_000) why.push(`The slowest node is ${duration(c.late_ms)} behind.`);
  if (c.complete) return { level: "good", text: "Complete", why };
  if (!why.length) why.push("The relay marks this answer as incomplete and gives no cause.");
  return { level: missing > 0 || c.lost_flows > 0 ? "bad" : "warn", text: "Incomplete", why };
}

/** Losses summed by stage and cause, largest first. */
export function byCause(losses: readonly Cause[]): (Required<Omit<Cause, "node">> & { nodes: string[] })[] {
  const sums = new Map<string, Required<Omit<Cause, "node">> & { nodes: string[] }>();
  for (const l of losses) {
    const key = `${l.stage}|${l.cause}`;
    const s = sums.get(key) ?? { stage: l.stage, cause: l.cause, events: 0, flows: 0, bytes: 0, nodes: [] };
    s.events += l.events ?? 0;
    s.flows += l.flows ?? 0;
    s.bytes += l.bytes ?? 0;
    if (l.node && !s.nodes.includes(l.node)) s.nodes.push(l.node);
    sums.set(key, s);
  }
  return [...sums.values()].sort((a, b) => b.flows - a.flows || b.events - a.events || b.bytes - a.bytes);
}

export function nodeLevel(n: NodeInfo): Level {
  if (!n.connected) return "bad";
  if ((n.lag_ms ?? 0) > 10_000 || (n.lost_events ?? 0) > 0) return "warn";
  return "good";
}

export const maxLag = (nodes: readonly NodeInfo[]): number | null =>
  nodes.reduce<number | null>((m, n) => (n.connected && n.lag_ms != null && (m === null || n.lag_ms > m) ? n.lag_ms : m), null);

export const lostText = (c: Cause): string =>
  [
    c.events ? `${exact(c.events)} events` : "",
    c.flows ? `${exact(c.flows)} flows` : "",
    c.bytes ? bytes(c.bytes) : "",
  ]
    .filter(Boolean)
    .join(", ") || "–";
