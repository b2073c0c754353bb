//! Names that clients resolved addresses from, learned from DNS answers on the wire.
//!
//! Per client: two clients may know one address by different names. Bounded twice: an entry lives
//! as long as its answer may be used, and the least recently used half goes when there are too many.

use std::net::IpAddr;
use std::sync::Arc;

use hashbrown::HashMap;

pub(crate) mod dns;

/// Entries of one generation; two are held. At about 150 bytes each this is 5 MiB at most.
const GENERATION: usize = 16_384;
/// Names of one address that one client knows.
const MAX_NAMES: usize = 4;
/// Shortest time that an answer is believed, nanoseconds: clients connect a little after it, and a
/// TTL of 0 means "for this use".
const MIN_TTL: i64 = 30_000_000_000;
/// Longest, nanoseconds (a day): RFC 8767, 4 caps likewise.
const MAX_TTL: i64 = 86_400_000_000_000;

/// Names, sorted.
pub(crate) type NameList = Arc<[String]>;

/// What answers said.
#[derive(Debug, Default)]
pub(crate) struct Names {
    // Two generations make a cheap "least recently used": a hit moves up, and when the young one is
    // full the old one goes as a whole.
    young: HashMap<(IpAddr, IpAddr), Known>,
    old: HashMap<(IpAddr, IpAddr), Known>,
}

#[derive(Debug)]
struct Known {
    names: NameList,
    /// Nanoseconds since the epoch.
    expires: i64,
}

// === impl Names ===

impl Names {
    /// Takes an answer to `client`, at `now` (nanoseconds since the epoch).
    pub(crate) fn learn(&mut self, client: IpAddr, answer: &dns::Answer, now: i64) {
        if answer.name.is_empty() {
            return;
        }
        for (address, ttl) in &answer.addresses {
            let ttl = (i64::from(*ttl) * 1_000_000_000).clamp(MIN_TTL, MAX_TTL);
            self.put((client, *address), &answer.name, now, now + ttl);
        }
    }

    /// The names by which `client` knows `address`.
    pub(crate) fn get(&mut self, client: IpAddr, address: IpAddr, now: i64) -> Option<NameList> {
        let key = (client, address);
        if !self.young.contains_key(&key) {
            let known = self.old.remove(&key)?;
            self.insert(key, known);
        }
        let known = self.young.get(&key)?;
        (known.expires > now).then(|| Arc::clone(&known.names))
    }

    /// Number of addresses known.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }

    fn put(&mut self, key: (IpAddr, IpAddr), name: &str, now: i64, expires: i64) {
        let before = self.young.remove(&key).or_else(|| self.old.remove(&key));
        let known = match before {
            Some(known) if known.expires > now => known.and(name, expires),
            _ => Known { names: Arc::from([name.to_owned()]), expires },
        };
        self.insert(key, known);
    }

    fn insert(&mut self, key: (IpAddr, IpAddr), known: Known) {
        if self.young.len() >= GENERATION {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, known);
    }
}

// === impl Known ===

impl Known {
    fn and(mut self, name: &str, expires: i64) -> Self {
        self.expires = self.expires.max(expires);
        if let Err(at) = self.names.binary_search_by(|known| known.as_str().cmp(name))
            && self.names.len() < MAX_NAMES
        {
            let mut names = self.names.to_vec();
            names.insert(at, name.to_owned());
            self.names = names.into();
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(n: u32) -> IpAddr {
        IpAddr::V4(n.into())
    }

    fn answer(name: &str, address: u32, ttl: u32) -> dns::Answer {
        dns::Answer {
            name: name.to_owned(),
            addresses: vec![(ip(address), ttl)],
            ..dns::Answer::default()
        }
    }

    #[test]
    fn names_are_per_client_and_expire() {
        let mut names = Names::default();
        names.learn(ip(1), &answer("b.example", 9, 60), 0);
        names.learn(ip(1), &answer("a.example", 9, 60), 0);
        names.learn(ip(1), &answer("a.example", 9, 60), 0);
        assert_eq!(&*names.get(ip(1), ip(9), 1).unwrap(), ["a.example", "b.example"]);
        assert!(names.get(ip(2), ip(9), 1).is_none());
        assert!(names.get(ip(1), ip(9), 60_000_000_000).is_none());
        names.learn(ip(1), &answer("c.example", 9, 0), 60_000_000_000);
        assert_eq!(&*names.get(ip(1), ip(9), 60_000_000_001).unwrap(), ["c.example"]);
    }

    #[test]
    fn bounded_and_what_is_used_stays() {
        let mut names = Names::default();
        names.learn(ip(1), &answer("kept.example", 0, 3600), 0);
        for n in 1..100_000 {
            names.learn(ip(1), &answer("x.example", n, 3600), 0);
            if n % 1000 == 0 {
                assert!(names.get(ip(1), ip(0), 1).is_some());
            }
        }
        assert!(names.len() <= 2 * GENERATION);
        assert!(names.get(ip(1), ip(1), 1).is_none());
    }
}
