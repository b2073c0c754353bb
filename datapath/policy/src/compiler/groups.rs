//! Sets of endpoints that share a policy: which sections select them, compiled.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use datapath_abi::policy::{
    ANYBODY, DENY_BIT, EGRESS, INGRESS, ORIGIN_DEFAULT_DENY, ORIGIN_DENY_LIST, ORIGIN_EGRESS,
    ORIGIN_ENFORCE_ALWAYS, ORIGIN_FAILSAFE, ORIGIN_LOCALHOST, ORIGIN_NO_DEFAULT_DENY, PolicySide,
    SECTIONS, Section as TableSection,
};

use crate::cluster::{Cluster, Enforcement, NamedPort};
use crate::compiler::origins::{Origins, join, kind_number};
use crate::compiler::places::Pool;
use crate::compiler::ports::{self, Entry, Overflow, Row};
use crate::compiler::selectors::{Atom, SelectorKey, Selectors};
use crate::document::{Policy, PolicyKey};
use crate::rule::{Entity, Port, Rule, Section};

/// What makes two endpoints share a policy.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct GroupKey {
    pub(crate) kind: GroupKind,
    /// Sections that select them.
    pub(crate) sections: Vec<SectionKey>,
    /// Their ports of the names that these sections use.
    pub(crate) ports: Vec<NamedPort>,
}

/// A section of a policy.
pub(crate) type SectionKey = (Arc<PolicyKey>, usize);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum GroupKind {
    Endpoint,
    /// Enforced whatever selects it.
    Init,
    Host,
}

/// What compiling a group has taken, to be given back.
#[derive(Debug, Clone, Default)]
pub(crate) struct Taken {
    pub(crate) selectors: Vec<u16>,
    pub(crate) rules: Vec<Arc<[Row]>>,
    pub(crate) intervals: Vec<Arc<[(u32, u32, u32)]>>,
    /// Origins named.
    pub(crate) origins: BTreeSet<u32>,
    /// What did not fit.
    pub(crate) problems: BTreeSet<String>,
}

/// Where compiled groups are put.
pub(crate) struct Compile<'a> {
    pub(crate) cluster: &'a Cluster,
    pub(crate) selectors: &'a mut Selectors,
    pub(crate) new_selectors: &'a mut BTreeSet<u16>,
    pub(crate) origins: &'a mut Origins,
    pub(crate) rules: &'a mut Pool<Row>,
    pub(crate) intervals: &'a mut Pool<(u32, u32, u32)>,
    /// Numbers of port names among peers.
    pub(crate) names: &'a BTreeMap<(String, u8), BTreeMap<u16, usize>>,
    pub(crate) fingerprints: &'a BTreeMap<Arc<PolicyKey>, u64>,
    pub(crate) taken: Taken,
}

const EMPTY: TableSection = TableSection { start: 0, count: 0 };
/// Refers to no interval: everything is denied.
const CLOSED: TableSection = TableSection { start: u32::MAX, count: 1 };

