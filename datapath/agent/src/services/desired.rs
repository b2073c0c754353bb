//! What the service tables should hold: from the cluster as the control source knows it to frontends and backends.
//!
//! Which endpoints count for whom: kube-proxy's `CategorizeEndpoints` (pkg/proxy/topology.go).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use datapath_abi::service::{
    ALIVE, CHOSEN, CLUSTER_ONLY, FrontendKey, HASHED, LOCAL, RANGED, SILENT,
};
use datapath_policy::{Cidr, octets};

use super::weight::PodWeights;
use super::{forwarding, redirect};
use crate::control::{
    Algorithm, Endpoint, EndpointSlice, Forwarding, Pod, Service, ServicePort, Snapshot, Spread,
    Target,
};

/// Where things are on this node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Here {
    /// The node's name.
    pub(crate) node: String,
    /// Its addresses, at which NodePorts and HostPorts are served; no loopback.
    pub(crate) addresses: Vec<IpAddr>,
    /// Addresses of the pods behind its interfaces.
    pub(crate) pods: BTreeSet<IpAddr>,
    /// How a backend is chosen where the service does not say.
    pub(crate) algorithm: Algorithm,
    /// How a backend on another node is reached where the service does not say.
    pub(crate) forwarding: Forwarding,
}

/// A service's port, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct PortId {
    pub(crate) namespace: String,
    pub(crate) service: String,
    /// Name of the port; for a HostPort the pod's name stands for the service.
    pub(crate) port: String,
    pub(crate) protocol: u8,
}

/// A service's port.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Port {
    /// `ClusterIP`, …, `HostPort`.
    pub(crate) kind: String,
    /// Address and port → flags of [`Backend`](datapath_abi::service::Backend).
    pub(crate) backends: BTreeMap<(IpAddr, u16), u16>,
    pub(crate) frontends: BTreeMap<FrontendKey, Frontend>,
    /// Of those whose weight is not [`Endpoint::WEIGHT`].
    pub(crate) weights: BTreeMap<(IpAddr, u16), u8>,
    pub(crate) affinity: u32,
    pub(crate) source_ranges: Vec<Cidr>,
    /// The port on every node; 0 without one.
    pub(crate) node_port: u16,
    /// Why it is not forwarded directly, although that was asked for: sentences.
    pub(crate) obstacles: Vec<String>,
}

/// An address of a service's port.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Frontend {
    pub(crate) flags: u32,
    /// Candidates, by [`INTERNAL`](datapath_abi::service::INTERNAL) and
    /// [`EXTERNAL`](datapath_abi::service::EXTERNAL), in order.
    pub(crate) candidates: [Vec<(IpAddr, u16)>; 2],
}

/// An endpoint of a port.
#[derive(Debug, Clone, Copy)]
struct Place<'a> {
    at: (IpAddr, u16),
    endpoint: &'a Endpoint,
    local: bool,
}

/// Endpoints of a port in one family, for the two kinds of clients.
struct Categories {
    cluster: Vec<(IpAddr, u16)>,
    local: Vec<(IpAddr, u16)>,
    /// There are endpoints that could serve, wherever they are.
    any: bool,
}

/// All services of a snapshot. The second: frontends that two ports claim, as sentences; the first by name has it.
pub(crate) fn desired(snapshot: &Snapshot, here: &Here) -> (BTreeMap<PortId, Port>, Vec<String>) {
    let mut ports = BTreeMap::new();
    let slices = snapshot.slices_by_service();
    let weights = PodWeights::new(snapshot);
    let known = snapshot.addresses_of(&here.node);
    let zone = snapshot.nodes.iter().find(|node| node.name == here.node);
    let zone = zone.and_then(|node| node.labels.get("topology.kubernetes.io/zone"));
    let zone = zone.map(String::as_str).unwrap_or_default();
    for service in snapshot.services.iter().filter(|service| !service.foreign) {
        if service.cluster_ips.is_empty() && service.external_ips.is_empty() {
            continue;
        }
        let of_it = slices.get(&(service.namespace.as_str(), service.name.as_str()));
        for (place, port) in service.ports.iter().enumerate() {
            let mut endpoints = match of_it {
                Some(slices) => listed(slices, port),
                None => derived(snapshot, service, port),
            };
            weights.apply(&service.namespace, &mut endpoints);
            let id = PortId {
                namespace: service.namespace.clone(),
                service: service.name.clone(),
                port: port.name.clone(),
                protocol: port.protocol,
            };
            let mut made = service_port(service, port, &endpoints, here, zone);
            forwarding::choose(&mut made, service, port, here, &known);
            if place == 0 {
                // At its other ports nobody listens, and clients are told so.
                let others = |ip: &IpAddr| {
                    let flags = CLUSTER_ONLY;
                    (frontend(*ip, 0, 0), Frontend { flags, ..Frontend::default() })
                };
                made.frontends.extend(service.cluster_ips.iter().map(others));
            }
            ports.insert(id, made);
        }
    }
    let of_here = |pod: &&Pod| pod.is_endpoint() && here.has(pod);
    for pod in snapshot.pods.iter().filter(of_here) {
        host_ports(pod, here, &mut ports);
    }
    let mut problems = redirect::apply(snapshot, here, &mut ports);
    problems.extend(settle(&mut ports));
    for (id, port) in &ports {
        problems.extend(port.obstacles.iter().map(|why| format!("{id}: {why}")));
    }
    (ports, problems)
}

