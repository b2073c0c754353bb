//! The API over a real store, through a real connection.

#[path = "support/api.rs"]
mod support;

use serde_json::{Value, json};

use support::{Api, flow, loss};

#[tokio::test(flavor = "multi_thread")]
async fn flows_are_one_row_per_connection() {
    let api = Api::start().await;
    api.put_flows(&[
        flow(1, "SOURCE", "a", "veth0", 0),
        flow(1, "DESTINATION", "b", "veth9", 0),
        flow(1, "HOST", "a", "eth0", 0),
        flow(1, "SOURCE", "a", "veth0", 1),
        flow(2, "HOST", "a", "eth0", 0),
    ])
    .await;
    let answer = api.json("/api/v1/flows?since=1h").await;
    let rows = answer["flows"].as_array().unwrap();
    let who: Vec<(&str, &str)> = rows
        .iter()
        .map(|row| (row["flow_id"].as_str().unwrap(), row["reporter"].as_str().unwrap()))
        .collect();
    assert_eq!(rows.len(), 3, "{answer:#}");
    assert_eq!(who.iter().filter(|row| row.1 == "SOURCE").count(), 2);
    assert!(who.contains(&("0000000000000002", "HOST")));
    assert!(rows[0].get("drop_reason").is_none(), "unknown ones are left out");
    assert!(answer["completeness"]["complete"].is_boolean());
    assert!(rows[0].get("ranked").is_none() && rows[0].get("best").is_none());

    let all = api.json("/api/v1/flows?since=1h&reporter=all").await;
    assert_eq!(all["flows"].as_array().unwrap().len(), 5);
    let some = api.json("/api/v1/flows?since=1h&reporter=all&limit=2&order=oldest").await;
    assert_eq!(some["flows"].as_array().unwrap().len(), 2);
    let none = api.json("/api/v1/flows?since=1h&-source_namespace=shop").await;
    assert_eq!(none["flows"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drop_is_not_hidden_by_the_source() {
    let api = Api::start().await;
    let mut dropped = flow(7, "DESTINATION", "b", "veth9", 0);
    dropped.verdict = "DROPPED";
    dropped.drop_reason = "POLICY_DENIED";
    api.put_flows(&[flow(7, "SOURCE", "a", "veth0", 0), dropped]).await;
    let answer = api.json("/api/v1/flows?since=1h").await;
    assert_eq!(answer["flows"][0]["verdict"], "DROPPED");
    assert_eq!(answer["flows"].as_array().unwrap().len(), 1);
    let map = api.json("/api/v1/map?since=1h").await;
    assert_eq!(map["edges"][0]["dropped"], 1, "{map:#}");
    let one = api.json("/api/v1/flows/0000000000000007").await;
    assert_eq!(one["ends"].as_array().unwrap().len(), 2);
    assert!(one["reason"].as_str().unwrap().contains("POLICY_DENIED"), "{one:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_filter_runs_in_the_store() {
    let api = Api::start().await;
    api.put_flows(&[flow(1, "SOURCE", "a", "veth0", 0), flow(2, "HOST", "b", "eth0", 0)]).await;
    for (query, expected) in [
        ("namespace=shop", 2),
        ("source_pod=shop/web", 2),
        ("destination_pod=data/", 2),
        ("workload=redis", 2),
        ("workload=Deployment/web", 2),
        ("destination_workload=data/redis", 2),
        ("ip=10.0.0.0/8", 2),
        ("source_ip=10.0.0.1", 2),
        ("destination_ip=fd00::/8", 0),
        ("port=6379", 2),
        ("source_port=6379", 0),
        ("name=redis.*.local", 2),
        ("destination_name=redis.data.svc.cluster.local.", 2),
        ("label=app%3Dweb", 2),
        ("label=app%20in%20(web,api)", 2),
        ("label=app", 2),
        ("label=!app", 0),
        ("destination_label=app%3Dredis,!canary", 2),
        ("identity=1001", 2),
        ("service=data/redis", 2),
        ("service=red*", 2),
        ("protocol=tcp", 2),
        ("protocol=icmp", 0),
        ("ip_version=4", 2),
        ("direction=egress", 2),
        ("verdict=FORWARDED&verdict=DROPPED", 2),
        ("drop_reason=POLICY_DENIED", 0),
        ("tcp_flags=SYN,ACK", 2),
        ("node=a", 1),
        ("node=default/*", 2),
        ("interface=eth*", 1),
        ("process=ngin*", 2),
        ("process=*gin*", 2),
        ("cluster=default", 2),
        ("flow_id=0000000000000001", 1),
        ("reporter=HOST", 1),
        ("-reporter=HOST", 1),
        ("-node=a", 1),
        ("-drop_reason=POLICY_DENIED", 2),
        ("namespace=x%27%20OR%20%271%27%3D%271", 0),
        ("pod=shop/web%27%3B--", 0),
    ] {
        let answer = api.json(&format!("/api/v1/flows?since=1h&{query}")).await;
        assert_eq!(answer["flows"].as_array().unwrap().len(), expected, "{query}: {answer:#}");
        for path in ["map", "timeline"] {
            api.json(&format!("/api/v1/{path}?since=1h&{query}")).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sql_in_every_format() {
    let api = Api::start().await;
    api.put_flows(&[flow(1, "SOURCE", "a", "veth0", 0)]).await;
    let query =
        "SELECT flow_id, destination_port, bytes_out, drop_reason, source_labels FROM flows";
    let answer = api.post_sql(query, "application/json").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let body: Value = answer.parse();
    assert_eq!(
        body["rows"],
        json!([["0000000000000001", 6379, 1000, null, ["app=web", "tier=front"]]])
    );
    assert_eq!(body["schema"][1], json!({"name": "destination_port", "type": "UInt16"}));
    assert_eq!(body["stats"]["rows"], 1);
    assert_eq!(body["stats"]["truncated"], false);

    let lines = api.post_sql(query, "application/x-ndjson").await;
    assert!(lines.text().ends_with("}\n"), "{}", lines.text());
    let completeness: Value = serde_json::from_str(lines.header("weir-completeness")).unwrap();
    assert!(completeness["complete"].is_boolean());

    let csv = api.post_sql(query, "text/csv").await;
    assert_eq!(
        csv.text(),
        "flow_id,destination_port,bytes_out,drop_reason,source_labels\r\n\
         0000000000000001,6379,1000,,\"[\"\"app=web\"\",\"\"tier=front\"\"]\"\r\n"
    );

    let arrow = api.post_sql(query, "application/vnd.apache.arrow.stream").await;
    let reader = arrow::ipc::reader::StreamReader::try_new(&arrow.body[..], None).unwrap();
    let rows: usize = reader.map(|batch| batch.unwrap().num_rows()).sum();
    assert_eq!(rows, 1);

    let other = api.post_sql(query, "image/png").await;
    assert_eq!((other.status, other.code().as_str()), (406, "bad_accept"));
}

#[tokio::test(flavor = "multi_thread")]
async fn sql_with_parameters_and_limits() {
    let api = Api::start().await;
    let rows: Vec<_> = (0..50).map(|id| flow(id, "SOURCE", "a", "veth0", 0)).collect();
    api.put_flows(&rows).await;
    let body = json!({"query": "SELECT * FROM flows WHERE flow_id = $1 AND destination_port < $2", "params": ["0000000000000007", 7000]});
    let answer: Value = api.post("/api/v1/sql", "application/json", body.to_string()).await.parse();
    assert_eq!(answer["stats"]["rows"], 1, "{answer:#}");
    let body = json!({"query": "SELECT flow_id FROM flows", "limit": 10});
    let answer: Value = api.post("/api/v1/sql", "application/json", body.to_string()).await.parse();
    assert_eq!(
        (&answer["stats"]["rows"], &answer["stats"]["truncated"]),
        (&json!(10), &json!(true))
    );
    let body = json!({"query": "SELECT 1", "nonsense": 1});
    let answer = api.post("/api/v1/sql", "application/json", body.to_string()).await;
    assert_eq!((answer.status, answer.code().as_str()), (400, "bad_request"));
    let huge = "x".repeat(2 << 20);
    let answer = api.post("/api/v1/sql", "text/plain", huge).await;
    assert_eq!((answer.status, answer.code().as_str()), (413, "bad_body"));
    // Slower than its time.
    let body = json!({"query": "SELECT sum(a.bytes_out * b.bytes_in % (c.seq + d.seq + e.seq + f.seq + 7)) FROM flows a, flows b, flows c, flows d, flows e, flows f", "timeout_ms": 200});
    let answer = api.post("/api/v1/sql", "application/json", body.to_string()).await;
    assert_eq!((answer.status, answer.code().as_str()), (504, "timeout"), "{}", answer.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_are_json() {
    let api = Api::start().await;
    for (query, code) in [
        ("SELECT nonsense FROM flows", "bad_sql"),
        ("SELEKT", "bad_sql"),
        ("DROP TABLE flows", "not_allowed"),
        ("", "bad_sql"),
    ] {
        let answer = api.post_sql(query, "application/json").await;
        assert_eq!((answer.status, answer.code().as_str()), (400, code), "{query}");
    }
    for (path, status, code) in [
        ("/api/v1/nothing", 404, "not_found"),
        ("/api/v2", 404, "not_found"),
        ("/api", 404, "not_found"),
        ("/api/v1/sql", 405, "bad_method"),
        ("/api/v1/flows?nonsense=1", 400, "bad_filter"),
        ("/api/v1/flows?port=x", 400, "bad_filter"),
        ("/api/v1/flows?since=yesterday", 400, "bad_time"),
        ("/api/v1/flows?limit=0", 400, "bad_request"),
        ("/api/v1/flows?since=1m&until=2m", 400, "bad_request"),
        ("/api/v1/flows/xyz", 400, "bad_filter"),
        ("/api/v1/flows/00000000000000ff", 404, "not_found"),
        ("/api/v1/complete", 400, "bad_request"),
        ("/api/v1/map?by=colour", 400, "bad_request"),
    ] {
        let answer = api.get(path).await;
        assert_eq!((answer.status, answer.code().as_str()), (status, code), "{path}");
        assert_eq!(answer.header("content-type"), "application/json", "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_page_shows() {
    let api = Api::start().await;
    api.put_flows(&[flow(1, "SOURCE", "a", "veth0", 0), flow(1, "DESTINATION", "b", "veth9", 0)])
        .await;
    api.put_losses(&[loss("a", "ring", "full", 5), loss("b", "network", "gap", 2)]).await;

    let map = api.json("/api/v1/map?since=1h").await;
    assert_eq!(map["edges"].as_array().unwrap().len(), 1, "{map:#}");
    assert_eq!(map["edges"][0]["source"], "shop/web");
    assert_eq!(map["edges"][0]["target"], "data/redis");
    assert_eq!(map["edges"][0]["bytes"], 3000, "counted once");
    assert_eq!(map["edges"][0]["ports"], json!(["TCP/6379"]));
    assert_eq!(map["edges"][0]["rtt_us"], 250);
    let map = api.json("/api/v1/map?since=1h&by=namespace").await;
    assert_eq!(
        map["nodes"][0],
        json!({"id": "data", "namespace": "data", "name": "data", "kind": "workload"})
    );
    let map = api.json("/api/v1/map?since=1h&by=pod").await;
    assert_eq!(map["nodes"][1]["id"], "shop/web-7d");

    let timeline = api.json("/api/v1/timeline?since=10m&buckets=20").await;
    let buckets = timeline["buckets"].as_array().unwrap();
    assert_eq!(buckets.len(), 20);
    let sum =
        |name: &str| -> u64 { buckets.iter().map(|bucket| bucket[name].as_u64().unwrap()).sum() };
    assert_eq!((sum("forwarded"), sum("bytes"), sum("lost")), (1, 3000, 7));

    let losses = api.json("/api/v1/losses?since=1h").await;
    assert_eq!(losses["losses"].as_array().unwrap().len(), 2);
    let status = api.json("/api/v1/status").await;
    assert_eq!(status["nodes"], json!({"expected": 2, "reporting": 1}));
    assert_eq!(status["flows_stored"], 2);
    assert_eq!(status["storage"]["ingest"], "ok");
    assert_eq!(status["losses_1h"].as_array().unwrap().len(), 2);
    let nodes = api.json("/api/v1/nodes").await;
    assert_eq!(nodes["nodes"][0]["lost_events"], 5);
    assert_eq!(nodes["nodes"][1]["connected"], false);

    for (field, part, expected) in [
        ("namespace", "sh", json!(["shop"])),
        ("pod", "web", json!(["shop/web-7d"])),
        ("destination_workload", "", json!(["redis"])),
        ("label", "app=r", json!(["app=redis"])),
        ("name", "", json!(["redis.data.svc.cluster.local"])),
        ("port", "63", json!(["6379"])),
        ("service", "", json!(["data/redis"])),
        ("node", "", json!(["a", "b"])),
        ("verdict", "", json!(["FORWARDED"])),
        ("drop_reason", "", json!([])),
        ("process", "NG", json!(["nginx"])),
    ] {
        let answer = api.json(&format!("/api/v1/complete?field={field}&prefix={part}")).await;
        assert_eq!(answer["values"], expected, "{field}");
    }
    assert_eq!(api.json("/api/v1/services").await["services"], json!([]));
    assert_eq!(api.json("/api/v1/policies?at=5m").await["policies"], json!([]));
    assert!(api.get("/metrics").await.text().contains("weir_ui_requests_total"));
    assert_eq!(api.get("/healthz").await.text(), "ok\n");
    assert_eq!(api.get("/readyz").await.status, 200);
    assert_eq!(api.json("/api/v1/openapi.json").await["openapi"], "3.1.0");
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_and_guards() {
    let api = Api::start().await;
    let page = api.get("/map?since=5m").await;
    assert_eq!(page.status, 200);
    assert!(
        page.header("content-type").starts_with("text/html"),
        "{}",
        page.header("content-type")
    );
    assert!(page.header("content-security-policy").contains("script-src 'self'"));
    assert_eq!(api.get("/assets/nothing.js").await.status, 404);

    let rebound = api.get_with("/api/v1/status", &[("host", "evil.example:4280")]).await;
    assert_eq!((rebound.status, rebound.code().as_str()), (421, "bad_host"));
    let cross = api
        .get_with(
            "/api/v1/status",
            &[("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "no-cors")],
        )
        .await;
    assert_eq!((cross.status, cross.code().as_str()), (403, "cross_site"));
    let packed = api.get_with("/api/v1/openapi.json", &[("accept-encoding", "gzip")]).await;
    assert_eq!(packed.header("content-encoding"), "gzip");
}

#[tokio::test(flavor = "multi_thread")]
async fn kernel_drops_are_among_what_was_dropped() {
    let api = Api::start().await;
    let mut live = api.follow("verdict=DROPPED&source_namespace=shop", None).await;
    live.until("status").await;
    api.put_flows(&[flow(1, "SOURCE", "a", "veth0", 0)]).await;
    let drop = |flow_id, pod| columns::rows::DropRow {
        flow_id,
        source_pod: pod,
        source_namespace: "shop",
        source_workload: "web",
        ..support::drop()
    };
    api.put_drops(&[drop("0000000000000001", "web-7d"), drop("", "web-8e")]).await;
    let event = live.until("flow").await;
    assert_eq!(event.data["drop_reason"], "POLICY_DENIED");
    for (query, expected) in [
        ("", 1),
        ("verdict=DROPPED", 2),
        ("drop_reason=POLICY_DENIED&pod=shop/web-8e", 1),
        ("-verdict=DROPPED", 1),
        ("verdict=DROPPED&verdict=FORWARDED", 3),
    ] {
        let answer = api.json(&format!("/api/v1/flows?since=1h&{query}")).await;
        assert_eq!(answer["flows"].as_array().unwrap().len(), expected, "{query}: {answer:#}");
    }
    let map = api.json("/api/v1/map?since=1h").await;
    assert_eq!(map["edges"][0]["dropped"], 3, "those of the connection: {map:#}");
    assert_eq!(map["edges"][0]["bytes"], 3000);
    let map = api.json("/api/v1/map?since=1h&verdict=DROPPED").await;
    assert_eq!(map["edges"][0]["dropped"], 6, "all of them: {map:#}");
    assert_eq!(map["edges"][0]["bytes"], 360);
    for query in ["", "verdict=DROPPED"] {
        let timeline = api.json(&format!("/api/v1/timeline?since=10m&{query}")).await;
        let buckets = timeline["buckets"].as_array().unwrap();
        let dropped: u64 = buckets.iter().map(|bucket| bucket["dropped"].as_u64().unwrap()).sum();
        assert!(dropped >= 1, "{query}: {dropped}");
    }
    let one = api.json("/api/v1/flows/0000000000000001").await;
    assert!(one["reason"].as_str().unwrap().contains("3 packets: NETFILTER_DROP"), "{one:#}");
}
