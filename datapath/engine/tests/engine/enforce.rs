//! Verdicts where a packet is not simply the first of its connection, or the next.

use std::cell::{Cell as StdCell, RefCell};

use datapath_abi::conn::{ConnKey, ConnValue};
use datapath_abi::fragment::{FragmentKey, FragmentPorts};
use datapath_abi::iface::{EGRESS, INGRESS};
use datapath_abi::policy::{
    ALLOW, ANYBODY, Class, DENY, DENY_BIT, DeniedCounter, DeniedKey, Interval, KEEP_ESTABLISHED,
    Peer, Policy, PolicySide, Rule, SECTIONS, SELECTORS, Section, Subject, TCP, UDP,
};
use datapath_engine::atomics::Atomics;
use datapath_engine::cells::ConnCells;
use datapath_engine::policy::Tables;
use datapath_engine::{Change, Enforcer, Fate, Frame, Host, Refusal, Services, Slice, enforce};

use crate::engine::build::{A4, A6, B4, B6, Build, Segment};
use crate::engine::sim::Sim;

/// What is enforced: in either direction everything, or nothing.
struct Guard {
    sim: Sim,
    policy: StdCell<&'static Policy>,
    revision: StdCell<u32>,
    class: Class,
    denied: RefCell<Vec<DeniedKey>>,
    flags: StdCell<u32>,
}

const ALLOWED: Section = Section { start: 0, count: 1 };
const REFUSED: Section = Section { start: 1, count: 1 };

fn side(section: Section) -> PolicySide {
    PolicySide {
        enforced: [section; SECTIONS],
        audited: [Section { start: 0, count: 0 }; SECTIONS],
    }
}

// === impl Guard ===

impl Guard {
    /// Endpoint A, behind interface 7's ingress hook: what it may accept, and what it may open.
    fn new(ingress: Section, egress: Section) -> Self {
        let guard = Self {
            sim: Sim::new(),
            policy: StdCell::new(Box::leak(Box::new(Policy {
                sides: [side(ingress), side(egress)],
                revision: 1,
            }))),
            revision: StdCell::new(1),
            class: Class { bits: [0; SELECTORS / 64] },
            denied: RefCell::default(),
            flags: StdCell::new(0),
        };
        guard.sim.after_ms(1);
        guard
    }

    fn change(&self, sides: [PolicySide; 2]) {
        self.policy.set(Box::leak(Box::new(Policy { sides, revision: 1 })));
        self.revision.set(self.revision.get() + 1);
    }

    fn passes(&self, hook: u32, bytes: &[u8]) -> bool {
        let length = bytes.len() as u32;
        let frame = Frame {
            ifindex: 7,
            hook,
            length,
            segments: 0,
            link_header: 14,
            ethertype: 0,
            outer: 0,
        };
        enforce(&Slice(bytes), self, &frame, &mut { Change::NONE }) == Fate::Pass
    }

    /// From the endpoint.
    fn out(&self, bytes: &[u8]) -> bool {
        self.passes(INGRESS, bytes)
    }

    /// To the endpoint.
    fn to(&self, bytes: &[u8]) -> bool {
        self.passes(EGRESS, bytes)
    }
}

impl Host for Guard {
    type Shared = Atomics;

    fn jiffies(&self) -> u64 {
        self.sim.jiffies()
    }

    fn now_ns(&self) -> u64 {
        self.sim.now_ns()
    }

    fn cookie(&self) -> u64 {
        0
    }

    fn find(&self, key: &ConnKey) -> Option<&ConnCells<Atomics>> {
        self.sim.find(key)
    }

    fn insert(&self, key: &ConnKey, fill: impl FnOnce(&mut ConnValue)) -> Result<(), Refusal> {
        self.sim.insert(key, fill)
    }

    fn unattributed(&self, frame: &Frame, cause: usize) {
        self.sim.unattributed(frame, cause);
    }

    fn put_fragment(&self, key: &FragmentKey, ports: FragmentPorts) {
        self.sim.put_fragment(key, ports);
    }

    fn fragment(&self, key: &FragmentKey) -> Option<FragmentPorts> {
        self.sim.fragment(key)
    }

    fn event(&self, _: u32, _: u32, _: u64, _: u64, _: &ConnKey) {}

