//! The second half of a commit: compiled groups, selectors, classes, and the writes in order.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use datapath_abi::policy::{
    AUDIT_ALL, Class, DENY_RESPONSE, Interval, NO_ORIGIN, Peer, Policy, PolicySide, Rule, SECTIONS,
    SELECTORS, SUBJECT_AUDIT, SUBJECT_HOST, Section, Settings, Subject,
};

use crate::address::{Cidr, address};
use crate::change::Change;
use crate::compiler::groups::{Compile, Taken};
use crate::compiler::peers::PeerKey;
use crate::compiler::selectors::Matcher;
use crate::compiler::settle::Settled;
use crate::compiler::{Compiler, Owner};

/// Nothing is enforced.
pub(super) const OPEN: PolicySide = PolicySide {
    enforced: [Section { start: 0, count: 0 }; SECTIONS],
    audited: [Section { start: 0, count: 0 }; SECTIONS],
};

/// Peers beyond which it is cheaper to ask each selector for whom it selects.
const MANY: usize = 200;

/// What a commit has to write.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Commit {
    /// Writes in order.
    pub changes: Vec<Change>,
    /// Revision from now on.
    pub revision: u32,
    /// Whether a verdict may have changed, and with it the revision.
    pub moved: bool,
}

/// Writes, by the order in which they are made.
#[derive(Debug, Default)]
struct Draft {
    /// Where nothing refers to yet, or what means nothing yet.
    unseen: Vec<Change>,
    /// Peers with other bits or another identity.
    peers: Vec<Change>,
    /// Lists, again where nothing refers to yet.
    lists: Vec<Change>,
    /// Policies and subjects.
    switch: Vec<Change>,
    /// Addresses without owners.
    gone: Vec<Change>,
    /// After the grace period.
    cleanup: Vec<Change>,
    moved: bool,
}

impl Compiler {
    /// Works out what the inputs since the last commit come to.
    pub fn commit(&mut self) -> Commit {
        let first = self.tables.settings.revision == 0;
        let options = self.dirty.options;
        let mut settled = self.settle();
        self.dirty.options = false;
        let mut draft = Draft { moved: first, ..Draft::default() };
        if self.former.is_some() {
            self.adopt_moved(&mut settled);
            draft.moved = true;
        }
        let compiled = self.compile(&settled.groups);
        self.selectors_changed(&compiled, &mut settled, &mut draft);
        self.peers_changed(&settled, &mut draft);
        self.lists_changed(&mut draft);
        self.renumber(&mut settled);
        let flags = self.flags();
        draft.moved |= options && flags != self.tables.settings.flags;
        self.switch(&settled, &mut draft);
        let revision = self.revise(draft.moved);
        let mut changes: Vec<Change> = self
            .origins
            .fresh(u64::from(revision))
            .into_iter()
            .map(|(number, origin)| Change::Origin { number, origin: Some(Box::new(origin)) })
            .collect();
        stamp(&mut draft.switch, revision);
        for part in [&mut draft.unseen, &mut draft.peers, &mut draft.lists] {
            changes.append(part);
        }
        changes.append(&mut draft.switch);
        changes.append(&mut draft.gone);
        let settings = Settings { revision, flags };
        if settings != self.tables.settings {
            changes.push(Change::Settings(settings));
        }
        self.tables.apply(&changes);
        self.clean(&mut draft);
        if !draft.cleanup.is_empty() {
            self.tables.apply(&draft.cleanup);
        }
        // Places are used again by the next commit, so its writes come after this grace period.
        if !changes.is_empty() || !draft.cleanup.is_empty() {
            changes.push(Change::Barrier);
        }
        changes.append(&mut draft.cleanup);
        Commit { changes, revision, moved: draft.moved }
    }

    fn flags(&self) -> u32 {
        let options = &self.cluster.options;
        let bit = |on: bool, bit| if on { bit } else { 0 };
        bit(options.audit, AUDIT_ALL) | bit(options.deny_response, DENY_RESPONSE)
    }

    fn revise(&self, moved: bool) -> u32 {
        let revision = self.tables.settings.revision;
        if moved { revision.wrapping_add(1).max(1) } else { revision }
    }

