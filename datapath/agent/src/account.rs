//! Accounting: every kernel counter that moved is reported exactly once.
//!
//! The counters are read from the maps; events only say where to look first. A row holds what was
//! added since the last row of its connection. Rows are committed in batches:
//!
//! 1. rows of batch `n` are put together, from totals read now and totals committed before;
//! 2. for each of them both totals are written to the pinned map of reported totals, with `n`;
//! 3. batch `n` is committed to the spool;
//! 4. the committed totals become the new ones; entries whose last rows these were are removed.
//!
//! Killed between any two steps, the next agent finds what is true: batch `n` is in the spool or it
//! is not, and each entry has the totals for both cases. When step 2 or 3 fails, the entries are
//! written back before a batch of that number is tried again.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use datapath_abi::conn::{ConnKey, ConnValue, STATE_CLOSED};
use datapath_abi::policy::DeniedKey;
use datapath_abi::reported::{Reported, ReportedKey};
use hashbrown::{HashMap, HashSet};
use model::{LossCause, LossStage};

mod batch;
mod book;
mod commit;
mod counters;
mod denied;
mod drop;
mod expiry;
mod flow;
mod ledger;
mod observe;
mod origin;
mod pending;
mod ports;
mod refused;
mod start;
mod walk;

pub use expiry::Timeouts;
pub(crate) use ledger::KIND_INSTANCE;

use batch::Batch;
use book::Book;
use counters::Counters;
use denied::Denied;
use expiry::nanoseconds;
use flow::Writer;
use ledger::Ledger;
use origin::Origins;
use pending::{Out, Pending};
use ports::Seen;

use crate::dimensions::DimensionRow;
use crate::drops;
use crate::events::Item;
use crate::host::{Link, LinkStats};
use crate::kernel::{Attached, Kernel, KernelError};
use crate::metrics::Metrics;
use crate::spool::Spool;
use crate::view::{Ends, View};

/// Closed connections that are looked at again when their time is up; the walk finds the others.
const MAX_CLOSING: usize = 65_536;

/// How the accountant works.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// Most connections that the kernel half holds.
    pub(crate) capacity: u64,
    pub(crate) timeouts: Timeouts,
    /// Inode of the agent's network namespace, by which its drops are told from others'.
    pub(crate) netns: u32,
    /// The kernel's boot id.
    pub(crate) kernel_boot: String,
}

