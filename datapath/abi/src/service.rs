//! Services: who balances what to whom, and the translations that follow from it.
//!
//! ```text
//! destination ──FRONTENDS──▶ service, per scope a range of SLOTS ──▶ BACKENDS
//!                                (one slot a backend, or a Maglev table)
//! ```
//!
//! A translation belongs to an interface. Its *wire* side is what the interface carries, its *stack* side what the
//! host's routing sees. On ingress a packet is counted, judged and then given its stack side; on egress it is given its
//! wire side, then judged and counted. So rows and the interface's own counters speak of the same packets. The wire
//! side's entry in [`conn::MAP`](crate::conn::MAP) leads to the stack side; [`TRANSLATIONS`] leads back. On ingress the
//! destination changes, on egress the source.
//!
//! Updates are seen whole or not at all: backends and slots are written where nothing refers to them, then the
//! frontend's one value is replaced; places are used again only after an RCU grace period.

use crate::layout;

/// Map name: hash of [`FrontendKey`] → [`Frontend`].
pub const FRONTENDS: &str = "frontends";
/// Map name: array of `u32`, indices into [`BACKENDS`].
pub const SLOTS: &str = "service_slots";
/// Map name: array of [`Backend`].
pub const BACKENDS: &str = "backends";
/// Map name: longest-prefix trie of [`SourceRange`] → `u32` (1).
pub const SOURCE_RANGES: &str = "source_ranges";
/// Map name: LRU hash of [`AffinityKey`] → [`Affinity`].
pub const AFFINITY: &str = "affinity";
/// Map name: hash of interface index (`u32`) → [`Served`]. Nothing is translated at an interface without an entry.
pub const SERVED: &str = "served";
/// Map name: longest-prefix trie of [`Prefix`](crate::policy::Prefix) → `u32`, bits [`MASQUERADED`] and [`NATIVE`].
pub const PREFIXES: &str = "masquerade";
/// Map name: array of one [`ServiceSettings`].
pub const SETTINGS: &str = "service_settings";
/// Map name: hash of stack-side [`ConnKey`](crate::conn::ConnKey) → [`Translation`].
pub const TRANSLATIONS: &str = "translations";
/// Map name: per-CPU array of one [`ServiceCounters`].
pub const COUNTERS: &str = "service_counters";
/// Map name: LRU hash of socket cookie (`u64`) → [`Asked`].
pub const ASKED: &str = "socket_asked";
/// Map name: LRU hash of [`ReplyKey`] → [`Asked`]: what a socket takes for the sender of a backend's datagram. By a
/// frontend's address: which backend the socket's datagrams go to.
pub const SOCKET_REPLIES: &str = "socket_replies";

layout! {
    /// An address that clients use.
    #[repr(align(8))]
    #[derive(Hash, PartialOrd, Ord)]
    pub struct FrontendKey {
        /// Address.
        pub address: [u8; 16],
        /// Port; 0, with protocol 0: whatever has no entry of its own.
        pub port: u16,
        /// IP protocol number: TCP, UDP or SCTP; or 0.
        pub protocol: u8,
        /// Zero.
        pub pad: u8,
        /// Zero.
        pub pad2: u32,
    } = 24
}

layout! {
    /// A range of [`SLOTS`].
    #[derive(Default, Hash)]
    pub struct Slots {
        /// The first.
        pub start: u32,
        /// How many: backends, or the size of a Maglev table; 0 = nobody to send to.
        pub count: u32,
    } = 8
}

layout! {
    /// What an address stands for.
    pub struct Frontend {
        /// Number of the service's port; all frontends of that port have it. Never 0.
        pub service: u32,
        /// Bits: [`CLUSTER_ONLY`] …
        pub flags: u32,
        /// Seconds for which a client keeps its backend (`sessionAffinity: ClientIP`); 0 = it does not.
        pub affinity: u32,
        /// Zero.
        pub pad: u32,
        /// Candidates, by [`INTERNAL`] and [`EXTERNAL`].
        pub slots: [Slots; 2],
    } = 32
}

