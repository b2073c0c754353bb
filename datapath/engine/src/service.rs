//! Which backend a connection gets, from the tables of [`datapath_abi::service`].
//!
//! Costs a lookup each for frontend, slot and backend, whatever the number of services: chance or the connection's hash
//! names the slot. A client that is to keep its backend costs one more.

use core::hint::black_box;

use datapath_abi::service::{
    Affinity, AffinityKey, Backend, CHOSEN, CLUSTER_ONLY, DSR, EXTERNAL, Frontend, FrontendKey,
    HASHED, INTERNAL, LOCAL, LocalKey, ORIGIN_CLUSTER_ONLY, ORIGIN_NO_BACKEND, ORIGIN_OUT_OF_RANGE,
    RANGED, SILENT, Served, ServiceCounters, ServiceSettings, Translation,
};

use datapath_abi::conn::ConnKey;

use crate::account::Done;
use crate::host::Refusal;

/// The tables of services, and what goes with them. As with [`Host`](crate::Host), every method is cheap; as they stand
/// here, nothing is served.
pub trait Services {
    /// What is done at an interface.
    fn served(&self, _ifindex: u32) -> Option<&Served> {
        None
    }

    /// What an address stands for.
    fn frontend(&self, _key: &FrontendKey) -> Option<&Frontend> {
        None
    }

    /// An index into the backends.
    fn slot(&self, _index: u32) -> Option<u32> {
        None
    }

    /// A backend.
    fn backend(&self, _index: u32) -> Option<&Backend> {
        None
    }

    /// The index of a backend on this node that another node names.
    fn local(&self, _key: &LocalKey) -> Option<u32> {
        None
    }

    /// Whether an address lies within the source ranges of a service's port.
    fn is_in_range(&self, _service: u32, _address: &[u8; 16]) -> bool {
        false
    }

    /// The backend of a client.
    fn affinity(&self, _key: &AffinityKey) -> Option<Affinity> {
        None
    }

    /// Keeps a client's backend.
    fn keep_affinity(&self, _key: &AffinityKey, _value: &Affinity) {}

    /// What holds for all.
    fn service_settings(&self) -> Option<&ServiceSettings> {
        None
    }

    /// Bits of the longest prefix of [`PREFIXES`](datapath_abi::service::PREFIXES) that holds an address; 0
    /// without one.
    fn prefix(&self, _address: &[u8; 16]) -> u32 {
        0
    }

    /// The wire side of a connection, by its stack side.
    fn translation(&self, _key: &ConnKey) -> Option<&Translation> {
        None
    }

    /// Enters a translation unless there is one.
    fn put_translation(&self, _key: &ConnKey, _value: &Translation) -> Result<(), Refusal> {
        Err(Refusal::Full)
    }

    /// Removes a translation.
    fn remove_translation(&self, _key: &ConnKey) {}

    /// A random number.
    fn random(&self) -> u32 {
        0
    }

    /// `skb->mark`.
    fn mark(&self) -> u32 {
        0
    }

    /// Counts in [`ServiceCounters`].
    fn count(&self, _what: impl FnOnce(&mut ServiceCounters)) {}
}

/// Who asks for a backend, and which one it gets.
#[repr(C, align(8))]
#[derive(Debug, Clone, Copy)]
pub struct Choice {
    /// What the client asked for.
    pub frontend: FrontendKey,
    /// The client's address.
    pub client: [u8; 16],
    /// Its port.
    pub client_port: u32,
    /// [`INTERNAL`] or [`EXTERNAL`].
    pub scope: u32,
    /// The time, nanoseconds.
    pub now_ns: u64,
    /// The backend's address.
    pub address: [u8; 16],
    /// Its port.
    pub port: u32,
    /// Index into the backends.
    pub backend: u32,
    /// The service's port; 0 where the frontend is none.
    pub service: u32,
    /// Whether the backend is on another node, and answers the client itself ([`DSR`]). It stands here for alignment: on
    /// a BPF stack the next two must begin at eight.
    pub direct: u32,
    /// Who refused: an origin; 0 for nobody.
    pub refused: u32,
    /// Whether the refused client is told nothing.
    pub silent: u32,
    key: AffinityKey,
    value: Affinity,
}

