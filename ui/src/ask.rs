//! Questions to the store that have small answers.

use arrow::array::{Array, AsArray as _, RecordBatch};
use arrow::datatypes::{
    DataType, Float64Type, Int64Type, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use axum::http::StatusCode;
use flowstore::{QueryError, QueryRequest};
use model::Completeness;

use crate::app::App;
use crate::error::ApiError;
use crate::json;

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) batches: Vec<RecordBatch>,
    pub(crate) completeness: Completeness,
}

// === impl App ===

impl App {
    /// Asks in SQL and waits for all of the answer.
    pub(crate) async fn ask(&self, sql: String) -> Result<Answer, ApiError> {
        tracing::debug!(sql, "asking");
        let request =
            QueryRequest { timeout: Some(self.config().timeout), ..QueryRequest::new(sql) };
        let stream = self.store().query(request).await.map_err(store_error)?;
        let completeness = stream.completeness().clone();
        let (batches, _) = stream.collect().await.map_err(store_error)?;
        Ok(Answer { batches, completeness })
    }
}

// === impl Answer ===

impl Answer {
    pub(crate) fn rows(&self) -> usize {
        self.batches.iter().map(RecordBatch::num_rows).sum()
    }

    /// Calls `with` for every row.
    pub(crate) fn each(&self, mut with: impl FnMut(&RecordBatch, usize)) {
        for batch in &self.batches {
            for row in 0..batch.num_rows() {
                with(batch, row);
            }
        }
    }
}

/// A cell as text; `None` when it is unknown.
pub(crate) fn text(batch: &RecordBatch, column: &str, row: usize) -> Option<String> {
    let column = batch.column_by_name(column)?;
    if column.is_null(row) {
        return None;
    }
    if let Some(texts) = column.as_string_opt::<i32>() {
        return Some(texts.value(row).to_owned());
    }
    let mut text = String::new();
    json::cell(&mut text, column, row);
    // Dictionaries of text come here too.
    Some(match text.strip_prefix('"').and_then(|text| text.strip_suffix('"')) {
        Some(bare) if !bare.contains('\\') => bare.to_owned(),
        Some(_) => serde_json::from_str(&text).unwrap_or(text),
        None => text,
    })
}

/// A cell as a number; `None` when it is unknown or negative.
pub(crate) fn number(batch: &RecordBatch, column: &str, row: usize) -> Option<u64> {
    let column = batch.column_by_name(column)?;
    if column.is_null(row) {
        return None;
    }
    match column.data_type() {
        DataType::UInt64 => Some(column.as_primitive::<UInt64Type>().value(row)),
        DataType::UInt32 => Some(column.as_primitive::<UInt32Type>().value(row).into()),
        DataType::UInt16 => Some(column.as_primitive::<UInt16Type>().value(row).into()),
        DataType::UInt8 => Some(column.as_primitive::<UInt8Type>().value(row).into()),
        DataType::Int64 => u64::try_from(column.as_primitive::<Int64Type>().value(row)).ok(),
        DataType::Float64 => Some(column.as_primitive::<Float64Type>().value(row) as u64),
        _ => None,
    }
}

/// An error of the store as a client sees it.
pub(crate) fn store_error(error: flowstore::Error) -> ApiError {
    let flowstore::Error::Query(error) = error else {
        tracing::error!(%error, "the store failed");
        return ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "store", error.to_string());
    };
    let status = match &error {
        QueryError::Invalid { .. } | QueryError::NotAllowed(_) => StatusCode::BAD_REQUEST,
        QueryError::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
        QueryError::Timeout(_) => StatusCode::GATEWAY_TIMEOUT,
        QueryError::Memory(_) => StatusCode::UNPROCESSABLE_ENTITY,
        QueryError::Busy | QueryError::Closed => StatusCode::SERVICE_UNAVAILABLE,
        // What fails while it runs (a division by zero, a cast) is mostly in the text.
        QueryError::Failed(_) => StatusCode::UNPROCESSABLE_ENTITY,
    };
    let answer = ApiError::new(status, error.code(), error.to_string());
    match error.hint() {
        Some(hint) => answer.hint(hint),
        None => answer,
    }
}
