//! Records of the log and their bytes.
//!
//! `length u32 | crc32c u32 | body`, little endian; the checksum is that of the body, whose first
//! byte is the kind of record. Strings and lists have their length before them (`u32`).

use bytes::Bytes;

/// Bytes before a body.
pub(crate) const FRAME: usize = 8;
/// Longest body that is believed: far above any batch, far below what would exhaust memory.
pub(crate) const MAX_BODY: usize = 64 << 20;
/// Bytes of a data record's body before its parts: what is needed to list it.
pub(crate) const DATA_HEAD: usize = 1 + 8 + 8 + 8 + 8 + Totals::BYTES;

const KIND_HEADER: u8 = 1;
const KIND_DATA: u8 = 2;
const KIND_ACK: u8 = 3;
const KIND_EVICT: u8 = 4;
/// Number of this format, in every header.
const VERSION: u32 = 1;

/// Rows of one table of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Part {
    /// Name of the table.
    pub table: String,
    /// Number of rows.
    pub rows: u64,
    /// The rows, an Arrow IPC stream.
    pub ipc: Bytes,
}

/// A batch as it is read back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stored {
    pub boot: String,
    pub sequence: u64,
    pub closed_at: i64,
    pub parts: Vec<Part>,
}

/// A sum over batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Totals {
    pub batches: u64,
    /// Rows of the table `flows`.
    pub flows: u64,
    /// Bytes on disk.
    pub bytes: u64,
}

/// A batch by its name.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Mark {
    pub boot: String,
    pub sequence: u64,
}

/// One record of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Record {
    Header(Header),
    Data(Data),
    /// The relay has made everything up to here durable.
    Ack(Mark),
    /// Segments up to `through` are given up; `evicted` is the sum over all evictions so far, `told`
    /// as much of it as batches tell of that were not evicted themselves.
    Evict {
        through: u64,
        evicted: Totals,
        told: Totals,
        last: Mark,
    },
}

/// First record of a segment: the state of the log when it was begun.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Header {
    /// The boot of every batch in this segment.
    pub boot: String,
    /// Number of the last batch of that boot before this segment; 0 when there is none.
    pub last_sequence: u64,
    /// When that was closed.
    pub last_closed_at: i64,
    pub acked: Mark,
    pub evicted_through: u64,
    /// See [`Record::Evict`].
    pub evicted: Totals,
    pub told: Totals,
    /// The last batch that was evicted.
    pub last_evicted: Mark,
}

/// A batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Data {
    pub sequence: u64,
    pub closed_at: i64,
    /// Of the evictions, what this batch tells of.
    pub told: Totals,
    pub parts: Vec<Part>,
}

/// What a listing needs of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DataHead {
    pub sequence: u64,
    pub closed_at: i64,
    pub flows: u64,
    pub told: Totals,
}

struct Writer(Vec<u8>);

struct Reader<'a>(&'a [u8]);

// === impl Record ===

impl Record {
    /// The record with its frame.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Writer(vec![0; FRAME]);
        match self {
            Self::Header(header) => header.write(&mut out),
            Self::Data(data) => data.write(&mut out),
            Self::Ack(mark) => {
                out.u8(KIND_ACK);
                out.mark(mark);
            }
            Self::Evict { through, evicted, told, last } => {
                out.u8(KIND_EVICT);
                out.u64(*through);
                out.totals(*evicted);
                out.totals(*told);
                out.mark(last);
            }
        }
        let mut bytes = out.0;
        let body = bytes.len() - FRAME;
        let crc = crc32c::crc32c(&bytes[FRAME..]);
        bytes[..4].copy_from_slice(&u32::try_from(body).unwrap_or(u32::MAX).to_le_bytes());
        bytes[4..FRAME].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// A body that [`check`] found whole; `None` when it is of no known form.
    pub(crate) fn decode(body: &Bytes) -> Option<Self> {
        let (&kind, rest) = body.split_first()?;
        let mut from = Reader(rest);
        let record = match kind {
            KIND_HEADER => Self::Header(Header::read(&mut from)?),
            KIND_DATA => Self::Data(Data::read(&mut from, body)?),
            KIND_ACK => Self::Ack(from.mark()?),
            KIND_EVICT => Self::Evict {
                through: from.u64()?,
                evicted: from.totals()?,
                told: from.totals()?,
                last: from.mark()?,
            },
            _ => return None,
        };
        from.0.is_empty().then_some(record)
    }
}

/// Length of the body that a frame announces, and its checksum.
pub(crate) fn frame(bytes: [u8; FRAME]) -> Option<(usize, u32)> {
    let [a, b, c, d, e, f, g, h] = bytes;
    let length = u32::from_le_bytes([a, b, c, d]) as usize;
    (1..=MAX_BODY).contains(&length).then_some((length, u32::from_le_bytes([e, f, g, h])))
}

