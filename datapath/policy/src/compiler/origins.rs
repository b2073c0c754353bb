//! Numbers of origins: the same rule of the same text keeps its number.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use datapath_abi::policy::{
    MAX_NAME, ORIGIN_CCNP, ORIGIN_CNP, ORIGIN_DEFAULT_DENY, ORIGIN_DENY_LIST, ORIGIN_EGRESS,
    ORIGIN_ENFORCE_ALWAYS, ORIGIN_FAILSAFE, ORIGIN_KNP, ORIGIN_LOCALHOST, ORIGIN_NO_DEFAULT_DENY,
    Origin,
};
use serde::{Deserialize, Serialize};

use crate::document::PolicyKind;

/// An origin in words.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct OriginInfo {
    /// What kind of decision.
    pub kind: OriginKind,
    /// Of a connection that the endpoint opens.
    pub egress: bool,
    /// The rule stands in a deny list.
    pub deny_list: bool,
    /// Index among `spec` and `specs` of the document; 0 for most.
    pub section: Option<usize>,
    /// Index of the rule in its list.
    pub rule: Option<usize>,
    /// `namespace/name`, or several, separated by commas.
    pub name: String,
}

/// Kinds of decisions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OriginKind {
    /// A rule of a policy of this kind.
    Policy(PolicyKind),
    /// No rule allowed it, and the named policies isolate the endpoint.
    DefaultDeny,
    /// Enforcement mode `always`, or an endpoint without labels, and no rule allows it.
    EnforceAlways,
    /// A node reaches its own pods.
    Localhost,
    /// Failsafe port.
    Failsafe,
    /// The selecting policies do not ask for a default deny.
    NoDefaultDeny,
    /// Not enforced, or incomplete tables.
    None,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    kind: u32,
    rule: u32,
    name: String,
    /// Of the policy's text; 0 where it has none.
    fingerprint: u64,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Origins {
    by_key: HashMap<Key, u32>,
    by_number: BTreeMap<u32, Key>,
    /// Of an earlier run, whose texts are not known.
    adopted: HashMap<(u32, u32, String), u32>,
    latest: u32,
    /// Not written yet.
    fresh: Vec<u32>,
}

// === impl Origins ===

impl Origins {
    pub(crate) fn adopt(&mut self, number: u32, origin: &Origin) {
        self.latest = self.latest.max(number);
        self.adopted.insert((origin.kind, origin.rule, text(&origin.name)), number);
    }

    pub(crate) fn number(&mut self, kind: u32, rule: u32, name: &str, fingerprint: u64) -> u32 {
        let key = Key { kind, rule, name: name.to_owned(), fingerprint };
        if let Some(number) = self.by_key.get(&key) {
            return *number;
        }
        let number = match self.adopted.remove(&(kind, rule, key.name.clone())) {
            Some(number) => number,
            None => {
                self.latest = self.next();
                self.fresh.push(self.latest);
                self.latest
            }
        };
        self.by_key.insert(key.clone(), number);
        self.by_number.insert(number, key);
        number
    }

    fn next(&self) -> u32 {
        // The top bit is the verdict's, 0 is no origin.
        let after = |number: u32| if number >= (1 << 31) - 1 { 1 } else { number + 1 };
        let mut number = after(self.latest);
        while self.by_number.contains_key(&number) {
            number = after(number);
        }
        number
    }

    /// Those to be written now.
    pub(crate) fn fresh(&mut self, revision: u64) -> Vec<(u32, Origin)> {
        let numbers = std::mem::take(&mut self.fresh);
        numbers
            .into_iter()
            .filter_map(|number| {
                let key = self.by_number.get(&number)?;
                let mut name = [0; MAX_NAME];
                let bytes = key.name.as_bytes();
                let length = bytes.len().min(MAX_NAME);
                name[..length].copy_from_slice(&bytes[..length]);
                Some((number, Origin { kind: key.kind, rule: key.rule, revision, name }))
            })
            .collect()
    }

    /// Forgets origins that neither rules nor connections use.
    pub(crate) fn forget(&mut self, used: &BTreeSet<u32>) -> Vec<u32> {
        let mut gone: Vec<u32> =
            self.adopted.values().copied().filter(|n| !used.contains(n)).collect();
        self.adopted.retain(|_, number| used.contains(number));
        gone.extend(self.by_number.keys().filter(|number| !used.contains(number)));
        for number in &gone {
            if let Some(key) = self.by_number.remove(number) {
                self.by_key.remove(&key);
            }
        }
        gone
    }
}

/// Names of policies, cut at a whole name to what an entry holds.
pub(crate) fn join<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let mut all = String::new();
    for name in names {
        let comma = usize::from(!all.is_empty());
        // `,…` takes four bytes.
        if all.len() + comma + name.len() + 4 > MAX_NAME {
            all.push_str(",…");
            break;
        }
        if comma > 0 {
            all.push(',');
        }
        all.push_str(name);
    }
    all
}

fn text(name: &[u8]) -> String {
    let end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
    String::from_utf8_lossy(&name[..end]).into_owned()
}

/// Number of a policy's kind.
pub(crate) const fn kind_number(kind: PolicyKind) -> u32 {
    match kind {
        PolicyKind::NetworkPolicy => ORIGIN_KNP,
        PolicyKind::CiliumNetworkPolicy => ORIGIN_CNP,
        PolicyKind::CiliumClusterwideNetworkPolicy => ORIGIN_CCNP,
    }
}

// === impl OriginInfo ===

impl OriginInfo {
    /// Reads an entry of `ORIGINS`. Rules are numbered with the section in the upper 16 bits.
    pub fn of(origin: &Origin) -> Self {
        let policy = |kind| OriginKind::Policy(kind);
        let kind = match origin.kind & !(ORIGIN_EGRESS | ORIGIN_DENY_LIST) {
            ORIGIN_KNP => policy(PolicyKind::NetworkPolicy),
            ORIGIN_CNP => policy(PolicyKind::CiliumNetworkPolicy),
            ORIGIN_CCNP => policy(PolicyKind::CiliumClusterwideNetworkPolicy),
            ORIGIN_DEFAULT_DENY => OriginKind::DefaultDeny,
            ORIGIN_ENFORCE_ALWAYS => OriginKind::EnforceAlways,
            ORIGIN_LOCALHOST => OriginKind::Localhost,
            ORIGIN_FAILSAFE => OriginKind::Failsafe,
            ORIGIN_NO_DEFAULT_DENY => OriginKind::NoDefaultDeny,
            _ => OriginKind::None,
        };
        let has_rule = origin.rule != u32::MAX;
        Self {
            kind,
            egress: origin.kind & ORIGIN_EGRESS != 0,
            deny_list: origin.kind & ORIGIN_DENY_LIST != 0,
            section: has_rule.then_some((origin.rule >> 16) as usize),
            rule: has_rule.then_some((origin.rule & 0xffff) as usize),
            name: text(&origin.name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_cut_whole() {
        let long = "n".repeat(100);
        let names = [long.as_str(), &long, &long, &long];
        let joined = join(names.into_iter());
        assert_eq!(joined.len(), 3 * 100 + 2 + 4);
        assert!(joined.ends_with(",…") && joined.len() <= MAX_NAME);
        assert_eq!(join(["a/b", "c/d"].into_iter()), "a/b,c/d");
    }
}
