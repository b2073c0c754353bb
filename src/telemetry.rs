//! Logs to standard error; traces and metrics by OTLP when an endpoint is given.

use std::io::IsTerminal as _;
use std::time::Duration;

use anyhow::{Context as _, Result};
use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::WithExportConfig as _;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::SdkMeterProvider;
use opentelemetry_sdk::trace::SdkTracerProvider;
use prometheus::proto::MetricType;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// Logging and telemetry options of every process.
#[derive(Debug, Clone, Default, clap::Args)]
#[group(id = "telemetry_options")]
pub struct Args {
    /// What to log: `error`, `warn`, `info`, `debug`, or a filter such as `relay=debug,info`.
    #[arg(long, global = true, env = "WEIR_LOG", value_name = "FILTER", default_value = "info")]
    pub log: String,
    /// Log as JSON, one object a line.
    #[arg(long, global = true, env = "WEIR_LOG_JSON")]
    pub log_json: bool,
    /// Send Weir's own traces and metrics there by OTLP over gRPC (`http://host:4317`).
    #[arg(long, global = true, env = "OTEL_EXPORTER_OTLP_ENDPOINT", value_name = "URL")]
    pub otlp_endpoint: Option<String>,
}

/// Flushes what is left when dropped.
#[derive(Debug, Default)]
pub struct Telemetry {
    traces: Option<SdkTracerProvider>,
    metrics: Option<SdkMeterProvider>,
}

// === impl Telemetry ===

impl Telemetry {
    /// Installs logging, and with an endpoint the export of traces; call it once, inside a runtime.
    ///
    /// # Errors
    /// When the filter or the endpoint cannot be understood.
    pub fn install(args: &Args, service: &'static str) -> Result<Self> {
        let filter = EnvFilter::try_new(&args.log)
            .with_context(|| format!("--log {:?} is no log filter", args.log))?;
        let resource = Resource::builder().with_service_name(service).build();
        let traces = args.otlp_endpoint.as_deref().map(|url| tracer(url, resource)).transpose()?;
        let exported = traces
            .as_ref()
            .map(|provider| tracing_opentelemetry::layer().with_tracer(provider.tracer("weir")));
        let (json, text) = if args.log_json {
            (Some(tracing_subscriber::fmt::layer().json().with_writer(std::io::stderr)), None)
        } else {
            let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
            let layer = tracing_subscriber::fmt::layer().with_ansi(colour);
            (None, Some(layer.with_writer(std::io::stderr)))
        };
        tracing_subscriber::registry()
            .with(filter)
            .with(json)
            .with(text)
            .with(exported)
            .try_init()
            .context("logging is installed already")?;
        Ok(Self { traces, metrics: None })
    }

    /// Exports the counters and gauges of `registry` too, every 10 s, when an endpoint is given.
    /// Those that are registered later are left out.
    ///
    /// # Errors
    /// When the endpoint cannot be understood.
    pub fn export_metrics(
        &mut self,
        args: &Args,
        service: &'static str,
        registry: &prometheus::Registry,
    ) -> Result<()> {
        let Some(url) = args.otlp_endpoint.as_deref() else {
            return Ok(());
        };
        let exporter = opentelemetry_otlp::MetricExporter::builder()
            .with_tonic()
            .with_endpoint(url)
            .build()
            .with_context(|| format!("--otlp-endpoint {url}"))?;
        let reader = opentelemetry_sdk::metrics::PeriodicReader::builder(exporter)
            .with_interval(Duration::from_secs(10))
            .build();
        let provider = SdkMeterProvider::builder()
            .with_reader(reader)
            .with_resource(Resource::builder().with_service_name(service).build())
            .build();
        mirror(&provider, registry);
        self.metrics = Some(provider);
        Ok(())
    }
}

impl Drop for Telemetry {
    fn drop(&mut self) {
        // Nothing is to be done about a collector that is gone.
        if let Some(traces) = &self.traces {
            let _ = traces.shutdown();
        }
        if let Some(metrics) = &self.metrics {
            let _ = metrics.shutdown();
        }
    }
}

fn tracer(url: &str, resource: Resource) -> Result<SdkTracerProvider> {
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_tonic()
        .with_endpoint(url)
        .build()
        .with_context(|| format!("--otlp-endpoint {url}"))?;
    Ok(SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build())
}

/// One observable instrument for each family that is there now.
fn mirror(provider: &SdkMeterProvider, registry: &prometheus::Registry) {
    use opentelemetry::metrics::MeterProvider as _;
    let meter = provider.meter("weir");
    for family in registry.gather() {
        let (name, registry) = (family.name().to_owned(), registry.clone());
        let wanted = name.clone();
        match family.get_field_type() {
            MetricType::COUNTER => drop(
                meter
                    .f64_observable_counter(name)
                    .with_callback(move |to| {
                        each(&registry, &wanted, |value, labels| to.observe(value, labels));
                    })
                    .build(),
            ),
            MetricType::GAUGE => drop(
                meter
                    .f64_observable_gauge(name)
                    .with_callback(move |to| {
                        each(&registry, &wanted, |value, labels| to.observe(value, labels));
                    })
                    .build(),
            ),
            _ => {}
        }
    }
}

fn each(registry: &prometheus::Registry, name: &str, on: impl Fn(f64, &[KeyValue])) {
    for family in registry.gather().iter().filter(|family| family.name() == name) {
        for metric in family.get_metric() {
            let labels: Vec<KeyValue> = metric
                .get_label()
                .iter()
                .map(|label| KeyValue::new(label.name().to_owned(), label.value().to_owned()))
                .collect();
            let value = match family.get_field_type() {
                MetricType::COUNTER => metric.get_counter().get_value(),
                _ => metric.get_gauge().get_value(),
            };
            on(value, &labels);
        }
    }
}
