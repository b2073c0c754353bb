//! The balance: connections and others together are what the interface has counted, to the byte.

use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::time::Duration;

use datapath_abi::iface::{ARP, TABLE_FULL};
use datapath_loader::{Attached, AttachedBy, Datapath, Mode};

use crate::kernel::lab::{Lab, enter, ip, parts, settled};
use crate::kernel::traffic;

/// Does something between two looks, and compares what both sides have counted.
fn check(lab: &Lab, datapath: &Datapath, attached: &Attached, what: &str, act: impl FnOnce()) {
    let before = settled(lab, datapath, attached);
    act();
    // What is in flight (delayed acknowledgements, neighbour discovery) comes to rest.
    std::thread::sleep(Duration::from_millis(300));
    let after = settled(lab, datapath, attached);
    let (interface, ours) = (after.0 - before.0, after.1 - before.1);
    println!("{what:28} {interface:?}");
    assert!(interface.rx.0 > 0 && interface.tx.0 > 0, "{what}: no traffic");
    assert_eq!(ours, interface, "{what}");
}

fn everything(name: &str, clsact: bool) {
    let lab = Lab::new(name);
    let mut datapath = lab.open_with(clsact);
    let attached = lab.attach(&mut datapath);
    assert_eq!(attached.by, if clsact { AttachedBy::Clsact } else { AttachedBy::Tcx });
    assert_eq!(attached.link_header, 14);
    let (here, there) = (lab.here(), lab.there());
    let check = |what: &str, act: &dyn Fn()| check(&lab, &datapath, &attached, what, act);
    check("ping", &|| drop(lab.run(&here, &["ping", "-c", "3", "-i", "0.01", "10.9.0.2"])));
    check("ping, IPv6", &|| drop(lab.run(&here, &["ping", "-c", "3", "-i", "0.01", "fd09::2"])));
    check("fragments", &|| {
        drop(lab.run(&here, &["ping", "-c", "5", "-i", "0.01", "-s", "4000", "10.9.0.2"]));
    });
    check("fragments, IPv6", &|| {
        drop(lab.run(&there, &["ping", "-c", "5", "-i", "0.01", "-s", "4000", "fd09::1"]));
    });
    check("UDP", &|| traffic::udp(&lab, false, 7000, 200, 100));
    check("UDP, IPv6, in fragments", &|| traffic::udp(&lab, true, 7000, 20, 5000));
    check("TCP, short connections", &|| traffic::tcp(&lab, false, 7001, 300, 10_000));
    check("TCP, IPv6", &|| traffic::tcp(&lab, true, 7001, 50, 100_000));
    check("TCP, offloaded", &|| traffic::iperf(&lab, &["-n", "200M"]));
    check("TCP, offloaded, other way", &|| traffic::iperf(&lab, &["-R", "-n", "200M"]));
    check("TCP, two streams, both CPUs", &|| traffic::iperf(&lab, &["-P", "2", "-n", "100M"]));
    check("UDP, a stream", &|| traffic::iperf(&lab, &["-u", "-b", "200M", "-n", "20M"]));
    let arp = datapath.interfaces(attached.ifindex).unwrap()[0].causes[ARP];
    assert!(arp.packets > 0, "ARP is counted by its kind");
    let mut segments = 0;
    let add = &mut |_: &_, value: &datapath_abi::conn::ConnValue| {
        segments += value.more[0].extra_segments + value.more[1].extra_segments;
    };
    datapath.connections().walk(add).unwrap();
    assert!(segments > 1000, "offloaded packets are known by their segments: {segments}");
    datapath.remove().unwrap();
}

#[test]
fn by_tcx() {
    everything("tcx", false);
}

#[test]
fn by_clsact() {
    everything("clsact", true);
}

#[test]
fn with_a_full_table() {
    let mut lab = Lab::new("full");
    lab.options.max_connections = 64;
    let mut datapath = lab.open();
    let attached = lab.attach(&mut datapath);
    check(&lab, &datapath, &attached, "1000 flows into 64 entries", || {
        traffic::udp(&lab, false, 7000, 1000, 100);
    });
    let [ingress, egress] = datapath.interfaces(attached.ifindex).unwrap();
    for hook in [ingress, egress] {
        assert!(hook.causes[TABLE_FULL].packets > 500, "{hook:?}");
    }
    assert_eq!(datapath.connections().walk(&mut |_, _| ()).unwrap(), 64);
    // Room again: the next connection is one.
    let mut keys = Vec::new();
    datapath.connections().walk(&mut |key, _| keys.push(*key)).unwrap();
    datapath.connections().remove(&keys).unwrap();
    traffic::udp(&lab, false, 7000, 1, 100);
    assert!(parts(&datapath, &attached).0.tx.0 > 0);
    datapath.remove().unwrap();
}

