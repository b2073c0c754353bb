//! The verdict about a connection, from the policy tables of [`datapath_abi::policy`].
//!
//! Costs one table lookup each for subject, peer and policy, a binary search over intervals of ports,
//! and the rules of one interval up to the first that matches: none of it grows with the number of
//! identities, and only the last with the number of rules that apply to this very port.

use core::hint::black_box;

use datapath_abi::policy::{
    ALLOW, ANYBODY, AUDIT, AUDIT_ALL, Class, DENY, DENY_BIT, ICMPV4, ICMPV6, Interval,
    MAX_INTERVALS, MAX_RULES, NO_ORIGIN, OTHER, Peer, PolicySide, Rule, SCTP, SECTIONS, SELECTORS,
    SUBJECT_AUDIT, Section, Subject, TCP, UDP,
};

/// Steps of the binary search.
const STEPS: u32 = MAX_INTERVALS.trailing_zeros() + 1;

/// The tables.
pub trait Tables {
    /// Identity and class of an address: the single address, else the longest prefix. None where not even
    /// 0.0.0.0/0 or ::/0 is there: the tables are not filled yet.
    fn peer(&self, address: &[u8; 16]) -> Option<Peer>;

    /// One direction ([`INGRESS`](datapath_abi::policy::INGRESS) or
    /// [`EGRESS`](datapath_abi::policy::EGRESS)) of a policy.
    fn side(&self, policy: u32, direction: usize) -> Option<&PolicySide>;

    /// An interval of ports.
    fn interval(&self, index: u32) -> Option<Interval>;

    /// A rule.
    fn rule(&self, index: u32) -> Option<Rule>;

    /// The selectors that the peers of a class match.
    fn class(&self, class: u32) -> Option<&Class>;

    /// Flags of [`Settings`](datapath_abi::policy::Settings).
    fn flags(&self) -> u32;

    /// See [`Packet::zero`](crate::Packet::zero).
    #[inline(always)]
    fn zero(&self) -> u32 {
        0
    }
}

/// What is to be judged: the first packet of a connection, seen from the endpoint.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// The endpoint.
    pub subject: Subject,
    /// Direction of the connection from the endpoint's view; see [`Tables::side`].
    pub direction: usize,
    /// The other end's address.
    pub peer: &'a [u8; 16],
    /// IP protocol.
    pub protocol: u8,
    /// Destination port, host order; ICMP: the type; other protocols: anything.
    pub port: u16,
}

/// The answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    /// [`ALLOW`], [`DENY`] or [`AUDIT`].
    pub verdict: u8,
    /// Who said so; see [`Origin`](datapath_abi::policy::Origin). [`NO_ORIGIN`]: not enforced, or
    /// tables that are incomplete.
    pub origin: u32,
    /// The peer's identity; 0 where unknown.
    pub peer: u32,
}

/// Judges. Where a table lacks what another refers to, which a correct user space never lets happen,
/// the answer is [`DENY`] with [`NO_ORIGIN`]: it fails closed.
#[inline(always)]
pub fn evaluate<T: Tables>(tables: &T, question: &Question<'_>) -> Decision {
    let Some(peer) = tables.peer(question.peer) else {
        return Decision { verdict: DENY, origin: NO_ORIGIN, peer: 0 };
    };
    let unknown = Decision { verdict: DENY, origin: NO_ORIGIN, peer: peer.identity };
    // Six sections, two directions: ways that are made one here, before the loops.
    let direction = question.direction ^ tables.zero() as usize;
    let Some(side) = tables.side(question.subject.policy, direction) else {
        return unknown;
    };
    let (index, port) = section(question.protocol, question.port);
    let (index, port) = (index ^ tables.zero() as usize, port ^ tables.zero());
    let (Some(&enforced), Some(&audited)) = (side.enforced.get(index), side.audited.get(index))
    else {
        return unknown;
    };
    let mut found = decide(tables, peer.class, enforced, port);
    if found & DENY_BIT == 0 {
        let audited = decide(tables, peer.class, audited, port);
        if audited & DENY_BIT != 0 {
            return Decision { verdict: AUDIT, origin: audited & !DENY_BIT, peer: peer.identity };
        }
        return Decision { verdict: ALLOW, origin: found, peer: peer.identity };
    }
    found &= !DENY_BIT;
    let audit = question.subject.flags & SUBJECT_AUDIT != 0 || tables.flags() & AUDIT_ALL != 0;
    let verdict = if audit { AUDIT } else { DENY };
    Decision { verdict, origin: found, peer: peer.identity }
}

/// Section and port of a protocol.
#[inline(always)]
fn section(protocol: u8, port: u16) -> (usize, u32) {
    let index = match protocol {
        6 => TCP,
        17 => UDP,
        132 => SCTP,
        1 => ICMPV4,
        58 => ICMPV6,
        _ => return (OTHER, u32::from(protocol)),
    };
    const _: () = assert!(SECTIONS == 6);
    (index, u32::from(port))
}

/// Origin with [`DENY_BIT`].
#[inline(always)]
fn decide<T: Tables>(tables: &T, class: u32, section: Section, port: u32) -> u32 {
    if section.count == 0 {
        return NO_ORIGIN;
    }
    let (Some(interval), Some(class)) = (search(tables, section, port), tables.class(class)) else {
        return DENY_BIT;
    };
    // One branch a turn, besides that for a missing rule: the verifier keeps every branch that it has yet to
    // follow, at most 8192 of them (BPF_COMPLEXITY_LIMIT_JMP_SEQ). Hence numbers instead of truths.
    let count = black_box(u64::from(interval.count));
    for index in 0..MAX_RULES {
        let Some(rule) = tables.rule(interval.rules.wrapping_add(index)) else {
            break;
        };
        let hit = matches(class, rule.selector);
        let last = count.wrapping_sub(u64::from(index) + 2) >> 63;
        if hit | last != 0 {
            return if hit != 0 { rule.origin } else { DENY_BIT };
        }
    }
    DENY_BIT
}

/// The last interval that begins at or below the port.
#[inline(always)]
fn search<T: Tables>(tables: &T, section: Section, port: u32) -> Option<Interval> {
    let (mut low, mut high) = (0, section.count);
    let mut found = None;
    for _ in 0..STEPS {
        if low >= high {
            break;
        }
        let middle = low + (high - low) / 2;
        let interval = tables.interval(section.start.wrapping_add(middle))?;
        if interval.first <= port {
            found = Some(interval);
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    found.filter(|interval| interval.count != 0)
}

/// 1 where the class has the selector, else 0; without a branch, see [`decide`]. `black_box` keeps the
/// compiler from seeing comparisons in it, which BPF knows as branches only.
#[inline(always)]
fn matches(class: &Class, selector: u32) -> u64 {
    const WORDS: usize = SELECTORS / 64;
    let word = class.bits[(selector / 64) as usize % WORDS];
    let selector = black_box(u64::from(selector));
    let is_one = selector.wrapping_sub(SELECTORS as u64) >> 63;
    let is_anybody = selector.wrapping_add(1) >> 32 & 1;
    (word >> (selector % 64)) & is_one | is_anybody
}

const _: () = assert!(ANYBODY == u32::MAX);
