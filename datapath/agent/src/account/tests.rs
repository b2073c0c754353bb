//! The accounting against a kernel that loses events, fails and dies at any step: whatever happens,
//! the rows add up to the counters, and no batch is ever two.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use datapath_abi::conn::ConnKey;
use datapath_abi::drops::{DropCounter, DropEvent};
use proptest::prelude::*;

use super::*;
use crate::kernel::fake::{Fake, World};
use crate::process::Processes;
use crate::spool::{Disk, Fault, Limits, Op};
use crate::view::directory::Directory;
use crate::view::ports::Ports;

mod rows;

use rows::Relay;

const NETNS: u32 = 77;
const CAPACITY: usize = 12;

/// One agent's life, and what is left between lives.
struct Node {
    world: World,
    dir: tempfile::TempDir,
    relay: Relay,
    agent: Option<Agent>,
    io_fails: Arc<AtomicBool>,
    spool_bytes: u64,
    /// Rows of `flows` committed by the agents before this one.
    rows: u64,
}

struct Agent {
    accountant: Accountant,
    kernel: Fake,
    spool: Arc<Spool>,
}

fn key(tuple: u8, ifindex: u32) -> ConnKey {
    let address = |n: u8| [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, n];
    let protocol = if tuple.is_multiple_of(3) { 17 } else { 6 };
    ConnKey {
        low_addr: address(1),
        high_addr: address(2 + tuple),
        low_port: 1000 + u16::from(tuple),
        high_port: 80,
        link: ConnKey::link(ifindex, u32::from(tuple) & 1, protocol),
    }
}

// === impl Node ===

impl Node {
    fn new(capacity: usize, spool_bytes: u64) -> Self {
        let mut node = Self {
            world: World::new(capacity, &[1, 2]),
            dir: tempfile::tempdir().unwrap(),
            relay: Relay::default(),
            agent: None,
            io_fails: Arc::default(),
            spool_bytes,
            rows: 0,
        };
        node.start();
        node
    }

    fn spool(&self, dir: &Path) -> io::Result<Arc<Spool>> {
        let (world, io_fails) = (self.world.clone(), Arc::clone(&self.io_fails));
        let judge = move |op| {
            let torn = match op {
                Op::Append(length) => length / 2,
                _ => 0,
            };
            if !world.step() || io_fails.load(Ordering::Relaxed) {
                return Some(Fault { keep: torn });
            }
            None
        };
        let mut disk = Disk::default();
        disk.faults.0 = Some(Arc::new(judge));
        let limits = Limits { bytes: self.spool_bytes, segment: self.spool_bytes / 8 };
        let ledger = stage::Registry::new().ledger("spool", 0);
        Ok(Arc::new(Spool::open(dir, limits, disk, ledger)?))
    }

    /// Starts an agent; it may die of the fuse meanwhile.
    fn start(&mut self) {
        let Ok(spool) = self.spool(self.dir.path()) else { return };
        let kernel = Fake(self.world.clone());
        let mut view = View::new("default", "n1", Processes::Off);
        view.directory = Directory::new(&Default::default(), "n1", vec![]);
        view.ports = Ports::named(&[(1, "if1"), (2, "if2"), (9, "if9")]);
        let metrics = Arc::new(Metrics::register(&prometheus::Registry::new()).unwrap());
        let settings = Settings {
            capacity: self.world.0.lock().capacity as u64,
            timeouts: Timeouts::default(),
            netns: NETNS,
            kernel_boot: "kernel".into(),
        };
        let opened = Accountant::open(&kernel, Arc::clone(&spool), view, metrics, settings);
        if let Ok(accountant) = opened {
            self.agent = Some(Agent { accountant, kernel, spool });
        }
    }

    fn now(&self) -> i64 {
        self.world.now()
    }

    /// Whatever it returns, the agent goes on, as the real one does.
    fn flush(&mut self) {
        let now = self.now();
        if let Some(Agent { accountant, kernel, .. }) = &mut self.agent {
            let _ = accountant.flush(kernel, now);
        }
    }

