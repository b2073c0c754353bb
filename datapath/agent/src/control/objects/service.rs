//! Services and endpoint slices.

use std::collections::BTreeMap;
use std::net::IpAddr;

use datapath_policy::Cidr;
use serde::Deserialize;

use super::{Meta, address, protocol};
use crate::control::{
    Algorithm, Endpoint, EndpointSlice, Forwarding, Service, ServicePort, SlicePort, Spread, Target,
};

/// Label of an EndpointSlice that names its service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Label of a service that another proxy is to serve.
const PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";
/// `sessionAffinityConfig.clientIP.timeoutSeconds` where it is not set, and the most it may be (Kubernetes API).
const AFFINITY: u32 = 10_800;
const AFFINITY_MOST: u32 = 86_400;

#[derive(Debug, Deserialize)]
pub(crate) struct ServiceObject {
    metadata: Meta,
    #[serde(default)]
    spec: ServiceSpec,
    #[serde(default)]
    status: ServiceStatus,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ServiceSpec {
    #[serde(default, rename = "type")]
    kind: Option<String>,
    #[serde(default, rename = "clusterIP")]
    cluster_ip: Option<String>,
    #[serde(default, rename = "clusterIPs")]
    cluster_ips: Option<Vec<String>>,
    #[serde(default, rename = "externalIPs")]
    external_ips: Option<Vec<String>>,
    #[serde(default)]
    ports: Option<Vec<PortObject>>,
    #[serde(default)]
    selector: Option<BTreeMap<String, String>>,
    #[serde(default)]
    load_balancer_source_ranges: Option<Vec<String>>,
    #[serde(default)]
    session_affinity: Option<String>,
    #[serde(default)]
    session_affinity_config: Option<AffinityConfig>,
    #[serde(default)]
    internal_traffic_policy: Option<String>,
    #[serde(default)]
    external_traffic_policy: Option<String>,
    #[serde(default)]
    health_check_node_port: Option<u16>,
    #[serde(default)]
    publish_not_ready_addresses: bool,
    #[serde(default)]
    traffic_distribution: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct AffinityConfig {
    #[serde(default, rename = "clientIP")]
    client_ip: Option<ClientIp>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ClientIp {
    #[serde(default)]
    timeout_seconds: Option<u32>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ServiceStatus {
    #[serde(default)]
    load_balancer: LoadBalancer,
}

#[derive(Debug, Default, Deserialize)]
struct LoadBalancer {
    #[serde(default)]
    ingress: Option<Vec<LoadBalancerIngress>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct LoadBalancerIngress {
    #[serde(default)]
    ip: Option<String>,
    #[serde(default)]
    ip_mode: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PortObject {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    protocol: Option<String>,
    #[serde(default)]
    port: Option<u16>,
    #[serde(default)]
    node_port: Option<u16>,
    #[serde(default)]
    target_port: Option<TargetPort>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum TargetPort {
    Number(u16),
    Name(String),
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SliceObject {
    metadata: Meta,
    #[serde(default)]
    address_type: Option<String>,
    #[serde(default)]
    endpoints: Option<Vec<EndpointObject>>,
    #[serde(default)]
    ports: Option<Vec<PortObject>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct EndpointObject {
    #[serde(default)]
    addresses: Vec<String>,
    #[serde(default)]
    conditions: Option<Conditions>,
    #[serde(default)]
    node_name: Option<String>,
    #[serde(default)]
    hints: Option<Hints>,
}

#[derive(Debug, Default, Deserialize)]
struct Conditions {
    ready: Option<bool>,
    serving: Option<bool>,
    terminating: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Hints {
    #[serde(default)]
    for_zones: Option<Vec<Named>>,
    #[serde(default)]
    for_nodes: Option<Vec<Named>>,
}

#[derive(Debug, Deserialize)]
struct Named {
    name: String,
}

// === impl ServiceObject ===

impl ServiceObject {
    pub(crate) fn service(self) -> Result<Service, String> {
        self.metadata.check()?;
        let spec = &self.spec;
        // A headless service says so where its address would stand.
        let cluster = spec.cluster_ip.iter().chain(spec.cluster_ips.iter().flatten());
        let cluster = cluster.filter(|text| !text.is_empty() && *text != "None");
        let cluster_ips = addresses("spec.clusterIP", cluster)?;
        let external_ips = addresses("spec.externalIPs", spec.external_ips.iter().flatten())?;
        let ingress = || self.status.load_balancer.ingress.iter().flatten();
        let all =
            addresses("status.loadBalancer", ingress().filter_map(|entry| entry.ip.as_ref()))?;
        let vip = ingress().filter(|entry| entry.ip_mode.as_deref() != Some("Proxy"));
        let balancer_ips =
            addresses("status.loadBalancer", vip.filter_map(|entry| entry.ip.as_ref()))?;
        let mut ips = cluster_ips.clone();
        for ip in external_ips.iter().chain(&all) {
            if !ips.contains(ip) {
                ips.push(*ip);
            }
        }
        let ports: Result<Vec<_>, _> =
            spec.ports.iter().flatten().map(PortObject::service_port).collect();
        let ranges = spec.load_balancer_source_ranges.iter().flatten().map(|text| {
            text.trim()
                .parse::<Cidr>()
                .map_err(|_| format!("spec.loadBalancerSourceRanges: {text:?} is not a CIDR"))
        });
        let kind = spec.kind.clone().unwrap_or("ClusterIP".to_owned());
        let annotation = |name: &str| self.metadata.annotation(name);
        let spread =
            match (&spec.traffic_distribution, annotation("service.kubernetes.io/topology-mode")) {
                (Some(_), _) => Spread::Hints,
                (None, Some(mode)) if mode.eq_ignore_ascii_case("auto") => Spread::Hints,
                _ => Spread::Cluster,
            };
        Ok(Service {
            namespace: self.metadata.namespace(),
            ips,
            ports: ports?,
            selector: spec.selector.clone(),
            cluster_ips,
            external_ips,
            balancer_ips,
            source_ranges: ranges.collect::<Result<_, _>>()?,
            affinity: spec.affinity()?,
            internal_local: is_local("internalTrafficPolicy", &spec.internal_traffic_policy)?,
            external_local: is_local("externalTrafficPolicy", &spec.external_traffic_policy)?,
            health_port: spec.health_check_node_port.unwrap_or(0),
            publish_not_ready: spec.publish_not_ready_addresses,
            spread,
            algorithm: algorithm(annotation("service.cilium.io/lb-algorithm"))?,
            forwarding: forwarding(annotation("service.cilium.io/forwarding-mode"))?,
            foreign: kind == "ExternalName"
                || self.metadata.labels.as_ref().is_some_and(|all| all.contains_key(PROXY_NAME)),
            kind,
            labels: self.metadata.labels.clone().unwrap_or_default(),
            name: self.metadata.name,
        })
    }
}

fn addresses<'a>(
    what: &str,
    texts: impl Iterator<Item = &'a String>,
) -> Result<Vec<IpAddr>, String> {
    let mut found = Vec::new();
    for text in texts {
        let ip = address(what, text)?;
        if !found.contains(&ip) {
            found.push(ip);
        }
    }
    Ok(found)
}

fn is_local(what: &str, policy: &Option<String>) -> Result<bool, String> {
    match policy.as_deref() {
        None | Some("Cluster" | "") => Ok(false),
        Some("Local") => Ok(true),
        Some(other) => Err(format!("spec.{what}: {other:?} is neither Cluster nor Local")),
    }
}

fn algorithm(name: Option<String>) -> Result<Option<Algorithm>, String> {
    match name.as_deref() {
        None => Ok(None),
        Some("random") => Ok(Some(Algorithm::Random)),
        Some("maglev") => Ok(Some(Algorithm::Maglev)),
        Some(other) => {
            Err(format!("service.cilium.io/lb-algorithm: {other:?} is neither random nor maglev"))
        }
    }
}

fn forwarding(name: Option<String>) -> Result<Option<Forwarding>, String> {
    match name.as_deref() {
        None => Ok(None),
        Some("snat") => Ok(Some(Forwarding::Snat)),
        Some("dsr") => Ok(Some(Forwarding::Dsr)),
        Some(other) => {
            Err(format!("service.cilium.io/forwarding-mode: {other:?} is neither snat nor dsr"))
        }
    }
}

// === impl ServiceSpec ===

impl ServiceSpec {
    fn affinity(&self) -> Result<Option<u32>, String> {
        match self.session_affinity.as_deref() {
            None | Some("None" | "") => return Ok(None),
            Some("ClientIP") => {}
            Some(other) => {
                return Err(format!(
                    "spec.sessionAffinity: {other:?} is neither None nor ClientIP"
                ));
            }
        }
        let config = self.session_affinity_config.as_ref();
        let seconds = config.and_then(|config| config.client_ip.as_ref()?.timeout_seconds);
        match seconds.unwrap_or(AFFINITY) {
            seconds @ 1..=AFFINITY_MOST => Ok(Some(seconds)),
            other => Err(format!(
                "spec.sessionAffinityConfig.clientIP.timeoutSeconds: {other} is not within 1 and {AFFINITY_MOST}"
            )),
        }
    }
}

// === impl PortObject ===

impl PortObject {
    fn protocol(&self) -> Result<u8, String> {
        protocol(self.protocol.as_deref())
    }

    fn service_port(&self) -> Result<ServicePort, String> {
        Ok(ServicePort {
            name: self.name.clone().unwrap_or_default(),
            protocol: self.protocol()?,
            port: self.port.ok_or("ports: port is missing")?,
            node_port: self.node_port.unwrap_or(0),
            target: match &self.target_port {
                None | Some(TargetPort::Number(0)) => Target::Same,
                Some(TargetPort::Number(port)) => Target::Number(*port),
                Some(TargetPort::Name(name)) => match name.parse() {
                    Ok(port) => Target::Number(port),
                    Err(_) => Target::Name(name.clone()),
                },
            },
        })
    }
}

// === impl SliceObject ===

impl SliceObject {
    pub(crate) fn slice(self) -> Result<EndpointSlice, String> {
        self.metadata.check()?;
        // Names of hosts are no endpoints of ours.
        let weight = self.metadata.weight()?.unwrap_or(Endpoint::WEIGHT);
        let named = self.address_type.as_deref() == Some("FQDN");
        let mut slice = EndpointSlice {
            namespace: self.metadata.namespace(),
            service: self.metadata.label(SERVICE_NAME).unwrap_or_default(),
            ..EndpointSlice::default()
        };
        for endpoint in self.endpoints.iter().flatten().filter(|_| !named) {
            slice.endpoints.push(Endpoint { weight, ..endpoint.endpoint()? });
        }
        for port in self.ports.iter().flatten() {
            // A slice may leave a port open ("all ports"); such a one names no backend.
            if let Some(number) = port.port {
                let (name, protocol) = (port.name.clone().unwrap_or_default(), port.protocol()?);
                slice.ports.push(SlicePort { name, protocol, port: number });
            }
        }
        Ok(slice)
    }
}

// === impl EndpointObject ===

impl EndpointObject {
    fn endpoint(&self) -> Result<Endpoint, String> {
        let none = Conditions::default();
        let conditions = self.conditions.as_ref().unwrap_or(&none);
        // A condition that is not set: "unknown, to be taken for true" (discovery/v1 EndpointConditions).
        let ready = conditions.ready.unwrap_or(true);
        let names = |of: &Option<Vec<Named>>| {
            of.iter().flatten().map(|named| named.name.clone()).collect::<Vec<_>>()
        };
        let hints = self.hints.as_ref();
        Ok(Endpoint {
            addresses: addresses("endpoints.addresses", self.addresses.iter())?,
            ready,
            serving: conditions.serving.unwrap_or(ready),
            terminating: conditions.terminating.unwrap_or(false),
            node: self.node_name.clone().unwrap_or_default(),
            for_zones: hints.map(|hints| names(&hints.for_zones)).unwrap_or_default(),
            for_nodes: hints.map(|hints| names(&hints.for_nodes)).unwrap_or_default(),
            ..Endpoint::default()
        })
    }
}
