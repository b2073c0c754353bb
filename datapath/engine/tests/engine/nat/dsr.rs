//! Direct server return: two nodes, and what goes through both.

use datapath_abi::service::{DSR, LOCAL, NAT_DESTINATION, NAT_DSR, NAT_OUTSIDE};
use datapath_engine::dsr::{OuterV4, OuterV6};
use datapath_engine::parse::{IPIP, IPV6};
use datapath_engine::{Case, enforce_in};

use super::*;

/// Its uplink's addresses are the services'.
fn forwarding(seed: u64) -> Node {
    let mut node = Node::new(seed, (40_000, 50_000));
    node.frontends.values_mut().for_each(|frontend| frontend.flags = DSR);
    node.nodes = nodes();
    node
}

/// The first node's addresses.
fn nodes() -> Vec<IpAddr> {
    ["192.168.0.1", "fd99::1"].map(|text| text.parse().unwrap()).into()
}

/// All backends are here.
fn answering(seed: u64) -> Node {
    let mut node = Node::new(seed, (40_000, 50_000));
    node.nodes = nodes();
    node.frontends.clear();
    for (index, backend) in node.backends.iter_mut().enumerate() {
        backend.flags |= LOCAL;
        // Those of the two services for the world, which have the other node's addresses.
        let key = LocalKey { address: backend.address, service: 0, port: 80, protocol: 0, pad: 0 };
        if index >= 12 {
            for protocol in [TCP, UDP] {
                node.locals.insert(LocalKey { protocol, ..key }, index as u32);
            }
        }
    }
    node
}

/// What becomes of a frame, and the case that was made of it.
fn pass(node: &Node, ifindex: u32, hook: u32, bytes: &[u8]) -> (Fate, Case) {
    let length = bytes.len() as u32;
    let frame =
        Frame { ifindex, hook, length, segments: 0, link_header: 14, ethertype: 0, outer: 0 };
    let mut case = Case::NONE;
    case.seen.frame = frame;
    (enforce_in(&Slice(bytes), node, &mut case), case)
}

/// The frame as a node forwards it.
fn encapsulated(bytes: &[u8], from: IpAddr, to: IpAddr) -> Vec<u8> {
    let first = bytes[14..18].try_into().unwrap();
    let word = |octets: &[u8]| u32::from_ne_bytes(octets.try_into().unwrap());
    let length = bytes.len() as u32 - 14;
    let (from, to) = (octets(from), octets(to));
    let header: Vec<u32> = if bytes[14] >> 4 == 4 {
        OuterV4::new(first, length, word(&from[12..]), word(&to[12..])).0.into()
    } else {
        let words = |octets: [u8; 16]| std::array::from_fn(|n| word(&octets[n * 4..][..4]));
        OuterV6::new(first, length, words(from), words(to)).0.into()
    };
    let header = header.into_iter().flat_map(u32::to_ne_bytes);
    [bytes[..14].to_vec(), header.collect(), bytes[14..].to_vec()].concat()
}

/// What the kernel makes of it: without the outer header, changed.
fn result(bytes: &[u8], case: &Case) -> Vec<u8> {
    let mut inner = bytes.to_vec();
    inner.drain(14..14 + case.seen.frame.outer as usize);
    let edited = Bytes(RefCell::new(inner));
    assert!(rewrite(&edited, &case.seen, &case.nat.change));
    edited.0.into_inner()
}

fn client(v6: bool, protocol: u8, port: u16) -> Way {
    let (from, to) = if v6 { ("fd88::7", VIPS[5]) } else { ("172.16.0.7", VIPS[4]) };
    Way { protocol, from: (from.parse().unwrap(), port), to: (to.parse().unwrap(), 80) }
}

fn entry(node: &Node, way: Way) -> ConnValue {
    let ends = |(ip, port)| (octets(ip), port);
    let key = ConnKey::between((WORLD, INGRESS, way.protocol), ends(way.from), ends(way.to));
    node.sim.find(&key).expect("an entry").read()
}

