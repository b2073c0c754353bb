//! Peers, selectors and classes of a commit: who has which bits, and where.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use datapath_abi::policy::{Class, Peer, SELECTORS};

use crate::address::address;
use crate::change::Change;
use crate::compiler::Compiler;
use crate::compiler::commit::Draft;
use crate::compiler::peers::PeerKey;
use crate::compiler::selectors::Matcher;
use crate::compiler::settle::Settled;

/// Peers beyond which it is cheaper to ask each selector for whom it selects.
const MANY: usize = 200;

impl Compiler {
    /// Prefixes and bits of new selectors. Where every member of a class matches, or none, the class
    /// stays; else those that match go to another one.
    pub(super) fn selectors_changed(
        &mut self,
        new: &BTreeSet<u16>,
        settled: &mut Settled,
        draft: &mut Draft,
    ) {
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

    pub(super) fn peers_changed(&mut self, settled: &Settled, draft: &mut Draft) {
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
}

pub(super) fn peer_change(key: &PeerKey, peer: Option<Peer>) -> Change {
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
