// A small made-up cluster for the stand-in relay. Seeded: the same every time.

let seed = 7;
const random = () => ((seed = (seed * 1664525 + 1013904223) >>> 0) / 2 ** 32);
const pick = (list) => list[Math.floor(random() * list.length)];
const between = (a, b) => a + Math.floor(random() * (b - a));
export const reset = () => void (seed = 7);

const w = (namespace, name, ip, kind = "Deployment") => ({ namespace, name, ip, kind });
const W = {
  gateway: w("ingress", "gateway", "10.0.1.4", "DaemonSet"),
  web: w("shop", "web", "10.0.1.10"),
  cart: w("shop", "cart", "10.0.1.11"),
  checkout: w("shop", "checkout", "10.0.2.12"),
  catalog: w("shop", "catalog", "10.0.2.13"),
  redis: w("shop", "redis", "10.0.1.14", "StatefulSet"),
  payments: w("pay", "payments", "10.0.2.20"),
  ledger: w("pay", "ledger-db", "10.0.2.21", "StatefulSet"),
  fraud: w("pay", "fraud-scoring", "10.0.3.22"),
  batch: w("batch", "nightly-export", "10.0.3.30", "CronJob"),
  dns: w("kube-system", "coredns", "10.0.1.2"),
  prom: w("monitoring", "prometheus", "10.0.3.40", "StatefulSet"),
};
const world = (ip, name) => ({ ip, names: name ? [name] : undefined });
const X = { client: world("203.0.113.9"), stripe: world("198.51.100.20", "api.payments.example"), s3: world("198.51.100.77", "objects.example"), odd: world("192.0.2.66") };

// source, destination, port, protocol, weight, bytes, dropped share, service
const PAIRS = [
  [X.client, W.gateway, 443, "TCP", 8, 40_000, 0],
  [W.gateway, W.web, 8080, "TCP", 10, 52_000, 0, "web"],
  [W.web, W.cart, 9000, "TCP", 9, 6_000, 0, "cart"],
  [W.web, W.catalog, 9001, "TCP", 9, 90_000, 0, "catalog"],
  [W.cart, W.redis, 6379, "TCP", 9, 2_400, 0, "redis"],
  [W.checkout, W.cart, 9000, "TCP", 3, 4_000, 0, "cart"],
  [W.web, W.checkout, 9002, "TCP", 3, 3_000, 0, "checkout"],
  [W.checkout, W.payments, 8443, "TCP", 3, 5_000, 0, "payments"],
  [W.payments, W.ledger, 5432, "TCP", 3, 12_000, 0, "ledger-db"],
  [W.payments, W.fraud, 50051, "TCP", 2, 8_000, 0, "fraud-scoring"],
  [W.payments, X.stripe, 443, "TCP", 2, 7_000, 0],
  [W.batch, W.ledger, 5432, "TCP", 2, 0, 1, "ledger-db"],
  [W.batch, X.s3, 443, "TCP", 1, 9_000_000, 0],
  [W.catalog, X.odd, 4444, "TCP", 1, 0, 1],
  [W.web, W.dns, 53, "UDP", 6, 260, 0, "kube-dns"],
  [W.checkout, W.dns, 53, "UDP", 3, 260, 0, "kube-dns"],
  [W.batch, W.dns, 53, "UDP", 2, 260, 0.1, "kube-dns"],
  [W.prom, W.web, 9090, "TCP", 1, 30_000, 0],
  [W.prom, W.payments, 9090, "TCP", 1, 30_000, 0.5],
];
const NODES = ["node-a", "node-b", "node-c"];
const DRAWN = PAIRS.flatMap((p) => Array(p[4]).fill(p));
const suffix = (e, n) => `${e.name}-${["6d9f7c", "77b8d5", "5c44bd"][n % 3]}-${["x2x4k", "9qv7m", "ztr5p"][n % 3]}`;