/// Index into [`Frontend::slots`]: clients within the cluster.
pub const INTERNAL: usize = 0;
/// Clients that come by one of the host's own interfaces.
pub const EXTERNAL: usize = 1;

/// Not served to clients from outside the cluster (a ClusterIP).
pub const CLUSTER_ONLY: u32 = 1;
/// Clients from outside must lie within [`SOURCE_RANGES`].
pub const RANGED: u32 = 2;
/// Slots are a Maglev table: the connection's hash chooses. Without it, chance does.
pub const HASHED: u32 = 4;
/// Without candidates packets are dropped and not answered, by scope: `1 << 4` internal, `1 << 5` external.
pub const SILENT: u32 = 1 << 4;
/// The client's address decides alone about its backend ([`HASHED`]), not its port.
pub const BY_ADDRESS: u32 = 1 << 6;
/// Direct server return: packets of clients from outside go to a backend of another node within an outer IP header, unchanged,
/// and the backend answers the client itself.
pub const DSR: u32 = 1 << 7;

layout! {
    /// An endpoint of a service's port.
    pub struct Backend {
        /// Address.
        pub address: [u8; 16],
        /// Port.
        pub port: u16,
        /// Bits: [`CHOSEN`], [`LOCAL`], [`ALIVE`]; 0 = no backend.
        pub flags: u16,
        /// The service's port that it serves; see [`Frontend::service`].
        pub service: u32,
    } = 24
}

/// New connections may go there.
pub const CHOSEN: u16 = 1;
/// It is on this node.
pub const LOCAL: u16 = 2;
/// What goes there may go on.
pub const ALIVE: u16 = 4;

layout! {
    /// A prefix of clients that a service's port takes.
    pub struct SourceRange {
        /// 32 (for `service`) + length of the prefix in bits.
        pub length: u32,
        /// See [`Frontend::service`], in network byte order.
        pub service: u32,
        /// Address.
        pub address: [u8; 16],
    } = 24
}

layout! {
    /// A client and a service's port.
    #[repr(align(8))]
    #[derive(Hash)]
    pub struct AffinityKey {
        /// The client's address; for sockets: the cookie of their network namespace, zero-filled.
        pub client: [u8; 16],
        /// See [`Frontend::service`].
        pub service: u32,
        /// [`INTERNAL`] or [`EXTERNAL`].
        pub scope: u32,
    } = 24
}

layout! {
    /// The backend of a client.
    pub struct Affinity {
        /// When it was last used (`bpf_ktime_get_ns`).
        pub last_ns: u64,
        /// Index into [`BACKENDS`].
        pub backend: u32,
        /// Zero.
        pub pad: u32,
    } = 16
}

layout! {
    /// What is done at an interface.
    pub struct Served {
        /// Bits: [`FROM_POD`], [`UPLINK`], [`MASQUERADE`].
        pub flags: u32,
        /// Zero.
        pub pad: u32,
        /// IPv4 source of what is masqueraded; zero where there is none.
        pub v4: [u8; 16],
        /// IPv6 likewise.
        pub v6: [u8; 16],
    } = 40
}

/// A pod is behind it: its ingress hook sees what the pod sends, its clients are within the cluster, and what the pod
/// sends to itself by a service is masqueraded on its way back.
pub const FROM_POD: u32 = 1;
/// One of the host's own: its clients are outside, and what is balanced to a backend behind it is masqueraded.
pub const UPLINK: u32 = 2;
/// What comes from a [`MASQUERADED`] prefix and goes out by it to another than a [`NATIVE`] one is masqueraded.
pub const MASQUERADE: u32 = 4;

/// In [`PREFIXES`]: sources that are masqueraded, pods.
pub const MASQUERADED: u32 = 1;
/// Destinations that reach pods by their own addresses.
pub const NATIVE: u32 = 2;

