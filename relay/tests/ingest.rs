//! The relay over a real store, against an agent that misbehaves on demand.

#[path = "support/agent.rs"]
mod support;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use flowstore::{DiskOperation, FaultHook, Store};
use relay::{Config, Handle, Relay};
use stage::StopToken;
use wire::export::Part;

use support::{Agent, NODE, ask, flow_part, until};

/// A relay that runs, and what it runs over.
struct Running {
    store: Store,
    handle: Handle,
    metrics: prometheus::Registry,
    stop: StopToken,
    task: tokio::task::JoinHandle<Result<(), relay::Error>>,
}

// === impl Running ===

impl Running {
    async fn start(agent: &Agent, directory: &Path) -> Self {
        Self::start_with(agent, flowstore::Config::new(directory.join("store"))).await
    }

    async fn start_with(agent: &Agent, config: flowstore::Config) -> Self {
        let metrics = prometheus::Registry::new();
        let stop = StopToken::new();
        let (store, _) =
            Store::open(config, &metrics, stage::Registry::new(), stop.child()).unwrap();
        let config = Config {
            peers: vec![agent.peer()],
            window: 4,
            stopped_retry: Duration::from_millis(20),
            ..Config::default()
        };
        let relay = Relay::new(config, store.clone(), &metrics).await.unwrap();
        let handle = relay.handle();
        let relay_stop = StopToken::new();
        let task = tokio::spawn(relay.run(relay_stop.clone()));
        Self { store, handle, metrics, stop: relay_stop, task }
    }

    async fn end(self) {
        self.stop.stop();
        self.task.await.unwrap().unwrap();
        drop(self.store);
    }

    /// Which flows are there: each one's bytes are a bit of the sum.
    async fn sum(&self) -> u64 {
        let rows = ask(&self.store, "SELECT coalesce(sum(bytes_out), 0) FROM flows").await;
        rows[0][0].parse().unwrap()
    }

    async fn losses(&self) -> Vec<Vec<String>> {
        let sql = "SELECT node, stage, cause, events, flows, detail FROM losses ORDER BY time";
        ask(&self.store, sql).await
    }

    fn text(&self) -> String {
        prometheus::TextEncoder::new().encode_to_string(&self.metrics.gather()).unwrap()
    }
}

