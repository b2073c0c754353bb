//! Events: news from the kernel. The maps are the truth; a lost event delays, it does not miscount.
//!
//! Every record begins with its kind (`u32`), so one ring carries them all.

use crate::conn::ConnKey;
use crate::layout;
use crate::policy::DeniedKey;

/// A connection was created ([`ConnEvent`]).
pub const CREATED: u32 = 1;
/// A connection's state changed ([`ConnEvent`]; `detail` is the new state).
pub const STATE: u32 = 2;
/// A connection was closed or reset ([`ConnEvent`]; `detail` is the new state).
pub const CLOSED: u32 = 3;
/// The kernel dropped a packet ([`DropEvent`](crate::drops::DropEvent)).
pub const DROP: u32 = 4;
/// A DNS answer passed ([`DnsEvent`](crate::names::DnsEvent)).
pub const DNS: u32 = 5;
/// A packet was refused for a reason that is new, or would have been but for audit mode
/// ([`DeniedEvent`]).
pub const DENIED: u32 = 6;
/// One more than the highest kind: length of the array of lost-event counters.
pub const KINDS: usize = 7;

/// Name of the ring buffers' outer map, of the perf event array, and of the per-CPU array that
/// counts, by kind, events for which there was no room.
pub const RINGS_MAP: &str = "rings";
/// See [`RINGS_MAP`].
pub const PERF_MAP: &str = "perf_events";
/// See [`RINGS_MAP`].
pub const LOST_MAP: &str = "lost_events";

layout! {
    /// Something happened to a connection.
    pub struct ConnEvent {
        /// [`CREATED`], [`STATE`] or [`CLOSED`].
        pub kind: u32,
        /// See the kind.
        pub detail: u32,
        /// `bpf_ktime_get_ns`.
        pub time_ns: u64,
        /// [`ConnValue::id`](crate::conn::ConnValue::id).
        pub id: u64,
        /// Which connection.
        pub key: ConnKey,
    } = 64
}

layout! {
    /// The policy refused a connection, or would have. For [`DENY`](crate::policy::DENY) one event
    /// when the entry in [`policy::DENIED`](crate::policy::DENIED) is made; for
    /// [`AUDIT`](crate::policy::AUDIT) one for each connection, and each time it is judged again.
    pub struct DeniedEvent {
        /// [`DENIED`].
        pub kind: u32,
        /// [`DENY`](crate::policy::DENY) or [`AUDIT`](crate::policy::AUDIT).
        pub verdict: u32,
        /// `bpf_ktime_get_ns`.
        pub time_ns: u64,
        /// Who, whom, why.
        pub key: DeniedKey,
        /// Identity of the peer; 0 where unknown.
        pub peer_identity: u32,
        /// Client's port.
        pub source_port: u16,
        /// Zero.
        pub pad: u16,
    } = 72
}
