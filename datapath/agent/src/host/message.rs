//! Netlink messages: requests written, answers read (`linux/netlink.h`, `linux/rtnetlink.h`).

use std::net::IpAddr;

use super::{Link, LinkStats, Route};

pub(super) const NLMSG_ERROR: u16 = 2;
pub(super) const NLMSG_DONE: u16 = 3;
pub(super) const RTM_NEWLINK: u16 = 16;
pub(super) const RTM_DELLINK: u16 = 17;
pub(super) const RTM_GETLINK: u16 = 18;
pub(super) const RTM_NEWADDR: u16 = 20;
pub(super) const RTM_GETADDR: u16 = 22;
pub(super) const RTM_NEWROUTE: u16 = 24;
pub(super) const RTM_GETROUTE: u16 = 26;
pub(super) const RTM_NEWRULE: u16 = 32;
pub(super) const RTM_GETRULE: u16 = 34;
pub(super) const RTM_NEWNSID: u16 = 88;
pub(super) const RTM_GETNSID: u16 = 90;
pub(super) const NLM_F_REQUEST: u16 = 1;
pub(super) const NLM_F_DUMP: u16 = 0x300;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const IFF_UP: u32 = 1;
const IFF_LOOPBACK: u32 = 8;
const IFLA_IFNAME: u16 = 3;
const IFLA_LINKINFO: u16 = 18;
const IFLA_STATS64: u16 = 23;
const IFLA_LINK_NETNSID: u16 = 37;
const IFLA_INFO_KIND: u16 = 1;
const NETNSA_NSID: u16 = 1;
const NETNSA_FD: u16 = 3;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_VIA: u16 = 18;
const FRA_FWMARK: u16 = 10;
const RTN_UNICAST: u8 = 1;
const RTN_LOCAL: u8 = 2;
/// Length of `struct nlmsghdr`, `ifinfomsg`, `ifaddrmsg`, `rtmsg` (and `fib_rule_hdr`), and `rtgenmsg` with its padding.
const HEADER: usize = 16;
const IFINFO: usize = 16;
const IFADDR: usize = 8;
const ROUTE: usize = 12;
const GENERAL: usize = 4;

/// One message of an answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Message<'a> {
    pub kind: u16,
    pub sequence: u32,
    pub body: &'a [u8],
}

/// A request for every object of a kind.
pub(super) fn dump(kind: u16, sequence: u32) -> Vec<u8> {
    request(kind, NLM_F_REQUEST | NLM_F_DUMP, sequence, &[0; IFINFO])
}

/// A request for one link.
pub(super) fn link_of(index: u32, sequence: u32) -> Vec<u8> {
    let mut body = [0; IFINFO];
    body[4..8].copy_from_slice(&index.to_ne_bytes());
    request(RTM_GETLINK, NLM_F_REQUEST, sequence, &body)
}

/// A request for the route to one address.
pub(super) fn route_to(address: IpAddr, sequence: u32) -> Vec<u8> {
    let (family, octets) = match address {
        IpAddr::V4(v4) => (AF_INET, v4.octets().to_vec()),
        IpAddr::V6(v6) => (AF_INET6, v6.octets().to_vec()),
    };
    let mut body = vec![0; ROUTE];
    body[0] = family;
    body[1] = if family == AF_INET { 32 } else { 128 };
    let length = u16::try_from(4 + octets.len()).expect("an address is short");
    body.extend(length.to_ne_bytes());
    body.extend(RTA_DST.to_ne_bytes());
    body.extend(octets);
    request(RTM_GETROUTE, NLM_F_REQUEST, sequence, &body)
}

/// A request for the number of the namespace that the open file `fd` stands for.
pub(super) fn nsid_of(fd: i32, sequence: u32) -> Vec<u8> {
    let mut body = vec![0; GENERAL];
    body.extend(8u16.to_ne_bytes());
    body.extend(NETNSA_FD.to_ne_bytes());
    body.extend(fd.to_ne_bytes());
    request(RTM_GETNSID, NLM_F_REQUEST, sequence, &body)
}

pub(super) fn request(kind: u16, flags: u16, sequence: u32, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(HEADER + body.len()).expect("a request is short");
    let mut bytes = Vec::with_capacity(HEADER + body.len());
    bytes.extend(length.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    bytes.extend([0; 4]);
    bytes.extend(body);
    bytes
}

/// The messages of a datagram.
pub(super) fn messages(datagram: &[u8]) -> impl Iterator<Item = Message<'_>> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        let length = u32_at(rest, 0)? as usize;
        if length < HEADER {
            return None;
        }
        let body = rest.get(HEADER..length)?;
        let message = Message { kind: u16_at(rest, 4)?, sequence: u32_at(rest, 8)?, body };
        rest = rest.get(align(length)..).unwrap_or(&[]);
        Some(message)
    })
}

