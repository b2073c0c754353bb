//! What the agent asks of the kernel half, as a trait, so that all the accounting can be tested
//! against a kernel that loses events, fails, and dies with the agent at any step.
//!
//! The real one is [`loader`]; tests have `fake`. The trait says what holds, not how.

use datapath_abi::conn::{ConnKey, ConnValue};
use datapath_abi::drops::{DropCounter, DropEvent, DropKey};
use datapath_abi::event::{ConnEvent, KINDS};
use datapath_abi::iface::IfaceCounters;
use datapath_abi::names::DnsEvent;
use datapath_abi::policy::{DeniedCounter, DeniedKey, Origin};
use datapath_abi::process::Process;
use datapath_abi::reported::{Reported, ReportedKey};
use datapath_abi::service::{Asked, ReplyKey, ServiceCounters};
use datapath_loader::{CacheCounters, Connections, PolicyTables, ServiceTables};

#[cfg(test)]
pub(crate) mod fake;
pub(crate) mod loader;

/// An operation on the kernel half that failed.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {why}")]
pub struct KernelError {
    /// What was tried.
    pub what: &'static str,
    /// Why it failed.
    pub why: String,
}

/// A result of the kernel half.
pub(crate) type Result<T> = std::result::Result<T, KernelError>;

/// An event, borrowed from the ring.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Event<'a> {
    /// A connection was created, changed its state, or was closed.
    Conn(&'a ConnEvent),
    /// The kernel dropped a packet.
    Drop(&'a DropEvent),
    /// A DNS answer passed.
    Dns(&'a DnsEvent),
    /// The policy refused something for the first time, or would have.
    Denied,
}

/// Reads events; moved to a thread of its own.
pub(crate) trait Events: Send {
    /// Hands every event that is there to `each`, without waiting; returns how many.
    fn drain(&mut self, each: &mut dyn FnMut(Event<'_>)) -> usize;
}

/// An interface that the programs are attached to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Attached {
    /// Interface index.
    pub ifindex: u32,
    /// Interface name.
    pub name: String,
    /// `tcx` or `clsact`.
    pub by: &'static str,
    /// Length of its link header, bytes.
    pub link_header: u8,
}

/// Something the datapath can do here, or cannot and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Feature {
    /// Its name.
    pub name: String,
    /// Whether it is on.
    pub on: bool,
    /// What it uses, or why it is off.
    pub why: String,
}

/// How full a map is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct MapUse {
    pub name: String,
    pub kind: String,
    /// Entries, where counting them is cheap.
    pub entries: u64,
    pub capacity: u64,
    pub key_bytes: u32,
    pub value_bytes: u32,
}

/// The kernel half: programs, and the maps that outlive the agent.
pub(crate) trait Kernel: std::fmt::Debug + Send {
    /// Whether the maps of an agent before this one were found and taken over.
    fn adopted(&self) -> bool;
    /// What works here.
    fn features(&self) -> Vec<Feature>;
    /// Begins to observe an interface; harmless when it is observed already.
    fn attach(&mut self, name: &str) -> Result<Attached>;
    /// Has the driver send on what it may, at the host's own interfaces; harmless where that is done already.
    fn accelerate(&mut self) -> Result<()> {
        Ok(())
    }
    /// Ends it; the interface's counters stay.
    fn detach(&mut self, ifindex: u32) -> Result<()>;
    /// Forgets the counters of an interface that is not observed any more.
    fn forget(&mut self, ifindex: u32) -> Result<()>;
    /// The interfaces observed now.
    fn attached(&self) -> Vec<Attached>;
    /// The events; asked for once.
    fn events(&mut self) -> Result<Box<dyn Events>>;

    /// Visits every connection; one that is created or removed meanwhile may be missed, or be
    /// visited twice. Returns the number of visits.
    fn walk(&self, each: &mut dyn FnMut(&ConnKey, &ConnValue)) -> Result<u64>;
    /// One connection.
    fn get(&self, key: &ConnKey) -> Result<Option<ConnValue>>;
    /// Ends the counting of connections that are still the given incarnation, and returns their
    /// final values.
    fn retire(&self, keys: &[(ConnKey, u64)]) -> Result<Vec<(ConnKey, ConnValue)>>;
    /// Removes entries; ones that are not there do not matter. `retired`: final values of most of them, as
    /// [`retire`](Self::retire) returned them, so that they need not be read again.
    fn remove(&self, keys: &[ConnKey], retired: &[(ConnKey, ConnValue)]) -> Result<()>;

    /// What no connection holds at an interface, by hook.
    fn interface(&self, ifindex: u32) -> Result<[IfaceCounters; 2]>;
    /// Events that did not fit into the rings, by kind.
    fn lost_events(&self) -> Result<[u64; KINDS]>;
    /// Refused packets that were answered, and not, for the rate's sake or because that failed.
    fn answers(&self) -> Result<[u64; 3]>;
    /// Drops, by namespace and reason.
    fn drops(&self) -> Result<Vec<(DropKey, DropCounter)>>;
    /// The policy tables, and the connections that were judged by them; none where nothing is enforced.
    fn policy(&self) -> Option<(PolicyTables, Connections)>;
    /// The service tables; none where nothing is served.
    fn services(&self) -> Option<ServiceTables> {
        None
    }
    /// What became of packets to services; none where nothing is served.
    fn service_counters(&self) -> Option<ServiceCounters> {
        self.services().and_then(|tables| tables.counters().ok())
    }
    /// How XDP's flow cache fares; none without.
    fn flow_cache(&self) -> Option<CacheCounters> {
        None
    }
    /// Visits what the policy refused; as for connections, some may be visited twice.
    fn denied(&self, each: &mut dyn FnMut(&DeniedKey, &DeniedCounter)) -> Result<()>;
    /// Ends the counting of refusals, and returns their final values.
    fn retire_denied(&self, keys: &[DeniedKey]) -> Result<Vec<(DeniedKey, DeniedCounter)>>;
    /// Removes refusals; ones that are not there do not matter.
    fn remove_denied(&self, keys: &[DeniedKey]) -> Result<()>;
    /// Where a rule comes from.
    fn origin(&self, number: u32) -> Option<Origin>;
    /// The process that made a socket.
    fn process(&self, cookie: u64) -> Option<Process>;
    /// What a socket asked for that was connected to this backend at once.
    fn asked(&self, _key: &ReplyKey) -> Option<Asked> {
        None
    }

    /// Writes what was reported. On an error, some may have been written.
    fn write_reported(&self, entries: &[(ReportedKey, Reported)]) -> Result<()>;
    /// Visits what was reported.
    fn walk_reported(&self, each: &mut dyn FnMut(&ReportedKey, &Reported)) -> Result<()>;
    /// Forgets what was reported; ones that are not there do not matter.
    fn remove_reported(&self, keys: &[ReportedKey]) -> Result<()>;

    /// Name of a drop reason.
    fn drop_reason(&self, reason: u32) -> Option<String>;
    /// Name of the kernel function at an address.
    fn symbol(&self, address: u64) -> Option<String>;
    /// Nanoseconds since the epoch, by the clock of the two below: it does not jump against them.
    fn now(&self) -> i64;
    /// Nanoseconds since the epoch, of a `bpf_ktime_get_ns`.
    fn epoch_from_ktime(&self, ns: u64) -> i64;
    /// Nanoseconds since the epoch, of a `bpf_jiffies64`.
    fn epoch_from_jiffies(&self, jiffies: u64) -> i64;
    /// The maps and how full they are.
    fn maps(&self) -> Vec<MapUse>;
    /// Detaches everything and removes every map; the next agent starts from nothing.
    fn dismantle(self: Box<Self>) -> Result<()>;
}

// === impl KernelError ===

#[cfg(test)]
impl KernelError {
    pub(crate) fn new(what: &'static str, why: impl std::fmt::Display) -> Self {
        Self { what, why: why.to_string() }
    }
}
