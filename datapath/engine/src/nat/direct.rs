//! Connections that another node translates and answers.

use core::hint::black_box;

use datapath_abi::service::NODE;

use super::ENTRY;
use crate::account::Done;
use crate::enforce::{Case, Enforcer, Seen};
use crate::key::{self, Ends};

/// Whether what comes in here can be forwarded by encapsulation: from an address of this node, and with nothing between
/// link and network header.
#[inline(never)]
pub(super) fn can_forward<H: Enforcer>(host: &H, seen: &Seen) -> u32 {
    let Some(served) = host.served(seen.frame.ifindex) else {
        return black_box(0);
    };
    let own = if seen.headers.version == 4 { &served.v4 } else { &served.v6 };
    let plain = seen.headers.network_offset == seen.frame.link_header;
    // Others take it from a node alone.
    black_box(u32::from(plain && host.prefix(own) & NODE != 0))
}

/// The connection's other side is where its backend is: nothing is entered for it here.
#[inline(never)]
pub(super) fn aim(case: &mut Case) -> Done {
    let Case { seen, nat, .. } = case;
    nat.fresh = ENTRY;
    nat.ends = Ends {
        source: seen.headers.source,
        destination: nat.change.address,
        source_port: nat.change.peer_port,
        destination_port: nat.change.port,
        protocol: seen.headers.protocol,
    };
    let (stack, direction) = key::located(seen.frame.ifindex, seen.frame.hook, &nat.ends);
    nat.stack = stack;
    nat.stack_direction = direction as u32;
    Done::here()
}
