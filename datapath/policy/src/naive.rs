//! The specification as a program: slow, plain, and written without the compiler in mind. It is what
//! the compiled tables are tested against, here and in the kernel.
//!
//! Shared with the compiler: the parsed documents and the state of the cluster. Not shared: how labels,
//! prefixes, ports and precedence are judged.

use std::net::IpAddr;

use datapath_abi::policy::{EGRESS, INGRESS};

use crate::address::{Cidr, octets};
use crate::cluster::{Cluster, Endpoint, EndpointKind, Enforcement, Labels, Node, Service};
use crate::document::{Policy, PolicyKey, PolicyKind};
use crate::rule::{Entity, Peer, Port, Rule, Section};
use crate::selector::{Operator, Selector};

/// Whose policy is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who<'a> {
    /// An endpoint, by its identifier.
    Endpoint(&'a str),
    /// This node.
    Host,
}

/// A connection, seen from one end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attempt {
    /// [`INGRESS`]: accepted by the end that is asked; [`EGRESS`]: opened by it.
    pub direction: usize,
    /// The other end.
    pub peer: IpAddr,
    /// IP protocol.
    pub protocol: u8,
    /// Destination port, or ICMP type.
    pub port: u16,
}

/// Verdicts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Goes through.
    Allow,
    /// Does not.
    Deny,
    /// Would not, were it not for audit mode.
    Audit,
}

/// Why; any of the rules named may be given as the reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// Nothing is enforced.
    NotEnforced,
    /// These rules decide alike.
    Rules(Vec<RuleName>),
    /// No rule allows it, and these policies isolate.
    DefaultDeny(Vec<PolicyKey>),
    /// No rule allows it where everything is enforced.
    EnforceAlways,
    /// The node reaches its own pods (or one of the rules).
    Localhost(Vec<RuleName>),
    /// A failsafe port.
    Failsafe,
    /// These policies select it, and none isolates.
    NoDefaultDeny(Vec<PolicyKey>),
}

/// A rule of a policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleName {
    /// Policy.
    pub policy: PolicyKey,
    /// Index among its sections.
    pub section: usize,
    /// In a deny list.
    pub deny: bool,
    /// Index in the list.
    pub index: usize,
}