    fn pass(&mut self) {
        let now = self.now();
        if let Some(Agent { accountant, kernel, .. }) = &mut self.agent {
            let _ = accountant.pass(kernel, &[], now);
        }
    }

    fn event(&mut self, item: Item) {
        if let Some(Agent { accountant, kernel, .. }) = &mut self.agent {
            accountant.take(kernel, item);
        }
    }

    fn drop(&mut self, event: &DropEvent) {
        if let Some(Agent { accountant, kernel, .. }) = &mut self.agent {
            accountant.take_drop(kernel, event);
        }
    }

    /// The agent is killed (if it has not died of the fuse), and another one starts.
    fn restart(&mut self) {
        self.kill();
        self.io_fails.store(false, Ordering::Relaxed);
        let mut state = self.world.0.lock();
        (state.fuse, state.dead, state.fail_write) = (None, false, None);
        drop(state);
        self.start();
        assert!(self.agent.is_some());
    }

    fn kill(&mut self) {
        self.rows += self.agent.take().map_or(0, |agent| agent.accountant.rows());
    }

    fn fuse(&mut self, changes: u32) {
        self.world.0.lock().fuse = Some(changes);
    }

    fn is_dead(&self) -> bool {
        self.world.0.lock().dead
    }

    fn deliver(&mut self, ack: bool) {
        if let Some(agent) = &self.agent {
            self.relay.read(&agent.spool, ack);
        }
    }

    /// Lets everything end and be reported.
    fn settle(&mut self) {
        self.io_fails.store(false, Ordering::Relaxed);
        self.restart();
        for _ in 0..4 {
            self.world.sleep(7 * 3600);
            self.pass();
            self.flush();
        }
        self.deliver(false);
        let state = self.world.0.lock();
        assert!(state.conns.is_empty(), "{:?}", state.conns);
        let left = state.reported.keys().filter(|key| key.kind == 0).count();
        assert_eq!(left, 0, "entries of connections that are gone");
    }
}

/// What is done to a node.
#[derive(Debug, Clone)]
enum Act {
    Packet {
        tuple: u8,
        ifindex: u32,
        direction: usize,
        bytes: u64,
        syn: bool,
        heard: bool,
    },
    Close {
        tuple: u8,
        ifindex: u32,
        heard: bool,
    },
    Flush,
    Pass,
    Sleep(u64),
    Deliver {
        ack: bool,
    },
    Restart,
    /// The next agent dies after so many changes; then another starts.
    Crash {
        changes: u32,
        then: u8,
    },
    /// Dies again while it starts.
    CrashAtStart {
        changes: u32,
    },
    IoFails(bool),
    WriteFails(usize),
    LostEvents(u64),
    SpoolLost,
}

fn act() -> impl Strategy<Value = Act> {
    let place = (0u8..8, 1u32..3);
    prop_oneof![
        12 => (place.clone(), 0usize..2, 40u64..1500, any::<bool>(), any::<bool>()).prop_map(
            |((tuple, ifindex), direction, bytes, syn, heard)| Act::Packet {
                tuple, ifindex, direction, bytes, syn, heard
            }
        ),
        4 => (place, any::<bool>())
            .prop_map(|((tuple, ifindex), heard)| Act::Close { tuple, ifindex, heard }),
        4 => Just(Act::Flush),
        4 => Just(Act::Pass),
        3 => (1u64..90).prop_map(Act::Sleep),
        2 => any::<bool>().prop_map(|ack| Act::Deliver { ack }),
        1 => Just(Act::Restart),
        4 => (0u32..60, 0u8..2).prop_map(|(changes, then)| Act::Crash { changes, then }),
        2 => (0u32..40).prop_map(|changes| Act::CrashAtStart { changes }),
        1 => any::<bool>().prop_map(Act::IoFails),
        1 => (0usize..5).prop_map(Act::WriteFails),
        1 => (1u64..5).prop_map(Act::LostEvents),
    ]
}

#[derive(Debug, Default)]
struct Truth {
    /// Packets, bytes, extra segments, extra bytes by tuple and interface.
    held: BTreeMap<(u8, u32), [u64; 4]>,
    /// Packets and bytes that no connection holds, by interface.
    unattributed: BTreeMap<u32, (u64, u64)>,
    lost_events: u64,
}

