//! Failsafe ports on the command line.

use std::str::FromStr;

use datapath_agent::Failsafe;

/// `in:22/tcp,out:53/udp`, or `none`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failsafes(pub Vec<Failsafe>);

// === impl Failsafes ===

impl FromStr for Failsafes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.trim() == "none" {
            return Ok(Self(Vec::new()));
        }
        text.split(',').map(|part| one(part.trim())).collect::<Result<_, _>>().map(Self)
    }
}

fn one(text: &str) -> Result<Failsafe, String> {
    let parsed = || {
        let (way, rest) = text.split_once(':')?;
        let (port, protocol) = rest.split_once('/')?;
        let egress = match way {
            "in" => false,
            "out" => true,
            _ => return None,
        };
        let protocol = match protocol {
            "tcp" => 6,
            "udp" => 17,
            "sctp" => 132,
            _ => return None,
        };
        let port = port.parse().ok().filter(|port| *port != 0)?;
        Some(Failsafe { protocol, port, egress })
    };
    parsed().ok_or_else(|| format!("{text:?} is not understood; examples: in:22/tcp, out:53/udp"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_in_both_directions() {
        let ports: Failsafes = "in:22/tcp, out:53/udp".parse().unwrap();
        let port = |protocol, port, egress| Failsafe { protocol, port, egress };
        assert_eq!(ports.0, [port(6, 22, false), port(17, 53, true)]);
        assert_eq!("none".parse(), Ok(Failsafes(Vec::new())));
        for wrong in ["", "22", "in:22", "in:0/tcp", "by:22/tcp", "in:22/icmp", "in:70000/tcp"] {
            assert!(wrong.parse::<Failsafes>().is_err(), "{wrong}");
        }
    }
}
