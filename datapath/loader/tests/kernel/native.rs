//! The engine over tables in this process: what the kernel should do.

use std::cell::RefCell;
use std::collections::HashMap;

use datapath_abi::conn::{ConnKey, ConnValue};
use datapath_abi::fragment::{FragmentKey, FragmentPorts};
use datapath_abi::iface::CAUSES;
use datapath_abi::policy::{
    Class, DeniedCounter, DeniedKey, Interval, Peer, PolicySide, Rule, Subject,
};
use datapath_engine::atomics::Atomics;
use datapath_engine::cells::ConnCells;
use datapath_engine::policy::Tables as Asked;
use datapath_engine::{Enforcer, Frame, Host, Refusal, Services};

use crate::kernel::tables::Tables;

type Cells = ConnCells<Atomics>;

/// A host in memory, with no limits.
#[derive(Debug, Default)]
pub(crate) struct Native {
    pub(crate) tables: Tables,
    /// Leaked, so that references outlive the borrow of the table: a test's worth of memory.
    connections: RefCell<HashMap<ConnKey, &'static Cells>>,
    fragments: RefCell<HashMap<FragmentKey, FragmentPorts>>,
    pub(crate) denied: RefCell<HashMap<DeniedKey, DeniedCounter>>,
    pub(crate) causes: RefCell<[[u64; CAUSES]; 2]>,
}

// === impl Native ===

impl Native {
    pub(crate) fn connections(&self) -> HashMap<ConnKey, ConnValue> {
        self.connections.borrow().iter().map(|(key, cells)| (*key, cells.read())).collect()
    }
}

impl Host for Native {
    type Shared = Atomics;

    fn jiffies(&self) -> u64 {
        1
    }

    fn now_ns(&self) -> u64 {
        1
    }

    fn cookie(&self) -> u64 {
        0
    }

    fn find(&self, key: &ConnKey) -> Option<&Cells> {
        self.connections.borrow().get(key).copied()
    }

    fn insert(&self, key: &ConnKey, fill: impl FnOnce(&mut ConnValue)) -> Result<(), Refusal> {
        let mut value = ConnValue::ZERO;
        fill(&mut value);
        let cells = Cells::default();
        cells.write(&value);
        self.connections.borrow_mut().insert(*key, Box::leak(Box::new(cells)));
        Ok(())
    }

    fn unattributed(&self, frame: &Frame, cause: usize) {
        self.causes.borrow_mut()[frame.hook as usize][cause] += 1;
    }

    fn put_fragment(&self, key: &FragmentKey, ports: FragmentPorts) {
        self.fragments.borrow_mut().insert(*key, ports);
    }

    fn fragment(&self, key: &FragmentKey) -> Option<FragmentPorts> {
        self.fragments.borrow().get(key).copied()
    }

    fn event(&self, _: u32, _: u32, _: u64, _: u64, _: &ConnKey) {}

    fn dns(&self, _: u64, _: &ConnKey, _: u32, _: u32) {}
}

impl Asked for Native {
    fn peer(&self, address: &[u8; 16]) -> Option<Peer> {
        self.tables.peer(address)
    }

    fn side(&self, policy: u32, direction: usize) -> Option<&PolicySide> {
        self.tables.side(policy, direction)
    }

    fn interval(&self, index: u32) -> Option<Interval> {
        self.tables.interval(index)
    }

    fn rule(&self, index: u32) -> Option<Rule> {
        self.tables.rule(index)
    }

    fn class(&self, class: u32) -> Option<&Class> {
        self.tables.class(class)
    }

    fn flags(&self) -> u32 {
        self.tables.flags
    }
}

impl Services for Native {}

impl Enforcer for Native {
    fn revision(&self) -> u32 {
        self.tables.revision
    }

    fn subject(&self, ifindex: u32) -> Option<Subject> {
        self.tables.subjects.get(&ifindex).copied()
    }

    fn place(&self, _: u32) -> usize {
        0
    }

    fn refused(&self, key: &DeniedKey, packet: &DeniedCounter) -> bool {
        let mut denied = self.denied.borrow_mut();
        match denied.get_mut(key) {
            Some(counter) => {
                counter.packets += packet.packets;
                counter.bytes += packet.bytes;
                counter.attempts += packet.attempts;
                counter.peer_identity = packet.peer_identity;
                counter.source_port = packet.source_port;
            }
            None => drop(denied.insert(*key, *packet)),
        }
        true
    }

    fn audited(&self, _: &DeniedKey, _: &DeniedCounter) {}
}
