//! What selectors can ask of an address: the labels and the kind of who has it.

use std::sync::Arc;

use crate::cluster::{EndpointKind, Labels, NamedPort};
use crate::identity::{self, Identities, Scope};
use crate::selector::Subject;

/// What is behind an address. Peers of equal facts are matched once.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Facts {
    pub(crate) kind: Kind,
    pub(crate) api_server: bool,
    pub(crate) namespace: String,
    /// Of the pod or node.
    pub(crate) labels: Labels,
    pub(crate) namespace_labels: Labels,
    pub(crate) service_account: String,
    pub(crate) ports: Vec<NamedPort>,
    pub(crate) cluster: Arc<str>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Kind {
    World,
    Host,
    RemoteNode,
    Endpoint(EndpointKind),
}

// === impl Facts ===

impl Facts {
    pub(crate) fn bare(kind: Kind) -> Self {
        Self {
            kind,
            api_server: false,
            namespace: String::new(),
            labels: Labels::new(),
            namespace_labels: Labels::new(),
            service_account: String::new(),
            ports: Vec::new(),
            cluster: Arc::from(""),
        }
    }

    pub(crate) fn subject(&self) -> Subject<'_> {
        Subject {
            namespace: &self.namespace,
            labels: &self.labels,
            namespace_labels: &self.namespace_labels,
            service_account: &self.service_account,
            cluster: &self.cluster,
            reserved: self.reserved(),
        }
    }

    fn reserved(&self) -> &'static [&'static str] {
        match (self.kind, self.api_server) {
            (Kind::World, false) => &["world"],
            (Kind::World, true) => &["world", "kube-apiserver"],
            (Kind::Host, false) => &["host"],
            (Kind::Host, true) => &["host", "kube-apiserver"],
            (Kind::RemoteNode, false) => &["remote-node"],
            (Kind::RemoteNode, true) => &["remote-node", "kube-apiserver"],
            (Kind::Endpoint(EndpointKind::Pod), true) => &["kube-apiserver"],
            (Kind::Endpoint(kind), _) => kind.reserved(),
        }
    }

    /// Claims the identity. `prefix` names an address or prefix of the world.
    pub(crate) fn claim(&self, all: &mut Identities, by_node: bool, world: World<'_>) -> u32 {
        match self.kind {
            Kind::Host => identity::HOST,
            Kind::World | Kind::RemoteNode if self.api_server => identity::KUBE_APISERVER,
            Kind::World => match world {
                World::V4 => identity::WORLD_V4,
                World::V6 => identity::WORLD_V6,
                World::Prefix(prefix) => {
                    let labels = vec![format!("cidr:{prefix}"), "reserved:world".to_owned()];
                    all.claim(Scope::Cidr, labels)
                }
            },
            Kind::RemoteNode if by_node && !self.labels.is_empty() => {
                let labels = self.labels.iter().map(|(key, value)| format!("node:{key}={value}"));
                all.claim(Scope::Node, labels.collect())
            }
            Kind::RemoteNode => identity::REMOTE_NODE,
            Kind::Endpoint(EndpointKind::Init) => identity::INIT,
            Kind::Endpoint(EndpointKind::Health) => identity::HEALTH,
            Kind::Endpoint(EndpointKind::Ingress) => identity::INGRESS,
            Kind::Endpoint(EndpointKind::Unmanaged) => identity::UNMANAGED,
            Kind::Endpoint(EndpointKind::Pod) => all.claim(Scope::Cluster, self.identity_labels()),
        }
    }

    fn identity_labels(&self) -> Vec<String> {
        let own = self.labels.iter().filter(|(key, _)| identity::identifies(key));
        let mut labels: Vec<String> =
            own.map(|(key, value)| format!("k8s:{key}={value}")).collect();
        labels.push(format!("k8s:io.kubernetes.pod.namespace={}", self.namespace));
        labels.extend(
            self.namespace_labels
                .iter()
                .map(|(key, value)| format!("k8s:io.cilium.k8s.namespace.labels.{key}={value}")),
        );
        for (key, value) in
            [("cluster", &*self.cluster), ("serviceaccount", self.service_account.as_str())]
        {
            if !value.is_empty() {
                labels.push(format!("k8s:io.cilium.k8s.policy.{key}={value}"));
            }
        }
        labels.sort();
        labels
    }
}

/// Which part of the world an entry stands for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum World<'a> {
    V4,
    V6,
    Prefix(&'a crate::address::Cidr),
}
