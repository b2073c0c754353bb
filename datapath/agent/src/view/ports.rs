//! The interfaces, and the pods behind them.

use std::net::IpAddr;
use std::sync::Arc;

use hashbrown::HashMap;

use super::Ends;
use super::directory::{Directory, Party};
use super::role::{self, Passage, Side};
use crate::control::{Pod, Snapshot};
use crate::host::{Host, Link};

/// Kinds of interface that have one end elsewhere and nothing else on them.
const POINT_TO_POINT: [&str; 3] = ["veth", "netkit", "ipvlan"];

/// Interfaces that are gone and still known.
const MAX_GONE: usize = 1024;

/// Interfaces by index.
#[derive(Debug, Default)]
pub(crate) struct Ports {
    ports: HashMap<u32, Port>,
}

/// An interface.
#[derive(Debug, Clone, Default)]
pub(crate) struct Port {
    pub(crate) name: Arc<str>,
    loopback: bool,
    point_to_point: bool,
    gone: bool,
    /// Inode of the network namespace that its other end is in.
    netns: Option<u32>,
    /// The pods behind it.
    pub(crate) pods: Vec<Arc<Party>>,
}

// === impl Ports ===

impl Ports {
    /// Finds what is behind each interface: a pod is behind the one that its annotation names, or
    /// else behind the one that the kernel would send a packet for its address out by, unless that
    /// goes through a router. Of a cluster that lists this node, pods of other nodes are behind
    /// none.
    ///
    /// Interfaces of `before` that are gone are remembered: their connections have last rows.
    pub(crate) fn new(
        before: Self,
        links: &[Link],
        snapshot: &Snapshot,
        directory: &Directory,
        node: &str,
        host: &mut dyn Host,
    ) -> Self {
        let mut ports = before.ports;
        if ports.len() > links.len() + MAX_GONE {
            ports.retain(|index, _| links.iter().any(|link| link.index == *index));
        }
        ports.values_mut().for_each(|port| port.gone = true);
        let namespaces = namespaces(links, host);
        for link in links {
            let peer = |(id, _): &&(i32, u32)| Some(*id) == link.peer_netns;
            let port = Port {
                name: Arc::from(link.name.as_str()),
                loopback: link.loopback,
                point_to_point: POINT_TO_POINT.contains(&link.kind.as_str()),
                pods: Vec::new(),
                gone: false,
                netns: namespaces.iter().find(peer).map(|(_, inode)| *inode),
            };
            ports.insert(link.index, port);
        }
        let listed = snapshot.nodes.iter().any(|known| known.name == node);
        for pod in snapshot.pods.iter().filter(|pod| pod.is_endpoint()) {
            let elsewhere = listed && !pod.node.is_empty() && pod.node != node;
            let found = if pod.interface.is_empty() {
                if elsewhere { None } else { by_route(pod, directory, host) }
            } else {
                links.iter().find(|link| link.name == pod.interface).map(|link| link.index)
            };
            let port = found.and_then(|index| ports.get_mut(&index));
            if let Some(port) = port.filter(|port| !port.loopback) {
                port.pods.push(Arc::new(Party { node: node.to_owned(), ..directory.pod(pod) }));
            }
        }
        Self { ports }
    }

    /// Interfaces with nothing known to be behind them.
    #[cfg(test)]
    pub(crate) fn named(names: &[(u32, &str)]) -> Self {
        let port = |name: &str| Port { name: Arc::from(name), ..Port::default() };
        Self { ports: names.iter().map(|(index, name)| (*index, port(name))).collect() }
    }

    /// The interface of an index.
    pub(crate) fn get(&self, ifindex: u32) -> Option<&Port> {
        self.ports.get(&ifindex)
    }

    /// Name of an interface; empty for one that is not known.
    pub(crate) fn name(&self, ifindex: u32) -> &str {
        self.ports.get(&ifindex).map_or("", |port| &port.name)
    }

    /// The interface whose pods live in a network namespace.
    pub(crate) fn of_netns(&self, netns: u32) -> Option<u32> {
        let mut pods = self.iter().filter(|(_, port)| !port.pods.is_empty());
        pods.find(|(_, port)| port.netns == Some(netns)).map(|(ifindex, _)| ifindex)
    }

    /// Every interface that is there.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &Port)> {
        self.ports.iter().filter(|(_, port)| !port.gone).map(|(index, port)| (*index, port))
    }
}

/// Namespaces at the other ends of `links`; looking for them is not free, so only if there are any.
fn namespaces(links: &[Link], host: &mut dyn Host) -> Vec<(i32, u32)> {
    if links.iter().all(|link| link.peer_netns.is_none()) {
        return Vec::new();
    }
    host.namespaces().unwrap_or_else(|error| {
        tracing::warn!(%error, "drops inside pods are not told apart");
        Vec::new()
    })
}

