//! Headers of a frame: link, network, transport.
//!
//! Ethernet with up to two VLAN tags (802.1Q, 802.1ad), or a layer 3 device without link header;
//! IPv4 (RFC 791); IPv6 (RFC 8200) with its extension headers; ports of TCP, UDP, UDP-Lite, SCTP;
//! ICMP and ICMPv6 as `ConnKey` describes. Tunnels are not looked into: the packet that this
//! interface carries is the outer one. The one exception is in [`dsr`](crate::dsr).

mod ip;
mod transport;

use crate::key::Ends;
use crate::packet::Packet;
use crate::tcp;

pub use ip::MAX_EXTENSIONS;

/// Length of an Ethernet header, bytes.
pub const ETHERNET: u32 = 14;

/// EtherType of IPv4.
pub const ETH_IPV4: u16 = 0x0800;
/// EtherType of IPv6.
pub const ETH_IPV6: u16 = 0x86dd;
const ETH_ARP: u16 = 0x0806;
const ETH_VLAN: u16 = 0x8100;
const ETH_QINQ: u16 = 0x88a8;

/// IP protocol numbers with a meaning here.
pub const ICMP: u8 = 1;
/// IPv4 in IP (RFC 2003).
pub const IPIP: u8 = 4;
/// TCP.
pub const TCP: u8 = 6;
/// UDP.
pub const UDP: u8 = 17;
/// IPv6 in IP (RFC 2473).
pub const IPV6: u8 = 41;
/// ICMPv6.
pub const ICMPV6: u8 = 58;
/// SCTP.
pub const SCTP: u8 = 132;
/// UDP-Lite.
pub const UDPLITE: u8 = 136;

/// No ICMP type.
pub const NO_TYPE: u16 = 0xffff;

/// Why a frame has no [`Headers`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unparsed {
    /// ARP.
    Arp,
    /// Neither IP nor ARP.
    Other,
    /// IP that contradicts itself.
    Malformed,
    /// A header lies (partly) beyond what could be read.
    Short,
}

/// What TCP's header says (RFC 9293, 3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tcp {
    /// Sequence number.
    pub sequence: u32,
    /// Acknowledgement number.
    pub acknowledgement: u32,
    /// The eight flags.
    pub flags: u8,
}

/// Part of a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fragment(u8);

/// A packet's headers. Aligned, for it lies on the stack, where BPF allows no unaligned access.
#[repr(C, align(8))]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Headers {
    /// Source address, IPv4 as `::ffff:a.b.c.d`.
    pub source: [u8; 16],
    /// Destination address.
    pub destination: [u8; 16],
    /// Source port, or what `ConnKey` puts in its place.
    pub source_port: u16,
    /// Destination port.
    pub destination_port: u16,
    /// Transport protocol.
    pub protocol: u8,
    /// Which part of a datagram this is.
    pub fragment: Fragment,
    /// Where the transport header begins, or a later fragment's part of the payload.
    pub transport_offset: u16,
    /// For fragments: their identification.
    pub identification: u32,
    /// For fragments: protocol by the IP or fragment header.
    pub fragment_protocol: u8,
    /// 4 or 6.
    pub version: u8,
    /// For ICMP: its type, or [`NO_TYPE`] where it is unknown (a fragment without its first).
    pub icmp_type: u16,
    /// For TCP: its header, if it is here (see [`Headers::tcp`]).
    pub tcp: Tcp,
    /// Where the network header begins, bytes from the frame's beginning.
    pub network_offset: u32,
    /// Bytes of the network and transport headers.
    pub header_bytes: u32,
    /// Bytes of payload behind the transport header, by the IP header (so without padding).
    pub payload_bytes: u32,
}

/// Parses a frame. `link_header` is its length: [`ETHERNET`], or 0 where the device has none and
/// `ethertype` tells the protocol.
pub fn frame<P: Packet>(
    packet: &P,
    link_header: u32,
    ethertype: u16,
    length: u32,
) -> Result<Headers, Unparsed> {
    let mut headers = Headers::NONE;
    frame_into(packet, link_header, ethertype, length, &mut headers)?;
    Ok(headers)
}

/// Like [`frame`], in place: a BPF program's stack of 512 bytes has no room for copies. After an
/// error the headers are incomplete.
#[inline(always)]
pub fn frame_into<P: Packet>(
    packet: &P,
    link_header: u32,
    ethertype: u16,
    length: u32,
    headers: &mut Headers,
) -> Result<(), Unparsed> {
    let mut ethertype = ethertype;
    let mut offset = link_header;
    if link_header != 0 {
        ethertype = number(packet, 12)?;
        if is_tag(ethertype) {
            (ethertype, offset) = tagged(packet)?;
        }
    }
    let offset = offset ^ packet.zero();
    packet_into(packet, offset, ethertype, length, headers)
}

