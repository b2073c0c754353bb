//! One record of the log: one batch of a node.
//!
//! ```text
//! "WREC"  length u32  crc32c u32  durable u64  payload
//! ```
//! The checksum covers everything after it and the length. `durable` is the length of the file that
//! was synced when the record was written: a damaged record that lies before it was acknowledged
//! and then damaged; one that lies behind every `durable` may be half a write that nobody was told
//! of. Recovery needs to tell the two apart.

use bytes::Bytes;
use columns::Table;

/// The largest payload.
pub(crate) const MAX_RECORD: usize = 256 << 20;

const MARK: &[u8; 4] = b"WREC";
const HEADER: usize = 20;

/// One batch as the log holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) node: String,
    pub(crate) boot_id: String,
    pub(crate) sequence: u64,
    pub(crate) parts: Vec<(Table, Bytes)>,
}

/// A record and where it lies.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) record: Record,
    /// Where the next one starts.
    pub(crate) end: usize,
    /// What was durable when it was written.
    pub(crate) durable: u64,
}

// === impl Record ===

impl Record {
    /// Appends the record to `out`.
    pub(crate) fn encode(&self, durable: u64, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(MARK);
        out.extend_from_slice(&[0; 8]);
        out.extend_from_slice(&durable.to_le_bytes());
        put(out, self.node.as_bytes());
        put(out, self.boot_id.as_bytes());
        out.extend_from_slice(&self.sequence.to_le_bytes());
        out.extend_from_slice(&(self.parts.len() as u32).to_le_bytes());
        for (table, bytes) in &self.parts {
            out.push(*table as u8);
            put(out, bytes);
        }
        let length = (out.len() - start - HEADER) as u32;
        out[start + 4..start + 8].copy_from_slice(&length.to_le_bytes());
        let crc = checksum(&out[start..]);
        out[start + 8..start + 12].copy_from_slice(&crc.to_le_bytes());
    }

    /// Bytes that [`encode`](Self::encode) will take, about.
    pub(crate) fn size(&self) -> usize {
        let parts: usize = self.parts.iter().map(|(_, bytes)| bytes.len() + 5).sum();
        HEADER + self.node.len() + self.boot_id.len() + 20 + parts
    }

    /// The record that starts at `at`, if there is a whole one.
    pub(crate) fn read(file: &Bytes, at: usize) -> Option<Found> {
        let header = file.get(at..at + HEADER)?;
        if header[..4] != *MARK {
            return None;
        }
        let length = u32::from_le_bytes(header[4..8].try_into().ok()?) as usize;
        let crc = u32::from_le_bytes(header[8..12].try_into().ok()?);
        let durable = u64::from_le_bytes(header[12..20].try_into().ok()?);
        let end = at + HEADER + length;
        if length > MAX_RECORD + HEADER || checksum(file.get(at..end)?) != crc {
            return None;
        }
        let record = Self::decode(file.slice(at + HEADER..end))?;
        Some(Found { record, end, durable })
    }

    /// The next place at or after `from` that a record may start at.
    pub(crate) fn next_mark(file: &[u8], from: usize) -> Option<usize> {
        let rest = file.get(from..)?;
        rest.windows(MARK.len()).position(|window| window == MARK).map(|at| from + at)
    }

    fn decode(mut payload: Bytes) -> Option<Self> {
        let node = text(&mut payload)?;
        let boot_id = text(&mut payload)?;
        let sequence = u64::from_le_bytes(split(&mut payload, 8)?.as_ref().try_into().ok()?);
        let count = length(&mut payload)?;
        let mut parts = Vec::new();
        for _ in 0..count {
            let table = *split(&mut payload, 1)?.first()?;
            let table = *Table::ALL.get(usize::from(table))?;
            let bytes = length(&mut payload)?;
            parts.push((table, split(&mut payload, bytes)?));
        }
        payload.is_empty().then_some(Self { node, boot_id, sequence, parts })
    }
}

fn checksum(record: &[u8]) -> u32 {
    let crc = crc32c::crc32c(&record[4..8]);
    crc32c::crc32c_append(crc, &record[12..])
}

fn put(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    out.extend_from_slice(bytes);
}

fn split(payload: &mut Bytes, length: usize) -> Option<Bytes> {
    (length <= payload.len()).then(|| payload.split_to(length))
}

fn length(payload: &mut Bytes) -> Option<usize> {
    Some(u32::from_le_bytes(split(payload, 4)?.as_ref().try_into().ok()?) as usize)
}

fn text(payload: &mut Bytes) -> Option<String> {
    let bytes = length(payload)?;
    String::from_utf8(split(payload, bytes)?.into()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(sequence: u64) -> Record {
        Record {
            node: "node-a".into(),
            boot_id: "boot".into(),
            sequence,
            parts: vec![(Table::Flows, Bytes::from_static(b"WRECnot")), (Table::L7, Bytes::new())],
        }
    }

    #[test]
    fn reads_what_it_wrote() {
        let mut out = Vec::new();
        record(1).encode(8, &mut out);
        record(2).encode(8, &mut out);
        assert!(out.len() <= record(1).size() + record(2).size());
        let file = Bytes::from(out);
        let first = Record::read(&file, 0).unwrap();
        assert_eq!((first.record, first.durable), (record(1), 8));
        let second = Record::read(&file, first.end).unwrap();
        assert_eq!((second.record, second.end), (record(2), file.len()));
    }

    #[test]
    fn sees_every_flipped_byte() {
        let mut out = Vec::new();
        record(1).encode(8, &mut out);
        for at in 0..out.len() {
            let mut bad = out.clone();
            bad[at] ^= 0x40;
            assert!(Record::read(&Bytes::from(bad), 0).is_none(), "byte {at}");
        }
    }
}
