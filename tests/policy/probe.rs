//! One connection attempt, begun and awaited: TCP, UDP, SCTP and ICMP echo.
//!
//! SCTP is spoken over raw sockets (RFC 9260: common header and an INIT chunk), since not every kernel has
//! the protocol; the datapath sees what it would see of any other.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, ipproto, socket_with,
};

pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const SCTP: u8 = 132;

/// Tells the answers to raw sockets apart: a port of SCTP, an identifier of ICMP.
static NEXT: AtomicU16 = AtomicU16::new(20_000);

/// An attempt under way.
#[derive(Debug)]
pub(crate) enum Attempt {
    Tcp(OwnedFd),
    Udp(UdpSocket),
    Raw { socket: OwnedFd, protocol: u8, token: u16 },
}

// === impl Attempt ===

impl Attempt {
    /// Sends the first packet, in the network namespace of the calling thread.
    pub(crate) fn start(from: Ipv4Addr, to: SocketAddrV4, protocol: u8) -> io::Result<Self> {
        match protocol {
            TCP => connect(from, to).map(Self::Tcp),
            UDP => {
                let socket = UdpSocket::bind((from, 0))?;
                socket.connect(to)?;
                socket.send(b"weir")?;
                Ok(Self::Udp(socket))
            }
            _ => {
                let socket = raw(protocol)?;
                rustix::net::bind(&socket, &SocketAddrV4::new(from, 0))?;
                let token = NEXT.fetch_add(1, Ordering::Relaxed);
                let packet =
                    if protocol == SCTP { init(token, to.port()) } else { echo_request(token) };
                let whom = SocketAddrV4::new(*to.ip(), 0);
                rustix::net::sendto(&socket, &packet, SendFlags::empty(), &whom)?;
                Ok(Self::Raw { socket, protocol, token })
            }
        }
    }

    /// Whether it is answered before `end`.
    pub(crate) fn answered(&self, end: Instant) -> bool {
        match self {
            Self::Tcp(socket) => {
                ready(socket, PollFlags::OUT, end)
                    && rustix::net::sockopt::socket_error(socket).is_ok_and(|error| error.is_ok())
            }
            Self::Udp(socket) => {
                ready(socket, PollFlags::IN, end) && socket.recv(&mut [0; 8]).is_ok()
            }
            Self::Raw { socket, protocol, token } => {
                while ready(socket, PollFlags::IN, end) {
                    let mut packet = [0; 128];
                    let received = rustix::net::recv(socket, &mut packet[..], RecvFlags::TRUNC);
                    let length = received.map_or(0, |(_, length)| length.min(packet.len()));
                    if payload(&packet[..length])
                        .is_some_and(|payload| answers(payload, *protocol, *token))
                    {
                        return true;
                    }
                }
                false
            }
        }
    }
}

/// Answers SCTP in a pod: any packet, from the port that it came to.
pub(crate) fn reflect_sctp(socket: &OwnedFd, address: Ipv4Addr, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        if !ready(socket, PollFlags::IN, Instant::now() + Duration::from_millis(200)) {
            continue;
        }
        let mut packet = [0; 128];
        let Ok((_, length)) = rustix::net::recv(socket, &mut packet[..], RecvFlags::TRUNC) else {
            continue;
        };
        let packet = &packet[..length.min(packet.len())];
        let Some([a, b, c, d, ..]) = payload(packet) else { continue };
        let client = Ipv4Addr::new(packet[12], packet[13], packet[14], packet[15]);
        if client == address || !matches!(u16::from_be_bytes([*c, *d]), 80 | 81) {
            continue;
        }
        let answer = init(u16::from_be_bytes([*c, *d]), u16::from_be_bytes([*a, *b]));
        let whom = SocketAddrV4::new(client, 0);
        let _ = rustix::net::sendto(socket, &answer, SendFlags::empty(), &whom);
    }
}

/// A raw socket in the network namespace of the calling thread.
pub(crate) fn raw(protocol: u8) -> io::Result<OwnedFd> {
    let protocol = if protocol == SCTP { ipproto::SCTP } else { ipproto::ICMP };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(socket_with(AddressFamily::INET, SocketType::RAW, flags, Some(protocol))?)
}

fn connect(from: Ipv4Addr, to: SocketAddrV4) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
    rustix::net::bind(&socket, &SocketAddr::from((from, 0)))?;
    match rustix::net::connect(&socket, &to) {
        Ok(()) | Err(rustix::io::Errno::INPROGRESS) => Ok(socket),
        Err(error) => Err(error.into()),
    }
}

fn ready(socket: &impl std::os::fd::AsFd, what: PollFlags, end: Instant) -> bool {
    let left = end.saturating_duration_since(Instant::now());
    let left = rustix::time::Timespec::try_from(left).unwrap_or_default();
    poll(&mut [PollFd::new(socket, what)], Some(&left)).is_ok_and(|ready| ready > 0)
}

/// What follows the IPv4 header.
fn payload(packet: &[u8]) -> Option<&[u8]> {
    let length = usize::from(packet.first()? & 15) * 4;
    packet.get(length..)
}

fn answers(payload: &[u8], protocol: u8, token: u16) -> bool {
    let at =
        |at: usize| payload.get(at..at + 2).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]));
    match protocol {
        SCTP => at(2) == Some(token),
        // An echo reply with our identifier.
        _ => payload.first() == Some(&0) && at(4) == Some(token),
    }
}

/// An INIT chunk behind a common header.
fn init(source: u16, destination: u16) -> Vec<u8> {
    let mut packet = Vec::with_capacity(32);
    packet.extend(source.to_be_bytes());
    packet.extend(destination.to_be_bytes());
    // Verification tag 0 and the checksum's place; then INIT, 20 bytes, tag, window, streams, TSN.
    packet.extend([0; 8]);
    packet.extend([1, 0, 0, 20, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1]);
    let checksum = crc32c::crc32c(&packet);
    packet[8..12].copy_from_slice(&checksum.to_le_bytes());
    packet
}

fn echo_request(identifier: u16) -> Vec<u8> {
    let mut packet = vec![8, 0, 0, 0];
    packet.extend(identifier.to_be_bytes());
    packet.extend([0, 1]);
    // RFC 1071 over three words that are not zero.
    let sum = 0x0800 + u32::from(identifier) + 1;
    let sum = !(((sum & 0xffff) + (sum >> 16)) as u16);
    packet[2..4].copy_from_slice(&sum.to_be_bytes());
    packet
}
