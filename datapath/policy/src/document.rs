//! A policy document, of whichever dialect.

mod lines;
mod screen;

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_norway::Value;

use crate::rule::Section;
use crate::selector::{Selector, Subject};
use crate::{cilium, kubernetes};

use screen::screen;

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
    /// What it would deny is forwarded and said so (annotation [`AUDIT_ANNOTATION`]).
    pub audit: bool,
    /// `spec` (or `specs`) as JSON, for people and programs to read.
    pub spec: String,
    /// The document as it was parsed.
    pub text: String,
    /// Whether the first section is `spec`.
    has_spec: bool,
}

/// Annotation of a policy or a pod: `"true"` puts it in audit mode.
pub const AUDIT_ANNOTATION: &str = "weir.io/audit";

/// What tells one policy from another.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PolicyKey {
    /// Its dialect.
    pub kind: PolicyKind,
    /// Its namespace; empty for a cluster-wide one.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// The dialects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum PolicyKind {
    /// `networking.k8s.io/v1` NetworkPolicy.
    NetworkPolicy,
    /// `cilium.io/v2` CiliumNetworkPolicy.
    CiliumNetworkPolicy,
    /// `cilium.io/v2` CiliumClusterwideNetworkPolicy.
    CiliumClusterwideNetworkPolicy,
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
    namespace: Option<String>,
    annotations: Option<BTreeMap<String, String>>,
}

/// As far as the parts that the dialects do not share.
#[derive(Deserialize)]
struct Body<S> {
    spec: Option<S>,
    specs: Option<Vec<S>>,
}

/// Parses and validates one YAML (or JSON) document.
///
/// # Errors
/// When it is no YAML, of another kind or version, has no name, or its rules are not valid.
pub fn parse(text: &str) -> Result<Policy, ParseError> {
    let source = Source::open(text)?;
    let head: Head = source.read()?;
    let kind = PolicyKind::of(&head.api_version, &head.kind)?;
    let namespace = kind.namespace(head.metadata.namespace.unwrap_or_default())?;
    let name = head.metadata.name;
    if name.is_empty() {
        return Err(ParseError::of("metadata.name is missing"));
    }
    if !subdomain(&name) {
        return Err(ParseError::of(format!("metadata.name: {name:?} is not a DNS subdomain")));
    }
    let mut sections = match kind {
        PolicyKind::NetworkPolicy => vec![network_policy(&source)?],
        _ => cilium_policy(&source, kind, &namespace)?,
    };
    if sections.is_empty() {
        return Err(ParseError::of("neither spec nor specs is given"));
    }
    lines::attach(text, &mut sections);
    let annotations = head.metadata.annotations.unwrap_or_default();
    let (spec, has_spec) = spec_json(&source.value)?;
    Ok(Policy {
        audit: annotations.get(AUDIT_ANNOTATION).is_some_and(|value| value == "true"),
        spec,
        text: text.to_owned(),
        has_spec: kind == PolicyKind::NetworkPolicy || has_spec,
        namespace,
        name,
        kind,
        sections,
    })
}

fn network_policy(source: &Source<'_>) -> Result<Section, ParseError> {
    let body: Body<kubernetes::Spec> = source.read()?;
    if body.specs.is_some() {
        return Err(ParseError::of("a NetworkPolicy has spec, not specs"));
    }
    // An absent spec is an empty one: every pod, nothing comes in.
    let spec = match body.spec {
        Some(spec) => spec,
        None => serde_norway::from_str("{}").map_err(|error| ParseError::yaml(&error))?,
    };
    spec.section().map_err(|error| ParseError::of(format!("spec.{error}")))
}

fn cilium_policy(
    source: &Source<'_>,
    kind: PolicyKind,
    namespace: &str,
) -> Result<Vec<Section>, ParseError> {
    let body: Body<cilium::Spec> = source.read()?;
    let clusterwide = kind == PolicyKind::CiliumClusterwideNetworkPolicy;
    let mut sections = Vec::new();
    if let Some(spec) = body.spec {
        let section = spec.section(namespace, clusterwide);
        sections.push(section.map_err(|error| ParseError::of(format!("spec.{error}")))?);
    }
    for (i, spec) in body.specs.into_iter().flatten().enumerate() {
        let section = spec.section(namespace, clusterwide);
        sections.push(section.map_err(|error| ParseError::of(format!("specs[{i}].{error}")))?);
    }
    Ok(sections)
}

/// A document that has been screened.
pub(crate) struct Source<'a> {
    text: &'a str,
    value: Value,
}

