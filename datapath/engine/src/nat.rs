//! Which packets get another source or destination, and which: wire and stack side of a connection, see
//! [`datapath_abi::service`].
//!
//! No two connections of an interface share a wire side, nor a stack side: what would collide gets another port of the
//! client's, from the range that [`ServiceSettings`](datapath_abi::service::ServiceSettings) names.

use core::hint::black_box;

use datapath_abi::conn::{ConnKey, ConnValue, STATE_CLOSED, STATE_FIN_WAIT};
use datapath_abi::iface;
use datapath_abi::service::{
    ALIVE, EXTERNAL, FROM_POD, FrontendKey, INTERNAL, NAT_DESTINATION, NAT_DSR, NAT_NONE,
    NAT_OUTSIDE, NAT_SOURCE, ORIGIN_NO_TRANSLATION, Translation, UPLINK,
};

use crate::account::Done;
use crate::cells::{Cell, ConnCells, Hop, Judged};
use crate::dsr::{self, Named};
use crate::enforce::{Case, Enforcer, Seen};
use crate::host::Refusal;
use crate::key::{self, Ends};
use crate::parse::{Fragment, Headers, SCTP, TCP, UDP};
use crate::service::{Choice, choose};
use crate::tcp;

mod direct;
mod error;
mod masquerade;
mod ports;

use direct::{aim, can_forward};
pub(crate) use error::plan_error;
use masquerade::masquerade;
use ports::{free_stack_port, free_wire_port};

/// What a packet gets instead of its destination (on ingress) or source (on egress), and what it had. With
/// [`NAT_DSR`] nothing of it changes: it is sent to `address`.
#[repr(C, align(8))]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// The address that is replaced.
    pub old_address: [u8; 16],
    /// What by.
    pub address: [u8; 16],
    /// Its port; ICMP: the identifier.
    pub old_port: u16,
    /// What by.
    pub port: u16,
    /// The other end's port.
    pub old_peer_port: u16,
    /// What by.
    pub peer_port: u16,
    /// [`NAT_DESTINATION`] …
    pub kind: u32,
    /// Where, for an ICMP error, the packet that it is about begins; else 0. What is replaced are that packet's
    /// ends, the other way round: its source on ingress, its destination on egress.
    pub inner: u32,
    /// Where that packet's transport header begins.
    pub inner_transport: u32,
    /// That packet's protocol.
    pub inner_protocol: u16,
    /// Whether the error's own address is replaced too.
    pub outer: u16,
    /// Where the packet leaves without the stack.
    pub hop: Hop,
    /// Whether that is to be looked up, for the packets that come after: 1.
    pub look: u32,
    /// Zero.
    pub pad: u32,
}

/// How a packet's connection is translated, while it is judged.
#[repr(C, align(8))]
#[derive(Debug, Clone, Copy)]
pub struct Nat {
    /// What the packet gets.
    pub change: Change,
    /// Origin of the refusal; 0 without one.
    pub refused: u32,
    /// Whether the client is told nothing of it.
    pub silent: u32,
    /// What the way to the backend takes, where the packet is longer; else 0.
    pub mtu: u32,
    /// [`NAT_NONE`] …
    pub(crate) kind: u32,
    /// What of the translation is yet to be entered: [`KNOWN`] …
    pub(crate) fresh: u32,
    service: u32,
    backend: u32,
    /// The connection's stack side, and the packet's direction there.
    pub(crate) stack: ConnKey,
    pub(crate) stack_direction: u32,
    /// The packet's ends as it came.
    raw: Ends,
    ends: Ends,
    translation: Translation,
    choice: Choice,
    /// The backend that another node has chosen, where that has forwarded the packet.
    pub(crate) named: Named,
}

/// Everything is entered.
const KNOWN: u32 = 0;
/// The connection's entry is to learn of the translation, which is there.
const ENTRY: u32 = 1;
/// Both are to be made.
const BOTH: u32 = 2;
/// And a port is yet to be found.
const UNPLACED: u32 = 3;

