//! A BPF ring buffer (kernel/bpf/ringbuf.c; Documentation/bpf/ringbuf.rst).
//!
//! Pages: the consumer's position, the producer's position, the data twice in a row, so that a
//! record that wraps around is contiguous. A record is its length (with two flags), the page offset
//! that the kernel uses, and the data, all rounded up to 8 bytes.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use aya_obj::generated::bpf_map_info;

use super::mapping::{Mapping, page};
use crate::sys::info;

/// Reserved, not yet submitted.
const BUSY: u32 = 1 << 31;
/// Given up.
const DISCARDED: u32 = 1 << 30;
const HEADER: usize = 8;

/// Records after which their room is given back.
const RELEASE_AFTER: usize = 256;

/// One ring, and its only reader.
#[derive(Debug)]
pub(super) struct Ring {
    consumer: Mapping,
    producer: Mapping,
    page: usize,
    mask: u64,
}

// === impl Ring ===

impl Ring {
    /// Maps a ring; the descriptor may be closed, for the mapping holds it.
    pub(super) fn open(ring: OwnedFd) -> io::Result<Self> {
        let page = page();
        let size = info::info::<bpf_map_info>(ring.as_fd())?.max_entries as usize;
        Ok(Self {
            consumer: Mapping::new(ring.as_fd(), page, true, 0)?,
            producer: Mapping::new(ring.as_fd(), page + 2 * size, false, page)?,
            page,
            mask: size as u64 - 1,
        })
    }

    /// Shows every submitted record to `on`, up to the first that is still being written.
    pub(super) fn drain(&mut self, on: &mut dyn FnMut(&[u8])) {
        let mut position = self.consumer.number(0).load(Relaxed);
        let mut held = 0;
        while position != self.producer.number(0).load(Acquire) {
            let at = self.page + (position & self.mask) as usize;
            // The header's two words in one load: length and flags are the lower.
            let length = self.producer.number(at).load(Acquire) as u32;
            if length & BUSY != 0 {
                break;
            }
            let bytes = (length & !DISCARDED) as usize;
            if length & DISCARDED == 0 {
                // SAFETY: submitted, and our position has not passed it.
                on(unsafe { self.producer.bytes(at + HEADER, bytes) });
            }
            position += (bytes + HEADER).next_multiple_of(8) as u64;
            held += 1;
            if held == RELEASE_AFTER {
                self.consumer.number(0).store(position, Release);
                held = 0;
            }
        }
        if held != 0 {
            self.consumer.number(0).store(position, Release);
        }
    }
}
