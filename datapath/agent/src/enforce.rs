//! Enforcement: from the cluster as the control source knows it to the policy tables in the kernel.
//!
//! A thread of its own, because a change of policy has to be in force within milliseconds, whatever the
//! accounting is doing. It alone writes the tables; what it has compiled is shared with whoever asks
//! questions ([`Compiled`]).
//!
//! After a restart the tables in the kernel go on deciding until the first commit replaces them
//! ([`Compiler::resume`]): it is made once the control source has published, so that what it does
//! not know yet is not taken for gone.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::Thread;
use std::time::{Duration, Instant};

use datapath_loader::{Connections, PolicyTables};
use datapath_policy::{Change, Compiler, Options};
use parking_lot::RwLock;
use stage::StopToken;
use tokio::sync::watch;

use crate::control::Snapshot;
use crate::host::{Host, Link, Netlink};
use crate::services::{Roles, Servicer};
use crate::status::Status;
use crate::view::directory::Directory;
use crate::view::ports::Ports;
use crate::words::words;

pub mod cluster;
mod memory;
mod tables;

/// How long a change of interfaces, addresses or routes may wait. News of the control source end the pause.
const LOOK: Duration = Duration::from_millis(50);
/// Pause after a failure, before all is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// How often identities are saved, and unused origins removed.
const TIDY: Duration = Duration::from_secs(30);

/// What is in force, for questions; none where nothing is enforced.
#[derive(Debug, Clone, Default)]
pub(crate) struct Compiled(Arc<State>);

#[derive(Debug, Default)]
struct State {
    compiler: RwLock<Option<Compiler>>,
    kernel: OnceLock<PolicyTables>,
    /// The thread that enforces.
    thread: OnceLock<Thread>,
    /// Revision of the snapshot that the kernel decides by.
    in_force: AtomicU64,
}

/// The thread's state.
pub(crate) struct Enforcer {
    pub(crate) node: String,
    pub(crate) tables: PolicyTables,
    pub(crate) connections: Connections,
    pub(crate) control: watch::Receiver<Arc<Snapshot>>,
    pub(crate) host: Netlink,
    pub(crate) status: Status,
    pub(crate) compiled: Compiled,
    /// Where identities are kept over a restart.
    pub(crate) memory: memory::Memory,
    ports: Ports,
    servicer: Option<Servicer>,
    /// When services that could not be served are to be tried again.
    unserved: Option<Instant>,
    /// The snapshot of the latest look, and where its pods are.
    fed: Option<Fed>,
}

/// What the compiler was fed with.
struct Fed {
    snapshot: Arc<Snapshot>,
    place: Place,
}

/// Where things are on this node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Place {
    /// Addresses of this node.
    local: Vec<IpAddr>,
    /// The same, with their interfaces.
    addresses: Vec<(u32, IpAddr)>,
    /// Interface of each pod that is here, by `namespace/name`.
    interfaces: HashMap<String, u32>,
    /// The host's own interfaces.
    uplinks: Vec<u32>,
    /// Why packets must go by the stack.
    detour: Option<&'static str>,
}

// === impl Compiled ===

impl Compiled {
    /// Answers a question; `None` where nothing is enforced. Changes of policy wait meanwhile.
    pub(crate) fn ask<T>(&self, question: impl FnOnce(&Compiler) -> T) -> Option<T> {
        self.0.compiler.read().as_ref().map(question)
    }

    /// The tables in the kernel, to be read.
    pub(crate) fn kernel(&self) -> Option<PolicyTables> {
        self.0.kernel.get().cloned()
    }

    /// Revision of the snapshot that the kernel decides by; 0: none yet.
    pub(crate) fn in_force(&self) -> u64 {
        self.0.in_force.load(Ordering::Acquire)
    }

    /// Says that the kernel decides by a snapshot.
    fn decides(&self, revision: u64) {
        self.0.in_force.store(revision, Ordering::Release);
    }

    /// Ends the pause of the thread that enforces: the control source has news.
    pub(crate) fn wake(&self) {
        if let Some(thread) = self.0.thread.get() {
            thread.unpark();
        }
    }

    fn wake_by_this_thread(&self) {
        let _ = self.0.thread.set(std::thread::current());
    }

    /// Identity at each address that is some endpoint's or node's.
    pub(crate) fn identities(&self) -> HashMap<IpAddr, u32> {
        let of = |compiler: &Compiler| {
            let hosts = compiler.tables().hosts.iter();
            hosts.map(|(at, peer)| (datapath_policy::address(*at), peer.identity)).collect()
        };
        self.ask(of).unwrap_or_default()
    }
}

// === impl Place ===

impl Place {
    fn addresses_of(&self, interface: u32) -> Vec<IpAddr> {
        let of_it = self.addresses.iter().filter(|(index, _)| *index == interface);
        of_it.map(|(_, ip)| *ip).collect()
    }
}

