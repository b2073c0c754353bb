//! A lab in which policy is enforced, and ways to see whether packets get through.

use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use datapath_abi::conn::{ConnKey, ConnValue};
use datapath_abi::policy::{ANYBODY, DeniedCounter, DeniedKey, Peer, Policy, PolicySide, Subject};
use datapath_loader::{Attached, Datapath, Mode, PolicySizes};

use crate::kernel::lab::{Lab, Link, settled, within};
use crate::kernel::tables::{SIZES, Tables, allow, deny};

/// The selector that the addresses of `here` match.
pub(crate) const HERE: u32 = 0;
/// Origin of what refuses by default.
pub(crate) const DEFAULT_DENY: u32 = 5;

/// A lab that enforces.
pub(crate) struct Stage {
    pub(crate) lab: Lab,
    pub(crate) datapath: Datapath,
    pub(crate) attached: Attached,
    pub(crate) tables: Tables,
}

// === impl Stage ===

impl Stage {
    pub(crate) fn new(name: &str) -> Self {
        Self::by(name, false)
    }

    pub(crate) fn by(name: &str, clsact: bool) -> Self {
        Self::of(name, clsact, 1 << 16, SIZES)
    }

    pub(crate) fn of(name: &str, clsact: bool, connections: u32, sizes: PolicySizes) -> Self {
        let mut lab = Lab::new(name);
        lab.options.max_connections = connections;
        lab.options.policy = Some(sizes);
        lab.options.drops = false;
        let mut datapath = lab.open_with(clsact);
        let attached = lab.attach_as(&mut datapath, Mode::Enforce);
        let mut tables = Tables { revision: 1, ..Tables::default() };
        // Whoever has an address of `here` matches selector HERE; everybody else none.
        let here = tables.class(&[HERE]);
        let world = tables.class(&[]);
        for (address, identity) in [(address("10.9.0.1"), 7), (address("fd09::1"), 7)] {
            tables.hosts.insert(address, Peer { identity, class: here });
        }
        tables.cidrs.insert((0, [0; 16]), Peer { identity: 2, class: world });
        Self { lab, datapath, attached, tables }
    }

    /// Enforces, with a new revision.
    pub(crate) fn enforce(&mut self, sides: [PolicySide; 2], flags: u32) {
        self.tables.revision += 1;
        self.write(sides, flags);
    }

    /// Writes tables, and the revision as it is.
    pub(crate) fn write(&mut self, sides: [PolicySide; 2], flags: u32) {
        self.tables.policies.insert(1, Policy { sides, revision: 1 });
        let subject = Subject { policy: 1, identity: 9, flags, pad: 0 };
        self.tables.subjects.insert(self.attached.ifindex, subject);
        self.tables.apply(&self.datapath.policy());
    }

    /// Ingress that allows HERE these ports of a protocol and nobody anything else.
    pub(crate) fn only(&mut self, protocol: usize, ports: &[u16]) -> PolicySide {
        let mut side = self.tables.isolated(DEFAULT_DENY);
        let all = [allow(HERE, 42), deny(ANYBODY, DEFAULT_DENY)];
        let none = [deny(ANYBODY, DEFAULT_DENY)];
        let mut intervals: Vec<(u32, &[_])> = vec![(0, &none)];
        for &port in ports {
            intervals.push((u32::from(port), &all));
            intervals.push((u32::from(port) + 1, &none));
        }
        side.enforced[protocol] = self.tables.section(&intervals);
        side
    }

    pub(crate) fn denied(&self) -> Vec<(DeniedKey, DeniedCounter)> {
        let mut found = Vec::new();
        self.datapath.policy().denied(&mut |key, value| found.push((*key, *value))).unwrap();
        found
    }

    /// Packets and bytes refused at a hook, as the interface would count them.
    pub(crate) fn refused(&self, hook: u8) -> (u64, u64) {
        let denied = self.denied();
        let of_hook = denied.iter().filter(|(key, _)| key.hook & 1 == hook);
        of_hook.fold((0, 0), |(packets, bytes), (_, value)| {
            (packets + value.packets, bytes + value.bytes + 14 * value.packets)
        })
    }

    pub(crate) fn connections(&self) -> Vec<(ConnKey, ConnValue)> {
        let mut found = Vec::new();
        let ours = self.attached.ifindex;
        self.datapath
            .connections()
            .walk(&mut |key, value| {
                if key.ifindex() == ours {
                    found.push((*key, *value));
                }
            })
            .unwrap();
        found
    }

    /// The interface's counters are connections, unattributed, and what was refused on ingress; what was
    /// refused on egress never reached it.
    pub(crate) fn balances(&self, before: (Link, Link), refused_before: (u64, u64)) {
        let (interface, ours) = settled(&self.lab, &self.datapath, &self.attached);
        let (interface, mut ours) = (interface - before.0, ours - before.1);
        let refused = self.refused(0);
        ours.rx.0 += refused.0 - refused_before.0;
        ours.rx.1 += refused.1 - refused_before.1;
        assert_eq!(ours, interface);
    }

    pub(crate) fn settled(&self) -> (Link, Link) {
        settled(&self.lab, &self.datapath, &self.attached)
    }
}

pub(crate) fn address(text: &str) -> [u8; 16] {
    match text.parse().unwrap() {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// Sends `count` datagrams from a namespace to an address in another; how many arrive.
pub(crate) fn datagrams(
    from: &str,
    to: &str,
    at: &str,
    port: u16,
    count: usize,
    size: usize,
) -> usize {
    let at = SocketAddr::new(at.parse().unwrap(), port);
    let server = within(to, move || UdpSocket::bind(at).unwrap());
    server.set_read_timeout(Some(Duration::from_millis(400))).unwrap();
    within(from, move || {
        let any = if at.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let client = UdpSocket::bind(any).unwrap();
        for _ in 0..count {
            client.send_to(&vec![1; size], at).unwrap();
        }
    });
    let mut buffer = vec![0; 65536];
    (0..count).take_while(|_| server.recv_from(&mut buffer).is_ok()).count()
}

/// Whether a TCP connection from one namespace to an address in another comes about.
pub(crate) fn connects(from: &str, to: &str, at: &str, port: u16) -> bool {
    let at = SocketAddr::new(at.parse().unwrap(), port);
    let _listener = within(to, move || TcpListener::bind(at).unwrap());
    within(from, move || TcpStream::connect_timeout(&at, Duration::from_millis(400)).is_ok())
}

/// A TCP connection from `here` to `there`.
pub(crate) fn pair(stage: &Stage, port: u16) -> (TcpStream, TcpStream) {
    let at = SocketAddr::new("10.9.0.2".parse().unwrap(), port);
    let listener = within(&stage.lab.there(), move || TcpListener::bind(at).unwrap());
    let client = within(&stage.lab.here(), move || TcpStream::connect(at).unwrap());
    let server = listener.accept().unwrap().0;
    for stream in [&client, &server] {
        stream.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        stream.set_nodelay(true).unwrap();
    }
    (client, server)
}

/// Whether a byte goes from one end to the other.
pub(crate) fn goes(from: &TcpStream, to: &TcpStream) -> bool {
    use std::io::{Read, Write};
    let (mut from, mut to) = (from, to);
    from.write_all(&[1]).unwrap();
    to.read(&mut [0]).is_ok_and(|read| read == 1)
}
