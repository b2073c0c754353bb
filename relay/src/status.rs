//! What is known of each peer now.

use std::sync::Arc;
use std::time::Duration;

use flowstore::{NodeLive, NodesView, Store};
use parking_lot::Mutex;
use stage::StopToken;
use wire::export::{Heartbeat, Hello, Position, StatusResponse};

use crate::Peer;
use crate::loss::now;
use crate::metrics::Metrics;
use crate::session::End;

/// How often the store is told which nodes there are.
const PERIOD: Duration = Duration::from_secs(1);

/// A node as the relay sees it. Times in nanoseconds since the epoch.
#[derive(Debug, Clone, Default)]
pub struct NodeStatus {
    /// Its name, or that of the peer until it has said its own.
    pub name: String,
    /// Address of the peer.
    pub uri: String,
    /// Whether the node has said who it is.
    pub known: bool,
    /// Whether a stream is open.
    pub connected: bool,
    /// Cluster it belongs to.
    pub cluster: String,
    /// The boot that its counters belong to.
    pub boot_id: String,
    /// Version of its agent.
    pub version: String,
    /// `observe`, `enforce` or `cni`.
    pub mode: String,
    /// Kernel release.
    pub kernel: String,
    /// Its own addresses.
    pub addresses: Vec<String>,
    /// When it was last heard of.
    pub last_seen: Option<i64>,
    /// How far what is durable lags behind what happened, milliseconds.
    pub lag_ms: Option<u64>,
    /// The latest time that what is durable is complete up to.
    pub complete_until: Option<i64>,
    /// Connections reported per second, as the agent counts.
    pub flows_per_second: f64,
    /// Bytes that wait at the node.
    pub spool_bytes: u64,
    /// Number of the newest batch at the node.
    pub newest: u64,
    /// Number of the newest durable batch.
    pub durable: Option<u64>,
    /// Batches made durable since the relay started.
    pub batches: u64,
    /// Rows made durable since the relay started.
    pub rows: u64,
    /// Why the store takes nothing from it.
    pub stalled: Option<String>,
    /// How the last stream ended, while there is none.
    pub error: Option<String>,
    /// What the datapath can and cannot do there.
    pub features: Vec<Feature>,
    /// Interfaces that are observed.
    pub interfaces: Vec<Interface>,
    /// What the agent itself complains about.
    pub warnings: Vec<String>,
}

/// Something the datapath can do on a node, or why not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Feature {
    /// Its name.
    pub name: String,
    /// Whether it is in use.
    pub on: bool,
    /// Why it is off, or what it uses.
    pub why: String,
}

/// Counters of an observed interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// How the programs are attached.
    pub attached_by: String,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Bytes that belong to no known connection.
    pub unattributed_bytes: u64,
    /// The pod behind it, `namespace/name`.
    pub pod: String,
}

/// Tells how the peers are doing.
#[derive(Debug, Clone)]
pub struct Handle(Arc<[Arc<Slot>]>);

/// All peers, as the relay holds them.
#[derive(Debug)]
pub(crate) struct Board(Handle);

/// One peer; written by its stream only.
#[derive(Debug)]
pub(crate) struct Slot(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    node: NodeStatus,
    phase: Phase,
    /// When the newest durable batch was closed at the node.
    closed_at: Option<i64>,
    /// How old it was when it became durable.
    age_ms: u64,
}

/// gRPC's names for the state of a connection, as Hubble's metric has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Phase {
    #[default]
    Idle,
    Connecting,
    Ready,
    TransientFailure,
    Shutdown,
}

// === impl Board ===

impl Board {
    pub(crate) fn new(peers: &[Peer]) -> Self {
        Self(Handle(peers.iter().map(|peer| Arc::new(Slot::new(peer))).collect()))
    }

    pub(crate) fn slot(&self, index: usize) -> Arc<Slot> {
        Arc::clone(&self.0.0[index])
    }

    pub(crate) fn handle(&self) -> Handle {
        self.0.clone()
    }
}

// === impl Handle ===

impl Handle {
    /// Every peer, now.
    pub fn nodes(&self) -> Vec<NodeStatus> {
        let now = now();
        self.0.iter().map(|slot| slot.0.lock().at(now)).collect()
    }

    fn phases(&self) -> impl Iterator<Item = Phase> {
        self.0.iter().map(|slot| slot.0.lock().phase)
    }
}

// === impl Slot ===

impl Slot {
    fn new(peer: &Peer) -> Self {
        let node = NodeStatus {
            name: peer.name().to_owned(),
            uri: peer.uri().to_owned(),
            ..NodeStatus::default()
        };
        Self(Mutex::new(State { node, ..State::default() }))
    }

    pub(crate) fn connecting(&self) {
        self.0.lock().phase = Phase::Connecting;
    }

    pub(crate) fn agent(&self, status: StatusResponse) {
        let mut state = self.0.lock();
        let node = &mut state.node;
        node.seen();
        node.known = true;
        node.name = status.node;
        node.cluster = status.cluster;
        node.boot_id = status.boot_id;
        node.version = status.version;
        node.mode = status.mode;
        node.kernel = status.kernel;
        node.addresses = status.addresses;
        node.warnings = status.warnings;
        node.flows_per_second = status.flows_per_second;
        node.features = status.features.into_iter().map(Feature::from).collect();
        node.interfaces = status.interfaces.into_iter().map(Interface::from).collect();
    }

