//! Kubernetes objects, as far as the agent needs them, and what they become.

use std::collections::BTreeMap;
use std::net::IpAddr;

use datapath_policy::{AUDIT_ANNOTATION, NamedPort};
use model::Protocol;
use serde::Deserialize;

use super::{HostPort, Node, Pod, workload};

mod redirect;
mod service;

pub(super) use redirect::RedirectObject;
pub(super) use service::{ServiceObject, SliceObject};

/// Annotation that names the interface behind which a pod is.
const INTERFACE: &str = "weir.io/interface";
/// Annotation of a pod or an endpoint slice: how much of new connections its backends get.
const WEIGHT: &str = "weir.io/lb-weight";

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
    #[serde(default)]
    host_port: Option<u16>,
    #[serde(default, rename = "hostIP")]
    host_ip: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
struct PodStatus {
    #[serde(default)]
    phase: Option<String>,
    #[serde(default, rename = "podIP")]
    ip: Option<String>,
    #[serde(default, rename = "podIPs")]
    ips: Option<Vec<PodIp>>,
    #[serde(default)]
    conditions: Option<Vec<PodCondition>>,
}

#[derive(Debug, Deserialize)]
struct PodCondition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
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

// === impl Meta ===

impl Meta {
    fn check(&self) -> Result<(), String> {
        if self.name.is_empty() { Err("metadata.name is missing".to_owned()) } else { Ok(()) }
    }

    fn namespace(&self) -> String {
        self.namespace.clone().filter(|name| !name.is_empty()).unwrap_or("default".to_owned())
    }

    fn annotation(&self, name: &str) -> Option<String> {
        self.annotations.as_ref().and_then(|all| all.get(name)).cloned()
    }

    fn weight(&self) -> Result<Option<u8>, String> {
        let weight = |text: String| match text.trim().parse() {
            Ok(weight @ 0..=100) => Ok(weight),
            _ => Err(format!("{WEIGHT}: {text:?} is not within 0 and 100")),
        };
        self.annotation(WEIGHT).map(weight).transpose()
    }

    fn label(&self, name: &str) -> Option<String> {
        self.labels.as_ref().and_then(|all| all.get(name)).cloned()
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
        let (interface, audit) =
            (self.metadata.annotation(INTERFACE), self.metadata.annotation(AUDIT_ANNOTATION));
        let ports = self.spec.named_ports()?;
        let host_ports = self.spec.host_ports()?;
        let ready = self.status.is_ready();
        let weight = self.metadata.weight()?;
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
            host_ports,
            ready,
            weight,
        })
    }
}

// === impl PodStatus ===

impl PodStatus {
    /// By its condition Ready; a manifest without conditions is taken at its word.
    fn is_ready(&self) -> bool {
        let conditions = self.conditions.as_deref().unwrap_or_default();
        let ready = conditions.iter().rfind(|condition| condition.kind == "Ready");
        ready.is_none_or(|ready| ready.status == "True")
    }
}

// === impl PodSpec ===

impl PodSpec {
    fn host_ports(&self) -> Result<Vec<HostPort>, String> {
        let containers = self.containers.iter().chain(&self.init_containers).flatten();
        let mut found = Vec::new();
        for port in containers.flat_map(|container| container.ports.iter().flatten()) {
            let Some(number) = port.host_port.filter(|number| *number != 0) else {
                continue;
            };
            let ip = port.host_ip.as_deref().filter(|text| !text.is_empty());
            let ip = ip.map(|text| address("hostIP", text)).transpose()?;
            found.push(HostPort {
                ip: ip.filter(|ip| !ip.is_unspecified()),
                port: number,
                protocol: protocol(port.protocol.as_deref())?,
                container_port: port.container_port,
            });
        }
        Ok(found)
    }

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
