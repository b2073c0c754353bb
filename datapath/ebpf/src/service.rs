//! The service tables, as the engine reads them. What each holds: `datapath_abi::service`.

use core::mem::offset_of;

use aya_ebpf::bindings::{BPF_F_NO_PREALLOC, BPF_NOEXIST};
use aya_ebpf::btf_maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray};
use aya_ebpf::helpers::generated::{bpf_get_prandom_u32, bpf_map_lookup_elem};
use aya_ebpf::macros::btf_map;
use datapath_abi::conn::ConnKey;
use datapath_abi::service::{
    Affinity, AffinityKey, Asked, Backend, Frontend, FrontendKey, LocalKey, ReplyKey, Served,
    ServiceCounters, ServiceSettings, Translation,
};
use datapath_engine::{Refusal, Services};

use crate::flow_cache::Sweeper;
use crate::skb::{self, Skb};
use crate::socket::Call;
use crate::xdp::Xdp;

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

#[btf_map(name = "local_backends")]
pub(crate) static LOCALS: HashMap<LocalKey, u32, LOADER> = HashMap::new();

#[btf_map(name = "masquerade")]
pub(crate) static PREFIXES: LpmTrie<[u8; 16], u32, LOADER> = LpmTrie::new();

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

/// A prefix as a trie wants it, from `length` on: of an address, or of a service and an address. The address is
/// aligned for the stack.
#[repr(C, align(8))]
struct Longest {
    pad: u32,
    length: u32,
    address: [u64; 2],
}

/// See [`Longest`].
#[repr(C, align(8))]
struct LongestOf {
    length: u32,
    service: u32,
    address: [u64; 2],
}

/// The bits of the longest prefix of a trie: a key of the map's size lies at `key`.
///
/// # Safety
/// As the map asks of its keys.
#[inline(always)]
unsafe fn longest<T>(map: *const T, key: *const u8) -> u32 {
    // SAFETY: by the caller; what it returns is a value of the map, or null.
    let found =
        unsafe { bpf_map_lookup_elem(map.cast_mut().cast(), key.cast()).cast::<u32>().as_ref() };
    found.copied().unwrap_or(0)
}

#[inline(always)]
fn halves(address: &[u8; 16]) -> [u64; 2] {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = *address;
    [[a, b, c, d, e, f, g, h], [i, j, k, l, m, n, o, p]].map(u64::from_ne_bytes)
}

/// The methods of `Services` that need no packet.
macro_rules! tables {
    () => {
        #[inline(always)]
        fn served(&self, ifindex: u32) -> Option<&Served> {
            let served = SERVED.get_ptr(ifindex)?;
            // SAFETY: preallocated, so at worst another interface's for the rest of this packet.
            Some(unsafe { &*served })
        }

        #[inline(always)]
        fn frontend(&self, key: &FrontendKey) -> Option<&Frontend> {
            let frontend = FRONTENDS.get_ptr(key)?;
            // SAFETY: as above; user space uses no place again before a grace period.
            Some(unsafe { &*frontend })
        }

        #[inline(always)]
        fn slot(&self, index: u32) -> Option<u32> {
            SLOTS.get(index).copied()
        }

        #[inline(always)]
        fn backend(&self, index: u32) -> Option<&Backend> {
            BACKENDS.get(index)
        }

        #[inline(always)]
        fn local(&self, key: &LocalKey) -> Option<u32> {
            // SAFETY: copied at once.
            unsafe { LOCALS.get(key).copied() }
        }

        #[inline(always)]
        fn is_in_range(&self, service: u32, address: &[u8; 16]) -> bool {
            let key = LongestOf { length: 160, service: service.to_be(), address: halves(address) };
            // SAFETY: the map's key is this structure.
            unsafe { longest(&raw const SOURCE_RANGES, (&raw const key).cast()) != 0 }
        }

        #[inline(always)]
        fn affinity(&self, key: &AffinityKey) -> Option<Affinity> {
            // SAFETY: copied at once.
            unsafe { AFFINITY.get(key).copied() }
        }

        #[inline(always)]
        fn keep_affinity(&self, key: &AffinityKey, value: &Affinity) {
            // Where it fails, the client's next connection may go elsewhere.
            let _ = AFFINITY.insert(key, value, 0);
        }

        #[inline(always)]
        fn service_settings(&self) -> Option<&ServiceSettings> {
            SETTINGS.get(0)
        }

        #[inline(always)]
        fn prefix(&self, address: &[u8; 16]) -> u32 {
            let key = Longest { pad: 0, length: 128, address: halves(address) };
            // SAFETY: the map's key is the structure from `length` on.
            unsafe {
                let from = (&raw const key).byte_add(offset_of!(Longest, length));
                longest(&raw const PREFIXES, from.cast())
            }
        }

        #[inline(always)]
        fn translation(&self, key: &ConnKey) -> Option<&Translation> {
            let translation = TRANSLATIONS.get_ptr(key)?;
            // SAFETY: preallocated; entries are removed only when their connection is over, and nobody's packets come.
            Some(unsafe { &*translation })
        }

        #[inline(always)]
        fn put_translation(&self, key: &ConnKey, value: &Translation) -> Result<(), Refusal> {
            TRANSLATIONS.insert(key, value, u64::from(BPF_NOEXIST)).map_err(skb::refusal)
        }

        #[inline(always)]
        fn remove_translation(&self, key: &ConnKey) {
            let _ = TRANSLATIONS.remove(key);
        }

        #[inline(always)]
        fn random(&self) -> u32 {
            // SAFETY: no arguments.
            unsafe { bpf_get_prandom_u32() }
        }

        #[inline(always)]
        fn count(&self, what: impl FnOnce(&mut ServiceCounters)) {
            if let Some(counters) = COUNTERS.get_ptr_mut(0) {
                // SAFETY: this CPU's own; tc programs run with bottom halves off, so none interrupts another.
                what(unsafe { &mut *counters });
            }
        }
    };
}

// === impl Skb ===

impl Services for Skb {
    tables!();

    #[inline(always)]
    fn mark(&self) -> u32 {
        // SAFETY: the context of a tc program.
        unsafe { (*self.0).mark }
    }
}

// === impl Call ===

impl Services for Call {
    tables!();
}

// === impl Xdp ===

impl Services for Xdp {
    tables!();
}

// === impl Sweeper ===

impl Services for Sweeper {
    tables!();
}
