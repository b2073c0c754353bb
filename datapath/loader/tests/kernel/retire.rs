//! Retiring: what it returns is final, under traffic.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use datapath_abi::conn::{ConnKey, ConnValue};
use datapath_abi::iface::RETIRING;

use crate::kernel::lab::{Lab, settled, there, within};
use crate::kernel::traffic;

/// Sends datagrams on a few flows from both CPUs until told to stop.
fn flood(lab: &Lab, stop: &Arc<AtomicBool>) -> Vec<std::thread::JoinHandle<()>> {
    (0..2u16)
        .map(|thread| {
            let (here, stop) = (lab.here(), Arc::clone(stop));
            std::thread::spawn(move || {
                within(&here, move || {
                    let bind = |port| std::net::UdpSocket::bind(("10.9.0.1", port)).unwrap();
                    let sockets: Vec<_> = (0..8).map(|n| bind(20000 + thread * 100 + n)).collect();
                    while !stop.load(Ordering::Relaxed) {
                        for socket in &sockets {
                            // Nobody listens there; the error that comes back is not ours.
                            let _ = socket.send_to(&[0; 50], there(false, 9));
                        }
                    }
                });
            })
        })
        .collect()
}

#[test]
fn values_are_final() {
    let lab = Lab::new("retire");
    let mut datapath = lab.open();
    let attached = lab.attach(&mut datapath);
    lab.run(&lab.here(), &["ping", "-c", "1", "10.9.0.2"]);
    let before = settled(&lab, &datapath, &attached);
    let stop = Arc::new(AtomicBool::new(false));
    let senders = flood(&lab, &stop);
    let connections = datapath.connections();
    let (mut packets, mut bytes, mut rounds, mut retired_count) = (0, 0, 0u32, 0usize);
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(3) {
        let mut keys = Vec::new();
        connections
            .walk(&mut |key: &ConnKey, value: &ConnValue| {
                if key.ifindex() == attached.ifindex && key.protocol() == 17 {
                    keys.push((*key, value.id));
                }
            })
            .unwrap();
        let retired = connections.retire(&keys).unwrap();
        // What was returned does not change any more, though packets go on coming.
        std::thread::sleep(Duration::from_millis(5));
        for (key, value) in &retired {
            assert_eq!(connections.get(key).unwrap().as_ref(), Some(value));
            packets += value.dirs.iter().map(|hot| hot.packets).sum::<u64>();
            bytes += value.dirs.iter().map(|hot| hot.bytes + 14 * hot.packets).sum::<u64>();
        }
        connections.remove(&retired.iter().map(|(key, _)| *key).collect::<Vec<_>>()).unwrap();
        retired_count += retired.len();
        rounds += 1;
    }
    stop.store(true, Ordering::Relaxed);
    senders.into_iter().for_each(|sender| sender.join().unwrap());
    std::thread::sleep(Duration::from_millis(300));
    // Everything that the interface has counted is in the final values, in what is still there,
    // or was counted as retiring.
    let (interface, now) = settled(&lab, &datapath, &attached);
    let interface = interface - before.0;
    let ours = (
        now.rx.0 + now.tx.0 + packets - before.1.rx.0 - before.1.tx.0,
        now.rx.1 + now.tx.1 + bytes - before.1.rx.1 - before.1.tx.1,
    );
    let [ingress, egress] = datapath.interfaces(attached.ifindex).unwrap();
    let retiring = ingress.causes[RETIRING].packets + egress.causes[RETIRING].packets;
    println!("{rounds} rounds, {retired_count} retired, {packets} packets, {retiring} retiring");
    assert!(rounds > 10 && retiring > 0 && retired_count > 100);
    assert_eq!(ours, (interface.rx.0 + interface.tx.0, interface.rx.1 + interface.tx.1));
    datapath.remove().unwrap();
}

#[test]
fn another_connection_is_left_alone() {
    let lab = Lab::new("retid");
    let mut datapath = lab.open();
    lab.attach(&mut datapath);
    traffic::udp(&lab, false, 7000, 200, 100);
    let connections = datapath.connections();
    let mut keys = Vec::new();
    connections.walk(&mut |key, value| keys.push((*key, value.id))).unwrap();
    let other: Vec<_> = keys.iter().map(|&(key, id)| (key, id + 1)).collect();
    assert_eq!(connections.retire(&other).unwrap(), []);
    connections.walk(&mut |_, value| assert_eq!(value.retired, 0)).unwrap();
    // More than one packet's worth of records.
    assert!(keys.len() > 150);
    assert_eq!(connections.retire(&keys).unwrap().len(), keys.len());
    let gone = keys[0].0;
    connections.remove(&[gone, gone]).unwrap();
    assert_eq!(connections.get(&gone).unwrap(), None);
    assert_eq!(connections.retire(&keys).unwrap().len(), keys.len() - 1);
    let all: Vec<_> = keys.iter().map(|(key, _)| *key).collect();
    connections.remove(&all).unwrap();
    datapath.remove().unwrap();
}
