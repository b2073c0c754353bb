//! The segments and the list of the batches in them.

use std::collections::{VecDeque, vec_deque};
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::record::{DataHead, FRAME, Header, Mark, Record, Stored, Totals};
use super::{Cursor, Disk, position};

mod load;

/// Ending of a segment's file name; before it stands the segment's number.
const SUFFIX: &str = "spool";

/// All segments. Invariant: the newest batch, and the summary of what went before, are always on
/// disk, because the active segment is never removed.
#[derive(Debug)]
pub(super) struct Log {
    dir: PathBuf,
    disk: Disk,
    segments: VecDeque<Segment>,
    entries: VecDeque<Entry>,
    /// Boots in the order of their first segment.
    boots: Vec<Arc<str>>,
    /// Cursor of the newest batch ever listed.
    newest: Cursor,
    /// Batches up to here are acknowledged.
    acked: Cursor,
    /// The state that the next segment's header will hold, but for its boot.
    summary: Header,
    next_number: u64,
    unsynced: Vec<Arc<File>>,
    damaged: Totals,
    /// The active segment ends in bytes that could not be cut off: it takes no more.
    broken: bool,
}

#[derive(Debug)]
struct Segment {
    number: u64,
    path: PathBuf,
    file: Arc<File>,
    /// Index in [`Log::boots`].
    boot: usize,
    bytes: u64,
}

/// A batch in the log.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    pub cursor: Cursor,
    pub sequence: u64,
    boot: usize,
    segment: u64,
    offset: u64,
    body: usize,
    flows: u64,
    told: Totals,
}

/// Where a batch can be read, without holding the log.
#[derive(Debug)]
pub(super) struct Place {
    file: Arc<File>,
    boot: Arc<str>,
    offset: u64,
    body: usize,
}

// === impl Log ===

impl Log {
    fn boot_index(&mut self, boot: &str) -> usize {
        self.boots.iter().rposition(|known| &**known == boot).unwrap_or_else(|| {
            self.boots.push(Arc::from(boot));
            self.boots.len() - 1
        })
    }

    fn list(&mut self, segment: u64, boot: usize, offset: u64, body: usize, head: &DataHead) {
        self.newest += 1;
        let (cursor, sequence) = (self.newest, head.sequence);
        let (flows, told) = (head.flows, head.told);
        self.entries.push_back(Entry {
            cursor,
            sequence,
            boot,
            segment,
            offset,
            body,
            flows,
            told,
        });
        self.summary.last_sequence = head.sequence;
        self.summary.last_closed_at = head.closed_at;
        self.summary.told = self.summary.told + head.told;
    }

    /// Begins a new segment for batches of `boot`.
    pub(super) fn rotate(&mut self, boot: &str) -> io::Result<()> {
        let mut header = Header { boot: boot.to_owned(), ..self.summary.clone() };
        if self.active_boot() != Some(boot) {
            (header.last_sequence, header.last_closed_at) = (self.last_sequence_of(boot), 0);
        }
        let number = self.next_number;
        self.next_number += 1;
        let path = self.path(number);
        let file = Arc::new(self.disk.create(&path)?);
        let bytes = Record::Header(header.clone()).encode();
        if let Err(error) = self.disk.append(&file, &bytes) {
            // If it cannot be removed either, the next start does that.
            let _ = self.disk.remove(&path);
            return Err(error);
        }
        self.summary = header;
        self.broken = false;
        self.unsynced.push(Arc::clone(&file));
        let (boot, bytes) = (self.boot_index(boot), bytes.len() as u64);
        self.segments.push_back(Segment { number, path, file, boot, bytes });
        self.trim();
        Ok(())
    }

