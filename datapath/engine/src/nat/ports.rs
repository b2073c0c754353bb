//! Ports that tell connections apart which would look alike otherwise.

use datapath_abi::service::ORIGIN_NO_TRANSLATION;

use super::{BOTH, ENTRY, Nat};
use crate::account::Done;
use crate::enforce::{Case, Enforcer};
use crate::key::{self, Ends};
use crate::parse::{ICMP, ICMPV6};

/// Ports that are tried before there is said to be none.
const PORTS: u32 = 32;

/// Finds a client's port that makes the stack side unique: the client's own, if it can be had.
#[inline(never)]
pub(super) fn free_stack_port<H: Enforcer>(host: &H, case: &mut Case) -> Done {
    let Case { seen, nat, .. } = case;
    nat.ends = Ends {
        source: seen.headers.source,
        destination: nat.change.address,
        source_port: nat.change.peer_port,
        destination_port: nat.change.port,
        protocol: seen.headers.protocol,
    };
    for _ in 0..PORTS {
        let (stack, direction) = key::located(seen.frame.ifindex, seen.frame.hook, &nat.ends);
        nat.stack = stack;
        nat.stack_direction = direction as u32;
        let known = host.translation(&nat.stack);
        let free = match known {
            // Left by an entry of this very connection.
            Some(known) => {
                nat.fresh = ENTRY;
                (u128::from_ne_bytes(known.address)
                    == u128::from_ne_bytes(seen.headers.destination))
                    & (known.port == seen.headers.destination_port)
                    & (known.peer_port == seen.headers.source_port)
            }
            None => {
                nat.fresh = BOTH;
                host.find(&nat.stack).is_none()
            }
        };
        if free {
            nat.change.peer_port = nat.ends.source_port;
            return Done::here();
        }
        nat.ends.source_port = random_port(host);
    }
    exhausted(host, nat);
    Done::here()
}

/// Finds a source port that makes the wire side unique: the packet's own, if it lies in the range.
#[inline(never)]
pub(super) fn free_wire_port<H: Enforcer>(host: &H, case: &mut Case) -> Done {
    let Case { seen, nat, .. } = case;
    let (min, max) = match host.service_settings() {
        Some(settings) => (settings.port_min, settings.port_max),
        None => (0, 0),
    };
    let mut port = seen.headers.source_port;
    if port < min || port > max {
        port = random_port(host);
    }
    nat.ends = Ends {
        source: nat.change.address,
        destination: seen.headers.destination,
        source_port: port,
        destination_port: seen.headers.destination_port,
        protocol: seen.headers.protocol,
    };
    let echo = matches!(seen.headers.protocol, ICMP | ICMPV6);
    for _ in 0..PORTS {
        if echo {
            nat.ends.destination_port = nat.ends.source_port;
        }
        let (wire, direction) = key::located(seen.frame.ifindex, seen.frame.hook, &nat.ends);
        if host.find(&wire).is_none() {
            nat.fresh = BOTH;
            nat.change.port = nat.ends.source_port;
            nat.change.peer_port = nat.ends.destination_port;
            seen.key = wire;
            seen.direction = direction as u32;
            seen.headers.source = nat.change.address;
            seen.headers.source_port = nat.change.port;
            seen.headers.destination_port = nat.change.peer_port;
            return Done::here();
        }
        nat.ends.source_port = random_port(host);
    }
    exhausted(host, nat);
    Done::here()
}

#[inline(always)]
fn random_port<H: Enforcer>(host: &H) -> u16 {
    let (min, max) = match host.service_settings() {
        Some(settings) => (settings.port_min, settings.port_max),
        None => (0, 0),
    };
    let range = u64::from(max.saturating_sub(min)) + 1;
    min.wrapping_add(((u64::from(host.random()) * range) >> 32) as u16)
}

#[inline(always)]
fn exhausted<H: Enforcer>(host: &H, nat: &mut Nat) {
    nat.refused = ORIGIN_NO_TRANSLATION;
    nat.silent = 1;
    host.count(|counters| counters.exhausted += 1);
}
