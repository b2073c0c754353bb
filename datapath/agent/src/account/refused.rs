//! What the policy refused: rows of `flows` with the verdict `DROPPED`, one for each client, server,
//! port and reason in an interval, however many packets and ports it was tried from.

use columns::Table;
use columns::rows::FlowRow;
use datapath_abi::iface::INGRESS;
use datapath_abi::policy::{DeniedCounter, DeniedKey, NO_ORIGIN};
use datapath_abi::reported::{KIND_DENIED, ReportedKey, TOTALS};
use datapath_abi::service::{
    ORIGIN_CLUSTER_ONLY, ORIGIN_NO_BACKEND, ORIGIN_NO_TRANSLATION, ORIGIN_OUT_OF_RANGE,
};
use hashbrown::{HashMap, HashSet};
use model::{DropReason, FlowId, Protocol, Verdict};

use super::origin::Words;
use super::{Accountant, Failure, ledger};
use crate::kernel::Kernel;
use crate::view::ports::Port;
use crate::view::{self, Ends};

/// A refusal is over, and makes room in the kernel's table, when it was not tried again for so long.
/// Nanoseconds.
const QUIET: i64 = 300_000_000_000;
/// Refusals ended together; each lot waits for one RCU grace period.
const LOT: usize = 4096;

/// Totals of a refusal, in the order of their entry.
#[derive(Debug, Clone, Copy, Default)]
struct Totals {
    packets: u64,
    bytes: u64,
    attempts: u64,
    rows: u64,
    /// `bpf_ktime_get_ns` of the latest packet.
    last_ns: u64,
}

// === impl Accountant ===

impl Accountant {
    /// Has the refusals read at the next flush.
    pub(crate) fn look_at_refusals(&mut self) {
        self.refused = true;
    }

    /// Stages a row for every refusal that was tried again.
    pub(super) fn stage_refusals(&mut self, kernel: &dyn Kernel, now: i64) -> Result<(), Failure> {
        // A walk may visit an entry twice.
        let mut read = HashMap::new();
        kernel.denied(&mut |key, counter| {
            read.insert(*key, *counter);
        })?;
        for (key, counter) in &read {
            self.stage_refusal(kernel, key, counter);
            if self.batch.is_full() {
                self.commit(kernel, now)?;
            }
        }
        Ok(())
    }

    /// Ends the refusals that are over: final rows, then removal; like connections.
    pub(super) fn end_refusals(&mut self, kernel: &dyn Kernel, now: i64) -> Result<(), Failure> {
        self.commit(kernel, now)?;
        self.remove_refusals(kernel)?;
        let mut quiet = Vec::new();
        let mut there = HashSet::new();
        kernel.denied(&mut |key, counter| {
            there.insert(ledger::denied(key));
            let last = kernel.epoch_from_ktime(counter.last_ns);
            if counter.retired != 0 || now - last > QUIET {
                quiet.push(*key);
            }
        })?;
        for lot in quiet.chunks(LOT) {
            for (key, counter) in kernel.retire_denied(lot)? {
                self.stage_refusal(kernel, &key, &counter);
                self.over.push(key);
            }
            self.commit(kernel, now)?;
            self.remove_refusals(kernel)?;
        }
        // Reports of what is gone from the table without the agent's doing.
        let gone = |key: &&ReportedKey| key.kind == KIND_DENIED && !there.contains(*key);
        let gone: Vec<_> = self.ledger.keys().filter(gone).copied().collect();
        kernel.remove_reported(&gone)?;
        gone.iter().for_each(|key| self.ledger.remove(key));
        Ok(())
    }

    /// Removes what is over from the table first, so that what was reported of it is known for as long as
    /// it can be read.
    fn remove_refusals(&mut self, kernel: &dyn Kernel) -> Result<(), Failure> {
        if self.over.is_empty() {
            return Ok(());
        }
        kernel.remove_denied(&self.over)?;
        let reported: Vec<_> = self.over.iter().map(ledger::denied).collect();
        kernel.remove_reported(&reported)?;
        reported.iter().for_each(|key| self.ledger.remove(key));
        self.over.clear();
        Ok(())
    }

    fn stage_refusal(&mut self, kernel: &dyn Kernel, key: &DeniedKey, counter: &DeniedCounter) {
        let reported = ledger::denied(key);
        let was = Totals::of(self.ledger.get(&reported).copied().unwrap_or_default());
        let now = Totals {
            packets: counter.packets,
            bytes: counter.bytes,
            attempts: counter.attempts,
            rows: was.rows + 1,
            last_ns: counter.last_ns,
        };
        if now.packets == was.packets && now.bytes == was.bytes {
            return;
        }
        self.ledger.stage(&mut self.batch, reported, now.entry());
        let origin = self.origins.words(kernel, key.origin);
        self.write_refusal(kernel, key, counter, (&was, &now), &origin);
    }

