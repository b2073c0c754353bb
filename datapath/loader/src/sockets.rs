//! Sockets that are connected to a backend that is gone.
//!
//! Who was connected to a backend at once is not translated, so no table says that it would better go elsewhere: a
//! connected UDP socket would send to nobody for as long as it lives. Destroyed, it fails with `ECONNABORTED`, and its
//! process asks the service again. By sock_diag(7) and `SOCK_DESTROY` (include/uapi/linux/{sock_diag,inet_diag}.h).

use std::io;
use std::net::{IpAddr, SocketAddr};

use crate::error::Doing;
use crate::sys::netlink::{ACK, DUMP, HEADER, REQUEST, exchange, field};
use crate::{Error, ServiceTables};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;

/// States (`TCP_ESTABLISHED` and so on, one bit each) of sockets that talk to another, or try to: not those that
/// listen, and not those of which only the end is left. UDP: connected.
const CONNECTED: u32 = 1 << 1 | 1 << 2 | 1 << 4 | 1 << 5 | 1 << 8 | 1 << 9 | 1 << 11;

/// `struct inet_diag_sockid`: ports, addresses, interface, cookie.
type SocketId = [u8; 48];

/// Where a [`SocketId`] starts in `struct inet_diag_msg`.
const ID: usize = HEADER + 4;
/// Within a [`SocketId`].
const DESTINATION_PORT: usize = 2;
const DESTINATION: usize = 20;
const COOKIE: usize = 40;

// === impl ServiceTables ===

impl ServiceTables {
    /// Destroys the sockets of this thread's network namespace that were connected to `backend` because they asked for
    /// a service; how many. Whoever went there by itself is left alone. [`Error::NoDestroy`] where the kernel has no
    /// such means.
    pub fn destroy_sockets(&self, protocol: u8, backend: SocketAddr) -> Result<usize, Error> {
        let mut destroyed = 0;
        // IPv6 sockets talk to IPv4 addresses, too.
        let families: &[i32] = match backend.ip() {
            IpAddr::V4(_) => &[libc::AF_INET, libc::AF_INET6],
            IpAddr::V6(_) => &[libc::AF_INET6],
        };
        for &family in families {
            for socket in connected(family, protocol, backend)? {
                let asked = field(&socket, COOKIE).is_some_and(|it| self.has_asked(cookie(it)));
                if asked && destroy(family, protocol, &socket)? {
                    destroyed += 1;
                }
            }
        }
        Ok(destroyed)
    }
}

/// Whether the kernel can destroy sockets of a protocol (TCP or UDP): [`Error::NoDestroy`] says why not. Nothing is
/// destroyed.
pub fn can_destroy_sockets(protocol: u8) -> Result<(), Error> {
    for family in [libc::AF_INET, libc::AF_INET6] {
        // Where nobody can list them, destroying says the same as where there is no such socket.
        list(family, protocol, 0, 0)?;
        // No socket has cookie 0.
        destroy(family, protocol, &[0; 48])?;
    }
    Ok(())
}

/// Sockets that are connected to an address.
fn connected(family: i32, protocol: u8, to: SocketAddr) -> Result<Vec<SocketId>, Error> {
    let mut sockets = list(family, protocol, CONNECTED, to.port())?;
    sockets.retain(|socket| is_to(socket, family, to));
    Ok(sockets)
}

fn is_to(socket: &SocketId, family: i32, to: SocketAddr) -> bool {
    let port = field(socket, DESTINATION_PORT).map(u16::from_be_bytes);
    let same = match to.ip() {
        IpAddr::V4(ip) if family == libc::AF_INET => {
            field(socket, DESTINATION) == Some(ip.octets())
        }
        IpAddr::V4(ip) => field(socket, DESTINATION) == Some(ip.to_ipv6_mapped().octets()),
        IpAddr::V6(ip) => field(socket, DESTINATION) == Some(ip.octets()),
    };
    same && port == Some(to.port())
}

/// Sockets in any of the states; `port`: the other side's, 0 for all.
fn list(family: i32, protocol: u8, states: u32, port: u16) -> Result<Vec<SocketId>, Error> {
    let mut id = [0; 48];
    id[DESTINATION_PORT..][..2].copy_from_slice(&port.to_be_bytes());
    let request = request(SOCK_DIAG_BY_FAMILY, DUMP, family, protocol, states, &id);
    match exchange(libc::NETLINK_SOCK_DIAG, &request) {
        Ok(answers) => Ok(answers.iter().filter_map(|answer| field(answer, ID)).collect()),
        Err(source) if is_missing(&source) || source.raw_os_error() == Some(libc::ENOENT) => {
            Err(Error::NoDestroy { protocol, source })
        }
        Err(source) => Err(source).doing(|| format!("listing sockets of protocol {protocol}")),
    }
}

/// Destroys one socket; false where it was gone already.
fn destroy(family: i32, protocol: u8, socket: &SocketId) -> Result<bool, Error> {
    let request = request(SOCK_DESTROY, ACK, family, protocol, 0, socket);
    let gone = |error: &io::Error| {
        matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESTALE | libc::ENOTCONN))
    };
    match exchange(libc::NETLINK_SOCK_DIAG, &request) {
        Ok(_) => Ok(true),
        Err(error) if gone(&error) => Ok(false),
        Err(source) if is_missing(&source) => Err(Error::NoDestroy { protocol, source }),
        Err(source) => Err(source).doing(|| format!("destroying a socket of protocol {protocol}")),
    }
}

/// No sock_diag, or no `CONFIG_INET_DIAG_DESTROY`.
fn is_missing(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EPROTONOSUPPORT))
}

/// Netlink header and `struct inet_diag_req_v2`.
fn request(
    kind: u16,
    flags: u16,
    family: i32,
    protocol: u8,
    states: u32,
    socket: &SocketId,
) -> Vec<u8> {
    let length = HEADER + 8 + socket.len();
    let mut bytes = (length as u32).to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend((REQUEST | flags).to_ne_bytes());
    bytes.resize(HEADER, 0);
    bytes.extend([family as u8, protocol, 0, 0]);
    bytes.extend(states.to_ne_bytes());
    bytes.extend(socket);
    bytes
}

/// Two words, the low one first.
fn cookie(bytes: [u8; 8]) -> u64 {
    let [a, b, c, d, e, f, g, h] = bytes;
    let word = |bytes| u64::from(u32::from_ne_bytes(bytes));
    word([a, b, c, d]) | word([e, f, g, h]) << 32
}
