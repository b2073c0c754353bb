//! Services as they are served here, and their tables as the kernel has them.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};

use datapath_abi::conn::{ConnKey, ConnValue};
use datapath_abi::service::{
    HASHED, NAT_DESTINATION, NAT_DSR, NAT_NONE, NAT_OUTSIDE, NAT_SOURCE, ServiceCounters,
    Translation,
};
use datapath_loader::{ServiceSnapshot, ServiceTables};
use datapath_policy::address;
use model::Protocol;
use serde::{Deserialize, Serialize};

use crate::metrics::state_name;
use crate::services::Programmed;
use crate::services::book::Book;
use crate::services::state::{self, ServedPort, TableUse};

/// What is served.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Services {
    /// Ports of services, by namespace and name.
    pub services: Vec<ServedPort>,
    /// How full the tables are.
    pub tables: Vec<TableUse>,
    /// What was done since the tables were made, by name.
    pub counters: BTreeMap<String, u64>,
}

/// A table as the kernel has it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tables {
    /// Frontends with their backends.
    Lb(Vec<LbEntry>),
    /// Shares of hashed services.
    Maglev(Vec<MaglevEntry>),
    /// Translated connections.
    Nat(Vec<NatEntry>),
    /// All connections.
    Ct(Vec<CtEntry>),
}

/// A frontend.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LbEntry {
    /// Number of the service's port.
    pub service: u32,
    /// Its name; empty for one that an earlier agent left.
    pub name: String,
    /// Address and port.
    pub frontend: String,
    /// `TCP`, …
    pub protocol: String,
    /// Flags as they stand in the table.
    pub flags: u32,
    /// Seconds of affinity.
    pub affinity_seconds: u32,
    /// Backends for clients within the cluster, with how many slots each has.
    pub internal: BTreeMap<String, u32>,
    /// For clients outside of it.
    pub external: BTreeMap<String, u32>,
}

/// A Maglev table.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MaglevEntry {
    /// Number of the service's port.
    pub service: u32,
    /// Its name.
    pub name: String,
    /// First slot.
    pub start: u32,
    /// Slots.
    pub size: u32,
    /// Slots of each backend.
    pub shares: BTreeMap<String, u32>,
}

/// A translated connection, at an interface.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NatEntry {
    /// Interface index.
    pub interface: u32,
    /// `TCP`, …
    pub protocol: String,
    /// `destination` (balanced, from a pod), `outside` (balanced, from outside), `source` (masqueraded).
    pub kind: String,
    /// Source of the packets that leave, before translation.
    pub stack_source: String,
    /// And their destination.
    pub stack_destination: String,
    /// Source that they get.
    pub wire_source: String,
    /// And destination.
    pub wire_destination: String,
    /// Number of the service's port; 0 for masquerading.
    pub service: u32,
}

/// A connection, at an interface.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CtEntry {
    /// Interface index.
    pub interface: u32,
    /// `TCP`, …
    pub protocol: String,
    /// The client, as the interface carries it.
    pub source: String,
    /// The server.
    pub destination: String,
    /// The backend, or the masqueraded client; empty without translation.
    pub translated: String,
    /// How, as [`NatEntry::kind`]; `dsr`: another node does it, and answers.
    #[serde(default)]
    pub kind: String,
    /// State of TCP.
    pub state: String,
    /// Packets from the client, and back.
    pub packets: [u64; 2],
    /// Bytes from the client, and back.
    pub bytes: [u64; 2],
}

/// What is served.
///
/// # Errors
/// When nothing is served yet, or the kernel cannot be asked.
pub(super) fn list(programmed: &Programmed, kernel: &ServiceTables) -> Result<Services, String> {
    let asked = programmed.ask(|book| (state::list(book), state::uses(book)));
    let (services, tables) = asked.ok_or("services are not served yet")?;
    let counters = counters(&kernel.counters().map_err(|error| error.to_string())?);
    Ok(Services { services, tables, counters })
}

/// Names of service ports by number.
pub(super) fn names(book: &Book) -> HashMap<u32, String> {
    book.ports().iter().map(|(id, entry)| (entry.number, id.to_string())).collect()
}

/// Counters by name.
pub(crate) fn counters(counters: &ServiceCounters) -> BTreeMap<String, u64> {
    let ServiceCounters {
        balanced,
        masqueraded,
        exhausted,
        full,
        no_backend,
        not_allowed,
        failed,
        sockets,
        dsr,
        dsr_arrived,
        too_big,
        no_route,
    } = *counters;
    [
        ("balanced", balanced),
        ("masqueraded", masqueraded),
        ("ports_exhausted", exhausted),
        ("table_full", full),
        ("no_backend", no_backend),
        ("not_allowed", not_allowed),
        ("rewrite_failed", failed),
        ("sockets", sockets),
        ("dsr", dsr),
        ("dsr_arrived", dsr_arrived),
        ("too_big", too_big),
        ("no_route", no_route),
    ]
    .into_iter()
    .map(|(name, count)| (name.to_owned(), count))
    .collect()
}

