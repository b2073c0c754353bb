//! Answers as Parquet files, for other engines.

use std::io::{Read, Write};

use arrow::ipc::reader::StreamReader;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;

/// Rewrites an answer of this store (`application/vnd.apache.arrow.stream`) as one Parquet file,
/// compressed by Zstandard. Returns the number of rows. For answers of a server one trusts: the Arrow
/// reader is not hardened against hostile bytes.
///
/// # Errors
/// When the input is no Arrow stream, or the output cannot be written; what was written then is no
/// Parquet file.
pub fn arrow_to_parquet(input: impl Read, output: impl Write + Send) -> Result<u64, ParquetError> {
    let reader = StreamReader::try_new(input, None)?;
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(3)?))
        .build();
    let mut writer = ArrowWriter::try_new(output, reader.schema(), Some(properties))?;
    let mut rows = 0;
    for batch in reader {
        let batch = batch?;
        rows += batch.num_rows() as u64;
        writer.write(&batch)?;
    }
    writer.close()?;
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Int64Array, RecordBatch, StringArray};
    use arrow::ipc::writer::StreamWriter;
    use bytes::Bytes;
    use parquet::arrow::arrow_reader::ParquetRecordBatchReader;

    use super::*;

    #[test]
    fn rows_stay_what_they_are() {
        let batch = RecordBatch::try_from_iter([
            ("n", Arc::new(Int64Array::from(vec![Some(1), None, Some(3)])) as _),
            ("s", Arc::new(StringArray::from(vec![Some("a"), Some(""), None])) as _),
        ])
        .unwrap();
        let mut stream = StreamWriter::try_new(Vec::new(), &batch.schema()).unwrap();
        stream.write(&batch).unwrap();
        stream.write(&batch).unwrap();
        let stream = stream.into_inner().unwrap();
        let mut file = Vec::new();
        assert_eq!(arrow_to_parquet(stream.as_slice(), &mut file).unwrap(), 6);
        let read: Vec<_> = ParquetRecordBatchReader::try_new(Bytes::from(file), 1024)
            .unwrap()
            .collect::<Result<_, _>>()
            .unwrap();
        assert_eq!(read.iter().map(RecordBatch::num_rows).sum::<usize>(), 6);
        assert_eq!(read[0].slice(0, 3).columns(), batch.columns());
        assert!(arrow_to_parquet(&b"nonsense"[..], Vec::new()).is_err());
    }
}