fn run(node: &mut Node, truth: &mut Truth, act: &Act) {
    match *act {
        Act::Packet { tuple, ifindex, direction, bytes, syn, heard } => {
            let key = key(tuple, ifindex);
            if node.world.packet(key, direction, bytes, syn) {
                let sum = truth.held.entry((tuple, ifindex)).or_default();
                let extra = if bytes % 7 == 0 { (2, 80) } else { (0, 0) };
                for (sum, more) in sum.iter_mut().zip([1, bytes, extra.0, extra.1]) {
                    *sum += more;
                }
            } else {
                let sum = truth.unattributed.entry(ifindex).or_default();
                *sum = (sum.0 + 1, sum.1 + bytes);
            }
            if heard {
                node.event(Item::Created(key));
            }
        }
        Act::Close { tuple, ifindex, heard } => {
            node.world.close(&key(tuple, ifindex));
            if heard {
                let now = node.now().cast_unsigned();
                node.event(Item::Closed(key(tuple, ifindex), now));
            }
        }
        Act::Flush => node.flush(),
        Act::Pass => node.pass(),
        Act::Sleep(seconds) => node.world.sleep(seconds),
        Act::Deliver { ack } => node.deliver(ack),
        Act::Restart => node.restart(),
        Act::Crash { changes, then } => {
            node.fuse(changes);
            if then == 0 {
                node.flush()
            } else {
                node.pass()
            }
            if node.is_dead() {
                node.restart();
            } else {
                node.world.0.lock().fuse = None;
            }
        }
        Act::CrashAtStart { changes } => {
            node.kill();
            node.fuse(changes);
            node.start();
            node.pass();
            node.restart();
        }
        Act::IoFails(fails) => node.io_fails.store(fails, Ordering::Relaxed),
        Act::WriteFails(entries) => node.world.0.lock().fail_write = Some(entries),
        Act::LostEvents(n) => {
            node.world.0.lock().lost[datapath_abi::event::CREATED as usize] += n;
            truth.lost_events += n;
        }
        Act::SpoolLost => {
            node.kill();
            std::fs::remove_dir_all(node.dir.path()).unwrap();
            node.restart();
        }
    }
    // The disk of a dead agent is not the next one's.
    if node.agent.is_none() {
        node.restart();
    }
}

fn balance(node: &Node, truth: &Truth) {
    assert_eq!(node.relay.flows(), truth.held, "rows and counters of connections");
    let unattributed: BTreeMap<u32, (u64, u64)> = node.relay.unattributed.clone();
    assert_eq!(unattributed, truth.unattributed, "rows and counters of interfaces");
    let lost = node.relay.losses.get(&("ring".into(), "full".into())).copied().unwrap_or_default();
    assert_eq!(lost.0, truth.lost_events, "lost events");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Σ rows = Σ counters, to the byte, per connection and interface, whatever is lost, fails or
    /// dies; and (boot, sequence) never names two batches.
    #[test]
    fn every_counter_is_reported_exactly_once(acts in prop::collection::vec(act(), 1..120)) {
        let mut node = Node::new(CAPACITY, 64 << 20);
        let mut truth = Truth::default();
        for act in &acts {
            run(&mut node, &mut truth, act);
        }
        node.settle();
        balance(&node, &truth);
    }

    /// With a spool too small for what happens while the relay is away: what is missing from the
    /// rows is what `losses` says.
    #[test]
    fn what_the_spool_evicts_is_what_losses_say(acts in prop::collection::vec(act(), 60..200)) {
        let mut node = Node::new(CAPACITY, 24_000);
        let mut truth = Truth::default();
        for act in acts.iter().filter(|act| !matches!(act, Act::Deliver { .. })) {
            run(&mut node, &mut truth, act);
        }
        node.settle();
        let spool = &node.agent.as_ref().unwrap().spool;
        let evicted = spool.state().evicted;
        // Batches are numbered without gaps, so those missing are the first ones.
        prop_assert_eq!(node.relay.first_sequence() - 1, evicted.batches);
        let committed = node.rows + node.agent.as_ref().unwrap().accountant.rows();
        prop_assert_eq!(committed, node.relay.rows.len() as u64 + evicted.flows);
        let told = node.relay.losses.get(&("spool".into(), "evicted".into()));
        let told = told.map_or(0, |(batches, _)| *batches);
        prop_assert_eq!(told + spool.unreported().batches, evicted.batches);
    }
}

