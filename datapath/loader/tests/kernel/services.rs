//! Services on real packets: who serves, whom the server sees, what the client sees.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use datapath_abi::policy::Prefix;
use datapath_abi::service::{
    CLUSTER_ONLY, Frontend, HASHED, NAT_NONE, NAT_OUTSIDE, NAT_SOURCE, RANGED, SILENT, SourceRange,
};

use crate::kernel::cluster::{Cluster, ask, ask_udp, key, mapped, pod, remote, serve, simple};
use crate::kernel::lab::{Link, account, within};

fn at(ip: std::net::IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(ip, port)
}

/// Servers in pods 1 and 2 and in the other node's.
fn serve_all(cluster: &Cluster) {
    for v6 in [false, true] {
        for number in [0, 1, 2] {
            let name = ["p0", "p1", "p2"][number];
            serve(&cluster.ns(name), at(pod(v6, number), 8080), name);
        }
        serve(&cluster.ns("other"), at(remote(v6), 8080), "other");
    }
}

fn vip(v6: bool) -> SocketAddr {
    if v6 { "[fd96::1]:80" } else { "10.96.0.1:80" }.parse().unwrap()
}

#[test]
fn a_cluster_ip_is_balanced_over_pods_and_nodes() {
    let mut cluster = Cluster::new("svc");
    serve_all(&cluster);
    for v6 in [false, true] {
        let backends = [at(pod(v6, 1), 8080), at(pod(v6, 2), 8080), at(remote(v6), 8080)];
        cluster.service(1 + u32::from(v6), &vip(v6).to_string(), &backends);
        let client = cluster.ns("p0");
        let mut served = BTreeMap::new();
        for _ in 0..60 {
            let (name, seen) = ask(&client, vip(v6), 5000).unwrap();
            assert_eq!(seen.ip(), pod(v6, 0), "the client's own address");
            *served.entry(name).or_insert(0) += 1;
            let (name, seen) = ask_udp(&client, vip(v6), 100).unwrap();
            assert_eq!(seen.ip(), pod(v6, 0));
            *served.entry(name).or_insert(0) += 1;
        }
        assert_eq!(served.keys().collect::<Vec<_>>(), ["other", "p1", "p2"], "{served:?}");
        assert!(served.values().all(|&count| count > 15), "{served:?}");
        // Straight to a backend as ever.
        assert_eq!(ask(&client, at(pod(v6, 1), 8080), 100).unwrap().0, "p1");
    }
    let counters = cluster.counters();
    // A datagram from a port that was used before belongs to the connection that it had then.
    assert!((200..=240).contains(&counters.balanced), "{}", counters.balanced);
    assert_eq!((counters.failed, counters.full, counters.exhausted), (0, 0, 0));
}

#[test]
fn from_outside_a_local_backend_sees_the_client_and_a_remote_one_the_node() {
    let mut cluster = Cluster::new("np");
    serve_all(&cluster);
    let outside = cluster.ns("outside");
    for v6 in [false, true] {
        let (client, node, far) = if v6 {
            ("fd77::1", "[fd77::10]:30080", "fd78::10")
        } else {
            ("192.168.77.1", "192.168.77.10:30080", "192.168.78.10")
        };
        let backends = [at(pod(v6, 1), 8080), at(remote(v6), 8080)];
        cluster.service(3 + u32::from(v6), node, &backends);
        let mut served = BTreeMap::new();
        for _ in 0..40 {
            for asks in [ask, ask_udp] {
                let (name, seen) = asks(&outside, node.parse().unwrap(), 1000).unwrap();
                let expected = if name == "other" { far } else { client };
                assert_eq!(seen.ip(), expected.parse::<std::net::IpAddr>().unwrap(), "{name}");
                *served.entry(name).or_insert(0) += 1;
            }
        }
        assert_eq!(served.keys().collect::<Vec<_>>(), ["other", "p1"], "{served:?}");
    }
    let mut kinds = BTreeMap::new();
    cluster
        .datapath
        .connections()
        .walk(&mut |_, value| *kinds.entry(value.nat).or_insert(0) += 1)
        .unwrap();
    assert!(kinds.contains_key(&NAT_OUTSIDE) && kinds.contains_key(&NAT_SOURCE), "{kinds:?}");
    assert!(kinds.contains_key(&NAT_NONE), "at the pods' interfaces: {kinds:?}");
}

