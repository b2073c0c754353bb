//! The flow cache of the XDP program: see [`datapath_abi::flow_cache`].
//!
//! A packet is first decided on ([`find`], and [`resolve`] where that is not enough), then sent, and then counted
//! ([`count`]): what is left to the tc program in between has changed nothing that is counted. A flow's first packet looks
//! into the connection table, which also knows the flows of other CPUs and of the tc programs, and makes the entry there
//! if it is new; so a flow has one backend, wherever its packets come in. From then on its way alone is looked at, until
//! the tables' generation moves or another flow takes the way.
//!
//! What is in a way is what its entry does not have yet: entries, ways, hops and what is unattributed together are what
//! has been sent, at any moment ([`ledger`]).

pub mod hop;
pub mod ledger;
mod query;
pub mod way;

use core::hint::black_box;

use datapath_abi::flow_cache::{CacheSettings, CpuState, FLUSH_PACKETS, Tail};
use datapath_abi::iface;

use crate::account::Done;
use crate::tcp;

pub use ledger::{Batch, Ledger};
pub use query::Query;
pub use way::{Bucket, Tuple, find};

use query::{ASK_TC, ENTERED, ask};
use way::{stamp, victim};

/// The packet goes to the backend of this way, or of the next.
pub const WAY: u32 = 0;
/// Nobody has a way: [`find`]. The packet goes to [`Query::backend`], and is unattributed by [`Query::cause`]: [`resolve`].
pub const NO_WAY: u32 = 2;
/// Set beside [`WAY`]: the packet has made its flow's entry, and is counted there.
pub const COUNTED: u32 = 4;
/// The packet is left to the tc program: this and the reason.
pub const PASS: u32 = 0x100;

/// [`Query::cause`]: none, for the flow has an entry, in which the packet is to be counted.
const IN_ENTRY: u32 = 0xff;
/// A flow is active that was seen in this part of a second.
const ACTIVE: u32 = 4;
/// Of so many packets one takes an active flow's way: a power of two.
const PATIENCE: u64 = 16;

/// TCP flags by which a connection begins or ends: its entry is to know at once.
const TURNS: u8 = tcp::SYN | tcp::FIN | tcp::RST;

/// Whether a way that was found is all that a packet needs.
#[inline(always)]
pub fn suffices(tail: &Tail, generation: u32, flags: u8) -> bool {
    (tail.stamp >> 8 == generation & way::GENERATIONS) & (flags & TURNS == 0)
}

/// Finds out by the tables where a packet goes that is in no way, or in one that does not suffice ([`Query::found`]): [`WAY`],
/// [`NO_WAY`] or [`PASS`]. `query` holds the packet, which is to be sent if it may be: it can be reached.
#[inline(never)]
pub fn resolve<B: Bucket, H: Ledger>(
    host: &H,
    work: &mut Work,
    state: &mut CpuState,
    bucket: &mut B,
    tuple: &B::Tuple,
) -> u32 {
    let found = work.query.found;
    if found < NO_WAY {
        // What is to be asked about is up to date then.
        black_box(settle(host, work, state, bucket, found | FINALLY));
    }
    let answer = black_box(ask(host, work, state));
    if answer > ENTERED {
        if found < NO_WAY {
            bucket.clear(found);
        }
        return black_box(if answer >= ASK_TC { PASS + (answer - ASK_TC) } else { NO_WAY });
    }
    let index = if found < NO_WAY {
        found
    } else {
        let index = victim(bucket);
        if bucket.tuple(index).link() != 0 {
            let age = (work.query.tick as u32).wrapping_sub(bucket.tail(index).last);
            if age < work.query.settings.second / ACTIVE && state.misses & (PATIENCE - 1) != 0 {
                // More flows than ways, all of them active: who has a way mostly keeps it, for taking it in turns they
                // would find none at all.
                work.query.cause = IN_ENTRY;
                return black_box(if answer == ENTERED { NO_WAY | COUNTED } else { NO_WAY });
            }
            state.evictions += 1;
            black_box(settle(host, work, state, bucket, index | FINALLY));
        }
        index
    };
    let query = &work.query;
    let stamp = stamp(query.settings.generation, 0);
    let tail = Tail { backend: query.backend, stamp, pending: 0, last: query.tick as u32 };
    bucket.put(index, tuple, &tail);
    black_box(if answer == ENTERED { index | COUNTED } else { index })
}

/// Counts a packet that was sent by a way; whether that is to be added to its entry now ([`settle`]).
#[inline(always)]
pub fn count(tail: &mut Tail, flags: u8, bytes: u32, tick: u32) -> bool {
    let pending = tail.pending.wrapping_add(1 << 24 | bytes & BYTES);
    tail.pending = pending;
    tail.stamp |= u32::from(flags);
    tail.last = tick;
    (pending >> 24 >= FLUSH_PACKETS) | (flags & (tcp::FIN | tcp::RST) != 0)
}

