//! The decisions of the datapath, as functions over small traits.
//!
//! No allocation, no `unsafe`, no panic: the same functions are compiled into the kernel programs
//! (where the verifier proves it again) and into user space (where they are tested and fuzzed).
//!
//! [`observe()`] is all that happens to a packet: [`parse`] its headers, make its [`key`], find or
//! create its connection and count it there ([`account`]), and follow TCP ([`tcp`]). Whatever cannot
//! be counted in a connection is counted as unattributed, by cause: each packet exactly once.
//! [`enforce()`](enforce()) does the same and says besides whether the packet may pass: by the verdict in
//! the connection's entry, or by [`policy`] where there is none of the present revision. What is refused may
//! get an [`answer`].

#![no_std]
#![forbid(unsafe_code)]

pub mod account;
pub mod answer;
#[cfg(target_has_atomic = "8")]
pub mod atomics;
pub mod cells;
pub mod dsr;
pub mod enforce;
pub mod flow_cache;
pub mod forward;
pub mod host;
pub mod key;
pub mod nat;
pub mod packet;
pub mod parse;
pub mod policy;
pub mod rewrite;
pub mod service;
pub mod tcp;

pub use account::{observe, observe_headers, observe_unparsed};
pub use enforce::{
    Case, Enforcer, Fate, Seen, enforce, enforce_case, enforce_in, enforce_unparsed, locate,
    pass_known,
};
pub use host::{Frame, Host, Refusal};
pub use nat::Change;
pub use packet::{Packet, Slice, Without};
pub use service::Services;
