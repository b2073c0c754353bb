//! CiliumLocalRedirectPolicy: frontends that lead to pods of this node.
//!
//! Where none of them is ready, an address is left to whoever has it, and a service to its own backends.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use datapath_abi::service::{ALIVE, CHOSEN, CLUSTER_ONLY, LOCAL, SILENT};
use datapath_policy::{NamedPort, Subject, address};
use model::Protocol;

use super::desired::{Frontend, Here, Port, PortId, frontend};
use crate::control::{LocalRedirect, Pod, RedirectFrontend, Service, Snapshot};

/// What a port is that leads to pods of this node.
pub(crate) const KIND: &str = "LocalRedirect";

/// Redirects what the snapshot's policies say, among ports that are complete. Returns what cannot be, as sentences.
pub(super) fn apply(
    snapshot: &Snapshot,
    here: &Here,
    ports: &mut BTreeMap<PortId, Port>,
) -> Vec<String> {
    let mut problems = Vec::new();
    for policy in &snapshot.redirects {
        let mut tell = |why: String| {
            problems.push(format!("CiliumLocalRedirectPolicy {}: {why}", policy.id()))
        };
        if policy.skip_from_backend {
            // Else a backend that asks what stands behind the frontend would ask itself.
            tell("skipRedirectFromBackend is not possible yet: nothing is redirected".to_owned());
            continue;
        }
        let pods = pods(snapshot, policy, here);
        match &policy.frontend {
            RedirectFrontend::Address { ip, ports: of_it } => {
                if here.addresses.contains(ip) {
                    tell(format!("{ip} is this node's own address: nothing is redirected"));
                    continue;
                }
                for port in of_it {
                    redirect_address(policy, (*ip, port, of_it.len()), &pods, ports, &mut tell);
                }
            }
            RedirectFrontend::Service { name, ports: of_it } => {
                let known = snapshot
                    .services
                    .iter()
                    .find(|known| known.namespace == policy.namespace && known.name == *name);
                match known {
                    Some(service) => {
                        redirect_service(policy, (service, of_it), &pods, ports, &mut tell)
                    }
                    None => tell(format!("there is no service {name}")),
                }
            }
        }
    }
    problems
}

/// Pods of this node that may be sent to.
fn pods<'a>(snapshot: &'a Snapshot, policy: &LocalRedirect, here: &Here) -> Vec<&'a Pod> {
    let none = BTreeMap::new();
    let selected = |pod: &&Pod| {
        let subject = Subject {
            namespace: &pod.namespace,
            labels: &pod.labels,
            namespace_labels: &none,
            service_account: "",
            cluster: "",
            reserved: &[],
        };
        pod.namespace == policy.namespace && policy.selector.matches(&subject)
    };
    let takes = |pod: &&Pod| pod.ready && pod.weight != Some(0);
    let local = |pod: &&Pod| pod.is_endpoint() && takes(pod) && here.has(pod);
    snapshot.pods.iter().filter(local).filter(selected).collect()
}

/// Their addresses of a family.
fn backends(pods: &[&Pod], v4: bool, port: u16) -> Vec<(IpAddr, u16)> {
    let ips: BTreeSet<IpAddr> = pods.iter().flat_map(|pod| pod.ips.iter().copied()).collect();
    ips.into_iter().filter(|ip| ip.is_ipv4() == v4).map(|ip| (ip, port)).collect()
}

/// Weights of the backends that have one.
fn weights(pods: &[&Pod], port: u16) -> impl Iterator<Item = ((IpAddr, u16), u8)> {
    let of = move |pod: &&Pod| Some((pod.ips.clone(), pod.weight?));
    let known = pods.iter().filter_map(of);
    known.flat_map(move |(ips, weight)| ips.into_iter().map(move |ip| ((ip, port), weight)))
}

