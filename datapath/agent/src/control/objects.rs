//! Kubernetes objects, as far as the agent needs them, and what they become.

use std::collections::BTreeMap;
use std::net::IpAddr;

use datapath_policy::{AUDIT_ANNOTATION, NamedPort};
use model::Protocol;
use serde::Deserialize;

use super::{EndpointSlice, Node, Pod, Service, ServicePort, workload};

/// Annotation that names the interface behind which a pod is.
const INTERFACE: &str = "weir.io/interface";
/// Label of an EndpointSlice that names its service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Meta {
    #[serde(default)]
    pub name: String,
    #[serde(default)]
    namespace: Option<String>,
    #[serde(default)]
    labels: Option<BTreeMap<String, String>>,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
    #[serde(default)]
    owner_references: Option<Vec<Owner>>,
}

#[derive(Debug, Deserialize)]
struct Owner {
    kind: String,
    name: String,
    #[serde(default)]
    controller: bool,
}

#[derive(Debug, Deserialize)]
pub(super) struct PodObject {
    metadata: Meta,
    #[serde(default)]
    spec: PodSpec,
    #[serde(default)]
    status: PodStatus,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PodSpec {
    #[serde(default)]
    node_name: Option<String>,
    #[serde(default)]
    host_network: bool,
    #[serde(default)]
    service_account_name: Option<String>,
    #[serde(default)]
    containers: Option<Vec<Container>>,
    /// Sidecars are among these.
    #[serde(default)]
    init_containers: Option<Vec<Container>>,
}

#[derive(Debug, Deserialize)]
struct Container {
    #[serde(default)]
    ports: Option<Vec<ContainerPort>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ContainerPort {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    protocol: Option<String>,
    container_port: u16,
}

#[derive(Debug, Default, Deserialize)]
struct PodStatus {
    #[serde(default)]
    phase: Option<String>,
    #[serde(default, rename = "podIP")]
    ip: Option<String>,
    #[serde(default, rename = "podIPs")]
    ips: Option<Vec<PodIp>>,
}

#[derive(Debug, Deserialize)]
struct PodIp {
    ip: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct NamespaceObject {
    metadata: Meta,
}

#[derive(Debug, Deserialize)]
pub(super) struct NodeObject {
    metadata: Meta,
    #[serde(default)]
    status: NodeStatus,
}

#[derive(Debug, Default, Deserialize)]
struct NodeStatus {
    #[serde(default)]
    addresses: Option<Vec<NodeAddress>>,
}

#[derive(Debug, Deserialize)]
struct NodeAddress {
    address: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct ServiceObject {
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
struct LoadBalancerIngress {
    #[serde(default)]
    ip: Option<String>,
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
}

#[derive(Debug, Deserialize)]
pub(super) struct SliceObject {
    metadata: Meta,
    #[serde(default)]
    endpoints: Option<Vec<EndpointObject>>,
    #[serde(default)]
    ports: Option<Vec<PortObject>>,
}

#[derive(Debug, Deserialize)]
struct EndpointObject {
    #[serde(default)]
    addresses: Vec<String>,
}

// === impl Meta ===

impl Meta {
    fn check(&self) -> Result<(), String> {
        if self.name.is_empty() { Err("metadata.name is missing".to_owned()) } else { Ok(()) }
    }

    fn namespace(&self) -> String {
        self.namespace.clone().filter(|name| !name.is_empty()).unwrap_or("default".to_owned())
    }

    fn owner(&self) -> Option<(&str, &str)> {
        let owners = self.owner_references.as_deref().unwrap_or_default();
        let owner = owners.iter().find(|owner| owner.controller).or(owners.first())?;
        Some((&owner.kind, &owner.name))
    }
}

// === impl PodObject ===

impl PodObject {
    pub(super) fn pod(self) -> Result<Pod, String> {
        self.metadata.check()?;
        let owner = self.metadata.owner();
        let labels = self.metadata.labels.clone().unwrap_or_default();
        let (workload, workload_kind) = workload::of(&self.metadata.name, &labels, owner);
        let mut ips = Vec::new();
        let listed = self.status.ips.iter().flatten().map(|entry| &entry.ip);
        for text in self.status.ip.iter().chain(listed).filter(|text| !text.is_empty()) {
            let ip = address("status.podIP", text)?;
            if !ips.contains(&ip) {
                ips.push(ip);
            }
        }
        let annotation =
            |name| self.metadata.annotations.as_ref().and_then(|all| all.get(name)).cloned();
        let (interface, audit) = (annotation(INTERFACE), annotation(AUDIT_ANNOTATION));
        let ports = self.spec.named_ports()?;
        Ok(Pod {
            namespace: self.metadata.namespace(),
            interface: interface.unwrap_or_default(),
            name: self.metadata.name,
            labels,
            node: self.spec.node_name.unwrap_or_default(),
            ips,
            host_network: self.spec.host_network,
            ended: matches!(self.status.phase.as_deref(), Some("Succeeded" | "Failed")),
            workload,
            workload_kind,
            service_account: self.spec.service_account_name.unwrap_or_default(),
            ports,
            audit: audit.as_deref() == Some("true"),
        })
    }
}

// === impl PodSpec ===

impl PodSpec {
    fn named_ports(&self) -> Result<Vec<NamedPort>, String> {
        let containers = self.containers.iter().chain(&self.init_containers).flatten();
        let mut named = Vec::new();
        for port in containers.flat_map(|container| container.ports.iter().flatten()) {
            let protocol = protocol(port.protocol.as_deref())?;
            if let Some(name) = port.name.clone().filter(|name| !name.is_empty()) {
                named.push(NamedPort { name, protocol, port: port.container_port });
            }
        }
        Ok(named)
    }
}

// === impl NamespaceObject ===

impl NamespaceObject {
    pub(super) fn named_labels(self) -> Result<(String, BTreeMap<String, String>), String> {
        self.metadata.check()?;
        let mut labels = self.metadata.labels.unwrap_or_default();
        // The API server sets this one on every namespace.
        labels
            .entry("kubernetes.io/metadata.name".to_owned())
            .or_insert_with(|| self.metadata.name.clone());
        Ok((self.metadata.name, labels))
    }
}

// === impl NodeObject ===

impl NodeObject {
    pub(super) fn node(self) -> Result<Node, String> {
        self.metadata.check()?;
        let addresses = self.status.addresses.unwrap_or_default();
        // Host names stand in the same list.
        let addresses = addresses.iter().filter_map(|entry| entry.address.parse().ok()).collect();
        let labels = self.metadata.labels.unwrap_or_default();
        Ok(Node { name: self.metadata.name, labels, addresses })
    }
}

// === impl ServiceObject ===

impl ServiceObject {
    pub(super) fn service(self) -> Result<Service, String> {
        self.metadata.check()?;
        let spec = self.spec;
        let mut ips = Vec::new();
        let cluster = spec.cluster_ip.iter().chain(spec.cluster_ips.iter().flatten());
        for text in cluster.chain(spec.external_ips.iter().flatten()) {
            // A headless service says so where its address would stand.
            if text.is_empty() || text == "None" {
                continue;
            }
            let ip = address("spec.clusterIP", text)?;
            if !ips.contains(&ip) {
                ips.push(ip);
            }
        }
        for entry in self.status.load_balancer.ingress.iter().flatten() {
            if let Some(text) = &entry.ip {
                ips.push(address("status.loadBalancer", text)?);
            }
        }
        let ports: Result<Vec<_>, _> =
            spec.ports.iter().flatten().map(PortObject::service_port).collect();
        Ok(Service {
            namespace: self.metadata.namespace(),
            name: self.metadata.name,
            kind: spec.kind.unwrap_or("ClusterIP".to_owned()),
            ips,
            ports: ports?,
            labels: self.metadata.labels.unwrap_or_default(),
            selector: spec.selector,
        })
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
        })
    }
}

// === impl SliceObject ===

impl SliceObject {
    pub(super) fn slice(self) -> Result<EndpointSlice, String> {
        self.metadata.check()?;
        let mut addresses = Vec::new();
        for text in self.endpoints.iter().flatten().flat_map(|endpoint| &endpoint.addresses) {
            addresses.push(address("endpoints.addresses", text)?);
        }
        let mut ports = Vec::new();
        for port in self.ports.iter().flatten() {
            // A slice may leave a port open ("all ports"); such a one names no backend.
            if let Some(number) = port.port {
                ports.push((port.protocol()?, number));
            }
        }
        let service = self.metadata.labels.as_ref().and_then(|labels| labels.get(SERVICE_NAME));
        Ok(EndpointSlice {
            namespace: self.metadata.namespace(),
            service: service.cloned().unwrap_or_default(),
            addresses,
            ports,
        })
    }
}

fn protocol(name: Option<&str>) -> Result<u8, String> {
    match name {
        None => Ok(Protocol::TCP.0),
        Some(name @ ("TCP" | "UDP" | "SCTP")) => Ok(Protocol::parse(name).map_or(0, |p| p.0)),
        Some(other) => Err(format!("ports: protocol {other:?} is not TCP, UDP or SCTP")),
    }
}

fn address(what: &str, text: &str) -> Result<IpAddr, String> {
    text.parse().map_err(|_| format!("{what}: {text:?} is not an IP address"))
}
