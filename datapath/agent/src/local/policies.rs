//! The policies that the agent knows.

use std::collections::BTreeMap;

use datapath_policy::{Policy, PolicyKey};
use serde::{Deserialize, Serialize};

use crate::control::Snapshot;
use crate::control::applied::Applied;
use crate::enforce::Compiled;

/// All of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policies {
    /// Revision in force; none where nothing is enforced.
    pub revision: Option<u32>,
    /// By kind, namespace and name.
    pub policies: Vec<PolicyState>,
    /// Documents that were left out, and why.
    pub problems: Vec<String>,
    /// Milliseconds until a change that was not confirmed is taken back.
    pub reverts_in_ms: Option<u64>,
}

/// One policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyState {
    /// Kind, namespace and name.
    #[serde(flatten)]
    pub key: PolicyKey,
    /// Where it comes from.
    pub source: Source,
    /// What becomes of its verdicts.
    pub state: State,
    /// Endpoints of this node that it selects, `namespace/name`.
    pub selects: Vec<String>,
    /// Parts of it that are not enforced yet.
    pub not_enforced: Vec<String>,
    /// The document.
    pub text: String,
}

/// Where a policy comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// The control source: a folder of manifests, or the Kubernetes API.
    Control,
    /// `weir policy apply`.
    Applied,
}

/// What becomes of a policy's verdicts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// In force.
    Enforced,
    /// What it would deny is forwarded, with the verdict AUDIT.
    Audit,
    /// The agent only observes.
    Observed,
}

/// Lists them.
pub(crate) fn list(snapshot: &Snapshot, compiled: &Compiled, applied: &Applied) -> Policies {
    let applied_keys = applied.keys();
    let selected = compiled.ask(|compiler| {
        let mut selected: BTreeMap<PolicyKey, Vec<String>> = BTreeMap::new();
        for id in compiler.cluster().endpoints.keys() {
            for key in compiler.selecting(id) {
                selected.entry(key).or_default().push(id.clone());
            }
        }
        (compiler.revision(), compiler.cluster().options.audit, selected)
    });
    let (revision, audit, mut selected) = match selected {
        Some((revision, audit, selected)) => (Some(revision), audit, selected),
        None => (None, false, BTreeMap::new()),
    };
    let state = |policy: &Policy| match revision {
        None => State::Observed,
        Some(_) if policy.audit || audit => State::Audit,
        Some(_) => State::Enforced,
    };
    let mut policies: Vec<_> = snapshot
        .policies
        .iter()
        .map(|policy| PolicyState {
            source: if applied_keys.contains(&policy.key().with_kind()) {
                Source::Applied
            } else {
                Source::Control
            },
            state: state(policy),
            selects: selected.remove(&policy.key()).unwrap_or_default(),
            not_enforced: policy.not_enforced(),
            text: policy.text.clone(),
            key: policy.key(),
        })
        .collect();
    policies.sort_by(|a, b| a.key.cmp(&b.key));
    Policies {
        revision,
        policies,
        problems: snapshot.problems.iter().map(ToString::to_string).collect(),
        reverts_in_ms: applied.reverts_in().map(|left| left.as_millis() as u64),
    }
}
