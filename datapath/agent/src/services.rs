//! Services: from the cluster as the control source knows it to the service tables in the kernel.
//!
//! Part of the thread that enforces ([`enforce`](crate::enforce)), which looks where things are.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use datapath_abi::policy::Prefix;
use datapath_abi::service::{
    DIRECT, FROM_POD, MASQUERADE, MASQUERADED, NATIVE, NODE, Served, ServiceSettings, UPLINK,
};
use datapath_loader::{Error, ServiceSizes, ServiceTables};
use datapath_policy::{Cidr, octets};
use parking_lot::RwLock;

use crate::control::{Algorithm, Forwarding, Snapshot};
use crate::words::words;

pub(crate) mod book;
pub(crate) mod desired;
pub(crate) mod forwarding;
pub(crate) mod health;
pub mod maglev;
mod redirect;
pub mod state;
#[cfg(test)]
mod tests;
mod weight;

use book::{Book, Changes, Hashing, NO_BACKEND};
use desired::Here;

/// IP protocol number.
const UDP: u8 = 17;

/// How services are served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Whether they are.
    pub enabled: bool,
    /// How a backend is chosen where the service does not say.
    pub algorithm: Algorithm,
    /// How a backend on another node is reached where the service does not say.
    pub forwarding: Forwarding,
    /// Slots of a Maglev table: one of [`maglev::SIZES`].
    pub maglev_size: u32,
    /// Seed of Maglev's hash: the same on all nodes.
    pub maglev_seed: u32,
    /// Whether what pods send to the world has this node's address.
    pub masquerade: bool,
    /// Destinations beside pods and nodes that pods reach by their own addresses.
    pub native: Vec<Cidr>,
    /// Whose sockets go to a backend at once.
    pub sockets: Sockets,
    /// Ports that masquerading may use, first and last.
    pub ports: (u16, u16),
    /// Whether established connections go past the host's stack, where nothing speaks against it.
    pub direct: bool,
    /// Whether packets of direct server return are sent on by XDP.
    pub xdp: Xdp,
    /// Flows that may enter XDP's cache of one CPU in a second.
    pub xdp_new_per_second: u32,
}

/// XDP at the host's own interfaces.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Xdp {
    /// None.
    #[default]
    Off,
    /// The driver's own, where it has one.
    Native,
    /// The kernel's: for tests.
    Generic,
}

/// Whose sockets go to a backend at once, so that none of their packets is translated.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Sockets {
    /// Nobody's.
    Off,
    /// Those of the agent's network namespace: the host's, whose packets to services nothing else would balance.
    #[default]
    Host,
    /// Those of every process in [`Config::cgroup`](crate::Config::cgroup).
    All,
}

/// Where things are.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Roles {
    /// Interfaces with pods behind them.
    pub(crate) pods: BTreeSet<u32>,
    /// The host's own, with their addresses.
    pub(crate) uplinks: BTreeMap<u32, Vec<IpAddr>>,
    /// Addresses of pods behind this node's interfaces.
    pub(crate) local_pods: BTreeSet<IpAddr>,
    /// Whether packets must go by the stack.
    pub(crate) detour: bool,
}

/// What is served, for questions.
#[derive(Debug, Clone, Default)]
pub(crate) struct Programmed(Arc<Kept>);

#[derive(Debug, Default)]
struct Kept {
    book: RwLock<Option<Book>>,
    kernel: OnceLock<ServiceTables>,
}

/// What came of an update.
#[derive(Debug)]
pub(crate) struct Updated {
    /// Sentences about what could not be taken.
    pub(crate) problems: Vec<String>,
    /// Whether datagrams may be on their way to a service that were let pass before it was one, or before their
    /// interface was served. (An address that is taken away needs no second look: what is translated stays so while its
    /// backend lives.)
    pub(crate) look_again: bool,
}

/// What the tables were brought to.
#[derive(Debug)]
struct Latest {
    snapshot: Arc<Snapshot>,
    roles: Roles,
}

