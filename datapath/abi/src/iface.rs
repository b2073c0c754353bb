//! Interfaces: what passed a hook and is not part of any connection.
//!
//! Entries are made by user space before a hook is attached; the packet path only adds.

use crate::layout;

/// Map name: per-CPU hash of [`IfaceKey`] → [`IfaceCounters`].
pub const MAP: &str = "interfaces";

layout! {
    /// Interface and hook.
    #[repr(align(8))]
    pub struct IfaceKey {
        /// Interface index.
        pub ifindex: u32,
        /// [`INGRESS`] or [`EGRESS`].
        pub hook: u32,
    } = 8
}

/// Packets that come in by the interface.
pub const INGRESS: u32 = 0;
/// Packets that leave by the interface.
pub const EGRESS: u32 = 1;

layout! {
    /// A count of frames and their bytes at the link layer (`skb->len`, with the link header).
    pub struct Count {
        /// Frames.
        pub packets: u64,
        /// Bytes.
        pub bytes: u64,
    } = 16
}

/// Frames that are no flow: ARP.
pub const ARP: usize = 0;
/// Frames of another protocol than IP.
pub const OTHER: usize = 1;
/// IP packets that could not be parsed.
pub const MALFORMED: usize = 2;
/// Packets of a new connection for which the table had no room.
pub const TABLE_FULL: usize = 3;
/// The kernel had no memory for a new connection's entry.
pub const NO_MEMORY: usize = 4;
/// The table's bucket was locked.
pub const BUSY: usize = 5;
/// The connection's entry was just being retired.
pub const RETIRING: usize = 6;
/// Packets that the policy refused, for which the table of refusals had no room (or their entry there was
/// just being removed). At the ingress hook they are among what the interface counts, at the egress
/// hook they are not: they never reach it.
pub const DENIED_FULL: usize = 7;
/// Answers to packets that the policy refused at the ingress hook, as they leave by the egress hook. (Those to packets
/// that it refused at the egress hook come in without the interface's counting them.)
pub const ANSWER: usize = 8;
/// Packets of new flows to a service, sent on by the XDP program without an entry: there were more of them than may enter.
pub const FLOOD: usize = 9;
/// Number of causes.
pub const CAUSES: usize = 10;

layout! {
    /// Everything at this hook that no connection holds, by cause.
    pub struct IfaceCounters {
        /// Indexed by [`ARP`] to [`FLOOD`].
        pub causes: [Count; CAUSES],
    } = 160
}
