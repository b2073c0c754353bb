//! Every packet allowed or refused, by its connection's verdict; accounting as in [`account`](crate::account).
//!
//! A connection is judged as a whole, in its client's direction: when its first packet comes, and
//! again at the first packet after the policy revision has moved: what the new policy denies is refused from
//! then on, or with [`KEEP_ESTABLISHED`] only where it begins anew. In between its packets cost one lookup.
//! Both directions obey the verdict. A refused packet counts as refused and nowhere else.
//!
//! ICMP: an echo reply belongs to the connection of its request. All other messages are one-way, so
//! those that come against the direction of an entry are judged by themselves. Errors about a connection
//! that we know and that is not refused pass as related. These always pass: neighbour discovery and
//! multicast listener discovery (ICMPv6 130 to 137, 143), without which a link does not work, and
//! "fragmentation needed" (ICMP type 3 code 4), without which path MTU discovery does not.

use core::hint::black_box;

use datapath_abi::conn::ConnKey;
use datapath_abi::iface;
use datapath_abi::policy::{
    ALLOW, AUDIT, AUDIT_ALL, DENY, DeniedCounter, DeniedKey, EGRESS, HOST_IDENTITY, INGRESS,
    KEEP_ESTABLISHED, NO_ORIGIN, OTHER, SUBJECT_AUDIT, SUBJECT_HOST, Subject,
};

use datapath_abi::service::{
    MARK, NAT_NONE, ORIGIN_CLUSTER_ONLY, ORIGIN_NO_BACKEND, ORIGIN_OUT_OF_RANGE,
};

use crate::account::{self, CREATED, Counted, Done, EXISTS, TRIES};
use crate::cells::{Cell, ConnCells, Judged};
use crate::dsr;
use crate::forward;
use crate::host::{Frame, Host};
use crate::key;
use crate::nat::{self, Change};
use crate::packet::{Packet, Without};
use crate::parse::{self, Fragment, ICMP, ICMPV6, IPIP, IPV6, Unparsed};
use crate::policy::{self, Question, Tables};
use crate::service::Services;
use crate::tcp;

use case::{Asked, Ruling};
pub use case::{Case, Seen};

mod case;
pub(crate) mod icmp;

/// What becomes of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Fate {
    /// It goes on.
    Pass,
    /// It goes on with another source or destination: by the [`Change`] that was filled in.
    Change,
    /// It goes no further.
    Refuse,
}

/// What enforcing needs besides a [`Host`].
pub trait Enforcer: Host + Tables + Services {
    /// The present policy revision.
    fn revision(&self) -> u32;

    /// What is enforced on an interface.
    fn subject(&self, ifindex: u32) -> Option<Subject>;

    /// Where a policy lies now. It changes when the policy is replaced, and only after that may
    /// its old place be given to another policy: so what was read in between two equal answers was this
    /// policy's.
    fn place(&self, policy: u32) -> usize;

    /// Counts a refused packet, and tells user space if it is the first of its key. False where there
    /// is no room for it.
    fn refused(&self, key: &DeniedKey, packet: &DeniedCounter) -> bool;

    /// Tells user space of a connection that would have been refused.
    fn audited(&self, key: &DeniedKey, packet: &DeniedCounter);
}

/// Observes a packet that can be read whole, and says whether it may pass, and as what.
pub fn enforce<P: Packet, H: Enforcer>(
    packet: &P,
    host: &H,
    frame: &Frame,
    change: &mut Change,
) -> Fate {
    let mut case = Case { seen: Seen { frame: *frame, ..Seen::NONE }, ..Case::NONE };
    let fate = enforce_in(packet, host, &mut case);
    *change = case.nat.change;
    fate
}

/// As [`enforce`], for the frame in `case`; what is said about it stays there.
pub fn enforce_in<P: Packet, H: Enforcer>(packet: &P, host: &H, case: &mut Case) -> Fate {
    let frame = case.seen.frame;
    let Frame { link_header, ethertype, length, .. } = frame;
    let parsed = parse::frame_into(packet, link_header, ethertype, length, &mut case.seen.headers);
    if let Err(why) = parsed {
        return enforce_unparsed(host, &frame, why);
    }
    locate(host, &mut case.seen);
    if dsr::is_encapsulated(&case.seen) && dsr::admit(packet, host, case) {
        let inner = Without { packet, at: link_header, bytes: case.seen.frame.outer.into() };
        return enforce_located(&inner, host, case);
    }
    enforce_located(packet, host, case)
}

