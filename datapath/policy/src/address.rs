//! Prefixes of addresses.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use datapath_abi::policy::Prefix;
use serde::{Deserialize, Serialize};

/// A prefix. IPv4 is kept as `::ffff:a.b.c.d` with 96 more bits, as in the tables; the family is
/// part of it, so that `::/0` holds no IPv4 address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Cidr {
    bits: u128,
    length: u8,
    v4: bool,
}

const V4_IN_V6: u128 = 0xffff << 32;

// === impl Cidr ===

impl Cidr {
    /// 0.0.0.0/0.
    pub const WORLD_V4: Self = Self { bits: V4_IN_V6, length: 96, v4: true };
    /// ::/0.
    pub const WORLD_V6: Self = Self { bits: 0, length: 0, v4: false };

    /// The prefix that holds one address.
    pub fn host(address: IpAddr) -> Self {
        Self { bits: mapped(address), length: 128, v4: address.is_ipv4() }
    }

    /// Whether it is of IPv4.
    pub const fn is_v4(&self) -> bool {
        self.v4
    }

    /// Bits that count, of 128.
    pub const fn length(&self) -> u8 {
        self.length
    }

    /// Lowest and highest address, as in the tables.
    pub(crate) const fn range(&self) -> (u128, u128) {
        (self.bits, self.bits | !mask(self.length))
    }

    /// Whether every address of the other is one of this.
    pub const fn contains(&self, other: &Self) -> bool {
        self.v4 == other.v4
            && self.length <= other.length
            && (other.bits & mask(self.length)) == self.bits
    }

    /// Whether it holds the address.
    pub fn has(&self, address: IpAddr) -> bool {
        self.contains(&Self::host(address))
    }

    /// The shorter prefix of that many bits (of 128) around it.
    pub(crate) const fn shortened(&self, length: u8) -> Self {
        Self { bits: self.bits & mask(length), length, v4: self.v4 }
    }

    /// As the trie has it.
    pub const fn prefix(&self) -> Prefix {
        Prefix { length: self.length as u32, address: self.bits.to_be_bytes() }
    }

    /// From the trie's key: what is inside ::ffff:0:0/96 is of IPv4.
    pub fn from_prefix(prefix: &Prefix) -> Option<Self> {
        let length = u8::try_from(prefix.length).ok().filter(|length| *length <= 128)?;
        let bits = u128::from_be_bytes(prefix.address) & mask(length);
        let v4 = length >= 96 && bits & mask(96) == V4_IN_V6;
        Some(Self { bits, length, v4 })
    }
}

impl FromStr for Cidr {
    type Err = String;

    /// `address/length`; bits behind the length are ignored, as everywhere in Kubernetes.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not a CIDR");
        let (address, length) = text.split_once('/').ok_or_else(wrong)?;
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let canonical = length == "0" || !length.starts_with(['0', '+']);
        let length: u8 = length.parse().ok().filter(|_| canonical).ok_or_else(wrong)?;
        let (widest, offset) = if address.is_ipv4() { (32, 96) } else { (128, 0) };
        if length > widest {
            return Err(wrong());
        }
        let length = length + offset;
        let bits = mapped(address) & mask(length);
        if address.is_ipv6() && length >= 96 && bits & mask(96) == V4_IN_V6 {
            return Err(format!("{text:?} is an IPv4 prefix written as IPv6"));
        }
        Ok(Self { bits, length, v4: address.is_ipv4() })
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.v4 {
            write!(f, "{}/{}", Ipv4Addr::from(self.bits as u32), self.length.saturating_sub(96))
        } else {
            write!(f, "{}/{}", Ipv6Addr::from(self.bits), self.length)
        }
    }
}

impl TryFrom<String> for Cidr {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Cidr> for String {
    fn from(cidr: Cidr) -> Self {
        cidr.to_string()
    }
}

/// An address as in the tables: network order, IPv4 as `::ffff:a.b.c.d`.
pub fn octets(address: IpAddr) -> [u8; 16] {
    mapped(address).to_be_bytes()
}

/// The address behind [`octets`].
pub fn address(octets: [u8; 16]) -> IpAddr {
    Ipv6Addr::from(octets).to_canonical()
}

pub(crate) fn mapped(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => V4_IN_V6 | u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

const fn mask(length: u8) -> u128 {
    if length == 0 { 0 } else { u128::MAX << (128 - length as u32) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    #[test]
    fn contains_by_family() {
        assert!(cidr("10.0.0.0/8").contains(&cidr("10.1.2.3/32")));
        assert!(cidr("10.1.2.3/8").contains(&cidr("10.0.0.0/8")));
        assert!(!cidr("10.0.0.0/8").contains(&cidr("0.0.0.0/0")));
        assert!(!cidr("::/0").has("10.0.0.1".parse().unwrap()));
        assert!(cidr("::/0").has("fd00::1".parse().unwrap()));
        assert!(cidr("0.0.0.0/0").has("255.0.0.1".parse().unwrap()));
    }

    #[test]
    fn text_and_back() {
        for text in ["10.0.0.0/8", "0.0.0.0/0", "::/0", "fd00::/8", "1.2.3.4/32", "fd00::1/128"] {
            assert_eq!(cidr(text).to_string(), text);
            assert_eq!(Cidr::from_prefix(&cidr(text).prefix()), Some(cidr(text)));
        }
        for text in ["10.0.0.0", "10.0.0.0/33", "::/129", "10.0.0.0/08", "::ffff:1.2.3.4/128", "/"]
        {
            text.parse::<Cidr>().expect_err(text);
        }
    }
}
