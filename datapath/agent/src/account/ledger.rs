//! Totals that are no connection's: interfaces, lost events, drops. Reported like connections, by
//! difference to what was committed.

use datapath_abi::policy::DeniedKey;
use datapath_abi::reported::{
    KIND_DENIED, KIND_DROP, KIND_IFACE, KIND_LOST, Reported, ReportedKey, TOTALS,
};
use hashbrown::HashMap;

use super::batch::Batch;
use super::book::{mix, settled};

/// Marks which instance of the pinned maps this is: its `id`. A kind of the agent's own; see
/// [`boot`](crate::boot).
pub(crate) const KIND_INSTANCE: u32 = u32::MAX;

/// Second index of an interface's own counters; its unattributed ones follow.
pub(super) const OWN: u64 = 0;
/// Causes of unattributed frames in one entry (packets and bytes each).
pub(super) const CAUSES_PER_ENTRY: usize = TOTALS / 2;

/// Committed totals.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    committed: HashMap<ReportedKey, [u64; TOTALS]>,
}

// === impl Ledger ===

impl Ledger {
    pub(super) fn set(&mut self, key: ReportedKey, totals: [u64; TOTALS]) {
        self.committed.insert(key, totals);
    }

    pub(super) fn get(&self, key: &ReportedKey) -> Option<&[u64; TOTALS]> {
        self.committed.get(key)
    }

    pub(super) fn remove(&mut self, key: &ReportedKey) {
        self.committed.remove(key);
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &ReportedKey> {
        self.committed.keys()
    }

    /// Enters in `batch` that it brings `key` to `now`; returns what that adds. A total below the
    /// committed one is a counter that began anew (a driver that was reset), and adds itself.
    pub(super) fn stage(
        &self,
        batch: &mut Batch,
        key: ReportedKey,
        now: [u64; TOTALS],
    ) -> [u64; TOTALS] {
        let was = self.committed.get(&key).copied().unwrap_or_default();
        let delta = std::array::from_fn(|i| now[i].checked_sub(was[i]).unwrap_or(now[i]));
        if now != was {
            batch.reported.push((key, Reported { was, now, ..settled(was, 0, 0) }));
            batch.totals.push((key, now));
        }
        delta
    }
}

/// Key of an interface's entry.
pub(super) fn iface(ifindex: u32, part: u64) -> ReportedKey {
    ReportedKey { kind: KIND_IFACE, link: ifindex, ends: part }
}

/// Key of the lost events; its totals are indexed by kind of event.
pub(super) fn lost() -> ReportedKey {
    ReportedKey { kind: KIND_LOST, link: 0, ends: 0 }
}

/// Key of refusals; its totals are packets, bytes, attempts, rows, and the latest packet's time.
pub(super) fn denied(key: &DeniedKey) -> ReportedKey {
    let mut hash = 0;
    for chunk in key.source.chunks_exact(8).chain(key.destination.chunks_exact(8)) {
        hash = mix(hash ^ u64::from_le_bytes(chunk.try_into().expect("chunks of eight")));
    }
    let rest = u64::from(key.origin) << 32
        | u64::from(key.port) << 16
        | u64::from(key.protocol) << 8
        | u64::from(key.hook);
    ReportedKey { kind: KIND_DENIED, link: key.ifindex, ends: mix(hash ^ rest) }
}

/// Key of drops of a reason; its totals are packets and bytes.
pub(super) fn drop(netns: u32, reason: u32) -> ReportedKey {
    ReportedKey { kind: KIND_DROP, link: reason, ends: u64::from(netns) }
}
