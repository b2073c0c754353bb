//! What the datapath is asked to be.

use std::path::PathBuf;

use crate::{Acceleration, Error, PolicySizes, ServiceSizes};

/// How events reach user space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// A BPF ring buffer per CPU.
    Ring,
    /// A perf event array.
    Perf,
}

/// What the datapath is asked to be.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where maps and links are pinned: a directory on a bpf file system; it is created.
    pub pin_dir: PathBuf,
    /// Room in the connection table. An entry takes some 350 bytes of kernel memory, in advance.
    pub max_connections: u32,
    /// Size of each CPU's ring or perf buffer in bytes: a power of two, at least a page.
    pub ring_bytes: u32,
    /// How events reach user space.
    pub transport: Transport,
    /// Whether DNS answers become events.
    pub dns: bool,
    /// Whether packets that the kernel drops are counted and become events.
    pub drops: bool,
    /// A cgroup (version 2): who makes a socket within it is remembered.
    pub cgroup: Option<PathBuf>,
    /// Room for policy, where interfaces may be attached in [`Mode::Enforce`](crate::Mode). Without, the tables
    /// that an earlier process has pinned are kept as they are.
    pub policy: Option<PolicySizes>,
    /// Room for services, likewise: they are served where [`Mode::Enforce`](crate::Mode) is.
    pub services: Option<ServiceSizes>,
    /// A cgroup (version 2) whose sockets go to a service's backend at once.
    pub socket_services: Option<SocketServices>,
    /// XDP where [`Datapath::accelerate`](crate::Datapath::accelerate) says so.
    pub xdp: Option<Acceleration>,
}

/// Whose sockets go to a service's backend at once, so that none of their packets is translated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketServices {
    /// Sockets of the processes in this cgroup (version 2).
    pub cgroup: PathBuf,
    /// Only those of the network namespace of the thread that loads the datapath: the host's. The pods' packets are
    /// translated, and their flows show both what was asked and what was reached.
    pub own_namespace: bool,
}

// === impl Options ===

impl Options {
    pub(crate) fn check(&self) -> Result<(), Error> {
        if !self.ring_bytes.is_power_of_two() || !(4096..=1 << 30).contains(&self.ring_bytes) {
            return Err(Error::Option {
                option: "ring_bytes",
                why: format!("{} is no power of two from 4096 to 2^30", self.ring_bytes),
            });
        }
        // 1 << 26 entries would take 23 GB.
        if !(1..=1 << 26).contains(&self.max_connections) {
            return Err(Error::Option {
                option: "max_connections",
                why: format!("{} is not within 1 and 2^26", self.max_connections),
            });
        }
        self.xdp.map_or(Ok(()), |xdp| xdp.check())
    }
}
