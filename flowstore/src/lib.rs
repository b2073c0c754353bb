//! The passive store of Weir: append a batch, query to a stream of record batches, tail.
//!
//! Append → write-ahead log, one sync per group → acknowledged → in memory, visible at once →
//! sorted Parquet segments → merged, and in the end removed. Readers see a snapshot in which every
//! row is exactly once. The store knows neither relay nor page: it takes configuration, a registry
//! of metrics and a stop token, and reads nothing else.

#![forbid(unsafe_code)]

mod answer;
mod completeness;
mod config;
mod dimension;
mod disk;
mod error;
mod hot;
mod maintain;
mod manifest;
mod metrics;
mod query;
mod recover;
mod segment;
mod shared;
mod store;
mod tail;
mod wal;
mod watermark;

pub use answer::arrow_to_parquet;
pub use completeness::{Covered, NodeLive, NodesView};
pub use config::{Config, QueryLimits};
pub use disk::{DiskOperation, FaultHook};
pub use error::{Error, Result};
pub use query::{Described, Param, QueryError, QueryRequest, QueryStats, QueryStream};
pub use recover::{ManifestState, QuarantinedSegment, RecoveryReport};
pub use shared::Ingest;
pub use store::{Appended, Batch, Status, Store};
pub use tail::{TailItem, TailReceiver};
