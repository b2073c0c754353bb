//! The first half of a commit: who has which address, and which policies select whom.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use datapath_abi::policy::{EGRESS, INGRESS};

use crate::address::Cidr;
use crate::cluster::EndpointKind;
use crate::compiler::facts::{Facts, Kind, World};
use crate::compiler::groups::{GroupKey, GroupKind, SectionKey, port_names};
use crate::compiler::peers::PeerKey;
use crate::compiler::selectors::on_labels;
use crate::compiler::{Compiler, Group, Local, Owner, Placed, Taken};
use crate::document::{Policy, PolicyKey, PolicyKind};
use crate::rule::{Peer, Section};

/// What the first half found out.
#[derive(Debug, Default)]
pub(super) struct Settled {
    /// Peers whose bits are to be worked out anew.
    pub(super) moved: BTreeSet<PeerKey>,
    /// Addresses without an owner.
    pub(super) gone: BTreeSet<PeerKey>,
    /// Groups to be compiled.
    pub(super) groups: BTreeSet<u32>,
    /// Groups that subjects have joined or left.
    pub(super) regrouped: BTreeSet<u32>,
    /// Interfaces whose subject may have changed.
    pub(super) interfaces: BTreeSet<u32>,
}

impl Compiler {
    pub(super) fn settle(&mut self) -> Settled {
        let mut settled = Settled::default();
        let mut names = BTreeSet::new();
        if self.dirty.options {
            self.all_dirty(&mut settled);
        }
        let owners = std::mem::take(&mut self.dirty.owners);
        for owner in &owners {
            self.settle_owner(owner);
        }
        for address in std::mem::take(&mut self.dirty.addresses) {
            self.settle_address(address, &mut names, &mut settled);
        }
        let changed = std::mem::take(&mut self.dirty.policies);
        self.settle_references(&names, &changed, &mut settled);
        for owner in &owners {
            self.settle_local(owner, &mut settled);
        }
        for policy in &changed {
            self.settle_policy(policy, &owners, &mut settled);
        }
        settled.groups.retain(|number| self.groups.contains_key(number));
        settled
    }

    fn all_dirty(&mut self, settled: &mut Settled) {
        let endpoints = self.cluster.endpoints.keys().map(|id| Owner::Endpoint(id.clone()));
        self.dirty.owners.extend(endpoints);
        self.dirty.owners.extend(self.cluster.nodes.keys().map(|name| Owner::Node(name.clone())));
        self.dirty.addresses.extend(self.owners.keys());
        settled.groups.extend(self.groups.keys());
        for cidr in [Cidr::WORLD_V4, Cidr::WORLD_V6] {
            let key = PeerKey { cidr, host: false };
            if !self.peers.entries.contains_key(&key) {
                self.place_prefix(key);
                settled.moved.insert(key);
            }
        }
    }

    /// Puts a prefix of the world among the peers.
    pub(super) fn place_prefix(&mut self, key: PeerKey) {
        let facts = Arc::new(Facts::bare(Kind::World));
        let world = match key.cidr {
            Cidr::WORLD_V4 => World::V4,
            Cidr::WORLD_V6 => World::V6,
            _ => World::Prefix(&key.cidr),
        };
        let identity = facts.claim(&mut self.identities, false, world);
        // Prefixes have no port names.
        self.peers.place(key, facts, identity, &mut BTreeSet::new());
    }

    fn facts_of(&self, owner: &Owner) -> Option<(Facts, BTreeSet<IpAddr>)> {
        let cluster = Arc::from(self.cluster.options.cluster.as_str());
        match owner {
            Owner::Node(name) => {
                let node = self.cluster.nodes.get(name)?;
                let kind = if node.this { Kind::Host } else { Kind::RemoteNode };
                let labels = node.labels.clone();
                let addresses = node.addresses.clone();
                Some((Facts { labels, cluster, ..Facts::bare(kind) }, addresses))
            }
            Owner::Endpoint(id) => {
                let endpoint = self.cluster.endpoints.get(id)?;
                let facts = Facts {
                    kind: Kind::Endpoint(endpoint.kind),
                    api_server: false,
                    namespace: endpoint.namespace.clone(),
                    labels: endpoint.labels.clone(),
                    namespace_labels: self.cluster.namespace_labels(&endpoint.namespace),
                    service_account: endpoint.service_account.clone(),
                    ports: endpoint.ports.clone(),
                    cluster,
                };
                Some((facts, endpoint.addresses.clone()))
            }
        }
    }