/// Writes the service tables.
#[derive(Debug)]
pub(crate) struct Servicer {
    tables: ServiceTables,
    options: Options,
    programmed: Programmed,
    sizes: ServiceSizes,
    served: BTreeMap<u32, Served>,
    prefixes: BTreeMap<(u32, [u8; 16]), u32>,
    settings: Option<ServiceSettings>,
    /// By the latest update; none after one that failed.
    latest: Option<Latest>,
    /// As [`Updated::look_again`], perhaps by an update that failed half-way, and nobody was told yet.
    look_again: bool,
}

// === impl Options ===

impl Default for Options {
    fn default() -> Self {
        Self {
            enabled: true,
            algorithm: Algorithm::Random,
            forwarding: Forwarding::Snat,
            maglev_size: 1021,
            maglev_seed: 0x7765_6972,
            masquerade: false,
            native: Vec::new(),
            sockets: Sockets::Host,
            ports: (32_768, 65_535),
            direct: true,
            xdp: Xdp::Off,
            xdp_new_per_second: 125_000,
        }
    }
}

// === impl Programmed ===

impl Programmed {
    /// Answers a question; `None` where nothing is served (yet).
    pub(crate) fn ask<T>(&self, question: impl FnOnce(&Book) -> T) -> Option<T> {
        self.0.book.read().as_ref().map(question)
    }

    /// The tables in the kernel, to be read; none where services are not served.
    pub(crate) fn kernel(&self) -> Option<ServiceTables> {
        self.0.kernel.get().cloned()
    }
}

// === impl Latest ===

impl Latest {
    /// Whether all that services are made of is as it was: policies change more often.
    fn is_as(&self, snapshot: &Snapshot, roles: &Roles) -> bool {
        let Snapshot { services, slices, redirects, pods, nodes, .. } = &*self.snapshot;
        (services, slices, redirects) == (&snapshot.services, &snapshot.slices, &snapshot.redirects)
            && (pods, nodes) == (&snapshot.pods, &snapshot.nodes)
            && self.roles == *roles
    }
}

// === impl Servicer ===

impl Servicer {
    pub(crate) fn new(
        tables: ServiceTables,
        options: Options,
        sizes: ServiceSizes,
        programmed: Programmed,
    ) -> Self {
        let _ = programmed.0.kernel.set(tables.clone());
        Self {
            tables,
            options,
            programmed,
            sizes,
            served: BTreeMap::new(),
            prefixes: BTreeMap::new(),
            settings: None,
            latest: None,
            look_again: false,
        }
    }

    /// Whether established connections may go past the stack.
    pub(crate) fn is_direct(&self) -> bool {
        self.options.direct
    }

    /// Brings the tables to what control source and host say now; none where they say what they said.
    ///
    /// # Errors
    /// When a table is too small or cannot be written; what was served is served on.
    pub(crate) fn update(
        &mut self,
        snapshot: &Arc<Snapshot>,
        node: &str,
        roles: Roles,
    ) -> Result<Option<Updated>, String> {
        if self.latest.as_ref().is_some_and(|latest| latest.is_as(snapshot, &roles)) {
            return Ok(None);
        }
        self.latest = None;
        let addresses = roles.uplinks.values().flatten().copied();
        let here = Here {
            node: node.to_owned(),
            addresses: addresses.filter(|ip| !ip.is_loopback() && !is_link_local(ip)).collect(),
            pods: roles.local_pods.clone(),
            algorithm: self.options.algorithm,
            forwarding: self.options.forwarding,
        };
        let (desired, problems) = desired::desired(snapshot, &here);
        let hashing = Hashing { size: self.options.maglev_size, seed: self.options.maglev_seed };
        let known = self.programmed.ask(|book| book.changed(&desired, hashing));
        let (book, changes) = match known {
            Some(changed) => changed?,
            None => {
                let left = self.resume(&desired).map_err(|error| words(&error))?;
                left.changed(&desired, hashing)?
            }
        };
        self.look_again |= changes.new_frontends;
        let written = apply(&self.tables, &changes).map_err(|error| words(&error));
        // Where writing failed half-way, what is there is looked at anew.
        *self.programmed.0.book.write() = written.is_ok().then_some(book);
        written?;
        self.end_sockets(&changes);
        self.place(snapshot, node, &roles).map_err(|error| words(&error))?;
        self.latest = Some(Latest { snapshot: Arc::clone(snapshot), roles });
        Ok(Some(Updated { problems, look_again: std::mem::take(&mut self.look_again) }))
    }

