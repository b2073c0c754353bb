//! The flow cache of the XDP program: which backend a client's packets go to, one cache line a packet.
//!
//! ```text
//! five-tuple, interface ──hash──▶ bucket of this CPU: two ways ──backend──▶ HOPS of this CPU ──▶ encapsulated, sent
//! ```
//!
//! Every CPU has buckets and hops of its own, so nothing in them is shared: only its XDP program writes them, and the
//! program `sweep`, which user space runs on that CPU. The two keep apart by [`CpuState::busy`] and
//! [`CpuState::sweeping`]. Packets are counted in the way first, and added to the connection's entry in
//! [`conn::MAP`](crate::conn::MAP) when [`FLUSH_PACKETS`] of them have gathered, on eviction, and by the sweep.

use crate::layout;

/// Map name: array of [`Bucket4`], those of a CPU in a row.
pub const BUCKETS4: &str = "xdp_buckets4";
/// Map name: array of [`Bucket6`], likewise.
pub const BUCKETS6: &str = "xdp_buckets6";
/// Map name: array of [`Hop`], [`HOPS_PER_CPU`] of each CPU.
pub const HOPS: &str = "xdp_hops";
/// Map name: array of one [`CacheSettings`].
pub const SETTINGS: &str = "xdp_settings";
/// Map name: array of [`CpuState`], by CPU.
pub const STATE: &str = "xdp_state";

/// Hops of a CPU: a power of two, by the lower bits of the backend's index.
pub const HOPS_PER_CPU: u32 = 1024;

/// Packets in a way that are added to the connection's entry at once.
pub const FLUSH_PACKETS: u32 = 64;

/// Buckets that one run of the program `sweep` looks at.
pub const SWEEP: u32 = 8;

/// First argument of `sweep`: which table.
pub const SWEEP_V4: u64 = 0;
/// See [`SWEEP_V4`].
pub const SWEEP_V6: u64 = 1;
/// See [`SWEEP_V4`].
pub const SWEEP_HOPS: u64 = 2;
/// What `sweep` returns where it has interrupted the XDP program: to be run again.
pub const SWEEP_AGAIN: u32 = 0xffff;

layout! {
    /// A packet's five-tuple, IPv4, as its bytes lie in the packet.
    #[repr(align(8))]
    #[derive(Default, Hash)]
    pub struct Tuple4 {
        /// Source address.
        pub source: u32,
        /// Destination address.
        pub destination: u32,
        /// Source port, then destination port.
        pub ports: u32,
        /// `ifindex << 9 | protocol`; 0 = nobody has the way.
        pub link: u32,
    } = 16
}

layout! {
    /// As [`Tuple4`], IPv6.
    #[derive(Default, Hash)]
    pub struct Tuple6 {
        /// Source address.
        pub source: [u64; 2],
        /// Destination address.
        pub destination: [u64; 2],
        /// Source port, then destination port.
        pub ports: u32,
        /// See [`Tuple4::link`].
        pub link: u32,
        /// Zero.
        pub pad: u64,
    } = 48
}

layout! {
    /// Where a way's packets go, and those that are yet to be added to the connection's entry.
    #[repr(align(8))]
    #[derive(Default)]
    pub struct Tail {
        /// Index into [`BACKENDS`](crate::service::BACKENDS).
        pub backend: u32,
        /// `generation << 8 | flags`: the [`CacheSettings::generation`] in which the backend was looked at last, and TCP
        /// flags of the pending packets.
        pub stamp: u32,
        /// `packets << 24 | bytes`, bytes behind the link header.
        pub pending: u32,
        /// `bpf_jiffies64` at the latest packet, its lower half.
        pub last: u32,
    } = 16
}

layout! {
    /// A flow, IPv4.
    #[derive(Default)]
    pub struct Way4 {
        /// Which one.
        pub tuple: Tuple4,
        /// Where to.
        pub tail: Tail,
    } = 32
}

layout! {
    /// A flow, IPv6: a cache line.
    #[derive(Default)]
    pub struct Way6 {
        /// Which one.
        pub tuple: Tuple6,
        /// Where to.
        pub tail: Tail,
    } = 64
}

layout! {
    /// Flows of one hash: a cache line.
    #[derive(Default)]
    pub struct Bucket4 {
        /// The flows.
        pub ways: [Way4; 2],
    } = 64
}

layout! {
    /// Flows of one hash: two cache lines, of which the first is often enough.
    #[derive(Default)]
    pub struct Bucket6 {
        /// The flows.
        pub ways: [Way6; 2],
    } = 128
}

