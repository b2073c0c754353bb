//! What happens to rows by themselves.

use std::time::Duration;

use columns::Table;
use columns::rows::BatchBuilder;
use flowstore::{Batch, QueryRequest};
use futures::StreamExt;

use crate::support::*;

#[tokio::test]
async fn small_segments_are_merged() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path());
    config.compact_segments = 4;
    let (store, _) = open_with(config);
    for sequence in 0..8 {
        store.append(batch("b", sequence, sequence * 100..sequence * 100 + 100)).await.unwrap();
        store.flush().await.unwrap();
    }
    // A reader of before is not disturbed.
    let mut stream = store.query(QueryRequest::new("SELECT * FROM flows")).await.unwrap();
    let first = stream.next().await.unwrap().unwrap().num_rows();
    let files = store.segment_files(Table::Flows);
    store.maintain().await.unwrap();
    assert_eq!(store.status().segments, 1);
    let (rest, _) = stream.collect().await.unwrap();
    assert_eq!(first + rest.iter().map(arrow::array::RecordBatch::num_rows).sum::<usize>(), 800);
    assert_whole(&store, 800).await;
    // The files go with their last reader.
    for _ in 0..1000 {
        if files.iter().all(|file| !file.exists()) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(files.iter().all(|file| !file.exists()));
    drop(store);
    let (store, report) = open_with(self::config(dir.path()));
    assert!(report.is_clean() && report.orphans.is_empty(), "{report:?}");
    assert_whole(&store, 800).await;
}

#[tokio::test]
async fn small_batches_in_memory_are_merged() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for sequence in 0..100 {
        store.append(batch("b", sequence, sequence * 10..sequence * 10 + 10)).await.unwrap();
    }
    let before = rows(&store, "SELECT * FROM flows ORDER BY flow_id").await;
    store.maintain().await.unwrap();
    let plan = rows(&store, "EXPLAIN SELECT * FROM flows").await;
    let plan: String = plan.iter().map(serde_json::Value::to_string).collect();
    assert!(plan.contains("partition_sizes=[1]"), "{plan}");
    assert_eq!(rows(&store, "SELECT * FROM flows ORDER BY flow_id").await, before);
    assert_eq!(store.status().hot_rows, 1000);
    store.flush().await.unwrap();
    assert_whole(&store, 1000).await;
}

#[tokio::test]
async fn rows_leave_memory_by_number_and_by_age() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path());
    config.hot_rows = 500;
    config.maintenance_interval = Duration::from_millis(5);
    let (store, _) = open_with(config.clone());
    for sequence in 0..10 {
        store.append(batch("b", sequence, sequence * 100..sequence * 100 + 100)).await.unwrap();
    }
    for _ in 0..2000 {
        if store.status().hot_rows < 500 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(store.status().hot_rows < 500);
    assert_whole(&store, 1000).await;
    drop(store);
    config.hot_age = Duration::from_millis(20);
    let (store, _) = open_with(config);
    store.append(batch("b", 10, 1000..1100)).await.unwrap();
    for _ in 0..2000 {
        if store.status().hot_rows == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(store.status().hot_rows, 0);
    assert_whole(&store, 1100).await;
    let logs = std::fs::read_dir(dir.path().join("wal")).unwrap().count();
    assert_eq!(logs, 0, "the log is freed");
}

async fn append_at(store: &flowstore::Store, sequence: u64, id: u64, time: i64) {
    let mut builder = BatchBuilder::new(Table::Flows);
    push_flow(&mut builder, "a", id, time);
    let parts = vec![part(Table::Flows, &builder.finish())];
    let batch = Batch { node: "a".into(), boot_id: "b".into(), sequence, parts };
    store.append(batch).await.unwrap();
}

#[tokio::test]
async fn old_segments_are_removed() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path());
    config.retention_age = Some(Duration::from_secs(3600));
    let (store, _) = open_with(config);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos()
        as i64;
    append_at(&store, 0, 0, now - 7200 * SECOND).await;
    store.flush().await.unwrap();
    append_at(&store, 1, 1, now).await;
    store.flush().await.unwrap();
    store.maintain().await.unwrap();
    let left = rows(&store, "SELECT bytes_out FROM flows").await;
    assert_eq!(left, [serde_json::json!({"bytes_out": 1})]);
    let sql = "SELECT value FROM system.metrics \
               WHERE name = 'weir_store_retention_rows_total' AND labels = 'table=flows'";
    assert_eq!(rows(&store, sql).await, [serde_json::json!({"value": 1.0})]);
    assert_eq!(store.segment_files(Table::Flows).len(), 1);
    assert_eq!(std::fs::read_dir(dir.path().join("segments")).unwrap().count(), 1);
}

#[tokio::test]
async fn the_oldest_segments_make_room() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for sequence in 0..4 {
        // Later rows first: what counts is the time of the rows.
        append_at(&store, sequence, sequence, BASE - sequence as i64 * 100 * SECOND).await;
        store.flush().await.unwrap();
    }
    let bytes = store.status().segment_bytes;
    drop(store);
    let mut config = config(dir.path());
    config.retention_bytes = Some(bytes / 2 + 200);
    let (store, _) = open_with(config);
    store.maintain().await.unwrap();
    let left = rows(&store, "SELECT bytes_out FROM flows ORDER BY 1").await;
    assert_eq!(left, [serde_json::json!({"bytes_out": 0}), serde_json::json!({"bytes_out": 1})]);
}

#[tokio::test]
async fn memory_is_bounded_by_waiting() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path());
    config.hot_bytes = 200_000;
    let (store, _) = open_with(config);
    // Fifty times what may wait; nobody else makes room than the store itself.
    for sequence in 0..100 {
        store.append(batch("b", sequence, sequence * 200..sequence * 200 + 200)).await.unwrap();
        assert!(store.status().hot_bytes < 1_200_000, "{:?}", store.status());
    }
    assert_whole(&store, 20_000).await;
}
