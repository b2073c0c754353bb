//! Cells of record batches as JSON and CSV.
//!
//! Written straight into text: an answer of a hundred thousand rows builds no tree first. Times
//! are RFC 3339 with nanoseconds, 64-bit integers are JSON numbers, unknown is `null`, what JSON
//! has no word for (NaN, infinity) is `null` as well.

use std::fmt::Write as _;

use arrow::array::{Array, AsArray as _, RecordBatch};
use arrow::datatypes::{
    ArrowDictionaryKeyType, ArrowTimestampType, DataType, Decimal128Type, Float32Type, Float64Type,
    Int8Type, Int16Type, Int32Type, Int64Type, TimeUnit, TimestampMicrosecondType,
    TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType, UInt8Type, UInt16Type,
    UInt32Type, UInt64Type,
};
use arrow::util::display::{ArrayFormatter, FormatOptions};

use crate::time;

/// Writes a string with its quotes.
pub(crate) fn string(out: &mut String, text: &str) {
    out.push('"');
    let mut from = 0;
    for (at, byte) in text.bytes().enumerate() {
        let short = match byte {
            b'"' => "\\\"",
            b'\\' => "\\\\",
            b'\n' => "\\n",
            b'\r' => "\\r",
            b'\t' => "\\t",
            0..0x20 => {
                out.push_str(&text[from..at]);
                write!(out, "\\u{byte:04x}").expect("memory takes it");
                from = at + 1;
                continue;
            }
            _ => continue,
        };
        out.push_str(&text[from..at]);
        out.push_str(short);
        from = at + 1;
    }
    out.push_str(&text[from..]);
    out.push('"');
}

/// Writes a row as an array.
pub(crate) fn row(out: &mut String, batch: &RecordBatch, row: usize) {
    out.push('[');
    for (at, column) in batch.columns().iter().enumerate() {
        if at > 0 {
            out.push(',');
        }
        cell(out, column, row);
    }
    out.push(']');
}

/// Writes a row as an object; `nulls` keeps columns that are unknown.
pub(crate) fn object(out: &mut String, batch: &RecordBatch, row: usize, nulls: bool) {
    out.push('{');
    let mut first = true;
    for (field, column) in batch.schema_ref().fields().iter().zip(batch.columns()) {
        if !nulls && column.is_null(row) {
            continue;
        }
        if !first {
            out.push(',');
        }
        first = false;
        string(out, field.name());
        out.push(':');
        cell(out, column, row);
    }
    out.push('}');
}

