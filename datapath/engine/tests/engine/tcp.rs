//! TCP, as stories.

use datapath_abi::conn::{
    ConnValue, STATE_CLOSED, STATE_ESTABLISHED, STATE_FIN_WAIT, STATE_RESET, STATE_SYN_RECV,
    STATE_SYN_SENT,
};
use datapath_abi::event::{CLOSED, CREATED, STATE};
use datapath_engine::tcp::smooth;

use crate::engine::build::{A4, B4, Build, Segment};
use crate::engine::sim::Sim;

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const PSH: u8 = 8;
const ACK: u8 = 16;

/// A client (A, seen on egress) and a server (B, on ingress), and what the observer makes of them.
struct Story(Sim);

// === impl Story ===

impl Story {
    fn new() -> Self {
        Self(Sim::new())
    }

    fn client(&self, flags: u8, sequence: u32, acknowledgement: u32, data: usize) -> &Self {
        let segment = Segment { ports: (40000, 80), flags, sequence, acknowledgement };
        self.0.egress(&Build::payload(data).tcp(segment).v4(6, A4, B4).eth4().0);
        self
    }

    fn server(&self, flags: u8, sequence: u32, acknowledgement: u32, data: usize) -> &Self {
        let segment = Segment { ports: (80, 40000), flags, sequence, acknowledgement };
        self.0.ingress(&Build::payload(data).tcp(segment).v4(6, B4, A4).eth4().0);
        self
    }

    fn later(&self, milliseconds: u64) -> &Self {
        self.0.after_ms(milliseconds);
        self
    }

    fn handshake(&self) -> &Self {
        self.client(SYN, 100, 0, 0).later(8).server(SYN | ACK, 500, 101, 0).later(2);
        self.client(ACK, 101, 501, 0)
    }

    fn value(&self) -> ConnValue {
        self.0.one().1
    }

    fn state(&self) -> u8 {
        self.value().state
    }
}

#[test]
fn open_use_close() {
    let story = Story::new();
    story.client(SYN, 100, 0, 0);
    assert_eq!(story.state(), STATE_SYN_SENT);
    story.later(8).server(SYN | ACK, 500, 101, 0);
    assert_eq!(story.state(), STATE_SYN_RECV);
    story.later(2).client(ACK, 101, 501, 0);
    assert_eq!(story.state(), STATE_ESTABLISHED);
    story.client(PSH | ACK, 101, 501, 10).later(30).server(PSH | ACK, 501, 111, 20);
    story.later(1).client(FIN | ACK, 111, 521, 0);
    assert_eq!(story.state(), STATE_FIN_WAIT);
    story.later(1).server(FIN | ACK, 521, 112, 0);
    assert_eq!(story.state(), STATE_CLOSED);
    story.client(ACK, 112, 522, 0);
    assert_eq!(story.state(), STATE_CLOSED);
    let value = story.value();
    assert_eq!(value.client, 0);
    assert_eq!(value.tcp_flags, [SYN | PSH | ACK | FIN, SYN | PSH | ACK | FIN]);
    assert_eq!(value.synack_ns - value.syn_ns, 8_000_000);
    assert_eq!(value.ack_ns - value.synack_ns, 2_000_000);
    assert_eq!(value.initial_seq, 100);
    let events = story.0.events.borrow();
    let states = [
        (CREATED, 0),
        (STATE, STATE_SYN_RECV.into()),
        (STATE, STATE_ESTABLISHED.into()),
        (STATE, STATE_FIN_WAIT.into()),
        (CLOSED, STATE_CLOSED.into()),
    ];
    assert_eq!(*events, states);
    story.0.balance();
}

#[test]
fn refused() {
    let story = Story::new();
    story.client(SYN, 100, 0, 0).server(RST | ACK, 0, 101, 0);
    assert_eq!(story.state(), STATE_RESET);
    assert_eq!(story.0.events.borrow()[1], (CLOSED, STATE_RESET.into()));
}

#[test]
fn joined_in_the_middle() {
    let story = Story::new();
    story.server(PSH | ACK, 501, 111, 20);
    assert_eq!(story.state(), STATE_ESTABLISHED);
    assert_eq!(story.value().syn_ns, 0);
    // A SYN-ACK seen first is an answer: its receiver is the client.
    let story = Story::new();
    story.server(SYN | ACK, 500, 101, 0);
    assert_eq!((story.state(), story.value().client), (STATE_SYN_RECV, 0));
    story.client(ACK, 101, 501, 0);
    assert_eq!(story.state(), STATE_ESTABLISHED);
}

