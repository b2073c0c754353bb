//! clsact qdiscs and their filters, over rtnetlink: for kernels without tcx.
//!
//! Formats: rtnetlink(7), include/uapi/linux/{rtnetlink,pkt_sched,pkt_cls}.h.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::Hook;
use crate::sys::netlink::{ACK, DUMP, REQUEST, exchange, field};

const RTM_NEWQDISC: u16 = 36;
const RTM_DELQDISC: u16 = 37;
const RTM_NEWTFILTER: u16 = 44;
const RTM_DELTFILTER: u16 = 45;
const RTM_GETTFILTER: u16 = 46;

const REPLACE: u16 = 0x100;
const EXCLUSIVE: u16 = 0x200;
const CREATE: u16 = 0x400;

const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const NESTED: u16 = 1 << 15;
const TCA_BPF_FD: u16 = 6;
const TCA_BPF_NAME: u16 = 7;
const TCA_BPF_FLAGS: u16 = 8;
/// The program's return value is the verdict.
const DIRECT_ACTION: u32 = 1;

/// `TC_H_CLSACT`: the qdisc's parent; its own handle is `ffff:`.
const CLSACT: u32 = 0xffff_fff1;
const CLSACT_HANDLE: u32 = 0xffff_0000;

/// First of all filters.
const PRIORITY: u32 = 1;
/// "weir": ours among the filters of this priority.
const HANDLE: u32 = 0x7765_6972;
const ETH_P_ALL: u16 = 3;

/// A request under construction.
struct Request(Vec<u8>);

// === impl Hook ===

impl Hook {
    fn parent(self) -> u32 {
        match self {
            Self::Ingress => 0xffff_fff2,
            Self::Egress => 0xffff_fff3,
        }
    }
}

// === impl Request ===

impl Request {
    /// Netlink header and `struct tcmsg`.
    fn new(kind: u16, flags: u16, ifindex: u32, handle: u32, parent: u32, info: u32) -> Self {
        let mut bytes = vec![0; 4];
        bytes.extend(kind.to_ne_bytes());
        bytes.extend((REQUEST | flags).to_ne_bytes());
        bytes.extend([0; 8]);
        bytes.extend([0; 4]);
        for field in [ifindex, handle, parent, info] {
            bytes.extend(field.to_ne_bytes());
        }
        Self(bytes)
    }

    fn filter(kind: u16, flags: u16, ifindex: u32, hook: Hook) -> Self {
        let info = PRIORITY << 16 | u32::from(ETH_P_ALL.to_be());
        Self::new(kind, flags, ifindex, HANDLE, hook.parent(), info).attribute(TCA_KIND, b"bpf\0")
    }

    fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        append(&mut self.0, kind, value);
        self
    }

    fn send(mut self) -> io::Result<Vec<Vec<u8>>> {
        let length = self.0.len() as u32;
        self.0[..4].copy_from_slice(&length.to_ne_bytes());
        exchange(libc::NETLINK_ROUTE, &self.0)
    }
}

/// Adds a clsact qdisc; whether there was none.
pub(crate) fn add_qdisc(ifindex: u32) -> io::Result<bool> {
    let flags = ACK | CREATE | EXCLUSIVE;
    let request = Request::new(RTM_NEWQDISC, flags, ifindex, CLSACT_HANDLE, CLSACT, 0)
        .attribute(TCA_KIND, b"clsact\0");
    match request.send() {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Deletes the clsact qdisc unless someone's filters are in it.
pub(crate) fn delete_qdisc_if_empty(ifindex: u32) -> io::Result<()> {
    for hook in Hook::BOTH {
        let request = Request::new(RTM_GETTFILTER, DUMP, ifindex, 0, hook.parent(), 0);
        match request.send() {
            Ok(filters) if filters.is_empty() => {}
            Ok(_) => return Ok(()),
            Err(error) if is_gone(&error) => return Ok(()),
            Err(error) => return Err(error),
        }
    }
    let request = Request::new(RTM_DELQDISC, ACK, ifindex, CLSACT_HANDLE, CLSACT, 0)
        .attribute(TCA_KIND, b"clsact\0");
    gone_is_fine(request.send())
}

/// Puts our filter in place, atomically over an earlier one of ours.
pub(crate) fn put_filter(ifindex: u32, hook: Hook, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut options = Vec::new();
    append(&mut options, TCA_BPF_FD, &program.as_raw_fd().to_ne_bytes());
    append(&mut options, TCA_BPF_NAME, format!("weir-{hook}\0").as_bytes());
    append(&mut options, TCA_BPF_FLAGS, &DIRECT_ACTION.to_ne_bytes());
    Request::filter(RTM_NEWTFILTER, ACK | CREATE | REPLACE, ifindex, hook)
        .attribute(TCA_OPTIONS | NESTED, &options)
        .send()
        .map(drop)
}

/// Whether our filter is there.
pub(crate) fn has_filter(ifindex: u32, hook: Hook) -> io::Result<bool> {
    let filters = Request::new(RTM_GETTFILTER, DUMP, ifindex, 0, hook.parent(), 0).send()?;
    // `tcm_handle` stands behind the netlink header, family and index.
    Ok(filters.iter().any(|filter| field(filter, 24) == Some(HANDLE.to_ne_bytes())))
}

/// Deletes our filter, if it (and its interface) is there.
pub(crate) fn delete_filter(ifindex: u32, hook: Hook) -> io::Result<()> {
    gone_is_fine(Request::filter(RTM_DELTFILTER, ACK, ifindex, hook).send())
}

fn gone_is_fine(result: io::Result<Vec<Vec<u8>>>) -> io::Result<()> {
    match result {
        Err(error) if !is_gone(&error) => Err(error),
        _ => Ok(()),
    }
}

/// No such interface, qdisc or filter.
fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENODEV | libc::ENOENT | libc::EINVAL))
}

/// `struct rtattr` and a value, padded to 4 bytes.
fn append(to: &mut Vec<u8>, kind: u16, value: &[u8]) {
    to.extend((value.len() as u16 + 4).to_ne_bytes());
    to.extend(kind.to_ne_bytes());
    to.extend(value);
    to.resize(to.len().next_multiple_of(4), 0);
}
