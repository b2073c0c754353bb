//! A kernel half for tests: it counts as the real one does, outlives the agent, and can die with it
//! before any change that an agent makes.

use std::sync::Arc;

use datapath_abi::conn::{
    ConnKey, ConnValue, STATE_CLOSED, STATE_ESTABLISHED, STATE_NONE, STATE_SYN_SENT,
};
use datapath_abi::drops::{DropCounter, DropKey};
use datapath_abi::event::KINDS;
use datapath_abi::iface::{self, Count, IfaceCounters};
use datapath_abi::policy::{DeniedCounter, DeniedKey, Origin};
use datapath_abi::process::Process;
use datapath_abi::reported::{Reported, ReportedKey};
use datapath_loader::{Connections, PolicyTables};
use hashbrown::HashMap;
use parking_lot::Mutex;

use super::{Attached, Event, Events, Feature, Kernel, KernelError, MapUse, Result};

/// The machine: what is pinned, and what passes.
#[derive(Debug, Clone, Default)]
pub(crate) struct World(pub(crate) Arc<Mutex<State>>);

/// Its state.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) conns: HashMap<ConnKey, ConnValue>,
    pub(crate) reported: HashMap<ReportedKey, Reported>,
    pub(crate) ifaces: HashMap<u32, [IfaceCounters; 2]>,
    pub(crate) attached: Vec<Attached>,
    pub(crate) lost: [u64; KINDS],
    pub(crate) denied: HashMap<DeniedKey, DeniedCounter>,
    /// By namespace and reason.
    pub(crate) drops: HashMap<(u32, u32), DropCounter>,
    /// Nanoseconds since boot, and since the epoch.
    pub(crate) now: u64,
    pub(crate) capacity: usize,
    /// Changes that the agent may still make before it dies.
    pub(crate) fuse: Option<u32>,
    pub(crate) dead: bool,
    /// Entries of the next write of reported totals that succeed, before one fails.
    pub(crate) fail_write: Option<usize>,
}

/// The kernel half as one agent sees it.
#[derive(Debug)]
pub(crate) struct Fake(pub(crate) World);

struct Silence;

const EMPTY: IfaceCounters =
    IfaceCounters { causes: [Count { packets: 0, bytes: 0 }; iface::CAUSES] };

// === impl World ===

impl World {
    pub(crate) fn new(capacity: usize, interfaces: &[u32]) -> Self {
        let world = Self::default();
        {
            let mut state = world.0.lock();
            state.capacity = capacity;
            state.now = 1_000_000_000;
            for ifindex in interfaces {
                state.attach(*ifindex);
            }
        }
        world
    }

    /// Whether a change may be made: `false` once the agent is dead.
    pub(crate) fn step(&self) -> bool {
        self.0.lock().step()
    }

    /// A packet from one end to the other; returns whether a connection holds it.
    pub(crate) fn packet(&self, key: ConnKey, direction: usize, bytes: u64, syn: bool) -> bool {
        let mut state = self.0.lock();
        state.now += 1000;
        let (now, full) = (state.now, state.conns.len() >= state.capacity);
        let refused = match state.conns.get_mut(&key) {
            Some(value) if value.retired != 0 => Some(iface::RETIRING),
            Some(value) => {
                if syn && value.state >= STATE_CLOSED {
                    reuse(value, direction, now);
                }
                None
            }
            None if full => Some(iface::TABLE_FULL),
            None => {
                let state_of = match (key.protocol(), syn) {
                    (6, true) => STATE_SYN_SENT,
                    (6, false) => STATE_ESTABLISHED,
                    _ => STATE_NONE,
                };
                let value = ConnValue {
                    id: now,
                    client: direction as u8,
                    state: state_of,
                    initial_seq: now as u32,
                    ..ConnValue::ZERO
                };
                state.conns.insert(key, value);
                None
            }
        };
        if let Some(cause) = refused {
            let count =
                &mut state.ifaces.entry(key.ifindex()).or_insert([EMPTY; 2])[0].causes[cause];
            count.packets += 1;
            count.bytes += bytes;
            return false;
        }
        let value = state.conns.get_mut(&key).expect("it was made above");
        let hot = &mut value.dirs[direction];
        hot.packets += 1;
        hot.bytes += bytes;
        hot.last = now;
        if bytes.is_multiple_of(7) {
            value.more[direction].extra_segments += 2;
            value.more[direction].extra_bytes += 80;
        }
        true
    }

