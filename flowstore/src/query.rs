//! Questions in SQL, and the limits under which they are answered.

mod catalog;
mod edges;
mod engine;
mod error;
mod functions;
mod guard;
mod hold;
mod log;
mod plain;
mod provider;
mod range;
mod report;
mod session;
mod stream;
mod system;
mod unfold;
mod yielding;

pub use error::QueryError;
pub use stream::QueryStream;

pub(crate) use engine::Engine;

use std::time::Duration;

use arrow::datatypes::{DataType, SchemaRef};
use datafusion::common::ScalarValue;

/// A query. Limits left out are those of the store; larger ones are cut to them.
#[derive(Debug, Clone, PartialEq)]
pub struct QueryRequest {
    /// One statement that only reads: `SELECT`, `VALUES`, `EXPLAIN`, `SHOW`, `DESCRIBE`.
    pub sql: String,
    /// Values of `$1`, `$2`, …
    pub params: Vec<Param>,
    /// Wall time, its turn included.
    pub timeout: Option<Duration>,
    /// Rows of the answer; more are cut off.
    pub max_rows: Option<usize>,
    /// Bytes of working memory.
    pub memory: Option<usize>,
    /// Answer in types that every reader knows (`Utf8`) instead of those that save memory
    /// (dictionaries, views).
    pub plain: bool,
}

/// The value of a parameter.
#[derive(Debug, Clone, PartialEq)]
pub enum Param {
    /// NULL.
    Null,
    /// Yes or no.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A whole number that may be large.
    UInt(u64),
    /// A number.
    Float(f64),
    /// Text; also times (`2026-01-31T12:00:00Z`).
    Text(String),
    /// Nanoseconds since the epoch.
    Time(i64),
}

/// What a query would answer with.
#[derive(Debug, Clone, PartialEq)]
pub struct Described {
    /// The columns of the answer, in plain types.
    pub schema: SchemaRef,
    /// Types of `$1`, `$2`, … as far as the text tells.
    pub params: Vec<Option<DataType>>,
}

/// What a query did, so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct QueryStats {
    /// Rows handed out.
    pub rows: usize,
    /// Time since it was asked.
    pub elapsed: Duration,
    /// There would have been more rows than the limit.
    pub truncated: bool,
}

// === impl QueryRequest ===

impl QueryRequest {
    /// A query within the store's limits.
    pub fn new(sql: impl Into<String>) -> Self {
        Self {
            sql: sql.into(),
            params: Vec::new(),
            timeout: None,
            max_rows: None,
            memory: None,
            plain: true,
        }
    }

    /// With values for `$1`, `$2`, …
    #[must_use]
    pub fn with_params(mut self, params: Vec<Param>) -> Self {
        self.params = params;
        self
    }
}

// === impl Param ===

impl Param {
    fn into_scalar(self) -> ScalarValue {
        match self {
            Self::Null => ScalarValue::Null,
            Self::Bool(value) => ScalarValue::Boolean(Some(value)),
            Self::Int(value) => ScalarValue::Int64(Some(value)),
            Self::UInt(value) => ScalarValue::UInt64(Some(value)),
            Self::Float(value) => ScalarValue::Float64(Some(value)),
            Self::Text(value) => ScalarValue::Utf8(Some(value)),
            Self::Time(value) => ScalarValue::TimestampNanosecond(Some(value), Some("UTC".into())),
        }
    }
}