#[test]
fn the_first_node_says_where_and_changes_nothing() {
    let node = forwarding(7);
    for (v6, protocol) in [(false, TCP), (false, UDP), (true, TCP), (true, UDP)] {
        let way = client(v6, protocol, 1000);
        let packet = way.packet();
        let (fate, case) = pass(&node, WORLD, INGRESS, &packet);
        let change = case.nat.change;
        assert_eq!((fate, change.kind, change.port), (Fate::Change, u32::from(NAT_DSR), 8080));
        let value = entry(&node, way);
        assert_eq!((value.nat, value.stack_addr), (NAT_DSR, change.address));
        assert_eq!((value.stack_port, value.stack_peer_port), (8080, 1000));
        assert_eq!(node.backends[value.backend as usize].address, change.address);
        for _ in 0..10 {
            let (fate, case) = pass(&node, WORLD, INGRESS, &packet);
            assert_eq!((fate, case.nat.change.address), (Fate::Change, change.address));
        }
    }
    assert!(node.translations.borrow().is_empty());
    let counters = *node.counters.borrow();
    assert_eq!((counters.balanced, counters.dsr), (4, 4));
}

#[test]
fn what_it_cannot_forward_it_masquerades() {
    let kind = |node: &Node, ifindex| {
        let way = client(false, TCP, 1000);
        let (fate, case) = pass(node, ifindex, INGRESS, &way.packet());
        assert_eq!(fate, Fate::Change);
        case.nat.change.kind as u8
    };
    assert_eq!(kind(&forwarding(1), WORLD), NAT_DSR);
    assert_eq!(kind(&forwarding(1), POD), NAT_DESTINATION);
    assert_eq!(kind(&Node::new(1, (40_000, 50_000)), WORLD), NAT_OUTSIDE);
    let mut local = forwarding(1);
    local.backends.iter_mut().for_each(|backend| backend.flags |= LOCAL);
    assert_eq!(kind(&local, WORLD), NAT_OUTSIDE);
    let mut nameless = forwarding(1);
    nameless.served[1].v4 = [0; 16];
    assert_eq!(kind(&nameless, WORLD), NAT_OUTSIDE);
    let mut unknown = forwarding(1);
    unknown.nodes.clear();
    assert_eq!(kind(&unknown, WORLD), NAT_OUTSIDE);
}

#[test]
fn a_connection_that_begins_again_is_balanced_again() {
    let node = forwarding(3);
    let way = client(false, TCP, 1000);
    let flags = |flags: u8| {
        let mut packet = way.packet();
        packet[47] = flags;
        packet
    };
    let mut served = HashSet::new();
    for _ in 0..40 {
        let (_, case) = pass(&node, WORLD, INGRESS, &flags(2));
        served.insert(case.nat.change.address);
        // A SYN that is sent again, while none of its connection has ended, goes where it went.
        let (_, again) = pass(&node, WORLD, INGRESS, &flags(2));
        assert_eq!(again.nat.change.address, case.nat.change.address);
        for flags in [flags(16), flags(17)] {
            assert_eq!(pass(&node, WORLD, INGRESS, &flags).0, Fate::Change);
        }
    }
    assert_eq!(served.len(), 3);
}

#[test]
fn through_both_nodes_and_back_is_the_identity() {
    let (a, b) = (forwarding(11), answering(12));
    let mut looks = HashSet::new();
    for number in 0..4000u64 {
        let (v6, protocol) = (number % 2 == 0, if number % 4 < 2 { TCP } else { UDP });
        let way = client(v6, protocol, 1000 + (number / 8) as u16);
        let packet = way.packet();
        let (_, case) = pass(&a, WORLD, INGRESS, &packet);
        let backend = ip(&case.nat.change.address);
        let outer = encapsulated(&packet, way.to.0, backend);
        let around = headers(&outer);
        assert_eq!((ip(&around.source), ip(&around.destination)), (way.to.0, backend));
        assert_eq!(around.protocol, if v6 { IPV6 } else { IPIP });
        let before = b.sim.counted();
        let (fate, case) = pass(&b, WORLD, INGRESS, &outer);
        assert_eq!((fate, case.nat.change.kind as u8), (Fate::Change, NAT_DESTINATION));
        let counted = b.sim.counted();
        let expected = (before.0 + 1, before.1 + outer.len() as u64);
        assert_eq!(counted, expected, "the frame as it came");
        let inner = Way::of(&result(&outer, &case));
        let to = (backend, 8080);
        assert_eq!((inner.from, inner.to), ((way.from.0, inner.from.1), to));
        looks.insert(inner);
        let answer = b.pass(WORLD, EGRESS, &inner.back().packet()).unwrap();
        assert_eq!(Way::of(&answer), way.back());
    }
    assert_eq!(looks.len(), 2000, "as many as connections");
    let counters = *b.counters.borrow();
    assert_eq!((counters.dsr_arrived, counters.balanced, counters.full), (2000, 0, 0));
    let [node, backend] = [VIPS[4], BACKENDS[0]].map(|text| text.parse().unwrap());
    let outer = encapsulated(&client(false, TCP, 1).packet(), node, backend);
    assert_eq!(fold(add(&outer[14..34])), 0, "its checksum");
}

