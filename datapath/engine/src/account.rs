//! Every packet counted exactly once: in its connection, or as unattributed.

use core::hint::black_box;

use datapath_abi::conn::{ConnKey, ConnValue, DirHot, STATE_NONE, STATE_SYN_RECV, STATE_SYN_SENT};
use datapath_abi::fragment::{FragmentKey, FragmentPorts};
use datapath_abi::{event, iface};

use crate::cells::{Cell, ConnCells, Counter, MoreCells, Shared};
use crate::host::{Frame, Host, Refusal};
use crate::key;
use crate::packet::Packet;
use crate::parse::{self, Fragment, Headers, Tcp, UDP, Unparsed};
use crate::tcp::{self, Segment};

/// How often an entry that is neither there nor can be made is looked for: user space may remove what
/// another CPU has just made.
pub(crate) const TRIES: u32 = 2;

/// UDP port of DNS servers (RFC 1035, 4.2.1), and the length of a DNS header.
const DNS_PORT: u16 = 53;
const DNS_HEADER: u32 = 12;

/// Observes a packet that can be read whole.
#[inline(always)]
pub fn observe<P: Packet, H: Host>(packet: &P, host: &H, frame: &Frame) {
    let mut headers = Headers::NONE;
    let parsed =
        parse::frame_into(packet, frame.link_header, frame.ethertype, frame.length, &mut headers);
    match parsed {
        Ok(()) => observe_headers(host, frame, &mut headers),
        Err(why) => observe_unparsed(host, frame, why),
    }
}

/// Observes a packet that has no headers to go by.
#[inline(always)]
pub fn observe_unparsed<H: Host>(host: &H, frame: &Frame, why: Unparsed) {
    let cause = match why {
        Unparsed::Arp => iface::ARP,
        Unparsed::Other => iface::OTHER,
        Unparsed::Malformed | Unparsed::Short => iface::MALFORMED,
    };
    host.unattributed(frame, cause);
}

/// Observes a packet by its headers.
#[inline(always)]
pub fn observe_headers<H: Host>(host: &H, frame: &Frame, headers: &mut Headers) {
    if headers.fragment != Fragment::WHOLE {
        black_box(fragment(host, frame, headers));
    }
    let (key, direction) = key::of(frame, headers);
    for _ in 0..TRIES {
        if let Some(cells) = host.find(&key) {
            return Counted::new(frame, headers, direction).add(host, cells, &key);
        }
        if create(host, frame, headers, &key, direction) != EXISTS {
            return;
        }
    }
    host.unattributed(frame, iface::BUSY);
}

/// What became of a new connection: its entry is made, and the packet counted in it. Numbers, because such a result of a
/// function out of line is one to the verifier whatever it is.
pub(crate) const CREATED: u32 = 0;
/// Another CPU was faster: the packet has yet to be counted.
pub(crate) const EXISTS: u32 = 1;
/// There was no room; the packet is counted as unattributed.
pub(crate) const NOWHERE: u32 = 2;

