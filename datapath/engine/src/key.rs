//! From a packet's two ends to the key in which both directions meet.

use datapath_abi::conn::{ConnKey, HIGH_TO_LOW, LOW_TO_HIGH};

use crate::host::Frame;
use crate::parse::Headers;

/// A packet's two ends.
#[repr(C, align(8))]
#[derive(Debug, Clone, Copy)]
pub struct Ends {
    /// Source address.
    pub source: [u8; 16],
    /// Destination address.
    pub destination: [u8; 16],
    /// Source port.
    pub source_port: u16,
    /// Destination port.
    pub destination_port: u16,
    /// Protocol.
    pub protocol: u8,
}

// === impl Ends ===

impl Ends {
    /// Nobody.
    pub const NONE: Self = Self {
        source: [0; 16],
        destination: [0; 16],
        source_port: 0,
        destination_port: 0,
        protocol: 0,
    };
}

/// The packet's key and its direction (index of [`ConnValue::dirs`](datapath_abi::conn::ConnValue)).
#[inline(always)]
pub fn of(frame: &Frame, headers: &Headers) -> (ConnKey, usize) {
    let (source, destination) = (&headers.source, &headers.destination);
    if ascending(source, headers.source_port, destination, headers.destination_port) {
        let key = ConnKey {
            low_addr: *source,
            high_addr: *destination,
            low_port: headers.source_port,
            high_port: headers.destination_port,
            link: link(frame.ifindex, frame.hook, headers.protocol, LOW_TO_HIGH),
        };
        (key, LOW_TO_HIGH)
    } else {
        let key = ConnKey {
            low_addr: *destination,
            high_addr: *source,
            low_port: headers.destination_port,
            high_port: headers.source_port,
            link: link(frame.ifindex, frame.hook, headers.protocol, HIGH_TO_LOW),
        };
        (key, HIGH_TO_LOW)
    }
}

/// As [`of`], for a packet of which only the ends are known.
#[inline(always)]
pub fn of_ends(ifindex: u32, hook: u32, ends: &Ends) -> ConnKey {
    located(ifindex, hook, ends).0
}

/// As [`of_ends`], with the direction.
#[inline(always)]
pub fn located(ifindex: u32, hook: u32, ends: &Ends) -> (ConnKey, usize) {
    let (source, destination) = (&ends.source, &ends.destination);
    if ascending(source, ends.source_port, destination, ends.destination_port) {
        let key = ConnKey {
            low_addr: *source,
            high_addr: *destination,
            low_port: ends.source_port,
            high_port: ends.destination_port,
            link: link(ifindex, hook, ends.protocol, LOW_TO_HIGH),
        };
        (key, LOW_TO_HIGH)
    } else {
        let key = ConnKey {
            low_addr: *destination,
            high_addr: *source,
            low_port: ends.destination_port,
            high_port: ends.source_port,
            link: link(ifindex, hook, ends.protocol, HIGH_TO_LOW),
        };
        (key, HIGH_TO_LOW)
    }
}

/// Ingress low → high and egress high → low are one path, the other two the other.
#[inline(always)]
fn link(ifindex: u32, hook: u32, protocol: u8, direction: usize) -> u32 {
    ConnKey::link(ifindex, hook ^ direction as u32, protocol)
}

/// Whether (`a`, `port_a`) ≤ (`b`, `port_b`), addresses as big-endian numbers.
#[inline(always)]
fn ascending(a: &[u8; 16], port_a: u16, b: &[u8; 16], port_b: u16) -> bool {
    let (a, b) = (halves(a), halves(b));
    if a.0 != b.0 {
        a.0 < b.0
    } else if a.1 != b.1 {
        a.1 < b.1
    } else {
        port_a <= port_b
    }
}

#[inline(always)]
fn halves(address: &[u8; 16]) -> (u64, u64) {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = *address;
    (u64::from_be_bytes([a, b, c, d, e, f, g, h]), u64::from_be_bytes([i, j, k, l, m, n, o, p]))
}