layout! {
    /// How packets reach a backend: the outer header, and the next hop's link addresses.
    #[derive(Default)]
    pub struct Hop {
        /// Index into [`BACKENDS`](crate::service::BACKENDS).
        pub backend: u32,
        /// See [`CacheSettings::generation`].
        pub generation: u32,
        /// The interface that leads there, and by which packets come; 0 = nobody has the place.
        pub ifindex: u32,
        /// `bpf_jiffies64`, its lower half, until which it holds.
        pub expires: u32,
        /// Outer source: the interface's address.
        pub source: [u8; 16],
        /// Outer destination: the backend's.
        pub destination: [u8; 16],
        /// Destination and source of the Ethernet header, as they lie there.
        pub macs: [u32; 3],
        /// The longest packet, outer header and all.
        pub mtu: u32,
        /// Packets that are yet to be added to the tunnel's entry.
        pub packets: u32,
        /// When the latest was sent.
        pub last: u32,
        /// Their bytes behind the link header.
        pub bytes: u64,
        /// IPv4: the sum of what is the same in every outer header.
        pub sum: u32,
        /// 4 or 6.
        pub version: u32,
        /// Why nothing is sent there: a reason plus one; else 0.
        pub refused: u32,
        /// Zero.
        pub pad: [u32; 9],
    } = 128
}

layout! {
    /// What holds for all, written by user space.
    #[derive(Default)]
    pub struct CacheSettings {
        /// Moves when services, or what is enforced at an interface, have changed: 24 bits. A way of another one is looked at
        /// again.
        pub generation: u32,
        /// Flows that may enter the cache of one CPU in a second.
        pub new_per_second: u32,
        /// Ticks of `bpf_jiffies64` in a second.
        pub second: u32,
        /// Ticks for which a next hop holds.
        pub hop: u32,
        /// Ticks after which the sweep takes a way from a flow.
        pub idle: u32,
        /// Buckets of each CPU less one, IPv4.
        pub mask4: u32,
        /// IPv6.
        pub mask6: u32,
        /// Chance, so that nobody outside knows which flows share a bucket.
        pub seed: u32,
    } = 32
}

/// Why a packet was left to the tc program, as an index into [`CpuState::passes`].
pub const NOT_IP: usize = 0;
/// Neither TCP nor UDP, a fragment, IP options or extension headers, or not for this host.
pub const NOT_PLAIN: usize = 1;
/// No frontend with [`DSR`](crate::service::DSR).
pub const NOT_SERVED: usize = 2;
/// The backend is on this node.
pub const LOCAL_BACKEND: usize = 3;
/// There is no backend.
pub const NO_BACKEND: usize = 4;
/// The client may not ask.
pub const NOT_IN_RANGE: usize = 5;
/// The client has a backend of its own, which is looked up there.
pub const AFFINITY: usize = 6;
/// Policy is enforced at the interface.
pub const POLICY: usize = 7;
/// The connection's entry is refused, retired, over, or translated in another way.
pub const ENTRY: usize = 8;
/// The connection's backend is gone.
pub const STALE: usize = 9;
/// No route, or no neighbour that is known.
pub const NO_ROUTE: usize = 10;
/// The route leads out by another interface.
pub const OTHER_INTERFACE: usize = 11;
/// It would be too long with another header.
pub const TOO_BIG: usize = 12;
/// The cache was just being swept.
pub const SWEEPING: usize = 13;
/// More new flows than there may be, to a service whose backend does not follow from the tuple.
pub const OVER_RATE: usize = 14;
/// No room in the connection table, likewise.
pub const NO_ROOM: usize = 15;
/// Number of reasons.
pub const REASONS: usize = 16;

/// Names of the reasons.
pub const REASON_NAMES: [&str; REASONS] = [
    "not_ip",
    "not_plain",
    "not_served",
    "local_backend",
    "no_backend",
    "not_in_range",
    "affinity",
    "policy",
    "entry",
    "stale",
    "no_route",
    "other_interface",
    "too_big",
    "sweeping",
    "over_rate",
    "no_room",
];

layout! {
    /// What one CPU has done.
    #[derive(Default)]
    pub struct CpuState {
        /// 1 while the XDP program runs.
        pub busy: u32,
        /// 1 while the sweep does.
        pub sweeping: u32,
        /// When the present second began (`bpf_jiffies64`, its lower half).
        pub window: u32,
        /// New flows in it.
        pub fresh: u32,
        /// Packets sent by a way.
        pub hits: u64,
        /// Packets sent after a look into the tables.
        pub misses: u64,
        /// Flows that another one took the way from.
        pub evictions: u64,
        /// Packets of new flows beyond [`CacheSettings::new_per_second`] that were sent and have no entry.
        pub flood: u64,
        /// Additions to entries of the connection table.
        pub flushes: u64,
        /// Next hops asked of the routing table.
        pub routes: u64,
        /// Zero.
        pub pad: [u64; 8],
        /// Packets left to the tc program, by reason: [`NOT_IP`] …
        pub passes: [u64; REASONS],
    } = 256
}
