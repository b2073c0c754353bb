//! What SQL finds: functions, system tables, parameters, hints.

use flowstore::{Param, QueryError, QueryRequest};
use serde_json::json;

use crate::support::*;

async fn filled() -> (tempfile::TempDir, flowstore::Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    store.append(batch("b", 0, 0..50)).await.unwrap();
    store.flush().await.unwrap();
    store.append(batch("b", 1, 50..100)).await.unwrap();
    (dir, store)
}

#[tokio::test]
async fn functions_of_weir() {
    let (_dir, store) = filled().await;
    for (expression, value) in [
        ("ip('010.0.0.1')", json!(null)),
        ("ip(' 10.0.0.1 ')", json!("10.0.0.1")),
        ("ip('2001:DB8:0::0:1')", json!("2001:db8::1")),
        ("ip('::ffff:10.0.0.1')", json!("10.0.0.1")),
        ("ip(NULL)", json!(null)),
        ("cidr_contains('10.0.0.0/8', '10.9.9.9')", json!(true)),
        ("cidr_contains('10.0.0.0/8', '192.0.2.1')", json!(false)),
        ("cidr_contains('nonsense', '192.0.2.1')", json!(null)),
        ("cidr_contains('fd00::/8', 'fd00::1')", json!(true)),
        ("namespace_of('app=x', 'k8s:io.kubernetes.pod.namespace=shop')", json!("shop")),
        ("namespace_of(['app=x', 'namespace=data'])", json!("data")),
        ("namespace_of('app=x')", json!(null)),
        ("rate(600, interval '1 minute')", json!(10.0)),
        ("rate(600, 60)", json!(10.0)),
        ("rate(600, interval '0 seconds')", json!(null)),
        ("rate(10, timestamp '2026-01-01 00:00:05' - timestamp '2026-01-01 00:00:00')", json!(2.0)),
    ] {
        let found = rows(&store, &format!("SELECT {expression} AS x")).await.remove(0);
        let found = found.get("x").cloned().unwrap_or_default();
        assert_eq!(found, value, "{expression}");
    }
    let sql = "SELECT count(*) AS n FROM flows WHERE cidr_contains('10.0.0.0/28', source_ip)";
    assert_eq!(number(&store, sql).await, 16);
    let sql =
        "SELECT DISTINCT namespace_of(source_labels) AS n, ip(destination_ip) AS i FROM flows";
    assert_eq!(rows(&store, sql).await, [json!({"n": "shop", "i": "192.0.2.1"})]);
    let sql = "SELECT sum(rate(bytes_out, end_time - start_time)) AS r FROM flows";
    assert_eq!(rows(&store, sql).await, [json!({"r": 495.0})]);
}

#[tokio::test]
async fn the_catalogue_is_listed() {
    let (_dir, store) = filled().await;
    let tables = rows(&store, "SHOW TABLES").await;
    let named = |schema: &str, name: &str| {
        tables.iter().any(|row| row["table_schema"] == schema && row["table_name"] == name)
    };
    for name in ["flows", "drops", "losses", "counters", "nodes", "l7", "policies", "edges_1m"] {
        assert!(named("public", name), "{name}");
    }
    for name in ["segments", "queries", "streams", "metrics"] {
        assert!(named("system", name), "{name}");
    }
    assert!(tables.iter().all(|row| row["table_catalog"] == "weir"));
    let columns = rows(&store, "SHOW COLUMNS FROM flows").await;
    assert_eq!(columns.len(), columns::Table::Flows.columns().len());
    assert!(!rows(&store, "DESCRIBE flows").await.is_empty());
    assert_eq!(number(&store, "SELECT count(*) AS n FROM weir.public.flows").await, 100);
    let sql = "SELECT count(*) AS n FROM information_schema.columns WHERE table_name = 'flows'";
    assert_eq!(number(&store, sql).await, columns::Table::Flows.columns().len() as u64);
}

