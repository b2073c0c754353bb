//! The classes, mapped into this process: a selector's bit changes for all packets at once.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use aya_obj::generated::bpf_map_info;
use datapath_abi::policy::{Class, SELECTORS};

use crate::sys::info;

const WORDS: usize = SELECTORS / 64;

/// The map's memory.
#[derive(Debug)]
pub(super) struct Classes {
    address: *mut libc::c_void,
    bytes: usize,
    count: u32,
    _map: OwnedFd,
}

// SAFETY: the memory is only accessed by atomics, and lives as long as this.
unsafe impl Send for Classes {}
// SAFETY: as above.
unsafe impl Sync for Classes {}

// === impl Classes ===

impl Classes {
    pub(super) fn map(map: OwnedFd) -> io::Result<Self> {
        let count = info::info::<bpf_map_info>(map.as_fd())?.max_entries;
        // The kernel maps whole pages; a class is an eighth of one.
        let bytes = (count as usize * size_of::<Class>()).next_multiple_of(4096);
        // SAFETY: a new mapping of the map's memory, wherever there is room.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                map.as_raw_fd(),
                0,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { address, bytes, count, _map: map })
    }

    fn words(&self) -> &[AtomicU64] {
        let length = self.count as usize * WORDS;
        // SAFETY: so many aligned words are mapped, and nobody accesses them but by whole words.
        unsafe { std::slice::from_raw_parts(self.address.cast::<AtomicU64>(), length) }
    }

    fn class(&self, class: u32) -> Option<&[AtomicU64]> {
        self.words().get(class as usize * WORDS..)?.get(..WORDS)
    }

    pub(super) fn set(&self, class: u32, selector: u32, on: bool) -> bool {
        let word = self.class(class).and_then(|words| words.get(selector as usize / 64));
        let Some(word) = word else {
            return false;
        };
        let bit = 1 << (selector % 64);
        if on {
            word.fetch_or(bit, Ordering::SeqCst);
        } else {
            word.fetch_and(!bit, Ordering::SeqCst);
        }
        true
    }

    pub(super) fn write_word(&self, class: u32, word: u32, bits: u64) -> bool {
        let place = self.class(class).and_then(|words| words.get(word as usize));
        place.map(|place| place.store(bits, Ordering::SeqCst)).is_some()
    }

    pub(super) fn write(&self, class: u32, value: &Class) -> bool {
        let Some(words) = self.class(class) else {
            return false;
        };
        words.iter().zip(&value.bits).for_each(|(word, &bits)| word.store(bits, Ordering::SeqCst));
        true
    }

    pub(super) fn read(&self) -> Vec<Class> {
        let class = |words: &[AtomicU64]| {
            let mut class = Class { bits: [0; WORDS] };
            for (bits, word) in class.bits.iter_mut().zip(words) {
                *bits = word.load(Ordering::SeqCst);
            }
            class
        };
        self.words().chunks(WORDS).map(class).collect()
    }
}

impl Drop for Classes {
    fn drop(&mut self) {
        // SAFETY: what `map` has mapped; references to it cannot outlive this.
        unsafe { libc::munmap(self.address, self.bytes) };
    }
}
