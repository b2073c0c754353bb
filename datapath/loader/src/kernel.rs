//! What this kernel is like: its types, symbols, CPUs and clocks.

pub(crate) mod btf;
pub(crate) mod clock;
pub(crate) mod cpus;
pub(crate) mod symbols;
pub(crate) mod types;

/// This kernel's release, as `uname -r` prints it.
pub(crate) fn release() -> String {
    std::fs::read_to_string("/proc/sys/kernel/osrelease")
        .map_or_else(|_| "unknown".to_owned(), |release| release.trim().to_owned())
}
