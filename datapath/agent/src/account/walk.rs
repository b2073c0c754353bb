//! Walking the table, and ending what is over.

use datapath_abi::conn::{ConnKey, ConnValue};
use hashbrown::{HashMap, HashSet};

use super::expiry::Close;
use super::{Accountant, Failure, batch, book, last_seen};
use crate::kernel::Kernel;

/// Connections retired together. One RCU grace period is paid for each such lot.
const LOT: usize = batch::FULL;
/// Past this share of the table, idle connections go early, in percent.
const PRESSED: u64 = 90;
/// Share of the table to which they are reduced then.
const RELIEVED: u64 = 80;

/// A walk under way.
struct Walk {
    over: Vec<(ConnKey, u64, Close)>,
    /// While the table is nearly full: when every other connection was last seen.
    idle: Vec<(i64, ConnKey, u64)>,
    attached: HashSet<u32>,
    pressed: bool,
    failure: Option<Failure>,
}

// === impl Accountant ===

impl Accountant {
    /// Walks the table and stages what moved; returns the connections that are over.
    #[tracing::instrument(skip_all)]
    pub(super) fn walk(
        &mut self,
        kernel: &dyn Kernel,
        now: i64,
    ) -> Result<Vec<(ConnKey, u64, Close)>, Failure> {
        self.walk += 1;
        self.denied.expire(now);
        self.origins.clear();
        let mut walk = Walk {
            over: Vec::new(),
            idle: Vec::new(),
            attached: kernel.attached().iter().map(|attached| attached.ifindex).collect(),
            pressed: self.connections() * 100 >= self.settings.capacity * PRESSED,
            failure: None,
        };
        kernel.walk(&mut |key, value| self.visit(kernel, key, value, &mut walk, now))?;
        match walk.failure {
            Some(failure) => Err(failure),
            None => {
                self.relieve(&mut walk);
                Ok(walk.over)
            }
        }
    }

    fn visit(
        &mut self,
        kernel: &dyn Kernel,
        key: &ConnKey,
        value: &ConnValue,
        walk: &mut Walk,
        now: i64,
    ) {
        if walk.failure.is_some() {
            return;
        }
        let last_seen = last_seen(kernel, value);
        if let Some(close) = self.is_over(key, value, now - last_seen, walk) {
            if let Some(account) = self.book.accounts.get_mut(key) {
                account.walk = self.walk;
            }
            walk.over.push((*key, value.id, close));
            return;
        }
        self.observe(kernel, key, value, now);
        if walk.pressed {
            walk.idle.push((last_seen, *key, value.id));
        }
        if self.batch.is_full() {
            walk.failure = self.commit(kernel, now).err();
        }
    }

    fn is_over(&self, key: &ConnKey, value: &ConnValue, idle: i64, walk: &Walk) -> Option<Close> {
        if value.retired != 0 {
            // By an agent that did not get to report it.
            return Some(Close::of(value.state));
        }
        if !walk.attached.contains(&key.ifindex()) {
            return (!self.stopping).then_some(Close::Gone);
        }
        self.settings.timeouts.judge(key, value, idle, walk.pressed)
    }

    /// While the table is nearly full, gives up those that have been idle for longest.
    fn relieve(&self, walk: &mut Walk) {
        let target = self.settings.capacity * RELIEVED / 100;
        let stay = self.connections().saturating_sub(walk.over.len() as u64);
        let excess = usize::try_from(stay.saturating_sub(target)).unwrap_or(usize::MAX);
        // Some may have been visited twice, and then fewer go.
        let excess = excess.min(walk.idle.len());
        if excess != 0 {
            walk.idle.select_nth_unstable_by_key(excess - 1, |(last_seen, ..)| *last_seen);
            let oldest = walk.idle[..excess].iter();
            walk.over.extend(oldest.map(|(_, key, id)| (*key, *id, Close::Pressure)));
        }
    }

    /// Ends connections: no packet is counted in them any more, their last rows are committed, and
    /// they are removed.
    pub(super) fn retire(
        &mut self,
        kernel: &dyn Kernel,
        over: &[(ConnKey, u64, Close)],
        now: i64,
    ) -> Result<(), Failure> {
        for lot in over.chunks(LOT) {
            self.commit(kernel, now)?;
            let reasons: HashMap<ConnKey, Close> =
                lot.iter().map(|(key, _, close)| (*key, *close)).collect();
            let keys: Vec<(ConnKey, u64)> = lot.iter().map(|(key, id, _)| (*key, *id)).collect();
            let retired = kernel.retire(&keys)?;
            for (key, value) in &retired {
                let close = reasons.get(key).copied().unwrap_or(Close::Idle);
                self.finish(kernel, key, value, close, now);
            }
            self.commit(kernel, now)?;
            self.remove(kernel, &retired)?;
        }
        Ok(())
    }

    /// Removes entries whose last rows are committed: first from the table, so that what was
    /// reported of one is known for as long as it can be read. `retired`: those whose values are known.
    fn remove(
        &mut self,
        kernel: &dyn Kernel,
        retired: &[(ConnKey, ConnValue)],
    ) -> Result<(), Failure> {
        if self.removing.is_empty() {
            return Ok(());
        }
        kernel.remove(&self.removing, retired)?;
        let reported: Vec<_> = self.removing.iter().map(book::key).collect();
        for key in self.removing.drain(..) {
            self.book.accounts.remove(&key);
        }
        kernel.remove_reported(&reported)?;
        Ok(())
    }

    /// Forgets accounts whose entry is gone from the table without the agent's doing.
    pub(super) fn forget_vanished(&mut self, kernel: &dyn Kernel) -> Result<(), Failure> {
        let walk = self.walk;
        let unseen = self.book.accounts.iter().filter(|(_, account)| account.walk != walk);
        let unseen: Vec<ConnKey> = unseen.map(|(key, _)| *key).collect();
        for key in unseen {
            if kernel.get(&key)?.is_none() {
                tracing::warn!(?key, "a connection vanished from the table");
                self.book.accounts.remove(&key);
                kernel.remove_reported(&[book::key(&key)])?;
            }
        }
        Ok(())
    }
}
