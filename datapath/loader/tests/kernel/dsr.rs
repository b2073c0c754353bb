//! Direct server return on real packets: one node forwards, another one answers the client.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use datapath_abi::conn::{ConnKey, ConnValue};
use datapath_abi::service::{NAT_DESTINATION, NAT_DSR};

use crate::kernel::cluster::{ask, ask_udp, mapped, serve};
use crate::kernel::lab::{ip, within};

mod site;

use site::{Node, PORT, Site, client, node_port, pod, vip};

/// Connections of a node's uplink whose client asks for this address, with what came in and what went out.
fn entries(node: &Node, at: SocketAddr) -> Vec<(ConnKey, ConnValue, [u64; 2])> {
    let mut found = Vec::new();
    let uplink = node.attached[0].ifindex;
    let on = &mut |key: &ConnKey, value: &ConnValue| {
        let [_, to] = key.ingress_ends();
        if key.ifindex() == uplink && to == (mapped(at.ip()), at.port()) {
            let ingress = key.path() as usize;
            let packets = [value.dirs[ingress].packets, value.dirs[ingress ^ 1].packets];
            found.push((*key, *value, packets));
        }
    };
    node.datapath.connections().walk(on).unwrap();
    found
}

/// Node a has seen the client's packets alone; node b both ways.
fn check_ways(site: &Site, at: SocketAddr) {
    let v6 = at.is_ipv6();
    let (forwarded, answered) = (entries(&site.a, at), entries(&site.b, at));
    assert!(!forwarded.is_empty() && forwarded.len() == answered.len());
    for (_, value, [entered, left]) in forwarded {
        assert_eq!(
            (value.nat, value.stack_addr, value.stack_port),
            (NAT_DSR, mapped(pod(v6)), PORT)
        );
        assert!(entered > 0 && left == 0, "answers pass node a: {left}");
    }
    for (_, value, [entered, left]) in answered {
        assert_eq!((value.nat, value.stack_addr), (NAT_DESTINATION, mapped(pod(v6))));
        assert!(entered > 0 && left > 0, "{entered} {left}");
    }
}

fn serve_all(site: &Site) {
    for v6 in [false, true] {
        serve(&site.ns("pod"), SocketAddr::new(pod(v6), PORT), "pod");
    }
}

#[test]
fn the_backends_node_answers_the_client() {
    let site = Site::new("dsr");
    serve_all(&site);
    for v6 in [false, true] {
        for at in [vip(v6), node_port(v6)] {
            for _ in 0..5 {
                for asks in [ask, ask_udp] {
                    let (name, seen) = asks(&site.ns("client"), at, 1000).unwrap();
                    assert_eq!((name.as_str(), seen.ip()), ("pod", client(v6)));
                }
            }
            check_ways(&site, at);
        }
    }
    let (a, b) = (counters(&site.a), counters(&site.b));
    assert_eq!((a.failed, a.no_route, a.too_big, b.failed), (0, 0, 0, 0));
    assert_eq!((a.dsr, b.dsr_arrived), (40, 40));
    let mut translations = 0;
    site.a.datapath.services().translations(&mut |_, _| translations += 1).unwrap();
    assert_eq!(translations, 0, "node a translates nothing");
}

