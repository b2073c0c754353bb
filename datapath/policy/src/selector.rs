//! Label selectors (Kubernetes `LabelSelector`, Cilium `EndpointSelector`).

use std::collections::BTreeMap;

use serde::Deserialize;

/// A selector: every label and every requirement must hold. An empty one selects everything.
#[derive(
    Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Deserialize, serde::Serialize,
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Selector {
    /// Labels that must have exactly these values.
    #[serde(default)]
    pub match_labels: BTreeMap<String, String>,
    /// Further requirements.
    #[serde(default)]
    pub match_expressions: Vec<Requirement>,
}

/// One requirement on one label.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, serde::Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Requirement {
    /// The label.
    pub key: String,
    /// How its value is judged.
    pub operator: Operator,
    /// Values of `In` and `NotIn`.
    #[serde(default)]
    pub values: Vec<String>,
}

/// How a requirement judges a value.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, serde::Serialize,
)]
pub enum Operator {
    /// The label is there and has one of the values.
    In,
    /// The label is absent or has none of the values.
    NotIn,
    /// The label is there.
    Exists,
    /// The label is absent.
    DoesNotExist,
}

/// What a selector is asked about: a pod, with the namespace that it is in.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// Name of the namespace.
    pub namespace: &'a str,
    /// The pod's labels.
    pub labels: &'a BTreeMap<String, String>,
    /// The namespace's labels.
    pub namespace_labels: &'a BTreeMap<String, String>,
    /// Name of the service account; empty where unknown.
    pub service_account: &'a str,
    /// Name of the cluster; empty where it has none.
    pub cluster: &'a str,
    /// Cilium's reserved labels that it carries, such as `host`.
    pub reserved: &'a [&'static str],
}

/// Cilium's names for facts that are no labels of the pod.
const NAMESPACE: &str = "io.kubernetes.pod.namespace";
const NAMESPACE_LABEL: &str = "io.cilium.k8s.namespace.labels.";
/// Where a label came from, in Cilium's selectors; a pod's labels are all of the source `k8s`.
const SOURCES: [&str; 2] = ["k8s:", "any:"];
/// Sources of labels that no pod has here: a selector may name them, but nothing carries one.
const FOREIGN: [&str; 7] =
    ["container:", "cidr:", "cidrgroup:", "fqdn:", "node:", "unspec:", "mesos:"];
const RESERVED: &str = "reserved:";
const SERVICE_ACCOUNT: &str = "io.cilium.k8s.policy.serviceaccount";
const CLUSTER: &str = "io.cilium.k8s.policy.cluster";

// === impl Selector ===

impl Selector {
    /// Whether the subject has all that is asked for.
    pub fn matches(&self, subject: &Subject<'_>) -> bool {
        let labels =
            self.match_labels.iter().all(|(key, value)| subject.get(key) == Some(value.as_str()));
        labels && self.match_expressions.iter().all(|requirement| requirement.matches(subject))
    }

    /// Whether the selector asks for nothing, and so selects everything.
    pub fn is_empty(&self) -> bool {
        self.match_labels.is_empty() && self.match_expressions.is_empty()
    }

    /// Whether a label of this name is asked about.
    pub fn names(&self, key: &str) -> bool {
        self.match_labels.keys().any(|label| bare(label) == key)
            || self.match_expressions.iter().any(|requirement| bare(&requirement.key) == key)
    }

    /// Whether it asks for one of Cilium's `reserved:` labels.
    pub fn names_reserved(&self) -> bool {
        self.keys().any(|key| key.starts_with(RESERVED))
    }

    /// Whether it asks for the namespace itself (not for the namespace's labels).
    pub fn names_namespace(&self) -> bool {
        self.names(NAMESPACE)
    }

    /// The labels asked about, as written.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        let labels = self.match_labels.keys().map(String::as_str);
        labels.chain(self.match_expressions.iter().map(|requirement| requirement.key.as_str()))
    }

    /// Checks what the types cannot, for a Cilium selector: names, values, and the number of values.
    ///
    /// # Errors
    /// A message that names the label.
    pub fn validate(&self) -> Result<(), String> {
        for (key, value) in &self.match_labels {
            key_syntax(key)?;
            value_syntax(key, value)?;
        }
        self.match_expressions.iter().try_for_each(Requirement::validate)
    }

    /// As [`Self::validate`], for a Kubernetes selector, whose labels have no source.
    ///
    /// # Errors
    /// A message that names the label.
    pub fn validate_plain(&self) -> Result<(), String> {
        if let Some(key) = self.keys().find(|key| key.contains(':')) {
            return Err(format!("label {key:?} is not a valid label name"));
        }
        self.validate()
    }
}

// === impl Requirement ===

impl Requirement {
    /// Whether the subject meets it.
    pub fn matches(&self, subject: &Subject<'_>) -> bool {
        let value = subject.get(&self.key);
        let listed = || value.is_some_and(|value| self.values.iter().any(|known| known == value));
        match self.operator {
            Operator::In => listed(),
            Operator::NotIn => !listed(),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
        }
    }

    fn validate(&self) -> Result<(), String> {
        key_syntax(&self.key)?;
        let takes_values = matches!(self.operator, Operator::In | Operator::NotIn);
        if takes_values && self.values.is_empty() {
            return Err(format!("label {}: {:?} needs values", self.key, self.operator));
        }
        if !takes_values && !self.values.is_empty() {
            return Err(format!("label {}: {:?} takes no values", self.key, self.operator));
        }
        self.values.iter().try_for_each(|value| value_syntax(&self.key, value))
    }
}

