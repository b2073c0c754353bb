//! From memory to segments.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use arrow::array::RecordBatch;
use columns::Table;
use futures::executor::block_on;
use tokio::sync::oneshot;

use super::Maintenance;
use crate::disk;
use crate::error::{Error, Result};
use crate::hot::HotBatch;
use crate::manifest::{Loaded, Manifest, SegmentMeta};
use crate::segment::{self, Draft, Segment};
use crate::wal::{self, Command, Cut};

impl Maintenance {
    /// Writes all rows in memory as segments and frees the log; the number of rows written.
    pub(crate) fn flush(&self) -> Result<u64> {
        let _turn = self.turn.lock();
        let result = self.flush_now();
        *self.shared.flush_failure.lock() = result.as_ref().err().map(ToString::to_string);
        // Whoever waits for room is to see the failure.
        self.shared.room.notify_waiters();
        result
    }

    #[tracing::instrument(name = "flush", skip_all)]
    fn flush_now(&self) -> Result<u64> {
        if self.shared.hot_rows() == 0 {
            return Ok(0);
        }
        let started = Instant::now();
        let cut = self.cut()?;
        let logs = self.logs_before(cut.wal)?;
        let wal_from = logs.first().copied().unwrap_or(cut.wal);
        let snapshot = self.shared.snapshot();
        let mut metas = Vec::new();
        for table in Table::ALL {
            let hot = snapshot.table(table).hot.iter().filter(|batch| batch.wal < cut.wal);
            let written = self.write_table(table, hot, &cut, wal_from, &mut metas);
            if let Err(error) = written {
                self.discard(&metas);
                return Err(error);
            }
        }
        let rows = metas.iter().map(|meta| meta.rows).sum();
        self.commit_flush(&cut, metas)?;
        for number in logs {
            disk::remove(&wal::path(&self.shared.dirs.wal, number));
        }
        self.shared.metrics.flush_seconds.observe(started.elapsed().as_secs_f64());
        Ok(rows)
    }

    fn cut(&self) -> Result<Cut> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Cut(reply))?;
        block_on(answer).map_err(|_| Error::Closed)
    }

    /// Files of the log that the cut covers, oldest first.
    fn logs_before(&self, wal: u64) -> Result<Vec<u64>> {
        let from = self.shared.manifest.lock().wal;
        let names = disk::list(&self.shared.dirs.wal)?;
        let numbers = names.iter().filter_map(|name| wal::number(name));
        Ok(numbers.filter(|number| (from..wal).contains(number)).collect())
    }

    fn write_table<'a>(
        &self,
        table: Table,
        hot: impl Iterator<Item = &'a Arc<HotBatch>>,
        cut: &Cut,
        wal_from: u64,
        metas: &mut Vec<SegmentMeta>,
    ) -> Result<()> {
        let mut rows = 0;
        let mut part: Vec<&HotBatch> = Vec::new();
        for batch in hot {
            rows += batch.rows.num_rows();
            part.push(batch);
            if rows >= self.shared.config.compact_rows {
                metas.push(self.write_part(table, &part, cut, wal_from)?);
                part.clear();
                rows = 0;
            }
        }
        if !part.is_empty() {
            metas.push(self.write_part(table, &part, cut, wal_from)?);
        }
        Ok(())
    }

    fn write_part(
        &self,
        table: Table,
        part: &[&HotBatch],
        cut: &Cut,
        wal_from: u64,
    ) -> Result<SegmentMeta> {
        let batches: Vec<RecordBatch> = part.iter().map(|batch| batch.rows.clone()).collect();
        let draft = Draft {
            table,
            file: self.next_file(table),
            batches,
            nodes: part.iter().flat_map(|batch| batch.nodes.iter().cloned()).collect(),
            wal_from,
            wal_until: cut.wal,
            replaces: Vec::new(),
            marks: &cut.marks,
        };
        segment::write(&self.shared.disk, &self.shared.dirs.segments, draft)
    }

    pub(super) fn next_file(&self, table: Table) -> String {
        segment::file_name(table, self.next.fetch_add(1, Ordering::Relaxed))
    }

    /// Makes the segments exist and the rows in memory vanish: for a reader, in one step.
    fn commit_flush(&self, cut: &Cut, metas: Vec<SegmentMeta>) -> Result<()> {
        let committed = self.shared.commit(|manifest| {
            manifest.wal = cut.wal;
            manifest.marks = cut.marks.clone();
            manifest.next = self.next.load(Ordering::Relaxed);
            manifest.segments.extend(metas.iter().cloned());
        });
        if let Err(error) = committed {
            self.discard_unless_named(&metas);
            return Err(error);
        }
        let segments: Vec<Arc<Segment>> = metas
            .into_iter()
            .map(|meta| Arc::new(Segment::new(meta, &self.shared.dirs.segments)))
            .collect();
        self.shared.change(|snapshot| {
            for table in Table::ALL {
                if !snapshot.table(table).hot.is_empty() {
                    snapshot.table_mut(table).hot.retain(|batch| batch.wal >= cut.wal);
                }
            }
            for segment in segments {
                snapshot.table_mut(segment.meta.table).cold.push(segment);
            }
        });
        Ok(())
    }

    fn discard(&self, metas: &[SegmentMeta]) {
        for meta in metas {
            disk::remove(&self.shared.dirs.segments.join(&meta.file));
        }
    }

    /// After a failed commit the manifest on the disk may be the new one all the same; then its
    /// segments must stay. The next commit settles it.
    pub(super) fn discard_unless_named(&self, metas: &[SegmentMeta]) {
        if let Loaded::Good(manifest) = Manifest::load(&self.shared.dirs.root)
            && manifest == *self.shared.manifest.lock()
        {
            self.discard(metas);
        }
    }
}
