//! What matched, and what did not.

use std::net::IpAddr;

use datapath_abi::policy::{DENY, EGRESS};
use datapath_engine::policy::Decision;

use crate::address::Cidr;
use crate::compiler::facts::{Facts, Kind};
use crate::compiler::peers::PeerKey;
use crate::compiler::selectors::{Atom, Matcher, SelectorKey, on_labels};
use crate::compiler::{Compiler, OriginInfo, OriginKind, Owner};
use crate::document::{Policy, PolicyKey};
use crate::explain::Miss;
use crate::rule::{Peer, Port, Rule};
use crate::selector::{Operator, Selector, Subject};

/// Misses that are told.
const MOST: usize = 5;

impl Compiler {
    /// The first interface of whoever has the address.
    pub(crate) fn interface_of(&self, address: IpAddr) -> Option<u32> {
        let owner = self.owner(address)?;
        self.local_interface(owner)
    }

    pub(crate) fn who(&self, address: IpAddr) -> String {
        match self.owner(address) {
            Some(Owner::Endpoint(id)) => format!("endpoint {id}"),
            Some(Owner::Node(name)) => format!("node {name}"),
            None => "world".to_owned(),
        }
    }

    /// What is behind an address, and the prefix or address that says so.
    pub(crate) fn facts_at(&self, address: IpAddr) -> Facts {
        let key = PeerKey { cidr: Cidr::host(address), host: true };
        match self.facts(&key) {
            Some(facts) => (**facts).clone(),
            None => Facts::bare(Kind::World),
        }
    }

    /// What of the peer is asked for by the peers of the rule that matched.
    pub(super) fn matched(
        &self,
        origin: Option<&OriginInfo>,
        direction: usize,
        peer: IpAddr,
    ) -> Vec<String> {
        let Some(origin) = origin else { return Vec::new() };
        let OriginKind::Policy(kind) = origin.kind else { return Vec::new() };
        let Some((namespace, name)) = origin.name.split_once('/') else { return Vec::new() };
        let key = PolicyKey { kind, namespace: namespace.to_owned(), name: name.to_owned() };
        let Some(policy) = self.cluster().policies.get(&key) else { return Vec::new() };
        let section = policy.sections.get(origin.section.unwrap_or(0));
        let rules = section.map_or(&[][..], |section| section.rules(direction));
        let found = rules
            .iter()
            .find(|rule| rule.deny == origin.deny_list && Some(rule.index) == origin.rule);
        let facts = self.facts_at(peer);
        match found.map(|rule| &rule.peers) {
            Some(None) => vec!["everybody".to_owned()],
            Some(Some(peers)) => {
                let one = peers.iter().find(|one| self.is_peer(one, policy, &facts, peer));
                one.map(|one| describe(one, &facts)).unwrap_or_default()
            }
            None => Vec::new(),
        }
    }

    fn is_peer(&self, peer: &Peer, policy: &Policy, facts: &Facts, address: IpAddr) -> bool {
        let mut atoms = Vec::new();
        Atom::resolve(peer, policy, self.cluster(), &mut atoms);
        let key = std::sync::Arc::new(SelectorKey::new(atoms, None));
        Matcher::new(key).matches(facts, &Cidr::host(address))
    }

    /// Rules of the selecting policies that would have said something else.
    pub(super) fn misses(
        &self,
        own: IpAddr,
        direction: usize,
        peer: IpAddr,
        port: (u8, u16),
        decision: &Decision,
    ) -> Vec<Miss> {
        let facts = self.facts_at(peer);
        let mut misses = Vec::new();
        for (key, index) in self.sections_at(own) {
            let Some(policy) = self.cluster().policies.get(&*key) else { continue };
            let Some(section) = policy.sections.get(index) else { continue };
            for rule in section.rules(direction) {
                // A denied connection lacks an allow, an allowed one no deny worth telling.
                if rule.deny || decision.verdict != DENY {
                    continue;
                }
                let server = if direction == EGRESS { peer } else { own };
                let mut failed = self.port_failures(rule, server, port);
                failed.extend(self.peer_failures(rule, policy, &facts, peer));
                if !rule.effective {
                    failed.push("it allows nothing as it is written".to_owned());
                }
                if failed.is_empty() {
                    continue;
                }
                let egress = direction == EGRESS;
                let text = self.text_of(&key, index, rule.index, egress, rule.deny);
                misses.extend(text.map(|rule| Miss { rule, failed }));
            }
        }
        misses.sort_by_key(|miss| miss.failed.len());
        misses.truncate(MOST);
        misses
    }

