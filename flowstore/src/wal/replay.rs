//! Reading a file of the log back, whatever happened to it.

use std::path::Path;

use bytes::Bytes;

use super::{MAGIC, Record};
use crate::error::{Error, Result};

/// What one file of the log held.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Replay {
    /// Good records.
    pub(crate) records: u64,
    /// Bytes up to the end of the last good record.
    pub(crate) good: u64,
    /// Bytes behind it that are half a write, which was never acknowledged.
    pub(crate) torn: u64,
    /// Bytes that were acknowledged and are damaged.
    pub(crate) corrupt: u64,
    /// Damaged places.
    pub(crate) corruptions: u64,
}

/// Reads the records of a file in order. Only in the newest file can a write have been cut short.
pub(crate) fn replay(path: &Path, newest: bool, mut each: impl FnMut(Record)) -> Result<Replay> {
    let file = Bytes::from(std::fs::read(path).map_err(Error::io("read", path))?);
    let mut result = Replay::default();
    if file.get(..MAGIC.len()) != Some(MAGIC) {
        // A file is synced with its mark before the first record goes in, so a newest file without
        // one is as empty as it looks, unless it is longer than that.
        let length = file.len() as u64;
        if newest && file.len() <= MAGIC.len() {
            result.torn = length;
            return Ok(result);
        }
        result.corruptions = 1;
        result.corrupt = length.min(MAGIC.len() as u64);
    }
    let mut at = MAGIC.len().min(file.len());
    result.good = at as u64;
    while at < file.len() {
        if let Some(found) = Record::read(&file, at) {
            at = found.end;
            result.good = at as u64;
            result.records += 1;
            each(found.record);
            continue;
        }
        match resume(&file, at, newest) {
            Some(next) => {
                result.corruptions += 1;
                result.corrupt += (next - at) as u64;
                at = next;
            }
            None if newest => {
                result.torn = (file.len() - at) as u64;
                break;
            }
            None => {
                result.corruptions += 1;
                result.corrupt += (file.len() - at) as u64;
                break;
            }
        }
    }
    Ok(result)
}

/// Where to go on after the damaged place at `bad`. In the newest file that is allowed only if a
/// later record proves that the place had been synced: else records of one unfinished group could
/// be kept without those before them, and their senders would be told that all came.
fn resume(file: &Bytes, bad: usize, newest: bool) -> Option<usize> {
    let mut first = None;
    let mut from = bad + 1;
    while let Some(at) = Record::next_mark(file, from) {
        match Record::read(file, at) {
            Some(found) => {
                first.get_or_insert(at);
                if !newest || found.durable > bad as u64 {
                    return first;
                }
                from = found.end;
            }
            None => from = at + 1,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use columns::Table;

    use super::*;

    struct Log {
        bytes: Vec<u8>,
        records: Vec<Range<usize>>,
    }

    /// Two groups of two records each.
    fn log() -> Log {
        let mut bytes = MAGIC.to_vec();
        let mut records = Vec::new();
        for group in 0..2 {
            let durable = bytes.len() as u64;
            for i in 0..2 {
                let start = bytes.len();
                let sequence = group * 2 + i;
                let parts = vec![(Table::Flows, Bytes::from(vec![sequence as u8; 30]))];
                Record { node: "n".into(), boot_id: "b".into(), sequence, parts }
                    .encode(durable, &mut bytes);
                records.push(start..bytes.len());
            }
        }
        Log { bytes, records }
    }

    fn run(bytes: &[u8], newest: bool) -> (Vec<u64>, Replay) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("1.wal");
        std::fs::write(&path, bytes).unwrap();
        let mut seen = Vec::new();
        let replay = replay(&path, newest, |record| seen.push(record.sequence)).unwrap();
        (seen, replay)
    }

    #[test]
    fn whole() {
        let (seen, replay) = run(&log().bytes, true);
        assert_eq!(seen, [0, 1, 2, 3]);
        assert_eq!((replay.torn, replay.corrupt), (0, 0));
    }

    #[test]
    fn torn_at_every_byte() {
        let log = log();
        for cut in 0..log.bytes.len() {
            let (seen, replay) = run(&log.bytes[..cut], true);
            let whole = log.records.iter().filter(|range| range.end <= cut).count();
            assert_eq!(seen.len(), whole, "cut at {cut}");
            assert_eq!(replay.corrupt, 0, "cut at {cut}");
            if replay.records > 0 {
                assert_eq!(replay.good + replay.torn, cut as u64);
            }
        }
    }

    #[test]
    fn damage_in_an_acknowledged_group_costs_that_record_only() {
        let log = log();
        for at in log.records[0].clone() {
            let mut bytes = log.bytes.clone();
            bytes[at] ^= 1;
            let (seen, replay) = run(&bytes, true);
            assert_eq!(seen, [1, 2, 3], "byte {at}");
            assert_eq!(replay.corrupt, log.records[0].len() as u64);
        }
    }

    #[test]
    fn damage_in_the_last_group_is_a_torn_write() {
        let log = log();
        let mut bytes = log.bytes.clone();
        bytes[log.records[2].start + 25] ^= 1;
        // Record 3 is whole, but nothing proves that record 2 was ever synced.
        let (seen, replay) = run(&bytes, true);
        assert_eq!(seen, [0, 1]);
        assert_eq!(replay.torn, (log.bytes.len() - log.records[2].start) as u64);
        // In an older file everything was synced.
        let (seen, replay) = run(&bytes, false);
        assert_eq!(seen, [0, 1, 3]);
        assert_eq!((replay.torn, replay.corruptions), (0, 1));
    }
}
