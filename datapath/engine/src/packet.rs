//! Bounded reads from a packet.

/// Bytes of a packet, from the beginning of its frame.
pub trait Packet {
    /// `N` bytes at `offset`; none where they do not all lie within what can be read.
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]>;

    /// 0, but a 0 that the verifier does not know, where there is one: a number combined with it is
    /// any number to the verifier. It follows each of the hundreds of ways through the parser with
    /// what it knows of every value; where ways meet, forgetting makes them one.
    #[inline(always)]
    fn zero(&self) -> u32 {
        0
    }
}

/// A packet in a slice: user space and tests.
#[derive(Debug, Clone, Copy)]
pub struct Slice<'a>(pub &'a [u8]);

/// What remains of a packet once some bytes of it are taken off.
#[derive(Debug, Clone, Copy)]
pub struct Without<'a, P> {
    /// The packet.
    pub packet: &'a P,
    /// Where they begin.
    pub at: u32,
    /// How many they are.
    pub bytes: u32,
}

// === impl Without ===

impl<P: Packet> Packet for Without<'_, P> {
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        let moved = offset.checked_add(if offset < self.at { 0 } else { self.bytes })?;
        self.packet.load(moved)
    }
}

// === impl Slice ===

impl Packet for Slice<'_> {
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        self.0.get(offset as usize..)?.first_chunk::<N>().copied()
    }
}
