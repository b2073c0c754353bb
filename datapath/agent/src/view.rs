//! What the agent knows beside the counters: whom addresses belong to, what is behind an interface,
//! names, processes. Rows are written from it; nothing in it counts.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use datapath_abi::conn::{ConnKey, ConnValue, LOW_TO_HIGH, PATH_LOW_INGRESS};
use datapath_abi::service::{NAT_NONE, NAT_SOURCE};

pub(crate) mod directory;
pub(crate) mod identity;
pub(crate) mod ports;
pub(crate) mod role;

use crate::names::Names;
use crate::process::Processes;
use directory::{Directory, PartyKind};
use ports::{Port, Ports};

/// All of it.
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) cluster: Arc<str>,
    pub(crate) node: Arc<str>,
    pub(crate) directory: Directory,
    pub(crate) ports: Ports,
    pub(crate) names: Names,
    pub(crate) processes: Processes,
}

/// A connection's ends as its client sees them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ends {
    pub(crate) source: IpAddr,
    pub(crate) source_port: u16,
    pub(crate) destination: IpAddr,
    pub(crate) destination_port: u16,
    /// Index of the client's direction in the value's arrays.
    pub(crate) out: usize,
    /// The client's packets enter by the interface's ingress hook.
    pub(crate) enters: bool,
}

// === impl View ===

impl View {
    /// A view that knows nothing yet.
    pub(crate) fn new(cluster: &str, node: &str, processes: Processes) -> Self {
        Self {
            cluster: Arc::from(cluster),
            node: Arc::from(node),
            directory: Directory::default(),
            ports: Ports::default(),
            names: Names::default(),
            processes,
        }
    }

    /// Whether what passes several interfaces is to be told of at this one, if it is to be told of
    /// once: next to the client, else next to the server, else wherever it is seen. A client on
    /// another node is that node's to tell of.
    pub(crate) fn tells_of(&self, ends: &Ends, ifindex: u32) -> bool {
        let next_to = |ip: IpAddr| {
            let pods = |port: &Port| port.pods.iter().any(|pod| pod.ips.contains(&ip));
            self.ports.iter().find(|(_, port)| pods(port)).map(|(index, _)| index)
        };
        if let Some(index) = next_to(ends.source) {
            return index == ifindex;
        }
        let client = self.directory.party(ends.source);
        match client.kind {
            PartyKind::Host => true,
            PartyKind::Pod | PartyKind::Node
                if !client.node.is_empty() && client.node != *self.node =>
            {
                false
            }
            _ => next_to(ends.destination).is_none_or(|index| index == ifindex),
        }
    }

    /// Who asks for names under this address: programs of the host may ask from any of its
    /// addresses and connect from another.
    pub(crate) fn client(&self, address: IpAddr) -> IpAddr {
        if self.directory.is_local(address) { IpAddr::V6(Ipv6Addr::UNSPECIFIED) } else { address }
    }
}

// === impl Ends ===

impl Ends {
    pub(crate) fn of(key: &ConnKey, client: u8) -> Self {
        let low = (address(&key.low_addr), key.low_port);
        let high = (address(&key.high_addr), key.high_port);
        let out = usize::from(client) & 1;
        let low_is_client = out == LOW_TO_HIGH;
        let (source, destination) = if low_is_client { (low, high) } else { (high, low) };
        Self {
            source: source.0,
            source_port: source.1,
            destination: destination.0,
            destination_port: destination.1,
            out,
            enters: low_is_client == (key.path() == PATH_LOW_INGRESS),
        }
    }
}

/// A translated connection's ends as its servers see them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reached {
    pub(crate) source: (IpAddr, u16),
    pub(crate) destination: (IpAddr, u16),
    /// The destination was translated: it is a backend.
    pub(crate) balanced: bool,
}

// === impl Reached ===

impl Reached {
    /// None where the connection is not translated.
    pub(crate) fn of(key: &ConnKey, value: &ConnValue) -> Option<Self> {
        let stack = (address(&value.stack_addr), value.stack_port);
        let [from, _] = key.ingress_ends();
        let from = (address(&from.0), value.stack_peer_port);
        match value.nat {
            NAT_NONE => None,
            // What comes in are the server's packets: their destination is the client.
            NAT_SOURCE => Some(Self { source: stack, destination: from, balanced: false }),
            _ => Some(Self { source: from, destination: stack, balanced: value.service != 0 }),
        }
    }
}

/// An address as the datapath holds it.
pub(crate) fn address(bytes: &[u8; 16]) -> IpAddr {
    Ipv6Addr::from(*bytes).to_canonical()
}
