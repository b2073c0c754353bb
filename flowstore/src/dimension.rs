//! Tables of things as they were: nodes, endpoints, services, policies, identities.
//!
//! Their rows are announced again and again, and once more when the thing ends. What counts is one
//! row per thing and start of validity.

use std::collections::HashMap;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, UInt32Array};
use arrow::compute::{concat_batches, interleave, take_record_batch};
use arrow::datatypes::TimestampNanosecondType;
use arrow::row::{OwnedRow, RowConverter, SortField};
use columns::Table;
use parking_lot::Mutex;

use crate::error::Result;
use crate::segment;
use crate::shared::TableState;

/// The rows of all segments of each such table, kept until its list of segments changes.
#[derive(Debug, Default)]
pub(crate) struct Dimensions(Mutex<HashMap<Table, (Vec<String>, RecordBatch)>>);

/// Whether a table is of this kind.
pub(crate) fn is_dimension(table: Table) -> bool {
    !key(table).is_empty()
}

/// The columns that tell one thing from another; none for tables of events.
fn key(table: Table) -> &'static [&'static str] {
    match table {
        Table::Nodes => &["cluster", "node"],
        // A name of the outside world has no pod; its addresses tell it apart.
        Table::Endpoints => &["cluster", "node", "kind", "namespace", "pod", "interface", "ips"],
        Table::Services => &["cluster", "node", "namespace", "name"],
        Table::Policies => &["cluster", "node", "kind", "namespace", "name"],
        Table::Identities => &["cluster", "node", "identity"],
        Table::Flows | Table::Drops | Table::Losses | Table::Counters | Table::L7 => &[],
    }
}

// === impl Dimensions ===

impl Dimensions {
    /// The present rows of such a table.
    pub(crate) fn current(&self, table: Table, state: &TableState) -> Result<RecordBatch> {
        let mut batches = vec![self.cold(table, state)?];
        batches.extend(state.hot.iter().map(|batch| batch.rows.clone()));
        dedupe(table, &batches)
    }

    fn cold(&self, table: Table, state: &TableState) -> Result<RecordBatch> {
        let files: Vec<String> = state.cold.iter().map(|s| s.meta.file.clone()).collect();
        if files.is_empty() {
            return Ok(RecordBatch::new_empty(table.schema()));
        }
        let kept = self.0.lock().get(&table).cloned();
        if let Some((of, rows)) = kept
            && of == files
        {
            return Ok(rows);
        }
        let mut batches = Vec::new();
        for segment in &state.cold {
            batches.extend(segment::read(&segment.path, table, None)?);
        }
        let rows = dedupe(table, &batches)?;
        self.0.lock().insert(table, (files, rows.clone()));
        Ok(rows)
    }
}

/// One row per thing and start: as announced last, with the end if one is known.
pub(crate) fn dedupe(table: Table, batches: &[RecordBatch]) -> Result<RecordBatch> {
    let rows = concat_batches(&table.schema(), batches)?;
    let Some(ends) = rows
        .column_by_name("valid_to")
        .and_then(|column| column.as_primitive_opt::<TimestampNanosecondType>())
        .cloned()
    else {
        return Ok(rows);
    };
    let columns: Vec<ArrayRef> = std::iter::once("valid_from")
        .chain(key(table).iter().copied())
        .filter_map(|name| rows.column_by_name(name).cloned())
        .collect();
    let fields = columns.iter().map(|c| SortField::new(c.data_type().clone())).collect();
    let keys = RowConverter::new(fields)?.convert_columns(&columns)?;
    // Of each thing: the row that describes it, and the row that ends it. An ending row may repeat
    // no more than the key, so it describes only what nothing else does.
    let mut things: HashMap<OwnedRow, (u32, Option<u32>)> = HashMap::new();
    let mut order = Vec::new();
    for (row, key) in keys.iter().enumerate() {
        let key = key.owned();
        let at = row as u32;
        let closed = ends.is_valid(row);
        match things.get_mut(&key) {
            None => {
                order.push(key.clone());
                things.insert(key, (at, closed.then_some(at)));
            }
            Some((_, end)) if closed => *end = Some(at),
            Some((described, _)) => *described = at,
        }
    }
    let (described, ended): (Vec<u32>, Vec<Option<u32>>) =
        order.iter().filter_map(|key| things.get(key)).copied().unzip();
    let mut result = take_record_batch(&rows, &UInt32Array::from(described.clone()))?;
    if let Some(column) = rows.schema().index_of("valid_to").ok().filter(|_| !order.is_empty()) {
        let from: Vec<(usize, usize)> = described
            .iter()
            .zip(&ended)
            .map(|(described, ended)| (0, ended.unwrap_or(*described) as usize))
            .collect();
        let mut columns = result.columns().to_vec();
        columns[column] = interleave(&[rows.column(column).as_ref()], &from)?;
        result = RecordBatch::try_new(result.schema(), columns)?;
    }
    Ok(result)
}

/// The rows without those that ended before `cutoff`.
pub(crate) fn without_ended(rows: &RecordBatch, cutoff: i64) -> Result<RecordBatch> {
    let Some(ends) = rows
        .column_by_name("valid_to")
        .and_then(|column| column.as_primitive_opt::<TimestampNanosecondType>())
    else {
        return Ok(rows.clone());
    };
    let keep: Vec<bool> = ends.iter().map(|end| end.is_none_or(|end| end >= cutoff)).collect();
    Ok(arrow::compute::filter_record_batch(rows, &keep.into())?)
}