/// Finds out whether and how the packet's connection is translated. On egress `seen` then is the wire side. Its steps are
/// called from here, not from each other: the stack of a BPF program is that of the deepest call.
#[inline(always)]
pub(crate) fn plan<H: Enforcer>(host: &H, case: &mut Case, turn: u32) {
    black_box(prepare(case, turn));
    if case.seen.frame.hook == iface::INGRESS {
        if black_box(look_ingress(host, case)) != 0 {
            if choose(host, &mut case.nat.choice) {
                black_box(balance(host, case));
            } else {
                black_box(avoid(host, case));
            }
        }
        if case.nat.fresh == UNPLACED {
            black_box(free_stack_port(host, case));
        }
    } else {
        black_box(look_egress(host, case));
        if case.nat.fresh == UNPLACED {
            black_box(free_wire_port(host, case));
        }
    }
    if case.nat.kind != u32::from(NAT_NONE) && case.nat.refused == 0 {
        black_box(complete(case));
    }
}

#[inline(never)]
fn prepare(case: &mut Case, turn: u32) -> Done {
    if turn == 0 {
        case.nat.raw = case.seen.headers.ends();
    } else {
        case.seen.headers.set_ends(&case.nat.raw);
        let (key, direction) = key::of(&case.seen.frame, &case.seen.headers);
        case.seen.key = key;
        case.seen.direction = direction as u32;
    }
    case.nat.begin(&case.seen);
    Done::here()
}

/// By the entry that the connection has; 1 where it has none that says so, and its destination may be a frontend.
#[inline(never)]
fn look_ingress<H: Enforcer>(host: &H, case: &mut Case) -> u32 {
    let Case { seen, nat, .. } = case;
    if let Some(cells) = host.find(&seen.key) {
        let judged = Judged(cells.judged.get());
        let kind = judged.nat();
        // Datagrams have no beginning: whether their destination has become a frontend is looked at with each
        // revision.
        let begins = begins(&seen.headers)
            || (seen.headers.protocol == UDP) & (judged.revision() != host.revision());
        // Of a connection whose server answers past this node, nobody here sees both ends close.
        let closed = if kind == NAT_DSR { STATE_FIN_WAIT } else { STATE_CLOSED };
        if kind != NAT_NONE && !(begins && cells.state.get() >= closed) {
            if is_alive(host, seen, cells) && dsr::agrees(seen, &nat.named.address, cells) {
                nat.take(u32::from(kind), cells);
                return black_box(0);
            }
        } else if !begins && seen.frame.outer == 0 {
            return black_box(0);
        }
    }
    if seen.frame.outer != 0 {
        if matches!(seen.headers.protocol, TCP | UDP | SCTP) {
            nat.choose_named(&seen.headers);
        }
        return black_box(0);
    }
    let Some(served) = host.served(seen.frame.ifindex) else {
        return black_box(0);
    };
    let outside = served.flags & UPLINK != 0;
    let headers = &seen.headers;
    if served.flags & (UPLINK | FROM_POD) == 0
        || headers.fragment == Fragment::LATER
        || !matches!(headers.protocol, TCP | UDP | SCTP)
    {
        return black_box(0);
    }
    nat.choice.frontend = FrontendKey {
        address: headers.destination,
        port: headers.destination_port,
        protocol: headers.protocol,
        pad: 0,
        pad2: 0,
    };
    nat.choice.client = headers.source;
    nat.choice.client_port = u32::from(headers.source_port);
    nat.choice.scope = if outside { EXTERNAL as u32 } else { INTERNAL as u32 };
    nat.choice.now_ns = host.now_ns();
    black_box(1)
}

/// The destination is a frontend.
#[inline(never)]
fn balance<H: Enforcer>(host: &H, case: &mut Case) -> Done {
    let Case { seen, nat, .. } = case;
    nat.refused = nat.choice.refused;
    nat.silent = nat.choice.silent;
    if nat.refused != 0 {
        return Done::here();
    }
    let outside = nat.choice.scope == EXTERNAL as u32;
    nat.kind = u32::from(if outside { NAT_OUTSIDE } else { NAT_DESTINATION });
    if outside && nat.choice.direct != 0 && black_box(can_forward(host, seen)) != 0 {
        nat.kind = u32::from(NAT_DSR);
    }
    nat.change.address = nat.choice.address;
    nat.change.port = nat.choice.port as u16;
    nat.change.peer_port = seen.headers.source_port;
    nat.service = nat.choice.service;
    nat.backend = nat.choice.backend;
    nat.fresh = UNPLACED;
    if nat.kind == u32::from(NAT_DSR) {
        black_box(aim(case));
    }
    Done::here()
}