layout! {
    /// What holds for all services.
    pub struct ServiceSettings {
        /// First port that masquerading may use.
        pub port_min: u16,
        /// The last.
        pub port_max: u16,
        /// Seed of Maglev's hash, the same on all nodes.
        pub seed: u32,
        /// IPv4 source of what a pod sends to itself by a service.
        pub hairpin_v4: [u8; 16],
        /// IPv6 likewise.
        pub hairpin_v6: [u8; 16],
    } = 40
}

layout! {
    /// The wire side of a translated connection, as packets on egress get it.
    pub struct Translation {
        /// The source's address.
        pub address: [u8; 16],
        /// The source's port; ICMP: the identifier.
        pub port: u16,
        /// The destination's port.
        pub peer_port: u16,
        /// See [`Frontend::service`]; 0 for masquerading.
        pub service: u32,
        /// Index into [`BACKENDS`].
        pub backend: u32,
        /// [`NAT_DESTINATION`] …
        pub kind: u32,
    } = 32
}

/// [`ConnValue::nat`](crate::conn::ConnValue): wire and stack side are the same.
pub const NAT_NONE: u8 = 0;
/// The client's packets come in: their destination is translated.
pub const NAT_DESTINATION: u8 = 1;
/// The client's packets go out: their source is translated.
pub const NAT_SOURCE: u8 = 2;
/// As [`NAT_DESTINATION`], by a client from outside: what leaves the host again is masqueraded.
pub const NAT_OUTSIDE: u8 = 3;
/// As [`NAT_OUTSIDE`], by direct server return ([`DSR`]): packets keep their destination, and leave within an outer header
/// towards the backend's address (`stack_addr`).
pub const NAT_DSR: u8 = 4;

/// Set in `skb->mark` of packets that were balanced at an uplink: if they leave by an uplink, they are masqueraded, so
/// that answers come back here.
pub const MARK: u32 = 1 << 21;

layout! {
    /// What did not go well, packets.
    #[derive(Default)]
    pub struct ServiceCounters {
        /// Connections that were balanced.
        pub balanced: u64,
        /// Connections that were masqueraded.
        pub masqueraded: u64,
        /// Dropped: no port left to tell the connection apart by.
        pub exhausted: u64,
        /// Dropped: no room in [`TRANSLATIONS`] or in the connection table.
        pub full: u64,
        /// Refused: no backend.
        pub no_backend: u64,
        /// Refused: the client is not within the source ranges, or outside of the cluster.
        pub not_allowed: u64,
        /// Dropped: the kernel could not rewrite the packet.
        pub failed: u64,
        /// Sockets that were connected to a backend at once.
        pub sockets: u64,
    } = 64
}

layout! {
    /// What a socket asked for.
    pub struct Asked {
        /// The frontend's address.
        pub address: [u8; 16],
        /// Its port.
        pub port: u16,
        /// Zero.
        pub pad: u16,
        /// See [`Frontend::service`].
        pub service: u32,
        /// Index into [`BACKENDS`].
        pub backend: u32,
        /// Zero.
        pub pad2: u32,
    } = 32
}

layout! {
    /// A socket and a backend.
    #[repr(align(8))]
    #[derive(Hash)]
    pub struct ReplyKey {
        /// `bpf_get_socket_cookie`.
        pub cookie: u64,
        /// The backend's address.
        pub address: [u8; 16],
        /// Its port.
        pub port: u16,
        /// Zero.
        pub pad: u16,
        /// Zero.
        pub pad2: u32,
    } = 32
}

/// `DeniedKey::origin` of a packet to a service without a backend.
pub const ORIGIN_NO_BACKEND: u32 = 0xffff_fff0;
/// Of a client outside of the service's source ranges.
pub const ORIGIN_OUT_OF_RANGE: u32 = 0xffff_fff1;
/// Of a packet for which no port was left, or no room, or that could not be rewritten.
pub const ORIGIN_NO_TRANSLATION: u32 = 0xffff_fff2;
/// Of a client outside of the cluster, to an address that is only for clients within.
pub const ORIGIN_CLUSTER_ONLY: u32 = 0xffff_fff3;
