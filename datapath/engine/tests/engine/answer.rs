//! What a refused packet is answered, and which are not.

use datapath_abi::iface::INGRESS;
use datapath_engine::answer::{Answer, BURST, Kind, PER_SECOND, answer, is_answer, is_due};
use datapath_engine::parse::{self, ETHERNET, Headers};
use datapath_engine::{Frame, Seen, Slice};
use proptest::prelude::*;

use crate::engine::build::{A4, A6, B4, B6, Build, Segment};

const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;
const A_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const B_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

fn headers(bytes: &[u8]) -> Headers {
    parse::frame(&Slice(bytes), ETHERNET, 0, bytes.len() as u32).unwrap()
}

/// The answer to a frame that goes from A to B.
fn answered(mut bytes: Vec<u8>, reset: bool) -> Option<Vec<u8>> {
    bytes[..6].copy_from_slice(&B_MAC);
    bytes[6..12].copy_from_slice(&A_MAC);
    to(&bytes, reset)
}

fn to(bytes: &[u8], reset: bool) -> Option<Vec<u8>> {
    let length = bytes.len() as u32;
    let frame = Frame {
        ifindex: 7,
        hook: INGRESS,
        length,
        segments: 0,
        link_header: 14,
        ethertype: 0,
        outer: 0,
    };
    let headers = headers(bytes);
    let mut found = Answer::NONE;
    let seen = Seen { frame, headers, ..Seen::NONE };
    answer(&Slice(bytes), &seen, Kind::prohibited(reset), &mut found)
        .then(|| found.bytes[..found.length as usize].to_vec())
}

fn segment(flags: u8, payload: usize) -> Build {
    let ports = (5000, 80);
    Build::payload(payload).tcp(Segment { ports, flags, sequence: 1000, acknowledgement: 77 })
}

fn v4(flags: u8, payload: usize) -> Vec<u8> {
    segment(flags, payload).v4(6, A4, B4).eth4().0
}

fn v6(flags: u8, payload: usize) -> Vec<u8> {
    segment(flags, payload).v6(6, A6, B6).eth6().0
}

/// The sum of RFC 1071, which is 0xffff over what a checksum covers.
fn sum(parts: &[&[u8]]) -> u32 {
    let bytes = parts.concat();
    let words = bytes
        .chunks(2)
        .map(|word| u32::from(u16::from_be_bytes([word[0], word.get(1).copied().unwrap_or(0)])));
    let sum: u32 = words.sum();
    let once = (sum & 0xffff) + (sum >> 16);
    (once & 0xffff) + (once >> 16)
}

/// Checks link header, addresses, lengths and checksums of an answer from B to A.
fn check(bytes: &[u8]) {
    assert_eq!((&bytes[..6], &bytes[6..12]), (&A_MAC[..], &B_MAC[..]));
    let headers = headers(bytes);
    assert!(is_answer(&headers));
    let payload = headers.header_bytes + headers.payload_bytes;
    assert_eq!(payload as usize, bytes.len() - 14, "not a byte more");
    let (header, protocol) = if bytes[12] == 8 {
        assert_eq!(sum(&[&bytes[14..34]]), 0xffff, "IPv4 header");
        assert_eq!((&bytes[26..30], &bytes[30..34]), (&B4[..], &A4[..]));
        (20, bytes[23])
    } else {
        assert_eq!((headers.source, headers.destination), (B6, A6));
        (40, bytes[20])
    };
    let transport = &bytes[14 + header..];
    let length = [0, transport.len() as u8, 0, protocol];
    let addresses = if header == 20 { &bytes[26..34] } else { &bytes[22..54] };
    let pseudo: &[&[u8]] = if protocol == 1 { &[] } else { &[addresses, &length] };
    assert_eq!(sum(&[&[transport], pseudo].concat()), 0xffff, "protocol {protocol}");
}

#[test]
fn a_segment_is_reset() {
    for (make, at) in [(v4 as fn(u8, usize) -> Vec<u8>, 34), (v6, 54)] {
        // Its flags, bytes of data; what comes back (RFC 9293, 3.10.7.1).
        for (flags, payload, sequence, acknowledgement, back) in [
            (SYN, 0, 0, 1001, RST | ACK),
            (SYN, 5, 0, 1006, RST | ACK),
            (1, 3, 0, 1004, RST | ACK),
            (0, 0, 0, 1000, RST | ACK),
            (ACK, 100, 77, 0, RST),
            (SYN | ACK, 0, 77, 0, RST),
        ] {
            let bytes = answered(make(flags, payload), true).unwrap();
            check(&bytes);
            let tcp = headers(&bytes);
            assert_eq!((tcp.source_port, tcp.destination_port), (80, 5000));
            let found = (tcp.tcp.sequence, tcp.tcp.acknowledgement, tcp.tcp.flags);
            assert_eq!(found, (sequence, acknowledgement, back), "{flags}");
            assert_eq!(bytes.len(), at + 20);
        }
    }
}

