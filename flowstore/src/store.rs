//! The handle of a store.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use columns::Table;
use model::Completeness;
use parking_lot::Mutex;
use stage::StopToken;
use tokio::sync::oneshot;

use crate::completeness::{self, Covered, NodesView};
use crate::config::Config;
use crate::disk::{self, Disk};
use crate::error::{Error, Result};
use crate::hot::{HotBatch, now};
use crate::maintain::Maintenance;
use crate::metrics::Metrics;
use crate::query::{Described, Engine, QueryRequest, QueryStream};
use crate::recover::{RecoveryReport, recover};
use crate::shared::{Dirs, Ingest, Shared};
use crate::tail::{TailReceiver, Tails};
use crate::wal::{Append, Command, MAX_RECORD, Record, Writer, decode_parts};

/// Batches that may wait for the log.
const QUEUE: usize = 1024;

/// A batch as a node sends it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Batch {
    /// The node.
    pub node: String,
    /// Which start of the node the sequence counts from.
    pub boot_id: String,
    /// Number of the batch; those of one boot arrive in order.
    pub sequence: u64,
    /// Rows by table, each a self-contained Arrow stream (`columns::ipc`).
    pub parts: Vec<(Table, Bytes)>,
}

/// What became of a batch that is durable now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Appended {
    /// It was there already.
    pub duplicate: bool,
    /// So many batches before it never came.
    pub missed: u64,
}

/// The store at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// Whether the disk takes what comes in.
    pub ingest: Ingest,
    /// Rows in memory.
    pub hot_rows: usize,
    /// Bytes in memory.
    pub hot_bytes: usize,
    /// Segments.
    pub segments: usize,
    /// Rows in segments.
    pub segment_rows: u64,
    /// Bytes of segments.
    pub segment_bytes: u64,
    /// Rows of flows, in memory and in segments.
    pub flows: u64,
    /// The earliest time of a flow.
    pub oldest: Option<i64>,
    /// Bytes that the file system has left; `None` if it would not say.
    pub free_bytes: Option<u64>,
}

/// A log that is this long at a start is written as segments at once; so is one of so many rows. It
/// takes about a second.
const LONG_LOG_BATCHES: u64 = 1024;
/// See [`LONG_LOG_BATCHES`].
const LONG_LOG_ROWS: u64 = 256 * 1024;

/// A store in a directory. Clones are handles of the same one; it closes with the last of them.
#[derive(Debug, Clone)]
pub struct Store(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    maintenance: Arc<Maintenance>,
    engine: Engine,
    commands: Option<stage::Sender<Command>>,
    /// Lets batches through in the order in which they came, also where they have to wait: out of
    /// order, the later batch of a node would make the earlier one look like a duplicate.
    gate: tokio::sync::Mutex<()>,
    stop: StopToken,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// Held as long as the store is open.
    lock: File,
}

// === impl Store ===

impl Store {
    /// Opens the store in `config.dir`, or makes one. Blocks while the log is replayed.
    ///
    /// # Errors
    /// When the directory is in use or cannot be read or written, or a metric's name is taken.
    /// Damage is no error: what is left is served, and the report tells what is not.
    pub fn open(
        config: Config,
        metrics: &prometheus::Registry,
        stages: stage::Registry,
        stop: StopToken,
    ) -> Result<(Self, RecoveryReport)> {
        let dirs = Dirs::new(&config.dir);
        disk::make_dir(&dirs.root)?;
        let lock = lock(&dirs.root)?;
        let recovered = recover(&dirs, &Disk::new(config.fault.clone()))?;
        let report = recovered.report;
        let tails = Tails::new(&stages, config.tail_items);
        let shared = Arc::new(Shared::new(
            config,
            dirs,
            Metrics::new(metrics)?,
            tails,
            recovered.manifest,
            recovered.marks.clone(),
            recovered.snapshot,
        ));
        let (commands, receiver) = stage::queue(&stages, "store_log", QUEUE);
        let writer =
            Writer::new(Arc::clone(&shared), receiver, recovered.marks, recovered.next_wal);
        let maintenance = Arc::new(Maintenance::new(Arc::clone(&shared), commands.clone()));
        let stop = stop.child();
        let engine = Engine::new(Arc::clone(&shared), metrics.clone(), stages)?;
        let threads = vec![
            spawn("store-log", move || writer.run())?,
            spawn("store-care", {
                let (maintenance, stop) = (Arc::clone(&maintenance), stop.clone());
                move || maintenance.run(&stop)
            })?,
        ];
        let inner = Inner {
            shared,
            maintenance,
            engine,
            commands: Some(commands),
            gate: tokio::sync::Mutex::new(()),
            stop,
            threads: Mutex::new(threads),
            lock,
        };
        let store = Self(Arc::new(inner));
        store.tell(&report)?;
        store.shorten(&report);
        Ok((store, report))
    }

