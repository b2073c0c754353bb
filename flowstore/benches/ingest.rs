//! How fast rows get from a node's batch to queryable segments, and how fast questions are answered.
//!
//! Prints rows; the last line is JSON, which with `WEIR_BENCH_DIR` is also written there, as
//! `ingest.json`. `WEIR_BENCH_ROWS` sets the number of rows (default 2 000 000). Batches are made
//! and encoded before the clock starts: that work is the node's.

use std::path::PathBuf;
use std::time::Instant;

use columns::Table;
use columns::ipc::{Compression, encode};
use columns::rows::{BatchBuilder, FlowEnd, FlowRow};
use flowstore::{Batch, Config, QueryRequest, Store};
use serde_json::{Value, json};

const BATCH: u64 = 4096;
const BASE: i64 = 1_772_323_200_000_000_000;
/// Rows a second and core to queryable segments that are aimed at.
const GOAL: f64 = 1e6;

const QUESTIONS: &[(&str, &str)] = &[
    ("count", "SELECT count(*) FROM flows"),
    (
        "top_talkers",
        "SELECT source_workload, destination_workload, sum(bytes_out + bytes_in) AS b FROM flows GROUP BY 1, 2 ORDER BY b DESC LIMIT 10",
    ),
    (
        "drops_by_reason_and_minute",
        "SELECT date_trunc('minute', start_time) AS t, drop_reason, count(*) FROM flows WHERE verdict = 'DROPPED' GROUP BY 1, 2 ORDER BY 1",
    ),
    (
        "service_by_minute",
        "SELECT date_trunc('minute', start_time) AS t, sum(bytes_out), approx_percentile_cont(rtt_us, 0.99) FROM flows WHERE destination_workload = 'workload-7' GROUP BY 1 ORDER BY 1",
    ),
    ("needle_flow_id", "SELECT * FROM flows WHERE flow_id = '$NEEDLE'"),
    (
        "needle_ip_and_port",
        "SELECT * FROM flows WHERE source_ip = '10.1.3.7' AND source_port BETWEEN 40000 AND 41000",
    ),
    (
        "last_five_minutes_like",
        "SELECT source_pod, count(*) FROM flows WHERE start_time >= '2026-03-01T00:55:00Z' AND source_pod LIKE 'workload-1%' GROUP BY 1",
    ),
    (
        "distinct_ips",
        "SELECT source_namespace, destination_namespace, count(DISTINCT source_ip) FROM flows GROUP BY 1, 2",
    ),
    (
        "p99_rtt_by_workload",
        "SELECT source_workload, approx_percentile_cont(rtt_us, 0.99) FROM flows GROUP BY 1",
    ),
    ("latest_50", "SELECT * FROM flows ORDER BY start_time DESC LIMIT 50"),
];

/// xorshift: the same rows each time.
struct Random(u64);

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let report = runtime.block_on(run());
    print_rows(&report);
    println!("{report}");
    if let Some(directory) = std::env::var_os("WEIR_BENCH_DIR").map(PathBuf::from) {
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join("ingest.json"), report.to_string()).unwrap();
    }
}

fn print_rows(report: &Value) {
    let number = |name: &str| report[name].as_f64().unwrap_or_default();
    let per_core = number("queryable_rows_per_cpu_s");
    println!("{:32} {:>12.0}", "rows/s acknowledged", number("acknowledged_rows_per_s"));
    println!("{:32} {:>12.0}", "rows/s queryable in Parquet", number("queryable_rows_per_s"));
    println!("{:32} {per_core:>12.0} {:>8.2}x", "  per core, of the goal", per_core / GOAL);
    println!("{:32} {:>12.1}", "bytes a row from the node", number("wire_bytes_per_row"));
    println!("{:32} {:>12.1}", "bytes a row in segments", number("segment_bytes_per_row"));
    for (name, best) in report["query_ms"].as_object().into_iter().flatten() {
        println!("{:32} {:>12.1}", format!("ms {name}"), best.as_f64().unwrap_or_default());
    }
}

