//! The flow cache's maps, and the program that empties it into the connection table; see `datapath_abi::flow_cache`.

use core::arch::asm;
use core::hint::black_box;

use aya_ebpf::bindings::{BPF_F_MMAPABLE, BPF_NOEXIST};
use aya_ebpf::btf_maps::{Array, PerCpuArray};
use aya_ebpf::helpers::generated::{bpf_get_smp_processor_id, bpf_jiffies64, bpf_ktime_get_ns};
use aya_ebpf::macros::{btf_map, raw_tracepoint};
use aya_ebpf::programs::RawTracePointContext;
use datapath_abi::conn::{ConnKey, ConnValue};
use datapath_abi::flow_cache::{
    Bucket4, Bucket6, CacheSettings, CpuState, HOPS_PER_CPU, Hop, NO_ROUTE, SWEEP, SWEEP_AGAIN,
    SWEEP_HOPS, SWEEP_V4,
};
use datapath_engine::Refusal;
use datapath_engine::cells::{Cell, ConnCells};
use datapath_engine::flow_cache::way::Bucket;
use datapath_engine::flow_cache::{LATER, Ledger, Query, Work, hop, sweep};

use crate::cells::{Bpf, Word};
use crate::{maps, policy, skb};

/// Set when the object is loaded.
const LOADER: usize = 1;
/// Such an array begins at a page, so that a bucket is a cache line.
const ALIGNED: usize = BPF_F_MMAPABLE as usize;

#[btf_map(name = "xdp_buckets4")]
pub(crate) static BUCKETS4: Array<Bucket4, LOADER, ALIGNED> = Array::new();

#[btf_map(name = "xdp_buckets6")]
pub(crate) static BUCKETS6: Array<Bucket6, LOADER, ALIGNED> = Array::new();

#[btf_map(name = "xdp_hops")]
pub(crate) static HOPS: Array<Hop, LOADER, ALIGNED> = Array::new();

#[btf_map(name = "xdp_settings")]
pub(crate) static SETTINGS: Array<CacheSettings, 1> = Array::new();

#[btf_map(name = "xdp_state")]
pub(crate) static STATE: Array<CpuState, LOADER, ALIGNED> = Array::new();

/// Memory of the sweep, which may interrupt any other program.
#[btf_map(name = "sweep_work")]
static WORK: PerCpuArray<Work, 1> = PerCpuArray::new();

/// See `maps::NEW_CONNECTION`.
#[btf_map(name = "sweep_connection")]
static NEW_CONNECTION: PerCpuArray<ConnValue, 1> = PerCpuArray::new();

/// The sweep.
#[derive(Clone, Copy)]
pub(crate) struct Sweeper;

/// Only run by user space, on the CPU whose part it sweeps: as an interrupt of what runs there, or in place of it. Arguments:
/// which table, and the number of the first bucket of the CPU's. Returns how many ways were left as they were, or
/// [`SWEEP_AGAIN`].
#[raw_tracepoint(tracepoint = "xdp_sweep")]
pub fn xdp_sweep(ctx: RawTracePointContext) -> i32 {
    let (table, start) = (ctx.arg::<u64>(0), ctx.arg::<u64>(1) as u32);
    // SAFETY: no arguments.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    let (Some(state), Some(settings)) = (STATE.get_ptr_mut(cpu), SETTINGS.get_ptr(0)) else {
        return 0;
    };
    let Some(work) = WORK.get_ptr_mut(0) else {
        return 0;
    };
    // SAFETY: this CPU's own; `busy` says whether the XDP program is using it right now.
    let (state, work) = unsafe { (&mut *state, &mut *work) };
    if word(&raw mut state.busy).get() != 0 {
        return SWEEP_AGAIN as i32;
    }
    word(&raw mut state.sweeping).set(1);
    barrier();
    // SAFETY: the map's value.
    work.query.settings = unsafe { *settings };
    // SAFETY: no arguments.
    work.query.tick = unsafe { bpf_jiffies64() };
    let mut left = 0;
    for index in 0..SWEEP {
        let at = start + index;
        let kept = match table {
            SWEEP_V4 => bucket4(at, cpu, state, work),
            SWEEP_HOPS => tunnel(at, cpu, work),
            _ => bucket6(at, cpu, state, work),
        };
        // Any number to the verifier: rounds become one.
        left = black_box(left + black_box(kept));
    }
    barrier();
    word(&raw mut state.sweeping).set(0);
    left as i32
}

