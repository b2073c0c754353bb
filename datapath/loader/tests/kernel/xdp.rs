//! XDP on real packets: direct server return, counted to the packet.
//!
//! `here` is the node, `there` clients and the way to the other node in one: what the node sends on comes back to where the
//! clients are, and is looked at there.

use std::ffi::CStr;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use datapath_abi::conn::ConnValue;
use datapath_abi::iface::FLOOD;
use datapath_abi::policy::Prefix;
use datapath_abi::service::{
    DSR, Frontend, HASHED, NAT_DSR, NODE, Served, ServiceSettings, UPLINK,
};
use datapath_loader::{Acceleration, Attached, Datapath, Mode, XdpMode};

use crate::kernel::cluster::{SERVICE_SIZES, address, backend, key, simple};
use crate::kernel::lab::{Lab, enter, ip, within};
use crate::kernel::raw;
use crate::kernel::tables::SIZES;

const SERVICE: u32 = 5;

/// A node with a service on its uplink.
struct Node {
    lab: Lab,
    datapath: Datapath,
    attached: Attached,
    /// Keeps the other side's program.
    peer: OwnedFd,
}

/// Packets and bytes, by direction.
struct Account {
    /// Counted, without link headers.
    ours: [(u64, u64); 2],
    interface: [(u64, u64); 2],
}

// === impl Node ===

impl Node {
    fn new(name: &str, mode: XdpMode, new_per_second: u32) -> Self {
        let mut lab = Lab::new(name);
        lab.options.policy = Some(SIZES);
        lab.options.services = Some(SERVICE_SIZES);
        lab.options.xdp = Some(Acceleration { mode, buckets4: 64, buckets6: 64, new_per_second });
        lab.options.drops = false;
        let (here, there) = (lab.here(), lab.there());
        // What XDP sends out of a veth is only taken where the other side polls.
        let peer = pass_all(&there, c"veth0");
        lab.run(&here, &["sysctl", "-qw", "net.ipv4.ip_forward=1"]);
        lab.run(&here, &["sysctl", "-qw", "net.ipv6.conf.all.forwarding=1"]);
        let mac = raw::hardware(&there);
        let mac: Vec<String> = mac.iter().map(|byte| format!("{byte:02x}")).collect();
        let mac = mac.join(":");
        for next in ["10.9.0.2", "fd09::2"] {
            let arguments = ["neigh", "replace", next, "lladdr", &mac, "dev", "veth0"];
            ip(&[&["-n", &here][..], &arguments, &["nud", "permanent"]].concat());
        }
        ip(&["-n", &here, "route", "add", "10.244.2.0/24", "via", "10.9.0.2"]);
        ip(&["-n", &here, "-6", "route", "add", "fd44:2::/64", "via", "fd09::2"]);
        let mut datapath = lab.open();
        let attached = lab.attach_as(&mut datapath, Mode::Enforce);
        let tables = datapath.services();
        let served =
            Served { flags: UPLINK, pad: 0, v4: address("10.9.0.1"), v6: address("fd09::1") };
        tables.put_served(&[(attached.ifindex, served)]).unwrap();
        let node = |address| (Prefix { length: 128, address }, NODE);
        tables.put_prefixes(&[node(served.v4), node(served.v6)]).unwrap();
        let none = [0; 16];
        let settings = ServiceSettings {
            port_min: 40000,
            port_max: 60000,
            seed: 7,
            hairpin_v4: none,
            hairpin_v6: none,
        };
        tables.set_settings(settings).unwrap();
        let backends: Vec<_> = ["10.244.2.10:8080", "10.244.2.11:8080", "[fd44:2::10]:8080"]
            .into_iter()
            .zip([SERVICE, SERVICE, SERVICE + 1])
            .map(|(at, service)| backend(service, at.parse().unwrap()))
            .collect();
        let backends: Vec<_> = (0..).zip(backends).collect();
        tables.put_backends(&backends).unwrap();
        let mut node = Self { lab, datapath, attached, peer };
        node.serve([&[0, 1], &[2]]);
        node
    }

