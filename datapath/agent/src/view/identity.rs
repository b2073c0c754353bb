//! Numeric identities: the reserved ones of Cilium, and one per set of labels.

use std::collections::{BTreeMap, BTreeSet};

/// The agent's own host.
pub(crate) const HOST: u32 = 1;
/// Everything outside the cluster.
pub(crate) const WORLD: u32 = 2;
/// Other nodes.
pub(crate) const REMOTE_NODE: u32 = 6;
/// First number that is not reserved (Cilium, "Reserved identities": up to 255).
const FIRST: u32 = 256;
/// Numbers are below 2^24; Cilium uses the bits above for scopes.
const END: u32 = 1 << 24;

/// Labels that tell replicas or revisions of one workload apart, and so are no part of an
/// identity (as Cilium's default label filter).
const IGNORED: [&str; 6] = [
    "pod-template-hash",
    "controller-revision-hash",
    "pod-template-generation",
    "statefulset.kubernetes.io/pod-name",
    "batch.kubernetes.io/controller-uid",
    "controller-uid",
];

/// Name of a pod's namespace among its identity's labels, as Cilium spells it.
const NAMESPACE: &str = "io.kubernetes.pod.namespace";

/// The labels that make an identity, sorted, as `key=value`.
pub(crate) fn labels(namespace: &str, labels: &BTreeMap<String, String>) -> Vec<String> {
    let relevant = labels.iter().filter(|(key, _)| !IGNORED.contains(&key.as_str()));
    let mut all: Vec<_> = relevant.map(|(key, value)| format!("{key}={value}")).collect();
    all.push(format!("{NAMESPACE}={namespace}"));
    all.sort_unstable();
    all
}

/// Numbers for sets of labels: the hash of the set, so that every node gives the same without
/// asking; sets that collide are told apart in the order of their labels.
pub(crate) fn number(sets: &BTreeSet<Vec<String>>) -> BTreeMap<Vec<String>, u32> {
    let mut taken = BTreeSet::new();
    let mut numbers = BTreeMap::new();
    for set in sets {
        let mut number = FIRST + (hash(set) % u64::from(END - FIRST)) as u32;
        while !taken.insert(number) {
            number = if number + 1 == END { FIRST } else { number + 1 };
        }
        numbers.insert(set.clone(), number);
    }
    numbers
}

/// FNV-1a over the labels, each ended by a byte that no label has.
fn hash(set: &[String]) -> u64 {
    let bytes = set.iter().flat_map(|label| label.bytes().chain([0xff]));
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    hash ^ (hash >> 32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(pairs: &[(&str, &str)]) -> Vec<String> {
        let map = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        labels("shop", &map)
    }

    #[test]
    fn one_number_per_set_whatever_the_replica() {
        let web = set(&[("app", "web"), ("pod-template-hash", "abc")]);
        assert_eq!(web, set(&[("app", "web"), ("pod-template-hash", "def")]));
        assert_eq!(web, ["app=web", "io.kubernetes.pod.namespace=shop"]);
        let db = set(&[("app", "db")]);
        let numbers = number(&BTreeSet::from([web.clone(), db.clone()]));
        assert!(numbers.values().all(|number| (FIRST..END).contains(number)));
        assert_ne!(numbers[&web], numbers[&db]);
        // Stable: the same alone as in company, today as tomorrow.
        assert_eq!(number(&BTreeSet::from([web.clone()]))[&web], numbers[&web]);
    }
}
