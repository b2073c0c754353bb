//! Observing changes nothing, and detaching leaves nothing.

use std::process::Command;

use crate::kernel::lab::{Lab, ip};
use crate::kernel::traffic::{self, Capture};

/// Programs of ours in the kernel, by id.
fn programs() -> Vec<u64> {
    let output = Command::new("bpftool").args(["-j", "prog", "show"]).output().expect("bpftool");
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let ours = ["observe_ingress", "observe_egress", "observe_l3_in", "kfree_skb", "sock_create"];
    json.as_array()
        .unwrap()
        .iter()
        .filter(|program| ours.contains(&program["name"].as_str().unwrap_or_default()))
        .map(|program| program["id"].as_u64().unwrap())
        .collect()
}

fn leaves_nothing(name: &str, clsact: bool) {
    let lab = Lab::new(name);
    let here = lab.here();
    let qdiscs = || ip(&["netns", "exec", &here, "tc", "qdisc", "show", "dev", "veth0"]).stdout;
    let before = qdiscs();
    let mut datapath = lab.open_with(clsact);
    let attached = lab.attach(&mut datapath);
    assert_eq!(qdiscs() != before, clsact, "a clsact qdisc, if asked for");
    let ours: Vec<u64> = datapath.programs().iter().map(|program| program.id.into()).collect();
    assert!(ours.iter().filter(|id| programs().contains(id)).count() >= 4);
    // One who puts a filter beside ours keeps the qdisc.
    let filter = [
        "netns",
        "exec",
        &here,
        "tc",
        "filter",
        "add",
        "dev",
        "veth0",
        "ingress",
        "prio",
        "7",
        "protocol",
        "all",
        "bpf",
        "bytecode",
        "1,6 0 0 0",
    ];
    if clsact {
        ip(&filter);
    }
    let start = std::time::Instant::now();
    let (pin_dir, there) = (lab.options.pin_dir.clone(), lab.here());
    crate::kernel::lab::within(&there, move || {
        let mut datapath = datapath;
        datapath.detach(attached.ifindex).unwrap();
        assert_eq!(datapath.attached(), []);
        datapath.remove().unwrap();
    });
    assert!(!pin_dir.exists(), "pins are gone");
    if clsact {
        assert_ne!(qdiscs(), before, "another's filter is not ours to remove");
        ip(&["netns", "exec", &here, "tc", "qdisc", "del", "dev", "veth0", "clsact"]);
    }
    assert_eq!(qdiscs(), before);
    // The kernel frees programs a moment after their last user.
    while ours.iter().any(|id| programs().contains(id)) {
        assert!(start.elapsed().as_secs() < 10, "programs stay: {:?}", programs());
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

#[test]
fn tcx_leaves_nothing() {
    leaves_nothing("trace", false);
}

#[test]
fn clsact_leaves_nothing() {
    leaves_nothing("tracec", true);
}

#[test]
fn cleanup_needs_no_agent() {
    let lab = Lab::new("clean");
    let mut datapath = lab.open_with(true);
    lab.attach(&mut datapath);
    drop(datapath);
    let pin_dir = lab.options.pin_dir.clone();
    let removed = crate::kernel::lab::within(&lab.here(), move || {
        let removed = datapath_loader::cleanup(&pin_dir).unwrap();
        assert_eq!(datapath_loader::cleanup(&pin_dir).unwrap(), Vec::<String>::new());
        removed
    });
    assert!(removed.len() > 9, "{removed:?}");
    let qdiscs = ip(&["netns", "exec", &lab.here(), "tc", "qdisc", "show", "dev", "veth0"]).stdout;
    assert!(!String::from_utf8_lossy(&qdiscs).contains("clsact"));
}

/// Sends known packets, and returns what arrives.
fn arrives(lab: &Lab) -> Vec<String> {
    let there = lab.there();
    let capture = Capture::start(&there, "udp port 7777 or icmp or (vlan and udp port 7777)");
    traffic::udp_into_the_void(lab, 7777, 50);
    lab.run(&lab.here(), &["ping", "-c", "5", "-i", "0.01", "-s", "3000", "-p", "5a", "10.9.0.2"]);
    capture.stop()
}

/// Without what differs from run to run whoever looks on: IP identification and checksum, the
/// ports that the kernel picks, ICMP's identifier, time and checksum.
fn essence(packets: &[String]) -> Vec<String> {
    packets
        .iter()
        .map(|packet| {
            let mut bytes: String = packet.chars().filter(char::is_ascii_hexdigit).collect();
            for range in [36..40, 48..52, 68..72, 72..84, 84..120] {
                if range.end <= bytes.len() {
                    bytes.replace_range(range.clone(), &"0".repeat(range.len()));
                }
            }
            bytes
        })
        .collect()
}

#[test]
fn packets_are_the_same_with_and_without() {
    for clsact in [false, true] {
        let lab = Lab::new(if clsact { "samec" } else { "same" });
        lab.run(&lab.here(), &["ping", "-c", "1", "10.9.0.2"]);
        let without = arrives(&lab);
        let mut datapath = lab.open_with(clsact);
        lab.attach(&mut datapath);
        let with = arrives(&lab);
        assert!(without.len() >= 65, "{} packets", without.len());
        assert_eq!(essence(&with), essence(&without));
        let mut counted = 0;
        let add = &mut |_: &_, value: &datapath_abi::conn::ConnValue| {
            counted += value.dirs[0].packets + value.dirs[1].packets;
        };
        datapath.connections().walk(add).unwrap();
        assert!(counted >= 65, "they were seen: {counted}");
        datapath.remove().unwrap();
    }
}

#[test]
fn packets_leave_as_they_came() {
    // In one run, both ends of the wire: what `here` sends, `there` receives, byte for byte.
    let lab = Lab::new("bytes");
    let mut datapath = lab.open();
    lab.attach(&mut datapath);
    let (here, there) = (lab.here(), lab.there());
    let sent = Capture::start_of(&here, "udp or icmp", "out");
    let received = Capture::start(&there, "udp or icmp");
    traffic::udp_into_the_void(&lab, 7778, 100);
    lab.run(&here, &["ping", "-c", "5", "-i", "0.01", "-s", "3000", "10.9.0.2"]);
    let (sent, received) = (sent.stop(), received.stop());
    assert!(sent.len() >= 115, "{} packets", sent.len());
    assert_eq!(sent, received);
    datapath.remove().unwrap();
}
