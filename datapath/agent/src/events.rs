//! From the rings to the accountant: a thread that only reads, and bounded lock-free lanes.
//!
//! Events are news, and news may be lost: a full lane is counted, and costs delay, not bytes. Each
//! kind has a lane, so that a flood of drops does not crowd out connections, and because a DNS
//! answer is as large as ten of the others.

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

/// Connection events on the way; 900 KiB.
const LANE: usize = 16_384;
/// Drops on the way; 650 KiB.
const DROP_LANE: usize = 8192;
/// DNS answers on the way.
const DNS_LANE: usize = 512;
/// Pause after a look that found events, and the longest after looks that found none. Reading twice
/// as seldom each time, an idle thread wakes 50 times a second.
const BUSY: Duration = Duration::from_micros(500);
const IDLE: Duration = Duration::from_millis(20);

/// An event of a connection, as much of it as is used.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Item {
    /// A connection began.
    Created(ConnKey),
    /// A connection's state changed.
    Changed(ConnKey),
    /// A connection was closed or reset, at a `bpf_ktime_get_ns`.
    Closed(ConnKey, u64),
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
    drops: HeapCons<DropEvent>,
    answers: HeapCons<Answer>,
    shared: Arc<Shared>,
}

/// The end that the thread puts them in at.
struct Reader {
    items: HeapProd<Item>,
    drops: HeapProd<DropEvent>,
    answers: HeapProd<Answer>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    stop: AtomicBool,
    /// Something was refused since this was last asked.
    denied: AtomicBool,
    lost_items: AtomicU64,
    lost_answers: AtomicU64,
    items: Arc<Ledger>,
    drops: Arc<Ledger>,
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
    let (mut reader, lanes) = lanes(stages, LANE, DROP_LANE, DNS_LANE);
    std::thread::Builder::new()
        .name("weir-events".to_owned())
        .stack_size(256 << 10)
        .spawn(move || reader.run(&mut *events))?;
    Ok(lanes)
}

fn lanes(stages: &stage::Registry, items: usize, drops: usize, answers: usize) -> (Reader, Lanes) {
    let shared = Arc::new(Shared {
        stop: AtomicBool::new(false),
        denied: AtomicBool::new(false),
        lost_items: AtomicU64::new(0),
        lost_answers: AtomicU64::new(0),
        items: stages.ledger("agent-events", items as u64),
        drops: stages.ledger("agent-drops", drops as u64),
        answers: stages.ledger("agent-dns", answers as u64),
    });
    let (items_in, items_out) = HeapRb::new(items).split();
    let (drops_in, drops_out) = HeapRb::new(drops).split();
    let (answers_in, answers_out) = HeapRb::new(answers).split();
    let reader = Reader {
        items: items_in,
        drops: drops_in,
        answers: answers_in,
        shared: Arc::clone(&shared),
    };
    (reader, Lanes { items: items_out, drops: drops_out, answers: answers_out, shared })
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
        let shared = &self.shared;
        match event {
            Event::Conn(conn) => {
                let item = match conn.kind {
                    CREATED => Item::Created(conn.key),
                    CLOSED => Item::Closed(conn.key, conn.time_ns),
                    _ => Item::Changed(conn.key),
                };
                push(&mut self.items, item, &shared.items, Some(&shared.lost_items));
            }
            // A lost one is found by the drop counters, and reported there.
            Event::Drop(drop) => push(&mut self.drops, *drop, &shared.drops, None),
            // The table of refusals has it.
            Event::Denied => shared.denied.store(true, Ordering::Relaxed),
            Event::Dns(dns) => {
                let length = (dns.length as usize).min(dns.payload.len());
                let payload = Box::from(&dns.payload[..length]);
                let answer = Answer { key: dns.key, time_ns: dns.time_ns, payload };
                push(&mut self.answers, answer, &shared.answers, Some(&shared.lost_answers));
            }
        }
    }
}

fn push<T>(lane: &mut HeapProd<T>, item: T, ledger: &Ledger, lost: Option<&AtomicU64>) {
    ledger.take(1);
    if lane.try_push(item).is_err() {
        ledger.lose("full", 1);
        if let Some(lost) = lost {
            lost.fetch_add(1, Ordering::Relaxed);
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

    /// The next dropped packet.
    pub(crate) fn drop(&mut self) -> Option<DropEvent> {
        let drop = self.drops.try_pop();
        self.shared.drops.hand(u64::from(drop.is_some()));
        drop
    }

    /// The next DNS answer.
    pub(crate) fn answer(&mut self) -> Option<Answer> {
        let answer = self.answers.try_pop();
        self.shared.answers.hand(u64::from(answer.is_some()));
        answer
    }

    /// Whether the policy refused something new since this was last asked.
    pub(crate) fn take_denied(&self) -> bool {
        self.shared.denied.swap(false, Ordering::Relaxed)
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
        let drop = DropEvent {
            kind: 4,
            reason: 1,
            time_ns: 5,
            location: 0,
            source: [0; 16],
            destination: [0; 16],
            source_port: 0,
            destination_port: 0,
            ifindex: 1,
            netns: 1,
            bytes: 1,
            ethertype: 0x0800,
            protocol: 17,
            pad: [0; 5],
        };
        let (mut reader, mut lanes) = lanes(&stages, 8, 4, 2);
        let conn = ConnEvent { kind: CREATED, detail: 0, time_ns: 5, id: 1, key: KEY };
        let payload = [7; MAX_PAYLOAD];
        let dns = DnsEvent { kind: 5, length: 9999, time_ns: 6, id: 1, key: KEY, payload };
        for _ in 0..10 {
            reader.put(Event::Conn(&conn));
            reader.put(Event::Dns(&dns));
            reader.put(Event::Drop(&drop));
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
        assert_eq!(std::iter::from_fn(|| lanes.drop()).count(), 4);
        for snapshot in stages.snapshots() {
            let lost: u64 = snapshot.lost.iter().map(|(_, n)| n).sum();
            assert_eq!(snapshot.taken, snapshot.handed + lost + snapshot.held());
            assert_eq!(snapshot.taken, 10);
        }
    }
}