function end(flow, side, e, n) {
  flow[`${side}_ip`] = e.ip;
  if (e.namespace) {
    flow[`${side}_namespace`] = e.namespace;
    flow[`${side}_pod`] = e.kind === "StatefulSet" ? `${e.name}-${n % 2}` : suffix(e, n);
    flow[`${side}_workload`] = e.name;
    flow[`${side}_workload_kind`] = e.kind;
    flow[`${side}_labels`] = [`app=${e.name}`, `k8s.io/namespace=${e.namespace}`];
    flow[`${side}_identity`] = 1000 + e.ip.charCodeAt(e.ip.length - 1) * 13;
    flow[`${side}_node`] = NODES[n % 3];
  } else {
    flow[`${side}_identity`] = 2;
    if (e.names) flow[`${side}_names`] = e.names;
  }
}

const iso = (ms) => new Date(ms).toISOString().replace("Z", `${String(between(0, 1e6)).padStart(6, "0")}Z`);

function raw(at) {
  const [s, d, port, protocol, , bytes, drop, service] = pick(DRAWN);
  const n = between(0, 3);
  const f = { flow_id: [...Array(16)].map(() => between(0, 16).toString(16)).join(""), seq: 0 };
  const took = between(2, 900);
  f.start_time = iso(at - took);
  f.end_time = iso(at);
  Object.assign(f, { node: NODES[n], interface: s.namespace ? `lxc${n}f3a` : "eth0", reporter: s.namespace ? "SOURCE" : "DESTINATION", direction: s.namespace ? "EGRESS" : "INGRESS", ip_version: 4, protocol });
  end(f, "source", s, n);
  end(f, "destination", d, n + 1);
  f.source_port = between(32768, 60999);
  f.destination_port = port;
  if (service && d.namespace) Object.assign(f, { destination_service: service, destination_service_namespace: d.namespace, backend_ip: d.ip, backend_port: port });
  if (random() < drop) {
    Object.assign(f, { verdict: "DROPPED", drop_reason: "POLICY_DENIED", attempts: between(1, 6), policies_selecting: d.namespace ? [`${d.namespace}/default-deny`] : ["shop/egress-allow-list"] });
    Object.assign(f, { packets_out: f.attempts, bytes_out: f.attempts * 60, packets_in: 0, bytes_in: 0, tcp_flags: ["SYN"] });
  } else {
    f.verdict = random() < 0.01 ? "AUDIT" : "FORWARDED";
    f.bytes_out = Math.round((bytes * (0.5 + random())) / 4);
    f.bytes_in = Math.round(bytes * (0.5 + random()));
    f.packets_out = Math.ceil(f.bytes_out / 900) + 2;
    f.packets_in = Math.ceil(f.bytes_in / 1300) + 2;
    if (d.namespace) Object.assign(f, { policy_kind: "NetworkPolicy", policy_namespace: d.namespace, policy_name: `allow-${d.name}`, policy_rule: 0, policy_revision: 12 });
    if (protocol === "TCP") Object.assign(f, { tcp_flags: ["SYN", "ACK", "PSH", "FIN"], tcp_state: "CLOSED", retransmits: random() < 0.04 ? 1 : 0, rtt_us: between(90, d.namespace ? 900 : 24_000), connect_us: between(120, 1500) });
  }
  if (s.namespace && random() < 0.5) Object.assign(f, { process_name: s.name, pid: between(900, 30_000) });
  f.closed = true;
  return f;
}

const OF = {
  namespace: (f) => [f.source_namespace, f.destination_namespace], workload: (f) => [f.source_workload, f.destination_workload],
  pod: (f) => [`${f.source_namespace}/${f.source_pod}`, `${f.destination_namespace}/${f.destination_pod}`],
  ip: (f) => [f.source_ip, f.destination_ip], port: (f) => [f.source_port, f.destination_port], service: (f) => [f.destination_service],
  name: (f) => [...(f.source_names ?? []), ...(f.destination_names ?? [])], process: (f) => [f.process_name],
  source_pod: (f) => [`${f.source_namespace}/${f.source_pod}`], destination_pod: (f) => [`${f.destination_namespace}/${f.destination_pod}`],
};
const CONTROL = new Set(["since", "until", "limit", "follow", "by", "buckets", "reporter", "field", "prefix"]);

