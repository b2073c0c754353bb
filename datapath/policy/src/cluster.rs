//! What policies are about: endpoints, nodes, namespaces, services, and what was chosen for the
//! agent. Plain data; the compiler and the naive evaluator both start from it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::document::{Policy, PolicyKey};
use crate::group::CidrGroup;
use crate::selector::Subject;

/// The state of the cluster as one agent knows it.
#[derive(Debug, Clone, Default)]
pub struct Cluster {
    /// Policies.
    pub policies: BTreeMap<PolicyKey, std::sync::Arc<Policy>>,
    /// CIDR groups by name.
    pub groups: BTreeMap<String, CidrGroup>,
    /// Endpoints, local and remote, by an identifier of the caller's choice (`namespace/name`).
    pub endpoints: BTreeMap<String, Endpoint>,
    /// Nodes by name.
    pub nodes: BTreeMap<String, Node>,
    /// Labels of namespaces.
    pub namespaces: BTreeMap<String, Labels>,
    /// Services by `namespace/name`.
    pub services: BTreeMap<String, Service>,
    /// Addresses of the API server.
    pub api_servers: BTreeSet<IpAddr>,
    /// What was chosen for the agent.
    pub options: Options,
}

/// Labels by name.
pub type Labels = BTreeMap<String, String>;

/// A pod, or another endpoint that is managed. Pods in the host's network are no endpoints: their
/// traffic is the node's.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Endpoint {
    /// What it is.
    pub kind: EndpointKind,
    /// Its namespace; empty for what has none.
    pub namespace: String,
    /// Its labels.
    pub labels: Labels,
    /// Name of its service account; empty where unknown.
    pub service_account: String,
    /// Its addresses.
    pub addresses: BTreeSet<IpAddr>,
    /// Named container ports.
    pub ports: Vec<NamedPort>,
    /// Index of its host-side interface; None: it is on another node.
    pub interface: Option<u32>,
    /// In audit mode (annotation `weir.io/audit: "true"`).
    pub audit: bool,
}

/// Kinds of endpoints.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum EndpointKind {
    /// A pod with known labels.
    #[default]
    Pod,
    /// Labels not known yet: denied both ways unless a policy selects `reserved:init`.
    Init,
    /// Health endpoint.
    Health,
    /// Source of Ingress and Gateway traffic.
    Ingress,
    /// A pod that is not managed.
    Unmanaged,
}

/// A container port with a name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NamedPort {
    /// Its name.
    pub name: String,
    /// IP protocol number: 6, 17 or 132.
    pub protocol: u8,
    /// Its number.
    pub port: u16,
}

/// A node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Node {
    /// Its labels.
    pub labels: Labels,
    /// Its addresses, those in the pod network included.
    pub addresses: BTreeSet<IpAddr>,
    /// The node that the agent runs on.
    pub this: bool,
    /// This node's interfaces that host policies are enforced on.
    pub interfaces: BTreeSet<u32>,
    /// Host policies in audit mode.
    pub audit: bool,
}

/// A service, for `toServices`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Service {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: Labels,
    /// Selects its pods; None: its endpoints are made by hand.
    pub selector: Option<Labels>,
    /// Addresses of its endpoints, where it has no selector.
    pub addresses: BTreeSet<IpAddr>,
}

/// What was chosen for the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// When an endpoint is enforced.
    pub enforcement: Enforcement,
    /// This node always reaches its own pods, unless a rule denies it (kubelet's probes).
    pub allow_localhost: bool,
    /// Audit mode for all.
    pub audit: bool,
    /// What the sender of a refused packet is told.
    pub deny_response: DenyResponse,
    /// Connections that an earlier revision let through go on, whatever the present one says of them.
    pub keep_established: bool,
    /// Ports of the host that no host policy can close.
    pub failsafe: Vec<Failsafe>,
    /// Remote nodes have identities by their labels instead of one for all.
    pub node_identities: bool,
    /// Name of the cluster, for `io.cilium.k8s.policy.cluster`.
    pub cluster: String,
    /// Sizes of the tables.
    pub capacity: Capacity,
}

