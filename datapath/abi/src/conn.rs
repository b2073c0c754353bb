//! The connection table.
//!
//! One entry per connection and interface; both directions of the connection meet in it. The
//! entry's counters are the truth of the accounting: user space reads them, only the kernel
//! programs change them, and they never go back while the entry exists.

use crate::layout;
use crate::policy::UNJUDGED;
use crate::service::NAT_NONE;

/// Map name.
pub const MAP: &str = "connections";

layout! {
    /// Key: the two ends in ascending order of (address, port), and where they were seen.
    #[repr(align(8))]
    #[derive(Hash, PartialOrd, Ord)]
    pub struct ConnKey {
        /// The lower end's address.
        pub low_addr: [u8; 16],
        /// The higher end's address.
        pub high_addr: [u8; 16],
        /// The lower end's port; 0 where the protocol has none or it is unknown (a fragment
        /// without its first). ICMP echo: the identifier, on both ends. Other ICMP: `type << 8 | code`,
        /// on both ends.
        pub low_port: u16,
        /// The higher end's port; see `low_port`.
        pub high_port: u16,
        /// `ifindex << 9 | path << 8 | protocol`. `path` is [`PATH_LOW_INGRESS`] or
        /// [`PATH_LOW_EGRESS`]: a connection whose packets pass one interface twice (loopback,
        /// hairpin) has an entry for each time.
        pub link: u32,
    } = 40
}

/// Packets from low to high enter by the interface's ingress hook, and replies leave by egress.
pub const PATH_LOW_INGRESS: u32 = 0;
/// Packets from low to high leave by the interface's egress hook, and replies enter by ingress.
pub const PATH_LOW_EGRESS: u32 = 1;

/// Index of the direction low → high in [`ConnValue::dirs`].
pub const LOW_TO_HIGH: usize = 0;
/// Index of the direction high → low.
pub const HIGH_TO_LOW: usize = 1;

layout! {
    /// Hot counters of one direction. Changed by atomic adds; `last` by plain stores.
    pub struct DirHot {
        /// Packets as the kernel handled them: a GSO or GRO super-packet is one.
        pub packets: u64,
        /// Bytes of these packets behind the link header: `skb->len` less the link header, not the
        /// IP header's length field. So Ethernet padding and tags counted by the interface count
        /// here too, and Σ(bytes + link header × packets) is what the interface counted.
        pub bytes: u64,
        /// `bpf_jiffies64` at the latest packet; 0 before the first.
        pub last: u64,
    } = 24
}

layout! {
    /// What else is known of one direction. Estimates (`rtt`, `retransmits`) are not atomic.
    pub struct DirMore {
        /// Wire segments beyond the first of each super-packet.
        pub extra_segments: u64,
        /// Header bytes (IP and transport) that these further segments carry on the wire.
        pub extra_bytes: u64,
        /// `bpf_ktime_get_ns` at the first packet; 0 before it.
        pub first_ns: u64,
        /// When the segment whose acknowledgement is awaited was seen; 0 when none is.
        pub rtt_sent_ns: u64,
        /// The acknowledgement number that answers it.
        pub rtt_ack: u32,
        /// Smoothed round-trip time from this hook towards the receiver of this direction and
        /// back, nanoseconds (RFC 6298, alpha 1/8); 0 when none was measured.
        pub srtt_ns: u32,
        /// The highest sequence number seen plus one.
        pub next_seq: u32,
        /// Segments with data that had been seen before.
        pub retransmits: u32,
    } = 48
}

layout! {
    /// Totals of one direction when the tuple was last reused.
    pub struct DirTotals {
        /// See [`DirHot::packets`].
        pub packets: u64,
        /// See [`DirHot::bytes`].
        pub bytes: u64,
        /// See [`DirMore::extra_segments`].
        pub extra_segments: u64,
        /// See [`DirMore::extra_bytes`].
        pub extra_bytes: u64,
    } = 32
}

