//! Laws of translation: it can be undone, keeps to one way for each connection, and lets no two of them look alike.

use std::cell::{Cell as StdCell, RefCell};
use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv6Addr};

use datapath_abi::conn::{ConnKey, ConnValue};
use datapath_abi::fragment::{FragmentKey, FragmentPorts};
use datapath_abi::iface::{EGRESS, INGRESS};
use datapath_abi::policy::{
    Class, DeniedCounter, DeniedKey, Interval, Peer, PolicySide, Rule, Subject,
};
use datapath_abi::service::{
    ALIVE, Backend, CHOSEN, FROM_POD, Frontend, FrontendKey, LocalKey, MASQUERADE, MASQUERADED,
    NAT_NONE, NATIVE, NODE, Served, ServiceCounters, ServiceSettings, Slots, Translation, UPLINK,
};
use datapath_engine::atomics::Atomics;
use datapath_engine::cells::ConnCells;
use datapath_engine::parse::{self, ETHERNET, Headers, ICMP, TCP, UDP};
use datapath_engine::policy::Tables;
use datapath_engine::rewrite::{Edit, rewrite};
use datapath_engine::{
    Change, Enforcer, Fate, Frame, Host, Refusal, Seen, Services, Slice, enforce,
};

use crate::engine::build::{Build, Segment};
use crate::engine::sim::Sim;

mod dsr;
mod host;

const POD: u32 = 1;
const WORLD: u32 = 2;

/// A node with a pod's interface and an uplink.
struct Node {
    sim: Sim,
    translations: RefCell<HashMap<ConnKey, &'static Translation>>,
    frontends: HashMap<FrontendKey, Frontend>,
    backends: Vec<Backend>,
    served: [Served; 2],
    locals: HashMap<LocalKey, u32>,
    nodes: Vec<IpAddr>,
    settings: ServiceSettings,
    counters: RefCell<ServiceCounters>,
    seed: StdCell<u64>,
    room: usize,
}

/// A packet's ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Way {
    protocol: u8,
    from: (IpAddr, u16),
    to: (IpAddr, u16),
}

/// A connection that lives.
#[derive(Debug, Clone, Copy)]
struct Flow {
    ifindex: u32,
    /// Where its client's packets pass.
    hook: u32,
    /// They as they come and as they go on.
    before: Way,
    after: Way,
}

/// Bytes that are edited as the kernel edits packets.
struct Bytes(RefCell<Vec<u8>>);

// === impl Way ===

impl Way {
    fn back(self) -> Self {
        Self { from: self.to, to: self.from, ..self }
    }

    fn packet(self) -> Vec<u8> {
        let (source, destination) = (self.from.1, self.to.1);
        let build = Build::payload(13);
        let build = match self.protocol {
            TCP => build.tcp(Segment {
                ports: (source, destination),
                flags: 16,
                sequence: 1,
                acknowledgement: 1,
            }),
            UDP => build.udp(source, destination),
            _ => build.icmp(8, 0, source),
        };
        let mut bytes = match (self.from.0, self.to.0) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                build.v4(self.protocol, from.octets(), to.octets()).eth4().0
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                build.v6(self.protocol, from.octets(), to.octets()).eth6().0
            }
            _ => unreachable!("one family"),
        };
        fill_sums(&mut bytes);
        bytes
    }

    /// Of a packet whose checksums are right.
    fn of(bytes: &[u8]) -> Self {
        let headers = headers(bytes);
        assert_eq!(sums(bytes), (0, 0), "checksums");
        Self {
            protocol: headers.protocol,
            from: (ip(&headers.source), headers.source_port),
            to: (ip(&headers.destination), headers.destination_port),
        }
    }
}

fn headers(bytes: &[u8]) -> Headers {
    parse::frame(&Slice(bytes), ETHERNET, 0, bytes.len() as u32).unwrap()
}

fn ip(address: &[u8; 16]) -> IpAddr {
    Ipv6Addr::from(*address).to_canonical()
}

fn octets(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    }
}

fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

fn add(bytes: &[u8]) -> u64 {
    let word = |pair: &[u8]| u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0));
    bytes.chunks(2).map(word).sum()
}