    fn dns(&self, _: u64, _: &ConnKey, _: u32, _: u32) {}
}

impl Tables for Guard {
    fn peer(&self, _: &[u8; 16]) -> Option<Peer> {
        Some(Peer { identity: 2, class: 0 })
    }

    fn side(&self, _: u32, direction: usize) -> Option<&PolicySide> {
        Some(&self.policy.get().sides[direction])
    }

    fn interval(&self, index: u32) -> Option<Interval> {
        Some(Interval { first: 0, count: 1, rules: index })
    }

    fn rule(&self, index: u32) -> Option<Rule> {
        Some(Rule { selector: ANYBODY, origin: if index == 0 { 1 } else { 2 | DENY_BIT } })
    }

    fn class(&self, _: u32) -> Option<&Class> {
        Some(&self.class)
    }

    fn flags(&self) -> u32 {
        self.flags.get()
    }
}

impl Services for Guard {}

impl Enforcer for Guard {
    fn revision(&self) -> u32 {
        self.revision.get()
    }

    fn subject(&self, _: u32) -> Option<Subject> {
        Some(Subject { policy: 1, identity: 9, flags: 0, pad: 0 })
    }

    fn place(&self, _: u32) -> usize {
        0
    }

    fn refused(&self, key: &DeniedKey, _: &DeniedCounter) -> bool {
        self.denied.borrow_mut().push(*key);
        true
    }

    fn audited(&self, _: &DeniedKey, _: &DeniedCounter) {}
}

fn tcp(from_a: bool, flags: u8) -> Vec<u8> {
    let ports = if from_a { (5000, 80) } else { (80, 5000) };
    let segment = Segment { ports, flags, sequence: 1, acknowledgement: 1 };
    let (source, destination) = if from_a { (A4, B4) } else { (B4, A4) };
    Build::payload(0).tcp(segment).v4(6, source, destination).eth4().0
}

fn echo(from_a: bool, kind: u8) -> Vec<u8> {
    let (source, destination) = if from_a { (A4, B4) } else { (B4, A4) };
    Build::payload(8).icmp(kind, 0, 77).v4(1, source, destination).eth4().0
}

#[test]
fn answers_belong_to_what_was_allowed() {
    let guard = Guard::new(REFUSED, ALLOWED);
    assert!(guard.out(&tcp(true, 2)) && guard.to(&tcp(false, 18)) && guard.out(&tcp(true, 16)));
    assert!(guard.out(&echo(true, 8)) && guard.to(&echo(false, 0)));
    // The other side asks with the same identifier: that is a question of its own.
    assert!(!guard.to(&echo(false, 8)));
    assert_eq!(guard.denied.borrow().last().unwrap().port, 8);
    // And what was allowed stays so.
    assert!(guard.to(&echo(false, 0)));
}

#[test]
fn an_answer_seen_first_is_judged_by_its_question() {
    let guard = Guard::new(REFUSED, ALLOWED);
    assert!(guard.to(&tcp(false, 18)) && guard.to(&echo(false, 0)));
    assert!(guard.sim.connections().iter().all(|(_, value)| value.client == 0));
    let guard = Guard::new(ALLOWED, REFUSED);
    assert!(!guard.to(&tcp(false, 18)) && !guard.to(&echo(false, 0)));
    // The packets were replies; what they are refused for is the question.
    assert!(guard.denied.borrow().iter().all(|key| key.hook == 3));
}

#[test]
fn a_tuple_used_again_from_the_other_end_is_judged_again() {
    let guard = Guard::new(REFUSED, ALLOWED);
    for (from_a, flags) in [(true, 2), (false, 18), (true, 16), (true, 20)] {
        let bytes = tcp(from_a, flags);
        assert!(if from_a { guard.out(&bytes) } else { guard.to(&bytes) });
    }
    assert!(!guard.to(&tcp(false, 2)), "the server opens");
    assert!(guard.to(&tcp(false, 16)), "what was allowed stays so");
    assert!(guard.out(&tcp(true, 2)), "the client opens again");
    assert_eq!(guard.sim.one().1.reuses, 1);
}

