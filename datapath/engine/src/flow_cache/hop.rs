//! Next hops: the outer header, and what was sent within it.

use datapath_abi::flow_cache::Hop;
use datapath_abi::iface;

use super::ledger::{self, Batch, Ledger};
use crate::account::Done;

/// Protocol of an outer IPv4 header: IPv4 within it (RFC 2003).
pub const IPIP: u8 = 4;
/// Next header of an outer IPv6 header: IPv6 within it (RFC 2473).
pub const IPV6_IN_IP: u8 = 41;

/// Bytes of the outer header.
pub const OUTER4: u32 = 20;
/// See [`OUTER4`].
pub const OUTER6: u32 = 40;

/// Whether a hop still leads to a backend.
#[inline(always)]
pub fn is_current(hop: &Hop, backend: u32, generation: u32, ifindex: u32, tick: u32) -> bool {
    (hop.backend == backend)
        & (hop.generation == generation)
        & (hop.ifindex == ifindex)
        & ((hop.expires.wrapping_sub(tick) as i32) > 0)
}

/// Whether a packet of this length may go there, which has come to this address; a hop that refuses takes none: its length is 0.
#[inline(always)]
pub fn accepts(hop: &Hop, length: u32, mac: [u32; 2]) -> bool {
    (length <= hop.mtu) & (hop.macs[1] >> 16 == mac[0]) & (hop.macs[2] == mac[1])
}

/// Counts a packet that was sent; `bytes` behind the link header.
#[inline(always)]
pub fn add(hop: &mut Hop, bytes: u32, tick: u32) {
    hop.packets = hop.packets.wrapping_add(1);
    hop.bytes = hop.bytes.wrapping_add(u64::from(bytes));
    hop.last = tick;
}

/// The sum of what is the same in every outer IPv4 header of a hop: all but length, type of service and the sum itself.
#[inline(always)]
pub fn sum4(source: u32, destination: u32) -> u32 {
    let halves = |word: u32| (word & 0xffff) + (word >> 16);
    let flags = u32::from(u16::from_ne_bytes([0x40, 0]));
    let protocol = u32::from(u16::from_ne_bytes([64, IPIP]));
    halves(source) + halves(destination) + flags + protocol
}

/// The checksum of an outer IPv4 header whose first word is `first` (RFC 1071: byte order does not matter).
#[inline(always)]
pub fn checksum(sum: u32, first: u32) -> u16 {
    let sum = sum + (first & 0xffff) + (first >> 16);
    let once = (sum & 0xffff) + (sum >> 16);
    !((once & 0xffff) + (once >> 16)) as u16
}

/// Adds what a hop holds to the tunnel's entry, at the interface's egress.
#[inline(never)]
pub fn settle<H: Ledger>(host: &H, batch: &mut Batch, hop: &mut Hop, tick: u64, how: u32) -> u32 {
    if hop.packets == 0 {
        return core::hint::black_box(ledger::DONE);
    }
    core::hint::black_box(name(batch, hop, tick));
    if core::hint::black_box(ledger::flush(host, batch, how)) != ledger::DONE {
        return core::hint::black_box(ledger::LEFT);
    }
    hop.packets = 0;
    hop.bytes = 0;
    core::hint::black_box(ledger::DONE)
}

#[inline(never)]
fn name(batch: &mut Batch, hop: &Hop, tick: u64) -> Done {
    batch.packets = u64::from(hop.packets);
    batch.bytes = hop.bytes;
    batch.last = ledger::whole(hop.last, tick);
    batch.flags = 0;
    batch.backend = u32::MAX;
    batch.ends.source = hop.source;
    batch.ends.destination = hop.destination;
    batch.ends.source_port = 0;
    batch.ends.destination_port = 0;
    batch.ends.protocol = if hop.version == 4 { IPIP } else { IPV6_IN_IP };
    batch.locate(hop.ifindex, iface::EGRESS);
    Done::here()
}
