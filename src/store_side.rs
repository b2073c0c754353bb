//! Relay, store and page: what runs once, whether in `weir up` or in `weir-relay`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use flowstore::{Ingest, Store};
use stage::StopToken;

use crate::size::{ByteSize, Span};

/// Options of the store and the page.
#[derive(Debug, Clone, clap::Args)]
#[group(id = "store_options")]
pub struct Args {
    /// Where the page and the HTTP API listen; port 0 picks one and prints it.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:4280")]
    pub listen: SocketAddr,
    /// Where gRPC (health, reflection) listens; `off` for nowhere.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:4245")]
    pub grpc: Listen,
    /// Remove rows older than this (`12h`, `30d`); `off` keeps them.
    #[arg(long, value_name = "AGE", default_value = "30d")]
    pub retention: Span,
    /// Remove the oldest rows beyond this size on disk (`500MiB`, `20GiB`); `off` sets no limit.
    #[arg(long, value_name = "SIZE", default_value = "off")]
    pub retention_size: ByteSize,
    /// Stop taking in flows while the disk has less than this free.
    #[arg(long, value_name = "SIZE", default_value = "256MiB")]
    pub min_free: ByteSize,
    /// Write rows as a sorted segment at this age.
    #[arg(long, value_name = "AGE", default_value = "5m")]
    pub segment_age: Span,
}

/// An address, or nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listen(pub Option<SocketAddr>);

/// The running parts.
#[derive(Debug)]
pub struct StoreSide {
    /// The store.
    pub store: Store,
    /// The relay's view of its peers.
    pub relay: relay::Handle,
    /// Where the page is.
    pub address: SocketAddr,
    tasks: tokio::task::JoinSet<Result<()>>,
    relay_stop: StopToken,
    page_stop: StopToken,
}

/// What the page asks of the process.
struct Backend {
    relay: relay::Handle,
    store: Store,
    registry: prometheus::Registry,
    stages: stage::StageMetrics,
}

// === impl Listen ===

impl std::str::FromStr for Listen {
    type Err = std::net::AddrParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "off" { Ok(Self(None)) } else { text.parse().map(|address| Self(Some(address))) }
    }
}

// === impl StoreSide ===

impl StoreSide {
    /// Opens the store in `dir`, begins to take in from `peers`, and serves the page.
    ///
    /// # Errors
    /// When the store is in use or unreadable, or a port is taken.
    pub async fn start(
        args: &Args,
        dir: PathBuf,
        peers: Vec<relay::Peer>,
        registry: &prometheus::Registry,
        stages: &stage::Registry,
        stage_metrics: stage::StageMetrics,
    ) -> Result<Self> {
        let stop = StopToken::new();
        let mut config = flowstore::Config::new(&dir);
        config.retention_age = args.retention.0;
        config.retention_bytes = args.retention_size.0;
        config.min_free_bytes = args.min_free.0.unwrap_or(0);
        config.hot_age = args.segment_age.0.unwrap_or(Duration::MAX);
        let (metrics, registered) = (registry.clone(), stages.clone());
        let store_stop = stop.clone();
        let opened = tokio::task::spawn_blocking(move || {
            Store::open(config, &metrics, registered, store_stop)
        });
        let (store, report) =
            opened.await?.with_context(|| format!("cannot open the store in {}", dir.display()))?;
        if report.is_clean() {
            tracing::info!(rows = report.segment_rows + report.log_rows, elapsed = ?report.elapsed, "store opened");
        } else {
            tracing::warn!(?report, "store opened; some of it was damaged");
        }

        let relay_config = relay::Config { peers, listen: args.grpc.0, ..relay::Config::default() };
        let relay = relay::Relay::new(relay_config, store.clone(), registry).await?;
        let handle = relay.handle();
        let backend = Arc::new(Backend {
            relay: handle.clone(),
            store: store.clone(),
            registry: registry.clone(),
            stages: stage_metrics,
        });
        let page = ui::Server::bind(
            ui::Config::new(args.listen),
            store.clone(),
            backend,
            registry,
            stages,
        )
        .await?;
        let address = page.local_addr();

        let (relay_stop, page_stop) = (stop.child(), stop.child());
        let mut tasks = tokio::task::JoinSet::new();
        let token = relay_stop.clone();
        tasks.spawn(async move { relay.run(token).await.context("relay") });
        let token = page_stop.clone();
        tasks.spawn(async move { page.run(token).await.context("page") });
        Ok(Self { store, relay: handle, address, tasks, relay_stop, page_stop })
    }

    /// Waits until a part ends by itself, which is a failure.
    ///
    /// # Errors
    /// What the part failed with.
    pub async fn failed(&mut self) -> Result<()> {
        match self.tasks.join_next().await {
            Some(ended) => {
                ended?.and_then(|()| anyhow::bail!("a part of the relay ended by itself"))
            }
            None => std::future::pending().await,
        }
    }

    /// Ends ingest, then the page, then brings the hot rows to disk.
    ///
    /// # Errors
    /// What a part failed with.
    pub async fn stop(mut self) -> Result<()> {
        self.relay_stop.stop();
        self.page_stop.stop();
        while let Some(ended) = self.tasks.join_next().await {
            ended??;
        }
        // A store whose disk is full has its rows in the log, and loses nothing.
        if let Err(error) = self.store.flush().await {
            tracing::warn!(%error, "the last rows stay in the log");
        }
        Ok(())
    }
}

// === impl Backend ===

impl std::fmt::Debug for Backend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Backend").finish_non_exhaustive()
    }
}

impl ui::Backend for Backend {
    fn nodes(&self) -> Vec<ui::Node> {
        self.relay.nodes().into_iter().map(node).collect()
    }

    fn metrics(&self) -> String {
        self.stages.refresh();
        prometheus::TextEncoder::new()
            .encode_to_string(&self.registry.gather())
            .unwrap_or_else(|error| format!("# {error}\n"))
    }

    fn ready(&self) -> Result<(), String> {
        match self.store.ingest() {
            Ingest::Stopped(why) => Err(format!("ingest stopped: {why}")),
            _ => Ok(()),
        }
    }
}

fn node(status: relay::NodeStatus) -> ui::Node {
    let some = |text: String| (!text.is_empty()).then_some(text);
    ui::Node {
        name: status.name,
        address: some(status.uri),
        connected: status.connected,
        last_seen: status.last_seen,
        lag_ms: status.lag_ms,
        flows_per_s: status.connected.then_some(status.flows_per_second),
        version: some(status.version),
        mode: some(status.mode),
        kernel: some(status.kernel),
        problem: status.stalled.or(status.error),
        warnings: status.warnings,
        features: status
            .features
            .into_iter()
            .map(|feature| ui::Feature {
                name: feature.name,
                on: feature.on,
                why: some(feature.why),
            })
            .collect(),
        interfaces: status
            .interfaces
            .into_iter()
            .map(|interface| ui::Interface {
                name: interface.name,
                attached_by: interface.attached_by,
                rx_bytes: interface.rx_bytes,
                tx_bytes: interface.tx_bytes,
                unattributed_bytes: interface.unattributed_bytes,
                pod: some(interface.pod),
            })
            .collect(),
    }
}
