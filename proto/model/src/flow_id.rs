//! The name of a connection, the same on every node that sees it.

use std::fmt;
use std::net::IpAddr;

/// 64 bits from the five-tuple, either way round, and the initial sequence number of a TCP client.
///
/// Nodes compute it without talking to each other, so it may hold only what both ends see. The
/// initial sequence number (RFC 9293, 3.4.1) tells a reused tuple from the connection before it;
/// connections without one (UDP, or TCP first seen after its handshake) use 0, and are told apart
/// by time.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FlowId(pub u64);

// === impl FlowId ===

impl FlowId {
    /// The id of the connection between `a` and `b` (address, port; order does not matter).
    pub fn new(protocol: u8, a: (IpAddr, u16), b: (IpAddr, u16), initial_sequence: u32) -> Self {
        let (low, high) = if a <= b { (a, b) } else { (b, a) };
        let mut hash = Fnv::new();
        for (address, port) in [low, high] {
            match address {
                IpAddr::V4(v4) => hash.write(&v4.octets()),
                IpAddr::V6(v6) => hash.write(&v6.octets()),
            }
            hash.write(&port.to_be_bytes());
        }
        hash.write(&[protocol]);
        hash.write(&initial_sequence.to_be_bytes());
        Self(hash.finish())
    }

    /// Writes the 16 hexadecimal digits into `buffer` without allocating.
    pub fn hex(self, buffer: &mut [u8; 16]) -> &str {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        for (i, digit) in buffer.iter_mut().enumerate() {
            *digit = DIGITS[(self.0 >> (60 - 4 * i)) as usize & 15];
        }
        std::str::from_utf8(buffer).expect("hexadecimal digits are ASCII")
    }
}

impl fmt::Display for FlowId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for FlowId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// FNV-1a with a finalising mix (SplitMix64's): stable over versions and machines.
struct Fnv(u64);

// === impl Fnv ===

impl Fnv {
    const fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    const fn finish(self) -> u64 {
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_both_ways_and_distinct_by_sequence() {
        let a = ("10.0.0.1".parse().unwrap(), 40000);
        let b = ("10.0.0.2".parse().unwrap(), 80);
        let id = FlowId::new(6, a, b, 7);
        assert_eq!(id, FlowId::new(6, b, a, 7));
        assert_ne!(id, FlowId::new(6, a, b, 8));
        assert_ne!(id, FlowId::new(17, a, b, 7));
        assert_eq!(id.hex(&mut [0; 16]), id.to_string());
    }
}
