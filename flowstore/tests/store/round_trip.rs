//! What goes in comes out, wherever it rests.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use crate::support::*;

/// Questions whose answers must not depend on where rows rest.
const QUESTIONS: &[&str] = &[
    "SELECT * FROM flows ORDER BY flow_id",
    "SELECT source_pod, count(*) AS n, sum(bytes_out) AS b FROM flows GROUP BY source_pod ORDER BY source_pod",
    "SELECT source_workload, destination_workload, protocol, verdict, count(*) AS n FROM flows GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4",
    "SELECT flow_id FROM flows WHERE source_pod = 'web-3' AND destination_port = 443 ORDER BY 1",
    "SELECT flow_id FROM flows WHERE source_pod LIKE 'web-_' AND source_workload LIKE '%-2' ORDER BY 1",
    "SELECT flow_id FROM flows WHERE source_pod IN ('web-1', 'web-2', 'none') ORDER BY 1",
    "SELECT flow_id FROM flows WHERE destination_namespace IS NULL ORDER BY 1",
    "SELECT count(*) AS n FROM flows WHERE source_ip = '10.0.0.7'",
    "SELECT min(source_pod) AS a, max(source_pod) AS b, count(DISTINCT source_pod) AS c FROM flows",
    "SELECT upper(source_pod) || ':' || destination_port AS x, count(*) AS n FROM flows GROUP BY 1 ORDER BY 1",
    "SELECT coalesce(destination_workload, 'outside') AS d, count(*) AS n FROM flows GROUP BY 1 ORDER BY 1",
    "SELECT date_trunc('second', start_time) AS t, count(*) AS n FROM flows GROUP BY 1 ORDER BY 1",
    "SELECT flow_id FROM flows WHERE start_time >= '2026-03-01T00:00:00.5Z' AND start_time < '2026-03-01T00:00:00.6Z' ORDER BY 1",
    "SELECT flow_id FROM flows WHERE end_time > '2026-03-01T00:00:10.990Z' ORDER BY 1",
    "SELECT flow_id FROM flows WHERE array_has(source_labels, 'app=web-1') ORDER BY 1 LIMIT 20",
    "SELECT flow_id, rank() OVER (PARTITION BY source_pod ORDER BY bytes_out DESC) AS r FROM flows ORDER BY 1",
    "SELECT a.flow_id FROM flows a JOIN flows b ON a.source_pod = b.destination_workload OR (a.flow_id = b.flow_id AND a.source_pod = b.source_pod) ORDER BY 1",
    "SELECT a.source_pod, count(*) AS n FROM flows a JOIN flows b ON a.source_workload = b.source_pod GROUP BY 1 ORDER BY 1",
    "SELECT DISTINCT source_pod, verdict FROM flows ORDER BY 1, 2",
    "SELECT CASE WHEN verdict = 'DROPPED' THEN source_pod ELSE protocol END AS x, count(*) AS n FROM flows GROUP BY 1 ORDER BY 1",
    "SELECT approx_percentile_cont(rtt_us, 0.5) AS p FROM flows WHERE false",
    "SELECT * FROM flows ORDER BY start_time DESC, flow_id LIMIT 5",
    "SELECT time, source_workload, destination_port, bytes_out, flows FROM edges_1m ORDER BY 1, 2, 3, 4",
    "SELECT substr(source_pod, 1, 3) AS x, regexp_like(source_pod, '^web') AS y FROM flows GROUP BY 1, 2",
    "SELECT string_agg(p, ',' ORDER BY p) AS x FROM (SELECT DISTINCT source_pod AS p FROM flows)",
];

async fn answers(store: &flowstore::Store) -> Vec<Vec<Value>> {
    let mut all = Vec::new();
    for question in QUESTIONS {
        all.push(rows(store, question).await);
    }
    all
}

#[tokio::test]
async fn memory_and_segments_answer_alike() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for sequence in 0..10 {
        store.append(batch("b", sequence, sequence * 100..sequence * 100 + 100)).await.unwrap();
    }
    assert_whole(&store, 1000).await;
    let hot = answers(&store).await;
    assert_eq!(store.flush().await.unwrap(), 1000);
    assert_eq!(store.status().hot_rows, 0);
    let cold = answers(&store).await;
    for ((question, hot), cold) in QUESTIONS.iter().zip(&hot).zip(&cold) {
        assert_eq!(hot, cold, "{question}");
    }

    // Half and half, in two segments and three batches.
    let other = tempfile::tempdir().unwrap();
    let store = open(other.path());
    for sequence in 0..10 {
        store.append(batch("b", sequence, sequence * 100..sequence * 100 + 100)).await.unwrap();
        if sequence == 3 || sequence == 6 {
            store.flush().await.unwrap();
        }
    }
    let mixed = answers(&store).await;
    for ((question, hot), mixed) in QUESTIONS.iter().zip(&hot).zip(&mixed) {
        assert_eq!(hot, mixed, "{question}");
    }
}

