//! Following TCP: state, handshake times, round trips, retransmissions.
//!
//! All of it is observation from the middle: it can miss packets, so it never refuses one. Writes
//! are not atomic together; two CPUs that see one connection at once may lose a sample, never a
//! count of packets or bytes.

use datapath_abi::conn::{
    ConnKey, STATE_CLOSED, STATE_ESTABLISHED, STATE_FIN_WAIT, STATE_NONE, STATE_RESET,
    STATE_SYN_RECV, STATE_SYN_SENT,
};
use datapath_abi::event;

use crate::cells::{Cell, ConnCells};
use crate::host::Host;
use crate::parse::Tcp;

/// Flag bits (RFC 9293, 3.1).
pub const FIN: u8 = 1;
/// Synchronise.
pub const SYN: u8 = 2;
/// Reset.
pub const RST: u8 = 4;
/// Acknowledgement.
pub const ACK: u8 = 16;

/// A segment in its connection.
#[derive(Debug, Clone, Copy)]
pub struct Segment<'a> {
    /// Its header.
    pub tcp: &'a Tcp,
    /// Bytes of data.
    pub payload: u32,
    /// Its direction.
    pub direction: usize,
    /// Whether it is the first of its direction within this tick of the coarse clock. Only such a
    /// one starts a round trip sample, so that a fast connection does not read the clock each time.
    pub first_in_tick: bool,
}

/// State of a connection whose first packet has these flags.
#[inline(always)]
pub fn initial_state(flags: u8) -> u8 {
    if flags & RST != 0 {
        STATE_RESET
    } else if flags & SYN == 0 {
        if flags & FIN != 0 { STATE_FIN_WAIT } else { STATE_ESTABLISHED }
    } else if flags & ACK == 0 {
        STATE_SYN_SENT
    } else {
        STATE_SYN_RECV
    }
}

/// Whether a first packet with these flags comes from the server.
#[inline(always)]
pub fn is_answer(flags: u8) -> bool {
    flags & (SYN | ACK) == SYN | ACK
}

/// The state after a segment. `fins`: whether FIN has been seen from either side, with this one.
///
/// SYN_SENT → SYN_RECV on SYN-ACK; → ESTABLISHED on an ACK that follows; → FIN_WAIT on the first
/// FIN; → CLOSED once both sides sent one; → RESET on RST unless closed before.
#[inline(always)]
pub fn next_state(state: u8, flags: u8, from_client: bool, fins: [bool; 2]) -> u8 {
    if state >= STATE_CLOSED {
        return state;
    }
    if flags & RST != 0 {
        return STATE_RESET;
    }
    if fins[0] && fins[1] {
        return STATE_CLOSED;
    }
    if flags & FIN != 0 {
        return STATE_FIN_WAIT;
    }
    if flags & SYN != 0 {
        return if flags & ACK != 0 && state < STATE_SYN_RECV { STATE_SYN_RECV } else { state };
    }
    if flags & ACK == 0 {
        return state;
    }
    match state {
        STATE_SYN_RECV if !from_client => state,
        STATE_NONE | STATE_SYN_SENT | STATE_SYN_RECV => STATE_ESTABLISHED,
        _ => state,
    }
}

/// Whether a segment with these flags begins another connection in the entry of a finished one.
#[inline(always)]
pub fn reuses(state: u8, flags: u8) -> bool {
    state >= STATE_CLOSED && flags & (SYN | ACK | RST | FIN) == SYN
}

/// Takes note of a segment.
#[inline(always)]
pub fn track<H: Host>(
    host: &H,
    cells: &ConnCells<H::Shared>,
    key: &ConnKey,
    segment: &Segment<'_>,
) {
    let flags = segment.tcp.flags;
    let seen = cells.tcp_flags[segment.direction].get();
    if seen | flags != seen {
        cells.tcp_flags[segment.direction].set(seen | flags);
    }
    let state = cells.state.get();
    if flags & (SYN | FIN | RST) != 0 || state < STATE_ESTABLISHED {
        follow(host, cells, key, segment, state);
    }
    sent(host, cells, segment, seen == 0);
    if flags & ACK != 0 {
        acknowledged(host, cells, segment);
    }
}

/// State, and the times of the handshake.
#[inline(always)]
fn follow<H: Host>(
    host: &H,
    cells: &ConnCells<H::Shared>,
    key: &ConnKey,
    segment: &Segment<'_>,
    state: u8,
) {
    let flags = segment.tcp.flags;
    let from_client = cells.client.get() as usize == segment.direction;
    let fins = [cells.tcp_flags[0].get() & FIN != 0, cells.tcp_flags[1].get() & FIN != 0];
    let next = next_state(state, flags, from_client, fins);
    if next == state {
        return;
    }
    let now = host.now_ns();
    cells.state.set(next);
    match next {
        STATE_SYN_RECV => cells.synack_ns.set(now),
        STATE_ESTABLISHED if state == STATE_SYN_RECV => cells.ack_ns.set(now),
        _ => {}
    }
    let kind = if next >= STATE_CLOSED { event::CLOSED } else { event::STATE };
    host.event(kind, u32::from(next), now, cells.id.get(), key);
}

/// Sender's side: new data may start a sample, old data is a retransmission and spoils the
/// outstanding one (Karn's algorithm, RFC 6298, 3).
#[inline(always)]
fn sent<H: Host>(host: &H, cells: &ConnCells<H::Shared>, segment: &Segment<'_>, first: bool) {
    let flags = segment.tcp.flags;
    let consumed = segment.payload + u32::from(flags & (SYN | FIN) != 0);
    if consumed == 0 {
        return;
    }
    let more = &cells.more[segment.direction];
    let end = segment.tcp.sequence.wrapping_add(consumed);
    if first || after(end, more.next_seq.get()) {
        more.next_seq.set(end);
        if segment.first_in_tick && more.rtt_sent_ns.get() == 0 {
            more.rtt_ack.set(end);
            more.rtt_sent_ns.set(host.now_ns());
        }
    } else {
        more.retransmits.set(more.retransmits.get().wrapping_add(1));
        more.rtt_sent_ns.set(0);
    }
}

/// Receiver's side: an acknowledgement may end the other direction's sample.
#[inline(always)]
fn acknowledged<H: Host>(host: &H, cells: &ConnCells<H::Shared>, segment: &Segment<'_>) {
    let more = &cells.more[segment.direction ^ 1];
    let sent = more.rtt_sent_ns.get();
    if sent == 0 || after(more.rtt_ack.get(), segment.tcp.acknowledgement) {
        return;
    }
    more.rtt_sent_ns.set(0);
    let sample = host.now_ns().saturating_sub(sent);
    let smoothed = smooth(more.srtt_ns.get(), sample);
    more.srtt_ns.set(smoothed);
}

/// RFC 6298, 2: the first sample as it is, then 7/8 of the old and 1/8 of the new; at most the
/// 4.29 s that the field holds, at least 1.
#[inline(always)]
pub fn smooth(srtt_ns: u32, sample_ns: u64) -> u32 {
    let sample = if sample_ns > u64::from(u32::MAX) { u64::from(u32::MAX) } else { sample_ns };
    let next = if srtt_ns == 0 { sample } else { (u64::from(srtt_ns) * 7 + sample) / 8 };
    if next == 0 { 1 } else { next as u32 }
}

/// Whether `a` comes after `b` in sequence space (RFC 9293, 3.4).
#[inline(always)]
fn after(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) > 0
}
