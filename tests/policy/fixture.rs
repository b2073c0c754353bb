//! The fixture of the truth tables, in namespaces: nine pods on one node, another node and the world behind it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use harness::{Cluster, Netns, PodSpec, Result};

use crate::cyclonus;
use crate::table::Step;

/// Ends by name, and their addresses.
pub(crate) const ENDS: [(&str, Ipv4Addr); 16] = [
    ("x/a", Ipv4Addr::new(10, 0, 1, 1)),
    ("x/b", Ipv4Addr::new(10, 0, 1, 2)),
    ("x/c", Ipv4Addr::new(10, 0, 1, 3)),
    ("y/a", Ipv4Addr::new(10, 0, 2, 1)),
    ("y/b", Ipv4Addr::new(10, 0, 2, 2)),
    ("y/c", Ipv4Addr::new(10, 0, 2, 3)),
    ("z/a", Ipv4Addr::new(10, 0, 3, 1)),
    ("z/b", Ipv4Addr::new(10, 0, 3, 2)),
    ("z/c", Ipv4Addr::new(10, 0, 3, 3)),
    ("node", Ipv4Addr::new(192, 168, 0, 1)),
    ("remote", Ipv4Addr::new(192, 168, 0, 2)),
    ("world", Ipv4Addr::new(1, 2, 3, 4)),
    ("x/d", Ipv4Addr::new(10, 0, 1, 4)),
    ("w/a", Ipv4Addr::new(10, 0, 4, 1)),
    ("y-2/a", Ipv4Addr::new(10, 0, 5, 1)),
    ("y-2/b", Ipv4Addr::new(10, 0, 5, 2)),
];

/// Ends of the truth tables; those that follow are pods that come and go.
pub(crate) const IN_TABLES: usize = 12;

/// Pods come first among the ends.
pub(crate) const PODS: usize = 9;

