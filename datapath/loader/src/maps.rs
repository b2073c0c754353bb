//! The pinned maps: which, how large, and whether they may be adopted.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use aya_obj::generated::bpf_map_info;
use datapath_abi::answer::{self, AnswerCounters};
use datapath_abi::conn::{self, ConnKey, ConnValue};
use datapath_abi::drops::{self, DropCounter, DropKey};
use datapath_abi::flow_cache::{
    self, Bucket4, Bucket6, CacheSettings, CpuState, HOPS_PER_CPU, Hop,
};
use datapath_abi::fragment::{self, FragmentKey, FragmentPorts};
use datapath_abi::iface::{self, IfaceCounters, IfaceKey};
use datapath_abi::policy::{
    self, Class, DeniedCounter, DeniedKey, Interval, Origin, Peer, Policy, Prefix, Rule, Settings,
    Subject,
};
use datapath_abi::process::{self, Process};
use datapath_abi::reported::{self, Reported, ReportedKey};
use datapath_abi::service::{
    self, Affinity, AffinityKey, Asked, Backend, Frontend, FrontendKey, LocalKey, ReplyKey, Served,
    ServiceCounters, ServiceSettings, SourceRange, Translation,
};
use datapath_abi::{ABI, event};

use crate::error::Doing;
use crate::pins::{Pins, unpin};
use crate::sys::{self, info, map};
use crate::{Error, Options, PolicySizes, ServiceSizes};

/// Name of the map with the layout's number.
pub(crate) const ABI_MAP: &str = "abi";

/// Entries of `reported` beyond one per connection: interfaces, drops, lost events.
const REPORTED_OTHERS: u32 = 8192;

/// Tables of policy, services and XDP whose size is an option.
const OPTIONAL: [&str; 21] = [
    flow_cache::BUCKETS4,
    flow_cache::BUCKETS6,
    flow_cache::HOPS,
    service::FRONTENDS,
    service::SLOTS,
    service::BACKENDS,
    service::SOURCE_RANGES,
    service::AFFINITY,
    service::SERVED,
    service::LOCALS,
    service::PREFIXES,
    service::TRANSLATIONS,
    policy::SUBJECTS,
    policy::POLICIES,
    policy::INTERVALS,
    policy::RULES,
    policy::CLASSES,
    policy::HOSTS,
    policy::CIDRS,
    policy::DENIED,
    policy::ORIGINS,
];

/// Open descriptors of the pinned maps.
#[derive(Debug)]
pub(crate) struct Maps {
    pub(crate) connections: Arc<OwnedFd>,
    pub(crate) interfaces: OwnedFd,
    pub(crate) sockets: OwnedFd,
    pub(crate) drops: OwnedFd,
    pub(crate) reported: Arc<OwnedFd>,
    pub(crate) rings: Arc<OwnedFd>,
    pub(crate) lost: OwnedFd,
    pub(crate) answers: OwnedFd,
}

/// A map's shape; no entries asked for where the object fixes them.
pub(crate) struct Shape {
    pub(crate) name: &'static str,
    key: usize,
    value: usize,
    pub(crate) entries: Option<u32>,
}

/// Every pinned map.
pub(crate) fn shapes(options: &Options, cpus: u32) -> Vec<Shape> {
    fn shape<K, V>(name: &'static str, entries: Option<u32>) -> Shape {
        Shape { name, key: size_of::<K>(), value: size_of::<V>(), entries }
    }
    let connections = options.max_connections;
    let sizes = options.policy.unwrap_or(PolicySizes::NONE);
    let services = options.services.unwrap_or(ServiceSizes::NONE);
    // One of each where there is no XDP: `cpus` may be one, so that is no size of another option's.
    let xdp = |buckets: Option<u32>| Some(buckets.map_or(1, |buckets| buckets * cpus));
    let cache = options.xdp;
    vec![
        shape::<u32, Bucket4>(flow_cache::BUCKETS4, xdp(cache.map(|cache| cache.buckets4))),
        shape::<u32, Bucket6>(flow_cache::BUCKETS6, xdp(cache.map(|cache| cache.buckets6))),
        shape::<u32, Hop>(flow_cache::HOPS, xdp(cache.map(|_| HOPS_PER_CPU))),
        shape::<u32, CpuState>(flow_cache::STATE, Some(cpus)),
        shape::<u32, CacheSettings>(flow_cache::SETTINGS, None),
        shape::<u32, Subject>(policy::SUBJECTS, Some(sizes.subjects)),
        shape::<u32, Policy>(policy::POLICIES, Some(sizes.policies)),
        shape::<u32, Interval>(policy::INTERVALS, Some(sizes.intervals)),
        shape::<u32, Rule>(policy::RULES, Some(sizes.rules)),
        shape::<u32, Class>(policy::CLASSES, Some(sizes.classes)),
        shape::<[u8; 16], Peer>(policy::HOSTS, Some(sizes.hosts)),
        shape::<Prefix, Peer>(policy::CIDRS, Some(sizes.cidrs)),
        shape::<u32, Settings>(policy::SETTINGS, None),
        shape::<DeniedKey, DeniedCounter>(policy::DENIED, Some(sizes.denied)),
        shape::<u32, Origin>(policy::ORIGINS, Some(sizes.origins)),
        shape::<u32, AnswerCounters>(answer::MAP, None),
        shape::<FrontendKey, Frontend>(service::FRONTENDS, Some(services.frontends)),
        shape::<u32, u32>(service::SLOTS, Some(services.slots)),
        shape::<u32, Backend>(service::BACKENDS, Some(services.backends)),
        shape::<SourceRange, u32>(service::SOURCE_RANGES, Some(services.source_ranges)),
        shape::<AffinityKey, Affinity>(service::AFFINITY, Some(services.clients)),
        shape::<u32, Served>(service::SERVED, Some(services.interfaces)),
        shape::<LocalKey, u32>(service::LOCALS, Some(services.locals)),
        shape::<Prefix, u32>(service::PREFIXES, Some(services.prefixes)),
        shape::<u32, ServiceSettings>(service::SETTINGS, None),
        shape::<ConnKey, Translation>(service::TRANSLATIONS, Some(services.translations)),
        shape::<u32, ServiceCounters>(service::COUNTERS, None),
        shape::<u64, Asked>(service::ASKED, None),
        shape::<ReplyKey, Asked>(service::SOCKET_REPLIES, None),
        shape::<u32, u32>(ABI_MAP, None),
        shape::<ConnKey, ConnValue>(conn::MAP, Some(connections)),
        shape::<IfaceKey, IfaceCounters>(iface::MAP, None),
        shape::<FragmentKey, FragmentPorts>(fragment::MAP, None),
        shape::<u64, Process>(process::MAP, None),
        shape::<DropKey, DropCounter>(drops::MAP, None),
        shape::<ReportedKey, Reported>(reported::MAP, Some(connections + REPORTED_OTHERS)),
        shape::<u32, u32>(event::RINGS_MAP, Some(cpus)),
        shape::<u32, u64>(event::LOST_MAP, None),
    ]
}

