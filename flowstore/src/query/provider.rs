//! A stored table, for the engine: batches in memory and segments, as of one snapshot.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use columns::Table;
use datafusion::catalog::memory::MemorySourceConfig;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::stats::Precision;
use datafusion::common::{ColumnStatistics, ScalarValue, Statistics};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::parquet::CachedParquetFileReaderFactory;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfigBuilder, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::cache::cache_manager::FileMetadataCache;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::union::UnionExec;
use object_store::ObjectStore;

use super::range;
use crate::completeness::Covered;
use crate::dimension::is_dimension;
use crate::segment::Segment;
use crate::shared::{Shared, Snapshot};

/// How segments are read.
#[derive(Debug, Clone)]
pub(super) struct Cold {
    url: ObjectStoreUrl,
    reader: Arc<CachedParquetFileReaderFactory>,
}

/// One table as of one snapshot.
#[derive(Debug)]
pub(super) struct StoredTable {
    table: Table,
    shared: Arc<Shared>,
    snapshot: Arc<Snapshot>,
    cold: Cold,
}

// === impl Cold ===

impl Cold {
    pub(super) fn new(
        url: ObjectStoreUrl,
        store: Arc<dyn ObjectStore>,
        cache: Arc<FileMetadataCache>,
    ) -> Self {
        Self { url, reader: Arc::new(CachedParquetFileReaderFactory::new(store, cache)) }
    }

    fn scan(
        &self,
        table: Table,
        segments: &[&Arc<Segment>],
        groups: usize,
        projection: Option<&Vec<usize>>,
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let source = ParquetSource::new(table.schema())
            .with_parquet_file_reader_factory(Arc::clone(&self.reader) as _)
            .with_pushdown_filters(true)
            .with_reorder_filters(true)
            .with_enable_page_index(true)
            .with_bloom_filter_on_read(true);
        let mut files: Vec<Vec<PartitionedFile>> = vec![Vec::new(); groups.max(1)];
        for (at, segment) in segments.iter().enumerate() {
            files[at % groups.max(1)].push(file(segment));
        }
        files.retain(|group| !group.is_empty());
        let config = FileScanConfigBuilder::new(self.url.clone(), Arc::new(source))
            .with_file_groups(files.into_iter().map(FileGroup::new).collect())
            .with_projection_indices(projection.cloned())?
            .with_limit(limit)
            .build();
        Ok(DataSourceExec::from_data_source(config))
    }
}

// === impl StoredTable ===

impl StoredTable {
    pub(super) fn new(
        table: Table,
        shared: Arc<Shared>,
        snapshot: Arc<Snapshot>,
        cold: Cold,
    ) -> Self {
        Self { table, shared, snapshot, cold }
    }

    /// Things as they were: few enough to be brought into order in memory.
    fn dimension(&self, projection: Option<&Vec<usize>>) -> Result<Arc<dyn ExecutionPlan>> {
        let state = self.snapshot.table(self.table);
        let rows = self
            .shared
            .dimensions
            .current(self.table, state)
            .map_err(|error| DataFusionError::External(error.into()))?;
        memory(self.table, &[vec![rows]], projection)
    }

    /// Batches in memory that may hold rows of the range, spread over `parts`.
    fn hot(&self, covered: Covered, parts: usize) -> Vec<Vec<RecordBatch>> {
        let mut spread = vec![Vec::new(); parts.max(1)];
        let hot = &self.snapshot.table(self.table).hot;
        let inside = hot.iter().filter(|batch| batch.span.overlaps(covered.from, covered.until));
        for (at, batch) in inside.enumerate() {
            spread[at % parts.max(1)].push(batch.rows.clone());
        }
        spread.retain(|part| !part.is_empty());
        spread
    }
}

#[async_trait]
impl TableProvider for StoredTable {
    fn schema(&self) -> SchemaRef {
        self.table.schema()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> Result<Vec<TableProviderFilterPushDown>> {
        // They choose segments here; the engine hands them on to the scans by itself.
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    async fn scan(
        &self,
        session: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        if is_dimension(self.table) {
            return self.dimension(projection);
        }
        let covered = range::of_filters(filters);
        let parts = session.config().target_partitions();
        let hot = self.hot(covered, parts);
        let cold = &self.snapshot.table(self.table).cold;
        let mut cold: Vec<&Arc<Segment>> = cold
            .iter()
            .filter(|segment| segment.meta.span().overlaps(covered.from, covered.until))
            .collect();
        // Newest first: what is asked for with a LIMIT is mostly that.
        cold.sort_by_key(|segment| std::cmp::Reverse(segment.meta.max_time));
        let limit = limit.filter(|_| filters.is_empty());
        let mut plans = Vec::new();
        if !hot.is_empty() || cold.is_empty() {
            plans.push(memory(self.table, &hot, projection)?);
        }
        if !cold.is_empty() {
            plans.push(self.cold.scan(self.table, &cold, parts, projection, limit)?);
        }
        match plans.pop() {
            Some(only) if plans.is_empty() => Ok(only),
            last => {
                plans.extend(last);
                UnionExec::try_new(plans)
            }
        }
    }
}

fn memory(
    table: Table,
    parts: &[Vec<RecordBatch>],
    projection: Option<&Vec<usize>>,
) -> Result<Arc<dyn ExecutionPlan>> {
    // A scan of no partition at all is refused by some operators.
    let empty = [Vec::new()];
    let parts = if parts.is_empty() { &empty } else { parts };
    Ok(MemorySourceConfig::try_new_exec(parts, table.schema(), projection.cloned())?)
}

/// A segment as a file to scan. It keeps the segment alive as long as the plan lives.
fn file(segment: &Arc<Segment>) -> PartitionedFile {
    let meta = &segment.meta;
    let time =
        |time| Precision::Inexact(ScalarValue::TimestampNanosecond(Some(time), Some("UTC".into())));
    let columns = meta.table.columns().iter().map(|(name, _)| {
        if *name == meta.table.time_column() || *name == "end_time" {
            ColumnStatistics {
                min_value: time(meta.min_time),
                max_value: time(meta.max_time),
                ..ColumnStatistics::new_unknown()
            }
        } else {
            ColumnStatistics::new_unknown()
        }
    });
    let statistics = Statistics {
        num_rows: Precision::Exact(meta.rows as usize),
        total_byte_size: Precision::Absent,
        column_statistics: columns.collect(),
    };
    PartitionedFile::new(meta.file.clone(), meta.bytes)
        .with_extension(Arc::clone(segment))
        .with_statistics(Arc::new(statistics))
}
