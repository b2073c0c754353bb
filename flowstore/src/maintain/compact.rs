//! Merging small segments: fewer to open per query, and longer runs of like rows.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use columns::Table;

use super::Maintenance;
use crate::dimension;
use crate::error::{Error, Result};
use crate::hot::now;
use crate::segment::{self, Draft, Segment};

/// A merged segment covers no more than this, so that retention by age stays sharp.
const MAX_SPAN: i64 = 24 * 3600 * 1_000_000_000;

impl Maintenance {
    /// Merges what is due, one run per table.
    #[tracing::instrument(skip_all)]
    pub(crate) fn compact(&self) -> Result<()> {
        let _turn = self.turn.lock();
        for table in Table::ALL {
            let snapshot = self.shared.snapshot();
            let cold = &snapshot.table(table).cold;
            let run = if dimension::is_dimension(table) {
                if cold.len() >= self.shared.config.compact_segments {
                    cold.clone()
                } else {
                    vec![]
                }
            } else {
                self.neighbours(cold)
            };
            if run.len() > 1 {
                self.merge(table, &run)?;
            }
        }
        Ok(())
    }

    /// Neighbours in time of like size, smallest first: each row is rewritten once per size class.
    fn neighbours(&self, cold: &[Arc<Segment>]) -> Vec<Arc<Segment>> {
        let config = &self.shared.config;
        let mut segments: Vec<_> =
            cold.iter().filter(|s| s.meta.rows < config.compact_rows as u64 / 2).collect();
        segments.sort_by_key(|segment| (segment.meta.min_time, segment.meta.max_time));
        for class in 0..=class(config.compact_rows as u64) {
            let mut run: Vec<Arc<Segment>> = Vec::new();
            let mut rows = 0;
            for segment in &segments {
                let meta = &segment.meta;
                let fits = rows + meta.rows <= config.compact_rows as u64
                    && run.first().is_none_or(|first| {
                        meta.max_time.saturating_sub(first.meta.min_time) <= MAX_SPAN
                    });
                if self::class(meta.rows) > class || !fits {
                    if run.len() >= config.compact_segments {
                        return run;
                    }
                    run.clear();
                    rows = 0;
                    if self::class(meta.rows) > class {
                        continue;
                    }
                }
                rows += meta.rows;
                run.push(Arc::clone(segment));
            }
            if run.len() >= config.compact_segments {
                return run;
            }
        }
        Vec::new()
    }

    fn merge(&self, table: Table, run: &[Arc<Segment>]) -> Result<()> {
        let mut batches = Vec::new();
        for segment in run {
            match segment::read(&segment.path, table, None) {
                Ok(rows) => batches.extend(rows),
                Err(error @ Error::Io { .. }) => return Err(error),
                Err(error) => return self.quarantine(segment, error.to_string()),
            }
        }
        if dimension::is_dimension(table) {
            let mut rows = dimension::dedupe(table, &batches)?;
            if let Some(age) = self.shared.config.retention_age {
                rows = dimension::without_ended(&rows, now() - age.as_nanos() as i64)?;
            }
            batches = vec![rows];
        }
        let gone = |file: &String| run.iter().any(|segment| segment.meta.file == *file);
        let metas = run.iter().map(|segment| &segment.meta);
        // Indirect ones too: a file may outlive its manifest as long as somebody reads it.
        let replaces =
            metas.clone().flat_map(|meta| std::iter::once(&meta.file).chain(&meta.replaces));
        let marks = self.shared.manifest.lock().marks.clone();
        let draft = Draft {
            table,
            file: self.next_file(table),
            batches,
            nodes: metas.clone().flat_map(|meta| meta.nodes.iter().cloned()).collect(),
            wal_from: metas.clone().map(|meta| meta.wal_from).min().unwrap_or(0),
            wal_until: metas.clone().map(|meta| meta.wal_until).max().unwrap_or(0),
            replaces: replaces.cloned().collect(),
            marks: &marks,
        };
        let merged = segment::write(&self.shared.disk, &self.shared.dirs.segments, draft)?;
        let mut whole = true;
        let committed = self.shared.commit(|manifest| {
            let before = manifest.segments.len();
            manifest.segments.retain(|meta| !gone(&meta.file));
            whole = before - manifest.segments.len() == run.len();
            manifest.segments.push(merged.clone());
            manifest.next = self.next.load(Ordering::Relaxed);
        });
        if let Err(error) = committed {
            self.discard_unless_named(std::slice::from_ref(&merged));
            return Err(error);
        }
        debug_assert!(whole, "nobody else changes the list while it is our turn");
        let merged = Arc::new(Segment::new(merged, &self.shared.dirs.segments));
        self.shared.change(|snapshot| {
            let cold = &mut snapshot.table_mut(table).cold;
            cold.retain(|segment| !gone(&segment.meta.file));
            cold.push(merged);
        });
        for segment in run {
            segment.doom();
        }
        self.shared.metrics.compactions.inc();
        Ok(())
    }
}

/// Size class: powers of eight from 4096 rows on.
fn class(rows: u64) -> u32 {
    (rows / 4096).checked_ilog(8).map_or(0, |class| class + 1)
}