fn enforce_located<P: Packet, H: Enforcer>(packet: &P, host: &H, case: &mut Case) -> Fate {
    match pass_known(host, &mut case.seen, &mut case.nat.change) {
        Some(fate) => fate,
        None => enforce_case(packet, host, case),
    }
}

/// Frames of other protocols than IP pass. IP that contradicts itself does not, where there is policy
/// for it: the receiver might read it otherwise than we.
#[inline(always)]
pub fn enforce_unparsed<H: Enforcer>(host: &H, frame: &Frame, why: Unparsed) -> Fate {
    let malformed = matches!(why, Unparsed::Malformed | Unparsed::Short);
    if malformed && isolates(host, frame) {
        black_box(report_malformed(host, frame));
        return Fate::Refuse;
    }
    account::observe_unparsed(host, frame, why);
    Fate::Pass
}

/// Completes `seen`, whose headers are there, by key and direction.
#[inline(always)]
pub fn locate<H: Host>(host: &H, seen: &mut Seen) {
    if seen.headers.fragment != Fragment::WHOLE {
        black_box(account::fragment(host, &seen.frame, &mut seen.headers));
    }
    let (key, direction) = key::of(&seen.frame, &seen.headers);
    seen.key = key;
    seen.direction = direction as u32;
}

/// What becomes of a packet by a verdict that stands: then it has been counted. Otherwise it is one for
/// [`enforce_case`], and `seen` is as it was. This is all that happens to most packets: one lookup (two where the
/// source is translated), and the accounting.
#[inline(always)]
pub fn pass_known<H: Enforcer>(host: &H, seen: &mut Seen, change: &mut Change) -> Option<Fate> {
    if matches!(seen.headers.protocol, ICMP | ICMPV6) || nat::begins(&seen.headers) {
        return None;
    }
    let Some(cells) = host.find(&seen.key) else {
        let known =
            seen.frame.hook == iface::EGRESS && black_box(pass_to_wire(host, seen, change)) != 0;
        return known.then_some(Fate::Change);
    };
    let judged = Judged(cells.judged.get());
    if judged.revision() != host.revision() || judged.verdict() == DENY {
        return None;
    }
    if judged.nat() == NAT_NONE {
        black_box(count(host, seen, cells));
        return Some(Fate::Pass);
    }
    let known = seen.frame.hook == iface::INGRESS
        && black_box(pass_to_stack(host, seen, change, cells)) != 0;
    known.then_some(Fate::Change)
}

/// A packet of a connection whose destination is translated, on ingress. 0 where the translation is not to be used.
/// Where another node has forwarded it, `change` says by its address to which backend.
#[inline(never)]
fn pass_to_stack<H: Enforcer>(
    host: &H,
    seen: &Seen,
    change: &mut Change,
    cells: &ConnCells<H::Shared>,
) -> u32 {
    let ports = cells.stack_ports.get();
    let agrees = dsr::agrees(seen, &change.address, cells);
    *change = Change {
        old_address: seen.headers.destination,
        address: cells.stack_addr(),
        old_port: seen.headers.destination_port,
        port: ports as u16,
        old_peer_port: seen.headers.source_port,
        peer_port: (ports >> 16) as u16,
        kind: u32::from(Judged(cells.judged.get()).nat()),
        ..Change::NONE
    };
    if !agrees || !nat::is_alive(host, seen, cells) {
        return black_box(0);
    }
    black_box(count(host, seen, cells));
    forward::way(host, seen, cells, change);
    black_box(1)
}

/// A packet on egress whose source may be translated: if so, and by a verdict that stands, it is counted as what it
/// becomes. Otherwise 0, and `seen` is as it was.
#[inline(never)]
fn pass_to_wire<H: Enforcer>(host: &H, seen: &mut Seen, change: &mut Change) -> u32 {
    let Some(translation) = host.translation(&seen.key) else {
        return black_box(0);
    };
    *change = Change {
        old_address: seen.headers.source,
        address: translation.address,
        old_port: seen.headers.source_port,
        port: translation.port,
        old_peer_port: seen.headers.destination_port,
        peer_port: translation.peer_port,
        kind: translation.kind,
        ..Change::NONE
    };
    seen.headers.source = change.address;
    seen.headers.source_port = change.port;
    seen.headers.destination_port = change.peer_port;
    locate_again(seen);
    if let Some(cells) = host.find(&seen.key) {
        let judged = Judged(cells.judged.get());
        if judged.revision() == host.revision()
            && judged.verdict() != DENY
            && judged.nat() != NAT_NONE
        {
            black_box(count(host, seen, cells));
            return black_box(1);
        }
    }
    seen.headers.source = change.old_address;
    seen.headers.source_port = change.old_port;
    seen.headers.destination_port = change.old_peer_port;
    locate_again(seen);
    black_box(0)
}

