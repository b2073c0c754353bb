//! What senders of refused packets are told, and that it is counted. The endpoint is `there`, as in `enforce`.

use std::io::{Error, Read};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use datapath_abi::iface::ANSWER;
use datapath_abi::policy::{DENY_RESET, DENY_RESPONSE, HOST_IDENTITY, Peer, SUBJECT_HOST, TCP};
use datapath_engine::answer::BURST;
use datapath_loader::Mode;

use crate::kernel::lab::within;
use crate::kernel::raw;
use crate::kernel::stage::{Stage, address, connects, datagrams, goes, pair};
use crate::kernel::traffic::Capture;

const ICMP: u32 = DENY_RESPONSE;
const RESET: u32 = DENY_RESPONSE | DENY_RESET;

/// Sender, receiver's address.
fn ways(stage: &Stage) -> [(String, &'static str); 4] {
    let (here, there) = (stage.lab.here(), stage.lab.there());
    [(there.clone(), "10.9.0.1"), (there, "fd09::1"), (here.clone(), "10.9.0.2"), (here, "fd09::2")]
}

/// Why a connection does not come about. A reset is told at once; an ICMP error that comes while the socket is still busy
/// with its SYN, as on a veth pair, only with the next SYN, a second later.
fn connecting(from: &str, to: &str, port: u16) -> Option<i32> {
    let to = SocketAddr::new(to.parse().unwrap(), port);
    within(from, move || {
        let start = Instant::now();
        let error = TcpStream::connect_timeout(&to, Duration::from_secs(5)).unwrap_err();
        assert!(start.elapsed() < Duration::from_secs(3), "{to}: {error} at last");
        error.raw_os_error()
    })
}

/// What a socket hears of a datagram that it has sent.
fn hearing(from: &str, to: &str, port: u16) -> Error {
    let to = SocketAddr::new(to.parse().unwrap(), port);
    within(from, move || {
        let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(any).unwrap();
        socket.connect(to).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        socket.send(&[1; 3]).unwrap();
        socket.recv(&mut [0]).unwrap_err()
    })
}

/// "Administratively prohibited", as Linux hands it on.
fn prohibited(to: &str) -> Option<i32> {
    Some(if to.contains(':') { libc::EACCES } else { libc::EHOSTUNREACH })
}

fn isolate(stage: &mut Stage, flags: u32) {
    stage.tables.flags = flags;
    let nothing = stage.only(TCP, &[]);
    stage.enforce([nothing, nothing], 0);
}

fn answered(stage: &Stage) -> u64 {
    stage.datapath.answers().unwrap().sent
}

fn everybody_is_told(name: &str, clsact: bool, flags: u32) {
    let mut stage = Stage::by(name, clsact);
    for at in ["10.9.0.2", "fd09::2"] {
        stage.lab.run(&stage.lab.here(), &["ping", "-c", "1", at]);
    }
    let before = stage.settled();
    isolate(&mut stage, flags);
    for (from, to) in ways(&stage) {
        let expected = if flags == RESET { Some(libc::ECONNREFUSED) } else { prohibited(to) };
        assert_eq!(connecting(&from, to, 7001), expected, "to {to}");
        assert_eq!(hearing(&from, to, 7001).raw_os_error(), prohibited(to), "to {to}");
    }
    let counters = stage.datapath.answers().unwrap();
    assert_eq!((counters.limited, counters.failed), (0, 0));
    let refused = stage.refused(0).0 + stage.refused(1).0;
    assert!(refused >= 8 && counters.sent == refused, "{counters:?}: {:?}", stage.denied());
    // Those to what the ingress hook refused leave by the egress hook; the others never meet the interface.
    let [ingress, egress] = stage.datapath.interfaces(stage.attached.ifindex).unwrap();
    let counted = (ingress.causes[ANSWER].packets, egress.causes[ANSWER].packets);
    assert_eq!(counted, (0, stage.refused(0).0));
    stage.balances(before, (0, 0));
    stage.datapath.remove().unwrap();
}

#[test]
fn by_icmp() {
    everybody_is_told("ansi", false, ICMP);
}

#[test]
fn by_reset() {
    everybody_is_told("ansr", false, RESET);
}

#[test]
fn by_reset_and_clsact() {
    everybody_is_told("ansc", true, RESET);
}

#[test]
fn both_ends_of_a_connection_are_told() {
    let mut stage = Stage::new("anse");
    stage.tables.flags = RESET;
    let ingress = stage.only(TCP, &[7001]);
    stage.enforce([ingress, ingress], 0);
    let (client, server) = pair(&stage, 7001);
    assert!(goes(&client, &server) && goes(&server, &client));
    isolate(&mut stage, RESET);
    for stream in [&client, &server] {
        use std::io::Write;
        let mut stream = stream;
        stream.write_all(&[1; 100]).unwrap();
        let error = stream.read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
    }
    stage.datapath.remove().unwrap();
}

#[test]
fn nobody_is_told_unless_it_is_asked_for() {
    let mut stage = Stage::new("anso");
    isolate(&mut stage, DENY_RESET);
    for (from, to) in ways(&stage) {
        assert_eq!(hearing(&from, to, 7001).kind(), std::io::ErrorKind::WouldBlock);
    }
    assert_eq!(answered(&stage), 0);
    // Nor what is only audited, or only observed.
    isolate(&mut stage, RESET);
    let nothing = stage.only(TCP, &[]);
    stage.enforce([nothing, nothing], datapath_abi::policy::SUBJECT_AUDIT);
    assert!(connects(&stage.lab.here(), &stage.lab.there(), "10.9.0.2", 7001));
    isolate(&mut stage, RESET);
    stage.attached = stage.lab.attach_as(&mut stage.datapath, Mode::Observe);
    assert!(connects(&stage.lab.here(), &stage.lab.there(), "10.9.0.2", 7002));
    assert_eq!(answered(&stage), 0);
    stage.datapath.remove().unwrap();
}

#[test]
fn tagged_frames_are_not_answered() {
    let mut stage = Stage::new("ansv");
    isolate(&mut stage, RESET);
    let (here, there) = (stage.lab.here(), stage.lab.there());
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x81, 0, 0, 7, 8, 0];
    frame.extend([0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 10, 9, 0, 2, 10, 9, 0, 1]);
    frame.extend([0x1b, 0x59, 0x1b, 0x59, 0, 8, 0, 0]);
    for from in [&there, &here] {
        raw::send(from, vec![frame.clone()]);
    }
    assert_eq!((stage.refused(0).0, stage.refused(1).0, answered(&stage)), (1, 1, 0));
    // What is answered of it, without the tag.
    frame.drain(12..16);
    raw::send(&there, vec![frame]);
    assert_eq!((stage.refused(0).0, answered(&stage)), (2, 1));
    stage.datapath.remove().unwrap();
}