    /// The connection is closed.
    pub(crate) fn close(&self, key: &ConnKey) {
        if let Some(value) = self.0.lock().conns.get_mut(key)
            && key.protocol() == 6
            && value.retired == 0
        {
            value.state = STATE_CLOSED;
        }
    }

    pub(crate) fn sleep(&self, seconds: u64) {
        self.0.lock().now += seconds * 1_000_000_000;
    }

    pub(crate) fn now(&self) -> i64 {
        self.0.lock().now.cast_signed()
    }
}

fn reuse(value: &mut ConnValue, direction: usize, now: u64) {
    for (before, (hot, more)) in value.before.iter_mut().zip(value.dirs.iter().zip(&value.more)) {
        before.packets = hot.packets;
        before.bytes = hot.bytes;
        before.extra_segments = more.extra_segments;
        before.extra_bytes = more.extra_bytes;
    }
    value.id = now;
    value.reuses += 1;
    value.client = direction as u8;
    value.state = STATE_SYN_SENT;
    value.initial_seq = now as u32;
}

// === impl State ===

impl State {
    fn attach(&mut self, ifindex: u32) -> Attached {
        let attached =
            Attached { ifindex, name: format!("if{ifindex}"), by: "fake", link_header: 14 };
        self.attached.push(attached.clone());
        self.ifaces.entry(ifindex).or_insert([EMPTY; 2]);
        attached
    }

    fn step(&mut self) -> bool {
        if let Some(left) = &mut self.fuse {
            match left.checked_sub(1) {
                Some(less) => *left = less,
                None => self.dead = true,
            }
        }
        !self.dead
    }

    fn change(&mut self) -> Result<()> {
        if self.step() { Ok(()) } else { Err(KernelError::new("change", "dead")) }
    }

    fn alive(&self) -> Result<()> {
        if self.dead { Err(KernelError::new("read", "dead")) } else { Ok(()) }
    }
}

// === impl Fake ===

impl Kernel for Fake {
    fn adopted(&self) -> bool {
        true
    }

    fn features(&self) -> Vec<Feature> {
        vec![Feature { name: "fake".into(), on: true, why: "a test".into() }]
    }

    fn attach(&mut self, name: &str) -> Result<Attached> {
        let ifindex = name.trim_start_matches("if").parse();
        let ifindex = ifindex.map_err(|_| KernelError::new("attach", "no such interface"))?;
        let mut state = self.0.0.lock();
        state.change()?;
        Ok(state.attach(ifindex))
    }

    fn detach(&mut self, ifindex: u32) -> Result<()> {
        let mut state = self.0.0.lock();
        state.change()?;
        state.attached.retain(|attached| attached.ifindex != ifindex);
        Ok(())
    }

    fn forget(&mut self, ifindex: u32) -> Result<()> {
        let mut state = self.0.0.lock();
        state.change()?;
        state.ifaces.remove(&ifindex);
        Ok(())
    }

    fn attached(&self) -> Vec<Attached> {
        self.0.0.lock().attached.clone()
    }

    fn events(&mut self) -> Result<Box<dyn Events>> {
        Ok(Box::new(Silence))
    }

    fn walk(&self, each: &mut dyn FnMut(&ConnKey, &ConnValue)) -> Result<u64> {
        let entries: Vec<_> = {
            let state = self.0.0.lock();
            state.alive()?;
            state.conns.iter().map(|(key, value)| (*key, *value)).collect()
        };
        for (i, (key, value)) in entries.iter().enumerate() {
            each(key, value);
            // Some are seen twice.
            if i % 3 == 0 {
                each(key, value);
            }
        }
        Ok(entries.len() as u64)
    }

    fn get(&self, key: &ConnKey) -> Result<Option<ConnValue>> {
        let state = self.0.0.lock();
        state.alive()?;
        Ok(state.conns.get(key).copied())
    }

    fn retire(&self, keys: &[(ConnKey, u64)]) -> Result<Vec<(ConnKey, ConnValue)>> {
        let mut state = self.0.0.lock();
        let mut retired = Vec::new();
        for (key, id) in keys {
            state.change()?;
            if let Some(value) = state.conns.get_mut(key).filter(|value| value.id == *id) {
                value.retired = 1;
                retired.push((*key, *value));
            }
        }
        Ok(retired)
    }