#[test]
fn a_refused_connection_keeps_its_entry_while_it_tries() {
    let guard = Guard::new(ALLOWED, ALLOWED);
    assert!(guard.out(&tcp(true, 2)) && guard.to(&tcp(false, 18)));
    let before = guard.sim.one().1;
    assert_eq!((before.verdict, before.revision, before.origin), (ALLOW, 1, 1));
    guard.change([side(ALLOWED), side(REFUSED)]);
    guard.sim.after_ms(1000);
    assert!(!guard.to(&tcp(false, 16)) && !guard.out(&tcp(true, 16)));
    let after = guard.sim.one().1;
    assert_eq!((after.verdict, after.revision, after.origin, after.peer_identity), (DENY, 2, 2, 2));
    assert!(after.dirs[0].last > before.dirs[0].last);
    assert_eq!(after.dirs.map(|dir| dir.packets), before.dirs.map(|dir| dir.packets));
}

#[test]
fn established_connections_are_kept_where_that_was_chosen() {
    let guard = Guard::new(ALLOWED, ALLOWED);
    guard.flags.set(KEEP_ESTABLISHED);
    assert!(guard.out(&tcp(true, 2)) && guard.to(&tcp(false, 18)));
    guard.change([side(REFUSED), side(REFUSED)]);
    assert!(guard.out(&tcp(true, 16)) && guard.to(&tcp(false, 16)));
    let kept = guard.sim.one().1;
    assert_eq!((kept.verdict, kept.revision, kept.origin), (ALLOW, 2, 1), "by the rule of before");
    guard.change([side(REFUSED), side(REFUSED)]);
    assert!(guard.out(&tcp(true, 16)), "and again");
    // Another connection of the same ends is another connection.
    assert!(
        guard.out(&tcp(true, 1 | 16)) && guard.to(&tcp(false, 1 | 16)) && guard.out(&tcp(true, 16))
    );
    assert!(!guard.out(&tcp(true, 2)));
    // One that was refused is not let through by being kept.
    let guard = Guard::new(REFUSED, REFUSED);
    guard.flags.set(KEEP_ESTABLISHED);
    assert!(!guard.out(&tcp(true, 2)));
    guard.change([side(ALLOWED), side(REFUSED)]);
    assert!(!guard.out(&tcp(true, 2)));
}

#[test]
fn what_a_link_needs_passes() {
    let guard = Guard::new(REFUSED, REFUSED);
    for kind in [130, 131, 132, 133, 134, 135, 136, 137, 143] {
        assert!(guard.out(&Build::payload(16).icmp(kind, 0, 0).v6(58, A6, B6).eth6().0), "{kind}");
    }
    assert!(!guard.out(&Build::payload(16).icmp(128, 0, 0).v6(58, A6, B6).eth6().0));
    assert!(guard.to(&Build::payload(16).icmp(3, 4, 0).v4(1, B4, A4).eth4().0));
    assert!(!guard.to(&Build::payload(16).icmp(3, 3, 0).v4(1, B4, A4).eth4().0));
    assert!(guard.out(&Build::payload(28).ethernet(0x0806).0), "ARP");
    assert!(!guard.out(&Build::payload(10).ethernet(0x0800).0), "a contradiction");
}

#[test]
fn errors_are_related_to_what_is_known() {
    let mut policy = [side(ALLOWED), side(REFUSED)];
    let guard = Guard::new(ALLOWED, REFUSED);
    let question = Build::payload(20).udp(9000, 53).v4(17, B4, A4);
    let error = |inner: Build| inner.icmp(3, 3, 0).v4(1, A4, B4).eth4().0;
    assert!(!guard.out(&error(question.clone())), "about nothing that was sent");
    assert!(guard.to(&question.clone().eth4().0));
    assert!(guard.out(&error(question.clone())));
    assert!(!guard.out(&error(Build::payload(20).udp(9001, 53).v4(17, B4, A4))), "another port");
    policy[0] = side(REFUSED);
    guard.change(policy);
    assert!(!guard.to(&question.clone().eth4().0));
    assert!(!guard.out(&error(question)), "about what is refused now");
}

#[test]
fn a_fragment_without_its_first_has_port_0() {
    let guard = Guard::new(REFUSED, REFUSED);
    assert!(!guard.out(&Build::payload(8).v4_part(17, A4, B4, 10, 40).eth4().0));
    let key = guard.denied.borrow()[0];
    assert_eq!((key.port, key.protocol), (0, 17));
}

const _: () = assert!(TCP == 0 && UDP == 1);
