//! Reading the log back: what is there, and what a crash left of a record.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

use super::super::record::{self, DATA_HEAD, DataHead, FRAME, Header, Record, Totals};
use super::{Disk, Log, SUFFIX, Segment};

// === impl Log ===

impl Log {
    pub(in crate::spool) fn open(dir: PathBuf, disk: Disk) -> io::Result<Self> {
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
            if is_whole(&file)? {
                let what = format!("{}: written by another version of weir", path.display());
                return Err(io::Error::new(io::ErrorKind::InvalidData, what));
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

    pub(super) fn path(&self, number: u64) -> PathBuf {
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
        self.segments.push_back(Segment {
            number,
            path,
            file: Arc::new(file),
            boot,
            bytes: offset,
        });
        Ok(())
    }

    fn replay(&mut self, record: &Record) {
        match record {
            Record::Ack(mark) => self.summary.acked.clone_from(mark),
            Record::Evict { through, evicted, told, last } => {
                self.summary.evicted_through = *through;
                self.summary.last_evicted.clone_from(last);
                (self.summary.evicted, self.summary.told) = (*evicted, *told);
            }
            Record::Header(_) | Record::Data(_) => {}
        }
    }

    /// Finishes what a crash interrupted: evictions that were decided, acknowledgements.
    fn settle(&mut self) {
        while self.segments.len() > 1 && self.segments[0].number <= self.summary.evicted_through {
            self.remove_oldest();
        }
        let acked = &self.summary.acked;
        self.acked = self.find(&acked.boot, acked.sequence).unwrap_or(0);
        self.trim();
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
pub(super) fn read_body(file: &File, offset: u64, body: usize) -> io::Result<Option<Bytes>> {
    let mut bytes = vec![0; FRAME + body];
    file.read_exact_at(&mut bytes, offset)?;
    let mut frame = [0; FRAME];
    frame.copy_from_slice(&bytes[..FRAME]);
    let bytes = Bytes::from(bytes).slice(FRAME..);
    let good = record::frame(frame)
        .is_some_and(|(length, crc)| length == body && record::check(&bytes, crc));
    Ok(good.then_some(bytes))
}

/// Whether a file begins with a record that is whole, whatever it means.
fn is_whole(file: &File) -> io::Result<bool> {
    match read_frame(file, 0, file.metadata()?.len())? {
        Some((body, _)) => Ok(read_body(file, 0, body)?.is_some()),
        None => Ok(false),
    }
}

/// The record at `offset` and the offset behind it; `None` when there is no whole, valid one.
fn read_record(file: &File, offset: u64, length: u64) -> io::Result<Option<(Record, u64)>> {
    let Some((body, _)) = read_frame(file, offset, length)? else { return Ok(None) };
    let Some(bytes) = read_body(file, offset, body)? else { return Ok(None) };
    Ok(Record::decode(&bytes).map(|record| (record, offset + (FRAME + body) as u64)))
}