    fn remove(&self, keys: &[ConnKey], _: &[(ConnKey, ConnValue)]) -> Result<()> {
        let mut state = self.0.0.lock();
        for key in keys {
            state.change()?;
            state.conns.remove(key);
        }
        Ok(())
    }

    fn interface(&self, ifindex: u32) -> Result<[IfaceCounters; 2]> {
        let state = self.0.0.lock();
        state.alive()?;
        Ok(state.ifaces.get(&ifindex).copied().unwrap_or([EMPTY; 2]))
    }

    fn lost_events(&self) -> Result<[u64; KINDS]> {
        Ok(self.0.0.lock().lost)
    }

    fn drops(&self) -> Result<Vec<(DropKey, DropCounter)>> {
        let state = self.0.0.lock();
        let drops = state.drops.iter();
        Ok(drops
            .map(|((netns, reason), drop)| (DropKey { netns: *netns, reason: *reason }, *drop))
            .collect())
    }

    fn policy(&self) -> Option<(PolicyTables, Connections)> {
        None
    }

    fn denied(&self, each: &mut dyn FnMut(&DeniedKey, &DeniedCounter)) -> Result<()> {
        let state = self.0.0.lock();
        state.alive()?;
        state.denied.iter().for_each(|(key, counter)| each(key, counter));
        Ok(())
    }

    fn retire_denied(&self, keys: &[DeniedKey]) -> Result<Vec<(DeniedKey, DeniedCounter)>> {
        let mut state = self.0.0.lock();
        let mut retired = Vec::new();
        for key in keys {
            state.change()?;
            if let Some(counter) = state.denied.get_mut(key) {
                counter.retired = 1;
                retired.push((*key, *counter));
            }
        }
        Ok(retired)
    }

    fn remove_denied(&self, keys: &[DeniedKey]) -> Result<()> {
        let mut state = self.0.0.lock();
        for key in keys {
            state.change()?;
            state.denied.remove(key);
        }
        Ok(())
    }

    fn origin(&self, _: u32) -> Option<Origin> {
        None
    }

    fn process(&self, _: u64) -> Option<Process> {
        None
    }

    fn write_reported(&self, entries: &[(ReportedKey, Reported)]) -> Result<()> {
        let mut state = self.0.0.lock();
        let fail = state.fail_write.take();
        for (i, (key, entry)) in entries.iter().enumerate() {
            state.change()?;
            if fail == Some(i) {
                return Err(KernelError::new("write", "injected"));
            }
            state.reported.insert(*key, *entry);
        }
        Ok(())
    }

    fn walk_reported(&self, each: &mut dyn FnMut(&ReportedKey, &Reported)) -> Result<()> {
        let state = self.0.0.lock();
        state.alive()?;
        state.reported.iter().for_each(|(key, entry)| each(key, entry));
        Ok(())
    }

    fn remove_reported(&self, keys: &[ReportedKey]) -> Result<()> {
        let mut state = self.0.0.lock();
        for key in keys {
            state.change()?;
            state.reported.remove(key);
        }
        Ok(())
    }

    fn drop_reason(&self, reason: u32) -> Option<String> {
        Some(format!("REASON_{reason}"))
    }

    fn symbol(&self, _: u64) -> Option<String> {
        Some("a_function".into())
    }

    fn now(&self) -> i64 {
        self.0.now()
    }

    fn epoch_from_ktime(&self, ns: u64) -> i64 {
        ns.cast_signed()
    }

    fn epoch_from_jiffies(&self, jiffies: u64) -> i64 {
        jiffies.cast_signed()
    }

    fn answers(&self) -> Result<[u64; 3]> {
        Ok([0; 3])
    }

    fn maps(&self) -> Vec<MapUse> {
        Vec::new()
    }

    fn dismantle(self: Box<Self>) -> Result<()> {
        let mut state = self.0.0.lock();
        *state = State { now: state.now, capacity: state.capacity, ..State::default() };
        Ok(())
    }
}

impl Events for Silence {
    fn drain(&mut self, _: &mut dyn FnMut(Event<'_>)) -> usize {
        0
    }
}
