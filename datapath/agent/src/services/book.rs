//! Numbers: from what the service tables should hold to what is to be written, and in which order.
//!
//! Numbers and places are stable: what does not change is not written, over a restart of the agent either
//! ([`Book::resume`]). What is new is written where nothing refers to it, then each frontend is replaced as a whole, and
//! what nothing refers to any more is given again only after an RCU grace period.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::iter::repeat_n;
use std::net::{IpAddr, SocketAddr};

use datapath_abi::service::{self, Backend, FrontendKey, HASHED, LocalKey, Slots, SourceRange};
use datapath_loader::{ServiceSizes, ServiceSnapshot};
use datapath_policy::{Cidr, octets};

use super::desired::{Port, PortId};
use super::{forwarding, maglev, weight};
use crate::control::Endpoint;

/// What the tables hold.
#[derive(Debug, Clone)]
pub(crate) struct Book {
    sizes: ServiceSizes,
    ports: BTreeMap<PortId, Entry>,
    frontends: BTreeMap<FrontendKey, service::Frontend>,
    source_ranges: BTreeSet<Range>,
    locals: BTreeMap<LocalKey, u32>,
    next_number: u32,
    /// Backends that are given, and those below `next_backend` that are not.
    next_backend: u32,
    free_backends: Vec<u32>,
    space: Space,
}

/// A service's port.
#[derive(Debug, Clone, Default)]
pub(crate) struct Entry {
    pub(crate) number: u32,
    /// As it was asked for; none for what an earlier agent left.
    pub(crate) port: Option<Port>,
    /// Index and flags.
    pub(crate) backends: BTreeMap<(IpAddr, u16), (u32, u16)>,
    slots: Vec<(Vec<u32>, Slots)>,
}

/// A [`SourceRange`], in order.
type Range = (u32, u32, [u8; 16]);

/// Which slots are given: start → length.
#[derive(Debug, Clone)]
struct Space {
    size: u32,
    used: BTreeMap<u32, u32>,
    /// Where to look first.
    cursor: u32,
}

/// Whether they are hashed, and who they are.
type Candidates<'a> = (bool, &'a [(IpAddr, u16)]);

/// How frontends choose.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Hashing {
    /// Slots of a Maglev table.
    pub(crate) size: u32,
    pub(crate) seed: u32,
}

/// What is to be written, in this order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Changes {
    pub(crate) backends: Vec<(u32, Backend)>,
    pub(crate) slots: Vec<(u32, Vec<u32>)>,
    pub(crate) locals: Vec<(LocalKey, u32)>,
    pub(crate) source_ranges: Vec<SourceRange>,
    pub(crate) frontends: Vec<(FrontendKey, service::Frontend)>,
    pub(crate) gone_frontends: Vec<FrontendKey>,
    /// Whether a frontend's address was none before: packets may be going there already.
    pub(crate) new_frontends: bool,
    pub(crate) gone_locals: Vec<LocalKey>,
    /// After a grace period, as what follows; backends that are no more.
    pub(crate) gone_backends: Vec<u32>,
    pub(crate) gone_source_ranges: Vec<SourceRange>,
    /// Where they were, with their protocol, as far as nothing else is served there.
    pub(crate) left: Vec<(u8, SocketAddr)>,
    /// Whether places were freed that must not be used again before a grace period.
    pub(crate) freed: bool,
}

/// No backend.
pub(crate) const NO_BACKEND: Backend = Backend { address: [0; 16], port: 0, flags: 0, service: 0 };

// === impl Book ===

impl Book {
    /// Nothing.
    pub(crate) fn new(sizes: ServiceSizes) -> Self {
        Self {
            sizes,
            ports: BTreeMap::new(),
            frontends: BTreeMap::new(),
            source_ranges: BTreeSet::new(),
            locals: BTreeMap::new(),
            next_number: 1,
            next_backend: 0,
            free_backends: Vec::new(),
            space: Space { size: sizes.slots, used: BTreeMap::new(), cursor: 0 },
        }
    }

