//! Selectors as the tables have them: one bit for each distinct set of peers that a rule names.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use datapath_abi::policy::SELECTORS;

use crate::address::Cidr;
use crate::cluster::{Cluster, EndpointKind, Labels, NamedPort};
use crate::compiler::facts::{Facts, Kind};
use crate::document::{Policy, PolicyKind};
use crate::rule::{Entity, Peer};
use crate::selector::{Selector, Subject};

/// What a rule's peers come to once names are resolved. Equal keys share a bit.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct SelectorKey {
    /// Any of these, sorted.
    pub(crate) atoms: Vec<Atom>,
    /// And the peer has this named port.
    pub(crate) port: Option<NamedPort>,
}

/// One condition on a peer.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Atom {
    /// Pods, of one namespace or of namespaces by label.
    Pods {
        own: Option<String>,
        namespaces: Option<Selector>,
        pods: Selector,
    },
    /// Managed endpoints, of one namespace or of all.
    Endpoints {
        namespace: Option<String>,
        selector: Selector,
    },
    /// Whoever carries such reserved labels.
    Reserved(Selector),
    Nodes(Selector),
    Entity(Entity),
    Block {
        cidr: Cidr,
        except: Vec<Cidr>,
    },
}

/// The selectors in use.
#[derive(Debug, Clone, Default)]
pub(crate) struct Selectors {
    by_key: HashMap<Arc<SelectorKey>, u16>,
    used: BTreeMap<u16, Entry>,
    /// Bits that an earlier run used; kept until its rules are gone.
    pub(crate) foreign: BTreeSet<u16>,
}

#[derive(Debug, Clone)]
struct Entry {
    matcher: Arc<Matcher>,
    users: usize,
}

/// A key, ready to be asked.
#[derive(Debug)]
pub(crate) struct Matcher {
    pub(crate) key: Arc<SelectorKey>,
    /// Exceptions of each block, by the block.
    blocks: HashMap<Cidr, Vec<Vec<Cidr>>>,
    /// Lengths that occur among the blocks.
    lengths: BTreeSet<u8>,
}

static NO_LABELS: Labels = Labels::new();

// === impl Atom ===

impl Atom {
    /// Adds what a peer of a rule stands for.
    pub(crate) fn resolve(peer: &Peer, policy: &Policy, cluster: &Cluster, into: &mut Vec<Self>) {
        match peer {
            Peer::Pods { namespaces, pods } => {
                let own = namespaces.is_none().then(|| policy.namespace.clone());
                into.push(Self::Pods { own, namespaces: namespaces.clone(), pods: pods.clone() });
            }
            Peer::Endpoints(selector) if selector.names_reserved() => {
                into.push(Self::Reserved(selector.clone()));
            }
            Peer::Endpoints(selector) => {
                let everywhere = policy.kind == PolicyKind::CiliumClusterwideNetworkPolicy
                    || selector.names_namespace();
                let namespace = (!everywhere).then(|| policy.namespace.clone());
                into.push(Self::Endpoints { namespace, selector: selector.clone() });
            }
            Peer::Block { cidr, except } => into.push(Self::block(*cidr, except)),
            Peer::Group { name, except } => {
                let cidrs = cluster.groups.get(name).into_iter().flat_map(|group| &group.cidrs);
                into.extend(cidrs.map(|cidr| Self::block(*cidr, except)));
            }
            Peer::Groups { selector, except } => {
                let groups = cluster.groups.values();
                let chosen = groups.filter(|group| on_labels(selector, &group.labels));
                into.extend(
                    chosen.flat_map(|group| &group.cidrs).map(|cidr| Self::block(*cidr, except)),
                );
            }
            Peer::Entity(Entity::None) | Peer::Name(_) | Peer::CloudGroup => {}
            Peer::Entity(entity) => into.push(Self::Entity(*entity)),
            Peer::Nodes(selector) => into.push(Self::Nodes(selector.clone())),
            Peer::Service { namespace, name } => {
                let service = cluster.services.get(&format!("{namespace}/{name}"));
                into.extend(service.into_iter().flat_map(Self::service));
            }
            Peer::Services { namespace, selector } => {
                let services = cluster.services.values();
                let chosen = services.filter(|service| {
                    (namespace.is_empty() || service.namespace == *namespace)
                        && on_labels(selector, &service.labels)
                });
                into.extend(chosen.flat_map(Self::service));
            }
        }
    }