#[test]
fn what_xdp_sends_on_the_backends_node_takes_out() {
    let (site, _peer) = Site::accelerated("dsrq");
    serve_all(&site);
    // A veth does not complete the checksums that its sender has left to it, of what XDP sends on.
    let ns = site.ns("client");
    ip(&["netns", "exec", &ns, "ethtool", "-K", "eth0", "tx", "off"]);
    // Neighbours are found out for the first packets.
    for v6 in [false, true] {
        let _ = ask(&site.ns("client"), vip(v6), 10);
    }
    let before = site.a.datapath.flow_cache().counters().unwrap();
    for v6 in [false, true] {
        for at in [vip(v6), node_port(v6)] {
            for _ in 0..5 {
                let (name, seen) = ask(&site.ns("client"), at, 50_000).unwrap();
                assert_eq!((name.as_str(), seen.ip()), ("pod", client(v6)));
                let (name, seen) = ask_udp(&site.ns("client"), at, 1000).unwrap();
                assert_eq!((name.as_str(), seen.ip()), ("pod", client(v6)));
            }
            check_ways(&site, at);
        }
    }
    let after = site.a.datapath.flow_cache().counters().unwrap();
    let sent = (after.hits + after.misses) - (before.hits + before.misses);
    assert!(after.hits - before.hits >= 40 && sent >= 100, "{before:?} {after:?}");
    assert_eq!(counters(&site.b).failed, 0);
}

fn counters(node: &Node) -> datapath_abi::service::ServiceCounters {
    node.datapath.services().counters().unwrap()
}

#[test]
fn much_data_goes_and_every_packet_is_counted() {
    let site = Site::new("dsrb");
    serve_all(&site);
    let all = || [site.a.links(), site.b.links()].concat();
    let before = all();
    for v6 in [false, true] {
        ask(&site.ns("client"), vip(v6), 20 << 20).unwrap();
        ask(&site.ns("client"), node_port(v6), 1 << 20).unwrap();
        // In fragments, both ways.
        ask_udp(&site.ns("client"), vip(v6), 4000).unwrap_or_else(|_| {
            // The first was too big for the way to the backend: the client knows better now.
            ask_udp(&site.ns("client"), vip(v6), 4000).unwrap()
        });
        check_ways(&site, vip(v6));
    }
    assert!(
        counters(&site.a).too_big > 0,
        "the client's first segments are as long as its own link takes"
    );
    assert_eq!((counters(&site.a).no_route, counters(&site.b).failed), (0, 0));
    let mut last = all();
    for _ in 0..100 {
        std::thread::sleep(Duration::from_millis(50));
        let now = all();
        if now == last {
            break;
        }
        last = now;
    }
    for ((name, link, account), (_, link_before, account_before)) in last.into_iter().zip(before) {
        let (link, account) = (link - link_before, account - account_before);
        println!("{name}: {link:?}");
        assert!(link.rx.0 + link.tx.0 > 20, "{name}: {link:?}");
        assert_eq!(link, account, "{name}");
    }
}

#[test]
fn segments_may_be_cut_and_joined_on_the_way() {
    let site = Site::new("dsrg");
    serve_all(&site);
    let set = |role: &str, device: &str, what: &[&str]| {
        let ns = site.ns(role);
        let mut all = vec!["netns", "exec", &ns, "ethtool", "-K", device];
        all.extend(what);
        ip(&all);
    };
    let none = ["tso", "off", "gso", "off", "tx", "off"];
    for (role, device, what) in [
        // Node a has to cut what it has encapsulated, and node b joins it.
        ("a", "up0", &none[..]),
        ("b", "up0", &["gro", "on"]),
        // What node b has taken out it has to cut.
        ("b", "pod0", &none),
        ("client", "eth0", &none),
        ("a", "up0", &["gro", "on"]),
    ] {
        set(role, device, what);
        for v6 in [false, true] {
            let (name, seen) = ask(&site.ns("client"), vip(v6), 4 << 20).unwrap();
            assert_eq!((name.as_str(), seen.ip()), ("pod", client(v6)), "{role} {device}");
        }
    }
    assert_eq!((counters(&site.a).no_route, counters(&site.b).failed), (0, 0));
}

#[test]
fn clients_are_told_what_is_too_big() {
    let site = Site::new("dsrm");
    serve_all(&site);
    for (v6, expected) in [(false, "mtu 1480"), (true, "mtu 1460")] {
        ask(&site.ns("client"), vip(v6), 200_000).unwrap();
        let to = vip(v6).ip().to_string();
        let route = ip(&["-n", &site.ns("client"), "route", "get", &to]);
        let route = String::from_utf8_lossy(&route.stdout).into_owned();
        assert!(route.contains(expected), "{route}");
    }
    assert!(counters(&site.a).too_big > 0);
}

