//! [`ConnValue`] as it is while packets change it: several CPUs at once, hence cells.
//!
//! The kernel programs and user space reach shared memory by different means (BPF has no Rust
//! atomics below 64 bits, and none that add), so the cells' types are the host's: [`Shared`].

use core::mem::{offset_of, size_of};

use datapath_abi::conn::{ConnValue, DirHot, DirMore, DirTotals};

/// A value that other CPUs read and write meanwhile. No access is torn; none orders another.
pub trait Cell<T> {
    /// Loads the value.
    fn get(&self) -> T;
    /// Stores a value.
    fn set(&self, value: T);
}

/// A counter that other CPUs add to meanwhile.
pub trait Counter: Cell<u64> {
    /// Adds; no addition is ever lost.
    fn add(&self, value: u64);
}

/// A place's kinds of cells: each as large and as aligned as its value.
pub trait Shared {
    /// Cell of a `u8`.
    type U8: Cell<u8>;
    /// Cell of a `u32`.
    type U32: Cell<u32>;
    /// Cell of a `u64`.
    type U64: Counter;
}

/// See [`DirHot`].
#[repr(C)]
#[derive(Debug, Default)]
#[allow(missing_docs, reason = "each field is described once, in abi")]
pub struct HotCells<S: Shared> {
    pub packets: S::U64,
    pub bytes: S::U64,
    pub last: S::U64,
}

/// See [`DirMore`].
#[repr(C)]
#[derive(Debug, Default)]
#[allow(missing_docs, reason = "each field is described once, in abi")]
pub struct MoreCells<S: Shared> {
    pub extra_segments: S::U64,
    pub extra_bytes: S::U64,
    pub first_ns: S::U64,
    pub rtt_sent_ns: S::U64,
    pub rtt_ack: S::U32,
    pub srtt_ns: S::U32,
    pub next_seq: S::U32,
    pub retransmits: S::U32,
}

/// See [`DirTotals`].
#[repr(C)]
#[derive(Debug, Default)]
#[allow(missing_docs, reason = "each field is described once, in abi")]
pub struct TotalsCells<S: Shared> {
    pub packets: S::U64,
    pub bytes: S::U64,
    pub extra_segments: S::U64,
    pub extra_bytes: S::U64,
}

/// See [`ConnValue`].
#[repr(C)]
#[derive(Debug, Default)]
#[allow(missing_docs, reason = "each field is described once, in abi")]
pub struct ConnCells<S: Shared> {
    pub dirs: [HotCells<S>; 2],
    pub retired: S::U32,
    pub tcp_flags: [S::U8; 2],
    pub state: S::U8,
    pub client: S::U8,
    /// `revision`, `verdict` and `pad` as one word ([`Judged`]), so that nobody sees one of them new
    /// and the other old.
    pub judged: S::U64,
    /// `stack_addr`, as two words.
    pub stack_addr: [S::U64; 2],
    /// `stack_port`, and above it `stack_peer_port`: as one word.
    pub stack_ports: S::U32,
    pub service: S::U32,
    pub backend: S::U32,
    pub hop_ifindex: S::U32,
    /// `hop_macs`, `hop_mtu` and `hop_pad`, as two words.
    pub hop: [S::U64; 2],
    pub hop_ticks: S::U32,
    pub pad2: S::U32,
    pub id: S::U64,
    pub more: [MoreCells<S>; 2],
    pub syn_ns: S::U64,
    pub synack_ns: S::U64,
    pub ack_ns: S::U64,
    pub initial_seq: S::U32,
    pub reuses: S::U32,
    pub cookie: S::U64,
    pub origin: S::U32,
    pub peer_identity: S::U32,
    pub before: [TotalsCells<S>; 2],
}

/// What [`ConnCells::judged`] holds: the bytes of `revision`, `verdict`, `nat` and two zeroes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Judged(pub u64);

/// Where a packet leaves without the stack: see `hop_ifindex` and the fields after it in [`ConnValue`].
#[repr(C, align(4))]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hop {
    /// Interface; 0 for none.
    pub ifindex: u32,
    /// Ethernet addresses, destination and source.
    pub macs: [u8; 12],
    /// The longest packet, bytes behind the link header.
    pub mtu: u16,
}

/// Fields of equal name must lie at equal places, for one is read through the other.
macro_rules! same_layout {
    ($cells:ident, $plain:ident: $($field:ident),+) => {
        assert!(size_of::<$cells<S>>() == size_of::<$plain>());
        assert!(align_of::<$cells<S>>() == align_of::<$plain>());
        $(assert!(offset_of!($cells<S>, $field) == offset_of!($plain, $field));)+
    };
}

// === impl Hop ===

impl Hop {
    /// By the stack.
    pub const NONE: Self = Self { ifindex: 0, macs: [0; 12], mtu: 0 };
}

// === impl HotCells ===

