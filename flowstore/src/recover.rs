//! From whatever is on the disk to a store that tells what it lost.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use columns::Table;

use crate::disk::{self, Disk};
use crate::error::Result;
use crate::hot::{HotBatch, now};
use crate::manifest::{Loaded, Manifest, Quarantined, SegmentMeta};
use crate::segment::{self, Segment};
use crate::shared::{Dirs, Snapshot};
use crate::wal::{self, Replay};
use crate::watermark::{Arrival, Watermarks};

/// What the start of a store found.
#[derive(Debug, Clone, Default)]
pub struct RecoveryReport {
    /// State of the list of segments.
    pub manifest: ManifestState,
    /// Segments in use.
    pub segments: usize,
    /// Rows in them.
    pub segment_rows: u64,
    /// Files of the log that were replayed.
    pub log_files: usize,
    /// Batches replayed from them.
    pub log_batches: u64,
    /// Rows of those.
    pub log_rows: u64,
    /// Bytes of half a write at the end of the log; never acknowledged to anybody.
    pub torn_bytes: u64,
    /// Bytes of the log that had been acknowledged and are damaged.
    pub corrupt_log_bytes: u64,
    /// Damaged places in the log.
    pub corrupt_log_places: u64,
    /// Segments that are damaged or gone.
    pub quarantined: Vec<QuarantinedSegment>,
    /// Files that belonged to nothing (of writes that a crash cut short) and were removed.
    pub orphans: Vec<String>,
    /// How long it took.
    pub elapsed: Duration,
}

/// State of the list of segments at a start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ManifestState {
    /// There was no store.
    #[default]
    New,
    /// It was whole.
    Good,
    /// It was damaged or gone and was made anew from the segments' own footers.
    Rebuilt,
}

/// A segment that could not be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuarantinedSegment {
    /// Name of its table.
    pub table: &'static str,
    /// Its file, now with `.corrupt` behind its name if it was there at all.
    pub file: String,
    /// Rows that were in it; 0 if that is not known.
    pub rows: u64,
    /// What is wrong with it.
    pub why: String,
}

/// What a start begins with.
#[derive(Debug)]
pub(crate) struct Recovered {
    pub(crate) manifest: Manifest,
    pub(crate) marks: Watermarks,
    pub(crate) snapshot: Snapshot,
    pub(crate) next_wal: u64,
    pub(crate) report: RecoveryReport,
}

struct Recovery<'a> {
    dirs: &'a Dirs,
    disk: &'a Disk,
    report: RecoveryReport,
}

// === impl RecoveryReport ===

impl RecoveryReport {
    /// Whether nothing that was acknowledged is missing.
    pub fn is_clean(&self) -> bool {
        self.corrupt_log_places == 0
            && self.quarantined.is_empty()
            && self.manifest != ManifestState::Rebuilt
    }
}

// === impl Recovery ===

/// Reads the folders of a store, puts damaged files aside and removes what belongs to nothing.
pub(crate) fn recover(dirs: &Dirs, disk: &Disk) -> Result<Recovered> {
    let started = Instant::now();
    for dir in [&dirs.root, &dirs.wal, &dirs.segments] {
        disk::make_dir(dir)?;
    }
    let _ = std::fs::remove_dir_all(&dirs.tmp);
    disk::make_dir(&dirs.tmp)?;
    let mut recovery = Recovery { dirs, disk, report: RecoveryReport::default() };
    let mut recovered = recovery.run()?;
    recovered.report = recovery.report;
    recovered.report.elapsed = started.elapsed();
    Ok(recovered)
}

