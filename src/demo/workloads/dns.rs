//! The demo's DNS: a server over UDP that knows one zone, and the stub resolver of its clients.
//! Messages are those of RFC 1035, of which A and AAAA questions are the part in use.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use tokio::net::UdpSocket;

const PORT: u16 = 53;
const TYPE_A: u16 = 1;
const TYPE_AAAA: u16 = 28;
const CLASS_IN: u16 = 1;
const NXDOMAIN: u8 = 3;
const HEADER: usize = 12;
/// How long an answer may be used, seconds: short, so that there is traffic.
const TTL: u32 = 5;
const ATTEMPTS: u32 = 3;
const PATIENCE: Duration = Duration::from_secs(1);

/// Which addresses are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Family {
    V4,
    V6,
}

/// A client's resolver, with a cache.
#[derive(Debug)]
pub(super) struct Names {
    server: SocketAddr,
    next_id: AtomicU16,
    turn: AtomicU16,
    cache: Mutex<Cache>,
}

/// By name and family: until when the answer holds, and the answer.
type Cache = HashMap<(String, Family), (Instant, Vec<IpAddr>)>;

/// Names and addresses; answers start at another address each time.
#[derive(Debug, Default)]
struct Zone {
    names: HashMap<String, Vec<IpAddr>>,
}

/// A question: what stands between header and answers.
#[derive(Debug, PartialEq, Eq)]
struct Question {
    name: String,
    qtype: u16,
    /// Offset of the byte after it.
    end: usize,
}

/// Serves the zone in `file` on port 53.
pub(super) async fn serve(file: &Path) -> Result<()> {
    let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
    let zone = Zone::parse(&text)?;
    let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, PORT)).await?;
    let mut buffer = [0; 512];
    for turn in 0usize.. {
        let (length, from) = socket.recv_from(&mut buffer).await?;
        if let Some(answer) = zone.answer(&buffer[..length], turn) {
            // The client may be gone; it asks again if it is not.
            let _ = socket.send_to(&answer, from).await;
        }
    }
    Ok(())
}

// === impl Family ===

impl Family {
    fn qtype(self) -> u16 {
        match self {
            Self::V4 => TYPE_A,
            Self::V6 => TYPE_AAAA,
        }
    }
}

// === impl Zone ===

impl Zone {
    fn parse(text: &str) -> Result<Self> {
        let mut zone = Self::default();
        for line in text.lines() {
            let (name, address) = line.split_once(' ').with_context(|| line.to_owned())?;
            zone.names.entry(name.to_owned()).or_default().push(address.parse()?);
        }
        Ok(zone)
    }

    fn answer(&self, query: &[u8], turn: usize) -> Option<Vec<u8>> {
        let question = Question::parse(query)?;
        let known = self.names.get(&question.name);
        let mut records: Vec<Vec<u8>> = known
            .into_iter()
            .flatten()
            .filter_map(|address| match (address, question.qtype) {
                (IpAddr::V4(a), TYPE_A) => Some(a.octets().to_vec()),
                (IpAddr::V6(a), TYPE_AAAA) => Some(a.octets().to_vec()),
                _ => None,
            })
            .collect();
        let first = turn % records.len().max(1);
        records.rotate_left(first);
        let rcode = if known.is_some() { 0 } else { NXDOMAIN };
        let count = u16::try_from(records.len()).ok()?;
        let mut answer = query[..2].to_vec();
        // Flags: response, authoritative, recursion desired as asked; then the four counts.
        answer.extend([0x84 | query[2] & 1, rcode, 0, 1]);
        answer.extend(count.to_be_bytes());
        answer.extend([0; 4]);
        answer.extend(&query[HEADER..question.end]);
        for data in records {
            // The name: a pointer to the question's.
            answer.extend([0xc0, HEADER as u8]);
            answer.extend(question.qtype.to_be_bytes());
            answer.extend(CLASS_IN.to_be_bytes());
            answer.extend(TTL.to_be_bytes());
            answer.extend(u16::try_from(data.len()).ok()?.to_be_bytes());
            answer.extend(data);
        }
        Some(answer)
    }
}

// === impl Question ===

impl Question {
    fn parse(message: &[u8]) -> Option<Self> {
        let mut at = HEADER;
        let mut labels = Vec::new();
        loop {
            let length = usize::from(*message.get(at)?);
            at += 1;
            match length {
                0 => break,
                1..=63 => labels.push(String::from_utf8_lossy(message.get(at..at + length)?)),
                _ => return None,
            }
            at += length;
        }
        let qtype = u16::from_be_bytes(message.get(at..at + 2)?.try_into().ok()?);
        message.get(at + 2..at + 4)?;
        Some(Self { name: labels.join(".").to_ascii_lowercase(), qtype, end: at + 4 })
    }
}

