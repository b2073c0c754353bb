//! Sums over rows of `losses` and `counters`.

use std::collections::{BTreeMap, BTreeSet};

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, TimestampNanosecondType, UInt64Type};
use columns::Table;
use model::{CompletenessCause, LossCause, LossStage};

use super::Covered;

/// What a set of rows says about losses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Events, flows and bytes by (stage, cause, node).
    losses: BTreeMap<Place, [u64; 3]>,
    /// The same as interfaces count it: bytes that a full table or a malformed packet cost.
    counted: BTreeMap<Place, u64>,
    pub(crate) unattributed_bytes: u64,
    /// Nodes that rows are of.
    pub(crate) nodes: BTreeSet<String>,
}

type Place = (String, String, String);

/// Prefix of the detail of rows that say that a segment is damaged. The list of those segments says
/// it better, for it knows their time; such rows are for people.
pub(crate) const SEGMENT_DETAIL: &str = "segment ";

// === impl Tally ===

impl Tally {
    /// The columns that [`add`](Self::add) needs.
    pub(crate) fn columns(table: Table) -> &'static [&'static str] {
        match table {
            Table::Counters => {
                &["time", "node", "unattributed_bytes", "table_full_bytes", "malformed_bytes"]
            }
            _ => &["time", "node", "stage", "cause", "events", "flows", "bytes", "detail"],
        }
    }

    pub(crate) fn add(&mut self, table: Table, rows: &RecordBatch, covered: Covered) {
        let Some(times) = rows
            .column_by_name("time")
            .and_then(|column| column.as_primitive_opt::<TimestampNanosecondType>())
        else {
            return;
        };
        let columns = Columns(rows);
        let node = columns.texts("node");
        let inside = |row: usize| {
            let time = times.value(row);
            covered.from.is_none_or(|from| time >= from)
                && covered.until.is_none_or(|until| time <= until)
        };
        if table == Table::Counters {
            let unattributed = columns.numbers("unattributed_bytes");
            let full = columns.numbers("table_full_bytes");
            let malformed = columns.numbers("malformed_bytes");
            for row in (0..rows.num_rows()).filter(|row| inside(*row)) {
                self.unattributed_bytes += unattributed[row];
                let node = &node[row];
                self.count(LossCause::Full, node, full[row]);
                self.count(LossCause::Malformed, node, malformed[row]);
                self.report(node);
            }
            return;
        }
        let (stage, cause) = (columns.texts("stage"), columns.texts("cause"));
        let (events, flows) = (columns.numbers("events"), columns.numbers("flows"));
        let (bytes, detail) = (columns.numbers("bytes"), columns.texts("detail"));
        for row in (0..rows.num_rows()).filter(|row| inside(*row)) {
            if detail[row].starts_with(SEGMENT_DETAIL) {
                continue;
            }
            let sums = [events[row], flows[row], bytes[row]];
            self.lose(&stage[row], &cause[row], &node[row], sums);
        }
    }

    pub(crate) fn lose(&mut self, stage: &str, cause: &str, node: &str, sums: [u64; 3]) {
        let place = (stage.to_owned(), cause.to_owned(), node.to_owned());
        let entry = self.losses.entry(place).or_default();
        for (sum, more) in entry.iter_mut().zip(sums) {
            *sum = sum.saturating_add(more);
        }
    }

    fn count(&mut self, cause: LossCause, node: &str, bytes: u64) {
        if bytes > 0 {
            let place =
                (LossStage::Table.name().to_owned(), cause.name().to_owned(), node.to_owned());
            *self.counted.entry(place).or_default() += bytes;
        }
    }

    fn report(&mut self, node: &str) {
        if !node.is_empty() && !self.nodes.contains(node) {
            self.nodes.insert(node.to_owned());
        }
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        for ((stage, cause, node), sums) in &other.losses {
            self.lose(stage, cause, node, *sums);
        }
        for (place, bytes) in &other.counted {
            *self.counted.entry(place.clone()).or_default() += bytes;
        }
        self.unattributed_bytes += other.unattributed_bytes;
        self.nodes.extend(other.nodes.iter().cloned());
    }

    /// The losses, one per stage, cause and node. What both a node's losses and its counters say is
    /// one loss seen twice: the larger number stands.
    pub(crate) fn causes(&self) -> Vec<CompletenessCause> {
        let mut all = self.losses.clone();
        for (place, bytes) in &self.counted {
            let sums = all.entry(place.clone()).or_default();
            sums[2] = sums[2].max(*bytes);
        }
        all.into_iter()
            .map(|((stage, cause, node), [events, flows, bytes])| CompletenessCause {
                stage,
                cause,
                node,
                events,
                flows,
                bytes,
            })
            .collect()
    }
}

/// Columns by name; what is missing or NULL is nothing.
struct Columns<'a>(&'a RecordBatch);

impl Columns<'_> {
    fn numbers(&self, name: &str) -> Vec<u64> {
        let column = self.0.column_by_name(name);
        match column.and_then(|column| column.as_primitive_opt::<UInt64Type>()) {
            Some(column) => column.iter().map(Option::unwrap_or_default).collect(),
            None => vec![0; self.0.num_rows()],
        }
    }

    fn texts(&self, name: &str) -> Vec<String> {
        let column = self.0.column_by_name(name).and_then(|c| cast(c, &DataType::Utf8).ok());
        match column.as_ref().and_then(|column| column.as_string_opt::<i32>()) {
            Some(column) => column.iter().map(|text| text.unwrap_or_default().to_owned()).collect(),
            None => vec![String::new(); self.0.num_rows()],
        }
    }
}

/// Names in rows of `nodes` that are valid at some time between `from` and `until`.
pub(super) fn nodes_between(rows: &RecordBatch, from: Option<i64>, until: i64) -> BTreeSet<String> {
    let time = |name: &str| {
        rows.column_by_name(name)
            .and_then(|column| column.as_primitive_opt::<TimestampNanosecondType>())
    };
    let (Some(starts), Some(ends)) = (time("valid_from"), time("valid_to")) else {
        return BTreeSet::new();
    };
    let names = Columns(rows).texts("node");
    (0..rows.num_rows())
        .filter(|row| starts.value(*row) <= until)
        .filter(|row| ends.is_null(*row) || from.is_none_or(|from| ends.value(*row) >= from))
        .map(|row| names[row].clone())
        .filter(|name| !name.is_empty())
        .collect()
}
