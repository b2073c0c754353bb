//! What the parts of the store share: the snapshot that readers see, and the state around it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use columns::Table;
use parking_lot::{Condvar, Mutex, RwLock};
use tokio::sync::Notify;

use crate::completeness::NodesView;
use crate::config::Config;
use crate::dimension::Dimensions;
use crate::disk::Disk;
use crate::error::Result;
use crate::hot::HotBatch;
use crate::manifest::{Manifest, Quarantined, Removed};
use crate::metrics::Metrics;
use crate::segment::Segment;
use crate::tail::Tails;
use crate::watermark::Watermarks;

/// The folders of a store.
#[derive(Debug, Clone)]
pub(crate) struct Dirs {
    pub(crate) root: PathBuf,
    pub(crate) wal: PathBuf,
    pub(crate) segments: PathBuf,
    /// Spilled query state; emptied at start.
    pub(crate) tmp: PathBuf,
}

/// Whether the disk takes what comes in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ingest {
    /// It does.
    Running,
    /// It does not, and why. Queries go on; ingest resumes by itself.
    Stopped(String),
}

/// Everything a query can see, at one moment. Each row is in it once: in a batch or in a segment.
#[derive(Debug, Clone, Default)]
pub(crate) struct Snapshot {
    /// Indexed by `Table as usize`.
    pub(crate) tables: [Arc<TableState>; Table::ALL.len()],
    pub(crate) quarantined: Arc<Vec<Quarantined>>,
    pub(crate) removed: Arc<Vec<Removed>>,
}

/// The rows of one table.
#[derive(Debug, Clone, Default)]
pub(crate) struct TableState {
    /// In the order they came.
    pub(crate) hot: Vec<Arc<HotBatch>>,
    pub(crate) cold: Vec<Arc<Segment>>,
}

/// Shared by the store's handle, its writer and its maintenance.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) dirs: Dirs,
    pub(crate) disk: Disk,
    pub(crate) metrics: Metrics,
    pub(crate) tails: Tails,
    pub(crate) nodes: RwLock<Arc<NodesView>>,
    pub(crate) dimensions: Dimensions,
    pub(crate) manifest: Mutex<Manifest>,
    /// Why the last attempt to write segments failed, if it did.
    pub(crate) flush_failure: Mutex<Option<String>>,
    /// Told when rows in memory became fewer.
    pub(crate) room: Notify,
    pub(crate) wake: Wake,
    /// A query stumbled over a file: every segment is to be checked.
    pub(crate) suspect: AtomicBool,
    snapshot: RwLock<Arc<Snapshot>>,
    marks: Mutex<Watermarks>,
    ingest: Mutex<Ingest>,
    hot_rows: AtomicUsize,
    hot_bytes: AtomicUsize,
}

/// Wakes the maintenance thread.
#[derive(Debug, Default)]
pub(crate) struct Wake {
    due: Mutex<bool>,
    changed: Condvar,
}

// === impl Dirs ===

impl Dirs {
    pub(crate) fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            wal: root.join("wal"),
            segments: root.join("segments"),
            tmp: root.join("tmp"),
        }
    }
}

// === impl Snapshot ===

impl Snapshot {
    pub(crate) fn table(&self, table: Table) -> &Arc<TableState> {
        &self.tables[table as usize]
    }

    pub(crate) fn table_mut(&mut self, table: Table) -> &mut TableState {
        Arc::make_mut(&mut self.tables[table as usize])
    }

    pub(crate) fn segments(&self) -> impl Iterator<Item = &Arc<Segment>> {
        self.tables.iter().flat_map(|state| &state.cold)
    }
}

// === impl Shared ===

