//! The one thread that writes the log. Whatever queued up while it synced is its next group.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use columns::Table;
use futures::executor::block_on;
use tokio::sync::oneshot;

use super::{MAGIC, Record};
use crate::disk;
use crate::error::{Error, Result};
use crate::hot::HotBatch;
use crate::shared::{Ingest, Shared};
use crate::store::Appended;
use crate::watermark::{Arrival, Undo, Watermarks};

/// A group is closed at this size: it bounds the time that its first batch waits.
const GROUP_BYTES: usize = 16 << 20;

/// A disk that failed is not asked again before this.
const RETRY: Duration = Duration::from_millis(100);

/// What the writer is asked to do.
#[derive(Debug)]
pub(crate) enum Command {
    Append(Append),
    /// Close the file; answer with what all closed files hold.
    Cut(oneshot::Sender<Cut>),
    /// See whether a stopped disk works again.
    Probe,
}

/// A batch to keep.
#[derive(Debug)]
pub(crate) struct Append {
    pub(crate) record: Record,
    /// The relay's own rows: the writer gives the sequence number.
    pub(crate) local: bool,
    pub(crate) batches: Vec<HotBatch>,
    pub(crate) reply: oneshot::Sender<Result<Appended>>,
}

/// A point of the log: the state that every file before `wal` adds up to.
#[derive(Debug)]
pub(crate) struct Cut {
    pub(crate) wal: u64,
    pub(crate) marks: Watermarks,
}

/// The writer's state.
#[derive(Debug)]
pub(crate) struct Writer {
    shared: Arc<Shared>,
    commands: stage::Receiver<Command>,
    marks: Watermarks,
    /// Sequence of the relay's own rows given last. It is never taken back: a record that could
    /// not be cut off a failed file must not share its number with another.
    local: u64,
    open: Option<Open>,
    /// Number of the next file.
    next: u64,
    failed: Option<Instant>,
    buffer: Vec<u8>,
}

#[derive(Debug)]
struct Open {
    file: File,
    path: PathBuf,
    number: u64,
    /// Bytes that are written and synced.
    good: u64,
}

// === impl Writer ===

impl Writer {
    pub(crate) fn new(
        shared: Arc<Shared>,
        commands: stage::Receiver<Command>,
        marks: Watermarks,
        next: u64,
    ) -> Self {
        let local = marks.of_boot("", "").unwrap_or(0);
        let buffer = Vec::new();
        Self { shared, commands, marks, local, open: None, next, failed: None, buffer }
    }

    /// Works until every sender is gone.
    pub(crate) fn run(mut self) {
        while let Some(first) = block_on(self.commands.recv()) {
            let mut group = Vec::new();
            let mut bytes = 0;
            let mut command = Some(first);
            let window = self.shared.config.wal_sync_window;
            if !window.is_zero() && matches!(command, Some(Command::Append(_))) {
                std::thread::sleep(window);
            }
            while let Some(Command::Append(append)) = command {
                bytes += append.record.size();
                group.push(append);
                command = if bytes < GROUP_BYTES { self.commands.try_recv() } else { None };
            }
            if !group.is_empty() {
                self.commit(group);
            }
            match command {
                Some(Command::Cut(reply)) => {
                    let _ = reply.send(self.cut());
                }
                Some(Command::Probe) => self.probe(),
                Some(Command::Append(_)) | None => {}
            }
        }
    }

    fn commit(&mut self, mut group: Vec<Append>) {
        self.buffer.clear();
        let durable = self.open.as_ref().map_or(MAGIC.len() as u64, |open| open.good);
        let mut undo: Vec<Undo> = Vec::new();
        let mut arrivals = Vec::with_capacity(group.len());
        for append in &mut group {
            let record = &mut append.record;
            if append.local {
                self.local += 1;
                record.sequence = self.local;
            }
            let arrival = self.marks.arrival(&record.node, &record.boot_id, record.sequence);
            if let Arrival::New { .. } = arrival {
                undo.push(self.marks.raise(&record.node, &record.boot_id, record.sequence));
                record.encode(durable, &mut self.buffer);
            }
            arrivals.push(arrival);
        }
        let written = if self.buffer.is_empty() { Ok(0) } else { self.write() };
        match written {
            Ok(wal) => self.keep(group, &arrivals, wal),
            Err(why) => {
                for undo in undo.into_iter().rev() {
                    self.marks.undo(undo);
                }
                self.refuse(group, &why);
            }
        }
    }

    /// Shows the rows of a durable group, then tells their senders.
    fn keep(&self, group: Vec<Append>, arrivals: &[Arrival], wal: u64) {
        let mut replies = Vec::with_capacity(group.len());
        let mut batches = Vec::new();
        let mut raised = Vec::new();
        for (append, arrival) in group.into_iter().zip(arrivals) {
            let appended = match *arrival {
                Arrival::Duplicate => Appended { duplicate: true, missed: 0 },
                Arrival::New { missed } => {
                    batches.extend(append.batches.into_iter().map(|mut batch| {
                        batch.wal = wal;
                        Arc::new(batch)
                    }));
                    let Record { node, boot_id, sequence, .. } = append.record;
                    raised.push((node, boot_id, sequence));
                    Appended { duplicate: false, missed }
                }
            };
            replies.push((append.reply, appended));
        }
        self.shared.show(batches, &raised);
        for (reply, appended) in replies {
            self.shared.metrics.duplicates.inc_by(u64::from(appended.duplicate));
            self.shared.metrics.missed_batches.inc_by(appended.missed);
            let _ = reply.send(Ok(appended));
        }
    }

