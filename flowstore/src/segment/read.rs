//! Reading segments outside of queries: checks, merges, dimensions, losses.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use arrow::array::RecordBatch;
use columns::Table;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::errors::ParquetError;
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};

use super::write::{MARKS_KEY, META_KEY};
use crate::error::{Error, Result};
use crate::manifest::SegmentMeta;
use crate::watermark::Watermarks;

/// All rows of a segment, of all columns or those named.
pub(crate) fn read(path: &Path, table: Table, only: Option<&[&str]>) -> Result<Vec<RecordBatch>> {
    let file = File::open(path).map_err(Error::io("open", path))?;
    let mut builder =
        ParquetRecordBatchReaderBuilder::try_new(file).map_err(Error::segment(path))?;
    if let Some(only) = only {
        let mask = ProjectionMask::columns(builder.parquet_schema(), only.iter().copied());
        builder = builder.with_projection(mask);
    }
    let reader = builder.with_batch_size(32 * 1024).build().map_err(Error::segment(path))?;
    let mut batches = Vec::new();
    for batch in reader {
        let batch = batch?;
        batches.push(match only {
            Some(_) => batch,
            None => columns::ipc::conform(table, &batch)
                .map_err(|error| Error::segment(path)(ParquetError::External(error.into())))?,
        });
    }
    Ok(batches)
}

/// Whether a file is as long as it should be and its footer can be read.
pub(crate) fn check_footer(path: &Path, meta: &SegmentMeta) -> Result<(), String> {
    let length = std::fs::metadata(path).map_err(|error| error.to_string())?.len();
    if length != meta.bytes {
        return Err(format!("{length} bytes instead of {}", meta.bytes));
    }
    let footer = footer(path).map_err(|error| error.to_string())?;
    let rows = footer.file_metadata().num_rows();
    if rows != meta.rows as i64 {
        return Err(format!("{rows} rows instead of {}", meta.rows));
    }
    Ok(())
}

/// Whether every byte of a file is as it was written.
pub(crate) fn check_whole(path: &Path, meta: &SegmentMeta) -> Result<(), String> {
    let mut file =
        BufReader::with_capacity(1 << 20, File::open(path).map_err(|error| error.to_string())?);
    let mut crc = 0;
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer).map_err(|error| error.to_string())? {
            0 => break,
            n => crc = crc32c::crc32c_append(crc, &buffer[..n]),
        }
    }
    if crc == meta.crc { Ok(()) } else { Err(format!("checksum {crc:08x}, not {:08x}", meta.crc)) }
}

/// What a segment says of itself, with the watermarks of when it was written.
pub(crate) fn read_meta(path: &Path) -> Result<(SegmentMeta, Watermarks), String> {
    let footer = footer(path).map_err(|error| error.to_string())?;
    let pairs = footer.file_metadata().key_value_metadata();
    let value = |key: &str| {
        let pair = pairs.into_iter().flatten().find(|pair| pair.key == key);
        pair.and_then(|pair| pair.value.as_deref()).ok_or_else(|| format!("no {key}"))
    };
    let mut meta: SegmentMeta =
        serde_json::from_str(value(META_KEY)?).map_err(|error| error.to_string())?;
    let marks = serde_json::from_str(value(MARKS_KEY)?).map_err(|error| error.to_string())?;
    meta.bytes = std::fs::metadata(path).map_err(|error| error.to_string())?.len();
    let mut crc = 0;
    crc = crc32c::crc32c_append(crc, &std::fs::read(path).map_err(|error| error.to_string())?);
    meta.crc = crc;
    Ok((meta, marks))
}

fn footer(path: &Path) -> Result<ParquetMetaData> {
    let file = File::open(path).map_err(Error::io("open", path))?;
    ParquetMetaDataReader::new().parse_and_finish(&file).map_err(Error::segment(path))
}
