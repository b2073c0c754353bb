//! Makes packets for the benchmark of the XDP program (`datapath/loader/benches/xdp.rs`): each run restores the frame that the
//! run before has encapsulated, and makes it one of another flow. Without that, all runs but the first would see a packet
//! of protocol 4.

use core::hint::black_box;

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS, XDP_TX};
use aya_ebpf::btf_maps::Array;
use aya_ebpf::helpers::generated::bpf_xdp_adjust_head;
use aya_ebpf::macros::{btf_map, xdp};
use aya_ebpf::programs::XdpContext;
use datapath_engine::flow_cache::hop::{OUTER4, checksum, sum4};

use crate::xdp::{Xdp, forward};

/// Number of the next packet; mask: flows − 1; packets that were sent on.
#[btf_map(name = "bench_xdp")]
static BENCH: Array<[u64; 3], 1> = Array::new();

/// Bytes of the frame: Ethernet, IPv4 and TCP headers, and some data.
const LENGTH: usize = 64;

/// Only restores: to be subtracted.
#[xdp]
pub fn bench_xdp_restore(ctx: XdpContext) -> u32 {
    restore(&ctx)
}

/// The least that could be done: the outer header, always to the same place.
#[xdp]
pub fn bench_xdp_floor(ctx: XdpContext) -> u32 {
    if restore(&ctx) != XDP_PASS {
        return XDP_DROP;
    }
    // SAFETY: the context.
    if unsafe { bpf_xdp_adjust_head(ctx.ctx, -(OUTER4 as i32)) } != 0 {
        return XDP_DROP;
    }
    let frame = ctx.data() as *mut u8;
    if ctx.data() + LENGTH + OUTER4 as usize > ctx.data_end() {
        return XDP_DROP;
    }
    let (source, destination) = (0x0100_0a0au32, 0x0200_0a0au32);
    let first = u32::from_ne_bytes([0x45, 0, 0, LENGTH as u8 - 14 + 20]);
    let sum = u32::from(checksum(sum4(source, destination), first));
    // SAFETY: within the frame by the comparison above.
    unsafe {
        let put = |at: usize, word: u32| frame.add(at).cast::<u32>().write_unaligned(word);
        put(0, 0x0000_0002);
        put(4, 0x0002_0900);
        put(8, 0x0100_0000);
        frame.add(12).cast::<u16>().write_unaligned(8);
        put(14, first);
        put(18, 0x40 << 16);
        put(22, 0x0440 | sum << 16);
        put(26, source);
        put(30, destination);
    }
    sent();
    XDP_TX
}

/// Sends on.
#[xdp]
pub fn bench_xdp_forward(ctx: XdpContext) -> u32 {
    if restore(&ctx) != XDP_PASS {
        return XDP_DROP;
    }
    let answer = forward(Xdp(ctx.ctx));
    if answer == XDP_TX {
        sent();
    }
    answer
}

#[inline(always)]
fn sent() {
    if let Some(bench) = BENCH.get_ptr_mut(0) {
        // SAFETY: one program at a time, on one CPU.
        unsafe { (*bench)[2] += 1 };
    }
}

/// The frame as it was, from 10.9.x.y and another port.
#[inline(never)]
fn restore(ctx: &XdpContext) -> u32 {
    let Some(bench) = BENCH.get_ptr_mut(0) else {
        return black_box(XDP_DROP);
    };
    // SAFETY: the benchmark runs one program at a time, on one CPU.
    let number = unsafe {
        (*bench)[0] += 1;
        (*bench)[0] & (*bench)[1]
    };
    let longer = (ctx.data_end() - ctx.data()) as i32 - LENGTH as i32;
    // Also where it is as long as it was: it costs the same then.
    // SAFETY: the context.
    if unsafe { bpf_xdp_adjust_head(ctx.ctx, longer) } != 0 {
        return black_box(XDP_DROP);
    }
    if ctx.data() + LENGTH > ctx.data_end() {
        return black_box(XDP_DROP);
    }
    // Spread, so that neighbours in time are not neighbours in a table.
    let spread = (number as u32).wrapping_mul(0x9e37_79b1);
    let frame = ctx.data() as *mut u8;
    // SAFETY: within the frame by the comparison above.
    unsafe {
        let put = |at: usize, word: u32| frame.add(at).cast::<u32>().write_unaligned(word);
        put(0, 0x0000_0002);
        put(4, 0x0002_0100);
        put(8, 0x0900_0000);
        frame.add(12).cast::<u16>().write_unaligned(8);
        frame.add(28).cast::<u16>().write_unaligned((spread >> 16) as u16);
        frame.add(34).cast::<u16>().write_unaligned(spread as u16);
    }
    black_box(XDP_PASS)
}
