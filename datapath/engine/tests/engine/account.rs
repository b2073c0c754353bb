//! Counting: each frame once, in the right place.

use datapath_abi::conn::{ConnKey, HIGH_TO_LOW, LOW_TO_HIGH};
use datapath_abi::event::CREATED;
use datapath_abi::iface;
use datapath_engine::Refusal;

use crate::engine::build::{A4, A6, B4, B6, Build, mapped};
use crate::engine::sim::Sim;

#[test]
fn both_directions_meet() {
    let sim = Sim::new();
    sim.egress(&Build::payload(10).udp(5000, 53).v4(17, A4, B4).eth4().0);
    sim.ingress(&Build::payload(100).udp(53, 5000).v4(17, B4, A4).eth4().0);
    sim.ingress(&Build::payload(100).udp(53, 5000).v4(17, B4, A4).eth4().padded().0);
    let (key, value) = sim.one();
    assert_eq!((key.low_addr, key.high_addr), (mapped(A4), mapped(B4)));
    assert_eq!((key.low_port, key.high_port), (5000, 53));
    // A is the low end and sends by egress: path 1.
    assert_eq!((key.ifindex(), key.path(), key.protocol()), (7, 1, 17));
    assert_eq!((value.dirs[LOW_TO_HIGH].packets, value.dirs[LOW_TO_HIGH].bytes), (1, 38));
    assert_eq!((value.dirs[HIGH_TO_LOW].packets, value.dirs[HIGH_TO_LOW].bytes), (2, 256));
    assert_eq!(value.client, LOW_TO_HIGH as u8);
    assert_eq!(*sim.events.borrow(), [(CREATED, 0)]);
    sim.balance();
}

#[test]
fn one_interface_passed_twice_is_two_entries() {
    let sim = Sim::new();
    let frame = Build::payload(10).udp(1, 2).v4(17, A4, B4).eth4().0;
    sim.egress(&frame);
    sim.ingress(&frame);
    let mut paths: Vec<_> = sim.connections().iter().map(|(key, _)| key.path()).collect();
    paths.sort_unstable();
    assert_eq!(paths, [0, 1]);
    sim.balance();
}

#[test]
fn padding_counts_as_the_interface_counts_it() {
    let sim = Sim::new();
    sim.ingress(&Build::payload(1).udp(1, 2).v4(17, A4, B4).eth4().padded().0);
    assert_eq!(sim.one().1.dirs[0].bytes, 46);
    sim.balance();
}

#[test]
fn super_packets_carry_their_segments_headers() {
    let sim = Sim::new();
    let frame = Build::payload(3000).udp(1, 2).v4(17, A4, B4).eth4().0;
    sim.observe(&frame, iface::INGRESS, 14, frame.len() as u32, 3);
    let (_, value) = sim.one();
    assert_eq!((value.dirs[0].packets, value.dirs[0].bytes), (1, 3028));
    assert_eq!((value.more[0].extra_segments, value.more[0].extra_bytes), (2, 2 * 28));
    sim.observe(&frame, iface::INGRESS, 14, frame.len() as u32, 3);
    assert_eq!(sim.one().1.more[0].extra_segments, 4);
}

#[test]
fn fragments_take_the_ports_of_their_first() {
    let sim = Sim::new();
    let udp = Build::payload(100).udp(1, 2);
    sim.ingress(&udp.v4_part(17, A4, B4, 9, 0x2000).eth4().0);
    sim.ingress(&Build::payload(100).v4_part(17, A4, B4, 9, 0x2000 | 20).eth4().0);
    sim.ingress(&Build::payload(8).v4_part(17, A4, B4, 9, 40).eth4().0);
    assert_eq!(sim.one().1.dirs[0].packets, 3);
    // Whose first was not seen has no ports.
    sim.ingress(&Build::payload(8).v4_part(17, A4, B4, 10, 40).eth4().0);
    let ports: Vec<_> = sim.connections().iter().map(|(key, _)| key.low_port).collect();
    assert!(ports.contains(&0) && ports.len() == 2, "{ports:?}");
    let udp = Build::payload(100).udp(1, 2).options(17, 0).fragment6(60, 1, 5);
    sim.ingress(&udp.v6(44, A6, B6).eth6().0);
    sim.ingress(&Build::payload(8).fragment6(60, 80, 5).v6(44, A6, B6).eth6().0);
    let six = sim.connections().into_iter().find(|(key, _)| key.low_addr == A6).unwrap();
    assert_eq!((six.0.protocol(), six.1.dirs[0].packets), (17, 2));
    sim.balance();
}

