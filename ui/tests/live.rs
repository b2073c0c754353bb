//! Live streams over a real store.

#[path = "support/api.rs"]
mod support;

use std::time::{Duration, Instant};

use support::{Api, flow};

#[tokio::test(flavor = "multi_thread")]
async fn rows_come_at_once_and_resume() {
    let api = Api::start().await;
    let mut live = api.follow("namespace=shop", None).await;
    live.until("status").await;
    let started = Instant::now();
    api.put_flows(&[flow(1, "HOST", "a", "eth0", 0), flow(1, "SOURCE", "a", "veth0", 0)]).await;
    let event = live.until("flow").await;
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
    assert_eq!(event.data["reporter"], "SOURCE", "one row for a connection");
    let id = event.id.clone().unwrap();
    let status = live.until("status").await;
    assert!(status.data["completeness"]["nodes_expected"].is_number());
    drop(live);

    // While nobody listens: one that passes, one that does not.
    let mut other = flow(2, "SOURCE", "a", "veth0", 0);
    other.source.namespace = "other";
    api.put_flows(&[other, flow(3, "SOURCE", "a", "veth0", 0)]).await;
    let mut live = api.follow("source_namespace=shop", Some(&id)).await;
    let event = live.until("flow").await;
    assert_eq!(event.data["flow_id"], "0000000000000003", "resumes after what was seen");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_much_is_sampled_and_told() {
    let api = Api::start().await;
    let mut live = api.follow("reporter=all", None).await;
    live.until("status").await;
    let rows: Vec<_> = (0..5000).map(|id| flow(id, "SOURCE", "a", "veth0", 0)).collect();
    api.put_flows(&rows).await;
    let (mut seen, mut lost) = (0, 0);
    while seen + lost < 5000 {
        let event = live.next().await;
        match event.kind.as_str() {
            "flow" => seen += 1,
            "gap" => {
                lost += event.data["lost"].as_u64().unwrap();
                assert!(event.data["cause"].as_str().unwrap().contains("1 of"), "{}", event.data);
            }
            _ => {}
        }
    }
    assert_eq!(seen + lost, 5000, "every row is shown or counted");
    assert!(seen >= 40, "{seen}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_ring_forgot_is_a_gap() {
    let api = Api::start_with(|config| config.live_buffer = 100).await;
    let mut live = api.follow("", None).await;
    live.until("status").await;
    api.put_flows(&[flow(0, "SOURCE", "a", "veth0", 0)]).await;
    let id = live.until("flow").await.id.unwrap();
    drop(live);
    for id in 1..=30 {
        let rows: Vec<_> =
            (0..10).map(|n| flow(1000 * id + n, "SOURCE", "a", "veth0", 0)).collect();
        api.put_flows(&rows).await;
    }
    // The feed runs behind the appends.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let mut live = api.follow("", Some(&id)).await;
    let gap = live.until("gap").await;
    assert_eq!(gap.data["lost"], 200, "300 came, 100 are kept");
    let stale = api.follow("", Some("12")).await.until("gap").await;
    assert!(stale.data["lost"].as_u64().unwrap() > 0, "another process's id");
}