impl Recovery<'_> {
    fn run(&mut self) -> Result<Recovered> {
        let logs: Vec<u64> =
            disk::list(&self.dirs.wal)?.iter().filter_map(|name| wal::number(name)).collect();
        let files = disk::list(&self.dirs.segments)?;
        let mut late_marks = Watermarks::default();
        let mut manifest = match Manifest::load(&self.dirs.root) {
            Loaded::Good(manifest) => {
                self.report.manifest = ManifestState::Good;
                manifest
            }
            Loaded::None if logs.is_empty() && files.is_empty() => Manifest::default(),
            loaded => {
                self.report.manifest = ManifestState::Rebuilt;
                let previous = match loaded {
                    Loaded::Damaged { previous } => previous.unwrap_or_default(),
                    Loaded::None | Loaded::Good(_) => Manifest::default(),
                };
                late_marks = previous.marks.clone();
                self.rebuild(&previous, &files, &logs)
            }
        };
        let before = manifest.clone();
        let mut snapshot = self.cold(&mut manifest);
        self.remove_orphans(&manifest, &files);
        let marks = self.replay(&manifest, &logs, &mut snapshot)?;
        let mut marks = marks;
        marks.merge(&late_marks);
        let highest = files.iter().filter_map(|name| segment::number(name)).max();
        manifest.next = manifest.next.max(highest.map_or(0, |number| number + 1));
        if self.report.manifest != ManifestState::Good || manifest != before {
            manifest.write(self.disk, &self.dirs.root)?;
        }
        snapshot.quarantined = Arc::new(manifest.quarantined.clone());
        snapshot.removed = Arc::new(manifest.removed.clone());
        let next_wal = logs.last().map_or(0, |number| number + 1).max(manifest.wal);
        let report = RecoveryReport::default();
        Ok(Recovered { manifest, marks, snapshot, next_wal, report })
    }

    /// A manifest out of what the segments say of themselves. The copy before the last only adds
    /// what they cannot say: it may name segments that were merged since.
    fn rebuild(&mut self, previous: &Manifest, files: &[String], logs: &[u64]) -> Manifest {
        let mut manifest = Manifest {
            quarantined: previous.quarantined.clone(),
            removed: previous.removed.clone(),
            ..Manifest::default()
        };
        let mut found: Vec<(SegmentMeta, Watermarks)> = Vec::new();
        for file in files.iter().filter(|file| file.ends_with(".parquet")) {
            let path = self.dirs.segments.join(file);
            match segment::read_meta(&path) {
                Ok((mut meta, marks)) => {
                    meta.file.clone_from(file);
                    found.push((meta, marks));
                }
                Err(why) => {
                    let known = previous.segments.iter().find(|meta| meta.file == *file);
                    let (table, _) = file.rsplit_once('-').unwrap_or((file, ""));
                    let table = Table::by_name(table).unwrap_or(Table::Flows);
                    manifest.quarantined.push(self.put_aside(table, file, known, why));
                }
            }
        }
        let replaced: BTreeSet<String> =
            found.iter().flat_map(|(meta, _)| meta.replaces.clone()).collect();
        found.retain(|(meta, _)| {
            // The log is removed, oldest file first, only after a manifest named the segment. As
            // long as its first file is there, the log is the whole truth about those rows.
            let in_log = meta.replaces.is_empty() && logs.contains(&meta.wal_from);
            !in_log && !replaced.contains(&meta.file)
        });
        for (meta, marks) in found {
            manifest.wal = manifest.wal.max(meta.wal_until);
            manifest.marks.merge(&marks);
            manifest.segments.push(meta);
        }
        manifest.segments.sort_by_key(|meta| (meta.min_time, meta.max_time));
        manifest
    }

    /// Opens the segments; those that cannot be used leave the manifest.
    fn cold(&mut self, manifest: &mut Manifest) -> Snapshot {
        let mut snapshot = Snapshot::default();
        for meta in std::mem::take(&mut manifest.segments) {
            let path = self.dirs.segments.join(&meta.file);
            if let Err(why) = segment::check_footer(&path, &meta) {
                let aside = self.put_aside(meta.table, &meta.file, Some(&meta), why);
                manifest.quarantined.push(aside);
                continue;
            }
            self.report.segments += 1;
            self.report.segment_rows += meta.rows;
            let segment = Segment::new(meta.clone(), &self.dirs.segments);
            snapshot.table_mut(meta.table).cold.push(Arc::new(segment));
            manifest.segments.push(meta);
        }
        snapshot
    }

    fn put_aside(
        &mut self,
        table: Table,
        file: &str,
        known: Option<&SegmentMeta>,
        why: String,
    ) -> Quarantined {
        let path = self.dirs.segments.join(file);
        put_aside(&path);
        let rows = known.map_or(0, |meta| meta.rows);
        self.report.quarantined.push(QuarantinedSegment {
            table: table.name(),
            file: file.to_owned(),
            rows,
            why: why.clone(),
        });
        Quarantined {
            table,
            file: file.to_owned(),
            rows,
            // Of a segment that nothing is known of, any time until now may be missing.
            min_time: known.map_or(i64::MIN, |meta| meta.min_time),
            max_time: known.map_or_else(now, |meta| meta.max_time),
            why,
        }
    }

    fn remove_orphans(&mut self, manifest: &Manifest, files: &[String]) {
        let known: BTreeSet<&str> =
            manifest.segments.iter().map(|meta| meta.file.as_str()).collect();
        for file in files {
            let path = self.dirs.segments.join(file);
            if !known.contains(file.as_str()) && !file.ends_with(".corrupt") && path.exists() {
                disk::remove(&path);
                self.report.orphans.push(file.clone());
            }
        }
    }

    fn replay(
        &mut self,
        manifest: &Manifest,
        logs: &[u64],
        snapshot: &mut Snapshot,
    ) -> Result<Watermarks> {
        let mut marks = manifest.marks.clone();
        for number in logs {
            let path = wal::path(&self.dirs.wal, *number);
            if *number < manifest.wal {
                disk::remove(&path);
                continue;
            }
            let newest = logs.last() == Some(number);
            let mut undecodable = 0;
            let replay = wal::replay(&path, newest, |record| {
                let arrival = marks.arrival(&record.node, &record.boot_id, record.sequence);
                if arrival == Arrival::Duplicate {
                    return;
                }
                marks.raise(&record.node, &record.boot_id, record.sequence);
                self.report.log_batches += 1;
                for (table, bytes) in &record.parts {
                    let Ok(mut batch) = HotBatch::decode(*table, bytes) else {
                        undecodable += 1;
                        continue;
                    };
                    batch.wal = *number;
                    self.report.log_rows += batch.rows.num_rows() as u64;
                    if batch.rows.num_rows() > 0 {
                        snapshot.table_mut(*table).hot.push(Arc::new(batch));
                    }
                }
            })?;
            self.note(&path, newest, &replay, undecodable)?;
        }
        Ok(marks)
    }

    fn note(
        &mut self,
        path: &std::path::Path,
        newest: bool,
        replay: &Replay,
        undecodable: u64,
    ) -> Result<()> {
        self.report.log_files += 1;
        self.report.torn_bytes += replay.torn;
        self.report.corrupt_log_bytes += replay.corrupt;
        self.report.corrupt_log_places += replay.corruptions + undecodable;
        if newest && replay.torn > 0 {
            // Cut off now: later this is not the newest file any more, and what is torn would be
            // taken for damage.
            if replay.records == 0 {
                disk::remove(path);
            } else {
                let file = std::fs::OpenOptions::new().write(true).open(path);
                file.and_then(|file| {
                    file.set_len(replay.good)?;
                    file.sync_all()
                })
                .map_err(crate::Error::io("cut", path))?;
            }
        }
        Ok(())
    }
}

/// Puts a damaged file aside, where nothing looks for it but a person.
pub(crate) fn put_aside(path: &std::path::Path) {
    let mut aside = path.as_os_str().to_owned();
    aside.push(".corrupt");
    if path.exists()
        && let Err(error) = std::fs::rename(path, &aside)
    {
        tracing::warn!(path = %path.display(), %error, "could not put a damaged segment aside");
    }
}
