//! Network namespaces of this machine, as far as something shows them: a process that is in one, or
//! a name that `ip netns` or a container runtime gave it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

/// Where names of namespaces are kept.
const NAMES: &str = "/run/netns";
const PROCESSES: &str = "/proc";

/// Every namespace, once: its inode, which names it in the kernel, and an open file of it.
pub(super) fn find() -> BTreeMap<u32, File> {
    let mut found = BTreeMap::new();
    for path in named().chain(of_processes()) {
        // A process that ends meanwhile, or is hidden from us, shows nothing.
        let Ok(inode) = fs::metadata(&path).map(|data| data.ino()) else { continue };
        let Ok(inode) = u32::try_from(inode) else { continue };
        if !found.contains_key(&inode)
            && let Ok(file) = File::open(&path)
        {
            found.insert(inode, file);
        }
    }
    found
}

fn named() -> impl Iterator<Item = PathBuf> {
    fs::read_dir(NAMES).into_iter().flatten().flatten().map(|entry| entry.path())
}

fn of_processes() -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(PROCESSES).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_name().as_encoded_bytes().iter().all(u8::is_ascii_digit))
        .map(|entry| entry.path().join("ns/net"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_is_among_them() {
        let own = fs::metadata("/proc/self/ns/net").unwrap().ino();
        assert!(find().contains_key(&u32::try_from(own).unwrap()));
    }
}
