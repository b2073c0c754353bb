//! DNS messages (RFC 1035, 4): as much of an answer as there is.
//!
//! The bytes come from anyone: nothing here panics, loops, or takes more than a message can hold.
//! Names are read with at most [`MAX_JUMPS`] compression pointers, each of which must point back.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Compression pointers followed in one name. A real one has two or three.
const MAX_JUMPS: usize = 16;
/// Longest name, characters (RFC 1035, 2.3.4).
const MAX_NAME: usize = 255;
/// Records read of one answer. More than a message of 512 bytes can hold.
const MAX_RECORDS: usize = 64;

const TYPE_A: u16 = 1;
const TYPE_CNAME: u16 = 5;
const TYPE_AAAA: u16 = 28;
const CLASS_IN: u16 = 1;

/// What an answer says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    /// The name that was asked for, without the final dot, in lower case.
    pub name: String,
    /// Type of the question.
    pub kind: u16,
    /// Response code (RFC 1035, 4.1.1).
    pub rcode: u8,
    /// Addresses of the name, directly or through aliases, with their TTL in seconds.
    pub addresses: Vec<(IpAddr, u32)>,
    /// Aliases on the way.
    pub aliases: Vec<String>,
}

/// Reads a response; `None` when it is none, or not even its question can be read. Records behind
/// the first unreadable one are left out.
pub fn parse(message: &[u8]) -> Option<Answer> {
    let flags = u16_at(message, 2)?;
    let response = flags & 0x8000 != 0;
    let standard = flags & 0x7800 == 0;
    if !response || !standard || u16_at(message, 4)? != 1 {
        return None;
    }
    let (name, at) = name(message, 12)?;
    let kind = u16_at(message, at)?;
    let mut answer = Answer { name, kind, rcode: (flags & 0xf) as u8, ..Answer::default() };
    let count = usize::from(u16_at(message, 6)?).min(MAX_RECORDS);
    records(message, at + 4, count, &mut answer);
    Some(answer)
}

fn records(message: &[u8], mut at: usize, count: usize, answer: &mut Answer) {
    for _ in 0..count {
        let Some(end) = record(message, at, answer) else { return };
        at = end;
    }
}

/// Takes one record; returns where it ends.
fn record(message: &[u8], at: usize, answer: &mut Answer) -> Option<usize> {
    let (owner, at) = name(message, at)?;
    let (kind, class) = (u16_at(message, at)?, u16_at(message, at + 2)?);
    let ttl = u32::from(u16_at(message, at + 4)?) << 16 | u32::from(u16_at(message, at + 6)?);
    let length = usize::from(u16_at(message, at + 8)?);
    let (start, end) = (at + 10, at + 10 + length);
    let data = message.get(start..end)?;
    // Only the chain from the question on: a record of another name says nothing about it.
    if class == CLASS_IN && (owner == answer.name || answer.aliases.contains(&owner)) {
        match kind {
            TYPE_A => {
                let octets: [u8; 4] = data.try_into().ok()?;
                answer.addresses.push((Ipv4Addr::from(octets).into(), ttl));
            }
            TYPE_AAAA => {
                let octets: [u8; 16] = data.try_into().ok()?;
                answer.addresses.push((Ipv6Addr::from(octets).into(), ttl));
            }
            TYPE_CNAME => answer.aliases.push(name(message, start)?.0),
            _ => {}
        }
    }
    Some(end)
}

/// Reads a name; returns it and where what follows it begins.
fn name(message: &[u8], start: usize) -> Option<(String, usize)> {
    let (mut text, mut at, mut end, mut jumps) = (String::new(), start, None, 0);
    loop {
        let length = *message.get(at)?;
        match length & 0xc0 {
            0 if length == 0 => return Some((text, end.unwrap_or(at + 1))),
            0 => {
                let label = message.get(at + 1..at + 1 + usize::from(length))?;
                if !text.is_empty() {
                    text.push('.');
                }
                // Labels may hold any byte; what is not plain is escaped (RFC 4343, 2.1).
                for byte in label {
                    match byte {
                        b'!'..=b'~' if *byte != b'.' && *byte != b'\\' => {
                            text.push(char::from(byte.to_ascii_lowercase()));
                        }
                        other => text.push_str(&format!("\\{other:03}")),
                    }
                }
                if text.len() > MAX_NAME * 4 {
                    return None;
                }
                at += 1 + label.len();
            }
            0xc0 => {
                let target = usize::from(u16_at(message, at)? & 0x3fff);
                end.get_or_insert(at + 2);
                jumps += 1;
                if target >= at || jumps > MAX_JUMPS {
                    return None;
                }
                at = target;
            }
            _ => return None,
        }
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?))
}

