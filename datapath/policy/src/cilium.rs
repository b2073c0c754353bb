//! `cilium.io/v2` CiliumNetworkPolicy and CiliumClusterwideNetworkPolicy.

use serde::Deserialize;

use crate::document::Section;
use crate::kubernetes::cidr;
use crate::selector::Selector;

/// `spec`, or one of `specs`, of a Cilium policy. Fields of a rule that are not examined are kept
/// as they are; a field that Cilium does not have is an error.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Spec {
    endpoint_selector: Option<Selector>,
    node_selector: Option<Selector>,
    ingress: Option<Vec<Rule>>,
    ingress_deny: Option<Vec<Rule>>,
    egress: Option<Vec<Rule>>,
    egress_deny: Option<Vec<Rule>>,
    #[serde(default)]
    enable_default_deny: DefaultDeny,
    #[serde(default, rename = "description")]
    _description: String,
    #[serde(default, rename = "labels")]
    _labels: serde_norway::Value,
    #[serde(default, rename = "log")]
    _log: serde_norway::Value,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct DefaultDeny {
    ingress: Option<bool>,
    egress: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Rule {
    #[serde(default, alias = "toEndpoints")]
    from_endpoints: Vec<Selector>,
    #[serde(default, alias = "toNodes")]
    from_nodes: Vec<Selector>,
    #[serde(default, alias = "toEntities")]
    from_entities: Vec<String>,
    #[serde(default, alias = "toCIDR", rename = "fromCIDR")]
    from_cidr: Vec<String>,
    #[serde(default, alias = "toCIDRSet", rename = "fromCIDRSet")]
    from_cidr_set: Vec<serde_norway::Value>,
    #[serde(default, alias = "toRequires")]
    from_requires: Vec<Selector>,
    #[serde(default, alias = "toGroups", rename = "fromGroups")]
    _from_groups: serde_norway::Value,
    #[serde(default, rename = "toFQDNs")]
    _to_fqdns: serde_norway::Value,
    #[serde(default, rename = "toServices")]
    _to_services: serde_norway::Value,
    #[serde(default, rename = "toPorts")]
    to_ports: Vec<serde_norway::Value>,
    #[serde(default, rename = "icmps")]
    _icmps: serde_norway::Value,
    #[serde(default, rename = "authentication")]
    _authentication: serde_norway::Value,
}

/// Entities that Cilium knows (documentation, "Entities based").
const ENTITIES: [&str; 11] = [
    "all",
    "world",
    "world-ipv4",
    "world-ipv6",
    "cluster",
    "host",
    "remote-node",
    "kube-apiserver",
    "init",
    "health",
    "unmanaged",
];

// === impl Spec ===

impl Spec {
    pub(crate) fn section(self, clusterwide: bool) -> Result<Section, String> {
        let (subject, nodes) = match (self.endpoint_selector, self.node_selector) {
            (Some(selector), None) => (selector, false),
            (None, Some(selector)) if clusterwide => (selector, true),
            (None, Some(_)) => {
                return Err("nodeSelector is only for CiliumClusterwideNetworkPolicy".to_owned());
            }
            _ => return Err("exactly one of endpointSelector and nodeSelector".to_owned()),
        };
        subject.validate().map_err(|error| format!("selector: {error}"))?;
        let lists = [
            ("ingress", &self.ingress),
            ("ingressDeny", &self.ingress_deny),
            ("egress", &self.egress),
            ("egressDeny", &self.egress_deny),
        ];
        for (name, rules) in lists {
            for (i, rule) in rules.iter().flatten().enumerate() {
                rule.validate().map_err(|error| format!("{name}[{i}]: {error}"))?;
            }
        }
        let count = |list: &Option<Vec<Rule>>| list.as_ref().map_or(0, Vec::len);
        let ingress = self.ingress.is_some() || self.ingress_deny.is_some();
        let egress = self.egress.is_some() || self.egress_deny.is_some();
        Ok(Section {
            subject,
            nodes,
            isolates_ingress: self.enable_default_deny.ingress.unwrap_or(ingress),
            isolates_egress: self.enable_default_deny.egress.unwrap_or(egress),
            ingress_rules: count(&self.ingress) + count(&self.ingress_deny),
            egress_rules: count(&self.egress) + count(&self.egress_deny),
        })
    }
}

// === impl Rule ===

impl Rule {
    fn validate(&self) -> Result<(), String> {
        for selector in
            [&self.from_endpoints, &self.from_nodes, &self.from_requires].into_iter().flatten()
        {
            selector.validate()?;
        }
        for entity in &self.from_entities {
            if !ENTITIES.contains(&entity.as_str()) {
                return Err(format!("there is no entity {entity:?}"));
            }
        }
        for text in &self.from_cidr {
            // A bare address is allowed here, unlike in Kubernetes.
            if text.parse::<std::net::IpAddr>().is_err() {
                cidr(text)?;
            }
        }
        for set in &self.from_cidr_set {
            if let Some(text) = set.get("cidr").and_then(|value| value.as_str()) {
                cidr(text)?;
            }
        }
        self.to_ports.iter().try_for_each(|ports| match ports {
            serde_norway::Value::Mapping(_) => Ok(()),
            _ => Err("toPorts: an entry is not a mapping".to_owned()),
        })
    }
}
