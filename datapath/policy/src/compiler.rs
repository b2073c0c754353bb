//! From policies and the state of the cluster to the tables of [`datapath_abi::policy`], as changes.
//!
//! ```text
//! inputs ──▶ dirty sets ──commit──▶ peers' facts ─▶ groups of subjects ─▶ selectors ─▶ classes ─▶ changes
//! ```
//!
//! Inputs only note what has changed; [`Compiler::commit`] works out what that means and returns the
//! writes, in an order that never shows a reader half of it. A change touches its own entries: a pod
//! its address and interface, a policy the groups of endpoints that it selects and the classes of
//! the peers that it names.

mod classes;
mod commit;
pub(crate) mod facts;
mod groups;
mod origins;
pub(crate) mod peers;
mod places;
pub(crate) mod ports;
mod resume;
pub(crate) mod selectors;
mod settle;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use crate::cluster::{Cluster, Endpoint, EndpointKind, Labels, Node, Options, Service};
use crate::compiler::facts::Facts;
use crate::compiler::groups::{GroupKey, SectionKey, Taken};
use crate::compiler::origins::Origins;
use crate::compiler::peers::Peers;
use crate::compiler::places::Pool;
use crate::compiler::ports::Row;
use crate::compiler::selectors::Selectors;
use crate::document::{Policy, PolicyKey};
use crate::group::CidrGroup;
use crate::identity::{Identities, Identity};
use crate::tables::MemoryTables;

pub use commit::Commit;
pub use origins::{OriginInfo, OriginKind};

/// The compiler. Cloned, it answers what-if questions.
#[derive(Debug, Clone)]
pub struct Compiler {
    cluster: Cluster,
    identities: Identities,
    /// What the kernel has once all changes are applied.
    tables: MemoryTables,
    peers: Peers,
    selectors: Selectors,
    origins: Origins,
    rules: Pool<Row>,
    intervals: Pool<(u32, u32, u32)>,
    owners: BTreeMap<IpAddr, BTreeSet<Owner>>,
    placed: BTreeMap<Owner, Placed>,
    /// Users of each prefix among selectors.
    prefixes: BTreeMap<crate::address::Cidr, usize>,
    locals: BTreeMap<Owner, Local>,
    interfaces: BTreeMap<u32, BTreeSet<Owner>>,
    groups: BTreeMap<u32, Group>,
    by_key: HashMap<GroupKey, u32>,
    latest_group: u32,
    fingerprints: BTreeMap<Arc<PolicyKey>, u64>,
    dirty: Dirty,
    /// Selectors that rules in the tables may name.
    known: BTreeSet<u16>,
    /// Left by an earlier run, to be removed by the first commit.
    former: Option<resume::Former>,
}

/// Who has an address. Nodes come first: what runs in a node's network is the node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Owner {
    Node(String),
    Endpoint(String),
}

/// An owner as it was at the latest commit.
#[derive(Debug, Clone)]
struct Placed {
    facts: Arc<Facts>,
    addresses: BTreeSet<IpAddr>,
}

/// A subject of policies: a local endpoint, or this node.
#[derive(Debug, Clone)]
struct Local {
    interfaces: BTreeSet<u32>,
    audit: bool,
    sections: BTreeSet<SectionKey>,
    group: u32,
    identity: u32,
}

#[derive(Debug, Clone)]
struct Group {
    key: GroupKey,
    users: usize,
    taken: Taken,
    sides: [datapath_abi::policy::PolicySide; 2],
}

#[derive(Debug, Clone, Default)]
struct Dirty {
    owners: BTreeSet<Owner>,
    addresses: BTreeSet<IpAddr>,
    policies: BTreeSet<Arc<PolicyKey>>,
    /// Policies whose references may mean something else now.
    groups: bool,
    services: bool,
    options: bool,
}

// === impl Compiler ===

impl Compiler {
    /// With nothing in it, for tables that are empty.
    pub fn new(options: Options) -> Self {
        Self::with(options, Identities::default())
    }

    /// As [`Self::new`], with the identities of an earlier run.
    pub fn with_identities(options: Options, known: Vec<Identity>) -> Self {
        Self::with(options, Identities::import(known))
    }

