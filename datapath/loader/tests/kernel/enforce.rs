//! Policy on real packets. The endpoint is `there`: what it sends comes in by the ingress hook of
//! `here`'s interface.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use datapath_abi::policy::{
    ALLOW, ANYBODY, AUDIT, DENY, DeniedKey, EGRESS, HOST_IDENTITY, ICMPV4, ICMPV6, INGRESS, Peer,
    PolicySide, SUBJECT_AUDIT, SUBJECT_HOST, Section, TCP, UDP,
};
use datapath_loader::{Event, Mode};

use crate::kernel::lab::{enter, within};
use crate::kernel::stage::{DEFAULT_DENY, HERE, Stage, address, connects, datagrams, goes, pair};
use crate::kernel::tables::{NO_SIDE, allow, deny};
use crate::kernel::traffic;

fn endpoint_of(name: &str, clsact: bool) {
    let mut stage = Stage::by(name, clsact);
    let (here, there) = (stage.lab.here(), stage.lab.there());
    // Neighbours are known, for what is asked of ARP counts too.
    stage.lab.run(&here, &["ping", "-c", "1", "10.9.0.2"]);
    let before = stage.settled();
    let ingress = stage.only(TCP, &[7001]);
    let egress = stage.only(UDP, &[53]);
    stage.enforce([ingress, egress], 0);
    for v6 in [false, true] {
        let (a, b) = if v6 { ("fd09::1", "fd09::2") } else { ("10.9.0.1", "10.9.0.2") };
        assert!(connects(&here, &there, b, 7001), "allowed");
        assert!(!connects(&here, &there, b, 7002), "another port");
        assert!(!connects(&there, &here, a, 7001), "another direction");
        assert_eq!(datagrams(&there, &here, a, 53, 10, 100), 10);
        assert_eq!(datagrams(&there, &here, a, 54, 10, 100), 0);
        assert_eq!(datagrams(&here, &there, b, 54, 10, 100), 0);
    }
    for (key, value) in stage.connections() {
        if matches!(key.protocol(), 6 | 17) && value.revision == 2 {
            assert_eq!((value.verdict, value.origin, value.peer_identity), (ALLOW, 42, 7));
        }
    }
    // To the packet: what was refused, by whom and why.
    for (source, destination, hook) in [("10.9.0.2", "10.9.0.1", 0), ("10.9.0.1", "10.9.0.2", 1)] {
        let denied = stage.denied();
        let (_, value) = denied
            .iter()
            .find(|(key, _)| {
                key.source == address(source)
                    && key.destination == address(destination)
                    && (key.protocol, key.port) == (17, 54)
            })
            .expect("an entry");
        assert_eq!((value.packets, value.bytes, value.attempts), (10, 1280, 10));
        assert_eq!(value.peer_identity, 7);
        let hooks = denied.iter().filter(|(key, _)| key.port == 54 && key.hook == hook).count();
        assert_eq!(hooks, 2, "v4 and v6");
        assert!(denied.iter().all(|(key, _)| key.origin == DEFAULT_DENY));
    }
    stage.balances(before, (0, 0));
    stage.datapath.remove().unwrap();
}

#[test]
fn an_endpoint_by_tcx() {
    endpoint_of("pol", false);
}

#[test]
fn an_endpoint_by_clsact() {
    endpoint_of("polc", true);
}

#[test]
fn a_verdict_stands_until_the_revision_moves() {
    let mut stage = Stage::new("rev");
    let ingress = stage.only(TCP, &[7001]);
    stage.enforce([ingress, NO_SIDE], 0);
    let (client, server) = pair(&stage, 7001);
    assert!(goes(&client, &server) && goes(&server, &client));
    let nothing = stage.only(TCP, &[]);
    stage.write([nothing, NO_SIDE], 0);
    assert!(goes(&client, &server) && goes(&server, &client), "no table was asked");
    assert!(!connects(&stage.lab.here(), &stage.lab.there(), "10.9.0.2", 7003), "a new one asks");
    stage.enforce([nothing, NO_SIDE], 0);
    assert!(!goes(&client, &server), "judged again");
    assert!(!goes(&server, &client), "both directions obey");
    let found = stage.connections();
    let entry = found.iter().find(|(key, _)| key.low_port == 7001 || key.high_port == 7001);
    let value = entry.unwrap().1;
    assert_eq!((value.verdict, value.origin), (DENY, DEFAULT_DENY));
    let denied = stage.denied();
    let of = |reply: u8| {
        let is = |key: &DeniedKey| key.port == 7001 && key.hook >> 1 == reply;
        denied.iter().find(|(key, _)| is(key)).map_or(0, |(_, value)| value.packets)
    };
    assert!(of(0) > 0 && of(1) > 0, "{denied:?}");
    // And back: what was sent meanwhile arrives by retransmission.
    stage.enforce([ingress, NO_SIDE], 0);
    client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    server.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    assert!(goes(&client, &server) && goes(&server, &client));
    stage.datapath.remove().unwrap();
}