/// Reads a table; at most `limit` entries of those that grow with traffic, 0 for all.
pub(super) fn tables(
    kernel: &ServiceTables,
    names: &HashMap<u32, String>,
    what: &str,
    limit: usize,
) -> Result<Tables, String> {
    let limit = if limit == 0 { usize::MAX } else { limit };
    let text = |error: datapath_loader::Error| error.to_string();
    match what {
        "lb" => Ok(Tables::Lb(lb(&kernel.snapshot().map_err(text)?, names))),
        "maglev" => Ok(Tables::Maglev(maglev(&kernel.snapshot().map_err(text)?, names))),
        "nat" => {
            let mut found = Vec::new();
            kernel
                .translations(&mut |key, value| {
                    if found.len() < limit {
                        found.push(nat(key, value));
                    }
                })
                .map_err(text)?;
            Ok(Tables::Nat(found))
        }
        "ct" => {
            let mut found = Vec::new();
            kernel
                .connections()
                .walk(&mut |key, value| {
                    if found.len() < limit {
                        found.push(ct(key, value));
                    }
                })
                .map_err(text)?;
            Ok(Tables::Ct(found))
        }
        other => Err(format!("{other:?} is none of lb, maglev, nat, ct")),
    }
}

fn shares(snapshot: &ServiceSnapshot, start: u32, count: u32) -> BTreeMap<String, u32> {
    let mut shares = BTreeMap::new();
    let from = start as usize;
    let slots = snapshot.slots.get(from..from.saturating_add(count as usize)).unwrap_or_default();
    for slot in slots {
        let backend = snapshot.backends.get(*slot as usize).filter(|backend| backend.flags != 0);
        let name = backend.map_or("none".to_owned(), |backend| end(backend.address, backend.port));
        *shares.entry(name).or_insert(0) += 1;
    }
    shares
}

fn lb(snapshot: &ServiceSnapshot, names: &HashMap<u32, String>) -> Vec<LbEntry> {
    let mut found: Vec<_> = snapshot
        .frontends
        .iter()
        .map(|(key, frontend)| {
            let [internal, external] =
                frontend.slots.map(|slots| shares(snapshot, slots.start, slots.count));
            LbEntry {
                service: frontend.service,
                name: names.get(&frontend.service).cloned().unwrap_or_default(),
                frontend: end(key.address, key.port),
                protocol: Protocol(key.protocol).name().to_string(),
                flags: frontend.flags,
                affinity_seconds: frontend.affinity,
                internal,
                external,
            }
        })
        .collect();
    found.sort_by(|a, b| (a.service, &a.frontend).cmp(&(b.service, &b.frontend)));
    found
}

fn maglev(snapshot: &ServiceSnapshot, names: &HashMap<u32, String>) -> Vec<MaglevEntry> {
    let hashed = snapshot.frontends.iter().filter(|(_, frontend)| frontend.flags & HASHED != 0);
    let mut found: BTreeMap<(u32, u32), MaglevEntry> = BTreeMap::new();
    for (_, frontend) in hashed {
        for slots in frontend.slots.iter().filter(|slots| slots.count != 0) {
            found.entry((frontend.service, slots.start)).or_insert_with(|| MaglevEntry {
                service: frontend.service,
                name: names.get(&frontend.service).cloned().unwrap_or_default(),
                start: slots.start,
                size: slots.count,
                shares: shares(snapshot, slots.start, slots.count),
            });
        }
    }
    found.into_values().collect()
}

fn nat(key: &ConnKey, value: &Translation) -> NatEntry {
    // What leaves goes the other way than what comes in.
    let [destination, source] = key.ingress_ends();
    NatEntry {
        interface: key.ifindex(),
        protocol: Protocol(key.protocol()).name().to_string(),
        kind: kind(value.kind as u8).to_owned(),
        stack_source: end(source.0, source.1),
        stack_destination: end(destination.0, destination.1),
        wire_source: end(value.address, value.port),
        wire_destination: end(destination.0, value.peer_port),
        service: value.service,
    }
}

fn kind(nat: u8) -> &'static str {
    match nat {
        NAT_DESTINATION => "destination",
        NAT_OUTSIDE => "outside",
        NAT_SOURCE => "source",
        NAT_DSR => "dsr",
        _ => "",
    }
}

fn ct(key: &ConnKey, value: &ConnValue) -> CtEntry {
    let ends = [end(key.low_addr, key.low_port), end(key.high_addr, key.high_port)];
    let client = usize::from(value.client & 1);
    let [out, back] = [value.dirs[client], value.dirs[client ^ 1]];
    let [low, high] = ends;
    let (source, destination) = if client == 0 { (low, high) } else { (high, low) };
    let translated = match value.nat {
        NAT_NONE => String::new(),
        _ => end(value.stack_addr, value.stack_port),
    };
    CtEntry {
        interface: key.ifindex(),
        protocol: Protocol(key.protocol()).name().to_string(),
        source,
        destination,
        translated,
        kind: kind(value.nat).to_owned(),
        state: state_name(value.state).to_owned(),
        packets: [out.packets, back.packets],
        bytes: [out.bytes, back.bytes],
    }
}

fn end(ip: [u8; 16], port: u16) -> String {
    let ip: IpAddr = address(ip);
    SocketAddr::new(ip, port).to_string()
}