    /// Ends the host's connected datagram sockets to backends that are gone: nothing would tell them. TCP hears of it
    /// by itself, and goes on while the backend does.
    fn end_sockets(&self, changes: &Changes) {
        if self.options.sockets == Sockets::Off {
            return;
        }
        for (protocol, at) in changes.left.iter().filter(|(protocol, _)| *protocol == UDP) {
            match self.tables.destroy_sockets(*protocol, *at) {
                Ok(0) => {}
                Ok(count) => {
                    tracing::info!(backend = %at, count, "sockets of a backend that is gone were ended")
                }
                Err(error) => {
                    tracing::warn!(backend = %at, error = words(&error), "sockets of a backend that is gone stay");
                    return;
                }
            }
        }
    }

    /// What an earlier agent has left.
    fn resume(
        &mut self,
        desired: &BTreeMap<desired::PortId, desired::Port>,
    ) -> Result<Book, Error> {
        let snapshot = self.tables.snapshot()?;
        self.served = snapshot.served.iter().copied().collect();
        let key = |(prefix, bits): &(Prefix, u32)| ((prefix.length, prefix.address), *bits);
        self.prefixes = snapshot.prefixes.iter().map(key).collect();
        self.settings = snapshot.settings;
        Ok(Book::resume(self.sizes, &snapshot, desired))
    }

    /// What is done at which interface, and what masquerading knows. Prefixes before interfaces: a packet that is
    /// masqueraded is so by all of them.
    fn place(&mut self, snapshot: &Snapshot, node: &str, roles: &Roles) -> Result<(), Error> {
        let settings = ServiceSettings {
            port_min: self.options.ports.0,
            port_max: self.options.ports.1,
            seed: self.options.maglev_seed,
            hairpin_v4: octets(IpAddr::from([169, 254, 42, 1])),
            hairpin_v6: octets(IpAddr::from([0xfd57, 0x6569, 0, 0, 0, 0, 0, 1])),
        };
        if self.settings != Some(settings) {
            self.tables.set_settings(settings)?;
            self.settings = Some(settings);
        }
        let prefixes = self.prefixes_of(snapshot, roles);
        let (put, gone) = difference(&self.prefixes, &prefixes);
        let prefix = |(length, address): (u32, [u8; 16])| Prefix { length, address };
        let put: Vec<_> = put.into_iter().map(|(key, bits)| (prefix(key), bits)).collect();
        self.tables.put_prefixes(&put)?;
        let served = self.served_of(snapshot, node, roles);
        let (put, unserved) = difference(&self.served, &served);
        self.look_again |= put.iter().any(|(ifindex, _)| !self.served.contains_key(ifindex));
        self.tables.put_served(&put)?;
        self.tables.remove_served(&unserved)?;
        self.served = served;
        let gone: Vec<_> = gone.into_iter().map(prefix).collect();
        self.tables.remove_prefixes(&gone)?;
        self.prefixes = prefixes;
        Ok(())
    }

