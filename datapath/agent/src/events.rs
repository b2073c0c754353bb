//! From the rings to the accountant: a thread that only reads, and two bounded lock-free lanes.
//!
//! Events are news, and news may be lost: a full lane is counted, and costs delay, not bytes. DNS
//! answers have a lane of their own, because one of them is as large as six other events.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use datapath_abi::conn::ConnKey;
use datapath_abi::drops::DropEvent;
use datapath_abi::event::{CLOSED, CREATED};
use ringbuf::traits::{Consumer as _, Producer as _, Split as _};
use ringbuf::{HeapCons, HeapProd, HeapRb};
use stage::Ledger;

use crate::kernel::{Event, Events};

/// Events on the way. Half a second's worth at 30,000 new connections a second; 1.4 MiB.
const LANE: usize = 16_384;
/// DNS answers on the way.
const DNS_LANE: usize = 512;
/// Pause after a look that found events, and the longest after looks that found none. Reading twice
/// as seldom each time, an idle thread wakes 50 times a second.
const BUSY: Duration = Duration::from_micros(500);
const IDLE: Duration = Duration::from_millis(20);

/// An event, as much of it as is used.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Item {
    /// A connection began.
    Created(ConnKey),
    /// A connection's state changed.
    Changed(ConnKey),
    /// A connection was closed or reset, at a `bpf_ktime_get_ns`.
    Closed(ConnKey, u64),
    /// The kernel dropped a packet.
    Drop(DropEvent),
}

/// A DNS answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) key: ConnKey,
    /// `bpf_ktime_get_ns`.
    pub(crate) time_ns: u64,
    pub(crate) payload: Box<[u8]>,
}

/// The end that events are taken out at. Dropping it ends the thread.
pub(crate) struct Lanes {
    items: HeapCons<Item>,
    answers: HeapCons<Answer>,
    shared: Arc<Shared>,
}

/// The end that the thread puts them in at.
struct Reader {
    items: HeapProd<Item>,
    answers: HeapProd<Answer>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    stop: AtomicBool,
    lost_items: AtomicU64,
    lost_answers: AtomicU64,
    items: Arc<Ledger>,
    answers: Arc<Ledger>,
}

/// Starts the thread that reads `events`.
///
/// # Errors
/// When no thread can be had.
pub(crate) fn start(
    mut events: Box<dyn Events>,
    stages: &stage::Registry,
) -> std::io::Result<Lanes> {
    let (mut reader, lanes) = lanes(stages, LANE, DNS_LANE);
    std::thread::Builder::new()
        .name("weir-events".to_owned())
        .stack_size(256 << 10)
        .spawn(move || reader.run(&mut *events))?;
    Ok(lanes)
}

fn lanes(stages: &stage::Registry, items: usize, answers: usize) -> (Reader, Lanes) {
    let shared = Arc::new(Shared {
        stop: AtomicBool::new(false),
        lost_items: AtomicU64::new(0),
        lost_answers: AtomicU64::new(0),
        items: stages.ledger("agent-events", items as u64),
        answers: stages.ledger("agent-dns", answers as u64),
    });
    let (items_in, items_out) = HeapRb::new(items).split();
    let (answers_in, answers_out) = HeapRb::new(answers).split();
    let reader = Reader { items: items_in, answers: answers_in, shared: Arc::clone(&shared) };
    (reader, Lanes { items: items_out, answers: answers_out, shared })
}

// === impl Reader ===

impl Reader {
    fn run(&mut self, events: &mut dyn Events) {
        let mut pause = BUSY;
        while !self.shared.stop.load(Ordering::Relaxed) {
            let found = events.drain(&mut |event| self.put(event));
            pause = if found == 0 { (pause * 2).min(IDLE) } else { BUSY };
            std::thread::sleep(pause);
        }
    }

    fn put(&mut self, event: Event<'_>) {
        let item = match event {
            Event::Conn(conn) if conn.kind == CREATED => Item::Created(conn.key),
            Event::Conn(conn) if conn.kind == CLOSED => Item::Closed(conn.key, conn.time_ns),
            Event::Conn(conn) => Item::Changed(conn.key),
            Event::Drop(drop) => Item::Drop(*drop),
            Event::Dns(dns) => {
                let length = (dns.length as usize).min(dns.payload.len());
                let payload = Box::from(&dns.payload[..length]);
                let answer = Answer { key: dns.key, time_ns: dns.time_ns, payload };
                self.shared.answers.take(1);
                if self.answers.try_push(answer).is_err() {
                    self.shared.answers.lose("full", 1);
                    self.shared.lost_answers.fetch_add(1, Ordering::Relaxed);
                }
                return;
            }
        };
        self.shared.items.take(1);
        if self.items.try_push(item).is_err() {
            self.shared.items.lose("full", 1);
            // A lost drop event is found by the drop counters, and reported there.
            if !matches!(item, Item::Drop(_)) {
                self.shared.lost_items.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

// === impl Lanes ===

impl Lanes {
    /// The next event.
    pub(crate) fn item(&mut self) -> Option<Item> {
        let item = self.items.try_pop();
        self.shared.items.hand(u64::from(item.is_some()));
        item
    }

    /// The next DNS answer.
    pub(crate) fn answer(&mut self) -> Option<Answer> {
        let answer = self.answers.try_pop();
        self.shared.answers.hand(u64::from(answer.is_some()));
        answer
    }

    /// Connection events and DNS answers lost since this was last asked.
    pub(crate) fn take_lost(&self) -> (u64, u64) {
        let take = |count: &AtomicU64| count.swap(0, Ordering::Relaxed);
        (take(&self.shared.lost_items), take(&self.shared.lost_answers))
    }
}

impl Drop for Lanes {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

impl std::fmt::Debug for Lanes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Lanes").field(&self.shared).finish()
    }
}

#[cfg(test)]
mod tests {
    use datapath_abi::event::ConnEvent;
    use datapath_abi::names::{DnsEvent, MAX_PAYLOAD};

    use super::*;

    const KEY: ConnKey =
        ConnKey { low_addr: [0; 16], high_addr: [1; 16], low_port: 1, high_port: 2, link: 17 };

    #[test]
    fn what_goes_in_comes_out_or_is_counted() {
        let stages = stage::Registry::new();
        let (mut reader, mut lanes) = lanes(&stages, 8, 2);
        let conn = ConnEvent { kind: CREATED, detail: 0, time_ns: 5, id: 1, key: KEY };
        let payload = [7; MAX_PAYLOAD];
        let dns = DnsEvent { kind: 5, length: 9999, time_ns: 6, id: 1, key: KEY, payload };
        for _ in 0..10 {
            reader.put(Event::Conn(&conn));
            reader.put(Event::Dns(&dns));
        }
        assert_eq!(lanes.take_lost(), (2, 8));
        assert_eq!(lanes.take_lost(), (0, 0));
        let mut items = 0;
        while let Some(item) = lanes.item() {
            assert!(matches!(item, Item::Created(key) if key == KEY));
            items += 1;
        }
        assert_eq!(lanes.answer().unwrap().payload.len(), MAX_PAYLOAD);
        assert_eq!(items, 8);
        for snapshot in stages.snapshots() {
            let lost: u64 = snapshot.lost.iter().map(|(_, n)| n).sum();
            assert_eq!(snapshot.taken, snapshot.handed + lost + snapshot.held());
            assert_eq!(snapshot.taken, 10);
        }
    }
}
