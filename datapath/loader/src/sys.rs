//! The `bpf(2)` commands that aya does not offer: batches, test runs, link updates, inner maps.
//!
//! Each command has its own attribute structure, which is the beginning of the kernel's union
//! (include/uapi/linux/bpf.h, `union bpf_attr`): the kernel takes the rest as zero.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

pub(crate) mod info;
pub(crate) mod link;
pub(crate) mod map;
pub(crate) mod netlink;
pub(crate) mod run;

/// Commands (`enum bpf_cmd`).
#[derive(Debug, Clone, Copy)]
#[repr(u32)]
pub(crate) enum Command {
    MapCreate = 0,
    MapLookup = 1,
    MapUpdate = 2,
    MapDelete = 3,
    MapNextKey = 4,
    Pin = 6,
    Get = 7,
    TestRun = 10,
    ProgramIdToFd = 13,
    MapIdToFd = 14,
    Info = 15,
    RawTracepoint = 17,
    LookupBatch = 24,
    UpdateBatch = 26,
    DeleteBatch = 27,
    LinkCreate = 28,
    LinkUpdate = 29,
    LinkIdToFd = 30,
    LinkDetach = 34,
}

/// Attribute structures: plain data without padding, whose pointers outlive the call.
///
/// # Safety
///
/// Implementors are `repr(C)`, integers only, without padding, and laid out as the kernel expects
/// for the commands they are used with.
pub(crate) unsafe trait Attributes {}

#[repr(C)]
struct Object {
    path: u64,
    fd: u32,
    flags: u32,
}

#[repr(C)]
struct Id {
    id: u32,
    next: u32,
    flags: u32,
}

// SAFETY: as the trait asks; fields of `BPF_OBJ_*`.
unsafe impl Attributes for Object {}
// SAFETY: as the trait asks; fields of `BPF_*_GET_*_ID`.
unsafe impl Attributes for Id {}

/// Runs a command.
///
/// # Safety
///
/// The addresses in `attributes` must be valid for what the command reads and writes.
pub(crate) unsafe fn bpf<A: Attributes>(command: Command, attributes: &mut A) -> io::Result<i64> {
    // SAFETY: the structure is valid for its size; the caller answers for what it points to.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command as u32, std::ptr::from_mut(attributes), size_of::<A>())
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Runs a command that makes a descriptor.
///
/// # Safety
///
/// As [`bpf`], and `command` must be one that returns a new descriptor.
pub(crate) unsafe fn bpf_fd<A: Attributes>(
    command: Command,
    attributes: &mut A,
) -> io::Result<OwnedFd> {
    // SAFETY: passed on to the caller.
    let fd = unsafe { bpf(command, attributes)? };
    // SAFETY: the kernel has just made this descriptor for us (with close-on-exec).
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Opens a pinned map, program or link.
pub(crate) fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    let mut attributes = Object { path: path.as_ptr() as u64, fd: 0, flags: 0 };
    // SAFETY: `path` is NUL-terminated and lives through the call.
    unsafe { bpf_fd(Command::Get, &mut attributes) }
}

/// Pins a map, program or link.
pub(crate) fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    let mut attributes =
        Object { path: path.as_ptr() as u64, fd: object.as_raw_fd() as u32, flags: 0 };
    // SAFETY: as in `open_pin`.
    unsafe { bpf(Command::Pin, &mut attributes) }.map(drop)
}

/// Cookie of this thread's network namespace (`SO_NETNS_COOKIE`, Linux 5.14).
pub(crate) fn netns_cookie() -> io::Result<u64> {
    const SO_NETNS_COOKIE: libc::c_int = 71;
    let socket = std::net::UdpSocket::bind("127.0.0.1:0")
        .or_else(|_| std::net::UdpSocket::bind("[::]:0"))?;
    let mut cookie = 0u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: a descriptor that is open, and a place as large as is said.
    let result = unsafe {
        libc::getsockopt(
            std::os::fd::AsRawFd::as_raw_fd(&socket),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if result == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
}

/// Opens a map by its id (`CAP_SYS_ADMIN`).
pub(crate) fn map_of_id(id: u32) -> io::Result<OwnedFd> {
    // SAFETY: no addresses.
    unsafe { bpf_fd(Command::MapIdToFd, &mut Id { id, next: 0, flags: 0 }) }
}

/// Opens a program by its id (`CAP_SYS_ADMIN`).
pub(crate) fn program_of_id(id: u32) -> io::Result<OwnedFd> {
    // SAFETY: no addresses.
    unsafe { bpf_fd(Command::ProgramIdToFd, &mut Id { id, next: 0, flags: 0 }) }
}

/// Opens a link by its id (`CAP_SYS_ADMIN`).
pub(crate) fn link_of_id(id: u32) -> io::Result<OwnedFd> {
    // SAFETY: no addresses.
    unsafe { bpf_fd(Command::LinkIdToFd, &mut Id { id, next: 0, flags: 0 }) }
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)
}