    /// A long log is written as segments before anything else, and its files go away: a process that
    /// is killed again and again would else find it longer each time, until it no longer gets through.
    fn shorten(&self, report: &RecoveryReport) {
        if report.log_batches < LONG_LOG_BATCHES && report.log_rows < LONG_LOG_ROWS {
            return;
        }
        if let Err(error) = self.0.maintenance.flush() {
            tracing::warn!(%error, "the log could not be written as segments; the next start reads it again");
        }
    }

    /// Leaves rows about what a start found damaged.
    fn tell(&self, report: &RecoveryReport) -> Result<()> {
        let care = &self.0.maintenance;
        let snapshot = self.0.shared.snapshot();
        for lost in &report.quarantined {
            let known = snapshot.quarantined.iter().rev().find(|known| known.file == lost.file);
            if let Some(known) = known {
                care.report_damage(known)?;
            }
        }
        if report.corrupt_log_places > 0 {
            let detail = format!("log: {} damaged places", report.corrupt_log_places);
            care.report_loss(report.corrupt_log_places, 0, report.corrupt_log_bytes, &detail)?;
            // The damaged file goes away with its rows, so that the next start finds none.
            care.flush()?;
        }
        Ok(())
    }

    /// Keeps a batch: returns once it is durable and visible. A batch that was kept before is a
    /// duplicate, which is fine. Safe to call from many tasks; one sync serves all that wait. Of one
    /// node several may be under way, first polled in the order of their sequence.
    ///
    /// # Errors
    /// [`Error::Stopped`] when the disk takes nothing (nothing is kept; send again later),
    /// [`Error::Undecodable`] and [`Error::TooLarge`] when sending again is of no use.
    pub async fn append(&self, batch: Batch) -> Result<Appended> {
        let kept = self.0.shared.marks(|marks| marks.of_boot(&batch.node, &batch.boot_id));
        if kept.is_some_and(|kept| batch.sequence <= kept) {
            self.0.shared.metrics.duplicates.inc();
            return Ok(Appended { duplicate: true, missed: 0 });
        }
        let Batch { node, boot_id, sequence, parts } = batch;
        self.log(Record { node, boot_id, sequence, parts }, false).await
    }

    /// Keeps rows of the relay's own making, the same way.
    ///
    /// # Errors
    /// As [`append`](Self::append).
    pub async fn append_local(&self, parts: Vec<(Table, Bytes)>) -> Result<()> {
        let record = Record { node: String::new(), boot_id: String::new(), sequence: 0, parts };
        self.log(record, true).await.map(|_| ())
    }

    async fn log(&self, record: Record, local: bool) -> Result<Appended> {
        if self.0.stop.is_stopped() {
            return Err(Error::Closed);
        }
        if record.size() > MAX_RECORD {
            return Err(Error::TooLarge { bytes: record.size(), limit: MAX_RECORD });
        }
        // Before anything is written: the log never holds what cannot be read.
        let batches: Vec<HotBatch> = decode_parts(&record.parts)?;
        let (reply, answer) = oneshot::channel();
        let append = Append { record, local, batches, reply };
        let commands = self.0.commands.as_ref().ok_or(Error::Closed)?;
        {
            let _turn = self.0.gate.lock().await;
            self.wait_for_room().await?;
            commands.send(Command::Append(append)).await.map_err(|_| Error::Closed)?;
        }
        answer.await.map_err(|_| Error::Closed)?
    }

    /// Waits while memory is full of rows that segments are being written of.
    async fn wait_for_room(&self) -> Result<()> {
        let shared = &self.0.shared;
        loop {
            let room = shared.room.notified();
            if shared.hot_bytes() < shared.config.hot_limit() {
                return Ok(());
            }
            if self.0.stop.is_stopped() {
                return Err(Error::Closed);
            }
            if let Some(why) = shared.flush_failure.lock().clone() {
                return Err(Error::Stopped { why });
            }
            shared.wake.wake();
            let _ = tokio::time::timeout(Duration::from_secs(1), room).await;
        }
    }

    /// The boot of a node that was seen last, and the highest sequence kept of it.
    pub fn watermark(&self, node: &str) -> Option<(String, u64)> {
        self.0.shared.marks(|marks| marks.latest(node))
    }

    /// Starts a query.
    ///
    /// # Errors
    /// [`Error::Query`] when the text is not allowed or cannot be planned, or the query's turn did
    /// not come in time. Errors while it runs come with the stream.
    #[tracing::instrument(name = "query", skip_all, fields(sql = request.sql))]
    pub async fn query(&self, request: QueryRequest) -> Result<QueryStream> {
        self.0.engine.query(request).await
    }

    /// What a query would answer with, without running it.
    ///
    /// # Errors
    /// As [`query`](Self::query).
    pub async fn describe(&self, sql: &str) -> Result<Described> {
        self.0.engine.describe(sql).await
    }

