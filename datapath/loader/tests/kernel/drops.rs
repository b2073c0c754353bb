//! Drops: what the kernel discards, with reason and place.

use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use datapath_abi::drops::DropEvent;
use datapath_loader::{Event, Transport};

use crate::kernel::lab::Lab;
use crate::kernel::traffic;

fn named(name: &str, transport: Transport) {
    let mut lab = Lab::new(name);
    lab.options.transport = transport;
    let netns = std::fs::metadata(format!("/run/netns/{}", lab.there())).unwrap().ino() as u32;
    let mut datapath = lab.open();
    let mut events = datapath.events().unwrap();
    traffic::udp_into_the_void(&lab, 9999, 20);
    std::thread::sleep(Duration::from_millis(200));
    let mut drops: Vec<DropEvent> = Vec::new();
    events.drain(&mut |event| {
        if let Event::Drop(event) = event
            && event.netns == netns
            && event.destination_port == 9999
        {
            drops.push(*event);
        }
    });
    assert_eq!(drops.len(), 20);
    for event in &drops {
        assert_eq!(datapath.drop_reason(event.reason), Some("NO_SOCKET"));
        let symbol = datapath.symbol(event.location).unwrap();
        assert!(symbol.contains("udp"), "{symbol}");
        assert_eq!((event.protocol, event.ethertype), (17, 0x0800));
        assert_eq!(event.source[12..], [10, 9, 0, 1]);
        assert_eq!(event.destination[12..], [10, 9, 0, 2]);
        // IP, UDP, and "anyone?".
        assert_eq!(event.bytes, 20 + 8 + 7);
        let age = datapath.clock().ktime_now() - event.time_ns;
        assert!(age < 5_000_000_000, "{age}");
    }
    let counted: Vec<_> = datapath
        .drops()
        .unwrap()
        .into_iter()
        .filter(|(key, _)| key.netns == netns && key.reason == drops[0].reason)
        .collect();
    assert_eq!(counted.len(), 1);
    assert_eq!((counted[0].1.packets, counted[0].1.bytes), (20, 20 * 35));
    datapath.remove().unwrap();
}

#[test]
fn have_a_reason_and_a_place() {
    named("drop", Transport::Ring);
}

#[test]
fn come_by_perf_too() {
    named("dropp", Transport::Perf);
}

#[test]
fn are_counted_once_across_a_restart() {
    let lab = Lab::new("dropr");
    let netns = std::fs::metadata(format!("/run/netns/{}", lab.there())).unwrap().ino() as u32;
    drop(lab.open());
    traffic::udp_into_the_void(&lab, 9999, 10);
    let datapath = lab.open();
    traffic::udp_into_the_void(&lab, 9999, 10);
    std::thread::sleep(Duration::from_millis(200));
    let no_socket = |reason| datapath.drop_reason(reason) == Some("NO_SOCKET");
    let drops = datapath.drops().unwrap();
    let packets: u64 = drops
        .iter()
        .filter(|(key, _)| key.netns == netns && no_socket(key.reason))
        .map(|(_, counter)| counter.packets)
        .sum();
    assert_eq!(packets, 20);
    datapath.remove().unwrap();
}
