//! Rows in memory: durable through the log, not in a segment yet.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::{max, min};
use arrow::datatypes::{Int32Type, TimestampNanosecondType};
use arrow::error::ArrowError;
use columns::Table;
use columns::ipc::IpcError;

use crate::error::Result;

/// One batch of one table.
#[derive(Debug, Clone)]
pub(crate) struct HotBatch {
    pub(crate) table: Table,
    pub(crate) rows: RecordBatch,
    pub(crate) span: Span,
    pub(crate) bytes: usize,
    /// Nodes that rows are of.
    pub(crate) nodes: BTreeSet<String>,
    /// Number of the log's file that holds the rows.
    pub(crate) wal: u64,
    /// When the rows came.
    pub(crate) since: Instant,
}

/// The time that rows cover, both ends included; nanoseconds since the epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) min: i64,
    pub(crate) max: i64,
}

// === impl HotBatch ===

impl HotBatch {
    pub(crate) fn new(table: Table, rows: RecordBatch) -> Result<Self, ArrowError> {
        Ok(Self {
            table,
            span: Span::of(table, &rows),
            bytes: bytes_of(&rows)?,
            nodes: nodes_of(&rows),
            wal: 0,
            since: Instant::now(),
            rows,
        })
    }

    /// Decodes a batch of the log or of a node.
    pub(crate) fn decode(table: Table, bytes: &[u8]) -> Result<Self, IpcError> {
        let rows = columns::ipc::decode(table, bytes)?;
        // Decoded columns are all slices of one buffer. Copied, each has its own: the engine sums
        // up what columns hold on to, and would count the whole once for each of them.
        let empty = RecordBatch::new_empty(rows.schema());
        let rows = arrow::compute::concat_batches(&rows.schema(), [&rows, &empty])?;
        Ok(Self::new(table, rows)?)
    }

    /// One batch out of many of the same table and file of the log.
    pub(crate) fn concat(parts: &[Arc<Self>]) -> Result<Option<Self>> {
        let Some(first) = parts.first() else { return Ok(None) };
        let rows = arrow::compute::concat_batches(
            &first.table.schema(),
            parts.iter().map(|part| &part.rows),
        )?;
        let mut whole = Self::new(first.table, rows)?;
        whole.wal = first.wal;
        whole.since = first.since;
        Ok(Some(whole))
    }
}

// === impl Span ===

impl Span {
    /// From the earliest to the latest time that any row names; flows have two.
    pub(crate) fn of(table: Table, rows: &RecordBatch) -> Self {
        let times = |name| {
            let column =
                rows.column_by_name(name)?.as_primitive_opt::<TimestampNanosecondType>()?;
            Some((min(column)?, max(column)?))
        };
        let (mut low, mut high) = times(table.time_column()).unwrap_or((0, 0));
        if let Some((earliest, latest)) = times("end_time") {
            low = low.min(earliest);
            high = high.max(latest);
        }
        Self { min: low, max: high }
    }

    /// Whether any of it lies between `from` and `until`, both included; `None` is no bound.
    pub(crate) fn overlaps(self, from: Option<i64>, until: Option<i64>) -> bool {
        from.is_none_or(|from| self.max >= from) && until.is_none_or(|until| self.min <= until)
    }

    /// Whether all of it lies between `from` and `until`.
    pub(crate) fn within(self, from: Option<i64>, until: Option<i64>) -> bool {
        from.is_none_or(|from| self.min >= from) && until.is_none_or(|until| self.max <= until)
    }
}

/// Nanoseconds since the epoch.
pub(crate) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// Bytes of the rows themselves. What Arrow reports as allocated counts a buffer that columns share
/// once for each of them.
fn bytes_of(rows: &RecordBatch) -> Result<usize, ArrowError> {
    let mut bytes = 0;
    for column in rows.columns() {
        bytes += column.to_data().get_slice_memory_size()?;
    }
    Ok(bytes)
}

fn nodes_of(rows: &RecordBatch) -> BTreeSet<String> {
    let node = rows.column_by_name("node").and_then(|node| node.as_dictionary_opt::<Int32Type>());
    let Some(values) = node.and_then(|node| node.values().as_string_opt::<i32>()) else {
        return BTreeSet::new();
    };
    values.iter().flatten().filter(|name| !name.is_empty()).map(str::to_owned).collect()
}
