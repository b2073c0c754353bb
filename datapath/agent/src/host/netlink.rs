//! Two route netlink sockets: one to ask, one that is told of changes.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd as _, OwnedFd};

use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, sockopt};

use super::message::{self, Message};
use super::{Changes, Host, Link, LinkStats, Route, namespaces};

/// Multicast groups: links, IPv4 and IPv6 addresses, routes and rules
/// (`RTMGRP_LINK`, `RTMGRP_IPV4_IFADDR`, `…_ROUTE`, `…_RULE`, `RTMGRP_IPV6_IFADDR`, `…_ROUTE`).
const GROUPS: u32 = 0x1 | 0x10 | 0x40 | 0x80 | 0x100 | 0x400 | RULES_V6;
/// `1 << (RTNLGRP_IPV6_RULE - 1)`: it has no name of its own.
const RULES_V6: u32 = 1 << 18;
/// The kernel's own answers are at most 32 KiB (`NLMSG_GOODSIZE` in dumps).
const BUFFER: usize = 64 << 10;

/// The network namespace of the thread that opened it.
#[derive(Debug)]
pub(crate) struct Netlink {
    asking: OwnedFd,
    told: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

// === impl Netlink ===

impl Netlink {
    /// Opens the sockets.
    pub(crate) fn open() -> io::Result<Self> {
        let asking = socket(SocketFlags::CLOEXEC, 0)?;
        let told = socket(SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, GROUPS)?;
        // A burst of a few hundred pods must not overflow; if it does, `changes` says so.
        sockopt::set_socket_recv_buffer_size(&told, 1 << 20)?;
        Ok(Self { asking, told, sequence: 0, buffer: Vec::new() })
    }

    fn next(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }

    /// Whether some routing rule asks for a packet's mark.
    pub(super) fn routes_by_mark(&mut self) -> io::Result<bool> {
        let request = message::dump(message::RTM_GETRULE, self.next());
        let mut found = false;
        self.ask(&request, true, |message| {
            found |= message.kind == message::RTM_NEWRULE && message::is_by_mark(message.body);
        })?;
        Ok(found)
    }

    /// Sends a request and hands on its answers until the last.
    fn ask(
        &mut self,
        request: &[u8],
        dump: bool,
        mut each: impl FnMut(&Message<'_>),
    ) -> io::Result<()> {
        rustix::net::send(&self.asking, request, SendFlags::empty())?;
        self.buffer.resize(BUFFER, 0);
        loop {
            let (_, length) =
                rustix::net::recv(&self.asking, self.buffer.as_mut_slice(), RecvFlags::TRUNC)?;
            let datagram = self.buffer.get(..length).ok_or(io::ErrorKind::InvalidData)?;
            for message in message::messages(datagram) {
                if message.sequence != self.sequence {
                    continue;
                }
                match message.kind {
                    message::NLMSG_DONE => return Ok(()),
                    message::NLMSG_ERROR => match message::errno(message.body) {
                        0 => return Ok(()),
                        code => return Err(io::Error::from_raw_os_error(code)),
                    },
                    _ => each(&message),
                }
                if !dump {
                    return Ok(());
                }
            }
        }
    }
}

fn socket(flags: SocketFlags, groups: u32) -> io::Result<OwnedFd> {
    // NETLINK_ROUTE is 0, which is how "no protocol" is passed.
    let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
    rustix::net::bind(&socket, &SocketAddrNetlink::new(0, groups))?;
    Ok(socket)
}

impl Host for Netlink {
    fn links(&mut self) -> io::Result<Vec<Link>> {
        let request = message::dump(message::RTM_GETLINK, self.next());
        let mut links = Vec::new();
        self.ask(&request, true, |message| {
            if message.kind == message::RTM_NEWLINK {
                links.extend(message::link(message.body));
            }
        })?;
        Ok(links)
    }

