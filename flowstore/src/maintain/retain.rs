//! Removing what is too old or too much.

use std::sync::Arc;

use super::Maintenance;
use crate::dimension::is_dimension;
use crate::error::Result;
use crate::hot::now;
use crate::segment::Segment;

impl Maintenance {
    /// Removes segments by age, then the oldest ones by size. Things as they were (nodes,
    /// endpoints, …) stay: they are small, shrink by merging, and may still be so.
    pub(crate) fn retain(&self) -> Result<()> {
        let _turn = self.turn.lock();
        let config = &self.shared.config;
        let snapshot = self.shared.snapshot();
        let mut segments: Vec<&Arc<Segment>> =
            snapshot.segments().filter(|segment| !is_dimension(segment.meta.table)).collect();
        segments.sort_by_key(|segment| segment.meta.max_time);
        let cutoff = config.retention_age.map(|age| now() - age.as_nanos() as i64);
        let mut bytes: u64 = snapshot.segments().map(|segment| segment.meta.bytes).sum();
        let limit = config.retention_bytes.unwrap_or(u64::MAX);
        let mut gone: Vec<&Arc<Segment>> = Vec::new();
        for segment in segments {
            let old = cutoff.is_some_and(|cutoff| segment.meta.max_time < cutoff);
            if old || bytes > limit {
                bytes -= segment.meta.bytes;
                gone.push(segment);
            }
        }
        let forgotten = |until: i64| cutoff.is_some_and(|cutoff| until < cutoff);
        if gone.is_empty() && !snapshot.quarantined.iter().any(|lost| forgotten(lost.max_time)) {
            return Ok(());
        }
        let is_gone = |file: &str| gone.iter().any(|segment| segment.meta.file == file);
        self.shared.commit(|manifest| {
            manifest.segments.retain(|meta| !is_gone(&meta.file));
            manifest.quarantined.retain(|lost| !forgotten(lost.max_time));
            for segment in &gone {
                manifest.note_removed(&segment.meta);
            }
        })?;
        let (quarantined, removed) = {
            let manifest = self.shared.manifest.lock();
            (manifest.quarantined.clone(), manifest.removed.clone())
        };
        self.shared.change(|snapshot| {
            for segment in &gone {
                let state = snapshot.table_mut(segment.meta.table);
                state.cold.retain(|known| known.meta.file != segment.meta.file);
            }
            snapshot.quarantined = Arc::new(quarantined);
            snapshot.removed = Arc::new(removed);
        });
        for segment in gone {
            segment.doom();
            let table = [segment.meta.table.name()];
            let rows = self.shared.metrics.removed_rows.with_label_values(&table);
            rows.inc_by(segment.meta.rows);
        }
        Ok(())
    }
}
