//! What a packet's account needs from the place it runs in.

use datapath_abi::conn::{ConnKey, ConnValue};
use datapath_abi::fragment::{FragmentKey, FragmentPorts};

use crate::cells::{ConnCells, Shared};

/// What is known of a frame besides its bytes. Aligned, as [`Headers`](crate::parse::Headers) are.
#[repr(C, align(8))]
#[derive(Debug, Clone, Copy)]
pub struct Frame {
    /// Interface, below 2^23.
    pub ifindex: u32,
    /// [`INGRESS`](datapath_abi::iface::INGRESS) or [`EGRESS`](datapath_abi::iface::EGRESS).
    pub hook: u32,
    /// Length in bytes, with the link header, as the kernel counts it (`skb->len`).
    pub length: u32,
    /// Segments on the wire: above 1 for a GSO or GRO super-packet, else 0 or 1.
    pub segments: u32,
    /// Length of the link header in bytes: [`ETHERNET`](crate::parse::ETHERNET), or 0 on a layer 3
    /// device.
    pub link_header: u32,
    /// EtherType by the kernel (`skb->protocol`), host order: all there is on a layer 3 device.
    pub ethertype: u16,
    /// Bytes of an outer header that were taken off (see [`dsr`](crate::dsr)): they are part of `length`, and not there any
    /// more.
    pub outer: u16,
}

/// Why the connection table did not take a new entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Another CPU has just created it.
    Exists,
    /// No room.
    Full,
    /// No memory.
    Memory,
    /// The bucket was locked.
    Busy,
}

/// Clock, tables and outlets. Every method is cheap but where said.
pub trait Host {
    /// Its kinds of cells.
    type Shared: Shared;

    /// A coarse clock (`bpf_jiffies64`), never 0.
    fn jiffies(&self) -> u64;

    /// Monotonic nanoseconds (`bpf_ktime_get_ns`, some 35 ns), never 0.
    fn now_ns(&self) -> u64;

    /// Cookie of the packet's local socket, 0 where there is none.
    fn cookie(&self) -> u64;

    /// Finds a connection.
    fn find(&self, key: &ConnKey) -> Option<&ConnCells<Self::Shared>>;

    /// Inserts a connection unless it exists. `fill` completes a zeroed value.
    fn insert(&self, key: &ConnKey, fill: impl FnOnce(&mut ConnValue)) -> Result<(), Refusal>;

    /// Counts the frame as part of no connection; `cause` indexes
    /// [`IfaceCounters::causes`](datapath_abi::iface::IfaceCounters::causes).
    fn unattributed(&self, frame: &Frame, cause: usize);

    /// Remembers the ports of a first fragment.
    fn put_fragment(&self, key: &FragmentKey, ports: FragmentPorts);

    /// The ports that its first fragment had.
    fn fragment(&self, key: &FragmentKey) -> Option<FragmentPorts>;

    /// Tells user space of a connection.
    fn event(&self, kind: u32, detail: u32, time_ns: u64, id: u64, key: &ConnKey);

    /// Tells user space of a DNS answer: `length` bytes at `offset` of the frame.
    fn dns(&self, id: u64, key: &ConnKey, offset: u32, length: u32);
}