#[test]
fn pods_are_masqueraded_to_the_world_and_not_to_pods() {
    let cluster = Cluster::new("masq");
    serve_all(&cluster);
    for v6 in [false, true] {
        let (world, node) = if v6 {
            ("[fd77::1]:9000", "fd77::10")
        } else {
            ("192.168.77.1:9000", "192.168.77.10")
        };
        serve(&cluster.ns("outside"), world.parse().unwrap(), "world");
        for asks in [ask, ask_udp] {
            let (name, seen) = asks(&cluster.ns("p0"), world.parse().unwrap(), 3000).unwrap();
            assert_eq!((name.as_str(), seen.ip().to_string()), ("world", node.to_owned()));
            let (name, seen) = asks(&cluster.ns("p0"), at(remote(v6), 8080), 100).unwrap();
            assert_eq!((name.as_str(), seen.ip()), ("other", pod(v6, 0)));
        }
        let ping = if v6 { "fd77::1" } else { "192.168.77.1" };
        let command = ["netns", "exec", &cluster.ns("p0"), "ping", "-c", "2", "-W", "2", ping];
        crate::kernel::lab::ip(&command);
    }
    // The world cannot reach a pod unasked and be taken for an answer: it sees the pod's own address.
    let (_, seen) = ask(&cluster.ns("outside"), at(pod(false, 1), 8080), 10).unwrap();
    assert_eq!(seen.ip().to_string(), "192.168.77.1");
}

#[test]
fn a_pod_reaches_itself_by_a_service() {
    let mut cluster = Cluster::new("hair");
    serve_all(&cluster);
    for v6 in [false, true] {
        cluster.service(5 + u32::from(v6), &vip(v6).to_string(), &[at(pod(v6, 0), 8080)]);
        for asks in [ask, ask_udp] {
            let (name, seen) = asks(&cluster.ns("p0"), vip(v6), 2000).unwrap();
            assert_eq!(name, "p0");
            let hairpin = if v6 { "fd57:6569::1" } else { "169.254.42.1" };
            assert_eq!(seen.ip().to_string(), hairpin);
        }
    }
}

#[test]
fn without_backends_clients_are_told() {
    let mut cluster = Cluster::new("none");
    serve_all(&cluster);
    for v6 in [false, true] {
        cluster.service(7, &vip(v6).to_string(), &[]);
        let started = std::time::Instant::now();
        assert_eq!(ask(&cluster.ns("p0"), vip(v6), 1), Err("ConnectionRefused".to_owned()));
        assert_eq!(ask_udp(&cluster.ns("p0"), vip(v6), 1), Err("ConnectionRefused".to_owned()));
        assert!(started.elapsed().as_secs() < 2);
        // Silent: by policy of the service.
        let slots = cluster.slots(&[]);
        cluster.frontend(17, vip(v6), Frontend { flags: SILENT, ..simple(7, slots) });
        assert_eq!(ask_udp(&cluster.ns("p0"), vip(v6), 1), Err("WouldBlock".to_owned()));
    }
    assert!(cluster.counters().no_backend >= 6);
    // An address of a service, at another port: nobody listens there.
    let slots = cluster.slots(&[]);
    cluster.frontend(0, "10.96.0.9:0".parse().unwrap(), simple(8, slots));
    let started = std::time::Instant::now();
    let refused = Err("ConnectionRefused".to_owned());
    assert_eq!(ask(&cluster.ns("p0"), "10.96.0.9:9090".parse().unwrap(), 1), refused);
    assert_eq!(ask_udp(&cluster.ns("p0"), "10.96.0.9:53".parse().unwrap(), 1), refused);
    assert!(started.elapsed().as_secs() < 2);
}

