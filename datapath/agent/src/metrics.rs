//! The agent's metrics: Hubble's names where Hubble has the thing, `weir_agent_…` for the rest.

use datapath_abi::conn::STATE_NONE;
use datapath_abi::flow_cache::REASON_NAMES;
use datapath_abi::service::ServiceCounters;
use datapath_loader::CacheCounters;
use hashbrown::HashMap;
use model::{Protocol, Reporter};
use parking_lot::Mutex;
use prometheus::{
    Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};

/// Destination ports told apart; further ones count as `other`. Hubble's metric has no bound, and
/// a port scan would fill the registry.
const MAX_PORTS: usize = 256;

/// Everything that is counted.
#[derive(Debug)]
pub(crate) struct Metrics {
    /// Rows by protocol and reporter, resolved once.
    flows: Vec<IntCounter>,
    flows_by_label: IntCounterVec,
    tcp_flags: [[IntCounter; 4]; 2],
    ports: Mutex<HashMap<(u8, u16), IntCounter>>,
    port_distribution: IntCounterVec,
    drops: IntCounterVec,
    lost_events: IntCounterVec,
    rows: IntCounterVec,
    lost: IntCounterVec,
    unattributed: IntCounterVec,
    answers: IntCounterVec,
    services: IntCounterVec,
    xdp: IntCounterVec,
    tables: IntGaugeVec,
    table_sizes: IntGaugeVec,
    pub(crate) batches: IntCounter,
    pub(crate) commit_errors: IntCounter,
    pub(crate) connections: IntGauge,
    pub(crate) table_capacity: IntGauge,
    pub(crate) spool_bytes: IntGauge,
    pub(crate) manifest_errors: IntGauge,
    pub(crate) interfaces: IntGauge,
    pub(crate) walk: Histogram,
}

/// Protocols with a counter of their own; the last stands for all others.
const PROTOCOLS: [&str; 6] = ["TCP", "UDP", "ICMPv4", "ICMPv6", "SCTP", "Unknown L4"];
/// Hubble's sub-type (trace observation point) for each reporter.
const SUBTYPES: [&str; 3] = ["from-endpoint", "to-endpoint", "to-network"];
/// Flags as Hubble tells them apart.
const FLAGS: [&str; 4] = ["SYN", "SYN-ACK", "FIN", "RST"];
const FAMILIES: [&str; 2] = ["IPv4", "IPv6"];

// === impl Metrics ===

