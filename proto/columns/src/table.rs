//! Tables and their Arrow schemas.
//!
//! A column is declared once, in the list of its table; order here is order on disk. Columns are
//! only ever added at the end of a list: an older segment then reads as NULL for them.

use std::sync::{Arc, LazyLock};

use arrow_schema::{DataType, Field, Schema, SchemaRef, TimeUnit};

/// A table of the catalogue `weir.public` that agents or relays append to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Table {
    /// One row per connection, interface and reporting interval.
    Flows,
    /// Packets that the kernel dropped, by whatever part of it.
    Drops,
    /// What was lost anywhere on the way, with stage and cause.
    Losses,
    /// The interfaces' own counters per interval, and what could not be attributed to a flow.
    Counters,
    /// Nodes as they were (`valid_from`, `valid_to`).
    Nodes,
    /// Endpoints (pods, host, outside names) as they were.
    Endpoints,
    /// Application records: DNS answers now, HTTP and others later.
    L7,
    /// Services and their backends as they were.
    Services,
    /// Policies as they were.
    Policies,
    /// Identities as they were.
    Identities,
}

/// How a column is stored and what it may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ColumnKind {
    /// `TIMESTAMP(ns, 'UTC')`.
    Time,
    /// `UInt64`, a counter or a quantity.
    U64,
    /// `UInt32`, a number of a kind (identity, pid, revision).
    U32,
    /// `UInt16`, a port.
    U16,
    /// `UInt8`.
    U8,
    /// `Boolean`.
    Bool,
    /// `Utf8` with few distinct values: dictionary-encoded with `Int32` keys.
    Word,
    /// `Utf8` with many distinct values.
    Text,
    /// `List<Utf8>`.
    Words,
}

