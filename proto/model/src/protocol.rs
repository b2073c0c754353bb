//! IP protocols by name.

use std::borrow::Cow;

/// An IP protocol number (IANA "Assigned Internet Protocol Numbers").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Protocol(pub u8);

// === impl Protocol ===

impl Protocol {
    /// ICMP for IPv4.
    pub const ICMP: Self = Self(1);
    /// TCP.
    pub const TCP: Self = Self(6);
    /// UDP.
    pub const UDP: Self = Self(17);
    /// ICMP for IPv6.
    pub const ICMPV6: Self = Self(58);
    /// SCTP.
    pub const SCTP: Self = Self(132);

    /// The name as Hubble spells it, or the number.
    pub fn name(self) -> Cow<'static, str> {
        match self.0 {
            1 => Cow::Borrowed("ICMPv4"),
            6 => Cow::Borrowed("TCP"),
            17 => Cow::Borrowed("UDP"),
            58 => Cow::Borrowed("ICMPv6"),
            132 => Cow::Borrowed("SCTP"),
            other => Cow::Owned(other.to_string()),
        }
    }

    /// The protocol of that name, in any case; numbers are taken too.
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text.to_ascii_lowercase().as_str() {
            "icmp" | "icmpv4" => Self::ICMP,
            "tcp" => Self::TCP,
            "udp" => Self::UDP,
            "icmpv6" => Self::ICMPV6,
            "sctp" => Self::SCTP,
            number => Self(number.parse().ok()?),
        })
    }
}