    fn with(options: Options, identities: Identities) -> Self {
        let capacity = options.capacity;
        Self {
            identities,
            tables: MemoryTables::default(),
            peers: Peers::new(capacity.classes),
            selectors: Selectors::default(),
            origins: Origins::default(),
            rules: Pool::new(capacity.rules),
            intervals: Pool::new(capacity.intervals),
            owners: BTreeMap::new(),
            placed: BTreeMap::new(),
            prefixes: BTreeMap::new(),
            locals: BTreeMap::new(),
            interfaces: BTreeMap::new(),
            groups: BTreeMap::new(),
            by_key: HashMap::new(),
            latest_group: 0,
            fingerprints: BTreeMap::new(),
            dirty: Dirty { options: true, ..Dirty::default() },
            former: None,
            known: BTreeSet::new(),
            cluster: Cluster { options, ..Cluster::default() },
        }
    }

    /// Adds a policy, or replaces the one of the same kind, namespace and name.
    pub fn put_policy(&mut self, policy: Policy) {
        let key = Arc::new(policy.key());
        if self.cluster.policies.get(&*key).is_some_and(|old| **old == policy) {
            return;
        }
        self.fingerprints.insert(Arc::clone(&key), fingerprint(&policy));
        self.cluster.policies.insert((*key).clone(), Arc::new(policy));
        self.dirty.policies.insert(key);
    }

    /// Removes a policy.
    pub fn remove_policy(&mut self, key: &PolicyKey) {
        if self.cluster.policies.remove(key).is_some() {
            self.fingerprints.remove(key);
            self.dirty.policies.insert(Arc::new(key.clone()));
        }
    }

    /// Adds or replaces a CIDR group.
    pub fn put_group(&mut self, group: CidrGroup) {
        let old = self.cluster.groups.insert(group.name.clone(), group.clone());
        self.dirty.groups |= old.as_ref() != Some(&group);
    }

    /// Removes a CIDR group.
    pub fn remove_group(&mut self, name: &str) {
        self.dirty.groups |= self.cluster.groups.remove(name).is_some();
    }

    /// Adds or replaces an endpoint, local or remote. The labels of what is no pod are ignored.
    pub fn put_endpoint(&mut self, id: &str, mut endpoint: Endpoint) {
        if endpoint.kind != EndpointKind::Pod {
            endpoint.namespace.clear();
            endpoint.labels.clear();
            endpoint.service_account.clear();
        }
        endpoint.ports.sort();
        endpoint.ports.dedup();
        if self.cluster.endpoints.get(id) != Some(&endpoint) {
            self.cluster.endpoints.insert(id.to_owned(), endpoint);
            self.dirty.owners.insert(Owner::Endpoint(id.to_owned()));
        }
    }

    /// Removes an endpoint.
    pub fn remove_endpoint(&mut self, id: &str) {
        if self.cluster.endpoints.remove(id).is_some() {
            self.dirty.owners.insert(Owner::Endpoint(id.to_owned()));
        }
    }

    /// Adds or replaces a node.
    pub fn put_node(&mut self, name: &str, node: Node) {
        if self.cluster.nodes.get(name) != Some(&node) {
            self.cluster.nodes.insert(name.to_owned(), node);
            self.dirty.owners.insert(Owner::Node(name.to_owned()));
        }
    }

    /// Removes a node.
    pub fn remove_node(&mut self, name: &str) {
        if self.cluster.nodes.remove(name).is_some() {
            self.dirty.owners.insert(Owner::Node(name.to_owned()));
        }
    }

    /// Sets a namespace's labels.
    pub fn put_namespace(&mut self, name: &str, labels: Labels) {
        if self.cluster.namespaces.get(name) != Some(&labels) {
            self.cluster.namespaces.insert(name.to_owned(), labels);
            self.namespace_changed(name);
        }
    }

    /// Forgets a namespace's labels.
    pub fn remove_namespace(&mut self, name: &str) {
        if self.cluster.namespaces.remove(name).is_some() {
            self.namespace_changed(name);
        }
    }

    fn namespace_changed(&mut self, name: &str) {
        let endpoints = self.cluster.endpoints.iter();
        let here = endpoints.filter(|(_, endpoint)| endpoint.namespace == name);
        self.dirty.owners.extend(here.map(|(id, _)| Owner::Endpoint(id.clone())));
    }

    /// Adds or replaces a service.
    pub fn put_service(&mut self, service: Service) {
        let key = format!("{}/{}", service.namespace, service.name);
        let old = self.cluster.services.insert(key, service.clone());
        self.dirty.services |= old.as_ref() != Some(&service);
    }