#[test]
fn dying_before_every_single_change_of_one_pass() {
    for changes in 0..200 {
        let mut node = Node::new(100, 64 << 20);
        let mut truth = Truth::default();
        let packet = |tuple, syn| Act::Packet {
            tuple,
            ifindex: 1,
            direction: 0,
            bytes: 700,
            syn,
            heard: true,
        };
        for tuple in 0..8 {
            run(&mut node, &mut truth, &packet(tuple, true));
        }
        node.pass();
        for tuple in 0..8 {
            run(&mut node, &mut truth, &Act::Close { tuple, ifindex: 1, heard: true });
            run(&mut node, &mut truth, &packet(tuple, tuple % 2 == 0));
        }
        node.world.sleep(6);
        node.fuse(changes);
        node.flush();
        node.pass();
        let survived = !node.is_dead();
        // What comes between two agents is counted in whatever the first one left.
        for tuple in 0..8 {
            run_kernel_only(&node, &mut truth, tuple);
        }
        node.settle();
        balance(&node, &truth);
        if survived {
            assert!(changes > 15, "the fuse was never reached");
            return;
        }
    }
    panic!("a pass of eight connections makes fewer changes");
}

fn run_kernel_only(node: &Node, truth: &mut Truth, tuple: u8) {
    if node.world.packet(key(tuple, 1), 1, 100, false) {
        let sum = truth.held.entry((tuple, 1)).or_default();
        *sum = [sum[0] + 1, sum[1] + 100, sum[2], sum[3]];
    } else {
        let sum = truth.unattributed.entry(1).or_default();
        *sum = (sum.0 + 1, sum.1 + 100);
    }
}

#[test]
fn a_lost_spool_loses_what_was_in_it_and_repeats_nothing() {
    let mut node = Node::new(100, 64 << 20);
    let mut truth = Truth::default();
    let packet =
        Act::Packet { tuple: 1, ifindex: 1, direction: 0, bytes: 100, syn: true, heard: true };
    run(&mut node, &mut truth, &packet);
    node.pass();
    node.deliver(true);
    let first = node.relay.boots();
    run(&mut node, &mut truth, &Act::SpoolLost);
    run(&mut node, &mut truth, &packet);
    node.settle();
    balance(&node, &truth);
    assert_eq!((first.len(), node.relay.boots().len()), (1, 2));
}

#[test]
fn closed_connections_get_one_last_row_soon_after() {
    let mut node = Node::new(100, 64 << 20);
    let key = key(1, 1);
    node.world.packet(key, 0, 60, true);
    node.event(Item::Created(key));
    node.flush();
    node.world.close(&key);
    let closed_at = node.now().cast_unsigned();
    node.event(Item::Closed(key, closed_at));
    node.flush();
    node.world.sleep(4);
    node.flush();
    node.deliver(false);
    assert_eq!(node.relay.closings(), [(0, false, String::new())]);
    node.world.sleep(2);
    node.flush();
    node.deliver(false);
    let expected = [(0, false, String::new()), (1, true, "fin".to_owned())];
    assert_eq!(node.relay.closings(), expected);
    assert!(node.world.0.lock().conns.is_empty());
}

#[test]
fn a_reused_tuple_is_two_connections() {
    let mut node = Node::new(100, 64 << 20);
    let key = key(1, 1);
    node.world.packet(key, 0, 60, true);
    node.flush();
    node.pass();
    node.world.packet(key, 1, 50, false);
    node.world.close(&key);
    node.world.packet(key, 0, 70, true);
    node.pass();
    node.deliver(false);
    let rows: Vec<_> = node.relay.rows.iter().map(|row| (row.seq, row.closed, row.bytes)).collect();
    assert_eq!(rows, [(0, false, 60), (1, true, 50), (0, false, 70)]);
    assert_eq!(node.relay.rows[0].flow_id, node.relay.rows[1].flow_id);
    assert_ne!(node.relay.rows[0].flow_id, node.relay.rows[2].flow_id);
}

