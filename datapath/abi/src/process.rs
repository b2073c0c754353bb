//! Which process made a socket (hook `cgroup/sock_create`).

use crate::layout;

/// Map name: LRU hash of socket cookie (`u64`) → [`Process`].
pub const MAP: &str = "sockets";

layout! {
    /// The process that created a socket.
    pub struct Process {
        /// Process id (thread group) in the initial pid namespace.
        pub pid: u32,
        /// Zero.
        pub pad: u32,
        /// Name of the task, NUL-padded.
        pub comm: [u8; 16],
    } = 24
}
