//! Answers to refused packets, for senders that would else wait for their timeout.
//!
//! A TCP segment gets a reset (RFC 9293, 3.10.7.1) where that is wanted. Everything else gets
//! "administratively prohibited" (ICMP type 3 code 13, RFC 1812 5.2.7.1; ICMPv6 type 1 code 1, RFC 4443 3.1), with
//! the network header and the 8 bytes behind it (RFC 792; RFC 4443 asks for more, which would have answers
//! larger than what they answer). Where a service has no backend it is "port unreachable" (type 3 code 3; ICMPv6 type 1
//! code 4), and always a reset, as from a host where nobody listens. What is too long for the way to a backend on another
//! node gets "fragmentation needed" (type 3 code 4, RFC 1191) or "packet too big" (ICMPv6 type 2). All come from the address
//! that the packet went to.
//!
//! Never answered (RFC 1122 3.2.2, RFC 1812 4.3.2.7, RFC 4443 2.4 e): ICMP other than echo requests; resets;
//! fragments but the first; what went to more than one receiver, or came from no single sender. Nor what has
//! IPv4 options, IPv6 extension headers or a VLAN tag, or passes a device without Ethernet header.

use crate::enforce::Seen;
use crate::packet::Packet;
use crate::parse::{ETH_IPV4, ETHERNET, Fragment, Headers, ICMP, ICMPV6, TCP};
use crate::tcp;

/// Answers in a second and CPU, and at once (RFC 1812 4.3.2.8, RFC 4443 2.4 f).
pub const PER_SECOND: u64 = 1000;
/// See [`PER_SECOND`].
pub const BURST: u64 = 100;

/// Length of the longest answer, bytes: ICMPv6.
pub const LONGEST: usize = LINK + 40 + 8 + 40 + QUOTED;

const LINK: usize = ETHERNET as usize;
/// Network headers without options.
const V4: usize = 20;
const V6: usize = 40;
/// Bytes behind the network header that an ICMP error quotes.
const QUOTED: usize = 8;
/// Time to live of an answer.
const TTL: u8 = 64;
/// Differentiated services of ICMP errors: internetwork control (RFC 1812, 4.3.2.5).
const CONTROL: u8 = 0xc0;

/// Type and code of the errors, as they stand in place of ports.
const UNREACHABLE_13: u16 = 3 << 8 | 13;
const UNREACHABLE_3: u16 = 3 << 8 | 3;
const UNREACHABLE_1: u16 = 1 << 8 | 1;
const UNREACHABLE_4: u16 = 1 << 8 | 4;
const FRAGMENTATION_NEEDED: u16 = 3 << 8 | 4;

/// Which answer.
#[derive(Debug, Clone, Copy)]
pub struct Kind {
    /// Whether TCP gets a reset.
    pub reset: u32,
    /// What the error says of the way's MTU; else 0.
    mtu: u32,
    code_v4: u8,
    type_v6: u8,
    code_v6: u8,
}

/// An answer's frame. Large, as [`Case`](crate::Case) is.
#[repr(C, align(8))]
#[derive(Debug, Clone, Copy)]
pub struct Answer {
    /// Its bytes, and zeroes.
    pub bytes: [u8; LONGEST],
    /// How many.
    pub length: u32,
}

/// What an answer says.
struct Message {
    protocol: u8,
    services: u8,
    /// Bytes behind the network header.
    length: usize,
}

/// Puts the answer to a refused packet together; false where it has none.
#[inline(always)]
pub fn answer<P: Packet>(packet: &P, seen: &Seen, kind: Kind, answer: &mut Answer) -> bool {
    if !is_answerable(seen) {
        return false;
    }
    answer.bytes = [0; LONGEST];
    let Some(ethertype) = answer.turn(packet) else {
        return false;
    };
    let reset = kind.reset != 0 && seen.headers.protocol == TCP;
    let filled = if ethertype == ETH_IPV4 {
        answer.fill_v4(packet, &seen.headers, reset, &kind)
    } else {
        answer.fill_v6(packet, &seen.headers, reset, &kind)
    };
    filled.is_some()
}

/// Whether the packet looks like an answer.
#[inline(always)]
pub fn is_answer(headers: &Headers) -> bool {
    match headers.protocol {
        TCP => {
            headers.payload_bytes == 0
                && headers.tcp().is_some_and(|header| header.flags & tcp::RST != 0)
        }
        ICMP => {
            let code = headers.source_port;
            headers.icmp_type == 3
                && matches!(code, UNREACHABLE_13 | UNREACHABLE_3 | FRAGMENTATION_NEEDED)
        }
        ICMPV6 => {
            headers.icmp_type == 2
                || headers.icmp_type == 1
                    && matches!(headers.source_port, UNREACHABLE_1 | UNREACHABLE_4)
        }
        _ => false,
    }
}

