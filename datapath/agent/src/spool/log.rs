//! The segments and the list of the batches in them.

use std::collections::{VecDeque, vec_deque};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

use super::record::{self, DATA_HEAD, DataHead, FRAME, Header, Record, Stored, Totals};
use super::{Cursor, Disk, position};

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
    pub(super) fn open(dir: PathBuf, disk: Disk) -> io::Result<Self> {
        let mut log = Self {
            disk,
            segments: VecDeque::new(),
            entries: VecDeque::new(),
            boots: Vec::new(),
            newest: 0,
            acked: 0,
            summary: Header::default(),
            next_number: 1,
            unsynced: Vec::new(),
            damaged: Totals::default(),
            broken: false,
            dir,
        };
        let mut files = log.files()?;
        while let Some((number, path)) = files.pop() {
            log.next_number = log.next_number.max(number + 1);
            let file = Disk::open(&path)?;
            if let Some((Record::Header(_), _)) = read_record(&file, 0, file.metadata()?.len())? {
                files.push((number, path));
                break;
            }
            // Begun and not finished: it never held anything.
            log.disk.remove(&path)?;
        }
        let newest = files.last().map(|(number, _)| *number);
        for (number, path) in files {
            log.load(number, path, Some(number) == newest)?;
        }
        log.settle();
        Ok(log)
    }

    fn files(&self) -> io::Result<Vec<(u64, PathBuf)>> {
        let mut files = Vec::new();
        for file in std::fs::read_dir(&self.dir)? {
            let path = file?.path();
            let stem = path.file_stem().and_then(|stem| stem.to_str());
            let number = stem.and_then(|stem| stem.parse::<u64>().ok());
            if let Some(number) = number.filter(|_| path.extension().is_some_and(|e| e == SUFFIX)) {
                files.push((number, path));
            }
        }
        files.sort_unstable();
        Ok(files)
    }

    fn path(&self, number: u64) -> PathBuf {
        self.dir.join(format!("{number:020}.{SUFFIX}"))
    }

    /// Reads one segment. The newest is checked record by record and cut behind its last whole
    /// record; of the others only the heads are read, and a batch is checked when it is sent.
    fn load(&mut self, number: u64, path: PathBuf, newest: bool) -> io::Result<()> {
        let file = Disk::open(&path)?;
        let length = file.metadata()?.len();
        let Some((Record::Header(header), mut offset)) = read_record(&file, 0, length)? else {
            tracing::error!(path = %path.display(), "segment without a header left out");
            return Ok(());
        };
        let boot = self.boot_index(&header.boot);
        self.summary = header;
        while let Some((body, head)) = read_head(&file, offset, length)? {
            let end = offset + (FRAME + body) as u64;
            let whole = match head {
                Some(_) if newest => read_body(&file, offset, body)?.is_some(),
                Some(_) => true,
                None => match read_record(&file, offset, length)? {
                    Some((record, _)) => {
                        self.replay(&record);
                        true
                    }
                    None => false,
                },
            };
            match head {
                Some(head) if whole => self.list(number, boot, offset, body, &head),
                _ if whole => {}
                // What is followed by a good record is damaged; what is not is torn.
                _ if read_record(&file, end, length)?.is_none() => break,
                head => self.count_damaged(head.map_or(0, |head| head.flows), body),
            }
            offset = end;
        }
        if newest && offset < length {
            tracing::warn!(path = %path.display(), bytes = length - offset, "torn record cut off");
            self.disk.truncate(&file, offset)?;
        }
        self.segments.push_back(Segment { number, path, file: Arc::new(file), boot, bytes: offset });
        Ok(())
    }

    fn boot_index(&mut self, boot: &str) -> usize {
        self.boots.iter().rposition(|known| &**known == boot).unwrap_or_else(|| {
            self.boots.push(Arc::from(boot));
            self.boots.len() - 1
        })
    }

    fn replay(&mut self, record: &Record) {
        match record {
            Record::Ack { boot, sequence } => {
                self.summary.acked_boot.clone_from(boot);
                self.summary.acked_sequence = *sequence;
            }
            Record::Evict { through, evicted } => {
                self.summary.evicted_through = *through;
                self.summary.evicted = *evicted;
            }
            Record::Header(_) | Record::Data(_) => {}
        }
    }

    fn list(&mut self, segment: u64, boot: usize, offset: u64, body: usize, head: &DataHead) {
        self.newest += 1;
        let (cursor, sequence, flows) = (self.newest, head.sequence, head.flows);
        self.entries.push_back(Entry { cursor, sequence, boot, segment, offset, body, flows });
        self.summary.last_sequence = head.sequence;
        self.summary.last_closed_at = head.closed_at;
        self.summary.evicted_reported = head.evicted_reported;
    }

    /// Finishes what a crash interrupted: evictions that were decided, acknowledgements.
    fn settle(&mut self) {
        while self.segments.len() > 1 && self.segments[0].number <= self.summary.evicted_through {
            self.remove_oldest();
        }
        let (boot, sequence) = (self.summary.acked_boot.clone(), self.summary.acked_sequence);
        self.acked = self.find(&boot, sequence).unwrap_or(0);
        self.trim();
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
        self.append(&Record::Ack { boot: boot.to_owned(), sequence }.encode())?;
        self.summary.acked_boot = boot.to_owned();
        self.summary.acked_sequence = sequence;
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
        let mut lost = Totals::default();
        for entry in self.waiting().take_while(|entry| entry.segment == through) {
            let bytes = (FRAME + entry.body) as u64;
            lost = lost + Totals { batches: 1, flows: entry.flows, bytes };
        }
        let evicted = self.summary.evicted + lost;
        self.append(&Record::Evict { through, evicted }.encode())?;
        self.summary.evicted = evicted;
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

    pub(super) fn evicted_reported(&self) -> Totals {
        self.summary.evicted_reported
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
        let body = read_body(&self.file, self.offset, self.body)?.ok_or_else(damaged)?;
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

fn read_frame(file: &File, offset: u64, length: u64) -> io::Result<Option<(usize, u32)>> {
    let mut bytes = [0; FRAME];
    if offset + FRAME as u64 > length {
        return Ok(None);
    }
    file.read_exact_at(&mut bytes, offset)?;
    let whole = |(body, _): &(usize, u32)| offset + (FRAME + body) as u64 <= length;
    Ok(record::frame(bytes).filter(whole))
}

/// Length of the body at `offset` and, if it is a batch, its head; unchecked. `None` when there is
/// no whole record.
fn read_head(
    file: &File,
    offset: u64,
    length: u64,
) -> io::Result<Option<(usize, Option<DataHead>)>> {
    let Some((body, _)) = read_frame(file, offset, length)? else { return Ok(None) };
    let mut head = [0; DATA_HEAD];
    let head = &mut head[..DATA_HEAD.min(body)];
    file.read_exact_at(head, offset + FRAME as u64)?;
    Ok(Some((body, DataHead::decode(head))))
}

/// The body at `offset`; `None` when its checksum is wrong.
fn read_body(file: &File, offset: u64, body: usize) -> io::Result<Option<Bytes>> {
    let mut bytes = vec![0; FRAME + body];
    file.read_exact_at(&mut bytes, offset)?;
    let mut frame = [0; FRAME];
    frame.copy_from_slice(&bytes[..FRAME]);
    let bytes = Bytes::from(bytes).slice(FRAME..);
    let good = record::frame(frame).is_some_and(|(length, crc)| {
        length == body && record::check(&bytes, crc)
    });
    Ok(good.then_some(bytes))
}

/// The record at `offset` and the offset behind it; `None` when there is no whole, valid one.
fn read_record(file: &File, offset: u64, length: u64) -> io::Result<Option<(Record, u64)>> {
    let Some((body, _)) = read_frame(file, offset, length)? else { return Ok(None) };
    let Some(bytes) = read_body(file, offset, body)? else { return Ok(None) };
    Ok(Record::decode(&bytes).map(|record| (record, offset + (FRAME + body) as u64)))
}
