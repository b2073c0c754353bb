//! The agent's options, shared by `weir up` and `weir-agent`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;
use datapath_agent as agent;

use crate::size;

mod failsafe;

pub use failsafe::Failsafes;

/// Options of the datapath and of the account.
#[derive(Debug, Clone, clap::Args)]
#[group(id = "node_options")]
pub struct Args {
    /// This node's name; the host's name by default.
    #[arg(long, value_name = "NAME", env = "WEIR_NODE")]
    pub node: Option<String>,
    /// The cluster's name.
    #[arg(long, value_name = "NAME", default_value = "default")]
    pub cluster: String,
    /// What the datapath may do: `observe` never changes a packet, `enforce` applies the network policies of
    /// `--manifests` to the pods here, and to the host where a policy selects it.
    #[arg(long, value_enum, default_value_t = Mode::Observe)]
    pub mode: Mode,
    /// When an endpoint is enforced: as soon as a policy selects it, always, or never.
    #[arg(long, value_enum, value_name = "WHEN", default_value_t = Enforcement::Default)]
    pub policy_enforcement: Enforcement,
    /// Try policies: what they would deny is forwarded, with the verdict AUDIT.
    #[arg(long)]
    pub policy_audit: bool,
    /// What becomes of connections that a new policy would not let through: refused from the next packet
    /// on, or kept until they end.
    #[arg(long, value_enum, value_name = "WHAT", default_value_t = Established::Refuse)]
    pub policy_established: Established,
    /// What the sender of a refused packet is told: nothing, ICMP "administratively prohibited", or for TCP a
    /// reset.
    #[arg(long, value_enum, value_name = "ANSWER", default_value_t = DenyResponse::None)]
    pub deny_response: DenyResponse,
    /// Ports of this host that no policy can close, comma-separated: `in:22/tcp`, `out:53/udp`; `none`. By
    /// default ssh, DHCP, DNS, the Kubernetes API, kubelet and etcd.
    #[arg(long, value_name = "PORTS")]
    pub failsafe_ports: Option<Failsafes>,
    /// Whether services are balanced here (with `--mode enforce`): what pods and clients outside send to them goes to
    /// their backends.
    #[arg(long, value_enum, value_name = "WHETHER", default_value_t = Switch::On)]
    pub services: Switch,
    /// Whose sockets go to a backend at once, by hooks on the cgroup: only the host's, or every process's, pods
    /// included. Their flows cost no translation, but a pod's then show only the backend.
    #[arg(long, value_enum, value_name = "WHOSE", default_value_t = SocketsOf::Host)]
    pub socket_services: SocketsOf,
    /// Whether packets of direct server return to other nodes are sent on by XDP at the host's own interfaces. Where the
    /// driver has none, they are sent on later, by tc.
    #[arg(long, value_enum, value_name = "HOW", default_value_t = Xdp::Off)]
    pub xdp: Xdp,
    /// Flows that may enter XDP's cache of one CPU in a second; packets of others are sent on, and counted as unattributed.
    #[arg(long, value_name = "N", default_value_t = 125_000)]
    pub xdp_new_flows: u32,
    /// How a backend is chosen where the service does not say (annotation `service.cilium.io/lb-algorithm`).
    #[arg(long, value_enum, value_name = "HOW", default_value_t = LbAlgorithm::Random)]
    pub lb_algorithm: LbAlgorithm,
    /// How what clients outside send to a service gets to a backend on another node, where the service does not say
    /// (annotation `service.cilium.io/forwarding-mode`): with this node's address, or encapsulated (IP in IP), so that
    /// the other node answers the client itself. The same on every node, and all of them must be known as Nodes.
    #[arg(long, value_enum, value_name = "HOW", default_value_t = LbMode::Snat)]
    pub lb_mode: LbMode,
    /// Slots of a service's Maglev table: a prime, a hundred times as large as the number of its backends.
    #[arg(long, value_name = "N", default_value_t = 1021, value_parser = maglev_size)]
    pub maglev_table_size: u32,
    /// How established connections to services leave: `direct`, past the host's stack, which decides about each
    /// connection's beginning; or all by the `stack`. With IPsec or routing by fwmark it is the stack in any case.
    #[arg(long, value_enum, value_name = "WAY", default_value_t = Forwarding::Direct)]
    pub forwarding: Forwarding,
    /// Give what pods send to the world this node's address.
    #[arg(long)]
    pub masquerade: bool,
    /// Destinations that pods reach by their own addresses, beside pods and nodes: CIDRs, comma-separated.
    #[arg(long, value_name = "CIDR,…", value_delimiter = ',', requires = "masquerade")]
    pub masquerade_exclude: Vec<agent::Cidr>,
    /// Interfaces to observe: names or patterns with `*`, comma-separated; all by default.
    #[arg(long, value_name = "A,B*", value_delimiter = ',')]
    pub interfaces: Vec<String>,
    /// Folder of Kubernetes manifests (Pods with status.podIP, Services, …) to take names from.
    #[arg(long, value_name = "DIR")]
    pub manifests: Option<PathBuf>,
    /// How often connections that stay open are reported.
    #[arg(long, value_name = "SPAN", default_value = "10s", value_parser = size::duration)]
    pub interval: Duration,
    /// How kernel events travel: `ring` (one ring buffer a CPU) or `perf` (perf event array).
    #[arg(long, value_enum, default_value_t = Transport::Ring)]
    pub event_transport: Transport,
    /// Bytes of the event buffer of each CPU; a power of two.
    #[arg(long, value_name = "SIZE", default_value = "1MiB", value_parser = size::bytes)]
    pub ring_size: u64,
    /// Most connections that are followed at once; kernel memory is about 400 bytes each.
    #[arg(long, value_name = "N", default_value_t = 262_144)]
    pub max_connections: u32,
    /// Most bytes that wait on this node's disk while the relay is away.
    #[arg(long, value_name = "SIZE", default_value = "1GiB", value_parser = size::bytes)]
    pub spool_size: u64,
    /// Where programs and maps are pinned; below the BPF file system by default.
    #[arg(long, value_name = "DIR")]
    pub pin_dir: Option<PathBuf>,
    /// Do not read names from DNS answers.
    #[arg(long)]
    pub no_dns: bool,
    /// Do not report kernel drops.
    #[arg(long)]
    pub no_drops: bool,
    /// Do not look for the processes of local sockets.
    #[arg(long)]
    pub no_processes: bool,
}