/// Takes a frontend away from all but the first port that has it.
fn settle(ports: &mut BTreeMap<PortId, Port>) -> Vec<String> {
    let mut owners: HashMap<FrontendKey, PortId> = HashMap::new();
    let mut problems = Vec::new();
    for (id, port) in ports {
        port.frontends.retain(|key, _| match owners.get(key) {
            None => {
                owners.insert(*key, id.clone());
                true
            }
            Some(owner) => {
                let at = datapath_policy::address(key.address);
                problems
                    .push(format!("{id}: {at} port {} is served for {owner} already", key.port));
                false
            }
        });
    }
    problems
}

/// Endpoints from the slices of a service. One that several slices list counts once, as ready as the best of them.
fn listed(slices: &[&EndpointSlice], port: &ServicePort) -> BTreeMap<(IpAddr, u16), Endpoint> {
    let mut found: BTreeMap<(IpAddr, u16), Endpoint> = BTreeMap::new();
    for slice in slices {
        let number = slice
            .ports
            .iter()
            .find(|known| known.name == port.name && known.protocol == port.protocol);
        let Some(number) = number else { continue };
        for endpoint in &slice.endpoints {
            // All addresses of an endpoint are one backend's (discovery/v1 Endpoint): the first is used.
            let Some(ip) = endpoint.addresses.first() else { continue };
            let better = |known: &Endpoint| {
                (endpoint.ready, endpoint.serving) > (known.ready, known.serving)
            };
            let known = found.get(&(*ip, number.port));
            if known.is_none_or(better) {
                found.insert((*ip, number.port), endpoint.clone());
            }
        }
    }
    found
}

/// Endpoints from the pods that a service selects, as the endpoint slice controller would make them: a folder of
/// manifests has none.
pub(crate) fn derived(
    snapshot: &Snapshot,
    service: &Service,
    port: &ServicePort,
) -> BTreeMap<(IpAddr, u16), Endpoint> {
    let mut found = BTreeMap::new();
    let Some(selector) = service.selector.as_ref().filter(|selector| !selector.is_empty()) else {
        return found;
    };
    for pod in &snapshot.pods {
        let selects = selector.iter().all(|(key, value)| pod.labels.get(key) == Some(value));
        if !selects || pod.ended || pod.namespace != service.namespace {
            continue;
        }
        let number = match &port.target {
            Target::Same => Some(port.port),
            Target::Number(number) => Some(*number),
            Target::Name(name) => pod
                .ports
                .iter()
                .find(|known| known.name == *name && known.protocol == port.protocol)
                .map(|known| known.port),
        };
        let Some(number) = number else { continue };
        let ready = pod.ready || service.publish_not_ready;
        for ip in &pod.ips {
            let endpoint =
                Endpoint { ready, serving: ready, node: pod.node.clone(), ..Endpoint::default() };
            found.insert((*ip, number), endpoint);
        }
    }
    found
}

fn service_port(
    service: &Service,
    port: &ServicePort,
    endpoints: &BTreeMap<(IpAddr, u16), Endpoint>,
    here: &Here,
    zone: &str,
) -> Port {
    let hashed = service.algorithm.unwrap_or(here.algorithm) == Algorithm::Maglev;
    let common = if hashed { HASHED } else { 0 };
    let mut made = Port {
        kind: service.kind.clone(),
        affinity: service.affinity.unwrap_or(0),
        source_ranges: service.source_ranges.clone(),
        ..Port::default()
    };
    for v4 in [true, false] {
        let places: Vec<_> = endpoints
            .iter()
            .filter(|((ip, _), _)| ip.is_ipv4() == v4)
            .map(|(at, endpoint)| Place {
                at: *at,
                endpoint,
                local: is_local(at.0, endpoint, here),
            })
            .collect();
        let all = categorize(&places, service, here, zone);
        let mut chosen: BTreeSet<(IpAddr, u16)> = BTreeSet::new();
        let mut put = |ip: &IpAddr, number: u16, flags: u32, locals: [bool; 2]| {
            if ip.is_ipv4() != v4 || number == 0 {
                return;
            }
            let mut flags = flags | common;
            let candidates = [0, 1].map(|scope| {
                let found = if locals[scope] { &all.local } else { &all.cluster };
                // Others have endpoints: the client is to find out by its timeout, and try another node.
                if found.is_empty() && locals[scope] && all.any {
                    flags |= SILENT << scope;
                }
                chosen.extend(found);
                found.clone()
            });
            let key = frontend(*ip, number, port.protocol);
            made.frontends.insert(key, Frontend { flags, candidates });
        };
        let internal = [service.internal_local; 2];
        for ip in &service.cluster_ips {
            put(ip, port.port, CLUSTER_ONLY, internal);
        }
        // Pods reach these addresses without leaving the cluster: all endpoints count for them.
        let external = [false, service.external_local];
        for ip in &service.external_ips {
            put(ip, port.port, 0, external);
        }
        let ranged = if service.source_ranges.is_empty() { 0 } else { RANGED };
        for ip in &service.balancer_ips {
            put(ip, port.port, ranged, external);
        }
        if matches!(service.kind.as_str(), "NodePort" | "LoadBalancer") {
            for ip in &here.addresses {
                put(ip, port.node_port, 0, external);
            }
        }
        for place in &places {
            let flags = ALIVE
                | if place.local { LOCAL } else { 0 }
                | if chosen.contains(&place.at) { CHOSEN } else { 0 };
            made.backends.insert(place.at, flags);
            if place.endpoint.weight != Endpoint::WEIGHT {
                made.weights.insert(place.at, place.endpoint.weight);
            }
        }
    }
    made
}