    /// How complete answers about a range are.
    ///
    /// # Errors
    /// When a segment cannot be read.
    pub async fn completeness(&self, covered: Covered) -> Result<Completeness> {
        let shared = Arc::clone(&self.0.shared);
        self.0
            .engine
            .blocking(move || {
                let live = Arc::clone(&shared.nodes.read());
                let snapshot = shared.snapshot();
                completeness::assess(&snapshot, &shared.dimensions, &live, covered, now())
            })
            .await?
    }

    /// Follows what is appended from now on, in all tables.
    pub fn tail(&self) -> TailReceiver {
        self.tail_of(&Table::ALL)
    }

    /// Follows what is appended from now on, in those tables.
    pub fn tail_of(&self, tables: &[Table]) -> TailReceiver {
        self.0.shared.tails.subscribe(tables)
    }

    /// Tells the live state of the nodes, for completeness.
    pub fn set_nodes(&self, nodes: NodesView) {
        *self.0.shared.nodes.write() = Arc::new(nodes);
    }

    /// Whether the disk takes what comes in.
    pub fn ingest(&self) -> Ingest {
        self.0.shared.ingest()
    }

    /// The store now.
    pub fn status(&self) -> Status {
        let shared = &self.0.shared;
        let snapshot = shared.snapshot();
        let flows = snapshot.table(Table::Flows);
        let hot_flows: usize = flows.hot.iter().map(|batch| batch.rows.num_rows()).sum();
        let cold_flows: u64 = flows.cold.iter().map(|segment| segment.meta.rows).sum();
        let spans = flows.hot.iter().map(|batch| batch.span);
        let spans = spans.chain(flows.cold.iter().map(|segment| segment.meta.span()));
        Status {
            ingest: shared.ingest(),
            hot_rows: shared.hot_rows(),
            hot_bytes: shared.hot_bytes(),
            segments: snapshot.segments().count(),
            segment_rows: snapshot.segments().map(|segment| segment.meta.rows).sum(),
            segment_bytes: snapshot.segments().map(|segment| segment.meta.bytes).sum(),
            flows: hot_flows as u64 + cold_flows,
            oldest: spans.map(|span| span.min).min(),
            free_bytes: shared.disk.free(&shared.dirs.root).ok(),
        }
    }

    /// Writes all rows in memory as segments; the number of rows.
    ///
    /// # Errors
    /// When the disk does not take them; they stay in memory and in the log.
    pub async fn flush(&self) -> Result<u64> {
        let maintenance = Arc::clone(&self.0.maintenance);
        self.0.engine.blocking(move || maintenance.flush()).await?
    }

    /// Merges small segments and removes old ones, without waiting for their time to come.
    ///
    /// # Errors
    /// When a file cannot be read or written; nothing is lost by it.
    pub async fn maintain(&self) -> Result<()> {
        let maintenance = Arc::clone(&self.0.maintenance);
        let work = move || {
            maintenance.coalesce()?;
            maintenance.compact()?;
            maintenance.retain()
        };
        self.0.engine.blocking(work).await?
    }

    /// Checks every byte of every segment and puts damaged ones aside; the number of those.
    ///
    /// # Errors
    /// When the finding cannot be noted.
    pub async fn verify(&self) -> Result<usize> {
        let maintenance = Arc::clone(&self.0.maintenance);
        self.0.engine.blocking(move || maintenance.verify()).await?
    }

    /// Files of the segments of a table that readers see now: plain Parquet, for export.
    pub fn segment_files(&self, table: Table) -> Vec<PathBuf> {
        let snapshot = self.0.shared.snapshot();
        snapshot.table(table).cold.iter().map(|segment| segment.path.clone()).collect()
    }
}

// === impl Inner ===

impl Drop for Inner {
    fn drop(&mut self) {
        self.stop.stop();
        self.shared.wake.wake();
        self.engine.close();
        // Both senders must be gone before the writer ends: ours here, that of maintenance with
        // its last handle. Queries hold no such handle.
        self.commands = None;
        let threads = std::mem::take(self.threads.get_mut());
        let mut writer = None;
        for (at, thread) in threads.into_iter().enumerate() {
            if at == 0 {
                writer = Some(thread);
            } else {
                let _ = thread.join();
            }
        }
        self.maintenance.close();
        if let Some(writer) = writer {
            let _ = writer.join();
        }
        // Not by closing alone: a child process that is just being started holds a copy.
        let _ = self.lock.unlock();
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(work)
        .map_err(Error::io("start thread", Path::new(name)))
}

/// One process at a time: two would each think that the log is theirs.
fn lock(root: &Path) -> Result<File> {
    let path = root.join("lock");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(Error::io("open", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(Error::InUse(root.to_owned())),
        Err(std::fs::TryLockError::Error(error)) => Err(Error::io("lock", &path)(error)),
    }
}
