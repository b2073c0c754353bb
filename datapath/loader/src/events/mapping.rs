//! Memory shared with the kernel.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

/// A mapping, unmapped when dropped.
#[derive(Debug)]
pub(super) struct Mapping {
    start: NonNull<u8>,
    length: usize,
}

// SAFETY: plain memory of the process; the methods ask for what sharing needs.
unsafe impl Send for Mapping {}

// === impl Mapping ===

impl Mapping {
    /// Maps a part of a descriptor's memory, shared.
    pub(super) fn new(
        fd: BorrowedFd<'_>,
        length: usize,
        writable: bool,
        offset: usize,
    ) -> io::Result<Self> {
        let protection = libc::PROT_READ | if writable { libc::PROT_WRITE } else { 0 };
        // SAFETY: a new mapping at an address of the kernel's choice.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                length,
                protection,
                libc::MAP_SHARED,
                fd.as_raw_fd(),
                offset as libc::off_t,
            )
        };
        match NonNull::new(start.cast::<u8>()) {
            Some(start) if start.as_ptr().cast() != libc::MAP_FAILED => Ok(Self { start, length }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// A number that the kernel reads or writes too. `at` is a multiple of 8 within the mapping.
    pub(super) fn number(&self, at: usize) -> &AtomicU64 {
        assert!(at.is_multiple_of(8) && at + 8 <= self.length, "number outside the mapping");
        // SAFETY: within the mapping, and aligned; both sides use atomic accesses.
        unsafe { &*self.start.as_ptr().add(at).cast() }
    }

    /// Bytes that the kernel does not write while they are borrowed.
    ///
    /// # Safety
    ///
    /// The part must have been released by the kernel to the reader, who must not have given it
    /// back.
    pub(super) unsafe fn bytes(&self, at: usize, length: usize) -> &[u8] {
        assert!(at.checked_add(length).is_some_and(|end| end <= self.length), "bytes outside");
        // SAFETY: within the mapping; the caller answers for the rest.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr().add(at), length) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped by `new`, with this length; borrows have ended.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.length) };
    }
}

/// Size of a page in bytes.
pub(super) fn page() -> usize {
    // SAFETY: no addresses.
    unsafe { libc::sysconf(libc::_SC_PAGESIZE) as usize }
}
