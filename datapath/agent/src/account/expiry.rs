//! When a connection is over.

use std::time::Duration;

use datapath_abi::conn::{
    ConnKey, ConnValue, STATE_CLOSED, STATE_ESTABLISHED, STATE_FIN_WAIT, STATE_RESET,
};
use model::Protocol;

/// How long a connection may be idle before it is taken to be over.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// TCP, closed or reset: time for what is still on the way (retransmitted FINs, a last ACK).
    pub closed: Duration,
    /// TCP without a complete handshake.
    pub half_open: Duration,
    /// TCP closed by one side.
    pub half_closed: Duration,
    /// TCP, established. Long, because nothing is wrong with a quiet connection.
    pub established: Duration,
    /// UDP, ICMP and all others.
    pub other: Duration,
    /// UDP port 53: a question and its answer.
    pub dns: Duration,
    /// TCP, established, while the table is nearly full.
    pub established_pressed: Duration,
}

/// Why the last row of a connection was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Close {
    /// Both sides said so.
    Fin,
    /// One side reset it.
    Reset,
    /// It was idle for too long.
    Idle,
    /// The table was nearly full, and it was the one idle for longest.
    Pressure,
    /// Its tuple was used again.
    Reused,
    /// Its interface is gone.
    Gone,
}

// === impl Timeouts ===

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            closed: Duration::from_secs(5),
            half_open: Duration::from_secs(60),
            half_closed: Duration::from_secs(120),
            established: Duration::from_secs(6 * 3600),
            other: Duration::from_secs(60),
            dns: Duration::from_secs(10),
            established_pressed: Duration::from_secs(300),
        }
    }
}

impl Timeouts {
    /// Whether a connection that has been idle for `idle` nanoseconds is over, and why.
    pub(super) fn judge(
        &self,
        key: &ConnKey,
        value: &ConnValue,
        idle: i64,
        pressed: bool,
    ) -> Option<Close> {
        let limit = self.of(key, value, pressed);
        (idle >= nanoseconds(limit)).then(|| Close::of(value.state))
    }

    fn of(&self, key: &ConnKey, value: &ConnValue, pressed: bool) -> Duration {
        if key.protocol() != Protocol::TCP.0 {
            let dns =
                key.protocol() == Protocol::UDP.0 && (key.low_port == 53 || key.high_port == 53);
            return if dns { self.dns } else { self.other };
        }
        match value.state {
            STATE_CLOSED | STATE_RESET => self.closed,
            STATE_FIN_WAIT => self.half_closed,
            STATE_ESTABLISHED if pressed => self.established_pressed,
            STATE_ESTABLISHED => self.established,
            _ => self.half_open,
        }
    }
}

/// A duration as the clock counts.
pub(super) fn nanoseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

// === impl Close ===

impl Close {
    /// The reason that a state by itself gives.
    pub(super) fn of(state: u8) -> Self {
        match state {
            STATE_CLOSED => Self::Fin,
            STATE_RESET => Self::Reset,
            _ => Self::Idle,
        }
    }

    /// The word in `close_reason`.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Fin => "fin",
            Self::Reset => "reset",
            Self::Idle => "idle",
            Self::Pressure => "pressure",
            Self::Reused => "reused",
            Self::Gone => "interface_gone",
        }
    }
}

#[cfg(test)]
mod tests {
    use datapath_abi::conn::{STATE_NONE, STATE_SYN_SENT};

    use super::*;

    #[test]
    fn by_protocol_and_state() {
        let key = |protocol, port| ConnKey {
            low_addr: [0; 16],
            high_addr: [1; 16],
            low_port: 1024,
            high_port: port,
            link: ConnKey::link(1, 0, protocol),
        };
        for (protocol, port, state, seconds, pressed, expected) in [
            (6, 80, STATE_CLOSED, 5, false, Some(Close::Fin)),
            (6, 80, STATE_CLOSED, 4, false, None),
            (6, 80, STATE_RESET, 5, false, Some(Close::Reset)),
            (6, 80, STATE_SYN_SENT, 60, false, Some(Close::Idle)),
            (6, 80, STATE_FIN_WAIT, 60, false, None),
            (6, 80, STATE_ESTABLISHED, 3600, false, None),
            (6, 80, STATE_ESTABLISHED, 3600, true, Some(Close::Idle)),
            (6, 80, STATE_ESTABLISHED, 6 * 3600, false, Some(Close::Idle)),
            (17, 53, STATE_NONE, 10, false, Some(Close::Idle)),
            (17, 54, STATE_NONE, 10, false, None),
            (1, 0, STATE_NONE, 60, false, Some(Close::Idle)),
        ] {
            let value = ConnValue { state, ..ConnValue::ZERO };
            let idle = seconds * 1_000_000_000;
            let judged = Timeouts::default().judge(&key(protocol, port), &value, idle, pressed);
            assert_eq!(judged, expected, "{protocol} {port} {state} {seconds}");
        }
    }
}
