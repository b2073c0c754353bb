//! Rows that come from events and not from counters. They wait here until a batch with them is
//! committed. Bounded: past that they are lost, and counted as that.

use columns::Table;
use columns::rows::{DropRow, L7Row, LossRow};
use datapath_abi::drops::DropEvent;
use hashbrown::HashMap;
use model::{FlowId, LossCause, LossStage, Protocol};

use super::batch::Batch;
use super::ledger::{self, Ledger};
use crate::dimensions::DimensionRow;
use crate::drops;
use crate::kernel::Kernel;
use crate::metrics::Metrics;
use crate::names::dns;
use crate::view::{self, Ends, View};

/// Different drops, and DNS answers, that may wait. A batch goes out twice a second, so this is
/// reached only in a flood or while the disk is full.
const MAX_WAITING: usize = 16_384;

/// What waits.
#[derive(Debug, Default)]
pub(super) struct Pending {
    drops: HashMap<DropKind, Dropped>,
    answers: Vec<(Ends, i64, dns::Answer)>,
    dimensions: Vec<DimensionRow>,
    losses: HashMap<(LossStage, LossCause, &'static str), Lost>,
}

/// Drops that are one row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct DropKind {
    source: [u8; 16],
    destination: [u8; 16],
    ports: (u16, u16),
    ifindex: u32,
    reason: u32,
    location: u64,
    ethertype: u16,
    protocol: u8,
    netns: u32,
    own: bool,
}

#[derive(Debug, Clone, Copy)]
struct Dropped {
    time: i64,
    packets: u64,
    bytes: u64,
    flow: Option<FlowId>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Lost {
    events: u64,
    flows: u64,
    bytes: u64,
}

// === impl Pending ===

impl Pending {
    pub(super) fn is_empty(&self) -> bool {
        self.drops.is_empty()
            && self.answers.is_empty()
            && self.dimensions.is_empty()
            && self.losses.is_empty()
    }

    pub(super) fn clear(&mut self) {
        self.drops.clear();
        self.answers.clear();
        self.dimensions.clear();
        self.losses.clear();
    }

    /// Notes a dropped packet; `own` says that Weir's policy did it. One for which there is no room is not lost for good: the kernel's
    /// counter of its reason has it.
    pub(super) fn drop(&mut self, event: &DropEvent, time: i64, flow: Option<FlowId>, own: bool) {
        let kind = DropKind {
            source: event.source,
            destination: event.destination,
            ports: (event.source_port, event.destination_port),
            ifindex: event.ifindex,
            reason: event.reason,
            location: event.location,
            ethertype: event.ethertype,
            protocol: event.protocol,
            netns: event.netns,
            own,
        };
        if self.drops.len() >= MAX_WAITING && !self.drops.contains_key(&kind) {
            return;
        }
        let fresh = Dropped { time, packets: 0, bytes: 0, flow };
        let dropped = self.drops.entry(kind).or_insert(fresh);
        dropped.packets += 1;
        dropped.bytes += u64::from(event.bytes);
    }

    pub(super) fn answer(&mut self, ends: Ends, time: i64, answer: dns::Answer) {
        if self.answers.len() < MAX_WAITING {
            self.answers.push((ends, time, answer));
        } else {
            self.lose(LossStage::AgentQueue, LossCause::Full, "dns answers", 1, 0, 0);
        }
    }

    pub(super) fn dimensions(&mut self, rows: impl IntoIterator<Item = DimensionRow>) {
        self.dimensions.extend(rows);
    }

    pub(super) fn lose(
        &mut self,
        stage: LossStage,
        cause: LossCause,
        detail: &'static str,
        events: u64,
        flows: u64,
        bytes: u64,
    ) {
        if events == 0 {
            return;
        }
        let lost = self.losses.entry((stage, cause, detail)).or_default();
        lost.events += events;
        lost.flows += flows;
        lost.bytes += bytes;
    }

    /// Puts everything into `batch`.
    pub(super) fn write(&self, out: &mut Out<'_>) {
        if self.is_empty() {
            return;
        }
        out.batch.pending = true;
        for (kind, dropped) in &self.drops {
            out.drop(kind, dropped);
        }
        for (ends, time, answer) in &self.answers {
            out.answer(ends, *time, answer);
        }
        for row in &self.dimensions {
            row.push(&out.view.cluster, &out.view.node, out.batch.table(row.table()));
        }
        for ((stage, cause, detail), lost) in &self.losses {
            out.loss(*stage, *cause, detail, *lost);
        }
    }

    /// Packets and bytes that wait, of drops of this namespace, by reason.
    pub(super) fn dropped(&self, netns: u32) -> HashMap<u32, (u64, u64)> {
        let mut sums: HashMap<u32, (u64, u64)> = HashMap::new();
        for (kind, dropped) in self.drops.iter().filter(|(kind, _)| kind.netns == netns) {
            let sum = sums.entry(kind.reason).or_default();
            sum.0 += dropped.packets;
            sum.1 += dropped.bytes;
        }
        sums
    }
}

/// Where they are written.
pub(super) struct Out<'a> {
    pub(super) view: &'a View,
    pub(super) kernel: &'a dyn Kernel,
    pub(super) metrics: &'a Metrics,
    pub(super) batch: &'a mut Batch,
    pub(super) now: i64,
}

// === impl Out ===