    fn port_failures(
        &self,
        rule: &Rule,
        server: IpAddr,
        (protocol, port): (u8, u16),
    ) -> Vec<String> {
        let Some(ports) = &rule.ports else { return Vec::new() };
        let named = self.facts_at(server).ports;
        let fits = ports.iter().any(|one| match one {
            Port::Range { protocol: p, first, last } => {
                *p == protocol && (*first..=*last).contains(&port)
            }
            Port::Icmp { v6, kind } => {
                protocol == (if *v6 { 58 } else { 1 }) && port == u16::from(*kind)
            }
            Port::Protocol(p) => *p == protocol,
            Port::Named { protocol: p, name } => {
                *p == protocol
                    && named.iter().any(|n| n.name == *name && n.protocol == *p && n.port == port)
            }
        });
        if fits {
            return Vec::new();
        }
        let list: Vec<String> = ports.iter().take(8).map(port_text).collect();
        vec![format!("ports: {}, asked for {}", list.join(", "), asked_text(protocol, port))]
    }

    fn peer_failures(
        &self,
        rule: &Rule,
        policy: &Policy,
        facts: &Facts,
        address: IpAddr,
    ) -> Vec<String> {
        let Some(peers) = &rule.peers else { return Vec::new() };
        if peers.iter().any(|peer| self.is_peer(peer, policy, facts, address)) {
            return Vec::new();
        }
        // Of several peers, that which lacks least.
        let failures = peers.iter().map(|peer| failures(peer, policy, facts, address));
        failures.min_by_key(Vec::len).unwrap_or_else(|| vec!["peers: the list is empty".to_owned()])
    }
}

/// What a peer asks for and the address has.
fn describe(peer: &Peer, facts: &Facts) -> Vec<String> {
    let labels = |selector: &Selector, of: &str| -> Vec<String> {
        let plain = facts.subject();
        let on = |key: &str| {
            if of == "namespace " {
                facts.namespace_labels.get(key).map(String::as_str)
            } else {
                plain.get(key)
            }
        };
        let each = selector.keys().map(|key| match on(key) {
            Some(value) => format!("{of}label {key}={value}"),
            None => format!("{of}label {key} absent"),
        });
        let found: Vec<String> = each.collect();
        if found.is_empty() { vec![format!("any {of}labels")] } else { found }
    };
    match peer {
        Peer::Pods { namespaces, pods } => {
            let mut all = match namespaces {
                Some(namespaces) => labels(namespaces, "namespace "),
                None => vec![format!("namespace {}", facts.namespace)],
            };
            all.extend(labels(pods, ""));
            all
        }
        Peer::Endpoints(selector) | Peer::Nodes(selector) => labels(selector, ""),
        Peer::Block { cidr, .. } => vec![format!("in {cidr}")],
        Peer::Group { name, .. } => vec![format!("in group {name}")],
        Peer::Groups { .. } => vec!["in a group with these labels".to_owned()],
        Peer::Entity(entity) => vec![format!("entity {entity:?}")],
        Peer::Service { namespace, name } => vec![format!("behind service {namespace}/{name}")],
        Peer::Services { .. } => vec!["behind a service with these labels".to_owned()],
        Peer::Name(_) | Peer::CloudGroup => Vec::new(),
    }
}