    fn settle_owner(&mut self, owner: &Owner) {
        let new = self.facts_of(owner);
        let (addresses, facts) = match &new {
            Some((facts, addresses)) => (addresses.clone(), Some(facts)),
            None => (BTreeSet::new(), None),
        };
        let old = self.placed.get(owner);
        let same = old.is_some_and(|old| Some(&*old.facts) == facts);
        let before = old.map(|old| old.addresses.clone()).unwrap_or_default();
        for address in before.difference(&addresses) {
            if let Some(owners) = self.owners.get_mut(address) {
                owners.remove(owner);
                if owners.is_empty() {
                    self.owners.remove(address);
                }
            }
            self.dirty.addresses.insert(*address);
        }
        for address in &addresses {
            if !same || !before.contains(address) {
                self.owners.entry(*address).or_default().insert(owner.clone());
                self.dirty.addresses.insert(*address);
            }
        }
        match new {
            Some((facts, addresses)) => {
                let placed = Placed { facts: Arc::new(facts), addresses };
                self.placed.insert(owner.clone(), placed);
            }
            None => {
                self.placed.remove(owner);
            }
        }
    }

    fn settle_address(
        &mut self,
        address: IpAddr,
        names: &mut BTreeSet<(String, u8)>,
        settled: &mut Settled,
    ) {
        let key = PeerKey { cidr: Cidr::host(address), host: true };
        let owner = self.owners.get(&address).and_then(|owners| owners.first());
        let facts = owner.and_then(|owner| self.placed.get(owner)).map(|placed| &placed.facts);
        let facts = match (facts, self.cluster.api_servers.contains(&address)) {
            (Some(facts), false) => Arc::clone(facts),
            (Some(facts), true) => Arc::new(Facts { api_server: true, ..(**facts).clone() }),
            (None, true) => Arc::new(Facts { api_server: true, ..Facts::bare(Kind::World) }),
            (None, false) => {
                self.drop_peer(&key, names, settled);
                return;
            }
        };
        let by_node = self.cluster.options.node_identities;
        let world = if address.is_ipv4() { World::V4 } else { World::V6 };
        let identity = facts.claim(&mut self.identities, by_node, world);
        let old = self.peers.entries.get(&key).map(|entry| entry.identity);
        let adopted = self.former.is_some();
        // Claimed anew before the old claim is given back, so that the number stays.
        self.peers.place(key, facts, identity, names);
        if let Some(old) = old.filter(|_| !adopted) {
            self.identities.release(old);
        }
        settled.moved.insert(key);
    }

    /// Takes an address out; its entry is removed with the switch.
    pub(super) fn drop_peer(
        &mut self,
        key: &PeerKey,
        names: &mut BTreeSet<(String, u8)>,
        settled: &mut Settled,
    ) {
        settled.moved.remove(key);
        if let Some(old) = self.peers.remove(key, names) {
            if self.former.is_none() {
                self.identities.release(old.identity);
            }
            settled.gone.insert(*key);
        }
    }

    /// Policies whose names of ports, groups or services mean something else now.
    fn settle_references(
        &mut self,
        names: &BTreeSet<(String, u8)>,
        changed: &BTreeSet<Arc<PolicyKey>>,
        settled: &mut Settled,
    ) {
        let groups = std::mem::take(&mut self.dirty.groups);
        let services = std::mem::take(&mut self.dirty.services);
        let starved = self.groups.values().any(|group| !group.taken.problems.is_empty());
        if names.is_empty() && !groups && !services && changed.is_empty() && !starved {
            return;
        }
        let touched = |(key, index): &SectionKey| {
            if changed.contains(key) {
                return true;
            }
            let section =
                self.cluster.policies.get(&**key).and_then(|policy| policy.sections.get(*index));
            section.is_some_and(|section| refers(section, groups, services, names))
        };
        for (number, group) in &self.groups {
            if !group.taken.problems.is_empty() || group.key.sections.iter().any(touched) {
                settled.groups.insert(*number);
            }
        }
    }

