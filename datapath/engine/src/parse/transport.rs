//! The transport layer.

use super::{Fragment, Headers, ICMP, ICMPV6, SCTP, TCP, Tcp, UDP, UDPLITE, Unparsed, number};
use crate::packet::Packet;

/// Adds what the transport header at `at` says; a later fragment has none.
#[inline(always)]
pub(super) fn parse<P: Packet>(packet: &P, headers: &mut Headers, at: u32) -> Result<(), Unparsed> {
    if headers.fragment == Fragment::LATER {
        return Ok(());
    }
    match headers.protocol {
        TCP => tcp(packet, headers, at),
        UDP | UDPLITE => ports(packet, headers, at, 8),
        SCTP => ports(packet, headers, at, 12),
        ICMP => icmp(packet, headers, at, [8, 0]),
        ICMPV6 => icmp(packet, headers, at, [128, 129]),
        _ => Ok(()),
    }
}

#[inline(always)]
fn tcp<P: Packet>(packet: &P, headers: &mut Headers, at: u32) -> Result<(), Unparsed> {
    let Some(header) = packet.load::<20>(at) else {
        return Err(Unparsed::Short);
    };
    let header_bytes = u32::from(header[12] >> 4) * 4;
    if header_bytes < 20 {
        return Err(Unparsed::Malformed);
    }
    headers.source_port = u16::from_be_bytes([header[0], header[1]]);
    headers.destination_port = u16::from_be_bytes([header[2], header[3]]);
    headers.tcp = Tcp {
        sequence: u32::from_be_bytes([header[4], header[5], header[6], header[7]]),
        acknowledgement: u32::from_be_bytes([header[8], header[9], header[10], header[11]]),
        flags: header[13],
    };
    consume(headers, header_bytes)
}

#[inline(always)]
fn ports<P: Packet>(
    packet: &P,
    headers: &mut Headers,
    at: u32,
    header_bytes: u32,
) -> Result<(), Unparsed> {
    let Some([a, b, c, d]) = packet.load(at) else {
        return Err(Unparsed::Short);
    };
    headers.source_port = u16::from_be_bytes([a, b]);
    headers.destination_port = u16::from_be_bytes([c, d]);
    consume(headers, header_bytes)
}

/// An echo's identifier, or type and code, on both ends.
#[inline(always)]
fn icmp<P: Packet>(
    packet: &P,
    headers: &mut Headers,
    at: u32,
    echo: [u8; 2],
) -> Result<(), Unparsed> {
    let Some([kind, code]) = packet.load(at) else {
        return Err(Unparsed::Short);
    };
    let port = if kind == echo[0] || kind == echo[1] {
        number(packet, at + 4)?
    } else {
        u16::from_be_bytes([kind, code])
    };
    headers.source_port = port;
    headers.destination_port = port;
    headers.icmp_type = u16::from(kind);
    consume(headers, 8)
}

/// Moves the transport header from the payload to the headers.
#[inline(always)]
fn consume(headers: &mut Headers, bytes: u32) -> Result<(), Unparsed> {
    if bytes > headers.payload_bytes {
        return Err(Unparsed::Malformed);
    }
    headers.header_bytes += bytes;
    headers.payload_bytes -= bytes;
    Ok(())
}