#[inline(always)]
fn locate_again(seen: &mut Seen) {
    let (key, direction) = key::of(&seen.frame, &seen.headers);
    seen.key = key;
    seen.direction = direction as u32;
}

/// Counts a packet of a connection that exists. Out of line: what it keeps on the stack is not there
/// while the policy is asked.
#[inline(never)]
fn count<H: Host>(host: &H, seen: &Seen, cells: &ConnCells<H::Shared>) -> Done {
    Counted::new(&seen.frame, &seen.headers, seen.direction as usize & 1)
        .add(host, cells, &seen.key);
    Done::here()
}

/// Judges and observes a packet; `packet` is asked for what an ICMP error is about.
#[inline(always)]
pub fn enforce_case<P: Packet, H: Enforcer>(packet: &P, host: &H, case: &mut Case) -> Fate {
    for turn in 0..TRIES {
        nat::plan(host, case, turn);
        if case.nat.refused != 0 {
            black_box(refuse(host, case));
            return Fate::Refuse;
        }
        icmp::plan(packet, host, case);
        let found = host.find(&case.seen.key);
        case.ruling = Ruling { revision: host.revision(), ..Ruling::NONE };
        let stands = match found {
            Some(cells) => case.stands(cells),
            None => case.begins(),
        };
        if !stands {
            if icmp::passes(host, case) {
                case.ruling.keep = 0;
            } else if question(host, case) {
                black_box(answer(host, case));
                black_box(keep_established(host, case));
                if case.ruling.moved != 0 && turn + 1 < TRIES {
                    continue;
                }
            }
            if let Some(cells) = found {
                case.keep(cells);
            }
        }
        let verdict = case.ruling.verdict;
        if verdict == u32::from(DENY) || (verdict == u32::from(AUDIT) && !stands) {
            black_box(report(host, case));
        }
        if verdict == u32::from(DENY) {
            if let Some(cells) = found {
                touch(host, cells);
            }
            return Fate::Refuse;
        }
        if !nat::enter(host, case) {
            continue;
        }
        if case.nat.refused == 0 {
            match found {
                Some(cells) => {
                    black_box(settle(host, case, cells));
                    return case.fate();
                }
                None => match create(host, case) {
                    CREATED => return case.fate(),
                    // Another CPU was faster: its entry is there now.
                    EXISTS => black_box(nat::withdraw(host, case, false)),
                    _ if case.nat.kind == u32::from(NAT_NONE) => return Fate::Pass,
                    // It is counted already, as one for which there was no room.
                    _ => {
                        black_box(nat::withdraw(host, case, true));
                        return Fate::Refuse;
                    }
                },
            };
        }
        if case.nat.refused != 0 {
            black_box(refuse(host, case));
            return Fate::Refuse;
        }
    }
    host.unattributed(&case.seen.frame, iface::BUSY);
    if case.nat.kind == u32::from(NAT_NONE) { Fate::Pass } else { Fate::Refuse }
}

/// Counts a packet of a connection that exists, and may have yet to learn how it is translated.
#[inline(never)]
fn settle<H: Enforcer>(host: &H, case: &mut Case, cells: &ConnCells<H::Shared>) -> Done {
    if case.nat.fresh != 0 {
        black_box(nat::adopt(host, case, cells));
        nat::begun(host, case);
    }
    black_box(count(host, &case.seen, cells))
}

