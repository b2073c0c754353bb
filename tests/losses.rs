//! The ledger: what is lost at a stage is what the table `losses` says, per cause, and nothing else.
//!
//! Each test makes one stage lose, and knows from another source how much it was.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use harness::balance::Baseline;
use harness::disk::SmallDisk;
use harness::metrics::Metrics;
use harness::traffic::{datagrams, short_connections};
use harness::weir::{AGENT_METRICS, Agent, AgentOptions, Binaries, Relay};
use harness::{Cluster, serial, wait_until};

const SETTLE: Duration = Duration::from_secs(45);

/// A node with two pods; agent and relay are started by the test.
struct Bench {
    binaries: Binaries,
    cluster: Cluster,
}

// === impl Bench ===

impl Bench {
    fn build(name: &str) -> Self {
        let mut cluster = Cluster::for_test(name, &["a"]).unwrap();
        cluster.add_plain_pod(0, "client").unwrap();
        cluster.add_plain_pod(0, "server").unwrap();
        Self { binaries: Binaries::beside_this().unwrap(), cluster }
    }

    fn agent(&self, flags: &[&str]) -> Agent {
        let options = AgentOptions {
            flags: flags.iter().map(|&flag| flag.to_owned()).collect(),
            ..AgentOptions::default()
        };
        Agent::start(self.cluster.run(), &self.binaries, &self.cluster.nodes()[0], &options)
            .unwrap()
    }

    fn relay(&self, agent: &Agent, flags: &[&str]) -> Relay {
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        Relay::start(self.cluster.run(), &self.binaries, &[agent], listen, flags).unwrap()
    }

    /// `count` connections of one datagram each, to a port where nobody listens.
    fn flood(&self, count: usize) {
        let to = SocketAddr::new(self.cluster.pod("server").ipv4.into(), 9);
        datagrams(&self.cluster.pod("client").netns, to, count, 64, true).unwrap();
    }

    fn agent_metrics(&self) -> Metrics {
        Metrics::scrape(Some(&self.cluster.nodes()[0].netns), AGENT_METRICS).unwrap()
    }

    /// Waits until the agent has committed everything and the relay has it.
    fn drained(&self, relay: &Relay) {
        let mut last = 0;
        wait_until("everything is stored", SETTLE, || {
            std::thread::sleep(Duration::from_secs(3));
            let rows = relay.sql().number("SELECT count(*) FROM flows").unwrap_or(0);
            std::mem::replace(&mut last, rows) == rows && rows > 0
        })
        .unwrap();
    }
}

fn lost(relay: &Relay, stage: &str, cause: &str, what: &str) -> u64 {
    let query =
        format!("SELECT sum({what}) FROM losses WHERE stage = '{stage}' AND cause = '{cause}'");
    relay.sql().number(&query).unwrap()
}

#[test]
fn ring() {
    let _turn = serial();
    let bench = Bench::build("lring");
    let agent = bench.agent(&["--ring-size", "4096", "--no-drops"]);
    let relay = bench.relay(&agent, &[]);
    bench.flood(20_000);
    bench.drained(&relay);
    // Each datagram's connection, and that of the ICMP error, made one event at each interface.
    let made = relay
        .sql()
        .number("SELECT count(*) FROM (SELECT DISTINCT interface, flow_id FROM flows) AS f")
        .unwrap();
    let read = bench.agent_metrics().sum("weir_stage_taken_total", &[("stage", "agent-events")]);
    let query =
        "SELECT sum(events) FROM losses WHERE stage = 'ring' AND detail = 'connection events'";
    let lost = relay.sql().number(query).unwrap();
    println!("{made} made, {read} read, {lost} lost");
    assert!(lost > 0, "the flood was meant to overflow the ring");
    assert_eq!(read + lost, made, "events made = read + lost");
    assert_eq!(relay.sql().number("SELECT count(*) FROM losses WHERE stage <> 'ring'").unwrap(), 0);
}

#[test]
fn agent_queue() {
    let _turn = serial();
    let bench = Bench::build("lqueue");
    let agent = bench.agent(&["--ring-size", "4MiB"]);
    let relay = bench.relay(&agent, &[]);
    // Answers that wait in the kernel while the agent sleeps are more than its queue holds.
    agent.process.pause();
    let sent = answer_dns(&bench.cluster, 3000);
    agent.process.resume();
    bench.drained(&relay);
    let told = relay.sql().number("SELECT count(*) FROM l7 WHERE protocol = 'dns'").unwrap();
    let queue = lost(&relay, "agent_queue", "full", "events");
    let ring = lost(&relay, "ring", "full", "events");
    println!(
        "{sent} answers at two interfaces: {told} told, {queue} lost in the queue, {ring} in the ring"
    );
    assert!(queue > 0, "the queue was meant to overflow");
    let metrics = bench.agent_metrics();
    let counted =
        metrics.sum("weir_stage_lost_total", &[("stage", "agent-dns"), ("cause", "full")]);
    assert_eq!(counted, queue);
    assert_eq!(told + queue + ring, 2 * sent, "answers sent = told + lost");
}