// === impl Enforcer ===

impl Enforcer {
    /// Takes over what an earlier agent has left in the tables.
    ///
    /// # Errors
    /// When the tables cannot be read, or the host not be asked.
    pub(crate) fn new(
        node: &str,
        (tables, connections): (PolicyTables, Connections),
        options: Options,
        control: watch::Receiver<Arc<Snapshot>>,
        status: Status,
        compiled: Compiled,
        data_dir: &std::path::Path,
    ) -> Result<Self, String> {
        let memory = memory::Memory::new(data_dir);
        let found = tables::read(&tables).map_err(|error| words(&error))?;
        let known = memory.load();
        let compiler = match found {
            Some(found) => Compiler::resume(options, found, known),
            None => Compiler::with_identities(options, known),
        };
        *compiled.0.compiler.write() = Some(compiler);
        let _ = compiled.0.kernel.set(tables.clone());
        let host = Netlink::open().map_err(|error| format!("route netlink: {error}"))?;
        Ok(Self {
            node: node.to_owned(),
            tables,
            connections,
            control,
            host,
            status,
            compiled,
            memory,
            ports: Ports::default(),
            servicer: None,
            unserved: None,
            fed: None,
        })
    }

    /// Serves services too.
    pub(crate) fn serve(&mut self, servicer: Servicer) {
        self.servicer = Some(servicer);
    }

    /// Enforces until told to stop; what is in the tables stays.
    pub(crate) fn run(mut self, stop: &StopToken) {
        self.compiled.wake_by_this_thread();
        let mut again = Instant::now();
        let mut tidy = Instant::now() + TIDY;
        let mut pending = true;
        while !stop.is_stopped() {
            pending |= self.control.has_changed().unwrap_or(false);
            pending |= self.host_changed();
            pending |= self.unserved.is_some_and(|due| Instant::now() >= due);
            if pending && Instant::now() >= again {
                match self.enforce() {
                    Ok(()) => pending = false,
                    Err(why) => {
                        tracing::error!(why, "policy is not in force as it should be");
                        self.status.warn(
                            "enforcement",
                            vec![format!("policy could not be put into force: {why}")],
                        );
                        self.fed = None;
                        again = Instant::now() + RETRY;
                    }
                }
            }
            if Instant::now() >= tidy {
                tidy = Instant::now() + TIDY;
                self.tidy();
                // Of IPsec policies nobody tells.
                let detour = self.detour();
                if self.fed.as_ref().is_some_and(|fed| fed.place.detour != detour) {
                    self.fed = None;
                    pending = true;
                }
            }
            if !self.control.has_changed().unwrap_or(false) {
                std::thread::park_timeout(LOOK);
            }
        }
        self.tidy();
    }

    /// Whether interfaces, addresses or routes are different; then places are looked for again.
    fn host_changed(&mut self) -> bool {
        let changes = self.host.changes();
        let changed = changes.is_ok_and(|changes| changes.any || !changes.removed.is_empty());
        if changed {
            self.fed = None;
        }
        changed
    }

    /// Brings the tables to what control source and host say now.
    pub(crate) fn enforce(&mut self) -> Result<(), String> {
        let snapshot = Arc::clone(&self.control.borrow_and_update());
        let before = self.fed.take();
        let place = match &before {
            Some(fed) if cluster::placed_alike(&fed.snapshot, &snapshot) => fed.place.clone(),
            _ => self.place(&snapshot)?,
        };
        let known = before.filter(|fed| fed.place == place).map(|fed| fed.snapshot);
        let changes = self.compile(|compiler| {
            cluster::feed(compiler, &snapshot, known.as_deref(), &self.node, &place);
            // The second commit takes what did not fit beside the rules of an agent before this one.
            let mut changes = compiler.commit().changes;
            changes.extend(compiler.commit().changes);
            changes
        });
        // What follows the last switch is only cleaned up, after a grace period.
        let decided = changes.iter().rposition(|change| matches!(change, Change::Settings(_)));
        let (decisive, rest) = changes.split_at(decided.map_or(0, |at| at + 1));
        tables::apply(&self.tables, decisive).map_err(|error| words(&error))?;
        if decided.is_some() {
            self.compiled.decides(snapshot.revision);
        }
        tables::apply(&self.tables, rest).map_err(|error| words(&error))?;
        self.compiled.decides(snapshot.revision);
        self.tell(&snapshot);
        self.serve_services(&snapshot, &place);
        self.fed = Some(Fed { snapshot, place });
        Ok(())
    }