#[test]
fn who_may_ask_from_outside() {
    let mut cluster = Cluster::new("range");
    serve_all(&cluster);
    let outside = cluster.ns("outside");
    let node: SocketAddr = "192.168.77.10:31000".parse().unwrap();
    let frontend = cluster.service(9, &node.to_string(), &[at(pod(false, 1), 8080)]);
    assert!(ask(&outside, node, 1).is_ok());
    let tables = cluster.datapath.services();
    cluster.frontend(6, node, Frontend { flags: RANGED, ..frontend });
    assert_eq!(ask(&outside, node, 1), Err("TimedOut".to_owned()));
    let range = |text: &str, bits: u32| SourceRange {
        length: 32 + 96 + bits,
        service: 9u32.to_be(),
        address: mapped(text.parse().unwrap()),
    };
    tables.put_source_ranges(&[range("192.168.77.0", 24)]).unwrap();
    assert!(ask(&outside, node, 1).is_ok());
    tables.remove_source_ranges(&[range("192.168.77.0", 24)]).unwrap();
    tables.put_source_ranges(&[range("192.168.76.0", 24)]).unwrap();
    assert_eq!(ask(&outside, node, 1), Err("TimedOut".to_owned()));
    // Pods are no clients from outside.
    assert!(ask(&cluster.ns("p0"), node, 1).is_ok());
    cluster.frontend(6, node, Frontend { flags: CLUSTER_ONLY, ..frontend });
    assert_eq!(ask(&outside, node, 1), Err("TimedOut".to_owned()));
    assert!(ask(&cluster.ns("p0"), node, 1).is_ok());
    assert!(cluster.counters().not_allowed > 0);
}

#[test]
fn a_client_keeps_its_backend_while_it_may() {
    let mut cluster = Cluster::new("aff");
    serve_all(&cluster);
    let backends = [at(pod(false, 1), 8080), at(pod(false, 2), 8080), at(remote(false), 8080)];
    let frontend = cluster.service(11, &vip(false).to_string(), &backends);
    cluster.frontend(6, vip(false), Frontend { affinity: 2, ..frontend });
    let client = cluster.ns("p0");
    let first = ask(&client, vip(false), 1).unwrap().0;
    for _ in 0..20 {
        assert_eq!(ask(&client, vip(false), 1).unwrap().0, first);
    }
    // Its backend is not chosen any more: another one, and then that.
    let tables = cluster.datapath.services();
    let snapshot = tables.snapshot().unwrap();
    let gone = snapshot.backends.iter().position(|backend| {
        backend.service == 11 && backend.address == mapped(backends[index(&first)].ip())
    });
    let gone = gone.unwrap();
    let mut backend = snapshot.backends[gone];
    backend.flags &= !datapath_abi::service::CHOSEN;
    tables.put_backends(&[(gone as u32, backend)]).unwrap();
    let rest: Vec<u32> = (0..3).filter(|index| *index != gone as u32).collect();
    let slots = cluster.slots(&rest);
    cluster.frontend(6, vip(false), Frontend { affinity: 2, ..simple(11, slots) });
    let second = ask(&client, vip(false), 1).unwrap().0;
    assert_ne!(second, first);
    for _ in 0..10 {
        assert_eq!(ask(&client, vip(false), 1).unwrap().0, second);
    }
    // After its time, chance decides again.
    let different = (0..12).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(2100));
        ask(&client, vip(false), 1).unwrap().0 != second
    });
    assert!(different, "2^-12");
}

fn index(name: &str) -> usize {
    ["p1", "p2", "other"].iter().position(|known| *known == name).unwrap()
}

