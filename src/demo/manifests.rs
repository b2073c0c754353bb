//! The demo as Kubernetes manifests, for the agents to watch.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use harness::{Cluster, Node, Pod};

use super::cast::{CAST, Owner, Role};

/// Writes one file per kind into `directory`.
pub(super) fn write(cluster: &Cluster, directory: &Path) -> Result<()> {
    let files = [
        ("nodes.yaml", nodes(cluster.nodes())),
        ("namespaces.yaml", namespaces()),
        ("pods.yaml", pods(cluster)),
        ("services.yaml", services(cluster)),
        ("policies.yaml", POLICY.to_owned()),
    ];
    for (name, text) in files {
        let path = directory.join(name);
        fs::write(&path, text).with_context(|| path.display().to_string())?;
    }
    Ok(())
}

/// Only those who need redis may reach it.
const POLICY: &str = "\
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: redis
  namespace: data
spec:
  podSelector:
    matchLabels:
      app: redis
  policyTypes: [Ingress]
  ingress:
    - from:
        - namespaceSelector:
            matchLabels:
              kubernetes.io/metadata.name: shop
          podSelector:
            matchExpressions:
              - {key: app, operator: In, values: [api, cart]}
      ports:
        - {protocol: TCP, port: 6379}
";

fn nodes(nodes: &[Node]) -> String {
    let mut text = String::new();
    for node in nodes {
        let (name, ipv4, ipv6) = (&node.name, node.ipv4, node.ipv6);
        push(
            &mut text,
            format_args!(
                "---\napiVersion: v1\nkind: Node\nmetadata:\n  name: {name}\n  labels:\n    \
             kubernetes.io/hostname: {name}\n    topology.kubernetes.io/zone: demo\nstatus:\n  addresses:\n    \
             - {{type: InternalIP, address: {ipv4}}}\n    - {{type: InternalIP, address: '{ipv6}'}}\n"
            ),
        );
    }
    text
}

fn namespaces() -> String {
    let names: BTreeSet<&str> = CAST.iter().map(|role| role.namespace).collect();
    let mut text = String::new();
    for name in names {
        push(
            &mut text,
            format_args!(
                "---\napiVersion: v1\nkind: Namespace\nmetadata:\n  name: {name}\n  labels:\n    \
             kubernetes.io/metadata.name: {name}\n"
            ),
        );
    }
    text
}

fn pods(cluster: &Cluster) -> String {
    let mut text = String::new();
    for role in CAST {
        let pod = cluster.pod(role.short);
        let node = &cluster.nodes()[role.node].name;
        let (labels, owner) = ownership(role);
        push(
            &mut text,
            format_args!(
                "---\napiVersion: v1\nkind: Pod\nmetadata:\n  name: {}\n  namespace: {}\n  labels:\n{labels}  \
             ownerReferences:\n    - {owner}\nspec:\n  nodeName: {node}\n  containers:\n    \
             - name: {workload}\n      image: weir.example/demo/{workload}:1\nstatus:\n  phase: Running\n  \
             podIP: {ipv4}\n  podIPs:\n    - ip: {ipv4}\n    - ip: '{ipv6}'\n",
                role.pod,
                role.namespace,
                workload = role.workload,
                ipv4 = pod.ipv4,
                ipv6 = pod.ipv6,
            ),
        );
    }
    text
}

fn ownership(role: &Role) -> (String, String) {
    let name = role.workload;
    let mut labels = format!("    app: {name}\n");
    let owner = match role.owner {
        Owner::Deployment(hash) => {
            push(&mut labels, format_args!("    pod-template-hash: '{hash}'\n"));
            format!(
                "{{apiVersion: apps/v1, kind: ReplicaSet, name: {name}-{hash}, controller: true}}"
            )
        }
        Owner::StatefulSet => {
            format!("{{apiVersion: apps/v1, kind: StatefulSet, name: {name}, controller: true}}")
        }
    };
    (labels, owner)
}

/// Services with addresses that the agents balance; the DNS server's is headless.
fn services(cluster: &Cluster) -> String {
    let served: BTreeSet<(&str, &str, u16)> = CAST
        .iter()
        .filter(|role| role.port != 0)
        .map(|role| (role.namespace, role.workload, role.port))
        .collect();
    let mut text = String::new();
    for (namespace, name, port) in served {
        let protocol = if port == 53 { "UDP" } else { "TCP" };
        let role = CAST.iter().find(|role| (role.namespace, role.workload) == (namespace, name));
        let address = match role.and_then(Role::service_addresses) {
            Some((v4, v6)) => format!(
                "clusterIP: {v4}\n  clusterIPs: ['{v4}', '{v6}']\n  ipFamilyPolicy: PreferDualStack"
            ),
            None => "clusterIP: None".to_owned(),
        };
        push(
            &mut text,
            format_args!(
                "---\napiVersion: v1\nkind: Service\nmetadata:\n  name: {name}\n  namespace: {namespace}\nspec:\n  \
             {address}\n  selector:\n    app: {name}\n  ports:\n    \
             - {{name: main, port: {port}, targetPort: {port}, protocol: {protocol}}}\n"
            ),
        );
        let behind: Vec<(&Role, &Pod)> = CAST
            .iter()
            .filter(|role| (role.namespace, role.workload) == (namespace, name))
            .map(|role| (role, cluster.pod(role.short)))
            .collect();
        for family in ["IPv4", "IPv6"] {
            push(
                &mut text,
                format_args!(
                    "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  \
                 name: {name}-{lower}\n  namespace: {namespace}\n  labels:\n    \
                 kubernetes.io/service-name: {name}\naddressType: {family}\nports:\n  \
                 - {{name: main, port: {port}, protocol: {protocol}}}\nendpoints:\n",
                    lower = family.to_lowercase(),
                ),
            );
            for (role, pod) in &behind {
                let address = match family {
                    "IPv4" => pod.ipv4.to_string(),
                    _ => pod.ipv6.to_string(),
                };
                push(
                    &mut text,
                    format_args!(
                        "  - addresses: ['{address}']\n    conditions: {{ready: true}}\n    nodeName: {}\n    \
                     targetRef: {{kind: Pod, namespace: {namespace}, name: {}}}\n",
                        cluster.nodes()[role.node].name,
                        role.pod,
                    ),
                );
            }
        }
    }
    text
}

fn push(text: &mut String, more: std::fmt::Arguments<'_>) {
    text.write_fmt(more).expect("writing to a string cannot fail");
}