/// Another connection may be translated to what this one is: then it must look different behind the hook.
#[inline(never)]
fn avoid<H: Enforcer>(host: &H, case: &mut Case) -> Done {
    let Case { seen, nat, .. } = case;
    let taken = host.translation(&seen.key);
    if taken.is_some_and(|taken| taken.kind != u32::from(NAT_SOURCE)) {
        nat.kind = u32::from(NAT_DESTINATION);
        nat.change.address = seen.headers.destination;
        nat.change.port = seen.headers.destination_port;
        nat.change.peer_port = seen.headers.source_port;
        nat.fresh = UNPLACED;
    }
    Done::here()
}

#[inline(never)]
fn look_egress<H: Enforcer>(host: &H, case: &mut Case) -> Done {
    let Case { seen, nat, .. } = case;
    if let Some(translation) = host.translation(&seen.key) {
        nat.kind = translation.kind;
        nat.change.address = translation.address;
        nat.change.port = translation.port;
        nat.change.peer_port = translation.peer_port;
        nat.service = translation.service;
        nat.backend = translation.backend;
        black_box(to_wire(case));
        if host.find(&case.seen.key).is_none() {
            case.nat.fresh = ENTRY;
        }
        return Done::here();
    }
    let mut source = [0; 16];
    if let Some(cells) = host.find(&seen.key) {
        if Judged(cells.judged.get()).nat() != NAT_SOURCE {
            return Done::here();
        }
        // The host's own connection has the port that another one is masqueraded with.
        source = seen.headers.source;
    } else if let Some(served) = host.served(seen.frame.ifindex) {
        source = masquerade(host, seen, served);
    }
    if u128::from_ne_bytes(source) == 0 {
        return Done::here();
    }
    nat.kind = u32::from(NAT_SOURCE);
    nat.change.address = source;
    nat.change.peer_port = seen.headers.destination_port;
    nat.fresh = UNPLACED;
    Done::here()
}

/// Whether it opens a TCP connection.
#[inline(always)]
pub(crate) fn begins(headers: &Headers) -> bool {
    headers.tcp().is_some_and(|tcp| tcp.flags & (tcp::SYN | tcp::ACK | tcp::RST) == tcp::SYN)
}

/// Whether the entry's translation still leads somewhere. TCP and SCTP stay with their backend, whatever becomes of
/// it: nobody else knows the connection. Datagrams go to another one.
#[inline(always)]
pub(crate) fn is_alive<H: Enforcer>(host: &H, seen: &Seen, cells: &ConnCells<H::Shared>) -> bool {
    let service = cells.service.get();
    if seen.headers.protocol != UDP || service == 0 {
        return true;
    }
    host.backend(cells.backend.get()).is_some_and(|backend| {
        backend.flags & ALIVE != 0
            && backend.service == service
            && equal(&backend.address, &cells.stack_addr())
    })
}

#[inline(always)]
fn equal(a: &[u8; 16], b: &[u8; 16]) -> bool {
    u128::from_ne_bytes(*a) == u128::from_ne_bytes(*b)
}

/// Gives the source and its port to the packet's headers, and finds its key.
#[inline(never)]
fn to_wire(case: &mut Case) -> Done {
    let Case { seen, nat, .. } = case;
    seen.headers.source = nat.change.address;
    seen.headers.source_port = nat.change.port;
    seen.headers.destination_port = nat.change.peer_port;
    let (key, direction) = key::of(&seen.frame, &seen.headers);
    seen.key = key;
    seen.direction = direction as u32;
    Done::here()
}

/// Says what the packet had, and what [`TRANSLATIONS`](datapath_abi::service::TRANSLATIONS) is to hold.
#[inline(never)]
fn complete(case: &mut Case) -> Done {
    let Case { seen, nat, .. } = case;
    let ingress = seen.frame.hook == iface::INGRESS;
    nat.change.kind = nat.kind;
    let (address, port, peer_port) = if ingress {
        nat.change.old_address = nat.raw.destination;
        nat.change.old_port = nat.raw.destination_port;
        nat.change.old_peer_port = nat.raw.source_port;
        (nat.raw.destination, nat.raw.destination_port, nat.raw.source_port)
    } else {
        nat.change.old_address = nat.raw.source;
        nat.change.old_port = nat.raw.source_port;
        nat.change.old_peer_port = nat.raw.destination_port;
        (nat.change.address, nat.change.port, nat.change.peer_port)
    };
    nat.translation = Translation {
        address,
        port,
        peer_port,
        service: nat.service,
        backend: nat.backend,
        kind: nat.kind,
    };
    Done::here()
}