/// No column's name is a word that means something else where a user would write it.
#[tokio::test]
async fn every_column_can_be_named_anywhere() {
    let (_dir, store) = filled().await;
    let sql = "SELECT table_schema, table_name, column_name FROM information_schema.columns \
               WHERE table_schema IN ('public', 'system')";
    let columns = rows(&store, sql).await;
    assert!(columns.len() > 100);
    for column in &columns {
        let [schema, table, name] =
            ["table_schema", "table_name", "column_name"].map(|key| column[key].as_str().unwrap());
        let sql = format!(
            "SELECT 1, {name}, t.{name} AS x FROM {schema}.{table} AS t \
             WHERE {name} IS NOT NULL ORDER BY {name} LIMIT 1"
        );
        rows(&store, &sql).await;
        let sql =
            format!("SELECT 1, {name}, count(*) FROM {schema}.{table} GROUP BY 1, {name} LIMIT 1");
        rows(&store, &sql).await;
    }
    let sql = "SELECT node, cluster FROM flows LIMIT 1";
    assert_eq!(rows(&store, sql).await.remove(0)["node"], "a");
}

#[tokio::test]
async fn the_store_tells_about_itself() {
    let (_dir, store) = filled().await;
    let sql = "SELECT \"table\", rows, min_time FROM system.segments";
    let found = rows(&store, sql).await;
    assert_eq!(found, [json!({"table": "flows", "rows": 50, "min_time": "2026-03-01T00:00:00Z"})]);
    let _ = failure(&store, QueryRequest::new("SELECT nothing")).await;
    let sql = "SELECT outcome, sql, rows FROM system.queries ORDER BY id";
    let found = rows(&store, sql).await;
    assert_eq!(found[0]["outcome"], "ok");
    assert_eq!(
        (&found[1]["outcome"], &found[1]["sql"]),
        (&json!("bad_sql"), &json!("SELECT nothing"))
    );
    assert_eq!(found[2]["outcome"], "running");
    let sql = "SELECT value FROM system.metrics \
               WHERE name = 'weir_store_appended_rows_total' AND labels = 'table=flows'";
    assert_eq!(rows(&store, sql).await, [json!({"value": 100.0})]);
    let sql = "SELECT taken, handed FROM system.streams WHERE name = 'store_log'";
    // Two batches and the flush's own request.
    assert_eq!(rows(&store, sql).await, [json!({"taken": 3, "handed": 3})]);
}

