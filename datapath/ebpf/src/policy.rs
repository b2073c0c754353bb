//! The policy tables, as the engine reads them. What each holds: `datapath_abi::policy`.

use aya_ebpf::bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC, BPF_NOEXIST};
use aya_ebpf::btf_maps::{Array, HashMap, LpmTrie};
use aya_ebpf::helpers::generated::bpf_map_lookup_elem;
use aya_ebpf::macros::btf_map;
use datapath_abi::policy::{
    AUDIT, Class, DENY, DeniedCounter, DeniedKey, Interval, Origin, Peer, Policy, PolicySide, Rule,
    Settings, Subject,
};
use datapath_engine::Enforcer;
use datapath_engine::cells::{Cell, Counter};
use datapath_engine::policy::Tables;

use crate::cells::{Word, unknown_zero};
use crate::events;
use crate::skb::Skb;

/// Set when the object is loaded.
const LOADER: usize = 1;
const NO_PREALLOC: usize = BPF_F_NO_PREALLOC as usize;
const MMAPABLE: usize = BPF_F_MMAPABLE as usize;

#[btf_map(name = "policy_subjects")]
static SUBJECTS: HashMap<u32, Subject, LOADER> = HashMap::new();

#[btf_map(name = "policies")]
static POLICIES: HashMap<u32, Policy, LOADER> = HashMap::new();

#[btf_map(name = "policy_ports")]
static INTERVALS: Array<Interval, LOADER> = Array::new();

#[btf_map(name = "policy_rules")]
static RULES: Array<Rule, LOADER> = Array::new();

#[btf_map(name = "policy_classes")]
static CLASSES: Array<Class, LOADER, MMAPABLE> = Array::new();

#[btf_map(name = "ipcache")]
static HOSTS: HashMap<[u8; 16], Peer, LOADER> = HashMap::new();

#[btf_map(name = "ipcache_cidrs")]
static CIDRS: LpmTrie<[u8; 16], Peer, LOADER> = LpmTrie::new();

#[btf_map(name = "policy_settings")]
static SETTINGS: Array<Settings, 1> = Array::new();

#[btf_map(name = "denied")]
static DENIED: HashMap<DeniedKey, DeniedCounter, LOADER> = HashMap::new();

/// Only here so that it is made and pinned with the others; see abi.
#[btf_map(name = "policy_origins")]
pub(crate) static ORIGINS: HashMap<u32, Origin, LOADER, NO_PREALLOC> = HashMap::new();

/// [`datapath_abi::policy::Prefix`] from `length` on, with the address aligned for the stack.
#[repr(C, align(8))]
struct Longest {
    pad: u32,
    length: u32,
    address: [u64; 2],
}

/// [`DeniedCounter`], as packets change it.
#[repr(C)]
pub(crate) struct DeniedCells {
    packets: Word<u64>,
    bytes: Word<u64>,
    attempts: Word<u64>,
    first_ns: Word<u64>,
    last_ns: Word<u64>,
    peer_identity: Word<u32>,
    source_port: Word<u16>,
    pub(crate) retired: Word<u16>,
}

const _: () = assert!(size_of::<DeniedCells>() == size_of::<DeniedCounter>());

/// A refusal's counters.
#[inline(always)]
pub(crate) fn denied(key: &DeniedKey) -> Option<&'static DeniedCells> {
    let counter = DENIED.get_ptr(key)?;
    // SAFETY: of the same layout, accessed through cells only, and live until the program ends
    // (preallocated; at worst reused, which an RCU grace period before deletion rules out).
    Some(unsafe { &*counter.cast::<DeniedCells>() })
}

/// Whether policy is enforced at an interface.
#[inline(always)]
pub(crate) fn is_subject(ifindex: u32) -> bool {
    SUBJECTS.get_ptr(ifindex).is_some()
}

// === impl Skb ===

