//! Σ flows + unattributed = the kernel's own interface counters, to the byte and the packet, on every
//! interface of a node, whatever the traffic and whatever happens to the agent.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use harness::balance::{Account, Baseline};
use harness::traffic::{EchoServer, datagrams, iperf3, ping, short_connections};
use harness::weir::{Agent, AgentOptions, Binaries, Relay};
use harness::{Cluster, Pod, long, serial};

/// How long the last counters may take to arrive: some intervals, and the expiry of connections.
const SETTLE: Duration = Duration::from_secs(45);
/// Port of the echo servers.
const PORT: u16 = 8080;

/// One node with two pods, observed.
struct Bench {
    relay: Relay,
    agent: Agent,
    baseline: Baseline,
    cluster: Cluster,
}

// === impl Bench ===

impl Bench {
    fn start(name: &str, flags: &[&str]) -> Self {
        let mut cluster = Cluster::for_test(name, &["a"]).unwrap();
        cluster.add_plain_pod(0, "client").unwrap();
        cluster.add_plain_pod(0, "server").unwrap();
        let client = &cluster.pod("client").netns;
        client.sysctl("net/ipv4/ip_local_port_range", "10000 65000").unwrap();
        let binaries = Binaries::beside_this().unwrap();
        let options = AgentOptions {
            flags: flags.iter().map(|&flag| flag.to_owned()).collect(),
            ..AgentOptions::default()
        };
        let node = &cluster.nodes()[0];
        let baseline = Baseline::take_quiet(node).unwrap();
        let agent = Agent::start(cluster.run(), &binaries, node, &options).unwrap();
        assert!(baseline.is_unmoved(node).unwrap(), "frames passed before the agent was ready");
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let relay = Relay::start(cluster.run(), &binaries, &[&agent], listen, &[]).unwrap();
        Self { relay, agent, baseline, cluster }
    }

    fn client(&self) -> &Pod {
        self.cluster.pod("client")
    }

    fn server(&self) -> &Pod {
        self.cluster.pod("server")
    }

    fn server_addresses(&self) -> [IpAddr; 2] {
        [self.server().ipv4.into(), self.server().ipv6.into()]
    }

    fn connections(&self, count: usize) {
        for to in self.server_addresses() {
            let address = SocketAddr::new(to, PORT);
            let _server = EchoServer::start(&self.server().netns, address).unwrap();
            let client = &self.client().netns;
            assert_eq!(short_connections(client, address, count / 2, 700).unwrap(), count / 2);
        }
    }

    fn assert_balanced(&self) -> Vec<Account> {
        let accounts = self.baseline.assert(&self.cluster.nodes()[0], self.relay.sql(), SETTLE);
        for account in &accounts {
            println!("{account}");
        }
        accounts
    }

    /// Everything but ARP and the like was attributed to a connection.
    fn assert_all_attributed(&self, accounts: &[Account]) {
        let kinds = self.relay.sql().query(
            "SELECT sum(unattributed_bytes), sum(arp_bytes), sum(other_bytes), sum(malformed_bytes) \
             FROM counters",
        );
        let kinds = kinds.unwrap();
        let of = |column| kinds.number(0, column).unwrap();
        assert_eq!(of(0), of(1) + of(2), "unattributed is more than ARP: {accounts:?}");
        assert_eq!(of(3), 0, "well-formed packets were called malformed");
    }
}

#[test]
fn every_kind_of_traffic() {
    let _turn = serial();
    let bench = Bench::start("kinds", &[]);
    let (client, server) = (bench.client(), bench.server());
    let run = bench.cluster.run();
    for to in bench.server_addresses() {
        // With offloads: super-packets up to 64 KiB. Both directions, several streams on both CPUs.
        iperf3(run, &server.netns, &client.netns, to, 2, &["-P", "4"]).unwrap();
        iperf3(run, &server.netns, &client.netns, to, 1, &["-R"]).unwrap();
        iperf3(run, &server.netns, &client.netns, to, 1, &["-u", "-b", "400M"]).unwrap();
        // Echo, small and in fragments.
        ping(&client.netns, to, 50, 56).unwrap();
        ping(&client.netns, to, 50, 3000).unwrap();
        // Datagrams to a port where nobody listens: ICMP errors come back. In fragments, too.
        datagrams(&client.netns, SocketAddr::new(to, 9), 200, 100, true).unwrap();
        datagrams(&client.netns, SocketAddr::new(to, 9), 50, 5000, true).unwrap();
    }
    for world in [harness::cluster::WORLD_IPV4.into(), harness::cluster::WORLD_IPV6.into()] {
        ping(&client.netns, world, 20, 200).unwrap();
    }
    // Refused connections.
    let refused = SocketAddr::new(server.ipv4.into(), 81);
    assert_eq!(short_connections(&client.netns, refused, 100, 1).unwrap(), 0);
    let accounts = bench.assert_balanced();
    bench.assert_all_attributed(&accounts);
    let least = accounts.iter().find(|account| account.place == "a/veth-server").unwrap();
    assert!(least.kernel.bytes() > 100_000_000, "iperf3 did not run: {least}");
}