#[test]
fn everything_else_is_prohibited() {
    let echo = Build::payload(8).icmp(8, 0, 77).v4(1, A4, B4).eth4().0;
    let echo6 = Build::payload(8).icmp(128, 0, 77).v6(58, A6, B6).eth6().0;
    let udp = Build::payload(0).udp(5000, 53);
    let questions = [
        (v4(SYN, 0), false, 34),
        (v6(SYN, 0), false, 54),
        (udp.clone().v4(17, A4, B4).eth4().padded().0, true, 34),
        (udp.clone().v6(17, A6, B6).eth6().0, true, 54),
        (udp.v4_part(17, A4, B4, 9, 0x2000).eth4().0, true, 34),
        (Build::payload(0).sctp(1, 2).v4(132, A4, B4).eth4().0, true, 34),
        (Build::payload(8).v4(47, A4, B4).eth4().0, true, 34),
        (echo, true, 34),
        (echo6, true, 54),
    ];
    for (question, reset, at) in questions {
        let bytes = answered(question.clone(), reset).unwrap();
        check(&bytes);
        assert_eq!(bytes[at..at + 2], if at == 34 { [3, 13] } else { [1, 1] });
        assert_eq!(bytes[at + 4..at + 8], [0; 4]);
        assert_eq!(bytes[at + 8..], question[14..at + 8], "what it is about");
    }
}

#[test]
fn some_are_never_answered() {
    let udp = || Build::payload(10).udp(5000, 53);
    let icmp = |kind, code| Build::payload(28).icmp(kind, code, 0).v4(1, A4, B4).eth4().0;
    let icmp6 = |kind| Build::payload(48).icmp(kind, 0, 0).v6(58, A6, B6).eth6().0;
    let from4 = |source| udp().v4(17, source, B4).eth4().0;
    let to4 = |destination| udp().v4(17, A4, destination).eth4().0;
    let mut group = [0; 16];
    group[0] = 0xff;
    let mut questions = vec![
        v4(RST, 0),
        v6(RST | ACK, 0),
        udp().v4_part(17, A4, B4, 3, 5).eth4().0,
        udp().fragment6(17, 8, 3).v6(44, A6, B6).eth6().0,
        udp().fragment6(17, 1, 3).v6(44, A6, B6).eth6().0,
        udp().options(17, 0).v6(60, A6, B6).eth6().0,
        udp().v4(17, A4, B4).tag(0x8100, 0x0800).0,
        Build::payload(7).v4(47, A4, B4).eth4().padded().0,
        udp().v6(17, [0; 16], B6).eth6().0,
        udp().v6(17, group, B6).eth6().0,
        udp().v6(17, A6, group).eth6().0,
    ];
    questions.extend([[0, 0, 0, 0], [127, 0, 0, 1], [224, 0, 0, 1], [255; 4]].map(from4));
    questions.extend([[224, 0, 0, 251], [255; 4]].map(to4));
    questions.extend([(0, 0), (3, 3), (5, 0), (11, 0), (12, 0), (13, 0)].map(|(k, c)| icmp(k, c)));
    questions.extend([1, 2, 3, 4, 129, 137].map(icmp6));
    for question in questions {
        for reset in [false, true] {
            assert_eq!(answered(question.clone(), reset), None, "{question:02x?}");
        }
    }
    // The network's own broadcast: only the link layer knows.
    let mut frame = to4([10, 0, 0, 255]);
    assert!(to(&frame, false).is_some());
    frame[..6].copy_from_slice(&[0xff; 6]);
    assert_eq!(to(&frame, false), None);
}

#[test]
fn answers_are_rare() {
    let (mut next, mut sent) = (0, 0);
    let start = 7_000_000_000;
    for microsecond in 0..2_000_000 {
        sent += u64::from(is_due(&mut next, start + microsecond * 1000));
    }
    assert_eq!(sent, BURST + 2 * PER_SECOND - 1);
    // What was not sent is not saved up.
    let later = start + 3_600_000_000_000;
    let at_once = (0..10_000).filter(|_| is_due(&mut next, later)).count();
    assert_eq!(at_once as u64, BURST);
}

proptest! {
    /// Of whatever there is, and never to an answer.
    #[test]
    fn any_answer_is_well_formed(
        mut bytes in prop::collection::vec(any::<u8>(), 34..120),
        v6: bool,
        protocol in prop::sample::select(vec![1u8, 6, 17, 58, 132, 47]),
        reset: bool,
    ) {
        let length = bytes.len();
        if v6 {
            bytes[12..14].copy_from_slice(&[0x86, 0xdd]);
            bytes[14] = 0x60;
            bytes[18..20].copy_from_slice(&(length.saturating_sub(54) as u16).to_be_bytes());
            bytes[20] = protocol;
        } else {
            bytes[12..14].copy_from_slice(&[8, 0]);
            bytes[14] = 0x45;
            bytes[16..18].copy_from_slice(&(length as u16 - 14).to_be_bytes());
            bytes[20] &= 0x40;
            bytes[21] = 0;
            bytes[23] = protocol;
        }
        if parse::frame(&Slice(&bytes), ETHERNET, 0, length as u32).is_err() {
            return Ok(());
        }
        if let Some(back) = to(&bytes, reset) {
            prop_assert!(is_answer(&headers(&back)));
            prop_assert_eq!(to(&back, reset), None);
            prop_assert!(back.len() <= length + 48 + 8);
        }
    }
}
