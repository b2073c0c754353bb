//! Policy documents: what they say and whom they select.
//!
//! Rules are those of the Kubernetes API reference (`networking.k8s.io/v1`) and of Cilium's
//! `cilium.io/v2`; nothing here knows the kernel or how a rule is enforced.

#![forbid(unsafe_code)]

mod cilium;
mod document;
mod kubernetes;
mod selector;

pub use document::{ParseError, Policy, PolicyKind, Section, parse};
pub use selector::{Requirement, Selector, Subject};
