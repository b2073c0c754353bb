//! `--by`: flows added up.

use anyhow::{Result, bail};

use crate::cli::text::{self, Table};

/// Short names for what is most asked for.
const SHORT: &[(&str, &[&str])] = &[
    ("source", &["source_namespace", "source_workload"]),
    ("destination", &["destination_namespace", "destination_workload"]),
    ("namespace", &["source_namespace", "destination_namespace"]),
    ("workload", &["source_workload", "destination_workload"]),
    ("port", &["protocol", "destination_port"]),
    ("service", &["destination_service_namespace", "destination_service"]),
    ("process", &["process_name"]),
];

/// The columns of a list such as `source,destination_port`.
pub(super) fn columns(fields: &[String]) -> Result<Vec<&'static str>> {
    let known = columns::Table::Flows.columns();
    let mut out: Vec<&'static str> = Vec::new();
    for field in fields {
        if let Some((_, columns)) = SHORT.iter().find(|(short, _)| short == field) {
            out.extend(*columns);
        } else if let Some((name, _)) = known.iter().find(|(name, _)| name == field) {
            out.push(name);
        } else {
            let short: Vec<&str> = SHORT.iter().map(|(name, _)| *name).collect();
            bail!("--by {field}: expected a column of flows, or one of {}", short.join(", "));
        }
    }
    out.dedup();
    Ok(out)
}

/// Rows of the answer as a table.
pub(super) fn table(columns: &[&str], rows: &[serde_json::Value]) -> String {
    let mut headings: Vec<String> = columns.iter().map(|name| name.to_uppercase()).collect();
    headings.extend(["FLOWS>", "BYTES>", "PACKETS>", "DROPPED>"].map(str::to_owned));
    let headings: Vec<&str> = headings.iter().map(String::as_str).collect();
    let mut table = Table::new(&headings);
    for row in rows {
        let mut cells: Vec<String> = columns.iter().map(|name| cell(&row[*name])).collect();
        let number = |name: &str| row[name].as_u64().unwrap_or(0);
        cells.push(text::count(number("flows")));
        cells.push(text::bytes(number("bytes")));
        cells.push(text::count(number("packets")));
        cells.push(text::count(number("dropped")));
        table.row(cells);
    }
    table.text(2)
}

fn cell(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::Null => "-".to_owned(),
        serde_json::Value::String(text) => text::harmless(text),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_columns_or_short_for_some() {
        let list = |text: &str| text.split(',').map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(
            super::columns(&list("source,destination_port")).unwrap(),
            ["source_namespace", "source_workload", "destination_port"]
        );
        assert!(super::columns(&list("bytes; DROP TABLE")).is_err());
    }

    #[test]
    fn as_a_table() {
        let rows = [
            serde_json::json!({"process_name": null, "flows": 3, "bytes": 2048, "packets": 1000, "dropped": 0}),
        ];
        assert_eq!(
            table(&["process_name"], &rows),
            "PROCESS_NAME  FLOWS     BYTES  PACKETS  DROPPED\n-                 3  2.00 KiB    1,000        0\n"
        );
    }
}
