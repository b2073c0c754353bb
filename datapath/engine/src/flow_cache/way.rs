//! Tuples, ways and buckets: finding a flow's way, and whose way a new flow takes.

use datapath_abi::flow_cache::{Bucket4, Bucket6, Tail, Tuple4, Tuple6, Way4, Way6};

use crate::flow_cache::NO_WAY;
use crate::key::Ends;
use crate::service::mix;

/// Generations that a way can tell apart.
pub const GENERATIONS: u32 = 0xff_ffff;

/// A five-tuple and its interface.
pub trait Tuple: Copy {
    /// `ifindex << 9 | protocol`; 0 for nobody.
    fn link(&self) -> u32;

    /// Whether all of it is the same.
    fn is(&self, other: &Self) -> bool;

    /// What the bucket is chosen by.
    fn hash(&self, seed: u32) -> u32;

    /// The packet's ends.
    fn ends(&self) -> Ends;
}

/// Two ways.
pub trait Bucket {
    /// What a way is found by.
    type Tuple: Tuple;

    /// A way's flow.
    fn tuple(&self, index: u32) -> &Self::Tuple;

    /// What a way holds.
    fn tail(&self, index: u32) -> &Tail;

    /// See [`Bucket::tail`].
    fn tail_mut(&mut self, index: u32) -> &mut Tail;

    /// Gives a way to a flow.
    fn put(&mut self, index: u32, tuple: &Self::Tuple, tail: &Tail);

    /// Takes a way from its flow.
    fn clear(&mut self, index: u32);
}

/// The way of a flow, or [`NO_WAY`].
#[inline(always)]
pub fn find<B: Bucket>(bucket: &B, tuple: &B::Tuple) -> u32 {
    if bucket.tuple(0).is(tuple) {
        0
    } else if bucket.tuple(1).is(tuple) {
        1
    } else {
        NO_WAY
    }
}

/// The way that a new flow gets: one that nobody has, or else that of the flow which has been silent for longer.
#[inline(always)]
pub(super) fn victim<B: Bucket>(bucket: &B) -> u32 {
    if bucket.tuple(0).link() == 0 {
        return 0;
    }
    if bucket.tuple(1).link() == 0 {
        return 1;
    }
    let (a, b) = (bucket.tail(0).last, bucket.tail(1).last);
    u32::from((a.wrapping_sub(b) as i32) > 0)
}

/// See [`Tail::stamp`].
#[inline(always)]
pub(super) fn stamp(generation: u32, flags: u8) -> u32 {
    generation << 8 | u32::from(flags)
}

#[inline(always)]
fn spread(words: [u64; 2]) -> u32 {
    let hash = mix(words[0]) ^ words[1];
    let hash = (hash ^ hash >> 32).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (hash >> 32) as u32
}

#[inline(always)]
fn ends(ports: u32, link: u32, source: [u8; 16], destination: [u8; 16]) -> Ends {
    let [a, b, c, d] = ports.to_ne_bytes();
    Ends {
        source,
        destination,
        source_port: u16::from_be_bytes([a, b]),
        destination_port: u16::from_be_bytes([c, d]),
        protocol: link as u8,
    }
}

/// As `::ffff:a.b.c.d`.
#[inline(always)]
pub fn mapped(address: u32) -> [u8; 16] {
    let [a, b, c, d] = address.to_ne_bytes();
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]
}

#[inline(always)]
fn whole(words: [u64; 2]) -> [u8; 16] {
    let [a, b, c, d, e, f, g, h] = words[0].to_ne_bytes();
    let [i, j, k, l, m, n, o, p] = words[1].to_ne_bytes();
    [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]
}

// === impl Tuple4 ===

impl Tuple for Tuple4 {
    #[inline(always)]
    fn link(&self) -> u32 {
        self.link
    }

    #[inline(always)]
    fn is(&self, other: &Self) -> bool {
        (self.source ^ other.source)
            | (self.destination ^ other.destination)
            | (self.ports ^ other.ports)
            | (self.link ^ other.link)
            == 0
    }

    #[inline(always)]
    fn hash(&self, seed: u32) -> u32 {
        let addresses = u64::from(self.source) << 32 | u64::from(self.destination);
        let rest = u64::from(self.ports) << 32 | u64::from(self.link);
        spread([addresses ^ u64::from(seed), rest])
    }

    #[inline(always)]
    fn ends(&self) -> Ends {
        ends(self.ports, self.link, mapped(self.source), mapped(self.destination))
    }
}

// === impl Tuple6 ===

impl Tuple for Tuple6 {
    #[inline(always)]
    fn link(&self) -> u32 {
        self.link
    }

    #[inline(always)]
    fn is(&self, other: &Self) -> bool {
        (self.source[0] ^ other.source[0])
            | (self.source[1] ^ other.source[1])
            | (self.destination[0] ^ other.destination[0])
            | (self.destination[1] ^ other.destination[1])
            | u64::from((self.ports ^ other.ports) | (self.link ^ other.link))
            == 0
    }

    #[inline(always)]
    fn hash(&self, seed: u32) -> u32 {
        let source = mix(self.source[0] ^ u64::from(seed)) ^ self.source[1];
        let destination = mix(self.destination[0]) ^ self.destination[1];
        let rest = u64::from(self.ports) << 32 | u64::from(self.link);
        spread([mix(source) ^ destination, rest])
    }

    #[inline(always)]
    fn ends(&self) -> Ends {
        ends(self.ports, self.link, whole(self.source), whole(self.destination))
    }
}

macro_rules! bucket {
    ($bucket:ty, $way:ident, $tuple:ty) => {
        impl Bucket for $bucket {
            type Tuple = $tuple;

            #[inline(always)]
            fn tuple(&self, index: u32) -> &$tuple {
                &self.ways[(index & 1) as usize].tuple
            }

            #[inline(always)]
            fn tail(&self, index: u32) -> &Tail {
                &self.ways[(index & 1) as usize].tail
            }

            #[inline(always)]
            fn tail_mut(&mut self, index: u32) -> &mut Tail {
                &mut self.ways[(index & 1) as usize].tail
            }

            #[inline(always)]
            fn put(&mut self, index: u32, tuple: &$tuple, tail: &Tail) {
                self.ways[(index & 1) as usize] = $way { tuple: *tuple, tail: *tail };
            }

            #[inline(always)]
            fn clear(&mut self, index: u32) {
                self.ways[(index & 1) as usize].tuple.link = 0;
            }
        }
    };
}

// === impl Bucket4 ===

bucket!(Bucket4, Way4, Tuple4);

// === impl Bucket6 ===

bucket!(Bucket6, Way6, Tuple6);
