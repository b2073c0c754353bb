//! Headers, as a table.

use datapath_engine::Slice;
use datapath_engine::parse::{self, Fragment, Unparsed};

use crate::engine::build::{A4, A6, B4, B6, Build, Frame, Segment};

/// (protocol, source port, destination port, header bytes, payload bytes).
type Expected = Result<(u8, u16, u16, u32, u32), Unparsed>;

const TCP: Segment = Segment { ports: (40000, 80), flags: 2, sequence: 1, acknowledgement: 0 };

fn check(name: &str, frame: &Frame, expected: Expected) {
    let length = frame.0.len() as u32;
    let parsed = parse::frame(&Slice(&frame.0), 14, 0, length);
    let parsed = parsed.map(|headers| {
        (
            headers.protocol,
            headers.source_port,
            headers.destination_port,
            headers.header_bytes,
            headers.payload_bytes,
        )
    });
    assert_eq!(parsed, expected, "{name}");
}

#[test]
fn transports() {
    let udp = || Build::payload(5).udp(1000, 53);
    let echo = |kind| Build::payload(56).icmp(kind, 0, 0x1234);
    let cases: [(&str, Frame, Expected); 14] = [
        ("tcp", Build::payload(3).tcp(TCP).v4(6, A4, B4).eth4(), Ok((6, 40000, 80, 40, 3))),
        ("tcp6", Build::payload(3).tcp(TCP).v6(6, A6, B6).eth6(), Ok((6, 40000, 80, 60, 3))),
        ("udp", udp().v4(17, A4, B4).eth4(), Ok((17, 1000, 53, 28, 5))),
        ("udp6", udp().v6(17, A6, B6).eth6(), Ok((17, 1000, 53, 48, 5))),
        ("udp-lite", udp().v4(136, A4, B4).eth4(), Ok((136, 1000, 53, 28, 5))),
        ("padded", udp().v4(17, A4, B4).eth4().padded(), Ok((17, 1000, 53, 28, 5))),
        ("sctp", Build::payload(20).sctp(7, 8).v4(132, A4, B4).eth4(), Ok((132, 7, 8, 32, 20))),
        ("echo", echo(8).v4(1, A4, B4).eth4(), Ok((1, 0x1234, 0x1234, 28, 56))),
        ("echo reply", echo(0).v4(1, B4, A4).eth4(), Ok((1, 0x1234, 0x1234, 28, 56))),
        ("echo6", echo(128).v6(58, A6, B6).eth6(), Ok((58, 0x1234, 0x1234, 48, 56))),
        (
            "unreachable",
            Build::payload(28).icmp(3, 1, 9).v4(1, A4, B4).eth4(),
            Ok((1, 0x0301, 0x0301, 28, 28)),
        ),
        ("esp", Build::payload(30).v4(50, A4, B4).eth4(), Ok((50, 0, 0, 20, 30))),
        ("gre", Build::payload(30).v6(47, A6, B6).eth6(), Ok((47, 0, 0, 40, 30))),
        ("no next header", Build::payload(0).v6(59, A6, B6).eth6(), Ok((59, 0, 0, 40, 0))),
    ];
    for (name, frame, expected) in cases {
        check(name, &frame, expected);
    }
}

#[test]
fn links() {
    let packet = || Build::payload(5).udp(1, 2).v4(17, A4, B4);
    let headers = Ok((17, 1, 2, 28, 5));
    check("802.1Q", &packet().tag(0x8100, 0x0800), headers);
    check("802.1ad", &packet().tag(0x88a8, 0x0800), headers);
    check("QinQ", &packet().tags(0x88a8, 0x8100, 0x0800), headers);
    check("three tags", &packet().tags(0x8100, 0x8100, 0x8100), Err(Unparsed::Other));
    check("arp", &Build::payload(28).ethernet(0x0806), Err(Unparsed::Arp));
    check("arp tagged", &Build::payload(28).tag(0x8100, 0x0806), Err(Unparsed::Arp));
    check("802.3 length", &Build::payload(38).ethernet(38), Err(Unparsed::Other));
    check("lldp", &Build::payload(40).ethernet(0x88cc), Err(Unparsed::Other));
}

#[test]
fn layer_3_devices() {
    let packet = Build::payload(5).udp(1, 2).v4(17, A4, B4).bare();
    let length = packet.len() as u32;
    let headers = parse::frame(&Slice(&packet), 0, 0x0800, length).unwrap();
    assert_eq!((headers.network_offset, headers.source_port), (0, 1));
    let other = parse::frame(&Slice(&packet), 0, 0x8847, length);
    assert_eq!(other, Err(Unparsed::Other));
}