/// See DESIGN: modes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// Watch; never drop or change a packet.
    Observe,
    /// Enforce policy.
    Enforce,
}

/// When an endpoint is enforced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Enforcement {
    /// Per direction, as soon as a policy selects it.
    Default,
    /// Always: what no policy allows is denied.
    Always,
    /// Never.
    Never,
}

/// What the sender of a refused packet is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DenyResponse {
    /// Nothing.
    None,
    /// ICMP "administratively prohibited".
    Icmp,
    /// For TCP a reset, else ICMP.
    Reset,
}

/// What becomes of connections that a new policy would not let through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Established {
    /// Their next packet is refused.
    Refuse,
    /// They go on until they end.
    Keep,
}

/// How events travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Transport {
    /// BPF ring buffers.
    Ring,
    /// Perf event array.
    Perf,
}

// === impl Args ===

impl Args {
    /// The agent's configuration; its spool lies below `data`, its gRPC at `socket` and `listen`.
    ///
    /// # Errors
    /// When an option cannot be used here.
    pub fn config(
        &self,
        data: &Path,
        socket: PathBuf,
        listen: Vec<SocketAddr>,
    ) -> Result<agent::Config> {
        let ring_bytes = u32::try_from(self.ring_size)
            .ok()
            .filter(|bytes| bytes.is_power_of_two() && *bytes >= 4096)
            .with_context(|| {
                format!("--ring-size {}: a power of two from 4096 to 2GiB", self.ring_size)
            })?;
        if let Some(dir) = &self.manifests
            && !dir.is_dir()
        {
            bail!("--manifests {}: no such folder", dir.display());
        }
        let node = self.node.clone().unwrap_or_else(hostname);
        let mut config = agent::Config::new(&node, data, self.pin_dir(&node)?);
        config.cluster = self.cluster.clone();
        config.interval = self.interval;
        config.manifests = self.manifests.clone();
        config.spool_bytes = self.spool_size;
        config.max_connections = self.max_connections;
        config.ring_bytes = ring_bytes;
        config.dns = !self.no_dns;
        config.drops = !self.no_drops;
        config.processes = !self.no_processes;
        config.local_socket = Some(agent_socket(&socket));
        config.socket = Some(socket);
        config.listen = listen;
        config.transport = match self.event_transport {
            Transport::Ring => agent::Transport::Ring,
            Transport::Perf => agent::Transport::Perf,
        };
        if !self.interfaces.is_empty() {
            config.interfaces = agent::Interfaces::Named(self.interfaces.clone());
        }
        config.cgroup = cgroup_root();
        config.mode = match self.mode {
            Mode::Observe => agent::Mode::Observe,
            Mode::Enforce => agent::Mode::Enforce,
        };
        config.policy.enforcement = match self.policy_enforcement {
            Enforcement::Default => agent::Enforcement::Default,
            Enforcement::Always => agent::Enforcement::Always,
            Enforcement::Never => agent::Enforcement::Never,
        };
        config.policy.audit = self.policy_audit;
        config.policy.deny_response = match self.deny_response {
            DenyResponse::None => agent::DenyResponse::None,
            DenyResponse::Icmp => agent::DenyResponse::Icmp,
            DenyResponse::Reset => agent::DenyResponse::Reset,
        };
        config.services = agent::services::Options {
            enabled: self.services == Switch::On,
            algorithm: match self.lb_algorithm {
                LbAlgorithm::Random => agent::control::Algorithm::Random,
                LbAlgorithm::Maglev => agent::control::Algorithm::Maglev,
            },
            forwarding: match self.lb_mode {
                LbMode::Snat => agent::control::Forwarding::Snat,
                LbMode::Dsr => agent::control::Forwarding::Dsr,
                LbMode::Hybrid => agent::control::Forwarding::Hybrid,
            },
            maglev_size: self.maglev_table_size,
            sockets: match self.socket_services {
                SocketsOf::Off => agent::services::Sockets::Off,
                SocketsOf::Host => agent::services::Sockets::Host,
                SocketsOf::All => agent::services::Sockets::All,
            },
            direct: self.forwarding == Forwarding::Direct,
            masquerade: self.masquerade,
            xdp: match self.xdp {
                Xdp::Off => agent::services::Xdp::Off,
                Xdp::Native => agent::services::Xdp::Native,
                Xdp::Generic => agent::services::Xdp::Generic,
            },
            xdp_new_per_second: self.xdp_new_flows,
            native: self.masquerade_exclude.clone(),
            ..agent::services::Options::default()
        };
        config.policy.keep_established = self.policy_established == Established::Keep;
        if let Some(ports) = &self.failsafe_ports {
            config.policy.failsafe.clone_from(&ports.0);
        }
        Ok(config)
    }

