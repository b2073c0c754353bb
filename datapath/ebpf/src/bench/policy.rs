//! Policy (`datapath/loader/benches/enforce.rs`): ours, and beside it what is usual: a connection table, an
//! address trie, and a policy trie asked twice, all three for every packet.

use core::hint::black_box;

use aya_ebpf::bindings::{BPF_F_NO_PREALLOC, TC_ACT_SHOT, TC_ACT_UNSPEC};
use aya_ebpf::btf_maps::{HashMap, LpmTrie};
use aya_ebpf::helpers::generated::bpf_map_lookup_elem;
use aya_ebpf::macros::{btf_map, classifier};
use aya_ebpf::programs::TcContext;
use datapath_abi::conn::ConnKey;
use datapath_abi::iface::INGRESS;
use datapath_engine::cells::Counter;
use datapath_engine::parse::ETHERNET;
use datapath_engine::{Fate, Seen, locate};

use crate::cells::Word;
use crate::enforce::{CASE, enforce_case_of};
use crate::skb::Skb;

/// Set when the object is loaded.
const LOADER: usize = 1;

/// Connections: packets, bytes, and as much as fills a cache line.
#[btf_map(name = "bench_ct")]
static CT: HashMap<ConnKey, [u64; 8], LOADER, { BPF_F_NO_PREALLOC as usize }> = HashMap::new();

/// Prefix of (cluster, family, address) → (identity, …).
#[btf_map(name = "bench_ipcache")]
static IPCACHE: LpmTrie<[u32; 5], [u32; 4], LOADER> = LpmTrie::new();

/// Prefix of (identity, direction, protocol, port) → rule.
#[btf_map(name = "bench_rules")]
static RULES: LpmTrie<[u32; 2], [u32; 2], LOADER> = LpmTrie::new();

#[repr(C, align(8))]
struct Address {
    length: u32,
    family: u32,
    address: [u64; 2],
}

#[repr(C, align(8))]
struct Rule {
    pad: u32,
    length: u32,
    identity: u32,
    direction: u8,
    protocol: u8,
    port: u16,
}

/// Only what makes each packet another flow, with its key: to be subtracted.
#[classifier]
pub fn bench_located(ctx: TcContext) -> i32 {
    let skb = Skb(ctx.skb.skb);
    let mut seen = Seen { frame: skb.frame(INGRESS, ETHERNET), ..Seen::NONE };
    flow(skb, &mut seen) as i32 ^ i32::from(seen.key.low_port)
}

/// Enforces.
#[classifier]
pub fn bench_enforce(ctx: TcContext) -> i32 {
    let skb = Skb(ctx.skb.skb);
    let Some(case) = CASE.get_ptr_mut(0) else {
        return TC_ACT_UNSPEC;
    };
    // SAFETY: this CPU's own, and benchmarks run one at a time.
    let case = unsafe { &mut *case };
    case.seen = Seen { frame: skb.frame(INGRESS, ETHERNET), ..Seen::NONE };
    if flow(skb, &mut case.seen) == 0 && enforce_case_of(skb, case) == TC_ACT_SHOT {
        return TC_ACT_SHOT;
    }
    TC_ACT_UNSPEC
}

/// The usual way.
#[classifier]
pub fn bench_composite(ctx: TcContext) -> i32 {
    let skb = Skb(ctx.skb.skb);
    let mut seen = Seen { frame: skb.frame(INGRESS, ETHERNET), ..Seen::NONE };
    if flow(skb, &mut seen) != 0 {
        return TC_ACT_UNSPEC;
    }
    match CT.get_ptr(&seen.key) {
        // SAFETY: a value of aligned u64, which the cells are too.
        Some(value) => unsafe {
            let cells = &*value.cast::<[Word<u64>; 8]>();
            cells[0].add(1);
            cells[1].add(u64::from(seen.frame.length));
        },
        None => drop(CT.insert(&seen.key, [0; 8], 0)),
    }
    let identity = identity(&seen);
    let exact = rule(identity, &seen);
    let any = rule(0, &seen);
    if exact | any == 0 { TC_ACT_SHOT } else { TC_ACT_UNSPEC }
}

#[inline(never)]
fn flow(skb: Skb, seen: &mut Seen) -> u32 {
    let skb = Skb(black_box(skb.0));
    if !super::flow(skb, &seen.frame, &mut seen.headers) {
        return black_box(1);
    }
    locate(&skb, seen);
    black_box(0)
}

#[inline(never)]
fn identity(seen: &Seen) -> u32 {
    let source = u128::from_ne_bytes(seen.headers.source);
    let key = Address {
        length: 160,
        family: 0x0100_0000,
        address: [source as u64, (source >> 64) as u64],
    };
    // SAFETY: a map, and a key of its size. What it returns is a value of the map, or null.
    unsafe {
        let map = (&raw const IPCACHE).cast_mut().cast();
        let found = bpf_map_lookup_elem(map, (&raw const key).cast()).cast::<u32>();
        black_box(found.as_ref().copied().unwrap_or(2))
    }
}

#[inline(never)]
fn rule(identity: u32, seen: &Seen) -> u32 {
    let key = Rule {
        pad: 0,
        length: 64,
        identity,
        direction: 0,
        protocol: seen.headers.protocol,
        port: seen.headers.destination_port,
    };
    // SAFETY: as in `identity`; the key begins at `length`.
    unsafe {
        let map = (&raw const RULES).cast_mut().cast();
        let from = (&raw const key).byte_add(core::mem::offset_of!(Rule, length));
        let found = bpf_map_lookup_elem(map, from.cast()).cast::<u32>();
        black_box(found.as_ref().copied().unwrap_or(0))
    }
}