/// What a function that is compiled out of line returns, and its caller takes: some number. The
/// verifier looks at the result's register even where there is no result, and what happens to be
/// left in it must not be an address of the stack.
#[derive(Clone, Copy)]
pub(crate) struct Done(#[allow(dead_code, reason = "only there to be in a register")] u32);

/// A first fragment lends its ports to the later ones. Out of line: rare.
#[inline(never)]
pub(crate) fn fragment<H: Host>(host: &H, frame: &Frame, headers: &mut Headers) -> Done {
    let key = FragmentKey {
        source: headers.source,
        destination: headers.destination,
        identification: headers.identification,
        link: ConnKey::link(frame.ifindex, frame.hook, headers.fragment_protocol),
    };
    if headers.fragment == Fragment::FIRST {
        let ports = FragmentPorts {
            source: headers.source_port,
            destination: headers.destination_port,
            protocol: headers.protocol,
            pad: 0,
            icmp_type: headers.icmp_type,
        };
        host.put_fragment(&key, ports);
    } else if let Some(ports) = host.fragment(&key) {
        headers.source_port = ports.source;
        headers.destination_port = ports.destination;
        headers.protocol = ports.protocol;
        headers.icmp_type = ports.icmp_type;
    }
    Done::here()
}

/// The first packet of a connection; [`CREATED`] … Out of line: it needs a stack of its own.
#[inline(never)]
fn create<H: Host>(
    host: &H,
    frame: &Frame,
    headers: &Headers,
    key: &ConnKey,
    direction: usize,
) -> u32 {
    create_with(host, frame, headers, key, direction, |_| ())
}

/// As [`create`]; `complete` adds to the new entry.
#[inline(always)]
pub(crate) fn create_with<H: Host>(
    host: &H,
    frame: &Frame,
    headers: &Headers,
    key: &ConnKey,
    direction: usize,
    complete: impl FnOnce(&mut ConnValue),
) -> u32 {
    let packet = Counted::new(frame, headers, direction & 1);
    let now = host.now_ns();
    let fill = |value: &mut ConnValue| {
        packet.begin(host, value, now);
        complete(value);
    };
    let cause = match host.insert(key, fill) {
        Ok(()) => {
            host.event(event::CREATED, 0, now, now, key);
            packet.names(host, now, key);
            return CREATED;
        }
        Err(Refusal::Exists) => return EXISTS,
        Err(Refusal::Full) => iface::TABLE_FULL,
        Err(Refusal::Memory) => iface::NO_MEMORY,
        Err(Refusal::Busy) => iface::BUSY,
    };
    host.unattributed(frame, cause);
    NOWHERE
}

/// What one packet adds.
pub(crate) struct Counted<'a> {
    frame: &'a Frame,
    headers: &'a Headers,
    direction: usize,
    bytes: u64,
}

// === impl Done ===

impl Done {
    #[inline(always)]
    pub(crate) fn here() -> Self {
        Self(black_box(0))
    }
}

// === impl Counted ===

impl<'a> Counted<'a> {
    #[inline(always)]
    pub(crate) fn new(frame: &'a Frame, headers: &'a Headers, direction: usize) -> Self {
        let bytes = u64::from(frame.length.saturating_sub(frame.link_header));
        Self { frame, headers, direction, bytes }
    }

    /// Adds the packet to a connection that exists.
    #[inline(always)]
    pub(crate) fn add<H: Host>(&self, host: &H, cells: &ConnCells<H::Shared>, key: &ConnKey) {
        if cells.retired.get() != 0 {
            return host.unattributed(self.frame, iface::RETIRING);
        }
        let tick = host.jiffies();
        let last = cells.dirs[self.direction].last.get();
        if let Some(header) = self.headers.tcp()
            && tcp::reuses(cells.state.get(), header.flags)
        {
            black_box(begin_again(host, cells, key, self.direction, header.sequence));
        } else if last == 0 {
            self.first_of_direction(host, cells);
        }
        let hot = &cells.dirs[self.direction];
        hot.packets.add(1);
        hot.bytes.add(self.bytes);
        hot.last.set(tick);
        if self.frame.segments > 1 {
            let (segments, bytes) = self.extra();
            let more = &cells.more[self.direction];
            more.extra_segments.add(segments);
            more.extra_bytes.add(bytes);
        }
        if let Some(tcp) = self.headers.tcp() {
            let segment = self.segment(tcp, last != tick);
            tcp::track(host, cells, key, &segment);
        }
        if self.is_names() {
            self.names(host, cells.id.get(), key);
        }
    }

    /// The first packet of a connection, as the entry that it creates.
    #[inline(always)]
    fn begin<H: Host>(&self, host: &H, value: &mut ConnValue, now: u64) {
        value.dirs[self.direction] = DirHot { packets: 1, bytes: self.bytes, last: host.jiffies() };
        value.id = now;
        value.client = self.headers.client(self.direction) as u8;
        value.cookie = host.cookie();
        let more = &mut value.more[self.direction];
        more.first_ns = now;
        if self.frame.segments > 1 {
            (more.extra_segments, more.extra_bytes) = self.extra();
        }
        value.state = STATE_NONE;
        if let Some(header) = self.headers.tcp() {
            self.begin_tcp(value, now, header);
        }
    }