    fn block(cidr: Cidr, except: &[Cidr]) -> Self {
        let mut except: Vec<Cidr> = except.iter().copied().filter(|e| cidr.contains(e)).collect();
        except.sort_unstable();
        except.dedup();
        Self::Block { cidr, except }
    }

    fn service(service: &crate::cluster::Service) -> Vec<Self> {
        match &service.selector {
            Some(labels) => vec![Self::Pods {
                own: Some(service.namespace.clone()),
                namespaces: None,
                pods: Selector { match_labels: labels.clone(), match_expressions: Vec::new() },
            }],
            None => {
                let hosts = service.addresses.iter().map(|address| Cidr::host(*address));
                hosts.map(|cidr| Self::Block { cidr, except: Vec::new() }).collect()
            }
        }
    }

    /// Whether a peer of these facts meets it; blocks are asked by [`Matcher::matches`].
    fn matches(&self, facts: &Facts, cidr: &Cidr) -> bool {
        let endpoint = match facts.kind {
            Kind::Endpoint(kind) => Some(kind),
            _ => None,
        };
        match self {
            Self::Pods { own, namespaces, pods } => {
                endpoint == Some(EndpointKind::Pod)
                    && own.as_ref().is_none_or(|own| *own == facts.namespace)
                    && namespaces.as_ref().is_none_or(|s| on_labels(s, &facts.namespace_labels))
                    && pods.matches(&facts.subject())
            }
            Self::Endpoints { namespace, selector } => {
                endpoint.is_some_and(|kind| kind != EndpointKind::Unmanaged)
                    && namespace.as_ref().is_none_or(|own| *own == facts.namespace)
                    && selector.matches(&facts.subject())
            }
            Self::Reserved(selector) => selector.matches(&facts.subject()),
            Self::Nodes(selector) => {
                matches!(facts.kind, Kind::Host | Kind::RemoteNode)
                    && on_labels(selector, &facts.labels)
            }
            Self::Entity(entity) => entity_matches(*entity, facts, cidr),
            Self::Block { .. } => false,
        }
    }
}

fn entity_matches(entity: Entity, facts: &Facts, cidr: &Cidr) -> bool {
    let kind = facts.kind;
    let world = kind == Kind::World;
    match entity {
        Entity::All => true,
        Entity::World => world,
        Entity::WorldIpv4 => world && cidr.is_v4(),
        Entity::WorldIpv6 => world && !cidr.is_v4(),
        Entity::Cluster | Entity::ClusterMesh => !world || facts.api_server,
        Entity::Host => kind == Kind::Host,
        Entity::RemoteNode => kind == Kind::RemoteNode,
        Entity::KubeApiserver => facts.api_server,
        Entity::Health => kind == Kind::Endpoint(EndpointKind::Health),
        Entity::Init => kind == Kind::Endpoint(EndpointKind::Init),
        Entity::Ingress => kind == Kind::Endpoint(EndpointKind::Ingress),
        Entity::Unmanaged => kind == Kind::Endpoint(EndpointKind::Unmanaged),
        Entity::None => false,
    }
}

/// A selector asked about bare labels.
pub(crate) fn on_labels(selector: &Selector, labels: &Labels) -> bool {
    selector.matches(&Subject {
        namespace: "",
        labels,
        namespace_labels: &NO_LABELS,
        service_account: "",
        cluster: "",
        reserved: &[],
    })
}

// === impl SelectorKey ===

impl SelectorKey {
    pub(crate) fn new(mut atoms: Vec<Atom>, port: Option<NamedPort>) -> Self {
        atoms.sort_unstable();
        atoms.dedup();
        // Everybody is everybody, whoever else is named.
        if atoms.contains(&Atom::Entity(Entity::All)) {
            atoms = vec![Atom::Entity(Entity::All)];
        }
        Self { atoms, port }
    }

