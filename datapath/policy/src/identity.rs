//! Numeric security identities, as Cilium numbers them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// This node.
pub const HOST: u32 = 1;
/// A pod that is not managed.
pub const UNMANAGED: u32 = 3;
/// Health endpoint.
pub const HEALTH: u32 = 4;
/// Labels not known yet.
pub const INIT: u32 = 5;
/// Another node.
pub const REMOTE_NODE: u32 = 6;
/// API server outside of every node and pod, or on another node.
pub const KUBE_APISERVER: u32 = 7;
/// Source of Ingress and Gateway traffic.
pub const INGRESS: u32 = 8;
/// Outside, IPv4.
pub const WORLD_V4: u32 = 9;
/// Outside, IPv6.
pub const WORLD_V6: u32 = 10;

/// Where numbers are taken from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scope {
    /// Label sets of pods: 256 to 2^24 - 1. A set's number follows from the set itself, so that nodes that never
    /// talk to each other agree, but for sets that collide. (Cilium hands out 16 bits from one place;
    /// 24 is what a tunnel header carries.)
    Cluster,
    /// Prefixes that policies name: from 1 << 24. Known to this node only.
    Cidr,
    /// Label sets of nodes: from 2 << 24. Known to this node only.
    Node,
}

/// A number and what it stands for; as plain data it is kept across restarts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The number.
    pub number: u32,
    /// Its range.
    pub scope: Scope,
    /// `source:key=value`, sorted.
    pub labels: Vec<String>,
}

/// Numbers in use, counted.
#[derive(Debug, Clone, Default)]
pub struct Identities {
    by_labels: BTreeMap<(Scope, Vec<String>), Entry>,
    by_number: BTreeMap<u32, (Scope, Vec<String>)>,
    /// Latest number given out, by scope: a number is used again as late as possible.
    latest: BTreeMap<Scope, u32>,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    number: u32,
    users: u32,
}

/// Labels that do not make an identity: they differ from pod to pod, or change often (Cilium's
/// default filter). A selector still sees them.
const EXCLUDED: [&str; 12] = [
    "pod-template-hash",
    "pod-template-generation",
    "controller-revision-hash",
    "controller-uid",
    "statefulset.kubernetes.io/pod-name",
    "apps.kubernetes.io/pod-index",
    "batch.kubernetes.io/job-completion-index",
    "batch.kubernetes.io/controller-uid",
    "topology.kubernetes.io/",
    "kubernetes.io/",
    "k8s.io/",
    "etcd_node",
];

// === impl Scope ===

impl Scope {
    const fn range(self) -> (u32, u32) {
        match self {
            Self::Cluster => (256, (1 << 24) - 1),
            Self::Cidr => (1 << 24, (2 << 24) - 1),
            Self::Node => (2 << 24, (3 << 24) - 1),
        }
    }
}

// === impl Identities ===

impl Identities {
    /// Numbers of an earlier run; those that are not claimed are forgotten by [`Self::sweep`].
    pub fn import(known: impl IntoIterator<Item = Identity>) -> Self {
        let mut all = Self::default();
        for Identity { number, scope, labels } in known {
            let (first, last) = scope.range();
            let free = !all.by_number.contains_key(&number);
            let key = (scope, labels);
            if (first..=last).contains(&number) && free && !all.by_labels.contains_key(&key) {
                all.by_number.insert(number, key.clone());
                all.by_labels.insert(key, Entry { number, users: 0 });
                let latest = all.latest.entry(scope).or_insert(number);
                *latest = number.max(*latest);
            }
        }
        all
    }

    /// All that is known, for [`Self::import`].
    pub fn export(&self) -> Vec<Identity> {
        let entry = |(number, (scope, labels)): (&u32, &(Scope, Vec<String>))| Identity {
            number: *number,
            scope: *scope,
            labels: labels.clone(),
        };
        self.by_number.iter().map(entry).collect()
    }

    /// The number of a label set; 0 where the range is used up.
    pub fn claim(&mut self, scope: Scope, labels: Vec<String>) -> u32 {
        let key = (scope, labels);
        if let Some(entry) = self.by_labels.get_mut(&key) {
            entry.users += 1;
            return entry.number;
        }
        let Some(number) = self.free(scope, &key.1) else { return 0 };
        self.latest.insert(scope, number);
        self.by_number.insert(number, key.clone());
        self.by_labels.insert(key, Entry { number, users: 1 });
        number
    }