layout! {
    /// Value. The first 64 bytes are all that an established packet needs; 56 more where it is translated.
    pub struct ConnValue {
        /// Hot counters, by direction.
        pub dirs: [DirHot; 2],
        /// Set once by the retire program, never cleared: packets no longer count here but as
        /// unattributed (cause retiring), so what is read after a grace period is final.
        pub retired: u32,
        /// TCP flags seen, by direction (RFC 9293 bits: FIN 1, SYN 2, RST 4, PSH 8, ACK 16, URG 32,
        /// ECE 64, CWR 128).
        pub tcp_flags: [u8; 2],
        /// One of the `STATE_` numbers.
        pub state: u8,
        /// Direction index of the connection's first packet, hence of its client; a TCP SYN-ACK or
        /// an ICMP echo reply seen first is an answer, and counts as the server's.
        pub client: u8,
        /// Policy revision that `verdict` is of; 0 before the first judgement. Read and written
        /// together with `verdict`, as one word of 8 bytes.
        pub revision: u32,
        /// What the policy said of this connection: [`UNJUDGED`](crate::policy::UNJUDGED) …
        pub verdict: u8,
        /// [`NAT_NONE`](crate::service::NAT_NONE) …: whether `stack_addr` and the two after it say anything.
        pub nat: u8,
        /// Zero.
        pub pad: [u8; 2],

        /// The stack side of a translated connection, as packets on ingress get it: the destination's
        /// address. See [`service`](crate::service).
        pub stack_addr: [u8; 16],
        /// The destination's port on the stack side; ICMP: the identifier.
        pub stack_port: u16,
        /// The source's port on the stack side.
        pub stack_peer_port: u16,
        /// The balancing service; see [`Frontend::service`](crate::service::Frontend::service).
        pub service: u32,
        /// Index into [`BACKENDS`](crate::service::BACKENDS).
        pub backend: u32,
        /// Interface by which packets that came in leave without the stack; 0 = by the stack. See
        /// [`DIRECT`](crate::service::DIRECT).
        pub hop_ifindex: u32,
        /// Their Ethernet addresses: destination, then source.
        pub hop_macs: [u8; 12],
        /// The longest of them, bytes behind the link header.
        pub hop_mtu: u16,
        /// Zero.
        pub hop_pad: u16,
        /// Lower half of `bpf_jiffies64` when the three before it were looked up; 0 before that.
        pub hop_ticks: u32,
        /// Zero.
        pub pad2: u32,

        /// Number of this incarnation: `bpf_ktime_get_ns` when the entry (or, after reuse of the
        /// tuple, the present connection) began. Unique together with the key.
        pub id: u64,
        /// More, by direction.
        pub more: [DirMore; 2],
        /// Nanoseconds (`bpf_ktime_get_ns`) of the client's SYN and of the server's SYN-ACK and of
        /// the client's first ACK after it; 0 where not seen.
        pub syn_ns: u64,
        /// See `syn_ns`.
        pub synack_ns: u64,
        /// See `syn_ns`.
        pub ack_ns: u64,
        /// The client's initial sequence number; 0 when the SYN was not seen.
        pub initial_seq: u32,
        /// How often the tuple was reused for a new connection within this entry.
        pub reuses: u32,
        /// `bpf_get_socket_cookie` of the local socket at creation; 0 where there is none.
        pub cookie: u64,
        /// Who said `verdict`: key of [`policy::ORIGINS`](crate::policy::ORIGINS).
        pub origin: u32,
        /// Identity of the other end, when it was judged; 0 where unknown.
        pub peer_identity: u32,
        /// Totals at the latest reuse: what belongs to the connections before this one.
        pub before: [DirTotals; 2],
    } = 336
}

/// Not TCP, or nothing known.
pub const STATE_NONE: u8 = 0;
/// SYN seen.
pub const STATE_SYN_SENT: u8 = 1;
/// SYN and SYN-ACK seen.
pub const STATE_SYN_RECV: u8 = 2;
/// Handshake complete, or data seen on a connection older than the observer.
pub const STATE_ESTABLISHED: u8 = 3;
/// One side has sent FIN.
pub const STATE_FIN_WAIT: u8 = 4;
/// Both sides have sent FIN.
pub const STATE_CLOSED: u8 = 5;
/// RST seen.
pub const STATE_RESET: u8 = 6;

