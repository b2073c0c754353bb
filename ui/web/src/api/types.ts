// The answers of /api/v1, as docs/http-api.md gives them. Unknown is null or left out, never "" or 0.

export interface Cause {
  stage: string;
  cause: string;
  node?: string | null;
  events?: number;
  flows?: number;
  bytes?: number;
}

export interface Completeness {
  from: string | null;
  until: string | null;
  nodes_expected: number;
  nodes_reporting: number;
  lost_events: number;
  lost_flows: number;
  unattributed_bytes: number;
  late_ms: number | null;
  complete: boolean;
  causes: Cause[];
}

export interface Flow {
  flow_id: string;
  seq?: number;
  start_time: string;
  end_time: string;
  cluster?: string;
  node?: string;
  interface?: string;
  reporter?: string;
  direction?: string;
  ip_version?: number;
  protocol?: string;
  source_ip?: string;
  source_port?: number;
  destination_ip?: string;
  destination_port?: number;
  backend_ip?: string;
  backend_port?: number;
  source_identity?: number;
  source_namespace?: string;
  source_pod?: string;
  source_workload?: string;
  source_workload_kind?: string;
  source_labels?: string[];
  source_names?: string[];
  source_node?: string;
  destination_identity?: number;
  destination_namespace?: string;
  destination_pod?: string;
  destination_workload?: string;
  destination_workload_kind?: string;
  destination_labels?: string[];
  destination_names?: string[];
  destination_node?: string;
  destination_service?: string;
  destination_service_namespace?: string;
  process_name?: string;
  pid?: number;
  verdict?: string;
  drop_reason?: string;
  drop_location?: string;
  policy_kind?: string;
  policy_namespace?: string;
  policy_name?: string;
  policy_rule?: number;
  policy_revision?: number;
  policies_selecting?: string[];
  packets_out?: number;
  bytes_out?: number;
  packets_in?: number;
  bytes_in?: number;
  attempts?: number;
  tcp_flags?: string[];
  tcp_state?: string;
  retransmits?: number;
  rtt_us?: number;
  connect_us?: number;
  closed?: boolean;
  estimated?: boolean;
}

export interface FlowsAnswer {
  flows: Flow[];
  completeness: Completeness;
}

export interface FlowAnswer {
  flow_id: string;
  intervals: Flow[];
  ends: { node: string; interface: string; reporter: string }[];
  totals: Record<string, unknown>;
  reason: string | null;
  completeness: Completeness;
}

export type NodeKind = "workload" | "pod" | "service" | "host" | "world" | "name";

export interface MapNode {
  id: string;
  namespace?: string | null;
  name: string;
  kind: NodeKind | string;
}

export interface MapEdge {
  source: string;
  target: string;
  bytes: number;
  packets: number;
  flows: number;
  dropped: number;
  ports: string[];
  rtt_us?: number | null;
}

export interface MapAnswer {
  nodes: MapNode[];
  edges: MapEdge[];
  completeness: Completeness;
}

export interface Bucket {
  time: string;
  forwarded: number;
  dropped: number;
  audit: number;
  error: number;
  bytes: number;
  lost: number;
}

export interface TimelineAnswer {
  bucket_ms: number;
  buckets: Bucket[];
  completeness: Completeness;
}

export interface Feature {
  name: string;
  on: boolean;
  why?: string | null;
}

export interface Interface {
  name: string;
  rx_bytes: number;
  tx_bytes: number;
  unattributed_bytes: number;
}

export interface NodeInfo {
  name: string;
  address?: string | null;
  connected: boolean;
  last_seen?: string | null;
  lag_ms?: number | null;
  flows_per_s?: number | null;
  lost_events?: number | null;
  version?: string | null;
  mode?: string | null;
  features?: Feature[];
  interfaces?: Interface[];
}

export interface NodesAnswer {
  nodes: NodeInfo[];
}

export interface Loss extends Cause {
  time: string;
}

export interface LossesAnswer {
  losses: Loss[];
}

export interface StatusAnswer {
  version: string;
  uptime_s: number;
  mode: string;
  nodes: { expected: number; reporting: number };
  flows_per_s: number;
  flows_stored: number;
  storage: {
    bytes: number;
    segments: number;
    oldest: string | null;
    disk_free_bytes: number | null;
    ingest: string;
  };
  losses_1h: Cause[];
  completeness: Completeness;
}

export interface SqlAnswer {
  schema: { name: string; type: string }[];
  rows: unknown[][];
  completeness: Completeness | null;
  stats: { rows: number; elapsed_ms: number; truncated: boolean };
}

export interface LiveStatus {
  time: string;
  rate: number;
  completeness: Completeness;
}

export interface Gap {
  lost: number;
  cause: string;
}
