//! A packet's new source or destination, in its bytes.
//!
//! Checksums are changed by the difference (RFC 1624), so a packet that was damaged stays so.

use datapath_abi::iface;

use crate::enforce::Seen;
use crate::nat::Change;
use crate::parse::{Fragment, Headers, ICMP, ICMPV6, SCTP, TCP, UDP, UDPLITE};

/// Writes to a packet. All return whether it was done.
pub trait Edit {
    /// Stores bytes at an offset of the frame.
    fn store<const N: usize>(&self, offset: u32, bytes: &[u8; N]) -> bool;

    /// Changes the IPv4 header's checksum at an offset, for four bytes of the header.
    fn network_sum(&self, offset: u32, old: u32, new: u32) -> bool;

    /// Changes a transport checksum at an offset for a difference of addresses (see [`difference`]); `is_v6`:
    /// of IPv6 addresses; `may_be_none`: 0 is no checksum (UDP over IPv4).
    fn pseudo_sum(&self, offset: u32, difference: u32, is_v6: bool, may_be_none: bool) -> bool;

    /// Changes a transport checksum at an offset for a difference in what it covers.
    fn covered_sum(&self, offset: u32, difference: u32) -> bool;

    /// Changes a transport checksum at an offset, for four bytes that it covers, in memory order.
    fn transport_sum(&self, offset: u32, old: u32, new: u32, may_be_none: bool) -> bool;
}

/// Gives the packet what `change` says. False where it could not be done; the packet then is only good to be dropped.
#[inline(always)]
pub fn rewrite<E: Edit>(edit: &E, seen: &Seen, change: &Change) -> bool {
    let headers = &seen.headers;
    if headers.version != 4 && headers.version != 6 {
        return false;
    }
    if change.inner != 0 {
        return error(edit, seen, change);
    }
    let later = headers.fragment == Fragment::LATER;
    address(edit, seen, change) && (later || transport(edit, seen, change))
}

/// An ICMP error: its own address, and that of the packet that it is about. What checksums that packet's transport has
/// is nobody's concern any more.
#[inline(never)]
fn error<E: Edit>(edit: &E, seen: &Seen, change: &Change) -> bool {
    let is_v6 = seen.headers.version == 6;
    let sum = u32::from(seen.headers.transport_offset) + 2;
    let ingress = seen.frame.hook == iface::INGRESS;
    let difference = difference(&change.old_address, &change.address);
    if change.outer != 0 {
        let done = address(edit, seen, change)
            && (!is_v6 || edit.pseudo_sum(sum, difference, true, false));
        if !done {
            return false;
        }
    }
    let done = if is_v6 {
        let at = change.inner + if ingress { 8 } else { 24 };
        edit.covered_sum(sum, difference) && edit.store(at, &change.address)
    } else {
        // The header's own checksum makes up for the address, so the error's stays.
        let (old, new) = (last(&change.old_address), last(&change.address));
        let at = change.inner + if ingress { 12 } else { 16 };
        edit.network_sum(change.inner + 10, u32::from_ne_bytes(old), u32::from_ne_bytes(new))
            && edit.store(at, &new)
    };
    done && inner_ports(edit, sum, ingress, change)
}

#[inline(always)]
fn inner_ports<E: Edit>(edit: &E, sum: u32, ingress: bool, change: &Change) -> bool {
    let is_echo = matches!(change.inner_protocol as u8, ICMP | ICMPV6);
    let (old, new) = if is_echo {
        ([change.old_port, 0], [change.port, 0])
    } else if ingress {
        ([change.old_port, change.old_peer_port], [change.port, change.peer_port])
    } else {
        ([change.old_peer_port, change.old_port], [change.peer_port, change.port])
    };
    if old == new || !matches!(change.inner_protocol as u8, TCP | UDP | UDPLITE | SCTP) && !is_echo
    {
        return true;
    }
    let (old, new) = (network_order(old), network_order(new));
    if !edit.transport_sum(sum, u32::from_ne_bytes(old), u32::from_ne_bytes(new), false) {
        return false;
    }
    let at = change.inner_transport;
    if is_echo { edit.store(at + 4, &[new[0], new[1]]) } else { edit.store(at, &new) }
}

