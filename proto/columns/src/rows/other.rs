//! Rows of the other tables. Field = column; an empty string, list or `None` is unknown (NULL).
#![expect(missing_docs, reason = "field = column, documented once in docs/tables.md")]

use super::BatchBuilder;

/// One row of `drops`; times in nanoseconds since the epoch.
#[derive(Debug, Clone, Copy, Default)]
pub struct DropRow<'a> {
    pub time: i64,
    pub cluster: &'a str,
    pub node: &'a str,
    pub interface: &'a str,
    pub protocol: &'a str,
    pub source_ip: &'a str,
    pub source_port: Option<u16>,
    pub destination_ip: &'a str,
    pub destination_port: Option<u16>,
    pub source_namespace: &'a str,
    pub source_pod: &'a str,
    pub source_workload: &'a str,
    pub destination_namespace: &'a str,
    pub destination_pod: &'a str,
    pub destination_workload: &'a str,
    pub drop_reason: &'a str,
    pub kernel_reason: &'a str,
    pub drop_location: &'a str,
    pub packets: u64,
    pub bytes: u64,
    pub flow_id: &'a str,
}

/// One row of `losses`; times in nanoseconds since the epoch.
#[derive(Debug, Clone, Copy, Default)]
pub struct LossRow<'a> {
    pub time: i64,
    pub cluster: &'a str,
    pub node: &'a str,
    pub stage: &'a str,
    pub cause: &'a str,
    pub events: u64,
    pub flows: u64,
    pub bytes: u64,
    pub detail: &'a str,
}

/// One row of `counters`; times in nanoseconds since the epoch.
#[derive(Debug, Clone, Copy, Default)]
pub struct CounterRow<'a> {
    pub time: i64,
    pub cluster: &'a str,
    pub node: &'a str,
    pub interface: &'a str,
    pub rx_bytes: u64,
    pub rx_packets: u64,
    pub tx_bytes: u64,
    pub tx_packets: u64,
    pub unattributed_bytes: u64,
    pub unattributed_packets: u64,
    pub arp_bytes: u64,
    pub arp_packets: u64,
    pub other_bytes: u64,
    pub other_packets: u64,
    pub malformed_bytes: u64,
    pub malformed_packets: u64,
    pub table_full_bytes: u64,
    pub table_full_packets: u64,
    pub link_header_bytes: Option<u8>,
    pub rx_dropped: u64,
    pub tx_dropped: u64,
}

/// One row of `nodes`; times in nanoseconds since the epoch.
#[derive(Debug, Clone, Copy, Default)]
pub struct NodeRow<'a> {
    pub valid_from: i64,
    pub valid_to: Option<i64>,
    pub cluster: &'a str,
    pub node: &'a str,
    pub boot_id: &'a str,
    pub version: &'a str,
    pub mode: &'a str,
    pub kernel: &'a str,
    pub addresses: &'a [String],
    pub labels: &'a [String],
    pub features_on: &'a [String],
    pub features_off: &'a [String],
}

/// One row of `endpoints`; times in nanoseconds since the epoch.
#[derive(Debug, Clone, Copy, Default)]
pub struct EndpointRow<'a> {
    pub valid_from: i64,
    pub valid_to: Option<i64>,
    pub cluster: &'a str,
    pub node: &'a str,
    pub kind: &'a str,
    pub namespace: &'a str,
    pub pod: &'a str,
    pub workload: &'a str,
    pub workload_kind: &'a str,
    pub labels: &'a [String],
    pub ips: &'a [String],
    pub identity: Option<u32>,
    pub interface: &'a str,
}

/// One row of `l7`; times in nanoseconds since the epoch.
#[derive(Debug, Clone, Copy, Default)]
pub struct L7Row<'a> {
    pub flow_id: &'a str,
    pub time: i64,
    pub cluster: &'a str,
    pub node: &'a str,
    pub protocol: &'a str,
    pub method: &'a str,
    pub path: &'a str,
    pub host: &'a str,
    pub status: Option<u16>,
    pub latency_us: Option<u64>,
    pub query: &'a str,
    pub qtypes: &'a [String],
    pub rcode: &'a str,
    pub ips: &'a [String],
    pub source_ip: &'a str,
    pub destination_ip: &'a str,
}

/// One row of `services`; times in nanoseconds since the epoch.
#[derive(Debug, Clone, Copy, Default)]
pub struct ServiceRow<'a> {
    pub valid_from: i64,
    pub valid_to: Option<i64>,
    pub cluster: &'a str,
    pub node: &'a str,
    pub namespace: &'a str,
    pub name: &'a str,
    pub service_type: &'a str,
    pub cluster_ips: &'a [String],
    pub ports: &'a [String],
    pub backends: &'a [String],
}

/// One row of `policies`; times in nanoseconds since the epoch.
#[derive(Debug, Clone, Copy, Default)]
pub struct PolicyRow<'a> {
    pub valid_from: i64,
    pub valid_to: Option<i64>,
    pub cluster: &'a str,
    pub node: &'a str,
    pub kind: &'a str,
    pub namespace: &'a str,
    pub name: &'a str,
    pub revision: Option<u64>,
    pub spec: &'a str,
}

