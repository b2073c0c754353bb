//! Direct server return: packets that are encapsulated to a backend on another node, and those that arrive so. Which:
//! `datapath_engine::dsr`.
//!
//! What is forwarded does not go through the stack: coming in with a source of this node's own, it would be taken for
//! forged. The way to the backend is looked up, and the packet handed to the neighbour there.

use core::hint::black_box;
use core::mem::{size_of, zeroed};

use aya_ebpf::bindings::bpf_adj_room_mode::BPF_ADJ_ROOM_MAC;
use aya_ebpf::bindings::{
    BPF_F_ADJ_ROOM_ENCAP_L3_IPV4, BPF_F_ADJ_ROOM_ENCAP_L3_IPV6, BPF_F_ADJ_ROOM_FIXED_GSO,
    BPF_F_RECOMPUTE_CSUM, BPF_FIB_LKUP_RET_FRAG_NEEDED, BPF_FIB_LKUP_RET_NO_NEIGH,
    BPF_FIB_LKUP_RET_SUCCESS, TC_ACT_SHOT, bpf_fib_lookup as Route,
};
use aya_ebpf::btf_maps::PerCpuArray;
use aya_ebpf::helpers::generated::{
    bpf_fib_lookup, bpf_redirect_neigh, bpf_skb_adjust_room, bpf_skb_store_bytes,
};
use aya_ebpf::macros::btf_map;
use datapath_abi::service::{MARK, NODE};
use datapath_engine::dsr::{LEAST, OuterV4, OuterV6, admit, give_back, outer_of};
use datapath_engine::parse::{IPIP, IPV6};
use datapath_engine::{Case, Packet, Seen, Services};

use crate::enforce::CASE;
use crate::service::SERVED;
use crate::skb::{Skb, Whole};

/// The packet is to be forwarded: no verdict of a tc program.
pub(crate) const FORWARD: i32 = 0x100;
/// It is longer than its way takes: neither.
pub(crate) const TOO_BIG: i32 = 0x101;

/// What helpers are given. In a map: on the stack everything would have to be aligned.
#[repr(C, align(8))]
struct Scratch {
    route: Route,
    v4: OuterV4,
    v6: OuterV6,
}

#[btf_map(name = "dsr")]
static SCRATCH: PerCpuArray<Scratch, 1> = PerCpuArray::new();

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// Takes off the packet in [`CASE`] what another node has put around it, if it has. Out of line, and with nothing from
/// the caller but the context, as `enforce::ask` is.
#[inline(never)]
pub(crate) fn arrive(skb: Skb) -> u32 {
    let Some(case) = CASE.get_ptr_mut(0) else {
        return black_box(0);
    };
    // SAFETY: this CPU's own; tc programs run with bottom halves off, so none interrupts another.
    let case = unsafe { &mut *case };
    if !admit(&Whole(skb), &skb, case) {
        return black_box(0);
    }
    // Segments keep their length: what is behind the outer header stays as it is. The kernel's flags that name the
    // protocol within (6.3) say nothing where it is the same.
    let flags = u64::from(BPF_F_ADJ_ROOM_FIXED_GSO);
    // A number for each, not one that depends: the verifier wants it so.
    // SAFETY: a helper on the program's own packet.
    let failed = unsafe {
        if case.seen.headers.version == 4 {
            bpf_skb_adjust_room(skb.0, -20, BPF_ADJ_ROOM_MAC, flags)
        } else {
            bpf_skb_adjust_room(skb.0, -40, BPF_ADJ_ROOM_MAC, flags)
        }
    };
    if failed != 0 {
        black_box(give_back(case));
    }
    black_box(1)
}

/// Sends the packet in [`CASE`] to the backend that its change names. The verdict on it, or [`TOO_BIG`].
#[inline(never)]
pub(crate) fn forward(skb: Skb) -> i32 {
    let Some(case) = CASE.get_ptr_mut(0) else {
        return black_box(TC_ACT_SHOT);
    };
    // SAFETY: as in `arrive`.
    let case = unsafe { &mut *case };
    let interface = black_box(find_way(skb, case));
    if interface == 0 {
        if case.nat.mtu != 0 {
            skb.count(|counters| counters.too_big += 1);
            return black_box(TOO_BIG);
        }
    } else if black_box(encapsulate(skb, case, interface)) != 0 {
        // SAFETY: the context of a tc program, in which this field may be written, and a helper.
        return unsafe {
            (*skb.0).mark |= MARK;
            black_box(bpf_redirect_neigh(interface, core::ptr::null_mut(), 0, 0) as i32)
        };
    }
    skb.count(|counters| counters.no_route += 1);
    black_box(TC_ACT_SHOT)
}

