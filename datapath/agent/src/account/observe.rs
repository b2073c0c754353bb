//! From what was read of a connection to its rows.

use datapath_abi::conn::{ConnKey, ConnValue, STATE_CLOSED};
use datapath_abi::reported::TOTALS;

use super::batch::{Batch, StagedConn};
use super::book::{self, Account, Memory, minus};
use super::expiry::Close;
use super::flow::{Interval, Sources};
use super::{Accountant, last_seen};
use crate::kernel::Kernel;

/// A connection as it was read, beside what was reported of it.
struct Sight<'a> {
    key: &'a ConnKey,
    value: &'a ConnValue,
    totals: [u64; TOTALS],
    /// Of what moved, as much as belongs to the connection that had the tuple before; `None` when
    /// the tuple was not reused since the last report.
    old: Option<[u64; TOTALS]>,
    last_seen: i64,
    /// Set when these are the final counters of a retired entry.
    close: Option<Close>,
}

// === impl Accountant ===

impl Accountant {
    /// Stages rows for a connection, if something moved.
    pub(super) fn observe(
        &mut self,
        kernel: &dyn Kernel,
        key: &ConnKey,
        value: &ConnValue,
        now: i64,
    ) {
        let account = self.account(key, value);
        // A walk may visit an entry twice; what a batch has of it must not be put in again.
        if account.finished || account.staged == self.batch.number {
            return;
        }
        let sight = Sight::of(kernel, key, value, &self.book.accounts[key], None);
        // The last row of a closed connection comes soon, with all the rest.
        let known = self.book.accounts[key].seq > 0;
        let soon = value.state >= STATE_CLOSED && known && !self.stopping;
        if soon && sight.old.is_none() {
            return;
        }
        self.stage(kernel, &sight, now);
    }

    /// Stages the last rows of a retired connection.
    pub(super) fn finish(
        &mut self,
        kernel: &dyn Kernel,
        key: &ConnKey,
        value: &ConnValue,
        close: Close,
        now: i64,
    ) {
        let account = self.account(key, value);
        if account.finished {
            self.removing.push(*key);
            return;
        }
        if account.staged == self.batch.number {
            return;
        }
        let sight = Sight::of(kernel, key, value, &self.book.accounts[key], Some(close));
        self.stage(kernel, &sight, now);
    }

    /// The account of a connection. One that was finished and is in the table unretired is another
    /// connection, whose counters began at zero.
    fn account(&mut self, key: &ConnKey, value: &ConnValue) -> &mut Account {
        let account = self.book.accounts.entry(*key).or_default();
        if account.finished && value.retired == 0 {
            *account = Account::default();
        }
        account.walk = self.walk;
        account
    }

    fn stage(&mut self, kernel: &dyn Kernel, sight: &Sight<'_>, now: i64) {
        let Self { book, batch, writer, view, metrics, denied, origins, .. } = self;
        let Some(account) = book.accounts.get_mut(sight.key) else { return };
        let (mut seq, was) = (account.seq, account.totals);
        let mut sources = Sources { view, kernel, metrics, denied, origins, now };
        let mut write = |batch: &mut Batch, account: &mut Account, interval: Interval| {
            writer.write(&mut sources, batch, sight.key, sight.value, account, &interval);
        };

        let began = kernel.epoch_from_ktime(sight.value.id);
        let old = sight.old.unwrap_or_default();
        if sight.old.is_some() {
            let known = account.id != 0;
            if known || old != [0; TOTALS] {
                let start = if account.observed == 0 { began } else { account.observed };
                let state = Close::of(account.memory.state);
                let close = Some(if state == Close::Idle { Close::Reused } else { state });
                let interval = Interval { delta: old, seq, start, end: began, close, before: true };
                write(batch, account, interval);
            }
            seq = 0;
            account.forget_parties();
        }

        let delta = minus(&minus(&sight.totals, &was), &old);
        let moved = delta != [0; TOTALS];
        if moved || sight.close.is_some() {
            let start = if seq == 0 { began } else { account.observed.max(began) };
            let interval = Interval {
                delta,
                seq,
                start: start.min(sight.last_seen.max(began)),
                end: sight.last_seen,
                close: sight.close,
                before: false,
            };
            write(batch, account, interval);
            seq += 1;
        }
        if !moved && sight.close.is_none() && sight.old.is_none() {
            account.observed = now;
            return;
        }
        account.staged = batch.number;
        let (id, last) = (sight.value.id, sight.close.is_some());
        let entry = book::entry(account, sight.totals, id, seq, last);
        batch.reported.push((book::key(sight.key), entry));
        batch.conns.push(StagedConn {
            key: *sight.key,
            totals: sight.totals,
            id,
            seq,
            observed: now,
            memory: Memory::of(sight.value),
            last,
        });
    }
}

// === impl Sight ===

impl<'a> Sight<'a> {
    fn of(
        kernel: &dyn Kernel,
        key: &'a ConnKey,
        value: &'a ConnValue,
        account: &Account,
        close: Option<Close>,
    ) -> Self {
        let totals = book::totals(value);
        let moved = minus(&totals, &account.totals);
        let before = minus(&book::totals_before(value), &account.totals);
        // The value is not read in one instant: what belongs to the one before is at most what
        // moved.
        let old: [u64; TOTALS] = std::array::from_fn(|i| before[i].min(moved[i]));
        let reused = account.id != 0 && account.id != value.id;
        let reused = reused || (value.reuses != 0 && old != [0; TOTALS]);
        let last_seen = last_seen(kernel, value);
        Self { key, value, totals, old: reused.then_some(old), last_seen, close }
    }
}
