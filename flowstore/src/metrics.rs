//! Metrics of the store; names are part of the surface.

use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry,
};

/// Everything the store counts.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    pub(crate) appended_rows: IntCounterVec,
    pub(crate) duplicates: IntCounter,
    pub(crate) missed_batches: IntCounter,
    pub(crate) wal_sync_seconds: Histogram,
    pub(crate) wal_bytes: IntCounter,
    pub(crate) hot_rows: IntGauge,
    pub(crate) hot_bytes: IntGauge,
    pub(crate) segments: IntGaugeVec,
    pub(crate) segment_bytes: IntGaugeVec,
    pub(crate) flush_seconds: Histogram,
    pub(crate) compactions: IntCounter,
    pub(crate) removed_rows: IntCounterVec,
    pub(crate) corrupt_rows: IntCounterVec,
    pub(crate) query_seconds: HistogramVec,
    pub(crate) queries: IntCounterVec,
    pub(crate) ingest_stopped: IntGauge,
}

// === impl Metrics ===

impl Metrics {
    pub(crate) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let seconds = |name: &str, help: &str, buckets: &[f64]| {
            HistogramOpts::new(name, help).buckets(buckets.to_vec())
        };
        let sync = [0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0, 5.0];
        let query = [0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0];
        let metrics = Self {
            appended_rows: IntCounterVec::new(
                Opts::new("weir_store_appended_rows_total", "Rows kept, by table."),
                &["table"],
            )?,
            duplicates: IntCounter::new(
                "weir_store_duplicates_total",
                "Batches dropped because they were kept before.",
            )?,
            missed_batches: IntCounter::new(
                "weir_store_missed_batches_total",
                "Batches whose sequence number never came.",
            )?,
            wal_sync_seconds: Histogram::with_opts(seconds(
                "weir_store_wal_sync_seconds",
                "Time to write and sync one group of the log.",
                &sync,
            ))?,
            wal_bytes: IntCounter::new("weir_store_wal_bytes_total", "Bytes put into the log.")?,
            hot_rows: IntGauge::new("weir_store_hot_rows", "Rows in memory.")?,
            hot_bytes: IntGauge::new("weir_store_hot_bytes", "Bytes of rows in memory.")?,
            segments: IntGaugeVec::new(
                Opts::new("weir_store_segments", "Segments, by table."),
                &["table"],
            )?,
            segment_bytes: IntGaugeVec::new(
                Opts::new("weir_store_segment_bytes", "Bytes of segments, by table."),
                &["table"],
            )?,
            flush_seconds: Histogram::with_opts(seconds(
                "weir_store_flush_seconds",
                "Time to write the rows in memory as segments.",
                &query,
            ))?,
            compactions: IntCounter::new(
                "weir_store_compactions_total",
                "Merges of small segments.",
            )?,
            removed_rows: IntCounterVec::new(
                Opts::new("weir_store_retention_rows_total", "Rows removed by retention."),
                &["table"],
            )?,
            corrupt_rows: IntCounterVec::new(
                Opts::new("weir_store_corrupt_rows_total", "Rows lost to damaged files."),
                &["table"],
            )?,
            query_seconds: HistogramVec::new(
                seconds("weir_store_query_seconds", "Time of queries, by outcome.", &query),
                &["outcome"],
            )?,
            queries: IntCounterVec::new(
                Opts::new("weir_store_queries_total", "Queries, by outcome."),
                &["outcome"],
            )?,
            ingest_stopped: IntGauge::new(
                "weir_store_ingest_stopped",
                "1 while the disk takes nothing, else 0.",
            )?,
        };
        registry.register(Box::new(metrics.appended_rows.clone()))?;
        registry.register(Box::new(metrics.duplicates.clone()))?;
        registry.register(Box::new(metrics.missed_batches.clone()))?;
        registry.register(Box::new(metrics.wal_sync_seconds.clone()))?;
        registry.register(Box::new(metrics.wal_bytes.clone()))?;
        registry.register(Box::new(metrics.hot_rows.clone()))?;
        registry.register(Box::new(metrics.hot_bytes.clone()))?;
        registry.register(Box::new(metrics.segments.clone()))?;
        registry.register(Box::new(metrics.segment_bytes.clone()))?;
        registry.register(Box::new(metrics.flush_seconds.clone()))?;
        registry.register(Box::new(metrics.compactions.clone()))?;
        registry.register(Box::new(metrics.removed_rows.clone()))?;
        registry.register(Box::new(metrics.corrupt_rows.clone()))?;
        registry.register(Box::new(metrics.query_seconds.clone()))?;
        registry.register(Box::new(metrics.queries.clone()))?;
        registry.register(Box::new(metrics.ingest_stopped.clone()))?;
        Ok(metrics)
    }
}
