//! Observe mode changes nothing: what comes out is what went in, byte for byte; and when it is
//! detached, nothing is left of it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use harness::capture::Capture;
use harness::traffic::{EchoServer, datagrams, iperf3, ping, short_connections};
use harness::weir::{Agent, AgentOptions, Binaries};
use harness::{Cluster, Netns, Node, Run, serial, wait_until};
use serde_json::Value;

/// Two hosts behind a bridge of the node: a bridge, unlike a router, changes nothing itself.
struct Bridged {
    left: Netns,
    right: Netns,
    cluster: Cluster,
}

// === impl Bridged ===

impl Bridged {
    fn build(name: &str) -> Self {
        let cluster = Cluster::for_test(name, &["a"]).unwrap();
        let (run, node) = (cluster.run(), &cluster.nodes()[0].netns);
        node.ip("link add br1 type bridge mcast_snooping 0\nlink set br1 up").unwrap();
        let [left, right] = [("l", 1), ("r", 2)].map(|(name, number)| {
            let netns = run.netns(name).unwrap();
            node.ip(&format!(
                "link add veth-{name} type veth peer name eth0 netns {}\n\
                 link set dev veth-{name} master br1 up",
                netns.name(),
            ))
            .unwrap();
            netns
                .ip(&format!(
                    "addr add 10.9.0.{number}/24 dev eth0\naddr add fd00:9::{number}/64 dev eth0 nodad\n\
                     link set eth0 up"
                ))
                .unwrap();
            netns
        });
        Self { left, right, cluster }
    }

    fn run(&self) -> &Run {
        self.cluster.run()
    }

    fn node(&self) -> &Node {
        &self.cluster.nodes()[0]
    }

    fn traffic(&self) {
        for to in ["10.9.0.2", "fd00:9::2"].map(|text| text.parse().unwrap()) {
            let address = SocketAddr::new(to, 8080);
            let _server = EchoServer::start(&self.right, address).unwrap();
            assert_eq!(short_connections(&self.left, address, 100, 2000).unwrap(), 100);
            iperf3(self.run(), &self.right, &self.left, to, 1, &["-b", "80M"]).unwrap();
            ping(&self.left, to, 20, 3000).unwrap();
            datagrams(&self.left, SocketAddr::new(to, 9), 50, 4000, true).unwrap();
        }
    }

    /// Runs traffic and asserts that each side received exactly what the other sent.
    fn assert_unchanged(&self, when: &str) {
        // Multicast is the kernels' own chatter (MLD, neighbour discovery), which starts and ends when it
        // likes; a capture that opens in between has it on one side only.
        let capture =
            |netns| Capture::start(self.run(), netns, "eth0", "not ether multicast").unwrap();
        let (left, right) = (capture(&self.left), capture(&self.right));
        self.traffic();
        let (left, right) = (left.frames().unwrap(), right.frames().unwrap());
        assert!(left.len() > 2000, "{when}: {} frames", left.len());
        // Two processors may hand on frames in another order; none may differ, lack, or be added.
        let (left, right) = (multiset(&left), multiset(&right));
        let differ: Vec<_> = left
            .iter()
            .filter(|(frame, n)| right.get(*frame) != Some(n))
            .chain(right.iter().filter(|(frame, n)| left.get(*frame) != Some(n)))
            .map(|(frame, n)| (frame.len(), n, &frame[..frame.len().min(80)]))
            .take(4)
            .collect();
        assert!(differ.is_empty(), "{when}: frames differ: {differ:x?}");
    }
}

fn multiset(frames: &[Vec<u8>]) -> BTreeMap<&[u8], usize> {
    let mut set = BTreeMap::new();
    for frame in frames {
        *set.entry(frame.as_slice()).or_insert(0) += 1;
    }
    set
}

/// Links, programs and maps in the kernel, with their numbers: `link 12`, `prog 34`, `map 56`; only
/// those that are pinned below `pins`, and the links' programs, if that is given.
fn held(pins: Option<&Path>) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for kind in ["link", "prog", "map"] {
        let listed = Command::new("bpftool").args(["-j", "-f", kind, "show"]).output().unwrap();
        let listed: Value = serde_json::from_slice(&listed.stdout).unwrap();
        for object in listed.as_array().into_iter().flatten() {
            let mut paths = object["pinned"].as_array().into_iter().flatten();
            let mut ours =
                |pins| paths.any(|path| Path::new(path.as_str().unwrap()).starts_with(pins));
            if pins.is_some_and(|pins| !ours(pins)) {
                continue;
            }
            found.insert(format!("{kind} {}", object["id"]));
            if kind == "link" {
                found.insert(format!("prog {}", object["prog_id"]));
            }
        }
    }
    found
}

/// Queueing disciplines of the fallback below tcx.
fn clsact(node: &Node) -> bool {
    let listed = node.netns.output(Command::new("tc").args(["qdisc", "show"])).unwrap();
    String::from_utf8_lossy(&listed.stdout).contains("clsact")
}

#[test]
fn packets_pass_unchanged_and_detaching_leaves_no_trace() {
    let _turn = serial();
    let bridged = Bridged::build("same");
    bridged.assert_unchanged("without an observer");

    let binaries = Binaries::beside_this().unwrap();
    let options = AgentOptions { interfaces: "veth-*,br1".into(), ..AgentOptions::default() };
    let mut agent = Agent::start(bridged.run(), &binaries, bridged.node(), &options).unwrap();
    let pins = bridged.run().pins(&bridged.node().name);
    let ours = held(Some(&pins));
    let links = ours.iter().filter(|name| name.starts_with("link")).count();
    assert!(links >= 6, "two hooks at each of three interfaces: {ours:?}");
    bridged.assert_unchanged("observed");

    // Stopped, the datapath goes on counting; that is not a trace but the promise.
    agent.process.stop();
    bridged.assert_unchanged("observed, agent stopped");

    agent.detach().unwrap();
    assert!(!pins.exists(), "{} is still there", pins.display());
    assert!(!clsact(bridged.node()));
    // The kernel lets go of programs and maps after a grace period.
    let left = || held(None).intersection(&ours).cloned().collect::<Vec<_>>();
    let gone = wait_until("programs, links and maps are gone", Duration::from_secs(10), || {
        left().is_empty()
    });
    assert!(gone.is_ok(), "left in the kernel: {:?}", left());
    bridged.assert_unchanged("after detaching");
}
