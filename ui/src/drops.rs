//! Kernel drops shown among flows.
//!
//! What the datapath counts it has let through; what other parts of the kernel drop afterwards is
//! in the table `drops`. Who asks for what was dropped wants both: there a row of `drops` stands as
//! a row of `flows` with the verdict `DROPPED`, in SQL and in the live rows alike. Its reason is
//! Hubble's word where there is one, else the kernel's.

use std::sync::{Arc, LazyLock};

use arrow::array::{
    ArrayRef, BooleanArray, DictionaryArray, RecordBatch, StringArray, UInt64Array, new_null_array,
};
use arrow::compute::{cast, filter_record_batch};
use arrow::datatypes::Int32Type;
use arrow::error::ArrowError;
use columns::Table;
use model::DropReason;

use crate::ask::text;

/// Columns of `flows` with the column of `drops` that they are filled from; columns of the same
/// name are not listed, all others are unknown.
const FILLED: &[(&str, &str)] = &[
    ("start_time", "time"),
    ("end_time", "time"),
    ("attempts", "packets"),
    ("packets_out", "packets"),
    ("bytes_out", "bytes"),
];

/// Nothing came back of what was dropped.
const ANSWERS: &[&str] = &["packets_in", "bytes_in"];

/// What Weir's own policy refused has rows in `flows`.
const NOT_OURS: &str = "drop_location IS DISTINCT FROM 'weir'";

/// `flows` and `drops` together, as a table expression with the columns of `flows`.
pub(crate) static WITH_DROPS: LazyLock<String> = LazyLock::new(|| {
    let mut columns = Vec::new();
    for (name, _) in Table::Flows.columns() {
        match source(name) {
            Some("drop_reason") => columns.push(format!(
                "CASE WHEN drop_reason = '{}' THEN kernel_reason ELSE drop_reason END AS drop_reason",
                DropReason::Unknown.name()
            )),
            // Some names are words of SQL.
            Some(source) => columns.push(format!("\"{source}\" AS \"{name}\"")),
            None if *name == "verdict" => columns.push("'DROPPED' AS verdict".to_owned()),
            None if ANSWERS.contains(name) => {
                columns.push(format!("CAST(0 AS BIGINT UNSIGNED) AS {name}"));
            }
            None => {}
        }
    }
    format!(
        "(SELECT * FROM flows UNION ALL BY NAME\nSELECT {} FROM drops WHERE {NOT_OURS}) AS flows",
        columns.join(", ")
    )
});

/// Rows of `drops` as rows of `flows`.
///
/// # Errors
/// When a column has another type than its table says.
pub(crate) fn as_flows(drops: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    let others = |row| text(drops, "drop_location", row).as_deref() != Some("weir");
    let others: BooleanArray = (0..drops.num_rows()).map(|row| Some(others(row))).collect();
    let drops = &filter_record_batch(drops, &others)?;
    let schema = Table::Flows.schema();
    let rows = drops.num_rows();
    let column = |name: &str, kind| -> Result<ArrayRef, ArrowError> {
        match source(name).and_then(|source| drops.column_by_name(source)) {
            Some(_) if name == "drop_reason" => cast(&reasons(drops), kind),
            Some(column) => cast(column, kind),
            None if name == "verdict" => {
                let words = StringArray::from(vec!["DROPPED"]);
                let keys = vec![0; rows];
                Ok(Arc::new(DictionaryArray::<Int32Type>::try_new(keys.into(), Arc::new(words))?))
            }
            None if ANSWERS.contains(&name) => Ok(Arc::new(UInt64Array::from(vec![0; rows]))),
            None => Ok(new_null_array(kind, rows)),
        }
    };
    let columns = schema.fields().iter().map(|field| column(field.name(), field.data_type()));
    let columns: Vec<ArrayRef> = columns.collect::<Result<_, _>>()?;
    RecordBatch::try_new(schema, columns)
}

fn reasons(drops: &RecordBatch) -> StringArray {
    (0..drops.num_rows())
        .map(|row| {
            let reason = text(drops, "drop_reason", row);
            if reason.as_deref() == Some(DropReason::Unknown.name()) {
                return text(drops, "kernel_reason", row);
            }
            reason
        })
        .collect()
}

fn source(name: &str) -> Option<&'static str> {
    if let Some((_, source)) = FILLED.iter().find(|(filled, _)| *filled == name) {
        return Some(source);
    }
    Table::Drops.columns().iter().map(|(column, _)| *column).find(|column| *column == name)
}

#[cfg(test)]
mod tests {
    use columns::rows::{BatchBuilder, DropRow};

    use super::*;
    use crate::filter::Filters;

    #[test]
    fn a_drop_is_a_dropped_flow() {
        let mut builder = BatchBuilder::new(Table::Drops);
        DropRow {
            time: 7,
            source_pod: "web-1",
            source_namespace: "shop",
            destination_port: Some(5432),
            drop_reason: "POLICY_DENIED",
            packets: 3,
            bytes: 180,
            ..DropRow::default()
        }
        .push(&mut builder);
        let flows = as_flows(&builder.finish()).unwrap();
        assert_eq!(flows.schema(), Table::Flows.schema());
        let mut json = String::new();
        crate::json::object(&mut json, &flows, 0, false);
        assert_eq!(
            json,
            "{\"start_time\":\"1970-01-01T00:00:00.000000007Z\",\"end_time\":\"1970-01-01T00:00:00.000000007Z\",\
             \"destination_port\":5432,\"source_namespace\":\"shop\",\"source_pod\":\"web-1\",\
             \"verdict\":\"DROPPED\",\"drop_reason\":\"POLICY_DENIED\",\"packets_out\":3,\"bytes_out\":180,\"packets_in\":0,\"bytes_in\":0,\"attempts\":3}"
        );
        let mut filters = Filters::new();
        filters.add("verdict", "DROPPED").unwrap();
        filters.add("pod", "shop/web").unwrap();
        assert_eq!(filters.matcher().test(&flows), [true]);

        let unknown = DropRow {
            drop_reason: DropReason::Unknown.name(),
            kernel_reason: "NO_SOCKET",
            ..DropRow::default()
        };
        unknown.push(&mut builder);
        let flows = as_flows(&builder.finish()).unwrap();
        assert_eq!(text(&flows, "drop_reason", 0).as_deref(), Some("NO_SOCKET"));
    }
}