/// Whether the rate allows an answer now; `next_ns`: see
/// [`AnswerCounters`](datapath_abi::answer::AnswerCounters).
#[inline(always)]
pub fn is_due(next_ns: &mut u64, now_ns: u64) -> bool {
    const INTERVAL: u64 = 1_000_000_000 / PER_SECOND;
    let earliest = now_ns.saturating_sub((BURST - 1) * INTERVAL);
    let due = if *next_ns < earliest { earliest } else { *next_ns };
    let allowed = due <= now_ns;
    if allowed {
        *next_ns = due + INTERVAL;
    }
    allowed
}

/// By what its headers say.
#[inline(always)]
fn is_answerable(seen: &Seen) -> bool {
    let headers = &seen.headers;
    let answered = match headers.protocol {
        TCP => headers.tcp.flags & tcp::RST == 0,
        ICMP => headers.icmp_type == 8,
        ICMPV6 => headers.icmp_type == 128,
        _ => true,
    };
    answered
        && headers.fragment != Fragment::LATER
        && seen.frame.link_header == ETHERNET
        && headers.network_offset == ETHERNET
}

/// Neither unspecified nor loopback, multicast, reserved or broadcast.
#[inline(always)]
fn is_unicast_v4(first: u8) -> bool {
    first != 0 && first != 127 && first < 224
}

/// Neither unspecified nor multicast.
#[inline(always)]
fn is_unicast_v6(address: [u8; 16]) -> bool {
    u128::from_ne_bytes(address) != 0 && address[0] != 0xff
}

/// The sum of RFC 1071 over whole words.
#[inline(always)]
fn sum(bytes: &[u8]) -> u32 {
    bytes
        .chunks_exact(2)
        .fold(0, |sum, word| sum + u32::from(u16::from_be_bytes([word[0], word[1]])))
}

#[inline(always)]
fn checksum(sum: u32) -> [u8; 2] {
    let once = (sum & 0xffff) + (sum >> 16);
    (!((once & 0xffff) + (once >> 16)) as u16).to_be_bytes()
}

// === impl Message ===

impl Message {
    /// An error that quotes a network header of this length.
    #[inline(always)]
    fn error(protocol: u8, header: usize) -> Self {
        Self { protocol, services: CONTROL, length: 8 + header + QUOTED }
    }

    const RESET: Self = Self { protocol: TCP, services: 0, length: 20 };
}

// === impl Kind ===

impl Kind {
    /// To what the policy refused.
    #[inline(always)]
    pub fn prohibited(reset: bool) -> Self {
        Self { reset: u32::from(reset), code_v4: 13, code_v6: 1, ..Self::UNREACHABLE }
    }

    /// To what a service refused.
    pub const UNREACHABLE: Self = Self { reset: 1, mtu: 0, code_v4: 3, type_v6: 1, code_v6: 4 };

    /// To what is longer than this.
    #[inline(always)]
    pub fn too_big(mtu: u32) -> Self {
        Self { reset: 0, mtu, code_v4: 4, type_v6: 2, code_v6: 0 }
    }
}

// === impl Answer ===

impl Answer {
    /// Nothing.
    pub const NONE: Self = Self { bytes: [0; LONGEST], length: 0 };

    /// The link header, back to the sender; returns its EtherType. None where the frame went to a group: multicast or
    /// broadcast, also that of a network, which no address tells.
    ///
    /// Here and below bytes go from the packet to where they stay: on the stack they would be unaligned.
    #[inline(always)]
    fn turn<P: Packet>(&mut self, packet: &P) -> Option<u16> {
        self.put(0, &packet.load::<6>(6)?);
        self.put(6, &packet.load::<6>(0)?);
        let ethertype = packet.load(12)?;
        self.put(12, &ethertype);
        (self.bytes[6] & 1 == 0).then_some(u16::from_be_bytes(ethertype))
    }

    #[inline(always)]
    fn fill_v4<P: Packet>(
        &mut self,
        packet: &P,
        headers: &Headers,
        reset: bool,
        kind: &Kind,
    ) -> Option<()> {
        const TRANSPORT: usize = LINK + V4;
        const QUOTE: usize = TRANSPORT + 8;
        self.put(QUOTE, &packet.load::<V4>(ETHERNET)?);
        let unicast =
            is_unicast_v4(self.bytes[QUOTE + 12]) && is_unicast_v4(self.bytes[QUOTE + 16]);
        if self.bytes[QUOTE] != 0x45 || !unicast {
            return None;
        }
        let message = if reset {
            self.reset(TRANSPORT, headers);
            Message::RESET
        } else {
            self.error(TRANSPORT, packet, headers, V4, [3, kind.code_v4], kind.mtu)?;
            self.put(TRANSPORT + 2, &checksum(sum(&self.bytes[TRANSPORT..])));
            Message::error(ICMP, V4)
        };
        let [high, low] = ((V4 + message.length) as u16).to_be_bytes();
        self.put(LINK, &[0x45, message.services, high, low, 0, 0, 0x40, 0, TTL, message.protocol]);
        let [.., a, b, c, d] = headers.destination;
        let [.., e, f, g, h] = headers.source;
        self.put(LINK + 12, &[a, b, c, d, e, f, g, h]);
        self.put(LINK + 10, &checksum(sum(&self.bytes[LINK..TRANSPORT])));
        self.length = (TRANSPORT + message.length) as u32;
        Some(())
    }