    /// Where this node's programs and maps are pinned.
    ///
    /// # Errors
    /// When there is no BPF file system and none can be mounted.
    pub fn pin_dir(&self, node: &str) -> Result<PathBuf> {
        match &self.pin_dir {
            Some(dir) => Ok(dir.clone()),
            None => Ok(agent::default_pin_root()
                .context("no BPF file system: `mount -t bpf bpf /sys/fs/bpf`, or choose one with --pin-dir")?
                .join(node)),
        }
    }

    /// The node's name in force.
    pub fn node_name(&self) -> String {
        self.node.clone().unwrap_or_else(hostname)
    }
}

/// On or off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
#[expect(missing_docs, reason = "named by what they do")]
pub enum Switch {
    On,
    Off,
}

/// How established connections leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Forwarding {
    /// By the interface that routing names, at once.
    Direct,
    /// As other packets: through routing and netfilter.
    Stack,
}

/// Whose sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum SocketsOf {
    /// Nobody's: what the host's own processes send to services is not balanced.
    Off,
    /// Those of the agent's network namespace.
    Host,
    /// Those of every process.
    All,
}

/// Which XDP hook.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Xdp {
    /// None.
    Off,
    /// The driver's.
    Native,
    /// The kernel's own, whatever the driver: slow, for tests.
    Generic,
}

/// How a backend is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LbAlgorithm {
    /// By chance.
    Random,
    /// By the connection's hash, the same on all nodes.
    Maglev,
}

/// How what comes from outside gets to a backend on another node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LbMode {
    /// With this node's address: answers come back here.
    Snat,
    /// Encapsulated: the other node answers the client (direct server return).
    Dsr,
    /// TCP as `dsr`, everything else as `snat`.
    Hybrid,
}

fn maglev_size(text: &str) -> Result<u32, String> {
    let sizes = agent::services::maglev::SIZES;
    let size = text.parse().ok().filter(|size| sizes.contains(size));
    size.ok_or_else(|| format!("one of {sizes:?}"))
}

/// The socket for this node's CLI, beside that of the export stream: `agent.sock` beside `hubble.sock`, and
/// `NAME-agent.sock` beside `NAME.sock`.
pub fn agent_socket(hubble: &Path) -> PathBuf {
    match hubble.file_stem().and_then(|stem| stem.to_str()) {
        None | Some("hubble") => hubble.with_file_name("agent.sock"),
        Some(stem) => hubble.with_file_name(format!("{stem}-agent.sock")),
    }
}

/// Where cgroup v2 is mounted (cgroups(7)), for the hook that learns which process makes a socket.
fn cgroup_root() -> Option<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").ok()?;
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (path, kind) = (fields.next()?, fields.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(path))
    })
}

fn hostname() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map(|name| name.trim().to_owned())
        .unwrap_or_else(|_| "localhost".to_owned())
}

/// Says what to do when the process lacks the rights that the datapath needs.
///
/// # Errors
/// When it is not root.
pub fn require_root(command: &str) -> Result<()> {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    bail!("{command} loads eBPF programs and needs root: run it with sudo")
}