#[test]
fn a_maglev_slot_is_the_same_for_every_packet() {
    let mut cluster = Cluster::new("hash");
    serve_all(&cluster);
    let backends = [at(pod(false, 1), 8080), at(pod(false, 2), 8080)];
    let frontend = cluster.service(12, &vip(false).to_string(), &backends);
    let table: Vec<u32> = (0..251).map(|slot| slot % 2).collect();
    let slots = cluster.slots(&table);
    cluster.frontend(17, vip(false), Frontend { flags: HASHED, slots: [slots; 2], ..frontend });
    let client = cluster.ns("p0");
    // One client's port: always the same backend, also after its connection was forgotten.
    for port in 50_000..50_020u16 {
        let once = || {
            within(&client, move || {
                let socket = std::net::UdpSocket::bind(("10.244.1.10", port)).unwrap();
                socket.set_read_timeout(Some(std::time::Duration::from_secs(3))).unwrap();
                socket.send_to(b"x", vip(false)).unwrap();
                let mut buffer = [0; 100];
                let (length, from) = socket.recv_from(&mut buffer).unwrap();
                assert_eq!(from, vip(false));
                String::from_utf8_lossy(&buffer[..length]).split(' ').next().unwrap().to_owned()
            })
        };
        let first = once();
        forget(&cluster);
        assert_eq!(once(), first);
    }
}

/// Removes all connections and their translations.
fn forget(cluster: &Cluster) {
    let mut all = Vec::new();
    cluster.datapath.connections().walk(&mut |key, value| all.push((*key, *value))).unwrap();
    cluster.datapath.services().forget(&all).unwrap();
    let keys: Vec<_> = all.iter().map(|(key, _)| *key).collect();
    cluster.datapath.connections().remove(&keys).unwrap();
    let mut left = 0;
    cluster.datapath.services().translations(&mut |_, _| left += 1).unwrap();
    assert_eq!(left, 0, "translations without a connection");
}

#[test]
fn what_would_look_alike_gets_another_port() {
    let mut cluster = Cluster::new("alike");
    serve_all(&cluster);
    let backend = at(pod(false, 1), 8080);
    let vips: Vec<SocketAddr> =
        (1..=3).map(|number| format!("10.96.0.{number}:80").parse().unwrap()).collect();
    for (number, vip) in (20..).zip(&vips) {
        cluster.service(number, &vip.to_string(), &[backend]);
    }
    let client = cluster.ns("p0");
    // One port of the client's to three services and to the backend itself, all at once: four connections.
    let sockets: Vec<_> = vips.iter().copied().chain([backend]).collect();
    let seen = within(&client, move || {
        let streams: Vec<_> = sockets
            .iter()
            .map(|at| {
                let socket = bound("10.244.1.10:51000", *at);
                let mut reader = std::io::BufReader::new(socket.try_clone().unwrap());
                let mut line = String::new();
                std::io::BufRead::read_line(&mut reader, &mut line).unwrap();
                (socket, line)
            })
            .collect();
        streams.into_iter().map(|(_, line)| line).collect::<Vec<_>>()
    });
    let distinct: std::collections::BTreeSet<_> = seen.iter().collect();
    assert_eq!(distinct.len(), 4, "{seen:?}");
    assert!(seen.iter().all(|line| line.starts_with("p1 10.244.1.10:")), "{seen:?}");
}

/// A connection from a port that others use too.
fn bound(from: &str, to: SocketAddr) -> std::net::TcpStream {
    use std::os::fd::FromRawFd;
    // SAFETY: plain socket calls on a descriptor of our own.
    unsafe {
        let fd = libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0);
        let on: libc::c_int = 1;
        let (SocketAddr::V4(from), SocketAddr::V4(to)) = (from.parse().unwrap(), to) else {
            panic!("IPv4")
        };
        libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, (&raw const on).cast(), 4);
        let sock = |at: std::net::SocketAddrV4| libc::sockaddr_in {
            sin_family: libc::AF_INET as u16,
            sin_port: at.port().to_be(),
            sin_addr: libc::in_addr { s_addr: u32::from(*at.ip()).to_be() },
            sin_zero: [0; 8],
        };
        let (from, to) = (sock(from), sock(to));
        assert_eq!(libc::bind(fd, (&raw const from).cast(), 16), 0);
        let connected = libc::connect(fd, (&raw const to).cast(), 16);
        assert_eq!(connected, 0, "{}", std::io::Error::last_os_error());
        std::net::TcpStream::from_raw_fd(fd)
    }
}

