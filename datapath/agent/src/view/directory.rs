//! Whom an address belongs to.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use columns::rows::FlowEnd;
use hashbrown::HashMap;

use super::identity;
use crate::control::{Pod, Snapshot};
use crate::names::NameList;

/// Addresses and services by number.
#[derive(Debug, Default)]
pub(crate) struct Directory {
    parties: HashMap<IpAddr, Arc<Party>>,
    local: Vec<IpAddr>,
    services: HashMap<(IpAddr, u16, u8), Arc<ServiceName>>,
    node_ports: HashMap<(u16, u8), Arc<ServiceName>>,
    host: Arc<Party>,
    world: Arc<Party>,
    unknown: Arc<Party>,
    identities: BTreeMap<Vec<String>, u32>,
}

/// Someone who has an address.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Party {
    pub(crate) kind: PartyKind,
    pub(crate) identity: Option<u32>,
    pub(crate) namespace: String,
    pub(crate) pod: String,
    pub(crate) workload: String,
    pub(crate) workload_kind: String,
    /// `key=value`, sorted.
    pub(crate) labels: Vec<String>,
    pub(crate) node: String,
    pub(crate) ips: Vec<IpAddr>,
}

/// What kind of party.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum PartyKind {
    /// Not known: multicast, link-local.
    #[default]
    Unknown,
    /// A pod.
    Pod,
    /// This host.
    Host,
    /// Another node.
    Node,
    /// Outside the cluster.
    World,
}

/// A service's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServiceName {
    pub(crate) namespace: String,
    pub(crate) name: String,
}

// === impl Directory ===

impl Directory {
    /// What `snapshot` says, seen from `node` with the addresses `local`.
    pub(crate) fn new(snapshot: &Snapshot, node: &str, local: Vec<IpAddr>) -> Self {
        let mut directory = Self { identities: identities(snapshot), ..Self::default() };
        for other in &snapshot.nodes {
            let this = other.name == node;
            let party = Arc::new(Party {
                kind: if this { PartyKind::Host } else { PartyKind::Node },
                identity: Some(if this { identity::HOST } else { identity::REMOTE_NODE }),
                node: other.name.clone(),
                ips: other.addresses.clone(),
                ..Party::default()
            });
            directory.enter(&party);
        }
        for pod in snapshot.pods.iter().filter(|pod| pod.is_endpoint()) {
            let party = Arc::new(directory.pod(pod));
            directory.enter(&party);
        }
        directory.host = Arc::new(Party {
            kind: PartyKind::Host,
            identity: Some(identity::HOST),
            node: node.to_owned(),
            ips: local.clone(),
            ..Party::default()
        });
        directory.enter(&Arc::clone(&directory.host));
        directory.world = Arc::new(Party {
            kind: PartyKind::World,
            identity: Some(identity::WORLD),
            ..Party::default()
        });
        directory.local = local;
        directory.enter_services(snapshot);
        directory
    }

    /// Takes the identities that policies are enforced by.
    pub(crate) fn identify(&mut self, identities: &std::collections::HashMap<IpAddr, u32>) {
        for (ip, party) in &mut self.parties {
            if let Some(number) = identities.get(ip)
                && party.kind == PartyKind::Pod
                && party.identity != Some(*number)
            {
                *party = Arc::new(Party { identity: Some(*number), ..Party::clone(party) });
            }
        }
    }

    fn enter(&mut self, party: &Arc<Party>) {
        for ip in &party.ips {
            self.parties.insert(*ip, Arc::clone(party));
        }
    }

    /// A pod as a party.
    pub(crate) fn pod(&self, pod: &Pod) -> Party {
        let labels = identity::labels(&pod.namespace, &pod.labels);
        Party {
            kind: PartyKind::Pod,
            identity: self.identities.get(&labels).copied(),
            namespace: pod.namespace.clone(),
            pod: pod.name.clone(),
            workload: pod.workload.clone(),
            workload_kind: pod.workload_kind.clone(),
            labels: pod.labels.iter().map(|(key, value)| format!("{key}={value}")).collect(),
            node: pod.node.clone(),
            ips: pod.ips.clone(),
        }
    }

