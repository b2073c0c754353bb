//! Who to whom, as people write it.

use std::net::IpAddr;

use datapath_abi::service::{FrontendKey, INTERNAL};
use datapath_policy::explain::Question;
use datapath_policy::octets;

use crate::control::{LocalRedirect, RedirectFrontend, Service, Snapshot};
use crate::services::desired::{Here, desired};

/// The server of a question, taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Server<'a> {
    /// `namespace/pod`, or an address.
    pub end: &'a str,
    /// What is said to be its port; none where none is named.
    pub port: Option<&'a str>,
    /// IP protocol; none where none is named.
    pub protocol: Option<u8>,
}

/// Reads `namespace/pod` or an address as the client, and the same with `:port/protocol` or `/icmp` as the
/// server. TCP where no protocol is named. Where the server is a service's address, or one that is redirected, the first
/// backend for clients of the source's node is asked about, for policy sees backends.
///
/// # Errors
/// In words, what is missing or not known.
pub fn parse(snapshot: &Snapshot, source: &str, destination: &str) -> Result<Question, String> {
    let Server { end, port, protocol } = Server::split(destination);
    let port = port.map_or(Ok(0), |port| {
        port.parse().map_err(|_| format!("{destination}: no port: {port:?}"))
    })?;
    let protocol = protocol.unwrap_or(6);
    let icmp = protocol == 1 || protocol == 58;
    if port == 0 && !icmp {
        return Err(format!(
            "{destination}: a port is missing, as in {end}:80 or {end}:53/udp; or {end}/icmp"
        ));
    }
    let source = address(snapshot, source)?;
    let destination = address(snapshot, end)?;
    // `icmp` is what the addresses make of it. An echo request is what people mean.
    let (protocol, port) = match (icmp, destination) {
        (true, IpAddr::V4(_)) => (1, 8),
        (true, IpAddr::V6(_)) => (58, 128),
        (false, _) => (protocol, port),
    };
    let of_source = snapshot.pods.iter().find(|pod| pod.ips.contains(&source));
    let node = of_source.map(|pod| pod.node.clone()).unwrap_or_default();
    let (destination, port) = backend(snapshot, node, (destination, port, protocol))?;
    Ok(Question { source, destination, protocol, port })
}

// === impl Server ===

impl<'a> Server<'a> {
    /// Takes `end:port/protocol` apart; an IPv6 address with a port stands in brackets.
    pub fn split(destination: &'a str) -> Self {
        let (rest, protocol) = match destination.rsplit_once('/') {
            Some((rest, name)) if number(name).is_some() => (rest, number(name)),
            _ => (destination, None),
        };
        match rest.rsplit_once(':') {
            Some((end, port)) if rest.parse::<IpAddr>().is_err() => {
                Self { end: end.trim_matches(['[', ']']), port: Some(port), protocol }
            }
            _ => Self { end: rest, port: None, protocol },
        }
    }
}

fn number(name: &str) -> Option<u8> {
    match name.to_ascii_lowercase().as_str() {
        "tcp" => Some(6),
        "udp" => Some(17),
        "sctp" => Some(132),
        "icmp" | "icmpv4" => Some(1),
        "icmpv6" => Some(58),
        _ => None,
    }
}

/// The first backend of a service for clients of a node; what was given, where there is no such service.
fn backend(
    snapshot: &Snapshot,
    node: String,
    (ip, port, protocol): (IpAddr, u16, u8),
) -> Result<(IpAddr, u16), String> {
    let serves = |service: &&Service| {
        service.ips.contains(&ip)
            && service.ports.iter().any(|known| (known.port, known.protocol) == (port, protocol))
    };
    let redirects = |redirect: &LocalRedirect| matches!(redirect.frontend, RedirectFrontend::Address { ip: of, .. } if of == ip);
    let service = snapshot.services.iter().find(serves);
    if service.is_none() && !snapshot.redirects.iter().any(redirects) {
        return Ok((ip, port));
    }
    let (ports, _) = desired(snapshot, &Here { node, ..Here::default() });
    let key = FrontendKey { address: octets(ip), port, protocol, pad: 0, pad2: 0 };
    let frontend = ports.values().find_map(|port| port.frontends.get(&key));
    let candidates = frontend.map(|frontend| &frontend.candidates[INTERNAL]);
    match (candidates.and_then(|candidates| candidates.first()), service) {
        (Some(backend), _) => Ok(*backend),
        (None, None) => Ok((ip, port)),
        (None, Some(service)) => Err(format!(
            "{ip} port {port} is of the service {}, which has no backend: clients are refused",
            service.id()
        )),
    }
}

