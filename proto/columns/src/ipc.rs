//! Batches as bytes: one self-contained Arrow IPC stream (schema, dictionaries, one batch) each.
//!
//! The stream is compressed as a whole, behind a header of 8 bytes: `WB`, version (1), codec (0
//! none, 1 Zstandard), length of the stream (u32, little endian). Arrow's own
//! per-buffer compression is not used: its reader allocates what the bytes claim.
//!
//! Self-contained on purpose: any batch of a spool or of a log can be sent, evicted, skipped or
//! replayed alone. With the batch sizes the agent aims at (4096 rows) a schema and its dictionaries
//! cost about one byte per row.

use std::io::Cursor;

use arrow_array::RecordBatch;
use arrow_ipc::reader::StreamReader;
use arrow_ipc::root_as_message;
use arrow_ipc::writer::StreamWriter;
use arrow_schema::ArrowError;

use crate::Table;

/// The largest batch that is written or accepted, bytes before compression.
pub const MAX_DECODED: usize = 64 << 20;

const HEADER: usize = 8;

/// Why bytes are not a batch of a table.
#[derive(Debug, thiserror::Error)]
pub enum IpcError {
    /// The bytes are longer than [`MAX_DECODED`].
    #[error("batch of {0} bytes is over the limit of {MAX_DECODED}")]
    TooLarge(usize),
    /// Arrow could not read them.
    #[error("not an Arrow stream: {0}")]
    Arrow(#[from] ArrowError),
    /// Arrow gave up on them in a way that it offers no error for.
    #[error("not an Arrow stream: malformed message")]
    Malformed,
    /// There was no batch, or more than one.
    #[error("expected one batch, found {0}")]
    Batches(usize),
    /// A column is not of the type that the table has.
    #[error("column {column} of {table} is {found}, expected {expected}")]
    Column {
        /// The table that the batch claims to be of.
        table: &'static str,
        /// The offending column.
        column: String,
        /// Its type in the bytes.
        found: String,
        /// The type of the table's schema.
        expected: String,
    },
}

/// How to compress the buffers of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compression {
    /// Not at all.
    None,
    /// Zstandard, level 1: about a quarter of the bytes for about 250 ns a row.
    #[default]
    Zstd,
}

/// Encodes one batch.
///
/// # Errors
/// When Arrow cannot write the batch (it never fails for memory's sake).
pub fn encode(batch: &RecordBatch, compression: Compression) -> Result<Vec<u8>, IpcError> {
    let mut stream = Vec::with_capacity(batch.get_array_memory_size() / 2 + 1024);
    let mut writer = StreamWriter::try_new(&mut stream, &batch.schema())?;
    writer.write(batch)?;
    writer.finish()?;
    drop(writer);
    if stream.len() > MAX_DECODED {
        return Err(IpcError::TooLarge(stream.len()));
    }
    let (codec, body) = match compression {
        Compression::None => (0, stream.clone()),
        Compression::Zstd => {
            (1, zstd::bulk::compress(&stream, 1).map_err(|_| IpcError::Malformed)?)
        }
    };
    let mut out = Vec::with_capacity(HEADER + body.len());
    out.extend_from_slice(&[b'W', b'B', 1, codec]);
    out.extend_from_slice(&(stream.len() as u32).to_le_bytes());
    out.extend_from_slice(&body);
    Ok(out)
}

/// Decodes one batch of `table` from bytes that need not be trusted.
///
/// A batch of an older or newer program may lack columns or have more: known columns are taken by
/// name and checked for their type, missing ones become NULL, unknown ones are left out.
///
/// # Errors
/// When the bytes are too long, no Arrow stream, not one batch, or a column has another type.
pub fn decode(table: Table, bytes: &[u8]) -> Result<RecordBatch, IpcError> {
    let stream = decompress(bytes)?;
    check_framing(&stream)?;
    // arrow-ipc 59 panics on some malformed messages (an unknown type number, for one) instead of
    // returning an error. Nothing but the reader's own state is behind the boundary, and that is
    // dropped, so unwinding through it is sound.
    let batch =
        std::panic::catch_unwind(|| read_one(&stream)).map_err(|_| IpcError::Malformed)??;
    conform(table, &batch)
}