#[tokio::test]
async fn every_column_survives() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    store.append(batch("b", 1, 0..20)).await.unwrap();
    store.flush().await.unwrap();
    let found = rows(&store, "SELECT * FROM flows ORDER BY flow_id").await;
    assert_eq!(found, to_json(&[flows("a", 0..20)]));
}

#[tokio::test]
async fn answers_can_keep_dictionaries() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    store.append(batch("b", 1, 0..20)).await.unwrap();
    for plain in [false, true] {
        let mut request = flowstore::QueryRequest::new("SELECT source_pod FROM flows");
        request.plain = plain;
        let stream = store.query(request).await.unwrap();
        let announced = stream.schema().clone();
        let (batches, stats) = stream.collect().await.unwrap();
        assert_eq!(batches[0].schema(), announced);
        let kind = announced.field(0).data_type().to_string();
        assert_eq!(kind.contains("Dictionary"), !plain, "{kind}");
        assert_eq!((stats.rows, stats.truncated), (20, false));
    }
}

#[tokio::test]
async fn a_needle_is_found_by_statistics_and_filters() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for sequence in 0..4 {
        store.append(batch("b", sequence, sequence * 500..sequence * 500 + 500)).await.unwrap();
        store.flush().await.unwrap();
    }
    let sql = format!("SELECT bytes_out FROM flows WHERE flow_id = '{:032x}'", 777);
    assert_eq!(rows(&store, &sql).await, [json!({"bytes_out": 777})]);
    let plan = rows(&store, &format!("EXPLAIN ANALYZE {sql}")).await;
    let plan = plan.iter().map(Value::to_string).collect::<String>();
    assert!(plan.contains("row_groups_pruned_bloom_filter"), "{plan}");
    let plan =
        rows(&store, "EXPLAIN SELECT * FROM flows WHERE start_time >= '2026-03-01T00:00:01.7Z'")
            .await;
    let plan = plan.iter().map(Value::to_string).collect::<String>();
    // Ends reach ten seconds further than starts, so no segment can be left out by these; by an
    // earlier bound they can.
    assert!(plan.contains("parquet"), "{plan}");
    let plan =
        rows(&store, "EXPLAIN SELECT * FROM flows WHERE end_time < '2026-03-01T00:00:00.4Z'");
    let plan = plan.await.iter().map(Value::to_string).collect::<String>();
    assert!(plan.matches(".parquet").count() <= 1, "{plan}");
}

/// While rows move from memory to segments, and segments into each other, every question sees each
/// row once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_are_seen_once_while_they_move() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path());
    config.compact_segments = 3;
    let (store, _) = open_with(config);
    let done = Arc::new(AtomicBool::new(false));
    let reader = {
        let (store, done) = (store.clone(), Arc::clone(&done));
        tokio::spawn(async move {
            let mut asked = 0;
            let mut last = 0;
            while !done.load(Ordering::Relaxed) {
                let sql = "SELECT count(*) AS n, count(DISTINCT flow_id) AS d, \
                           max(bytes_out) AS m FROM flows";
                let row = rows(&store, sql).await.remove(0);
                let n = row["n"].as_u64().unwrap();
                assert_eq!(row["d"], json!(n), "a row was seen twice");
                if n > 0 {
                    assert_eq!(row["m"], json!(n - 1), "a row was missing");
                }
                assert!(n >= last, "rows vanished: {n} after {last}");
                last = n;
                asked += 1;
            }
            asked
        })
    };
    for sequence in 0..60 {
        store.append(batch("b", sequence, sequence * 50..sequence * 50 + 50)).await.unwrap();
        if sequence % 3 == 2 {
            store.flush().await.unwrap();
        }
        if sequence % 9 == 8 {
            store.maintain().await.unwrap();
        }
    }
    done.store(true, Ordering::Relaxed);
    assert!(reader.await.unwrap() > 5);
    assert_whole(&store, 3000).await;
    assert!(store.status().segments < 20, "{:?}", store.status());
}
