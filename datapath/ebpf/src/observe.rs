//! The classifiers that observe: one per hook and kind of device.
//!
//! A device's kind is known when it is attached, so it costs nothing per packet. All of them answer
//! "next": the verdict stays that of whoever else is attached.

use aya_ebpf::bindings::TC_ACT_UNSPEC;
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use datapath_abi::iface::{EGRESS, INGRESS};
use datapath_engine::parse::{ETHERNET, Headers, Unparsed, frame_into};
use datapath_engine::{Frame, Packet, observe_headers, observe_unparsed};

use crate::skb::{Skb, Whole};

/// Ingress of a device with Ethernet headers.
#[classifier]
pub fn observe_ingress(ctx: TcContext) -> i32 {
    observe(Skb(ctx.skb.skb), INGRESS, ETHERNET)
}

/// Egress of a device with Ethernet headers.
#[classifier]
pub fn observe_egress(ctx: TcContext) -> i32 {
    observe(Skb(ctx.skb.skb), EGRESS, ETHERNET)
}

/// Ingress of a device without link header.
#[classifier]
pub fn observe_l3_in(ctx: TcContext) -> i32 {
    observe(Skb(ctx.skb.skb), INGRESS, 0)
}

/// Egress of a device without link header.
#[classifier]
pub fn observe_l3_out(ctx: TcContext) -> i32 {
    observe(Skb(ctx.skb.skb), EGRESS, 0)
}

#[inline(always)]
fn observe(skb: Skb, hook: u32, link_header: u32) -> i32 {
    let frame = skb.frame(hook, link_header);
    let mut headers = Headers::NONE;
    match parse(skb, &frame, &mut headers) {
        Ok(()) => observe_headers(&skb, &frame, &mut headers),
        Err(why) => observe_unparsed(&skb, &frame, why),
    }
    TC_ACT_UNSPEC
}

/// Parses what can be read directly, and only where that is not enough, all of it.
#[inline(always)]
pub(crate) fn parse(skb: Skb, frame: &Frame, headers: &mut Headers) -> Result<(), Unparsed> {
    let linear = skb.linear();
    match parse_from(&linear, frame, headers) {
        Err(Unparsed::Short) if skb.is_paged() => parse_whole(skb, frame, headers),
        parsed => parsed,
    }
}

#[inline(never)]
fn parse_whole(skb: Skb, frame: &Frame, headers: &mut Headers) -> Result<(), Unparsed> {
    parse_from(&Whole(skb), frame, headers)
}

#[inline(always)]
pub(crate) fn parse_from<P: Packet>(
    packet: &P,
    frame: &Frame,
    headers: &mut Headers,
) -> Result<(), Unparsed> {
    frame_into(packet, frame.link_header, frame.ethertype, frame.length, headers)
}