#[test]
fn while_the_table_is_nearly_full_the_idlest_go() {
    let mut node = Node::new(10, 64 << 20);
    for tuple in 0..10 {
        // Odd protocols first: all of these are TCP or UDP that is not yet due.
        node.world.packet(key(tuple, 1), 0, 100, false);
        node.world.sleep(1);
    }
    node.pass();
    assert_eq!(node.world.0.lock().conns.len(), 10);
    // Visits that come twice may make it fewer at a time.
    node.pass();
    node.pass();
    assert_eq!(node.world.0.lock().conns.len(), 8);
    assert!(!node.world.0.lock().conns.contains_key(&key(0, 1)));
    node.deliver(false);
    let reasons: Vec<_> = node.relay.closings().into_iter().map(|(.., reason)| reason).collect();
    assert_eq!(reasons.iter().filter(|reason| *reason == "pressure").count(), 2);
}

#[test]
fn drops_are_rows_or_losses() {
    let mut node = Node::new(100, 64 << 20);
    let drop = |netns, reason| DropEvent {
        kind: datapath_abi::event::DROP,
        reason,
        time_ns: 5,
        location: 1,
        source: key(1, 1).low_addr,
        destination: key(1, 1).high_addr,
        source_port: 1,
        destination_port: 2,
        ifindex: 1,
        netns,
        bytes: 100,
        ethertype: 0x0800,
        protocol: 17,
        pad: [0; 5],
    };
    let count = |node: &Node, packets| {
        let counter = DropCounter { packets, bytes: packets * 100 };
        node.world.0.lock().drops.insert((NETNS, 3), counter);
    };
    // Ten drops, of which six are told of; and one of another namespace.
    count(&node, 10);
    for _ in 0..6 {
        node.drop(&drop(NETNS, 3));
    }
    node.drop(&drop(NETNS + 1, 3));
    node.flush();
    node.pass();
    node.deliver(false);
    assert_eq!(node.relay.drops, 6);
    assert!(node.relay.losses.is_empty(), "the others may still be on their way");
    node.restart();
    node.pass();
    node.pass();
    node.deliver(false);
    assert_eq!(node.relay.losses[&("ring".into(), "full".into())], (4, 400));
    // Told of once.
    node.pass();
    node.restart();
    node.pass();
    node.pass();
    node.deliver(false);
    assert_eq!(node.relay.losses[&("ring".into(), "full".into())], (4, 400));
}

#[test]
fn interfaces_count_from_where_they_were_attached() {
    let mut node = Node::new(100, 64 << 20);
    let stats = |n: u64| LinkStats {
        rx_packets: n,
        rx_bytes: n * 100,
        tx_packets: n,
        tx_bytes: n * 10,
        ..LinkStats::default()
    };
    let link = |n| Link { index: 9, name: "if9".into(), stats: stats(n), ..Link::default() };
    let agent = node.agent.as_mut().unwrap();
    let mut now = || Ok(Some(stats(50)));
    agent.accountant.attach(&mut agent.kernel, &link(40), &mut now).unwrap();
    agent.accountant.pass(&agent.kernel, &[link(53)], 1).unwrap();
    node.restart();
    let agent = node.agent.as_mut().unwrap();
    agent.accountant.adopt(&agent.kernel, &link(60)).unwrap();
    agent.accountant.pass(&agent.kernel, &[link(60)], 2).unwrap();
    agent.accountant.end(&mut agent.kernel, 9, Some(stats(61))).unwrap();
    agent.accountant.report_ended(&mut agent.kernel, 3).unwrap();
    node.deliver(false);
    assert_eq!(node.relay.own["if9"], [11, 1100, 11, 110]);
    let state = node.world.0.lock();
    assert!(state.reported.keys().all(|key| key.link != 9), "forgotten");
}