    /// Has the frontends' packets go to these backends.
    fn serve(&mut self, slots: [&[u32]; 2]) {
        let tables = self.datapath.services();
        for (number, (slots, vip)) in
            (0..).zip(slots.into_iter().zip(["10.9.0.1:30080", "[fd09::1]:30080"]))
        {
            let start = number * 16;
            tables.write_slots(start, slots).unwrap();
            let slots = datapath_abi::service::Slots { start, count: slots.len() as u32 };
            let frontend = Frontend { flags: DSR | HASHED, ..simple(SERVICE + number, slots) };
            let entries = [6, 17].map(|protocol| (key(protocol, vip.parse().unwrap()), frontend));
            tables.put_frontends(&entries).unwrap();
        }
    }

    fn accelerate(&mut self) -> Result<(), String> {
        let (here, datapath) = (self.lab.here(), &mut self.datapath);
        std::thread::scope(|scope| {
            let run = scope.spawn(|| {
                enter(&here);
                datapath.accelerate("veth0").unwrap()
            });
            run.join().unwrap()
        })
    }

    /// Sends packets to the node; what comes back within outer headers.
    fn exchange(&self, packets: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
        let (here, there) = (self.lab.here(), self.lab.there());
        let ready = Arc::new(Barrier::new(2));
        let (listener, listens) = (there.clone(), Arc::clone(&ready));
        let frame = raw::frame(&there, &here);
        let frames: Vec<_> = packets.iter().map(|packet| frame(packet)).collect();
        let expected = frames.len();
        let capture =
            std::thread::spawn(move || within(&listener, move || listen(&listens, expected)));
        ready.wait();
        // Few at a time, and the next when they have come in, so that no queue overflows.
        let came = || self.lab.link_of("veth0").rx.0;
        let (before, mut sent) = (came(), 0);
        for frames in frames.chunks(64) {
            raw::send(&there, frames.to_vec());
            sent += frames.len() as u64;
            let start = Instant::now();
            while came() < before + sent && start.elapsed() < Duration::from_secs(1) {
                std::thread::yield_now();
            }
        }
        let back = capture.join().unwrap();
        println!("{:?}", self.datapath.flow_cache().counters().unwrap());
        back
    }

    /// Connections of the client's, by its port.
    fn connections(&self) -> Vec<(u16, ConnValue)> {
        let mut found = Vec::new();
        self.datapath
            .connections()
            .walk(&mut |key, value| {
                if key.low_port == 30080 || key.high_port == 30080 {
                    found.push((key.low_port ^ key.high_port ^ 30080, *value));
                }
            })
            .unwrap();
        found
    }

    /// Packets by direction, and bytes behind the link header: what is counted, and what the interface says.
    fn account(&self) -> Account {
        let (connections, others) = crate::kernel::lab::parts(&self.datapath, &self.attached);
        let bare = |a: (u64, u64), b: (u64, u64)| {
            let packets = a.0 + b.0;
            (packets, a.1 + b.1 - 14 * packets)
        };
        let link = self.lab.link_of("veth0");
        Account {
            ours: [bare(connections.rx, others.rx), bare(connections.tx, others.tx)],
            interface: [link.rx, link.tx],
        }
    }
}

/// Attaches an XDP program that lets all pass.
pub(crate) fn pass_all(namespace: &str, device: &'static CStr) -> OwnedFd {
    const PROG_LOAD: libc::c_long = 5;
    const LINK_CREATE: libc::c_long = 28;
    /// `r0 = XDP_PASS; exit`
    static PROGRAM: [u64; 2] = [2 << 32 | 0xb7, 0x95];
    static LICENSE: &[u8] = b"GPL\0";
    within(namespace, move || {
        let bpf = |command: libc::c_long, attributes: &[u32]| {
            let size = size_of_val(attributes);
            // SAFETY: the attributes' addresses are those of statics.
            let fd = unsafe { libc::syscall(libc::SYS_bpf, command, attributes.as_ptr(), size) };
            assert!(fd >= 0, "{}", std::io::Error::last_os_error());
            // SAFETY: a new descriptor.
            unsafe { OwnedFd::from_raw_fd(fd as i32) }
        };
        let halves = |address: u64| [address as u32, (address >> 32) as u32];
        let [a, b] = halves(PROGRAM.as_ptr() as u64);
        let [c, d] = halves(LICENSE.as_ptr() as u64);
        let program = bpf(PROG_LOAD, &[6, 2, a, b, c, d, 0, 0, 0, 0, 0, 0]);
        // SAFETY: the name is NUL-terminated.
        let ifindex = unsafe { libc::if_nametoindex(device.as_ptr()) };
        bpf(LINK_CREATE, &[program.as_raw_fd() as u32, ifindex, 37, 1 << 2])
    })
}

