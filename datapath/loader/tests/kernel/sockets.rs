//! Sockets that go to a backend at once: what they see, what is on the wire, and who is left alone.

use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use datapath_abi::service::{NAT_NONE, ReplyKey};
use datapath_loader::{Datapath, SocketServices};

use crate::kernel::cluster::{Cluster, ask, mapped, pod, remote, serve};
use crate::kernel::lab::{cgroup, enter, within};

/// What [`child`] is to do: `tcp`, `udp` (connected) or `datagrams`, and with whom.
const WHAT: &str = "WEIR_SOCKET_CHILD";
/// And in which network namespace.
const NAMESPACE: &str = "WEIR_SOCKET_NAMESPACE";

/// A cgroup of the test's own.
pub(crate) struct Group(pub(crate) PathBuf);

impl Group {
    fn new(name: &str) -> Self {
        let path = cgroup().join(format!("wl-{name}-{}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    /// Runs [`child`] within, in a network namespace: what it printed, or how it failed.
    fn run(&self, namespace: &str, what: &str) -> Result<Vec<String>, String> {
        let me = std::env::current_exe().unwrap();
        let script = r#"set -e; echo $$ > "$0/cgroup.procs"; exec "$1" --exact kernel::sockets::child --nocapture --include-ignored"#;
        let output = Command::new("sh")
            .args(["-c", script])
            .arg(&self.0)
            .arg(me)
            .env(NAMESPACE, namespace)
            .env(WHAT, what)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let said = |mark: &str| {
            text.lines()
                .filter_map(|line| line.split_once(mark))
                .map(|(_, rest)| rest.to_owned())
                .collect::<Vec<_>>()
        };
        match said("FAILED ").first() {
            Some(why) => Err(why.clone()),
            None => {
                let lines = said("SAID ");
                assert!(!lines.is_empty(), "{text}{}", String::from_utf8_lossy(&output.stderr));
                Ok(lines)
            }
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.0);
    }
}

/// The process in the cgroup; run by [`Group::run`], and on its own it has nothing to do.
#[test]
#[ignore = "a part of the other tests"]
fn child() {
    let Ok(what) = std::env::var(WHAT) else { return };
    enter(&std::env::var(NAMESPACE).unwrap());
    let (kind, to) = what.split_once(' ').unwrap();
    let to: SocketAddr = to.parse().unwrap();
    if let Err(error) = talk(kind, to) {
        println!("\nFAILED {:?}", error.kind());
    }
}

/// Prints who served, whom it saw, and whom the socket takes the other side for.
fn talk(kind: &str, to: SocketAddr) -> std::io::Result<()> {
    let wait = Some(Duration::from_secs(3));
    if kind == "tcp" {
        let stream = TcpStream::connect_timeout(&to, Duration::from_secs(3))?;
        stream.set_read_timeout(wait)?;
        let mut line = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(&stream), &mut line)?;
        println!("\nSAID {} {}", line.trim(), stream.peer_addr()?);
        return Ok(());
    }
    let socket = UdpSocket::bind(if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
    socket.set_read_timeout(wait)?;
    let mut buffer = [0; 2000];
    if kind == "udp" {
        socket.connect(to)?;
    }
    for _ in 0..if kind == "udp" { 1 } else { 20 } {
        if kind == "udp" {
            socket.send(b"x")?;
        } else {
            socket.send_to(b"x", to)?;
        }
        let (length, from) = socket.recv_from(&mut buffer)?;
        let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
        println!("\nSAID {} {from}", text.lines().next().unwrap_or_default());
    }
    Ok(())
}

pub(crate) fn vip(v6: bool) -> SocketAddr {
    if v6 { "[fd96::1]:80" } else { "10.96.0.1:80" }.parse().unwrap()
}

pub(crate) fn lab(name: &str, own_namespace: bool) -> (Cluster, Group) {
    let group = Group::new(name);
    let sockets = SocketServices { cgroup: group.0.clone(), own_namespace };
    let cluster = Cluster::with(name, Some(sockets));
    let feature = cluster.datapath.features().into_iter().find(|it| it.name == "socket_services");
    let feature = feature.unwrap();
    assert!(feature.on, "{}", feature.why);
    for v6 in [false, true] {
        for (number, name) in [(1, "p1"), (2, "p2")] {
            serve(&cluster.ns(name), SocketAddr::new(pod(v6, number), 8080), name);
        }
        serve(&cluster.ns("other"), SocketAddr::new(remote(v6), 8080), "other");
    }
    (cluster, group)
}

pub(crate) fn backends(v6: bool) -> [SocketAddr; 3] {
    [pod(v6, 1), pod(v6, 2), remote(v6)].map(|ip| SocketAddr::new(ip, 8080))
}

#[test]
fn sockets_go_to_a_backend_and_see_the_service() {
    let (mut cluster, group) = lab("sock", false);
    for v6 in [false, true] {
        cluster.service(1 + u32::from(v6), &vip(v6).to_string(), &backends(v6));
        for client in ["p0", "node"] {
            for kind in ["tcp", "udp"] {
                let said = group.run(&cluster.ns(client), &format!("{kind} {}", vip(v6))).unwrap();
                let [_, seen, peer] = words(&said[0]);
                assert_eq!(peer, vip(v6).to_string(), "{client} {kind}");
                if client == "p0" {
                    assert_eq!(seen.parse::<SocketAddr>().unwrap().ip(), pod(v6, 0));
                }
            }
        }
    }
    // On the wire there are backends only: nothing was translated.
    let mut translated = 0;
    let walk = &mut |_: &_, value: &datapath_abi::conn::ConnValue| {
        translated += u32::from(value.nat != NAT_NONE);
    };
    cluster.datapath.connections().walk(walk).unwrap();
    assert_eq!(translated, 0);
    assert_eq!(cluster.counters().sockets, 8);
    // Processes outside of the cgroup are translated by packet.
    assert!(ask(&cluster.ns("p0"), vip(false), 10).is_ok());
    assert_eq!(cluster.counters().sockets, 8);
    assert_eq!(cluster.counters().balanced, 1);
}

fn words(line: &str) -> [String; 3] {
    let mut words = line.split(' ').map(str::to_owned);
    std::array::from_fn(|_| words.next().unwrap_or_default())
}

#[test]
fn datagrams_stay_with_their_backend_while_it_lives() {
    let (mut cluster, group) = lab("dgram", false);
    cluster.service(3, &vip(false).to_string(), &backends(false));
    let said = group.run(&cluster.ns("p0"), &format!("datagrams {}", vip(false))).unwrap();
    assert_eq!(said.len(), 20);
    let first = words(&said[0]);
    for line in &said {
        let [name, _, from] = words(line);
        assert_eq!((&name, from), (&first[0], vip(false).to_string()));
    }
}

#[test]
fn who_is_left_alone_and_who_is_refused() {
    let (mut cluster, group) = lab("alone", true);
    let backend = backends(false)[0];
    cluster.service(4, &vip(false).to_string(), &[backend]);
    let tcp = format!("tcp {}", vip(false));
    // Only the host's own sockets: a pod's packets are translated as ever.
    assert!(group.run(&cluster.ns("p0"), &tcp).is_ok());
    assert_eq!((cluster.counters().sockets, cluster.counters().balanced), (0, 1));
    assert!(group.run(&cluster.ns("node"), &tcp).is_ok());
    assert_eq!((cluster.counters().sockets, cluster.counters().balanced), (1, 1));
    // What is no service is not touched.
    assert!(group.run(&cluster.ns("node"), &format!("tcp {backend}")).is_ok());
    assert_eq!(cluster.counters().sockets, 1);
    // Without a backend the caller is told at once.
    let slots = cluster.slots(&[]);
    cluster.frontend(6, vip(false), crate::kernel::cluster::simple(4, slots));
    let started = std::time::Instant::now();
    let refused = group.run(&cluster.ns("node"), &tcp).unwrap_err();
    // Before 5.18 a program cannot say why.
    assert!(["ConnectionRefused", "PermissionDenied"].contains(&&*refused), "{refused}");
    assert!(started.elapsed() < Duration::from_secs(2));
}

#[test]
fn the_next_process_takes_over_and_cleanup_leaves_nothing() {
    let (mut cluster, group) = lab("take", false);
    cluster.service(5, &vip(false).to_string(), &backends(false));
    let tcp = format!("tcp {}", vip(false));
    assert!(group.run(&cluster.ns("p0"), &tcp).is_ok());
    let (options, node) = (cluster.options.clone(), cluster.ns("node"));
    // The pinned programs go on, and another process's replace them.
    let next = within(&node, move || Datapath::open(options).unwrap());
    assert!(next.adopted());
    assert!(group.run(&cluster.ns("p0"), &tcp).is_ok());
    assert_eq!(next.services().counters().unwrap().sockets, 2);
    let none = ReplyKey { cookie: 1, address: mapped(remote(false)), port: 1, pad: 0, pad2: 0 };
    assert!(next.services().asked(&none).is_none());
    within(&node, move || next.remove().unwrap());
    assert!(group.run(&cluster.ns("p0"), &tcp).is_err(), "nobody balances any more");
}
