//! From ways and hops to the entries of the connection table: nothing is lost between them.

use datapath_abi::conn::{
    ConnKey, ConnValue, DirHot, STATE_ESTABLISHED, STATE_FIN_WAIT, STATE_NONE, STATE_RESET,
    STATE_SYN_SENT,
};
use datapath_abi::iface;
use datapath_abi::service::NAT_DSR;

use super::{FINALLY, LINK_HEADER, Query};
use crate::cells::{Cell, ConnCells, Counter, Shared};
use crate::host::Refusal;
use crate::key::{self, Ends};
use crate::parse::TCP;
use crate::service::Services;
use crate::tcp;

/// The connection table and the interfaces' counters, as [`Host`](crate::Host) has them for one packet.
pub trait Ledger: Services {
    /// Its kinds of cells.
    type Shared: Shared;

    /// Monotonic nanoseconds, never 0.
    fn now_ns(&self) -> u64;

    /// Finds a connection.
    fn find(&self, key: &ConnKey) -> Option<&ConnCells<Self::Shared>>;

    /// Inserts a connection unless it exists. `fill` completes a zeroed value.
    fn insert(&self, key: &ConnKey, fill: impl FnOnce(&mut ConnValue)) -> Result<(), Refusal>;

    /// Counts packets as part of no connection; `bytes` with the link header.
    fn unattributed(&self, ifindex: u32, hook: u32, cause: usize, packets: u64, bytes: u64);

    /// Whether policy is enforced at an interface.
    fn is_subject(&self, ifindex: u32) -> bool;

    /// Whether the packet can be sent to [`Query::backend`]; 0, or a reason plus one.
    fn reach(&self, query: &mut Query) -> u32;
}

/// Packets of one direction of a connection, to be added to its entry.
#[repr(C, align(8))]
#[derive(Debug, Clone, Copy)]
pub struct Batch {
    /// Whose.
    pub key: ConnKey,
    /// How many.
    pub packets: u64,
    /// Behind the link header.
    pub bytes: u64,
    /// `bpf_jiffies64` at the latest.
    pub last: u64,
    /// [`INGRESS`](iface::INGRESS) or [`EGRESS`](iface::EGRESS).
    pub hook: u32,
    /// Index of the direction.
    pub direction: u32,
    /// TCP flags.
    pub flags: u32,
    /// Where they went, index into the backends; none: `u32::MAX`.
    pub backend: u32,
    /// TCP: the sequence number of the first, where that is a SYN.
    pub sequence: u32,
    /// Zero.
    pub pad: u32,
    /// The packets' ends. Here and not on the stack, which has no room.
    pub(super) ends: Ends,
}

/// Added.
pub const DONE: u32 = 0;
/// The table's lock was held: nothing was done.
pub const LEFT: u32 = 1;

/// A time of which the lower half is known, and that it is not after `now`.
#[inline(always)]
pub fn whole(low: u32, now: u64) -> u64 {
    now.wrapping_sub(u64::from((now as u32).wrapping_sub(low)))
}

/// Adds a batch to its entry, which it makes where there is none. Out of line: rare.
#[inline(never)]
pub fn flush<H: Ledger>(host: &H, batch: &Batch, how: u32) -> u32 {
    let mut cause = iface::BUSY;
    for _ in 0..crate::account::TRIES {
        if let Some(cells) = host.find(&batch.key) {
            if cells.retired.get() == 0 {
                batch.add(host, cells);
                return core::hint::black_box(DONE);
            }
            cause = iface::RETIRING;
            break;
        }
        if batch.backend == u32::MAX && batch.hook == iface::INGRESS {
            // It was removed, and where these went is not known any more.
            cause = iface::RETIRING;
            break;
        }
        match core::hint::black_box(create(host, batch)) {
            CREATED => return core::hint::black_box(DONE),
            EXISTS => {}
            refused => {
                cause = refused as usize;
                break;
            }
        }
    }
    if cause == iface::BUSY && how != FINALLY {
        return core::hint::black_box(LEFT);
    }
    let bytes = batch.bytes + LINK_HEADER * batch.packets;
    host.unattributed(batch.key.ifindex(), batch.hook, cause, batch.packets, bytes);
    core::hint::black_box(DONE)
}