    fn stats(&mut self, index: u32) -> io::Result<Option<LinkStats>> {
        let request = message::link_of(index, self.next());
        let mut stats = None;
        let asked = self.ask(&request, false, |message| {
            if message.kind == message::RTM_NEWLINK {
                stats = message::link(message.body).map(|link| link.stats);
            }
        });
        match asked {
            Ok(()) => Ok(stats),
            Err(error) if error.raw_os_error() == Some(Errno::NODEV.raw_os_error()) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn changes(&mut self) -> io::Result<Changes> {
        let mut changes = Changes::default();
        self.buffer.resize(BUFFER, 0);
        loop {
            let received =
                rustix::net::recv(&self.told, self.buffer.as_mut_slice(), RecvFlags::TRUNC);
            let length = match received {
                Ok((_, length)) => length.min(BUFFER),
                Err(Errno::AGAIN) => return Ok(changes),
                // Messages were lost: what changed is unknown, that something did is not.
                Err(Errno::NOBUFS) => {
                    changes.any = true;
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            for message in message::messages(&self.buffer[..length]) {
                changes.any = true;
                if message.kind == message::RTM_DELLINK {
                    // A bridge's loss of a member is told in the same words, by family.
                    let whole = message.body.first() == Some(&0);
                    changes.removed.extend(message::link(message.body).filter(|_| whole));
                }
            }
        }
    }

    fn addresses(&mut self) -> io::Result<Vec<(u32, IpAddr)>> {
        let request = message::dump(message::RTM_GETADDR, self.next());
        let mut addresses = Vec::new();
        self.ask(&request, true, |message| {
            if message.kind == message::RTM_NEWADDR {
                addresses.extend(message::address(message.body));
            }
        })?;
        Ok(addresses)
    }

    fn route(&mut self, to: IpAddr) -> io::Result<Option<Route>> {
        let request = message::route_to(to, self.next());
        let mut route = None;
        let asked = self.ask(&request, false, |message| {
            if message.kind == message::RTM_NEWROUTE {
                route = message::route(message.body);
            }
        });
        match asked {
            Ok(()) => Ok(route),
            Err(error) if unreachable(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn namespaces(&mut self) -> io::Result<Vec<(i32, u32)>> {
        let mut known = Vec::new();
        for (inode, file) in namespaces::find() {
            let request = message::nsid_of(file.as_raw_fd(), self.next());
            let asked = self.ask(&request, false, |message| {
                if message.kind == message::RTM_NEWNSID {
                    known.extend(message::nsid(message.body).map(|id| (id, inode)));
                }
            });
            // A namespace that has just ended is none of ours any more.
            if let Err(error) = asked {
                tracing::debug!(inode, %error, "a namespace has no number");
            }
        }
        Ok(known)
    }
}

/// What the kernel answers when there is no route (`ENETUNREACH`, `EHOSTUNREACH`, `EINVAL` for
/// blackholes and prohibited ones `EACCES`).
fn unreachable(error: &io::Error) -> bool {
    let codes = [Errno::NETUNREACH, Errno::HOSTUNREACH, Errno::INVAL, Errno::ACCESS];
    codes.iter().any(|code| error.raw_os_error() == Some(code.raw_os_error()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The namespace that the tests run in has at least loopback.
    #[test]
    fn reads_links_addresses_and_routes() {
        let mut netlink = Netlink::open().unwrap();
        let links = netlink.links().unwrap();
        let lo = links.iter().find(|link| link.loopback).expect("loopback");
        assert_eq!((lo.name.as_str(), lo.hardware, lo.observable()), ("lo", 772, true));
        let local: IpAddr = "127.0.0.1".parse().unwrap();
        if lo.up {
            assert!(netlink.stats(lo.index).unwrap().unwrap().rx_packets >= lo.stats.rx_packets);
            assert_eq!(netlink.stats(u32::MAX >> 1).unwrap(), None);
            assert!(netlink.addresses().unwrap().contains(&(lo.index, local)));
            let route = netlink.route(local).unwrap().unwrap();
            assert_eq!(route, Route { ifindex: lo.index, gateway: false, local: true });
        }
        netlink.changes().unwrap();
    }

    #[test]
    fn any_bytes_can_be_read() {
        let mut state = 1u64;
        for _ in 0..20_000 {
            let mut bytes = [0u8; 96];
            for byte in &mut bytes {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                *byte = (state >> 56) as u8 & 0x1f;
            }
            for message in message::messages(&bytes) {
                let _ = (message::link(message.body), message::address(message.body));
                let _ = (message::route(message.body), message::errno(message.body));
            }
            let _ = message::is_by_mark(&bytes);
            let _ = (message::link(&bytes), message::address(&bytes), message::route(&bytes));
        }
    }
}
