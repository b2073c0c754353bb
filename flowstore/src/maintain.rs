//! What happens by itself: rows go from memory to segments, small segments are merged, old ones
//! removed, damaged ones found, and a stopped disk is tried again.

mod compact;
mod flush;
mod retain;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use columns::Table;
use columns::rows::{BatchBuilder, LossRow};
use futures::executor::block_on;
use model::{LossCause, LossStage};
use parking_lot::Mutex;
use stage::StopToken;
use tokio::sync::oneshot;

use crate::completeness::SEGMENT_DETAIL;
use crate::error::{Error, Result};
use crate::hot::{HotBatch, now};
use crate::manifest::Quarantined;
use crate::recover;
use crate::segment::{self, Segment};
use crate::shared::{Ingest, Shared};
use crate::wal::{Append, Command, Record};

/// After a failed write of segments, time until the next attempt.
const BACK_OFF: Duration = Duration::from_secs(1);

/// Bytes of segments that are checked per round after a start.
const SCRUB_BYTES: u64 = 16 << 20;

/// Rows below which batches in memory are merged with their neighbours.
const SMALL_BATCH: usize = 4096;

/// The maintenance of one store.
#[derive(Debug)]
pub(crate) struct Maintenance {
    shared: Arc<Shared>,
    /// Gone once the store closes: the writer ends with its last sender.
    commands: Mutex<Option<stage::Sender<Command>>>,
    /// Only one thing is done at a time.
    turn: Mutex<()>,
    /// Number of the next segment. Numbers are never used again, not even after a failure: a
    /// manifest whose sync failed may have become durable all the same and name that segment.
    next: AtomicU64,
    unchecked: Mutex<VecDeque<Weak<Segment>>>,
}

// === impl Maintenance ===

impl Maintenance {
    pub(crate) fn new(shared: Arc<Shared>, commands: stage::Sender<Command>) -> Self {
        let unchecked = all(&shared);
        let next = AtomicU64::new(shared.manifest.lock().next);
        Self {
            shared,
            commands: Mutex::new(Some(commands)),
            turn: Mutex::new(()),
            next,
            unchecked: Mutex::new(unchecked),
        }
    }

    /// Lets what is under way end, and nothing begin.
    pub(crate) fn close(&self) {
        let _turn = self.turn.lock();
        *self.commands.lock() = None;
    }

    fn send(&self, command: Command) -> Result<()> {
        let commands = self.commands.lock().clone().ok_or(Error::Closed)?;
        block_on(commands.send(command)).map_err(|_| Error::Closed)
    }

    /// Works until told to stop.
    pub(crate) fn run(&self, stop: &StopToken) {
        let mut failed: Option<Instant> = None;
        while !stop.is_stopped() {
            self.shared.wake.wait(self.shared.config.maintenance_interval);
            if stop.is_stopped() {
                break;
            }
            if self.shared.ingest() != Ingest::Running {
                let _ = self.send(Command::Probe);
            }
            if self.flush_due() && failed.is_none_or(|at| at.elapsed() >= BACK_OFF) {
                failed = match self.flush() {
                    Ok(_) => None,
                    Err(error) => {
                        tracing::warn!(%error, "rows in memory could not be written as segments");
                        Some(Instant::now())
                    }
                };
            }
            for work in [Self::coalesce, Self::compact, Self::retain, Self::scrub] {
                if let Err(error) = work(self) {
                    tracing::warn!(%error, "maintenance of the store failed");
                }
            }
        }
    }

    fn flush_due(&self) -> bool {
        let config = &self.shared.config;
        let snapshot = self.shared.snapshot();
        let mut oldest = snapshot.tables.iter().filter_map(|state| state.hot.first());
        self.shared.hot_rows() >= config.hot_rows
            || self.shared.hot_bytes() >= config.hot_bytes
            || oldest.any(|batch| batch.since.elapsed() >= config.hot_age)
    }

    /// Merges small neighbours in memory: a query pays for each batch that it visits.
    pub(crate) fn coalesce(&self) -> Result<()> {
        let _turn = self.turn.lock();
        let snapshot = self.shared.snapshot();
        for table in Table::ALL {
            let hot = &snapshot.table(table).hot;
            let mut at = 0;
            while at < hot.len() {
                let mut rows = 0;
                let run = hot[at..]
                    .iter()
                    .take_while(|batch| {
                        rows += batch.rows.num_rows();
                        batch.wal == hot[at].wal
                            && batch.rows.num_rows() < SMALL_BATCH
                            && rows <= 16 * SMALL_BATCH
                    })
                    .count();
                if run >= 8 {
                    self.replace_hot(table, &hot[at..at + run])?;
                }
                at += run.max(1);
            }
        }
        Ok(())
    }