#[test]
fn extension_headers() {
    let udp = || Build::payload(5).udp(1, 2);
    check("hop by hop", &udp().options(17, 0).v6(0, A6, B6).eth6(), Ok((17, 1, 2, 56, 5)));
    check(
        "all of them",
        &udp()
            .options(17, 2)
            .authentication(60, 4)
            .fragment6(51, 0, 7)
            .options(44, 1)
            .options(43, 0)
            .options(60, 0)
            .v6(0, A6, B6)
            .eth6(),
        Ok((17, 1, 2, 40 + 8 + 8 + 16 + 8 + 24 + 24 + 8, 5)),
    );
    let many = (0..parse::MAX_EXTENSIONS).fold(udp().options(17, 0), |rest, _| rest.options(60, 0));
    check("too many", &many.v6(60, A6, B6).eth6(), Err(Unparsed::Malformed));
    let past_end = Build::payload(5).udp(1, 2).options(17, 200);
    let mut frame = past_end.v6(0, A6, B6).eth6();
    frame.0.truncate(14 + 40 + 8);
    frame.0[18..20].copy_from_slice(&8u16.to_be_bytes());
    check("longer than the packet", &frame, Err(Unparsed::Malformed));
}

#[test]
fn fragments() {
    let parse = |frame: Frame| parse::frame(&Slice(&frame.0), 14, 0, frame.0.len() as u32).unwrap();
    let first = parse(Build::payload(64).udp(1, 2).v4_part(17, A4, B4, 9, 0x2000).eth4());
    assert_eq!((first.fragment, first.identification), (Fragment::FIRST, 9));
    assert_eq!((first.source_port, first.destination_port), (1, 2));
    let later = parse(Build::payload(64).v4_part(17, A4, B4, 9, 9).eth4());
    assert_eq!((later.fragment, later.source_port), (Fragment::LATER, 0));
    // RFC 6946: an atomic fragment is whole.
    let atomic = parse(Build::payload(4).udp(1, 2).fragment6(17, 0, 9).v6(44, A6, B6).eth6());
    assert_eq!((atomic.fragment, atomic.source_port), (Fragment::WHOLE, 1));
    // The fragment's own next header is an extension header that only the first one has.
    let first = Build::payload(64).udp(1, 2).options(17, 0).fragment6(60, 1, 5);
    let first = parse(first.v6(44, A6, B6).eth6());
    assert_eq!(
        (first.fragment, first.protocol, first.fragment_protocol),
        (Fragment::FIRST, 17, 60)
    );
    let later = parse(Build::payload(64).fragment6(60, 80, 5).v6(44, A6, B6).eth6());
    assert_eq!(
        (later.fragment, later.protocol, later.fragment_protocol),
        (Fragment::LATER, 60, 60)
    );
    // Don't-fragment is no fragment.
    let whole = parse(Build::payload(4).udp(1, 2).v4_part(17, A4, B4, 9, 0x4000).eth4());
    assert_eq!(whole.fragment, Fragment::WHOLE);
}

#[test]
fn malformed() {
    let packet = || Build::payload(5).udp(1, 2).v4(17, A4, B4).eth4();
    let changed = |at: usize, value: u8| {
        let mut frame = packet();
        frame.0[at] = value;
        frame
    };
    check("version", &changed(14, 0x55), Err(Unparsed::Malformed));
    check("header length", &changed(14, 0x44), Err(Unparsed::Malformed));
    check("total length beyond the frame", &changed(16, 0x40), Err(Unparsed::Malformed));
    check("total length below the header", &changed(17, 19), Err(Unparsed::Malformed));
    check("no room for UDP", &changed(17, 24), Err(Unparsed::Malformed));
    let mut frame = packet();
    frame.0.truncate(30);
    check("cut off", &frame, Err(Unparsed::Short));
    let mut frame = Build::payload(0).tcp(TCP).v4(6, A4, B4).eth4();
    frame.0[46] = 4 << 4;
    check("TCP's data offset", &frame, Err(Unparsed::Malformed));
    check("nothing", &Frame(Vec::new()), Err(Unparsed::Short));
}

#[test]
fn super_packets_above_64_kib() {
    // BIG TCP: a length of 0, and the truth in the frame's.
    let mut frame = Build::payload(0).tcp(TCP).v4(6, A4, B4).eth4();
    frame.0[16..18].fill(0);
    let headers = parse::frame(&Slice(&frame.0), 14, 0, 14 + 40 + 100_000).unwrap();
    assert_eq!(headers.payload_bytes, 100_000);
    let mut frame = Build::payload(0).tcp(TCP).v6(6, A6, B6).eth6();
    frame.0[18..20].fill(0);
    let headers = parse::frame(&Slice(&frame.0), 14, 0, 14 + 60 + 100_000).unwrap();
    assert_eq!(headers.payload_bytes, 100_000);
}