/// Packets within packets that come in by `veth0`, until none comes for a while.
fn listen(ready: &Barrier, expected: usize) -> Vec<Vec<u8>> {
    // SAFETY: plain calls on a new descriptor; the buffer is as long as is said.
    unsafe {
        let socket = libc::socket(
            libc::AF_PACKET,
            libc::SOCK_RAW | libc::SOCK_CLOEXEC,
            i32::from((libc::ETH_P_ALL as u16).to_be()),
        );
        assert!(socket >= 0);
        let socket = OwnedFd::from_raw_fd(socket);
        let size: libc::c_int = 16 << 20;
        libc::setsockopt(socket.as_raw_fd(), 1, libc::SO_RCVBUFFORCE, (&raw const size).cast(), 4);
        ready.wait();
        let (mut found, mut last) = (Vec::new(), Instant::now());
        let mut buffer = vec![0u8; 65536];
        while last.elapsed() < Duration::from_secs(2) && found.len() < expected {
            let length = libc::recv(
                socket.as_raw_fd(),
                buffer.as_mut_ptr().cast(),
                buffer.len(),
                libc::MSG_DONTWAIT,
            );
            if length <= 0 {
                std::thread::sleep(Duration::from_millis(1));
                continue;
            }
            let frame = &buffer[..length as usize];
            let is_within = frame[12..14] == [8, 0] && frame[23] == 4
                || frame[12..14] == [0x86, 0xdd] && frame[20] == 41;
            if is_within {
                found.push(frame.to_vec());
                last = Instant::now();
            }
        }
        found
    }
}

/// From client `number`, to the service.
fn packet(v6: bool, protocol: u8, port: u16, flags: u8, data: usize) -> Vec<u8> {
    let mut rest = port.to_be_bytes().to_vec();
    rest.extend(30080u16.to_be_bytes());
    if protocol == 6 {
        rest.extend([0, 0, 1, 0, 0, 0, 2, 0, 5 << 4, flags, 1, 0, 0, 0, 0, 0]);
    } else {
        rest.extend((8 + data as u16).to_be_bytes());
        rest.extend([0, 0]);
    }
    rest.resize(rest.len() + data, 7);
    if !v6 {
        return raw::ipv4(protocol, [[10, 9, 0, 2], [10, 9, 0, 1]], (9, 0), &rest);
    }
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend((rest.len() as u16).to_be_bytes());
    packet.extend([protocol, 64]);
    let bytes = |text: &str| match text.parse().unwrap() {
        IpAddr::V6(ip) => ip.octets(),
        IpAddr::V4(_) => panic!("IPv6"),
    };
    packet.extend(bytes("fd09::2"));
    packet.extend(bytes("fd09::1"));
    packet.extend(rest);
    packet
}

/// All packets went on as they were, within an outer header from the node to a backend; to which, by the client's port.
fn check(sent: &[Vec<u8>], back: &[Vec<u8>]) -> Vec<(u16, IpAddr)> {
    let mut inner: Vec<_> = Vec::new();
    let mut went = Vec::new();
    for frame in back {
        let v6 = frame[12..14] == [0x86, 0xdd];
        let outer = if v6 { 40 } else { 20 };
        let (header, rest) = frame[14..].split_at(outer);
        let (length, source, to) = if v6 {
            assert_eq!((header[0] >> 4, header[6], header[7]), (6, 41, 64));
            let octets: [u8; 16] = header[24..40].try_into().unwrap();
            let length = u16::from_be_bytes([header[4], header[5]]) + 40;
            (length, header[8..24] == address("fd09::1"), IpAddr::from(octets))
        } else {
            assert_eq!((header[0], header[8], header[9]), (0x45, 64, 4));
            let words =
                header.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
            let sum: u32 = words.sum();
            assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff, "the outer header's checksum");
            let octets: [u8; 4] = header[16..20].try_into().unwrap();
            let length = u16::from_be_bytes([header[2], header[3]]);
            (length, header[12..16] == [10, 9, 0, 1], IpAddr::from(octets))
        };
        assert!(source, "from the node: {header:?}");
        assert_eq!(usize::from(length), frame.len() - 14);
        let at = if v6 { 40 } else { 20 };
        went.push((u16::from_be_bytes([rest[at], rest[at + 1]]), to));
        inner.push(rest.to_vec());
    }
    let mut sent = sent.to_vec();
    sent.sort();
    inner.sort();
    assert_eq!(inner.len(), sent.len(), "all are sent on");
    assert!(inner == sent, "packets are unchanged");
    went
}

