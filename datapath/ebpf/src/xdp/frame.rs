//! A frame's bytes: what is read of it, and the outer header.

use aya_ebpf::helpers::generated::bpf_xdp_adjust_head;
use datapath_abi::flow_cache::{Hop, Tuple4, Tuple6};
use datapath_engine::flow_cache::hop::{IPV6_IN_IP, OUTER4, OUTER6, checksum};
use datapath_engine::parse::{TCP, UDP};

use super::Xdp;

/// EtherTypes as they lie in the frame.
pub(super) const ETH_IPV4: u32 = 0x0008;
/// See [`ETH_IPV4`].
pub(super) const ETH_IPV6: u32 = 0xdd86;

/// Where the network header begins.
const NETWORK: usize = 14;

/// What a plain packet is, besides its tuple.
#[repr(C, align(8))]
pub(crate) struct Plain {
    /// See `Query::mac`. First, so that it is aligned on the stack.
    pub(crate) mac: [u32; 2],
    /// Bytes behind the link header, as the interface counts them.
    pub(crate) bytes: u32,
    /// Length of the packet with the outer header.
    pub(crate) length: u32,
    /// TCP flags.
    pub(crate) flags: u8,
    /// TCP: the sequence number.
    pub(crate) sequence: u32,
    /// The inner header's first word.
    pub(crate) first: u32,
}

/// A word of the frame, as it lies there.
macro_rules! load {
    ($word:ty, $frame:expr, $at:expr) => {
        // SAFETY: within the frame by a comparison before, which the verifier checks.
        u32::from(unsafe { (($frame + $at) as *const $word).read_unaligned() })
    };
}

/// As [`load`].
macro_rules! store {
    ($word:ty, $frame:expr, $at:expr, $value:expr) => {
        // SAFETY: as in `load`.
        unsafe { (($frame + $at) as *mut $word).write_unaligned($value) }
    };
}

/// Two words, each as it lies there, as one.
#[inline(always)]
fn pair(low: u32, high: u32) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}

/// Adds an outer IPv4 header. False where there is no room before the frame.
#[inline(always)]
pub(super) fn encapsulate4(xdp: Xdp, hop: &Hop, plain: &Plain) -> bool {
    // SAFETY: the context.
    if unsafe { bpf_xdp_adjust_head(xdp.0, -(OUTER4 as i32)) } != 0 {
        return false;
    }
    let (frame, end) = xdp.bounds();
    if frame + NETWORK + 20 > end {
        return false;
    }
    // Version and length, and the type of service that is within.
    let length = u32::from((plain.length as u16).to_be());
    let first = 0x45 | (plain.first & 0xff00) | length << 16;
    let sum = checksum(hop.sum, first);
    let word = |at: &[u8; 16]| u32::from_ne_bytes([at[12], at[13], at[14], at[15]]);
    ethernet(frame, hop, ETH_IPV4);
    store!(u32, frame, 14, first);
    store!(u32, frame, 18, u32::from_ne_bytes([0, 0, 0x40, 0]));
    store!(u32, frame, 22, u32::from_ne_bytes([64, 4, 0, 0]) | u32::from(sum) << 16);
    store!(u32, frame, 26, word(&hop.source));
    store!(u32, frame, 30, word(&hop.destination));
    true
}

/// Adds an outer IPv6 header, whose flow label tells flows apart (RFC 6438).
#[inline(always)]
pub(super) fn encapsulate6(xdp: Xdp, hop: &Hop, plain: &Plain, hash: u32) -> bool {
    // SAFETY: the context.
    if unsafe { bpf_xdp_adjust_head(xdp.0, -(OUTER6 as i32)) } != 0 {
        return false;
    }
    let (frame, end) = xdp.bounds();
    if frame + NETWORK + 40 > end {
        return false;
    }
    let class = plain.first & u32::from_ne_bytes([0x0f, 0xf0, 0, 0]);
    let label = hash & u32::from_ne_bytes([0, 0x0f, 0xff, 0xff]);
    let length = u32::from(((plain.length - OUTER6) as u16).to_be());
    ethernet(frame, hop, ETH_IPV6);
    store!(u32, frame, 14, u32::from_ne_bytes([0x60, 0, 0, 0]) | class | label);
    store!(u32, frame, 18, length | u32::from_ne_bytes([0, 0, IPV6_IN_IP, 64]));
    let words = |at: &[u8; 16]| {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = *at;
        [[a, b, c, d], [e, f, g, h], [i, j, k, l], [m, n, o, p]].map(u32::from_ne_bytes)
    };
    let [a, b, c, d] = words(&hop.source);
    store!(u32, frame, 22, a);
    store!(u32, frame, 26, b);
    store!(u32, frame, 30, c);
    store!(u32, frame, 34, d);
    let [a, b, c, d] = words(&hop.destination);
    store!(u32, frame, 38, a);
    store!(u32, frame, 42, b);
    store!(u32, frame, 46, c);
    store!(u32, frame, 50, d);
    true
}