#[test]
fn audit_forwards_and_tells() {
    let mut stage = Stage::new("audit");
    let mut events = stage.datapath.events().unwrap();
    let nothing = stage.only(TCP, &[]);
    stage.enforce([nothing, nothing], SUBJECT_AUDIT);
    traffic::tcp(&stage.lab, false, 7001, 5, 1000);
    let judged = stage.connections();
    let of: Vec<_> = judged.iter().filter(|(key, _)| key.protocol() == 6).collect();
    assert_eq!(of.len(), 5);
    assert!(of.iter().all(|(_, value)| (value.verdict, value.origin) == (AUDIT, DEFAULT_DENY)));
    assert!(stage.denied().is_empty());
    let mut told = 0;
    events.drain(&mut |event| {
        if let Event::Denied(event) = event
            && event.key.protocol == 6
        {
            assert_eq!(event.verdict, u32::from(AUDIT));
            assert_eq!((event.key.port, event.key.origin), (7001, DEFAULT_DENY));
            told += 1;
        }
    });
    assert_eq!(told, 5);
    // A policy in audit mode beside none that is enforced.
    let audited = PolicySide { audited: nothing.enforced, ..NO_SIDE };
    stage.enforce([audited, NO_SIDE], 0);
    traffic::tcp(&stage.lab, false, 7002, 1, 1000);
    let judged = stage.connections();
    let value = judged.iter().find(|(key, _)| key.low_port == 7002 || key.high_port == 7002);
    assert_eq!(value.unwrap().1.verdict, AUDIT);
    stage.datapath.remove().unwrap();
}

#[test]
fn the_first_refused_packet_of_a_kind_is_told() {
    let mut stage = Stage::new("told");
    let mut events = stage.datapath.events().unwrap();
    let nothing = stage.only(TCP, &[]);
    stage.enforce([nothing, NO_SIDE], 0);
    let (here, there) = (stage.lab.here(), stage.lab.there());
    assert_eq!(datagrams(&here, &there, "10.9.0.2", 54, 50, 10), 0);
    let mut told = Vec::new();
    events.drain(&mut |event| {
        if let Event::Denied(event) = event
            && event.key.protocol == 17
        {
            told.push(*event);
        }
    });
    assert_eq!(told.len(), 1);
    assert_eq!((told[0].verdict, told[0].key.port, told[0].peer_identity), (2, 54, 7));
    // Removing loses nothing: final values, then gone.
    let policy = stage.datapath.policy();
    let keys: Vec<_> = stage.denied().into_iter().map(|(key, _)| key).collect();
    let retired = policy.retire_denied(&keys).unwrap();
    let of = retired.iter().find(|(key, _)| *key == told[0].key).unwrap();
    assert_eq!((of.1.packets, of.1.retired), (50, 1));
    assert_eq!(datagrams(&here, &there, "10.9.0.2", 54, 5, 10), 0);
    let causes = stage.datapath.interfaces(stage.attached.ifindex).unwrap()[1].causes;
    assert_eq!(causes[datapath_abi::iface::DENIED_FULL].packets, 5);
    policy.remove_denied(&keys).unwrap();
    assert_eq!(datagrams(&here, &there, "10.9.0.2", 54, 5, 10), 0);
    assert!(stage.denied().iter().any(|(key, value)| *key == told[0].key && value.packets == 5));
    stage.datapath.remove().unwrap();
}