    fn replace_hot(&self, table: Table, parts: &[Arc<HotBatch>]) -> Result<()> {
        let Some(whole) = HotBatch::concat(parts)? else { return Ok(()) };
        let whole = Arc::new(whole);
        self.shared.change(|snapshot| {
            let hot = &mut snapshot.table_mut(table).hot;
            let at = hot.iter().position(|batch| Arc::ptr_eq(batch, &parts[0]));
            if let Some(at) = at {
                hot.splice(at..at + parts.len(), [whole]);
            }
        });
        Ok(())
    }

    /// Checks every byte of the segments that were there at the start, a few at a time; of all, once
    /// a query stumbled over one.
    fn scrub(&self) -> Result<()> {
        if self.shared.suspect.swap(false, Ordering::Relaxed) {
            *self.unchecked.lock() = all(&self.shared);
        }
        let mut bytes = 0;
        while bytes < SCRUB_BYTES {
            let Some(next) = self.unchecked.lock().pop_front() else { break };
            let Some(segment) = next.upgrade() else { continue };
            bytes += segment.meta.bytes;
            self.check(&segment)?;
        }
        Ok(())
    }

    /// Checks every byte of every segment; the number of those that turned out damaged.
    pub(crate) fn verify(&self) -> Result<usize> {
        let snapshot = self.shared.snapshot();
        let mut damaged = 0;
        for segment in snapshot.segments() {
            damaged += usize::from(!self.check(segment)?);
        }
        Ok(damaged)
    }

    fn check(&self, segment: &Arc<Segment>) -> Result<bool> {
        match segment::check_whole(&segment.path, &segment.meta) {
            Ok(()) => Ok(true),
            Err(why) => {
                let _turn = self.turn.lock();
                self.quarantine(segment, why)?;
                Ok(false)
            }
        }
    }

    /// Takes a damaged segment out of use and tells what it cost. It must be the caller's turn.
    fn quarantine(&self, segment: &Arc<Segment>, why: String) -> Result<()> {
        let meta = &segment.meta;
        let mut present = false;
        let lost = Quarantined {
            table: meta.table,
            file: meta.file.clone(),
            rows: meta.rows,
            min_time: meta.min_time,
            max_time: meta.max_time,
            why,
        };
        self.shared.commit(|manifest| {
            let before = manifest.segments.len();
            manifest.segments.retain(|known| known.file != meta.file);
            present = manifest.segments.len() < before;
            if present {
                manifest.quarantined.push(lost.clone());
            }
        })?;
        if !present {
            return Ok(());
        }
        self.shared.change(|snapshot| {
            snapshot.table_mut(meta.table).cold.retain(|known| known.meta.file != meta.file);
            Arc::make_mut(&mut snapshot.quarantined).push(lost.clone());
        });
        recover::put_aside(&segment.path);
        self.report_damage(&lost)
    }

    /// Leaves a row about a damaged segment.
    pub(crate) fn report_damage(&self, lost: &Quarantined) -> Result<()> {
        tracing::error!(file = %lost.file, rows = lost.rows, why = %lost.why, "segment is damaged");
        let table = [lost.table.name()];
        self.shared.metrics.corrupt_rows.with_label_values(&table).inc_by(lost.rows);
        let detail = format!(
            "{SEGMENT_DETAIL}{} ({} to {}): {}",
            lost.file, lost.min_time, lost.max_time, lost.why
        );
        let flows = if lost.table == Table::Flows { lost.rows } else { 0 };
        self.report_loss(lost.rows.max(1), flows, 0, &detail)
    }

    /// Leaves a row about a loss of the disk.
    pub(crate) fn report_loss(
        &self,
        events: u64,
        flows: u64,
        bytes: u64,
        detail: &str,
    ) -> Result<()> {
        let (stage, cause) = (LossStage::Disk.name(), LossCause::Corrupt.name());
        let row = LossRow {
            time: now(),
            stage,
            cause,
            events,
            flows,
            bytes,
            detail,
            ..LossRow::default()
        };
        let mut builder = BatchBuilder::new(Table::Losses);
        row.push(&mut builder);
        let rows = builder.finish();
        let bytes = columns::ipc::encode(&rows, columns::ipc::Compression::None)
            .map_err(|error| Error::Internal(error.to_string()))?;
        let (reply, answer) = oneshot::channel();
        let append = Append {
            record: Record {
                node: String::new(),
                boot_id: String::new(),
                sequence: 0,
                parts: vec![(Table::Losses, bytes.into())],
            },
            local: true,
            batches: vec![HotBatch::new(Table::Losses, rows)?],
            reply,
        };
        self.send(Command::Append(append))?;
        block_on(answer).map_err(|_| Error::Closed)??;
        Ok(())
    }
}

/// All segments, newest first.
fn all(shared: &Shared) -> VecDeque<Weak<Segment>> {
    let snapshot = shared.snapshot();
    let mut segments: Vec<_> = snapshot.segments().collect();
    segments.sort_by_key(|segment| std::cmp::Reverse(segment.meta.max_time));
    segments.into_iter().map(Arc::downgrade).collect()
}