#[test]
fn thousands_of_short_connections() {
    let _turn = serial();
    let bench = Bench::start("short", &[]);
    let count = if long() { 20_000 } else { 4_000 };
    bench.connections(count);
    let accounts = bench.assert_balanced();
    bench.assert_all_attributed(&accounts);
    let connections = bench.relay.sql().number(
        "SELECT count(DISTINCT flow_id) FROM flows WHERE protocol = 'TCP' AND interface = 'veth-client'",
    );
    assert_eq!(connections.unwrap(), count as u64, "one flow per connection");
}

#[test]
fn smallest_ring_under_flood() {
    let _turn = serial();
    let bench = Bench::start("ring", &["--ring-size", "4096"]);
    flood(&bench);
    let accounts = bench.assert_balanced();
    bench.assert_all_attributed(&accounts);
    let lost = bench
        .relay
        .sql()
        .number("SELECT sum(events) FROM losses WHERE stage = 'ring' AND cause = 'full'")
        .unwrap();
    assert!(lost > 0, "the flood was meant to overflow the ring");
    println!("{lost} events lost, no byte");
}

#[test]
fn perf_transport_under_flood() {
    let _turn = serial();
    let bench = Bench::start("perf", &["--event-transport", "perf"]);
    flood(&bench);
    bench.connections(1_000);
    let accounts = bench.assert_balanced();
    bench.assert_all_attributed(&accounts);
}

#[test]
fn a_table_that_is_full() {
    let _turn = serial();
    let bench = Bench::start("full", &["--max-connections", "1024"]);
    flood(&bench);
    bench.assert_balanced();
    let full = bench.relay.sql().number("SELECT sum(table_full_packets) FROM counters").unwrap();
    assert!(full > 0, "20,000 connections fit into a table of 1,024");
    let lost = "SELECT sum(bytes) FROM losses WHERE stage = 'table' AND cause = 'full'";
    assert!(bench.relay.sql().number(lost).unwrap() > 0, "the ledger does not know of it");
}

#[test]
fn agent_paused_for_ten_seconds() {
    let _turn = serial();
    let bench = Bench::start("paused", &[]);
    bench.connections(200);
    bench.agent.process.pause();
    let until = std::time::Instant::now() + Duration::from_secs(10);
    while std::time::Instant::now() < until {
        bench.connections(200);
    }
    bench.agent.process.resume();
    bench.connections(200);
    let accounts = bench.assert_balanced();
    bench.assert_all_attributed(&accounts);
}

#[test]
fn agent_killed_in_the_middle() {
    let _turn = serial();
    let mut bench = Bench::start("killed", &[]);
    for _ in 0..if long() { 20 } else { 3 } {
        bench.connections(400);
        bench.agent.process.kill();
        // Nobody watches, the datapath counts on.
        bench.connections(400);
        ping(&bench.client().netns, bench.server_addresses()[0], 20, 3000).unwrap();
        bench.agent.restart(bench.cluster.run()).unwrap();
    }
    bench.connections(400);
    let accounts = bench.assert_balanced();
    bench.assert_all_attributed(&accounts);
}

#[test]
fn a_connection_that_outlives_agents() {
    let _turn = serial();
    let mut bench = Bench::start("outlives", &[]);
    let Bench { agent, cluster, .. } = &mut bench;
    let (client, server, run) = (cluster.pod("client"), cluster.pod("server"), cluster.run());
    std::thread::scope(|scope| {
        let transfer = scope.spawn(|| {
            iperf3(run, &server.netns, &client.netns, server.ipv4.into(), 8, &["-b", "50M"])
        });
        std::thread::sleep(Duration::from_secs(3));
        agent.process.kill();
        std::thread::sleep(Duration::from_secs(1));
        agent.restart(run).unwrap();
        transfer.join().unwrap().unwrap();
    });
    bench.assert_balanced();
    // The data connection: many intervals, numbered without gap or repetition, under one id.
    let rows = bench.relay.sql().query(
        "SELECT flow_id, count(*), max(seq), count(DISTINCT seq), sum(bytes_out) AS b FROM flows \
         WHERE protocol = 'TCP' AND interface = 'veth-client' GROUP BY 1 ORDER BY b DESC LIMIT 1",
    );
    let rows = rows.unwrap();
    let (count, last) = (rows.number(0, 1).unwrap(), rows.number(0, 2).unwrap());
    assert!(count > 4, "{rows:?}");
    assert_eq!(rows.number(0, 3), Some(count), "an interval number was used twice: {rows:?}");
    assert!(last == count || last + 1 == count, "an interval is missing: {rows:?}");
}

/// Thousands of connections of one packet each, as fast as one thread can.
fn flood(bench: &Bench) {
    let discard = SocketAddr::new(bench.server().ipv4.into(), 9);
    datagrams(&bench.client().netns, discard, 20_000, 64, true).unwrap();
}