function passes(f, params) {
  const groups = new Map();
  for (const [k, v] of params) if (!CONTROL.has(k)) groups.set(k, [...(groups.get(k) ?? []), v]);
  for (const [k, wanted] of groups) {
    const name = k.replace(/^-/, "");
    const have = (OF[name] ?? ((x) => [x[name]]))(f).map(String);
    const hit = wanted.some((v) => have.some((h) => (name.endsWith("pod") ? h.startsWith(v) : h === v)));
    if (hit === k.startsWith("-")) return false;
  }
  return true;
}

const made = new Map();

export function makeFlow(params, at = Date.now()) {
  let f = raw(at);
  for (let i = 0; i < 400 && !passes(f, params); i++) f = raw(at);
  made.set(f.flow_id, f);
  if (made.size > 20_000) made.delete(made.keys().next().value);
  return f;
}

function span(params) {
  const unit = { s: 1e3, m: 6e4, h: 36e5, d: 864e5 };
  const rel = /^(\d+)([smhd])$/.exec(params.get("since") ?? "5m");
  const until = params.get("until") ? Date.parse(params.get("until")) : Date.now();
  return [rel ? until - Number(rel[1]) * unit[rel[2]] : Date.parse(params.get("since")), until];
}

const LOSSES = [
  { stage: "kernel_ring", cause: "ring full", node: "node-b", events: 18_240, flows: 0, bytes: 0 },
  { stage: "agent_queue", cause: "queue enrich full", node: "node-b", events: 310, flows: 0, bytes: 0 },
  { stage: "export", cause: "node away longer than its spool", node: "node-c", events: 0, flows: 412, bytes: 9_231_004 },
];

function completeness(params, mode) {
  const [a, b] = span(params);
  const base = { from: iso(a), until: iso(b), nodes_expected: 3, nodes_reporting: 3, lost_events: 0, lost_flows: 0, unattributed_bytes: 0, late_ms: 420, complete: true, causes: [] };
  if (mode !== "lossy") return base;
  return { ...base, nodes_reporting: 2, lost_events: 18_550, lost_flows: 412, unattributed_bytes: 73_112, late_ms: 14_300, complete: false, causes: LOSSES };
}

const FEATURES = [
  { name: "tcx", on: true, why: null }, { name: "ring_buffer", on: true, why: null }, { name: "drop_reasons", on: true, why: null },
  { name: "rtt", on: true, why: null }, { name: "process_names", on: false, why: "needs cgroup v2; this node has v1" }, { name: "xdp", on: false, why: "driver of eth0 has no native XDP" },
];

function nodes(mode) {
  return NODES.map((name, i) => {
    const away = mode === "lossy" && i === 2;
    return {
      name, address: `10.0.0.${10 + i}:4244`, connected: !away, last_seen: iso(Date.now() - (away ? 412_000 : 300)), lag_ms: away ? null : mode === "lossy" && i === 1 ? 14_300 : 300 + i * 60,
      flows_per_s: away ? null : 14.1 - i * 1.7, lost_events: mode === "lossy" && i === 1 ? 18_550 : 0, version: "0.1.0", mode: i === 0 ? "enforce" : "observe",
      features: FEATURES.map((f) => (i === 0 && !f.on ? { ...f, on: true, why: null } : f)),
      interfaces: ["eth0", "lxc0f3a", "lxc1f3a"].map((n, k) => ({ name: n, rx_bytes: Math.floor(81_922_113_004 / (k + 1)), tx_bytes: Math.floor(1_802_113_004 / (k + 1)), unattributed_bytes: mode === "lossy" && i === 1 && k === 0 ? 73_112 : 0 })),
    };
  });
}