#[inline(always)]
fn ethernet(frame: usize, hop: &Hop, kind: u32) {
    store!(u32, frame, 0, hop.macs[0]);
    store!(u32, frame, 4, hop.macs[1]);
    store!(u32, frame, 8, hop.macs[2]);
    store!(u16, frame, 12, kind as u16);
}

// === impl Xdp ===

impl Xdp {
    #[inline(always)]
    fn bounds(self) -> (usize, usize) {
        // SAFETY: the context of an XDP program; the verifier rewrites these loads.
        let context = unsafe { &*self.0 };
        (context.data as usize, context.data_end as usize)
    }

    /// The EtherType as it lies in the frame, which is as long as the shortest plain packet.
    #[inline(always)]
    pub(super) fn kind(self) -> Option<u32> {
        let (frame, end) = self.bounds();
        (frame + NETWORK + 28 <= end).then(|| load!(u16, frame, 12))
    }

    #[inline(always)]
    fn ifindex(self) -> u32 {
        // SAFETY: as in `bounds`.
        unsafe { (*self.0).ingress_ifindex }
    }

    /// A whole IPv4 packet of TCP or UDP, without options.
    #[inline(always)]
    pub(super) fn plain4(self) -> Option<(Tuple4, Plain)> {
        let (frame, end) = self.bounds();
        if frame + NETWORK + 28 > end {
            return None;
        }
        let first = load!(u32, frame, 14);
        let part = load!(u16, frame, 20);
        let life = load!(u8, frame, 22);
        let protocol = load!(u8, frame, 23);
        let bytes = (end.wrapping_sub(frame) as u32).wrapping_sub(NETWORK as u32);
        let total = u32::from(u16::from_be((first >> 16) as u16));
        let is_tcp = protocol == u32::from(TCP);
        if (first & 0xff != 0x45)
            | (part & u32::from(0x3fffu16.to_be()) != 0)
            | (life <= 1)
            | (total > bytes)
            | (total < 28)
            | !(is_tcp | (protocol == u32::from(UDP)))
        {
            return None;
        }
        let (mut flags, mut sequence) = (0, 0);
        if is_tcp {
            if (frame + NETWORK + 40 > end) | (total < 40) {
                return None;
            }
            flags = load!(u8, frame, 47) as u8;
            sequence = u32::from_be(load!(u32, frame, 38));
        }
        let tuple = Tuple4 {
            source: load!(u32, frame, 26),
            destination: load!(u32, frame, 30),
            ports: load!(u32, frame, 34),
            link: self.ifindex() << 9 | protocol,
        };
        let mac = [load!(u16, frame, 0), load!(u32, frame, 2)];
        let length = total + OUTER4;
        Some((tuple, Plain { bytes, length, flags, sequence, first, mac }))
    }

    /// A whole IPv6 packet of TCP or UDP, without extension headers.
    #[inline(always)]
    pub(super) fn plain6(self) -> Option<(Tuple6, Plain)> {
        let (frame, end) = self.bounds();
        if frame + NETWORK + 48 > end {
            return None;
        }
        let first = load!(u32, frame, 14);
        let second = load!(u32, frame, 18);
        let [a, b, protocol, life] = second.to_ne_bytes();
        let bytes = (end.wrapping_sub(frame) as u32).wrapping_sub(NETWORK as u32);
        let total = u32::from(u16::from_be_bytes([a, b])) + 40;
        let is_tcp = protocol == TCP;
        if (first & 0xf0 != 0x60)
            | (life <= 1)
            | (total > bytes)
            | (total < 48)
            | !(is_tcp | (protocol == UDP))
        {
            return None;
        }
        let (mut flags, mut sequence) = (0, 0);
        if is_tcp {
            if (frame + NETWORK + 60 > end) | (total < 60) {
                return None;
            }
            flags = load!(u8, frame, 67) as u8;
            sequence = u32::from_be(load!(u32, frame, 58));
        }
        let source = [
            pair(load!(u32, frame, 22), load!(u32, frame, 26)),
            pair(load!(u32, frame, 30), load!(u32, frame, 34)),
        ];
        let destination = [
            pair(load!(u32, frame, 38), load!(u32, frame, 42)),
            pair(load!(u32, frame, 46), load!(u32, frame, 50)),
        ];
        let link = self.ifindex() << 9 | u32::from(protocol);
        let tuple = Tuple6 { source, destination, ports: load!(u32, frame, 54), link, pad: 0 };
        let mac = [load!(u16, frame, 0), load!(u32, frame, 2)];
        let length = total + OUTER6;
        Some((tuple, Plain { bytes, length, flags, sequence, first, mac }))
    }
}
