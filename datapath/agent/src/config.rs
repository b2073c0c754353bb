//! How an agent is set up.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

pub use datapath_loader::Transport;

pub use crate::account::Timeouts;

/// Everything that can be set. Where a default is a number, its reason stands beside it.
#[derive(Debug, Clone)]
pub struct Config {
    /// Name of this node; in a cluster, that of its Node object.
    pub node: String,
    /// Name of the cluster; `default` as in Hubble.
    pub cluster: String,
    /// What the datapath may do.
    pub mode: Mode,
    /// How policies are enforced, in mode [`Mode::Enforce`].
    pub policy: datapath_policy::Options,
    /// Which interfaces are observed.
    pub interfaces: Interfaces,
    /// How often everything that moved is reported. 10 s: a byte is on screen within one look,
    /// and a long-lived connection costs six rows a minute.
    pub interval: Duration,
    /// How often new connections and ends are reported. 500 ms: a flow is on screen within a
    /// second of its first packet.
    pub flush: Duration,
    /// When a connection is taken to be over.
    pub timeouts: Timeouts,
    /// Folder of Kubernetes manifests to watch; a host by itself has none.
    pub manifests: Option<PathBuf>,
    /// Folder of the spool, which is made.
    pub data_dir: PathBuf,
    /// Most bytes that wait on disk for a relay. 512 MiB: a day of a quiet node, some hours of a
    /// busy one.
    pub spool_bytes: u64,
    /// Folder on a BPF file system for maps and links, which is made.
    pub pin_dir: PathBuf,
    /// Most connections at once. 262144, as many as `nf_conntrack` takes on a machine with some
    /// memory; 90 MiB of kernel memory.
    pub max_connections: u32,
    /// Bytes of each CPU's event ring, a power of two. 256 KiB: 4096 events, eight times what a
    /// thousand new connections a second leave between two reads.
    pub ring_bytes: u32,
    /// How events come out of the kernel.
    pub transport: Transport,
    /// Whether names are learned from DNS answers on the wire.
    pub dns: bool,
    /// Whether drops anywhere in the kernel are reported.
    pub drops: bool,
    /// Whether connections of this host get a process.
    pub processes: bool,
    /// A cgroup (version 2) whose sockets are known with their process from the start; `None`
    /// leaves it to `/proc`.
    pub cgroup: Option<PathBuf>,
    /// Unix socket to serve gRPC on.
    pub socket: Option<PathBuf>,
    /// How services are served, in [`Mode::Enforce`].
    pub services: crate::services::Options,
    /// Unix socket for the CLI of this node ([`local`](crate::local)); root's alone.
    pub local_socket: Option<PathBuf>,
    /// TCP addresses to serve gRPC on; 4244 is Hubble's port.
    pub listen: Vec<SocketAddr>,
    /// Whether the datapath goes on counting when the agent is told to stop, for the next one to
    /// take over. A killed agent leaves it in any case.
    pub keep_datapath: bool,
    /// How long an agent that stops waits for the relay to take the rest. 2 s: enough for what one
    /// interval brings, and no obstacle to a reboot.
    pub drain: Duration,
    /// The kernel's boot id, for tests; `None` reads it.
    pub boot_id: Option<String>,
}

/// What the datapath may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Mode {
    /// Count, and never change a packet.
    #[default]
    Observe,
    /// Enforce policies on this node's pods, and on the host where a policy selects it.
    Enforce,
}

/// Which interfaces are observed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Interfaces {
    /// Every one that is up and carries IP. A packet that passes several (a pod's, a bridge, the
    /// uplink) has a row at each of them: each is one interface's account, told apart by
    /// `interface` and `reporter`, and each adds up to that interface's own counters.
    #[default]
    All,
    /// Those whose name is one of these; `*` stands for anything.
    Named(Vec<String>),
}

// === impl Config ===

impl Config {
    /// The defaults for a node that keeps its spool in `data_dir` and its maps in `pin_dir`; it
    /// serves nothing yet.
    pub fn new(
        node: impl Into<String>,
        data_dir: impl Into<PathBuf>,
        pin_dir: impl Into<PathBuf>,
    ) -> Self {
        Self {
            node: node.into(),
            cluster: "default".to_owned(),
            mode: Mode::Observe,
            policy: datapath_policy::Options::default(),
            services: crate::services::Options::default(),
            interfaces: Interfaces::All,
            interval: Duration::from_secs(10),
            flush: Duration::from_millis(500),
            timeouts: Timeouts::default(),
            manifests: None,
            data_dir: data_dir.into(),
            spool_bytes: 512 << 20,
            pin_dir: pin_dir.into(),
            max_connections: 262_144,
            ring_bytes: 256 << 10,
            transport: Transport::Ring,
            dns: true,
            drops: true,
            processes: true,
            cgroup: None,
            socket: None,
            local_socket: None,
            listen: Vec::new(),
            keep_datapath: false,
            drain: Duration::from_secs(2),
            boot_id: None,
        }
    }
}

// === impl Mode ===

impl Mode {
    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Observe => "observe",
            Self::Enforce => "enforce",
        }
    }
}

// === impl Interfaces ===

impl Interfaces {
    /// From `a,b` or `veth*`; `all` or nothing is every one.
    pub fn parse(text: &str) -> Self {
        let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
        let names: Vec<_> = names.map(str::to_owned).collect();
        if names.is_empty() || names.iter().any(|name| name == "all" || name == "*") {
            Self::All
        } else {
            Self::Named(names)
        }
    }

    /// Whether an interface of that name is one of them.
    pub fn includes(&self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::Named(patterns) => patterns.iter().any(|pattern| matches(pattern, name)),
        }
    }
}

/// Whether `name` is like `pattern`, in which `*` stands for any characters.
fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((head, tail)) => name.strip_prefix(head).is_some_and(|rest| {
            let mut ends = (0..=rest.len()).filter(|at| rest.is_char_boundary(*at));
            ends.any(|at| matches(tail, &rest[at..]))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_by_name_and_pattern() {
        for (text, name, expected) in [
            ("", "lo", true),
            ("all", "eth0", true),
            ("*", "eth0", true),
            ("eth0,lo", "lo", true),
            ("eth0,lo", "eth1", false),
            ("veth*", "veth12", true),
            ("veth*", "eth0", false),
            (" eth* , lo", "eth1", true),
            ("*.100", "bond0.100", true),
            ("*.100", "bond0.101", false),
            ("v*1*2", "veth102", true),
        ] {
            assert_eq!(Interfaces::parse(text).includes(name), expected, "{text} {name}");
        }
    }
}
