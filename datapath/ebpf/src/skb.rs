//! A packet at a tc hook: its bytes, and the engine's host.

use core::arch::asm;
use core::hint::black_box;

use aya_ebpf::bindings::{__sk_buff, BPF_NOEXIST};
use aya_ebpf::helpers::generated::{
    bpf_get_socket_cookie, bpf_jiffies64, bpf_ktime_get_ns, bpf_skb_load_bytes,
};
use datapath_abi::conn::{ConnKey, ConnValue};
use datapath_abi::fragment::{FragmentKey, FragmentPorts};
use datapath_abi::iface::{CAUSES, IfaceKey};
use datapath_engine::cells::{ConnCells, Counter};
use datapath_engine::parse::MAX_EXTENSIONS;
use datapath_engine::{Frame, Host, Packet, Refusal};

use crate::cells::{Bpf, Word, unknown_zero};
use crate::{events, maps};

const E2BIG: i32 = -7;
const ENOMEM: i32 = -12;
const EEXIST: i32 = -17;

/// No header ends further in than this mask: link, network and the longest extension headers.
const MASK: u32 = 0x7fff;
const _: () = assert!(22 + 40 + (MAX_EXTENSIONS + 1) * 2048 + 60 < MASK);

/// A packet at a tc hook.
#[derive(Clone, Copy)]
pub(crate) struct Skb(pub(crate) *mut __sk_buff);

/// What of a packet lies in its linear part: read without a helper call.
pub(crate) struct Linear {
    start: usize,
    end: usize,
}

/// All of a packet: a helper call per read.
pub(crate) struct Whole(pub(crate) Skb);

// === impl Skb ===

impl Skb {
    /// The frame's facts, at a hook of a device with this link header.
    #[inline(always)]
    pub(crate) fn frame(self, hook: u32, link_header: u32) -> Frame {
        // SAFETY: the context of a tc program; the verifier rewrites these loads.
        let skb = unsafe { &*self.0 };
        Frame {
            ifindex: skb.ifindex,
            hook,
            length: skb.len,
            segments: skb.gso_segs,
            link_header,
            ethertype: u16::from_be(skb.protocol as u16),
            outer: 0,
        }
    }

    /// The part that can be read without a helper call.
    #[inline(always)]
    pub(crate) fn linear(self) -> Linear {
        // SAFETY: as in `frame`.
        let skb = unsafe { &*self.0 };
        Linear { start: skb.data as usize, end: skb.data_end as usize }
    }

    /// Whether there is more than the linear part.
    #[inline(always)]
    pub(crate) fn is_paged(self) -> bool {
        let Linear { start, end } = self.linear();
        // SAFETY: as in `frame`.
        let length = unsafe { (*self.0).len };
        (end.wrapping_sub(start) as u32) < length
    }
}

impl Host for Skb {
    type Shared = Bpf;

    #[inline(always)]
    fn jiffies(&self) -> u64 {
        // SAFETY: no arguments.
        unsafe { bpf_jiffies64() }
    }

    #[inline(always)]
    fn now_ns(&self) -> u64 {
        // SAFETY: no arguments.
        unsafe { bpf_ktime_get_ns() }
    }

    #[inline(always)]
    fn cookie(&self) -> u64 {
        // SAFETY: the context of a tc program.
        unsafe { bpf_get_socket_cookie(self.0.cast()) }
    }

    #[inline(always)]
    fn find(&self, key: &ConnKey) -> Option<&ConnCells<Bpf>> {
        let () = ConnCells::<Bpf>::SAME_LAYOUT;
        let value = maps::CONNECTIONS.get_ptr(key)?;
        // SAFETY: the map's values have the cells' layout (asserted above), live until the program
        // ends (preallocated; at worst reused, which an RCU grace period before deletion rules
        // out), and are accessed through cells only.
        Some(unsafe { &*value.cast::<ConnCells<Bpf>>() })
    }

    #[inline(always)]
    fn insert(&self, key: &ConnKey, fill: impl FnOnce(&mut ConnValue)) -> Result<(), Refusal> {
        let scratch = maps::NEW_CONNECTION.get_ptr_mut(0).ok_or(Refusal::Memory)?;
        // SAFETY: this CPU's own; tc programs run with bottom halves off, so none interrupts another.
        let value = unsafe { &mut *scratch };
        *value = ConnValue::ZERO;
        fill(value);
        maps::CONNECTIONS.insert(key, &*value, u64::from(BPF_NOEXIST)).map_err(refusal)
    }