impl<S: Shared> HotCells<S> {
    fn read(&self) -> DirHot {
        DirHot { packets: self.packets.get(), bytes: self.bytes.get(), last: self.last.get() }
    }
}

// === impl MoreCells ===

impl<S: Shared> MoreCells<S> {
    fn read(&self) -> DirMore {
        DirMore {
            extra_segments: self.extra_segments.get(),
            extra_bytes: self.extra_bytes.get(),
            first_ns: self.first_ns.get(),
            rtt_sent_ns: self.rtt_sent_ns.get(),
            rtt_ack: self.rtt_ack.get(),
            srtt_ns: self.srtt_ns.get(),
            next_seq: self.next_seq.get(),
            retransmits: self.retransmits.get(),
        }
    }

    fn write(&self, plain: &DirMore) {
        self.extra_segments.set(plain.extra_segments);
        self.extra_bytes.set(plain.extra_bytes);
        self.first_ns.set(plain.first_ns);
        self.rtt_sent_ns.set(plain.rtt_sent_ns);
        self.rtt_ack.set(plain.rtt_ack);
        self.srtt_ns.set(plain.srtt_ns);
        self.next_seq.set(plain.next_seq);
        self.retransmits.set(plain.retransmits);
    }
}

// === impl TotalsCells ===

impl<S: Shared> TotalsCells<S> {
    fn read(&self) -> DirTotals {
        DirTotals {
            packets: self.packets.get(),
            bytes: self.bytes.get(),
            extra_segments: self.extra_segments.get(),
            extra_bytes: self.extra_bytes.get(),
        }
    }

    fn write(&self, plain: &DirTotals) {
        self.packets.set(plain.packets);
        self.bytes.set(plain.bytes);
        self.extra_segments.set(plain.extra_segments);
        self.extra_bytes.set(plain.extra_bytes);
    }
}

// === impl Judged ===

impl Judged {
    /// A verdict of a revision, and how the connection is translated.
    #[inline(always)]
    pub fn new(revision: u32, verdict: u8, nat: u8) -> Self {
        let [a, b, c, d] = revision.to_ne_bytes();
        Self(u64::from_ne_bytes([a, b, c, d, verdict, nat, 0, 0]))
    }

    /// The revision.
    #[inline(always)]
    pub fn revision(self) -> u32 {
        let [a, b, c, d, ..] = self.0.to_ne_bytes();
        u32::from_ne_bytes([a, b, c, d])
    }

    /// The verdict.
    #[inline(always)]
    pub fn verdict(self) -> u8 {
        self.0.to_ne_bytes()[4]
    }

    /// [`NAT_NONE`](datapath_abi::service::NAT_NONE) …
    #[inline(always)]
    pub fn nat(self) -> u8 {
        self.0.to_ne_bytes()[5]
    }
}

// === impl ConnCells ===

impl<S: Shared> ConnCells<S> {
    /// Naming it where a [`ConnValue`] is taken for cells proves that it may be.
    pub const SAME_LAYOUT: () = {
        same_layout!(HotCells, DirHot: packets, bytes, last);
        same_layout!(MoreCells, DirMore: extra_segments, extra_bytes, first_ns, rtt_sent_ns);
        same_layout!(MoreCells, DirMore: rtt_ack, srtt_ns, next_seq, retransmits);
        same_layout!(TotalsCells, DirTotals: packets, bytes, extra_segments, extra_bytes);
        same_layout!(ConnCells, ConnValue: dirs, retired, tcp_flags, state, client, id, more);
        same_layout!(ConnCells, ConnValue: syn_ns, synack_ns, ack_ns, initial_seq, reuses);
        same_layout!(ConnCells, ConnValue: cookie, origin, peer_identity, before, stack_addr);
        same_layout!(ConnCells, ConnValue: service, backend, hop_ifindex, hop_ticks, pad2);
        let hop = offset_of!(ConnCells<S>, hop);
        assert!(
            hop == offset_of!(ConnValue, hop_macs) && hop + 12 == offset_of!(ConnValue, hop_mtu)
        );
        assert!(offset_of!(ConnCells<S>, stack_ports) == offset_of!(ConnValue, stack_port));
        let judged = offset_of!(ConnCells<S>, judged);
        assert!(judged == offset_of!(ConnValue, revision) && judged % 8 == 0);
        assert!(judged + 4 == offset_of!(ConnValue, verdict));
        assert!(judged + 5 == offset_of!(ConnValue, nat));
        assert!(judged + 8 == offset_of!(ConnValue, stack_addr) && judged + 8 == 64);
    };

