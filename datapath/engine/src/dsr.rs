//! Direct server return: what one node forwards by encapsulation, another one takes out and translates.
//!
//! The outer packet (RFC 2003, RFC 2473: same family within and without) goes from a node's address to the chosen
//! backend's, the inner one is the client's as it came. So the backend's node knows all that the other one has decided,
//! and answers the client itself.
//!
//! Taken out is only what comes in by an uplink, from a node, and is meant for a backend that this node has: by
//! [`LOCALS`](datapath_abi::service::LOCALS), or by the entry of a connection that goes on. Everything else stays the
//! packet of its protocol that it is.

use core::hint::black_box;

use datapath_abi::iface;
use datapath_abi::service::{
    ALIVE, Backend, FrontendKey, LocalKey, NAT_DSR, NAT_NONE, NAT_SOURCE, NODE, UPLINK,
};

use crate::account::{self, Done};
use crate::cells::{Cell, ConnCells, Judged, Shared};
use crate::enforce::{Case, Enforcer, Seen, icmp};
use crate::key;
use crate::nat;
use crate::packet::Packet;
use crate::parse::{self, ETH_IPV4, ETH_IPV6, Fragment, Headers, IPIP, IPV6, SCTP, TCP, UDP};

/// Length of the outer header, bytes: IPv4 and IPv6, without options.
pub const OUTER_V4: u32 = 20;
/// See [`OUTER_V4`].
pub const OUTER_V6: u32 = 40;
/// Time to live of what is forwarded.
pub const TTL: u8 = 64;
/// What the way to a backend takes at least: said to clients where the kernel says no more than "too long" (RFC 8200, 5).
pub const LEAST: u32 = 1280;

/// A backend that another node has chosen.
#[repr(C, align(8))]
#[derive(Debug, Clone, Copy)]
pub struct Named {
    /// Its address.
    pub(crate) address: [u8; 16],
    /// Its port.
    pub(crate) port: u32,
    /// See [`Frontend::service`](datapath_abi::service::Frontend::service).
    pub(crate) service: u32,
    /// Index into the backends.
    pub(crate) backend: u32,
    /// Bytes of the outer header.
    outer: u32,
    key: LocalKey,
    frontend: FrontendKey,
}

/// Whether the packet may be one that another node has forwarded.
#[inline(always)]
pub fn is_encapsulated(seen: &Seen) -> bool {
    let headers = &seen.headers;
    let protocol = if headers.version == 4 { IPIP } else { IPV6 };
    seen.frame.hook == iface::INGRESS
        && headers.protocol == protocol
        && headers.fragment == Fragment::WHOLE
}

/// Length of the header that is put around a packet with these.
#[inline(always)]
pub fn outer_of(headers: &Headers) -> u32 {
    if headers.version == 4 { OUTER_V4 } else { OUTER_V6 }
}

/// Whether the packet that [`is_encapsulated`] is to be taken out. If so, `case.seen` is the inner packet, its headers
/// where they will be once [`Frame::outer`](crate::Frame::outer) bytes in front of them are gone. Otherwise it is as it
/// was.
#[inline(always)]
pub fn admit<P: Packet, H: Enforcer>(packet: &P, host: &H, case: &mut Case) -> bool {
    if black_box(comes_from_node(host, case)) == 0 || black_box(look_within(packet, case)) == 0 {
        return false;
    }
    black_box(swap(case));
    black_box(locate(host, case));
    let found = match case.seen.headers.protocol {
        TCP | UDP | SCTP => black_box(find_backend(host, case)) != 0,
        _ => icmp::is_error(&case.seen.headers) && is_about_known(packet, host, case),
    };
    if !found {
        black_box(give_back(case));
        return false;
    }
    black_box(unwrap(case));
    true
}

/// As [`admit`] found it, where the outer header could not be taken off. Returns a number, as `Done` is one.
#[inline(never)]
pub fn give_back(case: &mut Case) -> u32 {
    black_box(swap(case));
    case.seen.frame.outer = 0;
    let (key, direction) = key::of(&case.seen.frame, &case.seen.headers);
    case.seen.key = key;
    case.seen.direction = direction as u32;
    black_box(0)
}