    fn refuse(&self, group: Vec<Append>, why: &str) {
        for append in group {
            let record = &append.record;
            let arrival = self.marks.arrival(&record.node, &record.boot_id, record.sequence);
            let answer = match arrival {
                Arrival::Duplicate if !append.local => Ok(Appended { duplicate: true, missed: 0 }),
                _ => Err(Error::Stopped { why: why.to_owned() }),
            };
            let _ = append.reply.send(answer);
        }
    }

    /// Writes and syncs the buffer; the number of its file, or why not.
    fn write(&mut self) -> Result<u64, String> {
        if let Some(failed) = self.failed
            && failed.elapsed() < RETRY
            && let Ingest::Stopped(why) = self.shared.ingest()
        {
            return Err(why);
        }
        let started = Instant::now();
        let result = self.try_write();
        self.shared.metrics.wal_sync_seconds.observe(started.elapsed().as_secs_f64());
        match result {
            Ok(number) => {
                self.failed = None;
                self.shared.set_ingest(Ingest::Running);
                self.shared.metrics.wal_bytes.inc_by(self.buffer.len() as u64);
                Ok(number)
            }
            Err(error) => {
                self.failed = Some(Instant::now());
                let why = error.to_string();
                self.shared.set_ingest(Ingest::Stopped(why.clone()));
                self.take_back();
                Err(why)
            }
        }
    }

    fn try_write(&mut self) -> Result<u64> {
        self.check_space(self.buffer.len() as u64)?;
        if self.open.is_none() {
            self.open = Some(self.create()?);
        }
        let open = self.open.as_mut().ok_or(Error::Closed)?;
        self.shared.disk.write(&mut open.file, &open.path, &self.buffer)?;
        self.shared.disk.sync(&open.file, &open.path)?;
        open.good += self.buffer.len() as u64;
        Ok(open.number)
    }

    fn check_space(&self, bytes: u64) -> Result<()> {
        let dir = &self.shared.dirs.wal;
        let free = self.shared.disk.free(dir)?;
        let needed = self.shared.config.min_free_bytes.saturating_add(bytes);
        if free < needed {
            return Err(Error::io("write", dir)(std::io::Error::new(
                std::io::ErrorKind::StorageFull,
                format!("{free} bytes are free, {needed} are needed"),
            )));
        }
        Ok(())
    }

    fn create(&mut self) -> Result<Open> {
        let dir = &self.shared.dirs.wal;
        let number = self.next;
        let path = super::path(dir, number);
        self.next += 1;
        let result = self.shared.disk.create(&path).and_then(|mut file| {
            self.shared.disk.write(&mut file, &path, MAGIC)?;
            self.shared.disk.sync(&file, &path)?;
            self.shared.disk.sync_dir(dir)?;
            Ok(file)
        });
        match result {
            Ok(file) => Ok(Open { file, path, number, good: MAGIC.len() as u64 }),
            Err(error) => {
                disk::remove(&path);
                Err(error)
            }
        }
    }

    /// Cuts off what a failed write left. After a failed sync the kernel may have dropped pages
    /// that it says are clean, so the file is not written to again: the next try makes a new one.
    fn take_back(&mut self) {
        let Some(open) = self.open.take() else { return };
        if open.good <= MAGIC.len() as u64 {
            disk::remove(&open.path);
            return;
        }
        if let Err(error) = open.file.set_len(open.good).and_then(|()| open.file.sync_all()) {
            // Recovery sees half a record as such, and a whole one, sent again, as a duplicate.
            tracing::warn!(path = %open.path.display(), %error, "could not cut a failed write off");
        }
    }

    fn cut(&mut self) -> Cut {
        self.open = None;
        Cut { wal: self.next, marks: self.marks.clone() }
    }

    fn probe(&mut self) {
        if self.shared.ingest() == Ingest::Running {
            return;
        }
        let works = self.check_space(0).and_then(|()| {
            if self.open.is_none() {
                self.open = Some(self.create()?);
            }
            Ok(())
        });
        match works {
            Ok(()) => {
                self.failed = None;
                self.shared.set_ingest(Ingest::Running);
            }
            Err(error) => self.shared.set_ingest(Ingest::Stopped(error.to_string())),
        }
    }
}

/// The parts of a record that belong to a table.
pub(crate) fn decode_parts(parts: &[(Table, Bytes)]) -> Result<Vec<HotBatch>> {
    let mut batches = Vec::with_capacity(parts.len());
    for (part, (table, bytes)) in parts.iter().enumerate() {
        let batch = HotBatch::decode(*table, bytes).map_err(|source| Error::Undecodable {
            part,
            table: table.name(),
            source,
        })?;
        if batch.rows.num_rows() > 0 {
            batches.push(batch);
        }
    }
    Ok(batches)
}