function graph(params) {
  const by = params.get("by") ?? "workload";
  const id = (e, n) => (!e.namespace ? (e.names ? `name:${e.names[0]}` : `world:${e.ip}`) : by === "namespace" ? e.namespace : by === "pod" ? `${e.namespace}/${suffix(e, n)}` : `${e.namespace}/${e.name}`);
  const node = (e, n) => ({ id: id(e, n), namespace: e.namespace ?? null, name: !e.namespace ? (e.names?.[0] ?? e.ip) : by === "namespace" ? e.namespace : by === "pod" ? suffix(e, n) : e.name, kind: e.namespace ? (by === "namespace" ? "workload" : by) : e.names ? "name" : "world" });
  const ns = new Map();
  const es = new Map();
  for (const [s, d, port, protocol, weight, bytes, drop] of PAIRS) {
    const probe = {};
    end(probe, "source", s, 0);
    end(probe, "destination", d, 1);
    Object.assign(probe, { destination_port: port, protocol, verdict: drop === 1 ? "DROPPED" : "FORWARDED" });
    if (!passes(probe, params)) continue;
    for (let n = 0; n < (by === "pod" ? 2 : 1); n++) {
      const a = node(s, n), b = node(d, n + 1);
      if (a.id === b.id) continue;
      ns.set(a.id, a).set(b.id, b);
      const key = `${a.id}>${b.id}`;
      const e = es.get(key) ?? { source: a.id, target: b.id, bytes: 0, packets: 0, flows: 0, dropped: 0, ports: [], rtt_us: null };
      const flows = weight * 120;
      e.bytes += Math.round(bytes * flows * (1 - drop));
      e.packets += flows * 9;
      e.flows += flows;
      e.dropped += Math.round(flows * drop * 0.2);
      if (!e.ports.includes(`${protocol}/${port}`)) e.ports.push(`${protocol}/${port}`);
      e.rtt_us = protocol === "TCP" && drop < 1 ? 210 + port % 700 : null;
      es.set(key, e);
    }
  }
  return { nodes: [...ns.values()], edges: [...es.values()] };
}

function timeline(params, mode) {
  const [from, until] = span(params);
  const n = Number(params.get("buckets") ?? 60);
  const ms = (until - from) / n;
  const share = [...params.keys()].filter((k) => !CONTROL.has(k)).length ? 0.3 : 1;
  const buckets = Array.from({ length: n }, (_, i) => {
    const wave = 1 + 0.5 * Math.sin(i / 7) + 0.3 * Math.sin(i * 1.7);
    const lost = mode === "lossy" && i > n * 0.55 && i < n * 0.64 ? 900 : 0;
    const k = mode === "empty" ? 0 : (lost ? 0.45 : 1) * wave * share * (ms / 1000) * 12;
    return { time: iso(from + i * ms), forwarded: Math.round(k), dropped: Math.round(i > n * 0.7 && i < n * 0.8 ? k * 0.3 : k * 0.02), audit: i % 9 ? 0 : Math.round(k * 0.02), error: 0, bytes: Math.round(k * 30_000), lost };
  });
  return { bucket_ms: ms, buckets };
}

function sql(body) {
  const query = body.startsWith("{") ? JSON.parse(body).query : body;
  if (!/^\s*(select|with|show|describe|explain)\b/i.test(query)) {
    return { error: { code: "bad_sql", message: `expected SELECT, found: ${query.trim().split(/\s+/)[0] ?? "nothing"}`, hint: "Only reading is possible here." } };
  }
  const schema = [["source_workload", "Utf8"], ["destination_workload", "Utf8"], ["destination_port", "UInt16"], ["bytes", "UInt64"], ["flows", "Int64"], ["last", "Timestamp(Nanosecond, Some(\"UTC\"))"]].map(([name, type]) => ({ name, type }));
  const rows = PAIRS.map(([s, d, port, , weight, bytes], i) => [s.name ?? null, d.name ?? d.names?.[0] ?? null, port, bytes * weight * 977, weight * 977, iso(Date.now() - i * 1311)]);
  return { schema, rows, stats: { rows: rows.length, elapsed_ms: 12.7, truncated: false } };
}