fn query(id: u16, name: &str, qtype: u16) -> Vec<u8> {
    let mut message = id.to_be_bytes().to_vec();
    message.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.') {
        message.push(label.len().min(63) as u8);
        message.extend(label.bytes().take(63));
    }
    message.push(0);
    message.extend(qtype.to_be_bytes());
    message.extend(CLASS_IN.to_be_bytes());
    message
}

/// The addresses in an answer; an error when the name does not exist.
fn addresses(message: &[u8]) -> Result<Vec<IpAddr>> {
    let question = Question::parse(message).context("malformed answer")?;
    ensure!(message[3] & 15 != NXDOMAIN, "{}: no such name", question.name);
    let mut found = Vec::new();
    let mut rest = &message[question.end..];
    // Fixed part of a record whose name is a pointer: 2 name, 2 type, 2 class, 4 TTL, 2 length.
    while let Some((head, tail)) = rest.split_at_checked(12) {
        let length = usize::from(u16::from_be_bytes([head[10], head[11]]));
        let Some((data, tail)) = tail.split_at_checked(length) else { bail!("malformed answer") };
        if let Ok(octets) = <[u8; 4]>::try_from(data) {
            found.push(Ipv4Addr::from(octets).into());
        } else if let Ok(octets) = <[u8; 16]>::try_from(data) {
            found.push(Ipv6Addr::from(octets).into());
        }
        rest = tail;
    }
    Ok(found)
}

// === impl Names ===

impl Names {
    /// Asks `server`.
    pub(super) fn new(server: IpAddr) -> Self {
        Self {
            server: SocketAddr::new(server, PORT),
            next_id: AtomicU16::new(1),
            turn: AtomicU16::new(0),
            cache: Mutex::default(),
        }
    }

    /// The name's addresses.
    pub(super) async fn resolve(&self, name: &str, family: Family) -> Result<Vec<IpAddr>> {
        let key = (name.to_owned(), family);
        if let Some((until, addresses)) = self.lock().get(&key)
            && *until > Instant::now()
        {
            return Ok(addresses.clone());
        }
        let found = self.ask(name, family).await?;
        let until = Instant::now() + Duration::from_secs(TTL.into());
        self.lock().insert(key, (until, found.clone()));
        Ok(found)
    }

    /// One of the name's addresses, in turn; `None` when it has none of that family.
    pub(super) async fn pick(&self, name: &str, family: Family) -> Result<Option<IpAddr>> {
        let addresses = self.resolve(name, family).await?;
        let turn = usize::from(self.turn.fetch_add(1, Ordering::Relaxed));
        Ok(addresses.get(turn % addresses.len().max(1)).copied())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    async fn ask(&self, name: &str, family: Family) -> Result<Vec<IpAddr>> {
        for _ in 0..ATTEMPTS {
            let id = self.next_id.fetch_add(1, Ordering::Relaxed);
            let any: IpAddr = match self.server {
                SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
                SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
            };
            let socket = UdpSocket::bind((any, 0)).await?;
            socket.connect(self.server).await?;
            socket.send(&query(id, name, family.qtype())).await?;
            let mut buffer = [0; 512];
            let answered = tokio::time::timeout(PATIENCE, socket.recv(&mut buffer)).await;
            if let Ok(Ok(length)) = answered
                && buffer[..length].starts_with(&id.to_be_bytes())
            {
                return addresses(&buffer[..length]);
            }
        }
        bail!("{name}: no answer from {}", self.server)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_is_answered_in_turn() {
        let zone = Zone::parse("a.b 10.0.0.1\na.b 10.0.0.2\na.b fd00::1").unwrap();
        let ask = |name: &str, family: Family, turn| {
            addresses(&zone.answer(&query(7, name, family.qtype()), turn).unwrap())
        };
        let v4: Vec<IpAddr> = vec!["10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap()];
        assert_eq!(ask("A.b", Family::V4, 0).unwrap(), v4);
        assert_eq!(ask("a.b", Family::V4, 1).unwrap(), [v4[1], v4[0]]);
        assert_eq!(ask("a.b", Family::V6, 0).unwrap(), ["fd00::1".parse::<IpAddr>().unwrap()]);
        assert!(ask("c.b", Family::V4, 0).unwrap_err().to_string().contains("no such name"));
    }

    #[test]
    fn junk_is_not_answered() {
        let zone = Zone::default();
        for junk in [&[][..], &[0; 11], &[0xff; 40], &[0; 13]] {
            assert_eq!(zone.answer(junk, 0), None, "{junk:?}");
        }
    }
}