/// Of network header and transport, as RFC 1071 has it: 0 where they are right.
fn sums(bytes: &[u8]) -> (u16, u16) {
    let headers = headers(bytes);
    let transport = &bytes[headers.transport_offset as usize..];
    let (network, pseudo) = if headers.version == 4 {
        let header = &bytes[14..34];
        (fold(add(header)), add(&header[12..20]))
    } else {
        (0, add(&bytes[22..54]))
    };
    let pseudo = if headers.protocol == ICMP {
        0
    } else {
        pseudo + u64::from(headers.protocol) + transport.len() as u64
    };
    (network, fold(pseudo + add(transport)))
}

fn fill_sums(bytes: &mut [u8]) {
    let parsed = headers(bytes);
    let at = parsed.transport_offset as usize
        + match parsed.protocol {
            TCP => 16,
            UDP => 6,
            _ => 2,
        };
    bytes[at..at + 2].copy_from_slice(&[0; 2]);
    if parsed.version == 4 {
        bytes[24..26].copy_from_slice(&[0; 2]);
    }
    let (network, transport) = sums(bytes);
    if parsed.version == 4 {
        bytes[24..26].copy_from_slice(&network.to_be_bytes());
    }
    let transport = if parsed.protocol == UDP && transport == 0 { 0xffff } else { transport };
    bytes[at..at + 2].copy_from_slice(&transport.to_be_bytes());
}

// === impl Bytes ===

impl Bytes {
    /// RFC 1624: HC' = ~(~HC + ~m + m').
    fn replace(&self, offset: u32, difference: u64) {
        let at = offset as usize;
        let mut bytes = self.0.borrow_mut();
        let old = u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
        let new = fold(u64::from(!old) + difference);
        bytes[at..at + 2].copy_from_slice(&new.to_ne_bytes());
    }
}

impl Edit for Bytes {
    fn store<const N: usize>(&self, offset: u32, bytes: &[u8; N]) -> bool {
        let at = offset as usize;
        self.0.borrow_mut()[at..at + N].copy_from_slice(bytes);
        true
    }

    fn network_sum(&self, offset: u32, old: u32, new: u32) -> bool {
        self.replace(offset, u64::from(!old) + u64::from(new));
        true
    }

    fn pseudo_sum(&self, offset: u32, difference: u32, _: bool, _: bool) -> bool {
        self.replace(offset, u64::from(difference));
        true
    }

    fn covered_sum(&self, offset: u32, difference: u32) -> bool {
        self.replace(offset, u64::from(difference));
        true
    }

    fn transport_sum(&self, offset: u32, old: u32, new: u32, _: bool) -> bool {
        self.replace(offset, u64::from(!old) + u64::from(new));
        true
    }
}

// === impl Node ===

impl Node {
    fn new(seed: u64, ports: (u16, u16)) -> Self {
        let mut sim = Sim::new();
        sim.capacity = 1 << 16;
        let served = |flags, v4: &str, v6: &str| Served {
            flags,
            pad: 0,
            v4: octets(v4.parse().unwrap()),
            v6: octets(v6.parse().unwrap()),
        };
        let mut node = Self {
            sim,
            translations: RefCell::default(),
            frontends: HashMap::new(),
            backends: Vec::new(),
            served: [
                served(FROM_POD, "0.0.0.0", "::"),
                served(UPLINK | MASQUERADE, "192.168.0.1", "fd99::1"),
            ],
            locals: HashMap::new(),
            nodes: Vec::new(),
            settings: ServiceSettings {
                port_min: ports.0,
                port_max: ports.1,
                seed: 1,
                hairpin_v4: octets("169.254.42.1".parse().unwrap()),
                hairpin_v6: octets("fd57::1".parse().unwrap()),
            },
            counters: RefCell::default(),
            seed: StdCell::new(seed),
            room: 1 << 16,
        };
        for (number, (vip, family)) in VIPS.iter().zip([4u8, 4, 4, 6, 4, 6]).enumerate() {
            let slots = Slots { start: number as u32 * 3, count: 3 };
            let service = number as u32 + 1;
            let of_family = if family == 4 { &BACKENDS[..3] } else { &BACKENDS[3..] };
            node.backends.extend(of_family.iter().map(|backend| Backend {
                address: octets(backend.parse().unwrap()),
                port: 8080,
                flags: CHOSEN | ALIVE,
                service,
            }));
            for protocol in [TCP, UDP] {
                let key = FrontendKey {
                    address: octets(vip.parse().unwrap()),
                    port: 80,
                    protocol,
                    pad: 0,
                    pad2: 0,
                };
                let frontend =
                    Frontend { service, flags: 0, affinity: 0, pad: 0, slots: [slots; 2] };
                node.frontends.insert(key, frontend);
            }
        }
        node
    }

