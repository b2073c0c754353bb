//! Committing a batch, or taking it back.

use columns::Table;
use datapath_abi::reported::KIND_CONN;
use model::{LossCause, LossStage};

use super::book::settled;
use super::{Accountant, Failure};
use crate::kernel::Kernel;

impl Accountant {
    /// Commits the batch, if there is anything in it.
    #[tracing::instrument(skip_all)]
    pub(super) fn commit(&mut self, kernel: &dyn Kernel, now: i64) -> Result<(), Failure> {
        self.report_spool_losses(kernel, now);
        if self.batch.is_empty() {
            return Ok(());
        }
        match self.try_commit(kernel, now) {
            Ok(()) => {
                self.apply();
                Ok(())
            }
            Err(failure) => {
                self.metrics.commit_errors.inc();
                self.take_back(kernel);
                Err(failure)
            }
        }
    }

    fn try_commit(&mut self, kernel: &dyn Kernel, now: i64) -> Result<(), Failure> {
        if !self.unsettled.is_empty() {
            kernel.write_reported(&self.unsettled)?;
            self.unsettled.clear();
        }
        let sequence = self.sequence + 1;
        for (_, entry) in &mut self.batch.reported {
            entry.batch = sequence;
        }
        let rows: Vec<_> = self.batch.rows().collect();
        let parts = self.batch.encode()?;
        kernel.write_reported(&self.batch.reported)?;
        self.spool.commit(sequence, now, parts)?;
        self.sequence = sequence;
        self.metrics.batches.inc();
        for (table, count) in rows {
            self.metrics.rows(table.name(), count);
            self.rows += if table == Table::Flows { count } else { 0 };
        }
        Ok(())
    }

    /// The batch is in the spool: what it brought the report to is what was reported.
    fn apply(&mut self) {
        for staged in &self.batch.conns {
            let Some(account) = self.book.accounts.get_mut(&staged.key) else { continue };
            Self::note_seen(&mut self.seen, &staged.key, &account.totals, &staged.totals);
            account.totals = staged.totals;
            account.id = staged.id;
            account.seq = staged.seq;
            account.observed = staged.observed;
            account.memory = staged.memory;
            if staged.last {
                account.finished = true;
                self.removing.push(staged.key);
            }
        }
        for (key, totals) in &self.batch.totals {
            self.ledger.set(*key, *totals);
        }
        if self.batch.pending {
            self.pending.clear();
        }
        self.batch.clear();
    }

    /// The batch is not in the spool: its entries must not say that they belong to its number when
    /// another batch gets that.
    fn take_back(&mut self, kernel: &dyn Kernel) {
        let ids = self
            .batch
            .conns
            .iter()
            .map(|staged| self.book.accounts.get(&staged.key).map_or(0, |account| account.id));
        let mut ids = ids.collect::<Vec<_>>().into_iter();
        // Connections stand in both lists in the same order.
        for (key, entry) in &self.batch.reported {
            let id = if key.kind == KIND_CONN { ids.next().unwrap_or(0) } else { 0 };
            self.unsettled.push((*key, settled(entry.was, id, entry.seq_was)));
        }
        self.batch.clear();
        // If this fails too, it is tried again before the next batch.
        if kernel.write_reported(&self.unsettled).is_ok() {
            self.unsettled.clear();
        }
    }

    /// What the spool gave up, or found damaged, goes out with the next batch. It is no reason to
    /// make one, except when nothing else would.
    fn report_spool_losses(&mut self, kernel: &dyn Kernel, now: i64) {
        let damaged = self.spool.take_damaged();
        self.pending.lose(
            LossStage::Spool,
            LossCause::Corrupt,
            "batches",
            damaged.batches,
            damaged.flows,
            damaged.bytes,
        );
        if self.batch.spool_losses {
            return;
        }
        let evicted = self.spool.unreported();
        if evicted.batches != 0 {
            let (_, mut out) = self.out(kernel, now);
            out.loss_totals(LossStage::Spool, LossCause::Evicted, evicted);
            self.batch.spool_losses = true;
        }
    }
}
