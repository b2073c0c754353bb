//! Answers say what is missing.

use columns::Table;
use columns::rows::{BatchBuilder, CounterRow, LossRow, NodeRow};
use flowstore::{Batch, Covered, NodeLive, NodesView, QueryRequest, Store};
use model::Completeness;
use serde_json::json;

use crate::support::*;

/// Nodes `a` and `b`; counters of both for ten minutes; losses of `a` in the minutes 3 and 6.
async fn filled(store: &Store) {
    let mut nodes = BatchBuilder::new(Table::Nodes);
    for node in ["a", "b"] {
        NodeRow { valid_from: BASE - SECOND, node, boot_id: "x", ..NodeRow::default() }
            .push(&mut nodes);
    }
    let nodes = nodes.finish();
    let mut rows = Vec::new();
    for minute in 0..10 {
        for node in ["a", "b"] {
            rows.push(CounterRow {
                time: minute_at(minute),
                node,
                unattributed_bytes: 60,
                arp_bytes: 60,
                ..CounterRow::default()
            });
        }
    }
    let counters = counters(&rows);
    let losses = losses(&[
        LossRow {
            time: minute_at(3),
            node: "a",
            stage: "ring",
            cause: "full",
            events: 7,
            ..LossRow::default()
        },
        LossRow {
            time: minute_at(6),
            node: "a",
            stage: "spool",
            cause: "evicted",
            events: 1,
            flows: 40,
            bytes: 0,
            ..LossRow::default()
        },
        LossRow {
            time: minute_at(6),
            node: "b",
            stage: "tail",
            cause: "full",
            events: 9,
            flows: 9,
            ..LossRow::default()
        },
    ]);
    let parts = vec![
        part(Table::Nodes, &nodes),
        part(Table::Counters, &counters),
        part(Table::Losses, &losses),
        part(Table::Flows, &flows("a", 0..10)),
    ];
    let batch = Batch { node: "a".into(), boot_id: "x".into(), sequence: 1, parts };
    store.append(batch).await.unwrap();
}

fn minute_at(minute: i64) -> i64 {
    BASE + minute * 60 * SECOND
}

fn between(from: i64, until: i64) -> Covered {
    Covered { from: Some(minute_at(from)), until: Some(minute_at(until) + 59 * SECOND) }
}

async fn of_query(store: &Store, sql: &str) -> Completeness {
    store.query(QueryRequest::new(sql)).await.unwrap().completeness().clone()
}

#[tokio::test]
async fn losses_count_in_their_time_only() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    filled(&store).await;
    for place in ["memory", "segment"] {
        let clean = store.completeness(between(0, 2)).await.unwrap();
        assert!(clean.complete, "{place}: {clean:?}");
        assert_eq!((clean.nodes_expected, clean.nodes_reporting), (2, 2));
        // ARP and the like are not flows, and no loss.
        assert_eq!((clean.unattributed_bytes, clean.causes.len()), (360, 0));
        // News that was lost delays, it does not miscount.
        let news = store.completeness(between(3, 5)).await.unwrap();
        assert!(news.complete, "{place}: {news:?}");
        assert_eq!((news.lost_events, news.lost_flows, news.causes.len()), (7, 0, 1));
        let lost = store.completeness(between(4, 9)).await.unwrap();
        assert!(!lost.complete);
        assert_eq!(lost.lost_flows, 40, "what a tail lost is in the store: {lost:?}");
        let all = store.completeness(Covered::default()).await.unwrap();
        assert_eq!((all.lost_flows, all.unattributed_bytes), (40, 1200));
        store.flush().await.unwrap();
        // A second time out of what was remembered.
        assert_eq!(store.completeness(Covered::default()).await.unwrap(), all);
    }
}

#[tokio::test]
async fn bytes_of_full_tables_and_malformed_packets_count() {
    for (row, cause) in [
        (CounterRow { table_full_bytes: 5, ..CounterRow::default() }, "full"),
        (CounterRow { malformed_bytes: 5, ..CounterRow::default() }, "malformed"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        filled(&store).await;
        let row = CounterRow { time: minute_at(1), node: "a", unattributed_bytes: 5, ..row };
        store.append_local(vec![part(Table::Counters, &counters(&[row]))]).await.unwrap();
        // The node says the same in its own words: one loss, seen twice.
        let said = LossRow {
            time: minute_at(1),
            node: "a",
            stage: "table",
            cause,
            bytes: 5,
            ..LossRow::default()
        };
        store.append_local(vec![part(Table::Losses, &losses(&[said]))]).await.unwrap();
        let result = store.completeness(between(0, 2)).await.unwrap();
        assert!(!result.complete);
        assert_eq!(result.causes.len(), 1, "{result:?}");
        let found = &result.causes[0];
        assert_eq!((found.stage.as_str(), found.cause.as_str(), found.bytes), ("table", cause, 5));
    }
}

#[tokio::test]
async fn a_silent_node_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    filled(&store).await;
    let nodes = |b: NodeLive| NodesView {
        expected: vec!["a".into(), "b".into(), "c".into()],
        nodes: vec![
            NodeLive { name: "a".into(), last_time: Some(i64::MAX), connected: true, lag_ms: 5 },
            b,
        ],
    };
    store.set_nodes(nodes(NodeLive::default()));
    let history = store.completeness(between(0, 2)).await.unwrap();
    assert_eq!((history.nodes_expected, history.nodes_reporting), (3, 2), "c never reported");
    assert!(!history.complete);
    // A range that ends now needs nodes that are there now.
    let mut view = nodes(NodeLive {
        name: "b".into(),
        last_time: Some(minute_at(9)),
        connected: false,
        lag_ms: 0,
    });
    view.expected.pop();
    store.set_nodes(view.clone());
    let now = store.completeness(Covered { from: Some(minute_at(0)), until: None }).await.unwrap();
    assert_eq!((now.nodes_expected, now.nodes_reporting, now.complete), (2, 1, false));
    let then = store.completeness(between(0, 2)).await.unwrap();
    assert_eq!((then.nodes_reporting, then.complete, then.late_ms), (2, true, 0));
    view.nodes[1].connected = true;
    view.nodes[1].lag_ms = 900;
    store.set_nodes(view);
    let late = store.completeness(Covered { from: Some(minute_at(7)), until: None }).await.unwrap();
    assert_eq!((late.nodes_reporting, late.late_ms, late.complete), (2, 900, true));
}