export function answer(path, params, mode, body = "") {
  const c = completeness(params, mode);
  if (path === "completeness") return c;
  if (path === "sql") {
    const out = sql(body);
    return out.error ? out : { ...out, completeness: c };
  }
  if (path === "flows") {
    const [a, b] = span(params);
    const n = mode === "empty" ? 0 : Math.min(Number(params.get("limit") ?? 200), 500);
    const flows = Array.from({ length: n }, (_, i) => makeFlow(params, b - ((b - a) * i) / n));
    return { flows, completeness: c };
  }
  if (path.startsWith("flows/")) {
    const one = made.get(path.slice(6));
    if (!one) return { error: { code: "no_such_flow", message: "No flow has this id in what is stored.", hint: null } };
    const t = Date.parse(one.start_time);
    const more = [0, 1, 2].map((i) => ({ ...one, seq: i, start_time: iso(t + i * 3000), end_time: iso(t + 3000 + i * 3000), closed: i === 2 }));
    return { flow_id: one.flow_id, intervals: more, ends: [{ node: one.node, interface: one.interface, reporter: "SOURCE" }, { node: "node-c", interface: "eth0", reporter: "DESTINATION" }], totals: { bytes_out: 3 * one.bytes_out, bytes_in: 3 * one.bytes_in, packets_out: 3 * one.packets_out, packets_in: 3 * one.packets_in }, reason: one.drop_reason ? `No rule of ${one.policies_selecting} allows ${one.protocol}/${one.destination_port} from ${one.source_workload}.` : `Rule 0 of ${one.policy_namespace}/${one.policy_name} allows it.`, completeness: c };
  }
  if (path === "map") return { ...(mode === "empty" ? { nodes: [], edges: [] } : graph(params)), completeness: c };
  if (path === "timeline") return { ...timeline(params, mode), completeness: c };
  if (path === "nodes") return { nodes: nodes(mode) };
  if (path === "losses") return { losses: mode === "lossy" ? LOSSES.flatMap((l) => [0, 1, 2].map((i) => ({ ...l, time: iso(Date.now() - i * 6e5), events: l.events / 3 | 0, flows: l.flows / 3 | 0 }))) : [] };
  if (path === "complete") {
    const f = params.get("field"), p = params.get("prefix") ?? "";
    const all = new Set(Object.values(W).map((x) => (/namespace/.test(f) ? x.namespace : /pod/.test(f) ? `${x.namespace}/${suffix(x, 0)}` : /ip/.test(f) ? x.ip : x.name)));
    if (f === "node") return { values: NODES };
    if (f === "drop_reason") return { values: ["POLICY_DENIED", "INVALID_PACKET", "CT_MAP_INSERTION_FAILED"] };
    return { values: [...all].filter((v) => v.startsWith(p)).sort() };
  }
  if (path === "status") {
    return { version: "0.1.0", uptime_s: 86_530, mode: "observe", nodes: { expected: 3, reporting: mode === "lossy" ? 2 : 3 }, flows_per_s: mode === "empty" ? 0 : 38.4, flows_stored: mode === "empty" ? 0 : 18_230_114, storage: { bytes: 1_803_221_442, segments: 214, oldest: iso(Date.now() - 6.2 * 864e5), disk_free_bytes: 51_203_114_000, ingest: mode === "lossy" ? "stopped: disk 98 % full" : "ok" }, losses_1h: mode === "lossy" ? LOSSES : [], completeness: c };
  }
  return null;
}