    fn pass(&self, ifindex: u32, hook: u32, bytes: &[u8]) -> Result<Vec<u8>, Fate> {
        let length = bytes.len() as u32;
        let frame =
            Frame { ifindex, hook, length, segments: 0, link_header: 14, ethertype: 0, outer: 0 };
        let mut change = Change::NONE;
        match enforce(&Slice(bytes), self, &frame, &mut change) {
            Fate::Pass => Ok(bytes.to_vec()),
            Fate::Change => {
                let seen = Seen { frame, headers: headers(bytes), ..Seen::NONE };
                let edited = Bytes(RefCell::new(bytes.to_vec()));
                assert!(rewrite(&edited, &seen, &change));
                Ok(edited.0.into_inner())
            }
            fate => Err(fate),
        }
    }

    fn any(&self) -> u64 {
        self.seed.set(self.seed.get().wrapping_add(0x9e37_79b9_7f4a_7c15));
        datapath_engine::service::mix(self.seed.get())
    }

    fn pick<T: Copy>(&self, of: &[T]) -> T {
        of[(self.any() % of.len() as u64) as usize]
    }

    /// A client's packet of a connection that may be new.
    fn open(&self) -> Option<Flow> {
        let protocol = self.pick(&[TCP, UDP]);
        let port = 1000 + (self.any() % 40) as u16;
        let v6 = self.any().is_multiple_of(3);
        let (ifindex, hook, from, to) = match self.any() % 4 {
            // A pod to a service, or to a backend itself.
            0 | 1 => {
                let to = if self.any().is_multiple_of(8) {
                    (self.pick(if v6 { &BACKENDS[3..] } else { &BACKENDS[..3] }), 8080)
                } else {
                    (self.pick(if v6 { &VIPS[3..4] } else { &VIPS[..3] }), 80)
                };
                (POD, INGRESS, if v6 { "fd44::5" } else { "10.244.1.5" }, to)
            }
            // The world to a service.
            2 => {
                let to = if v6 { VIPS[5] } else { VIPS[4] };
                (WORLD, INGRESS, if v6 { "fd88::7" } else { "172.16.0.7" }, (to, 80))
            }
            // A pod to the world.
            _ => {
                let from = self.pick(if v6 {
                    &["fd44::5", "fd44::6"]
                } else {
                    &["10.244.1.5", "10.244.1.6"]
                });
                (WORLD, EGRESS, from, (if v6 { "fd88::8" } else { "172.16.0.8" }, 443))
            }
        };
        let protocol = if ifindex == WORLD && hook == EGRESS && !v6 && self.any().is_multiple_of(4)
        {
            ICMP
        } else {
            protocol
        };
        let to = (to.0.parse().unwrap(), if protocol == ICMP { port } else { to.1 });
        let before = Way { protocol, from: (from.parse().unwrap(), port), to };
        let bytes = self.pass(ifindex, hook, &before.packet()).ok()?;
        Some(Flow { ifindex, hook, before, after: Way::of(&bytes) })
    }

    /// Removes a connection as user space does.
    fn end(&self, flow: &Flow) {
        let wire = if flow.hook == INGRESS { flow.before } else { flow.after };
        let key = ConnKey::between(
            (flow.ifindex, flow.hook, wire.protocol),
            (octets(wire.from.0), wire.from.1),
            (octets(wire.to.0), wire.to.1),
        );
        let value = self.sim.find(&key).expect("an entry").read();
        if value.nat != NAT_NONE {
            let removed = self.translations.borrow_mut().remove(&value.stack_key(&key));
            assert!(removed.is_some());
        }
        self.sim.forget(&key);
    }
}