/// One of `of` ports of an address becomes a frontend of the policy's own.
fn redirect_address(
    policy: &LocalRedirect,
    (ip, port, of): (IpAddr, &NamedPort, usize),
    pods: &[&Pod],
    ports: &mut BTreeMap<PortId, Port>,
    tell: &mut impl FnMut(String),
) {
    let key = frontend(ip, port.port, port.protocol);
    if let Some((owner, _)) = ports.iter().find(|(_, known)| known.frontends.contains_key(&key)) {
        tell(format!("{ip} port {} is served for {owner} already", port.port));
        return;
    }
    // No service's port has such a name.
    let id = PortId {
        namespace: policy.namespace.clone(),
        service: policy.name.clone(),
        port: format!("localRedirect-{}", port.port),
        protocol: port.protocol,
    };
    if ports.contains_key(&id) {
        tell("is defined more than once; the first definition counts".to_owned());
        return;
    }
    let Some(number) = policy.backend_port(port, of) else { return };
    let local = backends(pods, ip.is_ipv4(), number);
    let mut made = Port { kind: KIND.to_owned(), ..Port::default() };
    made.backends.extend(local.iter().map(|at| (*at, ALIVE | LOCAL | CHOSEN)));
    if !local.is_empty() {
        made.weights.extend(weights(pods, number));
        let candidates = [local.clone(), local];
        made.frontends.insert(key, Frontend { flags: CLUSTER_ONLY, candidates });
    }
    ports.insert(id, made);
}

/// The cluster addresses of a service get other backends.
fn redirect_service(
    policy: &LocalRedirect,
    (service, wanted): (&Service, &[NamedPort]),
    pods: &[&Pod],
    ports: &mut BTreeMap<PortId, Port>,
    tell: &mut impl FnMut(String),
) {
    if service.kind != "ClusterIP" || service.foreign || service.cluster_ips.is_empty() {
        tell(format!("{} has no cluster address that is served, or is no ClusterIP", service.id()));
        return;
    }
    let served = |number: u16, protocol: u8| {
        service.ports.iter().find(|port| (port.port, port.protocol) == (number, protocol))
    };
    for port in wanted.iter().filter(|port| served(port.port, port.protocol).is_none()) {
        let protocol = Protocol(port.protocol).name();
        tell(format!("{} has no {protocol} port {}", service.id(), port.port));
    }
    // The policy's name for a port counts where it has one.
    let all: Vec<NamedPort> = service
        .ports
        .iter()
        .map(|port| NamedPort { name: port.name.clone(), protocol: port.protocol, port: port.port })
        .collect();
    let of_it = if wanted.is_empty() { &all } else { wanted };
    let mut found = false;
    for port in of_it {
        let Some(number) = policy.backend_port(port, of_it.len()) else { continue };
        let Some(known) = served(port.port, port.protocol) else { continue };
        found = true;
        let id = PortId {
            namespace: service.namespace.clone(),
            service: service.name.clone(),
            port: known.name.clone(),
            protocol: known.protocol,
        };
        match ports.get_mut(&id) {
            Some(made) if made.kind == KIND => {
                tell(format!("{id} is redirected by another policy already"));
            }
            Some(made) => divert(made, pods, number),
            None => {}
        }
    }
    if !found && wanted.is_empty() {
        tell(format!("no port of {} is named as one of redirectBackend.toPorts", service.id()));
    }
}

/// Sends new connections to these pods, where there are any. Its own backends keep the connections that they have.
fn divert(port: &mut Port, pods: &[&Pod], number: u16) {
    let mut chosen = BTreeSet::new();
    for (key, frontend) in port.frontends.iter_mut().filter(|(key, _)| key.port != 0) {
        let local = backends(pods, address(key.address).is_ipv4(), number);
        if frontend.flags & CLUSTER_ONLY != 0 && !local.is_empty() {
            KIND.clone_into(&mut port.kind);
            port.weights.extend(weights(pods, number));
            port.backends.extend(local.iter().map(|at| (*at, ALIVE | LOCAL)));
            frontend.flags &= !(SILENT | SILENT << 1);
            frontend.candidates = [local.clone(), local];
        }
        chosen.extend(frontend.candidates.iter().flatten().copied());
    }
    for (at, flags) in &mut port.backends {
        *flags = *flags & !CHOSEN | if chosen.contains(at) { CHOSEN } else { 0 };
    }
}
