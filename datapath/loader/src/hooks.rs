//! The two hooks of an interface.
//!
//! We go first on both, by tcx (kernel ≥ 6.6) or clsact: whoever is asked before us may end the
//! chain ("pass" does), and then we would not count what the interface does. On ingress this is the
//! packet as it came; on egress the packet before others rewrite or drop it: what they drop is
//! counted here though the interface never sends it, and shows as a kernel drop.

use std::ffi::{CStr, CString};
use std::fmt;
use std::io;

use datapath_abi::iface;

pub(crate) mod tc;

/// How a hook was attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttachedBy {
    /// A tcx link.
    Tcx,
    /// A filter in a clsact qdisc.
    Clsact,
}

/// What is done at an interface's hooks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Packets are counted. These programs cannot end a packet's way.
    Observe,
    /// Packets are counted, and pass or not by the policy tables.
    Enforce,
}

/// An interface whose two hooks we observe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attached {
    /// Its index.
    pub ifindex: u32,
    /// Its name, when it was attached or adopted.
    pub name: String,
    /// How.
    pub by: AttachedBy,
    /// Length of its link header in bytes: what to add to a connection's bytes for each packet to
    /// get the interface's own.
    pub link_header: u8,
    /// What is done there.
    pub mode: Mode,
}

/// Ingress or egress.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Hook {
    Ingress,
    Egress,
}

/// Largest interface index that a connection's key can hold.
pub(crate) const MAX_IFINDEX: u32 = (1 << 23) - 1;

/// What kind of frames a device has, by its ARPHRD type (include/uapi/linux/if_arp.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Device {
    /// Ethernet headers, which the device counts.
    Ethernet,
    /// Loopback: Ethernet headers, which it takes off before it counts (drivers/net/loopback.c).
    Loopback,
    /// No link header.
    Bare,
}

/// Length of an Ethernet header, bytes.
const ETHERNET: u8 = 14;
const ARPHRD_ETHER: u16 = 1;
const ARPHRD_LOOPBACK: u16 = 772;

// === impl Hook ===

impl Hook {
    pub(crate) const BOTH: [Self; 2] = [Self::Ingress, Self::Egress];

    pub(crate) fn of(name: &str) -> Option<Self> {
        Self::BOTH.into_iter().find(|hook| hook.to_string() == name)
    }

    /// Number in keys of the map `interfaces`.
    pub(crate) fn number(self) -> u32 {
        match self {
            Self::Ingress => iface::INGRESS,
            Self::Egress => iface::EGRESS,
        }
    }
}

// === impl Device ===

impl Device {
    /// Of the link header, what the interface counts.
    pub(crate) fn counted(self) -> u8 {
        if self == Self::Ethernet { ETHERNET } else { 0 }
    }

    /// Of the link header, what the programs see and the interface does not count.
    pub(crate) fn uncounted(self) -> u64 {
        if self == Self::Loopback { u64::from(ETHERNET) } else { 0 }
    }

    /// The program for one of its hooks.
    pub(crate) fn program(self, hook: Hook, mode: Mode) -> &'static str {
        let [observe, enforce] = match (self, hook) {
            (Self::Bare, Hook::Ingress) => ["observe_l3_in", "enforce_l3_in"],
            (Self::Bare, Hook::Egress) => ["observe_l3_out", "enforce_l3_out"],
            (_, Hook::Ingress) => ["observe_ingress", "enforce_ingress"],
            (_, Hook::Egress) => ["observe_egress", "enforce_egress"],
        };
        if mode == Mode::Enforce { enforce } else { observe }
    }
}

// === impl Mode ===

impl Mode {
    /// Mode of a program by its name; the kernel keeps 15 bytes of it.
    pub(crate) fn of(program: &str) -> Self {
        if program.starts_with("enforce_") { Self::Enforce } else { Self::Observe }
    }
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        })
    }
}

/// Index of an interface in this network namespace.
pub(crate) fn index_of(name: &str) -> Option<u32> {
    let name = CString::new(name).ok()?;
    // SAFETY: the name is NUL-terminated.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    (index != 0).then_some(index)
}

/// Name of an interface in this network namespace.
pub(crate) fn name_of(ifindex: u32) -> Option<String> {
    let mut name = [0; libc::IF_NAMESIZE];
    // SAFETY: the buffer is as long as the call asks for.
    let found = unsafe { libc::if_indextoname(ifindex, name.as_mut_ptr()) };
    if found.is_null() {
        return None;
    }
    // SAFETY: the call has written a NUL-terminated name.
    Some(unsafe { CStr::from_ptr(name.as_ptr()) }.to_string_lossy().into_owned())
}

/// An interface's kind.
pub(crate) fn device(name: &str) -> io::Result<Device> {
    // SAFETY: zero is a value of this structure of integers.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().take(libc::IF_NAMESIZE - 1).zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    // SAFETY: opens a descriptor, closed below.
    let socket = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if socket < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: reads the name from `request` and writes the address to it.
    let result = unsafe { libc::ioctl(socket, libc::SIOCGIFHWADDR as _, &mut request) };
    let error = io::Error::last_os_error();
    // SAFETY: ours, and not used after.
    unsafe { libc::close(socket) };
    if result != 0 {
        return Err(error);
    }
    // SAFETY: the call has filled this member.
    let kind = unsafe { request.ifr_ifru.ifru_hwaddr.sa_family };
    Ok(match kind {
        ARPHRD_ETHER => Device::Ethernet,
        ARPHRD_LOOPBACK => Device::Loopback,
        _ => Device::Bare,
    })
}