#[test]
fn the_host_is_judged_and_what_it_forwards_is_not() {
    let mut stage = Stage::new("host");
    let (here, there) = (stage.lab.here(), stage.lab.there());
    // Another address of `here` stands for a pod behind it.
    stage.lab.run(&here, &["ip", "addr", "add", "10.9.0.9/32", "dev", "lo"]);
    stage.lab.run(&there, &["ip", "route", "add", "10.9.0.9", "via", "10.9.0.1"]);
    let peer = *stage.tables.hosts.get(&address("10.9.0.1")).unwrap();
    let host = Peer { identity: HOST_IDENTITY, ..peer };
    for text in ["10.9.0.1", "fd09::1"] {
        stage.tables.hosts.insert(address(text), host);
    }
    stage.tables.hosts.insert(address("10.9.0.2"), peer);
    stage.tables.hosts.insert(address("fd09::2"), peer);
    let ingress = stage.only(UDP, &[7000]);
    let egress = stage.only(UDP, &[7000]);
    stage.enforce([ingress, egress], SUBJECT_HOST);
    for v6 in [false, true] {
        let (a, b) = if v6 { ("fd09::1", "fd09::2") } else { ("10.9.0.1", "10.9.0.2") };
        assert_eq!(datagrams(&there, &here, a, 7000, 5, 10), 5);
        assert_eq!(datagrams(&there, &here, a, 7001, 5, 10), 0);
        assert_eq!(datagrams(&here, &there, b, 7000, 5, 10), 5);
        assert_eq!(datagrams(&here, &there, b, 7001, 5, 10), 0);
    }
    assert_eq!(datagrams(&there, &here, "10.9.0.9", 7001, 5, 10), 5, "not the host's");
    let denied = stage.denied();
    let at =
        |hook: u8| denied.iter().filter(|(key, _)| key.hook == hook && key.port == 7001).count();
    assert_eq!((at(0), at(1)), (2, 2), "{denied:?}");
    stage.datapath.remove().unwrap();
}

#[test]
fn fragments_follow_their_first() {
    let mut stage = Stage::new("frag");
    let egress = stage.only(UDP, &[7000]);
    stage.enforce([NO_SIDE, egress], 0);
    let (here, there) = (stage.lab.here(), stage.lab.there());
    // Incoming: a sender of its own kind gives up at the first fragment that is refused.
    for at in ["10.9.0.1", "fd09::1"] {
        assert_eq!(datagrams(&there, &here, at, 7000, 5, 5000), 5);
        assert_eq!(datagrams(&there, &here, at, 7001, 5, 5000), 0);
    }
    let denied = stage.denied();
    let of: Vec<_> = denied.iter().filter(|(key, _)| key.protocol == 17).collect();
    assert_eq!(of.len(), 2, "{denied:?}");
    assert!(of.iter().all(|(key, value)| key.port == 7001 && value.packets == 20), "{of:?}");
    stage.datapath.remove().unwrap();
}

#[test]
fn errors_about_what_is_allowed_pass() {
    let mut stage = Stage::new("icmp");
    let (here, there) = (stage.lab.here(), stage.lab.there());
    let ingress = stage.only(UDP, &[7000, 7001]);
    let nothing = stage.only(UDP, &[]);
    stage.enforce([ingress, nothing], 0);
    // Nobody listens: the error goes against the isolated egress, as related.
    for at in ["10.9.0.2:7000", "[fd09::2]:7000"] {
        let at: SocketAddr = at.parse().unwrap();
        let error = within(&here, move || {
            let any = if at.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let socket = UdpSocket::bind(any).unwrap();
            socket.connect(at).unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
            socket.send(&[1]).unwrap();
            socket.recv(&mut [0]).unwrap_err()
        });
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused, "{at}");
    }
    // Echoes are a question of policy; the reply belongs to the request.
    let pings = |from: &str, at: &str| {
        let command = ["netns", "exec", from, "ping", "-c", "2", "-i", "0.1", "-W", "1", at];
        std::process::Command::new("ip").args(command).output().unwrap().status.success()
    };
    assert!(!pings(&here, "10.9.0.2") && !pings(&there, "10.9.0.1") && !pings(&here, "fd09::2"));
    let mut echo = ingress;
    let all = [allow(HERE, 42), deny(ANYBODY, DEFAULT_DENY)];
    let none = [deny(ANYBODY, DEFAULT_DENY)];
    for (section, kind) in [(ICMPV4, 8), (ICMPV6, 128)] {
        let intervals: [(u32, &[_]); 3] = [(0, &none), (kind, &all), (kind + 1, &none)];
        let allowed: Section = stage.tables.section(&intervals);
        echo.enforced[section] = allowed;
    }
    stage.enforce([echo, nothing], 0);
    assert!(pings(&here, "10.9.0.2") && pings(&here, "fd09::2"));
    assert!(!pings(&there, "10.9.0.1") && !pings(&there, "fd09::1"));
    stage.datapath.remove().unwrap();
}

