//! The spool: batches on disk until the relay has made them durable.
//!
//! A log in segment files. A record that is there whole, with a matching checksum, is committed;
//! a torn one never was. The log also holds what the relay acknowledged and what was evicted, and
//! every segment begins with a summary of all that, so any number of older ones can go and nothing
//! has to be kept in step beside it.
//!
//! Durability: an append that returned survives `kill -9` of the agent at once, and power loss
//! after the next [`Spool::sync`] (every second, and when a segment is full). A power loss also
//! ends the kernel's counters, and with them the boot id: what it takes from the spool can only be
//! lost (at most that second), never come twice.
//!
//! Bounded: past [`Limits::bytes`] the oldest segment goes. The eviction is written to the log
//! before the file is removed, and the next batch carries it as a row of `losses`. Each record says
//! how much of it its row tells of, so that no crash loses or repeats a row; and when a batch with
//! such a row is itself evicted, what it told of is told again.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use stage::Ledger;
use tokio::sync::watch;

mod disk;
mod log;
mod record;

pub(crate) use disk::Disk;
#[cfg(test)]
pub(crate) use disk::{Fault, Op};
pub(crate) use record::{Part, Stored, Totals};

use log::{Entry, Log};
use record::{Data, Record};

/// How much the spool may hold.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Bytes of all segments together; exceeded by less than one batch.
    pub bytes: u64,
    /// Bytes after which a new segment is begun.
    pub segment: u64,
}

/// Place of a reader. Larger is later; 0 is before everything.
pub(crate) type Cursor = u64;

/// What the spool holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct SpoolState {
    /// Oldest batch of the current boot that can still be sent; 0 when there is none.
    pub oldest: u64,
    /// Newest committed batch of the current boot; 0 when there is none.
    pub newest: u64,
    /// Cursor of the newest batch of any boot.
    pub newest_cursor: Cursor,
    /// Cursor up to which batches are acknowledged.
    pub acked: Cursor,
    /// Bytes on disk.
    pub bytes: u64,
    /// Batches evicted before they were acknowledged, ever.
    pub evicted: Totals,
}

/// The batches of a node. Shared by the accountant, who commits, and the export streams, who read
/// and acknowledge.
#[derive(Debug)]
pub(crate) struct Spool {
    inner: Mutex<Inner>,
    newest: watch::Sender<Cursor>,
    ledger: Arc<Ledger>,
}

#[derive(Debug)]
struct Inner {
    log: Log,
    limits: Limits,
    boot: Arc<str>,
}

// === impl Limits ===

impl Limits {
    /// `bytes` in eight or more segments, so that an eviction gives up an eighth at most.
    pub(crate) fn new(bytes: u64) -> Self {
        let bytes = bytes.max(1 << 20);
        Self { bytes, segment: (bytes / 8).min(8 << 20) }
    }
}

// === impl Spool ===

impl Spool {
    /// Opens the spool in `dir`, which is made if need be. What a crash left half-written is cut
    /// off. Batches that wait are entered in `ledger`, whose items are batches.
    ///
    /// # Errors
    /// When the folder or a file in it cannot be read or written.
    pub(crate) fn open(
        dir: &Path,
        limits: Limits,
        disk: Disk,
        ledger: Arc<Ledger>,
    ) -> io::Result<Self> {
        std::fs::create_dir_all(dir)?;
        let log = Log::open(PathBuf::from(dir), disk)?;
        ledger.take(log.waiting().len() as u64);
        let (newest, _) = watch::channel(log.newest());
        let boot = Arc::from("");
        Ok(Self { inner: Mutex::new(Inner { log, limits, boot }), newest, ledger })
    }

    /// The boot that the newest segment belongs to.
    pub(crate) fn boot(&self) -> Option<String> {
        self.inner.lock().log.active_boot().map(str::to_owned)
    }

    /// Sets the boot that commits belong to, and notes it on disk. Returns the number of its last
    /// committed batch (0 when there is none) and when that was closed (nanoseconds since the
    /// epoch).
    ///
    /// # Errors
    /// When it could not be noted.
    pub(crate) fn begin(&self, boot: &str) -> io::Result<(u64, i64)> {
        let mut inner = self.inner.lock();
        if inner.log.active_boot() != Some(boot) {
            inner.log.rotate(boot)?;
        }
        inner.boot = Arc::from(boot);
        Ok(inner.log.last())
    }

