//! Control: what the cluster consists of, from whoever knows.
//!
//! A [`ControlSource`] publishes whole snapshots; who reads them compares revisions. The first
//! source is a folder of Kubernetes manifests ([`Manifests`]); a watcher of the Kubernetes API is
//! another implementation of the same trait.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use datapath_policy::{CidrGroup, NamedPort, Policy};
use stage::StopToken;
use tokio::sync::watch;

pub(crate) mod applied;
mod document;
mod manifests;
mod objects;
mod redirect;
mod service;
mod workload;

pub use manifests::Manifests;
pub use redirect::{LocalRedirect, RedirectFrontend};
pub use service::{
    Algorithm, Endpoint, EndpointSlice, Forwarding, HostPort, Service, ServicePort, SlicePort,
    Spread, Target,
};

/// Knows the cluster.
#[async_trait::async_trait]
pub trait ControlSource: std::fmt::Debug + Send {
    /// Publishes a snapshot whenever something changed, until `stop`.
    async fn run(self: Box<Self>, publish: watch::Sender<Arc<Snapshot>>, stop: StopToken);
}

/// The cluster at one moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Snapshot {
    /// Grows with every change; 0 is "nothing known yet".
    pub revision: u64,
    /// Pods.
    pub pods: Vec<Pod>,
    /// Labels of namespaces, by name.
    pub namespaces: BTreeMap<String, BTreeMap<String, String>>,
    /// Nodes.
    pub nodes: Vec<Node>,
    /// Services.
    pub services: Vec<Service>,
    /// Endpoint slices.
    pub slices: Vec<EndpointSlice>,
    /// What goes to pods of the client's node.
    pub redirects: Vec<LocalRedirect>,
    /// Policies.
    pub policies: Vec<Policy>,
    /// Named lists of prefixes.
    pub groups: Vec<CidrGroup>,
    /// Documents that were left out.
    pub problems: Vec<Problem>,
}

/// A pod.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// `spec.nodeName`.
    pub node: String,
    /// `status.podIPs`.
    pub ips: Vec<IpAddr>,
    /// It shares the node's addresses.
    pub host_network: bool,
    /// It has ended (`status.phase` Succeeded or Failed): its addresses may be another's.
    pub ended: bool,
    /// The interface that the annotation `weir.io/interface` names; empty without one.
    pub interface: String,
    /// Name of the workload that owns it.
    pub workload: String,
    /// Kind of that workload.
    pub workload_kind: String,
    /// `spec.serviceAccountName`.
    pub service_account: String,
    /// Container ports that have a name.
    pub ports: Vec<NamedPort>,
    /// The annotation `weir.io/audit` says that its policies are only to be tried.
    pub audit: bool,
    /// Ports of its node that lead to it.
    pub host_ports: Vec<HostPort>,
    /// It may get new connections.
    pub ready: bool,
    /// As [`Endpoint::weight`], where it says so itself.
    pub weight: Option<u8>,
}

/// A node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// `status.addresses` that are IP addresses.
    pub addresses: Vec<IpAddr>,
}

/// A document that could not be taken, and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Path of the file.
    pub file: String,
    /// Which document of the file, from 1.
    pub document: usize,
    /// Line of the file, from 1.
    pub line: usize,
    /// What is wrong.
    pub message: String,
}

// === impl Snapshot ===

impl Snapshot {
    /// Addresses of a node, as its Node object says.
    pub(crate) fn addresses_of(&self, node: &str) -> BTreeSet<IpAddr> {
        let known = self.nodes.iter().filter(|known| known.name == node);
        known.flat_map(|known| known.addresses.iter().copied()).collect()
    }

    /// The endpoint slices by namespace and name of their service.
    pub(crate) fn slices_by_service(&self) -> HashMap<(&str, &str), Vec<&EndpointSlice>> {
        let mut found: HashMap<_, Vec<_>> = HashMap::new();
        for slice in &self.slices {
            found
                .entry((slice.namespace.as_str(), slice.service.as_str()))
                .or_default()
                .push(slice);
        }
        found
    }
}

// === impl Pod ===

impl Pod {
    /// `namespace/name`.
    pub fn id(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// Whether it has addresses of its own, and still has them.
    pub(crate) fn is_endpoint(&self) -> bool {
        !self.host_network && !self.ended
    }
}

// === impl Problem ===

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { file, document, line, message } = self;
        match document {
            0 => write!(f, "{file}: {message}"),
            _ => write!(f, "{file}:{line}: document {document}: {message}"),
        }
    }
}