#[test]
fn the_backend_is_the_one_that_is_named() {
    let b = answering(5);
    let way = client(false, UDP, 1000);
    for backend in [BACKENDS[0], BACKENDS[2], BACKENDS[0], BACKENDS[1]] {
        let backend: IpAddr = backend.parse().unwrap();
        for _ in 0..3 {
            let outer = encapsulated(&way.packet(), way.to.0, backend);
            let (_, case) = pass(&b, WORLD, INGRESS, &outer);
            assert_eq!(Way::of(&result(&outer, &case)).to, (backend, 8080));
            assert_eq!(entry(&b, way).stack_addr, octets(backend));
        }
        assert_eq!(b.translations.borrow().len(), 1, "the one before is gone");
    }
}

#[test]
fn a_connection_goes_on_when_its_backend_serves_no_more() {
    let mut b = answering(5);
    let backend: IpAddr = BACKENDS[0].parse().unwrap();
    let outer = |port| {
        let way = client(false, TCP, port);
        encapsulated(&way.packet(), way.to.0, backend)
    };
    assert_eq!(pass(&b, WORLD, INGRESS, &outer(1000)).1.seen.frame.outer, 20);
    b.locals.clear();
    assert_eq!(pass(&b, WORLD, INGRESS, &outer(1000)).1.seen.frame.outer, 20);
    assert_eq!(pass(&b, WORLD, INGRESS, &outer(1001)).1.seen.frame.outer, 0);
}

#[test]
fn everything_else_stays_as_it_is() {
    let b = answering(5);
    let way = client(false, TCP, 1000);
    let node: IpAddr = VIPS[4].parse().unwrap();
    let backend: IpAddr = BACKENDS[0].parse().unwrap();
    let packet = way.packet();
    let good = encapsulated(&packet, node, backend);
    let other_port = Way { to: (way.to.0, 81), ..way };
    let other_address = Way { to: ("192.168.0.2".parse().unwrap(), 80), ..way };
    let mut tagged = good.clone();
    tagged.splice(12..12, [0x81, 0, 0, 7]);
    let mut options = good.clone();
    options[14] = 0x46;
    options.splice(34..34, [1; 4]);
    options[16..18].copy_from_slice(&((good.len() - 14 + 4) as u16).to_be_bytes());
    let mut malformed = good.clone();
    malformed[34] = 0x43;
    let mut part = good.clone();
    part[20..22].copy_from_slice(&[0x20, 0]);
    let left: [(&str, u32, u32, Vec<u8>); 10] = [
        ("from nobody", WORLD, INGRESS, encapsulated(&packet, way.from.0, backend)),
        ("to nobody", WORLD, INGRESS, encapsulated(&packet, node, way.from.0)),
        ("no frontend's port", WORLD, INGRESS, encapsulated(&other_port.packet(), node, backend)),
        ("no node's", WORLD, INGRESS, encapsulated(&other_address.packet(), node, backend)),
        ("by a pod", POD, INGRESS, good.clone()),
        ("going out", WORLD, EGRESS, good.clone()),
        ("behind a tag", WORLD, INGRESS, tagged),
        ("with options", WORLD, INGRESS, options),
        ("no packet within", WORLD, INGRESS, malformed),
        ("in part", WORLD, INGRESS, part),
    ];
    for (what, ifindex, hook, bytes) in left {
        let before = b.sim.counted();
        let (fate, case) = pass(&b, ifindex, hook, &bytes);
        assert_eq!((fate, case.seen.frame.outer), (Fate::Pass, 0), "{what}");
        assert_eq!(case.seen.headers.protocol, IPIP, "{what}");
        assert_eq!(b.sim.counted().0, before.0 + 1, "{what}");
    }
    assert_eq!(pass(&b, WORLD, INGRESS, &good).1.seen.frame.outer, 20);
    for length in 14..good.len() {
        assert_eq!(pass(&b, WORLD, INGRESS, &good[..length]).1.seen.frame.outer, 0);
    }
}