/// Error number of a [`NLMSG_ERROR`]; 0 is success.
pub(super) fn errno(body: &[u8]) -> i32 {
    u32_at(body, 0).map_or(0, |code| code.cast_signed().wrapping_neg())
}

/// Reads a link.
pub(super) fn link(body: &[u8]) -> Option<Link> {
    let flags = u32_at(body, 8)?;
    let mut link = Link {
        hardware: u16_at(body, 2)?,
        index: u32_at(body, 4)?,
        up: flags & IFF_UP != 0,
        loopback: flags & IFF_LOOPBACK != 0,
        ..Link::default()
    };
    for (kind, value) in attributes(body.get(IFINFO..)?) {
        match kind {
            IFLA_IFNAME => link.name = text(value),
            IFLA_STATS64 => link.stats = stats(value)?,
            IFLA_LINK_NETNSID => link.peer_netns = u32_at(value, 0).map(u32::cast_signed),
            IFLA_LINKINFO => {
                let kind = attributes(value).find(|(kind, _)| *kind == IFLA_INFO_KIND);
                link.kind = kind.map(|(_, value)| text(value)).unwrap_or_default();
            }
            _ => {}
        }
    }
    Some(link)
}

fn stats(value: &[u8]) -> Option<LinkStats> {
    Some(LinkStats {
        rx_packets: u64_at(value, 0)?,
        tx_packets: u64_at(value, 8)?,
        rx_bytes: u64_at(value, 16)?,
        tx_bytes: u64_at(value, 24)?,
        rx_dropped: u64_at(value, 48)?,
        tx_dropped: u64_at(value, 56)?,
    })
}

/// Reads a namespace's number; `None` when it has none here.
pub(super) fn nsid(body: &[u8]) -> Option<i32> {
    let found = attributes(body.get(GENERAL..)?).find(|(kind, _)| *kind == NETNSA_NSID);
    // NETNSA_NSID_NOT_ASSIGNED is -1.
    found.and_then(|(_, value)| u32_at(value, 0)).map(u32::cast_signed).filter(|id| *id >= 0)
}

/// Reads an interface's address.
pub(super) fn address(body: &[u8]) -> Option<(u32, IpAddr)> {
    let index = u32_at(body, 4)?;
    // On a point-to-point link ADDRESS is the peer's and LOCAL the own one.
    let mut found = None;
    for (kind, value) in attributes(body.get(IFADDR..)?) {
        if kind == IFA_LOCAL || (kind == IFA_ADDRESS && found.is_none()) {
            found = ip(value);
        }
    }
    Some((index, found?))
}

/// Reads a route; `None` for one that leads nowhere.
pub(super) fn route(body: &[u8]) -> Option<Route> {
    let kind = *body.get(7)?;
    if kind != RTN_UNICAST && kind != RTN_LOCAL {
        return None;
    }
    let mut route = Route { ifindex: 0, gateway: false, local: kind == RTN_LOCAL };
    for (kind, value) in attributes(body.get(ROUTE..)?) {
        match kind {
            RTA_OIF => route.ifindex = u32_at(value, 0)?,
            RTA_GATEWAY | RTA_VIA => route.gateway = true,
            _ => {}
        }
    }
    Some(route)
}

/// Whether a routing rule asks for a mark.
pub(super) fn is_by_mark(body: &[u8]) -> bool {
    let mut attributes = attributes(body.get(ROUTE..).unwrap_or(&[]));
    attributes.any(|(kind, value)| kind == FRA_FWMARK && u32_at(value, 0) != Some(0))
}

fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(rest, 0)?);
        let value = rest.get(4..length)?;
        // The two high bits are flags (nested, network order).
        let kind = u16_at(rest, 2)? & 0x3fff;
        rest = rest.get(align(length)..).unwrap_or(&[]);
        Some((kind, value))
    })
}

fn align(length: usize) -> usize {
    (length + 3) & !3
}

fn text(value: &[u8]) -> String {
    let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).into_owned()
}

fn ip(value: &[u8]) -> Option<IpAddr> {
    match value.len() {
        4 => Some(IpAddr::from(<[u8; 4]>::try_from(value).ok()?)),
        16 => Some(IpAddr::from(<[u8; 16]>::try_from(value).ok()?)),
        _ => None,
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}