    /// Brings the services to what control source and host say now.
    fn serve_services(&mut self, snapshot: &Arc<Snapshot>, place: &Place) {
        let Some(servicer) = &mut self.servicer else {
            return;
        };
        let local = |pod: &&crate::control::Pod| place.interfaces.contains_key(&pod.id());
        let pods = snapshot.pods.iter().filter(local).flat_map(|pod| pod.ips.iter().copied());
        let roles = Roles {
            pods: place.interfaces.values().copied().collect(),
            uplinks: place
                .uplinks
                .iter()
                .map(|index| (*index, place.addresses_of(*index)))
                .collect(),
            local_pods: pods.collect(),
            detour: place.detour.is_some(),
        };
        let why =
            place.detour.map(|why| format!("every packet goes by the stack: there are {why}"));
        self.status.warn("forwarding", why.into_iter().collect());
        self.unserved = None;
        match servicer.update(snapshot, &self.node, roles) {
            Ok(None) => {}
            Ok(Some(updated)) => {
                self.status.warn("services", updated.problems);
                if updated.look_again {
                    self.judge_again();
                }
            }
            Err(why) => {
                tracing::error!(why, "services are not served as they should be");
                self.unserved = Some(Instant::now() + RETRY);
                self.status.warn("services", vec![format!("services could not be put in: {why}")]);
            }
        }
    }

    /// Has every connection looked at again: of datagrams nobody else sees that they go to a service now.
    fn judge_again(&mut self) {
        let changes = self.compile(|compiler| vec![compiler.judge_again()]);
        if let Err(error) = tables::apply(&self.tables, &changes) {
            let error = words(&error);
            tracing::warn!(error, "what goes to a new service from before may pass it by");
        }
    }

    /// Asks the host where everything is.
    fn place(&mut self, snapshot: &Snapshot) -> Result<Place, String> {
        let links = self.host.links().map_err(|error| format!("interfaces: {error}"))?;
        let local = self.host.addresses().map_err(|error| format!("addresses: {error}"))?;
        let addresses = local;
        let local: Vec<IpAddr> = addresses.iter().map(|(_, ip)| *ip).collect();
        let directory = Directory::new(snapshot, &self.node, local.clone());
        let before = std::mem::take(&mut self.ports);
        self.ports = Ports::new(before, &links, snapshot, &directory, &self.node, &mut self.host);
        let uplinks = uplinks(&links, &self.ports);
        let detour = self.detour();
        Ok(Place { local, addresses, interfaces: self.interfaces(), uplinks, detour })
    }

    /// Why packets must go by the stack; none where they do anyway.
    fn detour(&mut self) -> Option<&'static str> {
        if !self.servicer.as_ref().is_some_and(Servicer::is_direct) {
            return None;
        }
        self.host.detour().unwrap_or_else(|error| {
            tracing::debug!(%error, "routing rules");
            Some("routing rules that cannot be read")
        })
    }

    fn compile<T: Default>(&self, work: impl FnOnce(&mut Compiler) -> T) -> T {
        self.compiled.0.compiler.write().as_mut().map(work).unwrap_or_default()
    }

    /// Saves identities, and removes origins that nothing names any more.
    fn tidy(&self) {
        let identities = self.compiled.ask(Compiler::identities).unwrap_or_default();
        self.memory.save(&identities);
        let mut used = BTreeSet::new();
        let walked = self.connections.walk(&mut |_, value| {
            used.insert(value.origin);
        });
        let walked = walked.and_then(|_| {
            self.tables.denied(&mut |key, _| {
                used.insert(key.origin);
            })
        });
        let changes = walked.map(|()| self.compile(|compiler| compiler.forget_origins(&used)));
        if let Err(error) = changes.and_then(|changes| tables::apply(&self.tables, &changes)) {
            tracing::warn!(error = words(&error), "origins of rules are kept for longer");
        }
    }

    /// Interface of each pod that is here, by `namespace/name`.
    fn interfaces(&self) -> HashMap<String, u32> {
        let behind = |(index, port): (u32, &crate::view::ports::Port)| {
            let name = |pod: &Arc<crate::view::directory::Party>| {
                (format!("{}/{}", pod.namespace, pod.pod), index)
            };
            port.pods.iter().map(name).collect::<Vec<_>>()
        };
        self.ports.iter().flat_map(behind).collect()
    }

    fn tell(&self, snapshot: &Snapshot) {
        let problems = self.compiled.ask(Compiler::problems).unwrap_or_default();
        let mut warnings: Vec<String> = problems.into_iter().collect();
        for policy in &snapshot.policies {
            let parts = policy.not_enforced();
            if !parts.is_empty() {
                let parts = parts.join(", ");
                warnings.push(format!("{}: not enforced yet: {parts}", policy.key()));
            }
        }
        self.status.warn("enforcement", warnings);
    }
}

/// The host's own interfaces: with no pod behind them, and not loopback.
fn uplinks(links: &[Link], ports: &Ports) -> Vec<u32> {
    let pods = |link: &&Link| ports.get(link.index).is_none_or(|port| port.pods.is_empty());
    let own = links.iter().filter(|link| !link.loopback && link.observable());
    own.filter(pods).map(|link| link.index).collect()
}
