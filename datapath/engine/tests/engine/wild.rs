//! Policy tables that hold anything and change at any time, as no compiler would write them.

use std::cell::Cell as StdCell;

use datapath_abi::conn::{ConnKey, ConnValue};
use datapath_abi::fragment::{FragmentKey, FragmentPorts};
use datapath_abi::iface::DENIED_FULL;
use datapath_abi::policy::{
    ANYBODY, Class, DeniedCounter, DeniedKey, Interval, Peer, Policy, PolicySide, Rule, SECTIONS,
    SELECTORS, Section, Subject,
};
use datapath_abi::service::{
    ALIVE, Backend, CHOSEN, DSR, Frontend, FrontendKey, LocalKey, NATIVE, NODE, Served, Slots,
    Translation, UPLINK,
};
use datapath_engine::answer::{Answer, Kind, answer, is_answer};
use datapath_engine::atomics::Atomics;
use datapath_engine::cells::ConnCells;
use datapath_engine::parse::{self, ETHERNET};
use datapath_engine::policy::Tables;
use datapath_engine::{
    Change, Enforcer, Fate, Frame, Host, Refusal, Seen, Services, Slice, enforce,
};

use super::build::{C4, mapped};
use super::sim::Sim;

/// A host that enforces what its seed says.
pub(crate) struct Wild {
    pub(crate) sim: Sim,
    seed: u64,
    /// How often anything was asked.
    asked: StdCell<u64>,
    policies: [Policy; 3],
    classes: [Class; 3],
    /// Packets and bytes, as the interface counts them, in the table of refusals.
    denied: StdCell<(u64, u64)>,
    /// Packets that may not pass.
    refused: StdCell<u64>,
}