/// Writes one cell.
pub(crate) fn cell(out: &mut String, column: &dyn Array, row: usize) {
    if column.is_null(row) {
        out.push_str("null");
        return;
    }
    macro_rules! number {
        ($type:ty) => {
            write!(out, "{}", column.as_primitive::<$type>().value(row)).expect("memory takes it")
        };
    }
    match column.data_type() {
        DataType::Null => out.push_str("null"),
        DataType::Boolean => {
            out.push_str(if column.as_boolean().value(row) { "true" } else { "false" });
        }
        DataType::Int8 => number!(Int8Type),
        DataType::Int16 => number!(Int16Type),
        DataType::Int32 => number!(Int32Type),
        DataType::Int64 => number!(Int64Type),
        DataType::UInt8 => number!(UInt8Type),
        DataType::UInt16 => number!(UInt16Type),
        DataType::UInt32 => number!(UInt32Type),
        DataType::UInt64 => number!(UInt64Type),
        DataType::Float32 => float(out, column.as_primitive::<Float32Type>().value(row).into()),
        DataType::Float64 => float(out, column.as_primitive::<Float64Type>().value(row)),
        DataType::Decimal128(..) => {
            out.push_str(&column.as_primitive::<Decimal128Type>().value_as_string(row));
        }
        DataType::Utf8 => string(out, column.as_string::<i32>().value(row)),
        DataType::LargeUtf8 => string(out, column.as_string::<i64>().value(row)),
        DataType::Utf8View => string(out, column.as_string_view().value(row)),
        DataType::Dictionary(key, _) => match **key {
            DataType::Int8 => dictionary::<Int8Type>(out, column, row),
            DataType::Int16 => dictionary::<Int16Type>(out, column, row),
            DataType::Int32 => dictionary::<Int32Type>(out, column, row),
            DataType::Int64 => dictionary::<Int64Type>(out, column, row),
            DataType::UInt8 => dictionary::<UInt8Type>(out, column, row),
            DataType::UInt16 => dictionary::<UInt16Type>(out, column, row),
            DataType::UInt32 => dictionary::<UInt32Type>(out, column, row),
            _ => dictionary::<UInt64Type>(out, column, row),
        },
        DataType::List(_) => list(out, &*column.as_list::<i32>().value(row)),
        DataType::LargeList(_) => list(out, &*column.as_list::<i64>().value(row)),
        DataType::FixedSizeList(..) => list(out, &*column.as_fixed_size_list().value(row)),
        DataType::Struct(fields) => {
            let columns = column.as_struct().columns();
            out.push('{');
            for (at, (field, column)) in fields.iter().zip(columns).enumerate() {
                if at > 0 {
                    out.push(',');
                }
                string(out, field.name());
                out.push(':');
                cell(out, column, row);
            }
            out.push('}');
        }
        DataType::Timestamp(TimeUnit::Second, _) => {
            timestamp::<TimestampSecondType>(out, column, row, 1_000_000_000);
        }
        DataType::Timestamp(TimeUnit::Millisecond, _) => {
            timestamp::<TimestampMillisecondType>(out, column, row, 1_000_000);
        }
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            timestamp::<TimestampMicrosecondType>(out, column, row, 1_000);
        }
        DataType::Timestamp(TimeUnit::Nanosecond, _) => {
            timestamp::<TimestampNanosecondType>(out, column, row, 1);
        }
        _ => string(out, &other(column, row)),
    }
}

fn float(out: &mut String, value: f64) {
    if value.is_finite() {
        write!(out, "{value}").expect("memory takes it");
    } else {
        out.push_str("null");
    }
}

fn dictionary<K: ArrowDictionaryKeyType>(out: &mut String, column: &dyn Array, row: usize) {
    let column = column.as_dictionary::<K>();
    match column.key(row) {
        Some(key) => cell(out, column.values(), key),
        None => out.push_str("null"),
    }
}

fn list(out: &mut String, values: &dyn Array) {
    out.push('[');
    for at in 0..values.len() {
        if at > 0 {
            out.push(',');
        }
        cell(out, values, at);
    }
    out.push(']');
}

/// A time; those without a zone are UTC, as everything here is.
fn timestamp<T: ArrowTimestampType>(
    out: &mut String,
    column: &dyn Array,
    row: usize,
    nanoseconds: i64,
) {
    match column.as_primitive::<T>().value(row).checked_mul(nanoseconds) {
        Some(value) => {
            out.push('"');
            time::write(out, value);
            out.push('"');
        }
        // Beyond what nanoseconds can count: some hundred thousand years from here.
        None => out.push_str("null"),
    }
}

/// Dates, durations, intervals, bytes: as Arrow displays them.
fn other(column: &dyn Array, row: usize) -> String {
    ArrayFormatter::try_new(column, &FormatOptions::default())
        .and_then(|formatter| formatter.value(row).try_to_string())
        .unwrap_or_default()
}

/// Writes the names of the columns as a line of CSV (RFC 4180).
pub(crate) fn csv_header(out: &mut String, batch: &arrow::datatypes::Schema) {
    for (at, field) in batch.fields().iter().enumerate() {
        if at > 0 {
            out.push(',');
        }
        csv_field(out, field.name());
    }
    out.push_str("\r\n");
}

/// Writes a row as a line of CSV: unknown is empty, an empty text is `""`, a list is JSON.
pub(crate) fn csv_row(out: &mut String, batch: &RecordBatch, row: usize, buffer: &mut String) {
    for (at, column) in batch.columns().iter().enumerate() {
        if at > 0 {
            out.push(',');
        }
        if column.is_null(row) {
            continue;
        }
        buffer.clear();
        if !plain_text(column, row, buffer) {
            cell(buffer, column, row);
        }
        match buffer.strip_prefix('"').and_then(|text| text.strip_suffix('"')) {
            // A quoted cell that is no text is a time or the like: nothing is escaped in it.
            Some(text) if !is_text(column.data_type()) => out.push_str(text),
            _ if buffer.is_empty() && is_text(column.data_type()) => out.push_str("\"\""),
            _ => csv_field(out, buffer),
        }
    }
    out.push_str("\r\n");
}

