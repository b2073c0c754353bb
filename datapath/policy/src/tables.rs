//! The tables in memory: what tests, what-if questions and the explainer evaluate, and what an
//! agent reads back from the kernel after a restart.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use datapath_abi::policy::{
    ANYBODY, Class, DENY_BIT, Interval, NO_ORIGIN, Origin, Peer, Policy, PolicySide, Rule,
    SELECTORS, Section, Settings, Subject,
};
use datapath_engine::policy::{Decision, Question, Tables, evaluate};

use crate::address::{self, Cidr, octets};
use crate::change::Change;

/// The tables of [`datapath_abi::policy`].
#[derive(Debug, Clone)]
pub struct MemoryTables {
    /// `SUBJECTS`.
    pub subjects: BTreeMap<u32, Subject>,
    /// `POLICIES`.
    pub policies: BTreeMap<u32, Policy>,
    /// `INTERVALS`, as far as they are used.
    pub intervals: Vec<Interval>,
    /// `RULES`, as far as they are used.
    pub rules: Vec<Rule>,
    /// `CLASSES`, as far as they are used.
    pub classes: Vec<Class>,
    /// `HOSTS`.
    pub hosts: HashMap<[u8; 16], Peer>,
    /// `CIDRS`.
    pub cidrs: BTreeMap<Cidr, Peer>,
    /// `ORIGINS`.
    pub origins: BTreeMap<u32, Origin>,
    /// `SETTINGS`.
    pub settings: Settings,
    /// Number of prefixes by length (of 128), so that a lookup asks only for those that occur.
    lengths: BTreeMap<u8, usize>,
}

/// Who may not be there: a default where nothing was written.
const EMPTY_INTERVAL: Interval = Interval { first: 0, count: 0, rules: 0 };
const EMPTY_RULE: Rule = Rule { selector: ANYBODY, origin: DENY_BIT | NO_ORIGIN };
const EMPTY_CLASS: Class = Class { bits: [0; SELECTORS / 64] };

// === impl MemoryTables ===

impl Default for MemoryTables {
    fn default() -> Self {
        Self {
            subjects: BTreeMap::new(),
            policies: BTreeMap::new(),
            intervals: Vec::new(),
            rules: Vec::new(),
            classes: Vec::new(),
            hosts: HashMap::new(),
            cidrs: BTreeMap::new(),
            origins: BTreeMap::new(),
            settings: Settings { revision: 0, flags: 0 },
            lengths: BTreeMap::new(),
        }
    }
}

impl MemoryTables {
    /// Applies changes in order.
    pub fn apply(&mut self, changes: &[Change]) {
        for change in changes {
            self.apply_one(change);
        }
    }

    fn apply_one(&mut self, change: &Change) {
        match change {
            Change::Origin { number, origin } => {
                put(&mut self.origins, *number, origin.as_deref().copied());
            }
            Change::Class { index, class } => {
                write(&mut self.classes, *index, &[**class], EMPTY_CLASS);
            }
            Change::Bits { class, word, bits } => {
                let row = self.classes.get_mut(*class as usize);
                if let Some(place) = row.and_then(|row| row.bits.get_mut(*word as usize)) {
                    *place = *bits;
                }
            }
            Change::Host { address, peer } => {
                match peer {
                    Some(peer) => self.hosts.insert(octets(*address), *peer),
                    None => self.hosts.remove(&octets(*address)),
                };
            }
            Change::Cidr { cidr, peer } => self.put_cidr(*cidr, *peer),
            Change::Rules { start, rules } => write(&mut self.rules, *start, rules, EMPTY_RULE),
            Change::Intervals { start, intervals } => {
                write(&mut self.intervals, *start, intervals, EMPTY_INTERVAL);
            }
            Change::Policy { number, policy } => {
                put(&mut self.policies, *number, policy.as_deref().copied());
            }
            Change::Subject { interface, subject } => {
                put(&mut self.subjects, *interface, *subject);
            }
            Change::Settings(settings) => self.settings = *settings,
            Change::Barrier => {}
        }
    }

    /// Writes or removes an entry of `CIDRS`.
    pub fn put_cidr(&mut self, cidr: Cidr, peer: Option<Peer>) {
        let count = self.lengths.entry(cidr.length()).or_default();
        match peer {
            Some(peer) => {
                if self.cidrs.insert(cidr, peer).is_none() {
                    *count += 1;
                }
            }
            None => {
                if self.cidrs.remove(&cidr).is_some() {
                    *count -= 1;
                }
            }
        }
        if *count == 0 {
            self.lengths.remove(&cidr.length());
        }
    }

    /// Judges as the kernel would for this interface; None where the interface is not enforced.
    pub fn judge(
        &self,
        interface: u32,
        direction: usize,
        peer: IpAddr,
        protocol: u8,
        port: u16,
    ) -> Option<Decision> {
        let subject = *self.subjects.get(&interface)?;
        let peer = octets(peer);
        Some(evaluate(self, &Question { subject, direction, peer: &peer, protocol, port }))
    }

    /// Longest prefix that holds the address.
    pub(crate) fn longest(&self, of: &Cidr) -> Option<Peer> {
        let lengths = self.lengths.range(..=of.length()).rev();
        lengths
            .map(|(length, _)| of.shortened(*length))
            .find_map(|cidr| self.cidrs.get(&cidr).copied())
    }

    /// Intervals of a section, as far as they are there.
    pub fn section(&self, section: Section) -> &[Interval] {
        slice(&self.intervals, section.start, section.count)
    }

    /// Rules of an interval, as far as they are there.
    pub fn rules_of(&self, interval: Interval) -> &[Rule] {
        slice(&self.rules, interval.rules, interval.count)
    }
}

impl Tables for MemoryTables {
    fn peer(&self, address: &[u8; 16]) -> Option<Peer> {
        let host = self.hosts.get(address).copied();
        host.or_else(|| self.longest(&Cidr::host(address::address(*address))))
    }

    fn side(&self, policy: u32, direction: usize) -> Option<&PolicySide> {
        self.policies.get(&policy)?.sides.get(direction)
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
        self.settings.flags
    }
}

fn put<V>(map: &mut BTreeMap<u32, V>, key: u32, value: Option<V>) {
    match value {
        Some(value) => map.insert(key, value),
        None => map.remove(&key),
    };
}

fn write<T: Copy>(array: &mut Vec<T>, start: u32, values: &[T], empty: T) {
    let end = start as usize + values.len();
    if array.len() < end {
        array.resize(end, empty);
    }
    array[start as usize..end].copy_from_slice(values);
}

fn slice<T>(array: &[T], start: u32, count: u32) -> &[T] {
    let end = (start as usize).saturating_add(count as usize);
    array.get(start as usize..end).unwrap_or(&[])
}
