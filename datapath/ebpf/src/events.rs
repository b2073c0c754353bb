//! Events to user space: into this CPU's ring, without waking anyone (user space comes by on a
//! timer), or through the perf event array. What finds no room is counted by kind.

use core::hint::black_box;

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::{BPF_F_CURRENT_CPU, BPF_RB_NO_WAKEUP};
use aya_ebpf::cty::c_void;
use aya_ebpf::helpers::generated::{
    bpf_get_smp_processor_id, bpf_ktime_get_ns, bpf_perf_event_output, bpf_skb_load_bytes,
};
use datapath_abi::conn::ConnKey;
use datapath_abi::drops::DropEvent;
use datapath_abi::event::{self, ConnEvent, DeniedEvent};
use datapath_abi::names::{DnsEvent, MAX_PAYLOAD};
use datapath_abi::policy::{DeniedCounter, DeniedKey};
use datapath_engine::cells::Counter;

use crate::cells::Word;
use crate::maps;
use crate::skb::Skb;

const NO_WAKEUP: u64 = BPF_RB_NO_WAKEUP as u64;

/// Something happened to a connection. `what` is `detail << 32 | kind`: BPF functions take five
/// arguments. Why it returns a number: see `Done` in the engine.
#[inline(never)]
pub(crate) fn connection(skb: Skb, key: &ConnKey, what: u64, time_ns: u64, id: u64) -> u32 {
    let kind = what as u32;
    let event = ConnEvent { kind, detail: (what >> 32) as u32, time_ns, id, key: *key };
    send(skb.0.cast(), kind, &event);
    black_box(0)
}

/// The policy refused a connection, or would have. Why it returns a number: see `Done` in the engine.
#[inline(never)]
pub(crate) fn denied(skb: Skb, key: &DeniedKey, packet: &DeniedCounter, verdict: u32) -> u32 {
    let event = DeniedEvent {
        kind: event::DENIED,
        verdict,
        time_ns: packet.last_ns,
        key: *key,
        peer_identity: packet.peer_identity,
        source_port: packet.source_port,
        pad: 0,
    };
    send(skb.0.cast(), event::DENIED, &event);
    black_box(0)
}

/// The kernel dropped a packet.
#[inline(always)]
pub(crate) fn drop<C: EbpfContext>(ctx: &C, event: &DropEvent) {
    send(ctx.as_ptr(), event::DROP, event);
}

#[inline(always)]
fn send<T: Copy + 'static>(ctx: *mut c_void, kind: u32, event: &T) {
    if maps::PERF.load() != 0 {
        output(ctx, kind, event);
        return;
    }
    // SAFETY: no arguments.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    let reserved = maps::RINGS.get(cpu).and_then(|ring| ring.reserve_untyped::<T>(0));
    match reserved {
        Some(mut entry) => {
            entry.write(*event);
            entry.submit(NO_WAKEUP);
        }
        None => lost(kind),
    }
}

#[inline(always)]
fn output<T>(ctx: *mut c_void, kind: u32, event: *const T) {
    // SAFETY: `ctx` is the program's context, `event` points to a T.
    let failed = unsafe {
        bpf_perf_event_output(
            ctx,
            (&raw const maps::PERF_EVENTS).cast_mut().cast(),
            u64::from(BPF_F_CURRENT_CPU as u32),
            event.cast_mut().cast(),
            size_of::<T>() as u64,
        )
    };
    if failed != 0 {
        lost(kind);
    }
}

/// A DNS answer passed: `length` bytes at `offset`.
#[inline(never)]
pub(crate) fn names(skb: Skb, key: &ConnKey, id: u64, offset: u32, length: u32) -> u32 {
    let length = if length > MAX_PAYLOAD as u32 { MAX_PAYLOAD as u32 } else { length };
    if maps::PERF.load() != 0 {
        if let Some(event) = maps::NEW_NAMES.get_ptr_mut(0)
            && fill(skb, event, key, id, (offset, length))
        {
            output(skb.0.cast(), event::DNS, event);
        }
        return black_box(0);
    }
    // SAFETY: no arguments.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    let reserved = maps::RINGS.get(cpu).and_then(|ring| ring.reserve_untyped::<DnsEvent>(0));
    match reserved {
        Some(mut entry) => {
            if fill(skb, entry.as_mut_ptr(), key, id, (offset, length)) {
                entry.submit(NO_WAKEUP);
            } else {
                entry.discard(NO_WAKEUP);
            }
        }
        None => lost(event::DNS),
    }
    black_box(0)
}

/// Completes an event in place; whether the packet had the bytes.
#[inline(always)]
fn fill(skb: Skb, event: *mut DnsEvent, key: &ConnKey, id: u64, part: (u32, u32)) -> bool {
    let (offset, length) = part;
    if length == 0 || length > MAX_PAYLOAD as u32 {
        return false;
    }
    // SAFETY: `event` is a whole event in map or ring memory; the helper writes `length` bytes,
    // which the comparison above keeps within its payload.
    unsafe {
        (*event).kind = event::DNS;
        (*event).length = length;
        (*event).time_ns = bpf_ktime_get_ns();
        (*event).id = id;
        (*event).key = *key;
        let payload = (&raw mut (*event).payload).cast();
        bpf_skb_load_bytes(skb.0.cast_const().cast(), offset, payload, length) == 0
    }
}

/// Counts an event for which there was no room.
#[inline(always)]
pub(crate) fn lost(kind: u32) {
    if let Some(count) = maps::LOST_EVENTS.get_ptr(kind) {
        // SAFETY: an aligned u64 in a map value.
        unsafe { &*count.cast::<Word<u64>>() }.add(1);
    }
}