    #[inline(always)]
    fn begin_tcp(&self, value: &mut ConnValue, now: u64, header: &Tcp) {
        value.tcp_flags[self.direction] = header.flags;
        value.state = tcp::initial_state(header.flags);
        match value.state {
            STATE_SYN_SENT => {
                value.syn_ns = now;
                value.initial_seq = header.sequence;
            }
            STATE_SYN_RECV => value.synack_ns = now,
            _ => {}
        }
        let consumed =
            self.headers.payload_bytes + u32::from(header.flags & (tcp::SYN | tcp::FIN) != 0);
        let more = &mut value.more[self.direction];
        more.next_seq = header.sequence.wrapping_add(consumed);
        if consumed != 0 {
            more.rtt_ack = more.next_seq;
            more.rtt_sent_ns = now;
        }
    }

    #[inline(always)]
    fn first_of_direction<H: Host>(&self, host: &H, cells: &ConnCells<H::Shared>) {
        cells.more[self.direction].first_ns.set(host.now_ns());
        // The first packet came from outside; an answer comes from the socket that took it.
        if cells.cookie.get() == 0 {
            cells.cookie.set(host.cookie());
        }
    }

    /// Wire segments behind the first, and the headers that they repeat.
    #[inline(always)]
    fn extra(&self) -> (u64, u64) {
        let segments = u64::from(self.frame.segments - 1);
        (segments, segments * u64::from(self.headers.header_bytes + u32::from(self.frame.outer)))
    }

    #[inline(always)]
    fn segment(&self, tcp: &'a Tcp, first_in_tick: bool) -> Segment<'a> {
        Segment {
            tcp,
            payload: self.headers.payload_bytes,
            direction: self.direction,
            first_in_tick,
        }
    }

    #[inline(always)]
    fn is_names(&self) -> bool {
        self.headers.protocol == UDP
            && self.headers.source_port == DNS_PORT
            && self.headers.fragment != Fragment::LATER
            && self.headers.payload_bytes >= DNS_HEADER
    }

    /// Hands on a DNS answer.
    #[inline(always)]
    fn names<H: Host>(&self, host: &H, id: u64, key: &ConnKey) {
        if self.is_names() {
            let offset = self.headers.network_offset + self.headers.header_bytes;
            host.dns(id, key, offset, self.headers.payload_bytes);
        }
    }
}

/// A new connection takes over the entry of a finished one with the same tuple. Counters go on:
/// what they held is kept as `before`. Out of line: rare.
#[inline(never)]
fn begin_again<H: Host>(
    host: &H,
    cells: &ConnCells<H::Shared>,
    key: &ConnKey,
    direction: usize,
    sequence: u32,
) -> Done {
    let direction = direction & 1;
    let now = host.now_ns();
    keep_totals(cells, 0);
    keep_totals(cells, 1);
    cells.id.set(now);
    cells.reuses.set(cells.reuses.get().wrapping_add(1));
    cells.client.set(direction as u8);
    cells.tcp_flags[0].set(0);
    cells.tcp_flags[1].set(0);
    cells.state.set(STATE_SYN_SENT);
    cells.dirs[direction ^ 1].last.set(0);
    cells.more[direction].first_ns.set(now);
    cells.syn_ns.set(now);
    cells.synack_ns.set(0);
    cells.ack_ns.set(0);
    cells.initial_seq.set(sequence);
    cells.cookie.set(host.cookie());
    host.event(event::CREATED, 0, now, now, key);
    Done::here()
}

/// Makes a direction's totals those of the connections before, and forgets its estimates.
#[inline(always)]
fn keep_totals<S: Shared>(cells: &ConnCells<S>, direction: usize) {
    let (hot, more, before) =
        (&cells.dirs[direction], &cells.more[direction], &cells.before[direction]);
    before.packets.set(hot.packets.get());
    before.bytes.set(hot.bytes.get());
    before.extra_segments.set(more.extra_segments.get());
    before.extra_bytes.set(more.extra_bytes.get());
    forget(more);
}

#[inline(always)]
fn forget<S: Shared>(more: &MoreCells<S>) {
    more.first_ns.set(0);
    more.rtt_sent_ns.set(0);
    more.srtt_ns.set(0);
    more.retransmits.set(0);
}
