//! `POST /sql`: a query, answered in one of four formats.
//!
//! Answers are streamed: the first rows leave before the last are read, and a client that goes
//! away ends its query. An error that comes after the first rows can no longer be the status: JSON
//! says it in a last member `error`, a list of objects in a last line, and CSV and Arrow break off
//! without their proper end, which every client notices.

use std::time::Duration;

use arrow::array::RecordBatch;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::Response;
use flowstore::{Param, QueryRequest, QueryStream};
use futures::StreamExt as _;
use futures::stream;
use http_body_util::StreamBody;
use hyper::body::Frame;
use serde::Deserialize;
use serde_json::Value;

use crate::app::App;
use crate::ask::store_error;
use crate::completeness::{HEADER, Report};
use crate::error::ApiError;
use crate::sql::format::{Encoder, Format};

mod format;

/// Rows of a JSON answer when the request names no limit: a page can show no more.
const JSON_ROWS: usize = 10_000;

/// What else a trailer says when the rows are out: `{"rows","elapsed_ms","truncated"}`.
const STATS: &str = "weir-stats";

/// A body that is too long is read up to so many times its limit.
const DRAINED: usize = 16;

/// A body of JSON.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Question {
    query: String,
    #[serde(default)]
    params: Vec<Value>,
    timeout_ms: Option<u64>,
    limit: Option<usize>,
}

/// Runs a query.
pub(crate) async fn post(
    State(app): State<App>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let body = read(body, app.config().max_body).await?;
    let format = Format::of(&headers)?;
    let mut request = request_of(&headers, &body)?;
    let limited = request.max_rows.is_some();
    if format == Format::Json && !limited {
        request.max_rows = Some(JSON_ROWS);
    }
    let mut rows = app.store().query(request).await.map_err(store_error)?;
    // What fails at once is still an error of its own.
    let first = rows.next().await.transpose().map_err(store_error)?;
    Ok(answer(format, rows, first, limited))
}

/// The body, if it is not too long. One that is too long is read on for a while and thrown away: a
/// client that is still sending does not see an answer before it.
async fn read(body: Body, most: usize) -> Result<Vec<u8>, ApiError> {
    let mut all = Vec::new();
    let mut length = 0;
    let mut pieces = body.into_data_stream();
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(|error| ApiError::bad_request(error.to_string()))?;
        length += piece.len();
        if length <= most {
            all.extend_from_slice(&piece);
        } else if length > most.saturating_mul(DRAINED) {
            break;
        }
    }
    if length <= most {
        return Ok(all);
    }
    let message = format!("the body has more than {most} bytes");
    Err(ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "bad_body", message)
        .hint("send the query alone; data to join with goes into VALUES or parameters"))
}

fn request_of(headers: &HeaderMap, body: &[u8]) -> Result<QueryRequest, ApiError> {
    let text = std::str::from_utf8(body)
        .map_err(|_| ApiError::bad_request("the body is not UTF-8 text"))?;
    let kind = headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    // No statement begins with a brace.
    let json = kind.starts_with(b"application/json") || text.trim_start().starts_with('{');
    if !json {
        return Ok(QueryRequest::new(text));
    }
    let body: Question = serde_json::from_str(text).map_err(|error| {
        ApiError::bad_request(format!("the body is no query: {error}"))
            .hint(r#"expected {"query":"SELECT …","params":[],"timeout_ms":1000,"limit":100}"#)
    })?;
    let params = body.params.into_iter().map(param).collect::<Result<_, _>>()?;
    Ok(QueryRequest {
        timeout: body.timeout_ms.map(Duration::from_millis),
        max_rows: body.limit,
        ..QueryRequest::new(body.query).with_params(params)
    })
}

fn param(value: Value) -> Result<Param, ApiError> {
    Ok(match value {
        Value::Null => Param::Null,
        Value::Bool(value) => Param::Bool(value),
        Value::String(value) => Param::Text(value),
        Value::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
            (Some(value), ..) => Param::Int(value),
            (None, Some(value), _) => Param::UInt(value),
            (None, None, Some(value)) => Param::Float(value),
            _ => return Err(ApiError::bad_request("a parameter is no number that fits")),
        },
        Value::Array(_) | Value::Object(_) => {
            return Err(ApiError::bad_request("parameters are text, numbers, true, false or null"));
        }
    })
}

