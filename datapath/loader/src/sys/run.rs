//! Running a classifier over a packet of our own.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::{Attributes, Command, bpf};

#[repr(C)]
struct TestRun {
    program: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    ctx_size_in: u32,
    ctx_size_out: u32,
    ctx_in: u64,
    ctx_out: u64,
}

// SAFETY: as the trait asks; fields of `BPF_PROG_TEST_RUN`.
unsafe impl Attributes for TestRun {}

/// What came of a run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ran {
    /// What the last run returned.
    pub(crate) returned: i32,
    /// Mean nanoseconds of a run.
    pub(crate) nanoseconds: u32,
}

/// Runs a classifier `repeat` times; the packet as the last run left it goes to `out`.
pub(crate) fn run(
    program: BorrowedFd<'_>,
    packet: &[u8],
    out: &mut [u8],
    repeat: u32,
) -> io::Result<Ran> {
    let mut attributes = TestRun {
        program: program.as_raw_fd() as u32,
        retval: 0,
        data_size_in: packet.len() as u32,
        data_size_out: out.len() as u32,
        data_in: packet.as_ptr() as u64,
        data_out: if out.is_empty() { 0 } else { out.as_mut_ptr() as u64 },
        repeat,
        duration: 0,
        ctx_size_in: 0,
        ctx_size_out: 0,
        ctx_in: 0,
        ctx_out: 0,
    };
    // SAFETY: the kernel reads `packet` and writes at most `out.len()` bytes to `out`.
    unsafe { bpf(Command::TestRun, &mut attributes)? };
    Ok(Ran { returned: attributes.retval as i32, nanoseconds: attributes.duration })
}
