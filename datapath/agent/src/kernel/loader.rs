//! The real kernel half: `datapath-loader`, in the agent's words.

use std::cell::Cell;
use std::collections::{BTreeSet, HashMap};

use datapath_abi::conn::{ConnKey, ConnValue};
use datapath_abi::drops::{DropCounter, DropKey};
use datapath_abi::event::KINDS;
use datapath_abi::iface::IfaceCounters;
use datapath_abi::policy::{DeniedCounter, DeniedKey, Origin};
use datapath_abi::process::Process;
use datapath_abi::reported::{Reported, ReportedKey};
use datapath_abi::service::{Asked, NAT_NONE, ReplyKey, UPLINK};
use datapath_loader::{
    AttachedBy, CacheCounters, Clock, Connections, Datapath, Mode, Options, PolicyTables,
    ReportedMap, ServiceTables,
};

use super::{Attached, Event, Events, Feature, Kernel, KernelError, MapUse, Result};
use crate::words::words;

/// The datapath, with the handles that are used most.
#[derive(Debug)]
pub(crate) struct Loaded {
    datapath: Datapath,
    connections: Connections,
    reported: ReportedMap,
    policy: PolicyTables,
    services: ServiceTables,
    mode: Mode,
    /// Whether services were asked for.
    served: bool,
    /// Whether XDP was.
    accelerates: bool,
    /// Interfaces where it was tried.
    tried: BTreeSet<u32>,
    /// Taken once a tick: all times of a tick are by one clock.
    clock: Cell<Clock>,
}

/// The rings.
struct Rings(datapath_loader::Events);

// === impl Loaded ===

impl Loaded {
    /// Loads the programs, or takes over those of an agent before this one.
    pub(crate) fn open(options: Options) -> Result<Self> {
        let mode = if options.policy.is_some() { Mode::Enforce } else { Mode::Observe };
        let served = options.services.is_some();
        let accelerates = options.xdp.is_some();
        let datapath = Datapath::open(options).map_err(|e| failed("loading the datapath", e))?;
        Ok(Self {
            connections: datapath.connections(),
            reported: datapath.reported(),
            policy: datapath.policy(),
            services: datapath.services(),
            mode,
            served,
            accelerates,
            tried: BTreeSet::new(),
            clock: Cell::new(datapath.clock()),
            datapath,
        })
    }
}

impl Loaded {
    /// Those of the connections whose entries lead to a translation.
    fn translated(
        &self,
        keys: &[ConnKey],
        retired: &[(ConnKey, ConnValue)],
    ) -> Result<Vec<(ConnKey, ConnValue)>> {
        let mut found = Vec::new();
        if self.mode == Mode::Observe {
            return Ok(found);
        }
        let known: HashMap<&ConnKey, &ConnValue> =
            retired.iter().map(|(key, value)| (key, value)).collect();
        for key in keys {
            let value = match known.get(key) {
                Some(value) => Some(**value),
                None => self.connections.get(key).map_err(|e| failed("connections", e))?,
            };
            found.extend(value.filter(|value| value.nat != NAT_NONE).map(|value| (*key, value)));
        }
        Ok(found)
    }
}

fn failed(what: &'static str, error: datapath_loader::Error) -> KernelError {
    KernelError { what, why: words(&error) }
}

impl From<datapath_loader::Attached> for Attached {
    fn from(attached: datapath_loader::Attached) -> Self {
        Self {
            ifindex: attached.ifindex,
            name: attached.name,
            by: match attached.by {
                AttachedBy::Tcx => "tcx",
                AttachedBy::Clsact => "clsact",
            },
            link_header: attached.link_header,
        }
    }
}

impl Kernel for Loaded {
    fn adopted(&self) -> bool {
        self.datapath.adopted()
    }

    fn features(&self) -> Vec<Feature> {
        let features = self.datapath.features().into_iter();
        features.map(|f| Feature { name: f.name.to_owned(), on: f.on, why: f.why }).collect()
    }

    fn attach(&mut self, name: &str) -> Result<Attached> {
        self.datapath
            .attach(name, self.mode)
            .map(Attached::from)
            .map_err(|e| failed("attaching", e))
    }

    fn accelerate(&mut self) -> Result<()> {
        if !self.accelerates {
            return Ok(());
        }
        let served = self.services.served().map_err(|e| failed("served", e))?;
        let uplinks: Vec<u32> = served
            .iter()
            .filter(|(_, served)| served.flags & UPLINK != 0)
            .map(|(ifindex, _)| *ifindex)
            .filter(|ifindex| !self.tried.contains(ifindex))
            .collect();
        for attached in self.datapath.attached() {
            if !uplinks.contains(&attached.ifindex) {
                continue;
            }
            self.tried.insert(attached.ifindex);
            let done = self.datapath.accelerate(&attached.name);
            match done.map_err(|e| failed("XDP", e))? {
                Ok(()) => tracing::info!(interface = attached.name, "XDP"),
                Err(why) => tracing::warn!(interface = attached.name, why, "no XDP"),
            }
        }
        Ok(())
    }

    fn flow_cache(&self) -> Option<CacheCounters> {
        self.accelerates.then(|| self.datapath.flow_cache().counters().ok()).flatten()
    }

    fn detach(&mut self, ifindex: u32) -> Result<()> {
        self.tried.remove(&ifindex);
        if self.datapath.accelerated().contains(&ifindex) {
            self.datapath.decelerate(ifindex).map_err(|e| failed("XDP", e))?;
        }
        self.datapath.detach(ifindex).map_err(|e| failed("detaching", e))
    }