#[test]
fn a_bad_prefix_is_not_taken() {
    let cluster = Cluster::new("prefix");
    let wrong = Prefix { length: 200, address: [0; 16] };
    let error = cluster.datapath.services().put_prefixes(&[(wrong, 1)]).unwrap_err();
    assert!(error.to_string().contains("masquerade"), "{error}");
    let missing = key(6, vip(false));
    cluster.datapath.services().remove_frontends(&[missing]).unwrap();
}

#[test]
fn errors_reach_whom_they_are_about() {
    let mut cluster = Cluster::new("icmp");
    for v6 in [false, true] {
        // A backend that nobody listens at: its host says so, and the client hears it from whom it asked.
        cluster.service(30 + u32::from(v6), &vip(v6).to_string(), &[at(pod(v6, 1), 9999)]);
        assert_eq!(ask_udp(&cluster.ns("p0"), vip(v6), 1), Err("ConnectionRefused".to_owned()));
        // The same from outside, over a masqueraded way to the other node.
        let node: SocketAddr =
            if v6 { "[fd77::10]:30081" } else { "192.168.77.10:30081" }.parse().unwrap();
        cluster.service(32 + u32::from(v6), &node.to_string(), &[at(remote(v6), 9999)]);
        assert_eq!(ask_udp(&cluster.ns("outside"), node, 1), Err("ConnectionRefused".to_owned()));
        // And about what a pod sends to the world.
        let world: SocketAddr =
            if v6 { "[fd77::1]:9998" } else { "192.168.77.1:9998" }.parse().unwrap();
        assert_eq!(ask_udp(&cluster.ns("p0"), world, 1), Err("ConnectionRefused".to_owned()));
    }
    assert_eq!(cluster.counters().failed, 0);
}

#[test]
fn a_smaller_mtu_on_the_way_is_found() {
    let mut cluster = Cluster::new("mtu");
    serve_all(&cluster);
    // The way to the other node's pod is narrow, behind its node; the client does not know.
    let other = cluster.ns("other");
    for v6 in [false, true] {
        cluster.service(40 + u32::from(v6), &vip(v6).to_string(), &[at(remote(v6), 8080)]);
    }
    let node = cluster.ns("node");
    crate::kernel::lab::ip(&["-n", &node, "link", "set", "up1", "mtu", "1400"]);
    crate::kernel::lab::ip(&["-n", &other, "link", "set", "eth0", "mtu", "1400"]);
    for v6 in [false, true] {
        let (name, _) = ask(&cluster.ns("p0"), vip(v6), 200_000).unwrap();
        assert_eq!(name, "other");
    }
}

#[test]
fn fragments_follow_their_first() {
    let mut cluster = Cluster::new("frag");
    serve_all(&cluster);
    for v6 in [false, true] {
        cluster.service(50 + u32::from(v6), &vip(v6).to_string(), &[at(pod(v6, 1), 8080)]);
        // Larger than the server's buffer would be cut; 1900 bytes are two fragments, and on their way back the node
        // cuts the first again.
        for (role, link) in [("p0", "eth0"), ("node", "pod0")] {
            crate::kernel::lab::ip(&["-n", &cluster.ns(role), "link", "set", link, "mtu", "1300"]);
        }
        let mut answer = ask_udp(&cluster.ns("p0"), vip(v6), 1900);
        if v6 {
            // The first answer is lost: only its sender may cut it, and has to learn of the narrow link.
            answer = ask_udp(&cluster.ns("p0"), vip(v6), 1900);
        }
        assert_eq!(answer.map(|(name, _)| name).as_deref(), Ok("p1"), "IPv6: {v6}");
    }
}

