//! Translated packets that leave without the stack; which: `datapath_engine::forward`.

use core::hint::black_box;
use core::mem::size_of;

use aya_ebpf::bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC, bpf_fib_lookup as Lookup};
use aya_ebpf::btf_maps::PerCpuArray;
use aya_ebpf::helpers::generated::{bpf_fib_lookup, bpf_redirect};
use aya_ebpf::macros::btf_map;
use datapath_engine::cells::Hop;
use datapath_engine::forward::{fits, is_allowed};
use datapath_engine::parse::ETHERNET;
use datapath_engine::rewrite::Edit;
use datapath_engine::{Change, Host, Packet, Seen};

use crate::skb::{Skb, Whole};

/// What routing is asked, and answers.
#[btf_map(name = "route")]
static ROUTE: PerCpuArray<[u64; 8], 1> = PerCpuArray::new();
const _: () = assert!(size_of::<Lookup>() == size_of::<[u64; 8]>());

/// `AF_INET`, `AF_INET6` and `PACKET_HOST` of Linux.
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const PACKET_HOST: u32 = 0;
/// The smallest MTU that IPv4 allows (RFC 791). A kernel that does not tell one (before 5.12) leaves what was asked for.
const LEAST_MTU: u16 = 68;

/// The verdict on a packet that has been rewritten. Out of line: it needs a stack of its own.
#[inline(never)]
pub(crate) fn forward(skb: Skb, seen: &Seen, change: &Change) -> i32 {
    // SAFETY: the context of a tc program.
    let (kind, tagged, segment) =
        unsafe { ((*skb.0).pkt_type, (*skb.0).vlan_present, (*skb.0).gso_size) };
    let hop = &change.hop;
    let usual = (kind == PACKET_HOST) & (tagged == 0);
    if !usual || !fits(&seen.frame, seen.headers.header_bytes, segment, hop) {
        return black_box(TC_ACT_UNSPEC);
    }
    match count_hop(skb, seen.headers.version) {
        GONE_ON => {}
        STACK => return black_box(TC_ACT_UNSPEC),
        _ => return black_box(TC_ACT_SHOT),
    }
    if !skb.store(0, &hop.macs) {
        return black_box(TC_ACT_SHOT);
    }
    // SAFETY: no pointers.
    black_box(unsafe { bpf_redirect(hop.ifindex, 0) } as i32)
}

const GONE_ON: u32 = 0;
const STACK: u32 = 1;
const FAILED: u32 = 2;

/// One hop less to live (RFC 1812, 5.3.1): where none is left, the stack says so to the sender.
#[inline(always)]
fn count_hop(skb: Skb, version: u8) -> u32 {
    let stored = if version == 4 {
        let Some([ttl, protocol, a, b]) = Whole(skb).load::<4>(ETHERNET + 8) else {
            return STACK;
        };
        if ttl <= 1 {
            return STACK;
        }
        // The header's sum grows as the word's upper byte shrinks (RFC 1624).
        let sum = u32::from(a) << 8 | u32::from(b);
        let sum = sum + 0x100;
        let sum = (sum & 0xffff) + (sum >> 16);
        skb.store(ETHERNET + 8, &[ttl - 1, protocol, (sum >> 8) as u8, sum as u8])
    } else {
        let Some([limit]) = Whole(skb).load::<1>(ETHERNET + 7) else {
            return STACK;
        };
        if limit <= 1 {
            return STACK;
        }
        skb.store(ETHERNET + 7, &[limit - 1])
    };
    if stored { GONE_ON } else { FAILED }
}

/// Looks up where packets like this one, which has been rewritten, leave. It goes by the stack itself. Out of line: it
/// needs a stack of its own.
#[inline(never)]
pub(crate) fn look(skb: Skb, seen: &Seen, change: &Change) -> u32 {
    let Some(cells) = skb.find(&seen.key) else {
        return black_box(0);
    };
    cells.set_hop(&Hop::NONE);
    if !is_allowed(&skb, seen.frame.ifindex) {
        return black_box(0);
    }
    let Some(route) = ROUTE.get_ptr_mut(0) else {
        return black_box(0);
    };
    // SAFETY: this CPU's own, of the structure's size (asserted above), and all numbers.
    let asked = unsafe {
        *route = [0; 8];
        &mut *route.cast::<Lookup>()
    };
    asked.ifindex = seen.frame.ifindex;
    asked.l4_protocol = seen.headers.protocol;
    asked.sport = change.peer_port.to_be();
    asked.dport = change.port.to_be();
    // Without a length an old kernel would not say what fits.
    asked.__bindgen_anon_1.tot_len = 1;
    if seen.headers.version == 4 {
        asked.family = AF_INET;
        asked.__bindgen_anon_3.ipv4_src = last(&seen.headers.source);
        asked.__bindgen_anon_4.ipv4_dst = last(&change.address);
    } else {
        asked.family = AF_INET6;
        asked.__bindgen_anon_3.ipv6_src = words(&seen.headers.source);
        asked.__bindgen_anon_4.ipv6_dst = words(&change.address);
    }
    // SAFETY: a helper on the program's own packet, and a structure of the size that it is told.
    let found =
        unsafe { bpf_fib_lookup(skb.0.cast(), &raw mut *asked, size_of::<Lookup>() as i32, 0) };
    // SAFETY: both are a u16.
    let mtu = unsafe { asked.__bindgen_anon_1.mtu_result };
    // Meanwhile another packet may have been sent to another backend.
    let still = u128::from_ne_bytes(cells.stack_addr()) == u128::from_ne_bytes(change.address);
    if found == 0 && mtu >= LEAST_MTU && still {
        let ([a, b, c, d, e, f], [g, h, i, j, k, l]) = (asked.dmac, asked.smac);
        let macs = [a, b, c, d, e, f, g, h, i, j, k, l];
        cells.set_hop(&Hop { ifindex: asked.ifindex, macs, mtu });
    }
    black_box(0)
}

#[inline(always)]
fn last(address: &[u8; 16]) -> u32 {
    u32::from_ne_bytes([address[12], address[13], address[14], address[15]])
}

#[inline(always)]
fn words(address: &[u8; 16]) -> [u32; 4] {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = *address;
    [[a, b, c, d], [e, f, g, h], [i, j, k, l], [m, n, o, p]].map(u32::from_ne_bytes)
}
