//! Where a rule comes from, in the words of a row.

use std::sync::Arc;

use datapath_abi::policy::{
    NO_ORIGIN, ORIGIN_CCNP, ORIGIN_CNP, ORIGIN_DEFAULT_DENY, ORIGIN_DENY_LIST, ORIGIN_EGRESS,
    ORIGIN_ENFORCE_ALWAYS, ORIGIN_FAILSAFE, ORIGIN_KNP, ORIGIN_LOCALHOST, ORIGIN_NO_DEFAULT_DENY,
    Origin,
};
use hashbrown::HashMap;

use crate::kernel::Kernel;

/// Origins known at once; past that, all are asked for again.
const MAX: usize = 65_536;

/// Origins by number. A number keeps its meaning for as long as an entry may name it.
#[derive(Debug, Default)]
pub(super) struct Origins(HashMap<u32, Arc<Words>>);

/// The policy columns of a row.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Words {
    /// Kind of the policy's object, or what stands for one; empty where not enforced.
    pub(super) kind: &'static str,
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) rule: Option<u32>,
    pub(super) revision: Option<u64>,
    /// Of a default deny: the policies that select the endpoint, `namespace/name`.
    pub(super) selecting: Vec<String>,
    /// The rule stands in a list of denials.
    pub(super) denies: bool,
}

// === impl Origins ===

impl Origins {
    /// The words of a number.
    pub(super) fn words(&mut self, kernel: &dyn Kernel, number: u32) -> Arc<Words> {
        if number == NO_ORIGIN {
            return Arc::default();
        }
        if let Some(known) = self.0.get(&number) {
            return Arc::clone(known);
        }
        let Some(origin) = kernel.origin(number) else { return Arc::default() };
        let words = Arc::new(Words::of(&origin));
        if self.0.len() >= MAX {
            self.0.clear();
        }
        self.0.insert(number, Arc::clone(&words));
        words
    }

    /// Forgets everything, once a pass: a number that nothing names any more is given again.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

// === impl Words ===

impl Words {
    fn of(origin: &Origin) -> Self {
        let end = origin.name.iter().position(|byte| *byte == 0).unwrap_or(origin.name.len());
        let name = String::from_utf8_lossy(&origin.name[..end]);
        let base = origin.kind & !(ORIGIN_DENY_LIST | ORIGIN_EGRESS);
        let mut words = Self {
            kind: kind(base),
            rule: (origin.rule != u32::MAX).then_some(origin.rule),
            revision: Some(origin.revision),
            denies: origin.kind & ORIGIN_DENY_LIST != 0,
            ..Self::default()
        };
        match base {
            ORIGIN_KNP | ORIGIN_CNP | ORIGIN_CCNP => {
                let (namespace, name) = name.split_once('/').unwrap_or(("", &name));
                (words.namespace, words.name) = (namespace.to_owned(), name.to_owned());
            }
            _ => {
                let names = name.split(',').filter(|name| !name.is_empty());
                words.selecting = names.map(str::to_owned).collect();
            }
        }
        words
    }
}

fn kind(base: u32) -> &'static str {
    match base {
        ORIGIN_KNP => "NetworkPolicy",
        ORIGIN_CNP => "CiliumNetworkPolicy",
        ORIGIN_CCNP => "CiliumClusterwideNetworkPolicy",
        ORIGIN_DEFAULT_DENY => "default-deny",
        ORIGIN_ENFORCE_ALWAYS => "enforcement-always",
        ORIGIN_LOCALHOST => "allow-localhost",
        ORIGIN_FAILSAFE => "failsafe",
        ORIGIN_NO_DEFAULT_DENY => "no-default-deny",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use datapath_abi::policy::MAX_NAME;

    use super::*;

    fn origin(kind: u32, rule: u32, text: &str) -> Origin {
        let mut name = [0; MAX_NAME];
        name[..text.len()].copy_from_slice(text.as_bytes());
        Origin { kind, rule, revision: 7, name }
    }

    #[test]
    fn rules_and_defaults() {
        let words = Words::of(&origin(ORIGIN_CNP | ORIGIN_DENY_LIST, 2, "shop/no-db"));
        assert_eq!(
            (words.kind, &*words.namespace, &*words.name),
            ("CiliumNetworkPolicy", "shop", "no-db")
        );
        assert_eq!((words.rule, words.revision, words.denies), (Some(2), Some(7), true));
        let words = Words::of(&origin(ORIGIN_CCNP, 0, "/everyone"));
        assert_eq!((&*words.namespace, &*words.name), ("", "everyone"));
        let words = Words::of(&origin(ORIGIN_DEFAULT_DENY | ORIGIN_EGRESS, u32::MAX, "a/x,a/y"));
        assert_eq!((words.kind, words.rule), ("default-deny", None));
        assert_eq!(words.selecting, ["a/x", "a/y"]);
    }
}