#[test]
fn datagrams_from_before_a_service_find_it() {
    let mut cluster = Cluster::new("late");
    serve_all(&cluster);
    let client = cluster.ns("p0");
    let socket = within(&client, || std::net::UdpSocket::bind("10.244.1.10:40123").unwrap());
    socket.set_read_timeout(Some(std::time::Duration::from_millis(300))).unwrap();
    let ask = || {
        socket.send_to(b"x", vip(false)).unwrap();
        let mut buffer = [0; 100];
        socket.recv_from(&mut buffer).map(|(_, from)| from)
    };
    assert!(ask().is_err() && ask().is_err(), "there is no such service");
    cluster.service(60, &vip(false).to_string(), &[at(pod(false, 1), 8080)]);
    // As the agent does: with a new revision everything is looked at again.
    let policy = cluster.datapath.policy();
    let mut settings = policy.settings().unwrap();
    settings.revision += 1;
    policy.set_settings(settings).unwrap();
    assert_eq!(ask().unwrap(), vip(false));
    // Its backend goes: the next datagram goes to another one.
    let slots = cluster.backends(60, &[at(pod(false, 2), 8080)]);
    cluster.frontend(17, vip(false), simple(60, slots));
    let tables = cluster.datapath.services();
    let gone = tables
        .snapshot()
        .unwrap()
        .backends
        .iter()
        .position(|backend| backend.address == mapped(pod(false, 1)) && backend.service == 60);
    let none = datapath_abi::service::Backend { address: [0; 16], port: 0, flags: 0, service: 0 };
    tables.put_backends(&[(gone.unwrap() as u32, none)]).unwrap();
    assert_eq!(ask().unwrap(), vip(false));
    let mut backends = std::collections::BTreeSet::new();
    let connections = cluster.datapath.connections();
    connections
        .walk(&mut |_, value| {
            if value.service == 60 {
                backends.insert(value.stack_addr);
            }
        })
        .unwrap();
    assert_eq!(backends, [mapped(pod(false, 2))].into());
}

#[test]
fn every_packet_is_counted_as_its_interface_counts_it() {
    let mut cluster = Cluster::new("sum");
    serve_all(&cluster);
    let before: Vec<_> =
        cluster_links(&cluster).into_iter().map(|(_, link, account)| (link, account)).collect();
    let node: SocketAddr = "192.168.77.10:30090".parse().unwrap();
    for v6 in [false, true] {
        let backends = [at(pod(v6, 1), 8080), at(remote(v6), 8080)];
        cluster.service(70 + u32::from(v6), &vip(v6).to_string(), &backends);
    }
    cluster.service(72, &node.to_string(), &[at(pod(false, 2), 8080), at(remote(false), 8080)]);
    for _ in 0..10 {
        for v6 in [false, true] {
            ask(&cluster.ns("p0"), vip(v6), 20_000).unwrap();
            ask_udp(&cluster.ns("p0"), vip(v6), 700).unwrap();
        }
        ask(&cluster.ns("outside"), node, 20_000).unwrap();
        ask_udp(&cluster.ns("outside"), node, 700).unwrap();
    }
    let mut last = Vec::new();
    for _ in 0..100 {
        std::thread::sleep(std::time::Duration::from_millis(50));
        let now = cluster_links(&cluster);
        if now == last {
            break;
        }
        last = now;
    }
    for ((name, link, account), (link_before, account_before)) in last.into_iter().zip(before) {
        let (link, account) = (link - link_before, account - account_before);
        assert!(link.rx.0 + link.tx.0 > 20, "{name}: {link:?}");
        assert_eq!(link, account, "{name}");
    }
}

/// Name of each interface of the node, what it has counted, and what we have.
fn cluster_links(cluster: &Cluster) -> Vec<(String, Link, Link)> {
    let of = |attached: datapath_loader::Attached| {
        let (node, name) = (cluster.ns("node"), attached.name.clone());
        let output =
            crate::kernel::lab::ip(&["-n", &node, "-j", "-s", "link", "show", "dev", &name]);
        let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let count = |way: &str| {
            let stats = &json[0]["stats64"][way];
            (stats["packets"].as_u64().unwrap(), stats["bytes"].as_u64().unwrap())
        };
        let link = Link { rx: count("rx"), tx: count("tx") };
        (name, link, account(&cluster.datapath, &attached))
    };
    cluster.datapath.attached().into_iter().map(of).collect()
}