impl Metrics {
    /// Registers everything.
    ///
    /// # Errors
    /// When a name is taken in `registry`.
    pub(crate) fn register(registry: &Registry) -> prometheus::Result<Self> {
        let counters = |name: &str, help: &str, labels: &[&str]| {
            let vec = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(vec.clone()))?;
            Ok::<_, prometheus::Error>(vec)
        };
        let gauges = |name: &str, help: &str, labels: &[&str]| {
            let vec = IntGaugeVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(vec.clone()))?;
            Ok::<_, prometheus::Error>(vec)
        };
        let gauge = |name: &str, help: &str| {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok::<_, prometheus::Error>(gauge)
        };
        let flows = counters(
            "hubble_flows_processed_total",
            "Flow rows written.",
            &["protocol", "type", "subtype", "verdict"],
        )?;
        let flags = counters("hubble_tcp_flags_total", "TCP flags seen.", &["flag", "family"])?;
        let single = |name: &str, help: &str| {
            let counter = IntCounter::new(name, help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        let walk = Histogram::with_opts(HistogramOpts::new(
            "weir_agent_walk_seconds",
            "Time that a walk of the connection table took.",
        ))?;
        registry.register(Box::new(walk.clone()))?;
        Ok(Self {
            flows: PROTOCOLS
                .iter()
                .flat_map(|protocol| SUBTYPES.iter().map(move |subtype| (protocol, subtype)))
                .map(|(p, s)| flows.with_label_values(&[p, "Trace", s, "FORWARDED"]))
                .collect(),
            flows_by_label: flows,
            tcp_flags: FAMILIES
                .map(|family| FLAGS.map(|flag| flags.with_label_values(&[flag, family]))),
            ports: Mutex::new(HashMap::new()),
            port_distribution: counters(
                "hubble_port_distribution_total",
                "New connections by destination port.",
                &["protocol", "port"],
            )?,
            drops: counters("hubble_drop_total", "Packets dropped.", &["reason", "protocol"])?,
            lost_events: counters(
                "hubble_lost_events_total",
                "Events lost before they were read.",
                &["source"],
            )?,
            rows: counters("weir_agent_rows_total", "Rows committed.", &["table"])?,
            lost: counters("weir_agent_lost_total", "What was lost.", &["stage", "cause"])?,
            unattributed: counters(
                "weir_agent_unattributed_bytes_total",
                "Bytes at an interface that no connection holds.",
                &["interface", "cause"],
            )?,
            answers: counters(
                "weir_agent_deny_responses_total",
                "Refused packets that were answered, or not (--deny-response).",
                &["outcome"],
            )?,
            services: counters(
                "weir_agent_services_total",
                "What became of packets to services: connections balanced, masqueraded, sockets; packets refused or dropped.",
                &["outcome"],
            )?,
            xdp: counters(
                "weir_agent_xdp_packets_total",
                "Packets that XDP sent on (hit, miss, flood), flows that lost their way (evicted), and packets left to tc, by reason.",
                &["outcome"],
            )?,
            tables: gauges(
                "weir_agent_service_table_entries",
                "Entries of the service tables.",
                &["table"],
            )?,
            table_sizes: gauges(
                "weir_agent_service_table_capacity",
                "Entries that the service tables have room for.",
                &["table"],
            )?,
            batches: single("weir_agent_batches_committed_total", "Batches committed.")?,
            commit_errors: single("weir_agent_commit_errors_total", "Commits that failed.")?,
            connections: gauge("weir_agent_connections", "Connections at the last walk.")?,
            table_capacity: gauge("weir_agent_table_capacity", "Most connections.")?,
            spool_bytes: gauge("weir_agent_spool_bytes", "Bytes in the spool.")?,
            manifest_errors: gauge("weir_agent_manifest_errors", "Documents left out.")?,
            interfaces: gauge("weir_agent_interfaces", "Interfaces observed.")?,
            walk,
        })
    }

    /// A row of `flows`; `first` for the first of its connection.
    pub(crate) fn flow(
        &self,
        protocol: u8,
        reporter: Reporter,
        port: u16,
        first: bool,
        forwarded: bool,
    ) {
        let protocol_index = match Protocol(protocol) {
            Protocol::TCP => 0,
            Protocol::UDP => 1,
            Protocol::ICMP => 2,
            Protocol::ICMPV6 => 3,
            Protocol::SCTP => 4,
            _ => 5,
        };
        let subtype = match reporter {
            Reporter::Source => 0,
            Reporter::Destination => 1,
            Reporter::Host | Reporter::External => 2,
        };
        if forwarded {
            self.flows[protocol_index * SUBTYPES.len() + subtype].inc();
        } else {
            let labels = [PROTOCOLS[protocol_index], "Drop", "", "DROPPED"];
            self.flows_by_label.with_label_values(&labels).inc();
        }
        if first && protocol_index != 2 && protocol_index != 3 {
            self.port(protocol, PROTOCOLS[protocol_index], port);
        }
    }

    fn port(&self, protocol: u8, name: &str, port: u16) {
        let mut ports = self.ports.lock();
        if let Some(counter) = ports.get(&(protocol, port)) {
            return counter.inc();
        }
        if ports.len() >= MAX_PORTS {
            return self.port_distribution.with_label_values(&[name, "other"]).inc();
        }
        let counter = self.port_distribution.with_label_values(&[name, &port.to_string()]);
        counter.inc();
        ports.insert((protocol, port), counter);
    }

    /// TCP flags of a connection, of its client and of its server: those not yet in `before`.
    pub(crate) fn flags(&self, v6: bool, before: [u8; 2], now: [u8; 2]) {
        const FIN: u8 = 1;
        const SYN: u8 = 2;
        const RST: u8 = 4;
        let counters = &self.tcp_flags[usize::from(v6)];
        let fresh = [now[0] & !before[0], now[1] & !before[1]];
        for (side, fresh) in fresh.iter().enumerate() {
            for (flag, counter) in [(SYN, side), (FIN, 2), (RST, 3)] {
                if fresh & flag != 0 {
                    counters[counter].inc();
                }
            }
        }
    }

    /// Packets dropped by the kernel.
    pub(crate) fn dropped(&self, reason: &str, protocol: &str, packets: u64) {
        self.drops.with_label_values(&[reason, protocol]).inc_by(packets);
    }

    /// Events that found no room in a ring.
    pub(crate) fn lost_in_ring(&self, events: u64) {
        if events != 0 {
            self.lost_events.with_label_values(&["PERF_EVENT_RING_BUFFER"]).inc_by(events);
        }
    }

    /// Events that found no room in the agent's queue.
    pub(crate) fn lost_in_queue(&self, events: u64) {
        if events != 0 {
            self.lost_events.with_label_values(&["OBSERVER_EVENTS_QUEUE"]).inc_by(events);
        }
    }

    /// A row of `losses`.
    pub(crate) fn lost(&self, stage: &str, cause: &str, events: u64) {
        self.lost.with_label_values(&[stage, cause]).inc_by(events);
    }

    /// Bytes that no connection holds.
    pub(crate) fn unattributed(&self, interface: &str, cause: &str, bytes: u64) {
        if bytes != 0 {
            self.unattributed.with_label_values(&[interface, cause]).inc_by(bytes);
        }
    }

    /// What the kernel has counted of answers to refused packets: sent, limited, failed.
    pub(crate) fn answers(&self, counted: [u64; 3]) {
        for (outcome, total) in ["sent", "limited", "failed"].into_iter().zip(counted) {
            let counter = self.answers.with_label_values(&[outcome]);
            counter.inc_by(total.saturating_sub(counter.get()));
        }
    }

    /// What the kernel has counted of services.
    pub(crate) fn services(&self, counted: &ServiceCounters) {
        for (outcome, total) in crate::local::services::counters(counted) {
            let counter = self.services.with_label_values(&[&outcome]);
            counter.inc_by(total.saturating_sub(counter.get()));
        }
    }

    /// What XDP's flow cache has counted.
    pub(crate) fn flow_cache(&self, counted: &CacheCounters) {
        let cache = [
            ("hit", counted.hits),
            ("miss", counted.misses),
            ("flood", counted.flood),
            ("evicted", counted.evictions),
        ];
        let passes = REASON_NAMES.into_iter().zip(counted.passes);
        for (outcome, total) in cache.into_iter().chain(passes) {
            let counter = self.xdp.with_label_values(&[outcome]);
            counter.inc_by(total.saturating_sub(counter.get()));
        }
        for (name, capacity) in ["xdp_flows4", "xdp_flows6"].into_iter().zip(counted.capacity) {
            self.table_sizes.with_label_values(&[name]).set(capacity.cast_signed());
        }
    }

    /// How full a service table is.
    pub(crate) fn table(&self, name: &str, entries: u64, capacity: u64) {
        self.tables.with_label_values(&[name]).set(entries.cast_signed());
        self.table_sizes.with_label_values(&[name]).set(capacity.cast_signed());
    }

    /// Rows of a table, committed.
    pub(crate) fn rows(&self, table: &str, rows: u64) {
        if rows != 0 {
            self.rows.with_label_values(&[table]).inc_by(rows);
        }
    }
}

