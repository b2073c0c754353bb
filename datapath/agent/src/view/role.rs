//! Which end of a connection an interface reports for.

use model::{Direction, Reporter};

/// Where a connection passes, in relation to who is behind the interface.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Passage {
    /// What kind of interface.
    pub(crate) side: Side,
    /// The client's packets come in by the interface (and not out).
    pub(crate) enters: bool,
    /// The client's address is the host's own.
    pub(crate) source_local: bool,
    /// The server's address is the host's own.
    pub(crate) destination_local: bool,
}

/// What is behind an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// The host itself: every packet passes twice, out and in again.
    Loopback,
    /// Pods and nothing else: whatever comes in is from them.
    Pods,
    /// Pods among others (a bridge with an uplink): told by address.
    Shared {
        /// The client is one of the pods.
        source: bool,
        /// The server is one of the pods.
        destination: bool,
    },
    /// The rest of the world, or other machines.
    Network,
}

/// Reporter and direction of the rows. The direction is that of the endpoint that the row speaks
/// for; of a connection that only passes, that of the interface.
pub(crate) fn of(passage: Passage) -> (Reporter, Direction) {
    const SOURCE: (Reporter, Direction) = (Reporter::Source, Direction::Egress);
    const DESTINATION: (Reporter, Direction) = (Reporter::Destination, Direction::Ingress);
    let Passage { side, enters, source_local, destination_local } = passage;
    match side {
        Side::Loopback if enters => DESTINATION,
        Side::Loopback => SOURCE,
        Side::Pods if enters => SOURCE,
        Side::Pods => DESTINATION,
        Side::Shared { source: true, .. } if enters => SOURCE,
        Side::Shared { destination: true, .. } if !enters => DESTINATION,
        Side::Shared { .. } | Side::Network => match enters {
            false if source_local => SOURCE,
            true if destination_local => DESTINATION,
            true => (Reporter::Host, Direction::Ingress),
            false => (Reporter::Host, Direction::Egress),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_passage() {
        let shared = |source, destination| Side::Shared { source, destination };
        // side, enters, source is local, destination is local → reporter
        for (side, enters, source_local, destination_local, reporter) in [
            // 127.0.0.1 to itself: once out, once in.
            (Side::Loopback, false, true, true, Reporter::Source),
            (Side::Loopback, true, true, true, Reporter::Destination),
            // A pod's own interface: pod → anywhere comes in, anywhere → pod goes out.
            (Side::Pods, true, false, false, Reporter::Source),
            (Side::Pods, true, false, true, Reporter::Source),
            (Side::Pods, false, false, false, Reporter::Destination),
            (Side::Pods, false, true, false, Reporter::Destination),
            // A bridge: pod → world, world → pod, pod → pod (seen on both passes), host → pod.
            (shared(true, false), true, false, false, Reporter::Source),
            (shared(false, true), false, false, false, Reporter::Destination),
            (shared(true, true), true, false, false, Reporter::Source),
            (shared(true, true), false, false, false, Reporter::Destination),
            (shared(false, true), false, true, false, Reporter::Destination),
            (shared(false, true), true, false, false, Reporter::Host),
            (shared(false, false), true, false, true, Reporter::Destination),
            // The uplink: the host's own connections, then what is routed through.
            (Side::Network, false, true, false, Reporter::Source),
            (Side::Network, true, false, true, Reporter::Destination),
            (Side::Network, true, false, false, Reporter::Host),
            (Side::Network, false, false, false, Reporter::Host),
            (Side::Network, true, true, false, Reporter::Host),
        ] {
            let passage = Passage { side, enters, source_local, destination_local };
            let (found, direction) = of(passage);
            assert_eq!(found, reporter, "{passage:?}");
            let expected = match reporter {
                Reporter::Source => Direction::Egress,
                Reporter::Destination => Direction::Ingress,
                _ if enters => Direction::Ingress,
                _ => Direction::Egress,
            };
            assert_eq!(direction, expected, "{passage:?}");
        }
    }
}
