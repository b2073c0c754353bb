//! Services on the wire side, before the kernel has made anything of a frame: packets of direct server return go out again
//! as they came in, within an outer header. Everything else is left to the tc programs.

use core::hint::black_box;

use aya_ebpf::bindings::{xdp_action::XDP_DROP, xdp_action::XDP_PASS, xdp_action::XDP_TX, xdp_md};
use aya_ebpf::btf_maps::PerCpuArray;
use aya_ebpf::helpers::generated::{bpf_get_smp_processor_id, bpf_jiffies64, bpf_ktime_get_ns};
use aya_ebpf::macros::{btf_map, xdp};
use aya_ebpf::programs::XdpContext;
use datapath_abi::conn::{ConnKey, ConnValue};
use datapath_abi::flow_cache::{
    CacheSettings, CpuState, HOPS_PER_CPU, Hop, NOT_IP, NOT_PLAIN, NOT_SERVED, REASONS, SWEEPING,
};
use datapath_engine::Refusal;
use datapath_engine::cells::{Cell, ConnCells};
use datapath_engine::flow_cache::way::Bucket;
use datapath_engine::flow_cache::{
    COUNTED, LATER, Ledger, NO_WAY, PASS, Query, Tuple, Work, count, count_stateless, find, hop,
    resolve, settle, suffices,
};
use datapath_engine::parse::ETHERNET;

use crate::cells::Bpf;
use crate::flow_cache::{BUCKETS4, BUCKETS6, HOPS, SETTINGS, STATE, barrier, insert, ledger, word};
use crate::{maps, policy, skb};

mod frame;
mod route;

use frame::{Plain, encapsulate4, encapsulate6};

/// Memory for what is rare.
#[btf_map(name = "xdp_work")]
static WORK: PerCpuArray<Work, 1> = PerCpuArray::new();

/// A frame at an XDP hook.
#[derive(Clone, Copy)]
pub(crate) struct Xdp(pub(crate) *mut xdp_md);

/// Sends on what it may.
#[xdp]
pub fn xdp_forward(ctx: XdpContext) -> u32 {
    forward(Xdp(ctx.ctx))
}

#[inline(always)]
pub(crate) fn forward(xdp: Xdp) -> u32 {
    // SAFETY: no arguments.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    let Some(state) = STATE.get_ptr_mut(cpu) else {
        return XDP_PASS;
    };
    // SAFETY: this CPU's own; the sweep keeps off while `busy` is set.
    let state = unsafe { &mut *state };
    if word(&raw mut state.sweeping).get() != 0 {
        state.passes[SWEEPING] += 1;
        return XDP_PASS;
    }
    word(&raw mut state.busy).set(1);
    barrier();
    let answer = packet(xdp, cpu, state);
    barrier();
    word(&raw mut state.busy).set(0);
    if answer < PASS {
        return answer;
    }
    state.passes[(answer - PASS) as usize % REASONS] += 1;
    XDP_PASS
}

#[inline(always)]
fn packet(xdp: Xdp, cpu: u32, state: &mut CpuState) -> u32 {
    let Some(settings) = SETTINGS.get_ptr(0) else {
        return PASS + NOT_SERVED as u32;
    };
    // SAFETY: the map's value. User space replaces it as a whole; the generation is read once, and before any table.
    let settings = unsafe { &*settings };
    let generation = word((&raw const settings.generation).cast_mut()).get();
    if generation == 0 {
        return PASS + NOT_SERVED as u32;
    }
    barrier();
    match xdp.kind() {
        Some(frame::ETH_IPV4) => black_box(send4(xdp, cpu, state, generation)),
        Some(frame::ETH_IPV6) => black_box(send6(xdp, cpu, state, generation)),
        _ => PASS + NOT_IP as u32,
    }
}

/// IPv4. Out of line: each family has a stack of its own.
#[inline(never)]
fn send4(xdp: Xdp, cpu: u32, state: &mut CpuState, generation: u32) -> u32 {
    let Some((tuple, plain)) = xdp.plain4() else {
        return black_box(PASS + NOT_PLAIN as u32);
    };
    let (mask, seed) = shape(|settings| settings.mask4);
    let at = cpu * (mask + 1) + (tuple.hash(seed) & mask);
    let Some(bucket) = BUCKETS4.get_ptr_mut(at) else {
        return black_box(PASS + NOT_SERVED as u32);
    };
    // SAFETY: this CPU's own.
    black_box(send(xdp, cpu, state, generation, unsafe { &mut *bucket }, &tuple, &plain))
}

/// IPv6.
#[inline(never)]
fn send6(xdp: Xdp, cpu: u32, state: &mut CpuState, generation: u32) -> u32 {
    let Some((tuple, plain)) = xdp.plain6() else {
        return black_box(PASS + NOT_PLAIN as u32);
    };
    let (mask, seed) = shape(|settings| settings.mask6);
    let at = cpu * (mask + 1) + (tuple.hash(seed) & mask);
    let Some(bucket) = BUCKETS6.get_ptr_mut(at) else {
        return black_box(PASS + NOT_SERVED as u32);
    };
    // SAFETY: this CPU's own.
    black_box(send(xdp, cpu, state, generation, unsafe { &mut *bucket }, &tuple, &plain))
}