/// A column of the tables: its name there, IP protocol, and port or ICMP type.
pub(crate) type Port = (&'static str, u8, u16);

/// The columns.
pub(crate) const PORTS: [Port; 7] = [
    ("80/TCP", 6, 80),
    ("81/TCP", 6, 81),
    ("80/UDP", 17, 80),
    ("81/UDP", 17, 81),
    ("80/SCTP", 132, 80),
    ("81/SCTP", 132, 81),
    ("8/ICMP", 1, 8),
];

/// Every pod, those that come and go included.
pub(crate) fn pods() -> impl Iterator<Item = (usize, &'static str, Ipv4Addr)> {
    let ends = ENDS.iter().enumerate().filter(|(_, (name, _))| name.contains('/'));
    ends.map(|(number, (name, address))| (number, *name, *address))
}

/// Number of an end.
pub(crate) fn end(name: &str) -> usize {
    ENDS.iter().position(|(known, _)| *known == name).unwrap()
}

/// The namespaces, and the folder of manifests that the agent watches.
#[derive(Debug)]
pub(crate) struct Fixture {
    pub(crate) cluster: Cluster,
    manifests: PathBuf,
    pod_labels: BTreeMap<String, BTreeMap<String, String>>,
    namespace_labels: BTreeMap<String, BTreeMap<String, String>>,
    /// Pods that are there besides those of the tables.
    spares: Vec<&'static str>,
}

// === impl Fixture ===

impl Fixture {
    pub(crate) fn build(name: &str) -> Result<Self> {
        let mut cluster = Cluster::for_test(name, &["a"])?;
        for (_, pod, address) in pods() {
            let (namespace, pod) = pod.split_once('/').unwrap();
            let spec = PodSpec {
                namespace: namespace.to_owned(),
                name: pod.to_owned(),
                short: format!("{namespace}{pod}"),
            };
            let interface = {
                let pod = cluster.add_pod(0, spec)?;
                pod.netns.ip(&format!("addr add {address}/32 dev eth0"))?;
                pod.interface.clone()
            };
            let node = &cluster.nodes()[0].netns;
            node.ip(&format!("route add {address}/32 dev {interface}"))?;
        }
        let node = &cluster.nodes()[0];
        node.netns.ip(&format!("addr add {}/32 dev lo", ENDS[end("node")].1))?;
        let via = node.ipv4;
        cluster.world().ip(&format!(
            "addr add {}/32 dev lo\naddr add {}/32 dev lo\nroute add 10.0.0.0/16 via {via}\nroute add {}/32 via {via}",
            ENDS[end("remote")].1,
            ENDS[end("world")].1,
            ENDS[end("node")].1,
        ))?;
        let manifests = cluster.run().directory("manifests")?;
        let mut fixture = Self {
            cluster,
            manifests,
            pod_labels: BTreeMap::new(),
            namespace_labels: BTreeMap::new(),
            spares: Vec::new(),
        };
        fixture.reset();
        Ok(fixture)
    }

    pub(crate) fn manifests(&self) -> &Path {
        &self.manifests
    }

    pub(crate) fn address(&self, end: usize) -> Ipv4Addr {
        ENDS[end].1
    }

    /// The namespace that an end is in.
    pub(crate) fn netns(&self, end: usize) -> &Netns {
        match ENDS[end].0 {
            "node" => &self.cluster.nodes()[0].netns,
            "remote" | "world" => self.cluster.world(),
            pod => &self.cluster.pod(&pod.replace('/', "")).netns,
        }
    }

    /// No policy, and the labels of the beginning.
    pub(crate) fn reset(&mut self) {
        self.pod_labels.clear();
        self.namespace_labels.clear();
        self.spares.clear();
        let label = |key: &str, value: &str| [(key.to_owned(), value.to_owned())].into();
        for (number, pod, _) in pods() {
            let (namespace, name) = pod.split_once('/').unwrap();
            self.pod_labels.insert(pod.to_owned(), label("pod", name));
            if number < PODS {
                self.namespace_labels.insert(namespace.to_owned(), label("ns", namespace));
            }
        }
        self.put_policies("");
        self.put_cluster();
    }

    pub(crate) fn apply(&mut self, step: &Step) {
        self.pod_labels.extend(step.pods.clone());
        self.namespace_labels.extend(step.namespaces.clone());
        if let Some(policies) = &step.policies {
            let documents: Vec<String> = policies.iter().map(ToString::to_string).collect();
            self.put_policies(&documents.join("\n---\n"));
        }
        self.put_cluster();
    }

    /// A step of a generated case.
    pub(crate) fn become_as(&mut self, step: &cyclonus::Step) {
        self.reset();
        let labels = |labels: &serde_json::Value| serde_json::from_value(labels.clone()).unwrap();
        self.pod_labels.extend(step.pods.iter().map(|(pod, to)| ((*pod).to_owned(), labels(to))));
        let namespaces = step.namespaces.iter();
        self.namespace_labels.extend(namespaces.map(|(name, to)| ((*name).to_owned(), labels(to))));
        self.spares.clone_from(&step.spares);
        let documents: Vec<String> = step.policies.iter().map(ToString::to_string).collect();
        self.put_policies(&documents.join("\n---\n"));
        self.put_cluster();
    }

    /// Numbers of the ends that are there.
    pub(crate) fn ends(&self) -> Vec<usize> {
        (0..IN_TABLES).chain(self.spares.iter().map(|name| end(name))).collect()
    }

    pub(crate) fn put_policies(&mut self, text: &str) {
        self.put("policies.yaml", text);
    }

    fn put_cluster(&self) {
        let json = |labels: &BTreeMap<String, String>| serde_json::to_string(labels).unwrap();
        let mut text = String::new();
        for (name, labels) in &self.namespace_labels {
            let labels = json(labels);
            let _ = write!(
                text,
                "---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}, labels: {labels}}}\n"
            );
        }
        for (number, pod, address) in pods() {
            if number >= PODS && !self.spares.contains(&pod) {
                continue;
            }
            let (namespace, name) = pod.split_once('/').unwrap();
            let labels = json(&self.pod_labels[pod]);
            let _ = write!(
                text,
                "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: {namespace}, labels: {labels}}}\n\
                 spec:\n  nodeName: a\n  containers:\n  - name: c\n    ports:\n"
            );
            for protocol in ["TCP", "UDP", "SCTP"] {
                for port in [80, 81] {
                    let lower = protocol.to_lowercase();
                    let _ = writeln!(
                        text,
                        "    - {{name: serve-{port}-{lower}, protocol: {protocol}, containerPort: {port}}}"
                    );
                }
            }
            let _ = writeln!(text, "status: {{podIP: {address}}}");
        }
        for (name, end_name) in [("a", "node"), ("b", "remote")] {
            let address = ENDS[end(end_name)].1;
            let _ = write!(
                text,
                "---\napiVersion: v1\nkind: Node\nmetadata: {{name: {name}}}\n\
                 status: {{addresses: [{{type: InternalIP, address: {address}}}]}}\n"
            );
        }
        self.put("cluster.yaml", &text);
    }

    /// Replaced as a whole, as a careful user does.
    fn put(&self, name: &str, text: &str) {
        let aside = self.manifests.join(format!(".{name}"));
        fs::write(&aside, text).unwrap();
        fs::rename(aside, self.manifests.join(name)).unwrap();
    }
}