    fn enter_services(&mut self, snapshot: &Snapshot) {
        for service in &snapshot.services {
            let name = Arc::new(ServiceName {
                namespace: service.namespace.clone(),
                name: service.name.clone(),
            });
            for ip in &service.cluster_ips {
                self.services.insert((*ip, 0, 0), Arc::clone(&name));
            }
            for port in &service.ports {
                for ip in &service.ips {
                    let key = (*ip, port.port, port.protocol);
                    self.services.insert(key, Arc::clone(&name));
                }
                if port.node_port != 0 {
                    let key = (port.node_port, port.protocol);
                    self.node_ports.insert(key, Arc::clone(&name));
                }
            }
        }
        for slice in snapshot.slices.iter().filter(|slice| !slice.service.is_empty()) {
            let name = Arc::new(ServiceName {
                namespace: slice.namespace.clone(),
                name: slice.service.clone(),
            });
            for port in &slice.ports {
                for ip in slice.addresses() {
                    // A service's own address says more than a backend of perhaps several.
                    let key = (ip, port.port, port.protocol);
                    self.services.entry(key).or_insert_with(|| Arc::clone(&name));
                }
            }
        }
    }

    /// The party at an address.
    pub(crate) fn party(&self, address: IpAddr) -> &Arc<Party> {
        match self.parties.get(&address) {
            Some(party) => party,
            None if address.is_loopback() => &self.host,
            None if nobody(address) => &self.unknown,
            None => &self.world,
        }
    }

    /// The service that clients reach at an address and port.
    pub(crate) fn service(&self, address: IpAddr, port: u16, protocol: u8) -> Option<&ServiceName> {
        if let Some(service) = self.services.get(&(address, port, protocol)) {
            return Some(service);
        }
        // An address of its own, at a port where it has nothing.
        if let Some(service) = self.services.get(&(address, 0, 0)) {
            return Some(service);
        }
        let node_port = self.node_ports.get(&(port, protocol))?;
        let kind = self.party(address).kind;
        matches!(kind, PartyKind::Host | PartyKind::Node).then_some(node_port)
    }

    /// Whether an address is this host's own.
    pub(crate) fn is_local(&self, address: IpAddr) -> bool {
        address.is_loopback()
            || self.parties.get(&address).is_some_and(|party| party.kind == PartyKind::Host)
    }

    /// This host.
    pub(crate) fn host(&self) -> &Arc<Party> {
        &self.host
    }

    /// Addresses of this host's interfaces.
    pub(crate) fn local(&self) -> &[IpAddr] {
        &self.local
    }

    /// Every identity in use, with its labels.
    pub(crate) fn identities(&self) -> &BTreeMap<Vec<String>, u32> {
        &self.identities
    }
}

fn identities(snapshot: &Snapshot) -> BTreeMap<Vec<String>, u32> {
    let pods = snapshot.pods.iter().filter(|pod| pod.is_endpoint());
    let sets: BTreeSet<_> = pods.map(|pod| identity::labels(&pod.namespace, &pod.labels)).collect();
    identity::number(&sets)
}

/// Addresses that are no one's: groups, broadcast, link-local, unspecified.
fn nobody(address: IpAddr) -> bool {
    address.is_multicast()
        || address.is_unspecified()
        || match address {
            IpAddr::V4(v4) => v4.is_broadcast() || v4.is_link_local(),
            IpAddr::V6(v6) => v6.is_unicast_link_local(),
        }
}

// === impl Party ===