    /// After a restart every peer is worked out anew.
    fn adopt_moved(&mut self, settled: &mut Settled) {
        let Some(former) = self.former.clone() else { return };
        for key in &former.hosts {
            if self.peers.facts(key).is_none() {
                self.drop_peer(key, &mut BTreeSet::new(), settled);
            }
        }
        for key in &former.prefixes {
            if self.peers.facts(key).is_none() {
                self.place_prefix(*key);
            }
            settled.moved.insert(*key);
        }
        for cidr in [Cidr::WORLD_V4, Cidr::WORLD_V6] {
            settled.moved.insert(PeerKey { cidr, host: false });
        }
        settled.interfaces.extend(&former.subjects);
    }

    /// Compiles groups; returns the selectors that are new.
    fn compile(&mut self, numbers: &BTreeSet<u32>) -> BTreeSet<u16> {
        let mut new = BTreeSet::new();
        for number in numbers {
            let Some(mut group) = self.groups.remove(number) else { continue };
            let mut compile = Compile {
                cluster: &self.cluster,
                selectors: &mut self.selectors,
                new_selectors: &mut new,
                origins: &mut self.origins,
                rules: &mut self.rules,
                intervals: &mut self.intervals,
                names: &self.peers.names,
                fingerprints: &self.fingerprints,
                taken: Taken::default(),
            };
            // Subjects may have left it since it was marked.
            if group.users > 0 {
                group.sides = compile.sides(&group.key);
            }
            let taken = compile.taken;
            // The new ones are taken before the old are given back, so that what stays is not moved.
            let old = std::mem::replace(&mut group.taken, taken);
            self.release(&old);
            self.groups.insert(*number, group);
        }
        let unused: Vec<u32> =
            self.groups.iter().filter(|(_, group)| group.users == 0).map(|(n, _)| *n).collect();
        for number in unused {
            if let Some(group) = self.groups.remove(&number) {
                self.by_key.remove(&group.key);
                self.release(&group.taken);
            }
        }
        new
    }

    fn release(&mut self, taken: &Taken) {
        for bit in &taken.selectors {
            self.selectors.release(*bit);
        }
        for list in &taken.rules {
            self.rules.release(list);
        }
        for list in &taken.intervals {
            self.intervals.release(list);
        }
    }

    /// Prefixes and bits of new selectors. Where every member of a class matches, or none, the class
    /// stays; else those that match go to another one.
    fn selectors_changed(&mut self, new: &BTreeSet<u16>, settled: &mut Settled, draft: &mut Draft) {
        let mut matched: BTreeMap<PeerKey, Vec<u16>> = BTreeMap::new();
        let matchers: Vec<(u16, Arc<Matcher>)> = new
            .iter()
            .filter_map(|bit| Some((*bit, Arc::clone(self.selectors.matcher(*bit)?))))
            .collect();
        for (_, matcher) in &matchers {
            for cidr in matcher.key.cidrs() {
                let users = self.prefixes.entry(cidr).or_default();
                *users += 1;
                let key = PeerKey { cidr, host: false };
                if *users == 1 && !self.peers.entries.contains_key(&key) {
                    self.place_prefix(key);
                    settled.moved.insert(key);
                }
            }
        }
        for (bit, matcher) in &matchers {
            for key in self.peers.matched(matcher) {
                if !settled.moved.contains(&key) {
                    matched.entry(key).or_default().push(*bit);
                }
            }
        }
        let mut touched: BTreeMap<u32, BTreeMap<Vec<u16>, Vec<PeerKey>>> = BTreeMap::new();
        for (key, bits) in matched {
            let Some(entry) = self.peers.entries.get(&key) else { continue };
            touched.entry(entry.class).or_default().entry(bits).or_default().push(key);
        }
        for (class, parts) in touched {
            self.split(class, parts, settled, draft);
        }
    }

