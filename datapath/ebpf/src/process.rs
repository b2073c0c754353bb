//! Which process made a socket.

use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::generated::{bpf_get_current_comm, bpf_get_socket_cookie};
use aya_ebpf::macros::cgroup_sock;
use aya_ebpf::programs::SockContext;
use datapath_abi::process::Process;

use crate::maps;

/// Always allows.
#[cgroup_sock(sock_create)]
pub fn sock_create(ctx: SockContext) -> i32 {
    // SAFETY: the context of a cgroup socket program.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    // Words, so that the name lies aligned; see `drops`.
    let mut words = [0_u64; size_of::<Process>() / 8];
    // SAFETY: as large as the value and aligned better; all of its fields may be zero.
    let process = unsafe { &mut *(&raw mut words).cast::<Process>() };
    process.pid = ctx.tgid();
    let comm = (&raw mut process.comm).cast();
    // SAFETY: the helper writes at most so many bytes, NUL included. Where it fails, there is none.
    let _ = unsafe { bpf_get_current_comm(comm, size_of_val(&process.comm) as u32) };
    // Where this fails, the socket's process stays unknown.
    let _ = maps::SOCKETS.insert(cookie, &*process, 0);
    1
}