/// Whether the entry's backend is the one that is named, if one is.
#[inline(always)]
pub(crate) fn agrees<S: Shared>(seen: &Seen, named: &[u8; 16], cells: &ConnCells<S>) -> bool {
    let other = u128::from_ne_bytes(*named) ^ u128::from_ne_bytes(cells.stack_addr());
    let forwards = Judged(cells.judged.get()).nat() == NAT_DSR;
    seen.frame.outer == 0 || (other == 0) & !forwards
}

#[inline(never)]
fn comes_from_node<H: Enforcer>(host: &H, case: &mut Case) -> u32 {
    let Case { seen, nat, .. } = case;
    let headers = &seen.headers;
    let plain = headers.header_bytes == outer_of(headers)
        && headers.network_offset == seen.frame.link_header;
    let Some(served) = host.served(seen.frame.ifindex) else {
        return black_box(0);
    };
    if !plain || served.flags & UPLINK == 0 || host.prefix(&headers.source) & NODE == 0 {
        return black_box(0);
    }
    nat.named.address = headers.destination;
    nat.named.outer = headers.header_bytes;
    black_box(1)
}

/// Parses the inner packet.
#[inline(never)]
fn look_within<P: Packet>(packet: &P, case: &mut Case) -> u32 {
    let Case { seen, within, nat, .. } = case;
    let is_v4 = seen.headers.version == 4;
    let ethertype = if is_v4 { ETH_IPV4 } else { ETH_IPV6 };
    let at = (seen.headers.network_offset + nat.named.outer) ^ packet.zero();
    let end = at + seen.headers.payload_bytes;
    let parsed = parse::packet_into(packet, at, ethertype, end, within);
    black_box(u32::from(parsed.is_ok()))
}

/// Exchanges outer and inner headers.
#[inline(never)]
fn swap(case: &mut Case) -> Done {
    core::mem::swap(&mut case.seen.headers, &mut case.within);
    Done::here()
}

#[inline(never)]
fn locate<H: Enforcer>(host: &H, case: &mut Case) -> Done {
    let seen = &mut case.seen;
    if seen.headers.fragment != Fragment::WHOLE {
        black_box(account::fragment(host, &seen.frame, &mut seen.headers));
    }
    let (key, direction) = key::of(&seen.frame, &seen.headers);
    seen.key = key;
    seen.direction = direction as u32;
    Done::here()
}

/// By what the agent says of this node's backends; a connection that goes on finds its own, whatever has become of it.
#[inline(never)]
fn find_backend<H: Enforcer>(host: &H, case: &mut Case) -> u32 {
    let Case { seen, nat, .. } = case;
    let named = &mut nat.named;
    if black_box(by_name(host, seen, named)) != 0 {
        return black_box(1);
    }
    let Some(cells) = host.find(&seen.key) else {
        return black_box(0);
    };
    let kind = Judged(cells.judged.get()).nat();
    if nat::begins(&seen.headers)
        || matches!(kind, NAT_NONE | NAT_SOURCE | NAT_DSR)
        || !equal(&cells.stack_addr(), &named.address)
    {
        return black_box(0);
    }
    named.port = u32::from(cells.stack_ports.get() as u16);
    named.service = cells.service.get();
    named.backend = cells.backend.get();
    black_box(1)
}

#[inline(never)]
fn by_name<H: Enforcer>(host: &H, seen: &Seen, named: &mut Named) -> u32 {
    let headers = &seen.headers;
    named.frontend = FrontendKey {
        address: headers.destination,
        port: headers.destination_port,
        protocol: headers.protocol,
        pad: 0,
        pad2: 0,
    };
    let key = LocalKey { address: named.address, service: 0, port: 0, protocol: 0, pad: 0 };
    named.key = match host.frontend(&named.frontend) {
        Some(frontend) => LocalKey { service: frontend.service, ..key },
        // An address of that node's own.
        None if host.prefix(&headers.destination) & NODE != 0 => {
            LocalKey { port: headers.destination_port, protocol: headers.protocol, ..key }
        }
        None => return black_box(0),
    };
    let Some(index) = host.local(&named.key) else {
        return black_box(0);
    };
    named.backend = index;
    match host.backend(index) {
        Some(Backend { address, port, flags, service })
            if flags & ALIVE != 0 && equal(address, &named.address) =>
        {
            named.port = u32::from(*port);
            named.service = *service;
            black_box(1)
        }
        _ => black_box(0),
    }
}

