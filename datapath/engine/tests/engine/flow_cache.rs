//! The flow cache's laws, over random steps: nothing sent is lost between ways, hops and entries, and no packet goes to a
//! backend that is not its flow's.

use std::cell::{Cell as StdCell, RefCell};
use std::collections::HashMap;

use datapath_abi::conn::{ConnKey, ConnValue};
use datapath_abi::flow_cache::{
    Bucket4, Bucket6, CacheSettings, CpuState, Hop, NO_ROUTE, Tuple4, Tuple6,
};
use datapath_abi::iface::{CAUSES, Count, FLOOD};
use datapath_abi::service::{
    ALIVE, Backend, CHOSEN, DSR, Frontend, FrontendKey, HASHED, LOCAL, NAT_DSR, NAT_OUTSIDE, NODE,
    Served, ServiceSettings, Slots, UPLINK,
};
use datapath_engine::atomics::Atomics;
use datapath_engine::cells::{Cell, ConnCells, Counter, Judged};
use datapath_engine::flow_cache::way::Bucket;
use datapath_engine::flow_cache::{
    COUNTED, LATER, Ledger, NO_WAY, PASS, Query, Tuple, Work, count, count_stateless, find, hop,
    resolve, settle, suffices, sweep,
};
use datapath_engine::{Refusal, Services, key};

type Cells = ConnCells<Atomics>;

const BACKENDS: usize = 6;
const SLOTS: u32 = 13;
const FLOWS: u64 = 24;
const BUCKETS: usize = 4;
const IFINDEX: u32 = 7;

/// The tables, and what user space and the tc programs do to them.
struct Tables {
    entries: RefCell<HashMap<ConnKey, &'static Cells>>,
    capacity: usize,
    is_busy: bool,
    reaches: bool,
    now: u64,
    causes: RefCell<[Count; CAUSES]>,
    removed: StdCell<(u64, u64)>,
    backends: [Backend; BACKENDS],
    slots: [u32; SLOTS as usize],
    frontend: Frontend,
    served: Served,
    settings: ServiceSettings,
    is_subject: bool,
    is_node: bool,
    random: StdCell<u32>,
}

impl Services for Tables {
    fn served(&self, ifindex: u32) -> Option<&Served> {
        (ifindex == IFINDEX).then_some(&self.served)
    }

    fn frontend(&self, key: &FrontendKey) -> Option<&Frontend> {
        (key.port == 80).then_some(&self.frontend)
    }

    fn slot(&self, index: u32) -> Option<u32> {
        self.slots.get(index as usize).copied()
    }

    fn backend(&self, index: u32) -> Option<&Backend> {
        self.backends.get(index as usize)
    }

    fn prefix(&self, _: &[u8; 16]) -> u32 {
        if self.is_node { NODE } else { 0 }
    }

    fn service_settings(&self) -> Option<&ServiceSettings> {
        Some(&self.settings)
    }

    fn random(&self) -> u32 {
        self.random.set(self.random.get().wrapping_mul(0x9e37_79b1).wrapping_add(1));
        self.random.get()
    }
}

impl Ledger for Tables {
    type Shared = Atomics;

    fn now_ns(&self) -> u64 {
        self.now * 4_000_000
    }

    fn find(&self, key: &ConnKey) -> Option<&Cells> {
        self.entries.borrow().get(key).copied()
    }

    fn insert(&self, key: &ConnKey, fill: impl FnOnce(&mut ConnValue)) -> Result<(), Refusal> {
        if self.is_busy {
            return Err(Refusal::Busy);
        }
        let mut entries = self.entries.borrow_mut();
        if entries.contains_key(key) {
            return Err(Refusal::Exists);
        }
        if entries.len() >= self.capacity {
            return Err(Refusal::Full);
        }
        let mut value = ConnValue::ZERO;
        fill(&mut value);
        let cells = Cells::default();
        cells.write(&value);
        entries.insert(*key, Box::leak(Box::new(cells)));
        Ok(())
    }

    fn unattributed(&self, ifindex: u32, _: u32, cause: usize, packets: u64, bytes: u64) {
        assert_eq!(ifindex, IFINDEX);
        let count = &mut self.causes.borrow_mut()[cause];
        count.packets += packets;
        count.bytes += bytes - 14 * packets;
    }

    fn is_subject(&self, _: u32) -> bool {
        self.is_subject
    }

    fn reach(&self, _: &mut Query) -> u32 {
        if self.reaches { 0 } else { NO_ROUTE as u32 + 1 }
    }
}

/// What the test is over: both families.
trait Family: Bucket + Copy + Default {
    fn tuple_of(flow: u64) -> Self::Tuple;
}

/// Even flows are TCP, odd ones UDP.
fn link(flow: u64) -> u32 {
    IFINDEX << 9 | if flow.is_multiple_of(2) { 6 } else { 17 }
}