/// An answer that is being written.
struct Writing {
    rows: QueryStream,
    /// Read ahead, to know early errors.
    first: Option<RecordBatch>,
    encoder: Encoder,
    /// Whether the client said how many rows it wants, and so knows that there may be more.
    limited: bool,
    step: Step,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Head,
    Rows,
    Trailers,
    Done,
}

/// Why a body ends too early; the client sees a connection that breaks off.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Broken(String);

// === impl Writing ===

impl Writing {
    async fn frame(&mut self) -> Option<Result<Frame<Bytes>, Broken>> {
        match self.step {
            Step::Head => {
                self.step = Step::Rows;
                Some(Ok(Frame::data(self.encoder.head())))
            }
            Step::Rows => {
                let batch = match self.first.take() {
                    Some(first) => Some(Ok(first)),
                    None => self.rows.next().await,
                };
                Some(match batch {
                    Some(Ok(batch)) => match self.encoder.rows(&batch) {
                        Ok(bytes) => Ok(Frame::data(bytes)),
                        Err(error) => self.broken(ApiError::new(
                            StatusCode::INTERNAL_SERVER_ERROR,
                            "encode",
                            error.to_string(),
                        )),
                    },
                    Some(Err(error)) => self.broken(store_error(error)),
                    None => self.end(),
                })
            }
            Step::Trailers => {
                self.step = Step::Done;
                let stats = format::stats(&self.rows.stats());
                let stats = HeaderValue::from_str(&stats).ok()?;
                let name = HeaderName::from_static(STATS);
                Some(Ok(Frame::trailers(HeaderMap::from_iter([(name, stats)]))))
            }
            Step::Done => None,
        }
    }

    fn end(&mut self) -> Result<Frame<Bytes>, Broken> {
        let stats = self.rows.stats();
        if stats.truncated && !self.limited && !self.encoder.tells_stats() {
            let error = ApiError::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "truncated",
                format!("only the first {} rows were read", stats.rows),
            );
            return self
                .broken(error.hint("narrow the query, or say how many rows you want with limit"));
        }
        self.step = Step::Trailers;
        Ok(Frame::data(self.encoder.end(self.rows.completeness(), &stats)))
    }

    fn broken(&mut self, error: ApiError) -> Result<Frame<Bytes>, Broken> {
        self.step = Step::Done;
        match self.encoder.error(&error, self.rows.completeness()) {
            Some(bytes) => Ok(Frame::data(bytes)),
            None => Err(Broken(format!("{error:?}"))),
        }
    }
}

fn answer(
    format: Format,
    rows: QueryStream,
    first: Option<RecordBatch>,
    limited: bool,
) -> Response {
    let completeness = Report(rows.completeness()).json();
    let encoder = Encoder::new(format, rows.schema());
    let writing = Writing { rows, first, encoder, limited, step: Step::Head };
    let frames = stream::unfold(writing, |mut writing| async {
        writing.frame().await.map(|frame| (frame, writing))
    });
    let mut response = Response::new(Body::new(StreamBody::new(frames)));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(format.media_type()));
    headers.insert(header::TRAILER, HeaderValue::from_static(STATS));
    if let Ok(completeness) = HeaderValue::from_str(&ascii(&completeness)) {
        headers.insert(HEADER, completeness);
    }
    response
}

/// JSON that may stand in a header: other characters than ASCII by their codes.
fn ascii(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        if c.is_ascii() {
            out.push(c);
        } else {
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                out.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    out
}