impl Compile<'_> {
    /// Both directions.
    pub(crate) fn sides(&mut self, key: &GroupKey) -> [PolicySide; 2] {
        [self.side(key, INGRESS), self.side(key, EGRESS)]
    }

    fn side(&mut self, key: &GroupKey, direction: usize) -> PolicySide {
        let concerned: Vec<(SectionKey, Arc<Policy>)> = key
            .sections
            .iter()
            .filter_map(|(name, index)| {
                let policy = self.cluster.policies.get(&**name)?;
                let section = policy.sections.get(*index)?;
                let concerns = section.concerns(direction);
                concerns.then(|| ((Arc::clone(name), *index), Arc::clone(policy)))
            })
            .collect();
        let audit = concerned.iter().any(|(_, policy)| policy.audit);
        let enforced: Vec<_> = concerned.iter().filter(|(_, policy)| !policy.audit).collect();
        let enforced = self.sections(key, direction, &enforced);
        let audited = if audit {
            let all: Vec<_> = concerned.iter().collect();
            self.sections(key, direction, &all)
        } else {
            [EMPTY; SECTIONS]
        };
        PolicySide { enforced, audited }
    }

    fn sections(
        &mut self,
        key: &GroupKey,
        direction: usize,
        concerned: &[&(SectionKey, Arc<Policy>)],
    ) -> [TableSection; SECTIONS] {
        let mode = self.cluster.options.enforcement;
        let always = key.kind == GroupKind::Init
            || (mode == Enforcement::Always && key.kind == GroupKind::Endpoint);
        if mode == Enforcement::Never || (concerned.is_empty() && !always) {
            return [EMPTY; SECTIONS];
        }
        let entries = self.entries(key, direction, concerned);
        let last = self.last(direction, concerned, always);
        let mut done = [EMPTY; SECTIONS];
        for (index, section) in done.iter_mut().enumerate() {
            let mut overflow = Vec::new();
            let intervals = ports::intervals(&entries, index, last, &mut overflow);
            *section = self.place(&intervals).unwrap_or_else(|| {
                self.problem("tables are full; everything is denied".to_owned());
                CLOSED
            });
            for what in overflow {
                self.problem(match what {
                    Overflow::Rules => "too many rules for one port; the rest is denied".to_owned(),
                    Overflow::Intervals => "too many ports; the protocol is denied".to_owned(),
                });
            }
        }
        done
    }

    fn problem(&mut self, text: String) {
        self.taken.problems.insert(text);
    }

    /// What holds where no rule matches.
    fn last(
        &mut self,
        direction: usize,
        concerned: &[&(SectionKey, Arc<Policy>)],
        always: bool,
    ) -> Row {
        let egress = if direction == EGRESS { ORIGIN_EGRESS } else { 0 };
        let isolating = |(section, policy): &&&(SectionKey, Arc<Policy>)| {
            policy.sections[section.1].isolates(direction)
        };
        let (kind, names, verdict) = if concerned.iter().any(|one| isolating(&one)) {
            (ORIGIN_DEFAULT_DENY, names(concerned.iter().filter(isolating)), DENY_BIT)
        } else if always {
            (ORIGIN_ENFORCE_ALWAYS, String::new(), DENY_BIT)
        } else {
            (ORIGIN_NO_DEFAULT_DENY, names(concerned.iter()), 0)
        };
        (ANYBODY, self.origin(kind | egress, u32::MAX, &names, 0) | verdict)
    }

    /// Entries in order of precedence.
    fn entries(
        &mut self,
        key: &GroupKey,
        direction: usize,
        concerned: &[&(SectionKey, Arc<Policy>)],
    ) -> Vec<Entry> {
        let mut entries = Vec::new();
        if key.kind == GroupKind::Host {
            self.failsafe(direction, &mut entries);
        }
        for deny in [true, false] {
            let localhost = !deny
                && direction == INGRESS
                && key.kind != GroupKind::Host
                && self.cluster.options.allow_localhost;
            if localhost {
                let origin = self.origin(ORIGIN_LOCALHOST, u32::MAX, "", 0);
                let host = SelectorKey::new(vec![Atom::Entity(Entity::Host)], None);
                if let Some(selector) = self.selector(host) {
                    entries.extend(ports::everywhere((selector, origin)));
                }
            }
            for ((name, index), policy) in concerned {
                let Some(section) = policy.sections.get(*index) else { continue };
                let rules = section.rules(direction).iter().filter(|rule| rule.deny == deny);
                for rule in rules.filter(|rule| rule.effective) {
                    self.rule(key, direction, (name, *index), policy, rule, &mut entries);
                }
            }
        }
        entries
    }

    fn failsafe(&mut self, direction: usize, into: &mut Vec<Entry>) {
        let egress = if direction == EGRESS { ORIGIN_EGRESS } else { 0 };
        for failsafe in &self.cluster.options.failsafe {
            if failsafe.egress != (direction == EGRESS) {
                continue;
            }
            let (section, number) = ports::section(failsafe.protocol);
            let port = number.unwrap_or(failsafe.port);
            let row = (ANYBODY, self.origins.number(ORIGIN_FAILSAFE | egress, u32::MAX, "", 0));
            self.taken.origins.insert(row.1);
            into.push(Entry { section, first: port, last: port, row });
        }
    }

    fn rule(
        &mut self,
        key: &GroupKey,
        direction: usize,
        (name, section): (&Arc<PolicyKey>, usize),
        policy: &Policy,
        rule: &Rule,
        into: &mut Vec<Entry>,
    ) {
        let mut atoms = Vec::new();
        match &rule.peers {
            None => atoms.push(Atom::Entity(Entity::All)),
            Some(peers) => {
                for peer in peers {
                    Atom::resolve(peer, policy, self.cluster, &mut atoms);
                }
            }
        }
        if atoms.is_empty() {
            return;
        }
        let mut kind = kind_number(policy.kind);
        if rule.deny {
            kind |= ORIGIN_DENY_LIST;
        }
        if direction == EGRESS {
            kind |= ORIGIN_EGRESS;
        }
        let index = ((section as u32) << 16) | (rule.index as u32 & 0xffff);
        let fingerprint = self.fingerprints.get(name).copied().unwrap_or(0);
        let number = self.origin(kind, index, &name.to_string(), fingerprint);
        let origin = number | if rule.deny { DENY_BIT } else { 0 };
        let plain = SelectorKey::new(atoms.clone(), None);
        let Some(ports) = &rule.ports else {
            if let Some(row) = self.row(plain, origin) {
                into.extend(ports::everywhere(row));
            }
            return;
        };
        // Taken once, however many ports there are.
        let mut row = None;
        for port in ports {
            let (section, first, last) = match port {
                Port::Range { protocol, first, last } => {
                    (ports::section(*protocol).0, *first, *last)
                }
                Port::Icmp { v6, kind } => {
                    let kind = u16::from(*kind);
                    (ports::section(if *v6 { 58 } else { 1 }).0, kind, kind)
                }
                Port::Protocol(number) => {
                    (ports::section(*number).0, u16::from(*number), u16::from(*number))
                }
                Port::Named { protocol, name } if direction == INGRESS => {
                    let mine = key.ports.iter();
                    let numbers: BTreeSet<u16> = mine
                        .filter(|port| port.name == *name && port.protocol == *protocol)
                        .map(|port| port.port)
                        .collect();
                    if row.is_none() {
                        row = self.row(plain.clone(), origin);
                    }
                    let section = ports::section(*protocol).0;
                    for port in numbers {
                        into.extend(row.map(|row| Entry { section, first: port, last: port, row }));
                    }
                    continue;
                }
                Port::Named { protocol, name } => {
                    let numbers = self.names.get(&(name.clone(), *protocol));
                    let numbers: Vec<u16> =
                        numbers.into_iter().flat_map(|ports| ports.keys().copied()).collect();
                    let section = ports::section(*protocol).0;
                    for port in numbers {
                        let named = NamedPort { name: name.clone(), protocol: *protocol, port };
                        let row = self.row(SelectorKey::new(atoms.clone(), Some(named)), origin);
                        into.extend(row.map(|row| Entry { section, first: port, last: port, row }));
                    }
                    continue;
                }
            };
            if row.is_none() {
                row = self.row(plain.clone(), origin);
            }
            into.extend(row.map(|row| Entry { section, first, last, row }));
        }
    }

    /// Selector and origin. Without a free bit an allow is left out and a deny is for everybody.
    fn row(&mut self, key: SelectorKey, origin: u32) -> Option<Row> {
        if key.is_anybody() {
            return Some((ANYBODY, origin));
        }
        match self.selector(key) {
            Some(selector) => Some((selector, origin)),
            None => (origin & DENY_BIT != 0).then_some((ANYBODY, origin)),
        }
    }

    fn selector(&mut self, key: SelectorKey) -> Option<u32> {
        let Some((bit, new)) = self.selectors.acquire(key) else {
            self.problem("too many selectors on this node; some rules allow nothing".to_owned());
            return None;
        };
        if new {
            self.new_selectors.insert(bit);
        }
        self.taken.selectors.push(bit);
        Some(u32::from(bit))
    }

    fn origin(&mut self, kind: u32, rule: u32, name: &str, fingerprint: u64) -> u32 {
        let number = self.origins.number(kind, rule, name, fingerprint);
        self.taken.origins.insert(number);
        number
    }

    /// Puts lists where nothing refers to them; None where there is no room.
    fn place(&mut self, intervals: &[(u32, Vec<Row>)]) -> Option<TableSection> {
        let mut list = Vec::with_capacity(intervals.len());
        for (first, rules) in intervals {
            let (start, held) = self.rules.acquire(rules)?;
            self.taken.rules.push(held);
            list.push((*first, rules.len() as u32, start));
        }
        let (start, held) = self.intervals.acquire(&list)?;
        self.taken.intervals.push(held);
        Some(TableSection { start, count: list.len() as u32 })
    }
}

/// Names of the policies, each once.
fn names<'a>(concerned: impl Iterator<Item = &'a &'a (SectionKey, Arc<Policy>)>) -> String {
    let mut names: Vec<String> = concerned.map(|((key, _), _)| key.to_string()).collect();
    names.dedup();
    join(names.iter().map(String::as_str))
}

/// Names of ports that a section uses in a direction.
pub(crate) fn port_names(section: &Section, direction: usize) -> BTreeSet<(String, u8)> {
    let ports = section.rules(direction).iter().filter_map(|rule| rule.ports.as_ref()).flatten();
    ports
        .filter_map(|port| match port {
            Port::Named { protocol, name } => Some((name.clone(), *protocol)),
            _ => None,
        })
        .collect()
}
