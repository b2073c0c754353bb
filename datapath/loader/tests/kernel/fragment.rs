//! Fragments that do not come as a sender of its own kind would send them. The endpoint may send to port 7000 only.

use std::net::UdpSocket;

use datapath_abi::policy::{SUBJECT_AUDIT, TCP, UDP};

use crate::kernel::lab::within;
use crate::kernel::raw::{self, syn, udp};
use crate::kernel::stage::Stage;
use crate::kernel::tables::NO_SIDE;

/// "More fragments", as it stands in the header.
const MORE: u16 = 0x2000;
const ENDS: [[u8; 4]; 2] = [[10, 9, 0, 2], [10, 9, 0, 1]];

/// The stage, and who listens.
struct Scene {
    stage: Stage,
    allowed: UdpSocket,
    denied: UdpSocket,
    refused: u64,
}

/// A fragment: identification, flags and offset (units of 8 bytes), bytes.
type Part = (u16, u16, Vec<u8>);

/// The first 16 bytes of a datagram of 32.
fn first(identification: u16, port: u16) -> Part {
    (identification, MORE, [udp(5000, port, 24), vec![1; 8]].concat())
}

/// The last 16 bytes.
fn last(identification: u16) -> Part {
    (identification, 2, vec![2; 16])
}

// === impl Scene ===

impl Scene {
    fn new(name: &str) -> Self {
        let mut stage = Stage::new(name);
        let egress = stage.only(UDP, &[7000]);
        stage.enforce([NO_SIDE, egress], 0);
        let bind = |port: u16| {
            within(&stage.lab.here(), move || {
                let socket = UdpSocket::bind(("10.9.0.1", port)).unwrap();
                socket.set_nonblocking(true).unwrap();
                socket
            })
        };
        let (allowed, denied) = (bind(7000), bind(7001));
        Self { stage, allowed, denied, refused: 0 }
    }

    /// Sends UDP fragments from the endpoint; how many were refused, and how many datagrams arrived at the port that
    /// is allowed. None ever does at the other.
    fn send(&mut self, parts: &[Part]) -> (u64, usize) {
        self.send_as(17, parts)
    }

    fn send_as(&mut self, protocol: u8, parts: &[Part]) -> (u64, usize) {
        let (here, there) = (self.stage.lab.here(), self.stage.lab.there());
        let frame = raw::frame(&there, &here);
        let packet = |(identification, part, bytes): &Part| {
            frame(&raw::ipv4(protocol, ENDS, (*identification, *part), bytes))
        };
        raw::send(&there, parts.iter().map(packet).collect());
        let count = |socket: &UdpSocket| {
            std::iter::repeat_with(|| socket.recv(&mut [0; 64])).take_while(Result::is_ok).count()
        };
        assert_eq!(count(&self.denied), 0);
        let before = std::mem::replace(&mut self.refused, self.stage.refused(0).0);
        (self.refused - before, count(&self.allowed))
    }

    /// Refused packets by port.
    fn of_port(&self, port: u16) -> u64 {
        let denied = self.stage.denied();
        let of = denied.iter().filter(|(key, _)| (key.protocol, key.port) == (17, port));
        of.map(|(_, value)| value.packets).sum()
    }
}

#[test]
fn in_any_order() {
    let mut scene = Scene::new("fro");
    assert_eq!(scene.send(&[first(1, 7000), last(1)]), (0, 1));
    assert_eq!(scene.send(&[first(2, 7001), last(2)]), (2, 0));
    assert_eq!(scene.of_port(7001), 2);
    // Without its first one has no port; with it, it may be sent again.
    assert_eq!(scene.send(&[last(3), first(3, 7000)]), (1, 0));
    assert_eq!(scene.of_port(0), 1);
    assert_eq!(scene.send(&[last(3)]), (0, 1));
    assert_eq!(scene.send(&[last(4), first(4, 7001), last(4)]), (3, 0));
    scene.stage.datapath.remove().unwrap();
}

#[test]
fn that_overlap() {
    let mut scene = Scene::new("fra");
    // A second first one is judged by its own port, and those after it by the latest.
    assert_eq!(scene.send(&[first(1, 7000), first(1, 7001), last(1)]), (2, 0));
    assert_eq!(scene.send(&[first(2, 7001), first(2, 7000), last(2)]), (1, 1));
    // Ports are in the first 8 bytes, where no later one reaches: this one would replace what is behind them.
    let behind = (3, MORE | 1, udp(5000, 7001, 24));
    let (refused, _) = scene.send(&[first(3, 7000), behind.clone(), last(3)]);
    assert_eq!(refused, 0);
    assert_eq!(scene.send(&[first(4, 7001), (4, MORE | 1, behind.2), last(4)]), (3, 0));
    scene.stage.datapath.remove().unwrap();
}

#[test]
fn that_are_tiny() {
    let mut scene = Scene::new("frt");
    // The least that has ports; the rest follows it.
    let tiny = |n, port| (n, MORE, udp(5000, port, 8));
    let rest = |n| (n, 1, vec![3; 8]);
    assert_eq!(scene.send(&[tiny(1, 7000), rest(1)]), (0, 1));
    assert_eq!(scene.send(&[tiny(2, 7001), rest(2)]), (2, 0));
    // A TCP header in two parts contradicts itself (RFC 3128), and leaves no port to the rest.
    let header = syn(5000, 7000);
    let halves = [(3, MORE, header[..8].to_vec()), (3, 1, header[8..].to_vec())];
    let everything = scene.stage.only(TCP, &[7000]);
    scene.stage.enforce([NO_SIDE, everything], 0);
    assert_eq!(scene.send_as(6, &halves), (2, 0));
    let denied = scene.stage.denied();
    let without = denied.iter().filter(|(key, _)| key.port == 0 && key.origin == 0).count();
    assert_eq!(without, 1, "one that cannot be read: {denied:?}");
    // In audit mode all of it passes.
    scene.stage.enforce([NO_SIDE, everything], SUBJECT_AUDIT);
    assert_eq!(scene.send_as(6, &halves), (0, 0));
    scene.stage.datapath.remove().unwrap();
}
