//! The second half of a commit: compiled groups, selectors, classes, and the writes in order.

use std::collections::BTreeSet;

use datapath_abi::policy::{
    AUDIT_ALL, DENY_RESET, DENY_RESPONSE, Interval, KEEP_ESTABLISHED, NO_ORIGIN, Policy,
    PolicySide, Rule, SECTIONS, SUBJECT_AUDIT, SUBJECT_HOST, Section, Settings, Subject,
};

use crate::address::Cidr;
use crate::change::Change;
use crate::cluster::DenyResponse;
use crate::compiler::classes::peer_change;
use crate::compiler::groups::{Compile, Taken};
use crate::compiler::peers::PeerKey;
use crate::compiler::settle::Settled;
use crate::compiler::{Compiler, Owner};

/// Nothing is enforced.
pub(super) const OPEN: PolicySide = PolicySide {
    enforced: [Section { start: 0, count: 0 }; SECTIONS],
    audited: [Section { start: 0, count: 0 }; SECTIONS],
};

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
pub(super) struct Draft {
    /// Where nothing refers to yet, or what means nothing yet.
    pub(super) unseen: Vec<Change>,
    /// Peers with other bits or another identity.
    pub(super) peers: Vec<Change>,
    /// Lists, again where nothing refers to yet.
    pub(super) lists: Vec<Change>,
    /// Policies and subjects.
    pub(super) switch: Vec<Change>,
    /// Addresses without owners.
    pub(super) gone: Vec<Change>,
    /// After the grace period.
    pub(super) cleanup: Vec<Change>,
    pub(super) moved: bool,
}

impl Compiler {
    /// Works out what the inputs since the last commit come to. The list ends with a barrier and what is
    /// removed behind it; a caller may let that tail wait, but not beyond the next commit's first write.
    pub fn commit(&mut self) -> Commit {
        let first = self.tables.settings.revision == 0;
        let options = self.dirty.options;
        let mut settled = self.settle();
        self.dirty.options = false;
        // Perhaps there is room by now.
        settled.moved.append(&mut self.peers.unclassed);
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
        let response = match options.deny_response {
            DenyResponse::None => 0,
            DenyResponse::Icmp => DENY_RESPONSE,
            DenyResponse::Reset => DENY_RESPONSE | DENY_RESET,
        };
        bit(options.audit, AUDIT_ALL) | bit(options.keep_established, KEEP_ESTABLISHED) | response
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