type Column = (&'static str, ColumnKind);

use ColumnKind::{Bool, Text, Time, U8, U16, U32, U64, Word, Words};

const FLOWS: &[Column] = &[
    ("flow_id", Text),
    ("seq", U32),
    ("start_time", Time),
    ("end_time", Time),
    ("cluster", Word),
    ("node", Word),
    ("interface", Word),
    ("reporter", Word),
    ("direction", Word),
    ("ip_version", U8),
    ("protocol", Word),
    ("source_ip", Word),
    ("source_port", U16),
    ("destination_ip", Word),
    ("destination_port", U16),
    ("backend_ip", Word),
    ("backend_port", U16),
    ("source_identity", U32),
    ("source_namespace", Word),
    ("source_pod", Word),
    ("source_workload", Word),
    ("source_workload_kind", Word),
    ("source_labels", Words),
    ("source_names", Words),
    ("source_node", Word),
    ("destination_identity", U32),
    ("destination_namespace", Word),
    ("destination_pod", Word),
    ("destination_workload", Word),
    ("destination_workload_kind", Word),
    ("destination_labels", Words),
    ("destination_names", Words),
    ("destination_node", Word),
    ("destination_service", Word),
    ("destination_service_namespace", Word),
    ("process_name", Word),
    ("pid", U32),
    ("verdict", Word),
    ("drop_reason", Word),
    ("drop_location", Word),
    ("policy_kind", Word),
    ("policy_namespace", Word),
    ("policy_name", Word),
    ("policy_rule", U32),
    ("policy_revision", U64),
    ("policies_selecting", Words),
    ("packets_out", U64),
    ("bytes_out", U64),
    ("packets_in", U64),
    ("bytes_in", U64),
    ("attempts", U64),
    ("tcp_flags", Words),
    ("tcp_state", Word),
    ("retransmits", U64),
    ("rtt_us", U64),
    ("connect_us", U64),
    ("closed", Bool),
    ("estimated", Bool),
    // Beyond the contract. Frames that carried several wire segments (GSO/GRO super-packets) count
    // as one packet above, as the kernel's counter of a virtual device counts them; the wire form
    // is packets + extra_segments, bytes + extra_bytes.
    ("extra_segments_out", U64),
    ("extra_bytes_out", U64),
    ("extra_segments_in", U64),
    ("extra_bytes_in", U64),
    ("icmp_type", U8),
    ("icmp_code", U8),
    ("close_reason", Word),
    // Refused by Weir's own policy. At the ingress hook they are part of the packets and bytes above,
    // which add up to the interface's counters; at the egress hook they never reached the interface.
    ("packets_denied", U64),
    ("bytes_denied", U64),
];

const DROPS: &[Column] = &[
    ("time", Time),
    ("cluster", Word),
    ("node", Word),
    ("interface", Word),
    ("protocol", Word),
    ("source_ip", Word),
    ("source_port", U16),
    ("destination_ip", Word),
    ("destination_port", U16),
    ("source_namespace", Word),
    ("source_pod", Word),
    ("source_workload", Word),
    ("destination_namespace", Word),
    ("destination_pod", Word),
    ("destination_workload", Word),
    ("drop_reason", Word),
    ("kernel_reason", Word),
    ("drop_location", Word),
    ("packets", U64),
    ("bytes", U64),
    ("flow_id", Text),
];

const LOSSES: &[Column] = &[
    ("time", Time),
    ("cluster", Word),
    ("node", Word),
    ("stage", Word),
    ("cause", Word),
    ("events", U64),
    ("flows", U64),
    ("bytes", U64),
    ("detail", Text),
];

const COUNTERS: &[Column] = &[
    ("time", Time),
    ("cluster", Word),
    ("node", Word),
    ("interface", Word),
    ("rx_bytes", U64),
    ("rx_packets", U64),
    ("tx_bytes", U64),
    ("tx_packets", U64),
    ("unattributed_bytes", U64),
    ("unattributed_packets", U64),
    // Frames that are no flow, by kind; bytes at the link layer. They are part of unattributed_*.
    ("arp_bytes", U64),
    ("arp_packets", U64),
    ("other_bytes", U64),
    ("other_packets", U64),
    ("malformed_bytes", U64),
    ("malformed_packets", U64),
    ("table_full_bytes", U64),
    ("table_full_packets", U64),
    ("link_header_bytes", U8),
    ("rx_dropped", U64),
    ("tx_dropped", U64),
];

const NODES: &[Column] = &[
    ("valid_from", Time),
    ("valid_to", Time),
    ("cluster", Word),
    ("node", Word),
    ("boot_id", Word),
    ("version", Word),
    ("mode", Word),
    ("kernel", Word),
    ("addresses", Words),
    ("labels", Words),
    ("features_on", Words),
    ("features_off", Words),
];

const ENDPOINTS: &[Column] = &[
    ("valid_from", Time),
    ("valid_to", Time),
    ("cluster", Word),
    ("node", Word),
    ("kind", Word),
    ("namespace", Word),
    ("pod", Word),
    ("workload", Word),
    ("workload_kind", Word),
    ("labels", Words),
    ("ips", Words),
    ("identity", U32),
    ("interface", Word),
];

const L7: &[Column] = &[
    ("flow_id", Text),
    ("time", Time),
    ("cluster", Word),
    ("node", Word),
    ("protocol", Word),
    ("method", Word),
    ("path", Text),
    ("host", Word),
    ("status", U16),
    ("latency_us", U64),
    ("query", Word),
    ("qtypes", Words),
    ("rcode", Word),
    ("ips", Words),
    ("source_ip", Word),
    ("destination_ip", Word),
];

const SERVICES: &[Column] = &[
    ("valid_from", Time),
    ("valid_to", Time),
    ("cluster", Word),
    ("node", Word),
    ("namespace", Word),
    ("name", Word),
    ("service_type", Word),
    ("cluster_ips", Words),
    ("ports", Words),
    ("backends", Words),
];

const POLICIES: &[Column] = &[
    ("valid_from", Time),
    ("valid_to", Time),
    ("cluster", Word),
    ("node", Word),
    ("kind", Word),
    ("namespace", Word),
    ("name", Word),
    ("revision", U64),
    ("spec", Text),
];

const IDENTITIES: &[Column] = &[
    ("valid_from", Time),
    ("valid_to", Time),
    ("cluster", Word),
    ("node", Word),
    ("identity", U32),
    ("labels", Words),
];

// === impl Table ===

impl Table {
    /// Every table, in the order of their numbers on the wire.
    pub const ALL: [Self; 10] = [
        Self::Flows,
        Self::Drops,
        Self::Losses,
        Self::Counters,
        Self::Nodes,
        Self::Endpoints,
        Self::L7,
        Self::Services,
        Self::Policies,
        Self::Identities,
    ];

    /// The name in SQL and on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Flows => "flows",
            Self::Drops => "drops",
            Self::Losses => "losses",
            Self::Counters => "counters",
            Self::Nodes => "nodes",
            Self::Endpoints => "endpoints",
            Self::L7 => "l7",
            Self::Services => "services",
            Self::Policies => "policies",
            Self::Identities => "identities",
        }
    }

    /// The table of that name, if there is one.
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|table| table.name() == name)
    }

    /// The column that a row's place in time is read from.
    pub const fn time_column(self) -> &'static str {
        match self {
            Self::Flows => "start_time",
            Self::Drops | Self::Losses | Self::Counters | Self::L7 => "time",
            Self::Nodes | Self::Endpoints | Self::Services | Self::Policies | Self::Identities => {
                "valid_from"
            }
        }
    }

    /// Name and kind of every column, in order.
    pub const fn columns(self) -> &'static [(&'static str, ColumnKind)] {
        match self {
            Self::Flows => FLOWS,
            Self::Drops => DROPS,
            Self::Losses => LOSSES,
            Self::Counters => COUNTERS,
            Self::Nodes => NODES,
            Self::Endpoints => ENDPOINTS,
            Self::L7 => L7,
            Self::Services => SERVICES,
            Self::Policies => POLICIES,
            Self::Identities => IDENTITIES,
        }
    }

    /// The Arrow schema; every column but the time column is nullable.
    pub fn schema(self) -> SchemaRef {
        static SCHEMAS: LazyLock<[SchemaRef; 10]> = LazyLock::new(|| Table::ALL.map(build));
        Arc::clone(&SCHEMAS[self as usize])
    }
}

fn build(table: Table) -> SchemaRef {
    let fields: Vec<Field> = table
        .columns()
        .iter()
        .map(|(name, kind)| Field::new(*name, kind.data_type(), *name != table.time_column()))
        .collect();
    Arc::new(Schema::new(fields))
}

// === impl ColumnKind ===

impl ColumnKind {
    /// The Arrow type.
    pub fn data_type(self) -> DataType {
        match self {
            Self::Time => DataType::Timestamp(TimeUnit::Nanosecond, Some("UTC".into())),
            Self::U64 => DataType::UInt64,
            Self::U32 => DataType::UInt32,
            Self::U16 => DataType::UInt16,
            Self::U8 => DataType::UInt8,
            Self::Bool => DataType::Boolean,
            Self::Word => DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8)),
            Self::Text => DataType::Utf8,
            Self::Words => DataType::List(Arc::new(Field::new("item", DataType::Utf8, true))),
        }
    }
}