/// Everything twice: TCP and UDP, some flows, more packets than a way holds.
fn traffic(v6: bool) -> Vec<Vec<u8>> {
    let mut packets = Vec::new();
    for port in 0..20u16 {
        packets.push(packet(v6, 6, 10_000 + port, 2, 0));
        for number in 0..90 {
            packets.push(packet(v6, 6, 10_000 + port, 16, number));
            packets.push(packet(v6, 17, 20_000 + port, 0, number + 20));
        }
        packets.push(packet(v6, 6, 10_000 + port, 17, 0));
    }
    packets
}

fn everything(name: &str, mode: XdpMode, v6: bool) {
    let mut node = Node::new(name, mode, 100_000);
    node.accelerate().unwrap();
    let packets = traffic(v6);
    let before = node.account();
    let back = node.exchange(packets.clone());
    let went = check(&packets, &back);
    // Every flow has one backend, and its entry says which.
    let connections = node.connections();
    assert_eq!(connections.len(), 40);
    for (port, value) in &connections {
        let places: std::collections::BTreeSet<_> =
            went.iter().filter(|(of, _)| of == port).map(|(_, to)| *to).collect();
        assert_eq!(places.len(), 1, "{port}: {places:?}");
        let to = *places.first().unwrap();
        assert_eq!(value.stack_addr, crate::kernel::cluster::mapped(to));
        assert_eq!((value.nat, value.service), (NAT_DSR, SERVICE + u32::from(v6)));
        let client = usize::from(value.client);
        let is_tcp = *port < 20_000;
        assert_eq!(value.dirs[client].packets, if is_tcp { 92 } else { 90 }, "{port}");
        let header = if v6 { 40 } else { 20 };
        let bytes: u64 = if is_tcp {
            92 * (header + 20) + (0..90).sum::<u64>()
        } else {
            90 * (header + 8 + 20) + (0..90).sum::<u64>()
        };
        assert_eq!(value.dirs[client].bytes, bytes);
        if is_tcp {
            assert_eq!(value.tcp_flags[client], 2 | 16 | 1);
            assert_eq!(value.state, datapath_abi::conn::STATE_FIN_WAIT);
        }
    }
    if !v6 {
        let places: std::collections::BTreeSet<_> = went.iter().map(|(_, to)| *to).collect();
        assert_eq!(places.len(), 2, "both backends");
    }
    // The tunnels' rows, at the egress hook.
    let mut tunnels = (0, 0);
    node.datapath
        .connections()
        .walk(&mut |key, value| {
            if matches!(key.protocol(), 4 | 41) {
                tunnels.0 += value.dirs[usize::from(value.client)].packets;
                tunnels.1 += value.dirs[usize::from(value.client)].bytes;
            }
        })
        .unwrap();
    let bytes: usize = back.iter().map(|frame| frame.len() - 14).sum();
    assert_eq!(tunnels, (back.len() as u64, bytes as u64));
    let counters = node.datapath.flow_cache().counters().unwrap();
    println!("{counters:?}");
    assert!(counters.hits > packets.len() as u64 * 9 / 10, "{counters:?}");
    // To the packet and the byte. A veth counts what it hands on by NAPI without its link header, but what XDP sends with it
    // (drivers/net/veth.c).
    let after = node.account();
    let minus = |a: (u64, u64), b: (u64, u64)| (a.0 - b.0, a.1 - b.1);
    for (direction, header) in [(0, 0), (1, 14 * back.len() as u64)] {
        let (packets, bytes) = minus(after.ours[direction], before.ours[direction]);
        let interface = minus(after.interface[direction], before.interface[direction]);
        assert_eq!((packets, bytes + header), interface, "direction {direction}");
    }
}

#[test]
fn is_sent_on_and_counted() {
    everything("xdp4", XdpMode::Native, false);
}

#[test]
fn is_sent_on_and_counted_v6() {
    everything("xdp6", XdpMode::Native, true);
}