    fn settle_local(&mut self, owner: &Owner, settled: &mut Settled) {
        let (interfaces, audit) = match owner {
            Owner::Endpoint(id) => match self.cluster.endpoints.get(id) {
                Some(endpoint) => (endpoint.interface.into_iter().collect(), endpoint.audit),
                None => (BTreeSet::new(), false),
            },
            Owner::Node(name) => match self.cluster.nodes.get(name) {
                Some(node) if node.this => (node.interfaces.clone(), node.audit),
                _ => (BTreeSet::new(), false),
            },
        };
        if let Some(old) = self.locals.get(owner) {
            for interface in &old.interfaces {
                settled.interfaces.insert(*interface);
                if let Some(owners) = self.interfaces.get_mut(interface) {
                    owners.remove(owner);
                    if owners.is_empty() {
                        self.interfaces.remove(interface);
                    }
                }
            }
        }
        if interfaces.is_empty() {
            if let Some(old) = self.locals.remove(owner) {
                settled.regrouped.insert(old.group);
                self.leave_group(old.group);
            }
            return;
        }
        for interface in &interfaces {
            self.interfaces.entry(*interface).or_default().insert(owner.clone());
            settled.interfaces.insert(*interface);
        }
        let mut sections = BTreeSet::new();
        for (key, policy) in self.policies_for(owner) {
            let mut name = None;
            for (index, section) in policy.sections.iter().enumerate() {
                if self.selects(policy, section, owner) {
                    let name = name.get_or_insert_with(|| Arc::new(key.clone()));
                    sections.insert((Arc::clone(name), index));
                }
            }
        }
        let group = self.locals.get(owner).map_or(0, |old| old.group);
        // An interface's identity is that of its first address, or of the facts alone.
        let identity = self.identity_of(owner);
        let local = Local { interfaces, audit, sections, group, identity };
        self.locals.insert(owner.clone(), local);
        self.regroup(owner, settled);
    }

    fn identity_of(&self, owner: &Owner) -> u32 {
        let Some(placed) = self.placed.get(owner) else { return 0 };
        let mine = placed.addresses.iter().find_map(|address| {
            let first = self.owners.get(address)?.first()?;
            let key = PeerKey { cidr: Cidr::host(*address), host: true };
            (first == owner).then(|| self.peers.entries.get(&key).map(|entry| entry.identity))?
        });
        mine.unwrap_or(0)
    }

    /// Policies that may select a subject: those of its namespace, and those of none.
    fn policies_for(&self, owner: &Owner) -> Vec<(&PolicyKey, &Arc<Policy>)> {
        let policies = &self.cluster.policies;
        let own = match (owner, self.placed.get(owner)) {
            (Owner::Endpoint(_), Some(placed)) if !placed.facts.namespace.is_empty() => {
                &placed.facts.namespace
            }
            _ => return policies.iter().collect(),
        };
        let mut found = Vec::new();
        for (kind, namespace) in [
            (PolicyKind::NetworkPolicy, own.as_str()),
            (PolicyKind::CiliumNetworkPolicy, own),
            (PolicyKind::CiliumClusterwideNetworkPolicy, ""),
        ] {
            let namespace = namespace.to_owned();
            let from = PolicyKey { kind, namespace: namespace.clone(), name: String::new() };
            let here = policies.range(from..);
            found
                .extend(here.take_while(|(key, _)| key.kind == kind && key.namespace == namespace));
        }
        found
    }

    /// `settled_owners` have been asked about every policy already.
    fn settle_policy(
        &mut self,
        key: &Arc<PolicyKey>,
        settled_owners: &BTreeSet<Owner>,
        settled: &mut Settled,
    ) {
        let policy = self.cluster.policies.get(&**key).cloned();
        let concerned = |owner: &Owner| {
            let namespace = self.placed.get(owner).map_or("", |placed| &placed.facts.namespace);
            key.namespace.is_empty() || namespace.is_empty() || namespace == key.namespace
        };
        let locals = self.locals.keys().filter(|owner| concerned(owner));
        let owners: Vec<Owner> =
            locals.filter(|owner| !settled_owners.contains(owner)).cloned().collect();
        for owner in owners {
            let selected: BTreeSet<SectionKey> = policy
                .iter()
                .flat_map(|policy| policy.sections.iter().enumerate().map(move |one| (policy, one)))
                .filter(|(policy, (_, section))| self.selects(policy, section, &owner))
                .map(|(_, (index, _))| (Arc::clone(key), index))
                .collect();
            let Some(local) = self.locals.get_mut(&owner) else { continue };
            let first = (Arc::clone(key), 0);
            let last = (Arc::clone(key), usize::MAX);
            let before: BTreeSet<SectionKey> =
                local.sections.range(first..=last).cloned().collect();
            if before.is_empty() && selected.is_empty() {
                continue;
            }
            local.sections.retain(|one| !before.contains(one));
            local.sections.extend(selected);
            settled.interfaces.extend(&local.interfaces);
            self.regroup(&owner, settled);
        }
    }

