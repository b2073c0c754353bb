//! Addresses and prefixes with what is behind them, and the classes that they fall into.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use crate::address::Cidr;
use crate::cluster::EndpointKind;
use crate::compiler::facts::{Facts, Kind};
use crate::compiler::places::Places;
use crate::compiler::selectors::{Atom, Matcher};
use crate::rule::Entity;
use crate::selector::{Selector, bare};

/// An entry of `HOSTS` or `CIDRS`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct PeerKey {
    pub(crate) cidr: Cidr,
    pub(crate) host: bool,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry {
    pub(crate) facet: u32,
    pub(crate) identity: u32,
    pub(crate) class: u32,
}

/// No facts known, no class given.
pub(crate) const NONE: u32 = u32::MAX;

/// Peers of equal facts.
#[derive(Debug, Clone)]
struct Facet {
    facts: Arc<Facts>,
    members: BTreeSet<PeerKey>,
}

/// Peers that match the same selectors.
#[derive(Debug, Clone, Default)]
pub(crate) struct ClassRow {
    /// Selectors, ascending.
    pub(crate) bits: Vec<u16>,
    pub(crate) members: BTreeSet<PeerKey>,
}

#[derive(Debug, Clone)]
pub(crate) struct Peers {
    pub(crate) entries: BTreeMap<PeerKey, Entry>,
    facets: BTreeMap<u32, Facet>,
    by_facts: HashMap<Arc<Facts>, u32>,
    next_facet: u32,
    by_namespace: BTreeMap<String, BTreeSet<u32>>,
    by_label: HashMap<(String, String), BTreeSet<u32>>,
    by_kind: BTreeMap<Kind, BTreeSet<u32>>,
    /// Numbers that a port's name stands for among endpoints, with how many facets say so.
    pub(crate) names: BTreeMap<(String, u8), BTreeMap<u16, usize>>,
    pub(crate) classes: BTreeMap<u32, ClassRow>,
    by_bits: HashMap<Vec<u16>, u32>,
    pub(crate) class_places: Places,
    /// Classes that lost their last member.
    pub(crate) empty: BTreeSet<u32>,
    /// Peers for whose class there was no room; whatever is enforced denies them.
    pub(crate) unclassed: BTreeSet<PeerKey>,
}

impl Peers {
    pub(crate) fn new(classes: u32) -> Self {
        Self {
            entries: BTreeMap::new(),
            facets: BTreeMap::new(),
            by_facts: HashMap::new(),
            next_facet: 0,
            by_namespace: BTreeMap::new(),
            by_label: HashMap::new(),
            by_kind: BTreeMap::new(),
            names: BTreeMap::new(),
            classes: BTreeMap::new(),
            by_bits: HashMap::new(),
            class_places: Places::new(classes),
            empty: BTreeSet::new(),
            unclassed: BTreeSet::new(),
        }
    }

    pub(crate) fn facts(&self, key: &PeerKey) -> Option<&Arc<Facts>> {
        let facet = self.entries.get(key)?.facet;
        self.facets.get(&facet).map(|facet| &facet.facts)
    }

    /// Puts a peer, or gives it other facts. Port names whose numbers changed are added to `names`.
    pub(crate) fn place(
        &mut self,
        key: PeerKey,
        facts: Arc<Facts>,
        identity: u32,
        names: &mut BTreeSet<(String, u8)>,
    ) {
        let facet = self.facet(facts, names);
        let class = match self.entries.get(&key).copied() {
            Some(old) => {
                if old.facet != facet {
                    self.leave_facet(&key, old.facet, names);
                }
                old.class
            }
            None => NONE,
        };
        if let Some(facet) = self.facets.get_mut(&facet) {
            facet.members.insert(key);
        }
        self.entries.insert(key, Entry { facet, identity, class });
    }

    /// Takes a peer out; its class stays as it is until it is empty.
    pub(crate) fn remove(
        &mut self,
        key: &PeerKey,
        names: &mut BTreeSet<(String, u8)>,
    ) -> Option<Entry> {
        let old = self.entries.remove(key)?;
        self.unclassed.remove(key);
        self.leave_facet(key, old.facet, names);
        self.leave_class(key, old.class);
        Some(old)
    }

    fn facet(&mut self, facts: Arc<Facts>, names: &mut BTreeSet<(String, u8)>) -> u32 {
        if let Some(number) = self.by_facts.get(&facts) {
            return *number;
        }
        let number = self.next_facet;
        self.next_facet = self.next_facet.wrapping_add(1) % NONE;
        self.by_facts.insert(Arc::clone(&facts), number);
        self.by_kind.entry(facts.kind).or_default().insert(number);
        if matches!(facts.kind, Kind::Endpoint(_)) {
            self.by_namespace.entry(facts.namespace.clone()).or_default().insert(number);
            for (key, value) in &facts.labels {
                self.by_label.entry((key.clone(), value.clone())).or_default().insert(number);
            }
        }
        for port in &facts.ports {
            let name = (port.name.clone(), port.protocol);
            let count = self.names.entry(name.clone()).or_default().entry(port.port).or_default();
            *count += 1;
            if *count == 1 {
                names.insert(name);
            }
        }
        self.facets.insert(number, Facet { facts, members: BTreeSet::new() });
        number
    }