#[test]
fn a_flood_is_counted() {
    let mut node = Node::new("xdpf", XdpMode::Native, 50);
    node.accelerate().unwrap();
    let before = node.account();
    let packets: Vec<_> = (0..2000).map(|port| packet(false, 6, 10_000 + port, 2, 0)).collect();
    check(&packets, &node.exchange(packets.clone()));
    let entered = node.connections().len() as u64;
    // Two CPUs, perhaps two seconds.
    assert!((50..=400).contains(&entered), "{entered}");
    let causes = node.datapath.interfaces(node.attached.ifindex).unwrap()[0].causes;
    assert_eq!(causes[FLOOD].packets, 2000 - entered);
    assert_eq!(node.datapath.flow_cache().counters().unwrap().flood, 2000 - entered);
    let after = node.account();
    for direction in 0..2 {
        let ours = after.ours[direction].0 - before.ours[direction].0;
        let interface = after.interface[direction].0 - before.interface[direction].0;
        assert_eq!(ours, interface, "{direction}");
    }
}

#[test]
fn what_is_not_for_it_is_left_alone() {
    let mut node = Node::new("xdpn", XdpMode::Native, 1000);
    node.accelerate().unwrap();
    let (here, there) = (node.lab.here(), node.lab.there());
    node.lab.run(&there, &["ping", "-c", "3", "-i", "0.01", "10.9.0.1"]);
    node.lab.run(&here, &["ping", "-c", "3", "-i", "0.01", "fd09::2"]);
    let other = raw::ipv4(17, [[10, 9, 0, 2], [10, 9, 0, 1]], (9, 0), &[0, 7, 0, 9, 0, 8, 0, 0]);
    assert!(node.exchange(vec![other]).is_empty());
    let counters = node.datapath.flow_cache().counters().unwrap();
    assert!(counters.passes.iter().sum::<u64>() >= 7 && counters.hits == 0, "{counters:?}");
}

#[test]
fn a_connection_stays_where_it_is_and_the_next_agent_takes_over() {
    let mut node = Node::new("xdpr", XdpMode::Native, 1000);
    node.accelerate().unwrap();
    let first: Vec<_> = (0..20).map(|port| packet(false, 6, 10_000 + port, 2, 0)).collect();
    let mut went = check(&first, &node.exchange(first.clone()));
    went.sort_unstable();
    // New ones go to the second backend; those that are known stay.
    node.serve([&[1], &[2]]);
    let next: Vec<_> = (0..20).map(|port| packet(false, 6, 10_000 + port, 16, 9)).collect();
    let mut now = check(&next, &node.exchange(next.clone()));
    now.sort_unstable();
    assert_eq!(now, went);
    let second: IpAddr = "10.244.2.11".parse().unwrap();
    let fresh: Vec<_> = (0..20).map(|port| packet(false, 6, 30_000 + port, 2, 0)).collect();
    assert!(check(&fresh, &node.exchange(fresh.clone())).iter().all(|(_, to)| *to == second));
    // Another process: the hook goes on meanwhile, and nothing is lost.
    let hits = node.datapath.flow_cache().counters().unwrap();
    let Node { lab, datapath, attached, peer } = node;
    drop(datapath);
    let datapath = lab.open();
    let mut node = Node { lab, datapath, attached, peer };
    assert_eq!(node.datapath.accelerated(), [node.attached.ifindex]);
    assert_eq!(node.accelerate(), Ok(()));
    let mut now = check(&next, &node.exchange(next.clone()));
    now.sort_unstable();
    assert_eq!(now, went);
    let after = node.datapath.flow_cache().counters().unwrap();
    assert_eq!(after.hits + after.misses, hits.hits + hits.misses + 20);
    let sum: u64 = node
        .connections()
        .iter()
        .map(|(_, value)| value.dirs[0].packets + value.dirs[1].packets)
        .sum();
    assert_eq!(sum, 80);
    // Without the option it goes, and what was in the cache is in the table.
    check(&next, &node.exchange(next.clone()));
    let Node { mut lab, datapath, attached, peer } = node;
    drop(datapath);
    lab.options.xdp = None;
    let datapath = lab.open();
    let node = Node { lab, datapath, attached, peer };
    assert!(node.datapath.accelerated().is_empty());
    let sum: u64 = node
        .connections()
        .iter()
        .map(|(_, value)| value.dirs[0].packets + value.dirs[1].packets)
        .sum();
    assert_eq!(sum, 100);
}
