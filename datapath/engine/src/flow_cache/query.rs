//! Which backend a packet's flow has, by the tables.

use core::hint::black_box;

use datapath_abi::conn::{ConnKey, STATE_CLOSED};
use datapath_abi::flow_cache::{
    self, AFFINITY, CacheSettings, CpuState, ENTRY, LOCAL_BACKEND, NO_BACKEND, NO_ROOM,
    NOT_IN_RANGE, NOT_SERVED, OVER_RATE, POLICY, STALE,
};
use datapath_abi::iface;
use datapath_abi::policy::DENY;
use datapath_abi::service::{
    ALIVE, Backend, CLUSTER_ONLY, DSR, EXTERNAL, FrontendKey, HASHED, LOCAL, NAT_DSR, NODE, RANGED,
    UPLINK,
};

use super::ledger::{Batch, CREATED, EXISTS, Ledger, create};
use super::{NO_SETTINGS, Work, tcp};
use crate::cells::{Cell, ConnCells, Judged};
use crate::key::{self, Ends};
use crate::parse::TCP;
use crate::service::hash;

/// The flow has a backend, and an entry.
pub(super) const KNOWN: u32 = 0;
/// It has a backend and an entry now, in which this packet is counted.
pub(super) const ENTERED: u32 = 1;
/// It has a backend by its hash, and no entry.
const STATELESS: u32 = 2;
/// It is for the tc program: this and the reason.
pub(super) const ASK_TC: u32 = 3;

/// It has no entry yet.
const NEW: u32 = 0xff;

/// A packet, and what is found out about it.
#[repr(C, align(8))]
#[derive(Debug, Clone, Copy)]
pub struct Query {
    /// Settings as the packet came.
    pub settings: CacheSettings,
    /// `bpf_jiffies64`.
    pub tick: u64,
    /// The packet's ends.
    pub ends: Ends,
    /// Its bytes behind the link header.
    pub bytes: u32,
    /// TCP flags.
    pub flags: u32,
    /// The way that the flow has: [`find`](super::find).
    pub found: u32,
    /// Interface.
    pub ifindex: u32,
    /// Length of the packet within its outer header.
    pub length: u32,
    /// Destination of its Ethernet header: two bytes, and four.
    pub mac: [u32; 2],
    /// TCP: the sequence number.
    pub sequence: u32,
    /// Where it goes.
    pub backend: u32,
    /// What an unattributed one is counted as.
    pub cause: u32,
    service: u32,
    client: u32,
    hashed: u32,
    frontend: FrontendKey,
    key: ConnKey,
}

/// [`KNOWN`] … Its steps are called from here, not from each other: the stack of a BPF program is that of the deepest call.
#[inline(always)]
pub(super) fn ask<H: Ledger>(host: &H, work: &mut Work, state: &mut CpuState) -> u32 {
    let query = &mut work.query;
    let served = black_box(frontend(host, query));
    if served != KNOWN {
        return served;
    }
    let mut known = black_box(known(host, query));
    if known == NEW {
        let chosen = black_box(choose(host, query));
        if chosen != KNOWN {
            return chosen;
        }
    } else if known != KNOWN {
        return known;
    }
    let refused = black_box(host.reach(query));
    if refused != 0 {
        return black_box(ASK_TC - 1 + refused);
    }
    if known == NEW {
        known = black_box(enter(host, work, state));
    }
    if known == NEW {
        // Another CPU was faster; it may have chosen otherwise.
        known = black_box(self::known(host, &mut work.query));
        if known == NEW {
            return tc(ENTRY);
        }
        if known == KNOWN && black_box(host.reach(&mut work.query)) != 0 {
            return tc(ENTRY);
        }
    }
    known
}

#[inline(always)]
fn tc(reason: usize) -> u32 {
    black_box(ASK_TC + reason as u32)
}

/// Whether the destination is a frontend whose packets may be sent on from here.
#[inline(never)]
fn frontend<H: Ledger>(host: &H, query: &mut Query) -> u32 {
    query.frontend = FrontendKey {
        address: query.ends.destination,
        port: query.ends.destination_port,
        protocol: query.ends.protocol,
        pad: 0,
        pad2: 0,
    };
    let Some(frontend) = host.frontend(&query.frontend) else {
        return tc(NOT_SERVED);
    };
    if frontend.flags & (DSR | CLUSTER_ONLY) != DSR {
        return tc(NOT_SERVED);
    }
    query.service = frontend.service;
    let Some(served) = host.served(query.ifindex) else {
        return tc(NOT_SERVED);
    };
    let is_v4 = u128::from_be_bytes(query.ends.destination) >> 32 == 0xffff;
    let own = if is_v4 { &served.v4 } else { &served.v6 };
    // Others take it from a node alone.
    if served.flags & UPLINK == 0 || host.prefix(own) & NODE == 0 {
        return tc(NOT_SERVED);
    }
    if host.is_subject(query.ifindex) {
        return tc(POLICY);
    }
    black_box(KNOWN)
}

/// By the entry, if there is one.
#[inline(never)]
fn known<H: Ledger>(host: &H, query: &mut Query) -> u32 {
    let (key, direction) = key::located(query.ifindex, iface::INGRESS, &query.ends);
    query.key = key;
    query.client = direction as u32;
    match host.find(&query.key) {
        Some(cells) => black_box(by_entry(host, query, cells)),
        None => black_box(NEW),
    }
}