    fn leave_facet(&mut self, key: &PeerKey, number: u32, names: &mut BTreeSet<(String, u8)>) {
        let Some(facet) = self.facets.get_mut(&number) else { return };
        facet.members.remove(key);
        if !facet.members.is_empty() {
            return;
        }
        let facts = Arc::clone(&facet.facts);
        self.facets.remove(&number);
        self.by_facts.remove(&facts);
        drop_from(&mut self.by_kind, &facts.kind, number);
        if matches!(facts.kind, Kind::Endpoint(_)) {
            drop_from(&mut self.by_namespace, &facts.namespace, number);
            for (key, value) in &facts.labels {
                let key = (key.clone(), value.clone());
                if let Some(set) = self.by_label.get_mut(&key) {
                    set.remove(&number);
                    if set.is_empty() {
                        self.by_label.remove(&key);
                    }
                }
            }
        }
        for port in &facts.ports {
            let name = (port.name.clone(), port.protocol);
            let Some(numbers) = self.names.get_mut(&name) else { continue };
            let Some(count) = numbers.get_mut(&port.port) else { continue };
            *count -= 1;
            if *count == 0 {
                numbers.remove(&port.port);
                if numbers.is_empty() {
                    self.names.remove(&name);
                }
                names.insert(name);
            }
        }
    }

    /// Everybody that a selector matches.
    pub(crate) fn matched(&self, matcher: &Matcher) -> BTreeSet<PeerKey> {
        let mut found = BTreeSet::new();
        let mut facets = BTreeSet::new();
        for atom in &matcher.key.atoms {
            self.candidates(atom, &mut facets);
        }
        for facet in facets.iter().filter_map(|number| self.facets.get(number)) {
            // Facts decide for all members alike, but for the two families of the world.
            let mut of = facet.members.iter();
            if facet.facts.kind == Kind::World || !matcher.key.atoms.iter().all(is_by_facts) {
                found.extend(of.filter(|key| matcher.matches(&facet.facts, &key.cidr)));
            } else if of.next().is_some_and(|key| matcher.matches(&facet.facts, &key.cidr)) {
                found.extend(facet.members.iter());
            }
        }
        for block in matcher.blocks() {
            for (key, entry) in self.inside(block) {
                let facts = self.facets.get(&entry.facet).map(|facet| &facet.facts);
                if facts.is_some_and(|facts| matcher.matches(facts, &key.cidr)) {
                    found.insert(*key);
                }
            }
        }
        found
    }

