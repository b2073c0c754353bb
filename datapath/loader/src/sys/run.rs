//! Running a classifier over a packet of our own.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::{Attributes, Command, bpf};

#[repr(C)]
#[derive(Default)]
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
    flags: u32,
    cpu: u32,
    batch_size: u32,
    pad: u32,
}

/// `struct xdp_md`.
#[repr(C)]
struct XdpContext {
    data: u32,
    data_end: u32,
    data_meta: u32,
    ingress_ifindex: u32,
    rx_queue_index: u32,
    egress_ifindex: u32,
}

/// `BPF_F_TEST_RUN_ON_CPU` (Linux 5.10).
const ON_CPU: u32 = 1;

/// `BPF_F_TEST_XDP_LIVE_FRAMES` (Linux 5.18).
const LIVE_FRAMES: u32 = 1 << 1;

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

// === impl XdpContext ===

impl XdpContext {
    /// Of a packet that comes in by an interface.
    fn arriving(packet: &[u8], ifindex: u32) -> Self {
        Self {
            data: 0,
            data_end: packet.len() as u32,
            data_meta: 0,
            ingress_ifindex: ifindex,
            rx_queue_index: 0,
            egress_ifindex: 0,
        }
    }
}

/// Runs a classifier `repeat` times; the packet as the last run left it goes to `out`.
pub(crate) fn run(
    program: BorrowedFd<'_>,
    packet: &[u8],
    out: &mut [u8],
    repeat: u32,
) -> io::Result<Ran> {
    run_with(program, packet, out, repeat, &[])
}

/// As [`run`], an XDP program, over frames that come in by an interface of this network namespace, whose driver's XDP is on.
pub(crate) fn run_at(
    program: BorrowedFd<'_>,
    packet: &[u8],
    out: &mut [u8],
    repeat: u32,
    ifindex: u32,
) -> io::Result<Ran> {
    let context = XdpContext::arriving(packet, ifindex);
    run_with(program, packet, out, repeat, &[context])
}

fn run_with(
    program: BorrowedFd<'_>,
    packet: &[u8],
    out: &mut [u8],
    repeat: u32,
    context: &[XdpContext],
) -> io::Result<Ran> {
    let mut attributes = TestRun {
        program: program.as_raw_fd() as u32,
        data_size_in: packet.len() as u32,
        data_size_out: out.len() as u32,
        data_in: packet.as_ptr() as u64,
        data_out: if out.is_empty() { 0 } else { out.as_mut_ptr() as u64 },
        repeat,
        ctx_size_in: size_of_val(context) as u32,
        ctx_in: if context.is_empty() { 0 } else { context.as_ptr() as u64 },
        ..TestRun::default()
    };
    // SAFETY: the kernel reads `packet` and `context`, and writes at most `out.len()` bytes to `out`.
    unsafe { bpf(Command::TestRun, &mut attributes)? };
    Ok(Ran { returned: attributes.retval as i32, nanoseconds: attributes.duration })
}

/// Runs a raw tracepoint's program on a CPU, with these arguments; what it returned.
pub(crate) fn run_on(program: BorrowedFd<'_>, arguments: &[u64], cpu: u32) -> io::Result<u32> {
    let mut attributes = TestRun {
        program: program.as_raw_fd() as u32,
        ctx_size_in: size_of_val(arguments) as u32,
        ctx_in: arguments.as_ptr() as u64,
        flags: ON_CPU,
        cpu,
        ..TestRun::default()
    };
    // SAFETY: the kernel reads `arguments`.
    unsafe { bpf(Command::TestRun, &mut attributes)? };
    Ok(attributes.retval)
}

/// Runs an XDP program over `repeat` frames that come in by an interface of this network namespace, and lets the kernel
/// do with each what the program says.
pub(crate) fn run_live(
    program: BorrowedFd<'_>,
    packet: &[u8],
    ifindex: u32,
    repeat: u32,
) -> io::Result<()> {
    let context = XdpContext::arriving(packet, ifindex);
    let mut attributes = TestRun {
        program: program.as_raw_fd() as u32,
        data_size_in: packet.len() as u32,
        data_in: packet.as_ptr() as u64,
        repeat,
        ctx_size_in: size_of::<XdpContext>() as u32,
        ctx_in: (&raw const context) as u64,
        flags: LIVE_FRAMES,
        batch_size: 64,
        ..TestRun::default()
    };
    // SAFETY: the kernel reads `packet` and `context`, and writes nothing.
    unsafe { bpf(Command::TestRun, &mut attributes).map(drop) }
}
