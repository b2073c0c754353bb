//! Rows of `flows`.

use super::BatchBuilder;

/// One end of a connection, as it was known when the row was written. Unknown is empty.
#[derive(Debug, Clone, Copy, Default)]
pub struct FlowEnd<'a> {
    /// Numeric identity.
    pub identity: Option<u32>,
    /// Kubernetes namespace.
    pub namespace: &'a str,
    /// Pod name, without its namespace.
    pub pod: &'a str,
    /// Name of the workload that owns the pod.
    pub workload: &'a str,
    /// `Deployment`, `StatefulSet`, …
    pub workload_kind: &'a str,
    /// Labels as `key=value`, sorted.
    pub labels: &'a [String],
    /// DNS names that the client resolved the address from.
    pub names: &'a [String],
    /// Node that the end runs on.
    pub node: &'a str,
}

/// One row of `flows`; meanings and units as in `docs/tables.md`.
#[derive(Debug, Clone, Copy, Default)]
#[expect(missing_docs, reason = "field = column, documented once in docs/tables.md")]
pub struct FlowRow<'a> {
    pub flow_id: &'a str,
    pub seq: u32,
    /// Nanoseconds since the epoch.
    pub start_time: i64,
    /// Nanoseconds since the epoch.
    pub end_time: i64,
    pub cluster: &'a str,
    pub node: &'a str,
    pub interface: &'a str,
    pub reporter: &'a str,
    pub direction: &'a str,
    pub ip_version: u8,
    pub protocol: &'a str,
    pub source_ip: &'a str,
    pub source_port: Option<u16>,
    pub destination_ip: &'a str,
    pub destination_port: Option<u16>,
    pub backend_ip: &'a str,
    pub backend_port: Option<u16>,
    pub source: FlowEnd<'a>,
    pub destination: FlowEnd<'a>,
    pub destination_service: &'a str,
    pub destination_service_namespace: &'a str,
    pub process_name: &'a str,
    pub pid: Option<u32>,
    pub verdict: &'a str,
    pub drop_reason: &'a str,
    pub drop_location: &'a str,
    pub policy_kind: &'a str,
    pub policy_namespace: &'a str,
    pub policy_name: &'a str,
    pub policy_rule: Option<u32>,
    pub policy_revision: Option<u64>,
    pub policies_selecting: &'a [String],
    pub packets_out: u64,
    pub bytes_out: u64,
    pub packets_in: u64,
    pub bytes_in: u64,
    pub attempts: Option<u64>,
    pub tcp_flags: &'a [&'a str],
    pub tcp_state: &'a str,
    pub retransmits: Option<u64>,
    pub rtt_us: Option<u64>,
    pub connect_us: Option<u64>,
    pub closed: bool,
    pub estimated: bool,
    pub extra_segments_out: u64,
    pub extra_bytes_out: u64,
    pub extra_segments_in: u64,
    pub extra_bytes_in: u64,
    pub icmp_type: Option<u8>,
    pub icmp_code: Option<u8>,
    pub close_reason: &'a str,
    pub packets_denied: Option<u64>,
    pub bytes_denied: Option<u64>,
}

// === impl FlowRow ===

impl FlowRow<'_> {
    /// Appends the row to a builder of [`Table::Flows`](crate::Table::Flows).
    pub fn push(&self, builder: &mut BatchBuilder) {
        let row = builder
            .row()
            .text(self.flow_id)
            .u32(Some(self.seq))
            .time(Some(self.start_time))
            .time(Some(self.end_time))
            .word(self.cluster)
            .word(self.node)
            .word(self.interface)
            .word(self.reporter)
            .word(self.direction)
            .u8(Some(self.ip_version))
            .word(self.protocol)
            .word(self.source_ip)
            .u16(self.source_port)
            .word(self.destination_ip)
            .u16(self.destination_port)
            .word(self.backend_ip)
            .u16(self.backend_port);
        let row = self.destination.push(self.source.push(row));
        row.word(self.destination_service)
            .word(self.destination_service_namespace)
            .word(self.process_name)
            .u32(self.pid)
            .word(self.verdict)
            .word(self.drop_reason)
            .word(self.drop_location)
            .word(self.policy_kind)
            .word(self.policy_namespace)
            .word(self.policy_name)
            .u32(self.policy_rule)
            .u64(self.policy_revision)
            .words(self.policies_selecting)
            .u64(Some(self.packets_out))
            .u64(Some(self.bytes_out))
            .u64(Some(self.packets_in))
            .u64(Some(self.bytes_in))
            .u64(self.attempts)
            .words(self.tcp_flags)
            .word(self.tcp_state)
            .u64(self.retransmits)
            .u64(self.rtt_us)
            .u64(self.connect_us)
            .bool(Some(self.closed))
            .bool(Some(self.estimated))
            .u64(Some(self.extra_segments_out))
            .u64(Some(self.extra_bytes_out))
            .u64(Some(self.extra_segments_in))
            .u64(Some(self.extra_bytes_in))
            .u8(self.icmp_type)
            .u8(self.icmp_code)
            .word(self.close_reason)
            .u64(self.packets_denied)
            .u64(self.bytes_denied)
            .end();
    }
}

// === impl FlowEnd ===

impl FlowEnd<'_> {
    fn push<'r>(&self, row: super::Row<'r>) -> super::Row<'r> {
        row.u32(self.identity)
            .word(self.namespace)
            .word(self.pod)
            .word(self.workload)
            .word(self.workload_kind)
            .words(self.labels)
            .words(self.names)
            .word(self.node)
    }
}