// === impl ConnValue ===

impl ConnValue {
    /// Nothing counted, nothing known.
    pub const ZERO: Self = Self {
        dirs: [DirHot { packets: 0, bytes: 0, last: 0 }; 2],
        retired: 0,
        tcp_flags: [0; 2],
        state: STATE_NONE,
        client: 0,
        revision: 0,
        verdict: UNJUDGED,
        nat: NAT_NONE,
        pad: [0; 2],
        stack_addr: [0; 16],
        stack_port: 0,
        stack_peer_port: 0,
        service: 0,
        backend: 0,
        hop_ifindex: 0,
        hop_macs: [0; 12],
        hop_mtu: 0,
        hop_pad: 0,
        hop_ticks: 0,
        pad2: 0,
        id: 0,
        more: [DirMore::ZERO; 2],
        syn_ns: 0,
        synack_ns: 0,
        ack_ns: 0,
        initial_seq: 0,
        reuses: 0,
        cookie: 0,
        origin: 0,
        peer_identity: 0,
        before: [DirTotals { packets: 0, bytes: 0, extra_segments: 0, extra_bytes: 0 }; 2],
    };

    /// The stack side of a translated connection whose entry has this key: a key of
    /// [`TRANSLATIONS`](crate::service::TRANSLATIONS).
    pub fn stack_key(&self, key: &ConnKey) -> ConnKey {
        let [source, _] = key.ingress_ends();
        let hook = (key.ifindex(), crate::iface::INGRESS, key.protocol());
        let source = (source.0, self.stack_peer_port);
        ConnKey::between(hook, source, (self.stack_addr, self.stack_port))
    }
}

// === impl DirMore ===

impl DirMore {
    /// Nothing known.
    pub const ZERO: Self = Self {
        extra_segments: 0,
        extra_bytes: 0,
        first_ns: 0,
        rtt_sent_ns: 0,
        rtt_ack: 0,
        srtt_ns: 0,
        next_seq: 0,
        retransmits: 0,
    };
}

// === impl ConnKey ===

impl ConnKey {
    /// The interface's index.
    pub const fn ifindex(&self) -> u32 {
        self.link >> 9
    }

    /// The IP protocol number.
    pub const fn protocol(&self) -> u8 {
        self.link as u8
    }

    /// [`PATH_LOW_INGRESS`] or [`PATH_LOW_EGRESS`].
    pub const fn path(&self) -> u32 {
        self.link >> 8 & 1
    }

    /// The key of packets with these ends (address, port) at a hook
    /// ([`INGRESS`](crate::iface::INGRESS) or [`EGRESS`](crate::iface::EGRESS)).
    pub fn between(
        (ifindex, hook, protocol): (u32, u32, u8),
        source: ([u8; 16], u16),
        destination: ([u8; 16], u16),
    ) -> Self {
        let ascending = source <= destination;
        let (low, high) = if ascending { (source, destination) } else { (destination, source) };
        let path = hook ^ u32::from(!ascending);
        Self {
            low_addr: low.0,
            high_addr: high.0,
            low_port: low.1,
            high_port: high.1,
            link: Self::link(ifindex, path, protocol),
        }
    }

    /// Source and destination of the packets that enter by the interface's ingress hook.
    pub fn ingress_ends(&self) -> [([u8; 16], u16); 2] {
        let (low, high) = ((self.low_addr, self.low_port), (self.high_addr, self.high_port));
        if self.path() == PATH_LOW_INGRESS { [low, high] } else { [high, low] }
    }

    /// Puts the parts of `link` together; `ifindex` must be below 2^23.
    pub const fn link(ifindex: u32, path: u32, protocol: u8) -> u32 {
        ifindex << 9 | (path & 1) << 8 | protocol as u32
    }
}
