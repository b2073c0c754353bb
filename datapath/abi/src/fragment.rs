//! Fragments: only the first carries the ports, so the datapath remembers them for the rest.

use crate::layout;

/// Map name: LRU hash of [`FragmentKey`] → [`FragmentPorts`].
pub const MAP: &str = "fragments";

layout! {
    /// Which datagram, and where it was seen (two namespaces may use one address).
    #[repr(align(8))]
    #[derive(Hash)]
    pub struct FragmentKey {
        /// Source address.
        pub source: [u8; 16],
        /// Destination address.
        pub destination: [u8; 16],
        /// Identification: 16 bits in IPv4, 32 in IPv6, as a number.
        pub identification: u32,
        /// `ifindex << 9 | hook << 8 | protocol`; in IPv6 the protocol is the fragment header's next
        /// header, which may be a further extension header.
        pub link: u32,
    } = 40
}

layout! {
    /// What the first fragment said.
    pub struct FragmentPorts {
        /// Source port, or what stands for it (see [`ConnKey`](crate::conn::ConnKey)).
        pub source: u16,
        /// Destination port.
        pub destination: u16,
        /// The transport protocol, behind any extension headers.
        pub protocol: u8,
        /// Zero.
        pub pad: u8,
        /// ICMP: the type.
        pub icmp_type: u16,
    } = 8
}
