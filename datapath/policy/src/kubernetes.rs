//! `networking.k8s.io/v1` NetworkPolicy.

use std::net::IpAddr;

use serde::Deserialize;

use crate::document::Section;
use crate::selector::Selector;

/// `spec` of a NetworkPolicy.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Spec {
    // Optional since Kubernetes 1.34 says so of an absent selector: it selects every pod.
    #[serde(default)]
    pod_selector: Selector,
    #[serde(default)]
    policy_types: Vec<PolicyType>,
    ingress: Option<Vec<Ingress>>,
    egress: Option<Vec<Egress>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
enum PolicyType {
    Ingress,
    Egress,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Ingress {
    #[serde(default)]
    from: Vec<Peer>,
    #[serde(default)]
    ports: Vec<Port>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Egress {
    #[serde(default)]
    to: Vec<Peer>,
    #[serde(default)]
    ports: Vec<Port>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Peer {
    pod_selector: Option<Selector>,
    namespace_selector: Option<Selector>,
    ip_block: Option<IpBlock>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct IpBlock {
    cidr: String,
    #[serde(default)]
    except: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Port {
    port: Option<NumberOrName>,
    end_port: Option<u16>,
    protocol: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum NumberOrName {
    Number(i64),
    Name(String),
}

// === impl Spec ===

impl Spec {
    pub(crate) fn section(self) -> Result<Section, String> {
        self.pod_selector.validate().map_err(|error| format!("podSelector: {error}"))?;
        for (i, rule) in self.ingress.iter().flatten().enumerate() {
            rule_syntax(&rule.from, &rule.ports).map_err(|e| format!("ingress[{i}]: {e}"))?;
        }
        for (i, rule) in self.egress.iter().flatten().enumerate() {
            rule_syntax(&rule.to, &rule.ports).map_err(|e| format!("egress[{i}]: {e}"))?;
        }
        // API reference, policyTypes: without it, Ingress always, and Egress if there is a rule.
        let stated = !self.policy_types.is_empty();
        let isolates = |kind| self.policy_types.contains(&kind);
        Ok(Section {
            isolates_ingress: !stated || isolates(PolicyType::Ingress),
            isolates_egress: isolates(PolicyType::Egress) || (!stated && self.egress.is_some()),
            ingress_rules: self.ingress.map_or(0, |rules| rules.len()),
            egress_rules: self.egress.map_or(0, |rules| rules.len()),
            subject: self.pod_selector,
            nodes: false,
        })
    }
}

fn rule_syntax(peers: &[Peer], ports: &[Port]) -> Result<(), String> {
    peers.iter().try_for_each(peer_syntax)?;
    ports.iter().try_for_each(port_syntax)
}

fn peer_syntax(peer: &Peer) -> Result<(), String> {
    let selects = peer.pod_selector.is_some() || peer.namespace_selector.is_some();
    match &peer.ip_block {
        Some(_) if selects => Err("a peer has either ipBlock or selectors".to_owned()),
        Some(block) => block.validate(),
        None if selects => [&peer.pod_selector, &peer.namespace_selector]
            .into_iter()
            .flatten()
            .try_for_each(Selector::validate),
        None => Err("a peer needs podSelector, namespaceSelector or ipBlock".to_owned()),
    }
}

fn port_syntax(port: &Port) -> Result<(), String> {
    if let Some(protocol) = &port.protocol
        && !matches!(protocol.as_str(), "TCP" | "UDP" | "SCTP")
    {
        return Err(format!("protocol {protocol:?} is not TCP, UDP or SCTP"));
    }
    match (&port.port, port.end_port) {
        (Some(NumberOrName::Number(n)), _) if !(1..=65535).contains(n) => {
            Err(format!("port {n} is not between 1 and 65535"))
        }
        (Some(NumberOrName::Number(n)), Some(end)) if i64::from(end) < *n => {
            Err(format!("endPort {end} is below port {n}"))
        }
        (Some(NumberOrName::Name(name)), Some(_)) => {
            Err(format!("endPort needs a numeric port, not {name:?}"))
        }
        (None, Some(_)) => Err("endPort needs a port".to_owned()),
        _ => Ok(()),
    }
}

// === impl IpBlock ===

impl IpBlock {
    fn validate(&self) -> Result<(), String> {
        let (block, length) = cidr(&self.cidr)?;
        for text in &self.except {
            let (inner, inner_length) = cidr(text)?;
            if inner_length <= length || !contains(block, length, inner) {
                return Err(format!("except {text} is not inside {}", self.cidr));
            }
        }
        Ok(())
    }
}

/// Parses `address/length`.
pub(crate) fn cidr(text: &str) -> Result<(IpAddr, u8), String> {
    let parsed = text.split_once('/').and_then(|(address, length)| {
        let address: IpAddr = address.parse().ok()?;
        let length: u8 = length.parse().ok()?;
        (length <= if address.is_ipv4() { 32 } else { 128 }).then_some((address, length))
    });
    parsed.ok_or_else(|| format!("{text:?} is not a CIDR"))
}

fn contains(block: IpAddr, length: u8, address: IpAddr) -> bool {
    let (a, b, width) = match (block, address) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (u128::from(a.to_bits()), u128::from(b.to_bits()), 32),
        (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits(), b.to_bits(), 128),
        _ => return false,
    };
    (a ^ b).checked_shr(width - u32::from(length)).unwrap_or(0) == 0
}