// === impl DropRow ===

impl DropRow<'_> {
    /// Appends the row to a builder of that table.
    pub fn push(&self, builder: &mut BatchBuilder) {
        builder
            .row()
            .time(Some(self.time))
            .word(self.cluster)
            .word(self.node)
            .word(self.interface)
            .word(self.protocol)
            .word(self.source_ip)
            .u16(self.source_port)
            .word(self.destination_ip)
            .u16(self.destination_port)
            .word(self.source_namespace)
            .word(self.source_pod)
            .word(self.source_workload)
            .word(self.destination_namespace)
            .word(self.destination_pod)
            .word(self.destination_workload)
            .word(self.drop_reason)
            .word(self.kernel_reason)
            .word(self.drop_location)
            .u64(Some(self.packets))
            .u64(Some(self.bytes))
            .text(self.flow_id)
            .end();
    }
}

// === impl LossRow ===

impl LossRow<'_> {
    /// Appends the row to a builder of that table.
    pub fn push(&self, builder: &mut BatchBuilder) {
        builder
            .row()
            .time(Some(self.time))
            .word(self.cluster)
            .word(self.node)
            .word(self.stage)
            .word(self.cause)
            .u64(Some(self.events))
            .u64(Some(self.flows))
            .u64(Some(self.bytes))
            .text(self.detail)
            .end();
    }
}

// === impl CounterRow ===

impl CounterRow<'_> {
    /// Appends the row to a builder of that table.
    pub fn push(&self, builder: &mut BatchBuilder) {
        builder
            .row()
            .time(Some(self.time))
            .word(self.cluster)
            .word(self.node)
            .word(self.interface)
            .u64(Some(self.rx_bytes))
            .u64(Some(self.rx_packets))
            .u64(Some(self.tx_bytes))
            .u64(Some(self.tx_packets))
            .u64(Some(self.unattributed_bytes))
            .u64(Some(self.unattributed_packets))
            .u64(Some(self.arp_bytes))
            .u64(Some(self.arp_packets))
            .u64(Some(self.other_bytes))
            .u64(Some(self.other_packets))
            .u64(Some(self.malformed_bytes))
            .u64(Some(self.malformed_packets))
            .u64(Some(self.table_full_bytes))
            .u64(Some(self.table_full_packets))
            .u8(self.link_header_bytes)
            .u64(Some(self.rx_dropped))
            .u64(Some(self.tx_dropped))
            .end();
    }
}

// === impl NodeRow ===

impl NodeRow<'_> {
    /// Appends the row to a builder of that table.
    pub fn push(&self, builder: &mut BatchBuilder) {
        builder
            .row()
            .time(Some(self.valid_from))
            .time(self.valid_to)
            .word(self.cluster)
            .word(self.node)
            .word(self.boot_id)
            .word(self.version)
            .word(self.mode)
            .word(self.kernel)
            .words(self.addresses)
            .words(self.labels)
            .words(self.features_on)
            .words(self.features_off)
            .end();
    }
}

// === impl EndpointRow ===

impl EndpointRow<'_> {
    /// Appends the row to a builder of that table.
    pub fn push(&self, builder: &mut BatchBuilder) {
        builder
            .row()
            .time(Some(self.valid_from))
            .time(self.valid_to)
            .word(self.cluster)
            .word(self.node)
            .word(self.kind)
            .word(self.namespace)
            .word(self.pod)
            .word(self.workload)
            .word(self.workload_kind)
            .words(self.labels)
            .words(self.ips)
            .u32(self.identity)
            .word(self.interface)
            .end();
    }
}

// === impl L7Row ===

impl L7Row<'_> {
    /// Appends the row to a builder of that table.
    pub fn push(&self, builder: &mut BatchBuilder) {
        builder
            .row()
            .text(self.flow_id)
            .time(Some(self.time))
            .word(self.cluster)
            .word(self.node)
            .word(self.protocol)
            .word(self.method)
            .text(self.path)
            .word(self.host)
            .u16(self.status)
            .u64(self.latency_us)
            .word(self.query)
            .words(self.qtypes)
            .word(self.rcode)
            .words(self.ips)
            .word(self.source_ip)
            .word(self.destination_ip)
            .end();
    }
}

// === impl ServiceRow ===

impl ServiceRow<'_> {
    /// Appends the row to a builder of that table.
    pub fn push(&self, builder: &mut BatchBuilder) {
        builder
            .row()
            .time(Some(self.valid_from))
            .time(self.valid_to)
            .word(self.cluster)
            .word(self.node)
            .word(self.namespace)
            .word(self.name)
            .word(self.service_type)
            .words(self.cluster_ips)
            .words(self.ports)
            .words(self.backends)
            .end();
    }
}

// === impl PolicyRow ===

impl PolicyRow<'_> {
    /// Appends the row to a builder of that table.
    pub fn push(&self, builder: &mut BatchBuilder) {
        builder
            .row()
            .time(Some(self.valid_from))
            .time(self.valid_to)
            .word(self.cluster)
            .word(self.node)
            .word(self.kind)
            .word(self.namespace)
            .word(self.name)
            .u64(self.revision)
            .text(self.spec)
            .end();
    }
}