    fn served_of(&self, snapshot: &Snapshot, node: &str, roles: &Roles) -> BTreeMap<u32, Served> {
        let known = snapshot.addresses_of(node);
        let none = [0; 16];
        let direct = if self.options.direct && !roles.detour { DIRECT } else { 0 };
        let pod = Served { flags: FROM_POD | direct, pad: 0, v4: none, v6: none };
        let mut served: BTreeMap<u32, Served> =
            roles.pods.iter().map(|ifindex| (*ifindex, pod)).collect();
        for (ifindex, addresses) in &roles.uplinks {
            let first = |v4: bool| {
                let usable = |ip: &&IpAddr| ip.is_ipv4() == v4 && !is_link_local(ip);
                // One by which other nodes know this one, if there is any.
                let of_node = addresses.iter().filter(usable).find(|ip| known.contains(ip));
                let chosen = of_node.or_else(|| addresses.iter().find(usable));
                chosen.map_or(none, |ip| octets(*ip))
            };
            let masquerade = if self.options.masquerade { MASQUERADE } else { 0 };
            let flags = UPLINK | masquerade | direct;
            served.insert(*ifindex, Served { flags, pad: 0, v4: first(true), v6: first(false) });
        }
        served
    }

    fn prefixes_of(&self, snapshot: &Snapshot, roles: &Roles) -> BTreeMap<(u32, [u8; 16]), u32> {
        let mut found = BTreeMap::new();
        let mut add = |cidr: Cidr, bits: u32| {
            let prefix = cidr.prefix();
            *found.entry((prefix.length, prefix.address)).or_insert(0) |= bits;
        };
        snapshot
            .nodes
            .iter()
            .flat_map(|node| &node.addresses)
            .for_each(|ip| add(Cidr::host(*ip), NATIVE | NODE));
        if !self.options.masquerade {
            return found;
        }
        let pods = snapshot.pods.iter().filter(|pod| pod.is_endpoint());
        pods.flat_map(|pod| &pod.ips).for_each(|ip| add(Cidr::host(*ip), NATIVE));
        self.options.native.iter().for_each(|cidr| add(*cidr, NATIVE));
        roles.local_pods.iter().for_each(|ip| add(Cidr::host(*ip), MASQUERADED | NATIVE));
        found
    }
}

/// IPv4 169.254.0.0/16, IPv6 fe80::/10.
fn is_link_local(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

/// What is new or different, and the keys that are gone.
fn difference<K: Ord + Copy, V: PartialEq + Copy>(
    was: &BTreeMap<K, V>,
    is: &BTreeMap<K, V>,
) -> (Vec<(K, V)>, Vec<K>) {
    let put = is.iter().filter(|(key, value)| was.get(key) != Some(value));
    let gone = was.keys().filter(|key| !is.contains_key(key));
    (put.map(|(key, value)| (*key, *value)).collect(), gone.copied().collect())
}

/// Writes changes in their order.
fn apply(tables: &ServiceTables, changes: &Changes) -> Result<(), Error> {
    tables.put_backends(&changes.backends)?;
    for (start, slots) in joined(&changes.slots) {
        tables.write_slots(start, &slots)?;
    }
    tables.put_locals(&changes.locals)?;
    tables.put_source_ranges(&changes.source_ranges)?;
    tables.put_frontends(&changes.frontends)?;
    tables.remove_frontends(&changes.gone_frontends)?;
    tables.remove_locals(&changes.gone_locals)?;
    if changes.freed || !changes.gone_source_ranges.is_empty() {
        tables.barrier()?;
        let gone: Vec<_> = changes.gone_backends.iter().map(|index| (*index, NO_BACKEND)).collect();
        tables.put_backends(&gone)?;
        tables.remove_source_ranges(&changes.gone_source_ranges)?;
    }
    Ok(())
}

/// Ranges that follow each other, as one: few writes instead of one for each service.
fn joined(slots: &[(u32, Vec<u32>)]) -> Vec<(u32, Vec<u32>)> {
    let mut all: Vec<(u32, Vec<u32>)> = Vec::new();
    for (start, content) in slots {
        match all.last_mut() {
            Some((from, known)) if *from + known.len() as u32 == *start => known.extend(content),
            _ => all.push((*start, content.clone())),
        }
    }
    all
}
