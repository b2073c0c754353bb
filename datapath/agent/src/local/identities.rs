//! Security identities, as `weir identity list` shows them.

use std::collections::BTreeMap;

use datapath_policy::Compiler;
use serde::{Deserialize, Serialize};

/// All that some address has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identities {
    /// By number.
    pub identities: Vec<IdentityState>,
}

/// One identity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdentityState {
    /// Its number.
    pub number: u32,
    /// `reserved`, `cluster`, `cidr` or `node`.
    pub scope: String,
    /// Its labels.
    pub labels: Vec<String>,
    /// Endpoints that have it, `namespace/name`.
    pub endpoints: Vec<String>,
    /// How many single addresses have it, and how many prefixes.
    pub addresses: usize,
    /// See `addresses`.
    pub prefixes: usize,
}

/// Lists them.
pub(crate) fn list(compiler: &Compiler) -> Identities {
    let tables = compiler.tables();
    let mut all: BTreeMap<u32, IdentityState> = BTreeMap::new();
    for peer in tables.hosts.values() {
        entry(&mut all, compiler, peer.identity).addresses += 1;
    }
    for peer in tables.cidrs.values() {
        entry(&mut all, compiler, peer.identity).prefixes += 1;
    }
    for (id, endpoint) in &compiler.cluster().endpoints {
        let peers = endpoint
            .addresses
            .iter()
            .filter_map(|ip| tables.hosts.get(&datapath_policy::octets(*ip)));
        if let Some(peer) = peers.take(1).next() {
            entry(&mut all, compiler, peer.identity).endpoints.push(id.clone());
        }
    }
    Identities { identities: all.into_values().collect() }
}

fn entry<'a>(
    all: &'a mut BTreeMap<u32, IdentityState>,
    compiler: &Compiler,
    number: u32,
) -> &'a mut IdentityState {
    all.entry(number).or_insert_with(|| IdentityState {
        number,
        scope: scope(number).to_owned(),
        labels: compiler.identity_labels(number),
        endpoints: Vec::new(),
        addresses: 0,
        prefixes: 0,
    })
}

/// By the ranges of [`datapath_policy::identity::Scope`].
fn scope(number: u32) -> &'static str {
    match (number >> 24, number) {
        (0, ..256) => "reserved",
        (0, _) => "cluster",
        (1, _) => "cidr",
        _ => "node",
    }
}