fn ports(flow: u64) -> u32 {
    let [a, b] = (1000 + flow as u16).to_be_bytes();
    u32::from_ne_bytes([a, b, 0, 80])
}

impl Family for Bucket4 {
    fn tuple_of(flow: u64) -> Tuple4 {
        let source = u32::from_ne_bytes([192, 0, 2, flow as u8]);
        let destination = u32::from_ne_bytes([198, 51, 100, 1]);
        Tuple4 { source, destination, ports: ports(flow), link: link(flow) }
    }
}

impl Family for Bucket6 {
    fn tuple_of(flow: u64) -> Tuple6 {
        Tuple6 {
            source: [0xfd, flow],
            destination: [0xfd, 1],
            ports: ports(flow),
            link: link(flow),
            pad: 0,
        }
    }
}

struct Cpu<B> {
    state: CpuState,
    work: Work,
    buckets: [B; BUCKETS],
}

struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % bound
    }
}

fn tables() -> Tables {
    let backend = |index: usize| Backend {
        address: [index as u8 + 1; 16],
        port: 8080,
        flags: CHOSEN | ALIVE,
        service: 9,
    };
    Tables {
        entries: RefCell::default(),
        capacity: 20,
        is_busy: false,
        reaches: true,
        now: 1000,
        causes: RefCell::new([Count { packets: 0, bytes: 0 }; CAUSES]),
        removed: StdCell::default(),
        backends: std::array::from_fn(backend),
        slots: std::array::from_fn(|slot| (slot % BACKENDS) as u32),
        frontend: Frontend {
            service: 9,
            flags: DSR | HASHED,
            affinity: 0,
            pad: 0,
            slots: [Slots { start: 0, count: SLOTS }; 2],
        },
        served: Served { flags: UPLINK, pad: 0, v4: [0; 16], v6: [0; 16] },
        settings: ServiceSettings {
            port_min: 1,
            port_max: 2,
            seed: 3,
            hairpin_v4: [0; 16],
            hairpin_v6: [0; 16],
        },
        is_subject: false,
        is_node: true,
        random: StdCell::new(1),
    }
}

/// What is counted anywhere.
fn counted<B: Bucket>(tables: &Tables, cpus: &[Cpu<B>]) -> (u64, u64) {
    let (mut packets, mut bytes) = tables.removed.get();
    for cells in tables.entries.borrow().values() {
        for hot in cells.read().dirs {
            packets += hot.packets;
            bytes += hot.bytes;
        }
    }
    for cause in *tables.causes.borrow() {
        packets += cause.packets;
        bytes += cause.bytes;
    }
    for bucket in cpus.iter().flat_map(|cpu| &cpu.buckets) {
        for index in 0..2 {
            if bucket.tuple(index).link() != 0 {
                let pending = bucket.tail(index).pending;
                packets += u64::from(pending >> 24);
                bytes += u64::from(pending & 0xff_ffff);
            }
        }
    }
    (packets, bytes)
}

/// A packet, as the XDP program treats it; whether it was sent.
fn packet<B: Family>(
    tables: &Tables,
    cpu: &mut Cpu<B>,
    settings: &CacheSettings,
    flow: u64,
    (flags, bytes): (u8, u32),
) -> bool {
    let tuple = B::tuple_of(flow);
    let Cpu { state, work, buckets } = cpu;
    state.misses += 1;
    let bucket = &mut buckets[tuple.hash(settings.seed) as usize % BUCKETS];
    (work.query.settings, work.query.tick) = (*settings, tables.now);
    let ends = tuple.ends();
    let (entry, _) = key::located(IFINDEX, 0, &ends);
    let known = tables.find(&entry).map(|cells| cells.read());
    let found = find(bucket, &tuple);
    let suffices = found < NO_WAY && suffices(bucket.tail(found), settings.generation, flags);
    let answer = if suffices {
        if !tables.reaches {
            return false;
        }
        found
    } else {
        let query = &mut work.query;
        (query.ends, query.ifindex, query.found) = (ends, IFINDEX, found);
        (query.flags, query.bytes) = (u32::from(flags), bytes);
        resolve(tables, work, state, bucket, &tuple)
    };
    if answer >= PASS {
        assert_eq!(find(bucket, &tuple), NO_WAY, "what is left to tc is in no way");
        return false;
    }
    let backend =
        if answer & NO_WAY != 0 { work.query.backend } else { bucket.tail(answer & 1).backend };
    let to = tables.backends[backend as usize];
    assert!(to.flags & ALIVE != 0 && to.flags & LOCAL == 0 && to.service == 9, "{to:?}");
    assert!(!tables.is_subject || suffices, "policy");
    assert!(tables.is_node || suffices, "the other node would not take it");
    if let Some(known) = known
        && known.retired == 0
    {
        assert_eq!((known.nat, known.stack_addr), (NAT_DSR, to.address), "the flow's own backend");
    }
    match answer {
        _ if answer & COUNTED != 0 => {}
        NO_WAY => {
            count_stateless(tables, work, state);
        }
        way => {
            if count(bucket.tail_mut(way & 1), flags, bytes, tables.now as u32) {
                settle(tables, work, state, bucket, way & 1 | LATER);
            }
        }
    }
    true
}

