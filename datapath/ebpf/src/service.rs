//! The service tables, as the engine reads them. What each holds: `datapath_abi::service`.

use aya_ebpf::bindings::{BPF_F_NO_PREALLOC, BPF_NOEXIST};
use aya_ebpf::btf_maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray};
use aya_ebpf::macros::btf_map;
use datapath_abi::conn::ConnKey;
use datapath_abi::service::{
    Affinity, AffinityKey, Asked, Backend, Frontend, FrontendKey, ReplyKey, Served,
    ServiceCounters, ServiceSettings, Translation,
};

/// Set when the object is loaded.
const LOADER: usize = 1;
const NO_PREALLOC: usize = BPF_F_NO_PREALLOC as usize;

#[btf_map(name = "frontends")]
pub(crate) static FRONTENDS: HashMap<FrontendKey, Frontend, LOADER> = HashMap::new();

#[btf_map(name = "service_slots")]
pub(crate) static SLOTS: Array<u32, LOADER> = Array::new();

#[btf_map(name = "backends")]
pub(crate) static BACKENDS: Array<Backend, LOADER> = Array::new();

#[btf_map(name = "source_ranges")]
pub(crate) static SOURCE_RANGES: LpmTrie<[u8; 20], u32, LOADER> = LpmTrie::new();

#[btf_map(name = "affinity")]
pub(crate) static AFFINITY: LruHashMap<AffinityKey, Affinity, LOADER> = LruHashMap::new();

#[btf_map(name = "served")]
pub(crate) static SERVED: HashMap<u32, Served, LOADER> = HashMap::new();

#[btf_map(name = "not_masqueraded")]
pub(crate) static NOT_MASQUERADED: LpmTrie<[u8; 16], u32, LOADER> = LpmTrie::new();

#[btf_map(name = "service_settings")]
pub(crate) static SETTINGS: Array<ServiceSettings, 1> = Array::new();

#[btf_map(name = "translations")]
pub(crate) static TRANSLATIONS: HashMap<ConnKey, Translation, LOADER> = HashMap::new();

#[btf_map(name = "service_counters")]
pub(crate) static COUNTERS: PerCpuArray<ServiceCounters, 1> = PerCpuArray::new();

#[btf_map(name = "socket_asked")]
pub(crate) static ASKED: LruHashMap<u64, Asked, 65536> = LruHashMap::new();

#[btf_map(name = "socket_replies")]
pub(crate) static SOCKET_REPLIES: LruHashMap<ReplyKey, Asked, 65536> = LruHashMap::new();