    /// Gives back one claim.
    pub fn release(&mut self, number: u32) {
        let Some(key) = self.by_number.get(&number) else { return };
        let Some(entry) = self.by_labels.get_mut(key) else { return };
        entry.users = entry.users.saturating_sub(1);
        if entry.users == 0 {
            self.by_labels.remove(key);
            self.by_number.remove(&number);
        }
    }

    /// Forgets what nobody has claimed.
    pub fn sweep(&mut self) {
        self.by_labels.retain(|_, entry| entry.users > 0);
        let by_labels = &self.by_labels;
        self.by_number.retain(|_, key| by_labels.contains_key(key));
    }

    /// Labels of a number; for reserved numbers their `reserved:` label.
    pub fn labels(&self, number: u32) -> Vec<String> {
        if let Some((_, labels)) = self.by_number.get(&number) {
            return labels.clone();
        }
        let name = match number {
            HOST => "host",
            UNMANAGED => "unmanaged",
            HEALTH => "health",
            INIT => "init",
            REMOTE_NODE => "remote-node",
            KUBE_APISERVER => "kube-apiserver",
            INGRESS => "ingress",
            WORLD_V4 => "world-ipv4",
            WORLD_V6 => "world-ipv6",
            _ => return Vec::new(),
        };
        vec![format!("reserved:{name}")]
    }

    fn free(&self, scope: Scope, labels: &[String]) -> Option<u32> {
        let (first, last) = scope.range();
        let begin = match scope {
            Scope::Cluster => first + (hash(labels) % u64::from(last - first + 1)) as u32,
            Scope::Cidr | Scope::Node => match self.latest.get(&scope) {
                Some(latest) if *latest < last => latest + 1,
                _ => first,
            },
        };
        let used = |number: &u32| self.by_number.contains_key(number);
        (begin..=last).chain(first..begin).find(|number| !used(number))
    }
}

/// FNV-1a over the labels, each ended by a byte that no label has.
fn hash(labels: &[String]) -> u64 {
    let bytes = labels.iter().flat_map(|label| label.bytes().chain([0xff]));
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    hash ^ (hash >> 32)
}

/// Whether a pod's label belongs to its identity.
pub(crate) fn identifies(key: &str) -> bool {
    // Workload labels of the project itself do, though they look like its bookkeeping.
    key.starts_with("app.kubernetes.io/") || !EXCLUDED.iter().any(|prefix| key.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(text: &str) -> Vec<String> {
        vec![text.to_owned()]
    }

    #[test]
    fn numbers_are_stable_and_counted() {
        let mut all = Identities::default();
        let a = all.claim(Scope::Cluster, labels("k8s:app=a"));
        assert!((256..1 << 24).contains(&a));
        assert_eq!(all.claim(Scope::Cluster, labels("k8s:app=a")), a);
        assert_eq!(all.claim(Scope::Cidr, labels("cidr:10.0.0.0/8")), 1 << 24);
        assert_eq!(all.claim(Scope::Node, labels("node:a=b")), 2 << 24);
        let b = all.claim(Scope::Cluster, labels("k8s:app=b"));
        assert_ne!(a, b);
        // Another node, in another order, agrees.
        let mut other = Identities::default();
        assert_eq!(other.claim(Scope::Cluster, labels("k8s:app=b")), b);
        assert_eq!(other.claim(Scope::Cluster, labels("k8s:app=a")), a);

        all.release(a);
        all.release(a);
        let mut again = Identities::import(all.export());
        assert_eq!(again.claim(Scope::Cluster, labels("k8s:app=b")), b);
        again.sweep();
        assert_eq!(again.export().len(), 1);
    }

    #[test]
    fn sets_that_collide_are_told_apart() {
        let mut all = Identities::default();
        let a = all.claim(Scope::Cluster, labels("k8s:app=a"));
        let mut taken = Identities::import([Identity {
            number: a,
            scope: Scope::Cluster,
            labels: labels("k8s:app=other"),
        }]);
        assert_eq!(taken.claim(Scope::Cluster, labels("k8s:app=a")), a + 1);
    }
}
