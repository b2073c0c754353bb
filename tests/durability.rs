//! The relay is killed with -9 at any moment while it takes in: every acknowledged row is there once.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use harness::balance::Baseline;
use harness::traffic::{EchoServer, datagrams, short_connections};
use harness::weir::{Agent, AgentOptions, Binaries, Relay};
use harness::{Cluster, long, serial};

const SETTLE: Duration = Duration::from_secs(60);

/// Moments of death after the relay is up, milliseconds: spread over its intervals of work, and the
/// same in every run.
fn moment(round: u64) -> Duration {
    Duration::from_millis(20 + round * 7919 % 700)
}

/// Ends the traffic.
struct StopAtEnd<'a>(&'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn every_acknowledged_row_is_there_once() {
    let _turn = serial();
    let mut cluster = Cluster::for_test("kill9", &["a"]).unwrap();
    cluster.add_plain_pod(0, "client").unwrap();
    cluster.add_plain_pod(0, "server").unwrap();
    let binaries = Binaries::beside_this().unwrap();
    let node = &cluster.nodes()[0];
    let baseline = Baseline::take_quiet(node).unwrap();
    let interval = Duration::from_millis(200);
    let options = AgentOptions { interval, ..AgentOptions::default() };
    let agent = Agent::start(cluster.run(), &binaries, node, &options).unwrap();
    let listen = SocketAddr::from(([127, 0, 0, 1], 0));
    // Segments are written every second: kills meet all of log, segments, merges and manifest.
    let flags = ["--segment-age", "1s"];
    let mut relay = Relay::start(cluster.run(), &binaries, &[&agent], listen, &flags).unwrap();

    let (client, server) = (cluster.pod("client"), cluster.pod("server"));
    let echo = SocketAddr::new(server.ipv4.into(), 8080);
    let _server = EchoServer::start(&server.netns, echo).unwrap();
    let discard = SocketAddr::new(server.ipv6.into(), 9);
    let kills = if long() { 200 } else { 8 };
    let stop = AtomicBool::new(false);
    let started = Instant::now();
    std::thread::scope(|scope| {
        // Also when a round fails: the scope waits for its threads.
        let _stopped = StopAtEnd(&stop);
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                short_connections(&client.netns, echo, 50, 300).unwrap();
                datagrams(&client.netns, discard, 100, 100, true).unwrap();
                std::thread::sleep(Duration::from_millis(50));
            }
        });
        for round in 0..kills {
            std::thread::sleep(moment(round));
            relay.process.kill();
            relay.restart(cluster.run()).unwrap();
            if round % 20 == 19 {
                println!("{} kills, {:?}", round + 1, started.elapsed());
            }
        }
    });
    println!("{kills} kills in {:?}", started.elapsed());

    let log = relay.process.log();
    println!("{}", log.lines().rfind(|line| line.contains("store opened")).unwrap_or_default());

    let accounts = baseline.assert(node, relay.sql(), SETTLE);
    let rows = relay.sql().number("SELECT count(*) FROM flows").unwrap();
    println!("{rows} rows of flows; {}", accounts[0]);
    let twice = relay.sql().query(
        // A UDP tuple that is used again later is the same flow, and begins to count again.
        "SELECT interface, flow_id, seq, start_time, count(*) AS n FROM flows \
         GROUP BY interface, flow_id, seq, start_time HAVING count(*) > 1 LIMIT 5",
    );
    assert!(twice.as_ref().unwrap().rows.is_empty(), "rows that are there twice: {twice:?}");
    // And once more after an orderly stop: what was in memory comes from the log and the segments.
    relay.restart(cluster.run()).unwrap();
    baseline.assert(node, relay.sql(), SETTLE);
}