/// Chooses. False where the destination is no frontend; otherwise there is a backend, or it says who refused.
#[inline(never)]
pub fn choose<S: Services>(tables: &S, choice: &mut Choice) -> bool {
    choice.service = 0;
    choice.refused = 0;
    choice.silent = 0;
    let frontend = match tables.frontend(&choice.frontend) {
        Some(frontend) => frontend,
        None => {
            // The address may be a service's all the same: nobody listens at its other ports.
            (choice.frontend.port, choice.frontend.protocol) = (0, 0);
            match tables.frontend(&choice.frontend) {
                Some(frontend) => frontend,
                None => return false,
            }
        }
    };
    let flags = frontend.flags;
    choice.service = frontend.service;
    choice.direct = flags & DSR;
    let outside = choice.scope == EXTERNAL as u32;
    if outside && flags & (CLUSTER_ONLY | RANGED) != 0 {
        choice.silent = 1;
        if flags & CLUSTER_ONLY != 0 {
            choice.refused = ORIGIN_CLUSTER_ONLY;
            return true;
        }
        if !tables.is_in_range(frontend.service, &choice.client) {
            choice.refused = ORIGIN_OUT_OF_RANGE;
            return true;
        }
    }
    choice.silent = flags & SILENT << choice.scope;
    if frontend.affinity != 0 && black_box(kept(tables, choice, frontend.affinity)) {
        return true;
    }
    let slots = frontend.slots[if outside { EXTERNAL } else { INTERNAL }];
    let number = if flags & HASHED != 0 {
        let seed = tables.service_settings().map_or(0, |settings| settings.seed);
        hash(seed, &choice.frontend, &choice.client, choice.client_port)
    } else {
        tables.random()
    };
    if slots.count == 0 {
        choice.refused = ORIGIN_NO_BACKEND;
        return true;
    }
    // The product's upper half: as even as the remainder, and no division.
    let index = (u64::from(number) * u64::from(slots.count)) >> 32;
    let slot = slots.start.wrapping_add(index as u32);
    let found = tables.slot(slot).unwrap_or(u32::MAX);
    let backend = tables.backend(found);
    match backend {
        Some(backend) if backend.flags != 0 => take(choice, found, backend),
        _ => choice.refused = ORIGIN_NO_BACKEND,
    }
    if frontend.affinity != 0 && choice.refused == 0 {
        black_box(keep(tables, choice));
    }
    true
}

/// Whether the client has a backend of its own that still serves, and whose time has not run out.
#[inline(never)]
fn kept<S: Services>(tables: &S, choice: &mut Choice, seconds: u32) -> bool {
    choice.key =
        AffinityKey { client: choice.client, service: choice.service, scope: choice.scope };
    let Some(affinity) = tables.affinity(&choice.key) else {
        return false;
    };
    if choice.now_ns.saturating_sub(affinity.last_ns) > u64::from(seconds) * 1_000_000_000 {
        return false;
    }
    let Some(backend) = tables.backend(affinity.backend) else {
        return false;
    };
    if backend.service != choice.service || backend.flags & CHOSEN == 0 {
        return false;
    }
    take(choice, affinity.backend, backend);
    black_box(keep(tables, choice));
    true
}

#[inline(never)]
fn keep<S: Services>(tables: &S, choice: &mut Choice) -> Done {
    choice.value = Affinity { last_ns: choice.now_ns, backend: choice.backend, pad: 0 };
    tables.keep_affinity(&choice.key, &choice.value);
    Done::here()
}

#[inline(always)]
fn take(choice: &mut Choice, index: u32, backend: &Backend) {
    choice.address = backend.address;
    choice.port = u32::from(backend.port);
    choice.backend = index;
    // Without a branch: each would double the ways that the verifier follows.
    choice.direct &= u32::from(backend.flags & LOCAL == 0).wrapping_neg();
}

/// Hash of the connection's five-tuple, the same on every node and for every packet of the connection.
#[inline(always)]
pub(crate) fn hash(seed: u32, frontend: &FrontendKey, client: &[u8; 16], port: u32) -> u32 {
    let ports = u64::from(port) << 32 | u64::from(frontend.port) << 8;
    let mut hash = mix(u64::from(seed) ^ ports ^ u64::from(frontend.protocol));
    for word in [half(client, 0), half(client, 8)] {
        hash = mix(hash ^ word);
    }
    for word in [half(&frontend.address, 0), half(&frontend.address, 8)] {
        hash = mix(hash ^ word);
    }
    (hash >> 32) as u32
}

#[inline(always)]
fn half(address: &[u8; 16], at: usize) -> u64 {
    let word = u128::from_be_bytes(*address);
    if at == 0 { (word >> 64) as u64 } else { word as u64 }
}

/// The finalizer of SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014).
#[inline(always)]
pub fn mix(number: u64) -> u64 {
    let number = (number ^ number >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ number >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ number >> 31
}

// === impl Choice ===

impl Choice {
    /// Nobody asks.
    pub const NONE: Self = Self {
        frontend: FrontendKey { address: [0; 16], port: 0, protocol: 0, pad: 0, pad2: 0 },
        client: [0; 16],
        client_port: 0,
        scope: 0,
        now_ns: 0,
        address: [0; 16],
        port: 0,
        backend: 0,
        service: 0,
        direct: 0,
        refused: 0,
        silent: 0,
        key: AffinityKey { client: [0; 16], service: 0, scope: 0 },
        value: Affinity { last_ns: 0, backend: 0, pad: 0 },
    };
}