    fn inside<'a>(&'a self, block: &'a Cidr) -> impl Iterator<Item = (&'a PeerKey, &'a Entry)> {
        let (_, last) = block.range();
        let from = PeerKey { cidr: *block, host: false };
        let all = self.entries.range((Bound::Included(from), Bound::Unbounded));
        all.take_while(move |(key, _)| key.cidr.range().0 <= last)
            .filter(|(key, _)| block.contains(&key.cidr))
    }

    /// Facets that may meet a condition on facts.
    fn candidates(&self, atom: &Atom, into: &mut BTreeSet<u32>) {
        match atom {
            Atom::Pods { own, namespaces, pods } => match namespaces {
                None => self.labelled(own.as_deref(), pods, into),
                Some(namespaces) if namespaces.is_empty() => self.labelled(None, pods, into),
                Some(namespaces) => {
                    for facets in self.by_namespace.values() {
                        let labels = facets.first().and_then(|first| self.facets.get(first));
                        let chosen = labels.is_some_and(|facet| {
                            super::selectors::on_labels(namespaces, &facet.facts.namespace_labels)
                        });
                        if chosen {
                            into.extend(facets);
                        }
                    }
                }
            },
            Atom::Endpoints { namespace, selector } => {
                self.labelled(namespace.as_deref(), selector, into);
            }
            Atom::Reserved(_) => into.extend(self.facets.keys()),
            Atom::Nodes(_) => self.of_kinds(&[Kind::Host, Kind::RemoteNode], into),
            Atom::Entity(entity) => self.of_entity(*entity, into),
            Atom::Block { .. } => {}
        }
    }

    /// By the rarest of what a selector asks for exactly.
    fn labelled(&self, namespace: Option<&str>, selector: &Selector, into: &mut BTreeSet<u32>) {
        let mut best: Option<&BTreeSet<u32>> = None;
        let nobody = BTreeSet::new();
        if let Some(namespace) = namespace {
            best = Some(self.by_namespace.get(namespace).unwrap_or(&nobody));
        }
        let plain = selector.match_labels.iter().filter(|(key, _)| {
            !bare(key).contains(':')
                && !bare(key).starts_with("io.ci")
                && !bare(key).starts_with("io.ku")
        });
        for (key, value) in plain {
            let set = self.by_label.get(&(bare(key).to_owned(), value.clone()));
            let set = set.unwrap_or(&nobody);
            if best.is_none_or(|best| set.len() < best.len()) {
                best = Some(set);
            }
        }
        let found = match best {
            Some(set) => set.clone(),
            None => self.by_namespace.values().flatten().copied().collect(),
        };
        into.extend(found);
    }

    fn of_entity(&self, entity: Entity, into: &mut BTreeSet<u32>) {
        match entity {
            Entity::World | Entity::WorldIpv4 | Entity::WorldIpv6 => {
                self.of_kinds(&[Kind::World], into);
            }
            Entity::Host => self.of_kinds(&[Kind::Host], into),
            Entity::RemoteNode => self.of_kinds(&[Kind::RemoteNode], into),
            Entity::Health => self.of_kinds(&[Kind::Endpoint(EndpointKind::Health)], into),
            Entity::Init => self.of_kinds(&[Kind::Endpoint(EndpointKind::Init)], into),
            Entity::Ingress => self.of_kinds(&[Kind::Endpoint(EndpointKind::Ingress)], into),
            Entity::Unmanaged => self.of_kinds(&[Kind::Endpoint(EndpointKind::Unmanaged)], into),
            Entity::All | Entity::Cluster | Entity::ClusterMesh | Entity::KubeApiserver => {
                into.extend(self.facets.keys());
            }
            Entity::None => {}
        }
    }

    fn of_kinds(&self, kinds: &[Kind], into: &mut BTreeSet<u32>) {
        for kind in kinds {
            into.extend(self.by_kind.get(kind).into_iter().flatten());
        }
    }

    // Classes.

    pub(crate) fn leave_class(&mut self, key: &PeerKey, class: u32) {
        if let Some(row) = self.classes.get_mut(&class) {
            row.members.remove(key);
            if row.members.is_empty() {
                self.empty.insert(class);
            }
        }
    }

    /// Puts a peer into the class of these bits. A class that is new is returned as such.
    pub(crate) fn join(&mut self, key: PeerKey, bits: Vec<u16>) -> (u32, bool) {
        let (class, new) = match self.by_bits.get(&bits) {
            Some(class) => (*class, false),
            None => match self.class_places.take(1) {
                Some(class) => {
                    self.by_bits.insert(bits.clone(), class);
                    self.classes.insert(class, ClassRow { bits, members: BTreeSet::new() });
                    (class, true)
                }
                None => (NONE, false),
            },
        };
        if class == NONE {
            self.unclassed.insert(key);
        }
        let old =
            self.entries.get_mut(&key).map(|entry| std::mem::replace(&mut entry.class, class));
        if let Some(old) = old.filter(|old| *old != class) {
            self.leave_class(&key, old);
        }
        if let Some(row) = self.classes.get_mut(&class) {
            row.members.insert(key);
            self.empty.remove(&class);
        }
        (class, new)
    }

    /// Other bits for a whole class, in place.
    pub(crate) fn rewrite(&mut self, class: u32, bits: Vec<u16>) {
        let Some(row) = self.classes.get_mut(&class) else { return };
        let old = std::mem::replace(&mut row.bits, bits.clone());
        if self.by_bits.get(&old) == Some(&class) {
            self.by_bits.remove(&old);
        }
        // Two classes may become equal; either may be found by new peers.
        self.by_bits.entry(bits).or_insert(class);
    }

    /// A class as an earlier run left it.
    pub(crate) fn adopt(&mut self, class: u32, bits: Vec<u16>) {
        self.class_places.reserve(class, 1);
        self.by_bits.entry(bits.clone()).or_insert(class);
        self.classes.insert(class, ClassRow { bits, members: BTreeSet::new() });
    }

    /// Gives back the places of classes without members.
    pub(crate) fn sweep_classes(&mut self) {
        for class in std::mem::take(&mut self.empty) {
            if self.classes.get(&class).is_some_and(|row| row.members.is_empty())
                && let Some(row) = self.classes.remove(&class)
            {
                if self.by_bits.get(&row.bits) == Some(&class) {
                    self.by_bits.remove(&row.bits);
                }
                self.class_places.give_back(class, 1);
            }
        }
    }
}

/// Whether the condition does not look at the address.
fn is_by_facts(atom: &Atom) -> bool {
    !matches!(atom, Atom::Block { .. })
}

fn drop_from<K: Ord>(map: &mut BTreeMap<K, BTreeSet<u32>>, key: &K, number: u32) {
    if let Some(set) = map.get_mut(key) {
        set.remove(&number);
        if set.is_empty() {
            map.remove(key);
        }
    }
}
