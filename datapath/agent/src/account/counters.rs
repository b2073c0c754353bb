//! What belongs to no connection, per interval: the interfaces' own counters, what could not be
//! attributed, events that were lost.

use columns::Table;
use columns::rows::{CounterRow, LossRow};
use datapath_abi::event::{self, KINDS};
use datapath_abi::iface::{
    self, ARP, BUSY, CAUSES, Count, DENIED_FULL, FLOOD, IfaceCounters, MALFORMED, NO_MEMORY, OTHER,
    RETIRING, TABLE_FULL,
};
use datapath_abi::reported::{ReportedKey, TOTALS};
use model::{LossCause, LossStage};

use super::batch::Batch;
use super::ledger::{self, CAUSES_PER_ENTRY, Ledger, OWN};
use crate::host::LinkStats;
use crate::kernel::Attached;
use crate::metrics::Metrics;
use crate::view::View;

/// Causes that are losses of the accounting (ARP and other protocols are no flows at all, answers to refused packets
/// are the datapath's own).
const LOSSES: [(usize, LossCause); 8] = [
    (MALFORMED, LossCause::Malformed),
    (TABLE_FULL, LossCause::Full),
    (NO_MEMORY, LossCause::NoMemory),
    (BUSY, LossCause::Busy),
    (RETIRING, LossCause::Retiring),
    (DENIED_FULL, LossCause::Full),
    (DENIED_UNSENT, LossCause::Full),
    (FLOOD, LossCause::Full),
];

/// Refusals without room for their account at the egress hook: they never reached the interface, so they
/// are a loss, and no part of what its counters are compared with.
const DENIED_UNSENT: usize = CAUSES;
/// Counts of an interface: the causes of both hooks together, but for the one above.
const COUNTS: usize = CAUSES + 1;

/// Names of the causes, for metrics.
const CAUSE_NAMES: [&str; CAUSES] = [
    "arp",
    "other",
    "malformed",
    "table_full",
    "no_memory",
    "busy",
    "retiring",
    "denied_full",
    "answer",
    "flood",
];

/// Where rows of this kind are written.
pub(super) struct Counters<'a> {
    pub(super) view: &'a View,
    pub(super) metrics: &'a Metrics,
    pub(super) ledger: &'a Ledger,
    pub(super) batch: &'a mut Batch,
    pub(super) now: i64,
}

// === impl Counters ===