impl Out<'_> {
    fn drop(&mut self, kind: &DropKind, dropped: &Dropped) {
        let ip = kind.ethertype == drops::IPV4 || kind.ethertype == drops::IPV6;
        let address = |bytes: &[u8; 16]| ip.then(|| view::address(bytes));
        let (source, destination) = (address(&kind.source), address(&kind.destination));
        let text = |ip: Option<std::net::IpAddr>| ip.map(|ip| ip.to_string()).unwrap_or_default();
        let party = |ip: Option<std::net::IpAddr>| ip.map(|ip| self.view.directory.party(ip));
        let end = |ip| party(ip).map(|party| party.end(None)).unwrap_or_default();
        let (source_end, destination_end) = (end(source), end(destination));
        let reason = self.kernel.drop_reason(kind.reason).unwrap_or_default();
        let location = if kind.own {
            crate::drops::OWN.to_owned()
        } else {
            self.kernel.symbol(kind.location).unwrap_or_default()
        };
        if drops::is_none(&reason, &location) {
            return;
        }
        let has_ports =
            ip && matches!(Protocol(kind.protocol), Protocol::TCP | Protocol::UDP | Protocol::SCTP);
        let name = if ip { Protocol(kind.protocol).name() } else { "".into() };
        let hubble = drops::reason(&reason).name();
        let mut digits = [0; 16];
        self.metrics.dropped(hubble, &name, dropped.packets);
        DropRow {
            time: dropped.time,
            cluster: &self.view.cluster,
            node: &self.view.node,
            interface: self.view.ports.name(kind.ifindex),
            protocol: &name,
            source_ip: &text(source),
            source_port: has_ports.then_some(kind.ports.0),
            destination_ip: &text(destination),
            destination_port: has_ports.then_some(kind.ports.1),
            source_namespace: source_end.namespace,
            source_pod: source_end.pod,
            source_workload: source_end.workload,
            destination_namespace: destination_end.namespace,
            destination_pod: destination_end.pod,
            destination_workload: destination_end.workload,
            drop_reason: hubble,
            kernel_reason: &reason,
            drop_location: &location,
            packets: dropped.packets,
            bytes: dropped.bytes,
            flow_id: dropped.flow.map_or("", |flow| flow.hex(&mut digits)),
        }
        .push(self.batch.table(Table::Drops));
    }

    /// An answer: the row's source is the client that asked.
    fn answer(&mut self, ends: &Ends, time: i64, answer: &dns::Answer) {
        let flow = FlowId::new(
            Protocol::UDP.0,
            (ends.source, ends.source_port),
            (ends.destination, ends.destination_port),
            0,
        );
        let ips: Vec<String> = answer.addresses.iter().map(|(ip, _)| ip.to_string()).collect();
        L7Row {
            flow_id: flow.hex(&mut [0; 16]),
            time,
            cluster: &self.view.cluster,
            node: &self.view.node,
            protocol: "dns",
            query: &answer.name,
            qtypes: &[dns::type_name(answer.kind)],
            rcode: dns::rcode_name(answer.rcode),
            ips: &ips,
            source_ip: &ends.source.to_string(),
            destination_ip: &ends.destination.to_string(),
            ..L7Row::default()
        }
        .push(self.batch.table(Table::L7));
    }

    pub(super) fn loss_totals(
        &mut self,
        stage: LossStage,
        cause: LossCause,
        totals: crate::spool::Totals,
    ) {
        if totals.batches != 0 {
            let lost = Lost { events: totals.batches, flows: totals.flows, bytes: totals.bytes };
            self.loss(stage, cause, "batches", lost);
        }
    }

    fn loss(&mut self, stage: LossStage, cause: LossCause, detail: &str, lost: Lost) {
        self.metrics.lost(stage.name(), cause.name(), lost.events);
        LossRow {
            time: self.now,
            cluster: &self.view.cluster,
            node: &self.view.node,
            stage: stage.name(),
            cause: cause.name(),
            events: lost.events,
            flows: lost.flows,
            bytes: lost.bytes,
            detail,
        }
        .push(self.batch.table(Table::Losses));
    }
}

/// Enters the waiting drops of this namespace in the batch's report, and those which the kernel
/// counted up to `counted` and never told of; returns the latter.
pub(super) fn stage_drops(
    ledger: &Ledger,
    batch: &mut Batch,
    netns: u32,
    waiting: &HashMap<u32, (u64, u64)>,
    counted: &HashMap<u32, (u64, u64)>,
) -> Vec<(u32, u64, u64)> {
    let mut untold = Vec::new();
    let reasons: std::collections::BTreeSet<u32> =
        waiting.keys().chain(counted.keys()).copied().collect();
    for reason in reasons {
        let key = ledger::drop(netns, reason);
        let mut now = ledger.get(&key).copied().unwrap_or_default();
        let (packets, bytes) = waiting.get(&reason).copied().unwrap_or_default();
        now[0] += packets;
        now[1] += bytes;
        let (packets, bytes) = counted.get(&reason).copied().unwrap_or_default();
        let missing = (packets.saturating_sub(now[0]), bytes.saturating_sub(now[1]));
        if missing.0 != 0 {
            now[0] += missing.0;
            now[1] += missing.1;
            untold.push((reason, missing.0, missing.1));
        }
        ledger.stage(batch, key, now);
    }
    untold
}
