//! Which packets that go out get another source.

use datapath_abi::service::{FROM_POD, MARK, MASQUERADE, MASQUERADED, NATIVE, Served, UPLINK};

use super::equal;
use crate::enforce::{Enforcer, Seen};
use crate::parse::{Fragment, Headers, ICMP, ICMPV6, SCTP, TCP, UDP};

/// The source that the packet gets; zero where it keeps its own.
#[inline(always)]
pub(super) fn masquerade<H: Enforcer>(host: &H, seen: &Seen, served: &Served) -> [u8; 16] {
    let headers = &seen.headers;
    let is_v4 = headers.version == 4;
    if served.flags & FROM_POD != 0 {
        let itself = equal(&headers.source, &headers.destination);
        return match (itself, host.service_settings()) {
            (true, Some(settings)) if is_v4 => settings.hairpin_v4,
            (true, Some(settings)) => settings.hairpin_v6,
            _ => [0; 16],
        };
    }
    let own = if is_v4 { served.v4 } else { served.v6 };
    let balanced = served.flags & UPLINK != 0 && host.mark() & MARK != 0;
    let leaves = served.flags & MASQUERADE != 0
        && host.prefix(&headers.source) & MASQUERADED != 0
        && host.prefix(&headers.destination) & NATIVE == 0;
    let answers = headers.client(0) != 0;
    if (balanced || leaves) && !answers && can_be_masqueraded(headers) { own } else { [0; 16] }
}

/// Errors go with the connection that they are about, and what has no ports cannot be told apart.
#[inline(always)]
fn can_be_masqueraded(headers: &Headers) -> bool {
    match headers.protocol {
        TCP | UDP | SCTP => headers.fragment != Fragment::LATER || headers.source_port != 0,
        ICMP => headers.icmp_type == 8,
        ICMPV6 => headers.icmp_type == 128,
        _ => false,
    }
}
