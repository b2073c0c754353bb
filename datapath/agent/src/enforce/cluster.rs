//! What the control source knows, as the compiler wants it.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use datapath_policy::{Compiler, Endpoint, Node, Service};

use super::Place;
use crate::control::{EndpointSlice, Snapshot};

/// Hands a snapshot to the compiler: what is new or different is put, what is gone is removed. The next commit
/// works out what that means.
///
/// `node` is the agent's own, `place` where it and its pods are. `before` is the snapshot that the compiler was fed
/// with by the same node and place: what is equal in it is passed over.
pub(super) fn feed(
    compiler: &mut Compiler,
    snapshot: &Snapshot,
    before: Option<&Snapshot>,
    node: &str,
    place: &Place,
) {
    remove_gone(compiler, snapshot, before, node);
    if before.is_none_or(|before| before.namespaces != snapshot.namespaces) {
        for (name, labels) in &snapshot.namespaces {
            compiler.put_namespace(name, labels.clone());
        }
    }
    if before.is_none_or(|before| before.pods != snapshot.pods) {
        put_pods(compiler, snapshot, &place.interfaces);
    }
    if before.is_none_or(|before| before.nodes != snapshot.nodes) {
        for other in snapshot.nodes.iter().filter(|other| other.name != node) {
            let addresses = other.addresses.iter().copied().collect();
            let labels = other.labels.clone();
            compiler.put_node(&other.name, Node { labels, addresses, ..Node::default() });
        }
        compiler.put_node(node, this_node(snapshot, node, place));
    }
    let alike = |before: &Snapshot| {
        (&before.services, &before.slices) == (&snapshot.services, &snapshot.slices)
    };
    if !before.is_some_and(alike) {
        let slices = snapshot.slices_by_service();
        for service in &snapshot.services {
            let of_it = slices.get(&(service.namespace.as_str(), service.name.as_str()));
            compiler.put_service(policy_service(service, of_it));
        }
        compiler.set_api_servers(api_servers(snapshot));
    }
    for group in &snapshot.groups {
        compiler.put_group(group.clone());
    }
    for policy in &snapshot.policies {
        let known = compiler.cluster().policies.get(&policy.key());
        if known.is_none_or(|known| **known != *policy) {
            compiler.put_policy(policy.clone());
        }
    }
}

/// Feeds a compiler that is asked without a datapath: every pod counts as one of the node `node`, and has an
/// interface.
pub fn feed_all(compiler: &mut Compiler, snapshot: &Snapshot, node: &str) {
    let pods = snapshot.pods.iter().zip(1..);
    let interfaces = pods.map(|(pod, index)| (pod.id(), index));
    let place = Place { interfaces: interfaces.collect(), ..Place::default() };
    feed(compiler, snapshot, None, node, &place);
}

/// Whether everything is where it was, as far as the control source has a say in it.
pub(crate) fn placed_alike(a: &Snapshot, b: &Snapshot) -> bool {
    (&a.pods, &a.nodes) == (&b.pods, &b.nodes)
}

fn put_pods(compiler: &mut Compiler, snapshot: &Snapshot, interfaces: &HashMap<String, u32>) {
    for pod in snapshot.pods.iter().filter(|pod| pod.is_endpoint()) {
        let id = pod.id();
        let endpoint = Endpoint {
            namespace: pod.namespace.clone(),
            labels: pod.labels.clone(),
            service_account: pod.service_account.clone(),
            addresses: pod.ips.iter().copied().collect(),
            ports: pod.ports.clone(),
            interface: interfaces.get(&id).copied(),
            audit: pod.audit,
            ..Endpoint::default()
        };
        compiler.put_endpoint(&id, endpoint);
    }
}

fn this_node(snapshot: &Snapshot, node: &str, place: &Place) -> Node {
    let known = snapshot.nodes.iter().find(|known| known.name == node);
    let listed = known.into_iter().flat_map(|known| &known.addresses);
    let own = place.local.iter().filter(|ip| !ip.is_loopback() && !ip.is_unspecified());
    Node {
        labels: known.map(|known| known.labels.clone()).unwrap_or_default(),
        addresses: listed.chain(own).copied().collect(),
        this: true,
        interfaces: place.uplinks.iter().copied().collect(),
        audit: false,
    }
}

fn policy_service(
    service: &crate::control::Service,
    slices: Option<&Vec<&EndpointSlice>>,
) -> Service {
    let selector = service.selector.clone().filter(|selector| !selector.is_empty());
    let addresses: BTreeSet<IpAddr> = match selector {
        Some(_) => BTreeSet::new(),
        None => slices.into_iter().flatten().flat_map(|slice| slice.addresses()).collect(),
    };
    Service {
        namespace: service.namespace.clone(),
        name: service.name.clone(),
        labels: service.labels.clone(),
        selector,
        addresses,
    }
}

/// Endpoints of the service `default/kubernetes` (Kubernetes API server, its own reconciler).
fn api_servers(snapshot: &Snapshot) -> BTreeSet<IpAddr> {
    let slices = snapshot.slices.iter();
    let own = slices.filter(|slice| slice.namespace == "default" && slice.service == "kubernetes");
    own.flat_map(EndpointSlice::addresses).collect()
}

fn remove_gone(
    compiler: &mut Compiler,
    snapshot: &Snapshot,
    before: Option<&Snapshot>,
    node: &str,
) {
    let cluster = compiler.cluster();
    let mut endpoints = Vec::new();
    if before.is_none_or(|before| before.pods != snapshot.pods) {
        let pods: BTreeSet<String> =
            snapshot.pods.iter().filter(|pod| pod.is_endpoint()).map(|pod| pod.id()).collect();
        endpoints.extend(cluster.endpoints.keys().filter(|id| !pods.contains(*id)).cloned());
    }
    let nodes: BTreeSet<&str> =
        snapshot.nodes.iter().map(|known| known.name.as_str()).chain([node]).collect();
    let gone_nodes: Vec<_> =
        cluster.nodes.keys().filter(|name| !nodes.contains(name.as_str())).cloned().collect();
    let namespaces: Vec<_> = cluster
        .namespaces
        .keys()
        .filter(|name| !snapshot.namespaces.contains_key(*name))
        .cloned()
        .collect();
    let policies: BTreeSet<_> =
        snapshot.policies.iter().map(datapath_policy::Policy::key).collect();
    let gone_policies: Vec<_> =
        cluster.policies.keys().filter(|key| !policies.contains(*key)).cloned().collect();
    let groups: BTreeSet<&str> = snapshot.groups.iter().map(|group| group.name.as_str()).collect();
    let gone_groups: Vec<_> =
        cluster.groups.keys().filter(|name| !groups.contains(name.as_str())).cloned().collect();
    let services: BTreeSet<String> = snapshot
        .services
        .iter()
        .map(|service| format!("{}/{}", service.namespace, service.name))
        .collect();
    let gone_services: Vec<_> =
        cluster.services.keys().filter(|id| !services.contains(*id)).cloned().collect();
    endpoints.iter().for_each(|id| compiler.remove_endpoint(id));
    gone_nodes.iter().for_each(|name| compiler.remove_node(name));
    namespaces.iter().for_each(|name| compiler.remove_namespace(name));
    gone_policies.iter().for_each(|key| compiler.remove_policy(key));
    gone_groups.iter().for_each(|name| compiler.remove_group(name));
    for id in &gone_services {
        if let Some((namespace, name)) = id.split_once('/') {
            compiler.remove_service(namespace, name);
        }
    }
}