/// Like [`frame_into`], from the network header on.
#[inline(always)]
pub fn packet_into<P: Packet>(
    packet: &P,
    offset: u32,
    ethertype: u16,
    length: u32,
    headers: &mut Headers,
) -> Result<(), Unparsed> {
    let available = length.saturating_sub(offset);
    headers.network_offset = offset;
    let at = match ethertype {
        ETH_IPV4 => ip::v4(packet, offset, available, headers)?,
        ETH_IPV6 => ip::v6(packet, offset, available, headers)?,
        ETH_ARP => return Err(Unparsed::Arp),
        _ => return Err(Unparsed::Other),
    };
    headers.forget(packet.zero());
    let at = at ^ packet.zero();
    headers.transport_offset = at as u16;
    transport::parse(packet, headers, at)?;
    headers.forget(packet.zero());
    Ok(())
}

/// EtherType and offset behind one or two VLAN tags; a third is not looked behind.
#[inline(always)]
fn tagged<P: Packet>(packet: &P) -> Result<(u16, u32), Unparsed> {
    let ethertype = number(packet, 16)?;
    if !is_tag(ethertype) {
        return Ok((ethertype, 18));
    }
    let ethertype = number(packet, 20)?;
    Ok((ethertype, 22))
}

/// A 16-bit number. (`Option::ok_or` on an array would do, but puts its bytes where the error's would
/// be, and so makes LLVM copy them one by one.)
#[inline(always)]
fn number<P: Packet>(packet: &P, offset: u32) -> Result<u16, Unparsed> {
    match packet.load(offset) {
        Some(bytes) => Ok(u16::from_be_bytes(bytes)),
        None => Err(Unparsed::Short),
    }
}

#[inline(always)]
fn is_tag(ethertype: u16) -> bool {
    matches!(ethertype, ETH_VLAN | ETH_QINQ)
}

// === impl Fragment ===

impl Fragment {
    /// The packet is whole.
    pub const WHOLE: Self = Self(0);
    /// The first fragment: has the ports.
    pub const FIRST: Self = Self(1);
    /// A later one: has none.
    pub const LATER: Self = Self(2);
}

// === impl Headers ===

impl Headers {
    /// Nothing parsed.
    pub const NONE: Self = Self {
        source: [0; 16],
        destination: [0; 16],
        source_port: 0,
        destination_port: 0,
        protocol: 0,
        fragment: Fragment::WHOLE,
        transport_offset: 0,
        identification: 0,
        fragment_protocol: 0,
        version: 0,
        icmp_type: NO_TYPE,
        tcp: Tcp { sequence: 0, acknowledgement: 0, flags: 0 },
        network_offset: 0,
        header_bytes: 0,
        payload_bytes: 0,
    };

    /// Source and destination.
    #[inline(always)]
    pub(crate) fn ends(&self) -> Ends {
        Ends {
            source: self.source,
            destination: self.destination,
            source_port: self.source_port,
            destination_port: self.destination_port,
            protocol: self.protocol,
        }
    }

    /// Gives it another source and destination.
    #[inline(always)]
    pub(crate) fn set_ends(&mut self, ends: &Ends) {
        self.source = ends.source;
        self.destination = ends.destination;
        self.source_port = ends.source_port;
        self.destination_port = ends.destination_port;
    }

    /// Changes nothing; see [`Packet::zero`].
    #[inline(always)]
    pub(crate) fn forget(&mut self, zero: u32) {
        self.source_port ^= zero as u16;
        self.destination_port ^= zero as u16;
        self.protocol ^= zero as u8;
        self.fragment.0 ^= zero as u8;
        self.fragment_protocol ^= zero as u8;
        self.version ^= zero as u8;
        self.transport_offset ^= zero as u16;
        self.icmp_type ^= zero as u16;
        self.identification ^= zero;
        self.header_bytes ^= zero;
        self.payload_bytes ^= zero;
    }

    /// Direction of the client, were a packet with these headers and of this direction a connection's
    /// first: its sender, unless it is an answer (TCP SYN-ACK, ICMP echo reply).
    #[inline(always)]
    pub fn client(&self, direction: usize) -> usize {
        let answers = match self.tcp() {
            Some(header) => tcp::is_answer(header.flags),
            None => self.is_echo_reply(),
        };
        direction ^ usize::from(answers)
    }

    #[inline(always)]
    fn is_echo_reply(&self) -> bool {
        (self.protocol == ICMP && self.icmp_type == 0)
            || (self.protocol == ICMPV6 && self.icmp_type == 129)
    }

    /// TCP's header, if it is here.
    #[inline(always)]
    pub fn tcp(&self) -> Option<&Tcp> {
        (self.protocol == TCP && self.fragment != Fragment::LATER).then_some(&self.tcp)
    }
}
