//! The machine as the agent's network namespace shows it: interfaces, addresses, routes.
//!
//! All by route netlink, because a netlink socket belongs to the namespace of the thread that made
//! it; `/sys/class/net` belongs to whoever mounted it.

use std::io;
use std::net::IpAddr;

mod detour;
mod message;
mod namespaces;
mod netlink;

pub(crate) use netlink::Netlink;

/// An interface (`RTM_NEWLINK`).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Link {
    pub index: u32,
    pub name: String,
    /// `veth`, `bridge`, …; empty for physical ones and loopback.
    pub kind: String,
    /// ARP hardware type: 1 Ethernet, 772 loopback, 65534 none.
    pub hardware: u16,
    pub up: bool,
    pub loopback: bool,
    /// The other end's network namespace, by the number that this one has for it
    /// (`IFLA_LINK_NETNSID`).
    pub peer_netns: Option<i32>,
    pub stats: LinkStats,
}

/// An interface's own counters (`struct rtnl_link_stats64`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct LinkStats {
    pub rx_packets: u64,
    pub rx_bytes: u64,
    pub tx_packets: u64,
    pub tx_bytes: u64,
    pub rx_dropped: u64,
    pub tx_dropped: u64,
}

/// What happened to the interfaces since the last look.
#[derive(Debug, Clone, Default)]
pub(crate) struct Changes {
    /// Something about links, addresses or routes is different.
    pub any: bool,
    /// Interfaces that are gone, with their final counters.
    pub removed: Vec<Link>,
}

/// Where the kernel would send a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Route {
    /// By this interface.
    pub ifindex: u32,
    /// Through a router and not directly.
    pub gateway: bool,
    /// To this machine itself.
    pub local: bool,
}

/// The machine.
pub(crate) trait Host: std::fmt::Debug + Send {
    /// The interfaces, with their counters now.
    fn links(&mut self) -> io::Result<Vec<Link>>;
    /// The counters of one interface now; `None` when it is gone.
    fn stats(&mut self, index: u32) -> io::Result<Option<LinkStats>>;
    /// What changed, without waiting.
    fn changes(&mut self) -> io::Result<Changes>;
    /// Addresses of the interfaces.
    fn addresses(&mut self) -> io::Result<Vec<(u32, IpAddr)>>;
    /// The route to an address; `None` when there is none.
    fn route(&mut self, to: IpAddr) -> io::Result<Option<Route>>;
    /// Other network namespaces: the number that this one has for each, and its inode.
    fn namespaces(&mut self) -> io::Result<Vec<(i32, u32)>>;
}

// === impl Link ===

impl Link {
    /// Whether the datapath can observe it: Ethernet, loopback, or bare IP (tunnels, tun).
    pub(crate) fn observable(&self) -> bool {
        const ETHER: u16 = 1;
        const LOOPBACK: u16 = 772;
        const NONE: u16 = 65534;
        matches!(self.hardware, ETHER | LOOPBACK | NONE)
    }
}
