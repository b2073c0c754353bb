//! Endpoints, as `weir endpoint list` shows them.

use datapath_abi::policy::{EGRESS, INGRESS, PolicySide, SUBJECT_AUDIT, Section};
use datapath_policy::{Compiler, PolicyKey};
use serde::{Deserialize, Serialize};
use wire::export::Interface;

use crate::control::{Pod, Snapshot};
use crate::enforce::Compiled;

/// All of them, those on other nodes too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoints {
    /// By namespace and name.
    pub endpoints: Vec<EndpointState>,
}

/// One endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointState {
    /// `namespace/name`.
    pub id: String,
    /// Its node.
    pub node: String,
    /// Its addresses.
    pub addresses: Vec<String>,
    /// Its host-side interface; none on another node.
    pub interface: Option<String>,
    /// Index of that.
    pub ifindex: Option<u32>,
    /// Its security identity; none where nothing is enforced.
    pub identity: Option<u32>,
    /// Labels of the identity, else the pod's own.
    pub labels: Vec<String>,
    /// Whether what it accepts is subject to policy.
    pub ingress: Enforced,
    /// Whether what it opens is.
    pub egress: Enforced,
    /// Policies that select it.
    pub policies: Vec<PolicyKey>,
}

/// Whether a direction is subject to policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Enforced {
    /// Denials are denied.
    Enforced,
    /// Denials are forwarded, with the verdict AUDIT.
    Audit,
    /// Everything is allowed.
    Open,
    /// On another node, or the agent only observes.
    Elsewhere,
}

/// Lists them.
pub(crate) fn list(
    snapshot: &Snapshot,
    compiled: &Compiled,
    interfaces: &[Interface],
) -> Endpoints {
    let pods: Vec<&Pod> = snapshot.pods.iter().filter(|pod| pod.is_endpoint()).collect();
    let all = |compiler: Option<&Compiler>| {
        let one = |pod: &&Pod| endpoint(pod, compiler, interfaces);
        pods.iter().map(one).collect::<Vec<_>>()
    };
    let mut endpoints = compiled.ask(|compiler| all(Some(compiler))).unwrap_or_else(|| all(None));
    endpoints.sort_by(|a, b| a.id.cmp(&b.id));
    Endpoints { endpoints }
}

fn endpoint(pod: &Pod, compiler: Option<&Compiler>, interfaces: &[Interface]) -> EndpointState {
    let id = pod.id();
    let known = compiler.and_then(|compiler| compiler.cluster().endpoints.get(&id));
    let behind = interfaces.iter().find(|interface| interface.pod == id);
    let ifindex = known.and_then(|known| known.interface).or(behind.map(|port| port.index));
    let identity = compiler.and_then(|compiler| {
        let tables = compiler.tables();
        let at = |ip| tables.hosts.get(&datapath_policy::octets(ip));
        pod.ips.iter().find_map(|ip| at(*ip)).map(|peer| peer.identity)
    });
    let labels = match (compiler, identity) {
        (Some(compiler), Some(number)) => compiler.identity_labels(number),
        _ => pod.labels.iter().map(|(key, value)| format!("k8s:{key}={value}")).collect(),
    };
    let side = |direction| match (compiler, ifindex) {
        (Some(compiler), Some(ifindex)) => enforced(compiler, ifindex, direction),
        _ => Enforced::Elsewhere,
    };
    EndpointState {
        node: pod.node.clone(),
        addresses: pod.ips.iter().map(ToString::to_string).collect(),
        interface: interfaces
            .iter()
            .find(|port| Some(port.index) == ifindex)
            .map(|port| port.name.clone()),
        ifindex,
        identity,
        labels,
        ingress: side(INGRESS),
        egress: side(EGRESS),
        policies: compiler.map(|compiler| compiler.selecting(&id)).unwrap_or_default(),
        id,
    }
}

fn enforced(compiler: &Compiler, ifindex: u32, direction: usize) -> Enforced {
    let tables = compiler.tables();
    let Some(subject) = tables.subjects.get(&ifindex) else { return Enforced::Open };
    let Some(policy) = tables.policies.get(&subject.policy) else { return Enforced::Open };
    let PolicySide { enforced, audited } = &policy.sides[direction];
    let any = |sections: &[Section]| sections.iter().any(|section| section.count > 0);
    let audit = subject.flags & SUBJECT_AUDIT != 0 || compiler.cluster().options.audit;
    match (any(enforced), any(audited)) {
        (true, _) if audit => Enforced::Audit,
        (true, _) => Enforced::Enforced,
        (false, true) => Enforced::Audit,
        (false, false) => Enforced::Open,
    }
}