/// Services by address: three and one for pods, then one of each family for the world.
const VIPS: [&str; 6] =
    ["10.96.0.1", "10.96.0.2", "10.96.0.3", "fd96::1", "192.168.0.1", "fd99::1"];
const BACKENDS: [&str; 6] =
    ["10.244.1.10", "10.244.1.11", "10.244.2.10", "fd44::10", "fd44::11", "fd44:2::10"];

/// Where a connection's packets are told apart: side (wire or stack), interface, its client's hook, ends.
type Look = (bool, u32, u32, Way);

fn looks(flow: &Flow) -> [Look; 2] {
    let ingress = flow.hook == INGRESS;
    [
        (ingress, flow.ifindex, flow.hook, flow.before),
        (!ingress, flow.ifindex, flow.hook, flow.after),
    ]
}

/// Random steps: connections begin, go on in both directions and end.
fn campaign(steps: u64, seed: u64, ports: (u16, u16)) -> ServiceCounters {
    let node = Node::new(seed, ports);
    let mut live: Vec<Flow> = Vec::new();
    let mut seen: HashSet<Look> = HashSet::new();
    for _ in 0..steps {
        match node.any() % 8 {
            0 | 1 => {
                let Some(flow) = node.open() else { continue };
                if let Some(known) = live.iter().find(|known| {
                    (known.ifindex, known.hook, known.before)
                        == (flow.ifindex, flow.hook, flow.before)
                }) {
                    assert_eq!(known.after, flow.after, "a connection keeps its way");
                    continue;
                }
                for look in looks(&flow) {
                    assert!(seen.insert(look), "two connections look alike: {look:?}");
                }
                live.push(flow);
            }
            2 if live.len() > 100 || node.any().is_multiple_of(16) && !live.is_empty() => {
                let flow = live.swap_remove((node.any() % live.len() as u64) as usize);
                node.end(&flow);
                for look in looks(&flow) {
                    assert!(seen.remove(&look));
                }
            }
            _ if live.is_empty() => {}
            number => {
                let flow = live[(node.any() % live.len() as u64) as usize];
                if number.is_multiple_of(2) {
                    let bytes = node.pass(flow.ifindex, flow.hook, &flow.before.packet()).unwrap();
                    assert_eq!(Way::of(&bytes), flow.after);
                } else {
                    // The answer, by the other hook: translated and back is the identity.
                    let answer = flow.after.back();
                    let mut packet = answer.packet();
                    if answer.protocol == ICMP {
                        packet[34] = 0;
                        fill_sums(&mut packet);
                    }
                    let bytes = node.pass(flow.ifindex, flow.hook ^ 1, &packet).unwrap();
                    assert_eq!(Way::of(&bytes), flow.before.back());
                }
            }
        }
    }
    let counters = *node.counters.borrow();
    for flow in live {
        node.end(&flow);
    }
    assert!(node.translations.borrow().is_empty(), "none without a connection");
    counters
}

#[test]
fn translated_and_back_is_the_identity() {
    let long = std::env::var_os("WEIR_LONG").is_some();
    let steps = if long { 10_000_000 } else { 200_000 };
    let counters = campaign(steps, 1, (40_000, 50_000));
    assert!(counters.balanced > steps / 100 && counters.masqueraded > steps / 100);
    assert_eq!((counters.exhausted, counters.full), (0, 0));
}

#[test]
fn where_ports_are_few_some_are_told_so_and_none_collide() {
    let counters = campaign(100_000, 2, (40_000, 40_003));
    assert!(counters.exhausted > 0, "{counters:?}");
}

#[test]
fn a_full_table_is_told_and_leaves_nothing_half_done() {
    let mut node = Node::new(3, (40_000, 50_000));
    node.room = 4;
    let mut flows = Vec::new();
    for _ in 0..200 {
        let Some(flow) = node.open() else { continue };
        if flow.before != flow.after {
            flows.push(flow);
        }
    }
    assert!(node.counters.borrow().full > 0);
    assert_eq!(node.translations.borrow().len(), 4);
    let connections = node.sim.connections();
    let translated = connections.iter().filter(|(_, value)| value.nat != NAT_NONE).count();
    assert_eq!(translated, 4);
}