/// splitmix64's step.
fn mix(mut z: u64) -> u64 {
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

fn pick<T: Copy>(of: &[T], number: u64) -> T {
    of[(number % of.len() as u64) as usize]
}

/// Counts and places: those that are right, and those that lead astray.
fn number(any: u64) -> u32 {
    pick(&[0, 0, 1, 1, 2, 3, 7, 100, 1 << 14, u32::MAX - 1, u32::MAX], any)
}

fn side(seed: u64) -> PolicySide {
    let section = |n: u64| {
        let any = mix(seed ^ n);
        Section { start: number(any), count: number(any >> 32) }
    };
    let sections = |from: u64| std::array::from_fn::<_, SECTIONS, _>(|n| section(from + n as u64));
    PolicySide { enforced: sections(0), audited: sections(100) }
}

// === impl Wild ===

impl Wild {
    pub(crate) fn new(seed: u64) -> Self {
        let sides = |n| [side(mix(seed ^ n)), side(mix(seed ^ n ^ 99))];
        let bits =
            |n| std::array::from_fn::<_, { SELECTORS / 64 }, _>(|w| mix(seed ^ n ^ w as u64));
        Self {
            sim: Sim::new(),
            seed,
            asked: StdCell::new(0),
            policies: std::array::from_fn(|n| Policy { sides: sides(n as u64), revision: 1 }),
            classes: std::array::from_fn(|n| Class { bits: bits(n as u64) }),
            denied: StdCell::new((0, 0)),
            refused: StdCell::new(0),
        }
    }

    /// An Ethernet frame, of which `paged` bytes cannot be read.
    pub(crate) fn enforce(&self, bytes: &[u8], hook: u32, paged: u32, segments: u32) {
        let length = bytes.len() as u32 + paged;
        let frame =
            Frame { ifindex: 7, hook, length, segments, link_header: 14, ethertype: 0, outer: 0 };
        let fate = enforce(&Slice(bytes), self, &frame, &mut { Change::NONE });
        let (frames, total) = self.sim.seen.get();
        self.sim.seen.set((frames + 1, total + u64::from(length)));
        if fate == Fate::Refuse {
            self.refused.set(self.refused.get() + 1);
            answers(bytes, &frame);
        }
    }

    /// Each frame is in a connection, in the table of refusals, or among what has no room, and just once.
    pub(crate) fn balance(&self) {
        let full = self.sim.causes.borrow()[DENIED_FULL].packets;
        let (packets, bytes) = self.denied.get();
        // The rest are translated connections for which there was no room: counted as that.
        assert!(packets + full <= self.refused.get());
        let (counted, seen) = (self.sim.counted(), self.sim.seen.get());
        assert_eq!((counted.0 + packets, counted.1 + bytes), seen);
    }

    /// Packets that did not pass.
    pub(crate) fn refused(&self) -> u64 {
        self.refused.get()
    }

    /// The same for the same question.
    fn any(&self, what: u64, index: u64) -> u64 {
        mix(self.seed ^ what << 56 ^ index)
    }

    /// Another one each time.
    fn anew(&self) -> u64 {
        self.asked.set(self.asked.get() + 1);
        self.any(9, self.asked.get())
    }
}

/// Whatever is refused: its answer is one, and has none.
fn answers(bytes: &[u8], frame: &Frame) {
    let Ok(headers) = parse::frame(&Slice(bytes), ETHERNET, 0, frame.length) else {
        return;
    };
    let seen = Seen { frame: *frame, headers, ..Seen::NONE };
    for reset in [false, true] {
        let mut found = Answer::NONE;
        if answer(&Slice(bytes), &seen, Kind::prohibited(reset), &mut found) {
            let bytes = &found.bytes[..found.length as usize];
            let headers = parse::frame(&Slice(bytes), ETHERNET, 0, found.length).unwrap();
            assert!(is_answer(&headers));
            let seen = Seen { headers, ..seen };
            assert!(!answer(&Slice(bytes), &seen, Kind::prohibited(reset), &mut { Answer::NONE }));
        }
    }
}

impl Host for Wild {
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
        match self.anew() % 64 {
            0 => Err(Refusal::Exists),
            1 => Err(Refusal::Memory),
            2 => Err(Refusal::Busy),
            _ => self.sim.insert(key, fill),
        }
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

impl Tables for Wild {
    fn peer(&self, address: &[u8; 16]) -> Option<Peer> {
        let any = self.any(1, u128::from_ne_bytes(*address) as u64);
        let peer = Peer { identity: (any >> 8) as u32 % 4, class: (any >> 16) as u32 % 4 };
        (!any.is_multiple_of(16)).then_some(peer)
    }

    fn side(&self, policy: u32, direction: usize) -> Option<&PolicySide> {
        self.policies.get(policy as usize).map(|policy| &policy.sides[direction])
    }

    fn interval(&self, index: u32) -> Option<Interval> {
        let any = self.any(2, u64::from(index));
        let first = pick(&[0, 0, 1, 8, 53, 80, 443, 65535, u32::MAX], any >> 8);
        let interval = Interval { first, count: number(any >> 16), rules: number(any >> 32) };
        (!any.is_multiple_of(16)).then_some(interval)
    }

    fn rule(&self, index: u32) -> Option<Rule> {
        let any = self.any(3, u64::from(index));
        let selector = pick(&[ANYBODY, 0, 5, 4095, 4096, u32::MAX - 1], any >> 8);
        (!any.is_multiple_of(16)).then_some(Rule { selector, origin: (any >> 32) as u32 })
    }

    fn class(&self, class: u32) -> Option<&Class> {
        self.classes.get(class as usize)
    }

    fn flags(&self) -> u32 {
        self.any(4, 0) as u32 & self.any(4, 1) as u32 & 7
    }
}

/// One address is a frontend, at two ports, and everybody a node.
impl Services for Wild {
    fn served(&self, _: u32) -> Option<&Served> {
        Some(&Served { flags: UPLINK, pad: 0, v4: [1; 16], v6: [0; 16] })
    }

    fn frontend(&self, key: &FrontendKey) -> Option<&Frontend> {
        let slots = Slots { start: 0, count: 3 };
        let flags = if key.port == 80 { DSR } else { 0 };
        let known = key.address == mapped(C4) && matches!(key.port, 80 | 81);
        let frontend = Frontend { service: 1, flags, affinity: 0, pad: 0, slots: [slots; 2] };
        known.then(|| &*Box::leak(Box::new(frontend)))
    }

    fn slot(&self, index: u32) -> Option<u32> {
        Some(index)
    }

    fn backend(&self, index: u32) -> Option<&Backend> {
        let address = mapped([10, 0, 0, index as u8]);
        let backend = Backend { address, port: 8080, flags: ALIVE | CHOSEN, service: 1 };
        (index < 3).then(|| &*Box::leak(Box::new(backend)))
    }

    fn local(&self, key: &LocalKey) -> Option<u32> {
        let at = key.address[15] % 4;
        (!self.anew().is_multiple_of(8)).then_some(u32::from(at))
    }

    fn prefix(&self, _: &[u8; 16]) -> u32 {
        self.anew() as u32 & (NODE | NATIVE) | self.anew() as u32 & NODE
    }

    fn put_translation(&self, _: &ConnKey, _: &Translation) -> Result<(), Refusal> {
        match self.anew() % 16 {
            0 => Err(Refusal::Exists),
            1 => Err(Refusal::Full),
            _ => Ok(()),
        }
    }

    fn random(&self) -> u32 {
        self.anew() as u32
    }
}

impl Enforcer for Wild {
    fn revision(&self) -> u32 {
        1 + u32::from(self.anew().is_multiple_of(32))
    }

    fn subject(&self, ifindex: u32) -> Option<Subject> {
        let any = self.any(5, u64::from(ifindex));
        let subject = Subject {
            policy: (any >> 8) as u32 % 4,
            identity: 9,
            flags: (any >> 16 & any >> 24) as u32 & 3,
            pad: 0,
        };
        (!any.is_multiple_of(8)).then_some(subject)
    }

    fn place(&self, _: u32) -> usize {
        usize::from(self.anew().is_multiple_of(16))
    }

    fn refused(&self, _: &DeniedKey, packet: &DeniedCounter) -> bool {
        let room = !self.anew().is_multiple_of(8);
        if room {
            let (packets, bytes) = self.denied.get();
            let more = packet.bytes + 14 * packet.packets;
            self.denied.set((packets + packet.packets, bytes + more));
        }
        room
    }

    fn audited(&self, _: &DeniedKey, _: &DeniedCounter) {}
}