/// The sum of flows `first` to `last`.
fn bits(first: u64, last: u64) -> u64 {
    (first..=last).map(|n| 1 << n).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn takes_in_and_acknowledges() {
    let directory = tempfile::tempdir().unwrap();
    let agent = Agent::start(directory.path());
    for sequence in 1..=20 {
        agent.add(sequence);
    }
    let relay = Running::start(&agent, directory.path()).await;
    agent.acked(20).await;
    assert_eq!(relay.sum().await, bits(1, 20));
    assert_eq!(relay.store.watermark(NODE), Some(("boot-1".to_owned(), 20)));
    until("caught up", || relay.handle.nodes()[0].newest == 20).await;
    let node = relay.handle.nodes().remove(0);
    assert!(node.connected && node.known, "{node:?}");
    assert_eq!((node.name.as_str(), node.mode.as_str()), (NODE, "observe"));
    assert!(node.lag_ms.unwrap() < 5000, "{node:?}");
    until("a heartbeat", || relay.handle.nodes()[0].flows_per_second > 12.0).await;
    until("the gauge", || {
        relay.text().contains(r#"hubble_relay_pool_peer_connection_status{status="READY"} 1"#)
    })
    .await;
    let text = relay.text();
    for line in [
        r#"weir_relay_batches_total{node="node-a"} 20"#,
        r#"weir_relay_rows_total{table="flows"} 20"#,
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
    assert!(relay.losses().await.is_empty());
    relay.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn resumes_after_restarts_of_either_side() {
    let directory = tempfile::tempdir().unwrap();
    let agent = Agent::start(directory.path());
    (1..=5).for_each(|sequence| agent.add(sequence));
    let relay = Running::start(&agent, directory.path()).await;
    agent.acked(5).await;

    // The agent restarts and has forgotten nothing: what is durable is not asked for again.
    let agent = agent.restart(directory.path()).await;
    (6..=8).for_each(|sequence| agent.add(sequence));
    agent.acked(8).await;
    assert_eq!(agent.spool.lock().starts, [None, Some(5)]);
    relay.end().await;

    // The relay restarts.
    (9..=10).for_each(|sequence| agent.add(sequence));
    let relay = Running::start(&agent, directory.path()).await;
    agent.acked(10).await;
    assert_eq!(agent.spool.lock().starts.last(), Some(&Some(8)));
    assert_eq!(relay.sum().await, bits(1, 10));

    // The node boots again: numbers begin anew.
    agent.spool.lock().boot = "boot-2".to_owned();
    let agent = agent.restart(directory.path()).await;
    agent.spool.lock().acks.clear();
    agent.add_parts(1, vec![flow_part(11)]);
    agent.acked(1).await;
    assert_eq!(relay.sum().await, bits(1, 11));
    assert!(relay.losses().await.is_empty());
    relay.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusing_agent_is_tried_again() {
    let directory = tempfile::tempdir().unwrap();
    let agent = Agent::start(directory.path());
    agent.spool.lock().refuse = 3;
    agent.add(1);
    let relay = Running::start(&agent, directory.path()).await;
    until("an error is told", || {
        relay.handle.nodes()[0].error.as_deref().is_some_and(|why| why.contains("not now"))
    })
    .await;
    agent.acked(1).await;
    assert!(relay.handle.nodes()[0].error.is_none());
    assert!(relay.text().contains("weir_relay_reconnects_total{"), "{}", relay.text());
    relay.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gap_is_asked_again_and_then_told() {
    let directory = tempfile::tempdir().unwrap();
    let agent = Agent::start(directory.path());
    [1, 2, 6, 7].into_iter().for_each(|sequence| agent.add(sequence));
    let relay = Running::start(&agent, directory.path()).await;
    agent.acked(7).await;
    assert_eq!(agent.spool.lock().starts, [None, Some(2)], "asked again");
    assert_eq!(relay.sum().await, bits(1, 2) + bits(6, 7));
    let losses = relay.losses().await;
    assert_eq!(losses.len(), 1, "{losses:?}");
    assert_eq!(losses[0][..5], [NODE, "network", "gap", "3", "0"].map(str::to_owned));
    assert_eq!(losses[0][5], "batches 3 to 5 of boot boot-1 never came");
    relay.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_agent_evicted_is_not_told_twice() {
    let directory = tempfile::tempdir().unwrap();
    let agent = Agent::start(directory.path());
    (1..=3).for_each(|sequence| agent.add(sequence));
    let relay = Running::start(&agent, directory.path()).await;
    agent.acked(3).await;
    relay.end().await;
    // While the relay is away the spool runs over; the agent's own rows say so.
    agent.spool.lock().batches.clear();
    (8..=9).for_each(|sequence| agent.add(sequence));
    let relay = Running::start(&agent, directory.path()).await;
    agent.acked(9).await;
    assert!(relay.losses().await.is_empty());
    assert_eq!(relay.sum().await, bits(1, 3) + bits(8, 9));
    relay.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unreadable_parts_are_losses_and_the_rest_is_kept() {
    let directory = tempfile::tempdir().unwrap();
    let agent = Agent::start(directory.path());
    let part = |table: &str, rows, ipc: &'static [u8]| Part {
        table: table.to_owned(),
        rows,
        ipc: ipc.into(),
    };
    agent.add_parts(1, vec![part("flows", 7, b"rubbish"), flow_part(1), part("riddles", 3, b"")]);
    agent.add(2);
    let relay = Running::start(&agent, directory.path()).await;
    agent.acked(2).await;
    assert_eq!(relay.sum().await, bits(1, 2));
    let mut losses = relay.losses().await;
    losses.sort_by(|a, b| a[3].cmp(&b[3]));
    let counts: Vec<_> = losses.iter().map(|row| row[1..5].join(" ")).collect();
    assert_eq!(counts, ["relay corrupt 0 7", "relay corrupt 3 0"], "{losses:?}");
    assert!(losses[1][5].contains("unknown table"), "{losses:?}");
    relay.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_stops_the_stream_until_there_is_room() {
    let directory = tempfile::tempdir().unwrap();
    let agent = Agent::start(directory.path());
    let full = Arc::new(AtomicBool::new(false));
    let mut config = flowstore::Config::new(directory.path().join("store"));
    let fault = Arc::clone(&full);
    config.fault = Some(FaultHook::new(move |operation, _| match operation {
        DiskOperation::Write if fault.load(Ordering::Relaxed) => {
            Err(std::io::ErrorKind::StorageFull.into())
        }
        _ => Ok(()),
    }));
    agent.add(1);
    let relay = Running::start_with(&agent, config).await;
    agent.acked(1).await;

    full.store(true, Ordering::Relaxed);
    (2..=40).for_each(|sequence| agent.add(sequence));
    until("it says why", || relay.handle.nodes()[0].stalled.is_some()).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let (acks, sent) = {
        let spool = agent.spool.lock();
        (spool.acks.clone(), spool.sent)
    };
    assert_eq!(acks.last(), Some(&1), "nothing is acknowledged that is not durable");
    assert!(sent <= 1 + 4 + 1, "{sent} batches were sent against a window of 4");
    assert_eq!(relay.sum().await, bits(1, 1), "queries go on");

    full.store(false, Ordering::Relaxed);
    agent.acked(40).await;
    assert_eq!(relay.sum().await, bits(1, 40), "each once");
    assert!(relay.handle.nodes()[0].stalled.is_none());
    assert!(relay.losses().await.is_empty());
    relay.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn health_follows_the_peers() {
    let directory = tempfile::tempdir().unwrap();
    let agent = Agent::start(directory.path());
    let metrics = prometheus::Registry::new();
    let config = flowstore::Config::new(directory.path().join("store"));
    let stop = StopToken::new();
    let (store, _) = Store::open(config, &metrics, stage::Registry::new(), stop.child()).unwrap();
    let config = Config {
        peers: vec![agent.peer()],
        listen: Some("127.0.0.1:0".parse().unwrap()),
        ..Config::default()
    };
    let relay = Relay::new(config, store.clone(), &metrics).await.unwrap();
    let address = relay.local_addr().unwrap();
    let task = tokio::spawn(relay.run(stop.clone()));
    let channel = tonic::transport::Endpoint::from_shared(format!("http://{address}")).unwrap();
    let channel = channel.connect().await.unwrap();
    let mut health = tonic_health::pb::health_client::HealthClient::new(channel);
    let serving = tonic_health::pb::health_check_response::ServingStatus::Serving as i32;
    let mut tries = 0;
    loop {
        let request = tonic_health::pb::HealthCheckRequest::default();
        let answer = health.check(request).await.unwrap().into_inner();
        if answer.status == serving {
            break;
        }
        tries += 1;
        assert!(tries < 100, "never healthy");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    stop.stop();
    task.await.unwrap().unwrap();
}