fn address(snapshot: &Snapshot, end: &str) -> Result<IpAddr, String> {
    if let Ok(ip) = end.parse() {
        return Ok(ip);
    }
    let (namespace, name) = end.split_once('/').unwrap_or(("default", end));
    let mut pods =
        snapshot.pods.iter().filter(|pod| pod.namespace == namespace && pod.name == name);
    let pod = pods
        .next()
        .ok_or_else(|| format!("{end}: neither an address nor a known pod (namespace/name)"))?;
    pod.ips.first().copied().ok_or_else(|| format!("{end}: the pod has no status.podIP"))
}

#[cfg(test)]
mod tests {
    use datapath_policy::NamedPort;

    use super::*;
    use crate::control::{Pod, ServicePort, Target};

    #[test]
    fn questions_in_every_form() {
        let pod = |name: &str, ip: &str| Pod {
            namespace: "shop".to_owned(),
            name: name.to_owned(),
            ips: vec![ip.parse().unwrap()],
            ..Pod::default()
        };
        let pods = vec![pod("web", "10.0.0.1"), pod("db", "fd00::2")];
        let snapshot = Snapshot { pods, ..Snapshot::default() };
        let ask = |from, to| parse(&snapshot, from, to);
        let asked = ask("shop/web", "shop/db:5432").unwrap();
        assert_eq!((asked.protocol, asked.port), (6, 5432));
        assert_eq!(asked.destination.to_string(), "fd00::2");
        let asked = ask("10.9.9.9", "[fd00::2]:53/udp").unwrap();
        let source = asked.source.to_string();
        assert_eq!((asked.protocol, asked.port, source.as_str()), (17, 53, "10.9.9.9"));
        let asked = ask("shop/db", "shop/web/icmp").unwrap();
        assert_eq!((asked.protocol, asked.port), (1, 8));
        let asked = ask("shop/web", "shop/db/icmp").unwrap();
        assert_eq!((asked.protocol, asked.port), (58, 128));
        for (from, to) in
            [("shop/web", "shop/db"), ("shop/none", "10.0.0.1:1"), ("shop/web", "shop/db:http")]
        {
            assert!(ask(from, to).is_err(), "{from} {to}");
        }
    }

    #[test]
    fn a_services_address_stands_for_its_first_backend() {
        let labels = || [("app".to_owned(), "web".to_owned())].into();
        let pod = Pod {
            namespace: "shop".to_owned(),
            name: "web".to_owned(),
            labels: labels(),
            ips: vec!["10.0.0.1".parse().unwrap()],
            ready: true,
            ..Pod::default()
        };
        let ip: IpAddr = "10.96.0.1".parse().unwrap();
        let service = Service {
            namespace: "shop".to_owned(),
            name: "web".to_owned(),
            ips: vec![ip],
            cluster_ips: vec![ip],
            selector: Some(labels()),
            ports: vec![ServicePort {
                protocol: 6,
                port: 80,
                target: Target::Number(8080),
                ..ServicePort::default()
            }],
            ..Service::default()
        };
        let mut snapshot =
            Snapshot { pods: vec![pod], services: vec![service], ..Snapshot::default() };
        let asked = parse(&snapshot, "10.9.9.9", "10.96.0.1:80").unwrap();
        assert_eq!((asked.destination.to_string().as_str(), asked.port), ("10.0.0.1", 8080));
        let asked = parse(&snapshot, "10.9.9.9", "10.96.0.1:81").unwrap();
        assert_eq!((asked.destination, asked.port), (ip, 81), "not a port of the service");
        // Of the client's node, where a policy says so.
        let port = |port| vec![NamedPort { name: String::new(), protocol: 6, port }];
        let frontend =
            |ip: &str| RedirectFrontend::Address { ip: ip.parse().unwrap(), ports: port(53) };
        snapshot.redirects.push(LocalRedirect {
            namespace: "shop".to_owned(),
            name: "near".to_owned(),
            frontend: frontend("169.254.20.10"),
            selector: Default::default(),
            ports: port(1053),
            skip_from_backend: false,
        });
        let client = |node: &str, ip: &str| Pod {
            node: node.to_owned(),
            ips: vec![ip.parse().unwrap()],
            ..Pod::default()
        };
        snapshot.pods[0].node = "n1".to_owned();
        snapshot.pods.extend([client("n1", "10.0.0.8"), client("n2", "10.0.0.9")]);
        for (from, expected) in [("10.0.0.8", "10.0.0.1:1053"), ("10.0.0.9", "169.254.20.10:53")] {
            let asked = parse(&snapshot, from, "169.254.20.10:53").unwrap();
            assert_eq!(format!("{}:{}", asked.destination, asked.port), expected, "{from}");
        }
        snapshot.pods.clear();
        let error = parse(&snapshot, "10.9.9.9", "10.96.0.1:80").unwrap_err();
        assert!(error.contains("shop/web") && error.contains("no backend"), "{error}");
    }
}
