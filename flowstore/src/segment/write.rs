//! Writing a segment.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use arrow::array::RecordBatch;
use arrow::compute::{concat_batches, take_record_batch};
use columns::{ColumnKind, Table};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;

use super::sort::order;
use crate::disk::{self, Disk};
use crate::error::{Error, Result};
use crate::hot::Span;
use crate::manifest::SegmentMeta;
use crate::watermark::Watermarks;

/// Rows of a row group: small enough to be skipped with profit, large enough to compress.
const GROUP_ROWS: usize = 128 * 1024;

/// Rows taken into order at once; bounds the memory of the copy.
const CHUNK_ROWS: usize = 32 * 1024;

/// Under this key a segment's own footer says what the manifest says of it.
pub(crate) const META_KEY: &str = "weir.segment";

/// Under this key it holds the watermarks of when it was written.
pub(crate) const MARKS_KEY: &str = "weir.watermarks";

/// A segment about to be written.
#[derive(Debug)]
pub(crate) struct Draft<'a> {
    pub(crate) table: Table,
    pub(crate) file: String,
    pub(crate) batches: Vec<RecordBatch>,
    pub(crate) nodes: BTreeSet<String>,
    pub(crate) wal_from: u64,
    pub(crate) wal_until: u64,
    pub(crate) replaces: Vec<String>,
    pub(crate) marks: &'a Watermarks,
}

/// Counts and sums up what passes to a file.
struct Sink<'a> {
    disk: &'a Disk,
    path: &'a Path,
    file: File,
    bytes: u64,
    crc: u32,
}

/// Writes the segment under its final name and makes it last. Until it is in a manifest it does
/// not exist, so a crash anywhere in here leaves a file that the next start removes.
pub(crate) fn write(disk: &Disk, dir: &Path, draft: Draft<'_>) -> Result<SegmentMeta> {
    let path = dir.join(&draft.file);
    let temporary = dir.join(format!("{}.tmp", draft.file));
    disk::remove(&temporary);
    let result = write_to(disk, &temporary, draft).and_then(|meta| {
        disk.rename(&temporary, &path)?;
        disk.sync_dir(dir)?;
        Ok(meta)
    });
    if result.is_err() {
        disk::remove(&temporary);
        disk::remove(&path);
    }
    result
}

fn write_to(disk: &Disk, path: &PathBuf, draft: Draft<'_>) -> Result<SegmentMeta> {
    let schema = draft.table.schema();
    let rows = concat_batches(&schema, &draft.batches)?;
    drop(draft.batches);
    let span = Span::of(draft.table, &rows);
    let mut meta = SegmentMeta {
        table: draft.table,
        file: draft.file,
        rows: rows.num_rows() as u64,
        bytes: 0,
        crc: 0,
        min_time: span.min,
        max_time: span.max,
        nodes: draft.nodes,
        wal_from: draft.wal_from,
        wal_until: draft.wal_until,
        replaces: draft.replaces,
    };
    let properties = properties(draft.table, &meta, draft.marks)?;
    let sink = Sink { disk, path, file: disk.create(path)?, bytes: 0, crc: 0 };
    let sink = BufWriter::with_capacity(1 << 20, sink);
    let mut writer =
        ArrowWriter::try_new(sink, schema, Some(properties)).map_err(Error::segment(path))?;
    let order = order(draft.table, &rows);
    for start in (0..rows.num_rows()).step_by(CHUNK_ROWS) {
        let length = CHUNK_ROWS.min(rows.num_rows() - start);
        let chunk = take_record_batch(&rows, &order.slice(start, length))?;
        writer.write(&chunk).map_err(Error::segment(path))?;
    }
    let sink = writer.into_inner().map_err(Error::segment(path))?;
    let sink = sink.into_inner().map_err(|error| Error::io("write", path)(error.into_error()))?;
    disk.sync(&sink.file, path)?;
    meta.bytes = sink.bytes;
    meta.crc = sink.crc;
    Ok(meta)
}

fn properties(table: Table, meta: &SegmentMeta, marks: &Watermarks) -> Result<WriterProperties> {
    let json = |value: serde_json::Result<String>| {
        value.map_err(|error| Error::Internal(format!("segment metadata: {error}")))
    };
    let metadata = vec![
        KeyValue::new(META_KEY.to_owned(), json(serde_json::to_string(meta))?),
        KeyValue::new(MARKS_KEY.to_owned(), json(serde_json::to_string(marks))?),
    ];
    let level = ZstdLevel::try_new(3)
        .map_err(|error| Error::Internal(format!("compression level: {error}")))?;
    let mut builder = WriterProperties::builder()
        .set_compression(Compression::ZSTD(level))
        .set_max_row_group_row_count(Some(GROUP_ROWS))
        .set_statistics_enabled(EnabledStatistics::Page)
        .set_key_value_metadata(Some(metadata));
    for (name, kind) in table.columns() {
        let column = ColumnPath::from(*name);
        builder = match kind {
            // Times grow by small steps within an edge, and no two are alike.
            ColumnKind::Time => builder
                .set_column_dictionary_enabled(column.clone(), false)
                .set_column_encoding(column, Encoding::DELTA_BINARY_PACKED),
            ColumnKind::Text => {
                builder.set_column_encoding(column, Encoding::DELTA_LENGTH_BYTE_ARRAY)
            }
            _ => builder,
        };
    }
    // What needles are looked for by. The filters are folded to what they hold.
    for name in ["flow_id", "source_ip", "destination_ip"] {
        if table.columns().iter().any(|(column, _)| *column == name) {
            let column = ColumnPath::from(name);
            builder = builder
                .set_column_bloom_filter_enabled(column.clone(), true)
                .set_column_bloom_filter_fpp(column.clone(), 0.01)
                .set_column_bloom_filter_max_ndv(column, GROUP_ROWS as u64);
        }
    }
    Ok(builder.build())
}

// === impl Sink ===

impl Write for Sink<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.disk.write(&mut self.file, self.path, bytes).map_err(|error| match error {
            Error::Io { source, .. } => source,
            other => io::Error::other(other),
        })?;
        self.bytes += bytes.len() as u64;
        self.crc = crc32c::crc32c_append(self.crc, bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
