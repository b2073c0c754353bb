//! Policy tables: what decides about the first packet of a connection, and again when the revision
//! has moved. The answer is kept in the connection's entry.
//!
//! ```text
//! interface ──SUBJECTS──▶ policy number ──POLICIES──▶ per direction and protocol: intervals of ports
//! peer address ──HOSTS, else CIDRS──▶ identity, class        │
//!                                        │          INTERVALS (binary search by port)
//!                       CLASSES: bit per selector            │
//!                                        └──────▶ RULES, first match in order of precedence ──▶ verdict, origin
//! ```
//!
//! A *class* is a distinct set of selectors that a peer matches; peers that match the same selectors
//! share it. So an identity costs one row whatever the number of rules, and a rule costs the same
//! whatever the number of identities.
//!
//! Updates are seen whole or not at all: rules and intervals are written where nothing refers to
//! them, then the policy's one value in [`POLICIES`] is replaced; a selector's bits are set before a
//! rule names it; places are used again only after an RCU grace period.

use crate::layout;

/// Map name: hash of interface index (`u32`) → [`Subject`]. An interface without an entry is not
/// enforced.
pub const SUBJECTS: &str = "policy_subjects";
/// Map name: hash of policy number (`u32`) → [`Policy`].
pub const POLICIES: &str = "policies";
/// Map name: array of [`Interval`].
pub const INTERVALS: &str = "policy_ports";
/// Map name: array of [`Rule`].
pub const RULES: &str = "policy_rules";
/// Map name: array of [`Class`], mapped into user space, which sets and clears bits in place.
pub const CLASSES: &str = "policy_classes";
/// Map name: hash of address (`[u8; 16]`) → [`Peer`]: single addresses, most of them pods.
pub const HOSTS: &str = "ipcache";
/// Map name: longest-prefix trie of [`Prefix`] → [`Peer`]. Holds 0.0.0.0/0 and ::/0.
pub const CIDRS: &str = "ipcache_cidrs";
/// Map name: array of one [`Settings`].
pub const SETTINGS: &str = "policy_settings";
/// Map name: hash of [`DeniedKey`] → [`DeniedCounter`].
pub const DENIED: &str = "denied";
/// Map name: hash of origin number (`u32`) → [`Origin`]; only user space reads it. Kept beside the
/// connections because entries name origins longer than an agent lives.
pub const ORIGINS: &str = "policy_origins";

/// Selectors that the policies of one node may use together.
pub const SELECTORS: usize = 4096;
/// Rules that may apply to one port of one protocol of one policy and direction.
pub const MAX_RULES: u32 = 1024;
/// Intervals of ports of one protocol of one policy and direction: 2^14, found in 14 steps.
pub const MAX_INTERVALS: u32 = 1 << 14;

layout! {
    /// An endpoint's interface.
    pub struct Subject {
        /// Key in [`POLICIES`]; endpoints of equal labels and named ports share it.
        pub policy: u32,
        /// The endpoint's security identity.
        pub identity: u32,
        /// Bits: [`SUBJECT_HOST`], [`SUBJECT_AUDIT`].
        pub flags: u32,
        /// Zero.
        pub pad: u32,
    } = 16
}

/// The interface is the host's own: only packets from or to the host's addresses are judged.
/// Without it, it is an endpoint's host-side interface: its ingress hook sees what the endpoint sends.
pub const SUBJECT_HOST: u32 = 1;
/// What would be denied is forwarded, with the verdict [`AUDIT`].
pub const SUBJECT_AUDIT: u32 = 2;

layout! {
    /// Protocols of one direction of a policy.
    pub struct Section {
        /// First of the intervals in [`INTERVALS`]; they cover the ports 0 to 65535 in ascending order.
        pub start: u32,
        /// How many; 0 = this direction is not enforced, everything is allowed with [`NO_ORIGIN`].
        pub count: u32,
    } = 8
}

