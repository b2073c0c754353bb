//! The live rows, once for all streams: a ring of what came last, numbered without holes.
//!
//! One task follows the store and fills the ring; each stream reads it at its own pace, by the
//! number of the next row it wants. So a stream can resume where it broke off, and what it missed
//! is a difference of two numbers.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arrow::array::RecordBatch;
use columns::Table;
use flowstore::{Covered, Store, TailItem};
use model::Completeness;
use parking_lot::Mutex;
use stage::{Ledger, StopToken};
use tokio::sync::watch;

use crate::{drops, time};

/// What a live view's status looks back on, nanoseconds.
const RECENT: i64 = 300_000_000_000;

/// How often streams are told how complete the recent past is.
const STATUS_PERIOD: Duration = Duration::from_secs(1);

/// The live rows.
#[derive(Debug, Clone)]
pub(crate) struct Hub(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: Store,
    ring: Mutex<Ring>,
    capacity: usize,
    /// Number of the next row; streams wait for it to change.
    next: watch::Sender<u64>,
    status: watch::Sender<Option<Arc<Completeness>>>,
    streams: AtomicU64,
    ledger: Arc<Ledger>,
}

#[derive(Debug, Default)]
struct Ring {
    chunks: VecDeque<Chunk>,
    rows: usize,
}

/// Rows that came together.
#[derive(Debug, Clone)]
pub(crate) struct Chunk {
    /// Number of the first row.
    pub(crate) first: u64,
    /// So many rows.
    pub(crate) count: u64,
    /// The rows; none for those that the store's tail left out.
    pub(crate) rows: Option<RecordBatch>,
    /// They are kernel drops, in the form of flows.
    pub(crate) drops: bool,
}

/// What is in the ring from a number on.
#[derive(Debug)]
pub(crate) struct Read {
    /// Rows before the first chunk that are no longer there.
    pub(crate) lost: u64,
    /// The first one may begin before the number that was asked for.
    pub(crate) chunks: Vec<Chunk>,
    /// What to ask for next.
    pub(crate) next: u64,
}

/// Counts the streams that are open.
#[derive(Debug)]
pub(crate) struct Guest(Hub);

// === impl Hub ===

impl Hub {
    pub(crate) fn new(store: Store, stages: &stage::Registry, capacity: usize) -> Self {
        // Numbers begin at the time of the start: those of an earlier process lie below, so that
        // their streams learn that they cannot resume.
        let (next, _) = watch::channel(u64::try_from(time::now()).unwrap_or(0));
        let (status, _) = watch::channel(None);
        Self(Arc::new(Inner {
            store,
            ring: Mutex::default(),
            capacity,
            next,
            status,
            streams: AtomicU64::new(0),
            ledger: stages.ledger("ui_live", capacity as u64),
        }))
    }

    /// Follows the store until `stop`.
    pub(crate) async fn feed(self, stop: StopToken) {
        let mut tail = self.0.store.tail_of(&[Table::Flows, Table::Drops]);
        let mut tick = tokio::time::interval(STATUS_PERIOD);
        loop {
            tokio::select! {
                () = stop.stopped() => return,
                item = tail.recv() => match item {
                    Some(TailItem::Rows(Table::Drops, rows)) => match drops::as_flows(&rows) {
                        Ok(rows) => self.put(rows.num_rows() as u64, Some(rows), true),
                        Err(error) => tracing::error!(%error, "kernel drops cannot be shown"),
                    },
                    Some(TailItem::Rows(_, rows)) => {
                        self.put(rows.num_rows() as u64, Some(rows), false);
                    }
                    Some(TailItem::Gap { lost }) => self.put(lost, None, false),
                    None => return,
                },
                _ = tick.tick() => self.assess().await,
            }
        }
    }

    /// Only while somebody watches.
    async fn assess(&self) {
        if self.0.streams.load(Ordering::Relaxed) == 0 {
            return;
        }
        let covered = Covered { from: Some(time::now() - RECENT), until: None };
        match self.0.store.completeness(covered).await {
            Ok(completeness) => drop(self.0.status.send_replace(Some(Arc::new(completeness)))),
            Err(error) => tracing::warn!(%error, "cannot tell how complete the live rows are"),
        }
    }

    fn put(&self, count: u64, rows: Option<RecordBatch>, drops: bool) {
        if count == 0 {
            return;
        }
        let first = *self.0.next.borrow();
        self.0.ledger.take(count);
        {
            let mut ring = self.0.ring.lock();
            ring.rows += rows.as_ref().map_or(0, RecordBatch::num_rows);
            ring.chunks.push_back(Chunk { first, count, rows, drops });
            while ring.rows > self.0.capacity && ring.chunks.len() > 1 {
                let Some(old) = ring.chunks.pop_front() else { break };
                ring.rows -= old.rows.as_ref().map_or(0, RecordBatch::num_rows);
                self.0.ledger.hand(old.count);
            }
        }
        self.0.next.send_replace(first + count);
    }

    /// What came from number `from` on.
    pub(crate) fn read(&self, from: u64) -> Read {
        let ring = self.0.ring.lock();
        // Read under the lock: the ring never ends behind it.
        let next = *self.0.next.borrow();
        let oldest = ring.chunks.front().map_or(next, |chunk| chunk.first);
        let chunks = ring.chunks.iter().filter(|chunk| chunk.first + chunk.count > from);
        let chunks: Vec<Chunk> = chunks.cloned().collect();
        let end = chunks.last().map_or(next, |chunk| chunk.first + chunk.count);
        Read { lost: oldest.saturating_sub(from), chunks, next: end }
    }

    /// Number of the next row.
    pub(crate) fn next(&self) -> u64 {
        *self.0.next.borrow()
    }

    /// Tells when there are more rows.
    pub(crate) fn watch(&self) -> watch::Receiver<u64> {
        self.0.next.subscribe()
    }

    /// How complete the recent past is.
    pub(crate) fn completeness(&self) -> Option<Arc<Completeness>> {
        self.0.status.borrow().clone()
    }

    /// Enters a stream.
    pub(crate) fn enter(&self) -> Guest {
        self.0.streams.fetch_add(1, Ordering::Relaxed);
        Guest(self.clone())
    }
}

// === impl Guest ===

impl Drop for Guest {
    fn drop(&mut self) {
        self.0.0.streams.fetch_sub(1, Ordering::Relaxed);
    }
}