    fn selects(&self, policy: &Policy, section: &Section, owner: &Owner) -> bool {
        match owner {
            Owner::Node(name) => {
                let node = self.cluster.nodes.get(name);
                section.nodes && node.is_some_and(|node| on_labels(&section.subject, &node.labels))
            }
            Owner::Endpoint(_) => {
                let Some(placed) = self.placed.get(owner) else { return false };
                let kind = placed.facts.kind;
                // Kubernetes knows pods only; what nobody manages has no policy.
                let knows = match policy.kind {
                    PolicyKind::NetworkPolicy => kind == Kind::Endpoint(EndpointKind::Pod),
                    _ => kind != Kind::Endpoint(EndpointKind::Unmanaged),
                };
                knows && !section.nodes && policy.covers(&section.subject, &placed.facts.subject())
            }
        }
    }

    /// Moves a subject to the group of its sections.
    fn regroup(&mut self, owner: &Owner, settled: &mut Settled) {
        let Some(local) = self.locals.get(owner) else { return };
        let key = self.group_key(owner, local);
        let old = local.group;
        let number = match self.by_key.get(&key) {
            Some(number) => *number,
            None => {
                let number = self.free_group();
                self.by_key.insert(key.clone(), number);
                let sides = [crate::compiler::commit::OPEN; 2];
                let group = Group { key, users: 0, taken: Taken::default(), sides };
                self.groups.insert(number, group);
                settled.groups.insert(number);
                number
            }
        };
        if number == old {
            return;
        }
        settled.regrouped.extend([old, number]);
        if let Some(group) = self.groups.get_mut(&number) {
            group.users += 1;
        }
        if let Some(local) = self.locals.get_mut(owner) {
            local.group = number;
        }
        self.leave_group(old);
    }

    fn leave_group(&mut self, number: u32) {
        if let Some(group) = self.groups.get_mut(&number) {
            group.users = group.users.saturating_sub(1);
        }
    }

    pub(super) fn free_group(&mut self) -> u32 {
        // 0 is no group. Numbers of policies that are still in the kernel are not given again.
        loop {
            self.latest_group = self.latest_group.wrapping_add(1).max(1);
            let number = self.latest_group;
            if !self.groups.contains_key(&number) && !self.tables.policies.contains_key(&number) {
                return number;
            }
        }
    }

    fn group_key(&self, owner: &Owner, local: &Local) -> GroupKey {
        let sections: Vec<SectionKey> = local.sections.iter().cloned().collect();
        let Owner::Endpoint(id) = owner else {
            return GroupKey { kind: GroupKind::Host, sections, ports: Vec::new() };
        };
        let endpoint = self.cluster.endpoints.get(id);
        let init = endpoint.is_some_and(|endpoint| endpoint.kind == EndpointKind::Init);
        let mut names = BTreeSet::new();
        for (key, index) in &sections {
            let policy = self.cluster.policies.get(&**key);
            if let Some(section) = policy.and_then(|policy| policy.sections.get(*index)) {
                names.extend(port_names(section, INGRESS));
            }
        }
        let ports = endpoint.into_iter().flat_map(|endpoint| &endpoint.ports);
        let ports = ports.filter(|port| names.contains(&(port.name.clone(), port.protocol)));
        GroupKey {
            kind: if init { GroupKind::Init } else { GroupKind::Endpoint },
            sections,
            ports: ports.cloned().collect(),
        }
    }
}

/// Whether a section names something of what has changed.
fn refers(section: &Section, groups: bool, services: bool, names: &BTreeSet<(String, u8)>) -> bool {
    let peers =
        section.ingress.iter().chain(&section.egress).filter_map(|rule| rule.peers.as_ref());
    let by_peer = peers.flatten().any(|peer| match peer {
        Peer::Group { .. } | Peer::Groups { .. } => groups,
        Peer::Service { .. } | Peer::Services { .. } => services,
        _ => false,
    });
    by_peer || (!names.is_empty() && !port_names(section, EGRESS).is_disjoint(names))
}
