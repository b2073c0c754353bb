//! Which queries run and ran: `system.queries`, and their metrics.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::QueryError;
use crate::hot::now;
use crate::metrics::Metrics;

/// Queries that are remembered after they ended.
const KEPT: usize = 512;

/// The queries of a store.
#[derive(Debug)]
pub(super) struct QueryLog {
    metrics: Metrics,
    entries: Mutex<(u64, VecDeque<Entry>)>,
}

/// One query.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) id: u64,
    pub(super) sql: String,
    pub(super) started: i64,
    pub(super) elapsed: Option<Duration>,
    pub(super) rows: u64,
    pub(super) outcome: &'static str,
    pub(super) error: Option<String>,
}

/// A query under way. Dropped before its end, it was cancelled.
#[derive(Debug)]
pub(super) struct Running {
    log: Arc<QueryLog>,
    id: u64,
    since: Instant,
    rows: u64,
    ended: bool,
}

// === impl QueryLog ===

impl QueryLog {
    pub(super) fn new(metrics: Metrics) -> Self {
        Self { metrics, entries: Mutex::default() }
    }

    pub(super) fn start(self: &Arc<Self>, sql: &str) -> Running {
        let mut guard = self.entries.lock();
        let (last, entries) = &mut *guard;
        *last += 1;
        if entries.len() >= KEPT
            && let Some(at) = entries.iter().position(|entry| entry.elapsed.is_some())
        {
            entries.remove(at);
        }
        entries.push_back(Entry {
            id: *last,
            sql: sql.chars().take(4096).collect(),
            started: now(),
            elapsed: None,
            rows: 0,
            outcome: "running",
            error: None,
        });
        Running { log: Arc::clone(self), id: *last, since: Instant::now(), rows: 0, ended: false }
    }

    pub(super) fn entries(&self) -> Vec<Entry> {
        self.entries.lock().1.iter().cloned().collect()
    }
}

// === impl Running ===

impl Running {
    pub(super) fn count(&mut self, rows: usize) {
        self.rows += rows as u64;
    }

    pub(super) fn end(mut self, result: Result<(), &QueryError>) {
        match result {
            Ok(()) => self.note("ok", None),
            Err(error) => self.note(error.code(), Some(error.to_string())),
        }
    }

    fn note(&mut self, outcome: &'static str, error: Option<String>) {
        self.ended = true;
        let elapsed = self.since.elapsed();
        let metrics = &self.log.metrics;
        metrics.queries.with_label_values(&[outcome]).inc();
        metrics.query_seconds.with_label_values(&[outcome]).observe(elapsed.as_secs_f64());
        let mut guard = self.log.entries.lock();
        if let Some(entry) = guard.1.iter_mut().find(|entry| entry.id == self.id) {
            entry.elapsed = Some(elapsed);
            entry.rows = self.rows;
            entry.outcome = outcome;
            entry.error = error;
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.ended {
            let panicked = std::thread::panicking();
            self.note(if panicked { "panic" } else { "cancelled" }, None);
        }
    }
}
