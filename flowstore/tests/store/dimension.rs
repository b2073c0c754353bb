//! Things as they were: one row each, however often they are announced.

use columns::Table;
use columns::rows::{BatchBuilder, EndpointRow, NodeRow};
use flowstore::Store;
use serde_json::json;

use crate::support::*;

async fn announce(store: &Store, rows: &[NodeRow<'_>]) {
    let mut builder = BatchBuilder::new(Table::Nodes);
    rows.iter().for_each(|row| row.push(&mut builder));
    store.append_local(vec![part(Table::Nodes, &builder.finish())]).await.unwrap();
}

async fn nodes(store: &Store) -> Vec<serde_json::Value> {
    let sql =
        "SELECT node, version, boot_id, valid_from, valid_to FROM nodes ORDER BY node, valid_from";
    rows(store, sql).await
}

#[tokio::test]
async fn one_row_per_thing_and_start() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path());
    config.compact_segments = 2;
    let (store, _) = open_with(config);
    let row = |node, from: i64, version| NodeRow {
        valid_from: BASE + from * SECOND,
        node,
        version,
        boot_id: "b",
        ..NodeRow::default()
    };
    announce(&store, &[row("a", 0, "1"), row("b", 0, "1")]).await;
    announce(&store, &[row("a", 0, "1"), row("b", 0, "1")]).await;
    // The end of `a` repeats no more than its key.
    let end = NodeRow { valid_to: Some(BASE + 5 * SECOND), boot_id: "", ..row("a", 0, "") };
    announce(&store, &[end, row("a", 5, "2")]).await;
    // A late announcement does not open it again.
    announce(&store, &[row("a", 0, "1")]).await;
    let expected = [
        json!({"node": "a", "version": "1", "boot_id": "b", "valid_from": "2026-03-01T00:00:00Z", "valid_to": "2026-03-01T00:00:05Z"}),
        json!({"node": "a", "version": "2", "boot_id": "b", "valid_from": "2026-03-01T00:00:05Z"}),
        json!({"node": "b", "version": "1", "boot_id": "b", "valid_from": "2026-03-01T00:00:00Z"}),
    ];
    assert_eq!(nodes(&store).await, expected);
    store.flush().await.unwrap();
    assert_eq!(nodes(&store).await, expected);
    announce(&store, &[row("a", 5, "2"), row("b", 0, "1")]).await;
    assert_eq!(nodes(&store).await, expected);
    store.flush().await.unwrap();
    assert_eq!(nodes(&store).await, expected);
    // Merging drops what is said twice.
    store.maintain().await.unwrap();
    assert_eq!(number(&store, "SELECT sum(rows) AS n FROM system.segments").await, 3);
    assert_eq!(nodes(&store).await, expected);
    drop(store);
    assert_eq!(nodes(&open(dir.path())).await, expected);
}

#[tokio::test]
async fn an_end_is_known_over_segments() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let row = NodeRow { valid_from: BASE, node: "a", version: "1", ..NodeRow::default() };
    announce(&store, &[row]).await;
    store.flush().await.unwrap();
    announce(&store, &[NodeRow { valid_to: Some(BASE + SECOND), ..row }]).await;
    let open = "SELECT count(*) AS n FROM nodes WHERE valid_to IS NULL";
    assert_eq!(number(&store, open).await, 0);
    store.flush().await.unwrap();
    assert_eq!(number(&store, open).await, 0);
    assert_eq!(number(&store, "SELECT count(*) AS n FROM nodes").await, 1);
}

#[tokio::test]
async fn endpoints_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut builder = BatchBuilder::new(Table::Endpoints);
    let (one, two) = (["192.0.2.1".to_owned()], ["192.0.2.2".to_owned()]);
    for _ in 0..2 {
        for ips in [&one, &two] {
            let row = EndpointRow {
                valid_from: BASE,
                kind: "name",
                node: "a",
                ips,
                ..EndpointRow::default()
            };
            row.push(&mut builder);
        }
        for pod in ["x", "y"] {
            let row = EndpointRow {
                valid_from: BASE,
                kind: "pod",
                node: "a",
                namespace: "n",
                pod,
                ips: &one,
                ..EndpointRow::default()
            };
            row.push(&mut builder);
        }
    }
    store.append_local(vec![part(Table::Endpoints, &builder.finish())]).await.unwrap();
    assert_eq!(number(&store, "SELECT count(*) AS n FROM endpoints").await, 4);
    let sql = "SELECT count(*) AS n FROM endpoints WHERE array_has(ips, '192.0.2.1') AND pod = 'x'";
    assert_eq!(number(&store, sql).await, 1);
}
