//! The cluster itself: pods reach pods, nodes and the world; nothing is left behind.

use std::net::{IpAddr, SocketAddr};
use std::process::Command;

use harness::traffic::{EchoServer, ping, short_connections};
use harness::{Cluster, Process, Run};

#[test]
fn pods_reach_each_other_and_the_world() {
    let mut cluster = Cluster::for_test("reach", &["a", "b"]).unwrap();
    cluster.add_plain_pod(0, "web").unwrap();
    cluster.add_plain_pod(0, "db").unwrap();
    cluster.add_plain_pod(1, "api").unwrap();
    let web = cluster.pod("web");
    for pod in ["db", "api"].map(|name| cluster.pod(name)) {
        for to in [IpAddr::V4(pod.ipv4), IpAddr::V6(pod.ipv6)] {
            ping(&web.netns, to, 2, 3000).unwrap();
            let address = SocketAddr::new(to, 8080);
            let _server = EchoServer::start(&pod.netns, address).unwrap();
            assert_eq!(short_connections(&web.netns, address, 10, 100).unwrap(), 10);
        }
    }
    for world in [harness::cluster::WORLD_IPV4.into(), harness::cluster::WORLD_IPV6.into()] {
        ping(&web.netns, world, 1, 56).unwrap();
    }
    let before = cluster.nodes()[0].counters().unwrap();
    assert!(before[&web.interface].rx_bytes > 2 * 3000, "{before:?}");
}

#[test]
fn nothing_is_left_behind() {
    let run = Run::for_test("gone").unwrap();
    let id = run.id().to_owned();
    let netns = run.netns("a").unwrap();
    let mut sleep = Command::new("sleep");
    let process = Process::spawn(&run, Some(&netns), "sleep", sleep.arg("1000")).unwrap();
    let pid = process.pid();
    // As after kill -9: nobody's destructor runs.
    std::mem::forget(process);
    std::mem::forget(netns);
    assert!(harness::run::remove_run(&id).is_err(), "a living run must not be removed");
    drop(run);
    assert!(!std::path::Path::new(&format!("/run/netns/weir-{id}-a")).exists());
    let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    assert!(state.is_empty() || state.contains(") Z "), "{state}");
}
