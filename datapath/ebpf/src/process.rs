//! Which process made a socket.

use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::bpf_get_current_comm;
use aya_ebpf::helpers::generated::bpf_get_socket_cookie;
use aya_ebpf::macros::cgroup_sock;
use aya_ebpf::programs::SockContext;
use datapath_abi::process::Process;

use crate::maps;

/// Always allows.
#[cgroup_sock(sock_create)]
pub fn sock_create(ctx: SockContext) -> i32 {
    // SAFETY: the context of a cgroup socket program.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    let process =
        Process { pid: ctx.tgid(), pad: 0, comm: bpf_get_current_comm().unwrap_or_default() };
    // Where it fails, the socket's process stays unknown.
    let _ = maps::SOCKETS.insert(cookie, process, 0);
    1
}