    /// What the cells hold now, field by field.
    pub fn read(&self) -> ConnValue {
        let judged = Judged(self.judged.get());
        let hop = self.hop();
        ConnValue {
            dirs: [self.dirs[0].read(), self.dirs[1].read()],
            retired: self.retired.get(),
            tcp_flags: [self.tcp_flags[0].get(), self.tcp_flags[1].get()],
            state: self.state.get(),
            client: self.client.get(),
            revision: judged.revision(),
            verdict: judged.verdict(),
            nat: judged.nat(),
            pad: [0; 2],
            id: self.id.get(),
            more: [self.more[0].read(), self.more[1].read()],
            syn_ns: self.syn_ns.get(),
            synack_ns: self.synack_ns.get(),
            ack_ns: self.ack_ns.get(),
            initial_seq: self.initial_seq.get(),
            reuses: self.reuses.get(),
            cookie: self.cookie.get(),
            origin: self.origin.get(),
            peer_identity: self.peer_identity.get(),
            before: [self.before[0].read(), self.before[1].read()],
            stack_addr: self.stack_addr(),
            stack_port: self.stack_ports.get() as u16,
            stack_peer_port: (self.stack_ports.get() >> 16) as u16,
            service: self.service.get(),
            backend: self.backend.get(),
            hop_ifindex: self.hop_ifindex.get(),
            hop_macs: hop.macs,
            hop_mtu: hop.mtu,
            hop_pad: 0,
            hop_ticks: self.hop_ticks.get(),
            pad2: 0,
        }
    }

    /// `stack_addr`.
    #[inline(always)]
    pub fn stack_addr(&self) -> [u8; 16] {
        let [a, b, c, d, e, f, g, h] = self.stack_addr[0].get().to_ne_bytes();
        let [i, j, k, l, m, n, o, p] = self.stack_addr[1].get().to_ne_bytes();
        [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]
    }

    /// Sets `stack_addr`.
    #[inline(always)]
    pub fn set_stack_addr(&self, address: &[u8; 16]) {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = *address;
        self.stack_addr[0].set(u64::from_ne_bytes([a, b, c, d, e, f, g, h]));
        self.stack_addr[1].set(u64::from_ne_bytes([i, j, k, l, m, n, o, p]));
    }

    /// Where packets leave without the stack.
    #[inline(always)]
    pub fn hop(&self) -> Hop {
        let [a, b, c, d, e, f, g, h] = self.hop[0].get().to_ne_bytes();
        let [i, j, k, l, m, n, ..] = self.hop[1].get().to_ne_bytes();
        Hop {
            ifindex: self.hop_ifindex.get(),
            macs: [a, b, c, d, e, f, g, h, i, j, k, l],
            mtu: u16::from_ne_bytes([m, n]),
        }
    }

    /// Sets [`hop`](Self::hop). Where it is another one than before, a packet on another CPU may meanwhile be sent to
    /// nobody, never to somebody else's interface.
    #[inline(always)]
    pub fn set_hop(&self, hop: &Hop) {
        let [a, b, c, d, e, f, g, h, i, j, k, l] = hop.macs;
        let [m, n] = hop.mtu.to_ne_bytes();
        self.hop[0].set(u64::from_ne_bytes([a, b, c, d, e, f, g, h]));
        self.hop[1].set(u64::from_ne_bytes([i, j, k, l, m, n, 0, 0]));
        self.hop_ifindex.set(hop.ifindex);
    }

    /// Stores a value, field by field.
    pub fn write(&self, plain: &ConnValue) {
        for direction in 0..2 {
            self.dirs[direction].packets.set(plain.dirs[direction].packets);
            self.dirs[direction].bytes.set(plain.dirs[direction].bytes);
            self.dirs[direction].last.set(plain.dirs[direction].last);
            self.tcp_flags[direction].set(plain.tcp_flags[direction]);
            self.more[direction].write(&plain.more[direction]);
            self.before[direction].write(&plain.before[direction]);
        }
        self.retired.set(plain.retired);
        self.state.set(plain.state);
        self.client.set(plain.client);
        self.judged.set(Judged::new(plain.revision, plain.verdict, plain.nat).0);
        self.id.set(plain.id);
        self.syn_ns.set(plain.syn_ns);
        self.synack_ns.set(plain.synack_ns);
        self.ack_ns.set(plain.ack_ns);
        self.initial_seq.set(plain.initial_seq);
        self.reuses.set(plain.reuses);
        self.cookie.set(plain.cookie);
        self.origin.set(plain.origin);
        self.peer_identity.set(plain.peer_identity);
        self.set_stack_addr(&plain.stack_addr);
        let ports = u32::from(plain.stack_port) | u32::from(plain.stack_peer_port) << 16;
        self.stack_ports.set(ports);
        self.service.set(plain.service);
        self.backend.set(plain.backend);
        self.set_hop(&Hop { ifindex: plain.hop_ifindex, macs: plain.hop_macs, mtu: plain.hop_mtu });
        self.hop_ticks.set(plain.hop_ticks);
        self.pad2.set(plain.pad2);
    }
}
