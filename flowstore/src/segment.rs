//! Segments: sorted, immutable Parquet files.

mod read;
mod sort;
mod write;

pub(crate) use read::{check_footer, check_whole, read, read_meta};
pub(crate) use write::{Draft, write};

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use crate::completeness::Tally;
use crate::disk;
use crate::manifest::SegmentMeta;

/// A segment that is in use. Its file is removed when the last reader is done with it.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) meta: SegmentMeta,
    pub(crate) path: PathBuf,
    /// What it says about losses in all of its time, once somebody asked.
    pub(crate) tally: OnceLock<Arc<Tally>>,
    doomed: AtomicBool,
}

// === impl Segment ===

impl Segment {
    pub(crate) fn new(meta: SegmentMeta, dir: &Path) -> Self {
        let path = dir.join(&meta.file);
        Self { meta, path, tally: OnceLock::new(), doomed: AtomicBool::new(false) }
    }

    /// Has the file removed once nobody reads it.
    pub(crate) fn doom(&self) {
        self.doomed.store(true, Ordering::Relaxed);
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        if *self.doomed.get_mut() {
            disk::remove(&self.path);
        }
    }
}

/// The name of segment `number`.
pub(crate) fn file_name(table: columns::Table, number: u64) -> String {
    format!("{}-{number:010}.parquet", table.name())
}

/// The number in a segment's name.
pub(crate) fn number(name: &str) -> Option<u64> {
    name.strip_suffix(".parquet")?.rsplit_once('-')?.1.parse().ok()
}
