//! Laws that hold for any packet.

use datapath_abi::conn::{HIGH_TO_LOW, LOW_TO_HIGH};
use datapath_abi::iface::{EGRESS, INGRESS};
use datapath_engine::parse::{self, Headers};
use datapath_engine::{Frame, Slice, key};
use proptest::prelude::*;

use crate::engine::sim::Sim;

proptest! {
    #[test]
    fn both_directions_have_one_key(
        source in any::<[u8; 16]>(),
        destination in any::<[u8; 16]>(),
        source_port: u16,
        destination_port: u16,
        protocol: u8,
        ifindex in 0u32..1 << 23,
        same_address: bool,
    ) {
        let destination = if same_address { source } else { destination };
        let there = Headers { source, destination, source_port, destination_port, protocol, ..Headers::NONE };
        let back = Headers {
            source: destination,
            destination: source,
            source_port: destination_port,
            destination_port: source_port,
            protocol,
            ..Headers::NONE
        };
        let frame = |hook| Frame { ifindex, hook, length: 100, segments: 0, link_header: 14, ethertype: 0, outer: 0 };
        let (key, direction) = key::of(&frame(INGRESS), &there);
        let (key_back, direction_back) = key::of(&frame(EGRESS), &back);
        prop_assert!((key.low_addr, key.low_port) <= (key.high_addr, key.high_port));
        prop_assert_eq!((key.ifindex(), key.protocol()), (ifindex, protocol));
        if (source, source_port) != (destination, destination_port) {
            prop_assert_eq!(key, key_back);
            prop_assert_eq!(direction ^ 1, direction_back);
        }
        prop_assert!(direction == LOW_TO_HIGH || direction == HIGH_TO_LOW);
        prop_assert_eq!(key.path(), INGRESS ^ direction as u32);
    }

    #[test]
    fn any_bytes_parse_within_themselves(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        link_header in prop::sample::select(vec![0u32, 14]),
        ethertype in prop::sample::select(vec![0x0800u16, 0x86dd, 0x0806, 0x8100]),
        beyond in 0u32..70000,
    ) {
        let length = bytes.len() as u32 + beyond;
        if let Ok(headers) = parse::frame(&Slice(&bytes), link_header, ethertype, length) {
            let end = headers.network_offset + headers.header_bytes + headers.payload_bytes;
            prop_assert!(end <= length, "{headers:?}");
        }
    }

    #[test]
    fn any_frames_balance(
        frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 14..120), 1..40),
    ) {
        let sim = Sim::new();
        for (number, frame) in frames.iter().enumerate() {
            if number % 2 == 0 { sim.ingress(frame) } else { sim.egress(frame) }
        }
        sim.balance();
    }
}