#[test]
fn spool() {
    let _turn = serial();
    let bench = Bench::build("lspool");
    let agent = bench.agent(&["--spool-size", "1MiB"]);
    for _ in 0..6 {
        bench.flood(10_000);
        std::thread::sleep(Duration::from_secs(1));
    }
    // Expired and committed: nothing moves any more.
    let mut last = 0;
    wait_until("the agent has reported everything", SETTLE * 2, || {
        std::thread::sleep(Duration::from_secs(3));
        let rows = bench.agent_metrics().sum("weir_agent_rows_total", &[("table", "flows")]);
        std::mem::replace(&mut last, rows) == rows
    })
    .unwrap();
    let relay = bench.relay(&agent, &[]);
    bench.drained(&relay);
    let evicted = lost(&relay, "spool", "evicted", "events");
    let rows_lost = lost(&relay, "spool", "evicted", "flows");
    assert!(evicted > 0, "the spool was meant to overflow");
    let agent_says = bench.agent_metrics();
    let committed = agent_says.sum("weir_agent_rows_total", &[("table", "flows")]);
    let stored = relay.sql().number("SELECT count(*) FROM flows").unwrap();
    println!("{committed} rows committed, {stored} stored, {rows_lost} lost in {evicted} batches");
    assert_eq!(stored + rows_lost, committed, "rows committed = stored + lost");
    // What the spool explained is no gap of the network.
    assert_eq!(lost(&relay, "network", "gap", "events"), 0);
    let answer = relay.sql().query("SELECT count(*) FROM flows").unwrap().completeness;
    assert_eq!(answer["complete"], false, "{answer}");
    assert_eq!(answer["lost_flows"], rows_lost, "{answer}");
}

#[test]
fn network() {
    let _turn = serial();
    let bench = Bench::build("lnet");
    let agent = bench.agent(&[]);
    let mut relay = bench.relay(&agent, &[]);
    bench.flood(100);
    bench.drained(&relay);
    // The store is put back to an older state, as from a backup: what the agent was told is safe
    // since then, is not.
    relay.process.stop();
    let data = bench.cluster.run().directory("relay-data").unwrap();
    let backup = data.with_file_name("backup");
    copy(&data, &backup);
    relay.restart(bench.cluster.run()).unwrap();
    for _ in 0..5 {
        bench.flood(100);
        std::thread::sleep(Duration::from_secs(1));
    }
    bench.drained(&relay);
    let batches = relay_batches(&relay);
    relay.process.stop();
    fs::remove_dir_all(&data).unwrap();
    copy(&backup, &data);
    relay.restart(bench.cluster.run()).unwrap();
    bench.flood(100);
    bench.drained(&relay);
    let gap = lost(&relay, "network", "gap", "events");
    println!("{batches} batches forgotten, {gap} missed");
    assert!(batches > 0);
    assert_eq!(gap, batches, "batches that never came");
}

#[test]
fn disk_that_is_damaged() {
    let _turn = serial();
    let bench = Bench::build("ldisk");
    let agent = bench.agent(&[]);
    let mut relay = bench.relay(&agent, &["--segment-age", "2s"]);
    bench.flood(3_000);
    bench.drained(&relay);
    let data = bench.cluster.run().directory("relay-data").unwrap();
    wait_until("a segment of flows is written", SETTLE, || !segments(&data).is_empty()).unwrap();
    let before = relay.sql().number("SELECT count(*) FROM flows").unwrap();
    relay.process.stop();
    // There may be several; nobody merges them any more.
    let segment = segments(&data).remove(0);
    let mut bytes = fs::read(&segment).unwrap();
    let end = bytes.len() - 4;
    bytes[end..].copy_from_slice(b"junk");
    fs::write(&segment, bytes).unwrap();
    relay.restart(bench.cluster.run()).unwrap();
    let after = relay.sql().number("SELECT count(*) FROM flows").unwrap();
    let rows = lost(&relay, "disk", "corrupt", "flows");
    println!("{before} rows before, {after} after, {rows} lost");
    assert!(rows > 0);
    assert_eq!(after + rows, before, "rows before = rows after + lost");
}

