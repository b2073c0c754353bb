//! `weir.system`: the store about itself.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, Float64Array, RecordBatch, StringArray, TimestampNanosecondArray, UInt64Array,
};
use datafusion::catalog::TableProvider;
use datafusion::datasource::MemTable;
use datafusion::error::Result;
use prometheus::proto::MetricType;

use super::log::QueryLog;
use crate::shared::Snapshot;

/// Names of the tables.
pub(super) const NAMES: &[&str] = &["segments", "queries", "streams", "metrics"];

/// Where they get their rows from.
#[derive(Debug, Clone)]
pub(super) struct Sources {
    pub(super) metrics: prometheus::Registry,
    pub(super) stages: stage::Registry,
    pub(super) log: Arc<QueryLog>,
}

// === impl Sources ===

impl Sources {
    pub(super) fn table(
        &self,
        name: &str,
        snapshot: &Snapshot,
    ) -> Result<Option<Arc<dyn TableProvider>>> {
        let batch = match name {
            "segments" => segments(snapshot)?,
            "queries" => self.queries()?,
            "streams" => self.streams()?,
            "metrics" => self.metrics()?,
            _ => return Ok(None),
        };
        Ok(Some(Arc::new(MemTable::try_new(batch.schema(), vec![vec![batch]])?)))
    }

    fn queries(&self) -> Result<RecordBatch> {
        let all = self.log.entries();
        Ok(RecordBatch::try_from_iter_with_nullable([
            ("id", numbers(all.iter().map(|entry| entry.id)), false),
            ("started", times(all.iter().map(|entry| entry.started)), false),
            (
                "elapsed_ms",
                Arc::new(
                    all.iter()
                        .map(|entry| entry.elapsed.map(|elapsed| elapsed.as_secs_f64() * 1e3))
                        .collect::<Float64Array>(),
                ) as ArrayRef,
                true,
            ),
            ("rows", numbers(all.iter().map(|entry| entry.rows)), false),
            ("outcome", texts(all.iter().map(|entry| entry.outcome)), false),
            (
                "error",
                Arc::new(all.iter().map(|entry| entry.error.as_deref()).collect::<StringArray>()),
                true,
            ),
            ("sql", texts(all.iter().map(|entry| entry.sql.as_str())), false),
        ])?)
    }

    fn streams(&self) -> Result<RecordBatch> {
        let all = self.stages.snapshots();
        let lost = all.iter().map(|stage| stage.lost.iter().map(|(_, count)| count).sum());
        let causes: Vec<String> = all
            .iter()
            .map(|stage| {
                let causes: Vec<String> =
                    stage.lost.iter().map(|(cause, count)| format!("{cause}={count}")).collect();
                causes.join(" ")
            })
            .collect();
        Ok(RecordBatch::try_from_iter_with_nullable([
            ("name", texts(all.iter().map(|stage| stage.name.as_str())), false),
            ("capacity", numbers(all.iter().map(|stage| stage.capacity)), false),
            ("taken", numbers(all.iter().map(|stage| stage.taken)), false),
            ("handed", numbers(all.iter().map(|stage| stage.handed)), false),
            ("held", numbers(all.iter().map(stage::Snapshot::held)), false),
            ("lost", numbers(lost), false),
            ("causes", texts(causes.iter().map(String::as_str)), false),
        ])?)
    }

    fn metrics(&self) -> Result<RecordBatch> {
        let mut rows: Vec<(String, String, &'static str, f64)> = Vec::new();
        for family in self.metrics.gather() {
            for metric in family.get_metric() {
                let labels: Vec<String> = metric
                    .get_label()
                    .iter()
                    .map(|label| format!("{}={}", label.name(), label.value()))
                    .collect();
                let labels = labels.join(",");
                let mut push = |suffix: &str, kind, value| {
                    rows.push((format!("{}{suffix}", family.name()), labels.clone(), kind, value));
                };
                match family.get_field_type() {
                    MetricType::COUNTER => push("", "counter", metric.get_counter().get_value()),
                    MetricType::GAUGE => push("", "gauge", metric.get_gauge().get_value()),
                    MetricType::HISTOGRAM => {
                        let histogram = metric.get_histogram();
                        push("_count", "counter", histogram.get_sample_count() as f64);
                        push("_sum", "counter", histogram.get_sample_sum());
                    }
                    _ => {}
                }
            }
        }
        let values: Float64Array = rows.iter().map(|row| Some(row.3)).collect();
        Ok(RecordBatch::try_from_iter_with_nullable([
            ("name", texts(rows.iter().map(|row| row.0.as_str())), false),
            ("labels", texts(rows.iter().map(|row| row.1.as_str())), false),
            ("kind", texts(rows.iter().map(|row| row.2)), false),
            ("value", Arc::new(values) as ArrayRef, false),
        ])?)
    }
}

fn segments(snapshot: &Snapshot) -> Result<RecordBatch> {
    let all: Vec<_> = snapshot.segments().map(|segment| &segment.meta).collect();
    let nodes = all.iter().map(|meta| meta.nodes.len() as u64);
    Ok(RecordBatch::try_from_iter_with_nullable([
        ("table", texts(all.iter().map(|meta| meta.table.name())), false),
        ("file", texts(all.iter().map(|meta| meta.file.as_str())), false),
        ("rows", numbers(all.iter().map(|meta| meta.rows)), false),
        ("bytes", numbers(all.iter().map(|meta| meta.bytes)), false),
        ("min_time", times(all.iter().map(|meta| meta.min_time)), false),
        ("max_time", times(all.iter().map(|meta| meta.max_time)), false),
        ("nodes", numbers(nodes), false),
        ("merged_from", numbers(all.iter().map(|meta| meta.replaces.len() as u64)), false),
    ])?)
}

fn texts<'a>(values: impl Iterator<Item = &'a str>) -> ArrayRef {
    Arc::new(values.map(Some).collect::<StringArray>())
}

fn numbers(values: impl Iterator<Item = u64>) -> ArrayRef {
    Arc::new(UInt64Array::from_iter_values(values))
}

fn times(values: impl Iterator<Item = i64>) -> ArrayRef {
    Arc::new(TimestampNanosecondArray::from_iter_values(values).with_timezone("UTC"))
}
