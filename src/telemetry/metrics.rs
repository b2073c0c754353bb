//! A registry's metrics as OTLP (opentelemetry-proto, metrics/v1), sent every ten seconds.
//!
//! The registry stays the one place where metrics live: it is read when it is sent, so whatever is
//! registered later, and every label that comes up later, is there too.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_client::MetricsServiceClient;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value};
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint,
    ResourceMetrics, ScopeMetrics, Sum, metric, number_data_point,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use prometheus::proto::{LabelPair, MetricFamily, MetricType};
use stage::StopToken;
use tonic::transport::{Channel, Endpoint};

const INTERVAL: Duration = Duration::from_secs(10);
const TIMEOUT: Duration = Duration::from_secs(5);

/// Where the metrics of one process go.
#[derive(Debug)]
pub(super) struct Exporter {
    client: MetricsServiceClient<Channel>,
    service: &'static str,
    registry: prometheus::Registry,
    /// Start of the process' counters, nanoseconds since the epoch.
    since: u64,
    failing: bool,
}

// === impl Exporter ===

impl Exporter {
    /// Connects when it first sends.
    ///
    /// # Errors
    /// When the URL cannot be understood.
    pub(super) fn new(
        url: &str,
        service: &'static str,
        registry: prometheus::Registry,
    ) -> Result<Self, tonic::transport::Error> {
        let channel = Endpoint::from_shared(url.to_owned())?.timeout(TIMEOUT).connect_lazy();
        let client = MetricsServiceClient::new(channel);
        Ok(Self { client, service, registry, since: now(), failing: false })
    }

    /// Sends until stopped, and once more then.
    pub(super) async fn run(mut self, stop: StopToken) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(INTERVAL) => self.send().await,
                () = stop.stopped() => return self.send().await,
            }
        }
    }

    async fn send(&mut self) {
        let request = request(self.service, &self.registry.gather(), self.since, now());
        let failed = self.client.export(request).await.err();
        match (&failed, self.failing) {
            (Some(error), false) => {
                tracing::warn!(%error, "metrics do not reach the OTLP endpoint")
            }
            (None, true) => tracing::info!("metrics reach the OTLP endpoint again"),
            _ => {}
        }
        self.failing = failed.is_some();
    }
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

fn request(
    service: &str,
    families: &[MetricFamily],
    since: u64,
    at: u64,
) -> ExportMetricsServiceRequest {
    let metrics = families.iter().filter_map(|family| metric(family, since, at)).collect();
    let scope = InstrumentationScope {
        name: "weir".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..InstrumentationScope::default()
    };
    let resource =
        Resource { attributes: vec![attribute("service.name", service)], ..Resource::default() };
    ExportMetricsServiceRequest {
        resource_metrics: vec![ResourceMetrics {
            resource: Some(resource),
            scope_metrics: vec![ScopeMetrics {
                scope: Some(scope),
                metrics,
                ..ScopeMetrics::default()
            }],
            ..ResourceMetrics::default()
        }],
    }
}

fn metric(family: &MetricFamily, since: u64, at: u64) -> Option<Metric> {
    let number = |value: f64, labels: &[LabelPair]| NumberDataPoint {
        attributes: attributes(labels),
        start_time_unix_nano: since,
        time_unix_nano: at,
        value: Some(number_data_point::Value::AsDouble(value)),
        ..NumberDataPoint::default()
    };
    let each = family.get_metric().iter();
    let temporality = AggregationTemporality::Cumulative as i32;
    let data = match family.get_field_type() {
        MetricType::COUNTER => metric::Data::Sum(Sum {
            data_points: each
                .map(|one| number(one.get_counter().get_value(), one.get_label()))
                .collect(),
            aggregation_temporality: temporality,
            is_monotonic: true,
        }),
        MetricType::GAUGE => metric::Data::Gauge(Gauge {
            data_points: each
                .map(|one| number(one.get_gauge().get_value(), one.get_label()))
                .collect(),
        }),
        MetricType::HISTOGRAM => metric::Data::Histogram(Histogram {
            data_points: each.map(|one| histogram(one, since, at)).collect(),
            aggregation_temporality: temporality,
        }),
        // Weir has none of these.
        MetricType::SUMMARY | MetricType::UNTYPED => return None,
    };
    Some(Metric {
        name: family.name().to_owned(),
        description: family.help().to_owned(),
        data: Some(data),
        ..Metric::default()
    })
}

/// Prometheus counts cumulatively up to each bound; OTLP counts each bucket alone, the last one
/// without a bound.
fn histogram(one: &prometheus::proto::Metric, since: u64, at: u64) -> HistogramDataPoint {
    let histogram = one.get_histogram();
    let finite = histogram.get_bucket().iter().filter(|bucket| bucket.upper_bound().is_finite());
    let (mut bounds, mut counts, mut before) = (Vec::new(), Vec::new(), 0);
    for bucket in finite {
        bounds.push(bucket.upper_bound());
        counts.push(bucket.cumulative_count() - before);
        before = bucket.cumulative_count();
    }
    counts.push(histogram.get_sample_count() - before);
    HistogramDataPoint {
        attributes: attributes(one.get_label()),
        start_time_unix_nano: since,
        time_unix_nano: at,
        count: histogram.get_sample_count(),
        sum: Some(histogram.get_sample_sum()),
        bucket_counts: counts,
        explicit_bounds: bounds,
        ..HistogramDataPoint::default()
    }
}

fn attributes(labels: &[LabelPair]) -> Vec<KeyValue> {
    labels.iter().map(|label| attribute(label.name(), label.value())).collect()
}

fn attribute(key: &str, value: &str) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue { value: Some(any_value::Value::StringValue(value.to_owned())) }),
        ..KeyValue::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_keeps_its_numbers() {
        let registry = prometheus::Registry::new();
        let counter =
            prometheus::IntCounterVec::new(prometheus::Opts::new("a_total", "A."), &["cause"])
                .unwrap();
        let histogram = prometheus::Histogram::with_opts(
            prometheus::HistogramOpts::new("h_seconds", "H.").buckets(vec![1.0, 2.0]),
        )
        .unwrap();
        registry.register(Box::new(counter.clone())).unwrap();
        registry.register(Box::new(histogram.clone())).unwrap();
        // Labels that come up after registration count too.
        counter.with_label_values(&["full"]).inc_by(3);
        for seconds in [0.5, 1.5, 1.6, 9.0] {
            histogram.observe(seconds);
        }
        let request = request("s", &registry.gather(), 1, 2);
        let metrics = &request.resource_metrics[0].scope_metrics[0].metrics;
        let Some(metric::Data::Sum(sum)) = &metrics[0].data else { panic!("{metrics:?}") };
        assert!(sum.is_monotonic);
        assert_eq!(sum.data_points[0].value, Some(number_data_point::Value::AsDouble(3.0)));
        assert_eq!(sum.data_points[0].attributes, [attribute("cause", "full")]);
        let Some(metric::Data::Histogram(histogram)) = &metrics[1].data else { panic!() };
        let point = &histogram.data_points[0];
        assert_eq!((point.count, point.bucket_counts.as_slice()), (4, &[1, 2, 1][..]));
        assert_eq!(point.explicit_bounds, [1.0, 2.0]);
    }
}
