//! Boots: what the numbers of batches count in.
//!
//! A boot id is the kernel's own (`/proc/sys/kernel/random/boot_id`) and the number of an instance
//! of the pinned maps. The instance is noted in two places: in the map of reported totals, whose
//! life is that of the counters, and in the spool, whose life is that of the batches. Where they
//! agree, the numbers of the batches go on. Where they do not (fresh maps, or another spool), a new
//! boot begins, so that (node, boot, sequence) never names two different batches.

use datapath_abi::reported::{Reported, ReportedKey, TOTALS};

use crate::account::KIND_INSTANCE;

/// Key of the note in the map.
pub(crate) const INSTANCE: ReportedKey = ReportedKey { kind: KIND_INSTANCE, link: 0, ends: 0 };

/// The boot to go on with, if the spool's (`spooled`) is that of the maps (`instance`).
pub(crate) fn same(kernel: &str, spooled: Option<&str>, instance: Option<u64>) -> Option<String> {
    let expected = id(kernel, instance?);
    (spooled == Some(expected.as_str())).then_some(expected)
}

/// The id of an instance.
pub(crate) fn id(kernel: &str, instance: u64) -> String {
    format!("{kernel}-{instance:016x}")
}

/// A number that no instance had.
pub(crate) fn fresh_instance() -> u64 {
    use std::hash::{BuildHasher as _, Hasher as _};
    // The standard library's hasher is keyed from the system's random numbers.
    let mut hasher = std::hash::RandomState::new().build_hasher();
    hasher.write_u128(
        std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |since| since.as_nanos()),
    );
    hasher.finish()
}

/// The note as the map holds it.
pub(crate) fn note(instance: u64) -> Reported {
    Reported { id: instance, batch: 0, seq_was: 0, seq_now: 0, was: [0; TOTALS], now: [0; TOTALS] }
}

/// The kernel's boot id.
///
/// # Errors
/// When `/proc` is not there.
pub(crate) fn kernel_boot_id() -> std::io::Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goes_on_only_where_maps_and_spool_agree() {
        let known = id("k", 7);
        assert_eq!(same("k", Some(&known), Some(7)), Some(known.clone()));
        assert_eq!(same("k", Some(&known), Some(8)), None);
        assert_eq!(same("k", Some(&known), None), None);
        assert_eq!(same("k", None, Some(7)), None);
        assert_eq!(same("after reboot", Some(&known), Some(7)), None);
        assert_ne!(fresh_instance(), fresh_instance());
    }
}
