//! Answers to refused packets; which they get: `datapath_engine::answer`. The refused packet is turned into its answer
//! and goes back to where it came from through the other hook of its interface, which knows it by its mark.

use core::hint::black_box;

use aya_ebpf::bindings::bpf_adj_room_mode::BPF_ADJ_ROOM_MAC;
use aya_ebpf::bindings::{
    BPF_F_INGRESS, BPF_F_INVALIDATE_HASH, BPF_F_RECOMPUTE_CSUM, TC_ACT_SHOT, TC_ACT_UNSPEC,
};
use aya_ebpf::btf_maps::PerCpuArray;
use aya_ebpf::helpers::generated::{
    bpf_redirect, bpf_skb_adjust_room, bpf_skb_change_tail, bpf_skb_store_bytes,
};
use aya_ebpf::macros::btf_map;
use datapath_abi::answer::{AnswerCounters, MARK};
use datapath_abi::iface;
use datapath_abi::policy::{DENY_RESET, DENY_RESPONSE};
use datapath_engine::answer::{Answer, Kind, LONGEST, answer as fill, is_answer, is_due};
use datapath_engine::{Host, Seen};

use crate::enforce::CASE;
use crate::policy;
use crate::skb::{Skb, Whole};

/// Where an answer is put together.
#[btf_map(name = "answer")]
static ANSWER: PerCpuArray<Answer, 1> = PerCpuArray::new();

#[btf_map(name = "answers")]
static ANSWERS: PerCpuArray<AnswerCounters, 1> = PerCpuArray::new();

/// Cut off behind the link header. More than any header there, so the kernel sees that a checksum that was
/// still to be completed by the device is gone, and lets go of it.
const CUT: u32 = 64;

/// Whether the packet is an answer on its way.
#[inline(always)]
pub(crate) fn is_ours(skb: Skb, seen: &Seen) -> bool {
    // SAFETY: the context of a tc program.
    unsafe { (*skb.0).mark == MARK && is_answer(&seen.headers) }
}

/// Lets an answer pass. Coming in it has not been counted by the interface, so it is not here either.
#[inline(always)]
pub(crate) fn arrived(skb: Skb, seen: &Seen) -> i32 {
    // SAFETY: the context of a tc program, in which this field may be written.
    unsafe { (*skb.0).mark = 0 };
    if seen.frame.hook == iface::EGRESS {
        skb.unattributed(&seen.frame, iface::ANSWER);
    }
    TC_ACT_UNSPEC
}

/// What becomes of the refused packet in [`CASE`]. Out of line, and with nothing from the caller but the context, as
/// `enforce::ask` is.
#[inline(never)]
pub(crate) fn answer(skb: Skb) -> i32 {
    let flags = policy::settings().1;
    let (Some(case), Some(answer), Some(counters)) =
        (CASE.get_ptr(0), ANSWER.get_ptr_mut(0), ANSWERS.get_ptr_mut(0))
    else {
        return black_box(TC_ACT_SHOT);
    };
    // SAFETY: this CPU's own; tc programs run with bottom halves off, so none interrupts another.
    let (case, answer, counters) = unsafe { (&*case, &mut *answer, &mut *counters) };
    let seen = &case.seen;
    // SAFETY: the context of a tc program.
    let tagged = unsafe { (*skb.0).vlan_present != 0 };
    let by_service = case.nat.refused != 0;
    let too_big = case.nat.mtu != 0;
    let wanted =
        if by_service { case.nat.silent == 0 } else { too_big || flags & DENY_RESPONSE != 0 };
    let kind = if by_service {
        Kind::UNREACHABLE
    } else if too_big {
        Kind::too_big(case.nat.mtu)
    } else {
        Kind::prohibited(flags & DENY_RESET != 0)
    };
    if !wanted || tagged || !fill(&Whole(skb), seen, kind, answer) {
        return black_box(TC_ACT_SHOT);
    }
    if !is_due(&mut counters.next_ns, skb.now_ns()) {
        counters.limited += 1;
        return black_box(TC_ACT_SHOT);
    }
    if !replace(skb, answer) {
        counters.failed += 1;
        return black_box(TC_ACT_SHOT);
    }
    counters.sent += 1;
    let into = if seen.frame.hook == iface::EGRESS { BPF_F_INGRESS as u64 } else { 0 };
    // SAFETY: as in `arrived`.
    unsafe {
        (*skb.0).mark = MARK;
        black_box(bpf_redirect(seen.frame.ifindex, into) as i32)
    }
}

/// Replaces the packet's bytes. Where it fails half-way, the packet is only good to be dropped.
#[inline(always)]
fn replace(skb: Skb, answer: &Answer) -> bool {
    const ROOM: u32 = LONGEST as u32;
    let flags = u64::from(BPF_F_RECOMPUTE_CSUM | BPF_F_INVALIDATE_HASH);
    let bytes = answer.bytes.as_ptr().cast_mut().cast();
    // SAFETY: helpers on the program's own packet; of the bytes all are read, for the verifier of 6.1 does not follow
    // the bounds of a length.
    unsafe {
        bpf_skb_change_tail(skb.0, ROOM + CUT, 0) == 0
            && bpf_skb_adjust_room(skb.0, -(CUT as i32), BPF_ADJ_ROOM_MAC, 0) == 0
            && bpf_skb_store_bytes(skb.0, 0, bytes, ROOM, flags) == 0
            && bpf_skb_change_tail(skb.0, answer.length, 0) == 0
    }
}