/// Name of a record type, as in questions (IANA "DNS Parameters").
pub(crate) fn type_name(kind: u16) -> String {
    let name = match kind {
        TYPE_A => "A",
        2 => "NS",
        TYPE_CNAME => "CNAME",
        6 => "SOA",
        12 => "PTR",
        15 => "MX",
        16 => "TXT",
        TYPE_AAAA => "AAAA",
        33 => "SRV",
        43 => "DS",
        48 => "DNSKEY",
        64 => "SVCB",
        65 => "HTTPS",
        255 => "ANY",
        other => return format!("TYPE{other}"),
    };
    name.to_owned()
}

/// Name of a response code.
pub(crate) fn rcode_name(rcode: u8) -> &'static str {
    const NAMES: [&str; 11] = [
        "NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED", "YXDOMAIN", "YXRRSET",
        "NXRRSET", "NOTAUTH", "NOTZONE",
    ];
    NAMES.get(usize::from(rcode)).copied().unwrap_or("RESERVED")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A response to `www.Example.com A`, with `records` behind the question.
    fn message(records: &[&[u8]]) -> Vec<u8> {
        let mut bytes = vec![0x12, 0x34, 0x81, 0x80, 0, 1, 0, records.len() as u8, 0, 0, 0, 0];
        bytes.extend(b"\x03www\x07Example\x03com\0\0\x01\0\x01");
        for record in records {
            bytes.extend(*record);
        }
        bytes
    }

    const TTL: [u8; 4] = [0, 0, 0, 60];

    fn rr(owner: &[u8], kind: u16, data: &[u8]) -> Vec<u8> {
        let mut bytes = owner.to_vec();
        bytes.extend(kind.to_be_bytes());
        bytes.extend([0, 1]);
        bytes.extend(TTL);
        bytes.extend((data.len() as u16).to_be_bytes());
        bytes.extend(data);
        bytes
    }

    #[test]
    fn follows_aliases_and_compression() {
        // `cdn.example.com` by a pointer into the question.
        let alias = b"\x03cdn\xc0\x10";
        let cname = rr(b"\xc0\x0c", TYPE_CNAME, alias);
        let at = message(&[]).len() + cname.len() - alias.len();
        let to_alias = [0xc0, at as u8];
        let a = rr(&to_alias, TYPE_A, &[1, 2, 3, 4]);
        let aaaa = rr(&to_alias, TYPE_AAAA, &[0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        let other = rr(b"\x05other\0", TYPE_A, &[9, 9, 9, 9]);
        let answer = parse(&message(&[&cname, &a, &aaaa, &other])).unwrap();
        assert_eq!(answer.name, "www.example.com");
        assert_eq!(answer.aliases, ["cdn.example.com"]);
        let expected: [(IpAddr, u32); 2] =
            [("1.2.3.4".parse().unwrap(), 60), ("fd00::1".parse().unwrap(), 60)];
        assert_eq!(answer.addresses, expected);
        assert_eq!((type_name(answer.kind).as_str(), rcode_name(answer.rcode)), ("A", "NOERROR"));
    }

    #[test]
    fn a_cut_message_gives_what_it_has() {
        let a = rr(b"\xc0\x0c", TYPE_A, &[1, 2, 3, 4]);
        let whole = message(&[&a, &a]);
        for length in 0..whole.len() {
            let answer = parse(&whole[..length]);
            let addresses = answer.map_or(0, |answer| answer.addresses.len());
            assert_eq!(addresses, usize::from(length >= whole.len() - a.len()), "cut at {length}");
        }
    }

    #[test]
    fn refuses_loops_queries_and_odd_labels() {
        for pointer in [b"\xc0\x0c", b"\xc0\x0e", b"\xff\xff", b"\x80\x01"] {
            let mut bytes = message(&[]);
            bytes.truncate(12);
            bytes.extend(pointer);
            bytes.extend([0, 1, 0, 1]);
            assert_eq!(parse(&bytes), None);
        }
        let mut query = message(&[]);
        query[2] &= 0x7f;
        assert_eq!(parse(&query), None);
        let mut odd = message(&[]);
        odd[13] = b'.';
        assert_eq!(parse(&odd).unwrap().name, "\\046ww.example.com");
    }

    proptest! {
        #[test]
        fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            let _ = parse(&bytes);
        }

        /// Real messages with bytes changed: gets deeper than pure noise.
        #[test]
        fn changed_bytes(changes in prop::collection::vec((0usize..100, any::<u8>()), 0..6)) {
            let a = rr(b"\xc0\x0c", TYPE_A, &[1, 2, 3, 4]);
            let cname = rr(b"\xc0\x0c", TYPE_CNAME, b"\x03cdn\xc0\x10");
            let mut bytes = message(&[&cname, &a, &a]);
            for (at, value) in changes {
                let at = at % bytes.len();
                bytes[at] = value;
            }
            if let Some(answer) = parse(&bytes) {
                prop_assert!(answer.name.len() <= MAX_NAME * 8);
                prop_assert!(answer.addresses.len() <= MAX_RECORDS);
            }
        }
    }
}