/// Counts a packet that was sent without.
#[inline(never)]
pub fn count_stateless<H: Ledger>(host: &H, work: &mut Work, state: &mut CpuState) -> u32 {
    let Work { query, batch } = work;
    if query.cause == IN_ENTRY {
        query.single(batch);
        state.flushes += 1;
        return black_box(ledger::flush(host, batch, FINALLY));
    }
    if query.cause == iface::FLOOD as u32 {
        state.flood += 1;
    }
    let length = u64::from(query.bytes) + LINK_HEADER;
    host.unattributed(query.ifindex, iface::INGRESS, query.cause as usize, 1, length);
    black_box(ledger::DONE)
}

/// Adds what a way holds to its connection's entry. What the table's lock does not let through stays, or with [`FINALLY`] is
/// unattributed. `at` is both.
#[inline(never)]
pub fn settle<B: Bucket, H: Ledger>(
    host: &H,
    work: &mut Work,
    state: &mut CpuState,
    bucket: &mut B,
    at: u32,
) -> u32 {
    let index = at & 1;
    let tail = bucket.tail_mut(index);
    if tail.pending == 0 {
        return black_box(ledger::DONE);
    }
    let (pending, last, is_current) = (
        tail.pending,
        tail.last,
        tail.stamp >> 8 == work.query.settings.generation & way::GENERATIONS,
    );
    let how = if pending >> 24 >= FLUSH_PACKETS * 2 { FINALLY } else { at & FINALLY };
    work.batch.packets = u64::from(pending >> 24);
    work.batch.bytes = u64::from(pending & BYTES);
    work.batch.flags = tail.stamp & 0xff;
    work.batch.backend = if is_current { tail.backend } else { u32::MAX };
    work.batch.last = ledger::whole(last, work.query.tick);
    black_box(name(bucket.tuple(index), &mut work.batch));
    if black_box(ledger::flush(host, &work.batch, how)) != ledger::DONE {
        return black_box(ledger::LEFT);
    }
    state.flushes += 1;
    let tail = bucket.tail_mut(index);
    tail.pending = 0;
    tail.stamp &= !0xff;
    black_box(ledger::DONE)
}

#[inline(never)]
fn name<T: Tuple>(tuple: &T, batch: &mut Batch) -> Done {
    batch.ends = tuple.ends();
    batch.sequence = 0;
    batch.locate(tuple.link() >> 9, iface::INGRESS);
    Done::here()
}

/// Adds what a bucket holds, and takes from idle flows their ways. How many ways are left as they were.
#[inline(always)]
pub fn sweep<B: Bucket, H: Ledger>(
    host: &H,
    work: &mut Work,
    state: &mut CpuState,
    bucket: &mut B,
) -> u32 {
    let mut left = 0;
    for index in 0..2 {
        // Numbers that are any to the verifier: so the ways of it that lead here become one.
        left = black_box(left + black_box(sweep_way(host, work, state, bucket, black_box(index))));
    }
    left
}

#[inline(never)]
fn sweep_way<B: Bucket, H: Ledger>(
    host: &H,
    work: &mut Work,
    state: &mut CpuState,
    bucket: &mut B,
    index: u32,
) -> u32 {
    if bucket.tuple(index).link() == 0 {
        return black_box(0);
    }
    if black_box(settle(host, work, state, bucket, index & 1 | LATER)) != ledger::DONE {
        return black_box(1);
    }
    let age = (work.query.tick as u32).wrapping_sub(bucket.tail(index).last);
    if age > work.query.settings.idle {
        bucket.clear(index);
    }
    black_box(0)
}

/// What the table's lock does not let through stays where it is.
pub const LATER: u32 = 0;
/// It is counted as unattributed.
pub const FINALLY: u32 = 0x100;

const BYTES: u32 = 0xff_ffff;
/// Only Ethernet frames are taken.
pub(crate) const LINK_HEADER: u64 = crate::parse::ETHERNET as u64;

/// Memory of a CPU for what is rare: the XDP program has one, the sweep another.
#[repr(C, align(8))]
#[derive(Debug, Clone, Copy)]
pub struct Work {
    /// A packet that the tables are asked about; its `settings` and `tick` are there for every packet.
    pub query: Query,
    /// What is added to an entry.
    pub batch: Batch,
}

// === impl Work ===

impl Work {
    /// Nothing asked.
    pub const NONE: Self = Self { query: Query::NONE, batch: Batch::NONE };
}

/// Those of an unset cache.
pub(crate) const NO_SETTINGS: CacheSettings = CacheSettings {
    generation: 0,
    new_per_second: 0,
    second: 0,
    hop: 0,
    idle: 0,
    mask4: 0,
    mask6: 0,
    seed: 0,
};