impl Counters<'_> {
    /// One interface. Without `own` counters (it went without a word) only the kernel half's count.
    pub(super) fn interface(
        &mut self,
        attached: &Attached,
        own: Option<LinkStats>,
        hooks: &[IfaceCounters; 2],
    ) {
        let own = own.map_or([0; TOTALS], |own| {
            let key = ledger::iface(attached.ifindex, OWN);
            self.ledger.stage(self.batch, key, own_totals(&own))
        });
        let causes = self.causes(attached.ifindex, hooks);
        let sum = causes[..CAUSES]
            .iter()
            .fold((0, 0), |(p, b), cause| (p + cause.packets, b + cause.bytes));
        if own == [0; TOTALS] && causes.iter().all(|count| count.packets == 0) {
            return;
        }
        // It may have been renamed since.
        let name = match self.view.ports.name(attached.ifindex) {
            "" => &attached.name,
            name => name,
        };
        let [rx_packets, rx_bytes, tx_packets, tx_bytes, rx_dropped, tx_dropped, ..] = own;
        CounterRow {
            time: self.now,
            cluster: &self.view.cluster,
            node: &self.view.node,
            interface: name,
            rx_bytes,
            rx_packets,
            tx_bytes,
            tx_packets,
            unattributed_packets: sum.0,
            unattributed_bytes: sum.1,
            arp_bytes: causes[ARP].bytes,
            arp_packets: causes[ARP].packets,
            other_bytes: causes[OTHER].bytes,
            other_packets: causes[OTHER].packets,
            malformed_bytes: causes[MALFORMED].bytes,
            malformed_packets: causes[MALFORMED].packets,
            table_full_bytes: causes[TABLE_FULL].bytes,
            table_full_packets: causes[TABLE_FULL].packets,
            link_header_bytes: Some(attached.link_header),
            rx_dropped,
            tx_dropped,
        }
        .push(self.batch.table(Table::Counters));
        for (cause, count) in CAUSE_NAMES.iter().zip(&causes) {
            self.metrics.unattributed(name, cause, count.bytes);
        }
        for (index, cause) in LOSSES {
            let Count { packets, bytes } = causes[index];
            self.loss(LossStage::Table, cause, packets, bytes, name);
        }
    }

    fn causes(&mut self, ifindex: u32, hooks: &[IfaceCounters; 2]) -> [Count; COUNTS] {
        let mut sums = [Count { packets: 0, bytes: 0 }; COUNTS];
        for (sum, (a, b)) in sums.iter_mut().zip(hooks[0].causes.iter().zip(&hooks[1].causes)) {
            *sum = Count { packets: a.packets + b.packets, bytes: a.bytes + b.bytes };
        }
        sums[DENIED_FULL] = hooks[iface::INGRESS as usize].causes[DENIED_FULL];
        sums[DENIED_UNSENT] = hooks[iface::EGRESS as usize].causes[DENIED_FULL];
        let mut deltas = sums;
        for (part, chunk) in deltas.chunks_mut(CAUSES_PER_ENTRY).enumerate() {
            let mut now = [0; TOTALS];
            for (i, count) in chunk.iter().enumerate() {
                now[i * 2] = count.packets;
                now[i * 2 + 1] = count.bytes;
            }
            let key = ledger::iface(ifindex, OWN + 1 + part as u64);
            let delta = self.ledger.stage(self.batch, key, now);
            for (i, count) in chunk.iter_mut().enumerate() {
                *count = Count { packets: delta[i * 2], bytes: delta[i * 2 + 1] };
            }
        }
        deltas
    }

    /// Events for which a ring had no room. Lost drop events are left to the drop counters, which
    /// know how many packets they stand for.
    pub(super) fn lost_events(&mut self, lost: [u64; KINDS]) {
        let mut now = [0; TOTALS];
        now[..KINDS].copy_from_slice(&lost);
        let delta = self.ledger.stage(self.batch, ledger::lost(), now);
        let conn = delta[event::CREATED as usize]
            + delta[event::STATE as usize]
            + delta[event::CLOSED as usize];
        self.metrics.lost_in_ring(delta.iter().sum());
        self.loss(LossStage::Ring, LossCause::Full, conn, 0, "connection events");
        let dns = delta[event::DNS as usize];
        self.loss(LossStage::Ring, LossCause::Full, dns, 0, "dns answers");
    }

    /// Drops that were counted and never told of.
    pub(super) fn untold_drops(&mut self, reason: &str, packets: u64, bytes: u64) {
        self.loss(LossStage::Ring, LossCause::Full, packets, bytes, &format!("drops: {reason}"));
    }

    fn loss(&mut self, stage: LossStage, cause: LossCause, events: u64, bytes: u64, detail: &str) {
        if events == 0 {
            return;
        }
        self.metrics.lost(stage.name(), cause.name(), events);
        LossRow {
            time: self.now,
            cluster: &self.view.cluster,
            node: &self.view.node,
            stage: stage.name(),
            cause: cause.name(),
            events,
            flows: 0,
            bytes,
            detail,
        }
        .push(self.batch.table(Table::Losses));
    }
}

/// An interface's own counters, in the order of their entry.
pub(super) fn own_totals(own: &LinkStats) -> [u64; TOTALS] {
    let LinkStats { rx_packets, rx_bytes, tx_packets, tx_bytes, rx_dropped, tx_dropped } = *own;
    [rx_packets, rx_bytes, tx_packets, tx_bytes, rx_dropped, tx_dropped, 0, 0]
}

/// Keys of an interface's entries.
pub(super) fn keys(ifindex: u32) -> Vec<ReportedKey> {
    let parts = 1 + COUNTS.div_ceil(CAUSES_PER_ENTRY) as u64;
    (OWN..parts).map(|part| ledger::iface(ifindex, part)).collect()
}
