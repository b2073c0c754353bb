//! Maps. Sizes marked `LOADER` are set when the object is loaded.

use aya_ebpf::Global;
use aya_ebpf::bindings::{BPF_F_NO_COMMON_LRU, BPF_F_NO_PREALLOC};
use aya_ebpf::btf_maps::{
    Array, ArrayOfMaps, HashMap, LruHashMap, PerCpuArray, PerCpuHashMap, PerfEventByteArray,
    RingBuf,
};
use aya_ebpf::macros::btf_map;
use datapath_abi::conn::{ConnKey, ConnValue};
use datapath_abi::drops::{DropCounter, DropKey};
use datapath_abi::event::KINDS;
use datapath_abi::fragment::{FragmentKey, FragmentPorts};
use datapath_abi::iface::{IfaceCounters, IfaceKey};
use datapath_abi::names::DnsEvent;
use datapath_abi::process::Process;
use datapath_abi::reported::{Reported, ReportedKey};

const LOADER: usize = 1;

/// Whether events go to the perf event array instead of the rings.
#[unsafe(no_mangle)]
pub(crate) static PERF: Global<u8> = Global::new(0);
/// Whether DNS answers are events.
#[unsafe(no_mangle)]
pub(crate) static DNS: Global<u8> = Global::new(0);

#[btf_map(name = "connections")]
pub(crate) static CONNECTIONS: HashMap<ConnKey, ConnValue, LOADER> = HashMap::new();

/// Where a new connection's value is put together: it is too large for the stack.
#[btf_map(name = "new_connection")]
pub(crate) static NEW_CONNECTION: PerCpuArray<ConnValue, 1> = PerCpuArray::new();

/// See `skb::scratch`.
#[btf_map(name = "bytes")]
pub(crate) static BYTES: PerCpuArray<[u8; 64], 1> = PerCpuArray::new();

#[btf_map(name = "interfaces")]
pub(crate) static INTERFACES: PerCpuHashMap<IfaceKey, IfaceCounters, 4096, NO_PREALLOC> =
    PerCpuHashMap::new();

#[btf_map(name = "fragments")]
pub(crate) static FRAGMENTS: LruHashMap<FragmentKey, FragmentPorts, 8192> = LruHashMap::new();

#[btf_map(name = "sockets")]
pub(crate) static SOCKETS: LruHashMap<u64, Process, 65536, NO_COMMON_LRU> = LruHashMap::new();

#[btf_map(name = "drops")]
pub(crate) static DROPS: PerCpuHashMap<DropKey, DropCounter, 8192, NO_PREALLOC> =
    PerCpuHashMap::new();

/// Only here so that it is made and pinned with the others; see abi.
#[btf_map(name = "reported")]
pub(crate) static REPORTED: HashMap<ReportedKey, Reported, LOADER, NO_PREALLOC> = HashMap::new();

#[btf_map(name = "rings")]
pub(crate) static RINGS: ArrayOfMaps<RingBuf<(), 4096>, LOADER> = ArrayOfMaps::new();

#[btf_map(name = "perf_events")]
pub(crate) static PERF_EVENTS: PerfEventByteArray = PerfEventByteArray::new();

#[btf_map(name = "lost_events")]
pub(crate) static LOST_EVENTS: PerCpuArray<u64, KINDS> = PerCpuArray::new();

/// Where a DNS event is put together for the perf event array, which takes no reservations.
#[btf_map(name = "new_names")]
pub(crate) static NEW_NAMES: PerCpuArray<DnsEvent, 1> = PerCpuArray::new();

/// Abi number of the pinned maps, written by the loader.
#[btf_map(name = "abi")]
pub(crate) static ABI: Array<u32, 1> = Array::new();

const NO_PREALLOC: usize = BPF_F_NO_PREALLOC as usize;
const NO_COMMON_LRU: usize = BPF_F_NO_COMMON_LRU as usize;