#[test]
fn observing_drops_nothing() {
    let mut stage = Stage::new("obs");
    let nothing = stage.only(TCP, &[]);
    stage.enforce([nothing, nothing], 0);
    let (here, there) = (stage.lab.here(), stage.lab.there());
    assert!(!connects(&here, &there, "10.9.0.2", 7001));
    stage.attached = stage.lab.attach_as(&mut stage.datapath, Mode::Observe);
    assert_eq!(stage.attached.mode, Mode::Observe);
    assert!(connects(&here, &there, "10.9.0.2", 7001));
    stage.lab.attach_as(&mut stage.datapath, Mode::Enforce);
    assert!(!connects(&here, &there, "10.9.0.2", 7002));
    stage.datapath.remove().unwrap();
}

fn outlives(name: &str, clsact: bool) {
    let mut stage = Stage::by(name, clsact);
    let ingress = stage.only(TCP, &[7001, 7002]);
    stage.enforce([ingress, NO_SIDE], 0);
    let (client, server) = pair(&stage, 7001);
    assert!(goes(&client, &server));
    let Stage { lab, datapath, tables, .. } = stage;
    drop(datapath);
    let (here, there) = (lab.here(), lab.there());
    // Nobody is there.
    assert!(goes(&client, &server) && goes(&server, &client));
    assert!(
        connects(&here, &there, "10.9.0.2", 7002) && !connects(&here, &there, "10.9.0.2", 7003)
    );
    // Again and again, under traffic: not one new connection is let pass, none that stands is lost.
    let stop = std::sync::atomic::AtomicBool::new(false);
    let (mut bytes, mut opened) = (0u32, 0u32);
    std::thread::scope(|scope| {
        let stands = scope.spawn(|| {
            let mut count = 0;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                assert!(goes(&client, &server) && goes(&server, &client), "after {count}");
                count += 1;
            }
            count
        });
        let leaks = scope.spawn(|| {
            enter(&here);
            let socket = UdpSocket::bind("10.9.0.1:0").unwrap();
            let mut count = 0;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                socket.send_to(&[1], "10.9.0.2:9").unwrap();
                std::thread::sleep(Duration::from_micros(200));
                count += 1;
            }
            count
        });
        for turn in 0..10 {
            // An agent that does not ask for policy leaves it in force.
            let mut options = lab.options.clone();
            if turn % 3 == 2 {
                options.policy = None;
            }
            let datapath = within(&here, move || {
                datapath_loader::Datapath::open_with(options, clsact).unwrap()
            });
            assert!(datapath.adopted());
            assert_eq!(datapath.attached()[0].mode, Mode::Enforce);
            let snapshot = datapath.policy().snapshot().unwrap();
            assert_eq!(snapshot.settings.unwrap().revision, tables.revision);
            assert_eq!(snapshot.policies, [(1, tables.policies[&1])]);
            assert_eq!(snapshot.hosts.len(), tables.hosts.len());
            assert_eq!((snapshot.cidrs.len(), snapshot.subjects.len()), (1, 1));
            assert_eq!(snapshot.rules[..tables.rules.len()], tables.rules[..]);
            assert_eq!(snapshot.intervals[..tables.intervals.len()], tables.intervals[..]);
            assert_eq!(snapshot.classes[..tables.classes.len()], tables.classes[..]);
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        bytes = stands.join().unwrap();
        opened = leaks.join().unwrap();
    });
    let datapath = lab.open_with(clsact);
    let mut refused = 0;
    datapath
        .policy()
        .denied(&mut |key, value| {
            if key.port == 9 {
                refused += value.packets;
            }
        })
        .unwrap();
    println!("{bytes} round trips, {opened} attempts");
    assert_eq!(refused, u64::from(opened), "every one was refused");
    datapath.remove().unwrap();
}

#[test]
fn verdicts_outlive_the_process_by_tcx() {
    outlives("keep", false);
}

#[test]
fn verdicts_outlive_the_process_by_clsact() {
    outlives("keepc", true);
}

const _: () = assert!(INGRESS == 0 && EGRESS == 1);
