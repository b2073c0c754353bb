//! Rows of what changes slowly: endpoints, services, policies, identities, nodes. A row is written
//! when something begins to be as it is (`valid_from`), and once more with `valid_to` when it ends.
//!
//! A new agent writes everything anew; readers take the newest row at or before the time they ask
//! about.

use std::collections::BTreeMap;
use std::net::IpAddr;

use columns::Table;
use columns::rows::{BatchBuilder, EndpointRow, NodeRow, PolicyRow, ServiceRow};

use crate::control::{EndpointSlice, Service, ServicePort, Snapshot};
use crate::services::desired::derived;
use crate::view::View;
use crate::view::directory::Party;
use model::Protocol;

/// The rows that are valid now.
#[derive(Debug, Default)]
pub(crate) struct Dimensions {
    valid: BTreeMap<(Table, String), DimensionRow>,
}

/// A row that owns its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DimensionRow {
    valid_from: i64,
    valid_to: Option<i64>,
    content: Content,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Content {
    Endpoint { party: Box<Party>, interface: String },
    Service { namespace: String, name: String, kind: String, lists: Box<[Vec<String>; 3]> },
    Policy { kind: &'static str, namespace: String, name: String, spec: String },
    Identity { number: u32, labels: Vec<String> },
    Node(Box<ThisNode>),
}

/// What the agent says of its own node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct ThisNode {
    pub(crate) boot_id: String,
    pub(crate) mode: &'static str,
    pub(crate) kernel: String,
    pub(crate) features_on: Vec<String>,
    pub(crate) features_off: Vec<String>,
    pub(crate) addresses: Vec<String>,
    pub(crate) labels: Vec<String>,
}

// === impl Dimensions ===

impl Dimensions {
    /// The rows to write because things are, at `now`, as `snapshot` and `view` say.
    pub(crate) fn update(
        &mut self,
        snapshot: &Snapshot,
        view: &View,
        node: ThisNode,
        now: i64,
    ) -> Vec<DimensionRow> {
        let mut current = BTreeMap::new();
        let mut put = |table, key: String, content| {
            current.insert((table, key), content);
        };
        let this = ThisNode {
            addresses: view.directory.local().iter().map(IpAddr::to_string).collect(),
            labels: node_labels(snapshot, &view.node),
            ..node
        };
        put(Table::Nodes, view.node.to_string(), Content::Node(Box::new(this)));
        endpoints(snapshot, view, &mut put);
        let slices = snapshot.slices_by_service();
        for service in &snapshot.services {
            let of_it = slices.get(&(service.namespace.as_str(), service.name.as_str()));
            put(Table::Services, service.id(), service_content(service, of_it, snapshot));
        }
        for policy in &snapshot.policies {
            let (kind, namespace) = (policy.kind.name(), policy.namespace.clone());
            let key = format!("{kind}/{namespace}/{}", policy.name);
            let (name, spec) = (policy.name.clone(), policy.spec.clone());
            put(Table::Policies, key, Content::Policy { kind, namespace, name, spec });
        }
        for (labels, number) in view.directory.identities() {
            let content = Content::Identity { number: *number, labels: labels.clone() };
            put(Table::Identities, number.to_string(), content);
        }
        self.replace(current, now)
    }

    fn replace(
        &mut self,
        current: BTreeMap<(Table, String), Content>,
        now: i64,
    ) -> Vec<DimensionRow> {
        let mut rows = Vec::new();
        self.valid.retain(|key, row| {
            let stays = current.get(key) == Some(&row.content);
            if !stays {
                rows.push(DimensionRow { valid_to: Some(now), ..row.clone() });
            }
            stays
        });
        for (key, content) in current {
            self.valid.entry(key).or_insert_with(|| {
                let row = DimensionRow { valid_from: now, valid_to: None, content };
                rows.push(row.clone());
                row
            });
        }
        rows
    }
}

fn endpoints(snapshot: &Snapshot, view: &View, put: &mut impl FnMut(Table, String, Content)) {
    let host = Content::Endpoint {
        party: Box::new(Party::clone(view.directory.host())),
        interface: String::new(),
    };
    put(Table::Endpoints, "host".to_owned(), host);
    // Pods that no node claims are told of by every one: better twice than never.
    let unclaimed = snapshot.pods.iter().filter(|pod| pod.node.is_empty() && !pod.ended);
    for pod in unclaimed {
        let party = Box::new(view.directory.pod(pod));
        let content = Content::Endpoint { party, interface: String::new() };
        put(Table::Endpoints, pod.id(), content);
    }
    for (_, port) in view.ports.iter() {
        for pod in &port.pods {
            let content = Content::Endpoint {
                party: Box::new(Party::clone(pod)),
                interface: port.name.to_string(),
            };
            put(Table::Endpoints, format!("{}/{}", pod.namespace, pod.pod), content);
        }
    }
}

fn node_labels(snapshot: &Snapshot, node: &str) -> Vec<String> {
    let known = snapshot.nodes.iter().find(|known| known.name == node);
    let labels = known.map(|known| known.labels.iter().map(|(k, v)| format!("{k}={v}")));
    labels.into_iter().flatten().collect()
}

