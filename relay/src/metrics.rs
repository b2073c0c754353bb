//! Metrics of the relay; names are part of the surface.

use prometheus::{GaugeVec, IntCounterVec, IntGaugeVec, Opts, Registry};

/// Everything the relay counts.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    /// Peers by state of their connection; Hubble's name and label.
    pub(crate) connection_status: IntGaugeVec,
    pub(crate) batches: IntCounterVec,
    pub(crate) rows: IntCounterVec,
    pub(crate) bytes: IntCounterVec,
    pub(crate) lag_seconds: GaugeVec,
    pub(crate) reconnects: IntCounterVec,
    pub(crate) gaps: IntCounterVec,
    pub(crate) corrupt_parts: IntCounterVec,
}

// === impl Metrics ===

impl Metrics {
    pub(crate) fn register(registry: &Registry) -> prometheus::Result<Self> {
        let counter = |name: &str, help: &str, label: &str| {
            let vec = IntCounterVec::new(Opts::new(name, help), &[label])?;
            registry.register(Box::new(vec.clone()))?;
            Ok::<_, prometheus::Error>(vec)
        };
        let connection_status = IntGaugeVec::new(
            Opts::new(
                "hubble_relay_pool_peer_connection_status",
                "Number of peers, by state of their connection.",
            ),
            &["status"],
        )?;
        registry.register(Box::new(connection_status.clone()))?;
        let lag_seconds = GaugeVec::new(
            Opts::new(
                "weir_relay_ingest_lag_seconds",
                "Age of the newest record of a node when it became durable, or of the oldest that is not yet.",
            ),
            &["node"],
        )?;
        registry.register(Box::new(lag_seconds.clone()))?;
        Ok(Self {
            connection_status,
            lag_seconds,
            batches: counter("weir_relay_batches_total", "Batches made durable, by node.", "node")?,
            rows: counter("weir_relay_rows_total", "Rows made durable, by table.", "table")?,
            bytes: counter(
                "weir_relay_bytes_total",
                "Encoded bytes made durable, by node.",
                "node",
            )?,
            reconnects: counter(
                "weir_relay_reconnects_total",
                "Streams that ended and were begun again, by peer.",
                "peer",
            )?,
            gaps: counter(
                "weir_relay_missed_batches_total",
                "Batches that never came and that no agent explained, by node.",
                "node",
            )?,
            corrupt_parts: counter(
                "weir_relay_corrupt_parts_total",
                "Parts of batches that could not be read, by node.",
                "node",
            )?,
        })
    }
}