#[test]
fn what_is_no_flow_is_counted_by_kind() {
    let sim = Sim::new();
    sim.ingress(&Build::payload(28).ethernet(0x0806).0);
    sim.ingress(&Build::payload(40).ethernet(0x88cc).0);
    sim.ingress(&Build::payload(10).ethernet(0x0800).0);
    sim.ingress(&Build::payload(60).ethernet(0x0800).0);
    let causes = sim.causes.borrow();
    let counted = |cause: usize| (causes[cause].packets, causes[cause].bytes);
    assert_eq!(counted(iface::ARP), (1, 42));
    assert_eq!(counted(iface::OTHER), (1, 54));
    assert_eq!(counted(iface::MALFORMED), (2, 24 + 74));
    assert!(sim.connections().is_empty());
    sim.balance();
}

#[test]
fn refused_entries_are_counted_by_cause() {
    for (refusal, cause) in [
        (Refusal::Full, iface::TABLE_FULL),
        (Refusal::Memory, iface::NO_MEMORY),
        (Refusal::Busy, iface::BUSY),
        (Refusal::Exists, iface::BUSY),
    ] {
        let mut sim = Sim::new();
        sim.refusal = Some(refusal);
        sim.ingress(&Build::payload(1).udp(1, 2).v4(17, A4, B4).eth4().0);
        assert_eq!(sim.causes.borrow()[cause].packets, 1);
        assert!(sim.events.borrow().is_empty());
        sim.balance();
    }
}

#[test]
fn a_retired_entry_counts_no_more() {
    let sim = Sim::new();
    let frame = Build::payload(1).udp(1, 2).v4(17, A4, B4).eth4().0;
    sim.ingress(&frame);
    sim.retire();
    sim.ingress(&frame);
    assert_eq!(sim.one().1.dirs[0].packets, 1);
    assert_eq!(sim.causes.borrow()[iface::RETIRING].packets, 1);
    sim.balance();
}

#[test]
fn dns_answers_are_handed_on() {
    let sim = Sim::new();
    sim.egress(&Build::payload(30).udp(5000, 53).v4(17, A4, B4).eth4().0);
    assert!(sim.names.borrow().is_empty(), "a question is no answer");
    sim.ingress(&Build::payload(90).udp(53, 5000).v4(17, B4, A4).eth4().0);
    sim.ingress(&Build::payload(80).udp(53, 6000).v6(17, B6, A6).tag(0x8100, 0x86dd).0);
    sim.ingress(&Build::payload(11).udp(53, 5000).v4(17, B4, A4).eth4().0);
    assert_eq!(*sim.names.borrow(), [(14 + 28, 90), (18 + 48, 80)]);
}

#[test]
fn the_cookie_is_that_of_the_first_side_that_has_one() {
    let sim = Sim::new();
    sim.ingress(&Build::payload(1).udp(1, 2).v4(17, B4, A4).eth4().0);
    assert_eq!(sim.one().1.cookie, 0);
    sim.cookie.set(77);
    sim.ingress(&Build::payload(1).udp(1, 2).v4(17, B4, A4).eth4().0);
    assert_eq!(sim.one().1.cookie, 0, "only asked for a direction's first packet");
    sim.egress(&Build::payload(1).udp(2, 1).v4(17, A4, B4).eth4().0);
    assert_eq!(sim.one().1.cookie, 77);
}

#[test]
fn the_key_takes_its_parts_apart() {
    let link = ConnKey::link((1 << 23) - 1, 1, 0xff);
    assert_eq!(link, u32::MAX);
}