/// What user space, the tc programs and time do.
fn others(tables: &mut Tables, settings: &mut CacheSettings, chance: &mut Chance) {
    let mut generation = settings.generation;
    let any = |chance: &mut Chance| {
        let keys: Vec<_> = tables.entries.borrow().keys().copied().collect();
        (!keys.is_empty()).then(|| keys[chance.below(keys.len() as u64) as usize])
    };
    match chance.below(14) {
        0 => {
            // A backend dies, moves to this node, comes back, or its place is another's.
            let backend = &mut tables.backends[chance.below(BACKENDS as u64) as usize];
            backend.flags =
                [0, CHOSEN | ALIVE, CHOSEN | ALIVE | LOCAL, ALIVE][chance.below(4) as usize];
            if chance.below(3) == 0 {
                backend.address = [chance.below(200) as u8; 16];
            }
            generation += 1;
        }
        1 => {
            let slot = chance.below(u64::from(SLOTS)) as usize;
            tables.slots[slot] = chance.below(BACKENDS as u64) as u32;
            generation += 1;
        }
        2 => {
            if let Some(key) = any(chance) {
                tables.entries.borrow()[&key].retired.set(1);
            }
        }
        3 | 4 => {
            let retired = |cells: &Cells| cells.retired.get() != 0;
            let mut entries = tables.entries.borrow_mut();
            for cells in entries.values().filter(|cells| retired(cells)) {
                let (packets, bytes) = tables.removed.get();
                let sum =
                    cells.read().dirs.iter().fold((packets, bytes), |sum, hot| {
                        (sum.0 + hot.packets, sum.1 + hot.bytes)
                    });
                tables.removed.set(sum);
            }
            let before = entries.len();
            entries.retain(|_, cells| !retired(cells));
            // Another CPU may choose otherwise now.
            generation += u32::from(entries.len() != before);
        }
        5 => tables.is_busy = chance.below(4) == 0,
        6 => tables.reaches = chance.below(4) != 0,
        7 => tables.capacity = chance.below(FLOWS + 4) as usize,
        8 => tables.now += chance.below(600),
        9 => {
            let flags = [0, DSR, DSR | HASHED, DSR | HASHED, DSR];
            tables.frontend.flags = flags[chance.below(5) as usize];
            generation += 1;
        }
        10 => {
            tables.is_subject = chance.below(6) == 0;
            tables.is_node = chance.below(6) != 0;
            generation += 1;
        }
        11 => {
            // The tc programs translate a flow in another way.
            if let Some(key) = any(chance)
                && chance.below(4) == 0
            {
                let entries = tables.entries.borrow();
                entries[&key].judged.set(Judged::new(0, 0, NAT_OUTSIDE).0);
                generation += 1;
            }
        }
        12 => {
            if let Some(key) = any(chance) {
                tables.entries.borrow()[&key].dirs[1].packets.add(0);
            }
        }
        _ => tables.now += 1,
    }
    settings.generation = generation;
}

fn run<B: Family>(steps: u64, seed: u64) {
    let mut tables = tables();
    let mut chance = Chance(seed);
    let mut settings = CacheSettings {
        generation: 0xff_fff0,
        new_per_second: 40,
        second: 250,
        hop: 250,
        idle: 500,
        mask4: 0,
        mask6: 0,
        seed: 5,
    };
    let fresh =
        || Cpu { state: CpuState::default(), work: Work::NONE, buckets: [B::default(); BUCKETS] };
    let mut cpus = [fresh(), fresh()];
    let (mut sent, mut total) = (0, 0);
    for step in 0..steps {
        match chance.below(40) {
            0..3 => others(&mut tables, &mut settings, &mut chance),
            3 => {
                let cpu = &mut cpus[chance.below(2) as usize];
                let Cpu { state, work, buckets } = cpu;
                (work.query.settings, work.query.tick) = (settings, tables.now);
                let bucket = &mut buckets[chance.below(BUCKETS as u64) as usize];
                sweep(&tables, work, state, bucket);
            }
            _ => {
                let flow = chance.below(FLOWS);
                let flags = if !flow.is_multiple_of(2) {
                    0
                } else {
                    [2, 16, 16, 16, 16, 16, 17, 4][chance.below(8) as usize]
                };
                let bytes = 40 + chance.below(1400) as u32;
                let cpu = &mut cpus[chance.below(2) as usize];
                if packet(&tables, cpu, &settings, flow, (flags, bytes)) {
                    sent += 1;
                    total += u64::from(bytes);
                }
            }
        }
        if step.is_multiple_of(64) || step + 1 == steps {
            assert_eq!(counted(&tables, &cpus), (sent, total), "step {step}, seed {seed}");
        }
    }
    assert!(sent > steps / 50, "{sent} of {steps}");
    let hits: u64 = cpus.iter().map(|cpu| cpu.state.evictions + cpu.state.flushes).sum();
    assert!(hits > 0 && cpus[0].state.evictions > 0);
}