fn is_local(ip: IpAddr, endpoint: &Endpoint, here: &Here) -> bool {
    if endpoint.node.is_empty() { here.pods.contains(&ip) } else { endpoint.node == here.node }
}

fn categorize(places: &[Place<'_>], service: &Service, here: &Here, zone: &str) -> Categories {
    let hinted = by_hints(places, service, here, zone);
    let cluster = usable(&hinted);
    let local: Vec<_> = places.iter().copied().filter(|place| place.local).collect();
    Categories { cluster, local: usable(&local), any: !usable(places).is_empty() }
}

/// The ready ones; where there are none, those that still serve while they terminate. What has no weight is not sent to.
fn usable(places: &[Place<'_>]) -> Vec<(IpAddr, u16)> {
    let of = |wanted: fn(&Endpoint) -> bool| -> Vec<(IpAddr, u16)> {
        let weighty = places.iter().filter(|place| place.endpoint.weight != 0);
        weighty.filter(|place| wanted(place.endpoint)).map(|place| place.at).collect()
    };
    let ready = of(|endpoint| endpoint.ready && !endpoint.terminating);
    if ready.is_empty() {
        return of(|endpoint| endpoint.serving && endpoint.terminating);
    }
    ready
}

/// Those that are meant for clients here: only if every ready endpoint has a hint, and one is for here
/// (`canUseTopology`).
fn by_hints<'a>(
    places: &[Place<'a>],
    service: &Service,
    here: &Here,
    zone: &str,
) -> Vec<Place<'a>> {
    if service.spread == Spread::Cluster {
        return places.to_vec();
    }
    let ready = || places.iter().filter(|place| place.endpoint.ready);
    let for_node = |place: &Place<'_>| place.endpoint.for_nodes.contains(&here.node);
    let for_zone = |place: &Place<'_>| place.endpoint.for_zones.iter().any(|name| name == zone);
    if ready().all(|place| !place.endpoint.for_nodes.is_empty()) && ready().any(for_node) {
        return places.iter().copied().filter(for_node).collect();
    }
    let zoned = ready().all(|place| !place.endpoint.for_zones.is_empty());
    if !zone.is_empty() && zoned && ready().any(for_zone) {
        return places.iter().copied().filter(for_zone).collect();
    }
    places.to_vec()
}

pub(super) fn frontend(ip: IpAddr, port: u16, protocol: u8) -> FrontendKey {
    FrontendKey { address: octets(ip), port, protocol, pad: 0, pad2: 0 }
}

/// HostPorts of a pod of this node.
fn host_ports(pod: &Pod, here: &Here, ports: &mut BTreeMap<PortId, Port>) {
    for host_port in &pod.host_ports {
        let id = PortId {
            namespace: pod.namespace.clone(),
            service: pod.name.clone(),
            port: format!("hostPort-{}", host_port.port),
            protocol: host_port.protocol,
        };
        let mut made = Port { kind: "HostPort".to_owned(), ..Port::default() };
        for ip in &pod.ips {
            let at = (*ip, host_port.container_port);
            made.backends.insert(at, ALIVE | LOCAL | CHOSEN);
            let own = here.addresses.iter().filter(|own| host_port.ip.is_none_or(|ip| ip == **own));
            for own in own.filter(|own| own.is_ipv4() == ip.is_ipv4()) {
                let key = frontend(*own, host_port.port, host_port.protocol);
                let candidates = [vec![at], vec![at]];
                made.frontends.insert(key, Frontend { flags: 0, candidates });
            }
        }
        ports.insert(id, made);
    }
}

// === impl Here ===

impl Here {
    /// Whether a pod is of this node.
    pub(super) fn has(&self, pod: &Pod) -> bool {
        let behind = || pod.ips.iter().any(|ip| self.pods.contains(ip));
        if pod.node.is_empty() { behind() } else { pod.node == self.node }
    }
}

// === impl PortId ===

impl std::fmt::Display for PortId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { namespace, service, port, protocol } = self;
        write!(f, "{namespace}/{service}")?;
        if !port.is_empty() {
            write!(f, ":{port}")?;
        }
        write!(f, "/{}", model::Protocol(*protocol).name())
    }
}
