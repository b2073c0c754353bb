//! The order of rows in a segment.
//!
//! Flows lie by (minute, source workload, destination workload, port, time): a third fewer bytes
//! than in order of time, and 1.3 to 2.5 times faster queries. Everything else lies by time.

use std::collections::BTreeMap;

use arrow::array::{Array, AsArray, RecordBatch, UInt32Array};
use arrow::datatypes::{Int32Type, TimestampNanosecondType, UInt16Type};
use columns::Table;

const MINUTE: i64 = 60_000_000_000;

/// Indices of the rows in the order of the segment.
pub(crate) fn order(table: Table, rows: &RecordBatch) -> UInt32Array {
    let Some(times) = rows
        .column_by_name(table.time_column())
        .and_then(|column| column.as_primitive_opt::<TimestampNanosecondType>())
    else {
        return (0..rows.num_rows() as u32).collect();
    };
    let times = times.values();
    if table != Table::Flows {
        let mut order: Vec<u32> = (0..rows.num_rows() as u32).collect();
        order.sort_by_key(|row| times[*row as usize]);
        return order.into();
    }
    let source = ranks(rows, "source_workload");
    let destination = ranks(rows, "destination_workload");
    let ports = rows
        .column_by_name("destination_port")
        .and_then(|column| column.as_primitive_opt::<UInt16Type>());
    let port = |row: usize| match ports {
        Some(ports) if ports.is_valid(row) => ports.value(row),
        _ => 0,
    };
    let mut keys: Vec<_> = (0..rows.num_rows())
        .map(|row| {
            let minute = times[row].div_euclid(MINUTE);
            (minute, source[row], destination[row], port(row), times[row], row as u32)
        })
        .collect();
    keys.sort_unstable();
    keys.into_iter().map(|key| key.5).collect::<Vec<u32>>().into()
}

/// For each row, the place of its word among all words of the column; NULL first.
fn ranks(rows: &RecordBatch, column: &str) -> Vec<u32> {
    let Some(words) =
        rows.column_by_name(column).and_then(|column| column.as_dictionary_opt::<Int32Type>())
    else {
        return vec![0; rows.num_rows()];
    };
    let Some(values) = words.values().as_string_opt::<i32>() else {
        return vec![0; rows.num_rows()];
    };
    // The same word may stand in the values more than once.
    let mut places: BTreeMap<&str, u32> = values.iter().flatten().map(|word| (word, 0)).collect();
    for (place, rank) in places.values_mut().zip(1..) {
        *place = rank;
    }
    let of_key: Vec<u32> = values
        .iter()
        .map(|word| word.and_then(|word| places.get(word).copied()).unwrap_or(0))
        .collect();
    words
        .keys()
        .iter()
        .map(|key| key.and_then(|key| of_key.get(key as usize).copied()).unwrap_or(0))
        .collect()
}