#[test]
fn errors_about_answers_reach_the_backend() {
    let site = Site::new("dsre");
    for v6 in [false, true] {
        let at = SocketAddr::new(pod(v6), PORT);
        let server = within(&site.ns("pod"), move || UdpSocket::bind(at).unwrap());
        let any: IpAddr = client(v6);
        let asker = within(&site.ns("client"), move || UdpSocket::bind((any, 50_000)).unwrap());
        asker.send_to(b"x", vip(v6)).unwrap();
        let mut buffer = [0; 100];
        server.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
        let (_, from) = server.recv_from(&mut buffer).unwrap();
        drop(asker);
        server.connect(from).unwrap();
        server.send(b"nobody hears this").unwrap();
        let error = server.recv(&mut buffer).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused, "{v6}");
    }
}

/// Sends a packet within another one, from a namespace's own address to the pod's.
fn send_within(namespace: &str, inner: Vec<u8>) {
    within(namespace, move || {
        // SAFETY: the descriptor is new and nobody else's; reads the packet, and a whole address.
        unsafe {
            let socket = libc::socket(libc::AF_INET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 4);
            assert!(socket >= 0, "{}", std::io::Error::last_os_error());
            let socket = OwnedFd::from_raw_fd(socket);
            let IpAddr::V4(pod) = pod(false) else { panic!("IPv4") };
            let to = libc::sockaddr_in {
                sin_family: libc::AF_INET as u16,
                sin_port: 0,
                sin_addr: libc::in_addr { s_addr: u32::from(pod).to_be() },
                sin_zero: [0; 8],
            };
            let sent = libc::sendto(
                socket.as_raw_fd(),
                inner.as_ptr().cast(),
                inner.len(),
                0,
                (&raw const to).cast(),
                16,
            );
            assert_eq!(sent, inner.len() as isize, "{}", std::io::Error::last_os_error());
        }
    });
}

/// A datagram of the client's.
fn datagram(to: [u8; 4], port: u16) -> Vec<u8> {
    let [a, b] = port.to_be_bytes();
    let udp = [0xc0, 0, a, b, 0, 9, 0, 0, b'x'];
    crate::kernel::raw::ipv4(17, [[192, 168, 10, 1], to], (0, 0), &udp)
}

#[test]
fn what_is_not_forwarded_by_a_node_is_not_taken_out() {
    let site = Site::new("dsrx");
    serve_all(&site);
    let vip = [203, 0, 113, 80];
    let outer = || {
        let mut packets = 0;
        let uplink = site.b.attached[0].ifindex;
        let on = &mut |key: &ConnKey, value: &ConnValue| {
            if key.protocol() == 4 && key.ifindex() == uplink {
                packets += value.dirs[0].packets + value.dirs[1].packets;
            }
        };
        site.b.datapath.connections().walk(on).unwrap();
        packets
    };
    let arrived = || counters(&site.b).dsr_arrived;
    let wait = || std::thread::sleep(Duration::from_millis(200));
    // By the client itself, which is no node.
    send_within(&site.ns("client"), datagram(vip, 80));
    wait();
    assert_eq!((arrived(), outer()), (0, 1));
    // By a node, but to no frontend's port, and to an address that is nobody's.
    send_within(&site.ns("a"), datagram(vip, 81));
    send_within(&site.ns("a"), datagram([203, 0, 113, 81], 80));
    // What is no packet at all.
    send_within(&site.ns("a"), vec![0x45; 7]);
    wait();
    assert_eq!((arrived(), outer()), (0, 4));
    // And one that is.
    send_within(&site.ns("a"), datagram(vip, 80));
    wait();
    assert_eq!((arrived(), outer()), (1, 4));
}