    fn split(
        &mut self,
        class: u32,
        parts: BTreeMap<Vec<u16>, Vec<PeerKey>>,
        settled: &Settled,
        draft: &mut Draft,
    ) {
        let Some(row) = self.peers.classes.get(&class) else { return };
        let bits = row.bits.clone();
        // Those that are worked out anew leave the class anyway.
        let staying = row.members.iter().filter(|key| !settled.moved.contains(key)).count();
        let matching: usize = parts.values().map(Vec::len).sum();
        let largest = parts.values().map(Vec::len).max().unwrap_or(0);
        let mut in_place = staying == matching;
        for (new, keys) in parts {
            let all = union(&bits, &new);
            if in_place && keys.len() == largest {
                in_place = false;
                self.set_bits(class, &new, &mut draft.unseen);
                self.peers.rewrite(class, all);
                continue;
            }
            for key in keys {
                self.join(key, all.clone(), draft);
            }
        }
    }

    /// Puts a peer into a class and writes both.
    fn join(&mut self, key: PeerKey, bits: Vec<u16>, draft: &mut Draft) {
        let (class, new) = self.peers.join(key, bits);
        if new && let Some(row) = self.peers.classes.get(&class) {
            let mut value = Class { bits: [0; SELECTORS / 64] };
            for bit in &row.bits {
                value.bits[usize::from(bit / 64)] |= 1 << (bit % 64);
            }
            draft.unseen.push(Change::Class { index: class, class: Box::new(value) });
        }
        let Some(entry) = self.peers.entries.get(&key) else { return };
        let peer = Peer { identity: entry.identity, class };
        if self.written(&key) != Some(peer) {
            draft.peers.push(peer_change(&key, Some(peer)));
        }
    }

    fn written(&self, key: &PeerKey) -> Option<Peer> {
        if key.host {
            self.tables.hosts.get(&key.cidr.prefix().address).copied()
        } else {
            self.tables.cidrs.get(&key.cidr).copied()
        }
    }

    /// Sets bits of a row in place, on top of what is written and drafted.
    fn set_bits(&self, class: u32, bits: &[u16], into: &mut Vec<Change>) {
        let row = self.tables.classes.get(class as usize);
        let mut words: BTreeMap<u16, u64> = BTreeMap::new();
        for bit in bits {
            let word = bit / 64;
            let now = row.map_or(0, |row| row.bits[usize::from(word)]);
            *words.entry(word).or_insert(now) |= 1 << (bit % 64);
        }
        let changes = words.into_iter();
        into.extend(changes.map(|(word, bits)| Change::Bits {
            class,
            word: u32::from(word),
            bits,
        }));
    }

    /// Bits of peers, worked out anew: peer by peer, or selector by selector where there are many.
    fn bits_of(&self, moved: &BTreeSet<PeerKey>) -> BTreeMap<PeerKey, Vec<u16>> {
        let mut all: BTreeMap<PeerKey, Vec<u16>> =
            moved.iter().map(|key| (*key, Vec::new())).collect();
        if moved.len() > MANY {
            for (bit, matcher) in self.selectors.iter() {
                for key in self.peers.matched(matcher) {
                    all.entry(key).and_modify(|bits| bits.push(bit));
                }
            }
            return all;
        }
        for (key, bits) in &mut all {
            let Some(facts) = self.peers.facts(key) else { continue };
            let matching = self.selectors.iter().filter(|(_, m)| m.matches(facts, &key.cidr));
            bits.extend(matching.map(|(bit, _)| bit));
        }
        all
    }

    fn peers_changed(&mut self, settled: &Settled, draft: &mut Draft) {
        for (key, bits) in self.bits_of(&settled.moved) {
            let key = &key;
            if self.peers.facts(key).is_none() {
                continue;
            }
            let before = self.bits_before(key);
            // Prefixes are there because a new selector asks; the others say of them what they
            // said of the prefix around.
            if key.host {
                draft.moved |=
                    before != bits.iter().copied().filter(|b| self.is_written(*b)).collect();
            }
            let foreign: Vec<u16> = before.intersection(&self.selectors.foreign).copied().collect();
            let all = union(&bits, &foreign);
            self.join(*key, all, draft);
        }
        for key in &settled.gone {
            let before = self.bits_before(key);
            let around = self.tables.longest(&key.cidr);
            draft.moved |= around.is_none_or(|peer| self.class_bits(peer.class) != before);
            draft.gone.push(peer_change(key, None));
        }
    }