/// Whether a body is what its frame's checksum says.
pub(crate) fn check(body: &[u8], crc: u32) -> bool {
    crc32c::crc32c(body) == crc
}

// === impl Header ===

impl Header {
    fn write(&self, out: &mut Writer) {
        out.u8(KIND_HEADER);
        out.0.extend(VERSION.to_le_bytes());
        out.bytes(self.boot.as_bytes());
        out.u64(self.last_sequence);
        out.u64(self.last_closed_at.cast_unsigned());
        out.mark(&self.acked);
        out.u64(self.evicted_through);
        out.totals(self.evicted);
        out.totals(self.told);
        out.mark(&self.last_evicted);
    }

    fn read(from: &mut Reader<'_>) -> Option<Self> {
        if from.u32()? != VERSION {
            return None;
        }
        Some(Self {
            boot: from.text()?,
            last_sequence: from.u64()?,
            last_closed_at: from.u64()?.cast_signed(),
            acked: from.mark()?,
            evicted_through: from.u64()?,
            evicted: from.totals()?,
            told: from.totals()?,
            last_evicted: from.mark()?,
        })
    }
}

// === impl Data ===

impl Data {
    fn write(&self, out: &mut Writer) {
        let flows = self.parts.iter().filter(|part| part.table == "flows").map(|part| part.rows);
        out.u8(KIND_DATA);
        out.u64(self.sequence);
        out.u64(self.closed_at.cast_unsigned());
        out.u64(flows.sum());
        out.u64(self.parts.len() as u64);
        out.totals(self.told);
        for part in &self.parts {
            out.bytes(part.table.as_bytes());
            out.u64(part.rows);
            out.bytes(&part.ipc);
        }
    }

    fn read(from: &mut Reader<'_>, body: &Bytes) -> Option<Self> {
        let (head, parts) = DataHead::read(from)?;
        let mut list = Vec::new();
        for _ in 0..parts {
            let (table, rows) = (from.text()?, from.u64()?);
            list.push(Part { table, rows, ipc: body.slice_ref(from.slice()?) });
        }
        Some(Self {
            sequence: head.sequence,
            closed_at: head.closed_at,
            told: head.told,
            parts: list,
        })
    }
}

// === impl DataHead ===

impl DataHead {
    /// The head of a data record, from the first [`DATA_HEAD`] bytes of a body; `None` for
    /// records of another kind.
    pub(crate) fn decode(body: &[u8]) -> Option<Self> {
        match body.split_first()? {
            (&KIND_DATA, rest) => Some(Self::read(&mut Reader(rest))?.0),
            _ => None,
        }
    }

    fn read(from: &mut Reader<'_>) -> Option<(Self, u64)> {
        let (sequence, closed_at, flows) = (from.u64()?, from.u64()?.cast_signed(), from.u64()?);
        let parts = from.u64()?;
        let head = Self { sequence, closed_at, flows, told: from.totals()? };
        Some((head, parts))
    }
}

// === impl Totals ===

impl Totals {
    const BYTES: usize = 24;
}

impl std::ops::Add for Totals {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            batches: self.batches + other.batches,
            flows: self.flows + other.flows,
            bytes: self.bytes + other.bytes,
        }
    }
}

impl std::ops::Sub for Totals {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self {
            batches: self.batches.saturating_sub(other.batches),
            flows: self.flows.saturating_sub(other.flows),
            bytes: self.bytes.saturating_sub(other.bytes),
        }
    }
}

// === impl Writer ===

impl Writer {
    fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    fn u64(&mut self, value: u64) {
        self.0.extend(value.to_le_bytes());
    }

    fn bytes(&mut self, value: &[u8]) {
        // A part over 4 GiB cannot be: a batch is cut at a few thousand rows.
        self.0.extend(u32::try_from(value.len()).unwrap_or(u32::MAX).to_le_bytes());
        self.0.extend(value);
    }

    fn mark(&mut self, mark: &Mark) {
        self.bytes(mark.boot.as_bytes());
        self.u64(mark.sequence);
    }

    fn totals(&mut self, value: Totals) {
        self.u64(value.batches);
        self.u64(value.flows);
        self.u64(value.bytes);
    }
}

// === impl Reader ===

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(head)
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }

    fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }

    fn slice(&mut self) -> Option<&'a [u8]> {
        let length = self.u32()? as usize;
        self.take(length)
    }

    fn text(&mut self) -> Option<String> {
        Some(std::str::from_utf8(self.slice()?).ok()?.to_owned())
    }

    fn mark(&mut self) -> Option<Mark> {
        Some(Mark { boot: self.text()?, sequence: self.u64()? })
    }

    fn totals(&mut self) -> Option<Totals> {
        Some(Totals { batches: self.u64()?, flows: self.u64()?, bytes: self.u64()? })
    }
}