/// `slices` are the service's; without any, its endpoints follow from pods.
fn service_content(
    service: &Service,
    slices: Option<&Vec<&EndpointSlice>>,
    snapshot: &Snapshot,
) -> Content {
    let port = |port: &ServicePort| format!("{}/{}", Protocol(port.protocol).name(), port.port);
    let mut backends: Vec<String> = Vec::new();
    for slice in slices.into_iter().flatten() {
        for port in &slice.ports {
            backends.extend(slice.addresses().map(|ip| socket(ip, port.port)));
        }
    }
    if slices.is_none() {
        let derived = service.ports.iter().flat_map(|port| derived(snapshot, service, port));
        backends.extend(derived.map(|((ip, port), _)| socket(ip, port)));
    }
    backends.sort_unstable();
    backends.dedup();
    Content::Service {
        namespace: service.namespace.clone(),
        name: service.name.clone(),
        kind: service.kind.clone(),
        lists: Box::new([
            service.ips.iter().map(IpAddr::to_string).collect(),
            service.ports.iter().map(port).collect(),
            backends,
        ]),
    }
}

fn socket(ip: IpAddr, port: u16) -> String {
    std::net::SocketAddr::new(ip, port).to_string()
}

// === impl DimensionRow ===

impl DimensionRow {
    /// The table it belongs to.
    pub(crate) fn table(&self) -> Table {
        match self.content {
            Content::Endpoint { .. } => Table::Endpoints,
            Content::Service { .. } => Table::Services,
            Content::Policy { .. } => Table::Policies,
            Content::Identity { .. } => Table::Identities,
            Content::Node(_) => Table::Nodes,
        }
    }

    /// Appends it to a builder of its table.
    pub(crate) fn push(&self, cluster: &str, node: &str, builder: &mut BatchBuilder) {
        let (valid_from, valid_to) = (self.valid_from, self.valid_to);
        match &self.content {
            Content::Endpoint { party, interface } => {
                let ips: Vec<String> = party.ips.iter().map(IpAddr::to_string).collect();
                EndpointRow {
                    valid_from,
                    valid_to,
                    cluster,
                    node: if party.node.is_empty() { node } else { &party.node },
                    kind: party.kind_name(),
                    namespace: &party.namespace,
                    pod: &party.pod,
                    workload: &party.workload,
                    workload_kind: &party.workload_kind,
                    labels: &party.labels,
                    ips: &ips,
                    identity: party.identity,
                    interface,
                }
                .push(builder);
            }
            Content::Service { namespace, name, kind, lists } => {
                let [cluster_ips, ports, backends] = &**lists;
                ServiceRow {
                    valid_from,
                    valid_to,
                    cluster,
                    node,
                    namespace,
                    name,
                    service_type: kind,
                    cluster_ips,
                    ports,
                    backends,
                }
                .push(builder);
            }
            Content::Policy { kind, namespace, name, spec } => {
                let revision = None;
                PolicyRow {
                    valid_from,
                    valid_to,
                    cluster,
                    node,
                    kind,
                    namespace,
                    name,
                    revision,
                    spec,
                }
                .push(builder);
            }
            // In the order of the table's columns; it has no row type.
            Content::Identity { number, labels } => builder
                .row()
                .time(Some(valid_from))
                .time(valid_to)
                .word(cluster)
                .word(node)
                .u32(Some(*number))
                .words(labels)
                .end(),
            Content::Node(this) => NodeRow {
                valid_from,
                valid_to,
                cluster,
                node,
                boot_id: &this.boot_id,
                version: crate::VERSION,
                mode: this.mode,
                kernel: &this.kernel,
                addresses: &this.addresses,
                labels: &this.labels,
                features_on: &this.features_on,
                features_off: &this.features_off,
            }
            .push(builder),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::Pod;
    use crate::process::Processes;
    use crate::view::directory::Directory;

    #[test]
    fn rows_are_written_on_change_and_closed_at_the_end() {
        let pod = |app: &str| Pod {
            namespace: "shop".into(),
            name: "web-0".into(),
            labels: BTreeMap::from([("app".to_owned(), app.to_owned())]),
            ..Pod::default()
        };
        let mut view = View::new("default", "n1", Processes::Off);
        let mut dimensions = Dimensions::default();
        let mut step = |pods: Vec<Pod>, now| {
            let snapshot = Snapshot { pods, ..Snapshot::default() };
            view.directory = Directory::new(&snapshot, "n1", vec![]);
            let rows = dimensions.update(&snapshot, &view, ThisNode::default(), now);
            for row in &rows {
                row.push("default", "n1", &mut BatchBuilder::new(row.table()));
            }
            let of = |table: Table| {
                let rows = rows.iter().filter(|row| row.table() == table);
                rows.map(|row| (row.valid_from, row.valid_to)).collect::<Vec<_>>()
            };
            (of(Table::Nodes).len(), of(Table::Endpoints), of(Table::Identities))
        };
        // The first time also the node itself and its host endpoint.
        assert_eq!(step(vec![pod("a")], 1), (1, vec![(1, None); 2], vec![(1, None)]));
        assert_eq!(step(vec![pod("a")], 2), (0, vec![], vec![]));
        let changed = vec![(1, Some(3)), (3, None)];
        assert_eq!(step(vec![pod("b")], 3), (0, changed.clone(), changed));
        assert_eq!(step(vec![], 4), (0, vec![(3, Some(4))], vec![(3, Some(4))]));
    }
}
