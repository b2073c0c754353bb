//! The values of filters, as people write them. Errors say what was expected.

use std::net::IpAddr;

use model::Protocol;

use crate::filter::condition::{Condition, Glob, Net};

/// Reserved identities by name; the numbers are Cilium's.
pub(crate) const RESERVED: &[(u32, &str)] = &[
    (0, "unknown"),
    (1, "host"),
    (2, "world"),
    (3, "unmanaged"),
    (4, "health"),
    (5, "init"),
    (6, "remote-node"),
    (7, "kube-apiserver"),
    (8, "ingress"),
    (9, "world-ipv4"),
    (10, "world-ipv6"),
];

const TCP_FLAGS: &[&str] = &["FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR", "NS"];

/// A Kubernetes label selector: all of its requirements must hold.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Selector(Vec<Requirement>);

#[derive(Debug, Clone, PartialEq)]
enum Requirement {
    Equal(String, String),
    NotEqual(String, String),
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Exists(String),
    Absent(String),
}

/// A word of a closed list, in any case.
pub(super) fn one_of<T: Copy>(
    text: &str,
    parse: fn(&str) -> Option<T>,
    all: &[T],
    name: fn(T) -> &'static str,
) -> Result<T, String> {
    parse(text).ok_or_else(|| {
        let names: Vec<&str> = all.iter().map(|one| name(*one)).collect();
        format!("expected one of {}", names.join(", "))
    })
}

/// `namespace/prefix`, `namespace/` for all of it, `prefix` or `/prefix` in any namespace.
pub(super) fn name_in_namespace(
    namespace: &'static str,
    name: &'static str,
    text: &str,
) -> Condition {
    let (space, prefix) = text.split_once('/').unwrap_or(("", text));
    let mut all = Vec::new();
    if !space.is_empty() {
        all.push(Condition::equal(namespace, space));
    }
    if !prefix.is_empty() || all.is_empty() {
        all.push(Condition::Prefix(name, prefix.to_owned()));
    }
    Condition::And(all)
}

/// `name`, `namespace/name`, `Kind/name` or `Kind/`: kinds begin with a capital letter, which
/// the name of no namespace does (RFC 1123 labels).
pub(super) fn workload(
    namespace: &'static str,
    name: &'static str,
    kind: &'static str,
    text: &str,
) -> Condition {
    let (space, bare) = text.split_once('/').unwrap_or(("", text));
    let mut all = Vec::new();
    if space.starts_with(|c: char| c.is_ascii_uppercase()) {
        all.push(Condition::equal(kind, space));
    } else if !space.is_empty() {
        all.push(Condition::equal(namespace, space));
    }
    if !bare.is_empty() {
        all.push(glob_or_equal(name, bare));
    }
    Condition::And(all)
}

/// An address or a network; bits beyond the prefix are allowed, as in Hubble.
pub(super) fn net(text: &str) -> Result<Net, String> {
    let expected = || "expected an address or a CIDR".to_owned();
    let (address, length) = match text.split_once('/') {
        Some((address, length)) => (address, Some(length.parse::<u8>().map_err(|_| expected())?)),
        None => (text, None),
    };
    let address: IpAddr = address.parse().map_err(|_| expected())?;
    let width = if address.is_ipv4() { 32 } else { 128 };
    let length = length.unwrap_or(width);
    if length > width {
        return Err(format!("the prefix is longer than {width}"));
    }
    Ok(Net { address, length })
}

/// A DNS name: in lower case, without the last dot.
pub(super) fn dns_name(text: &str) -> Result<Glob, String> {
    let text = text.trim().trim_end_matches('.').to_ascii_lowercase();
    checked_glob(&text)
}

pub(super) fn identity(text: &str) -> Result<u32, String> {
    if let Ok(number) = text.parse() {
        return Ok(number);
    }
    let name = text.strip_prefix("reserved:").unwrap_or(text);
    RESERVED.iter().find(|(_, known)| *known == name).map(|(number, _)| *number).ok_or_else(|| {
        let names: Vec<&str> = RESERVED.iter().map(|(_, name)| *name).collect();
        format!("expected a number or one of {}", names.join(", "))
    })
}

pub(super) fn service(text: &str) -> Result<Condition, String> {
    let (space, name) = text.split_once('/').unwrap_or(("", text));
    let mut all = Vec::new();
    if !space.is_empty() {
        all.push(Condition::equal("destination_service_namespace", space));
    }
    if !name.is_empty() || all.is_empty() {
        all.push(glob("destination_service", name)?);
    }
    Ok(Condition::And(all))
}

pub(super) fn protocol(
    text: &str,
    parse: fn(&str) -> Option<Protocol>,
) -> Result<Condition, String> {
    let is = |protocol: Protocol| Condition::equal("protocol", &protocol.name());
    match text.to_ascii_lowercase().as_str() {
        "icmp" => Ok(Condition::Or(vec![is(Protocol::ICMP), is(Protocol::ICMPV6)])),
        "http" | "dns" | "kafka" | "grpc" => {
            Err("flows know layer 4; ask the table l7 for requests".to_owned())
        }
        _ => parse(text)
            .map(is)
            .ok_or_else(|| "expected TCP, UDP, SCTP, ICMPv4, ICMPv6, icmp or a number".to_owned()),
    }
}

