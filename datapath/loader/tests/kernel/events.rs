//! Events: seen and lost together are all there were.

use std::time::Duration;

use datapath_abi::conn::ConnKey;
use datapath_abi::event::{CREATED, DNS, DROP, KINDS};
use datapath_loader::{Datapath, Error, Event, Events, Transport};

use crate::kernel::lab::Lab;
use crate::kernel::traffic;

#[derive(Debug, Default)]
struct Seen {
    kinds: [u64; KINDS],
    created: Vec<(ConnKey, u64)>,
}

// === impl Seen ===

impl Seen {
    fn take(&mut self, events: &mut Events) -> usize {
        events.drain(&mut |event| match event {
            Event::Conn(event) => {
                self.kinds[event.kind as usize] += 1;
                if event.kind == CREATED {
                    self.created.push((event.key, event.id));
                }
            }
            Event::Denied(event) => self.kinds[event.kind as usize] += 1,
            Event::Drop(event) => self.kinds[event.kind as usize] += 1,
            Event::Dns(event) => {
                self.kinds[event.kind as usize] += 1;
                assert!(event.payload[..event.length as usize].iter().all(|&byte| byte == 7));
            }
        })
    }
}

fn connections(datapath: &Datapath) -> u64 {
    let mut created = 0;
    datapath.connections().walk(&mut |_, value| created += 1 + u64::from(value.reuses)).unwrap();
    created
}

fn all_arrive(name: &str, transport: Transport) {
    let mut lab = Lab::new(name);
    lab.options.transport = transport;
    lab.options.ring_bytes = 1 << 19;
    let mut datapath = lab.open();
    let mut events = datapath.events().unwrap();
    assert!(matches!(datapath.events(), Err(Error::EventsTaken)));
    let attached = lab.attach(&mut datapath);
    let mut seen = Seen::default();
    traffic::udp(&lab, false, 7000, 500, 100);
    seen.take(&mut events);
    traffic::tcp(&lab, true, 7001, 200, 1000);
    traffic::udp(&lab, false, 53, 10, 40);
    traffic::udp(&lab, true, 53, 5, 700);
    std::thread::sleep(Duration::from_millis(200));
    seen.take(&mut events);
    let mut lost = datapath.lost_events().unwrap();
    println!("{attached:?} seen {:?} lost {lost:?}", seen.kinds);
    // Drops are those of the whole machine, floods of other tests included.
    lost[DROP as usize] = 0;
    assert_eq!(lost, [0; KINDS]);
    assert_eq!(seen.kinds[CREATED as usize], connections(&datapath));
    assert_eq!(seen.kinds[DNS as usize], 15);
    // Events name the connections as the table does.
    for (key, id) in seen.created {
        let value = datapath.connections().get(&key).unwrap().expect("an entry");
        assert!(value.id == id || value.reuses > 0);
    }
    datapath.remove().unwrap();
}

fn none_vanish(name: &str, transport: Transport) {
    let mut lab = Lab::new(name);
    lab.options.transport = transport;
    lab.options.ring_bytes = 4096;
    lab.options.drops = false;
    let mut datapath = lab.open();
    let mut events = datapath.events().unwrap();
    lab.attach(&mut datapath);
    // Nobody drains: the buffers overflow.
    traffic::udp(&lab, false, 7000, 2000, 100);
    std::thread::sleep(Duration::from_millis(100));
    let mut seen = Seen::default();
    seen.take(&mut events);
    let lost = datapath.lost_events().unwrap();
    let (seen, lost) = (seen.kinds[CREATED as usize], lost[CREATED as usize]);
    println!("created {}, seen {seen}, lost {lost}", connections(&datapath));
    assert!(lost > 1000, "the buffer was to overflow");
    assert_eq!(seen + lost, connections(&datapath));
    datapath.remove().unwrap();
}

#[test]
fn all_arrive_by_rings() {
    all_arrive("ring", Transport::Ring);
}

#[test]
fn all_arrive_by_perf() {
    all_arrive("perf", Transport::Perf);
}

#[test]
fn none_vanish_from_full_rings() {
    none_vanish("ringf", Transport::Ring);
}

#[test]
fn none_vanish_from_full_perf_buffers() {
    none_vanish("perff", Transport::Perf);
}