    /// What an earlier agent has left: ports are known by their frontends; those that nobody asks for any more go
    /// with the next change.
    pub(crate) fn resume(
        sizes: ServiceSizes,
        snapshot: &ServiceSnapshot,
        desired: &BTreeMap<PortId, Port>,
    ) -> Self {
        let mut book = Self::new(sizes);
        let mut entries: BTreeMap<u32, Entry> = BTreeMap::new();
        for (index, backend) in (0u32..).zip(&snapshot.backends) {
            if backend.flags == 0 || backend.service == 0 {
                continue;
            }
            book.next_backend = index + 1;
            let entry = entries.entry(backend.service).or_default();
            let at = (datapath_policy::address(backend.address), backend.port);
            entry.backends.insert(at, (index, backend.flags));
        }
        let used: BTreeSet<u32> = entries
            .values()
            .flat_map(|entry| entry.backends.values().map(|(index, _)| *index))
            .collect();
        book.free_backends = (0..book.next_backend).rev().filter(|n| !used.contains(n)).collect();
        let mut numbers: HashMap<FrontendKey, u32> = HashMap::new();
        for (key, frontend) in &snapshot.frontends {
            book.frontends.insert(*key, *frontend);
            numbers.insert(*key, frontend.service);
            let entry = entries.entry(frontend.service).or_default();
            for slots in frontend.slots.iter().filter(|slots| slots.count != 0) {
                let from = slots.start as usize;
                let content = snapshot.slots.get(from..from + slots.count as usize);
                let known = entry.slots.iter().any(|(_, known)| known == slots);
                if let (Some(content), false) = (content, known) {
                    entry.slots.push((content.to_vec(), *slots));
                    book.space.used.insert(slots.start, slots.count);
                }
            }
        }
        book.source_ranges = snapshot.source_ranges.iter().map(of_range).collect();
        book.locals = snapshot.locals.iter().copied().collect();
        book.next_number = entries.keys().next_back().map_or(1, |last| last + 1);
        for (id, port) in desired {
            let number = port.frontends.keys().find_map(|key| numbers.get(key));
            if let Some(mut entry) = number.and_then(|number| entries.remove(number)) {
                entry.number = number.copied().unwrap_or_default();
                book.ports.insert(id.clone(), entry);
            }
        }
        for (number, entry) in entries {
            let id =
                PortId { service: "?".to_owned(), port: number.to_string(), ..PortId::default() };
            book.ports.insert(id, Entry { number, ..entry });
        }
        book
    }

    /// The ports, by name.
    pub(crate) fn ports(&self) -> &BTreeMap<PortId, Entry> {
        &self.ports
    }

