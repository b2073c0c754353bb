//! What is served, for people and programs.

use std::net::SocketAddr;

use datapath_abi::service::{ALIVE, CHOSEN, CLUSTER_ONLY, DSR, HASHED, LOCAL, RANGED};
use datapath_policy::address;
use serde::{Deserialize, Serialize};

use super::book::{Book, Entry};
use super::desired::PortId;
use crate::control::Endpoint;

/// A port of a service, as it is served on this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServedPort {
    /// Number in the tables.
    pub number: u32,
    /// Namespace of the service (of the pod for a HostPort, of the policy for a redirected address).
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Name of the port; may be empty.
    pub port: String,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// `ClusterIP`, `NodePort`, `LoadBalancer`, `HostPort`; `LocalRedirect` while new connections go to pods of this node
    /// by a policy.
    pub kind: String,
    /// `random` or `maglev`.
    pub algorithm: String,
    /// How backends on other nodes are reached by clients outside: `snat` or `dsr`.
    #[serde(default = "snat")]
    pub forwarding: String,
    /// Why that is not what was asked for.
    #[serde(default)]
    pub obstacles: Vec<String>,
    /// Seconds for which a client keeps its backend; 0 = it does not.
    pub affinity_seconds: u32,
    /// Who may ask from outside, where that is restricted.
    pub source_ranges: Vec<String>,
    /// Addresses that clients use.
    pub frontends: Vec<ServedFrontend>,
    /// Endpoints.
    pub backends: Vec<ServedBackend>,
}

/// An address that clients use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServedFrontend {
    /// Address and port.
    pub address: String,
    /// Only for clients within the cluster.
    pub cluster_only: bool,
    /// Backends for clients within the cluster.
    pub internal: usize,
    /// Backends for clients outside of it.
    pub external: usize,
}

/// An endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServedBackend {
    /// Index in the tables.
    pub index: u32,
    /// Address and port.
    pub address: String,
    /// `active`: gets new connections; `draining`: keeps those that it has.
    pub state: String,
    /// It is on this node.
    pub local: bool,
    /// Its part of new connections, against the others': 100 where nobody says otherwise.
    pub weight: u8,
}

/// How full a table is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableUse {
    /// Its name.
    pub name: String,
    /// Entries in use.
    pub entries: u64,
    /// Entries that it has room for.
    pub capacity: u64,
}

/// All ports, by namespace and name.
pub(crate) fn list(book: &Book) -> Vec<ServedPort> {
    book.ports().iter().filter_map(|(id, entry)| served(id, entry)).collect()
}

/// How full the tables are.
pub(crate) fn uses(book: &Book) -> Vec<TableUse> {
    let uses = book.uses().into_iter();
    uses.map(|(name, entries, capacity)| TableUse { name: name.to_owned(), entries, capacity })
        .collect()
}

fn snat() -> String {
    "snat".to_owned()
}

fn served(id: &PortId, entry: &Entry) -> Option<ServedPort> {
    let port = entry.port.as_ref()?;
    let ranged = port.frontends.values().any(|frontend| frontend.flags & RANGED != 0);
    let hashed = port.frontends.values().any(|frontend| frontend.flags & HASHED != 0);
    let direct = port.frontends.values().any(|frontend| frontend.flags & DSR != 0);
    let shown = port.frontends.iter().filter(|(key, _)| key.port != 0);
    let frontends = shown.map(|(key, frontend)| ServedFrontend {
        address: SocketAddr::new(address(key.address), key.port).to_string(),
        cluster_only: frontend.flags & CLUSTER_ONLY != 0,
        internal: frontend.candidates[0].len(),
        external: frontend.candidates[1].len(),
    });
    let backends = entry.backends.iter().map(|((ip, number), (index, flags))| ServedBackend {
        index: *index,
        address: SocketAddr::new(*ip, *number).to_string(),
        state: match (flags & CHOSEN != 0, flags & ALIVE != 0) {
            (true, _) => "active",
            (_, true) => "draining",
            _ => "gone",
        }
        .to_owned(),
        local: flags & LOCAL != 0,
        weight: port.weights.get(&(*ip, *number)).copied().unwrap_or(Endpoint::WEIGHT),
    });
    Some(ServedPort {
        number: entry.number,
        namespace: id.namespace.clone(),
        name: id.service.clone(),
        port: id.port.clone(),
        protocol: model::Protocol(id.protocol).name().to_string(),
        kind: port.kind.clone(),
        algorithm: if hashed { "maglev" } else { "random" }.to_owned(),
        forwarding: if direct { "dsr".to_owned() } else { snat() },
        obstacles: port.obstacles.clone(),
        affinity_seconds: port.affinity,
        source_ranges: if ranged {
            port.source_ranges.iter().map(ToString::to_string).collect()
        } else {
            Vec::new()
        },
        frontends: frontends.collect(),
        backends: backends.collect(),
    })
}
