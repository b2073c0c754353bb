//! Connections whose packets somebody's rule dropped behind the hook that counted them: their rows say
//! so, with the kernel's reason and place.

use datapath_abi::conn::ConnKey;
use datapath_abi::drops::DropEvent;
use hashbrown::HashMap;
use model::Protocol;

use crate::drops::{IPV4, IPV6};

/// Connections remembered; past that, new ones are told of by the table `drops` alone.
const MAX: usize = 16_384;
/// How long one is remembered: the row that counts the packet is written within an interval.
const KEPT: i64 = 120_000_000_000;
/// A packet is counted by the hook a moment before it is dropped.
const MOMENT: i64 = 1_000_000_000;

/// The latest drop of each connection.
#[derive(Debug, Default)]
pub(super) struct Denied(HashMap<ConnKey, Denial>);

/// Why and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Denial {
    /// Nanoseconds since the epoch.
    time: i64,
    /// Number of the kernel's reason.
    pub(super) reason: u32,
    /// Address of the kernel function.
    pub(super) location: u64,
}

// === impl Denied ===

impl Denied {
    /// Notes a drop at `time`.
    pub(super) fn note(&mut self, event: &DropEvent, time: i64) {
        let Some(key) = key(event) else { return };
        if self.0.len() < MAX || self.0.contains_key(&key) {
            let denial = Denial { time, reason: event.reason, location: event.location };
            self.0.insert(key, denial);
        }
    }

    /// The latest drop of a connection, if it was after `since`.
    pub(super) fn of(&self, key: &ConnKey, since: i64) -> Option<&Denial> {
        self.0.get(&either_path(*key)).filter(|denial| denial.time >= since - MOMENT)
    }

    /// Forgets what is over.
    pub(super) fn expire(&mut self, now: i64) {
        self.0.retain(|_, denial| now - denial.time < KEPT);
    }
}

/// The connection that a dropped packet belongs to; its path is not known.
fn key(event: &DropEvent) -> Option<ConnKey> {
    let ip = event.ethertype == IPV4 || event.ethertype == IPV6;
    let protocol = Protocol(event.protocol);
    if !ip || !matches!(protocol, Protocol::TCP | Protocol::UDP | Protocol::SCTP) {
        return None;
    }
    let source = (event.source, event.source_port);
    let destination = (event.destination, event.destination_port);
    let (low, high) =
        if source <= destination { (source, destination) } else { (destination, source) };
    Some(ConnKey {
        low_addr: low.0,
        high_addr: high.0,
        low_port: low.1,
        high_port: high.1,
        link: ConnKey::link(event.ifindex, 0, event.protocol),
    })
}

fn either_path(key: ConnKey) -> ConnKey {
    ConnKey { link: ConnKey::link(key.ifindex(), 0, key.protocol()), ..key }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drop_is_found_by_its_connection_for_a_while() {
        let mut denied = Denied::default();
        let event = DropEvent {
            kind: datapath_abi::event::DROP,
            reason: 7,
            time_ns: 0,
            location: 9,
            source: [2; 16],
            destination: [1; 16],
            source_port: 5,
            destination_port: 80,
            ifindex: 3,
            netns: 0,
            bytes: 60,
            ethertype: IPV4,
            protocol: Protocol::TCP.0,
            pad: [0; 5],
        };
        denied.note(&event, 10 * MOMENT);
        let conn = |path, high_port| ConnKey {
            low_addr: [1; 16],
            high_addr: [2; 16],
            low_port: 80,
            high_port,
            link: ConnKey::link(3, path, Protocol::TCP.0),
        };
        for path in 0..2 {
            let found = denied.of(&conn(path, 5), 10 * MOMENT).unwrap();
            assert_eq!((found.reason, found.location), (7, 9));
        }
        assert_eq!(denied.of(&conn(0, 6), 0), None);
        assert_eq!(denied.of(&conn(0, 5), 12 * MOMENT), None, "of an interval before");
        denied.expire(10 * MOMENT + KEPT);
        assert_eq!(denied.of(&conn(0, 5), 0), None);
    }
}
