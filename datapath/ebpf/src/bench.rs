//! Programs that only the benchmark runs (`datapath/loader/benches/observe.rs`): the one under test
//! sees another flow each time it is run, because a packet repeated is one flow and all in cache.

use aya_ebpf::bindings::TC_ACT_UNSPEC;
use aya_ebpf::btf_maps::Array;
use aya_ebpf::macros::{btf_map, classifier};
use aya_ebpf::programs::TcContext;
use datapath_abi::conn::ConnKey;
use datapath_abi::event;
use datapath_abi::iface::INGRESS;
use datapath_engine::cells::Counter;
use datapath_engine::parse::{ETHERNET, Headers};
use datapath_engine::{Frame, Host, key, observe_headers};

use crate::observe::parse;
use crate::skb::Skb;

mod policy;
mod services;
mod xdp;

/// Number of the next packet, and mask: flows − 1, flows being a power of two.
#[btf_map(name = "bench")]
static BENCH: Array<[u64; 2], 1> = Array::new();

/// Does nothing.
#[classifier]
pub fn bench_empty(_: TcContext) -> i32 {
    TC_ACT_UNSPEC
}

/// Only what makes each packet another flow: to be subtracted.
#[classifier]
pub fn bench_flow(ctx: TcContext) -> i32 {
    let skb = Skb(ctx.skb.skb);
    let frame = skb.frame(INGRESS, ETHERNET);
    let mut headers = Headers::NONE;
    flow(skb, &frame, &mut headers);
    i32::from(headers.source_port) ^ i32::from(headers.source[15])
}

/// The least that could be done: find the connection and count.
#[classifier]
pub fn bench_floor(ctx: TcContext) -> i32 {
    let skb = Skb(ctx.skb.skb);
    let frame = skb.frame(INGRESS, ETHERNET);
    let mut headers = Headers::NONE;
    if flow(skb, &frame, &mut headers) {
        let (key, direction) = key::of(&frame, &headers);
        if let Some(cells) = skb.find(&key) {
            cells.dirs[direction].packets.add(1);
            cells.dirs[direction].bytes.add(u64::from(frame.length));
        }
    }
    TC_ACT_UNSPEC
}

/// Observes.
#[classifier]
pub fn bench_observe(ctx: TcContext) -> i32 {
    let skb = Skb(ctx.skb.skb);
    let frame = skb.frame(INGRESS, ETHERNET);
    let mut headers = Headers::NONE;
    if flow(skb, &frame, &mut headers) {
        observe_headers(&skb, &frame, &mut headers);
    }
    TC_ACT_UNSPEC
}

/// One event a packet.
#[classifier]
pub fn bench_event(ctx: TcContext) -> i32 {
    const KEY: ConnKey =
        ConnKey { low_addr: [0; 16], high_addr: [0; 16], low_port: 0, high_port: 0, link: 0 };
    Skb(ctx.skb.skb).event(event::STATE, 0, 0, 0, &KEY);
    TC_ACT_UNSPEC
}

/// The test packet, as the next flow: 16 bits of its number in the port, the rest in the address.
#[inline(always)]
fn flow(skb: Skb, frame: &Frame, headers: &mut Headers) -> bool {
    let Some(bench) = BENCH.get_ptr_mut(0) else {
        return false;
    };
    // SAFETY: the benchmark runs one program at a time, on one CPU.
    let number = unsafe {
        (*bench)[0] += 1;
        (*bench)[0] & (*bench)[1]
    };
    if parse(skb, frame, headers).is_err() {
        return false;
    }
    // Spread, so that neighbours in time are not neighbours in the table.
    let number = (number as u32).wrapping_mul(0x9e37_79b1);
    headers.source_port = number as u16;
    let [_, _, c, d] = (number >> 16).to_be_bytes();
    headers.source[14] = c;
    headers.source[15] = d;
    true
}