#[tokio::test]
async fn queries_know_the_time_that_they_cover() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    filled(&store).await;
    let range = |c: &Completeness| {
        (c.from.map(|t| (t - BASE) / SECOND), c.until.map(|t| (t - BASE) / SECOND))
    };
    let c = of_query(&store, "SELECT count(*) FROM flows").await;
    assert_eq!((range(&c), c.complete, c.lost_flows), ((None, None), false, 40));
    let c = of_query(
        &store,
        "SELECT count(*) FROM flows WHERE start_time >= '2026-03-01T00:00:00Z' AND start_time < '2026-03-01T00:02:00Z'",
    )
    .await;
    assert_eq!((range(&c), c.complete), ((Some(0), Some(120)), true), "{c:?}");
    let c = of_query(
        &store,
        "SELECT * FROM (SELECT source_pod, end_time FROM flows) WHERE end_time BETWEEN timestamp '2026-03-01 00:05:00' AND timestamp '2026-03-01 00:07:00' ORDER BY 1 LIMIT 1",
    )
    .await;
    assert_eq!((range(&c), c.complete), ((Some(300), Some(420)), false), "{c:?}");
    let c = of_query(
        &store,
        "WITH recent AS (SELECT * FROM flows WHERE start_time > now() - interval '1 hour') SELECT source_pod FROM recent JOIN nodes ON recent.node = nodes.node",
    )
    .await;
    let hour = 3600 * SECOND;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos()
        as i64;
    assert!(c.from.is_some_and(|from| (now - hour - from).abs() < 60 * SECOND), "{c:?}");
    assert_eq!(c.until, None);
    // Two tables: both ranges and what is between.
    let c = of_query(
        &store,
        "SELECT 1 FROM flows WHERE start_time < '2026-03-01T00:01:00Z' AND start_time >= '2026-03-01T00:00:00Z' UNION ALL SELECT 1 FROM drops WHERE time >= '2026-03-01T00:08:00Z' AND time <= '2026-03-01T00:09:00Z'",
    )
    .await;
    assert_eq!(range(&c), (Some(0), Some(540)));
    // In a subquery of an expression.
    let c = of_query(
        &store,
        "SELECT (SELECT count(*) FROM flows WHERE start_time >= '2026-03-01T00:08:00Z')",
    )
    .await;
    assert_eq!(range(&c), (Some(480), None));
    let c = of_query(&store, "SELECT 1").await;
    assert_eq!((range(&c), c.complete, c.nodes_expected), ((None, None), true, 0));
}

#[tokio::test]
async fn completeness_is_a_table_too() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    filled(&store).await;
    let sql = "SELECT nodes_expected, lost_flows, unattributed_bytes, complete, causes FROM \
               weir.public.completeness('flows', timestamp '2026-03-01 00:06:00', '2026-03-01T00:06:30Z')";
    let found = rows(&store, sql).await;
    assert_eq!(found[0]["lost_flows"], json!(40));
    assert_eq!(
        (&found[0]["unattributed_bytes"], &found[0]["complete"]),
        (&json!(120), &json!(false))
    );
    assert_eq!(
        found[0]["causes"][0],
        json!({"stage": "spool", "cause": "evicted", "node": "a", "events": 1, "flows": 40, "bytes": 0})
    );
    for args in [
        "'flows'",
        "'flows', NULL, NULL",
        "'flows', now() - interval '1 hour', now()",
        "'flows', '2026-03-01'",
    ] {
        let sql = format!("SELECT complete FROM completeness({args})");
        assert_eq!(rows(&store, &sql).await.len(), 1, "{args}");
    }
    for args in ["", "'x'", "'flows', 'yesterday'", "'flows', start_time"] {
        let sql = format!("SELECT complete FROM completeness({args})");
        let error = failure(&store, QueryRequest::new(&sql)).await;
        assert!(["bad_sql", "failed"].contains(&error.code()), "{args}: {error:?}");
    }
}

#[tokio::test]
async fn what_retention_took_is_told_to_who_asks_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path());
    config.retention_bytes = Some(1);
    let (store, _) = open_with(config);
    filled(&store).await;
    store.flush().await.unwrap();
    store.maintain().await.unwrap();
    assert_eq!(count(&store).await, 0);
    let asked = store.completeness(between(0, 2)).await.unwrap();
    assert!(!asked.complete);
    assert!(asked.causes.iter().any(|cause| cause.cause == "retention" && cause.flows == 10));
    let later = store.completeness(between(8, 9)).await.unwrap();
    assert!(!later.causes.iter().any(|cause| cause.cause == "retention"), "{later:?}");
}