/// Looks at what is pinned. False where nothing is; an error where it is another's or of another
/// size: adopting it would misread it, replacing it would lose what was counted.
pub(crate) fn may_adopt(pins: &Pins, shapes: &[Shape]) -> Result<bool, Error> {
    let path = pins.map(ABI_MAP);
    if !path.exists() {
        return Ok(false);
    }
    let fd = sys::open_pin(&path).doing(|| format!("opening {}", path.display()))?;
    let mut found = 0u32;
    map::lookup(fd.as_fd(), &0u32, &mut found).doing(|| format!("reading {}", path.display()))?;
    // 0: whoever made the maps was stopped before it wrote the number, so before it attached.
    if found != ABI && found != 0 {
        return Err(Error::Layout { path: pins.directory().to_owned(), found, expected: ABI });
    }
    for shape in shapes {
        shape.check(pins)?;
    }
    Ok(found == ABI)
}

// === impl Shape ===

impl Shape {
    fn check(&self, pins: &Pins) -> Result<(), Error> {
        let path = pins.map(self.name);
        if !path.exists() {
            return Ok(());
        }
        let read =
            || -> std::io::Result<bpf_map_info> { info::info(sys::open_pin(&path)?.as_fd()) };
        let found = read().doing(|| format!("opening {}", path.display()))?;
        let entries = self.entries.unwrap_or(found.max_entries);
        let wanted = (self.key as u32, self.value as u32, entries);
        let found = (found.key_size, found.value_size, found.max_entries);
        // A datapath that only observes asks for one entry: it takes any such table as it is, and its own
        // hold nothing that another could miss.
        let observing = OPTIONAL.contains(&self.name) && (entries == 1 || found.2 == 1);
        if wanted == found || observing && (wanted.0, wanted.1) == (found.0, found.1) {
            if observing && found.2 == 1 && entries != 1 {
                unpin(&path)?;
            }
            return Ok(());
        }
        let text = |(key, value, entries): (u32, u32, u32)| {
            format!("keys of {key} bytes, values of {value} bytes, {entries} entries")
        };
        Err(Error::Size { path, found: text(found), expected: text(wanted) })
    }
}

// === impl Maps ===

impl Maps {
    /// Opens the pins, once they are all there.
    pub(crate) fn open(pins: &Pins) -> Result<Self, Error> {
        let open = |name: &str| {
            let path = pins.map(name);
            sys::open_pin(&path).doing(|| format!("opening {}", path.display()))
        };
        Ok(Self {
            connections: Arc::new(open(conn::MAP)?),
            interfaces: open(iface::MAP)?,
            sockets: open(process::MAP)?,
            drops: open(drops::MAP)?,
            reported: Arc::new(open(reported::MAP)?),
            rings: Arc::new(open(event::RINGS_MAP)?),
            lost: open(event::LOST_MAP)?,
            answers: open(answer::MAP)?,
        })
    }

    /// Writes the layout's number: from now on the pins may be adopted.
    pub(crate) fn seal(pins: &Pins) -> Result<(), Error> {
        let path = pins.map(ABI_MAP);
        let write = || map::update(sys::open_pin(&path)?.as_fd(), &0u32, &ABI, map::ANY);
        write().doing(|| format!("writing {}", path.display()))
    }
}
