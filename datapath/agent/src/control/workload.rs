//! Which workload a pod belongs to.

use std::collections::BTreeMap;

/// Labels that name an application, best first (Kubernetes "Recommended Labels", then habits).
const NAMES: [&str; 3] = ["app.kubernetes.io/name", "app", "k8s-app"];
/// Label that a Deployment's pods carry; its value ends their ReplicaSet's name.
const HASH: &str = "pod-template-hash";

/// Name and kind of the workload: the owner, seen through the ReplicaSet that a Deployment makes
/// or the Job that a CronJob makes; without an owner what the labels say, else the pod itself.
pub(super) fn of(
    pod: &str,
    labels: &BTreeMap<String, String>,
    owner: Option<(&str, &str)>,
) -> (String, String) {
    let (kind, name) = match owner {
        Some(("ReplicaSet", name)) => match deployment(name, labels) {
            Some(deployment) => ("Deployment", deployment),
            None => ("ReplicaSet", name),
        },
        Some(("Job", name)) => match cron_job(name) {
            Some(cron_job) => ("CronJob", cron_job),
            None => ("Job", name),
        },
        // A static pod is owned by its node, which is no workload.
        Some(("Node", _)) | None => {
            let label = NAMES.iter().find_map(|name| labels.get(*name));
            ("Pod", label.map_or(pod, String::as_str))
        }
        Some((kind, name)) => (kind, name),
    };
    (name.to_owned(), kind.to_owned())
}

/// `web-7d4b9c6f5` → `web`, if the ending is what the label says, or looks like it.
fn deployment<'a>(replica_set: &'a str, labels: &BTreeMap<String, String>) -> Option<&'a str> {
    let (name, hash) = replica_set.rsplit_once('-')?;
    match labels.get(HASH) {
        Some(label) => (label == hash).then_some(name),
        // Kubernetes spells hashes without vowels and without 0, 1 and 3 (`SafeEncodeString`).
        None => {
            let safe = |c: char| "bcdfghjklmnpqrstvwxz2456789".contains(c);
            ((5..=10).contains(&hash.len()) && hash.chars().all(safe)).then_some(name)
        }
    }
}

/// `backup-29012345` → `backup`: a CronJob's jobs end in the minute they were due, since the epoch.
fn cron_job(job: &str) -> Option<&str> {
    let (name, minute) = job.rsplit_once('-')?;
    ((8..=10).contains(&minute.len()) && minute.bytes().all(|b| b.is_ascii_digit())).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_and_labels() {
        let none = BTreeMap::new();
        let label = |key: &str, value: &str| BTreeMap::from([(key.to_owned(), value.to_owned())]);
        for (labels, owner, expected) in [
            (&none, Some(("ReplicaSet", "web-7d4b9c6f5")), ("web", "Deployment")),
            (&none, Some(("ReplicaSet", "web-server")), ("web-server", "ReplicaSet")),
            (&label(HASH, "abc"), Some(("ReplicaSet", "web-abc")), ("web", "Deployment")),
            (&label(HASH, "abc"), Some(("ReplicaSet", "web-xyz")), ("web-xyz", "ReplicaSet")),
            (&none, Some(("Job", "backup-29012345")), ("backup", "CronJob")),
            (&none, Some(("Job", "migrate")), ("migrate", "Job")),
            (&none, Some(("StatefulSet", "db")), ("db", "StatefulSet")),
            (&label("app", "x"), Some(("Node", "n1")), ("x", "Pod")),
            (&label("k8s-app", "dns"), None, ("dns", "Pod")),
            (&none, None, ("pod-0", "Pod")),
        ] {
            let (name, kind) = of("pod-0", labels, owner);
            assert_eq!((name.as_str(), kind.as_str()), expected);
        }
    }
}