    /// Commits a batch. When this returns, the batch survives the agent.
    ///
    /// # Errors
    /// When it could not be written; then it is not in the log, and no earlier one was harmed.
    pub(crate) fn commit(&self, sequence: u64, closed_at: i64, parts: Vec<Part>) -> io::Result<()> {
        let mut inner = self.inner.lock();
        let inner = &mut *inner;
        let told = inner.log.untold();
        let record = Record::Data(Data { sequence, closed_at, told, parts }).encode();
        inner.make_room(record.len() as u64, &self.ledger)?;
        inner.log.append_data(&inner.boot, &record)?;
        self.ledger.take(1);
        self.newest.send_replace(inner.log.newest());
        Ok(())
    }

    /// Evicted batches that no committed batch reports yet. The next [`commit`](Self::commit)
    /// must carry them.
    pub(crate) fn unreported(&self) -> Totals {
        self.inner.lock().log.untold()
    }

    /// The first batch behind `after`; `None` when there is none yet.
    ///
    /// # Errors
    /// When the file cannot be read. A batch that is damaged is skipped, counted as lost.
    pub(crate) fn next_after(&self, after: Cursor) -> io::Result<Option<(Cursor, Stored)>> {
        let mut after = after;
        loop {
            let found = self.inner.lock().log.locate(after);
            let Some((entry, place)) = found else { return Ok(None) };
            match place.read() {
                Ok(stored) => return Ok(Some((entry.cursor, stored))),
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    tracing::error!(sequence = entry.sequence, "damaged batch skipped");
                    self.ledger.lose("corrupt", 1);
                    self.inner.lock().log.damaged(entry.cursor);
                }
                Err(error) => return Err(error),
            }
            after = entry.cursor;
        }
    }

    /// Batches that turned out to be damaged since this was last asked.
    pub(crate) fn take_damaged(&self) -> Totals {
        self.inner.lock().log.take_damaged()
    }

    /// The cursor of a relay's last durable batch; `None` when this spool never had that boot, or
    /// has only later batches of it.
    pub(crate) fn find(&self, boot: &str, sequence: u64) -> Option<Cursor> {
        self.inner.lock().log.find(boot, sequence)
    }

    /// The first batch of the current boot that a reader after `after` can be told to expect. What
    /// was evicted it cannot, and rows of `losses` say so; what it once acknowledged and now does
    /// not have (its disk was put back to an older state) it must miss.
    pub(crate) fn oldest_after(&self, after: Option<(&str, u64)>) -> u64 {
        let inner = self.inner.lock();
        match after {
            Some((boot, _)) if boot == &*inner.boot => inner.log.last_evicted_of(boot) + 1,
            _ => inner.log.oldest_waiting().map_or(0, |entry| entry.sequence),
        }
    }

    /// Takes an acknowledgement: batches up to it are forgotten.
    ///
    /// # Errors
    /// When it could not be written to the log; then the batches stay, and a later one serves.
    pub(crate) fn ack(&self, boot: &str, sequence: u64) -> io::Result<()> {
        let mut inner = self.inner.lock();
        let gone = inner.log.ack(boot, sequence)?;
        self.ledger.hand(gone);
        Ok(())
    }

    /// Makes everything committed so far survive power loss.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub(crate) fn sync(&self) -> io::Result<()> {
        // Not under the lock: a slow disk must not hold up commits.
        let unsynced = self.inner.lock().log.take_unsynced();
        unsynced.iter().try_for_each(|file| file.sync_data())
    }

    /// Wakes when a batch is committed; the value is its cursor.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Cursor> {
        self.newest.subscribe()
    }

    /// What it holds now.
    pub(crate) fn state(&self) -> SpoolState {
        let inner = self.inner.lock();
        let log = &inner.log;
        SpoolState {
            oldest: log.oldest_waiting().map_or(0, |entry| entry.sequence),
            newest: log.last().0,
            newest_cursor: log.newest(),
            acked: log.acked(),
            bytes: log.bytes(),
            evicted: log.evicted(),
        }
    }
}

// === impl Inner ===

impl Inner {
    /// Makes room for a record, by a new segment and by evicting the oldest.
    fn make_room(&mut self, length: u64, ledger: &Ledger) -> io::Result<()> {
        if self.log.active_bytes() >= self.limits.segment {
            self.log.rotate(&self.boot)?;
        }
        while self.log.bytes() + length > self.limits.bytes {
            let Some(lost) = self.log.evict_oldest()? else { break };
            ledger.lose("evicted", lost.batches);
        }
        Ok(())
    }
}

/// Entries in order of their cursor.
fn position(entries: &VecDeque<Entry>, after: Cursor) -> usize {
    entries.partition_point(|entry| entry.cursor <= after)
}

#[cfg(test)]
mod tests;