    /// Bits of an address as the tables still have them.
    fn bits_before(&self, key: &PeerKey) -> BTreeSet<u16> {
        let peer = self.written(key).or_else(|| self.tables.longest(&key.cidr));
        peer.map(|peer| self.class_bits(peer.class)).unwrap_or_default()
    }

    fn class_bits(&self, class: u32) -> BTreeSet<u16> {
        let Some(row) = self.tables.classes.get(class as usize) else { return BTreeSet::new() };
        let mut bits = BTreeSet::new();
        for (word, mut value) in (0u16..).zip(row.bits) {
            while value != 0 {
                bits.insert(word * 64 + value.trailing_zeros() as u16);
                value &= value - 1;
            }
        }
        bits
    }

    /// Whether rules in the tables may name the selector.
    fn is_written(&self, bit: u16) -> bool {
        self.known.contains(&bit)
    }

    fn lists_changed(&mut self, draft: &mut Draft) {
        for (start, list) in self.rules.fresh() {
            let rules =
                list.iter().map(|(selector, origin)| Rule { selector: *selector, origin: *origin });
            draft.lists.push(Change::Rules { start, rules: rules.collect() });
        }
        for (start, list) in self.intervals.fresh() {
            let intervals = list.iter().map(|(first, count, rules)| Interval {
                first: *first,
                count: *count,
                rules: *rules,
            });
            draft.lists.push(Change::Intervals { start, intervals: intervals.collect() });
        }
    }

    /// A group that is compiled anew, and that subjects have joined or left, gets another number: who
    /// has left must not see its new rules, nor who joins its old ones.
    fn renumber(&mut self, settled: &mut Settled) {
        let both = settled.groups.intersection(&settled.regrouped).copied();
        let both: Vec<u32> = both
            .filter(|number| {
                let old = self.tables.policies.get(number).map(|policy| policy.sides);
                let new = self.groups.get(number).map(|group| group.sides);
                old.is_some() && new.is_some() && old != new
            })
            .collect();
        for number in both {
            let Some(group) = self.groups.remove(&number) else { continue };
            let other = self.free_group();
            self.by_key.insert(group.key.clone(), other);
            self.groups.insert(other, group);
            settled.groups.insert(other);
            for local in self.locals.values_mut().filter(|local| local.group == number) {
                local.group = other;
                settled.interfaces.extend(&local.interfaces);
            }
        }
    }

    /// Policies, then subjects.
    fn switch(&mut self, settled: &Settled, draft: &mut Draft) {
        for number in &settled.groups {
            let Some(group) = self.groups.get(number) else { continue };
            let old = self.tables.policies.get(number);
            if old.is_some_and(|old| old.sides == group.sides) {
                continue;
            }
            draft.moved |= old.is_some();
            let policy = Box::new(Policy { sides: group.sides, revision: 0 });
            draft.switch.push(Change::Policy { number: *number, policy: Some(policy) });
        }
        for interface in &settled.interfaces {
            let new = self.subject(*interface);
            let old = self.tables.subjects.get(interface).copied();
            if new == old {
                continue;
            }
            draft.moved |= self.enforced(old) != self.enforced(new);
            draft.switch.push(Change::Subject { interface: *interface, subject: new });
        }
    }

    fn subject(&self, interface: u32) -> Option<Subject> {
        let owner = self.interfaces.get(&interface)?.first()?;
        let local = self.locals.get(owner)?;
        let mut flags = if local.audit { SUBJECT_AUDIT } else { 0 };
        if matches!(owner, Owner::Node(_)) {
            // Where no policy selects the host, packets are not even looked at.
            if local.sections.is_empty() {
                return None;
            }
            flags |= SUBJECT_HOST;
        }
        Some(Subject { policy: local.group, identity: local.identity, flags, pad: 0 })
    }

    /// What a subject is judged by; two that are equal have equal verdicts.
    fn enforced(&self, subject: Option<Subject>) -> Option<(u32, [PolicySide; 2])> {
        let subject = subject?;
        let group = self.groups.get(&subject.policy).map(|group| group.sides);
        let written = self.tables.policies.get(&subject.policy).map(|policy| policy.sides);
        let sides = group.or(written).unwrap_or([OPEN; 2]);
        (sides != [OPEN; 2]).then_some((subject.flags, sides))
    }

