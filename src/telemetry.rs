//! Logs to standard error; traces and metrics by OTLP when an endpoint is given.

use std::io::IsTerminal as _;

use anyhow::{Context as _, Result};
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::WithExportConfig as _;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use stage::StopToken;
use tokio::task::JoinHandle;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

mod metrics;

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

/// What is sent; [`close`](Self::close) sends what is left.
#[derive(Debug, Default)]
pub struct Telemetry {
    traces: Option<SdkTracerProvider>,
    metrics: Option<JoinHandle<()>>,
    stop: StopToken,
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
        Ok(Self { traces, ..Self::default() })
    }

    /// Exports the metrics of `registry` too, every 10 s, when an endpoint is given.
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
        let exporter = metrics::Exporter::new(url, service, registry.clone())
            .with_context(|| format!("--otlp-endpoint {url}"))?;
        self.metrics = Some(tokio::spawn(exporter.run(self.stop.clone())));
        Ok(())
    }

    /// Sends what is left. Nothing is to be done about a collector that is gone.
    pub async fn close(self) {
        self.stop.stop();
        if let Some(metrics) = self.metrics {
            let _ = metrics.await;
        }
        if let Some(traces) = self.traces {
            // Waits for a connection that this runtime drives.
            let _ = tokio::task::spawn_blocking(move || traces.shutdown()).await;
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
