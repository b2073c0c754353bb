//! The coarse clock's reading beside the fine one, for user space to tell one by the other.

use aya_ebpf::helpers::generated::{bpf_jiffies64, bpf_ktime_get_ns, bpf_skb_store_bytes};
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;

/// Only run by user space: writes (`bpf_ktime_get_ns`, `bpf_jiffies64`) behind the Ethernet header
/// of its test packet.
#[classifier]
pub fn tick(ctx: TcContext) -> i32 {
    // SAFETY: no arguments.
    let now = unsafe { [bpf_ktime_get_ns(), bpf_jiffies64()] };
    // SAFETY: reads 16 bytes of `now`; the packet is the loader's own.
    unsafe { bpf_skb_store_bytes(ctx.skb.skb.cast(), 14, (&raw const now).cast(), 16, 0) as i32 }
}
