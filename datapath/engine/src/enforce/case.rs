//! A packet, and what is being said about it.

use datapath_abi::conn::ConnKey;
use datapath_abi::policy::{DENY, DeniedCounter, DeniedKey, NO_ORIGIN, Subject, UNJUDGED};

use datapath_abi::service::NAT_NONE;

use super::{Fate, icmp};
use crate::cells::{Cell, ConnCells, Judged, Shared};
use crate::host::Frame;
use crate::key::Ends;
use crate::nat::Nat;
use crate::parse::{Headers, ICMP, ICMPV6};
use crate::tcp;

/// A packet and its connection.
#[repr(C, align(8))]
#[derive(Debug, Clone, Copy)]
pub struct Seen {
    /// The frame.
    pub frame: Frame,
    /// Its headers.
    pub headers: Headers,
    /// Its connection.
    pub key: ConnKey,
    /// Its direction there.
    pub direction: u32,
}

/// A packet on which no verdict stands, while it is judged. Large, and not for the stack of a BPF program:
/// that keeps it in a map, where the verifier forgets besides how each field came about.
#[repr(C, align(8))]
#[derive(Debug, Clone, Copy)]
pub struct Case {
    /// The packet.
    pub seen: Seen,
    /// How it is translated.
    pub nat: Nat,
    pub(super) ruling: Ruling,
    pub(super) asked: Asked,
    /// What an ICMP error is about.
    pub(crate) inner: Ends,
    /// Headers of the packet within another one.
    pub(crate) within: Headers,
    pub(super) denied: DeniedKey,
    pub(super) packet: DeniedCounter,
}

/// What the policy is asked; see [`Question`].
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked {
    pub(super) subject: Subject,
    pub(super) direction: u32,
    pub(super) port: u32,
    pub(super) peer: [u8; 16],
}

/// What is said about a packet.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct Ruling {
    pub(super) verdict: u32,
    pub(super) origin: u32,
    pub(super) peer: u32,
    pub(super) revision: u32,
    /// Direction of the client.
    pub(super) client: u32,
    /// Whether the verdict is the whole connection's, to be kept in its entry.
    pub(super) keep: u32,
    /// Whether the policy was replaced meanwhile.
    pub(super) moved: u32,
    /// The verdict of an earlier revision, and 1; 0 where the connection begins.
    pub(super) before: u32,
    /// And its origin.
    pub(super) former: u32,
}

/// Whether the packet begins another connection in the entry of a finished one.
#[inline(always)]
pub(super) fn reuses<S: Shared>(cells: &ConnCells<S>, headers: &Headers) -> bool {
    headers.tcp().is_some_and(|header| tcp::reuses(cells.state.get(), header.flags))
}

// === impl Seen ===

impl Seen {
    /// No packet.
    pub const NONE: Self = Self {
        frame: Frame {
            ifindex: 0,
            hook: 0,
            length: 0,
            segments: 0,
            link_header: 0,
            ethertype: 0,
            outer: 0,
        },
        headers: Headers::NONE,
        key: ConnKey { low_addr: [0; 16], high_addr: [0; 16], low_port: 0, high_port: 0, link: 0 },
        direction: 0,
    };
}

// === impl Case ===

impl Case {
    /// No packet.
    pub const NONE: Self = Self {
        seen: Seen::NONE,
        nat: Nat::NONE,
        ruling: Ruling::NONE,
        asked: Asked {
            subject: Subject { policy: 0, identity: 0, flags: 0, pad: 0 },
            direction: 0,
            port: 0,
            peer: [0; 16],
        },
        inner: Ends::NONE,
        within: Headers::NONE,
        denied: DeniedKey {
            source: [0; 16],
            destination: [0; 16],
            ifindex: 0,
            origin: NO_ORIGIN,
            port: 0,
            protocol: 0,
            hook: 0,
            pad: 0,
        },
        packet: DeniedCounter {
            packets: 0,
            bytes: 0,
            attempts: 0,
            first_ns: 0,
            last_ns: 0,
            peer_identity: 0,
            source_port: 0,
            retired: 0,
        },
    };

    /// What becomes of a packet that passes.
    #[inline(always)]
    pub(super) fn fate(&self) -> Fate {
        if self.nat.kind == u32::from(NAT_NONE) && self.nat.change.inner == 0 {
            Fate::Pass
        } else {
            Fate::Change
        }
    }

    /// A connection that has no entry: nothing stands.
    #[inline(always)]
    pub(super) fn begins(&mut self) -> bool {
        self.ruling.client = self.seen.headers.client(self.seen.direction as usize) as u32;
        self.ruling.keep = u32::from(!icmp::is_special(&self.seen.headers));
        false
    }

    /// Whether the entry's verdict holds for this packet; if so, it is taken over.
    #[inline(always)]
    pub(super) fn stands<S: Shared>(&mut self, cells: &ConnCells<S>) -> bool {
        let judged = Judged(cells.judged.get());
        let ruling = &mut self.ruling;
        ruling.client = u32::from(cells.client.get() & 1);
        ruling.keep = u32::from(cells.retired.get() == 0);
        if reuses(cells, &self.seen.headers) {
            ruling.client = self.seen.direction;
            return false;
        }
        if matches!(self.seen.headers.protocol, ICMP | ICMPV6) {
            let asker = self.seen.headers.client(self.seen.direction as usize) as u32;
            if asker != ruling.client || icmp::is_special(&self.seen.headers) {
                ruling.client = asker;
                ruling.keep = 0;
                return false;
            }
        }
        if judged.revision() != ruling.revision {
            ruling.before = u32::from(judged.verdict()) + 1;
            ruling.former = cells.origin.get();
            return false;
        }
        ruling.verdict = u32::from(judged.verdict());
        if ruling.verdict == u32::from(DENY) {
            ruling.origin = cells.origin.get();
            ruling.peer = cells.peer_identity.get();
        }
        true
    }

    /// Puts a new verdict into the connection's entry.
    #[inline(always)]
    pub(super) fn keep<S: Shared>(&self, cells: &ConnCells<S>) {
        let ruling = &self.ruling;
        // A refused attempt to use the tuple again says nothing of the connection that had it.
        let again = ruling.verdict == u32::from(DENY) && reuses(cells, &self.seen.headers);
        if ruling.keep == 0 || again {
            return;
        }
        cells.origin.set(ruling.origin);
        cells.peer_identity.set(ruling.peer);
        let nat = Judged(cells.judged.get()).nat();
        cells.judged.set(Judged::new(ruling.revision, ruling.verdict as u8, nat).0);
    }
}

// === impl Ruling ===

impl Ruling {
    /// Whether an earlier revision let the connection through.
    #[inline(always)]
    pub(super) fn was_let_through(&self) -> bool {
        (self.before != 0) & (self.before != DENY as u32 + 1)
    }

    /// Nothing said: it may pass.
    pub(super) const NONE: Self = Self {
        verdict: UNJUDGED as u32,
        origin: NO_ORIGIN,
        peer: 0,
        revision: 0,
        client: 0,
        keep: 0,
        moved: 0,
        before: 0,
        former: NO_ORIGIN,
    };
}