    /// Removes a service.
    pub fn remove_service(&mut self, namespace: &str, name: &str) {
        let old = self.cluster.services.remove(&format!("{namespace}/{name}"));
        self.dirty.services |= old.is_some();
    }

    /// Sets the addresses of the API server.
    pub fn set_api_servers(&mut self, addresses: BTreeSet<IpAddr>) {
        let changed = self.cluster.api_servers.symmetric_difference(&addresses);
        self.dirty.addresses.extend(changed);
        self.cluster.api_servers = addresses;
    }

    /// Sets what was chosen for the agent. Sizes of tables stay as they were.
    pub fn set_options(&mut self, options: Options) {
        if self.cluster.options != options {
            let capacity = self.cluster.options.capacity;
            self.cluster.options = Options { capacity, ..options };
            self.dirty.options = true;
        }
    }

    /// The state that it works from.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// The tables as of the latest commit.
    pub fn tables(&self) -> &MemoryTables {
        &self.tables
    }

    /// Identities in use, for the next run.
    pub fn identities(&self) -> Vec<Identity> {
        self.identities.export()
    }

    /// Labels of an identity.
    pub fn identity_labels(&self, number: u32) -> Vec<String> {
        self.identities.labels(number)
    }

    /// Revision of the latest commit.
    pub fn revision(&self) -> u32 {
        self.tables.settings.revision
    }

    /// A new revision of the same policies: every connection is judged again at its next packet, for something else
    /// than policy has changed.
    pub fn judge_again(&mut self) -> crate::Change {
        let settings = &mut self.tables.settings;
        settings.revision = settings.revision.wrapping_add(1).max(1);
        crate::Change::Settings(*settings)
    }

    /// Policies that select a local endpoint, as of the latest commit.
    pub fn selecting(&self, id: &str) -> Vec<PolicyKey> {
        let local = self.locals.get(&Owner::Endpoint(id.to_owned()));
        let mut keys: Vec<PolicyKey> = local
            .into_iter()
            .flat_map(|local| &local.sections)
            .map(|(key, _)| (**key).clone())
            .collect();
        keys.dedup();
        keys
    }

    /// An origin in words; None where the number is not known.
    pub fn origin(&self, number: u32) -> Option<OriginInfo> {
        self.tables.origins.get(&number).map(OriginInfo::of)
    }

    /// What does not fit the tables, in words. Whatever is listed here denies more than it should.
    pub fn problems(&self) -> BTreeSet<String> {
        let groups = self.groups.values().flat_map(|group| group.taken.problems.iter().cloned());
        let full = !self.peers.unclassed.is_empty();
        groups.chain(full.then(|| "too many classes; some peers are denied".to_owned())).collect()
    }

    pub(crate) fn owner(&self, address: IpAddr) -> Option<&Owner> {
        self.owners.get(&address)?.first()
    }

    pub(crate) fn local_interface(&self, owner: &Owner) -> Option<u32> {
        self.locals.get(owner)?.interfaces.first().copied()
    }

    pub(crate) fn facts(&self, key: &peers::PeerKey) -> Option<&Arc<Facts>> {
        self.peers.facts(key)
    }

    /// Sections that select whoever has the address.
    pub(crate) fn sections_at(&self, address: IpAddr) -> Vec<SectionKey> {
        let local = self.owner(address).and_then(|owner| self.locals.get(owner));
        local.into_iter().flat_map(|local| local.sections.iter().cloned()).collect()
    }

    /// How much there is of each.
    pub fn sizes(&self) -> Sizes {
        Sizes {
            subjects: self.tables.subjects.len(),
            policies: self.groups.len(),
            selectors: self.selectors.len(),
            classes: self.peers.classes.len(),
            peers: self.peers.entries.len(),
            origins: self.tables.origins.len(),
        }
    }
}

/// How much there is of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Sizes {
    /// Interfaces.
    pub subjects: usize,
    /// Sets of endpoints with a policy of their own.
    pub policies: usize,
    /// Selectors.
    pub selectors: usize,
    /// Classes.
    pub classes: usize,
    /// Addresses and prefixes.
    pub peers: usize,
    /// Origins.
    pub origins: usize,
}

/// FNV-1a over the document's `spec`.
fn fingerprint(policy: &Policy) -> u64 {
    let bytes = policy.spec.bytes().chain([u8::from(policy.audit)]);
    let hash = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    bytes.fold(0xcbf2_9ce4_8422_2325, hash)
}