/// Why nothing was committed. What was to be reported still is.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The kernel half did not do its part.
    #[error("kernel: {0}")]
    Kernel(#[from] KernelError),
    /// The spool did not take the batch.
    #[error("spool: {0}")]
    Spool(#[from] io::Error),
    /// The rows could not be encoded.
    #[error("rows: {0}")]
    Rows(#[from] columns::ipc::IpcError),
}

/// Keeps the accounts. One thread owns it, beside the kernel half, which every step is given.
#[derive(Debug)]
pub(crate) struct Accountant {
    spool: Arc<Spool>,
    metrics: Arc<Metrics>,
    settings: Settings,
    /// What rows are written from, beside the counters.
    pub(crate) view: View,
    boot: String,
    /// Number of the last committed batch.
    sequence: u64,
    book: Book,
    ledger: Ledger,
    batch: Batch,
    pending: Pending,
    writer: Writer,
    /// Connections that events told of.
    dirty: HashSet<ConnKey>,
    /// Connections that closed, with when to look again.
    closing: VecDeque<(i64, ConnKey)>,
    /// Entries of a failed batch, to be written back before the next one.
    unsettled: Vec<(ReportedKey, Reported)>,
    /// Retired connections whose last rows are committed.
    removing: Vec<ConnKey>,
    /// Interfaces that are not observed any more, and whose final counters are to be reported.
    ended: Vec<(Attached, Option<LinkStats>)>,
    /// What the interfaces received, by index.
    seen: HashMap<u32, Seen>,
    /// The agent stops: what moved is reported, but nothing is over because of that.
    stopping: bool,
    /// Rows of `flows` committed.
    rows: u64,
    /// Drops of this namespace by reason, as counted one interval ago: events of those have
    /// arrived, if ever.
    dropped: HashMap<u32, (u64, u64)>,
    /// Connections whose packets were dropped by a rule.
    denied: Denied,
    /// Number of the present walk.
    walk: u64,
    /// Refusals are to be read at the next flush.
    refused: bool,
    /// Refusals whose last rows are committed.
    over: Vec<DeniedKey>,
    origins: Origins,
}

// === impl Accountant ===

impl Accountant {
    /// The boot that batches belong to.
    pub(crate) fn boot(&self) -> &str {
        &self.boot
    }

    /// Connections that have an account.
    pub(crate) fn connections(&self) -> u64 {
        self.book.accounts.len() as u64
    }

    /// Rows of `flows` committed since the start.
    pub(crate) fn rows(&self) -> u64 {
        self.rows
    }

    /// Says that the agent stops: what is not observed any more is then not over.
    pub(crate) fn stop(&mut self) {
        self.stopping = true;
    }

    /// Whether the table is filling up, so that walks should not wait for the interval.
    pub(crate) fn is_filling(&self) -> bool {
        self.connections() * 2 > self.settings.capacity
    }

    /// Takes an event.
    pub(crate) fn take(&mut self, kernel: &dyn Kernel, item: Item) {
        match item {
            Item::Created(key) => {
                self.dirty.insert(key);
            }
            Item::Changed(key) => {
                // Known ones are read at the next walk.
                if !self.book.accounts.contains_key(&key) {
                    self.dirty.insert(key);
                }
            }
            Item::Closed(key, time_ns) => {
                if !self.book.accounts.contains_key(&key) {
                    self.dirty.insert(key);
                }
                if self.closing.len() < MAX_CLOSING {
                    let wait = nanoseconds(self.settings.timeouts.closed);
                    self.closing.push_back((kernel.epoch_from_ktime(time_ns) + wait, key));
                }
            }
        }
    }

    /// Takes a DNS answer.
    pub(crate) fn take_answer(
        &mut self,
        kernel: &dyn Kernel,
        key: &ConnKey,
        time_ns: u64,
        payload: &[u8],
    ) {
        const DNS: u16 = 53;
        // Answers come from port 53; the client is at the other end.
        let server_is_low = key.low_port == DNS && key.high_port != DNS;
        let ends = Ends::of(key, u8::from(server_is_low));
        let Some(answer) = crate::names::dns::parse(payload) else { return };
        let time = kernel.epoch_from_ktime(time_ns);
        let client = self.view.client(ends.source);
        self.view.names.learn(client, &answer, time);
        if self.view.tells_of(&ends, key.ifindex()) {
            self.pending.answer(ends, time, answer);
        }
    }

    /// Takes note of events that found no room in the agent's queue.
    pub(crate) fn lost_in_queue(&mut self, detail: &'static str, events: u64) {
        self.metrics.lost_in_queue(events);
        self.pending.lose(LossStage::AgentQueue, LossCause::Full, detail, events, 0, 0);
    }

    /// Takes rows of what changes slowly.
    pub(crate) fn dimensions(&mut self, rows: Vec<DimensionRow>) {
        self.pending.dimensions(rows);
    }

    /// Reports what events told of: new connections, closed ones whose time is up, drops, answers.
    ///
    /// # Errors
    /// When a batch could not be committed. Everything is still there, and will be reported by a
    /// later call.
    pub(crate) fn flush(&mut self, kernel: &dyn Kernel, now: i64) -> Result<(), Failure> {
        let mut dirty = std::mem::take(&mut self.dirty);
        let read = self.read(kernel, &dirty, now);
        // The allocation is used again. After a failure the walk finds what was not read.
        dirty.clear();
        self.dirty = dirty;
        read?;
        self.close_due(kernel, now)?;
        if std::mem::take(&mut self.refused) {
            self.stage_refusals(kernel, now)?;
        }
        self.stage_pending(kernel, &HashMap::new(), now);
        self.commit(kernel, now)
    }

    fn read(
        &mut self,
        kernel: &dyn Kernel,
        keys: &HashSet<ConnKey>,
        now: i64,
    ) -> Result<(), Failure> {
        for key in keys {
            if let Some(value) = kernel.get(key)? {
                self.observe(kernel, key, &value, now);
                if self.batch.is_full() {
                    self.commit(kernel, now)?;
                }
            }
        }
        Ok(())
    }

    fn close_due(&mut self, kernel: &dyn Kernel, now: i64) -> Result<(), Failure> {
        let mut lot = Vec::new();
        while self.closing.front().is_some_and(|(due, _)| *due <= now) {
            let Some((_, key)) = self.closing.pop_front() else { break };
            let Some(value) = kernel.get(&key)? else { continue };
            let idle = now - last_seen(kernel, &value);
            // Reused meanwhile, or not yet quiet: then the walk will find it.
            if value.state >= STATE_CLOSED
                && let Some(close) = self.settings.timeouts.judge(&key, &value, idle, false)
            {
                lot.push((key, value.id, close));
            }
        }
        self.retire(kernel, &lot, now)
    }

    /// Reports everything that moved: walks the table, ends what is over, reads the counters of
    /// interfaces (`links`), of lost events and of drops.
    ///
    /// # Errors
    /// See [`flush`](Self::flush).
    pub(crate) fn pass(
        &mut self,
        kernel: &dyn Kernel,
        links: &[Link],
        now: i64,
    ) -> Result<(), Failure> {
        let started = std::time::Instant::now();
        let over = self.walk(kernel, now)?;
        self.metrics.walk.observe(started.elapsed().as_secs_f64());
        self.commit(kernel, now)?;
        self.retire(kernel, &over, now)?;
        self.forget_vanished(kernel)?;
        self.metrics.connections.set(self.connections().cast_signed());
        self.stage_refusals(kernel, now)?;
        self.end_refusals(kernel, now)?;
        self.counters(kernel, links, now)?;
        self.commit(kernel, now)
    }

    fn counters(&mut self, kernel: &dyn Kernel, links: &[Link], now: i64) -> Result<(), Failure> {
        for attached in kernel.attached() {
            let link = links.iter().find(|link| link.index == attached.ifindex);
            self.interface(kernel, &attached, link.map(|link| link.stats), now)?;
        }
        let lost = kernel.lost_events()?;
        self.counted(now).lost_events(lost);
        let netns = self.settings.netns;
        let counted = kernel.drops()?.into_iter().filter(|(key, _)| key.netns == netns);
        let counted = counted.map(|(key, drop)| (key.reason, (drop.packets, drop.bytes))).collect();
        let before = std::mem::replace(&mut self.dropped, counted);
        self.stage_pending(kernel, &before, now);
        Ok(())
    }

    /// Reads what is unattributed at an interface, and stages it with the interface's own counters.
    fn interface(
        &mut self,
        kernel: &dyn Kernel,
        attached: &Attached,
        own: Option<LinkStats>,
        now: i64,
    ) -> Result<(), Failure> {
        let hooks = kernel.interface(attached.ifindex)?;
        self.counted(now).interface(attached, own, &hooks);
        Ok(())
    }

    fn counted(&mut self, now: i64) -> Counters<'_> {
        Counters {
            view: &self.view,
            metrics: &self.metrics,
            ledger: &self.ledger,
            batch: &mut self.batch,
            now,
        }
    }

    /// Puts the rows that wait into the batch, and with them the drops counted up to `counted` that
    /// no event told of.
    fn stage_pending(&mut self, kernel: &dyn Kernel, counted: &HashMap<u32, (u64, u64)>, now: i64) {
        if self.batch.pending {
            return;
        }
        let waiting = self.pending.dropped(self.settings.netns);
        let untold = pending::stage_drops(
            &self.ledger,
            &mut self.batch,
            self.settings.netns,
            &waiting,
            counted,
        );
        for (reason, packets, bytes) in untold {
            let name = kernel.drop_reason(reason).unwrap_or_default();
            if !drops::is_none(&name, "") {
                self.counted(now).untold_drops(&name, packets, bytes);
            }
        }
        let (pending, mut out) = self.out(kernel, now);
        pending.write(&mut out);
    }

    fn out<'a>(&'a mut self, kernel: &'a dyn Kernel, now: i64) -> (&'a Pending, Out<'a>) {
        let Self { view, metrics, batch, pending, .. } = self;
        (pending, Out { view, kernel, metrics, batch, now })
    }
}

/// The latest packet of a connection, nanoseconds since the epoch.
fn last_seen(kernel: &dyn Kernel, value: &ConnValue) -> i64 {
    let jiffies = value.dirs[0].last.max(value.dirs[1].last);
    // The coarse clock may stand a little before the entry was made.
    kernel.epoch_from_jiffies(jiffies).max(kernel.epoch_from_ktime(value.id))
}

#[cfg(test)]
mod tests;
