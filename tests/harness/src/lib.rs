//! Nodes and pods made of network namespaces, and traffic between them.
//!
//! Everything here is real: namespaces, veth pairs, routes, processes. What a run makes is named
//! `weir-<id>-…`, so that it can be found and removed even after the run was killed ([`run`]).

#![forbid(unsafe_code)]

use std::io;
use std::path::PathBuf;

pub mod balance;
pub mod capture;
pub mod cluster;
pub mod counters;
pub mod disk;
pub mod http;
pub mod metrics;
pub mod netns;
pub mod process;
pub mod run;
pub mod sql;
pub mod traffic;
mod turn;
mod wait;
pub mod weir;

pub use cluster::{Cluster, Node, Pod, PodSpec};
pub use netns::Netns;
pub use process::Process;
pub use run::Run;
pub use turn::{long, serial};
pub use wait::{wait_for, wait_until};

/// What can go wrong while a cluster is built or asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Namespaces need root.
    #[error("network namespaces need root (run as root or with sudo)")]
    NotRoot,
    /// The run is in use by a living process.
    #[error("another run named {0} is in progress")]
    Busy(String),
    /// A file, directory or socket.
    #[error("{path}: {source}")]
    File {
        /// Which one.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A program could not be started.
    #[error("can't run {program}: {source} (is it installed?)")]
    Program {
        /// Its name.
        program: String,
        /// What the system said.
        source: io::Error,
    },
    /// A program failed.
    #[error("{command}: {output}")]
    Command {
        /// How it was called.
        command: String,
        /// What it printed.
        output: String,
    },
    /// A namespace could not be entered.
    #[error("namespace {name}: {source}")]
    Namespace {
        /// Its name.
        name: String,
        /// What the system said.
        source: io::Error,
    },
    /// A request was not answered, or not as expected.
    #[error("{url}: {what}")]
    Http {
        /// What was asked.
        url: String,
        /// What came instead.
        what: String,
    },
    /// A condition did not come true in time.
    #[error("timed out after {seconds} s: {what}")]
    Timeout {
        /// What was waited for.
        what: String,
        /// How long.
        seconds: u64,
    },
}

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

pub(crate) fn file_error(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Error {
    let path = path.into();
    move |source| Error::File { path, source }
}
