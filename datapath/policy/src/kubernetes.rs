//! `networking.k8s.io/v1` NetworkPolicy.

use serde::Deserialize;

use crate::address::Cidr;
use crate::cilium::ports::port_name;
use crate::rule::{Peer, Port, Rule, Section};
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

// `null` is the same as absent to the API server.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Ingress {
    from: Option<Vec<ApiPeer>>,
    ports: Option<Vec<ApiPort>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Egress {
    to: Option<Vec<ApiPeer>>,
    ports: Option<Vec<ApiPort>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ApiPeer {
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
struct ApiPort {
    port: Option<NumberOrName>,
    end_port: Option<i64>,
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
        self.pod_selector.validate_plain().map_err(|error| format!("podSelector: {error}"))?;
        if self.policy_types.len() > 2 {
            return Err("policyTypes: at most two".to_owned());
        }
        // API reference, policyTypes: without it, Ingress always, and Egress if there is a rule.
        let stated = !self.policy_types.is_empty();
        let isolates = |kind| self.policy_types.contains(&kind);
        let isolates_ingress = !stated || isolates(PolicyType::Ingress);
        let isolates_egress = isolates(PolicyType::Egress) || (!stated && self.egress.is_some());
        let mut ingress = Vec::new();
        for (i, rule) in self.ingress.into_iter().flatten().enumerate() {
            let rule = rule_of(i, "from", rule.from, rule.ports);
            ingress.push(rule.map_err(|error| format!("ingress[{i}].{error}"))?);
        }
        let mut egress = Vec::new();
        for (i, rule) in self.egress.into_iter().flatten().enumerate() {
            let rule = rule_of(i, "to", rule.to, rule.ports);
            egress.push(rule.map_err(|error| format!("egress[{i}].{error}"))?);
        }
        // Rules of a direction that policyTypes leaves out are without effect.
        if !isolates_ingress {
            ingress.clear();
        }
        if !isolates_egress {
            egress.clear();
        }
        Ok(Section {
            subject: self.pod_selector,
            nodes: false,
            isolates_ingress,
            isolates_egress,
            ingress,
            egress,
        })
    }
}

/// An empty list is the same as none: everybody, or every port.
fn rule_of(
    index: usize,
    name: &str,
    peers: Option<Vec<ApiPeer>>,
    ports: Option<Vec<ApiPort>>,
) -> Result<Rule, String> {
    let (peers, ports) = (peers.unwrap_or_default(), ports.unwrap_or_default());
    let any_peer = peers.is_empty();
    let peers: Result<Vec<Peer>, String> = peers
        .into_iter()
        .enumerate()
        .map(|(i, peer)| peer.peer().map_err(|error| format!("{name}[{i}]: {error}")))
        .collect();
    let any_port = ports.is_empty();
    let ports: Result<Vec<Port>, String> = ports
        .into_iter()
        .enumerate()
        .map(|(i, port)| port.port().map_err(|error| format!("ports[{i}]: {error}")))
        .collect();
    Ok(Rule {
        deny: false,
        index,
        peers: Some(peers?).filter(|_| !any_peer),
        ports: Some(ports?).filter(|_| !any_port),
        effective: true,
        not_enforced: Vec::new(),
        lines: None,
    })
}

// === impl ApiPeer ===

impl ApiPeer {
    fn peer(self) -> Result<Peer, String> {
        let selects = self.pod_selector.is_some() || self.namespace_selector.is_some();
        match self.ip_block {
            Some(_) if selects => Err("a peer has either ipBlock or selectors".to_owned()),
            Some(block) => block.peer().map_err(|error| format!("ipBlock: {error}")),
            None if selects => {
                for selector in [&self.pod_selector, &self.namespace_selector].into_iter().flatten()
                {
                    selector.validate_plain()?;
                }
                let pods = self.pod_selector.unwrap_or_default();
                Ok(Peer::Pods { namespaces: self.namespace_selector, pods })
            }
            None => Err("a peer needs podSelector, namespaceSelector or ipBlock".to_owned()),
        }
    }
}

// === impl IpBlock ===

impl IpBlock {
    fn peer(&self) -> Result<Peer, String> {
        let cidr: Cidr = self.cidr.parse()?;
        let mut except = Vec::with_capacity(self.except.len());
        for text in &self.except {
            let inner: Cidr = text.parse()?;
            if inner.length() <= cidr.length() || !cidr.contains(&inner) {
                return Err(format!("except {text} is not inside {}", self.cidr));
            }
            except.push(inner);
        }
        Ok(Peer::Block { cidr, except })
    }
}

// === impl ApiPort ===

impl ApiPort {
    fn port(&self) -> Result<Port, String> {
        let protocol = match self.protocol.as_deref() {
            None | Some("TCP") => 6,
            Some("UDP") => 17,
            Some("SCTP") => 132,
            Some(other) => return Err(format!("protocol {other:?} is not TCP, UDP or SCTP")),
        };
        let number = |n: i64| u16::try_from(n).ok().filter(|n| *n > 0);
        match (&self.port, self.end_port) {
            (None, None) => Ok(Port::Range { protocol, first: 0, last: u16::MAX }),
            (None, Some(_)) => Err("endPort needs a port".to_owned()),
            (Some(NumberOrName::Name(name)), Some(_)) => {
                Err(format!("endPort needs a numeric port, not {name:?}"))
            }
            (Some(NumberOrName::Name(name)), None) => {
                // The API server compares names without regard to case nowhere: they are lower case.
                port_name(name)?;
                Ok(Port::Named { protocol, name: name.clone() })
            }
            (Some(NumberOrName::Number(n)), end) => {
                let range = |n| format!("port {n} is not between 1 and 65535");
                let first = number(*n).ok_or_else(|| range(*n))?;
                let last = match end {
                    None => first,
                    Some(end) if end < i64::from(first) => {
                        return Err(format!("endPort {end} is below port {first}"));
                    }
                    Some(end) => {
                        number(end).ok_or_else(|| format!("endPort {end}: {}", range(end)))?
                    }
                };
                Ok(Port::Range { protocol, first, last })
            }
        }
    }
}
