//! `toPorts` and `icmps`.

use serde::Deserialize;
use serde_norway::Value;

use crate::rule::Port;

/// Elements of `ports` and of `fields` at most (CRD, maxItems).
const MAX_PORTS: usize = 40;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ToPort {
    #[serde(default)]
    ports: Vec<PortProtocol>,
    rules: Option<L7>,
    #[serde(rename = "terminatingTLS")]
    terminating_tls: Option<Value>,
    #[serde(rename = "originatingTLS")]
    originating_tls: Option<Value>,
    server_names: Option<Vec<String>>,
    listener: Option<Value>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PortProtocol {
    #[serde(default)]
    port: String,
    end_port: Option<i64>,
    protocol: Option<String>,
}

/// Rules above layer 4. Their types are counted; their contents are kept in the document.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct L7 {
    #[serde(default)]
    http: Vec<Value>,
    #[serde(default)]
    dns: Vec<Value>,
    #[serde(default)]
    kafka: Vec<Value>,
    l7proto: Option<String>,
    #[serde(default)]
    l7: Vec<Value>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Icmp {
    #[serde(default)]
    fields: Vec<IcmpField>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct IcmpField {
    family: Option<String>,
    #[serde(rename = "type")]
    kind: NumberOrName,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum NumberOrName {
    Number(i64),
    Name(String),
}

/// ANY: TCP, UDP and SCTP; not ICMP.
const ANY: [u8; 3] = [6, 17, 132];

/// Both lists as one; None where there is neither.
pub(super) fn ports(
    to_ports: Option<Vec<ToPort>>,
    icmps: Option<Vec<Icmp>>,
    deny: bool,
    egress: bool,
    notes: &mut Vec<String>,
) -> Result<Option<Vec<Port>>, String> {
    let to_ports = to_ports.unwrap_or_default();
    let icmps = icmps.unwrap_or_default();
    if !to_ports.is_empty() && !icmps.is_empty() {
        return Err("icmps: cannot stand in one rule with toPorts".to_owned());
    }
    let mut all = Vec::new();
    for (i, to_port) in to_ports.iter().enumerate() {
        to_port
            .ports(deny, egress, &mut all, notes)
            .map_err(|error| format!("toPorts[{i}].{error}"))?;
    }
    for (i, icmp) in icmps.iter().enumerate() {
        icmp.ports(&mut all).map_err(|error| format!("icmps[{i}].{error}"))?;
    }
    Ok((!to_ports.is_empty() || !icmps.is_empty()).then_some(all))
}

// === impl ToPort ===

impl ToPort {
    fn ports(
        &self,
        deny: bool,
        egress: bool,
        into: &mut Vec<Port>,
        notes: &mut Vec<String>,
    ) -> Result<(), String> {
        if self.ports.len() > MAX_PORTS {
            return Err(format!("ports: {} of them; at most {MAX_PORTS}", self.ports.len()));
        }
        for (i, port) in self.ports.iter().enumerate() {
            port.ports(into).map_err(|error| format!("ports[{i}].{error}"))?;
        }
        // No ports means every port, as Cilium's port 0 does.
        if self.ports.is_empty() {
            into.extend(ANY.map(|protocol| Port::Range { protocol, first: 0, last: u16::MAX }));
        }
        self.above(deny, egress, notes)
    }

    /// What belongs to layer 7 and TLS.
    fn above(&self, deny: bool, egress: bool, notes: &mut Vec<String>) -> Result<(), String> {
        let tls = self.terminating_tls.is_some() || self.originating_tls.is_some();
        let names = self.server_names.as_ref().is_some_and(|names| !names.is_empty());
        let rules = self.rules.as_ref().is_some_and(L7::any);
        if deny && (tls || names || rules || self.listener.is_some()) {
            return Err("rules: a deny rule cannot look above ports".to_owned());
        }
        if self.server_names.iter().flatten().any(String::is_empty) {
            return Err("serverNames: an empty name".to_owned());
        }
        if names && rules && self.terminating_tls.is_none() {
            return Err("serverNames: cannot stand beside rules without terminatingTLS".to_owned());
        }
        if self.listener.is_some() && (rules || !egress) {
            return Err("listener: only for egress, and not beside rules".to_owned());
        }
        if let Some(l7) = self.rules.as_ref().filter(|_| rules) {
            l7.validate(self, egress)?;
        }
        for (present, name) in [
            (rules, "rules"),
            (tls, "TLS interception"),
            (names, "serverNames"),
            (self.listener.is_some(), "listener"),
        ] {
            if present {
                notes.push(format!(
                    "toPorts: {name} not enforced yet; the ports are allowed as a whole"
                ));
            }
        }
        Ok(())
    }
}

// === impl L7 ===

impl L7 {
    fn any(&self) -> bool {
        let lists = [&self.http, &self.dns, &self.kafka, &self.l7];
        self.l7proto.is_some() || lists.iter().any(|list| !list.is_empty())
    }

    fn validate(&self, of: &ToPort, egress: bool) -> Result<(), String> {
        if !self.kafka.is_empty() || self.l7proto.is_some() || !self.l7.is_empty() {
            return Err("rules: kafka, l7proto and l7 are no longer supported".to_owned());
        }
        if !self.http.is_empty() && !self.dns.is_empty() {
            return Err("rules: only one type per element".to_owned());
        }
        if of.ports.is_empty() || of.ports.iter().any(|port| matches!(port.port.as_str(), "" | "0"))
        {
            return Err("rules: need ports that are stated".to_owned());
        }
        let protocols = |known: &[&str]| {
            of.ports.iter().all(|port| {
                let protocol = port.protocol.as_deref().unwrap_or("ANY").to_ascii_uppercase();
                known.contains(&protocol.as_str())
            })
        };
        if !self.http.is_empty() && !protocols(&["TCP"]) {
            return Err("rules.http: needs protocol TCP".to_owned());
        }
        let resolvable = egress && protocols(&["TCP", "UDP", "ANY"]);
        if !self.dns.is_empty() && !resolvable {
            return Err("rules.dns: only for egress, and TCP, UDP or ANY".to_owned());
        }
        Ok(())
    }
}

// === impl PortProtocol ===

impl PortProtocol {
    fn ports(&self, into: &mut Vec<Port>) -> Result<(), String> {
        let protocol = self.protocol.as_deref().unwrap_or("ANY").to_ascii_uppercase();
        let protocols: &[u8] = match protocol.as_str() {
            "TCP" => &ANY[..1],
            "UDP" => &ANY[1..2],
            "SCTP" => &ANY[2..],
            "ANY" => &ANY,
            _ => return self.portless(&protocol, into),
        };
        if self.port.is_empty() {
            return Err("port: it is missing".to_owned());
        }
        if self.port.bytes().all(|byte| byte.is_ascii_digit()) {
            let wrong = |_| format!("port: {:?} is not between 0 and 65535", self.port);
            let first: u16 = self.port.parse().map_err(wrong)?;
            let last = self.last(first)?;
            into.extend(protocols.iter().map(|&protocol| Port::Range { protocol, first, last }));
            return Ok(());
        }
        let name = self.port.to_ascii_lowercase();
        port_name(&name).map_err(|error| format!("port: {error}"))?;
        let named = |&protocol| Port::Named { protocol, name: name.clone() };
        into.extend(protocols.iter().map(named));
        Ok(())
    }

    /// Port 0 alone is every port; endPort 0 is none.
    fn last(&self, first: u16) -> Result<u16, String> {
        match self.end_port.unwrap_or(0) {
            0 if first == 0 => Ok(u16::MAX),
            0 => Ok(first),
            end => match u16::try_from(end) {
                Ok(end) if end >= first => Ok(end),
                Ok(end) => Err(format!("endPort: {end} is below port {first}")),
                Err(_) => Err(format!("endPort: {end} is not between 0 and 65535")),
            },
        }
    }

    fn portless(&self, protocol: &str, into: &mut Vec<Port>) -> Result<(), String> {
        let number = match protocol {
            "IGMP" => 2,
            "IPIP" => 4,
            "IPV6" => 41,
            "GRE" => 47,
            "ESP" => 50,
            "AH" => 51,
            "VRRP" => 112,
            "ICMP" | "ICMPV6" => return Err("protocol: ICMP is written under icmps".to_owned()),
            _ => return Err(format!("protocol: there is no protocol {protocol:?}")),
        };
        if !matches!(self.port.as_str(), "" | "0") || self.end_port.unwrap_or(0) != 0 {
            return Err(format!("port: {protocol} has no ports"));
        }
        into.push(Port::Protocol(number));
        Ok(())
    }
}

/// An IANA service name (RFC 6335, section 5.1), lower case.
pub(crate) fn port_name(name: &str) -> Result<(), String> {
    let known = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let letter = name.bytes().any(|byte| byte.is_ascii_lowercase());
    let dashes = name.starts_with('-') || name.ends_with('-') || name.contains("--");
    if name.is_empty() || name.len() > 15 || dashes || !letter || !name.chars().all(known) {
        return Err(format!("{name:?} is not a port name"));
    }
    Ok(())
}

// === impl Icmp ===

impl Icmp {
    fn ports(&self, into: &mut Vec<Port>) -> Result<(), String> {
        if self.fields.len() > MAX_PORTS {
            return Err(format!("fields: {} of them; at most {MAX_PORTS}", self.fields.len()));
        }
        for (i, field) in self.fields.iter().enumerate() {
            let v6 = match field.family.as_deref() {
                None | Some("IPv4") => false,
                Some("IPv6") => true,
                Some(family) => {
                    return Err(format!("fields[{i}].family: {family:?} is not IPv4 or IPv6"));
                }
            };
            let kind = match &field.kind {
                NumberOrName::Number(n) => u8::try_from(*n).ok(),
                NumberOrName::Name(name) => name.parse().ok().or_else(|| icmp_type(v6, name)),
            };
            let kind = kind.ok_or_else(|| format!("fields[{i}].type: no such ICMP type"))?;
            into.push(Port::Icmp { v6, kind });
        }
        Ok(())
    }
}

/// Names of types as Cilium has them.
fn icmp_type(v6: bool, name: &str) -> Option<u8> {
    let table: &[(&str, u8)] = if v6 { &ICMPV6_TYPES } else { &ICMPV4_TYPES };
    table.iter().find(|(known, _)| *known == name).map(|(_, number)| *number)
}

const ICMPV4_TYPES: [(&str, u8); 14] = [
    ("EchoReply", 0),
    ("DestinationUnreachable", 3),
    ("Redirect", 5),
    ("Echo", 8),
    ("EchoRequest", 8),
    ("RouterAdvertisement", 9),
    ("RouterSelection", 10),
    ("TimeExceeded", 11),
    ("ParameterProblem", 12),
    ("Timestamp", 13),
    ("TimestampReply", 14),
    ("Photuris", 40),
    ("ExtendedEchoRequest", 42),
    ("ExtendedEchoReply", 43),
];

const ICMPV6_TYPES: [(&str, u8); 27] = [
    ("DestinationUnreachable", 1),
    ("PacketTooBig", 2),
    ("TimeExceeded", 3),
    ("ParameterProblem", 4),
    ("EchoRequest", 128),
    ("EchoReply", 129),
    ("MulticastListenerQuery", 130),
    ("MulticastListenerReport", 131),
    ("MulticastListenerDone", 132),
    ("RouterSolicitation", 133),
    ("RouterAdvertisement", 134),
    ("NeighborSolicitation", 135),
    ("NeighborAdvertisement", 136),
    ("RedirectMessage", 137),
    ("RouterRenumbering", 138),
    ("ICMPNodeInformationQuery", 139),
    ("ICMPNodeInformationResponse", 140),
    ("InverseNeighborDiscoverySolicitation", 141),
    ("InverseNeighborDiscoveryAdvertisement", 142),
    ("HomeAgentAddressDiscoveryRequest", 144),
    ("HomeAgentAddressDiscoveryReply", 145),
    ("MobilePrefixSolicitation", 146),
    ("MobilePrefixAdvertisement", 147),
    ("DuplicateAddressRequestCodeSuffix", 157),
    ("DuplicateAddressConfirmationCodeSuffix", 158),
    ("ExtendedEchoRequest", 160),
    ("ExtendedEchoReply", 161),
];