/// Whether an ICMP error is about a packet of a connection that has the named backend.
#[inline(always)]
fn is_about_known<P: Packet, H: Enforcer>(packet: &P, host: &H, case: &mut Case) -> bool {
    case.seen.headers.fragment != Fragment::LATER
        && icmp::inner(packet, case)
        && black_box(has_named(host, case)) != 0
}

#[inline(never)]
fn has_named<H: Enforcer>(host: &H, case: &Case) -> u32 {
    // It went the other way.
    let key = key::of_ends(case.seen.frame.ifindex, case.seen.frame.hook ^ 1, &case.inner);
    let known = host.find(&key).is_some_and(|cells| {
        let kind = Judged(cells.judged.get()).nat();
        !matches!(kind, NAT_NONE | NAT_SOURCE | NAT_DSR)
            && equal(&cells.stack_addr(), &case.nat.named.address)
    });
    black_box(u32::from(known))
}

/// The outer header is as good as gone.
#[inline(never)]
fn unwrap(case: &mut Case) -> Done {
    let Case { seen, nat, .. } = case;
    let outer = nat.named.outer;
    seen.frame.outer = outer as u16;
    seen.headers.network_offset = seen.headers.network_offset.wrapping_sub(outer);
    seen.headers.transport_offset = seen.headers.transport_offset.wrapping_sub(outer as u16);
    nat.change.address = nat.named.address;
    Done::here()
}

#[inline(always)]
fn equal(a: &[u8; 16], b: &[u8; 16]) -> bool {
    u128::from_ne_bytes(*a) == u128::from_ne_bytes(*b)
}

// === impl Named ===

impl Named {
    /// None.
    pub(crate) const NONE: Self = Self {
        address: [0; 16],
        port: 0,
        service: 0,
        backend: 0,
        outer: 0,
        key: LocalKey { address: [0; 16], service: 0, port: 0, protocol: 0, pad: 0 },
        frontend: FrontendKey { address: [0; 16], port: 0, protocol: 0, pad: 0, pad2: 0 },
    };
}

/// An outer IPv4 header as words in network order, to be stored as they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OuterV4(pub [u32; 5]);

/// An outer IPv6 header likewise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OuterV6(pub [u32; 10]);

// === impl OuterV4 ===

impl OuterV4 {
    /// For a packet that begins with `first` and is `length` bytes long. Never to be fragmented: a fragment does not say
    /// whose it is.
    #[inline(always)]
    pub fn new(first: [u8; 4], length: u32, source: u32, destination: u32) -> Self {
        const DONT_FRAGMENT: u32 = 0x4000;
        let total = length + OUTER_V4;
        // As in the packet itself: 0 where the field has no room for it (BIG TCP).
        let total = if total > 0xffff { 0 } else { total };
        let services = u32::from(first[1]);
        let begin = 0x4500_0000 | services << 16 | total;
        let life = u32::from(TTL) << 24 | u32::from(IPIP) << 16;
        let halves = |word: u32| u64::from(word & 0xffff) + u64::from(word >> 16);
        let mut sum = halves(begin) + halves(DONT_FRAGMENT) + halves(life);
        sum += halves(u32::from_be(source)) + halves(u32::from_be(destination));
        let sum = (sum & 0xffff) + (sum >> 16);
        let sum = !((sum & 0xffff) + (sum >> 16)) as u32 & 0xffff;
        Self([begin.to_be(), DONT_FRAGMENT.to_be(), (life | sum).to_be(), source, destination])
    }
}

// === impl OuterV6 ===

impl OuterV6 {
    /// See [`OuterV4::new`]. Traffic class and flow label are the packet's own.
    #[inline(always)]
    pub fn new(first: [u8; 4], length: u32, source: [u32; 4], destination: [u32; 4]) -> Self {
        let length = if length > 0xffff { 0 } else { length };
        let life = length << 16 | u32::from(IPV6) << 8 | u32::from(TTL);
        let ([a, b, c, d], [e, f, g, h]) = (source, destination);
        Self([u32::from_ne_bytes(first), life.to_be(), a, b, c, d, e, f, g, h])
    }
}
