//! Packets that get another source or destination; how: `datapath_engine::rewrite`.

use core::hint::black_box;

use aya_ebpf::bindings::{
    BPF_F_INVALIDATE_HASH, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR, TC_ACT_SHOT, TC_ACT_UNSPEC,
};
use aya_ebpf::helpers::generated::{bpf_l3_csum_replace, bpf_l4_csum_replace, bpf_skb_store_bytes};
use datapath_abi::iface;
use datapath_abi::service::{MARK, NAT_OUTSIDE};
use datapath_engine::rewrite::{Edit, rewrite as write};
use datapath_engine::{Change, Seen, Services};

use crate::skb::Skb;

/// `BPF_F_IPV6` (Linux 6.16): the addresses are no part of the packet's own sum over all of it. Kernels without
/// it refuse the flag.
const IPV6: u64 = 1 << 7;

/// The verdict on a packet that passes changed. Out of line: it needs a stack of its own.
#[inline(never)]
pub(crate) fn rewrite(skb: Skb, seen: &Seen, change: &Change) -> i32 {
    // SAFETY: the context of a tc program, in which this field may be written.
    unsafe {
        if seen.frame.hook == iface::EGRESS {
            (*skb.0).mark &= !MARK;
        } else if change.kind == u32::from(NAT_OUTSIDE) {
            (*skb.0).mark |= MARK;
        }
    }
    if write(&skb, seen, change) {
        return black_box(TC_ACT_UNSPEC);
    }
    skb.count(|counters| counters.failed += 1);
    black_box(TC_ACT_SHOT)
}

// === impl Skb ===

impl Edit for Skb {
    #[inline(always)]
    fn store<const N: usize>(&self, offset: u32, bytes: &[u8; N]) -> bool {
        let flags = u64::from(BPF_F_INVALIDATE_HASH);
        // SAFETY: a helper on the program's own packet, and bytes that are there.
        unsafe { bpf_skb_store_bytes(self.0, offset, bytes.as_ptr().cast(), N as u32, flags) == 0 }
    }

    #[inline(always)]
    fn network_sum(&self, offset: u32, old: u32, new: u32) -> bool {
        // SAFETY: a helper on the program's own packet.
        unsafe { bpf_l3_csum_replace(self.0, offset, u64::from(old), u64::from(new), 4) == 0 }
    }

    #[inline(always)]
    fn pseudo_sum(&self, offset: u32, difference: u32, is_v6: bool, may_be_none: bool) -> bool {
        let flags = u64::from(BPF_F_PSEUDO_HDR) | mangled(may_be_none);
        let replace = |flags| {
            // SAFETY: as above.
            unsafe { bpf_l4_csum_replace(self.0, offset, 0, u64::from(difference), flags) == 0 }
        };
        (is_v6 && replace(flags | IPV6)) || replace(flags)
    }

    #[inline(always)]
    fn covered_sum(&self, offset: u32, difference: u32) -> bool {
        // SAFETY: as above.
        unsafe { bpf_l4_csum_replace(self.0, offset, 0, u64::from(difference), 0) == 0 }
    }

    #[inline(always)]
    fn transport_sum(&self, offset: u32, old: u32, new: u32, may_be_none: bool) -> bool {
        let flags = 4 | mangled(may_be_none);
        // SAFETY: as above.
        unsafe { bpf_l4_csum_replace(self.0, offset, u64::from(old), u64::from(new), flags) == 0 }
    }
}

#[inline(always)]
fn mangled(may_be_none: bool) -> u64 {
    if may_be_none { u64::from(BPF_F_MARK_MANGLED_0) } else { 0 }
}
