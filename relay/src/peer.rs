//! A peer: an agent whose records the relay takes in.

use std::fmt;
use std::str::FromStr;

/// An agent's export endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    name: String,
    uri: String,
}

/// Why a peer cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// The address is of no kind that is known.
    #[error("peer {0:?}: expected unix:///path or http://host:port")]
    Scheme(String),
    /// The socket's path is not absolute.
    #[error("peer {0:?}: the path of a unix socket must be absolute (three slashes)")]
    Relative(String),
    /// There is no host or no port.
    #[error("peer {0:?}: host and port are needed, as in http://10.0.0.1:4244")]
    Authority(String),
}

// === impl Peer ===

impl Peer {
    /// The peer at `uri`, named by it until it says its own name.
    ///
    /// # Errors
    /// When the address is neither `unix:///path` nor `http://host:port`.
    pub fn new(uri: &str) -> Result<Self, PeerError> {
        Self::named(uri, uri)
    }

    /// The peer at `uri`, called `name` until it says its own.
    ///
    /// # Errors
    /// When the address is neither `unix:///path` nor `http://host:port`.
    pub fn named(name: &str, uri: &str) -> Result<Self, PeerError> {
        if let Some(path) = uri.strip_prefix("unix://") {
            if !path.starts_with('/') || path.len() == 1 {
                return Err(PeerError::Relative(uri.to_owned()));
            }
        } else if let Some(authority) = uri.strip_prefix("http://") {
            let (host, port) = authority
                .trim_end_matches('/')
                .rsplit_once(':')
                .ok_or_else(|| PeerError::Authority(uri.to_owned()))?;
            if host.is_empty() || port.parse::<u16>().is_err() {
                return Err(PeerError::Authority(uri.to_owned()));
            }
        } else {
            return Err(PeerError::Scheme(uri.to_owned()));
        }
        Ok(Self { name: name.to_owned(), uri: uri.to_owned() })
    }

    /// What it is called until it says its own name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it is.
    pub fn uri(&self) -> &str {
        &self.uri
    }
}

impl FromStr for Peer {
    type Err = PeerError;

    /// Reads `uri` or `name=uri`.
    fn from_str(text: &str) -> Result<Self, PeerError> {
        match text.split_once('=') {
            Some((name, uri)) if !name.is_empty() && !name.contains(':') => Self::named(name, uri),
            _ => Self::new(text),
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.uri)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for good in ["unix:///run/a.sock", "http://127.0.0.1:4244", "http://[::1]:4244"] {
            assert_eq!(good.parse::<Peer>().unwrap().uri(), good);
        }
        let named: Peer = "a=unix:///run/a.sock".parse().unwrap();
        assert_eq!((named.name(), named.uri()), ("a", "unix:///run/a.sock"));
        for bad in ["", "unix://run/a.sock", "unix:///", "http://host", "http://:1", "tcp://a:1"] {
            assert!(bad.parse::<Peer>().is_err(), "{bad}");
        }
    }
}
