//! What the store may use, with defaults and their reasons.

use std::path::PathBuf;
use std::time::Duration;

use crate::disk::FaultHook;

/// How a [`Store`](crate::Store) is set up.
#[derive(Debug, Clone)]
pub struct Config {
    /// The data directory; made if it is missing. One process at a time may use it.
    pub dir: PathBuf,
    /// Rows held in memory before they are written as segments. Half a million rows sort and
    /// compress well and cost about 200 MB.
    pub hot_rows: usize,
    /// Bytes held in memory before they are written as segments, whatever the rows.
    pub hot_bytes: usize,
    /// Age at which rows are written as segments even if they are few: bounds the log, and so the
    /// time that a start after a crash takes.
    pub hot_age: Duration,
    /// How long the log waits for company before it syncs. Zero: whatever queued up during the
    /// last sync is the next group, which adapts to the disk by itself.
    pub wal_sync_window: Duration,
    /// Rows older than this are removed, by whole segments. `None` keeps them.
    pub retention_age: Option<Duration>,
    /// Oldest segments are removed while all of them take more than this. `None` keeps them.
    pub retention_bytes: Option<u64>,
    /// Ingest stops while the file system has less than this free, so that there is room to write
    /// segments, which in turn frees the log.
    pub min_free_bytes: u64,
    /// Neighbouring small segments that are merged at once.
    pub compact_segments: usize,
    /// Rows beyond which a segment is not merged further; bounds the memory of a merge.
    pub compact_rows: usize,
    /// Items that a tail may lag behind before it loses some.
    pub tail_items: usize,
    /// How often age, retention and a stopped disk are looked at.
    pub maintenance_interval: Duration,
    /// Limits of queries.
    pub query: QueryLimits,
    /// Called before each operation on the disk; an error it returns is taken as the disk's.
    pub fault: Option<FaultHook>,
}

/// What queries may use; a request can ask for less, not for more.
#[derive(Debug, Clone)]
pub struct QueryLimits {
    /// Wall time of one query.
    pub timeout: Duration,
    /// Rows of one answer; more are cut off and the answer is marked as truncated.
    pub max_rows: usize,
    /// Bytes of working memory of one query.
    pub memory: usize,
    /// Bytes all queries together may spill to `tmp/` of the data directory; 0 turns it off.
    pub spill_bytes: u64,
    /// Queries that run at the same time; more wait for their turn until they time out.
    pub concurrent: usize,
    /// Threads that run queries. They are their own so that a heavy query starves no ingest.
    pub threads: usize,
    /// Bytes of one SQL text.
    pub sql_bytes: usize,
}

// === impl Config ===

impl Config {
    /// The defaults for a store in `dir`.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            hot_rows: 512 * 1024,
            hot_bytes: 256 << 20,
            hot_age: Duration::from_secs(300),
            wal_sync_window: Duration::ZERO,
            retention_age: Some(Duration::from_secs(30 * 24 * 3600)),
            retention_bytes: None,
            min_free_bytes: 256 << 20,
            compact_segments: 8,
            compact_rows: 1 << 20,
            tail_items: 256,
            maintenance_interval: Duration::from_millis(500),
            query: QueryLimits::default(),
            fault: None,
        }
    }

    /// Hot bytes beyond which appends wait for the segments to catch up.
    pub(crate) fn hot_limit(&self) -> usize {
        self.hot_bytes.saturating_mul(4)
    }
}

// === impl QueryLimits ===

impl Default for QueryLimits {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(60),
            max_rows: 1_000_000,
            memory: 512 << 20,
            spill_bytes: 2 << 30,
            concurrent: 8,
            threads: std::thread::available_parallelism().map_or(2, usize::from).max(2),
            sql_bytes: 64 << 10,
        }
    }
}