/// A new connection that may pass; see [`account::create_with`]. Out of line: it needs a stack of its
/// own.
#[inline(never)]
fn create<H: Enforcer>(host: &H, case: &Case) -> u32 {
    let Case { seen, ruling, nat, .. } = case;
    let direction = seen.direction as usize;
    let made =
        account::create_with(host, &seen.frame, &seen.headers, &seen.key, direction, |value| {
            value.origin = ruling.origin;
            value.peer_identity = ruling.peer;
            nat.fill(seen, value);
            if ruling.keep != 0 {
                value.revision = ruling.revision;
                value.verdict = ruling.verdict as u8;
            }
        });
    if made == CREATED {
        nat::begun(host, case);
    }
    black_box(made)
}

/// Counts a packet that a service refused.
#[inline(never)]
fn refuse<H: Enforcer>(host: &H, case: &mut Case) -> Done {
    let client = case.seen.headers.client(case.seen.direction as usize) as u32;
    let (verdict, origin) = (u32::from(DENY), case.nat.refused);
    case.ruling = Ruling { verdict, origin, client, ..Ruling::NONE };
    host.count(|counters| match origin {
        ORIGIN_NO_BACKEND => counters.no_backend += 1,
        ORIGIN_OUT_OF_RANGE | ORIGIN_CLUSTER_ONLY => counters.not_allowed += 1,
        _ => {}
    });
    black_box(report(host, case))
}

/// Whether the policy is to be asked about the connection, and what: in the direction of its client. Out
/// of line, as [`answer`] is: the answer then does not depend on how the question came about.
#[inline(never)]
fn question<H: Enforcer>(host: &H, case: &mut Case) -> bool {
    let Some(subject) = host.subject(case.seen.key.ifindex()) else {
        return false;
    };
    // The endpoint's side of its interface is behind the ingress hook; the host is behind the egress hook
    // of its own. Directions 0 and 1 begin at the low and the high end.
    // What is judged is the stack side: a backend, not the address that stands for it.
    let client = (case.ruling.client ^ case.seen.direction ^ case.nat.stack_direction) & 1;
    let key = &case.nat.stack;
    let from_ingress = client == key.path();
    let is_host = subject.flags & SUBJECT_HOST != 0;
    let is_client = from_ingress ^ is_host;
    if is_host && is_forwarded(host, &case.seen) {
        return false;
    }
    let peer_is_low = (client == 0) ^ is_client;
    if is_host {
        case.asked.peer = select(key, !peer_is_low);
        let local = host.peer(&case.asked.peer);
        if local.is_none_or(|local| local.identity != HOST_IDENTITY) {
            return false;
        }
    }
    case.asked = Asked {
        subject,
        direction: if is_client { EGRESS as u32 } else { INGRESS as u32 },
        port: u32::from(icmp::port(&case.seen.headers, server_port(key, client))),
        peer: select(key, peer_is_low),
    };
    true
}

/// Whether the packet is another's, which this node sends on encapsulated: it is judged where it arrives.
#[inline(always)]
fn is_forwarded<H: Enforcer>(host: &H, seen: &Seen) -> bool {
    seen.frame.hook == iface::EGRESS
        && matches!(seen.headers.protocol, IPIP | IPV6)
        && host.mark() & MARK != 0
}

/// Asks the policy. Out of line: rare, and it needs a stack of its own.
#[inline(never)]
fn answer<H: Enforcer>(host: &H, case: &mut Case) -> Done {
    let asked = &case.asked;
    let place = host.place(asked.subject.policy);
    let question = Question {
        subject: asked.subject,
        direction: asked.direction as usize,
        peer: &asked.peer,
        protocol: case.seen.key.protocol(),
        port: asked.port as u16,
    };
    let decision = policy::evaluate(host, &question);
    case.ruling.verdict = u32::from(decision.verdict);
    case.ruling.origin = decision.origin;
    case.ruling.peer = decision.peer;
    if host.place(case.asked.subject.policy) != place {
        // Not to be relied on, see `Enforcer::place`.
        case.ruling.verdict = u32::from(DENY);
        case.ruling.origin = NO_ORIGIN;
        case.ruling.keep = 0;
        case.ruling.moved = 1;
    }
    Done::here()
}

/// Lets a connection go on by the rule that let it through, where that was chosen. Out of line, and without a
/// branch, as in [`select`].
#[inline(never)]
fn keep_established<H: Enforcer>(host: &H, case: &mut Case) -> Done {
    let chosen = host.flags() & KEEP_ESTABLISHED != 0;
    let ruling = &mut case.ruling;
    let refused = (ruling.verdict == u32::from(DENY)) & (ruling.moved == 0);
    let mask = black_box(u32::from(chosen & refused & ruling.was_let_through()).wrapping_neg());
    ruling.verdict = (u32::from(ALLOW) & mask) | (ruling.verdict & !mask);
    ruling.origin = (ruling.former & mask) | (ruling.origin & !mask);
    Done::here()
}