/// Name of a TCP state in `tcp_state`; empty for what is no TCP.
pub(crate) fn state_name(state: u8) -> &'static str {
    const NAMES: [&str; 7] =
        ["", "SYN_SENT", "SYN_RECV", "ESTABLISHED", "FIN_WAIT", "CLOSED", "RESET"];
    NAMES.get(usize::from(state)).copied().unwrap_or(NAMES[STATE_NONE as usize])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rendered_names_and_labels() {
        let registry = Registry::new();
        let metrics = Metrics::register(&registry).unwrap();
        metrics.flow(6, Reporter::Source, 443, true, true);
        metrics.flags(true, [0, 0], [2, 2 | 16]);
        metrics.flags(true, [2, 2 | 16], [2 | 1, 2 | 16 | 4]);
        metrics.dropped("POLICY_DENIED", "TCP", 2);
        metrics.lost_in_ring(3);
        metrics.unattributed("eth0", "arp", 42);
        metrics.lost("spool", "evicted", 5);
        for port in 0..1000 {
            metrics.flow(17, Reporter::Host, port, true, true);
        }
        let text = prometheus::TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
        for line in [
            r#"hubble_flows_processed_total{protocol="TCP",subtype="from-endpoint",type="Trace",verdict="FORWARDED"} 1"#,
            r#"hubble_tcp_flags_total{family="IPv6",flag="SYN"} 1"#,
            r#"hubble_tcp_flags_total{family="IPv6",flag="SYN-ACK"} 1"#,
            r#"hubble_tcp_flags_total{family="IPv6",flag="FIN"} 1"#,
            r#"hubble_tcp_flags_total{family="IPv6",flag="RST"} 1"#,
            r#"hubble_drop_total{protocol="TCP",reason="POLICY_DENIED"} 2"#,
            r#"hubble_lost_events_total{source="PERF_EVENT_RING_BUFFER"} 3"#,
            r#"hubble_port_distribution_total{port="443",protocol="TCP"} 1"#,
            r#"hubble_port_distribution_total{port="other",protocol="UDP"} 745"#,
            r#"weir_agent_unattributed_bytes_total{cause="arp",interface="eth0"} 42"#,
            r#"weir_agent_lost_total{cause="evicted",stage="spool"} 5"#,
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
    }
}
