//! Changes of the tables, for user space to apply in order.

use std::net::IpAddr;

use datapath_abi::policy::{Class, Interval, Origin, Peer, Policy, Rule, Settings, Subject};

use crate::address::Cidr;

/// One write. A commit's changes are applied in order; what a reader finds in between is always the
/// old or the new verdict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// An entry of `ORIGINS`; None removes it.
    Origin {
        /// Key.
        number: u32,
        /// Value.
        origin: Option<Box<Origin>>,
    },
    /// A row of `CLASSES` that nothing refers to yet.
    Class {
        /// Index.
        index: u32,
        /// Row.
        class: Box<Class>,
    },
    /// A word of a row of `CLASSES`, in place.
    Bits {
        /// Index.
        class: u32,
        /// Word of the row.
        word: u32,
        /// Its new value.
        bits: u64,
    },
    /// An entry of `HOSTS`; None removes it.
    Host {
        /// Key, by [`octets`](crate::octets).
        address: IpAddr,
        /// Value.
        peer: Option<Peer>,
    },
    /// An entry of `CIDRS`; None removes it.
    Cidr {
        /// Key, by [`Cidr::prefix`].
        cidr: Cidr,
        /// Value.
        peer: Option<Peer>,
    },
    /// Entries of `RULES` that nothing refers to yet.
    Rules {
        /// Index of the first.
        start: u32,
        /// Entries.
        rules: Vec<Rule>,
    },
    /// Entries of `INTERVALS` that nothing refers to yet.
    Intervals {
        /// Index of the first.
        start: u32,
        /// Entries.
        intervals: Vec<Interval>,
    },
    /// An entry of `POLICIES`; None removes it.
    Policy {
        /// Key.
        number: u32,
        /// Value.
        policy: Option<Box<Policy>>,
    },
    /// An entry of `SUBJECTS`; None removes it.
    Subject {
        /// Key: index of the interface.
        interface: u32,
        /// Value.
        subject: Option<Subject>,
    },
    /// `SETTINGS`.
    Settings(Settings),
    /// Wait for an RCU grace period: what comes next removes or uses again what a running program
    /// may still be reading.
    Barrier,
}
