//! `cilium.io/v2` CiliumNetworkPolicy and CiliumClusterwideNetworkPolicy.

pub(crate) mod ports;

use serde::Deserialize;
use serde_norway::Value;

use crate::address::Cidr;
use crate::cilium::ports::{Icmp, ToPort};
use crate::rule::{Entity, Peer, Rule, Section};
use crate::selector::Selector;

/// `spec`, or one of `specs`, of a Cilium policy. A field that Cilium does not have is an error.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Spec {
    endpoint_selector: Option<Selector>,
    node_selector: Option<Selector>,
    #[serde(default)]
    ingress: Option<Vec<Ingress>>,
    #[serde(default)]
    ingress_deny: Option<Vec<Ingress>>,
    #[serde(default)]
    egress: Option<Vec<Egress>>,
    #[serde(default)]
    egress_deny: Option<Vec<Egress>>,
    #[serde(default)]
    enable_default_deny: DefaultDeny,
    #[serde(default, rename = "description")]
    _description: String,
    #[serde(default, rename = "labels")]
    _labels: Value,
    #[serde(default, rename = "log")]
    _log: Log,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct DefaultDeny {
    ingress: Option<bool>,
    egress: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Log {
    #[serde(default, rename = "value")]
    _value: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Ingress {
    from_endpoints: Option<Vec<Selector>>,
    from_nodes: Option<Vec<Selector>>,
    from_entities: Option<Vec<String>>,
    #[serde(rename = "fromCIDR")]
    from_cidr: Option<Vec<String>>,
    #[serde(rename = "fromCIDRSet")]
    from_cidr_set: Option<Vec<CidrSet>>,
    from_requires: Option<Vec<Value>>,
    from_groups: Option<Vec<Value>>,
    to_ports: Option<Vec<ToPort>>,
    icmps: Option<Vec<Icmp>>,
    authentication: Option<Authentication>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Egress {
    to_endpoints: Option<Vec<Selector>>,
    to_nodes: Option<Vec<Selector>>,
    to_entities: Option<Vec<String>>,
    #[serde(rename = "toCIDR")]
    to_cidr: Option<Vec<String>>,
    #[serde(rename = "toCIDRSet")]
    to_cidr_set: Option<Vec<CidrSet>>,
    to_requires: Option<Vec<Value>>,
    to_groups: Option<Vec<Value>>,
    #[serde(rename = "toFQDNs")]
    to_fqdns: Option<Vec<Name>>,
    to_services: Option<Vec<ToService>>,
    to_ports: Option<Vec<ToPort>>,
    icmps: Option<Vec<Icmp>>,
    authentication: Option<Authentication>,
}

/// Both of them under one set of names.
struct Common {
    names: [&'static str; 8],
    endpoints: Option<Vec<Selector>>,
    nodes: Option<Vec<Selector>>,
    entities: Option<Vec<String>>,
    cidrs: Option<Vec<String>>,
    sets: Option<Vec<CidrSet>>,
    requires: Option<Vec<Value>>,
    groups: Option<Vec<Value>>,
    fqdns: Option<Vec<Name>>,
    services: Option<Vec<ToService>>,
    ports: Option<Vec<ToPort>>,
    icmps: Option<Vec<Icmp>>,
    authentication: Option<Authentication>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct CidrSet {
    cidr: Option<String>,
    cidr_group_ref: Option<String>,
    cidr_group_selector: Option<Selector>,
    #[serde(default)]
    except: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Name {
    match_name: Option<String>,
    match_pattern: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ToService {
    k8s_service: Option<ServiceName>,
    k8s_service_selector: Option<ServiceSelector>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ServiceName {
    #[serde(default)]
    service_name: String,
    #[serde(default)]
    namespace: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ServiceSelector {
    selector: Selector,
    #[serde(default)]
    namespace: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Authentication {
    mode: String,
}

// === impl Spec ===

impl Spec {
    pub(crate) fn section(self, namespace: &str, clusterwide: bool) -> Result<Section, String> {
        let (subject, nodes) = match (self.endpoint_selector, self.node_selector) {
            (Some(selector), None) => (selector, false),
            (None, Some(selector)) if clusterwide => (selector, true),
            (None, Some(_)) => {
                return Err("nodeSelector: only for CiliumClusterwideNetworkPolicy".to_owned());
            }
            _ => return Err("exactly one of endpointSelector and nodeSelector".to_owned()),
        };
        let name = if nodes { "nodeSelector" } else { "endpointSelector" };
        subject.validate().map_err(|error| format!("{name}: {error}"))?;
        let mut ingress = Vec::new();
        list("ingressDeny", self.ingress_deny, true, namespace, &mut ingress)?;
        list("ingress", self.ingress, false, namespace, &mut ingress)?;
        let mut egress = Vec::new();
        list("egressDeny", self.egress_deny, true, namespace, &mut egress)?;
        list("egress", self.egress, false, namespace, &mut egress)?;
        if ingress.is_empty() && egress.is_empty() {
            return Err("at least one of ingress, ingressDeny, egress, egressDeny is needed".into());
        }
        Ok(Section {
            subject,
            nodes,
            // Deny lists isolate as well.
            isolates_ingress: self.enable_default_deny.ingress.unwrap_or(!ingress.is_empty()),
            isolates_egress: self.enable_default_deny.egress.unwrap_or(!egress.is_empty()),
            ingress,
            egress,
        })
    }
}

fn list<R: Into<Common>>(
    name: &str,
    rules: Option<Vec<R>>,
    deny: bool,
    namespace: &str,
    into: &mut Vec<Rule>,
) -> Result<(), String> {
    for (index, rule) in rules.into_iter().flatten().enumerate() {
        let rule = Common::rule(rule.into(), deny, index, namespace);
        into.push(rule.map_err(|error| format!("{name}[{index}].{error}"))?);
    }
    Ok(())
}

// === impl Common ===

impl From<Ingress> for Common {
    fn from(rule: Ingress) -> Self {
        Self {
            names: [
                "fromEndpoints",
                "fromNodes",
                "fromEntities",
                "fromCIDR",
                "fromCIDRSet",
                "fromGroups",
                "toFQDNs",
                "toServices",
            ],
            endpoints: rule.from_endpoints,
            nodes: rule.from_nodes,
            entities: rule.from_entities,
            cidrs: rule.from_cidr,
            sets: rule.from_cidr_set,
            requires: rule.from_requires,
            groups: rule.from_groups,
            fqdns: None,
            services: None,
            ports: rule.to_ports,
            icmps: rule.icmps,
            authentication: rule.authentication,
        }
    }
}

impl From<Egress> for Common {
    fn from(rule: Egress) -> Self {
        Self {
            names: [
                "toEndpoints",
                "toNodes",
                "toEntities",
                "toCIDR",
                "toCIDRSet",
                "toGroups",
                "toFQDNs",
                "toServices",
            ],
            endpoints: rule.to_endpoints,
            nodes: rule.to_nodes,
            entities: rule.to_entities,
            cidrs: rule.to_cidr,
            sets: rule.to_cidr_set,
            requires: rule.to_requires,
            groups: rule.to_groups,
            fqdns: rule.to_fqdns,
            services: rule.to_services,
            ports: rule.to_ports,
            icmps: rule.icmps,
            authentication: rule.authentication,
        }
    }
}

impl Common {
    fn rule(self, deny: bool, index: usize, namespace: &str) -> Result<Rule, String> {
        // Present but empty is what Kubernetes' generated API files contain.
        if self.requires.as_ref().is_some_and(|list| !list.is_empty()) {
            let name = if self.names[0] == "fromEndpoints" { "fromRequires" } else { "toRequires" };
            return Err(format!("{name}: no longer supported; write the labels into each peer"));
        }
        let mut not_enforced = Vec::new();
        let egress = self.names[0] == "toEndpoints";
        if deny && self.fqdns.is_some() {
            return Err("toFQDNs: a deny rule cannot name DNS names".to_owned());
        }
        let authentication = self.authentication(deny, &mut not_enforced)?;
        let present = self.present();
        let full: Vec<&str> =
            present.iter().filter(|(_, n)| *n > 0).map(|(name, _)| *name).collect();
        if let [first, second, ..] = full[..] {
            return Err(format!(
                "{first}: combining it with {second} is not supported; write two rules"
            ));
        }
        let mut peers = (!present.is_empty()).then(Vec::new);
        if let Some(peers) = &mut peers {
            self.peers(namespace, peers)?;
        }
        if self.fqdns.as_ref().is_some_and(|names| !names.is_empty()) {
            not_enforced.push("toFQDNs: it allows nothing until DNS names are enforced".to_owned());
        }
        if self.groups.as_ref().is_some_and(|groups| !groups.is_empty()) {
            not_enforced.push(format!("{}: cloud groups are not resolved", self.names[5]));
        }
        let ports = ports::ports(self.ports, self.icmps, deny, egress, &mut not_enforced)?;
        let effective = authentication && (peers.is_some() || ports.is_some());
        Ok(Rule { deny, index, peers, ports, effective, not_enforced, lines: None })
    }

    /// Whether the rule may allow something.
    fn authentication(&self, deny: bool, notes: &mut Vec<String>) -> Result<bool, String> {
        let Some(authentication) = &self.authentication else { return Ok(true) };
        if deny {
            return Err("authentication: not in a deny rule".to_owned());
        }
        match authentication.mode.as_str() {
            "disabled" => Ok(true),
            "required" | "test-always-fail" => {
                notes.push(
                    "authentication: it allows nothing, for nobody can authenticate".to_owned(),
                );
                Ok(false)
            }
            mode => Err(format!("authentication.mode: there is no mode {mode:?}")),
        }
    }

    /// The members that are there, with their number of elements.
    fn present(&self) -> Vec<(&'static str, usize)> {
        let counts = [
            self.endpoints.as_ref().map(Vec::len),
            self.nodes.as_ref().map(Vec::len),
            self.entities.as_ref().map(Vec::len),
            self.cidrs.as_ref().map(Vec::len),
            self.sets.as_ref().map(Vec::len),
            self.groups.as_ref().map(Vec::len),
            self.fqdns.as_ref().map(Vec::len),
            self.services.as_ref().map(Vec::len),
        ];
        self.names
            .into_iter()
            .zip(counts)
            .filter_map(|(name, count)| Some((name, count?)))
            .collect()
    }

    fn peers(&self, namespace: &str, into: &mut Vec<Peer>) -> Result<(), String> {
        let [endpoints, nodes, entities, cidr, set, _, fqdns, services] = self.names;
        each(endpoints, &self.endpoints, into, |selector| {
            selector.validate().map(|()| Peer::Endpoints(selector.clone()))
        })?;
        each(nodes, &self.nodes, into, |selector| {
            selector.validate().map(|()| Peer::Nodes(selector.clone()))
        })?;
        each(entities, &self.entities, into, |name| {
            let entity = Entity::of(name).ok_or_else(|| format!("there is no entity {name:?}"))?;
            Ok(Peer::Entity(entity))
        })?;
        each(cidr, &self.cidrs, into, |text| {
            Ok(Peer::Block { cidr: cidr_or_address(text)?, except: Vec::new() })
        })?;
        each(set, &self.sets, into, CidrSet::peer)?;
        if self.groups.as_ref().is_some_and(|groups| !groups.is_empty()) {
            into.push(Peer::CloudGroup);
        }
        each(fqdns, &self.fqdns, into, Name::peer)?;
        each(services, &self.services, into, |service| service.peer(namespace))
    }
}

fn each<T>(
    name: &str,
    list: &Option<Vec<T>>,
    into: &mut Vec<Peer>,
    peer: impl Fn(&T) -> Result<Peer, String>,
) -> Result<(), String> {
    for (i, item) in list.iter().flatten().enumerate() {
        into.push(peer(item).map_err(|error| format!("{name}[{i}]: {error}"))?);
    }
    Ok(())
}

/// A bare address is allowed here, unlike in Kubernetes.
pub(crate) fn cidr_or_address(text: &str) -> Result<Cidr, String> {
    text.parse().map(Cidr::host).or_else(|_| text.parse())
}

// === impl CidrSet ===

impl CidrSet {
    fn peer(&self) -> Result<Peer, String> {
        let except: Result<Vec<Cidr>, String> =
            self.except.iter().map(|text| text.parse::<Cidr>()).collect();
        let except = except.map_err(|error| format!("except: {error}"))?;
        match (&self.cidr, &self.cidr_group_ref, &self.cidr_group_selector) {
            (Some(text), None, None) => {
                let cidr = cidr_or_address(text)?;
                if let Some(outside) = except.iter().find(|inner| !cidr.contains(inner)) {
                    return Err(format!("except {outside} is not inside {text}"));
                }
                Ok(Peer::Block { cidr, except })
            }
            (None, Some(name), None) if !name.is_empty() => {
                Ok(Peer::Group { name: name.clone(), except })
            }
            (None, None, Some(selector)) => {
                selector.validate()?;
                Ok(Peer::Groups { selector: selector.clone(), except })
            }
            _ => Err("exactly one of cidr, cidrGroupRef and cidrGroupSelector".to_owned()),
        }
    }
}

// === impl Name ===

impl Name {
    fn peer(&self) -> Result<Peer, String> {
        let (text, pattern) = match (&self.match_name, &self.match_pattern) {
            (Some(name), None) => (name, false),
            (None, Some(pattern)) => (pattern, true),
            _ => return Err("exactly one of matchName and matchPattern".to_owned()),
        };
        let known = |c: char| {
            c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') || (pattern && c == '*')
        };
        let dots = text.starts_with('.') || text.contains("..");
        if text.is_empty() || text.len() > 255 || dots || !text.chars().all(known) {
            return Err(format!("{text:?} is not a DNS name"));
        }
        Ok(Peer::Name(text.to_ascii_lowercase()))
    }
}

// === impl ToService ===

impl ToService {
    /// A service without a namespace is one of the policy's.
    fn peer(&self, own: &str) -> Result<Peer, String> {
        let namespace = |stated: &str| if stated.is_empty() { own } else { stated }.to_owned();
        match (&self.k8s_service, &self.k8s_service_selector) {
            (Some(service), None) if !service.service_name.is_empty() => Ok(Peer::Service {
                namespace: namespace(&service.namespace),
                name: service.service_name.clone(),
            }),
            (None, Some(service)) => {
                service.selector.validate()?;
                Ok(Peer::Services {
                    namespace: namespace(&service.namespace),
                    selector: service.selector.clone(),
                })
            }
            _ => Err("exactly one of k8sService and k8sServiceSelector".to_owned()),
        }
    }
}
