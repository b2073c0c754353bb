//! A host in memory: what the kernel would hold.

use std::cell::{Cell as StdCell, RefCell};
use std::collections::HashMap;

use datapath_abi::conn::{ConnKey, ConnValue};
use datapath_abi::fragment::{FragmentKey, FragmentPorts};
use datapath_abi::iface::{CAUSES, Count, EGRESS, INGRESS};
use datapath_engine::atomics::Atomics;
use datapath_engine::cells::ConnCells;
use datapath_engine::{Frame, Host, Refusal, Slice, observe};

type Cells = ConnCells<Atomics>;

/// Tables, clock and outlets.
pub(crate) struct Sim {
    /// Leaked, so that references outlive the borrow of the table: a test's worth of memory.
    connections: RefCell<HashMap<ConnKey, &'static Cells>>,
    fragments: RefCell<HashMap<FragmentKey, FragmentPorts>>,
    pub(crate) capacity: usize,
    pub(crate) refusal: Option<Refusal>,
    pub(crate) now: StdCell<u64>,
    pub(crate) causes: RefCell<[Count; CAUSES]>,
    pub(crate) events: RefCell<Vec<(u32, u32)>>,
    pub(crate) names: RefCell<Vec<(u32, u32)>>,
    pub(crate) cookie: StdCell<u64>,
    /// Frames and bytes that were observed.
    pub(crate) seen: StdCell<(u64, u64)>,
}

// === impl Sim ===

impl Sim {
    pub(crate) fn new() -> Self {
        Self {
            connections: RefCell::default(),
            fragments: RefCell::default(),
            capacity: 4096,
            refusal: None,
            now: StdCell::new(1_000_000_000),
            causes: RefCell::new([Count { packets: 0, bytes: 0 }; CAUSES]),
            events: RefCell::default(),
            names: RefCell::default(),
            cookie: StdCell::new(0),
            seen: StdCell::new((0, 0)),
        }
    }

    pub(crate) fn ingress(&self, frame: &[u8]) {
        self.observe(frame, INGRESS, 14, frame.len() as u32, 0);
    }

    pub(crate) fn egress(&self, frame: &[u8]) {
        self.observe(frame, EGRESS, 14, frame.len() as u32, 0);
    }

    pub(crate) fn observe(
        &self,
        bytes: &[u8],
        hook: u32,
        link_header: u32,
        length: u32,
        segments: u32,
    ) {
        let ethertype =
            if bytes.first().is_some_and(|byte| byte >> 4 == 6) { 0x86dd } else { 0x0800 };
        let frame = Frame { ifindex: 7, hook, length, segments, link_header, ethertype, outer: 0 };
        observe(&Slice(bytes), self, &frame);
        let (frames, total) = self.seen.get();
        self.seen.set((frames + 1, total + u64::from(length)));
    }

    /// Lets time pass.
    pub(crate) fn after_ms(&self, milliseconds: u64) {
        self.now.set(self.now.get() + milliseconds * 1_000_000);
    }

    pub(crate) fn connections(&self) -> Vec<(ConnKey, ConnValue)> {
        self.connections.borrow().iter().map(|(key, cells)| (*key, cells.read())).collect()
    }

    /// The only connection.
    pub(crate) fn one(&self) -> (ConnKey, ConnValue) {
        let connections = self.connections();
        assert_eq!(connections.len(), 1, "{connections:#?}");
        connections[0]
    }

    /// Removes a connection, as user space does once it is over.
    pub(crate) fn forget(&self, key: &ConnKey) {
        self.connections.borrow_mut().remove(key);
    }

    pub(crate) fn retire(&self) {
        use datapath_engine::cells::Cell;
        self.connections.borrow().values().for_each(|cells| cells.retired.set(1));
    }

    /// Every frame is counted once: in a connection or by a cause, to the byte. Holds where all
    /// frames were Ethernet, none shorter than its header.
    pub(crate) fn balance(&self) {
        assert_eq!(self.counted(), self.seen.get());
    }

    /// Frames and bytes in connections and by causes.
    pub(crate) fn counted(&self) -> (u64, u64) {
        let mut counted = (0, 0);
        for (_, value) in self.connections() {
            for hot in value.dirs {
                counted.0 += hot.packets;
                counted.1 += hot.bytes + 14 * hot.packets;
            }
        }
        for cause in *self.causes.borrow() {
            counted.0 += cause.packets;
            counted.1 += cause.bytes;
        }
        counted
    }
}

impl Host for Sim {
    type Shared = Atomics;

    fn jiffies(&self) -> u64 {
        self.now.get() / 4_000_000
    }

    fn now_ns(&self) -> u64 {
        self.now.get()
    }

    fn cookie(&self) -> u64 {
        self.cookie.get()
    }

    fn find(&self, key: &ConnKey) -> Option<&Cells> {
        self.connections.borrow().get(key).copied()
    }

    fn insert(&self, key: &ConnKey, fill: impl FnOnce(&mut ConnValue)) -> Result<(), Refusal> {
        let mut connections = self.connections.borrow_mut();
        if let Some(refusal) = self.refusal {
            return Err(refusal);
        }
        if connections.len() >= self.capacity {
            return Err(Refusal::Full);
        }
        let mut value = ConnValue::ZERO;
        fill(&mut value);
        let cells = Cells::default();
        cells.write(&value);
        assert_eq!(cells.read(), value);
        connections.insert(*key, Box::leak(Box::new(cells)));
        Ok(())
    }

    fn unattributed(&self, frame: &Frame, cause: usize) {
        let cause = &mut self.causes.borrow_mut()[cause];
        cause.packets += 1;
        cause.bytes += u64::from(frame.length);
    }

    fn put_fragment(&self, key: &FragmentKey, ports: FragmentPorts) {
        let mut fragments = self.fragments.borrow_mut();
        if fragments.len() > 8192 {
            fragments.clear();
        }
        fragments.insert(*key, ports);
    }

    fn fragment(&self, key: &FragmentKey) -> Option<FragmentPorts> {
        self.fragments.borrow().get(key).copied()
    }

    fn event(&self, kind: u32, detail: u32, _: u64, _: u64, _: &ConnKey) {
        let mut events = self.events.borrow_mut();
        if events.len() < 1 << 16 {
            events.push((kind, detail));
        }
    }

    fn dns(&self, _: u64, _: &ConnKey, offset: u32, length: u32) {
        let mut names = self.names.borrow_mut();
        if names.len() < 1 << 16 {
            names.push((offset, length));
        }
    }
}
