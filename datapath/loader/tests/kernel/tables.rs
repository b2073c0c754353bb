//! Policy tables under construction: written to the kernel, or asked natively.

use std::collections::HashMap;

use datapath_abi::policy::{
    ANYBODY, CLASSES, Class, DENY_BIT, Interval, Peer, Policy, PolicySide, Prefix, Rule, SECTIONS,
    SELECTORS, Section, Settings, Subject,
};
use datapath_engine::policy::Tables as Asked;
use datapath_loader::{PolicySizes, PolicyTables};

/// Little, for tests.
pub(crate) const SIZES: PolicySizes = PolicySizes {
    subjects: 64,
    policies: 64,
    intervals: 4096,
    rules: 8192,
    classes: 64,
    hosts: 1024,
    cidrs: 1024,
    denied: 1024,
    origins: 64,
};

/// All tables.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tables {
    pub(crate) subjects: HashMap<u32, Subject>,
    pub(crate) policies: HashMap<u32, Policy>,
    pub(crate) intervals: Vec<Interval>,
    pub(crate) rules: Vec<Rule>,
    pub(crate) classes: Vec<Class>,
    pub(crate) hosts: HashMap<[u8; 16], Peer>,
    pub(crate) cidrs: HashMap<(u32, [u8; 16]), Peer>,
    pub(crate) revision: u32,
    pub(crate) flags: u32,
}

pub(crate) const NO_SIDE: PolicySide = PolicySide {
    enforced: [Section { start: 0, count: 0 }; SECTIONS],
    audited: [Section { start: 0, count: 0 }; SECTIONS],
};

/// Allows a selector's peers.
pub(crate) fn allow(selector: u32, origin: u32) -> Rule {
    Rule { selector, origin }
}

/// Refuses a selector's peers.
pub(crate) fn deny(selector: u32, origin: u32) -> Rule {
    Rule { selector, origin: origin | DENY_BIT }
}

// === impl Tables ===

impl Tables {
    /// Adds intervals: each its first port and its rules.
    pub(crate) fn section(&mut self, intervals: &[(u32, &[Rule])]) -> Section {
        let start = self.intervals.len() as u32;
        for &(first, rules) in intervals {
            let at = self.rules.len() as u32;
            self.rules.extend_from_slice(rules);
            self.intervals.push(Interval { first, count: rules.len() as u32, rules: at });
        }
        Section { start, count: intervals.len() as u32 }
    }

    /// All protocols allow nobody but by default; `section` overrides one.
    pub(crate) fn isolated(&mut self, origin: u32) -> PolicySide {
        let nobody = self.section(&[(0, &[deny(ANYBODY, origin)])]);
        PolicySide { enforced: [nobody; SECTIONS], ..NO_SIDE }
    }

    /// A class that matches these selectors.
    pub(crate) fn class(&mut self, selectors: &[u32]) -> u32 {
        let mut class = Class { bits: [0; SELECTORS / 64] };
        for &selector in selectors {
            class.bits[selector as usize / 64] |= 1 << (selector % 64);
        }
        self.classes.push(class);
        self.classes.len() as u32 - 1
    }

    /// Writes everything, the revision last.
    pub(crate) fn apply(&self, to: &PolicyTables) {
        for (class, value) in (0u32..).zip(&self.classes) {
            assert!(to.write_class(class, value), "{CLASSES}");
        }
        to.write_rules(0, &self.rules).unwrap();
        to.write_intervals(0, &self.intervals).unwrap();
        let list = |policies: &HashMap<u32, Policy>| -> Vec<_> {
            policies.iter().map(|(&key, &value)| (key, value)).collect()
        };
        to.put_policies(&list(&self.policies)).unwrap();
        let hosts: Vec<_> = self.hosts.iter().map(|(&key, &value)| (key, value)).collect();
        to.put_hosts(&hosts).unwrap();
        let cidrs: Vec<_> = self
            .cidrs
            .iter()
            .map(|(&(length, address), &value)| (Prefix { length, address }, value))
            .collect();
        to.put_cidrs(&cidrs).unwrap();
        let subjects: Vec<_> = self.subjects.iter().map(|(&key, &value)| (key, value)).collect();
        to.put_subjects(&subjects).unwrap();
        to.set_settings(Settings { revision: self.revision, flags: self.flags }).unwrap();
    }

    /// Removes from the kernel what has keys.
    pub(crate) fn remove(&self, from: &PolicyTables) {
        from.remove_subjects(&self.subjects.keys().copied().collect::<Vec<_>>()).unwrap();
        from.remove_policies(&self.policies.keys().copied().collect::<Vec<_>>()).unwrap();
        from.remove_hosts(&self.hosts.keys().copied().collect::<Vec<_>>()).unwrap();
        let prefixes: Vec<_> =
            self.cidrs.keys().map(|&(length, address)| Prefix { length, address }).collect();
        from.remove_cidrs(&prefixes).unwrap();
    }
}

impl Asked for Tables {
    fn peer(&self, address: &[u8; 16]) -> Option<Peer> {
        if let Some(peer) = self.hosts.get(address) {
            return Some(*peer);
        }
        let number = u128::from_be_bytes(*address);
        let mask = |length: u32| if length == 0 { 0 } else { u128::MAX << (128 - length) };
        (0..=128).rev().find_map(|length| {
            self.cidrs.get(&(length, (number & mask(length)).to_be_bytes())).copied()
        })
    }

    fn side(&self, policy: u32, direction: usize) -> Option<&PolicySide> {
        self.policies.get(&policy).map(|policy| &policy.sides[direction])
    }

    fn interval(&self, index: u32) -> Option<Interval> {
        self.intervals.get(index as usize).copied()
    }

    fn rule(&self, index: u32) -> Option<Rule> {
        self.rules.get(index as usize).copied()
    }

    fn class(&self, class: u32) -> Option<&Class> {
        self.classes.get(class as usize)
    }

    fn flags(&self) -> u32 {
        self.flags
    }
}
