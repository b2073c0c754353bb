//! How what clients from outside send gets to backends on other nodes: with this node's address, or encapsulated, so that
//! the other node answers (direct server return).

use std::collections::BTreeSet;
use std::net::IpAddr;

use datapath_abi::service::{CLUSTER_ONLY, DSR, LOCAL, LocalKey};
use datapath_policy::{address, octets};

use super::desired::{Here, Port};
use crate::control::{Forwarding, Service, ServicePort};

const TCP: u8 = 6;

/// Marks the frontends that are to be forwarded directly, or says why they are not. `known`: by which addresses other
/// nodes know this one.
pub(super) fn choose(
    made: &mut Port,
    service: &Service,
    port: &ServicePort,
    here: &Here,
    known: &BTreeSet<IpAddr>,
) {
    if matches!(service.kind.as_str(), "NodePort" | "LoadBalancer") {
        made.node_port = port.node_port;
    }
    let direct = match service.forwarding.unwrap_or(here.forwarding) {
        Forwarding::Snat => false,
        Forwarding::Dsr => true,
        Forwarding::Hybrid => port.protocol == TCP,
    };
    if !direct {
        return;
    }
    for v4 in [true, false] {
        let why = obstacle(made, v4, here, known);
        let external = made.frontends.iter_mut().filter(|(key, frontend)| {
            let outside = frontend.flags & CLUSTER_ONLY == 0 && !frontend.candidates[1].is_empty();
            address(key.address).is_ipv4() == v4 && outside
        });
        let external: Vec<_> = external.map(|(_, frontend)| frontend).collect();
        if external.is_empty() {
            continue;
        }
        match why {
            None => external.into_iter().for_each(|frontend| frontend.flags |= DSR),
            Some(why) => made.obstacles.push(why),
        }
    }
}

/// Why a port cannot be forwarded directly in one family.
fn obstacle(port: &Port, v4: bool, here: &Here, known: &BTreeSet<IpAddr>) -> Option<String> {
    let family = if v4 { "IPv4" } else { "IPv6" };
    let masqueraded = "what goes to backends on other nodes is masqueraded, not forwarded directly";
    let own = || here.addresses.iter().filter(|ip| ip.is_ipv4() == v4);
    if own().next().is_none() {
        return Some(format!("this host has no {family} address: {masqueraded}"));
    }
    if !own().any(|ip| known.contains(ip)) {
        let node = &here.node;
        return Some(format!(
            "no {family} address of this host is one of Node {node}: {masqueraded}"
        ));
    }
    let ip = ambiguous(port, v4)?;
    Some(format!("two of its endpoints have the address {ip}: {masqueraded}"))
}

/// An address that does not tell one backend.
fn ambiguous(port: &Port, v4: bool) -> Option<IpAddr> {
    let mut last = None;
    port.backends.keys().map(|(ip, _)| *ip).filter(|ip| ip.is_ipv4() == v4).find(|ip| {
        let again = last == Some(*ip);
        last = Some(*ip);
        again
    })
}

/// The names by which other nodes know a port's backend on this node; whether they forward is for them to say.
pub(super) fn names(
    port: &Port,
    (number, protocol): (u32, u8),
    at: (IpAddr, u16),
    flags: u16,
) -> Vec<LocalKey> {
    let external = port.frontends.values().any(|frontend| frontend.flags & CLUSTER_ONLY == 0);
    let serves = (external || port.node_port != 0) && port.kind != "HostPort";
    // Of several at one address the first: nobody forwards there.
    let first = port.backends.range((at.0, 0)..).next().map(|(first, _)| *first) == Some(at);
    if flags & LOCAL == 0 || !serves || !first {
        return Vec::new();
    }
    let named = LocalKey { address: octets(at.0), service: number, port: 0, protocol: 0, pad: 0 };
    let mut names = vec![named];
    if port.node_port != 0 {
        names.push(LocalKey { service: 0, port: port.node_port, protocol, ..named });
    }
    names
}