    fn write_refusal(
        &mut self,
        kernel: &dyn Kernel,
        key: &DeniedKey,
        counter: &DeniedCounter,
        (was, now): (&Totals, &Totals),
        origin: &Words,
    ) {
        let view = &self.view;
        let reply = key.hook & 2 != 0;
        let ingress = u32::from(key.hook & 1) == INGRESS;
        let ends = Ends {
            source: view::address(&key.source),
            source_port: counter.source_port,
            destination: view::address(&key.destination),
            destination_port: key.port,
            out: 0,
            enters: ingress != reply,
        };
        let protocol = Protocol(key.protocol);
        let has_ports = matches!(protocol, Protocol::TCP | Protocol::UDP | Protocol::SCTP);
        let icmp = matches!(protocol, Protocol::ICMP | Protocol::ICMPV6);
        let unknown = Port::default();
        let port = view.ports.get(key.ifindex).unwrap_or(&unknown);
        let (reporter, direction) = port.role(&ends, &view.directory);
        let reason = reason(key.origin, origin);
        let first = was.rows == 0;
        self.metrics.flow(key.protocol, reporter, ends.destination_port, first, false);
        let (packets, bytes) = (now.packets - was.packets, now.bytes - was.bytes);
        self.metrics.dropped(reason.name(), &protocol.name(), packets);
        // What was refused at the egress hook never reached the interface, whose counters the columns of
        // packets and bytes add up to.
        let counted = if ingress { (packets, bytes) } else { (0, 0) };
        let (out, back) = if reply { ((0, 0), counted) } else { (counted, (0, 0)) };
        let (source, destination) = (ends.source.to_string(), ends.destination.to_string());
        let flow = FlowId::new(
            key.protocol,
            (ends.source, 0),
            (ends.destination, ends.destination_port),
            0,
        );
        let start = if first { counter.first_ns } else { was.last_ns };
        let client = view.directory.party(ends.source);
        let server = view.directory.party(ends.destination);
        let service = view.directory.service(ends.destination, ends.destination_port, key.protocol);
        let end = kernel.epoch_from_ktime(counter.last_ns);
        FlowRow {
            flow_id: flow.hex(&mut [0; 16]),
            seq: was.rows as u32,
            start_time: kernel.epoch_from_ktime(start).min(end),
            end_time: end,
            cluster: &view.cluster,
            node: &view.node,
            interface: &port.name,
            reporter: reporter.name(),
            direction: direction.name(),
            ip_version: if ends.source.is_ipv4() { 4 } else { 6 },
            protocol: &protocol.name(),
            source_ip: &source,
            source_port: has_ports.then_some(ends.source_port),
            destination_ip: &destination,
            destination_port: has_ports.then_some(ends.destination_port),
            source: client.end(None),
            destination: server.end(None),
            destination_service: service.map_or("", |service| &service.name),
            destination_service_namespace: service.map_or("", |service| &service.namespace),
            verdict: Verdict::Dropped.name(),
            drop_reason: reason.name(),
            policy_kind: origin.kind,
            policy_namespace: &origin.namespace,
            policy_name: &origin.name,
            policy_rule: origin.rule,
            policy_revision: origin.revision,
            policies_selecting: &origin.selecting,
            packets_out: out.0,
            bytes_out: out.1,
            packets_in: back.0,
            bytes_in: back.1,
            packets_denied: Some(packets),
            bytes_denied: Some(bytes),
            attempts: Some(now.attempts.saturating_sub(was.attempts)),
            icmp_type: icmp.then_some(key.port as u8),
            closed: false,
            ..FlowRow::default()
        }
        .push(self.batch.table(Table::Flows));
    }
}

/// Hubble's word: what a service refused, a rule that denies, or nothing that allows.
fn reason(number: u32, origin: &Words) -> DropReason {
    match number {
        ORIGIN_NO_BACKEND => return DropReason::ServiceBackendNotFound,
        ORIGIN_OUT_OF_RANGE => return DropReason::DeniedByLbSrcRangeCheck,
        ORIGIN_CLUSTER_ONLY => return DropReason::IsAClusterIp,
        ORIGIN_NO_TRANSLATION => return DropReason::NoMappingForNatMasquerade,
        _ => {}
    }
    if number != NO_ORIGIN && origin.denies {
        DropReason::PolicyDeny
    } else {
        DropReason::PolicyDenied
    }
}

// === impl Totals ===

impl Totals {
    fn of(entry: [u64; TOTALS]) -> Self {
        let [packets, bytes, attempts, rows, last_ns, ..] = entry;
        Self { packets, bytes, attempts, rows, last_ns }
    }

    fn entry(self) -> [u64; TOTALS] {
        [self.packets, self.bytes, self.attempts, self.rows, self.last_ns, 0, 0, 0]
    }
}
