//! From a backend to the next hop: asked of the routing table, and kept for a while.

use core::hint::black_box;

use aya_ebpf::bindings::{bpf_fib_lookup as Fib, xdp_md};
use aya_ebpf::btf_maps::PerCpuArray;
use aya_ebpf::helpers::generated::{bpf_fib_lookup, bpf_get_smp_processor_id};
use aya_ebpf::macros::btf_map;
use datapath_abi::flow_cache::{Hop, NO_ROUTE, NOT_PLAIN, OTHER_INTERFACE, TOO_BIG};
use datapath_engine::Services;
use datapath_engine::flow_cache::{FINALLY, Query, hop};

use super::{WORK, Xdp, hop_of};
use crate::flow_cache::STATE;

/// `AF_INET`, `AF_INET6`.
const FAMILIES: [u8; 2] = [2, 10];
/// `BPF_FIB_LKUP_RET_FRAG_NEEDED`.
const FRAG_NEEDED: i64 = 8;

/// What the routing table is asked, and answers.
#[btf_map(name = "xdp_fib")]
static FIB: PerCpuArray<Fib, 1> = PerCpuArray::new();

/// As [`reach`], for the packet in [`WORK`] and a backend that is known.
#[inline(never)]
pub(super) fn again(context: *mut xdp_md, backend: u32) -> u32 {
    let Some(work) = WORK.get_ptr_mut(0) else {
        return black_box(NO_ROUTE as u32 + 1);
    };
    // SAFETY: this CPU's own.
    let query = unsafe { &mut (*work).query };
    query.backend = backend;
    black_box(reach(context, query))
}

/// See `Ledger::reach`.
#[inline(never)]
pub(super) fn reach(context: *mut xdp_md, query: &mut Query) -> u32 {
    // SAFETY: no arguments.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    let Some(hop) = hop_of(cpu, query.backend) else {
        return black_box(NO_ROUTE as u32 + 1);
    };
    let (generation, tick) = (query.settings.generation, query.tick as u32);
    let mut is_known = hop::is_current(hop, query.backend, generation, query.ifindex, tick);
    if is_known && hop.refused == 0 {
        // A packet that is longer than any before may be one too long, or not.
        is_known = query.length <= hop.mtu;
    }
    if !is_known {
        black_box(renew(context, query, hop, cpu));
    }
    black_box(if hop.refused != 0 {
        hop.refused
    } else if query.length > hop.mtu {
        TOO_BIG as u32 + 1
    } else if !hop::accepts(hop, query.length, query.mac) {
        NOT_PLAIN as u32 + 1
    } else {
        0
    })
}

/// Asks the routing table.
#[inline(never)]
fn renew(context: *mut xdp_md, query: &mut Query, hop: &mut Hop, cpu: u32) -> u32 {
    let Some(work) = WORK.get_ptr_mut(0) else {
        return black_box(0);
    };
    // SAFETY: this CPU's own; the query lies beside the batch.
    let batch = unsafe { &mut (*work).batch };
    black_box(hop::settle(&Xdp(context), batch, hop, query.tick, FINALLY));
    if let Some(state) = STATE.get_ptr_mut(cpu) {
        // SAFETY: this CPU's own.
        unsafe { (*state).routes += 1 };
    }
    hop.backend = query.backend;
    hop.generation = query.settings.generation;
    hop.ifindex = query.ifindex;
    hop.expires = (query.tick as u32).wrapping_add(query.settings.hop);
    hop.mtu = 0;
    hop.refused = black_box(ask(context, query, hop));
    black_box(0)
}

/// 0, or a reason plus one.
#[inline(never)]
fn ask(context: *mut xdp_md, query: &Query, hop: &mut Hop) -> u32 {
    let tables = Xdp(context);
    let refused = NO_ROUTE as u32 + 1;
    let (Some(backend), Some(served)) =
        (tables.backend(query.backend), tables.served(query.ifindex))
    else {
        return black_box(refused);
    };
    let is_v4 = is_v4(&backend.address);
    hop.version = if is_v4 { 4 } else { 6 };
    hop.destination = backend.address;
    hop.source = if is_v4 { served.v4 } else { served.v6 };
    if is_v4 != self::is_v4(&query.ends.destination) || u128::from_ne_bytes(hop.source) == 0 {
        return black_box(refused);
    }
    let Some(fib) = FIB.get_ptr_mut(0) else {
        return black_box(refused);
    };
    // SAFETY: this CPU's own.
    let fib = unsafe { &mut *fib };
    *fib = EMPTY;
    fib.family = FAMILIES[usize::from(!is_v4)];
    fib.ifindex = query.ifindex;
    fib.__bindgen_anon_1.tot_len = query.length as u16;
    let (source, destination) = (words(&hop.source), words(&hop.destination));
    if is_v4 {
        hop.sum = hop::sum4(source[3], destination[3]);
        fib.__bindgen_anon_3.ipv4_src = source[3];
        fib.__bindgen_anon_4.ipv4_dst = destination[3];
    } else {
        fib.__bindgen_anon_3.ipv6_src = source;
        fib.__bindgen_anon_4.ipv6_dst = destination;
    }
    // SAFETY: the context, and the structure with its size.
    let answer = unsafe { bpf_fib_lookup(context.cast(), fib, size_of::<Fib>() as i32, 0) };
    if answer != 0 {
        return black_box(if answer == FRAG_NEEDED { TOO_BIG as u32 + 1 } else { refused });
    }
    if fib.ifindex != query.ifindex {
        return black_box(OTHER_INTERFACE as u32 + 1);
    }
    let ([a, b, c, d, e, f], [g, h, i, j, k, l]) = (fib.dmac, fib.smac);
    hop.macs = [[a, b, c, d], [e, f, g, h], [i, j, k, l]].map(u32::from_ne_bytes);
    // SAFETY: either way a number. Kernels before 5.12 leave it as it was: then longer ones are asked about again.
    hop.mtu = u32::from(unsafe { fib.__bindgen_anon_1.mtu_result });
    black_box(0)
}

#[inline(always)]
fn is_v4(address: &[u8; 16]) -> bool {
    u128::from_be_bytes(*address) >> 32 == 0xffff
}

#[inline(always)]
fn words(at: &[u8; 16]) -> [u32; 4] {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = *at;
    [[a, b, c, d], [e, f, g, h], [i, j, k, l], [m, n, o, p]].map(u32::from_ne_bytes)
}

// SAFETY: integers, and unions of such.
const EMPTY: Fib = unsafe { core::mem::zeroed() };