/// Enters the translation, before the connection's entry; false where another CPU was faster. Where there is no room
/// the packet is refused.
#[inline(never)]
pub(crate) fn enter<H: Enforcer>(host: &H, case: &mut Case) -> bool {
    let nat = &mut case.nat;
    if nat.fresh != BOTH {
        return true;
    }
    match host.put_translation(&nat.stack, &nat.translation) {
        Ok(()) => true,
        Err(Refusal::Exists) => false,
        Err(_) => {
            black_box(full(host, nat));
            true
        }
    }
}

/// Takes back what [`enter`] has done: there is no room for the connection (`full`), or it is there.
#[inline(never)]
pub(crate) fn withdraw<H: Enforcer>(host: &H, case: &mut Case, is_full: bool) -> Done {
    let nat = &mut case.nat;
    if nat.fresh == BOTH {
        host.remove_translation(&nat.stack);
    }
    if is_full {
        black_box(full(host, nat));
    }
    Done::here()
}

#[inline(always)]
fn full<H: Enforcer>(host: &H, nat: &mut Nat) -> Done {
    nat.refused = ORIGIN_NO_TRANSLATION;
    nat.silent = 1;
    host.count(|counters| counters.full += 1);
    Done::here()
}

/// Tells an entry that exists how its connection is translated from now on.
#[inline(never)]
pub(crate) fn adopt<H: Enforcer>(host: &H, case: &mut Case, cells: &ConnCells<H::Shared>) -> Done {
    let judged = Judged(cells.judged.get());
    if !matches!(judged.nat(), NAT_NONE | NAT_DSR) {
        let ports = cells.stack_ports.get();
        case.nat.ends = Ends {
            source: case.seen.headers.source,
            destination: cells.stack_addr(),
            source_port: (ports >> 16) as u16,
            destination_port: ports as u16,
            protocol: case.seen.headers.protocol,
        };
        let (old, _) = key::located(case.seen.frame.ifindex, case.seen.frame.hook, &case.nat.ends);
        // Packets that come meanwhile find one or the other.
        let forwarded = case.nat.kind == u32::from(NAT_DSR);
        if forwarded || !same(&old, &case.nat.stack) {
            host.remove_translation(&old);
        }
    }
    // Half of it was seen to close, which is all that is ever seen of it: so that it is counted as another one.
    if judged.nat() == NAT_DSR && begins(&case.seen.headers) {
        cells.state.set(STATE_CLOSED);
    }
    let nat = &case.nat;
    cells.judged.set(Judged::new(judged.revision(), judged.verdict(), NAT_NONE).0);
    // The way that was known leads to the backend before.
    cells.set_hop(&Hop::NONE);
    cells.hop_ticks.set(0);
    let (address, port, peer_port) = nat.stack_side(&case.seen);
    cells.set_stack_addr(&address);
    cells.stack_ports.set(u32::from(port) | u32::from(peer_port) << 16);
    cells.service.set(nat.service);
    cells.backend.set(nat.backend);
    cells.judged.set(Judged::new(judged.revision(), judged.verdict(), nat.kind as u8).0);
    Done::here()
}

#[inline(always)]
fn same(a: &ConnKey, b: &ConnKey) -> bool {
    let low = u128::from_ne_bytes(a.low_addr) ^ u128::from_ne_bytes(b.low_addr);
    let high = u128::from_ne_bytes(a.high_addr) ^ u128::from_ne_bytes(b.high_addr);
    let ports = u32::from(a.low_port ^ b.low_port) | u32::from(a.high_port ^ b.high_port);
    (low | high | u128::from(ports)) == 0
}