/// Index into [`PolicySide::sections`]: TCP.
pub const TCP: usize = 0;
/// UDP.
pub const UDP: usize = 1;
/// SCTP.
pub const SCTP: usize = 2;
/// ICMP for IPv4; the type stands where a port would.
pub const ICMPV4: usize = 3;
/// ICMP for IPv6; likewise.
pub const ICMPV6: usize = 4;
/// Every other protocol; the IP protocol number stands where a port would.
pub const OTHER: usize = 5;
/// Number of sections.
pub const SECTIONS: usize = 6;

layout! {
    /// One direction.
    pub struct PolicySide {
        /// What is enforced, by protocol.
        pub enforced: [Section; SECTIONS],
        /// With the policies in audit mode counted as enforced too; all counts 0 when there are none.
        /// Asked only where `enforced` allows; what it denies has the verdict [`AUDIT`].
        pub audited: [Section; SECTIONS],
    } = 96
}

/// Index into [`Policy::sides`]: connections that the endpoint accepts.
pub const INGRESS: usize = 0;
/// Connections that the endpoint opens.
pub const EGRESS: usize = 1;

layout! {
    /// All that decides for one set of endpoints. Replaced as a whole.
    pub struct Policy {
        /// By direction.
        pub sides: [PolicySide; 2],
        /// Revision of the policy set that this was compiled from.
        pub revision: u64,
    } = 200
}

layout! {
    /// Ports from `first` up to the next interval's `first` have these rules.
    pub struct Interval {
        /// Lowest port.
        pub first: u32,
        /// How many rules, at most [`MAX_RULES`]; the last one's selector is [`ANYBODY`].
        pub count: u32,
        /// First of them in [`RULES`]. Intervals with equal rules share them.
        pub rules: u32,
    } = 12
}

layout! {
    /// One entry, in order of precedence: the first whose selector has the peer decides.
    pub struct Rule {
        /// Bit in [`Class`], or [`ANYBODY`].
        pub selector: u32,
        /// Origin, and in the top bit the verdict: 1 deny, 0 allow.
        pub origin: u32,
    } = 8
}

/// Selects every peer.
pub const ANYBODY: u32 = u32::MAX;
/// See [`Rule::origin`].
pub const DENY_BIT: u32 = 1 << 31;
/// Not enforced.
pub const NO_ORIGIN: u32 = 0;

layout! {
    /// Which selectors a peer matches: selector `n` is bit `n % 64` of word `n / 64`.
    pub struct Class {
        /// The bits.
        pub bits: [u64; SELECTORS / 64],
    } = 512
}

layout! {
    /// Key of the prefix trie. Byte order of the address is the network's; IPv4 is `::ffff:a.b.c.d`, its
    /// prefix lengths 96 more.
    pub struct Prefix {
        /// Bits that count.
        pub length: u32,
        /// Address.
        pub address: [u8; 16],
    } = 20
}

layout! {
    /// What is known of a peer's address.
    pub struct Peer {
        /// Security identity (labels, reserved, or of a CIDR).
        pub identity: u32,
        /// Index into [`CLASSES`].
        pub class: u32,
    } = 8
}

layout! {
    /// What holds for all.
    pub struct Settings {
        /// Moves with every change that may alter a verdict; an entry of another revision is judged
        /// again. Never 0.
        pub revision: u32,
        /// Bits: [`AUDIT_ALL`], [`DENY_RESPONSE`], [`DENY_RESET`].
        pub flags: u32,
    } = 8
}

/// As [`SUBJECT_AUDIT`], for every endpoint.
pub const AUDIT_ALL: u32 = 1;
/// Refused packets are answered: by ICMP "administratively prohibited".
pub const DENY_RESPONSE: u32 = 2;
/// Together with [`DENY_RESPONSE`]: TCP segments are answered by a reset instead.
pub const DENY_RESET: u32 = 4;

/// A connection that an earlier revision let through goes on, whatever the present one says of it.
pub const KEEP_ESTABLISHED: u32 = 8;