impl Party {
    /// The party as one end of a row.
    pub(crate) fn end<'a>(&'a self, names: Option<&'a NameList>) -> FlowEnd<'a> {
        FlowEnd {
            identity: self.identity,
            namespace: &self.namespace,
            pod: &self.pod,
            workload: &self.workload,
            workload_kind: &self.workload_kind,
            labels: &self.labels,
            names: names.map_or(&[], |names| names),
            node: &self.node,
        }
    }

    /// The word in `endpoints.kind`.
    pub(crate) fn kind_name(&self) -> &'static str {
        match self.kind {
            PartyKind::Pod => "pod",
            PartyKind::Host => "host",
            PartyKind::Node => "node",
            PartyKind::World => "world",
            PartyKind::Unknown => "",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::{Endpoint, EndpointSlice, Node, Service, ServicePort, SlicePort};

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn snapshot() -> Snapshot {
        let pod = |name: &str, address: &str| Pod {
            namespace: "shop".into(),
            name: name.into(),
            ips: vec![ip(address)],
            workload: "web".into(),
            ..Pod::default()
        };
        Snapshot {
            pods: vec![
                pod("web-0", "10.1.0.5"),
                Pod { host_network: true, ..pod("agent", "192.168.0.1") },
                Pod { ended: true, ..pod("job", "10.1.0.6") },
            ],
            nodes: vec![
                Node { name: "n1".into(), addresses: vec![ip("192.168.0.1")], ..Node::default() },
                Node { name: "n2".into(), addresses: vec![ip("192.168.0.2")], ..Node::default() },
            ],
            services: vec![Service {
                namespace: "shop".into(),
                name: "web".into(),
                ips: vec![ip("10.96.0.1")],
                ports: vec![ServicePort {
                    protocol: 6,
                    port: 80,
                    node_port: 30080,
                    ..ServicePort::default()
                }],
                ..Service::default()
            }],
            slices: vec![EndpointSlice {
                namespace: "shop".into(),
                service: "web".into(),
                endpoints: vec![Endpoint {
                    addresses: vec![ip("10.1.0.5")],
                    ..Endpoint::default()
                }],
                ports: vec![SlicePort { protocol: 6, port: 8080, ..SlicePort::default() }],
            }],
            ..Snapshot::default()
        }
    }

    #[test]
    fn addresses_have_parties() {
        let directory = Directory::new(&snapshot(), "n1", vec![ip("172.16.0.1")]);
        for (address, kind, identity) in [
            ("10.1.0.5", PartyKind::Pod, None),
            ("10.1.0.6", PartyKind::World, Some(2)),
            ("192.168.0.1", PartyKind::Host, Some(1)),
            ("172.16.0.1", PartyKind::Host, Some(1)),
            ("127.0.0.53", PartyKind::Host, Some(1)),
            ("192.168.0.2", PartyKind::Node, Some(6)),
            ("8.8.8.8", PartyKind::World, Some(2)),
            ("224.0.0.251", PartyKind::Unknown, None),
            ("fe80::1", PartyKind::Unknown, None),
        ] {
            let party = directory.party(ip(address));
            assert_eq!(party.kind, kind, "{address}");
            if kind == PartyKind::Pod {
                assert!(party.identity.unwrap() >= 256);
            } else {
                assert_eq!(party.identity, identity, "{address}");
            }
        }
    }

    #[test]
    fn services_by_address_backend_and_node_port() {
        let directory = Directory::new(&snapshot(), "n1", vec![]);
        let service = |address, port, protocol| {
            directory.service(ip(address), port, protocol).map(|service| service.name.as_str())
        };
        assert_eq!(service("10.96.0.1", 80, 6), Some("web"));
        assert_eq!(service("10.96.0.1", 80, 17), None);
        assert_eq!(service("10.1.0.5", 8080, 6), Some("web"));
        assert_eq!(service("10.1.0.5", 80, 6), None);
        assert_eq!(service("192.168.0.2", 30080, 6), Some("web"));
        assert_eq!(service("8.8.8.8", 30080, 6), None);
    }
}
