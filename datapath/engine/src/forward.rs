//! Translated packets that leave without the stack: from the ingress hook straight to the interface that routing
//! names, whose egress hook judges and counts them as any other.
//!
//! The stack decides about every connection first: only what has had packets both ways, which came and went through
//! routing, netfilter and reverse path filter, takes the short way (as with netfilter's flowtables,
//! `Documentation/networking/nf_flowtable.rst`). Every [`MAX_AGE`] ticks a packet of it goes by the stack again, and the
//! way is looked up anew; so routes that change are followed and neighbours stay confirmed.

use datapath_abi::service::{DIRECT, NAT_DESTINATION, NAT_OUTSIDE};

use crate::cells::{Cell, ConnCells, Hop};
use crate::enforce::{Enforcer, Seen};
use crate::host::Frame;
use crate::nat::Change;
use crate::parse::ETHERNET;

/// Ticks (jiffies: a hundredth to a thousandth of a second) after which the way is looked up again.
pub const MAX_AGE: u32 = 256;

/// Says in `change` where a packet leaves that came in and was counted in `cells`, or that this is to be looked up.
#[inline(always)]
pub(crate) fn way<H: Enforcer>(
    host: &H,
    seen: &Seen,
    cells: &ConnCells<H::Shared>,
    change: &mut Change,
) {
    let ticks = host.jiffies() as u32 | 1;
    if ticks.wrapping_sub(cells.hop_ticks.get()) <= MAX_AGE {
        change.hop = cells.hop();
        return;
    }
    let answers = &cells.dirs[seen.direction as usize & 1 ^ 1];
    if answers.packets.get() == 0 {
        return;
    }
    // Others go on by what is there meanwhile.
    cells.hop_ticks.set(ticks);
    let kind = change.kind;
    change.look = u32::from(
        (kind == u32::from(NAT_DESTINATION) || kind == u32::from(NAT_OUTSIDE))
            & (seen.frame.link_header == ETHERNET)
            & (seen.headers.network_offset == ETHERNET),
    );
}

/// Whether packets that come in by an interface may take the short way.
#[inline(always)]
pub fn is_allowed<H: Enforcer>(host: &H, ifindex: u32) -> bool {
    host.served(ifindex).is_some_and(|served| served.flags & DIRECT != 0)
}

/// Whether a packet fits through, whole or in its segments (`segment`: bytes of payload in each, 0 for one that is whole).
#[inline(always)]
pub fn fits(frame: &Frame, header_bytes: u32, segment: u32, hop: &Hop) -> bool {
    let around = frame.link_header.wrapping_add(u32::from(frame.outer));
    let whole = frame.length.wrapping_sub(around);
    let length = if segment == 0 { whole } else { segment.wrapping_add(header_bytes) };
    length <= u32::from(hop.mtu)
}