    pub(crate) fn hello(&self, hello: &Hello, durable: Option<&Position>) {
        let mut state = self.0.lock();
        let durable = durable.filter(|position| position.boot_id == hello.boot_id);
        state.node.durable = durable.map(|position| position.sequence);
        state.phase = Phase::Ready;
        state.node.seen();
        state.node.connected = true;
        state.node.error = None;
        state.node.newest = hello.newest;
        tracing::info!(
            node = hello.node,
            uri = state.node.uri,
            version = hello.version,
            "connected"
        );
    }

    pub(crate) fn heartbeat(&self, heartbeat: &Heartbeat) {
        let mut state = self.0.lock();
        state.node.seen();
        state.node.newest = heartbeat.newest;
        state.node.spool_bytes = heartbeat.spool_bytes;
        state.node.flows_per_second = heartbeat.flows_per_second;
    }

    pub(crate) fn durable(&self, position: &Position, closed_at: i64, rows: u64) {
        let mut state = self.0.lock();
        state.node.seen();
        state.node.durable = Some(position.sequence);
        state.node.newest = state.node.newest.max(position.sequence);
        state.node.batches += 1;
        state.node.rows += rows;
        state.closed_at = Some(closed_at);
        state.age_ms = millis(now() - closed_at);
    }

    /// Why the store takes nothing, or that it does again.
    pub(crate) fn stalled(&self, why: Option<String>) {
        let mut state = self.0.lock();
        if state.node.stalled == why {
            return;
        }
        match &why {
            Some(why) => tracing::warn!(node = state.node.name, why, "ingest waits for the disk"),
            None => tracing::info!(node = state.node.name, "ingest goes on"),
        }
        state.node.stalled = why;
    }

    pub(crate) fn ended(&self, end: &End) {
        let mut state = self.0.lock();
        let stopped = matches!(end, End::Stopped);
        state.phase = if stopped { Phase::Shutdown } else { Phase::TransientFailure };
        state.node.connected = false;
        state.node.stalled = None;
        state.node.flows_per_second = 0.0;
        state.node.error = Some(end.to_string());
    }

    pub(crate) fn batches(&self) -> u64 {
        self.0.lock().node.batches
    }
}

// === impl State ===

impl State {
    fn at(&self, now: i64) -> NodeStatus {
        // Nothing is numbered from 0, so a node that has sent nothing yet is not behind.
        let caught_up = self.node.durable.unwrap_or(0) >= self.node.newest;
        let complete_until = if caught_up { self.node.last_seen } else { self.closed_at };
        let lag_ms = if caught_up && self.node.connected {
            self.closed_at.map(|_| self.age_ms)
        } else {
            // Behind, or away: what is missing is at least as old as the last that came.
            complete_until.map(|since| millis(now - since))
        };
        NodeStatus { lag_ms, complete_until, ..self.node.clone() }
    }
}

// === impl NodeStatus ===

impl NodeStatus {
    fn seen(&mut self) {
        self.last_seen = Some(now());
    }
}

// === impl Feature ===

impl From<wire::export::Feature> for Feature {
    fn from(feature: wire::export::Feature) -> Self {
        Self { name: feature.name, on: feature.on, why: feature.why }
    }
}

// === impl Interface ===

impl From<wire::export::Interface> for Interface {
    fn from(interface: wire::export::Interface) -> Self {
        Self {
            name: interface.name,
            attached_by: interface.attached_by,
            rx_bytes: interface.rx_bytes,
            tx_bytes: interface.tx_bytes,
            unattributed_bytes: interface.unattributed_bytes,
            pod: interface.pod,
        }
    }
}

// === impl Phase ===

impl Phase {
    const ALL: [Self; 5] =
        [Self::Idle, Self::Connecting, Self::Ready, Self::TransientFailure, Self::Shutdown];

    const fn name(self) -> &'static str {
        match self {
            Self::Idle => "IDLE",
            Self::Connecting => "CONNECTING",
            Self::Ready => "READY",
            Self::TransientFailure => "TRANSIENT_FAILURE",
            Self::Shutdown => "SHUTDOWN",
        }
    }
}

/// Keeps the store and the metrics up to date until `stop`.
pub(crate) async fn report(peers: Handle, store: Store, metrics: Metrics, stop: StopToken) {
    let mut tick = tokio::time::interval(PERIOD);
    loop {
        tokio::select! {
            () = stop.stopped() => return,
            _ = tick.tick() => {}
        }
        for phase in Phase::ALL {
            let count = peers.phases().filter(|other| *other == phase).count();
            let gauge = metrics.connection_status.with_label_values(&[phase.name()]);
            gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        let nodes = peers.nodes();
        for node in &nodes {
            if let Some(lag) = node.lag_ms {
                let seconds = Duration::from_millis(lag).as_secs_f64();
                metrics.lag_seconds.with_label_values(&[node.name.as_str()]).set(seconds);
            }
        }
        store.set_nodes(view(&nodes));
    }
}

/// What the store needs to know of them. A peer that never said its name is expected under the name
/// that it is configured by: something that should report does not.
fn view(nodes: &[NodeStatus]) -> NodesView {
    NodesView {
        expected: nodes.iter().map(|node| node.name.clone()).collect(),
        nodes: nodes
            .iter()
            .map(|node| NodeLive {
                name: node.name.clone(),
                last_time: node.complete_until,
                connected: node.connected,
                lag_ms: node.lag_ms.unwrap_or(0),
            })
            .collect(),
    }
}

fn millis(nanoseconds: i64) -> u64 {
    u64::try_from(nanoseconds).unwrap_or(0) / 1_000_000
}