impl Tables for Skb {
    #[inline(always)]
    fn peer(&self, address: &[u8; 16]) -> Option<Peer> {
        // SAFETY: copied at once; 8 bytes, which are written as one.
        if let Some(peer) = unsafe { HOSTS.get(address).copied() } {
            return Some(peer);
        }
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = *address;
        let halves = [[a, b, c, d, e, f, g, h], [i, j, k, l, m, n, o, p]];
        let key = Longest { pad: 0, length: 128, address: halves.map(u64::from_ne_bytes) };
        let map = (&raw const CIDRS).cast_mut().cast();
        // SAFETY: a map, and a key of its size: the structure from `length` on. What it returns is a value
        // of the map, or null.
        unsafe {
            let from = (&raw const key).byte_add(core::mem::offset_of!(Longest, length));
            bpf_map_lookup_elem(map, from.cast()).cast::<Peer>().as_ref().copied()
        }
    }

    #[inline(always)]
    fn side(&self, policy: u32, direction: usize) -> Option<&PolicySide> {
        let policy = POLICIES.get_ptr(policy)?;
        // SAFETY: within the value. It may be given to another policy meanwhile, see `place`.
        Some(unsafe { &(*policy).sides[direction & 1] })
    }

    #[inline(always)]
    fn interval(&self, index: u32) -> Option<Interval> {
        INTERVALS.get(index).copied()
    }

    #[inline(always)]
    fn rule(&self, index: u32) -> Option<Rule> {
        RULES.get(index).copied()
    }

    #[inline(always)]
    fn class(&self, class: u32) -> Option<&Class> {
        CLASSES.get(class)
    }

    #[inline(always)]
    fn flags(&self) -> u32 {
        settings().1
    }

    #[inline(always)]
    fn zero(&self) -> u32 {
        unknown_zero()
    }
}

impl Enforcer for Skb {
    #[inline(always)]
    fn revision(&self) -> u32 {
        settings().0
    }

    #[inline(always)]
    fn subject(&self, ifindex: u32) -> Option<Subject> {
        // SAFETY: copied at once; where it is replaced meanwhile, the revision moves after it.
        unsafe { SUBJECTS.get(&ifindex).copied() }
    }

    #[inline(always)]
    fn place(&self, policy: u32) -> usize {
        POLICIES.get_ptr(policy).map_or(0, |policy| policy as usize)
    }

    #[inline(always)]
    fn refused(&self, key: &DeniedKey, packet: &DeniedCounter) -> bool {
        if let Some(cells) = denied(key) {
            return cells.add(packet);
        }
        if DENIED.insert(key, packet, u64::from(BPF_NOEXIST)).is_ok() {
            core::hint::black_box(events::denied(*self, key, packet, u32::from(DENY)));
            return true;
        }
        // Another CPU was faster, or there is no room.
        denied(key).is_some_and(|cells| cells.add(packet))
    }

    #[inline(always)]
    fn audited(&self, key: &DeniedKey, packet: &DeniedCounter) {
        core::hint::black_box(events::denied(*self, key, packet, u32::from(AUDIT)));
    }
}

/// Revision and flags.
#[inline(always)]
pub(crate) fn settings() -> (u32, u32) {
    match SETTINGS.get_ptr(0) {
        // SAFETY: two aligned fields of a live value.
        Some(settings) => unsafe {
            ((&raw const (*settings).revision).read_volatile(), (*settings).flags)
        },
        None => (0, 0),
    }
}

// === impl DeniedCells ===

impl DeniedCells {
    /// Adds a packet, unless the entry is being removed.
    #[inline(always)]
    fn add(&self, packet: &DeniedCounter) -> bool {
        if self.retired.get() != 0 {
            return false;
        }
        self.packets.add(packet.packets);
        self.bytes.add(packet.bytes);
        self.attempts.add(packet.attempts);
        self.last_ns.set(packet.last_ns);
        self.peer_identity.set(packet.peer_identity);
        self.source_port.set(packet.source_port);
        true
    }
}