/// One of the two addresses, without a branch: each would double the ways that the verifier follows.
#[inline(always)]
fn select(key: &ConnKey, low: bool) -> [u8; 16] {
    let mask = u128::from(low).wrapping_neg();
    let (a, b) = (u128::from_ne_bytes(key.low_addr), u128::from_ne_bytes(key.high_addr));
    ((a & mask) | (b & !mask)).to_ne_bytes()
}

#[inline(always)]
fn server_port(key: &ConnKey, client: u32) -> u16 {
    if client == 0 { key.high_port } else { key.low_port }
}

/// Counts a refused packet, or tells of one that would have been. Out of line: it needs a stack of its
/// own.
#[inline(never)]
fn report<H: Enforcer>(host: &H, case: &mut Case) -> Done {
    let client = case.ruling.client & 1;
    let reply = u8::from(client != case.seen.direction);
    case.denied = DeniedKey {
        source: select(&case.seen.key, client == 0),
        destination: select(&case.seen.key, client != 0),
        ifindex: case.seen.frame.ifindex,
        origin: case.ruling.origin,
        port: icmp::port(&case.seen.headers, server_port(&case.seen.key, client)),
        protocol: case.seen.key.protocol(),
        hook: case.seen.frame.hook as u8 & 1 | reply << 1,
        pad: 0,
    };
    let begins =
        case.seen.headers.tcp().is_none_or(|tcp| tcp.flags & (tcp::SYN | tcp::ACK) == tcp::SYN);
    case.packet = DeniedCounter {
        attempts: u64::from(begins),
        peer_identity: case.ruling.peer,
        source_port: server_port(&case.seen.key, client ^ 1),
        ..counter(host, &case.seen.frame)
    };
    if case.ruling.verdict == u32::from(AUDIT) {
        host.audited(&case.denied, &case.packet);
    } else if !host.refused(&case.denied, &case.packet) {
        host.unattributed(&case.seen.frame, iface::DENIED_FULL);
    }
    Done::here()
}

/// Counts a refused packet that has no addresses to go by.
#[inline(never)]
fn report_malformed<H: Enforcer>(host: &H, frame: &Frame) -> Done {
    let hook = frame.hook as u8 & 1;
    let denied = DeniedKey { ifindex: frame.ifindex, hook, ..Case::NONE.denied };
    if !host.refused(&denied, &counter(host, frame)) {
        host.unattributed(frame, iface::DENIED_FULL);
    }
    Done::here()
}

/// One packet, an attempt.
#[inline(always)]
fn counter<H: Host>(host: &H, frame: &Frame) -> DeniedCounter {
    let now = host.now_ns();
    let bytes = u64::from(frame.length.saturating_sub(frame.link_header));
    DeniedCounter {
        packets: 1,
        bytes,
        attempts: 1,
        first_ns: now,
        last_ns: now,
        ..Case::NONE.packet
    }
}

/// Whether the interface's policy says anything in the direction of this hook.
#[inline(always)]
fn isolates<H: Enforcer>(host: &H, frame: &Frame) -> bool {
    let Some(subject) = host.subject(frame.ifindex) else {
        return false;
    };
    if subject.flags & SUBJECT_AUDIT != 0 || host.flags() & AUDIT_ALL != 0 {
        return false;
    }
    let sends = (frame.hook == iface::INGRESS) ^ (subject.flags & SUBJECT_HOST != 0);
    let direction = if sends { EGRESS } else { INGRESS };
    host.side(subject.policy, direction).is_none_or(|side| side.enforced[OTHER].count != 0)
}

/// Keeps a refused connection's entry while its packets come: once it is removed as idle, an answer that
/// comes first would be judged as a connection of its own, the other way around.
#[inline(always)]
fn touch<H: Host>(host: &H, cells: &ConnCells<H::Shared>) {
    for direction in &cells.dirs {
        // 0 says that none of its packets were counted.
        if direction.last.get() != 0 {
            direction.last.set(host.jiffies());
        }
    }
}
