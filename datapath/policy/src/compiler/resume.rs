//! Taking over tables that an earlier run has left, without a moment in which a verdict is missing.
//!
//! What the old rules refer to stays as it is until nothing refers to it: the old selectors' bits are
//! kept in every class (new ones get other bits), old places and numbers are not given again, and all
//! of it is removed by the first commit after its grace period.

use std::collections::BTreeSet;

use datapath_abi::policy::{ANYBODY, SELECTORS, Section};

use crate::address::{Cidr, address};
use crate::cluster::Options;
use crate::compiler::Compiler;
use crate::compiler::peers::{Entry, NONE, PeerKey};
use crate::identity::{Identities, Identity};
use crate::tables::MemoryTables;

/// Ranges of an array.
pub(super) type Ranges = BTreeSet<(u32, u32)>;

/// What an earlier run has left.
#[derive(Debug, Clone, Default)]
pub(super) struct Former {
    pub(super) policies: BTreeSet<u32>,
    pub(super) subjects: BTreeSet<u32>,
    pub(super) hosts: BTreeSet<PeerKey>,
    pub(super) prefixes: BTreeSet<PeerKey>,
    pub(super) intervals: Ranges,
    pub(super) rules: Ranges,
}

impl Compiler {
    /// A compiler for tables that are in use. `tables` is what the kernel has (of the arrays, at least
    /// what is referred to), `known` what [`Compiler::identities`] said in the earlier run.
    ///
    /// Put everything that is known of the cluster before the first commit: what is not there by
    /// then is removed. That commit holds the old selectors beside the new ones; where they do not fit
    /// together, rules stay closed until the second.
    pub fn resume(options: Options, tables: MemoryTables, known: Vec<Identity>) -> Self {
        let mut compiler = Self::with(options, Identities::import(known));
        let mut former = Former::default();
        for (number, origin) in &tables.origins {
            compiler.origins.adopt(*number, origin);
        }
        former.subjects.extend(tables.subjects.keys());
        former.policies.extend(tables.policies.keys());
        for policy in tables.policies.values() {
            for side in &policy.sides {
                for section in side.enforced.iter().chain(&side.audited) {
                    adopt_section(&tables, *section, &mut former);
                }
            }
        }
        former.intervals = disjoint(&former.intervals);
        former.rules = disjoint(&former.rules);
        for (start, length) in &former.intervals {
            compiler.intervals.places().reserve(*start, *length);
        }
        for (start, length) in &former.rules {
            compiler.rules.places().reserve(*start, *length);
            for rule in tables.rules.iter().skip(*start as usize).take(*length as usize) {
                if rule.selector != ANYBODY && rule.selector < SELECTORS as u32 {
                    compiler.selectors.foreign.insert(rule.selector as u16);
                }
            }
        }
        compiler.adopt_peers(&tables, &mut former);
        compiler.latest_group = tables.policies.keys().next_back().copied().unwrap_or(0);
        compiler.tables = tables;
        compiler.former = Some(former);
        compiler
    }

    fn adopt_peers(&mut self, tables: &MemoryTables, former: &mut Former) {
        let hosts = tables.hosts.iter().map(|(octets, peer)| {
            (PeerKey { cidr: Cidr::host(address(*octets)), host: true }, peer)
        });
        let cidrs =
            tables.cidrs.iter().map(|(cidr, peer)| (PeerKey { cidr: *cidr, host: false }, peer));
        for (key, peer) in hosts.chain(cidrs) {
            let place = if key.host { &mut former.hosts } else { &mut former.prefixes };
            place.insert(key);
            if !self.peers.classes.contains_key(&peer.class)
                && let Some(row) = tables.classes.get(peer.class as usize)
            {
                let bits: Vec<u16> = (0..SELECTORS as u16)
                    .filter(|bit| row.bits[usize::from(bit / 64)] >> (bit % 64) & 1 != 0)
                    .collect();
                self.selectors.foreign.extend(&bits);
                self.peers.adopt(peer.class, bits);
            }
            if let Some(row) = self.peers.classes.get_mut(&peer.class) {
                row.members.insert(key);
            }
            let entry = Entry { facet: NONE, identity: peer.identity, class: peer.class };
            self.peers.entries.insert(key, entry);
        }
    }
}

fn adopt_section(tables: &MemoryTables, section: Section, former: &mut Former) {
    let intervals = tables.section(section);
    if intervals.is_empty() || !former.intervals.insert((section.start, section.count)) {
        return;
    }
    former.rules.extend(intervals.iter().map(|interval| (interval.rules, interval.count)));
}

/// Overlapping ranges as one.
fn disjoint(ranges: &Ranges) -> Ranges {
    let mut merged: Vec<(u32, u32)> = Vec::new();
    for (start, length) in ranges {
        let end = start.saturating_add(*length);
        match merged.last_mut() {
            Some((from, to)) if *start <= *to && *from <= *start => *to = end.max(*to),
            _ => merged.push((*start, end)),
        }
    }
    merged.into_iter().map(|(start, end)| (start, end - start)).collect()
}
