//! Metrics of the server; names are part of the surface.

use prometheus::{
    HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry,
};

/// Everything the server counts.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    pub(crate) requests: IntCounterVec,
    pub(crate) seconds: HistogramVec,
    pub(crate) live_streams: IntGauge,
    pub(crate) live_rows: IntCounter,
    pub(crate) live_lost: IntCounterVec,
}

// === impl Metrics ===

impl Metrics {
    pub(crate) fn register(registry: &Registry) -> prometheus::Result<Self> {
        let buckets = vec![0.001, 0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
        let metrics = Self {
            requests: IntCounterVec::new(
                Opts::new("weir_ui_requests_total", "Requests to the API, by route and status."),
                &["path", "status"],
            )?,
            seconds: HistogramVec::new(
                HistogramOpts::new("weir_ui_request_seconds", "Time to the head of an answer.")
                    .buckets(buckets),
                &["path"],
            )?,
            live_streams: IntGauge::new("weir_ui_live_streams", "Live streams that are open.")?,
            live_rows: IntCounter::new("weir_ui_live_rows_total", "Rows sent on live streams.")?,
            live_lost: IntCounterVec::new(
                Opts::new(
                    "weir_ui_live_lost_total",
                    "Rows left out of live streams, by cause; they are in history.",
                ),
                &["cause"],
            )?,
        };
        registry.register(Box::new(metrics.requests.clone()))?;
        registry.register(Box::new(metrics.seconds.clone()))?;
        registry.register(Box::new(metrics.live_streams.clone()))?;
        registry.register(Box::new(metrics.live_rows.clone()))?;
        registry.register(Box::new(metrics.live_lost.clone()))?;
        Ok(metrics)
    }
}
