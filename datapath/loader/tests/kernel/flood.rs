//! Floods of new connections, with tables that are much too small for them: what stands goes on passing, what
//! is refused stays refused, and every packet is counted.

use std::sync::atomic::{AtomicBool, Ordering};

use datapath_abi::iface::{DENIED_FULL, EGRESS, INGRESS, TABLE_FULL};
use datapath_abi::policy::{ANYBODY, PolicySide, TCP};
use datapath_loader::PolicySizes;

use crate::kernel::lab::Link;
use crate::kernel::raw;
use crate::kernel::stage::{DEFAULT_DENY, HERE, Stage, connects, goes, pair};
use crate::kernel::tables::{NO_SIDE, SIZES, allow, deny};

const PACKETS: u32 = 5000;
const CONNECTIONS: u32 = 128;
const REFUSALS: u32 = 64;
/// Bytes of a SYN with its link header.
const BYTES: u64 = 54;

fn small(name: &str) -> Stage {
    Stage::of(name, false, CONNECTIONS, PolicySizes { denied: REFUSALS, ..SIZES })
}

/// TCP: 7001 is for HERE, 7002 for everybody, the rest for nobody.
fn ingress(stage: &mut Stage) -> PolicySide {
    let mut side = stage.tables.isolated(DEFAULT_DENY);
    let some = [allow(HERE, 42), deny(ANYBODY, DEFAULT_DENY)];
    let (all, none) = ([allow(ANYBODY, 43)], [deny(ANYBODY, DEFAULT_DENY)]);
    let intervals: [(u32, &[_]); 4] = [(0, &none), (7001, &some), (7002, &all), (7003, &none)];
    side.enforced[TCP] = stage.tables.section(&intervals);
    side
}

/// SYNs, each from an address and a port of its own, out of a namespace while `meanwhile` is done again and again.
fn flood(stage: &Stage, out: bool, port: u16, meanwhile: impl Fn()) {
    let (here, there) = (stage.lab.here(), stage.lab.there());
    let (from, to) = if out { (there, here) } else { (here, there) };
    let frame = raw::frame(&from, &to);
    let target = if out { [10, 9, 0, 1] } else { [10, 9, 0, 2] };
    let frames = (0..PACKETS).map(|n| {
        // Spread over 198.18.0.0/15, which is for tests (RFC 2544).
        let [_, a, b, c] = n.wrapping_mul(0x9e37_79b1).to_be_bytes();
        let source = [198, 18 + (a & 1), b, c];
        frame(&raw::ipv4(6, [source, target], (0, 0x4000), &raw::syn(n as u16 | 1024, port)))
    });
    let (frames, done) = (frames.collect(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            raw::send(&from, frames);
            done.store(true, Ordering::Relaxed);
        });
        while !done.load(Ordering::Relaxed) {
            meanwhile();
        }
    });
}

/// Packets that found no room, by hook.
fn without_room(stage: &Stage, cause: usize) -> [u64; 2] {
    let hooks = stage.datapath.interfaces(stage.attached.ifindex).unwrap();
    [INGRESS, EGRESS].map(|hook| hooks[hook as usize].causes[cause].packets)
}

/// As `Stage::balances`, with refusals without room: those at the egress hook never reached the interface.
fn balances(stage: &Stage, before: (Link, Link)) {
    let (interface, ours) = stage.settled();
    let (interface, mut ours) = (interface - before.0, ours - before.1);
    let refused = stage.refused(0);
    ours.rx = (ours.rx.0 + refused.0, ours.rx.1 + refused.1);
    let unsent = without_room(stage, DENIED_FULL)[1];
    ours.tx = (ours.tx.0 - unsent, ours.tx.1 - unsent * BYTES);
    assert_eq!(ours, interface);
}

fn bounded(stage: &Stage) {
    let connections = stage.datapath.connections().walk(&mut |_, _| ()).unwrap();
    assert!(connections <= u64::from(CONNECTIONS), "{connections} connections");
    assert!(stage.denied().len() <= REFUSALS as usize);
}

fn refused(name: &str, out: bool) {
    let mut stage = small(name);
    let before = stage.settled();
    let side = ingress(&mut stage);
    stage.enforce([side, side], 0);
    let (client, server) = pair(&stage, 7001);
    flood(&stage, out, 7003, || assert!(goes(&client, &server) && goes(&server, &client)));
    let hook = if out { 0 } else { 1 };
    let counted = stage.refused(hook as u8).0;
    let full = without_room(&stage, DENIED_FULL)[hook];
    // Neighbour discovery and the like may be refused besides; it has entries of its own.
    let others: u64 = stage
        .denied()
        .iter()
        .filter(|(key, _)| key.hook & 1 == hook as u8 && key.port != 7003)
        .map(|(_, value)| value.packets)
        .sum();
    assert_eq!(counted - others + full, u64::from(PACKETS));
    assert!(full > u64::from(PACKETS - 2 * REFUSALS), "{full}");
    assert_eq!(
        without_room(&stage, TABLE_FULL),
        [0, 0],
        "what is refused takes no connection's room"
    );
    bounded(&stage);
    balances(&stage, before);
    // There is room for who is allowed.
    assert!(connects(&stage.lab.here(), &stage.lab.there(), "10.9.0.2", 7001));
    stage.datapath.remove().unwrap();
}

#[test]
fn refused_on_its_way_to_the_endpoint() {
    refused("flin", false);
}

#[test]
fn refused_on_its_way_from_the_endpoint() {
    refused("flout", true);
}

#[test]
fn allowed() {
    let mut stage = small("flal");
    let before = stage.settled();
    let side = ingress(&mut stage);
    stage.enforce([side, NO_SIDE], 0);
    let (client, server) = pair(&stage, 7001);
    let (here, there) = (stage.lab.here(), stage.lab.there());
    flood(&stage, false, 7002, || assert!(goes(&client, &server) && goes(&server, &client)));
    let full = without_room(&stage, TABLE_FULL)[1];
    assert!(full > u64::from(PACKETS - 2 * CONNECTIONS), "{full}");
    bounded(&stage);
    // Without room for them, packets are judged one by one: as before.
    assert!(connects(&here, &there, "10.9.0.2", 7001));
    assert!(!connects(&here, &there, "10.9.0.2", 7003));
    let (client, server) = pair(&stage, 7002);
    assert!(goes(&client, &server) && goes(&server, &client));
    flood(&stage, false, 7003, || assert!(goes(&client, &server)));
    let unsent = without_room(&stage, DENIED_FULL)[1];
    assert!(unsent + stage.refused(1).0 > u64::from(PACKETS));
    bounded(&stage);
    balances(&stage, before);
    // But an answer without its question in the table looks like a question of its own.
    stage.enforce([side, side], 0);
    let (client, server) = pair(&stage, 7002);
    assert!(goes(&client, &server) && !goes(&server, &client));
    stage.datapath.remove().unwrap();
}