#[inline(never)]
fn bucket4(at: u32, cpu: u32, state: &mut CpuState, work: &mut Work) -> u32 {
    let at = cpu * (work.query.settings.mask4 + 1) + at;
    let Some(bucket) = BUCKETS4.get_ptr_mut(at) else {
        return black_box(0);
    };
    // SAFETY: this CPU's own.
    black_box(one(unsafe { &mut *bucket }, state, work))
}

#[inline(never)]
fn bucket6(at: u32, cpu: u32, state: &mut CpuState, work: &mut Work) -> u32 {
    let at = cpu * (work.query.settings.mask6 + 1) + at;
    let Some(bucket) = BUCKETS6.get_ptr_mut(at) else {
        return black_box(0);
    };
    // SAFETY: this CPU's own.
    black_box(one(unsafe { &mut *bucket }, state, work))
}

#[inline(always)]
fn one<B: Bucket>(bucket: &mut B, state: &mut CpuState, work: &mut Work) -> u32 {
    sweep(&Sweeper, work, state, bucket)
}

#[inline(never)]
fn tunnel(at: u32, cpu: u32, work: &mut Work) -> u32 {
    let Some(hop) = HOPS.get_ptr_mut(cpu * HOPS_PER_CPU + at) else {
        return black_box(0);
    };
    let tick = work.query.tick;
    // SAFETY: this CPU's own.
    black_box(hop::settle(&Sweeper, &mut work.batch, unsafe { &mut *hop }, tick, LATER))
}

/// A word that what interrupts us looks at.
#[inline(always)]
pub(crate) fn word<'a>(at: *mut u32) -> &'a Word<u32> {
    // SAFETY: a field of a map's value, aligned; the same layout.
    unsafe { &*at.cast::<Word<u32>>() }
}

/// The compiler moves nothing across. Interrupts of the same CPU see what it does in order.
#[inline(always)]
pub(crate) fn barrier() {
    // SAFETY: no instruction.
    unsafe { asm!("", options(nostack, preserves_flags)) };
}

/// Inserts a connection, put together in memory that nobody else uses meanwhile.
#[inline(always)]
pub(crate) fn insert(
    scratch: *mut ConnValue,
    key: &ConnKey,
    fill: impl FnOnce(&mut ConnValue),
) -> Result<(), Refusal> {
    // SAFETY: this CPU's own, by the caller.
    let value = unsafe { &mut *scratch };
    *value = ConnValue::ZERO;
    fill(value);
    maps::CONNECTIONS.insert(key, &*value, u64::from(BPF_NOEXIST)).map_err(skb::refusal)
}

/// What of `Ledger` is the same for the XDP program and the sweep.
macro_rules! ledger {
    () => {
        type Shared = Bpf;

        #[inline(always)]
        fn now_ns(&self) -> u64 {
            // SAFETY: no arguments.
            unsafe { bpf_ktime_get_ns() }
        }

        #[inline(always)]
        fn find(&self, key: &ConnKey) -> Option<&ConnCells<Bpf>> {
            let () = ConnCells::<Bpf>::SAME_LAYOUT;
            let value = maps::CONNECTIONS.get_ptr(key)?;
            // SAFETY: as for `Skb`.
            Some(unsafe { &*value.cast::<ConnCells<Bpf>>() })
        }

        #[inline(always)]
        fn unattributed(&self, ifindex: u32, hook: u32, cause: usize, packets: u64, bytes: u64) {
            let where_and_why = u64::from(ifindex) << 32 | u64::from(hook) << 16 | cause as u64;
            black_box(skb::unattributed(where_and_why, packets, bytes));
        }

        #[inline(always)]
        fn is_subject(&self, ifindex: u32) -> bool {
            policy::is_subject(ifindex)
        }
    };
}
pub(crate) use ledger;

// === impl Sweeper ===

impl Ledger for Sweeper {
    ledger!();

    #[inline(always)]
    fn insert(&self, key: &ConnKey, fill: impl FnOnce(&mut ConnValue)) -> Result<(), Refusal> {
        insert(NEW_CONNECTION.get_ptr_mut(0).ok_or(Refusal::Memory)?, key, fill)
    }

    #[inline(always)]
    fn reach(&self, _: &mut Query) -> u32 {
        NO_ROUTE as u32 + 1
    }
}