/// Verdict in a connection's entry: never judged (the interface is not enforced).
pub const UNJUDGED: u8 = 0;
/// Allowed.
pub const ALLOW: u8 = 1;
/// Refused.
pub const DENY: u8 = 2;
/// Would be refused if the policy, endpoint or node were not in audit mode.
pub const AUDIT: u8 = 3;

layout! {
    /// Refused packets by who, whom and why; never one entry per packet or client port.
    #[repr(align(8))]
    #[derive(Hash)]
    pub struct DeniedKey {
        /// Client.
        pub source: [u8; 16],
        /// Server.
        pub destination: [u8; 16],
        /// Interface.
        pub ifindex: u32,
        /// The rule's origin, without [`DENY_BIT`].
        pub origin: u32,
        /// Server's port, or ICMP type. All of source, destination, port and protocol are zero for
        /// packets whose headers contradict themselves.
        pub port: u16,
        /// IP protocol.
        pub protocol: u8,
        /// Hook ([`iface::INGRESS`](crate::iface::INGRESS) …) in bit 0; bit 1: the packet was a reply.
        pub hook: u8,
        /// Zero.
        pub pad: u32,
    } = 48
}

layout! {
    /// How much. Counted by atomic adds; never goes back while the entry exists.
    pub struct DeniedCounter {
        /// Packets as the kernel handled them.
        pub packets: u64,
        /// Bytes behind the link header.
        pub bytes: u64,
        /// Packets that would have begun a connection (TCP SYN, else every packet).
        pub attempts: u64,
        /// `bpf_ktime_get_ns` at the first packet.
        pub first_ns: u64,
        /// At the latest.
        pub last_ns: u64,
        /// Identity of the peer at the latest packet.
        pub peer_identity: u32,
        /// Client port of the latest packet.
        pub source_port: u16,
        /// Set once by the program `retire_denied`, never cleared: packets no longer count here but as
        /// unattributed (cause denied_full), so what is read after a grace period is final.
        pub retired: u16,
    } = 48
}

/// The reserved identity of the node itself, by which a host interface tells its own packets from
/// those that it forwards.
pub const HOST_IDENTITY: u32 = 1;

/// Longest name of an origin, bytes: namespace (63) and name (253) of Kubernetes objects, a slash,
/// and room.
pub const MAX_NAME: usize = 320;

layout! {
    /// Where a rule comes from.
    pub struct Origin {
        /// One of the `ORIGIN_` numbers.
        pub kind: u32,
        /// Index of the rule in its list; [`u32::MAX`] where it has none.
        pub rule: u32,
        /// Policy revision that made this entry.
        pub revision: u64,
        /// `namespace/name` (`/name` for cluster scope), for a default deny of all selecting policies separated by
        /// commas; UTF-8, NUL-padded, cut at a whole name with a final `,…`.
        pub name: [u8; MAX_NAME],
    } = 336
}

/// Kubernetes NetworkPolicy.
pub const ORIGIN_KNP: u32 = 1;
/// CiliumNetworkPolicy.
pub const ORIGIN_CNP: u32 = 2;
/// CiliumClusterwideNetworkPolicy.
pub const ORIGIN_CCNP: u32 = 3;
/// No rule allowed it, and the named policies isolate the endpoint in this direction.
pub const ORIGIN_DEFAULT_DENY: u32 = 4;
/// Enforcement mode `always`, and nothing allows it.
pub const ORIGIN_ENFORCE_ALWAYS: u32 = 5;
/// A node reaches its own pods (Cilium's `allow-localhost`).
pub const ORIGIN_LOCALHOST: u32 = 6;
/// Failsafe port of the host.
pub const ORIGIN_FAILSAFE: u32 = 7;
/// The policies that select it do not ask for a default deny (`enableDefaultDeny: false`).
pub const ORIGIN_NO_DEFAULT_DENY: u32 = 8;
/// Added to a kind where the rule stands in a deny list (`ingressDeny`, `egressDeny`).
pub const ORIGIN_DENY_LIST: u32 = 0x100;
/// Added to a kind where the rule is one of egress.
pub const ORIGIN_EGRESS: u32 = 0x200;
