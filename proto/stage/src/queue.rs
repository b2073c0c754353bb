//! Bounded queues that account for what they lose.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use prometheus::{IntCounterVec, IntGaugeVec, Opts};
use tokio::sync::mpsc;

/// Counters of one stage. Every item is counted exactly once as taken in, and once as handed on or
/// lost.
#[derive(Debug)]
pub struct Ledger {
    name: String,
    capacity: u64,
    taken: AtomicU64,
    handed: AtomicU64,
    lost: Mutex<Vec<(&'static str, u64)>>,
}

/// A [`Ledger`] at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Name of the stage.
    pub name: String,
    /// How many items it can hold; 0 where that has no meaning.
    pub capacity: u64,
    /// Items taken in.
    pub taken: u64,
    /// Items handed on.
    pub handed: u64,
    /// Items lost, by cause.
    pub lost: Vec<(&'static str, u64)>,
}

/// The stages of a process, for metrics, status and tests.
#[derive(Debug, Clone, Default)]
pub struct Registry(Arc<Mutex<Vec<Arc<Ledger>>>>);

/// The end that items are put in at.
pub struct Sender<T> {
    inner: mpsc::Sender<T>,
    ledger: Arc<Ledger>,
}

/// The end that items are taken out at.
pub struct Receiver<T> {
    inner: mpsc::Receiver<T>,
    ledger: Arc<Ledger>,
}

/// Makes a bounded queue named `name` and enters it in `registry`.
pub fn queue<T>(registry: &Registry, name: &str, capacity: usize) -> (Sender<T>, Receiver<T>) {
    let (sender, receiver) = mpsc::channel(capacity);
    let ledger = registry.ledger(name, capacity as u64);
    (Sender { inner: sender, ledger: Arc::clone(&ledger) }, Receiver { inner: receiver, ledger })
}

// === impl Ledger ===

impl Ledger {
    /// Counts `n` items taken in.
    pub fn take(&self, n: u64) {
        self.taken.fetch_add(n, Ordering::Relaxed);
    }

    /// Counts `n` items handed on.
    pub fn hand(&self, n: u64) {
        self.handed.fetch_add(n, Ordering::Relaxed);
    }

    /// Counts `n` items lost for `cause`.
    pub fn lose(&self, cause: &'static str, n: u64) {
        if n == 0 {
            return;
        }
        let mut lost = self.lost.lock();
        match lost.iter_mut().find(|(known, _)| *known == cause) {
            Some((_, count)) => *count += n,
            None => lost.push((cause, n)),
        }
    }

    /// The counters now.
    pub fn snapshot(&self) -> Snapshot {
        // What was handed on is read first: it can then never exceed what was taken.
        let handed = self.handed.load(Ordering::Relaxed);
        let lost = self.lost.lock().clone();
        Snapshot {
            name: self.name.clone(),
            capacity: self.capacity,
            taken: self.taken.load(Ordering::Relaxed),
            handed,
            lost,
        }
    }
}

// === impl Snapshot ===

impl Snapshot {
    /// Items that are inside: taken in, neither handed on nor lost.
    pub fn held(&self) -> u64 {
        let lost: u64 = self.lost.iter().map(|(_, count)| count).sum();
        self.taken.saturating_sub(self.handed + lost)
    }
}

// === impl Registry ===

impl Registry {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// Counters for a stage that is not made by [`queue`] (a lock-free ring, a spool).
    pub fn ledger(&self, name: &str, capacity: u64) -> Arc<Ledger> {
        let ledger = Arc::new(Ledger {
            name: name.to_owned(),
            capacity,
            taken: AtomicU64::new(0),
            handed: AtomicU64::new(0),
            lost: Mutex::new(Vec::new()),
        });
        self.0.lock().push(Arc::clone(&ledger));
        ledger
    }

    /// Every stage, now.
    pub fn snapshots(&self) -> Vec<Snapshot> {
        self.0.lock().iter().map(|ledger| ledger.snapshot()).collect()
    }

    /// Registers `weir_stage_{taken,handed,lost}_total` and `weir_stage_{held,capacity}`; call
    /// [`StageMetrics::refresh`] before each scrape.
    ///
    /// # Errors
    /// When the names are taken in `metrics`.
    pub fn metrics(&self, metrics: &prometheus::Registry) -> prometheus::Result<StageMetrics> {
        StageMetrics::new(self.clone(), metrics)
    }
}

/// The stages as Prometheus metrics.
#[derive(Debug, Clone)]
pub struct StageMetrics {
    registry: Registry,
    taken: IntCounterVec,
    handed: IntCounterVec,
    lost: IntCounterVec,
    held: IntGaugeVec,
    capacity: IntGaugeVec,
}

// === impl StageMetrics ===

impl StageMetrics {
    fn new(registry: Registry, metrics: &prometheus::Registry) -> prometheus::Result<Self> {
        let counter = |name: &str, help: &str, labels: &[&str]| {
            let vec = IntCounterVec::new(Opts::new(name, help), labels)?;
            metrics.register(Box::new(vec.clone()))?;
            Ok::<_, prometheus::Error>(vec)
        };
        let gauge = |name: &str, help: &str| {
            let vec = IntGaugeVec::new(Opts::new(name, help), &["stage"])?;
            metrics.register(Box::new(vec.clone()))?;
            Ok::<_, prometheus::Error>(vec)
        };
        Ok(Self {
            taken: counter("weir_stage_taken_total", "Items a stage took in.", &["stage"])?,
            handed: counter("weir_stage_handed_total", "Items a stage handed on.", &["stage"])?,
            lost: counter(
                "weir_stage_lost_total",
                "Items a stage lost, by cause.",
                &["stage", "cause"],
            )?,
            held: gauge("weir_stage_held", "Items inside a stage.")?,
            capacity: gauge("weir_stage_capacity", "Items a stage can hold.")?,
            registry,
        })
    }