/// When an endpoint is enforced (Cilium's `policyEnforcementMode`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Enforcement {
    /// Per direction, when a policy selects it.
    #[default]
    Default,
    /// Every endpoint. The host is still only enforced when a policy selects it.
    Always,
    /// Never.
    Never,
}

/// The answer to a refused packet (Cilium's `policy-deny-response`, which has `none` and `icmp`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DenyResponse {
    /// None.
    #[default]
    None,
    /// ICMP "administratively prohibited".
    Icmp,
    /// A reset for TCP, else as [`DenyResponse::Icmp`].
    Reset,
}

/// A port of the host that stays open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Failsafe {
    /// IP protocol number.
    pub protocol: u8,
    /// Port; for protocols without ports nothing.
    pub port: u16,
    /// For connections that the host opens, else for those it accepts.
    pub egress: bool,
}

/// Entries that the tables have room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Capacity {
    /// Of `INTERVALS`.
    pub intervals: u32,
    /// Of `RULES`.
    pub rules: u32,
    /// Of `CLASSES`.
    pub classes: u32,
}

// === impl Options ===

impl Default for Options {
    fn default() -> Self {
        let tcp = |port, egress| Failsafe { protocol: 6, port, egress };
        let udp = |port, egress| Failsafe { protocol: 17, port, egress };
        Self {
            enforcement: Enforcement::Default,
            allow_localhost: true,
            audit: false,
            deny_response: DenyResponse::None,
            keep_established: false,
            // Remote shell, DHCP, names, the API server, etcd and kubelet: what it takes to repair.
            failsafe: vec![
                tcp(22, false),
                udp(68, false),
                tcp(10250, false),
                tcp(2379, false),
                tcp(2380, false),
                tcp(6443, false),
                udp(53, true),
                tcp(53, true),
                udp(67, true),
                tcp(2379, true),
                tcp(2380, true),
                tcp(6443, true),
            ],
            node_identities: false,
            cluster: "default".to_owned(),
            capacity: Capacity::default(),
        }
    }
}

impl Default for Capacity {
    fn default() -> Self {
        Self { intervals: 1 << 18, rules: 1 << 20, classes: 1 << 16 }
    }
}

// === impl Cluster ===

/// Every namespace has this label since Kubernetes 1.22, set by the API server.
const NAME_LABEL: &str = "kubernetes.io/metadata.name";

impl Cluster {
    /// A namespace's labels, with the one that the API server sets.
    pub fn namespace_labels(&self, namespace: &str) -> Labels {
        let mut labels = self.namespaces.get(namespace).cloned().unwrap_or_default();
        if !namespace.is_empty() {
            labels.entry(NAME_LABEL.to_owned()).or_insert_with(|| namespace.to_owned());
        }
        labels
    }

    /// The node that the agent runs on.
    pub fn this_node(&self) -> Option<(&String, &Node)> {
        self.nodes.iter().find(|(_, node)| node.this)
    }
}

// === impl Endpoint ===

impl Endpoint {
    /// As a selector sees it.
    pub fn subject<'a>(&'a self, namespace_labels: &'a Labels, cluster: &'a str) -> Subject<'a> {
        Subject {
            namespace: &self.namespace,
            labels: &self.labels,
            namespace_labels,
            service_account: &self.service_account,
            cluster,
            reserved: self.kind.reserved(),
        }
    }
}

// === impl EndpointKind ===

impl EndpointKind {
    /// Cilium's reserved labels of the kind.
    pub const fn reserved(self) -> &'static [&'static str] {
        match self {
            Self::Pod => &[],
            Self::Init => &["init"],
            Self::Health => &["health"],
            Self::Ingress => &["ingress"],
            Self::Unmanaged => &["unmanaged"],
        }
    }
}