async fn run() -> Value {
    let rows = std::env::var("WEIR_BENCH_ROWS").ok().and_then(|rows| rows.parse().ok());
    let rows: u64 = rows.unwrap_or(2_000_000);
    let dir = tempfile::tempdir().unwrap();
    let mut config = Config::new(dir.path());
    config.retention_age = None;
    config.min_free_bytes = 0;
    let (store, _) = Store::open(
        config,
        &prometheus::Registry::new(),
        stage::Registry::new(),
        stage::StopToken::new(),
    )
    .unwrap();
    let batches = batches(rows);
    let encoded: usize = batches.iter().flat_map(|b| &b.parts).map(|(_, bytes)| bytes.len()).sum();

    let (started, busy) = (Instant::now(), cpu());
    for pair in batches.chunks(4) {
        let appends = pair.iter().map(|batch| store.append(batch.clone()));
        for result in futures::future::join_all(appends).await {
            result.unwrap();
        }
    }
    let (acknowledged, acknowledged_cpu) = (started.elapsed(), cpu() - busy);
    store.flush().await.unwrap();
    let (wall, busy) = (started.elapsed().as_secs_f64(), cpu() - busy);
    let status = store.status();
    assert_eq!(status.flows, rows);

    let mut questions = serde_json::Map::new();
    for (name, sql) in QUESTIONS {
        let sql = sql.replace("$NEEDLE", &flow_id(rows / 2));
        let mut best = f64::MAX;
        for _ in 0..5 {
            let started = Instant::now();
            store.query(QueryRequest::new(sql.as_str())).await.unwrap().collect().await.unwrap();
            best = best.min(started.elapsed().as_secs_f64() * 1e3);
        }
        questions.insert((*name).to_owned(), json!((best * 10.0).round() / 10.0));
    }
    json!({
        "rows": rows,
        "columns": Table::Flows.columns().len(),
        "wire_bytes_per_row": encoded as f64 / rows as f64,
        "segment_bytes_per_row": status.segment_bytes as f64 / rows as f64,
        "segments": status.segments,
        "acknowledged_rows_per_s": rows as f64 / acknowledged.as_secs_f64(),
        "acknowledged_cpu_ns_per_row": acknowledged_cpu * 1e9 / rows as f64,
        "queryable_rows_per_s": rows as f64 / wall,
        "queryable_rows_per_cpu_s": rows as f64 / busy,
        "goal_rows_per_cpu_s": GOAL,
        "query_ms": questions,
    })
}

fn batches(rows: u64) -> Vec<Batch> {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut batches = Vec::new();
    let mut builder = BatchBuilder::new(Table::Flows);
    for row in 0..rows {
        push(&mut builder, &mut random, row, rows);
        if builder.len() as u64 == BATCH || row + 1 == rows {
            let bytes = encode(&builder.finish(), Compression::Zstd).unwrap();
            batches.push(Batch {
                node: "node".into(),
                boot_id: "boot".into(),
                sequence: batches.len() as u64,
                parts: vec![(Table::Flows, bytes.into())],
            });
        }
    }
    batches
}

fn flow_id(row: u64) -> String {
    let high = row.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let low = high.rotate_left(31).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    format!("{high:016x}{low:016x}")
}

/// An hour of a cluster of 200 workloads with 10 pods each; few edges carry most.
fn push(builder: &mut BatchBuilder, random: &mut Random, row: u64, rows: u64) {
    let time = BASE + (3_600_000_000_000_f64 * row as f64 / rows as f64) as i64;
    let source = random.skewed(200);
    let destination = (source * 7 + random.skewed(12)) % 200;
    let (pod, peer) = (random.below(10), random.below(10));
    let dropped = random.below(50) == 0;
    let labels = [format!("app=workload-{source}"), "k8s:io.kubernetes.pod.namespace=ns".into()];
    let peers = [format!("app=workload-{destination}"), "tier=backend".into()];
    let packets = 2 + random.skewed(1000);
    FlowRow {
        flow_id: &flow_id(row),
        seq: 0,
        start_time: time,
        end_time: time + random.below(10_000_000_000) as i64,
        cluster: "default",
        node: "node",
        interface: &format!("lxc{}", source * 10 + pod),
        reporter: "SOURCE",
        direction: "EGRESS",
        ip_version: 4,
        protocol: if random.below(8) == 0 { "UDP" } else { "TCP" },
        source_ip: &format!("10.1.{source}.{pod}"),
        source_port: Some(32_768 + random.below(28_000) as u16),
        destination_ip: &format!("10.2.{destination}.{peer}"),
        destination_port: Some([80, 443, 53, 5432, 6379, 8080][random.below(6) as usize]),
        source: FlowEnd {
            identity: Some(1000 + source as u32),
            namespace: &format!("ns-{}", source % 20),
            pod: &format!("workload-{source}-{pod}"),
            workload: &format!("workload-{source}"),
            workload_kind: "Deployment",
            labels: &labels,
            node: "node",
            ..FlowEnd::default()
        },
        destination: FlowEnd {
            identity: Some(1000 + destination as u32),
            namespace: &format!("ns-{}", destination % 20),
            pod: &format!("workload-{destination}-{peer}"),
            workload: &format!("workload-{destination}"),
            workload_kind: "Deployment",
            labels: &peers,
            node: "peer",
            ..FlowEnd::default()
        },
        verdict: if dropped { "DROPPED" } else { "FORWARDED" },
        drop_reason: if dropped { "POLICY_DENIED" } else { "" },
        policy_kind: "NetworkPolicy",
        policy_namespace: "ns",
        policy_name: "default",
        policy_rule: Some(1),
        policy_revision: Some(7),
        packets_out: packets,
        bytes_out: packets * (60 + random.below(1400)),
        packets_in: packets,
        bytes_in: packets * (60 + random.below(1400)),
        tcp_flags: &["SYN", "ACK", "FIN"],
        tcp_state: "CLOSED",
        rtt_us: Some(100 + random.skewed(100_000)),
        connect_us: Some(100 + random.skewed(1000)),
        closed: true,
        ..FlowRow::default()
    }
    .push(builder);
}

fn cpu() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

// === impl Random ===

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    /// Below `n`, small numbers far more often.
    fn skewed(&mut self, n: u64) -> u64 {
        let fraction = (self.next() >> 11) as f64 / (1_u64 << 53) as f64;
        ((n as f64).powf(fraction) - 1.0) as u64
    }
}
