//! The network layer.

use super::{Fragment, Headers, Unparsed};
use crate::packet::Packet;

/// Most extension headers that an IPv6 packet may have (RFC 8200, 4.1 names six, one of them twice).
pub const MAX_EXTENSIONS: u32 = 8;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION: u8 = 60;

/// Fills in the network layer; returns the transport's offset.
#[inline(always)]
pub(super) fn v4<P: Packet>(
    packet: &P,
    offset: u32,
    available: u32,
    headers: &mut Headers,
) -> Result<u32, Unparsed> {
    let Some(header) = packet.load::<20>(offset) else {
        return Err(Unparsed::Short);
    };
    let header_bytes = u32::from(header[0] & 0xf) * 4;
    // A total length of 0 is a super-packet above 64 KiB (BIG TCP).
    let total = match u32::from(u16::from_be_bytes([header[2], header[3]])) {
        0 => available,
        total => total,
    };
    if header[0] >> 4 != 4 || header_bytes < 20 || total < header_bytes || total > available {
        return Err(Unparsed::Malformed);
    }
    let part = u16::from_be_bytes([header[6], header[7]]);
    headers.source = mapped([header[12], header[13], header[14], header[15]]);
    headers.destination = mapped([header[16], header[17], header[18], header[19]]);
    headers.protocol = header[9];
    headers.fragment = fragment(part & 0x1fff != 0, part & 0x2000 != 0);
    headers.identification = u32::from(u16::from_be_bytes([header[4], header[5]]));
    headers.fragment_protocol = header[9];
    headers.version = 4;
    headers.header_bytes = header_bytes;
    headers.payload_bytes = total - header_bytes;
    Ok(offset + header_bytes)
}

/// Fills in the network layer; returns the transport's offset.
#[inline(always)]
pub(super) fn v6<P: Packet>(
    packet: &P,
    offset: u32,
    available: u32,
    headers: &mut Headers,
) -> Result<u32, Unparsed> {
    let Some(header) = packet.load::<8>(offset) else {
        return Err(Unparsed::Short);
    };
    // A payload length of 0 is a jumbogram or a super-packet above 64 KiB (RFC 2675, BIG TCP).
    let total = match u32::from(u16::from_be_bytes([header[4], header[5]])) {
        0 => available,
        payload => payload + 40,
    };
    if header[0] >> 4 != 6 || total > available || total < 40 {
        return Err(Unparsed::Malformed);
    }
    let (Some(source), Some(destination)) = (packet.load(offset + 8), packet.load(offset + 24))
    else {
        return Err(Unparsed::Short);
    };
    headers.source = source;
    headers.destination = destination;
    headers.protocol = header[6];
    headers.fragment = Fragment::WHOLE;
    headers.version = 6;
    headers.header_bytes = 40;
    if is_extension(headers.protocol) {
        extensions(packet, offset, headers)?;
    }
    if headers.header_bytes > total {
        return Err(Unparsed::Malformed);
    }
    headers.payload_bytes = total - headers.header_bytes;
    Ok(offset + headers.header_bytes)
}

/// Walks the extension headers up to the transport, or to the end of a later fragment's own.
#[inline(always)]
fn extensions<P: Packet>(packet: &P, offset: u32, headers: &mut Headers) -> Result<(), Unparsed> {
    let mut at = offset + 40;
    for _ in 0..MAX_EXTENSIONS {
        at ^= packet.zero();
        let Some([next, length]) = packet.load(at) else {
            return Err(Unparsed::Short);
        };
        let bytes = match headers.protocol {
            FRAGMENT => {
                part(packet, at, next, headers)?;
                8
            }
            AUTHENTICATION => u32::from(length) * 4 + 8,
            _ => u32::from(length) * 8 + 8,
        };
        at += bytes;
        headers.protocol = next;
        if headers.fragment == Fragment::LATER || !is_extension(next) {
            headers.header_bytes = at.saturating_sub(offset);
            return Ok(());
        }
    }
    Err(Unparsed::Malformed)
}

/// A fragment header at `at`.
#[inline(always)]
fn part<P: Packet>(packet: &P, at: u32, next: u8, headers: &mut Headers) -> Result<(), Unparsed> {
    let Some([high, low, a, b, c, d]) = packet.load(at + 2) else {
        return Err(Unparsed::Short);
    };
    let part = u16::from_be_bytes([high, low]);
    headers.fragment = fragment(part & 0xfff8 != 0, part & 1 != 0);
    headers.identification = u32::from_be_bytes([a, b, c, d]);
    headers.fragment_protocol = next;
    headers.forget(packet.zero());
    Ok(())
}

#[inline(always)]
fn is_extension(protocol: u8) -> bool {
    matches!(protocol, HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION)
}

#[inline(always)]
fn fragment(later: bool, more: bool) -> Fragment {
    match (later, more) {
        (true, _) => Fragment::LATER,
        (false, true) => Fragment::FIRST,
        (false, false) => Fragment::WHOLE,
    }
}

#[inline(always)]
fn mapped([a, b, c, d]: [u8; 4]) -> [u8; 16] {
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]
}