    pub(crate) fn is_anybody(&self) -> bool {
        self.port.is_none() && self.atoms.first() == Some(&Atom::Entity(Entity::All))
    }

    /// Every prefix whose addresses it tells apart.
    pub(crate) fn cidrs(&self) -> impl Iterator<Item = Cidr> {
        self.atoms.iter().flat_map(|atom| match atom {
            Atom::Block { cidr, except } => {
                std::iter::once(*cidr).chain(except.iter().copied()).collect()
            }
            _ => Vec::new(),
        })
    }
}

// === impl Matcher ===

impl Matcher {
    pub(crate) fn new(key: Arc<SelectorKey>) -> Self {
        let mut blocks: HashMap<Cidr, Vec<Vec<Cidr>>> = HashMap::new();
        for atom in &key.atoms {
            if let Atom::Block { cidr, except } = atom {
                blocks.entry(*cidr).or_default().push(except.clone());
            }
        }
        let lengths = blocks.keys().map(Cidr::length).collect();
        Self { key, blocks, lengths }
    }

    /// Whether the holder of an address, or every address that has this as its longest prefix,
    /// is selected.
    pub(crate) fn matches(&self, facts: &Facts, cidr: &Cidr) -> bool {
        let port = self.key.port.as_ref().is_none_or(|port| facts.ports.contains(port));
        port && (self.in_block(cidr) || self.key.atoms.iter().any(|atom| atom.matches(facts, cidr)))
    }

    fn in_block(&self, of: &Cidr) -> bool {
        self.lengths.range(..=of.length()).any(|length| {
            let exceptions = self.blocks.get(&of.shortened(*length));
            exceptions.is_some_and(|lists| {
                lists.iter().any(|except| !except.iter().any(|inner| inner.contains(of)))
            })
        })
    }

    pub(crate) fn blocks(&self) -> impl Iterator<Item = &Cidr> {
        self.blocks.keys()
    }
}

// === impl Selectors ===

impl Selectors {
    /// The bit of a key, and whether it is new; None where all are used.
    pub(crate) fn acquire(&mut self, key: SelectorKey) -> Option<(u16, bool)> {
        if let Some(bit) = self.by_key.get(&key) {
            if let Some(entry) = self.used.get_mut(bit) {
                entry.users += 1;
            }
            return Some((*bit, false));
        }
        let limit = SELECTORS as u16;
        let free = |bit: &u16| !self.used.contains_key(bit) && !self.foreign.contains(bit);
        // The count is the lowest free one when nothing was ever removed.
        let guess = (self.used.len() as u16).min(limit);
        let bit = (guess..limit).chain(0..guess).find(free)?;
        let key = Arc::new(key);
        let matcher = Arc::new(Matcher::new(Arc::clone(&key)));
        self.by_key.insert(key, bit);
        self.used.insert(bit, Entry { matcher, users: 1 });
        Some((bit, true))
    }

    pub(crate) fn release(&mut self, bit: u16) {
        if let Some(entry) = self.used.get_mut(&bit) {
            entry.users = entry.users.saturating_sub(1);
        }
    }

    pub(crate) fn matcher(&self, bit: u16) -> Option<&Arc<Matcher>> {
        self.used.get(&bit).map(|entry| &entry.matcher)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u16, &Matcher)> {
        self.used.iter().map(|(bit, entry)| (*bit, &*entry.matcher))
    }

    /// Takes out those that nobody uses.
    pub(crate) fn sweep(&mut self) -> Vec<(u16, Arc<Matcher>)> {
        let unused: Vec<u16> =
            self.used.iter().filter(|(_, entry)| entry.users == 0).map(|(bit, _)| *bit).collect();
        let take = |bit| {
            let entry = self.used.remove(&bit)?;
            self.by_key.remove(&entry.matcher.key);
            Some((bit, entry.matcher))
        };
        unused.into_iter().filter_map(take).collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.used.len()
    }
}
