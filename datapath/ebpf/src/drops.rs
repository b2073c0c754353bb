//! Packets that the kernel discarded: tracepoint `skb:kfree_skb`.
//!
//! Raw, not by BTF types: fields are read at offsets that the loader found in the kernel's BTF, so
//! one object serves every kernel.

use core::hint::black_box;

use aya_ebpf::Global;
use aya_ebpf::helpers::generated::{bpf_ktime_get_ns, bpf_probe_read_kernel};
use aya_ebpf::macros::raw_tracepoint;
use aya_ebpf::programs::RawTracePointContext;
use datapath_abi::drops::{DropCounter, DropEvent, DropKey};
use datapath_abi::event;
use datapath_engine::Packet;
use datapath_engine::cells::Counter;
use datapath_engine::parse::{Headers, frame_into};

use crate::cells::{Word, unknown_zero};
use crate::skb::scratch;
use crate::{events, maps};

/// Whether the tracepoint says the reason (kernel ≥ 5.17).
#[unsafe(no_mangle)]
static HAS_REASON: Global<u8> = Global::new(0);
/// Offsets in `sk_buff`, `net_device`, `net`.
#[unsafe(no_mangle)]
static SKB_DEV: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static SKB_IIF: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static SKB_LEN: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static SKB_PROTOCOL: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static SKB_NETWORK_HEADER: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static SKB_HEAD: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static SKB_DATA: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static SKB_TAIL: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static DEV_IFINDEX: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static DEV_NET: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static NET_INUM: Global<u32> = Global::new(0);

/// `SKB_NOT_DROPPED_YET` and `SKB_CONSUMED` (include/net/dropreason-core.h): no drops.
const CONSUMED: u32 = 1;

/// A packet from its network header on, in kernel memory.
struct Kernel {
    start: usize,
    length: u32,
}

/// Counts the drop, and tells user space.
#[raw_tracepoint(tracepoint = "kfree_skb")]
pub fn kfree_skb(ctx: RawTracePointContext) -> i32 {
    let reason = if HAS_REASON.load() != 0 { ctx.arg::<u64>(2) as u32 } else { 0 };
    if HAS_REASON.load() != 0 && reason <= CONSUMED {
        return 0;
    }
    // Cleared as whole words: field by field, LLVM clears `pad` by a store that is not aligned,
    // which the verifier refuses on the stack.
    let mut words = [0_u64; size_of::<DropEvent>() / 8];
    // SAFETY: as large as the event and aligned better; all of its fields may be zero.
    let event = unsafe { &mut *(&raw mut words).cast::<DropEvent>() };
    event.kind = event::DROP;
    event.reason = reason;
    // SAFETY: no arguments.
    event.time_ns = unsafe { bpf_ktime_get_ns() };
    event.location = ctx.arg(1);
    let skb = ctx.arg::<usize>(0);
    device(skb, event);
    packet(skb, event);
    count(event);
    events::drop(&ctx, event);
    0
}

#[inline(always)]
fn device(skb: usize, event: &mut DropEvent) {
    let device: usize = read(skb, &SKB_DEV);
    if device != 0 {
        event.ifindex = read(device, &DEV_IFINDEX);
        let net: usize = read(device, &DEV_NET);
        if net != 0 {
            event.netns = read(net, &NET_INUM);
        }
    }
    if event.ifindex == 0 {
        event.ifindex = read(skb, &SKB_IIF);
    }
}

#[inline(always)]
fn packet(skb: usize, event: &mut DropEvent) {
    let head: usize = read(skb, &SKB_HEAD);
    let data: usize = read(skb, &SKB_DATA);
    let network = head + usize::from(read::<u16>(skb, &SKB_NETWORK_HEADER));
    let tail = head + read::<u32>(skb, &SKB_TAIL) as usize;
    // `len` counts from `data`, which layers above have moved past the network header.
    event.bytes = read::<u32>(skb, &SKB_LEN).wrapping_add(data.wrapping_sub(network) as u32);
    event.ethertype = u16::from_be(read(skb, &SKB_PROTOCOL));
    if network >= tail {
        return;
    }
    let kernel = Kernel { start: network, length: (tail - network) as u32 };
    black_box(ends(&kernel, event));
}

/// Who to whom. Out of line: it needs a stack of its own.
#[inline(never)]
fn ends(kernel: &Kernel, event: &mut DropEvent) -> u32 {
    let mut headers = Headers::NONE;
    if frame_into(kernel, 0, event.ethertype, event.bytes, &mut headers).is_ok() {
        event.source = headers.source;
        event.destination = headers.destination;
        event.source_port = headers.source_port;
        event.destination_port = headers.destination_port;
        event.protocol = headers.protocol;
    }
    black_box(0)
}

#[inline(always)]
fn count(event: &DropEvent) {
    let key = DropKey { netns: event.netns, reason: event.reason };
    if let Some(counter) = maps::DROPS.get_ptr(key) {
        // SAFETY: made of two aligned u64, which the cells are too.
        let counter = unsafe { &*counter.cast::<[Word<u64>; 2]>() };
        counter[0].add(1);
        counter[1].add(u64::from(event.bytes));
        return;
    }
    let first = DropCounter { packets: 1, bytes: u64::from(event.bytes) };
    if maps::DROPS.insert(key, first, 0).is_err() {
        events::lost(event::DROP);
    }
}

/// Reads a field; zero where the memory cannot be read.
#[inline(always)]
fn read<T: Copy + Default>(object: usize, offset: &Global<u32>) -> T {
    let mut value = T::default();
    // SAFETY: the helper checks the address, and writes all of `value` or zeroes.
    unsafe {
        bpf_probe_read_kernel(
            (&raw mut value).cast(),
            size_of::<T>() as u32,
            (object + offset.load() as usize) as *const _,
        )
    };
    value
}

// === impl Kernel ===

impl Packet for Kernel {
    #[inline(always)]
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        if offset + N as u32 > self.length {
            return None;
        }
        let bytes = scratch()?;
        let from = (self.start + offset as usize) as *const _;
        // SAFETY: the helper checks the address, and writes N bytes or zeroes.
        let failed = unsafe { bpf_probe_read_kernel(bytes.cast(), N as u32, from) };
        // SAFETY: N bytes of the scratch, which the helper has just written.
        (failed == 0).then(|| unsafe { bytes.cast::<[u8; N]>().read_unaligned() })
    }

    #[inline(always)]
    fn zero(&self) -> u32 {
        unknown_zero()
    }
}