/// What became of a new entry; else the cause why there is none.
pub(super) const CREATED: u32 = 0x100;
/// Another CPU was faster.
pub(super) const EXISTS: u32 = 0x101;

/// Makes the entry of a batch: [`CREATED`] … Out of line: it needs a stack of its own.
#[inline(never)]
pub(super) fn create<H: Ledger>(host: &H, batch: &Batch) -> u32 {
    core::hint::black_box(match host.insert(&batch.key, |value| batch.begin(host, value)) {
        Ok(()) => CREATED,
        Err(Refusal::Exists) => EXISTS,
        Err(Refusal::Full) => iface::TABLE_FULL as u32,
        Err(Refusal::Memory) => iface::NO_MEMORY as u32,
        Err(Refusal::Busy) => iface::BUSY as u32,
    })
}

/// State of a connection of which only the client's packets are seen, by their flags so far.
fn state(flags: u8) -> u8 {
    if flags & tcp::RST != 0 {
        STATE_RESET
    } else if flags & tcp::FIN != 0 {
        STATE_FIN_WAIT
    } else if flags & tcp::ACK != 0 {
        STATE_ESTABLISHED
    } else if flags & tcp::SYN != 0 {
        STATE_SYN_SENT
    } else {
        STATE_NONE
    }
}

// === impl Batch ===

impl Batch {
    /// Nothing.
    pub const NONE: Self = Self {
        key: ConnKey { low_addr: [0; 16], high_addr: [0; 16], low_port: 0, high_port: 0, link: 0 },
        packets: 0,
        bytes: 0,
        last: 0,
        hook: 0,
        direction: 0,
        flags: 0,
        backend: u32::MAX,
        sequence: 0,
        pad: 0,
        ends: Ends::NONE,
    };

    /// Finds the key by the ends, at a hook of an interface.
    #[inline(always)]
    pub(super) fn locate(&mut self, ifindex: u32, hook: u32) {
        let (key, direction) = key::located(ifindex, hook, &self.ends);
        self.key = key;
        self.direction = direction as u32;
        self.hook = hook;
    }

    #[inline(always)]
    fn add<H: Ledger>(&self, host: &H, cells: &ConnCells<H::Shared>) {
        let direction = (self.direction & 1) as usize;
        let hot = &cells.dirs[direction];
        let last = hot.last.get();
        if last == 0 || hot.packets.get() == 0 {
            cells.more[direction].first_ns.set(host.now_ns());
        }
        hot.packets.add(self.packets);
        hot.bytes.add(self.bytes);
        if last < self.last {
            hot.last.set(self.last);
        }
        if self.flags != 0 {
            self.follow(cells, direction);
        }
    }

    #[inline(always)]
    fn follow<S: Shared>(&self, cells: &ConnCells<S>, direction: usize) {
        let seen = cells.tcp_flags[direction].get();
        let flags = self.flags as u8;
        if seen | flags == seen {
            return;
        }
        cells.tcp_flags[direction].set(seen | flags);
        let (state, next) = (cells.state.get(), state(seen | flags));
        if next > state {
            cells.state.set(next);
        }
    }

    #[inline(always)]
    fn begin<H: Ledger>(&self, host: &H, value: &mut ConnValue) {
        let now = host.now_ns();
        let direction = (self.direction & 1) as usize;
        value.dirs[direction] =
            DirHot { packets: self.packets, bytes: self.bytes, last: self.last };
        value.id = now;
        value.client = direction as u8;
        value.more[direction].first_ns = now;
        if self.key.protocol() == TCP {
            value.tcp_flags[direction] = self.flags as u8;
            value.state = state(self.flags as u8);
            if value.state == STATE_SYN_SENT {
                value.syn_ns = now;
                value.initial_seq = self.sequence;
                value.more[direction].next_seq = self.sequence.wrapping_add(1);
            }
        }
        if self.backend == u32::MAX {
            return;
        }
        if let Some(backend) = host.backend(self.backend) {
            value.nat = NAT_DSR;
            value.stack_addr = backend.address;
            value.stack_port = backend.port;
            value.stack_peer_port = self.ends.source_port;
            value.service = backend.service;
            value.backend = self.backend;
        }
    }
}