    /// Brings the metrics up to date.
    pub fn refresh(&self) {
        for stage in self.registry.snapshots() {
            let name = [stage.name.as_str()];
            raise(&self.taken.with_label_values(&name), stage.taken);
            raise(&self.handed.with_label_values(&name), stage.handed);
            for (cause, count) in &stage.lost {
                raise(&self.lost.with_label_values(&[stage.name.as_str(), cause]), *count);
            }
            self.held.with_label_values(&name).set(stage.held().cast_signed());
            self.capacity.with_label_values(&name).set(stage.capacity.cast_signed());
        }
    }
}

fn raise(counter: &prometheus::IntCounter, to: u64) {
    counter.inc_by(to.saturating_sub(counter.get()));
}

// === impl Sender ===

impl<T> Sender<T> {
    /// Puts an item in if there is room; else it is lost, counted as `full`, and given back.
    ///
    /// # Errors
    /// The item, when the queue is full or its other end is gone.
    pub fn offer(&self, item: T) -> Result<(), T> {
        self.ledger.take(1);
        match self.inner.try_send(item) {
            Ok(()) => Ok(()),
            Err(mpsc::error::TrySendError::Full(item)) => {
                self.ledger.lose("full", 1);
                Err(item)
            }
            Err(mpsc::error::TrySendError::Closed(item)) => {
                self.ledger.lose("closed", 1);
                Err(item)
            }
        }
    }

    /// Puts an item in, waiting for room: back-pressure instead of loss.
    ///
    /// # Errors
    /// The item, when the other end is gone; it is counted as lost, `closed`.
    pub async fn send(&self, item: T) -> Result<(), T> {
        self.ledger.take(1);
        self.inner.send(item).await.map_err(|error| {
            self.ledger.lose("closed", 1);
            error.0
        })
    }

    /// The queue's counters.
    pub fn ledger(&self) -> &Arc<Ledger> {
        &self.ledger
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), ledger: Arc::clone(&self.ledger) }
    }
}

impl<T> fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Sender").field(&self.ledger.name).finish()
    }
}

// === impl Receiver ===

impl<T> Receiver<T> {
    /// The next item; `None` once every sender is gone and the queue is empty.
    pub async fn recv(&mut self) -> Option<T> {
        let item = self.inner.recv().await;
        self.ledger.hand(u64::from(item.is_some()));
        item
    }

    /// The next item if there is one now.
    pub fn try_recv(&mut self) -> Option<T> {
        let item = self.inner.try_recv().ok();
        self.ledger.hand(u64::from(item.is_some()));
        item
    }

    /// The queue's counters.
    pub fn ledger(&self) -> &Arc<Ledger> {
        &self.ledger
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.inner.close();
        let mut left = 0;
        while self.inner.try_recv().is_ok() {
            left += 1;
        }
        self.ledger.lose("closed", left);
    }
}

impl<T> fmt::Debug for Receiver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Receiver").field(&self.ledger.name).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn balance_holds_when_full_and_when_dropped() {
        let registry = Registry::new();
        let (sender, mut receiver) = queue(&registry, "test", 2);
        for i in 0..5 {
            let _ = sender.offer(i);
        }
        assert_eq!(receiver.recv().await, Some(0));
        let now = registry.snapshots().remove(0);
        assert_eq!((now.taken, now.handed, now.held()), (5, 1, 1));
        assert_eq!(now.lost, [("full", 3)]);
        drop(receiver);
        let now = registry.snapshots().remove(0);
        assert_eq!((now.held(), now.lost), (0, vec![("full", 3), ("closed", 1)]));
    }

    #[test]
    fn metrics_render() {
        let registry = Registry::new();
        let prometheus = prometheus::Registry::new();
        let metrics = registry.metrics(&prometheus).unwrap();
        let ledger = registry.ledger("spool", 10);
        ledger.take(4);
        ledger.lose("evicted", 3);
        metrics.refresh();
        let text = prometheus::TextEncoder::new().encode_to_string(&prometheus.gather()).unwrap();
        assert!(
            text.contains(r#"weir_stage_lost_total{cause="evicted",stage="spool"} 3"#),
            "{text}"
        );
        assert!(text.contains(r#"weir_stage_held{stage="spool"} 1"#), "{text}");
    }
}
