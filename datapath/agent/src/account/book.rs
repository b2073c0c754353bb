//! The accounts: what has been reported of each connection, and how that is kept beside the
//! counters so that it survives the agent (`datapath_abi::reported`).

use std::sync::Arc;

use datapath_abi::conn::{ConnKey, ConnValue};
use datapath_abi::reported::{KIND_CONN, Reported, ReportedKey, TOTALS};
use hashbrown::HashMap;

use crate::names::NameList;
use crate::process::ProcessName;

/// Bit of [`Reported::id`]: the batch carries the last rows of a retired entry, which is removed
/// once the batch is committed. It tells an entry that is still to be removed from a new one with
/// the same key. (Nanoseconds since boot do not reach it for 292 years.)
const LAST: u64 = 1 << 63;

/// Totals of one direction follow each other: packets, bytes, extra segments, extra bytes.
pub(super) const PER_DIRECTION: usize = TOTALS / 2;

/// What was reported of one connection, as of the last commit.
#[derive(Debug, Clone, Default)]
pub(crate) struct Account {
    pub(super) totals: [u64; TOTALS],
    /// Incarnation; 0 before the first report.
    pub(super) id: u64,
    /// Rows written of this incarnation.
    pub(super) seq: u32,
    /// Number of the batch that it is staged in.
    pub(super) staged: u64,
    /// Number of the walk that saw it last.
    pub(super) walk: u64,
    /// When it was last read, nanoseconds since the epoch: what moves later is newer.
    pub(super) observed: i64,
    pub(super) memory: Memory,
    /// Its last rows are committed; only the removal from the table is left to do.
    pub(super) finished: bool,
    /// What the ends were known as, once known.
    pub(crate) names: [Option<NameList>; 2],
    pub(crate) process: Option<Arc<ProcessName>>,
    /// Whether the process was looked for, so that it is done only once per row.
    pub(crate) process_sought: bool,
}

/// What later rows of a connection may need: the next ones, or the last one after the kernel has
/// given its tuple to another.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Memory {
    pub(super) initial_seq: u32,
    pub(super) retransmits: [u32; 2],
    pub(super) flags: [u8; 2],
    pub(super) state: u8,
    pub(super) client: u8,
}

/// Every account.
#[derive(Debug, Default)]
pub(super) struct Book {
    pub(super) accounts: HashMap<ConnKey, Account>,
}

/// What the map of reported totals held for a connection at start.
#[derive(Debug, Clone, Copy)]
pub(super) struct Resolved {
    pub(super) totals: [u64; TOTALS],
    pub(super) id: u64,
    pub(super) seq: u32,
    pub(super) last: bool,
}

// === impl Account ===

impl Account {
    pub(super) fn of(resolved: &Resolved, value: &ConnValue, observed: i64) -> Self {
        Self {
            totals: resolved.totals,
            id: resolved.id,
            seq: resolved.seq,
            finished: resolved.last,
            observed,
            memory: Memory {
                // Of the connection now in the entry. If the tuple was reused while no agent ran,
                // what is left of the one before is reported under the name of a connection whose
                // start was not seen.
                initial_seq: if value.id == resolved.id { value.initial_seq } else { 0 },
                // Estimates that are not in the report: they go on from here.
                ..Memory::of(value)
            },
            ..Self::default()
        }
    }

    /// Forgets who had the tuple until now.
    pub(super) fn forget_parties(&mut self) {
        self.names = [None, None];
        self.process = None;
        self.process_sought = false;
    }
}

// === impl Memory ===

impl Memory {
    pub(super) fn of(value: &ConnValue) -> Self {
        Self {
            initial_seq: value.initial_seq,
            retransmits: [value.more[0].retransmits, value.more[1].retransmits],
            flags: value.tcp_flags,
            state: value.state,
            client: value.client,
        }
    }
}

// === impl Resolved ===

impl Resolved {
    /// What counts of an entry when `committed` is the last batch in the spool; and the entry as it
    /// has to be rewritten before another batch of that number is made, if so.
    pub(super) fn new(entry: &Reported, committed: u64) -> (Self, Option<Reported>) {
        let id = entry.id & !LAST;
        if entry.batch <= committed {
            let last = entry.id & LAST != 0;
            return (Self { totals: entry.now, id, seq: entry.seq_now, last }, None);
        }
        let resolved = Self { totals: entry.was, id, seq: entry.seq_was, last: false };
        (resolved, Some(settled(entry.was, id, entry.seq_was)))
    }
}

/// An entry that belongs to no batch under way.
pub(super) fn settled(totals: [u64; TOTALS], id: u64, seq: u32) -> Reported {
    Reported { id, batch: 0, seq_was: seq, seq_now: seq, was: totals, now: totals }
}

/// The entry for a connection that goes from its account to `totals`.
pub(super) fn entry(
    account: &Account,
    totals: [u64; TOTALS],
    id: u64,
    seq: u32,
    last: bool,
) -> Reported {
    Reported {
        id: if last { id | LAST } else { id },
        batch: 0,
        seq_was: account.seq,
        seq_now: seq,
        was: account.totals,
        now: totals,
    }
}

/// Totals of a connection, in the order of [`Reported`].
pub(super) fn totals(value: &ConnValue) -> [u64; TOTALS] {
    let mut totals = [0; TOTALS];
    for direction in 0..2 {
        let (hot, more) = (&value.dirs[direction], &value.more[direction]);
        totals[direction * PER_DIRECTION..][..PER_DIRECTION].copy_from_slice(&[
            hot.packets,
            hot.bytes,
            more.extra_segments,
            more.extra_bytes,
        ]);
    }
    totals
}

/// Totals of the connections before the present one in the entry.
pub(super) fn totals_before(value: &ConnValue) -> [u64; TOTALS] {
    let mut totals = [0; TOTALS];
    for (direction, before) in value.before.iter().enumerate() {
        totals[direction * PER_DIRECTION..][..PER_DIRECTION].copy_from_slice(&[
            before.packets,
            before.bytes,
            before.extra_segments,
            before.extra_bytes,
        ]);
    }
    totals
}

/// `a − b`, each at least 0.
pub(super) fn minus(a: &[u64; TOTALS], b: &[u64; TOTALS]) -> [u64; TOTALS] {
    std::array::from_fn(|i| a[i].saturating_sub(b[i]))
}

/// Key of a connection's entry. The two ends are hashed to 64 bits; two connections on one
/// interface that collide (2⁻²⁹ with a full table) are only confused at the start of an agent.
pub(super) fn key(conn: &ConnKey) -> ReportedKey {
    let mut hash = 0x9e37_79b9_7f4a_7c15;
    for chunk in conn.low_addr.chunks_exact(8).chain(conn.high_addr.chunks_exact(8)) {
        hash = mix(hash ^ u64::from_le_bytes(chunk.try_into().expect("chunks of eight")));
    }
    let ports = u64::from(conn.low_port) << 16 | u64::from(conn.high_port);
    ReportedKey { kind: KIND_CONN, link: conn.link, ends: mix(hash ^ ports) }
}

/// A bijection of 64 bits in which every bit depends on every other (SplitMix64's finaliser).
pub(super) fn mix(x: u64) -> u64 {
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