#[test]
fn disk_that_is_full() {
    let _turn = serial();
    let bench = Bench::build("lfull");
    let disk = SmallDisk::mount(bench.cluster.run(), "relay-data", 32 << 10).unwrap();
    let baseline = Baseline::take_quiet(&bench.cluster.nodes()[0]).unwrap();
    let agent = bench.agent(&[]);
    let relay = bench.relay(&agent, &["--min-free", "1MiB"]);
    bench.flood(1_000);
    bench.drained(&relay);
    let ingest = || {
        let status = harness::http::get(relay.address, "/api/v1/status").unwrap().json();
        status["storage"]["ingest"].as_str().unwrap_or_default().to_owned()
    };
    assert_eq!(ingest(), "ok");
    // Somebody else's file takes what is left.
    let filler = disk.path().join("filler");
    fs::write(&filler, vec![1; disk.free().unwrap() as usize]).unwrap();
    bench.flood(2_000);
    let stopped = wait_until("ingest stops", SETTLE, || ingest().starts_with("stopped"));
    assert!(stopped.is_ok(), "ingest is {}, {:?} bytes are free", ingest(), disk.free());
    // Queries go on, and so does the datapath: what it counts waits in the agent's spool.
    let stored = relay.sql().number("SELECT count(*) FROM flows").unwrap();
    assert!(stored > 0);
    bench.flood(1_000);
    std::thread::sleep(Duration::from_secs(3));
    assert!(ingest().starts_with("stopped"), "{}", ingest());
    fs::remove_file(filler).unwrap();
    wait_until("ingest resumes by itself", SETTLE, || ingest() == "ok").unwrap();
    baseline.assert(&bench.cluster.nodes()[0], relay.sql(), SETTLE * 2);
    assert_eq!(relay.sql().number("SELECT count(*) FROM losses WHERE stage = 'disk'").unwrap(), 0);
}

#[test]
fn nothing_is_lost_when_nothing_goes_wrong() {
    let _turn = serial();
    let bench = Bench::build("lnone");
    let agent = bench.agent(&[]);
    let relay = bench.relay(&agent, &[]);
    let refused = SocketAddr::new(bench.cluster.pod("server").ipv4.into(), 81);
    short_connections(&bench.cluster.pod("client").netns, refused, 200, 1).unwrap();
    bench.flood(500);
    bench.drained(&relay);
    let answer = relay.sql().query("SELECT stage, cause, detail FROM losses").unwrap();
    assert!(answer.rows.is_empty(), "{answer:?}");
    let completeness = relay.sql().query("SELECT count(*) FROM flows").unwrap().completeness;
    assert_eq!(completeness["complete"], true, "{completeness}");
    assert_eq!(completeness["nodes_reporting"], 1, "{completeness}");
}

/// Sends `count` DNS answers from the server pod to the client pod; answers how many were sent.
fn answer_dns(cluster: &Cluster, count: usize) -> u64 {
    let client = SocketAddr::new(cluster.pod("client").ipv4.into(), 5353);
    // A question for example.com and its answer, one A record (RFC 1035).
    let message =
        b"\x00\x01\x84\x00\x00\x01\x00\x01\x00\x00\x00\x00\x07example\x03com\x00\x00\x01\x00\x01\
        \xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x3c\x00\x04\xc0\x00\x02\x01";
    let send = || {
        let socket = std::net::UdpSocket::bind("0.0.0.0:53")?;
        for i in 0..count {
            socket.send_to(message, client)?;
            // Slow enough for the receiving side's backlog.
            if i % 50 == 0 {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        std::io::Result::Ok(count as u64)
    };
    cluster.pod("server").netns.run(send).unwrap().unwrap()
}

fn relay_batches(relay: &Relay) -> u64 {
    Metrics::scrape(None, relay.address).unwrap().sum("weir_relay_batches_total", &[("node", "a")])
}

/// Segments of the table `flows` below the store's directory.
fn segments(data: &Path) -> Vec<PathBuf> {
    let output =
        Command::new("find").arg(data).args(["-name", "*.parquet", "-path", "*flows*"]).output();
    String::from_utf8_lossy(&output.unwrap().stdout).lines().map(PathBuf::from).collect()
}

fn copy(from: &Path, to: &Path) {
    assert!(Command::new("cp").arg("-a").args([from, to]).status().unwrap().success());
}
