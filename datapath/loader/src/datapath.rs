//! The datapath as a whole.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::OnceLock;

use datapath_abi::answer::AnswerCounters;
use datapath_abi::drops::{DropCounter, DropKey};
use datapath_abi::event::KINDS;
use datapath_abi::iface::IfaceCounters;
use datapath_abi::process::Process;
use zerocopy::FromZeros;

use crate::error::Doing;
use crate::events::Wake;
use crate::features::Found;
use crate::hooks::{self, Device};
use crate::kernel::btf::Btf;
use crate::kernel::clock::Ticks;
use crate::kernel::cpus;
use crate::kernel::symbols::Symbols;
use crate::kernel::types::Types;
use crate::maps::Maps;
use crate::object::Loaded;
use crate::pins::Pins;
use crate::sys::map;
use crate::{
    Attached, Clock, Connections, Error, Events, Feature, FlowCache, MapInfo, Options,
    PolicyTables, ProgramInfo, ReportedMap, ServiceTables, Transport, counters, events, inventory,
    maps, pins,
};

mod attach;
mod links;
mod xdp;

/// The programs in the kernel, and their maps.
///
/// Dropping it changes nothing in the kernel: what is attached goes on counting into the pinned
/// maps, and the next [`Datapath::open`] adopts it. [`Datapath::remove`] takes it away.
#[derive(Debug)]
pub struct Datapath {
    options: Options,
    pins: Pins,
    cpus: u32,
    loaded: Loaded,
    maps: Maps,
    connections: Connections,
    policy: PolicyTables,
    services: ServiceTables,
    types: Types,
    symbols: OnceLock<Symbols>,
    ticks: Ticks,
    features: Vec<Feature>,
    /// Whether hooks are tcx links, or else clsact filters.
    tcx: bool,
    attached: BTreeMap<u32, Attached>,
    adopted: bool,
    cache: FlowCache,
    xdp: xdp::Hooks,
    /// The perf event array, until the events' reader takes it.
    perf: Option<OwnedFd>,
    events_taken: bool,
}

// === impl Datapath ===

impl Datapath {
    /// Loads the programs. Pinned maps of the same layout and size are adopted with what they
    /// hold; programs that are attached are replaced by these, atomically (but that of the
    /// tracepoint, which the kernel cannot replace: there drops go uncounted for some milliseconds).
    pub fn open(options: Options) -> Result<Self, Error> {
        Self::open_with(options, false)
    }

    /// For tests: `clsact` forbids tcx, as an older kernel would.
    #[doc(hidden)]
    pub fn open_with(options: Options, clsact: bool) -> Result<Self, Error> {
        options.check()?;
        let pins = Pins::create(&options.pin_dir)?;
        let cpus = cpus::possible().doing(|| "/sys/devices/system/cpu/possible")?;
        let shapes = maps::shapes(&options, cpus);
        let adopted = maps::may_adopt(&pins, &shapes)?;
        let types = match Btf::of_kernel() {
            Ok(btf) => Types::of(&btf),
            Err(error) => Types::unknown(error.to_string()),
        };
        let acts = options.policy.is_some() || options.services.is_some();
        let enforce = acts || attach::is_enforced(&pins)?;
        let mut loaded = Loaded::load(&options, &types, &pins, &shapes, enforce)?;
        let maps = Maps::open(&pins)?;
        if options.transport == Transport::Ring {
            events::fill_rings(maps.rings.as_fd(), cpus, options.ring_bytes)
                .doing(|| format!("making rings of {} bytes", options.ring_bytes))?;
        }
        Maps::seal(&pins)?;
        let ticks = Ticks::measure(loaded.get("tick")?).doing(|| "reading the kernel's clocks")?;
        let retire = loaded.get("retire")?.try_clone_to_owned().doing(|| "program retire")?;
        let (cache, hooks) = xdp::adopt(&pins, &loaded, cpus)?;
        if let Some(asked) = options.xdp {
            cache.begin(asked.new_per_second, ticks.nanoseconds())?;
        }
        let rings = maps.rings.clone();
        let connections = Connections::new(maps.connections.clone(), retire, rings, cache.clone());
        let retire_denied =
            loaded.get("retire_denied")?.try_clone_to_owned().doing(|| "program retire_denied")?;
        let policy = PolicyTables::open(&pins, retire_denied, connections.clone())?;
        let services = ServiceTables::open(&pins, cpus, connections.clone())?;
        let tcx = attach::tcx(&loaded, clsact);
        links::drops(&pins, &mut loaded);
        links::sockets(&pins, &mut loaded, options.cgroup.as_deref());
        let balanced = options.socket_services.as_ref().map(|sockets| sockets.cgroup.as_path());
        links::balance(&pins, &mut loaded, balanced);
        let features = Found {
            options: &options,
            types: &types,
            refused: &loaded.refused,
            tcx: tcx.clone(),
            cpus,
            batches: connections.walk(&mut |_, _| ()).is_ok(),
        }
        .features();
        let perf = loaded.perf.try_clone().doing(|| "map perf_events")?;
        let mut datapath = Self {
            options,
            pins,
            cpus,
            loaded,
            maps,
            connections,
            policy,
            services,
            types,
            symbols: OnceLock::new(),
            ticks,
            features,
            tcx: tcx.is_ok(),
            attached: BTreeMap::new(),
            adopted,
            cache,
            xdp: hooks,
            perf: Some(perf),
            events_taken: false,
        };
        let feature = datapath.xdp_feature();
        datapath.features.push(feature);
        datapath.adopt_hooks()?;
        Ok(datapath)
    }