#[test]
fn the_host_and_who_asks_it_are_told() {
    let mut stage = Stage::new("ansh");
    let peer = *stage.tables.hosts.get(&address("10.9.0.1")).unwrap();
    for (host, other) in [("10.9.0.1", "10.9.0.2"), ("fd09::1", "fd09::2")] {
        stage.tables.hosts.insert(address(host), Peer { identity: HOST_IDENTITY, ..peer });
        stage.tables.hosts.insert(address(other), peer);
    }
    stage.tables.flags = RESET;
    let nothing = stage.only(TCP, &[]);
    stage.enforce([nothing, nothing], SUBJECT_HOST);
    for (from, to) in ways(&stage) {
        assert_eq!(connecting(&from, to, 7001), Some(libc::ECONNREFUSED), "to {to}");
        assert_eq!(hearing(&from, to, 7001).raw_os_error(), prohibited(to), "to {to}");
    }
    stage.datapath.remove().unwrap();
}

#[test]
fn a_flood_is_not_answered_by_another() {
    let mut stage = Stage::new("ansf");
    let before = stage.settled();
    isolate(&mut stage, RESET);
    let (here, there) = (stage.lab.here(), stage.lab.there());
    let start = Instant::now();
    assert_eq!(datagrams(&there, &here, "10.9.0.1", 7001, 2000, 10), 0);
    let longest = start.elapsed().as_millis() as u64;
    let counters = stage.datapath.answers().unwrap();
    assert_eq!((counters.sent + counters.limited, counters.failed), (2000, 0));
    assert!(counters.sent >= BURST && counters.limited > 0, "{counters:?}");
    assert!(counters.sent <= 2 * (BURST + longest), "{counters:?} in {longest} ms");
    assert_eq!(stage.refused(0).0, 2000);
    stage.balances(before, (0, 0));
    stage.datapath.remove().unwrap();
}

/// The sum of RFC 1071.
fn sum(bytes: &[u8]) -> u32 {
    let words =
        bytes.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(*word.get(1).unwrap_or(&0)));
    let sum: u32 = words.sum();
    (sum & 0xffff) + (sum >> 16)
}

/// Answers are whole when they leave: nothing is left to a device, though the packets that they were made of
/// had their checksums still to come.
#[test]
fn checksums_are_complete() {
    let mut stage = Stage::new("anss");
    let (here, there) = (stage.lab.here(), stage.lab.there());
    // Now the kernel completes what it thinks is to be completed.
    stage.lab.run(&here, &["ethtool", "-K", "veth0", "tx", "off"]);
    let filter = "icmp or (icmp6 and ip6[40] == 1) or tcp or (ip6 and ip6[6] == 6)";
    for flags in [ICMP, RESET] {
        isolate(&mut stage, flags);
        let capture = Capture::start(&there, filter);
        for (from, to) in ways(&stage) {
            if from == there {
                connecting(&from, to, 7001);
                hearing(&from, to, 7001);
            }
        }
        let packets = capture.stop();
        assert!(packets.len() >= 4, "{packets:?}");
        for packet in packets {
            let digits: Vec<_> = packet.chars().filter(char::is_ascii_hexdigit).collect();
            let byte = |pair: &[char]| u8::from_str_radix(&String::from_iter(pair), 16).unwrap();
            let bytes: Vec<_> = digits.chunks(2).map(byte).collect();
            let (header, addresses, protocol) =
                if bytes[12] == 8 { (20, 26..34, bytes[23]) } else { (40, 22..54, bytes[20]) };
            let transport = &bytes[14 + header..];
            let pseudo = sum(&bytes[addresses]) + u32::from(protocol) + transport.len() as u32;
            let whole = sum(transport) + if protocol == 1 { 0 } else { pseudo };
            assert_eq!((whole & 0xffff) + (whole >> 16), 0xffff, "{bytes:02x?}");
        }
    }
    stage.datapath.remove().unwrap();
}
