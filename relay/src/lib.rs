//! The relay: takes in what the agents export and keeps it in the store.
//!
//! One task per peer holds one export stream. A batch is acknowledged when the store says that it
//! is durable, and not before; so whatever stops in between comes again, and the store drops what
//! it already has. While the disk takes nothing the stream is not read: the agent's bounded spool
//! holds what is new.
//!
//! Invariant: every batch that an agent numbered is either in the store once, or explained by a
//! row of `losses`.

#![forbid(unsafe_code)]

mod connect;
mod loss;
mod metrics;
mod peer;
mod sequence;
mod server;
mod session;
mod status;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use flowstore::Store;
use stage::StopToken;
use tokio::task::JoinSet;

use crate::connect::Connection;
use crate::metrics::Metrics;
use crate::status::Board;

pub use crate::peer::{Peer, PeerError};
pub use crate::status::{Feature, Handle, Interface, NodeStatus};

/// How a relay is set up.
#[derive(Debug, Clone)]
pub struct Config {
    /// Name that agents see in logs and metrics.
    pub name: String,
    /// The agents to take in from.
    pub peers: Vec<Peer>,
    /// Most batches under way from one agent without acknowledgement. 16 batches of 4096 rows keep
    /// a stream busy over one sync of the log and bound the memory to a few MiB a peer.
    pub window: u32,
    /// Where gRPC health and reflection are served; `None` for nowhere.
    pub listen: Option<SocketAddr>,
    /// A stream that says nothing for so long is dead. Agents send a heartbeat every two seconds.
    pub silence: Duration,
    /// Longest pause between two tries to connect.
    pub max_backoff: Duration,
    /// How often the store is tried again while its disk takes nothing.
    pub stopped_retry: Duration,
    /// How often an agent is asked what it is and how it does.
    pub status_interval: Duration,
}

/// What can go wrong when a relay starts.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A metric's name was taken.
    #[error(transparent)]
    Metrics(#[from] prometheus::Error),
    /// The gRPC port could not be opened.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The gRPC server failed.
    #[error("gRPC server: {0}")]
    Serve(#[from] tonic::transport::Error),
    /// The reflection service could not read its own descriptors: a defect.
    #[error("gRPC reflection: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// Two peers are the same.
    #[error("peer {0} is given twice")]
    DuplicatePeer(String),
}

/// A relay that is set up but does not run yet.
#[derive(Debug)]
pub struct Relay {
    config: Arc<Config>,
    store: Store,
    metrics: Metrics,
    board: Board,
    listener: Option<tokio::net::TcpListener>,
}

// === impl Config ===

impl Default for Config {
    fn default() -> Self {
        Self {
            name: "relay".to_owned(),
            peers: Vec::new(),
            window: 16,
            listen: None,
            silence: Duration::from_secs(7),
            max_backoff: Duration::from_secs(5),
            stopped_retry: Duration::from_millis(500),
            status_interval: Duration::from_secs(5),
        }
    }
}

// === impl Relay ===

impl Relay {
    /// Sets up a relay over `store` and opens its port.
    ///
    /// # Errors
    /// When a peer is given twice, the port is taken, or a metric's name is.
    pub async fn new(
        config: Config,
        store: Store,
        metrics: &prometheus::Registry,
    ) -> Result<Self, Error> {
        for (i, peer) in config.peers.iter().enumerate() {
            if config.peers[..i].iter().any(|other| other.uri() == peer.uri()) {
                return Err(Error::DuplicatePeer(peer.uri().to_owned()));
            }
        }
        let listener = match config.listen {
            None => None,
            Some(address) => Some(
                tokio::net::TcpListener::bind(address)
                    .await
                    .map_err(|source| Error::Listen { address, source })?,
            ),
        };
        let metrics = Metrics::register(metrics)?;
        let board = Board::new(&config.peers);
        Ok(Self { config: Arc::new(config), store, metrics, board, listener })
    }

    /// A handle to ask how the peers are doing, also while the relay runs.
    pub fn handle(&self) -> Handle {
        self.board.handle()
    }

    /// Where gRPC is served; tells the port when 0 was asked for.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.listener.as_ref().and_then(|listener| listener.local_addr().ok())
    }

    /// Runs until `stop`. What was received by then is appended and acknowledged before it
    /// returns.
    ///
    /// # Errors
    /// When the gRPC server fails. Peers that fail are tried again.
    pub async fn run(self, stop: StopToken) -> Result<(), Error> {
        let mut tasks = JoinSet::new();
        for (index, peer) in self.config.peers.iter().enumerate() {
            let connection = Connection {
                config: Arc::clone(&self.config),
                peer: peer.clone(),
                slot: self.board.slot(index),
                store: self.store.clone(),
                metrics: self.metrics.clone(),
            };
            tasks.spawn(connection.run(stop.clone()));
        }
        let report = status::report(
            self.board.handle(),
            self.store.clone(),
            self.metrics.clone(),
            stop.clone(),
        );
        tasks.spawn(report);
        let served = match self.listener {
            Some(listener) => server::serve(listener, self.board.handle(), stop.clone()).await,
            None => {
                stop.stopped().await;
                Ok(())
            }
        };
        if served.is_err() {
            stop.stop();
        }
        while tasks.join_next().await.is_some() {}
        served
    }
}
