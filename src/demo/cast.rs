//! Who is in the demo: one line per pod.

use std::net::{Ipv4Addr, Ipv6Addr};

/// A pod of the demo.
#[derive(Debug, Clone, Copy)]
pub(super) struct Role {
    /// Index of its node.
    pub(super) node: usize,
    /// Kubernetes namespace.
    pub(super) namespace: &'static str,
    /// Name of its workload, and of the service before it.
    pub(super) workload: &'static str,
    /// What the workload is.
    pub(super) owner: Owner,
    /// Name of the pod.
    pub(super) pod: &'static str,
    /// Name of its network namespace and interface.
    pub(super) short: &'static str,
    /// Port it serves; 0 for none.
    pub(super) port: u16,
}

/// What owns a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner {
    /// A deployment, through the replica set of this template hash.
    Deployment(&'static str),
    /// A stateful set.
    StatefulSet,
}

/// Nodes, in order of [`Role::node`].
pub(super) const NODES: [&str; 2] = ["node-a", "node-b"];

/// A name outside the cluster, served at [`harness::cluster::WORLD_IPV4`].
pub(super) const PAYMENTS: &str = "payments.example.com";

/// Every pod.
pub(super) const CAST: &[Role] = &[
    deployment(1, "kube-system", "dns", "7c65d6cfc9", "dns-7c65d6cfc9-q8j4p", "dns-0", 53),
    stateful(0, "data", "redis", "redis-0", "redis-0", 6379),
    deployment(1, "shop", "cart", "5b8f7d9c66", "cart-5b8f7d9c66-w2n6d", "cart-0", 8080),
    deployment(0, "shop", "api", "84d9b6c5f7", "api-84d9b6c5f7-h5k2z", "api-0", 8080),
    deployment(1, "shop", "api", "84d9b6c5f7", "api-84d9b6c5f7-t9v4m", "api-1", 8080),
    deployment(0, "shop", "web", "6d5f9c7b48", "web-6d5f9c7b48-x2x7k", "web-0", 8080),
    deployment(1, "shop", "web", "6d5f9c7b48", "web-6d5f9c7b48-m4c9r", "web-1", 8080),
    deployment(0, "shop", "loadgen", "9f7c4b8d5", "loadgen-9f7c4b8d5-b6z8s", "loadgen-0", 0),
];

const fn deployment(
    node: usize,
    namespace: &'static str,
    workload: &'static str,
    hash: &'static str,
    pod: &'static str,
    short: &'static str,
    port: u16,
) -> Role {
    Role { node, namespace, workload, owner: Owner::Deployment(hash), pod, short, port }
}

const fn stateful(
    node: usize,
    namespace: &'static str,
    workload: &'static str,
    pod: &'static str,
    short: &'static str,
    port: u16,
) -> Role {
    Role { node, namespace, workload, owner: Owner::StatefulSet, pod, short, port }
}

// === impl Role ===

impl Role {
    /// Addresses of the service before it; none where clients use the pods' own (the DNS server).
    pub(super) fn service_addresses(&self) -> Option<(Ipv4Addr, Ipv6Addr)> {
        const SERVED: [&str; 4] = ["web", "api", "cart", "redis"];
        let number = SERVED.iter().position(|name| *name == self.workload)? as u16 + 1;
        let v4 = Ipv4Addr::new(10, 96, 0, number as u8);
        Some((v4, Ipv6Addr::new(0xfd96, 0, 0, 0, 0, 0, 0, number)))
    }

    /// DNS name of the service before it.
    pub(super) fn service_name(&self) -> String {
        format!("{}.{}.svc.cluster.local", self.workload, self.namespace)
    }
}
