//! The HTTP API and the page (port 4280 of the relay).
//!
//! `docs/http-api.md` says what each path answers. Everything is answered from the store; what
//! the store does not know (is a node connected?) comes through [`Backend`].
//!
//! Must not know: relay, agents, kernel, how rows are kept.

#![forbid(unsafe_code)]

mod answer;
mod app;
mod ask;
mod assets;
mod backend;
mod completeness;
mod drops;
mod error;
pub mod filter;
mod flows;
mod follow;
mod graph;
mod guard;
mod hub;
mod json;
mod metrics;
mod nodes;
mod params;
mod sql;
pub mod statement;
mod status;
mod things;
pub mod time;
mod timeline;
mod values;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use flowstore::Store;
use stage::StopToken;
use tokio::net::TcpListener;

use crate::app::App;
use crate::hub::Hub;
use crate::metrics::Metrics;

pub use crate::backend::{Backend, Feature, Interface, Node};
pub use crate::error::ApiError;

/// How the server is set up.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where to listen; port 0 picks one.
    pub listen: SocketAddr,
    /// Version that `/status` tells.
    pub version: String,
    /// Names, beside those of this machine, that a request's `Host` may have while the server
    /// listens on loopback only.
    pub hosts: Vec<String>,
    /// Bytes of a request's body.
    pub max_body: usize,
    /// Rows that a live stream may bring per second; more are sampled, and the stream says so.
    pub live_rows: usize,
    /// Rows that streams can resume over.
    pub live_buffer: usize,
    /// Time that a query behind the page may take.
    pub timeout: Duration,
}

/// What can go wrong when a server starts or runs.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The port could not be opened.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// A metric's name was taken.
    #[error(transparent)]
    Metrics(#[from] prometheus::Error),
    /// The server failed.
    #[error("web server: {0}")]
    Serve(io::Error),
}

/// A server whose port is open but that does not answer yet.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    app: App,
    hub: Hub,
}

// === impl Config ===

impl Config {
    /// The defaults, listening on `listen`.
    pub fn new(listen: SocketAddr) -> Self {
        Self {
            listen,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            hosts: Vec::new(),
            max_body: 1 << 20,
            live_rows: 500,
            live_buffer: 64 * 1024,
            timeout: Duration::from_secs(30),
        }
    }
}

// === impl Server ===

impl Server {
    /// Opens the port.
    ///
    /// # Errors
    /// When the port is taken or a metric's name is.
    pub async fn bind(
        config: Config,
        store: Store,
        backend: Arc<dyn Backend>,
        metrics: &prometheus::Registry,
        stages: &stage::Registry,
    ) -> Result<Self, Error> {
        let address = config.listen;
        let listener =
            TcpListener::bind(address).await.map_err(|source| Error::Listen { address, source })?;
        let metrics = Metrics::register(metrics)?;
        let hub = Hub::new(store.clone(), stages, config.live_buffer);
        let app = App::new(config, store, backend, hub.clone(), metrics);
        Ok(Self { listener, app, hub })
    }

    /// Where it listens; tells the port when 0 was asked for.
    pub fn local_addr(&self) -> SocketAddr {
        self.listener.local_addr().unwrap_or(self.app.config().listen)
    }

    /// Answers until `stop`; streams end then.
    ///
    /// # Errors
    /// When the listener fails.
    pub async fn run(self, stop: StopToken) -> Result<(), Error> {
        let loopback = self.local_addr().ip().is_loopback();
        let feeding = tokio::spawn(self.hub.clone().feed(stop.clone()));
        let router = app::router(self.app, loopback, &stop);
        let shutdown = {
            let stop = stop.clone();
            async move { stop.stopped().await }
        };
        let served = axum::serve(self.listener, router).with_graceful_shutdown(shutdown);
        let served = tokio::select! {
            served = served => served.map_err(Error::Serve),
            // A client that keeps its connection busy must not hold up the end.
            () = async { stop.stopped().await; tokio::time::sleep(Duration::from_secs(2)).await } => Ok(()),
        };
        feeding.abort();
        served
    }
}