/// Every requirement of a peer that fails.
fn failures(peer: &Peer, policy: &Policy, facts: &Facts, address: IpAddr) -> Vec<String> {
    let pod = matches!(facts.kind, Kind::Endpoint(_));
    let mut failed = Vec::new();
    match peer {
        Peer::Pods { namespaces, pods } => {
            if !pod {
                return vec![format!("{address} is not a pod")];
            }
            match namespaces {
                None if facts.namespace != policy.namespace => failed
                    .push(format!("namespace: wants {}, is {}", policy.namespace, facts.namespace)),
                Some(namespaces) if !on_labels(namespaces, &facts.namespace_labels) => {
                    let subject = Subject { labels: &facts.namespace_labels, ..facts.subject() };
                    failed.extend(selector_failures(namespaces, &subject, "namespace "));
                }
                _ => {}
            }
            failed.extend(selector_failures(pods, &facts.subject(), ""));
        }
        Peer::Endpoints(selector) => {
            if !pod && !selector.names_reserved() {
                return vec![format!("{address} is not an endpoint")];
            }
            let own = !policy.namespace.is_empty()
                && !selector.names_namespace()
                && !selector.names_reserved();
            if own && facts.namespace != policy.namespace {
                failed
                    .push(format!("namespace: wants {}, is {}", policy.namespace, facts.namespace));
            }
            failed.extend(selector_failures(selector, &facts.subject(), ""));
        }
        Peer::Nodes(selector) => {
            if pod || facts.kind == Kind::World {
                return vec![format!("{address} is not a node")];
            }
            failed.extend(selector_failures(selector, &facts.subject(), ""));
        }
        Peer::Block { cidr, except } => {
            match except.iter().find(|inner| inner.has(address)).filter(|_| cidr.has(address)) {
                Some(inner) => failed.push(format!("{address} is in {cidr} but in except {inner}")),
                None => failed.push(format!("{address} is not in {cidr}")),
            }
        }
        Peer::Group { name, .. } => failed.push(format!("{address} is not in group {name}")),
        Peer::Groups { .. } => failed.push(format!("{address} is in no such group")),
        Peer::Entity(entity) => failed.push(format!("{address} is not of entity {entity:?}")),
        Peer::Service { namespace, name } => {
            failed.push(format!("{address} is not behind service {namespace}/{name}"));
        }
        Peer::Services { .. } => failed.push(format!("{address} is behind no such service")),
        Peer::Name(name) => failed.push(format!("DNS name {name}: not enforced yet")),
        Peer::CloudGroup => failed.push("cloud groups are not resolved".to_owned()),
    }
    if failed.is_empty() {
        failed.push("the peer is not selected".to_owned());
    }
    failed
}

fn selector_failures(selector: &Selector, subject: &Subject<'_>, of: &str) -> Vec<String> {
    let has = |key: &str| subject.get(key).map_or("is absent".to_owned(), |v| format!("is {v}"));
    let labels = selector
        .match_labels
        .iter()
        .filter(|(key, value)| subject.get(key) != Some(value.as_str()));
    let mut failed: Vec<String> = labels
        .map(|(key, value)| format!("{of}label {key}: wants {value}, {}", has(key)))
        .collect();
    for requirement in selector.match_expressions.iter().filter(|r| !r.matches(subject)) {
        let values = requirement.values.join(", ");
        let key = &requirement.key;
        let wants = match requirement.operator {
            Operator::In => format!("one of {values}"),
            Operator::NotIn => format!("none of {values}"),
            Operator::Exists => "it there".to_owned(),
            Operator::DoesNotExist => "it absent".to_owned(),
        };
        failed.push(format!("{of}label {key}: wants {wants}, {}", has(key)));
    }
    failed
}

fn port_text(port: &Port) -> String {
    match port {
        Port::Range { protocol, first: 0, last: u16::MAX } => {
            format!("every {}", protocol_name(*protocol))
        }
        Port::Range { protocol, first, last } if first == last => {
            format!("{first}/{}", protocol_name(*protocol))
        }
        Port::Range { protocol, first, last } => {
            format!("{first}-{last}/{}", protocol_name(*protocol))
        }
        Port::Named { protocol, name } => format!("{name}/{}", protocol_name(*protocol)),
        Port::Icmp { v6, kind } => format!("type {kind}/{}", if *v6 { "ICMPv6" } else { "ICMP" }),
        Port::Protocol(number) => format!("protocol {number}"),
    }
}

fn asked_text(protocol: u8, port: u16) -> String {
    match protocol {
        6 | 17 | 132 => format!("{port}/{}", protocol_name(protocol)),
        1 => format!("type {port}/ICMP"),
        58 => format!("type {port}/ICMPv6"),
        other => format!("protocol {other}"),
    }
}

pub(super) fn protocol_name(protocol: u8) -> &'static str {
    match protocol {
        6 => "TCP",
        17 => "UDP",
        _ => "SCTP",
    }
}