/// A table's mask, and the seed.
#[inline(always)]
fn shape(mask: fn(&CacheSettings) -> u32) -> (u32, u32) {
    // SAFETY: the map's value.
    SETTINGS.get_ptr(0).map_or((0, 0), |settings| unsafe { (mask(&*settings), (*settings).seed) })
}

/// XDP's answer, or [`PASS`] and the reason.
#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "inlined twice")]
fn send<B: Bucket>(
    xdp: Xdp,
    cpu: u32,
    state: &mut CpuState,
    generation: u32,
    bucket: &mut B,
    tuple: &B::Tuple,
    plain: &Plain,
) -> u32 {
    // SAFETY: no arguments.
    let tick = unsafe { bpf_jiffies64() };
    let found = find(bucket, tuple);
    let mut answer = found;
    let mut to = bucket.tail(found).backend;
    if found < NO_WAY && suffices(bucket.tail(found), generation, plain.flags) {
        state.hits += 1;
        let refused = match hop_of(cpu, to) {
            Some(hop)
                if hop::is_current(hop, to, generation, tuple.link() >> 9, tick as u32)
                    && hop::accepts(hop, plain.length, plain.mac) =>
            {
                0
            }
            _ => {
                black_box(question(tuple, plain, found, generation, tick));
                black_box(route::again(xdp.0, to))
            }
        };
        if refused != 0 {
            return PASS - 1 + refused;
        }
    } else {
        state.misses += 1;
        black_box(question(tuple, plain, found, generation, tick));
        let Some(work) = WORK.get_ptr_mut(0) else {
            return PASS + NOT_SERVED as u32;
        };
        // SAFETY: this CPU's own.
        let work = unsafe { &mut *work };
        answer = resolve(&xdp, work, state, bucket, tuple);
        if answer >= PASS {
            return answer;
        }
        to = work.query.backend;
    }
    let Some(hop) = hop_of(cpu, to) else {
        return PASS + NOT_SERVED as u32;
    };
    // What it may not be sent as is counted all the same: it has come in.
    let sent = if hop.version == 4 {
        encapsulate4(xdp, hop, plain)
    } else {
        encapsulate6(xdp, hop, plain, tuple.hash(0))
    };
    if sent {
        let outer = if hop.version == 4 { hop::OUTER4 } else { hop::OUTER6 };
        hop::add(hop, plain.bytes + outer, tick as u32);
    }
    if answer < NO_WAY {
        if count(bucket.tail_mut(answer), plain.flags, plain.bytes, tick as u32)
            && let Some(work) = WORK.get_ptr_mut(0)
        {
            // SAFETY: this CPU's own.
            let work = unsafe { &mut *work };
            (work.query.settings.generation, work.query.tick) = (generation, tick);
            black_box(settle(&xdp, work, state, bucket, answer | LATER));
        }
    } else if answer & COUNTED == 0
        && let Some(work) = WORK.get_ptr_mut(0)
    {
        // SAFETY: this CPU's own.
        black_box(count_stateless(&xdp, unsafe { &mut *work }, state));
    }
    if sent { XDP_TX } else { XDP_DROP }
}

#[inline(always)]
fn hop_of(cpu: u32, backend: u32) -> Option<&'static mut Hop> {
    let hop = HOPS.get_ptr_mut(cpu * HOPS_PER_CPU + (backend & (HOPS_PER_CPU - 1)))?;
    // SAFETY: this CPU's own.
    Some(unsafe { &mut *hop })
}

/// Puts the packet where [`resolve`] looks for it.
#[inline(never)]
fn question<T: Tuple>(tuple: &T, plain: &Plain, found: u32, generation: u32, tick: u64) -> u32 {
    let (Some(work), Some(settings)) = (WORK.get_ptr_mut(0), SETTINGS.get_ptr(0)) else {
        return black_box(0);
    };
    // SAFETY: this CPU's own, and a map's value.
    let query = unsafe { &mut (*work).query };
    query.settings = unsafe { *settings };
    query.settings.generation = generation;
    query.tick = tick;
    query.ends = tuple.ends();
    query.ifindex = tuple.link() >> 9;
    query.found = found;
    query.bytes = plain.bytes;
    query.flags = u32::from(plain.flags);
    query.length = plain.length;
    query.mac = plain.mac;
    query.sequence = plain.sequence;
    black_box(0)
}

const _: () = assert!(ETHERNET == 14);

// === impl Xdp ===

impl Ledger for Xdp {
    ledger!();

    #[inline(always)]
    fn insert(&self, key: &ConnKey, fill: impl FnOnce(&mut ConnValue)) -> Result<(), Refusal> {
        // The tc programs' too: neither interrupts the other.
        insert(maps::NEW_CONNECTION.get_ptr_mut(0).ok_or(Refusal::Memory)?, key, fill)
    }

    #[inline(always)]
    fn reach(&self, query: &mut Query) -> u32 {
        black_box(route::reach(self.0, query))
    }
}
