//! What a policy says, in one form for every dialect.

use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use crate::address::Cidr;
use crate::selector::Selector;

/// One subject and the rules for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    /// Whom the rules are for.
    pub subject: Selector,
    /// Whether the subject is a node and not a pod.
    pub nodes: bool,
    /// What comes in is denied unless a rule allows it.
    pub isolates_ingress: bool,
    /// What goes out is denied unless a rule allows it.
    pub isolates_egress: bool,
    /// Rules for what comes in: deny list, then allow list.
    pub ingress: Vec<Rule>,
    /// Rules for what goes out: deny list, then allow list.
    pub egress: Vec<Rule>,
}

/// One element of a list of rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// It stands in a deny list.
    pub deny: bool,
    /// Its index in its list.
    pub index: usize,
    /// Who is at the other end; any of them. None: anybody at all.
    pub peers: Option<Vec<Peer>>,
    /// To which ports; any of them. None: every port of every protocol.
    pub ports: Option<Vec<Port>>,
    /// False: it isolates, but says nothing about anybody (an empty element of a Cilium list).
    pub effective: bool,
    /// What of it is not enforced yet, in words.
    pub not_enforced: Vec<String>,
    /// Lines of the document, from 1; None where the scan found no place.
    pub lines: Option<RangeInclusive<usize>>,
}

/// The other end of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    /// Pods by their labels (Kubernetes): in namespaces with these labels, or in the policy's own.
    Pods {
        /// On the namespace's labels; None: the policy's own namespace.
        namespaces: Option<Selector>,
        /// On the pod's labels.
        pods: Selector,
    },
    /// Endpoints by their labels (Cilium). A namespaced policy means its own namespace unless the
    /// selector names one, or one of the `reserved:` labels.
    Endpoints(Selector),
    /// Addresses.
    Block {
        /// These.
        cidr: Cidr,
        /// But not those.
        except: Vec<Cidr>,
    },
    /// The CIDRs of one CiliumCIDRGroup.
    Group {
        /// Its name.
        name: String,
        /// But not those.
        except: Vec<Cidr>,
    },
    /// The CIDRs of groups with these labels.
    Groups {
        /// On the group's labels.
        selector: Selector,
        /// But not those.
        except: Vec<Cidr>,
    },
    /// One of Cilium's entities.
    Entity(Entity),
    /// Nodes by their labels.
    Nodes(Selector),
    /// What stands behind a service, by name.
    Service {
        /// Namespace.
        namespace: String,
        /// Name.
        name: String,
    },
    /// What stands behind the services with these labels.
    Services {
        /// Namespace.
        namespace: String,
        /// On the service's labels.
        selector: Selector,
    },
    /// What a DNS name or pattern stands for; nobody until names are enforced.
    Name(String),
    /// A cloud provider's group; nobody.
    CloudGroup,
}

/// Cilium's entities.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Entity {
    /// Everybody.
    All,
    /// Outside the cluster.
    World,
    /// Outside, IPv4.
    #[serde(rename = "world-ipv4")]
    WorldIpv4,
    /// Outside, IPv6.
    #[serde(rename = "world-ipv6")]
    WorldIpv6,
    /// Every endpoint and node of the cluster.
    Cluster,
    /// As `cluster`, of every connected cluster.
    ClusterMesh,
    /// This node.
    Host,
    /// Every other node.
    RemoteNode,
    /// Addresses of the API server.
    KubeApiserver,
    /// Health endpoints.
    Health,
    /// Endpoints whose labels are not known yet.
    Init,
    /// The source of Ingress and Gateway traffic.
    Ingress,
    /// Pods that are not managed.
    Unmanaged,
    /// Nobody.
    None,
}

/// Ports of a protocol.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Port {
    /// By number.
    Range {
        /// IP protocol number: 6, 17 or 132.
        protocol: u8,
        /// Lowest.
        first: u16,
        /// Highest.
        last: u16,
    },
    /// By name: of the subject's containers on ingress, of the peer's on egress.
    Named {
        /// IP protocol number: 6, 17 or 132.
        protocol: u8,
        /// Lower case.
        name: String,
    },
    /// ICMP by type.
    Icmp {
        /// ICMPv6.
        v6: bool,
        /// Type.
        kind: u8,
    },
    /// A protocol without ports, by its IP number.
    Protocol(u8),
}

// === impl Entity ===

impl Entity {
    /// By its name in a policy.
    pub(crate) fn of(name: &str) -> Option<Self> {
        Some(match name {
            "all" => Self::All,
            "world" => Self::World,
            "world-ipv4" => Self::WorldIpv4,
            "world-ipv6" => Self::WorldIpv6,
            "cluster" => Self::Cluster,
            "cluster-mesh" => Self::ClusterMesh,
            "host" => Self::Host,
            "remote-node" => Self::RemoteNode,
            "kube-apiserver" => Self::KubeApiserver,
            "health" => Self::Health,
            "init" => Self::Init,
            "ingress" => Self::Ingress,
            "unmanaged" => Self::Unmanaged,
            "none" => Self::None,
            _ => return None,
        })
    }
}

// === impl Section ===

impl Section {
    /// Rules of a direction ([`INGRESS`](datapath_abi::policy::INGRESS) or egress).
    pub fn rules(&self, direction: usize) -> &[Rule] {
        if direction == datapath_abi::policy::INGRESS { &self.ingress } else { &self.egress }
    }

    /// Whether a direction is denied by default.
    pub const fn isolates(&self, direction: usize) -> bool {
        if direction == datapath_abi::policy::INGRESS {
            self.isolates_ingress
        } else {
            self.isolates_egress
        }
    }

    /// Whether it has a say about a direction at all.
    pub fn concerns(&self, direction: usize) -> bool {
        self.isolates(direction) || !self.rules(direction).is_empty()
    }
}