#[tokio::test]
async fn metrics_are_rendered() {
    let dir = tempfile::tempdir().unwrap();
    let metrics = prometheus::Registry::new();
    let (store, _) = flowstore::Store::open(
        config(dir.path()),
        &metrics,
        stage::Registry::new(),
        stage::StopToken::new(),
    )
    .unwrap();
    store.append(batch("b", 0, 0..50)).await.unwrap();
    store.append(batch("b", 0, 0..50)).await.unwrap();
    assert_eq!(count(&store).await, 50);
    let _ = failure(&store, QueryRequest::new("SELECT x")).await;
    let render = || prometheus::TextEncoder::new().encode_to_string(&metrics.gather()).unwrap();
    let text = render();
    for line in [
        r#"weir_store_appended_rows_total{table="flows"} 50"#,
        "weir_store_duplicates_total 1",
        "weir_store_wal_sync_seconds_count 1",
        "weir_store_hot_rows 50",
        r#"weir_store_segments{table="flows"} 0"#,
        r#"weir_store_queries_total{outcome="ok"} 1"#,
        r#"weir_store_queries_total{outcome="bad_sql"} 1"#,
        r#"weir_store_query_seconds_count{outcome="ok"} 1"#,
        "weir_store_ingest_stopped 0",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
    store.flush().await.unwrap();
    let text = render();
    assert!(text.contains("weir_store_hot_rows 0"), "{text}");
    assert!(text.contains(r#"weir_store_segments{table="flows"} 1"#), "{text}");
    assert!(!text.contains(r#"weir_store_segment_bytes{table="flows"} 0"#), "{text}");
}

#[tokio::test]
async fn parameters_take_their_places() {
    let (_dir, store) = filled().await;
    let sql = "SELECT count(*) AS n FROM flows WHERE source_pod = $1 AND bytes_out < $2 \
               AND start_time >= $3 AND verdict <> $4";
    for time in [Param::Text("2026-03-01T00:00:00Z".into()), Param::Time(BASE)] {
        let params = vec![
            Param::Text("web-1".into()),
            Param::Int(50),
            time,
            Param::Text("x' OR 1=1 --".into()),
        ];
        let stream = store.query(QueryRequest::new(sql).with_params(params)).await.unwrap();
        let (batches, _) = stream.collect().await.unwrap();
        assert_eq!(to_json(&batches), [json!({"n": 7})]);
    }
    let described = store.describe(sql).await.unwrap();
    assert_eq!(described.params.len(), 4);
    assert_eq!(described.schema.field(0).name(), "n");
    let described = store.describe("SELECT source_pod FROM flows").await.unwrap();
    assert_eq!(described.schema.field(0).data_type().to_string(), "Utf8");
    let missing = QueryRequest::new(sql).with_params(vec![Param::Int(1)]);
    failure(&store, missing).await;
}

#[tokio::test]
async fn mistakes_are_answered_with_hints() {
    let (_dir, store) = filled().await;
    for (sql, hint) in [
        ("SELECT sorce_pod FROM flows", "did you mean source_pod?"),
        ("SELECT bytes FROM flows", "did you mean bytes_in?"),
        ("SELECT * FROM flow", "did you mean flows?"),
        ("SELECT * FROM system.segment", "did you mean system.segments?"),
        (
            "SELECT cidr_contain('10.0.0.0/8', source_ip) FROM flows",
            "did you mean 'cidr_contains'?",
        ),
    ] {
        let error = failure(&store, QueryRequest::new(sql)).await;
        assert!(matches!(error, QueryError::Invalid { .. }), "{sql}: {error:?}");
        assert_eq!(error.hint().as_deref(), Some(hint), "{sql}: {error}");
    }
    let error = failure(&store, QueryRequest::new("SELECT FROM WHERE")).await;
    assert_eq!(error.code(), "bad_sql", "{error:?}");
}

#[tokio::test]
async fn answers_become_csv() {
    let (_dir, store) = filled().await;
    let sql = "SELECT source_pod, destination_port, destination_namespace, start_time FROM flows \
               ORDER BY flow_id LIMIT 2";
    let (batches, _) = store.query(QueryRequest::new(sql)).await.unwrap().collect().await.unwrap();
    let mut out = Vec::new();
    let mut writer = arrow::csv::Writer::new(&mut out);
    for batch in &batches {
        writer.write(batch).unwrap();
    }
    drop(writer);
    assert_eq!(
        String::from_utf8(out).unwrap(),
        "source_pod,destination_port,destination_namespace,start_time\n\
         web-0,80,,2026-03-01T00:00:00Z\n\
         web-1,443,data,2026-03-01T00:00:00.001Z\n"
    );
}

#[tokio::test]
async fn edges_are_added_up() {
    let (_dir, store) = filled().await;
    let sql = "SELECT sum(bytes_out) AS b, sum(flows) AS f FROM edges_1m";
    assert_eq!(rows(&store, sql).await, [json!({"b": 4950, "f": 100})]);
    let sql = "SELECT count(*) AS n FROM edges_1m \
               WHERE time >= '2026-03-01T00:00:00Z' AND source_workload = 'web-1'";
    assert!(number(&store, sql).await > 0);
    // The range is seen through the view.
    let stream = store.query(QueryRequest::new(sql)).await.unwrap();
    assert_eq!(stream.completeness().from, Some(BASE));
}
