//! What of ours is in the kernel.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use aya_obj::generated::{bpf_map_info, bpf_prog_info};

use crate::sys::info;

/// A map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MapInfo {
    /// Its name.
    pub name: String,
    /// The kernel's number for it.
    pub id: u32,
    /// Its type, as bpftool names it.
    pub kind: &'static str,
    /// Bytes of a key.
    pub key_size: u32,
    /// Bytes of a value (of each CPU, for a per-CPU map).
    pub value_size: u32,
    /// Its room.
    pub max_entries: u32,
    /// Kernel memory that it takes, in bytes, as the kernel reckons; 0 where it does not say.
    pub memory_bytes: u64,
}

/// A program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProgramInfo {
    /// Its name.
    pub name: String,
    /// The kernel's number for it.
    pub id: u32,
    /// Hash of its instructions, hexadecimal.
    pub tag: String,
    /// Its length in instructions, after the verifier removed the dead ones.
    pub instructions: u32,
    /// Instructions that the verifier looked at (kernel ≥ 5.16, else 0); a million is the limit.
    pub verified: u32,
    /// Bytes of machine code.
    pub jited_bytes: u32,
    /// How often it ran, and nanoseconds it took, while `kernel.bpf_stats_enabled` was on.
    pub runs: u64,
    /// See `runs`.
    pub run_ns: u64,
}

/// Looks at a map.
pub(crate) fn map(fd: BorrowedFd<'_>) -> io::Result<MapInfo> {
    let found: bpf_map_info = info::info(fd)?;
    Ok(MapInfo {
        name: info::name(&found.name),
        id: found.id,
        kind: kind(found.type_),
        key_size: found.key_size,
        value_size: found.value_size,
        max_entries: found.max_entries,
        memory_bytes: memory(fd).unwrap_or(0),
    })
}

/// Looks at programs.
pub(crate) fn programs(fds: &BTreeMap<&'static str, OwnedFd>) -> Vec<ProgramInfo> {
    fds.iter()
        .filter_map(|(name, fd)| {
            let found: bpf_prog_info = info::info(fd.as_fd()).ok()?;
            Some(ProgramInfo {
                name: (*name).to_owned(),
                id: found.id,
                tag: found.tag.iter().map(|byte| format!("{byte:02x}")).collect(),
                instructions: found.xlated_prog_len / 8,
                verified: found.verified_insns,
                jited_bytes: found.jited_prog_len,
                runs: found.run_cnt,
                run_ns: found.run_time_ns,
            })
        })
        .collect()
}

fn memory(fd: BorrowedFd<'_>) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd())).ok()?;
    text.lines().find_map(|line| line.strip_prefix("memlock:"))?.trim().parse().ok()
}

fn kind(number: u32) -> &'static str {
    match number {
        1 => "hash",
        2 => "array",
        4 => "perf_event_array",
        5 => "percpu_hash",
        6 => "percpu_array",
        9 => "lru_hash",
        12 => "array_of_maps",
        27 => "ringbuf",
        _ => "other",
    }
}