    /// Whether maps of an earlier process were taken over.
    pub fn adopted(&self) -> bool {
        self.adopted
    }

    /// What is on, what is off, and why.
    pub fn features(&self) -> Vec<Feature> {
        self.features.clone()
    }

    /// Interfaces that are observed, with those that were before this process.
    pub fn attached(&self) -> Vec<Attached> {
        self.attached.values().cloned().collect()
    }

    /// The reader of the events; there is one.
    pub fn events(&mut self) -> Result<Events, Error> {
        if std::mem::replace(&mut self.events_taken, true) {
            return Err(Error::EventsTaken);
        }
        match (self.options.transport, self.perf.take()) {
            (Transport::Perf, Some(map)) => {
                Events::of_perf(map, self.options.ring_bytes, Wake::None)
            }
            _ => Events::of_rings(self.maps.rings.as_fd(), self.cpus),
        }
    }

    /// The connection table.
    pub fn connections(&self) -> Connections {
        self.connections.clone()
    }

    /// The policy tables. Without [`Options::policy`] they have room for one entry each, or what an earlier process
    /// gave them.
    pub fn policy(&self) -> PolicyTables {
        self.policy.clone()
    }

    /// The service tables; as [`Datapath::policy`], without [`Options::services`].
    pub fn services(&self) -> ServiceTables {
        self.services.clone()
    }

    /// What passed an interface's hooks and belongs to no connection: ingress, egress; bytes as the
    /// interface itself counts them. They stay
    /// when the interface is detached, see [`Datapath::forget`].
    pub fn interfaces(&self, ifindex: u32) -> Result<[IfaceCounters; 2], Error> {
        let mut counters = counters::interfaces(self.maps.interfaces.as_fd(), ifindex, self.cpus)
            .doing(|| format!("reading the counters of interface {ifindex}"))?;
        let device = hooks::name_of(ifindex).and_then(|name| hooks::device(&name).ok());
        let uncounted = device.map_or(0, Device::uncounted);
        for cause in counters.iter_mut().flat_map(|hook| &mut hook.causes) {
            cause.bytes -= uncounted * cause.packets;
        }
        Ok(counters)
    }

    /// Events for which there was no room, by kind.
    pub fn lost_events(&self) -> Result<[u64; KINDS], Error> {
        counters::lost(self.maps.lost.as_fd(), self.cpus).doing(|| "reading lost events")
    }

    /// How refused packets were answered, and how many were not. Those that get no answer whatever the
    /// rate are not counted.
    pub fn answers(&self) -> Result<AnswerCounters, Error> {
        counters::answers(self.maps.answers.as_fd(), self.cpus).doing(|| "reading answers")
    }

    /// Packets that the kernel dropped, by network namespace and reason.
    pub fn drops(&self) -> Result<Vec<(DropKey, DropCounter)>, Error> {
        counters::drops(self.maps.drops.as_fd(), self.cpus).doing(|| "reading drops")
    }

    /// The process that made the socket with this cookie, if it is remembered.
    pub fn process(&self, cookie: u64) -> Option<Process> {
        let mut process = Process::new_zeroed();
        let found = map::lookup(self.maps.sockets.as_fd(), &cookie, &mut process);
        found.is_ok_and(|found| found).then_some(process)
    }

    /// What was reported.
    pub fn reported(&self) -> ReportedMap {
        ReportedMap::new(self.maps.reported.clone())
    }

    /// Name of a drop reason by this kernel, without its prefix: `NO_SOCKET`.
    pub fn drop_reason(&self, number: u32) -> Option<&str> {
        self.types.reason(number)
    }

    /// Name of the kernel function that an address lies in.
    pub fn symbol(&self, address: u64) -> Option<&str> {
        self.symbols.get_or_init(Symbols::of_kernel).name(address)
    }

    /// The clocks, as they stand to each other now.
    pub fn clock(&self) -> Clock {
        Clock::now(self.ticks)
    }

    /// The pinned maps.
    pub fn maps(&self) -> Vec<MapInfo> {
        let maps = &self.maps;
        [
            maps.connections.as_fd(),
            maps.interfaces.as_fd(),
            maps.sockets.as_fd(),
            maps.drops.as_fd(),
            maps.reported.as_fd(),
            maps.rings.as_fd(),
            maps.lost.as_fd(),
        ]
        .into_iter()
        .filter_map(|map| inventory::map(map).ok())
        .collect()
    }

    /// The programs.
    pub fn programs(&self) -> Vec<ProgramInfo> {
        inventory::programs(&self.loaded.programs)
    }

    /// Detaches and unpins everything. Once this returns and the handles are dropped, nothing of
    /// the datapath is left in the kernel.
    pub fn remove(self) -> Result<(), Error> {
        pins::cleanup(self.pins.directory()).map(drop)
    }
}
