//! A policy document, of whichever dialect.

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::selector::{Selector, Subject};
use crate::{cilium, kubernetes};

/// A policy that parsed and is valid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Its dialect.
    pub kind: PolicyKind,
    /// Its namespace; empty for a cluster-wide one. `default` where the document names none.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// What it says; NetworkPolicies have one section, Cilium's have one or more.
    pub sections: Vec<Section>,
    /// `spec` (or `specs`) as JSON, for people and programs to read.
    pub spec: String,
}

/// The dialects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PolicyKind {
    /// `networking.k8s.io/v1` NetworkPolicy.
    NetworkPolicy,
    /// `cilium.io/v2` CiliumNetworkPolicy.
    CiliumNetworkPolicy,
    /// `cilium.io/v2` CiliumClusterwideNetworkPolicy.
    CiliumClusterwideNetworkPolicy,
}

/// One subject and the rules for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    /// Whom the rules are for.
    pub subject: Selector,
    /// Whether the subject is a node and not a pod.
    pub nodes: bool,
    /// What comes in is denied unless a rule allows it.
    pub isolates_ingress: bool,
    /// What goes out is denied unless a rule allows it.
    pub isolates_egress: bool,
    /// Number of rules for what comes in.
    pub ingress_rules: usize,
    /// Number of rules for what goes out.
    pub egress_rules: usize,
}

/// Why a document is no valid policy.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct ParseError {
    /// Line within the document, from 1; unknown for errors of meaning.
    pub line: Option<usize>,
    /// What is wrong, and with which part.
    pub message: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Head {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    #[serde(default)]
    metadata: Metadata,
}

#[derive(Deserialize, Default)]
struct Metadata {
    #[serde(default)]
    name: String,
    #[serde(default)]
    namespace: String,
}

/// As far as the parts that the dialects do not share.
#[derive(Deserialize)]
struct Body<S> {
    spec: Option<S>,
    #[serde(default = "Vec::new")]
    specs: Vec<S>,
}

/// Parses and validates one YAML (or JSON) document.
///
/// # Errors
/// When it is no YAML, of another kind or version, has no name, or its rules are not valid.
pub fn parse(text: &str) -> Result<Policy, ParseError> {
    let head: Head = read(text)?;
    let kind = PolicyKind::of(&head.api_version, &head.kind)?;
    if head.metadata.name.is_empty() {
        return Err(ParseError::of("metadata.name is missing"));
    }
    let sections = match kind {
        PolicyKind::NetworkPolicy => {
            let body: Body<kubernetes::Spec> = read(text)?;
            if !body.specs.is_empty() {
                return Err(ParseError::of("a NetworkPolicy has spec, not specs"));
            }
            // An absent spec is an empty one: every pod, nothing comes in.
            let spec = match body.spec {
                Some(spec) => spec,
                None => read("{}")?,
            };
            vec![spec.section().map_err(ParseError::of)?]
        }
        PolicyKind::CiliumNetworkPolicy | PolicyKind::CiliumClusterwideNetworkPolicy => {
            let body: Body<cilium::Spec> = read(text)?;
            let clusterwide = kind == PolicyKind::CiliumClusterwideNetworkPolicy;
            let all = body.spec.into_iter().chain(body.specs);
            let sections: Result<Vec<_>, _> = all.map(|spec| spec.section(clusterwide)).collect();
            sections.map_err(ParseError::of)?
        }
    };
    if sections.is_empty() {
        return Err(ParseError::of("neither spec nor specs is given"));
    }
    Ok(Policy {
        namespace: kind.namespace(head.metadata.namespace),
        name: head.metadata.name,
        spec: spec_json(text)?,
        kind,
        sections,
    })
}

fn read<T: DeserializeOwned>(text: &str) -> Result<T, ParseError> {
    serde_norway::from_str(text).map_err(|error| ParseError {
        line: error.location().map(|location| location.line()),
        message: error.to_string(),
    })
}

fn spec_json(text: &str) -> Result<String, ParseError> {
    let value: serde_norway::Value = read(text)?;
    let spec = value.get("spec").or_else(|| value.get("specs"));
    let spec = spec.unwrap_or(&serde_norway::Value::Null);
    serde_json::to_string(spec).map_err(|error| ParseError::of(format!("spec: {error}")))
}

// === impl Policy ===

impl Policy {
    /// Whether the policy is for this pod.
    pub fn selects(&self, pod: &Subject<'_>) -> bool {
        let here = self.kind == PolicyKind::CiliumClusterwideNetworkPolicy
            || self.namespace == pod.namespace;
        here && self.sections.iter().any(|section| !section.nodes && section.subject.matches(pod))
    }
}

// === impl PolicyKind ===

impl PolicyKind {
    /// The kind's name in a document.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NetworkPolicy => "NetworkPolicy",
            Self::CiliumNetworkPolicy => "CiliumNetworkPolicy",
            Self::CiliumClusterwideNetworkPolicy => "CiliumClusterwideNetworkPolicy",
        }
    }

    /// Whether a document of that kind is a policy at all.
    pub fn is_policy(kind: &str) -> bool {
        Self::ALL.iter().any(|known| known.name() == kind)
    }

    const ALL: [Self; 3] =
        [Self::NetworkPolicy, Self::CiliumNetworkPolicy, Self::CiliumClusterwideNetworkPolicy];

    fn of(version: &str, kind: &str) -> Result<Self, ParseError> {
        let known = Self::ALL.into_iter().find(|known| known.name() == kind);
        let known =
            known.ok_or_else(|| ParseError::of(format!("{kind:?} is no kind of policy")))?;
        let expected = match known {
            Self::NetworkPolicy => "networking.k8s.io/v1",
            _ => "cilium.io/v2",
        };
        if version != expected {
            let message = format!("{kind} has apiVersion {version:?}, expected {expected:?}");
            return Err(ParseError::of(message));
        }
        Ok(known)
    }

    fn namespace(self, stated: String) -> String {
        match self {
            Self::CiliumClusterwideNetworkPolicy => String::new(),
            _ if stated.is_empty() => "default".to_owned(),
            _ => stated,
        }
    }
}

// === impl ParseError ===

impl ParseError {
    fn of(message: impl Into<String>) -> Self {
        Self { line: None, message: message.into() }
    }
}

#[cfg(test)]
mod tests;
