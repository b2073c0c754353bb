//! Processes: who made the socket of a connection.

use std::time::Duration;

use crate::kernel::lab::Lab;
use crate::kernel::traffic;

#[test]
fn a_connection_has_its_client() {
    let lab = Lab::new("proc");
    let mut datapath = lab.open();
    lab.attach(&mut datapath);
    traffic::udp(&lab, false, 7000, 20, 100);
    lab.run(&lab.here(), &["ping", "-c", "1", "10.9.0.2"]);
    std::thread::sleep(Duration::from_millis(100));
    let (mut ours, mut pings) = (0, 0);
    let own = std::process::id();
    datapath
        .connections()
        .walk(&mut |key, value| match datapath.process(value.cookie) {
            Some(process) if process.pid == own && key.protocol() == 17 => ours += 1,
            Some(process) if process.comm.starts_with(b"ping\0") && key.protocol() == 1 => {
                pings += 1;
                assert_ne!(process.pid, 0);
            }
            other => println!("{key:?} {other:?}"),
        })
        .unwrap();
    assert_eq!((ours, pings), (20, 1));
    assert_eq!(datapath.process(0), None);
    datapath.remove().unwrap();
}

#[test]
fn the_clocks_agree() {
    let lab = Lab::new("clock");
    let mut datapath = lab.open();
    lab.attach(&mut datapath);
    traffic::udp(&lab, false, 7000, 1, 100);
    let clock = datapath.clock();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let now = now.as_nanos() as i64;
    let mut seen = 0;
    datapath
        .connections()
        .walk(&mut |_, value| {
            for (hot, more) in value.dirs.iter().zip(&value.more) {
                if hot.packets == 0 {
                    continue;
                }
                let first = clock.epoch_from_ktime(more.first_ns);
                let last = clock.epoch_from_jiffies(hot.last);
                let tick = clock.tick_ns() as i64;
                assert!((0..5_000_000_000).contains(&(now - first)), "{}", now - first);
                assert!(last - first >= -2 * tick, "last {last} is before first {first}");
                assert!(now - last >= -2 * tick, "last {last} is after now {now}");
                seen += 1;
            }
        })
        .unwrap();
    assert!(seen >= 2);
    let ticks = clock.jiffies_now();
    assert!(clock.epoch_from_jiffies(ticks).abs_diff(now) < 2_000_000_000);
    datapath.remove().unwrap();
}