impl Shared {
    pub(crate) fn new(
        config: Config,
        dirs: Dirs,
        metrics: Metrics,
        tails: Tails,
        manifest: Manifest,
        marks: Watermarks,
        snapshot: Snapshot,
    ) -> Self {
        let shared = Self {
            disk: Disk::new(config.fault.clone()),
            config,
            dirs,
            metrics,
            tails,
            nodes: RwLock::default(),
            dimensions: Dimensions::default(),
            manifest: Mutex::new(manifest),
            flush_failure: Mutex::new(None),
            room: Notify::new(),
            wake: Wake::default(),
            suspect: AtomicBool::new(false),
            snapshot: RwLock::new(Arc::new(snapshot)),
            marks: Mutex::new(marks),
            ingest: Mutex::new(Ingest::Running),
            hot_rows: AtomicUsize::new(0),
            hot_bytes: AtomicUsize::new(0),
        };
        shared.measure();
        shared
    }

    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshot.read())
    }

    /// Changes what readers see, in one step.
    pub(crate) fn change(&self, change: impl FnOnce(&mut Snapshot)) {
        change(Arc::make_mut(&mut self.snapshot.write()));
        self.measure();
    }

    /// Shows the batches of a durable group and hands them to tails.
    pub(crate) fn show(&self, batches: Vec<Arc<HotBatch>>, raised: &[(String, String, u64)]) {
        let (rows, bytes) = {
            let mut snapshot = self.snapshot.write();
            let snapshot = Arc::make_mut(&mut snapshot);
            for batch in &batches {
                self.hot_rows.fetch_add(batch.rows.num_rows(), Ordering::Relaxed);
                self.hot_bytes.fetch_add(batch.bytes, Ordering::Relaxed);
                snapshot.table_mut(batch.table).hot.push(Arc::clone(batch));
            }
            (self.hot_rows(), self.hot_bytes())
        };
        self.metrics.hot_rows.set(rows as i64);
        self.metrics.hot_bytes.set(bytes as i64);
        {
            let mut marks = self.marks.lock();
            for (node, boot_id, sequence) in raised {
                marks.raise(node, boot_id, *sequence);
            }
        }
        for batch in &batches {
            let table = batch.table.name();
            let rows = batch.rows.num_rows() as u64;
            self.metrics.appended_rows.with_label_values(&[table]).inc_by(rows);
            self.tails.publish(batch);
        }
        if rows >= self.config.hot_rows || bytes >= self.config.hot_bytes {
            self.wake.wake();
        }
    }

    /// Counts rows and bytes anew from the snapshot.
    fn measure(&self) {
        // Held while counting, so that no batch is shown and counted in between.
        let snapshot = self.snapshot.write();
        let hot = || snapshot.tables.iter().flat_map(|state| &state.hot);
        let rows: usize = hot().map(|batch| batch.rows.num_rows()).sum();
        let bytes: usize = hot().map(|batch| batch.bytes).sum();
        self.hot_rows.store(rows, Ordering::Relaxed);
        self.hot_bytes.store(bytes, Ordering::Relaxed);
        self.metrics.hot_rows.set(rows as i64);
        self.metrics.hot_bytes.set(bytes as i64);
        for table in Table::ALL {
            let cold = &snapshot.table(table).cold;
            let bytes: u64 = cold.iter().map(|segment| segment.meta.bytes).sum();
            let name = [table.name()];
            self.metrics.segments.with_label_values(&name).set(cold.len() as i64);
            self.metrics.segment_bytes.with_label_values(&name).set(bytes as i64);
        }
        self.room.notify_waiters();
    }

    pub(crate) fn hot_rows(&self) -> usize {
        self.hot_rows.load(Ordering::Relaxed)
    }

    pub(crate) fn hot_bytes(&self) -> usize {
        self.hot_bytes.load(Ordering::Relaxed)
    }

    pub(crate) fn marks<T>(&self, read: impl FnOnce(&Watermarks) -> T) -> T {
        read(&self.marks.lock())
    }

    pub(crate) fn ingest(&self) -> Ingest {
        self.ingest.lock().clone()
    }

    pub(crate) fn set_ingest(&self, ingest: Ingest) {
        let mut now = self.ingest.lock();
        if *now != ingest {
            match (&*now, &ingest) {
                (_, Ingest::Running) => tracing::info!("ingest runs again"),
                (Ingest::Running, Ingest::Stopped(why)) => {
                    tracing::warn!(%why, "ingest is stopped");
                }
                _ => {}
            }
            self.metrics.ingest_stopped.set(i64::from(ingest != Ingest::Running));
            *now = ingest;
        }
    }

    /// Makes a changed manifest last, and keeps it.
    pub(crate) fn commit(&self, change: impl FnOnce(&mut Manifest)) -> Result<()> {
        let mut manifest = self.manifest.lock();
        let mut next = manifest.clone();
        change(&mut next);
        next.write(&self.disk, &self.dirs.root)?;
        *manifest = next;
        Ok(())
    }
}

// === impl Wake ===

impl Wake {
    pub(crate) fn wake(&self) {
        *self.due.lock() = true;
        self.changed.notify_all();
    }

    /// Waits until woken or for `timeout`.
    pub(crate) fn wait(&self, timeout: Duration) {
        let mut due = self.due.lock();
        if !*due {
            self.changed.wait_for(&mut due, timeout);
        }
        *due = false;
    }
}
