//! Stores, rows and questions for tests.

use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use arrow::array::RecordBatch;
use columns::Table;
use columns::ipc::{Compression, encode};
use columns::rows::{BatchBuilder, CounterRow, FlowEnd, FlowRow, LossRow};
use flowstore::{Batch, Config, QueryError, QueryRequest, RecoveryReport, Store};
use serde_json::Value;

/// 2026-03-01T00:00:00Z.
pub(crate) const BASE: i64 = 1_772_323_200_000_000_000;
pub(crate) const SECOND: i64 = 1_000_000_000;

/// Maintenance does nothing by itself within a test, unless the test says so.
pub(crate) fn config(dir: &Path) -> Config {
    let mut config = Config::new(dir);
    config.hot_age = Duration::from_secs(3600);
    config.retention_age = None;
    config.min_free_bytes = 1 << 20;
    config.maintenance_interval = Duration::from_secs(3600);
    config.query.timeout = Duration::from_secs(120);
    config
}

pub(crate) fn open_with(config: Config) -> (Store, RecoveryReport) {
    let metrics = prometheus::Registry::new();
    Store::open(config, &metrics, stage::Registry::new(), stage::StopToken::new()).unwrap()
}

pub(crate) fn open(dir: &Path) -> Store {
    open_with(config(dir)).0
}

/// Flow number `id`: one millisecond after the one before, with `id` as its bytes.
pub(crate) fn flows(node: &str, ids: Range<u64>) -> RecordBatch {
    let mut builder = BatchBuilder::new(Table::Flows);
    for id in ids {
        let time = BASE + id as i64 * 1_000_000;
        push_flow(&mut builder, node, id, time);
    }
    builder.finish()
}

pub(crate) fn push_flow(builder: &mut BatchBuilder, node: &str, id: u64, time: i64) {
    let labels = [format!("app=web-{}", id % 3), "k8s:io.kubernetes.pod.namespace=shop".into()];
    let pod = format!("web-{}", id % 7);
    let workload = format!("web-{}", id % 3);
    FlowRow {
        flow_id: &format!("{id:032x}"),
        seq: id as u32,
        start_time: time,
        end_time: time + 10 * SECOND,
        node,
        interface: "eth0",
        direction: "EGRESS",
        protocol: if id.is_multiple_of(5) { "UDP" } else { "TCP" },
        source_ip: &format!("10.0.{}.{}", id / 250 % 250, id % 250),
        source_port: Some(40_000 + (id % 20_000) as u16),
        destination_ip: "192.0.2.1",
        destination_port: Some([80, 443, 53][id as usize % 3]),
        source: FlowEnd {
            namespace: "shop",
            pod: &pod,
            workload: &workload,
            labels: &labels,
            ..FlowEnd::default()
        },
        destination: FlowEnd {
            // Every fourth is outside of the cluster.
            namespace: if id.is_multiple_of(4) { "" } else { "data" },
            workload: if id.is_multiple_of(4) { "" } else { "db" },
            ..FlowEnd::default()
        },
        verdict: if id.is_multiple_of(10) { "DROPPED" } else { "FORWARDED" },
        bytes_out: id,
        packets_out: 1,
        tcp_flags: &["SYN", "ACK"],
        rtt_us: (!id.is_multiple_of(2)).then_some(id),
        ..FlowRow::default()
    }
    .push(builder);
}

pub(crate) fn part(table: Table, rows: &RecordBatch) -> (Table, bytes::Bytes) {
    (table, encode(rows, Compression::Zstd).unwrap().into())
}

/// Batch `sequence` of boot `boot` of node `a`.
pub(crate) fn batch(boot: &str, sequence: u64, ids: Range<u64>) -> Batch {
    batch_of("a", boot, sequence, ids)
}

pub(crate) fn batch_of(node: &str, boot: &str, sequence: u64, ids: Range<u64>) -> Batch {
    let parts = vec![part(Table::Flows, &flows(node, ids))];
    Batch { node: node.into(), boot_id: boot.into(), sequence, parts }
}

pub(crate) fn losses(rows: &[LossRow<'_>]) -> RecordBatch {
    let mut builder = BatchBuilder::new(Table::Losses);
    rows.iter().for_each(|row| row.push(&mut builder));
    builder.finish()
}

pub(crate) fn counters(rows: &[CounterRow<'_>]) -> RecordBatch {
    let mut builder = BatchBuilder::new(Table::Counters);
    rows.iter().for_each(|row| row.push(&mut builder));
    builder.finish()
}

/// The rows of an answer, each as a JSON object.
pub(crate) async fn rows(store: &Store, sql: &str) -> Vec<Value> {
    let stream = store.query(QueryRequest::new(sql)).await.unwrap_or_else(|e| panic!("{e}: {sql}"));
    let (batches, _) = stream.collect().await.unwrap_or_else(|e| panic!("{e}: {sql}"));
    to_json(&batches)
}

pub(crate) fn to_json(batches: &[RecordBatch]) -> Vec<Value> {
    let mut writer = arrow::json::ArrayWriter::new(Vec::new());
    writer.write_batches(&batches.iter().collect::<Vec<_>>()).unwrap();
    writer.finish().unwrap();
    let bytes = writer.into_inner();
    if bytes.is_empty() { Vec::new() } else { serde_json::from_slice(&bytes).unwrap() }
}

/// The single number that a query answers with.
pub(crate) async fn number(store: &Store, sql: &str) -> u64 {
    let rows = rows(store, sql).await;
    assert_eq!(rows.len(), 1, "{sql}");
    let (_, value) = rows[0].as_object().unwrap().iter().next().unwrap();
    value.as_u64().unwrap_or_else(|| panic!("{sql}: {value}"))
}

pub(crate) async fn count(store: &Store) -> u64 {
    number(store, "SELECT count(*) AS n FROM flows").await
}

/// How a query fails.
pub(crate) async fn failure(store: &Store, request: QueryRequest) -> QueryError {
    let sql: String = request.sql.chars().take(200).collect();
    let result = match store.query(request).await {
        Ok(stream) => stream.collect().await.map(|(batches, _)| batches),
        Err(error) => Err(error),
    };
    match result {
        Err(flowstore::Error::Query(error)) => error,
        other => panic!("{sql}: {other:?}"),
    }
}

/// Every flow from 0 to `n` is there once.
pub(crate) async fn assert_whole(store: &Store, n: u64) {
    let sql = "SELECT count(*) AS n, count(DISTINCT flow_id) AS d, \
               coalesce(sum(bytes_out), 0) AS s FROM flows";
    let found = rows(store, sql).await.remove(0);
    let sum = (0..n).sum::<u64>();
    assert_eq!(found, serde_json::json!({ "n": n, "d": n, "s": sum }));
}
