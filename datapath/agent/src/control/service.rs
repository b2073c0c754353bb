//! Services and their endpoints.

use std::collections::BTreeMap;
use std::net::IpAddr;

use datapath_policy::Cidr;

/// A service (Kubernetes `v1` Service).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Service {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// `ClusterIP`, `NodePort`, …
    pub kind: String,
    /// Cluster, external and load balancer addresses.
    pub ips: Vec<IpAddr>,
    /// Its ports.
    pub ports: Vec<ServicePort>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Selects its pods; `None` where its endpoints are made by hand.
    pub selector: Option<BTreeMap<String, String>>,
    /// Addresses of its own within the cluster; none for a headless service.
    pub cluster_ips: Vec<IpAddr>,
    /// `spec.externalIPs`.
    pub external_ips: Vec<IpAddr>,
    /// Load balancer addresses whose packets reach the node as they are (`ipMode` VIP).
    pub balancer_ips: Vec<IpAddr>,
    /// Who may use `balancer_ips`; everybody where it is empty.
    pub source_ranges: Vec<Cidr>,
    /// Seconds for which a client keeps its backend; `None` without `sessionAffinity: ClientIP`.
    pub affinity: Option<u32>,
    /// `internalTrafficPolicy: Local`.
    pub internal_local: bool,
    /// `externalTrafficPolicy: Local`.
    pub external_local: bool,
    /// Port of the server that says whether this node has endpoints; 0 without one.
    pub health_port: u16,
    /// Endpoints count whether they are ready or not.
    pub publish_not_ready: bool,
    /// Where its clients' endpoints should be.
    pub spread: Spread,
    /// How a backend is chosen, where the service says so (annotation `service.cilium.io/lb-algorithm`).
    pub algorithm: Option<Algorithm>,
    /// How what goes to a backend on another node gets there, where the service says so (annotation
    /// `service.cilium.io/forwarding-mode`).
    pub forwarding: Option<Forwarding>,
    /// It is another's to serve (label `service.kubernetes.io/service-proxy-name`), or nobody's (`ExternalName`).
    pub foreign: bool,
}

/// Where endpoints should be, seen from the client (`trafficDistribution`, `service.kubernetes.io/topology-mode`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Spread {
    /// Anywhere.
    #[default]
    Cluster,
    /// As the hints of the slices say.
    Hints,
}

/// How a backend is chosen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Algorithm {
    /// By chance.
    #[default]
    Random,
    /// By the connection's hash, the same on all nodes.
    Maglev,
}

/// How what a client from outside sends gets to a backend on another node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Forwarding {
    /// With this node's address, so that answers come back here.
    #[default]
    Snat,
    /// Encapsulated, and the other node answers the client (direct server return).
    Dsr,
    /// TCP by the latter, everything else by the former.
    Hybrid,
}

/// A port of a service.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServicePort {
    /// Its name; empty where there is only one.
    pub name: String,
    /// IP protocol number.
    pub protocol: u8,
    /// The port clients use.
    pub port: u16,
    /// The port on every node; 0 without one.
    pub node_port: u16,
    /// The endpoints' port, where they are derived from pods.
    pub target: Target,
}

/// `targetPort`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Target {
    /// The same as the service's.
    #[default]
    Same,
    /// A number.
    Number(u16),
    /// The name of a container's port.
    Name(String),
}

/// Backends of a service.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EndpointSlice {
    /// Its namespace.
    pub namespace: String,
    /// The service it belongs to.
    pub service: String,
    /// The backends.
    pub endpoints: Vec<Endpoint>,
    /// Their ports, with the names by which the service's ports find them.
    pub ports: Vec<SlicePort>,
}

/// A port of a slice.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SlicePort {
    /// Name of the service's port.
    pub name: String,
    /// IP protocol number.
    pub protocol: u8,
    /// The backends' port.
    pub port: u16,
}

/// A backend of a slice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Its addresses are those of one backend.
    pub addresses: Vec<IpAddr>,
    /// It may get new connections.
    pub ready: bool,
    /// It would, were it not terminating.
    pub serving: bool,
    /// It is on its way out.
    pub terminating: bool,
    /// Its node; empty where that is unknown.
    pub node: String,
    /// Zones whose clients should use it; empty without hints.
    pub for_zones: Vec<String>,
    /// Nodes whose clients should use it.
    pub for_nodes: Vec<String>,
    /// Its part of new connections, against the others'; 0: none, and what it has goes on (annotation
    /// `weir.io/lb-weight` of its slice or pod).
    pub weight: u8,
}

/// A port of a pod that its node takes too.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostPort {
    /// The one address of the node; `None`: all of them.
    pub ip: Option<IpAddr>,
    /// The node's port.
    pub port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// The pod's port.
    pub container_port: u16,
}

// === impl Service ===

impl Service {
    /// `namespace/name`.
    pub fn id(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

// === impl EndpointSlice ===

impl EndpointSlice {
    /// Addresses of the backends.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.endpoints.iter().flat_map(|endpoint| endpoint.addresses.iter().copied())
    }
}

// === impl Endpoint ===

impl Endpoint {
    /// Weight of one that nobody gave one.
    pub const WEIGHT: u8 = 100;
}

impl Default for Endpoint {
    /// What the Kubernetes API makes of an endpoint without conditions.
    fn default() -> Self {
        Self {
            addresses: Vec::new(),
            ready: true,
            serving: true,
            terminating: false,
            node: String::new(),
            for_zones: Vec::new(),
            for_nodes: Vec::new(),
            weight: Self::WEIGHT,
        }
    }
}
