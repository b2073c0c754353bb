//! ICMP errors about translated connections.

use datapath_abi::iface;
use datapath_abi::policy::DENY;
use datapath_abi::service::NAT_NONE;

use super::equal;
use crate::cells::{Cell, Judged};
use crate::enforce::{Case, Enforcer};
use crate::key;

/// An ICMP error about a translated connection; `case.inner` is whom the packet is between that it is about. Whether it is
/// one.
#[inline(never)]
pub(crate) fn plan_error<H: Enforcer>(host: &H, case: &mut Case) -> bool {
    let (ifindex, hook) = (case.seen.frame.ifindex, case.seen.frame.hook);
    // It went the other way.
    let key = key::of_ends(ifindex, hook ^ 1, &case.inner);
    if hook == iface::INGRESS {
        let Some(cells) = host.find(&key) else {
            return false;
        };
        let judged = Judged(cells.judged.get());
        if judged.nat() == NAT_NONE || judged.verdict() == DENY {
            return false;
        }
        let ports = cells.stack_ports.get();
        let Case { seen, nat, inner, .. } = case;
        nat.change.old_address = inner.source;
        nat.change.old_port = inner.source_port;
        nat.change.old_peer_port = inner.destination_port;
        nat.change.address = cells.stack_addr();
        nat.change.port = ports as u16;
        nat.change.peer_port = (ports >> 16) as u16;
        nat.change.kind = u32::from(judged.nat());
        nat.change.outer = u16::from(equal(&seen.headers.destination, &inner.source));
        return nat.change.outer != 0;
    }
    let Some(translation) = host.translation(&key) else {
        return false;
    };
    let Case { seen, nat, inner, .. } = case;
    nat.change.old_address = inner.destination;
    nat.change.old_port = inner.destination_port;
    nat.change.old_peer_port = inner.source_port;
    nat.change.address = translation.address;
    nat.change.port = translation.port;
    nat.change.peer_port = translation.peer_port;
    nat.change.kind = translation.kind;
    nat.change.outer = u16::from(equal(&seen.headers.source, &inner.destination));
    if nat.change.outer != 0 {
        seen.headers.source = translation.address;
        let (key, direction) = key::of(&seen.frame, &seen.headers);
        seen.key = key;
        seen.direction = direction as u32;
    }
    true
}
