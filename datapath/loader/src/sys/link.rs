//! Links: attachments that live as long as their descriptor or pin.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use super::{Attributes, Command, bpf, bpf_fd};

/// `enum bpf_attach_type`.
pub(crate) const CGROUP_SOCK_CREATE: u32 = 2;
/// See [`CGROUP_SOCK_CREATE`]; in the order of [`SOCKETS`](crate::object::SOCKETS).
pub(crate) const CGROUP_SOCKETS: [u32; 8] = [10, 11, 14, 15, 19, 20, 29, 30];
/// See [`CGROUP_SOCK_CREATE`].
pub(crate) const TCX_INGRESS: u32 = 46;
/// See [`CGROUP_SOCK_CREATE`].
pub(crate) const TCX_EGRESS: u32 = 47;

/// See [`CGROUP_SOCK_CREATE`].
pub(crate) const XDP: u32 = 37;

/// `XDP_FLAGS_DRV_MODE`.
pub(crate) const XDP_NATIVE: u32 = 1 << 2;
/// `XDP_FLAGS_SKB_MODE`.
pub(crate) const XDP_GENERIC: u32 = 1 << 1;

/// Before all others (`BPF_F_BEFORE` without a relative).
pub(crate) const FIRST: u32 = 1 << 3;

#[repr(C)]
struct Create {
    program: u32,
    target: u32,
    attach_type: u32,
    flags: u32,
    relative: u32,
    pad: u32,
    expected_revision: u64,
}

#[repr(C)]
struct Update {
    link: u32,
    new_program: u32,
    flags: u32,
    old_program: u32,
}

#[repr(C)]
struct Detach {
    link: u32,
}

#[repr(C)]
struct RawTracepoint {
    name: u64,
    program: u32,
    pad: u32,
    cookie: u64,
}

// SAFETY: as the trait asks; fields of `BPF_LINK_CREATE` with `tcx`.
unsafe impl Attributes for Create {}
// SAFETY: as the trait asks; fields of `BPF_LINK_UPDATE`.
unsafe impl Attributes for Update {}
// SAFETY: as the trait asks; fields of `BPF_LINK_DETACH`.
unsafe impl Attributes for Detach {}
// SAFETY: as the trait asks; fields of `BPF_RAW_TRACEPOINT_OPEN`.
unsafe impl Attributes for RawTracepoint {}

/// Attaches a program to an interface (by index) or a cgroup (by descriptor).
pub(crate) fn create(
    program: BorrowedFd<'_>,
    target: u32,
    attach_type: u32,
    flags: u32,
) -> io::Result<OwnedFd> {
    let mut attributes = Create {
        program: program.as_raw_fd() as u32,
        target,
        attach_type,
        flags,
        relative: 0,
        pad: 0,
        expected_revision: 0,
    };
    // SAFETY: no addresses.
    unsafe { bpf_fd(Command::LinkCreate, &mut attributes) }
}

/// Attaches a program to a raw tracepoint.
pub(crate) fn raw_tracepoint(
    program: BorrowedFd<'_>,
    name: &std::ffi::CStr,
) -> io::Result<OwnedFd> {
    let mut attributes = RawTracepoint {
        name: name.as_ptr() as u64,
        program: program.as_raw_fd() as u32,
        pad: 0,
        cookie: 0,
    };
    // SAFETY: `name` is NUL-terminated and lives through the call.
    unsafe { bpf_fd(Command::RawTracepoint, &mut attributes) }
}

/// Replaces a link's program: every packet meets the old one or the new one.
pub(crate) fn update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attributes = Update {
        link: link.as_raw_fd() as u32,
        new_program: program.as_raw_fd() as u32,
        flags: 0,
        old_program: 0,
    };
    // SAFETY: no addresses.
    unsafe { bpf(Command::LinkUpdate, &mut attributes) }.map(drop)
}

/// Detaches a link at once, whoever else holds it.
pub(crate) fn detach(link: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: no addresses.
    unsafe { bpf(Command::LinkDetach, &mut Detach { link: link.as_raw_fd() as u32 }) }.map(drop)
}