/// A million steps; ten with `WEIR_LONG`.
fn steps() -> u64 {
    if std::env::var_os("WEIR_LONG").is_some() { 10_000_000 } else { 1_000_000 }
}

#[test]
fn what_is_sent_is_counted_and_goes_where_its_flow_goes() {
    for seed in 1..=10 {
        run::<Bucket4>(steps() / 20, seed);
        run::<Bucket6>(steps() / 20, seed + 100);
    }
}

#[test]
fn a_flood_enters_no_more_than_it_may() {
    let tables = Tables { capacity: 1 << 20, ..tables() };
    let settings = CacheSettings { new_per_second: 10, second: 250, ..CacheSettings::default() };
    let mut cpu = Cpu {
        state: CpuState::default(),
        work: Work::NONE,
        buckets: [Bucket4::default(); BUCKETS],
    };
    for flow in 0..100 {
        assert!(packet(&tables, &mut cpu, &settings, flow * 2, (2, 46)));
    }
    assert_eq!(tables.entries.borrow().len(), 10);
    assert_eq!(tables.causes.borrow()[FLOOD], Count { packets: 90, bytes: 90 * 46 });
    assert_eq!(cpu.state.flood, 90);
    // The next second.
    let tables = Tables { now: 1250, ..tables };
    assert!(packet(&tables, &mut cpu, &settings, 998, (2, 46)));
    assert_eq!(tables.entries.borrow().len(), 11);
}

#[test]
fn a_flow_keeps_its_backend_when_slots_move() {
    let mut tables = tables();
    let mut settings =
        CacheSettings { new_per_second: 100, second: 250, idle: 1000, ..CacheSettings::default() };
    let mut cpus = [0, 1].map(|_| Cpu {
        state: CpuState::default(),
        work: Work::NONE,
        buckets: [Bucket4::default(); BUCKETS],
    });
    assert!(packet(&tables, &mut cpus[0], &settings, 2, (2, 46)));
    let first = cpus[0].work.query.backend;
    tables.slots = [(first + 1) % BACKENDS as u32; SLOTS as usize];
    settings.generation += 1;
    for cpu in &mut cpus {
        assert!(packet(&tables, cpu, &settings, 2, (16, 46)));
        assert_eq!(cpu.work.query.backend, first);
    }
    // New ones go where they shall.
    assert!(packet(&tables, &mut cpus[0], &settings, 4, (2, 46)));
    assert_ne!(cpus[0].work.query.backend, first);
    // It is gone: nobody sends there, the tc programs decide.
    tables.backends[first as usize].flags = 0;
    settings.generation += 1;
    assert!(!packet(&tables, &mut cpus[0], &settings, 2, (16, 46)));
}

#[test]
fn a_tunnel_is_counted_by_its_ends() {
    let tables = tables();
    let mut hop = Hop {
        ifindex: IFINDEX,
        source: [1; 16],
        destination: [2; 16],
        version: 6,
        ..Hop::default()
    };
    let mut work = Work::NONE;
    for _ in 0..5 {
        hop::add(&mut hop, 100, 1000);
    }
    assert_eq!(hop::settle(&tables, &mut work.batch, &mut hop, 1000, LATER), 0);
    let entries = tables.entries.borrow();
    let (key, cells) = entries.iter().next().unwrap();
    let hot = cells.read().dirs[0];
    assert_eq!((key.protocol(), hot.packets, hot.bytes, hot.last), (41, 5, 500, 1000));
    assert_eq!((key.ingress_ends()[0].0, hop.packets), ([2; 16], 0));
    // The checksum of RFC 1071, over a header that was made by hand.
    let (source, destination) =
        (u32::from_ne_bytes([192, 0, 2, 1]), u32::from_ne_bytes([10, 0, 0, 9]));
    let first = u32::from_ne_bytes([0x45, 0, 0, 60]);
    let sum = hop::checksum(hop::sum4(source, destination), first);
    let mut header = [0x45, 0, 0, 60, 0, 0, 0x40, 0, 64, 4, 0, 0, 192, 0, 2, 1, 10, 0, 0, 9];
    header[10..12].copy_from_slice(&sum.to_ne_bytes());
    let total: u32 =
        header.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    assert_eq!((total & 0xffff) + (total >> 16), 0xffff);
}