fn decompress(bytes: &[u8]) -> Result<Vec<u8>, IpcError> {
    let (Some(header), Some(body)) = (bytes.get(..HEADER), bytes.get(HEADER..)) else {
        return Err(IpcError::Malformed);
    };
    let length = u32::from_le_bytes([header[4], header[5], header[6], header[7]]) as usize;
    if length > MAX_DECODED {
        return Err(IpcError::TooLarge(length));
    }
    let stream = match header[..4] {
        [b'W', b'B', 1, 0] => body.to_vec(),
        [b'W', b'B', 1, 1] => {
            zstd::bulk::decompress(body, length).map_err(|_| IpcError::Malformed)?
        }
        _ => return Err(IpcError::Malformed),
    };
    if stream.len() == length { Ok(stream) } else { Err(IpcError::Malformed) }
}

/// Checks every message's claimed lengths against the bytes that are there, because the reader
/// allocates what they claim. Layout: Arrow columnar format, "Encapsulated message format".
fn check_framing(stream: &[u8]) -> Result<(), IpcError> {
    let mut rest = stream;
    loop {
        let Some((prefix, after)) = rest.split_first_chunk::<8>() else {
            return Err(IpcError::Malformed);
        };
        if prefix[..4] != [0xff; 4] {
            return Err(IpcError::Malformed);
        }
        let metadata = i32::from_le_bytes([prefix[4], prefix[5], prefix[6], prefix[7]]);
        if metadata == 0 {
            return if after.is_empty() { Ok(()) } else { Err(IpcError::Malformed) };
        }
        let metadata = usize::try_from(metadata).map_err(|_| IpcError::Malformed)?;
        let head = after.get(..metadata).ok_or(IpcError::Malformed)?;
        let message = root_as_message(head).map_err(|_| IpcError::Malformed)?;
        let data = message
            .header_as_record_batch()
            .or_else(|| message.header_as_dictionary_batch().and_then(|batch| batch.data()));
        if data.is_some_and(|data| data.compression().is_some()) {
            return Err(IpcError::Malformed);
        }
        let body = usize::try_from(message.bodyLength()).map_err(|_| IpcError::Malformed)?;
        let end = metadata.checked_add(body).ok_or(IpcError::Malformed)?;
        rest = after.get(end..).ok_or(IpcError::Malformed)?;
    }
}

fn read_one(bytes: &[u8]) -> Result<RecordBatch, IpcError> {
    let mut reader = StreamReader::try_new(Cursor::new(bytes), None)?;
    let batch = reader.next().ok_or(IpcError::Batches(0))??;
    if reader.next().is_some() {
        return Err(IpcError::Batches(2));
    }
    Ok(batch)
}

/// Brings a batch to the present schema of `table`; see [`decode`].
///
/// # Errors
/// When a known column has another type.
pub fn conform(table: Table, batch: &RecordBatch) -> Result<RecordBatch, IpcError> {
    let schema = table.schema();
    if batch.schema_ref() == &schema {
        return Ok(batch.clone());
    }
    let mut columns = Vec::with_capacity(schema.fields().len());
    for field in schema.fields() {
        let column = match batch.column_by_name(field.name()) {
            Some(column) if column.data_type() == field.data_type() => column.clone(),
            Some(column) => {
                return Err(IpcError::Column {
                    table: table.name(),
                    column: field.name().clone(),
                    found: column.data_type().to_string(),
                    expected: field.data_type().to_string(),
                });
            }
            None => arrow_array::new_null_array(field.data_type(), batch.num_rows()),
        };
        columns.push(column);
    }
    Ok(RecordBatch::try_new(schema, columns)?)
}
