//! Tails: what is appended, as it is appended, for whoever keeps up.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::array::RecordBatch;
use columns::Table;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use crate::hot::HotBatch;

/// What a tail receives.
#[derive(Debug, Clone)]
pub enum TailItem {
    /// Rows that were just made durable.
    Rows(Table, RecordBatch),
    /// The receiver was too slow; so many rows are left out here.
    Gap {
        /// Rows left out.
        lost: u64,
    },
}

/// Receives what is appended from when it was made.
#[derive(Debug)]
pub struct TailReceiver {
    items: mpsc::Receiver<(Table, RecordBatch)>,
    lost: Arc<AtomicU64>,
    ledger: Arc<stage::Ledger>,
}

/// Every tail of a store. They share one ledger, in batches: tails come and go, the registry of
/// stages only grows.
#[derive(Debug)]
pub(crate) struct Tails {
    capacity: usize,
    ledger: Arc<stage::Ledger>,
    senders: Mutex<Vec<Tail>>,
}

#[derive(Debug)]
struct Tail {
    tables: Vec<Table>,
    items: mpsc::Sender<(Table, RecordBatch)>,
    lost: Arc<AtomicU64>,
}

// === impl Tails ===

impl Tails {
    pub(crate) fn new(stages: &stage::Registry, capacity: usize) -> Self {
        let ledger = stages.ledger("store_tail", capacity as u64);
        Self { capacity, ledger, senders: Mutex::new(Vec::new()) }
    }

    pub(crate) fn subscribe(&self, tables: &[Table]) -> TailReceiver {
        let (sender, items) = mpsc::channel(self.capacity.max(1));
        let lost = Arc::new(AtomicU64::new(0));
        self.senders.lock().push(Tail {
            tables: tables.to_vec(),
            items: sender,
            lost: Arc::clone(&lost),
        });
        TailReceiver { items, lost, ledger: Arc::clone(&self.ledger) }
    }

    /// Hands rows to every tail that has room; never waits.
    pub(crate) fn publish(&self, batch: &HotBatch) {
        self.senders.lock().retain(|tail| {
            if tail.items.is_closed() {
                return false;
            }
            if tail.tables.contains(&batch.table) {
                tail.offer(batch, &self.ledger);
            }
            true
        });
    }
}

// === impl Tail ===

impl Tail {
    fn offer(&self, batch: &HotBatch, ledger: &stage::Ledger) {
        ledger.take(1);
        let rows = batch.rows.num_rows() as u64;
        // Once something is lost, nothing is put in until the receiver has taken notice: so a gap
        // always stands behind what was queued before it and in front of what comes after.
        if self.lost.load(Ordering::Acquire) > 0 {
            self.lost.fetch_add(rows, Ordering::AcqRel);
            ledger.lose("full", 1);
            return;
        }
        match self.items.try_send((batch.table, batch.rows.clone())) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => {
                self.lost.fetch_add(rows, Ordering::AcqRel);
                ledger.lose("full", 1);
            }
            Err(TrySendError::Closed(_)) => ledger.lose("closed", 1),
        }
    }
}

// === impl TailReceiver ===

impl TailReceiver {
    /// The next item; `None` once the store is closed.
    pub async fn recv(&mut self) -> Option<TailItem> {
        if let Some(item) = self.try_recv() {
            return Some(item);
        }
        // Nothing is queued and nothing lost; a loss needs a full queue first, which wakes us.
        let (table, rows) = self.items.recv().await?;
        self.ledger.hand(1);
        Some(TailItem::Rows(table, rows))
    }

    /// The next item if there is one now.
    pub fn try_recv(&mut self) -> Option<TailItem> {
        if let Ok((table, rows)) = self.items.try_recv() {
            self.ledger.hand(1);
            return Some(TailItem::Rows(table, rows));
        }
        match self.lost.swap(0, Ordering::AcqRel) {
            0 => None,
            lost => Some(TailItem::Gap { lost }),
        }
    }
}

impl Drop for TailReceiver {
    fn drop(&mut self) {
        self.items.close();
        while self.items.try_recv().is_ok() {
            self.ledger.lose("closed", 1);
        }
    }
}
