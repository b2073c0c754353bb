//! Drops: packets that the kernel discarded (tracepoint `skb:kfree_skb`).

use crate::layout;

/// Map name: per-CPU hash of [`DropKey`] → [`DropCounter`], the truth behind drop events.
pub const MAP: &str = "drops";

layout! {
    /// One dropped packet. Addresses and ports are zero where the packet is not IP.
    pub struct DropEvent {
        /// [`DROP`](crate::event::DROP).
        pub kind: u32,
        /// `enum skb_drop_reason` of this kernel (named by its BTF).
        pub reason: u32,
        /// `bpf_ktime_get_ns`.
        pub time_ns: u64,
        /// Address in the kernel function that dropped it (named by kallsyms).
        pub location: u64,
        /// Source address, network order.
        pub source: [u8; 16],
        /// Destination address.
        pub destination: [u8; 16],
        /// Source port, or ICMP type.
        pub source_port: u16,
        /// Destination port, or ICMP code.
        pub destination_port: u16,
        /// Interface, 0 where the packet has none.
        pub ifindex: u32,
        /// Inode number of the network namespace of that interface; 0 where unknown.
        pub netns: u32,
        /// Length of the packet, bytes, from its network header.
        pub bytes: u32,
        /// EtherType, host order.
        pub ethertype: u16,
        /// IP protocol.
        pub protocol: u8,
        /// Zero.
        pub pad: [u8; 5],
    } = 80
}

layout! {
    /// Key of the drop counters.
    #[repr(align(8))]
    pub struct DropKey {
        /// Namespace; see [`DropEvent::netns`].
        pub netns: u32,
        /// Reason; see [`DropEvent::reason`].
        pub reason: u32,
    } = 8
}

layout! {
    /// Value of the drop counters.
    pub struct DropCounter {
        /// Packets.
        pub packets: u64,
        /// Bytes, as [`DropEvent::bytes`].
        pub bytes: u64,
    } = 16
}