    /// Entries in use and capacity, by table.
    pub(crate) fn uses(&self) -> [(&'static str, u64, u64); 5] {
        let backends = u64::from(self.next_backend) - self.free_backends.len() as u64;
        let slots = self.space.used.values().map(|count| u64::from(*count)).sum();
        let sizes = &self.sizes;
        let ranges = self.source_ranges.len() as u64;
        [
            (service::FRONTENDS, self.frontends.len() as u64, u64::from(sizes.frontends)),
            (service::BACKENDS, backends, u64::from(sizes.backends)),
            (service::SLOTS, slots, u64::from(sizes.slots)),
            (service::SOURCE_RANGES, ranges, u64::from(sizes.source_ranges)),
            (service::LOCALS, self.locals.len() as u64, u64::from(sizes.locals)),
        ]
    }

    /// The book as it is once the tables hold `desired`, and what is to be written for that.
    ///
    /// # Errors
    /// When a table is too small.
    pub(crate) fn changed(
        &self,
        desired: &BTreeMap<PortId, Port>,
        hashing: Hashing,
    ) -> Result<(Self, Changes), String> {
        let mut next = self.clone();
        let changes = next.plan(desired, hashing)?;
        Ok((next, changes))
    }

    /// Becomes what [`changed`](Self::changed) says, or stays as it is.
    #[cfg(test)]
    pub(crate) fn change(
        &mut self,
        desired: &BTreeMap<PortId, Port>,
        hashing: Hashing,
    ) -> Result<Changes, String> {
        let (next, changes) = self.changed(desired, hashing)?;
        *self = next;
        Ok(changes)
    }

    fn plan(
        &mut self,
        desired: &BTreeMap<PortId, Port>,
        hashing: Hashing,
    ) -> Result<Changes, String> {
        let mut changes = Changes::default();
        let mut freed = Vec::new();
        let mut ranges: BTreeSet<Range> = BTreeSet::new();
        let gone: Vec<_> =
            self.ports.keys().filter(|id| !desired.contains_key(*id)).cloned().collect();
        let mut frontends: BTreeMap<FrontendKey, service::Frontend> = BTreeMap::new();
        let mut locals: BTreeMap<LocalKey, u32> = BTreeMap::new();
        for (id, port) in desired {
            let mut entry = self.ports.remove(id).unwrap_or_default();
            if entry.number == 0 {
                entry.number = self.next_number;
                self.next_number += 1;
            }
            if entry.port.as_ref() == Some(port) {
                for key in port.frontends.keys() {
                    frontends.extend(self.frontends.get(key).map(|frontend| (*key, *frontend)));
                }
            } else {
                self.backends(id.protocol, &mut entry, port, &mut changes)?;
                self.frontends(
                    &mut entry,
                    port,
                    hashing,
                    &mut frontends,
                    &mut changes,
                    &mut freed,
                )?;
                entry.port = Some(port.clone());
            }
            for (at, (index, flags)) in &entry.backends {
                let names = forwarding::names(port, (entry.number, id.protocol), *at, *flags);
                locals.extend(names.into_iter().map(|name| (name, *index)));
            }
            ranges.extend(port.source_ranges.iter().map(|cidr| range(entry.number, *cidr)));
            self.ports.insert(id.clone(), entry);
        }
        for id in gone {
            let entry = self.ports.remove(&id).unwrap_or_default();
            changes.gone_backends.extend(entry.backends.values().map(|(index, _)| *index));
            let left = entry.backends.keys().map(|at| (id.protocol, SocketAddr::new(at.0, at.1)));
            changes.left.extend(left);
            freed.extend(entry.slots.into_iter().map(|(_, slots)| slots));
        }
        if frontends.len() as u64 > u64::from(self.sizes.frontends) {
            return Err(full("frontends", frontends.len() as u64, self.sizes.frontends));
        }
        if ranges.len() as u64 > u64::from(self.sizes.source_ranges) {
            return Err(full("source_ranges", ranges.len() as u64, self.sizes.source_ranges));
        }
        if locals.len() as u64 > u64::from(self.sizes.locals) {
            return Err(full("local_backends", locals.len() as u64, self.sizes.locals));
        }
        for (key, frontend) in &frontends {
            let known = self.frontends.get(key);
            changes.new_frontends |= known.is_none();
            if known != Some(frontend) {
                changes.frontends.push((*key, *frontend));
            }
        }
        let left = self.frontends.keys().filter(|key| !frontends.contains_key(*key));
        changes.gone_frontends = left.copied().collect();
        self.frontends = frontends;
        let new = locals.iter().filter(|(key, index)| self.locals.get(key) != Some(index));
        changes.locals = new.map(|(key, index)| (*key, *index)).collect();
        let left = self.locals.keys().filter(|key| !locals.contains_key(*key));
        changes.gone_locals = left.copied().collect();
        self.locals = locals;
        changes.source_ranges = ranges.difference(&self.source_ranges).map(to_range).collect();
        changes.gone_source_ranges = self.source_ranges.difference(&ranges).map(to_range).collect();
        self.source_ranges = ranges;
        self.free_backends.extend(&changes.gone_backends);
        let served = |(protocol, at): &(u8, SocketAddr)| {
            let of_protocol = self.ports.iter().filter(|(id, _)| id.protocol == *protocol);
            of_protocol
                .into_iter()
                .any(|(_, entry)| entry.backends.contains_key(&(at.ip(), at.port())))
        };
        changes.left.retain(|left| !served(left));
        changes.freed = !freed.is_empty() || !changes.gone_backends.is_empty();
        for slots in freed {
            self.space.used.remove(&slots.start);
        }
        Ok(changes)
    }

    fn backends(
        &mut self,
        protocol: u8,
        entry: &mut Entry,
        port: &Port,
        changes: &mut Changes,
    ) -> Result<(), String> {
        entry.backends.retain(|at, (index, _)| {
            let stays = port.backends.contains_key(at);
            if !stays {
                changes.left.push((protocol, SocketAddr::new(at.0, at.1)));
                changes.gone_backends.push(*index);
            }
            stays
        });
        for (at, flags) in &port.backends {
            let known = entry.backends.get(at).copied();
            if known.is_some_and(|(_, known)| known == *flags) {
                continue;
            }
            let index = match known {
                Some((index, _)) => index,
                None => self.free_backend()?,
            };
            entry.backends.insert(*at, (index, *flags));
            let address = octets(at.0);
            let backend = Backend { address, port: at.1, flags: *flags, service: entry.number };
            changes.backends.push((index, backend));
        }
        Ok(())
    }

    fn free_backend(&mut self) -> Result<u32, String> {
        if let Some(index) = self.free_backends.pop() {
            return Ok(index);
        }
        if self.next_backend >= self.sizes.backends {
            return Err(full("backends", u64::from(self.next_backend) + 1, self.sizes.backends));
        }
        self.next_backend += 1;
        Ok(self.next_backend - 1)
    }

    fn frontends(
        &mut self,
        entry: &mut Entry,
        port: &Port,
        hashing: Hashing,
        frontends: &mut BTreeMap<FrontendKey, service::Frontend>,
        changes: &mut Changes,
        freed: &mut Vec<Slots>,
    ) -> Result<(), String> {
        let mut slots: Vec<(Vec<u32>, Slots)> = Vec::new();
        // Frontends of a port mostly have the same candidates.
        let mut tables: HashMap<Candidates<'_>, Slots> = HashMap::new();
        for (key, frontend) in &port.frontends {
            let mut found = [Slots::default(); 2];
            for (place, candidates) in found.iter_mut().zip(&frontend.candidates) {
                let hashed = frontend.flags & HASHED != 0;
                if let Some(known) = tables.get(&(hashed, candidates.as_slice())) {
                    *place = *known;
                    continue;
                }
                let content = content(entry, port, candidates, hashed, hashing);
                *place = self.place(content, &entry.slots, &mut slots, changes)?;
                tables.insert((hashed, candidates), *place);
            }
            let frontend = service::Frontend {
                service: entry.number,
                flags: frontend.flags,
                affinity: port.affinity,
                pad: 0,
                slots: found,
            };
            frontends.insert(*key, frontend);
        }
        let old = std::mem::replace(&mut entry.slots, slots);
        let kept = |slots: &Slots| entry.slots.iter().any(|(_, known)| known == slots);
        freed.extend(old.into_iter().map(|(_, slots)| slots).filter(|slots| !kept(slots)));
        Ok(())
    }

    /// Where these slots are: where they were, or in a new place.
    fn place(
        &mut self,
        content: Vec<u32>,
        old: &[(Vec<u32>, Slots)],
        new: &mut Vec<(Vec<u32>, Slots)>,
        changes: &mut Changes,
    ) -> Result<Slots, String> {
        if content.is_empty() {
            return Ok(Slots::default());
        }
        if let Some((_, known)) = new.iter().find(|(known, _)| *known == content) {
            return Ok(*known);
        }
        let known = old.iter().find(|(known, _)| *known == content);
        let slots = match known {
            Some((_, slots)) => *slots,
            None => {
                let count = content.len() as u32;
                let Some(start) = self.space.take(count) else {
                    let used = self.space.used.values().map(|count| u64::from(*count));
                    let needed = used.sum::<u64>() + u64::from(count);
                    return Err(full("service_slots", needed, self.sizes.slots));
                };
                changes.slots.push((start, content.clone()));
                Slots { start, count }
            }
        };
        new.push((content, slots));
        Ok(slots)
    }
}

fn content(
    entry: &Entry,
    port: &Port,
    candidates: &[(IpAddr, u16)],
    hashed: bool,
    hashing: Hashing,
) -> Vec<u32> {
    let index = |at: &(IpAddr, u16)| entry.backends.get(at).map(|(index, _)| *index);
    let indices: Vec<u32> = candidates.iter().filter_map(index).collect();
    let weight = |at| port.weights.get(at).copied().unwrap_or(Endpoint::WEIGHT).into();
    if !hashed {
        let weights: Vec<u32> = candidates.iter().map(weight).collect();
        let shares = indices.into_iter().zip(weight::shares(&weights));
        return shares.flat_map(|(index, share)| repeat_n(index, share as usize)).collect();
    }
    let weighted: Vec<_> = candidates.iter().map(|at| (*at, weight(at))).collect();
    let table = maglev::table(&weighted, hashing.size, hashing.seed);
    table.iter().filter_map(|&place| indices.get(place as usize).copied()).collect()
}

fn full(table: &str, needed: u64, size: u32) -> String {
    format!(
        "table {table} has room for {size} entries and {needed} are needed: no service was changed"
    )
}

fn range(number: u32, cidr: Cidr) -> Range {
    let prefix = cidr.prefix();
    (prefix.length + 32, number, prefix.address)
}

fn to_range(range: &Range) -> SourceRange {
    SourceRange { length: range.0, service: range.1.to_be(), address: range.2 }
}

fn of_range(range: &SourceRange) -> Range {
    (range.length, u32::from_be(range.service), range.address)
}

// === impl Space ===

impl Space {
    /// Gives a range of that length: the first that is free behind the one given last.
    fn take(&mut self, count: u32) -> Option<u32> {
        let start = self.search(self.cursor, count).or_else(|| self.search(0, count))?;
        self.used.insert(start, count);
        self.cursor = start + count;
        Some(start)
    }

    fn search(&self, from: u32, count: u32) -> Option<u32> {
        let before = self.used.range(..from).next_back();
        let mut start = before.map_or(from, |(start, count)| from.max(start + count));
        for (used, length) in self.used.range(from..) {
            if used - start >= count {
                return Some(start);
            }
            start = used + length;
        }
        (self.size.saturating_sub(start) >= count).then_some(start)
    }
}
