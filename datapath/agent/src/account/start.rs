//! The start: what was reported by the agents before this one.

use std::collections::VecDeque;
use std::sync::Arc;

use datapath_abi::reported::{KIND_CONN, Reported, ReportedKey};
use hashbrown::{HashMap, HashSet};

use super::batch::Batch;
use super::book::{self, Account, Book, Resolved};
use super::denied::Denied;
use super::flow::Writer;
use super::ledger::{KIND_INSTANCE, Ledger};
use super::origin::Origins;
use super::pending::Pending;
use super::{Accountant, Failure, Settings};
use crate::boot;
use crate::kernel::Kernel;
use crate::metrics::Metrics;
use crate::spool::Spool;
use crate::view::View;

/// The map of reported totals as it was found.
type Found = HashMap<ReportedKey, Reported>;

// === impl Accountant ===

impl Accountant {
    /// Takes up the accounts where they were left.
    ///
    /// # Errors
    /// When the map of reported totals, or the spool, cannot be read or written.
    pub(crate) fn open(
        kernel: &dyn Kernel,
        spool: Arc<Spool>,
        view: View,
        metrics: Arc<Metrics>,
        settings: Settings,
    ) -> Result<Self, Failure> {
        let mut found = Found::new();
        let mut instance = None;
        kernel.walk_reported(&mut |key, entry| {
            if key.kind == KIND_INSTANCE {
                instance = Some(entry.id);
            } else {
                found.insert(*key, *entry);
            }
        })?;
        let known = boot::same(&settings.kernel_boot, spool.boot().as_deref(), instance);
        let (boot, sequence, closed_at) = match known {
            Some(boot) => {
                let (sequence, closed_at) = spool.begin(&boot)?;
                settle(kernel, &mut found, sequence)?;
                (boot, sequence, closed_at)
            }
            None => (begin_boot(kernel, &spool, &settings, &mut found)?, 0, 0),
        };
        metrics.table_capacity.set(settings.capacity.cast_signed());
        let mut accountant = Self {
            spool,
            metrics,
            settings,
            view,
            boot,
            sequence,
            book: Book::default(),
            ledger: Ledger::default(),
            batch: Batch::new(),
            pending: Pending::default(),
            writer: Writer::default(),
            dirty: HashSet::new(),
            closing: VecDeque::new(),
            unsettled: Vec::new(),
            removing: Vec::new(),
            ended: Vec::new(),
            seen: HashMap::new(),
            stopping: false,
            rows: 0,
            dropped: HashMap::new(),
            denied: Denied::default(),
            walk: 0,
            refused: false,
            over: Vec::new(),
            origins: Origins::default(),
        };
        accountant.take_up(kernel, found, sequence, closed_at)?;
        Ok(accountant)
    }

    /// Makes accounts of the entries whose connection is still there, and forgets the others.
    fn take_up(
        &mut self,
        kernel: &dyn Kernel,
        found: Found,
        committed: u64,
        closed_at: i64,
    ) -> Result<(), Failure> {
        let mut rest = found;
        let accounts = &mut self.book.accounts;
        let mut stale = Vec::new();
        kernel.walk(&mut |key, value| {
            let Some(entry) = rest.remove(&book::key(key)) else { return };
            let (resolved, _) = Resolved::new(&entry, committed);
            if resolved.last && value.retired == 0 {
                // Removed and made again by new packets; only its report was left behind.
                stale.push(book::key(key));
                return;
            }
            accounts.insert(*key, Account::of(&resolved, value, closed_at));
        })?;
        for (key, entry) in &rest {
            if key.kind == KIND_CONN {
                stale.push(*key);
            } else {
                self.ledger.set(*key, Resolved::new(entry, committed).0.totals);
            }
        }
        kernel.remove_reported(&stale)?;
        Ok(())
    }
}

/// Writes back entries of a batch that was never committed: its number will be another batch's.
fn settle(kernel: &dyn Kernel, found: &mut Found, committed: u64) -> Result<(), Failure> {
    let mut settled = Vec::new();
    for (key, entry) in found.iter_mut() {
        if let (_, Some(written)) = Resolved::new(entry, committed) {
            *entry = written;
            settled.push((*key, written));
        }
    }
    kernel.write_reported(&settled)?;
    Ok(())
}

/// Begins a boot of its own: maps without a note are fresh; with a note that the spool does not
/// know, the batches went with another spool. Then every entry counts as committed: what was in
/// doubt is lost with that spool, and nothing comes twice.
///
/// The entries are made to belong to no batch first, then the spool is told, then the map: cut off
/// between any two, this is done again.
fn begin_boot(
    kernel: &dyn Kernel,
    spool: &Spool,
    settings: &Settings,
    found: &mut Found,
) -> Result<String, Failure> {
    let mut settled = Vec::new();
    for (key, entry) in found.iter_mut().filter(|(_, entry)| entry.batch != 0) {
        *entry = Reported { batch: 0, was: entry.now, seq_was: entry.seq_now, ..*entry };
        settled.push((*key, *entry));
    }
    kernel.write_reported(&settled)?;
    let instance = boot::fresh_instance();
    let boot = boot::id(&settings.kernel_boot, instance);
    spool.begin(&boot)?;
    kernel.write_reported(&[(boot::INSTANCE, boot::note(instance))])?;
    Ok(boot)
}
