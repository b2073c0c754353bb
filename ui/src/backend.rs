//! What the page shows that is not in the store: wired by whoever runs the server, so that this
//! crate knows no relay.

use std::fmt::Debug;

use serde::Serialize;

/// The process around the server.
pub trait Backend: Debug + Send + Sync + 'static {
    /// The nodes and how they are doing now.
    fn nodes(&self) -> Vec<Node>;

    /// The text of `/metrics`.
    fn metrics(&self) -> String;

    /// Whether the process can do its work now.
    ///
    /// # Errors
    /// Why it cannot.
    fn ready(&self) -> Result<(), String>;
}

/// A node, as the API gives it. Times in nanoseconds since the epoch.
#[derive(Debug, Clone, Default)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Where its agent is reached.
    pub address: Option<String>,
    /// Whether its stream stands.
    pub connected: bool,
    /// When it was last heard of.
    pub last_seen: Option<i64>,
    /// How far it lags behind, milliseconds.
    pub lag_ms: Option<u64>,
    /// Connections that it reports per second.
    pub flows_per_s: Option<f64>,
    /// Version of its agent.
    pub version: Option<String>,
    /// `observe`, `enforce` or `cni`.
    pub mode: Option<String>,
    /// Kernel release.
    pub kernel: Option<String>,
    /// Why there is no stream, or why nothing is taken from it.
    pub problem: Option<String>,
    /// What its agent complains about.
    pub warnings: Vec<String>,
    /// What the datapath can do there.
    pub features: Vec<Feature>,
    /// Interfaces that are observed.
    pub interfaces: Vec<Interface>,
}

/// Something that the datapath can do on a node, or why not.
#[derive(Debug, Clone, Serialize)]
pub struct Feature {
    /// Its name.
    pub name: String,
    /// Whether it is in use.
    pub on: bool,
    /// Why it is off, or what it uses.
    pub why: Option<String>,
}

/// Counters of an interface.
#[derive(Debug, Clone, Serialize)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// How the programs are attached.
    pub attached_by: String,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Bytes that belong to no known connection.
    pub unattributed_bytes: u64,
    /// The pod behind it, `namespace/name`.
    pub pod: Option<String>,
}