/// Who is at the other end.
enum Other<'a> {
    Endpoint(&'a Endpoint),
    Node(&'a Node),
    World,
}

/// `source`, key, value.
type LabelList = Vec<(&'static str, String, String)>;

/// Judges; None where there is no such end.
pub fn judge(cluster: &Cluster, who: Who<'_>, attempt: &Attempt) -> Option<(Verdict, Why)> {
    let audited_end = match who {
        Who::Endpoint(id) => cluster.endpoints.get(id)?.audit,
        Who::Host => cluster.this_node()?.1.audit,
    };
    let all: Vec<(&Policy, usize)> = cluster
        .policies
        .values()
        .flat_map(|policy| (0..policy.sections.len()).map(move |index| (&**policy, index)))
        .filter(|(policy, index)| selects(cluster, who, policy, &policy.sections[*index]))
        .filter(|(policy, index)| has_a_say(&policy.sections[*index], attempt.direction))
        .collect();
    let serious: Vec<(&Policy, usize)> =
        all.iter().copied().filter(|(policy, _)| !policy.audit).collect();
    let (allowed, why) = decide(cluster, who, attempt, &serious);
    if !allowed {
        let audit = audited_end || cluster.options.audit;
        return Some((if audit { Verdict::Audit } else { Verdict::Deny }, why));
    }
    if all.len() > serious.len() {
        let (allowed, what) = decide(cluster, who, attempt, &all);
        if !allowed {
            return Some((Verdict::Audit, what));
        }
    }
    Some((Verdict::Allow, why))
}

fn decide(
    cluster: &Cluster,
    who: Who<'_>,
    attempt: &Attempt,
    policies: &[(&Policy, usize)],
) -> (bool, Why) {
    let host = who == Who::Host;
    let init = match who {
        Who::Endpoint(id) => {
            cluster.endpoints.get(id).is_some_and(|e| e.kind == EndpointKind::Init)
        }
        Who::Host => false,
    };
    let forced = init || (cluster.options.enforcement == Enforcement::Always && !host);
    if cluster.options.enforcement == Enforcement::Never || (policies.is_empty() && !forced) {
        return (true, Why::NotEnforced);
    }
    if host {
        let safe = cluster.options.failsafe.iter().any(|port| {
            let number = matches!(port.protocol, 6 | 17 | 132 | 1 | 58);
            port.egress == (attempt.direction == EGRESS)
                && port.protocol == attempt.protocol
                && (!number || port.port == attempt.port)
        });
        if safe {
            return (true, Why::Failsafe);
        }
    }
    let applying = |deny: bool| -> Vec<RuleName> {
        let mut names = Vec::new();
        for (policy, section) in policies {
            for rule in rules(&policy.sections[*section], attempt.direction) {
                if rule.deny == deny && applies(cluster, who, policy, rule, attempt) {
                    names.push(RuleName {
                        policy: policy.key(),
                        section: *section,
                        deny,
                        index: rule.index,
                    });
                }
            }
        }
        names
    };
    let denying = applying(true);
    if !denying.is_empty() {
        return (false, Why::Rules(denying));
    }
    let allowing = applying(false);
    let own_node = matches!(other(cluster, attempt.peer), Other::Node(node) if node.this);
    if own_node && !host && attempt.direction == INGRESS && cluster.options.allow_localhost {
        return (true, Why::Localhost(allowing));
    }
    if !allowing.is_empty() {
        return (true, Why::Rules(allowing));
    }
    let keys = |isolating: bool| -> Vec<PolicyKey> {
        let mut keys: Vec<PolicyKey> = policies
            .iter()
            .filter(|(p, i)| !isolating || isolates(&p.sections[*i], attempt.direction))
            .map(|(policy, _)| policy.key())
            .collect();
        keys.dedup();
        keys
    };
    if !keys(true).is_empty() {
        return (false, Why::DefaultDeny(keys(true)));
    }
    if forced {
        return (false, Why::EnforceAlways);
    }
    (true, Why::NoDefaultDeny(keys(false)))
}

fn rules(section: &Section, direction: usize) -> &[Rule] {
    if direction == INGRESS { &section.ingress } else { &section.egress }
}

fn isolates(section: &Section, direction: usize) -> bool {
    if direction == INGRESS { section.isolates_ingress } else { section.isolates_egress }
}

fn has_a_say(section: &Section, direction: usize) -> bool {
    isolates(section, direction) || !rules(section, direction).is_empty()
}

fn selects(cluster: &Cluster, who: Who<'_>, policy: &Policy, section: &Section) -> bool {
    match who {
        Who::Host => {
            let Some((_, node)) = cluster.this_node() else { return false };
            section.nodes && matches(&section.subject, &plain(&node.labels))
        }
        Who::Endpoint(id) => {
            let Some(endpoint) = cluster.endpoints.get(id) else { return false };
            let labels = endpoint_labels(cluster, endpoint);
            if section.nodes || !matches(&section.subject, &labels) {
                return false;
            }
            match policy.kind {
                PolicyKind::NetworkPolicy => {
                    endpoint.kind == EndpointKind::Pod && endpoint.namespace == policy.namespace
                }
                PolicyKind::CiliumNetworkPolicy => {
                    endpoint.kind != EndpointKind::Unmanaged
                        && (endpoint.namespace == policy.namespace
                            || (endpoint.kind != EndpointKind::Pod
                                && asks_reserved(&section.subject)))
                }
                PolicyKind::CiliumClusterwideNetworkPolicy => {
                    endpoint.kind != EndpointKind::Unmanaged
                }
            }
        }
    }
}

fn applies(
    cluster: &Cluster,
    who: Who<'_>,
    policy: &Policy,
    rule: &Rule,
    attempt: &Attempt,
) -> bool {
    if !rule.effective {
        return false;
    }
    let port = match &rule.ports {
        None => true,
        Some(ports) => ports.iter().any(|port| port_fits(cluster, who, port, attempt)),
    };
    port && match &rule.peers {
        None => true,
        Some(peers) => peers.iter().any(|peer| is_peer(cluster, policy, peer, attempt.peer)),
    }
}

fn port_fits(cluster: &Cluster, who: Who<'_>, port: &Port, attempt: &Attempt) -> bool {
    match port {
        Port::Range { protocol, first, last } => {
            *protocol == attempt.protocol && (*first..=*last).contains(&attempt.port)
        }
        Port::Icmp { v6, kind } => {
            attempt.protocol == (if *v6 { 58 } else { 1 }) && attempt.port == u16::from(*kind)
        }
        Port::Protocol(number) => *number == attempt.protocol,
        Port::Named { protocol, name } => {
            // The name is one of a container's ports at the destination.
            let server = if attempt.direction == INGRESS {
                match who {
                    Who::Endpoint(id) => cluster.endpoints.get(id),
                    Who::Host => None,
                }
            } else {
                match other(cluster, attempt.peer) {
                    Other::Endpoint(endpoint) => Some(endpoint),
                    _ => None,
                }
            };
            server.is_some_and(|endpoint| {
                endpoint.ports.iter().any(|known| {
                    known.name == *name
                        && known.protocol == *protocol
                        && known.port == attempt.port
                        && attempt.protocol == *protocol
                })
            })
        }
    }
}

/// A node's address is the node's, whoever else claims it.
fn other(cluster: &Cluster, address: IpAddr) -> Other<'_> {
    if let Some(node) = cluster.nodes.values().find(|node| node.addresses.contains(&address)) {
        return Other::Node(node);
    }
    match cluster.endpoints.values().find(|endpoint| endpoint.addresses.contains(&address)) {
        Some(endpoint) => Other::Endpoint(endpoint),
        None => Other::World,
    }
}

fn is_peer(cluster: &Cluster, policy: &Policy, peer: &Peer, address: IpAddr) -> bool {
    let who = other(cluster, address);
    let api_server = cluster.api_servers.contains(&address);
    match peer {
        Peer::Pods { namespaces, pods } => {
            let Other::Endpoint(pod) = who else { return false };
            let namespace = match namespaces {
                None => pod.namespace == policy.namespace,
                Some(s) => matches(s, &plain(&cluster.namespace_labels(&pod.namespace))),
            };
            pod.kind == EndpointKind::Pod
                && namespace
                && matches(pods, &endpoint_labels(cluster, pod))
        }
        Peer::Endpoints(selector) if asks_reserved(selector) => {
            matches(selector, &all_labels(cluster, &who, api_server))
        }
        Peer::Endpoints(selector) => {
            let Other::Endpoint(endpoint) = who else { return false };
            let anywhere = policy.kind == PolicyKind::CiliumClusterwideNetworkPolicy
                || asks(selector, "io.kubernetes.pod.namespace");
            endpoint.kind != EndpointKind::Unmanaged
                && (anywhere || endpoint.namespace == policy.namespace)
                && matches(selector, &all_labels(cluster, &who, api_server))
        }
        Peer::Block { cidr, except } => in_block(cidr, except, address),
        Peer::Group { name, except } => cluster
            .groups
            .get(name)
            .is_some_and(|group| group.cidrs.iter().any(|cidr| in_block(cidr, except, address))),
        Peer::Groups { selector, except } => cluster.groups.values().any(|group| {
            matches(selector, &plain(&group.labels))
                && group.cidrs.iter().any(|cidr| in_block(cidr, except, address))
        }),
        Peer::Entity(entity) => is_entity(*entity, &who, api_server, address),
        Peer::Nodes(selector) => {
            matches!(who, Other::Node(node) if matches(selector, &plain(&node.labels)))
        }
        Peer::Service { namespace, name } => cluster
            .services
            .values()
            .any(|s| s.namespace == *namespace && s.name == *name && behind(cluster, s, address)),
        Peer::Services { namespace, selector } => cluster.services.values().any(|service| {
            (namespace.is_empty() || service.namespace == *namespace)
                && matches(selector, &plain(&service.labels))
                && behind(cluster, service, address)
        }),
        Peer::Name(_) | Peer::CloudGroup => false,
    }
}

fn behind(cluster: &Cluster, service: &Service, address: IpAddr) -> bool {
    let Some(selector) = &service.selector else { return service.addresses.contains(&address) };
    let Other::Endpoint(pod) = other(cluster, address) else { return false };
    pod.kind == EndpointKind::Pod
        && pod.namespace == service.namespace
        && selector.iter().all(|(key, value)| pod.labels.get(key) == Some(value))
}

fn is_entity(entity: Entity, who: &Other<'_>, api_server: bool, address: IpAddr) -> bool {
    let kind = match who {
        Other::Endpoint(endpoint) => Some(endpoint.kind),
        _ => None,
    };
    let world = matches!(who, Other::World);
    match entity {
        Entity::All => true,
        Entity::None => false,
        Entity::World => world,
        Entity::WorldIpv4 => world && address.is_ipv4(),
        Entity::WorldIpv6 => world && address.is_ipv6(),
        Entity::Cluster | Entity::ClusterMesh => !world || api_server,
        Entity::Host => matches!(who, Other::Node(node) if node.this),
        Entity::RemoteNode => matches!(who, Other::Node(node) if !node.this),
        Entity::KubeApiserver => api_server,
        Entity::Health => kind == Some(EndpointKind::Health),
        Entity::Init => kind == Some(EndpointKind::Init),
        Entity::Ingress => kind == Some(EndpointKind::Ingress),
        Entity::Unmanaged => kind == Some(EndpointKind::Unmanaged),
    }
}

fn in_block(cidr: &Cidr, except: &[Cidr], address: IpAddr) -> bool {
    within(cidr, address) && !except.iter().any(|inner| within(inner, address))
}

/// Bit by bit, as the number of them says.
fn within(cidr: &Cidr, address: IpAddr) -> bool {
    let prefix = cidr.prefix();
    let (a, b) = (prefix.address, octets(address));
    cidr.is_v4() == address.is_ipv4()
        && (0..prefix.length as usize).all(|bit| {
            let mask = 0x80 >> (bit % 8);
            a[bit / 8] & mask == b[bit / 8] & mask
        })
}

fn plain(labels: &Labels) -> LabelList {
    labels.iter().map(|(key, value)| ("k8s", key.clone(), value.clone())).collect()
}

fn endpoint_labels(cluster: &Cluster, endpoint: &Endpoint) -> LabelList {
    let mut all = plain(&endpoint.labels);
    let mut add = |source, key: &str, value: &str| {
        all.push((source, key.to_owned(), value.to_owned()));
    };
    if !endpoint.namespace.is_empty() {
        add("k8s", "io.kubernetes.pod.namespace", &endpoint.namespace);
    }
    if !endpoint.service_account.is_empty() {
        add("k8s", "io.cilium.k8s.policy.serviceaccount", &endpoint.service_account);
    }
    if !cluster.options.cluster.is_empty() {
        add("k8s", "io.cilium.k8s.policy.cluster", &cluster.options.cluster);
    }
    for (key, value) in cluster.namespace_labels(&endpoint.namespace) {
        add("k8s", &format!("io.cilium.k8s.namespace.labels.{key}"), &value);
    }
    let reserved = match endpoint.kind {
        EndpointKind::Pod => return all,
        EndpointKind::Init => "init",
        EndpointKind::Health => "health",
        EndpointKind::Ingress => "ingress",
        EndpointKind::Unmanaged => "unmanaged",
    };
    add("reserved", reserved, "");
    all
}

fn all_labels(cluster: &Cluster, who: &Other<'_>, api_server: bool) -> LabelList {
    let mut all = match who {
        Other::Endpoint(endpoint) => endpoint_labels(cluster, endpoint),
        Other::Node(node) => {
            let mut all = plain(&node.labels);
            let name = if node.this { "host" } else { "remote-node" };
            all.push(("reserved", name.to_owned(), String::new()));
            all.push((
                "k8s",
                "io.cilium.k8s.policy.cluster".to_owned(),
                cluster.options.cluster.clone(),
            ));
            all
        }
        Other::World => vec![("reserved", "world".to_owned(), String::new())],
    };
    // An endpoint that is not a pod has one reserved label only.
    let special = matches!(who, Other::Endpoint(endpoint) if endpoint.kind != EndpointKind::Pod);
    if api_server && !special {
        all.push(("reserved", "kube-apiserver".to_owned(), String::new()));
    }
    all
}

/// A key with its source, which is `any` where none is written.
fn split(key: &str) -> (&str, &str) {
    let known = [
        "k8s",
        "any",
        "reserved",
        "container",
        "cidr",
        "cidrgroup",
        "fqdn",
        "node",
        "unspec",
        "mesos",
    ];
    match key.split_once(':') {
        Some((source, rest)) if known.contains(&source) => (source, rest),
        _ => ("any", key),
    }
}

fn asks_reserved(selector: &Selector) -> bool {
    let mut keys = selector
        .match_labels
        .keys()
        .chain(selector.match_expressions.iter().map(|expression| &expression.key));
    keys.any(|key| split(key).0 == "reserved")
}

fn asks(selector: &Selector, name: &str) -> bool {
    let mut keys = selector
        .match_labels
        .keys()
        .chain(selector.match_expressions.iter().map(|expression| &expression.key));
    keys.any(|key| matches!(split(key), ("any" | "k8s", key) if key == name))
}

fn matches(selector: &Selector, labels: &LabelList) -> bool {
    let find = |key: &str| {
        let (source, key) = split(key);
        let fits = |has: &str| has == source || (source == "any" && has == "k8s");
        labels.iter().find(|(has, name, _)| fits(has) && name == key).map(|(_, _, value)| value)
    };
    for (key, value) in &selector.match_labels {
        if find(key) != Some(value) {
            return false;
        }
    }
    for expression in &selector.match_expressions {
        let value = find(&expression.key);
        let fits = match (expression.operator, value) {
            (Operator::Exists, value) => value.is_some(),
            (Operator::DoesNotExist, value) => value.is_none(),
            (Operator::In, None) => false,
            (Operator::NotIn, None) => true,
            (Operator::In, Some(value)) => expression.values.contains(value),
            (Operator::NotIn, Some(value)) => !expression.values.contains(value),
        };
        if !fits {
            return false;
        }
    }
    true
}