fn by_route(pod: &Pod, directory: &Directory, host: &mut dyn Host) -> Option<u32> {
    let ip = *pod.ips.iter().find(|ip| !directory.is_local(**ip))?;
    match host.route(ip) {
        Ok(route) => route.filter(|route| !route.gateway && !route.local).map(|r| r.ifindex),
        Err(error) => {
            tracing::warn!(%ip, %error, "no answer from the routing table");
            None
        }
    }
}

// === impl Port ===

impl Port {
    /// Reporter and direction of a connection that passes here.
    pub(crate) fn role(
        &self,
        ends: &Ends,
        directory: &Directory,
    ) -> (model::Reporter, model::Direction) {
        role::of(Passage {
            side: self.side(ends),
            enters: ends.enters,
            source_local: directory.is_local(ends.source),
            destination_local: directory.is_local(ends.destination),
        })
    }

    fn side(&self, ends: &Ends) -> Side {
        if self.loopback {
            Side::Loopback
        } else if self.pods.is_empty() {
            Side::Network
        } else if self.point_to_point {
            Side::Pods
        } else {
            let behind = |ip: IpAddr| self.pods.iter().any(|pod| pod.ips.contains(&ip));
            Side::Shared { source: behind(ends.source), destination: behind(ends.destination) }
        }
    }

    /// The pod at an address that is not any pod's by itself (link-local): the only one here, if
    /// the address is on its side.
    pub(crate) fn sole(&self, on_its_side: bool) -> Option<&Arc<Party>> {
        match self.pods.as_slice() {
            [pod] if on_its_side && self.point_to_point => Some(pod),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::control::Node;
    use crate::host::{Changes, Route};

    #[derive(Debug)]
    struct Routes;

    impl Host for Routes {
        fn links(&mut self) -> io::Result<Vec<Link>> {
            Ok(Vec::new())
        }
        fn stats(&mut self, _: u32) -> io::Result<Option<crate::host::LinkStats>> {
            Ok(None)
        }
        fn changes(&mut self) -> io::Result<Changes> {
            Ok(Changes::default())
        }
        fn addresses(&mut self) -> io::Result<Vec<(u32, IpAddr)>> {
            Ok(Vec::new())
        }
        /// 10.0.N.x is behind interface N; 10.1.x.x behind a router on interface 2.
        fn route(&mut self, to: IpAddr) -> io::Result<Option<Route>> {
            let IpAddr::V4(v4) = to else { return Ok(None) };
            let [_, b, c, _] = v4.octets();
            let ifindex = if b == 0 { u32::from(c) } else { 2 };
            Ok(Some(Route { ifindex, gateway: b != 0, local: false }))
        }
        /// The other end of interface N is in namespace 40 + N.
        fn namespaces(&mut self) -> io::Result<Vec<(i32, u32)>> {
            Ok(vec![(1, 41), (2, 42), (3, 43)])
        }
    }

    fn pod(name: &str, ip: &str, node: &str, interface: &str) -> Pod {
        Pod {
            name: name.into(),
            ips: vec![ip.parse().unwrap()],
            node: node.into(),
            interface: interface.into(),
            ..Pod::default()
        }
    }

    fn behind(snapshot: &Snapshot) -> Vec<(u32, Vec<String>)> {
        let link = |index: u32, kind: &str| Link {
            index,
            name: format!("if{index}"),
            kind: kind.into(),
            peer_netns: (kind == "veth").then_some(index.cast_signed()),
            ..Link::default()
        };
        let links = [link(1, "veth"), link(2, ""), link(3, "bridge"), link(4, "veth")];
        let directory = Directory::new(snapshot, "n1", vec![]);
        let ports = Ports::new(Ports::default(), &links, snapshot, &directory, "n1", &mut Routes);
        // Of a pod's namespace, not of one with no pod in it, nor of what is no other end.
        assert_eq!([41, 43, 44].map(|netns| ports.of_netns(netns)), [Some(1), None, None]);
        let mut all: Vec<_> = ports
            .iter()
            .map(|(i, port)| (i, port.pods.iter().map(|pod| pod.pod.clone()).collect::<Vec<_>>()))
            .collect();
        all.sort();
        all
    }

    #[test]
    fn pods_are_behind_routes_or_annotations() {
        let mut snapshot = Snapshot {
            pods: vec![
                pod("direct", "10.0.1.5", "", ""),
                pod("routed", "10.1.0.5", "n2", ""),
                pod("annotated", "10.1.0.6", "n1", "if1"),
                pod("bridged", "10.0.3.7", "n2", ""),
                pod("gone", "10.0.9.9", "", "nowhere"),
            ],
            ..Snapshot::default()
        };
        let all = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let expected =
            [(1, all(&["direct", "annotated"])), (2, vec![]), (3, all(&["bridged"])), (4, vec![])];
        assert_eq!(behind(&snapshot), expected);
        // A cluster that lists this node knows which pods are elsewhere.
        snapshot.nodes = vec![Node { name: "n1".into(), ..Node::default() }];
        assert_eq!(behind(&snapshot)[2], (3, vec![]));
    }
}