#[inline(always)]
fn by_entry<H: Ledger>(host: &H, query: &mut Query, cells: &ConnCells<H::Shared>) -> u32 {
    let judged = Judged(cells.judged.get());
    let begins = query.flags as u8 & (tcp::SYN | tcp::ACK | tcp::RST) == tcp::SYN;
    if (cells.retired.get() != 0)
        | (judged.verdict() == DENY)
        | (judged.nat() != NAT_DSR)
        | (begins && cells.state.get() >= STATE_CLOSED)
    {
        return tc(ENTRY);
    }
    query.backend = cells.backend.get();
    let address = u128::from_ne_bytes(cells.stack_addr());
    match host.backend(query.backend) {
        Some(backend) if is_alive(backend, query.service) => {
            if u128::from_ne_bytes(backend.address) != address {
                tc(STALE)
            } else if backend.flags & LOCAL != 0 {
                tc(LOCAL_BACKEND)
            } else {
                black_box(KNOWN)
            }
        }
        _ => tc(STALE),
    }
}

#[inline(always)]
fn is_alive(backend: &Backend, service: u32) -> bool {
    (backend.flags & ALIVE != 0) & (backend.service == service)
}

/// A backend for a flow that nobody knows.
#[inline(never)]
fn choose<H: Ledger>(host: &H, query: &mut Query) -> u32 {
    let Some(frontend) = host.frontend(&query.frontend) else {
        return tc(NOT_SERVED);
    };
    if frontend.affinity != 0 {
        return tc(AFFINITY);
    }
    if frontend.flags & RANGED != 0 && !host.is_in_range(frontend.service, &query.ends.source) {
        return tc(NOT_IN_RANGE);
    }
    query.hashed = frontend.flags & HASHED;
    let begins = query.flags as u8 & (tcp::SYN | tcp::ACK | tcp::RST) == tcp::SYN;
    if query.hashed == 0 && query.ends.protocol == TCP && !begins {
        // Of a connection that is older than we are: chance would not find its backend again.
        return tc(ENTRY);
    }
    let number = if frontend.flags & HASHED != 0 {
        let seed = host.service_settings().map_or(0, |settings| settings.seed);
        let port = query.ends.source_port;
        hash(seed, &query.frontend, &query.ends.source, u32::from(port))
    } else {
        host.random()
    };
    let slots = frontend.slots[EXTERNAL];
    if slots.count == 0 {
        return tc(NO_BACKEND);
    }
    let index = (u64::from(number) * u64::from(slots.count)) >> 32;
    let slot = slots.start.wrapping_add(index as u32);
    query.backend = host.slot(slot).unwrap_or(u32::MAX);
    match host.backend(query.backend) {
        Some(backend) if is_alive(backend, query.service) => {
            if backend.flags & LOCAL != 0 {
                tc(LOCAL_BACKEND)
            } else {
                black_box(KNOWN)
            }
        }
        _ => tc(NO_BACKEND),
    }
}

/// Whether one more new flow may enter the cache in this second.
#[inline(always)]
fn may_enter(query: &Query, state: &mut CpuState) -> bool {
    let tick = query.tick as u32;
    if tick.wrapping_sub(state.window) >= query.settings.second {
        state.window = tick;
        state.fresh = 0;
    }
    if state.fresh >= query.settings.new_per_second {
        return false;
    }
    state.fresh += 1;
    true
}

/// Makes the flow's entry, with this packet, if it may have one. [`NEW`]: another CPU was faster.
#[inline(never)]
fn enter<H: Ledger>(host: &H, work: &mut Work, state: &mut CpuState) -> u32 {
    let Work { query, batch } = work;
    let reason = if may_enter(query, state) {
        query.single(batch);
        match black_box(create(host, batch)) {
            CREATED => {
                host.count(|counters| counters.balanced += 1);
                return black_box(ENTERED);
            }
            EXISTS => return black_box(NEW),
            cause => query.cause = cause,
        }
        NO_ROOM
    } else {
        query.cause = iface::FLOOD as u32;
        OVER_RATE
    };
    if query.hashed != 0 { black_box(STATELESS) } else { tc(reason) }
}

// === impl Query ===

impl Query {
    /// The packet, to be added to its entry.
    #[inline(always)]
    pub(super) fn single(&self, batch: &mut Batch) {
        batch.key = self.key;
        batch.ends = self.ends;
        batch.packets = 1;
        batch.bytes = u64::from(self.bytes);
        batch.last = self.tick;
        batch.hook = iface::INGRESS;
        batch.direction = self.client;
        batch.flags = self.flags;
        batch.sequence = self.sequence;
        batch.backend = self.backend;
    }

    /// Nothing asked.
    pub const NONE: Self = Self {
        settings: NO_SETTINGS,
        tick: 0,
        ends: Ends::NONE,
        bytes: 0,
        flags: 0,
        found: 0,
        ifindex: 0,
        length: 0,
        mac: [0; 2],
        sequence: 0,
        backend: 0,
        cause: 0,
        service: 0,
        client: 0,
        hashed: 0,
        frontend: FrontendKey { address: [0; 16], port: 0, protocol: 0, pad: 0, pad2: 0 },
        key: ConnKey { low_addr: [0; 16], high_addr: [0; 16], low_port: 0, high_port: 0, link: 0 },
    };
}

const _: () = assert!(flow_cache::REASONS as u32 + ASK_TC < super::PASS);