    #[inline(always)]
    fn unattributed(&self, frame: &Frame, cause: usize) {
        let what = u64::from(frame.ifindex) << 32 | u64::from(frame.hook) << 16 | cause as u64;
        black_box(unattributed(what, 1, u64::from(frame.length)));
    }

    #[inline(always)]
    fn put_fragment(&self, key: &FragmentKey, ports: FragmentPorts) {
        // Where it fails, the later fragments count with ports 0.
        let _ = maps::FRAGMENTS.insert(key, ports, 0);
    }

    #[inline(always)]
    fn fragment(&self, key: &FragmentKey) -> Option<FragmentPorts> {
        // SAFETY: copied at once; at worst, ports of another datagram whose entry took its place.
        unsafe { maps::FRAGMENTS.get(key).copied() }
    }

    #[inline(always)]
    fn event(&self, kind: u32, detail: u32, time_ns: u64, id: u64, key: &ConnKey) {
        let what = u64::from(detail) << 32 | u64::from(kind);
        black_box(events::connection(*self, key, what, time_ns, id));
    }

    #[inline(always)]
    fn dns(&self, id: u64, key: &ConnKey, offset: u32, length: u32) {
        if maps::DNS.load() != 0 {
            black_box(events::names(*self, key, id, offset, length));
        }
    }
}

/// What an insertion that failed means.
#[inline(always)]
pub(crate) fn refusal(error: i32) -> Refusal {
    match error {
        EEXIST => Refusal::Exists,
        E2BIG => Refusal::Full,
        ENOMEM => Refusal::Memory,
        _ => Refusal::Busy,
    }
}

/// `what`: interface, hook and cause, 32, 16 and 16 bits. Out of line: it is rare, and called from several places. Why it
/// returns a number: see `Done` in the engine.
#[inline(never)]
pub(crate) fn unattributed(what: u64, packets: u64, bytes: u64) -> u32 {
    let key = IfaceKey { ifindex: (what >> 32) as u32, hook: (what >> 16) as u32 & 0xffff };
    let cause = (what & 0xffff) as usize;
    if let Some(counters) = maps::INTERFACES.get_ptr_mut(key)
        && cause < CAUSES
    {
        // SAFETY: within the value, and made of u64, which the cells are too.
        let count = unsafe { &*(&raw const (*counters).causes[cause]).cast::<[Word<u64>; 2]>() };
        count[0].add(packets);
        count[1].add(bytes);
    }
    black_box(0)
}

/// Room for the bytes that a helper fetches. Not on the stack: fields of headers are unaligned
/// there, which the verifier refuses on the stack alone.
#[inline(always)]
pub(crate) fn scratch() -> Option<*mut u8> {
    maps::BYTES.get_ptr_mut(0).map(|bytes| bytes.cast())
}

/// The offset as it is, with bounds that the verifier sees. By hand: LLVM compares one copy of a number
/// and uses another, and would leave out a mask that cannot change anything.
#[inline(always)]
fn within_headers(offset: u32) -> usize {
    let mut offset = u64::from(offset);
    // SAFETY: changes the register that it is given.
    unsafe {
        asm!("{offset} &= {mask}", offset = inout(reg) offset, mask = const MASK,
            options(pure, nomem, nostack));
    }
    offset as usize
}

// === impl Linear ===

impl Packet for Linear {
    #[inline(always)]
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        let at = self.start + within_headers(offset);
        if at + N > self.end {
            return None;
        }
        // SAFETY: within the packet's linear part by the comparison, which the verifier checks.
        Some(unsafe { (at as *const [u8; N]).read_unaligned() })
    }

    #[inline(always)]
    fn zero(&self) -> u32 {
        unknown_zero()
    }
}

// === impl Whole ===

impl Packet for Whole {
    #[inline(always)]
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        let bytes = scratch()?;
        // SAFETY: the helper writes N bytes, or none and an error.
        let failed = unsafe {
            bpf_skb_load_bytes(self.0.0.cast_const().cast(), offset, bytes.cast(), N as u32)
        };
        // SAFETY: N bytes of the scratch, which the helper has just written.
        (failed == 0).then(|| unsafe { bytes.cast::<[u8; N]>().read_unaligned() })
    }

    #[inline(always)]
    fn zero(&self) -> u32 {
        unknown_zero()
    }
}
