//! The CNI plugin: what a container runtime asks of it, and what it answers.
//!
//! Specification: <https://github.com/containernetworking/cni/blob/main/SPEC.md>, version 1.1.0.

#![forbid(unsafe_code)]

mod error;
mod invocation;
mod verbs;

pub use error::{Error, ErrorReply};
pub use invocation::{Invocation, NetConf};
pub use verbs::{DEFAULT_SOCKET, VERSIONS, run};
