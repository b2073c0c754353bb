//! Retiring connections: never attached, only run by user space with a list for its packet.
//!
//! User space can't set one field of a value that the packet path is changing: a map update writes
//! all of it. So a program does.

use aya_ebpf::helpers::generated::bpf_skb_load_bytes;
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use datapath_abi::retire::{DENIED_ZERO, MAX_RECORDS, OFFSET, Record};
use datapath_engine::Host;
use datapath_engine::cells::Cell;

use crate::policy;
use crate::skb::Skb;

/// Packet: [`OFFSET`] bytes that stand for an Ethernet header, then records. Returns how many
/// entries were retired.
#[classifier]
pub fn retire(ctx: TcContext) -> i32 {
    let skb = Skb(ctx.skb.skb);
    let mut retired = 0;
    for index in 0..MAX_RECORDS {
        let Some(record) = record(skb, index, Record::ZERO) else {
            break;
        };
        if let Some(cells) = skb.find(&record.key)
            && cells.id.get() == record.id
        {
            cells.retired.set(1);
            retired += 1;
        }
    }
    retired
}

/// As [`retire`], for what the policy refused: the packet holds keys.
#[classifier]
pub fn retire_denied(ctx: TcContext) -> i32 {
    let skb = Skb(ctx.skb.skb);
    let mut retired = 0;
    for index in 0..MAX_RECORDS {
        let Some(key) = record(skb, index, DENIED_ZERO) else {
            break;
        };
        if let Some(cells) = policy::denied(&key) {
            cells.retired.set(1);
            retired += 1;
        }
    }
    retired
}

#[inline(always)]
fn record<T>(skb: Skb, index: u32, mut record: T) -> Option<T> {
    // SAFETY: the helper writes a record, for which any bytes are a value, or, outside the packet, zeroes and
    // an error.
    let failed = unsafe {
        bpf_skb_load_bytes(
            skb.0.cast_const().cast(),
            OFFSET + index * size_of::<T>() as u32,
            (&raw mut record).cast(),
            size_of::<T>() as u32,
        )
    };
    (failed == 0).then_some(record)
}
