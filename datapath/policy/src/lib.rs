//! Policy documents: what they say and whom they select.
//!
//! Rules are those of the Kubernetes API reference (`networking.k8s.io/v1`) and of Cilium's
//! `cilium.io/v2`; nothing here knows the kernel or how a rule is enforced.

#![forbid(unsafe_code)]

mod address;
mod change;
mod cilium;
mod cluster;
mod compiler;
mod document;
pub mod explain;
mod group;
pub mod identity;
mod kubernetes;
pub mod naive;
mod rule;
mod selector;
mod tables;

pub use address::{Cidr, address, octets};
pub use change::Change;
pub use cluster::{
    Capacity, Cluster, DenyResponse, Endpoint, EndpointKind, Enforcement, Failsafe, Labels,
    NamedPort, Node, Options, Service,
};
pub use compiler::{Commit, Compiler, OriginInfo, OriginKind, Sizes};
pub use document::{AUDIT_ANNOTATION, ParseError, Policy, PolicyKey, PolicyKind, parse};
pub use group::CidrGroup;
pub use rule::{Entity, Peer, Port, Rule, Section};
pub use selector::{Operator, Requirement, Selector, Subject};
pub use tables::MemoryTables;