impl<'a> Source<'a> {
    pub(crate) fn open(text: &'a str) -> Result<Self, ParseError> {
        screen(text)?;
        let value = serde_norway::from_str(text).map_err(|error| ParseError::yaml(&error))?;
        Ok(Self { text, value })
    }

    /// Read as the API server reads: a number is no text. The YAML parser alone would take it for one,
    /// but it knows the lines of errors.
    pub(crate) fn read<T: DeserializeOwned>(&self) -> Result<T, ParseError> {
        serde_norway::from_value(self.value.clone()).map_err(|strict| {
            let located = serde_norway::from_str::<T>(self.text).err();
            ParseError::yaml(&located.unwrap_or(strict))
        })
    }
}

/// `spec` or `specs` as JSON, and whether it is the first.
fn spec_json(value: &Value) -> Result<(String, bool), ParseError> {
    let spec = value.get("spec").filter(|spec| !spec.is_null());
    let has_spec = spec.is_some();
    let spec = spec.or_else(|| value.get("specs")).unwrap_or(&Value::Null);
    let json = serde_json::to_string(spec);
    Ok((json.map_err(|error| ParseError::of(format!("spec: {error}")))?, has_spec))
}

/// RFC 1123: labels of lower-case letters, digits and dashes, separated by dots, 253 in all.
fn subdomain(name: &str) -> bool {
    let known = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    name.len() <= 253
        && name.split('.').all(|label| {
            !label.is_empty()
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.chars().all(known)
        })
}

// === impl Policy ===

impl Policy {
    /// Whether the policy is for this pod.
    pub fn selects(&self, pod: &Subject<'_>) -> bool {
        self.sections.iter().any(|section| !section.nodes && self.covers(&section.subject, pod))
    }

    /// Whether a subject's selector is met, and the namespace is right.
    pub(crate) fn covers(&self, selector: &Selector, pod: &Subject<'_>) -> bool {
        let here = self.kind == PolicyKind::CiliumClusterwideNetworkPolicy
            || self.namespace == pod.namespace
            // Endpoints whose labels are unknown have no namespace either.
            || (pod.namespace.is_empty() && selector.names_reserved());
        here && selector.matches(pod)
    }

    /// What tells it from others.
    pub fn key(&self) -> PolicyKey {
        PolicyKey { kind: self.kind, namespace: self.namespace.clone(), name: self.name.clone() }
    }

    /// Whether the first section is `spec`, and not the first of `specs`.
    pub(crate) fn has_spec(&self) -> bool {
        self.has_spec
    }

    /// What of it is not enforced yet, each with its place.
    pub fn not_enforced(&self) -> Vec<String> {
        let mut notes = Vec::new();
        for section in &self.sections {
            for (name, rules) in [("ingress", &section.ingress), ("egress", &section.egress)] {
                for rule in rules {
                    let list = if rule.deny { "Deny" } else { "" };
                    let place = |note| format!("{name}{list}[{}].{note}", rule.index);
                    notes.extend(rule.not_enforced.iter().map(place));
                }
            }
        }
        notes
    }
}

// === impl PolicyKey ===

impl PolicyKey {
    /// `Kind/namespace/name`; the namespace is empty for a cluster-wide one.
    pub fn with_kind(&self) -> String {
        format!("{}/{self}", self.kind.name())
    }
}

impl std::fmt::Display for PolicyKey {
    /// `namespace/name`, or `/name` for a cluster-wide one.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
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

    fn namespace(self, stated: String) -> Result<String, ParseError> {
        match self {
            // The API server ignores what is not empty here.
            Self::CiliumClusterwideNetworkPolicy => Ok(String::new()),
            _ if stated.is_empty() => Ok("default".to_owned()),
            _ if stated.len() > 63 || stated.contains('.') || !subdomain(&stated) => {
                let message = format!("metadata.namespace: {stated:?} is not a DNS label");
                Err(ParseError::of(message))
            }
            _ => Ok(stated),
        }
    }
}

// === impl ParseError ===

impl ParseError {
    pub(crate) fn of(message: impl Into<String>) -> Self {
        Self { line: None, message: message.into() }
    }

    pub(crate) fn yaml(error: &serde_norway::Error) -> Self {
        let line = error.location().map(|location| location.line());
        let mut message = error.to_string();
        // A parser's message quotes what it found, however long that is.
        if message.len() > 400 {
            let end = (0..=400).rev().find(|end| message.is_char_boundary(*end)).unwrap_or(0);
            message.truncate(end);
            message.push('…');
        }
        Self { line, message }
    }
}

#[cfg(test)]
mod tests;
