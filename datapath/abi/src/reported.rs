//! What user space has reported of each connection: kept beside the connection table, pinned with
//! it, so that an agent which is killed and started again reports every counted byte exactly once.
//!
//! Before batch `n` is committed to the spool, the entry of each of its connections is written with
//! `now` (the totals that batch `n` brings the report to), `was` (the totals before), and `batch`
//! = `n`. At start, `now` counts if `n` was committed, else `was`. The kernel programs never touch
//! this map. It is an in-kernel map and not a file so that its life is that of the counters: both
//! survive the agent, neither survives the machine.

use crate::layout;

/// Map name: hash of [`ReportedKey`] → [`Reported`], not preallocated.
pub const MAP: &str = "reported";

layout! {
    /// What the totals are of.
    #[derive(Hash)]
    pub struct ReportedKey {
        /// One of the `KIND_` numbers.
        pub kind: u32,
        /// Connections: `link` of the key. Interfaces: ifindex. Otherwise an index.
        pub link: u32,
        /// Connections: hash of the key's two ends. Otherwise 0 or a second index.
        pub ends: u64,
    } = 16
}

/// A connection.
pub const KIND_CONN: u32 = 0;
/// An interface's own counters and its unattributed ones.
pub const KIND_IFACE: u32 = 1;
/// Lost events of a kind.
pub const KIND_LOST: u32 = 2;
/// Drops of a reason.
pub const KIND_DROP: u32 = 3;

/// Refusals: `link` is the interface, `ends` a hash of the rest of the key.
pub const KIND_DENIED: u32 = 4;

/// Number of totals in a [`Reported`]; their meaning is the kind's.
pub const TOTALS: usize = 8;

layout! {
    /// Totals before and after a batch.
    pub struct Reported {
        /// [`ConnValue::id`](crate::conn::ConnValue::id) at the report; 0 for other kinds.
        pub id: u64,
        /// Number of the batch that brings the report to `now`.
        pub batch: u64,
        /// Rows written so far for this incarnation, before and after the batch.
        pub seq_was: u32,
        /// See `seq_was`.
        pub seq_now: u32,
        /// Totals before.
        pub was: [u64; TOTALS],
        /// Totals after.
        pub now: [u64; TOTALS],
    } = 152
}