// === impl Subject ===

impl<'a> Subject<'a> {
    /// Value of a label, whose key may have a source in front.
    pub fn get(&self, key: &str) -> Option<&'a str> {
        if let Some(reserved) = key.strip_prefix(RESERVED) {
            return self.reserved.contains(&reserved).then_some("");
        }
        if FOREIGN.iter().any(|source| key.starts_with(source)) {
            return None;
        }
        let key = bare(key);
        if let Some(value) = self.labels.get(key) {
            return Some(value);
        }
        let stated = |value: &'a str| (!value.is_empty()).then_some(value);
        match key {
            NAMESPACE => return stated(self.namespace),
            SERVICE_ACCOUNT => return stated(self.service_account),
            CLUSTER => return stated(self.cluster),
            _ => {}
        }
        self.namespace_labels.get(key.strip_prefix(NAMESPACE_LABEL)?).map(String::as_str)
    }
}

/// A key without the sources that a pod's labels have.
pub(crate) fn bare(key: &str) -> &str {
    SOURCES.iter().find_map(|source| key.strip_prefix(source)).unwrap_or(key)
}

/// A qualified name: an optional DNS prefix of up to 253 characters and `/`, then a name of up to
/// 63. (Kubernetes, "Labels and Selectors", syntax and character set.)
fn key_syntax(key: &str) -> Result<(), String> {
    // `reserved:host` and the like name Cilium's own identities.
    let sourced = FOREIGN.iter().chain([&RESERVED]).find_map(|source| key.strip_prefix(*source));
    let name = sourced.unwrap_or_else(|| bare(key));
    let (prefix, name) = name.rsplit_once('/').unwrap_or(("", name));
    let prefix_ok = prefix.len() <= 253 && prefix.chars().all(|c| is_name(c) && c != '_');
    // Namespace labels are one long name in Cilium's spelling.
    let longest = if name.starts_with(NAMESPACE_LABEL) { 253 } else { 63 };
    if !prefix_ok || name.is_empty() || name.len() > longest || !name_syntax(name) {
        return Err(format!("label {key:?} is not a valid label name"));
    }
    Ok(())
}

fn value_syntax(key: &str, value: &str) -> Result<(), String> {
    if value.len() > 63 || !(value.is_empty() || name_syntax(value)) {
        return Err(format!("label {key}: {value:?} is not a valid label value"));
    }
    Ok(())
}

fn name_syntax(name: &str) -> bool {
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    edge(name.chars().next()) && edge(name.chars().next_back()) && name.chars().all(is_name)
}

fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(yaml: &str, labels: &[(&str, &str)]) -> bool {
        let selector: Selector = serde_norway::from_str(yaml).unwrap();
        selector.validate().unwrap();
        let map = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
        };
        selector.matches(&Subject {
            namespace: "shop",
            labels: &map(labels),
            namespace_labels: &map(&[("team", "blue")]),
            service_account: "",
            cluster: "",
            reserved: &[],
        })
    }

    #[test]
    fn every_operator() {
        let web = [("app", "web"), ("tier", "front")];
        assert!(check("{}", &[]));
        assert!(check("matchLabels: {app: web}", &web));
        assert!(!check("matchLabels: {app: web, tier: back}", &web));
        let of = |operator: &str, values: &str| {
            format!("matchExpressions: [{{key: app, operator: {operator}, values: [{values}]}}]")
        };
        assert!(check(&of("In", "db, web"), &web));
        assert!(!check(&of("In", "db"), &web));
        assert!(!check(&of("In", "db"), &[]));
        assert!(check(&of("NotIn", "db"), &web));
        assert!(check(&of("NotIn", "db"), &[]));
        assert!(!check(&of("NotIn", "web"), &web));
        assert!(check(&of("Exists", ""), &web));
        assert!(!check(&of("Exists", ""), &[]));
        assert!(check(&of("DoesNotExist", ""), &[]));
    }

    #[test]
    fn cilium_names_for_the_namespace() {
        assert!(check("matchLabels: {'k8s:io.kubernetes.pod.namespace': shop}", &[]));
        assert!(!check("matchLabels: {'k8s:io.kubernetes.pod.namespace': bank}", &[]));
        assert!(check("matchLabels: {io.cilium.k8s.namespace.labels.team: blue}", &[]));
        assert!(check("matchLabels: {'any:app': web}", &[("app", "web")]));
    }

    #[test]
    fn refuses_what_kubernetes_refuses() {
        for yaml in [
            "matchLabels: {'-app': web}",
            "matchLabels: {'a/b/c': web}",
            "matchLabels: {app: 'we b'}",
            "matchExpressions: [{key: app, operator: In}]",
            "matchExpressions: [{key: app, operator: Exists, values: [x]}]",
            "matchExpressions: [{key: '', operator: Exists}]",
        ] {
            let selector: Selector = serde_norway::from_str(yaml).unwrap();
            selector.validate().expect_err(yaml);
        }
        for yaml in ["matchLabel: {}", "matchExpressions: [{key: app, operator: Is}]"] {
            serde_norway::from_str::<Selector>(yaml).expect_err(yaml);
        }
    }
}
