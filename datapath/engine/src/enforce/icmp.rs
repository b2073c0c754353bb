//! ICMP messages that are no connection of their own.

use core::hint::black_box;

use datapath_abi::policy::DENY;

use crate::cells::{Cell, Judged};
use crate::enforce::{Case, Enforcer};
use crate::host::Host;
use crate::key::{self, Ends};
use crate::nat;
use crate::packet::Packet;
use crate::parse::{Fragment, Headers, ICMP, ICMPV6, NO_TYPE, SCTP, TCP, UDP, UDPLITE};

/// RFC 792: unreachable with code "fragmentation needed", as it stands in place of ports.
const FRAGMENTATION_NEEDED: u16 = 3 << 8 | 4;

/// What stands for the server's port in a question: for ICMP the type, that of the request for an echo.
#[inline(always)]
pub(super) fn port(headers: &Headers, port: u16) -> u16 {
    let kind = match headers.protocol {
        ICMP if headers.icmp_type == 0 => 8,
        ICMPV6 if headers.icmp_type == 129 => 128,
        ICMP | ICMPV6 => headers.icmp_type,
        _ => return port,
    };
    if kind == NO_TYPE { 0 } else { kind }
}

/// Whether the message may pass for another reason than policy, so that it is looked at each time.
#[inline(always)]
pub(super) fn is_special(headers: &Headers) -> bool {
    is_error(headers) || always(headers)
}

/// Errors about another packet (RFC 792, RFC 4443).
#[inline(always)]
pub(crate) fn is_error(headers: &Headers) -> bool {
    match headers.protocol {
        ICMP => matches!(headers.icmp_type, 3 | 11 | 12),
        ICMPV6 => matches!(headers.icmp_type, 1..=4),
        _ => false,
    }
}

/// What always passes; see [`enforce`](super).
#[inline(always)]
fn always(headers: &Headers) -> bool {
    match headers.protocol {
        ICMP => headers.icmp_type == 3 && headers.source_port == FRAGMENTATION_NEEDED,
        ICMPV6 => matches!(headers.icmp_type, 130..=137 | 143),
        _ => false,
    }
}

/// Whether the packet passes for another reason than policy.
#[inline(always)]
pub(super) fn passes<H: Host>(host: &H, case: &Case) -> bool {
    if !matches!(case.seen.headers.protocol, ICMP | ICMPV6) {
        return false;
    }
    always(&case.seen.headers)
        || case.nat.change.inner != 0
        || case.inner.protocol != NOTHING && related(host, case)
}

/// What stands in [`Case::inner`] where there is no packet.
const NOTHING: u8 = 0xff;

/// Finds out what an error is about, and whether that is a translated connection's packet: so is the error then.
#[inline(always)]
pub(super) fn plan<P: Packet, H: Enforcer>(packet: &P, host: &H, case: &mut Case) {
    case.inner.protocol = NOTHING;
    case.nat.change.inner = 0;
    if !is_error(&case.seen.headers)
        || case.seen.headers.fragment == Fragment::LATER
        || !inner(packet, case)
    {
        return;
    }
    if !black_box(nat::plan_error(host, case)) {
        case.nat.change.inner = 0;
    }
}

/// Finds out whom the packet is between that an error is about. Out of line, as [`related`] is: what it
/// finds goes through memory, not through dozens of registers.
#[inline(never)]
pub(crate) fn inner<P: Packet>(packet: &P, case: &mut Case) -> bool {
    let at = case.seen.headers.network_offset + case.seen.headers.header_bytes;
    let found = ends(packet, at, case.seen.headers.protocol, &mut case.inner);
    let Some(transport) = found else {
        case.inner.protocol = NOTHING;
        return false;
    };
    case.nat.change.inner = at;
    case.nat.change.inner_transport = transport;
    case.nat.change.inner_protocol = u16::from(case.inner.protocol);
    true
}

/// Whether that packet belongs to a connection that is not refused.
#[inline(never)]
fn related<H: Host>(host: &H, case: &Case) -> bool {
    // It went the other way.
    let key = key::of_ends(case.seen.frame.ifindex, case.seen.frame.hook ^ 1, &case.inner);
    host.find(&key).is_some_and(|cells| Judged(cells.judged.get()).verdict() != DENY)
}

/// Ends of the packet whose beginning lies at `at`, and where its transport header does: its network header, and 8
/// bytes at least behind it (RFC 792). IPv6 extension headers are not followed.
#[inline(always)]
fn ends<P: Packet>(packet: &P, at: u32, outer: u8, inner: &mut Ends) -> Option<u32> {
    let transport;
    if outer == ICMP {
        let header = packet.load::<20>(at)?;
        let part = u16::from_be_bytes([header[6], header[7]]) & 0x1fff;
        if header[0] >> 4 != 4 || header[0] & 0xf < 5 || part != 0 {
            return None;
        }
        inner.source = [
            0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, header[12], header[13], header[14], header[15],
        ];
        inner.destination = [
            0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, header[16], header[17], header[18], header[19],
        ];
        inner.protocol = header[9];
        transport = at + u32::from(header[0] & 0xf) * 4;
    } else {
        let header = packet.load::<8>(at)?;
        if header[0] >> 4 != 6 {
            return None;
        }
        inner.source = packet.load(at + 8)?;
        inner.destination = packet.load(at + 24)?;
        inner.protocol = header[6];
        transport = at + 40;
    }
    inner.source_port = 0;
    inner.destination_port = 0;
    match inner.protocol {
        TCP | UDP | UDPLITE | SCTP => {
            let [a, b, c, d] = packet.load(transport)?;
            inner.source_port = u16::from_be_bytes([a, b]);
            inner.destination_port = u16::from_be_bytes([c, d]);
        }
        ICMP | ICMPV6 => {
            let [kind, _, _, _, a, b] = packet.load(transport)?;
            let echo = if inner.protocol == ICMP { [8, 0] } else { [128, 129] };
            // Errors are about requests and replies only (RFC 1122, 3.2.2).
            if !echo.contains(&kind) {
                return None;
            }
            inner.source_port = u16::from_be_bytes([a, b]);
            inner.destination_port = inner.source_port;
        }
        _ => {}
    }
    Some(transport)
}