#[test]
fn on_loopback() {
    let lab = Lab::new("lo");
    let mut datapath = lab.open();
    let here = lab.here();
    let attached = std::thread::scope(|scope| {
        let attach = scope.spawn(|| {
            enter(&here);
            datapath.attach("lo", Mode::Observe).unwrap()
        });
        attach.join().unwrap()
    });
    // It counts frames without their Ethernet header.
    assert_eq!(attached.link_header, 0);
    let before = settled(&lab, &datapath, &attached);
    lab.run(&here, &["ping", "-c", "3", "-i", "0.01", "127.0.0.1"]);
    lab.run(&here, &["ping", "-c", "3", "-i", "0.01", "-s", "4000", "::1"]);
    lab.run(&here, &["ping", "-c", "2", "-i", "0.01", "10.9.0.1"]);
    let after = settled(&lab, &datapath, &attached);
    assert_eq!(after.1 - before.1, after.0 - before.0);
    datapath.remove().unwrap();
}

/// A TUN device whose other side is this test: what it writes comes in, what goes out it reads.
fn open_tun(name: &str) -> std::fs::File {
    let tun = std::fs::File::options().read(true).write(true).open("/dev/net/tun").unwrap();
    // SAFETY: zero is a value of this structure of integers.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as i16;
    // SAFETY: reads name and flags from the request.
    let result = unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETIFF as _, &request) };
    assert_eq!(result, 0, "TUNSETIFF: {}", std::io::Error::last_os_error());
    tun
}

/// An IPv4 UDP packet from 10.8.0.2 to 10.8.0.1, without checksums but the header's.
fn udp_packet(port: u16, payload: usize) -> Vec<u8> {
    let length = (28 + payload) as u16;
    let mut packet = vec![0x45, 0];
    packet.extend(length.to_be_bytes());
    packet.extend([0, 0, 0x40, 0, 64, 17, 0, 0, 10, 8, 0, 2, 10, 8, 0, 1]);
    let sum: u32 = packet.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    let checksum = !((sum & 0xffff) + (sum >> 16)) as u16;
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    packet.extend(port.to_be_bytes());
    packet.extend(9u16.to_be_bytes());
    packet.extend((length - 20).to_be_bytes());
    packet.extend([0, 0]);
    packet.resize(usize::from(length), 1);
    packet
}

#[test]
fn on_a_device_without_link_header() {
    let lab = Lab::new("tun");
    let mut datapath = lab.open();
    let here = lab.here();
    std::thread::scope(|scope| {
        let run = scope.spawn(|| {
            enter(&here);
            let mut tun = open_tun("tun0");
            ip(&["-n", &here, "addr", "add", "10.8.0.1/24", "dev", "tun0"]);
            let attached = datapath.attach("tun0", Mode::Observe).unwrap();
            assert_eq!(attached.link_header, 0);
            ip(&["-n", &here, "link", "set", "tun0", "up"]);
            for number in 0..20 {
                tun.write_all(&udp_packet(30000 + number, 100)).unwrap();
                // Nobody listens on port 9: an ICMP error comes back, now and then.
            }
            std::thread::sleep(Duration::from_millis(200));
            // SAFETY: changes a flag of the descriptor.
            unsafe { libc::fcntl(tun.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) };
            let mut buffer = [0; 2048];
            let mut read = 0;
            while tun.read(&mut buffer).is_ok() {
                read += 1;
            }
            assert!(read > 0, "something was sent");
            let (interface, ours) = settled(&lab, &datapath, &attached);
            println!("{ours:?}");
            assert_eq!(ours, interface);
            assert_eq!(ours.rx, (20, 20 * 128));
            let causes = datapath.interfaces(attached.ifindex).unwrap()[0].causes;
            assert!(causes.iter().all(|cause| cause.packets == 0), "{causes:?}");
        });
        run.join().unwrap();
    });
    datapath.remove().unwrap();
}