pub(super) fn tcp_flags(text: &str) -> Result<Vec<String>, String> {
    text.split(',')
        .map(|flag| {
            let flag = flag.trim().to_ascii_uppercase();
            if TCP_FLAGS.contains(&flag.as_str()) {
                Ok(flag)
            } else {
                Err(format!("expected some of {}", TCP_FLAGS.join(", ")))
            }
        })
        .collect()
}

/// `node` or `cluster/node`; either may have stars.
pub(super) fn node(text: &str) -> Result<Condition, String> {
    Ok(match text.split_once('/') {
        Some((cluster, "")) => glob("cluster", cluster)?,
        Some((cluster, node)) => {
            Condition::And(vec![glob("cluster", cluster)?, glob("node", node)?])
        }
        None => glob("node", text)?,
    })
}

pub(super) fn flow_id(text: &str) -> Result<String, String> {
    let hexadecimal = text.len() == 16 && text.bytes().all(|b| b.is_ascii_hexdigit());
    hexadecimal
        .then(|| text.to_ascii_lowercase())
        .ok_or_else(|| "expected 16 hexadecimal digits".to_owned())
}

/// Equality, or likeness when there is a star.
pub(super) fn glob(column: &'static str, text: &str) -> Result<Condition, String> {
    if text.is_empty() {
        return Err("a value is needed".to_owned());
    }
    Ok(glob_or_equal(column, text))
}

fn glob_or_equal(column: &'static str, text: &str) -> Condition {
    match text.strip_suffix('*') {
        Some(prefix) if !prefix.contains('*') => Condition::Prefix(column, prefix.to_owned()),
        _ if text.contains('*') => Condition::Like(column, Glob::new(text)),
        _ => Condition::equal(column, text),
    }
}

fn checked_glob(text: &str) -> Result<Glob, String> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.*".contains(&b)) {
        return Err("expected a DNS name; * stands for anything".to_owned());
    }
    Ok(Glob::new(text))
}

/// Reads a selector: `a=b,c!=d,e,!f,g in (h,i),j notin (k)`.
pub(super) fn selector(text: &str) -> Result<Selector, String> {
    let mut requirements = Vec::new();
    let mut depth = 0;
    for one in text.split(|c| {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        c == ',' && depth == 0
    }) {
        requirements.push(requirement(one.trim())?);
    }
    Ok(Selector(requirements))
}

fn requirement(text: &str) -> Result<Requirement, String> {
    for (word, not) in [(" notin ", true), (" in ", false)] {
        if let Some((key, list)) = text.split_once(word) {
            let list = list.trim().strip_prefix('(').and_then(|list| list.strip_suffix(')'));
            let list = list.ok_or_else(|| format!("expected {}(a,b)", word.trim_start()))?;
            let values =
                list.split(',').map(|value| label_part(value.trim())).collect::<Result<_, _>>()?;
            let key = label_key(key.trim())?;
            return Ok(if not {
                Requirement::NotIn(key, values)
            } else {
                Requirement::In(key, values)
            });
        }
    }
    if let Some((key, value)) = text.split_once("!=") {
        return Ok(Requirement::NotEqual(label_key(key)?, label_part(value)?));
    }
    if let Some((key, value)) = text.split_once("==").or_else(|| text.split_once('=')) {
        return Ok(Requirement::Equal(label_key(key)?, label_part(value)?));
    }
    match text.strip_prefix('!') {
        Some(key) => Ok(Requirement::Absent(label_key(key)?)),
        None => Ok(Requirement::Exists(label_key(text)?)),
    }
}

/// A key, without the source that Hubble writes before it (`k8s:`, `any:`).
fn label_key(text: &str) -> Result<String, String> {
    let text = text.trim();
    let text = text.strip_prefix("k8s:").or_else(|| text.strip_prefix("any:")).unwrap_or(text);
    if text.is_empty() {
        return Err("expected key=value, key, !key, or key in (a,b)".to_owned());
    }
    label_part(text)
}

fn label_part(text: &str) -> Result<String, String> {
    let text = text.trim();
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-_./:".contains(&b);
    if !text.bytes().all(allowed) {
        return Err(format!("{text:?} has characters that no label has"));
    }
    Ok(text.to_owned())
}

// === impl Selector ===

impl Selector {
    /// The condition over a column of labels; `reserved:` names are identities.
    pub(super) fn condition(&self, labels: &'static str, identity: &'static str) -> Condition {
        Condition::And(self.0.iter().map(|one| one.condition(labels, identity)).collect())
    }
}

// === impl Requirement ===

impl Requirement {
    fn condition(&self, labels: &'static str, identity: &'static str) -> Condition {
        let has = |key: &str, value: &str| Condition::Has(labels, format!("{key}={value}"));
        let one_of = |key: &str, values: &[String]| {
            Condition::any(values.iter().map(|value| has(key, value)).collect())
        };
        let exists = |key: &str| match key.strip_prefix("reserved:") {
            Some(name) => {
                let reserved = RESERVED.iter().find(|(_, known)| *known == name);
                match reserved {
                    Some((number, _)) => Condition::Number(identity, u64::from(*number)),
                    None => Condition::Or(Vec::new()),
                }
            }
            None => Condition::HasPrefix(labels, format!("{key}=")),
        };
        match self {
            Self::Equal(key, value) => has(key, value),
            Self::NotEqual(key, value) => Condition::not(has(key, value)),
            Self::In(key, values) => one_of(key, values),
            Self::NotIn(key, values) => Condition::not(one_of(key, values)),
            Self::Exists(key) => exists(key),
            Self::Absent(key) => Condition::not(exists(key)),
        }
    }
}