    fn forget(&mut self, ifindex: u32) -> Result<()> {
        self.datapath.forget(ifindex).map_err(|e| failed("interfaces", e))
    }

    fn attached(&self) -> Vec<Attached> {
        self.datapath.attached().into_iter().map(Attached::from).collect()
    }

    fn events(&mut self) -> Result<Box<dyn Events>> {
        let events = self.datapath.events().map_err(|e| failed("opening the rings", e))?;
        Ok(Box::new(Rings(events)))
    }

    fn walk(&self, each: &mut dyn FnMut(&ConnKey, &ConnValue)) -> Result<u64> {
        self.connections.walk(each).map_err(|e| failed("connections", e))
    }

    fn get(&self, key: &ConnKey) -> Result<Option<ConnValue>> {
        self.connections.get(key).map_err(|e| failed("connections", e))
    }

    fn retire(&self, keys: &[(ConnKey, u64)]) -> Result<Vec<(ConnKey, ConnValue)>> {
        self.connections.retire(keys).map_err(|e| failed("retiring", e))
    }

    fn remove(&self, keys: &[ConnKey], retired: &[(ConnKey, ConnValue)]) -> Result<()> {
        let translated = self.translated(keys, retired)?;
        self.connections.remove(keys).map_err(|e| failed("connections", e))?;
        self.services.forget(&translated).map_err(|e| failed("translations", e))
    }

    fn interface(&self, ifindex: u32) -> Result<[IfaceCounters; 2]> {
        self.datapath.interfaces(ifindex).map_err(|e| failed("interfaces", e))
    }

    fn lost_events(&self) -> Result<[u64; KINDS]> {
        self.datapath.lost_events().map_err(|e| failed("lost events", e))
    }

    fn drops(&self) -> Result<Vec<(DropKey, DropCounter)>> {
        self.datapath.drops().map_err(|e| failed("drops", e))
    }

    fn process(&self, cookie: u64) -> Option<Process> {
        self.datapath.process(cookie)
    }

    fn asked(&self, key: &ReplyKey) -> Option<Asked> {
        self.services.asked(key)
    }

    fn policy(&self) -> Option<(PolicyTables, Connections)> {
        (self.mode == Mode::Enforce).then(|| (self.policy.clone(), self.connections.clone()))
    }

    fn services(&self) -> Option<ServiceTables> {
        self.served.then(|| self.services.clone())
    }

    fn denied(&self, each: &mut dyn FnMut(&DeniedKey, &DeniedCounter)) -> Result<()> {
        self.policy.denied(each).map_err(|e| failed("refusals", e))
    }

    fn retire_denied(&self, keys: &[DeniedKey]) -> Result<Vec<(DeniedKey, DeniedCounter)>> {
        self.policy.retire_denied(keys).map_err(|e| failed("retiring refusals", e))
    }

    fn remove_denied(&self, keys: &[DeniedKey]) -> Result<()> {
        self.policy.remove_denied(keys).map_err(|e| failed("refusals", e))
    }

    fn origin(&self, number: u32) -> Option<Origin> {
        self.policy.origin(number).ok().flatten()
    }

    fn write_reported(&self, entries: &[(ReportedKey, Reported)]) -> Result<()> {
        self.reported.write(entries).map_err(|e| failed("reported totals", e))
    }

    fn walk_reported(&self, each: &mut dyn FnMut(&ReportedKey, &Reported)) -> Result<()> {
        self.reported.walk(each).map_err(|e| failed("reported totals", e))
    }

    fn remove_reported(&self, keys: &[ReportedKey]) -> Result<()> {
        self.reported.remove(keys).map_err(|e| failed("reported totals", e))
    }

    fn drop_reason(&self, reason: u32) -> Option<String> {
        self.datapath.drop_reason(reason).map(str::to_owned)
    }

    fn symbol(&self, address: u64) -> Option<String> {
        self.datapath.symbol(address).map(str::to_owned)
    }

    fn now(&self) -> i64 {
        let clock = self.datapath.clock();
        self.clock.set(clock);
        clock.epoch_from_ktime(clock.ktime_now())
    }

    fn epoch_from_ktime(&self, ns: u64) -> i64 {
        self.clock.get().epoch_from_ktime(ns)
    }

    fn epoch_from_jiffies(&self, jiffies: u64) -> i64 {
        self.clock.get().epoch_from_jiffies(jiffies)
    }

    fn answers(&self) -> Result<[u64; 3]> {
        let counted = self.datapath.answers().map_err(|e| failed("reading answers", e))?;
        Ok([counted.sent, counted.limited, counted.failed])
    }

    fn maps(&self) -> Vec<MapUse> {
        let maps = self.datapath.maps().into_iter();
        maps.map(|map| MapUse {
            name: map.name,
            kind: map.kind.to_owned(),
            entries: 0,
            capacity: u64::from(map.max_entries),
            key_bytes: map.key_size,
            value_bytes: map.value_size,
        })
        .collect()
    }

    fn dismantle(self: Box<Self>) -> Result<()> {
        let Self { datapath, connections, reported, .. } = *self;
        // Their maps live as long as someone has them open.
        drop((connections, reported));
        datapath.remove().map_err(|e| failed("taking the datapath away", e))
    }
}

impl Events for Rings {
    fn drain(&mut self, each: &mut dyn FnMut(Event<'_>)) -> usize {
        self.0.drain(&mut |event| {
            each(match event {
                datapath_loader::Event::Conn(conn) => Event::Conn(conn),
                datapath_loader::Event::Drop(drop) => Event::Drop(drop),
                datapath_loader::Event::Dns(dns) => Event::Dns(dns),
                datapath_loader::Event::Denied(_) => Event::Denied,
            });
        })
    }
}
