//! The formats of an answer.

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::ipc::writer::StreamWriter;
use axum::body::Bytes;
use axum::http::{HeaderMap, StatusCode, header};
use flowstore::QueryStats;
use model::Completeness;

use crate::completeness::Report;
use crate::error::ApiError;
use crate::json;

/// How rows are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// One object with schema, rows, completeness and statistics.
    Json,
    /// An object per line.
    Lines,
    /// RFC 4180, with a header line.
    Csv,
    /// An Arrow IPC stream.
    Arrow,
}

/// Writes an answer piece by piece.
pub(super) struct Encoder {
    format: Format,
    schema: SchemaRef,
    /// Whether no row was written yet.
    first: bool,
    buffer: String,
    arrow: Option<StreamWriter<Vec<u8>>>,
}

// === impl Format ===

impl Format {
    const ALL: [Self; 4] = [Self::Json, Self::Lines, Self::Csv, Self::Arrow];

    /// What the client accepts; JSON when it does not care.
    pub(super) fn of(headers: &HeaderMap) -> Result<Self, ApiError> {
        let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
        let accept = accept.unwrap_or("*/*");
        // Quality values only order what is accepted; the first that is known is taken.
        for one in accept.split(',') {
            let kind = one.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
            if matches!(kind.as_str(), "*/*" | "application/*" | "") {
                return Ok(Self::Json);
            }
            let known = Self::ALL
                .into_iter()
                .find(|format| format.media_type().split(';').next() == Some(kind.as_str()));
            if let Some(format) = known {
                return Ok(format);
            }
        }
        let known = Self::ALL.map(Self::media_type).join(", ");
        Err(ApiError::new(
            StatusCode::NOT_ACCEPTABLE,
            "bad_accept",
            format!("there is no answer in {accept}"),
        )
        .hint(format!("accept one of {known}")))
    }

    pub(super) const fn media_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Lines => "application/x-ndjson",
            Self::Csv => "text/csv; charset=utf-8",
            Self::Arrow => "application/vnd.apache.arrow.stream",
        }
    }
}

// === impl Encoder ===

impl Encoder {
    pub(super) fn new(format: Format, schema: &SchemaRef) -> Self {
        Self { format, schema: schema.clone(), first: true, buffer: String::new(), arrow: None }
    }

    /// Whether the answer itself says how many rows there were and whether there are more.
    pub(super) fn tells_stats(&self) -> bool {
        self.format == Format::Json
    }

    /// What comes before the rows.
    pub(super) fn head(&mut self) -> Bytes {
        let mut out = String::new();
        match self.format {
            Format::Json => {
                out.push_str("{\"schema\":[");
                for (at, field) in self.schema.fields().iter().enumerate() {
                    out.push_str(if at > 0 { ",{\"name\":" } else { "{\"name\":" });
                    json::string(&mut out, field.name());
                    out.push_str(",\"type\":");
                    json::string(&mut out, &field.data_type().to_string());
                    out.push('}');
                }
                out.push_str("],\"rows\":[");
            }
            Format::Csv => json::csv_header(&mut out, &self.schema),
            Format::Lines | Format::Arrow => {}
        }
        out.into()
    }

    /// Rows.
    pub(super) fn rows(&mut self, batch: &RecordBatch) -> Result<Bytes, ArrowError> {
        if self.format == Format::Arrow {
            let writer = self.writer()?;
            writer.write(batch)?;
            return Ok(std::mem::take(writer.get_mut()).into());
        }
        let mut out = String::with_capacity(batch.num_rows() * 64);
        for row in 0..batch.num_rows() {
            match self.format {
                Format::Json => {
                    if !std::mem::take(&mut self.first) {
                        out.push(',');
                    }
                    json::row(&mut out, batch, row);
                }
                Format::Lines => {
                    json::object(&mut out, batch, row, true);
                    out.push('\n');
                }
                Format::Csv => json::csv_row(&mut out, batch, row, &mut self.buffer),
                Format::Arrow => {}
            }
        }
        Ok(out.into())
    }

    /// What comes after the rows.
    pub(super) fn end(&mut self, completeness: &Completeness, stats: &QueryStats) -> Bytes {
        match self.format {
            Format::Json => format!(
                "],\"completeness\":{},\"stats\":{}}}",
                Report(completeness).json(),
                self::stats(stats)
            )
            .into(),
            Format::Lines | Format::Csv => Bytes::new(),
            Format::Arrow => {
                // The end of the stream; written to memory, so nothing can fail but the schema,
                // and that has been written before.
                let ended = self.writer().and_then(|writer| {
                    writer.finish()?;
                    Ok(std::mem::take(writer.get_mut()))
                });
                ended.unwrap_or_default().into()
            }
        }
    }

    /// What comes instead, when the rest cannot be had; `None` where the format has no words.
    pub(super) fn error(&mut self, error: &ApiError, completeness: &Completeness) -> Option<Bytes> {
        let body = serde_json::to_string(&error.body()).ok()?;
        match self.format {
            Format::Json => {
                let fields = body.trim_start_matches('{');
                let completeness = Report(completeness).json();
                Some(format!("],\"completeness\":{completeness},{fields}").into())
            }
            Format::Lines => Some(format!("{body}\n").into()),
            Format::Csv | Format::Arrow => None,
        }
    }

    fn writer(&mut self) -> Result<&mut StreamWriter<Vec<u8>>, ArrowError> {
        if self.arrow.is_none() {
            self.arrow = Some(StreamWriter::try_new(Vec::new(), &self.schema)?);
        }
        self.arrow.as_mut().ok_or_else(|| ArrowError::IpcError("no writer".to_owned()))
    }
}

/// Statistics as JSON.
pub(super) fn stats(stats: &QueryStats) -> String {
    format!(
        "{{\"rows\":{},\"elapsed_ms\":{:.3},\"truncated\":{}}}",
        stats.rows,
        stats.elapsed.as_secs_f64() * 1e3,
        stats.truncated
    )
}