    /// Appends a batch of `boot`, whose segment must be the active one.
    pub(super) fn append_data(&mut self, boot: &str, bytes: &[u8]) -> io::Result<()> {
        debug_assert_eq!(self.active_boot(), Some(boot));
        let (number, offset) = self.append(bytes)?;
        let body = &bytes[FRAME..];
        let head = DataHead::decode(body).expect("the caller encoded a batch");
        let boot = self.boot_index(boot);
        self.list(number, boot, offset, body.len(), &head);
        Ok(())
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<(u64, u64)> {
        if self.broken {
            let boot = self.summary.boot.clone();
            self.rotate(&boot)?;
        }
        let Some(segment) = self.segments.back_mut() else {
            return Err(io::Error::other("the spool has no segment yet"));
        };
        let offset = segment.bytes;
        if let Err(error) = self.disk.append(&segment.file, bytes) {
            self.broken = self.disk.truncate(&segment.file, offset).is_err();
            return Err(error);
        }
        segment.bytes += bytes.len() as u64;
        if self.unsynced.last().is_none_or(|last| !Arc::ptr_eq(last, &segment.file)) {
            self.unsynced.push(Arc::clone(&segment.file));
        }
        Ok((segment.number, offset))
    }

    /// Notes an acknowledgement and returns how many batches it newly covers.
    pub(super) fn ack(&mut self, boot: &str, sequence: u64) -> io::Result<u64> {
        let Some(cursor) = self.find(boot, sequence).filter(|cursor| *cursor > self.acked) else {
            return Ok(0);
        };
        let mark = Mark { boot: boot.to_owned(), sequence };
        self.append(&Record::Ack(mark.clone()).encode())?;
        self.summary.acked = mark;
        let before = self.waiting().len();
        self.acked = cursor;
        let gone = before - self.waiting().len();
        self.trim();
        Ok(gone as u64)
    }

    /// Gives up the oldest segment; `None` when there is only the active one.
    pub(super) fn evict_oldest(&mut self) -> io::Result<Option<Totals>> {
        let Some(oldest) = self.segments.front().filter(|_| self.segments.len() > 1) else {
            return Ok(None);
        };
        let through = oldest.number;
        let (mut lost, mut told) = (Totals::default(), self.summary.told);
        let mut last = self.summary.last_evicted.clone();
        for entry in self.waiting().take_while(|entry| entry.segment == through) {
            let bytes = (FRAME + entry.body) as u64;
            lost = lost + Totals { batches: 1, flows: entry.flows, bytes };
            told = told - entry.told;
            last = Mark { boot: self.boot_of(entry).to_owned(), sequence: entry.sequence };
        }
        let evicted = self.summary.evicted + lost;
        let record = Record::Evict { through, evicted, told, last: last.clone() };
        self.append(&record.encode())?;
        (self.summary.evicted, self.summary.told) = (evicted, told);
        self.summary.last_evicted = last;
        self.summary.evicted_through = through;
        self.remove_oldest();
        Ok(Some(lost))
    }

    /// Removes segments at the front that hold nothing unacknowledged.
    fn trim(&mut self) {
        while self.segments.len() > 1 {
            let oldest = self.segments[0].number;
            if self.waiting().next().is_some_and(|entry| entry.segment == oldest) {
                break;
            }
            self.remove_oldest();
        }
    }

    fn remove_oldest(&mut self) {
        let Some(segment) = self.segments.pop_front() else { return };
        while self.entries.front().is_some_and(|entry| entry.segment == segment.number) {
            self.entries.pop_front();
        }
        // The log says already that it is of no use; the next start tries again.
        if let Err(error) = self.disk.remove(&segment.path) {
            tracing::warn!(path = %segment.path.display(), %error, "segment not removed");
        }
    }

    /// Forgets a batch that turned out to be unreadable.
    pub(super) fn damaged(&mut self, cursor: Cursor) {
        let at = position(&self.entries, cursor - 1);
        if let Some(entry) = self.entries.get(at).copied().filter(|entry| entry.cursor == cursor) {
            self.entries.remove(at);
            self.summary.told = self.summary.told - entry.told;
            self.count_damaged(entry.flows, entry.body);
        }
    }

    fn count_damaged(&mut self, flows: u64, body: usize) {
        let bytes = (FRAME + body) as u64;
        self.damaged = self.damaged + Totals { batches: 1, flows, bytes };
    }

    /// Damaged batches since this was last asked.
    pub(super) fn take_damaged(&mut self) -> Totals {
        std::mem::take(&mut self.damaged)
    }

    pub(super) fn locate(&self, after: Cursor) -> Option<(Entry, Place)> {
        let entry = *self.entries.get(position(&self.entries, after))?;
        let segment = self.segment(entry.segment)?;
        let (file, boot) = (Arc::clone(&segment.file), Arc::clone(&self.boots[segment.boot]));
        Some((entry, Place { file, boot, offset: entry.offset, body: entry.body }))
    }

    fn segment(&self, number: u64) -> Option<&Segment> {
        let i = self.segments.partition_point(|segment| segment.number < number);
        self.segments.get(i).filter(|segment| segment.number == number)
    }

    /// The last batch of `boot` that is not after `sequence`. Entries are in order of boot and
    /// sequence, because a boot never comes back.
    pub(super) fn find(&self, boot: &str, sequence: u64) -> Option<Cursor> {
        let boot = self.boots.iter().rposition(|known| &**known == boot)?;
        let end = self.entries.partition_point(|e| (e.boot, e.sequence) <= (boot, sequence));
        let entry = self.entries.get(end.checked_sub(1)?)?;
        (entry.boot == boot).then_some(entry.cursor)
    }

    fn last_sequence_of(&self, boot: &str) -> u64 {
        let cursor = self.find(boot, u64::MAX);
        let at = cursor.map(|cursor| position(&self.entries, cursor - 1));
        at.and_then(|at| self.entries.get(at)).map_or(0, |entry| entry.sequence)
    }

    /// Number and closing time of the last batch of the active boot.
    pub(super) fn last(&self) -> (u64, i64) {
        (self.summary.last_sequence, self.summary.last_closed_at)
    }

    /// The first batch of the active boot that is not acknowledged.
    pub(super) fn oldest_waiting(&self) -> Option<&Entry> {
        let boot = self.segments.back()?.boot;
        let first = self.entries.partition_point(|e| e.boot < boot || e.cursor <= self.acked);
        self.entries.get(first)
    }

    pub(super) fn waiting(&self) -> vec_deque::Iter<'_, Entry> {
        self.entries.range(position(&self.entries, self.acked)..)
    }

