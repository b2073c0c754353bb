//! What is pending in a table of the cache, seen through its memory: the sweep need not look where nothing is.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};

use aya_obj::generated::bpf_map_info;

use crate::sys::info;

/// A table's memory.
#[derive(Debug)]
pub(super) struct Pending {
    address: *mut libc::c_void,
    bytes: usize,
    /// Words of an element.
    words: usize,
    /// Those that are 0 where nothing is pending.
    at: [usize; 2],
    _map: OwnedFd,
}

// SAFETY: the memory is only read by atomics, and lives as long as this.
unsafe impl Send for Pending {}
// SAFETY: as above.
unsafe impl Sync for Pending {}

// === impl Pending ===

impl Pending {
    /// Of elements so large, that owe something where one of the words at these offsets is not 0.
    pub(super) fn map(map: OwnedFd, size: usize, at: [usize; 2]) -> io::Result<Self> {
        let count = info::info::<bpf_map_info>(map.as_fd())?.max_entries;
        let bytes = (count as usize * size).next_multiple_of(4096);
        // SAFETY: a new mapping of the map's memory, wherever there is room.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ,
                libc::MAP_SHARED,
                map.as_raw_fd(),
                0,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { address, bytes, words: size / 4, at: at.map(|at| at / 4), _map: map })
    }

    /// Whether one of these elements owes something.
    pub(super) fn is_any(&self, elements: std::ops::Range<usize>) -> bool {
        // SAFETY: so many aligned words are mapped.
        let words =
            unsafe { std::slice::from_raw_parts(self.address.cast::<AtomicU32>(), self.bytes / 4) };
        elements.into_iter().any(|element| {
            self.at.iter().any(|at| {
                let word = words.get(element * self.words + at);
                word.is_some_and(|word| word.load(Ordering::Relaxed) != 0)
            })
        })
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        // SAFETY: what `map` has mapped; references to it cannot outlive this.
        unsafe { libc::munmap(self.address, self.bytes) };
    }
}