fn csv_field(out: &mut String, text: &str) {
    if !text.contains([',', '"', '\r', '\n']) {
        out.push_str(text);
        return;
    }
    out.push('"');
    for c in text.chars() {
        if c == '"' {
            out.push('"');
        }
        out.push(c);
    }
    out.push('"');
}

fn is_text(kind: &DataType) -> bool {
    match kind {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => true,
        DataType::Dictionary(_, values) => is_text(values),
        _ => false,
    }
}

/// Appends a text cell as it is; `false` when the cell is something else.
fn plain_text(column: &dyn Array, row: usize, out: &mut String) -> bool {
    match column.data_type() {
        DataType::Utf8 => out.push_str(column.as_string::<i32>().value(row)),
        DataType::LargeUtf8 => out.push_str(column.as_string::<i64>().value(row)),
        DataType::Utf8View => out.push_str(column.as_string_view().value(row)),
        DataType::Dictionary(_, values) if is_text(values) => {
            // Other keys than these are not made here: their cells are read as JSON.
            let Some(words) = column.as_dictionary_opt::<Int32Type>() else { return false };
            return words.key(row).is_some_and(|key| plain_text(words.values(), key, out));
        }
        _ => return false,
    }
    true
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{
        BooleanArray, Date32Array, DictionaryArray, Float64Array, ListArray, StringArray,
        TimestampNanosecondArray, UInt64Array,
    };

    use super::*;

    fn batch() -> RecordBatch {
        let words: DictionaryArray<Int32Type> = vec![Some("a,b"), None].into_iter().collect();
        let lists =
            ListArray::from_iter_primitive::<Int32Type, _, _>([Some(vec![Some(1), None]), None]);
        RecordBatch::try_from_iter_with_nullable([
            ("n", Arc::new(UInt64Array::from(vec![Some(u64::MAX), None])) as _, true),
            ("w", Arc::new(words) as _, true),
            ("t", Arc::new(StringArray::from(vec![Some("q\"\u{1}\n"), Some("")])) as _, true),
            ("f", Arc::new(Float64Array::from(vec![f64::NAN, 0.5])) as _, true),
            ("b", Arc::new(BooleanArray::from(vec![true, false])) as _, true),
            ("l", Arc::new(lists) as _, true),
            (
                "at",
                Arc::new(TimestampNanosecondArray::from(vec![1, 0]).with_timezone("UTC")) as _,
                true,
            ),
            ("d", Arc::new(Date32Array::from(vec![1, 2])) as _, true),
        ])
        .unwrap()
    }

    #[test]
    fn rows_as_json() {
        let mut out = String::new();
        row(&mut out, &batch(), 0);
        assert_eq!(
            out,
            r#"[18446744073709551615,"a,b","q\"\u0001\n",null,true,[1,null],"1970-01-01T00:00:00.000000001Z","1970-01-02"]"#
        );
        serde_json::from_str::<serde_json::Value>(&out).unwrap();
        out.clear();
        object(&mut out, &batch(), 1, false);
        assert_eq!(
            out,
            r#"{"t":"","f":0.5,"b":false,"at":"1970-01-01T00:00:00.000000000Z","d":"1970-01-03"}"#
        );
    }

    #[test]
    fn rows_as_csv() {
        let mut out = String::new();
        let mut buffer = String::new();
        csv_header(&mut out, &batch().schema());
        csv_row(&mut out, &batch(), 0, &mut buffer);
        csv_row(&mut out, &batch(), 1, &mut buffer);
        assert_eq!(
            out,
            "n,w,t,f,b,l,at,d\r\n\
             18446744073709551615,\"a,b\",\"q\"\"\u{1}\n\",null,true,\"[1,null]\",1970-01-01T00:00:00.000000001Z,1970-01-02\r\n\
             ,,\"\",0.5,false,,1970-01-01T00:00:00.000000000Z,1970-01-03\r\n"
        );
    }
}
