//! What the kernel says of a map, program or link.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use aya_obj::generated::{bpf_link_info, bpf_map_info, bpf_prog_info};

use super::{Attributes, Command, bpf};

#[repr(C)]
struct InfoOf {
    fd: u32,
    length: u32,
    info: u64,
}

// SAFETY: as the trait asks; fields of `BPF_OBJ_GET_INFO_BY_FD`.
unsafe impl Attributes for InfoOf {}

/// Structures that the kernel fills: every bit pattern is a value.
///
/// # Safety
///
/// Implementors are made of integers and unions of integers.
pub(crate) unsafe trait Info: Copy {}

// SAFETY: integers.
unsafe impl Info for bpf_map_info {}
// SAFETY: integers.
unsafe impl Info for bpf_prog_info {}
// SAFETY: integers, and a union of such.
unsafe impl Info for bpf_link_info {}

/// Asks for what is known of an object; fields newer than the kernel are zero.
pub(crate) fn info<T: Info>(object: BorrowedFd<'_>) -> io::Result<T> {
    // SAFETY: zero is a value of every `Info`.
    let mut info: T = unsafe { std::mem::zeroed() };
    let mut attributes = InfoOf {
        fd: object.as_raw_fd() as u32,
        length: size_of::<T>() as u32,
        info: (&raw mut info) as u64,
    };
    // SAFETY: the kernel writes at most `length` bytes to `info`.
    unsafe { bpf(Command::Info, &mut attributes)? };
    Ok(info)
}

/// A name as the kernel gives it: NUL-terminated unless it fills the field.
pub(crate) fn name(field: &[std::ffi::c_char]) -> String {
    field.iter().take_while(|&&c| c != 0).map(|&c| char::from(c as u8)).collect()
}