    #[inline(always)]
    fn fill_v6<P: Packet>(
        &mut self,
        packet: &P,
        headers: &Headers,
        reset: bool,
        kind: &Kind,
    ) -> Option<()> {
        const TRANSPORT: usize = LINK + V6;
        const QUOTE: usize = TRANSPORT + 8;
        self.put(QUOTE, &packet.load::<V6>(ETHERNET)?);
        let unicast = is_unicast_v6(headers.source) && is_unicast_v6(headers.destination);
        if self.bytes[QUOTE + 6] != headers.protocol || !unicast {
            return None;
        }
        let message = if reset {
            self.reset(TRANSPORT, headers);
            Message::RESET
        } else {
            self.error(TRANSPORT, packet, headers, V6, [kind.type_v6, kind.code_v6], kind.mtu)?;
            let message = Message::error(ICMPV6, V6);
            let sum = sum(&self.bytes[TRANSPORT..]) + pseudo_header(headers, &message);
            self.put(TRANSPORT + 2, &checksum(sum));
            message
        };
        let [high, low] = (message.length as u16).to_be_bytes();
        let [class, flow] = [0x60 | message.services >> 4, message.services << 4];
        self.put(LINK, &[class, flow, 0, 0, high, low, message.protocol, TTL]);
        self.put(LINK + 8, &headers.destination);
        self.put(LINK + 24, &headers.source);
        self.length = (TRANSPORT + message.length) as u32;
        Some(())
    }

    /// A TCP header whose sender is the refused segment's receiver.
    #[inline(always)]
    fn reset(&mut self, at: usize, headers: &Headers) {
        let segment = &headers.tcp;
        let consumed = headers.payload_bytes
            + u32::from(segment.flags & tcp::SYN != 0)
            + u32::from(segment.flags & tcp::FIN != 0);
        let (sequence, acknowledgement, flags) = if segment.flags & tcp::ACK != 0 {
            (segment.acknowledgement, 0, tcp::RST)
        } else {
            (0, segment.sequence.wrapping_add(consumed), tcp::RST | tcp::ACK)
        };
        let [a, b] = headers.destination_port.to_be_bytes();
        let [c, d] = headers.source_port.to_be_bytes();
        self.put(at, &[a, b, c, d]);
        self.put(at + 4, &sequence.to_be_bytes());
        self.put(at + 8, &acknowledgement.to_be_bytes());
        self.put(at + 12, &[5 << 4, flags, 0, 0, 0, 0, 0, 0]);
        let sum = sum(&self.bytes[at..at + 20]) + pseudo_header(headers, &Message::RESET);
        self.put(at + 16, &checksum(sum));
    }

    /// An ICMP error about a packet whose network header of length `header` stands in its place; none where there is
    /// not enough behind it.
    #[inline(always)]
    fn error<P: Packet>(
        &mut self,
        at: usize,
        packet: &P,
        about: &Headers,
        header: usize,
        type_and_code: [u8; 2],
        mtu: u32,
    ) -> Option<()> {
        if about.header_bytes + about.payload_bytes < (header + QUOTED) as u32 {
            return None;
        }
        self.put(at, &type_and_code);
        self.put(at + 4, &mtu.to_be_bytes());
        self.put(at + 8 + header, &packet.load::<QUOTED>(ETHERNET + header as u32)?);
        Some(())
    }

    /// Within the frame wherever it is called.
    #[inline(always)]
    fn put<const N: usize>(&mut self, at: usize, value: &[u8; N]) {
        if let Some(place) = self.bytes.get_mut(at..).and_then(|rest| rest.first_chunk_mut()) {
            *place = *value;
        }
    }
}

/// Sum of the pseudo-header (RFC 9293 3.1, RFC 8200 8.1). `::ffff:` before an IPv4 address adds nothing: 0xffff is a zero.
#[inline(always)]
fn pseudo_header(headers: &Headers, message: &Message) -> u32 {
    sum(&headers.source)
        + sum(&headers.destination)
        + message.length as u32
        + u32::from(message.protocol)
}
