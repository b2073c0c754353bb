//! Stale sockets: those that are connected to a backend that is gone, and no others, are destroyed.

use std::io::{ErrorKind, Read};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use aya::maps::{Map, MapData};
use datapath_abi::service::ASKED;
use datapath_loader::{Error, ServiceTables, can_destroy_sockets};

use crate::kernel::lab::{Lab, there, within};

const TCP: u8 = 6;
const UDP: u8 = 17;

/// Who asks for a service's backend: all three kinds of addresses.
fn backends(port: u16) -> [SocketAddr; 3] {
    let v4 = there(false, port);
    let IpAddr::V4(ip) = v4.ip() else { unreachable!() };
    [v4, there(true, port), SocketAddr::new(ip.to_ipv6_mapped().into(), port)]
}

fn cookie(socket: RawFd) -> u64 {
    const SO_COOKIE: libc::c_int = 57;
    let (mut cookie, mut length) = (0u64, 8);
    // SAFETY: an open descriptor, and a place as large as is said.
    let result = unsafe {
        let to = (&raw mut cookie).cast();
        libc::getsockopt(socket, libc::SOL_SOCKET, SO_COOKIE, to, &raw mut length)
    };
    assert_eq!(result, 0);
    cookie
}

/// Writes down that a socket was connected at once, as the kernel's half does.
fn note(lab: &Lab, socket: RawFd) {
    let map = MapData::from_pin(lab.options.pin_dir.join(ASKED)).unwrap();
    let map = Map::LruHashMap(map);
    let mut asked = aya::maps::HashMap::<_, u64, [u8; 32]>::try_from(map).unwrap();
    asked.insert(cookie(socket), [0; 32], 0).unwrap();
}

fn tcp(lab: &Lab, to: SocketAddr) -> TcpStream {
    within(&lab.here(), move || {
        let stream = TcpStream::connect(to).unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        stream
    })
}

fn udp(lab: &Lab, to: SocketAddr) -> UdpSocket {
    within(&lab.here(), move || {
        let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(any).unwrap();
        socket.connect(to).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        socket
    })
}

fn destroy(namespace: &str, tables: &ServiceTables, protocol: u8, backend: SocketAddr) -> usize {
    let tables = tables.clone();
    within(namespace, move || tables.destroy_sockets(protocol, backend).unwrap())
}

/// What a read says: `WouldBlock` where the socket is as it was.
fn said(read: std::io::Result<usize>) -> ErrorKind {
    read.expect_err("nobody sends").kind()
}

#[test]
fn tcp_sockets_that_asked_are_destroyed() {
    let lab = Lab::new("stale");
    let datapath = lab.open();
    let tables = datapath.services();
    let _servers: Vec<TcpListener> = [7100, 7101]
        .map(|port| {
            let listen = move || TcpListener::bind(SocketAddr::new("::".parse().unwrap(), port));
            within(&lab.there(), listen).unwrap()
        })
        .into();
    let connect = |port| backends(port).map(|to| tcp(&lab, to));
    let (mut asked, mut own, mut others) = (connect(7100), connect(7100), connect(7101));
    for stream in asked.iter().chain(&others) {
        note(&lab, stream.as_raw_fd());
    }
    // Another namespace has no such sockets.
    assert_eq!(destroy(&lab.there(), &tables, TCP, there(false, 7100)), 0);
    // Nor are they UDP's.
    assert_eq!(destroy(&lab.here(), &tables, UDP, there(false, 7100)), 0);
    let mut buffer = [0];
    for stream in &mut asked {
        assert_eq!(said(stream.read(&mut buffer)), ErrorKind::WouldBlock);
    }
    // IPv4, and IPv6 that talks to IPv4.
    assert_eq!(destroy(&lab.here(), &tables, TCP, there(false, 7100)), 2);
    assert_eq!(said(asked[1].read(&mut buffer)), ErrorKind::WouldBlock);
    assert_eq!(destroy(&lab.here(), &tables, TCP, there(true, 7100)), 1);
    for stream in &mut asked {
        assert_eq!(said(stream.read(&mut buffer)), ErrorKind::ConnectionAborted);
    }
    // Who went there by itself, and who is connected to another port, goes on.
    for stream in own.iter_mut().chain(&mut others) {
        assert_eq!(said(stream.read(&mut buffer)), ErrorKind::WouldBlock);
    }
    // Once is enough.
    assert_eq!(destroy(&lab.here(), &tables, TCP, there(false, 7100)), 0);
    datapath.remove().unwrap();
}

#[test]
fn connected_udp_sockets_that_asked_are_destroyed() {
    let lab = Lab::new("staleudp");
    let datapath = lab.open();
    let tables = datapath.services();
    // So that no ICMP error ends what is to go on.
    let _servers = [7200, 7201].map(|port| {
        let bind = move || UdpSocket::bind(SocketAddr::new("::".parse().unwrap(), port));
        within(&lab.there(), bind).unwrap()
    });
    let connect = |port| backends(port).map(|to| udp(&lab, to));
    let (asked, own, others) = (connect(7200), connect(7200), connect(7201));
    for socket in asked.iter().chain(&others) {
        note(&lab, socket.as_raw_fd());
    }
    assert_eq!(destroy(&lab.here(), &tables, UDP, there(false, 7200)), 2);
    assert_eq!(destroy(&lab.here(), &tables, UDP, there(true, 7200)), 1);
    let mut buffer = [0];
    for socket in &asked {
        assert_eq!(said(socket.recv(&mut buffer)), ErrorKind::ConnectionAborted);
    }
    for socket in own.iter().chain(&others) {
        socket.send(b"x").unwrap();
        assert_eq!(said(socket.recv(&mut buffer)), ErrorKind::WouldBlock);
    }
    datapath.remove().unwrap();
}

#[test]
fn a_kernel_that_cannot_says_so() {
    can_destroy_sockets(TCP).unwrap();
    can_destroy_sockets(UDP).unwrap();
    // No kernel lists sockets of this protocol.
    let error = can_destroy_sockets(200).unwrap_err();
    assert!(matches!(error, Error::NoDestroy { protocol: 200, .. }), "{error:?}");
}