    pub(super) fn active_boot(&self) -> Option<&str> {
        self.segments.back().map(|segment| &*self.boots[segment.boot])
    }

    pub(super) fn active_bytes(&self) -> u64 {
        self.segments.back().map_or(0, |segment| segment.bytes)
    }

    pub(super) fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes).sum()
    }

    pub(super) fn newest(&self) -> Cursor {
        self.newest
    }

    pub(super) fn acked(&self) -> Cursor {
        self.acked
    }

    pub(super) fn evicted(&self) -> Totals {
        self.summary.evicted
    }

    fn boot_of(&self, entry: &Entry) -> &str {
        &self.boots[entry.boot]
    }

    /// The last batch of `boot` that was evicted; 0 when there is none.
    pub(super) fn last_evicted_of(&self, boot: &str) -> u64 {
        let last = &self.summary.last_evicted;
        if last.boot == boot { last.sequence } else { 0 }
    }

    /// Evictions that no batch tells of.
    pub(super) fn untold(&self) -> Totals {
        self.summary.evicted - self.summary.told
    }

    pub(super) fn take_unsynced(&mut self) -> Vec<Arc<File>> {
        std::mem::take(&mut self.unsynced)
    }
}

// === impl Place ===

impl Place {
    /// Reads the batch and checks it.
    pub(super) fn read(&self) -> io::Result<Stored> {
        let damaged = || io::Error::from(io::ErrorKind::InvalidData);
        let body = load::read_body(&self.file, self.offset, self.body)?.ok_or_else(damaged)?;
        match Record::decode(&body) {
            Some(Record::Data(data)) => Ok(Stored {
                boot: self.boot.to_string(),
                sequence: data.sequence,
                closed_at: data.closed_at,
                parts: data.parts,
            }),
            _ => Err(damaged()),
        }
    }
}