#[inline(always)]
fn address<E: Edit>(edit: &E, seen: &Seen, change: &Change) -> bool {
    let at = seen.headers.network_offset;
    let ingress = seen.frame.hook == iface::INGRESS;
    if seen.headers.version == 4 {
        let (old, new) = (last(&change.old_address), last(&change.address));
        let offset = at + if ingress { 16 } else { 12 };
        old == new
            || edit.network_sum(at + 10, u32::from_ne_bytes(old), u32::from_ne_bytes(new))
                && edit.store(offset, &new)
    } else {
        edit.store(at + if ingress { 24 } else { 8 }, &change.address)
    }
}

#[inline(always)]
fn transport<E: Edit>(edit: &E, seen: &Seen, change: &Change) -> bool {
    let headers = &seen.headers;
    let at = u32::from(headers.transport_offset);
    let is_v6 = headers.version == 6;
    let Some(layout) = Layout::of(headers) else {
        return true;
    };
    let none = layout.may_be_none && !is_v6;
    if layout.covers_addresses(is_v6) {
        let difference = difference(&change.old_address, &change.address);
        if !edit.pseudo_sum(at + layout.sum, difference, is_v6, none) {
            return false;
        }
    }
    let (old, new) = if layout.is_echo {
        ([change.old_port, 0], [change.port, 0])
    } else if seen.frame.hook == iface::INGRESS {
        ([change.old_peer_port, change.old_port], [change.peer_port, change.port])
    } else {
        ([change.old_port, change.old_peer_port], [change.port, change.peer_port])
    };
    if old == new {
        return true;
    }
    let (old, new) = (network_order(old), network_order(new));
    if layout.sum != 0
        && !edit.transport_sum(
            at + layout.sum,
            u32::from_ne_bytes(old),
            u32::from_ne_bytes(new),
            none,
        )
    {
        return false;
    }
    if layout.is_echo { edit.store(at + 4, &[new[0], new[1]]) } else { edit.store(at, &new) }
}

/// What lies where in a transport header.
struct Layout {
    /// Offset of its checksum; 0 without one that changes.
    sum: u32,
    may_be_none: bool,
    /// The "port" is an echo's identifier.
    is_echo: bool,
    protocol: u8,
}

/// What to add to a checksum, as the kernel counts (`__wsum`), when one address takes another's place.
#[inline(always)]
pub fn difference(old: &[u8; 16], new: &[u8; 16]) -> u32 {
    let (old, new) = (u128::from_ne_bytes(*old), u128::from_ne_bytes(*new));
    let sum = words(!old) + words(new);
    let once = (sum & 0xffff_ffff) + (sum >> 32);
    ((once & 0xffff_ffff) + (once >> 32)) as u32
}

#[inline(always)]
fn words(number: u128) -> u64 {
    let (low, high) = (number as u64, (number >> 64) as u64);
    (low & 0xffff_ffff) + (low >> 32) + (high & 0xffff_ffff) + (high >> 32)
}

#[inline(always)]
fn last(address: &[u8; 16]) -> [u8; 4] {
    [address[12], address[13], address[14], address[15]]
}

#[inline(always)]
fn network_order([a, b]: [u16; 2]) -> [u8; 4] {
    let ([a, b], [c, d]) = (a.to_be_bytes(), b.to_be_bytes());
    [a, b, c, d]
}

// === impl Layout ===

impl Layout {
    #[inline(always)]
    fn of(headers: &Headers) -> Option<Self> {
        let protocol = headers.protocol;
        let is_echo = matches!(protocol, ICMP | ICMPV6);
        let sum = match protocol {
            TCP => 16,
            UDP | UDPLITE => 6,
            ICMP | ICMPV6 => 2,
            SCTP => 0,
            _ => return None,
        };
        Some(Self { sum, may_be_none: protocol == UDP, is_echo, protocol })
    }

    /// ICMP for IPv4 has no pseudo-header, nor has SCTP.
    #[inline(always)]
    fn covers_addresses(&self, is_v6: bool) -> bool {
        match self.protocol {
            SCTP => false,
            ICMP => is_v6,
            _ => true,
        }
    }
}
