//! Which backend a packet's flow has, by the tables.

use core::hint::black_box;

use datapath_abi::conn::{ConnKey, ConnValue, STATE_CLOSED, STATE_SYN_SENT};
use datapath_abi::flow_cache::{
    self, AFFINITY, CacheSettings, CpuState, ENTRY, LOCAL_BACKEND, NO_BACKEND, NO_ROOM,
    NOT_IN_RANGE, NOT_SERVED, OVER_RATE, POLICY, STALE,
};
use datapath_abi::iface;
use datapath_abi::policy::DENY;
use datapath_abi::service::{
    ALIVE, BY_ADDRESS, Backend, CLUSTER_ONLY, DSR, EXTERNAL, Frontend, FrontendKey, HASHED, LOCAL,
    NAT_DSR, RANGED, UPLINK,
};

use super::ledger::{Batch, Ledger};
use super::{NO_SETTINGS, tcp};
use crate::account::Done;
use crate::cells::{Cell, ConnCells, Judged};
use crate::host::Refusal;
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
    /// TCP: the sequence number.
    pub sequence: u32,
    /// Where it goes.
    pub backend: u32,
    /// What an unattributed one is counted as.
    pub cause: u32,
    service: u32,
    client: u32,
    entry: u32,
    frontend: FrontendKey,
    key: ConnKey,
}

/// [`KNOWN`] …
#[inline(always)]
pub(super) fn ask<H: Ledger>(host: &H, query: &mut Query, state: &mut CpuState) -> u32 {
    let served = black_box(frontend(host, query));
    if served != KNOWN {
        return served;
    }
    let known = black_box(known(host, query));
    if known == NEW {
        return black_box(new(host, query, state));
    }
    if known == KNOWN { reach(host, query) } else { known }
}

/// Whether the backend can be reached.
#[inline(always)]
fn reach<H: Ledger>(host: &H, query: &mut Query) -> u32 {
    match black_box(host.reach(query)) {
        0 => KNOWN,
        reason => black_box(ASK_TC - 1 + reason),
    }
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
    if host.served(query.ifindex).is_none_or(|served| served.flags & UPLINK == 0) {
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

/// A flow that nobody knows.
#[inline(never)]
fn new<H: Ledger>(host: &H, query: &mut Query, state: &mut CpuState) -> u32 {
    let Some(frontend) = host.frontend(&query.frontend) else {
        return tc(NOT_SERVED);
    };
    if frontend.affinity != 0 {
        return tc(AFFINITY);
    }
    if frontend.flags & RANGED != 0 && !host.is_in_range(frontend.service, &query.ends.source) {
        return tc(NOT_IN_RANGE);
    }
    let is_hashed = frontend.flags & HASHED != 0;
    let begins = query.flags as u8 & (tcp::SYN | tcp::ACK | tcp::RST) == tcp::SYN;
    if !is_hashed && query.ends.protocol == TCP && !begins {
        // Of a connection that is older than we are: chance would not find its backend again.
        return tc(ENTRY);
    }
    let chosen = black_box(choose(host, query, frontend));
    if chosen != KNOWN {
        return chosen;
    }
    let reached = reach(host, query);
    if reached != KNOWN {
        return reached;
    }
    if !may_enter(query, state) {
        query.cause = iface::FLOOD as u32;
        return if is_hashed { black_box(STATELESS) } else { tc(OVER_RATE) };
    }
    black_box(enter(host, query));
    match query.entry {
        ENTERED => black_box(ENTERED),
        // Another CPU was faster; it may have chosen otherwise.
        NEW => match black_box(known(host, query)) {
            NEW => tc(ENTRY),
            KNOWN => reach(host, query),
            known => known,
        },
        _ if is_hashed => black_box(STATELESS),
        _ => tc(NO_ROOM),
    }
}

#[inline(never)]
fn choose<H: Ledger>(host: &H, query: &mut Query, frontend: &Frontend) -> u32 {
    let number = if frontend.flags & HASHED != 0 {
        let seed = host.service_settings().map_or(0, |settings| settings.seed);
        let port = if frontend.flags & BY_ADDRESS != 0 { 0 } else { query.ends.source_port };
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

/// Makes the flow's entry, with this packet.
#[inline(never)]
fn enter<H: Ledger>(host: &H, query: &mut Query) -> Done {
    let made = host.insert(&query.key, |value| begin(host, query, value));
    (query.entry, query.cause) = match made {
        Ok(()) => {
            host.count(|counters| counters.balanced += 1);
            (ENTERED, 0)
        }
        Err(Refusal::Exists) => (NEW, 0),
        Err(Refusal::Full) => (STATELESS, iface::TABLE_FULL as u32),
        Err(Refusal::Memory) => (STATELESS, iface::NO_MEMORY as u32),
        Err(Refusal::Busy) => (STATELESS, iface::BUSY as u32),
    };
    Done::here()
}

#[inline(always)]
fn begin<H: Ledger>(host: &H, query: &Query, value: &mut ConnValue) {
    let batch = Batch {
        key: query.key,
        packets: 1,
        bytes: u64::from(query.bytes),
        last: query.tick,
        direction: query.client,
        flags: query.flags,
        backend: query.backend,
        client_port: u32::from(query.ends.source_port),
        ..Batch::NONE
    };
    batch.begin(host, value);
    if value.state == STATE_SYN_SENT {
        value.initial_seq = query.sequence;
        value.more[(query.client & 1) as usize].next_seq = query.sequence.wrapping_add(1);
    }
}

// === impl Query ===

impl Query {
    /// Nothing asked.
    pub const NONE: Self = Self {
        settings: NO_SETTINGS,
        tick: 0,
        ends: Ends::NONE,
        bytes: 0,
        flags: 0,
        found: 0,
        ifindex: 0,
        sequence: 0,
        backend: 0,
        cause: 0,
        service: 0,
        client: 0,
        entry: 0,
        frontend: FrontendKey { address: [0; 16], port: 0, protocol: 0, pad: 0, pad2: 0 },
        key: ConnKey { low_addr: [0; 16], high_addr: [0; 16], low_port: 0, high_port: 0, link: 0 },
    };
}

const _: () = assert!(flow_cache::REASONS as u32 + ASK_TC < super::PASS);
