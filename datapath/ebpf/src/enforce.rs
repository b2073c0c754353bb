//! The classifiers that enforce: those of `observe` and the policy. Programs of their own, so that one
//! that observes cannot drop anything.

use core::hint::black_box;

use aya_ebpf::bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC};
use aya_ebpf::btf_maps::PerCpuArray;
use aya_ebpf::macros::{btf_map, classifier};
use aya_ebpf::programs::TcContext;
use datapath_abi::iface::{EGRESS, INGRESS};
use datapath_abi::service::NAT_DSR;
use datapath_engine::dsr::is_encapsulated;
use datapath_engine::parse::{ETHERNET, Unparsed};
use datapath_engine::{Case, Fate, Seen, enforce_case, enforce_unparsed, locate, pass_known};

use crate::answer;
use crate::dsr;
use crate::forward;
use crate::observe::parse_from;
use crate::rewrite::rewrite;
use crate::skb::{Skb, Whole};

/// The packet that is being judged.
#[btf_map(name = "case")]
pub(crate) static CASE: PerCpuArray<Case, 1> = PerCpuArray::new();

/// Ingress of a device with Ethernet headers.
#[classifier]
pub fn enforce_ingress(ctx: TcContext) -> i32 {
    enforce(Skb(ctx.skb.skb), INGRESS, ETHERNET)
}

/// Egress of a device with Ethernet headers.
#[classifier]
pub fn enforce_egress(ctx: TcContext) -> i32 {
    enforce(Skb(ctx.skb.skb), EGRESS, ETHERNET)
}

/// Ingress of a device without link header.
#[classifier]
pub fn enforce_l3_in(ctx: TcContext) -> i32 {
    enforce(Skb(ctx.skb.skb), INGRESS, 0)
}

/// Egress of a device without link header.
#[classifier]
pub fn enforce_l3_out(ctx: TcContext) -> i32 {
    enforce(Skb(ctx.skb.skb), EGRESS, 0)
}

#[inline(always)]
fn enforce(skb: Skb, hook: u32, link_header: u32) -> i32 {
    let Some(case) = CASE.get_ptr_mut(0) else {
        return TC_ACT_SHOT;
    };
    // SAFETY: this CPU's own; tc programs run with bottom halves off, so none interrupts another.
    let case = unsafe { &mut *case };
    let seen = &mut case.seen;
    *seen = Seen { frame: skb.frame(hook, link_header), ..Seen::NONE };
    let parsed = match linear(skb, seen) {
        Err(Unparsed::Short) if skb.is_paged() => whole(skb, seen),
        parsed => parsed,
    };
    match parsed {
        Ok(()) if answer::is_ours(skb, seen) => answer::arrived(skb, seen),
        Ok(()) => {
            if is_encapsulated(seen) {
                black_box(dsr::arrive(skb));
            }
            enforce_case_of(skb, case)
        }
        Err(why) => match enforce_unparsed(&skb, &seen.frame, why) {
            Fate::Refuse => TC_ACT_SHOT,
            _ => TC_ACT_UNSPEC,
        },
    }
}

/// Parses what can be read directly. Out of line, as [`whole`] is: what it keeps on the stack is not there
/// while the policy is asked.
#[inline(never)]
fn linear(skb: Skb, seen: &mut Seen) -> Result<(), Unparsed> {
    // Otherwise LLVM has the caller load the packet's ends and hand them over as numbers.
    let skb = Skb(black_box(skb.0));
    parse_from(&skb.linear(), &seen.frame, &mut seen.headers)?;
    locate(&skb, seen);
    Ok(())
}

/// As [`linear`], all of the packet.
#[inline(never)]
fn whole(skb: Skb, seen: &mut Seen) -> Result<(), Unparsed> {
    parse_from(&Whole(skb), &seen.frame, &mut seen.headers)?;
    locate(&skb, seen);
    Ok(())
}

/// By the verdict that stands, or else by asking for one.
#[inline(always)]
pub(crate) fn enforce_case_of(skb: Skb, case: &mut Case) -> i32 {
    match pass_known(&skb, &mut case.seen, &mut case.nat.change) {
        Some(Fate::Change) => return changed(skb),
        Some(_) => return TC_ACT_UNSPEC,
        None => {}
    }
    match ask(skb) {
        PASS => TC_ACT_UNSPEC,
        CHANGE => changed(skb),
        _ => answer::answer(skb),
    }
}

/// What becomes of a packet that is changed.
#[inline(always)]
fn changed(skb: Skb) -> i32 {
    let verdict = change(skb);
    if verdict == dsr::FORWARD {
        return match dsr::forward(skb) {
            dsr::TOO_BIG => answer::answer(skb),
            verdict => verdict,
        };
    }
    verdict
}

const PASS: u32 = 0;
const REFUSE: u32 = 1;
const CHANGE: u32 = 2;

/// Judges the packet in [`CASE`]. Out of line, and with nothing from the caller but the
/// context: so the verifier goes through it once and not for every way that leads here.
#[inline(never)]
fn ask(skb: Skb) -> u32 {
    let Some(case) = CASE.get_ptr_mut(0) else {
        return black_box(REFUSE);
    };
    // SAFETY: as in `enforce`.
    black_box(match enforce_case(&Whole(skb), &skb, unsafe { &mut *case }) {
        Fate::Pass => PASS,
        Fate::Refuse => REFUSE,
        Fate::Change => CHANGE,
    })
}

/// The packet in [`CASE`] passes, changed.
#[inline(never)]
fn change(skb: Skb) -> i32 {
    let Some(case) = CASE.get_ptr(0) else {
        return black_box(TC_ACT_SHOT);
    };
    // SAFETY: as in `enforce`.
    let (seen, change) = unsafe { (&(*case).seen, &(*case).nat.change) };
    if change.kind == u32::from(NAT_DSR) {
        return black_box(dsr::FORWARD);
    }
    let verdict = black_box(rewrite(skb, seen, change));
    if verdict != TC_ACT_UNSPEC {
        return black_box(verdict);
    }
    if change.hop.ifindex != 0 {
        return black_box(forward::forward(skb, seen, change));
    }
    if change.look != 0 {
        black_box(forward::look(skb, seen, change));
    }
    black_box(verdict)
}