    /// What the grace period lets go.
    fn clean(&mut self, draft: &mut Draft) {
        let stale: Vec<u32> = self
            .tables
            .policies
            .keys()
            .copied()
            .filter(|number| !self.groups.contains_key(number))
            .collect();
        for number in stale {
            draft.cleanup.push(Change::Policy { number, policy: None });
        }
        self.rules.sweep();
        self.intervals.sweep();
        let mut dead: BTreeSet<u16> = BTreeSet::new();
        let mut names = BTreeSet::new();
        let mut unused = BTreeSet::new();
        for (bit, matcher) in self.selectors.sweep() {
            dead.insert(bit);
            for cidr in matcher.key.cidrs() {
                let Some(users) = self.prefixes.get_mut(&cidr) else { continue };
                *users -= 1;
                if *users == 0 {
                    self.prefixes.remove(&cidr);
                    unused.insert(PeerKey { cidr, host: false });
                }
            }
        }
        if let Some(former) = self.former.take() {
            dead.append(&mut self.selectors.foreign);
            for (start, length) in former.intervals {
                self.intervals.places().give_back(start, length);
            }
            for (start, length) in former.rules {
                self.rules.places().give_back(start, length);
            }
            let wanted = |key: &PeerKey| self.prefixes.contains_key(&key.cidr);
            unused.extend(former.prefixes.into_iter().filter(|key| !wanted(key)));
            self.identities.sweep();
        }
        unused.retain(|key| key.cidr != Cidr::WORLD_V4 && key.cidr != Cidr::WORLD_V6);
        for key in unused {
            if let Some(old) = self.peers.remove(&key, &mut names) {
                self.identities.release(old.identity);
                draft.cleanup.push(peer_change(&key, None));
            }
        }
        if !dead.is_empty() {
            self.clear_bits(&dead, draft);
        }
        self.peers.sweep_classes();
        self.known = self.selectors.iter().map(|(bit, _)| bit).collect();
    }

    fn clear_bits(&mut self, dead: &BTreeSet<u16>, draft: &mut Draft) {
        let with: Vec<(u32, Vec<u16>)> = self
            .peers
            .classes
            .iter()
            .filter(|(_, row)| row.bits.iter().any(|bit| dead.contains(bit)))
            .map(|(class, row)| (*class, row.bits.clone()))
            .collect();
        for (class, bits) in with {
            let left: Vec<u16> = bits.iter().copied().filter(|bit| !dead.contains(bit)).collect();
            let words: BTreeSet<u16> =
                bits.iter().filter(|bit| dead.contains(bit)).map(|bit| bit / 64).collect();
            for word in words {
                let bits = left.iter().filter(|bit| *bit / 64 == word);
                let bits = bits.fold(0u64, |all, bit| all | 1 << (bit % 64));
                draft.cleanup.push(Change::Bits { class, word: u32::from(word), bits });
            }
            self.peers.rewrite(class, left);
        }
    }

    /// Removes origins that neither rules nor the given connections name. Ask it now and then with the
    /// origins found in the connections' table.
    pub fn forget_origins(&mut self, used: &BTreeSet<u32>) -> Vec<Change> {
        let mut used = used.clone();
        used.extend(self.groups.values().flat_map(|group| &group.taken.origins));
        used.insert(NO_ORIGIN);
        let gone = self.origins.forget(&used);
        let changes: Vec<Change> =
            gone.into_iter().map(|number| Change::Origin { number, origin: None }).collect();
        self.tables.apply(&changes);
        changes
    }
}

/// Gives policies the revision that they become part of.
fn stamp(changes: &mut [Change], revision: u32) {
    for change in changes {
        if let Change::Policy { policy: Some(policy), .. } = change {
            policy.revision = u64::from(revision);
        }
    }
}

fn peer_change(key: &PeerKey, peer: Option<Peer>) -> Change {
    if key.host {
        Change::Host { address: address(key.cidr.prefix().address), peer }
    } else {
        Change::Cidr { cidr: key.cidr, peer }
    }
}

/// Two ascending lists as one.
fn union(a: &[u16], b: &[u16]) -> Vec<u16> {
    let mut all: Vec<u16> = a.iter().chain(b).copied().collect();
    all.sort_unstable();
    all.dedup();
    all
}