/// The interface by which the backend is reached; 0 without one, or where the packet is longer than the way takes: then
/// `case.nat.mtu` says what it does.
#[inline(never)]
fn find_way(skb: Skb, case: &mut Case) -> u32 {
    // What another packet left there.
    case.nat.mtu = 0;
    let headers = &case.seen.headers;
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else {
        return black_box(0);
    };
    // SAFETY: as in `arrive`; integers all of it.
    let route = unsafe {
        (*scratch).route = zeroed();
        &mut (*scratch).route
    };
    // SAFETY: the context of a tc program.
    let segment = unsafe { (*skb.0).gso_size };
    let payload = if segment == 0 { headers.payload_bytes } else { segment };
    let length = headers.header_bytes + payload + outer_of(headers);
    // What does not fit in any packet is too long for every way.
    let length = if length > 0xffff { 0xffff } else { length };
    route.ifindex = case.seen.frame.ifindex;
    route.__bindgen_anon_1.tot_len = length as u16;
    let to = words(&case.nat.change.address);
    let Some(own) = own(case.seen.frame.ifindex, headers.version) else {
        return black_box(0);
    };
    let own = words(own);
    if headers.version == 4 {
        route.family = AF_INET;
        route.l4_protocol = IPIP;
        route.__bindgen_anon_3.ipv4_src = own[3];
        route.__bindgen_anon_4.ipv4_dst = to[3];
    } else {
        route.family = AF_INET6;
        route.l4_protocol = IPV6;
        route.__bindgen_anon_3.ipv6_src = own;
        route.__bindgen_anon_4.ipv6_dst = to;
    }
    // SAFETY: a helper, and its own structure.
    let found = unsafe {
        bpf_fib_lookup(skb.0.cast(), &raw mut *route, size_of::<Route>() as i32, 0) as u32
    };
    match found {
        BPF_FIB_LKUP_RET_SUCCESS | BPF_FIB_LKUP_RET_NO_NEIGH => black_box(route.ifindex),
        BPF_FIB_LKUP_RET_FRAG_NEEDED => {
            // SAFETY: integers both.
            let mtu = u32::from(unsafe { route.__bindgen_anon_1.mtu_result });
            // Before Linux 5.12 it is what was asked.
            let mtu = if mtu < length { mtu } else { LEAST };
            case.nat.mtu = mtu.saturating_sub(outer_of(&case.seen.headers));
            black_box(0)
        }
        _ => black_box(0),
    }
}

/// The node's address at the interface where the packet goes out, if others know it; else where it came in.
#[inline(always)]
fn source(skb: Skb, seen: &Seen, interface: u32) -> Option<&'static [u8; 16]> {
    let near = own(seen.frame.ifindex, seen.headers.version);
    if interface == seen.frame.ifindex {
        return near;
    }
    match own(interface, seen.headers.version) {
        Some(far) if skb.prefix(far) & NODE != 0 => Some(far),
        _ => near,
    }
}

/// The node's address at an interface.
#[inline(always)]
fn own(interface: u32, version: u8) -> Option<&'static [u8; 16]> {
    let served = SERVED.get_ptr(interface)?;
    // SAFETY: as in `service`.
    let served = unsafe { &*served };
    Some(if version == 4 { &served.v4 } else { &served.v6 })
}

/// Puts an outer header in front of the packet; 0 where it could not be done.
#[inline(never)]
fn encapsulate(skb: Skb, case: &Case, interface: u32) -> u32 {
    let headers = &case.seen.headers;
    let at = headers.network_offset;
    let Some(first) = Whole(skb).load::<4>(at) else {
        return black_box(0);
    };
    let Some(source) = source(skb, &case.seen, interface) else {
        return black_box(0);
    };
    let source = words(source);
    let to = words(&case.nat.change.address);
    let length = headers.header_bytes + headers.payload_bytes;
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else {
        return black_box(0);
    };
    // SAFETY: as in `arrive`.
    let scratch = unsafe { &mut *scratch };
    let fixed = u64::from(BPF_F_ADJ_ROOM_FIXED_GSO);
    let sum = u64::from(BPF_F_RECOMPUTE_CSUM);
    // SAFETY: helpers on the program's own packet, and bytes that are there.
    let done = unsafe {
        if headers.version == 4 {
            scratch.v4 = OuterV4::new(first, length, source[3], to[3]);
            let flags = fixed | u64::from(BPF_F_ADJ_ROOM_ENCAP_L3_IPV4);
            bpf_skb_adjust_room(skb.0, 20, BPF_ADJ_ROOM_MAC, flags) == 0
                && bpf_skb_store_bytes(skb.0, at, scratch.v4.0.as_ptr().cast(), 20, sum) == 0
        } else {
            scratch.v6 = OuterV6::new(first, length, source, to);
            let flags = fixed | u64::from(BPF_F_ADJ_ROOM_ENCAP_L3_IPV6);
            bpf_skb_adjust_room(skb.0, 40, BPF_ADJ_ROOM_MAC, flags) == 0
                && bpf_skb_store_bytes(skb.0, at, scratch.v6.0.as_ptr().cast(), 40, sum) == 0
        }
    };
    black_box(u32::from(done))
}

#[inline(always)]
fn words(address: &[u8; 16]) -> [u32; 4] {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = *address;
    [[a, b, c, d], [e, f, g, h], [i, j, k, l], [m, n, o, p]].map(u32::from_ne_bytes)
}