/// Counts a connection that begins.
#[inline(always)]
pub(crate) fn begun<H: Enforcer>(host: &H, case: &Case) {
    if case.nat.kind == u32::from(NAT_SOURCE) {
        host.count(|counters| counters.masqueraded += 1);
    } else if case.seen.frame.outer != 0 {
        host.count(|counters| counters.dsr_arrived += 1);
    } else if case.nat.service != 0 {
        let direct = u64::from(case.nat.kind == u32::from(NAT_DSR));
        host.count(|counters| {
            counters.balanced += 1;
            counters.dsr += direct;
        });
    }
}

// === impl Change ===

impl Change {
    /// Nothing.
    pub const NONE: Self = Self {
        old_address: [0; 16],
        address: [0; 16],
        old_port: 0,
        port: 0,
        old_peer_port: 0,
        peer_port: 0,
        kind: NAT_NONE as u32,
        inner: 0,
        inner_transport: 0,
        inner_protocol: 0,
        outer: 0,
        hop: Hop::NONE,
        look: 0,
        pad: 0,
    };
}

// === impl Nat ===

impl Nat {
    /// Not translated.
    pub const NONE: Self = Self {
        change: Change::NONE,
        refused: 0,
        silent: 0,
        mtu: 0,
        kind: NAT_NONE as u32,
        fresh: KNOWN,
        service: 0,
        backend: 0,
        stack: ConnKey {
            low_addr: [0; 16],
            high_addr: [0; 16],
            low_port: 0,
            high_port: 0,
            link: 0,
        },
        stack_direction: 0,
        raw: Ends::NONE,
        ends: Ends::NONE,
        translation: Translation {
            address: [0; 16],
            port: 0,
            peer_port: 0,
            service: 0,
            backend: 0,
            kind: 0,
        },
        choice: Choice::NONE,
        named: Named::NONE,
    };

    /// A packet that is not translated, as far as is known.
    #[inline(always)]
    fn begin(&mut self, seen: &Seen) {
        self.kind = u32::from(NAT_NONE);
        self.fresh = KNOWN;
        self.refused = 0;
        self.silent = 0;
        self.mtu = 0;
        self.service = 0;
        self.backend = 0;
        self.change.inner = 0;
        self.change.hop.ifindex = 0;
        self.change.look = 0;
        self.stack = seen.key;
        self.stack_direction = seen.direction;
    }

    /// As the entry of the connection says, for a packet on ingress.
    #[inline(always)]
    fn take<S: crate::cells::Shared>(&mut self, kind: u32, cells: &ConnCells<S>) {
        let ports = cells.stack_ports.get();
        self.kind = kind;
        self.change.address = cells.stack_addr();
        self.change.port = ports as u16;
        self.change.peer_port = (ports >> 16) as u16;
        self.service = cells.service.get();
        self.backend = cells.backend.get();
        self.fresh = KNOWN;
        self.ends = Ends {
            source: self.raw.source,
            destination: self.change.address,
            source_port: self.change.peer_port,
            destination_port: self.change.port,
            protocol: self.raw.protocol,
        };
        let ifindex = self.stack.ifindex();
        let (stack, direction) = key::located(ifindex, iface::INGRESS, &self.ends);
        self.stack = stack;
        self.stack_direction = direction as u32;
    }

    /// As another node has chosen.
    #[inline(always)]
    fn choose_named(&mut self, headers: &Headers) {
        self.kind = u32::from(NAT_DESTINATION);
        self.change.address = self.named.address;
        self.change.port = self.named.port as u16;
        self.change.peer_port = headers.source_port;
        self.service = self.named.service;
        self.backend = self.named.backend;
        self.fresh = UNPLACED;
    }

    /// Destination and source port that packets on ingress get.
    #[inline(always)]
    fn stack_side(&self, seen: &Seen) -> ([u8; 16], u16, u16) {
        if seen.frame.hook == iface::INGRESS {
            (self.change.address, self.change.port, self.change.peer_port)
        } else {
            (self.raw.source, self.raw.source_port, self.raw.destination_port)
        }
    }

    /// Completes a new entry.
    #[inline(always)]
    pub(crate) fn fill(&self, seen: &Seen, value: &mut ConnValue) {
        if self.kind == u32::from(NAT_NONE) {
            return;
        }
        value.nat = self.kind as u8;
        (value.stack_addr, value.stack_port, value.stack_peer_port) = self.stack_side(seen);
        value.service = self.service;
        value.backend = self.backend;
    }
}