#[test]
fn round_trips_by_direction() {
    let story = Story::new();
    story.handshake();
    let value = story.value();
    // SYN to SYN-ACK is the first sample towards the server, SYN-ACK to ACK towards the client.
    assert_eq!((value.more[0].srtt_ns, value.more[1].srtt_ns), (8_000_000, 2_000_000));
    story.later(50).client(PSH | ACK, 101, 501, 10).later(16).server(ACK, 501, 111, 0);
    assert_eq!(story.value().more[0].srtt_ns, (8_000_000 * 7 + 16_000_000) / 8);
    // An acknowledgement that does not cover the sample does not end it.
    story.later(50).client(PSH | ACK, 111, 501, 10).later(4).server(ACK, 501, 111, 0);
    assert_ne!(story.value().more[0].rtt_sent_ns, 0);
    story.later(4).server(ACK, 501, 121, 0);
    assert_eq!(story.value().more[0].srtt_ns, (9_000_000 * 7 + 8_000_000) / 8);
}

#[test]
fn retransmissions_count_and_spoil_the_sample() {
    let story = Story::new();
    story.handshake().later(50);
    let before = story.value().more[0].srtt_ns;
    story.client(PSH | ACK, 101, 501, 10).later(200).client(PSH | ACK, 101, 501, 10);
    assert_eq!(story.value().more[0].retransmits, 1);
    story.later(8).server(ACK, 501, 111, 0);
    assert_eq!(story.value().more[0].srtt_ns, before, "Karn's algorithm");
    // A keep-alive probe carries no data: no retransmission.
    story.client(ACK, 110, 501, 0);
    assert_eq!(story.value().more[0].retransmits, 1);
    // New data after it is none either, across the wrap of the sequence space too.
    let story = Story::new();
    story.client(SYN, u32::MAX - 4, 0, 0).client(ACK | PSH, u32::MAX - 3, 1, 10);
    story.client(ACK | PSH, 6, 1, 10);
    assert_eq!(story.value().more[0].retransmits, 0);
}

#[test]
fn a_syn_sent_twice_is_a_retransmission() {
    let story = Story::new();
    story.client(SYN, 100, 0, 0).later(1000).client(SYN, 100, 0, 0);
    story.later(5).server(SYN | ACK, 500, 101, 0);
    let value = story.value();
    assert_eq!((value.more[0].retransmits, value.more[0].srtt_ns), (1, 0));
    assert_eq!(value.synack_ns - value.syn_ns, 1_005_000_000, "connecting took all that time");
}

#[test]
fn a_tuple_is_used_again() {
    let story = Story::new();
    story.handshake().client(RST, 101, 501, 0).later(100);
    let first = story.value();
    story.client(SYN, 9000, 0, 0);
    let second = story.value();
    assert_eq!(second.state, STATE_SYN_SENT);
    assert_ne!(second.id, first.id);
    assert_eq!((second.reuses, second.initial_seq), (1, 9000));
    assert_eq!(second.before[0].packets, first.dirs[0].packets);
    assert_eq!(second.before[1].bytes, first.dirs[1].bytes);
    assert_eq!(second.dirs[0].packets, first.dirs[0].packets + 1, "counters never go back");
    assert_eq!((second.more[0].srtt_ns, second.tcp_flags), (0, [SYN, 0]));
    assert_eq!(second.more[0].first_ns, second.id);
    assert_eq!(second.more[1].first_ns, 0);
    story.later(4).server(SYN | ACK, 7000, 9001, 0).later(4).client(ACK, 9001, 7001, 0);
    assert_eq!(story.state(), STATE_ESTABLISHED);
    assert_eq!(story.value().more[0].srtt_ns, 4_000_000);
    assert_eq!(story.0.events.borrow().iter().filter(|event| event.0 == CREATED).count(), 2);
    story.0.balance();
}

#[test]
fn smoothing_stays_within_its_field() {
    assert_eq!(smooth(0, 0), 1);
    assert_eq!(smooth(0, 1 << 40), u32::MAX);
    assert_eq!(smooth(u32::MAX, u64::MAX), u32::MAX);
    assert_eq!(smooth(8, 16), 9);
}
