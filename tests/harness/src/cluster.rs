//! Nodes, pods and the outside world, wired as a routed Kubernetes network.
//!
//! ```text
//!  world (bridge 172.18.0.1, 203.0.113.10)          one namespace per box
//!    ├── node a: eth0 172.18.0.11 ─┬─ veth-web-0 ── pod web-0: eth0 10.244.1.10/32
//!    │                             └─ veth-db-0  ── pod db-0:  eth0 10.244.1.11/32
//!    └── node b: eth0 172.18.0.12 ─── …
//! ```
//!
//! As common CNIs do it: a /32 (and /128) per pod, a host route to its veth, the pod's default
//! route over a link-local gateway that every host-side veth answers for. Nothing is translated.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use crate::counters::Counters;
use crate::{Netns, Result, Run};

/// Gateway address of every pod.
const GATEWAY: &str = "169.254.1.1";
/// An address outside the cluster (RFC 5737, RFC 3849).
pub const WORLD_IPV4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
/// See [`WORLD_IPV4`].
pub const WORLD_IPV6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x113, 0, 0, 0, 0, 0x10);

/// A cluster of namespaces; everything goes when it is dropped.
#[derive(Debug)]
pub struct Cluster {
    nodes: Vec<Node>,
    world: Netns,
    /// Last: its end removes what the others left.
    run: Run,
}

/// A node.
#[derive(Debug)]
pub struct Node {
    /// Name, as Kubernetes knows it.
    pub name: String,
    /// Its namespace: host-side interfaces, routes, agent.
    pub netns: Netns,
    /// Address on the node network.
    pub ipv4: Ipv4Addr,
    /// Address on the node network.
    pub ipv6: Ipv6Addr,
    /// Its pods, in the order they were made.
    pub pods: Vec<Pod>,
    number: u8,
}

/// What a pod is to be.
#[derive(Debug, Clone, Default)]
pub struct PodSpec {
    /// Kubernetes namespace.
    pub namespace: String,
    /// Name of the pod.
    pub name: String,
    /// Short name, for its network namespace and interface (at most 10 characters).
    pub short: String,
}

/// A pod.
#[derive(Debug)]
pub struct Pod {
    /// What was asked for.
    pub spec: PodSpec,
    /// Its namespace.
    pub netns: Netns,
    /// Name of the host side of its veth pair, in the node's namespace.
    pub interface: String,
    /// Address.
    pub ipv4: Ipv4Addr,
    /// Address.
    pub ipv6: Ipv6Addr,
}

// === impl Cluster ===

impl Cluster {
    /// The world, and one node for each name.
    ///
    /// # Errors
    /// Without root or iproute2.
    pub fn new(run: Run, nodes: &[&str]) -> Result<Self> {
        let world = run.netns("world")?;
        world.sysctl("net/ipv4/ip_forward", "1")?;
        world.sysctl("net/ipv6/conf/all/forwarding", "1")?;
        world.ip(&format!(
            "link add br0 type bridge mcast_snooping 0\n\
             link set br0 up\n\
             addr add 172.18.0.1/24 dev br0\n\
             addr add fd00:172:18::1/64 dev br0 nodad\n\
             addr add {WORLD_IPV4}/32 dev lo\n\
             addr add {WORLD_IPV6}/128 dev lo",
        ))?;
        let mut cluster = Self { nodes: Vec::new(), world, run };
        for name in nodes {
            cluster.add_node(name)?;
        }
        Ok(cluster)
    }

    /// A cluster for one test, under a name of its own.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn for_test(name: &str, nodes: &[&str]) -> Result<Self> {
        Self::new(Run::for_test(name)?, nodes)
    }

    /// Adds a pod to node `node` (its index).
    ///
    /// # Errors
    /// When a name is taken.
    ///
    /// # Panics
    /// When there is no such node.
    pub fn add_pod(&mut self, node: usize, spec: PodSpec) -> Result<&Pod> {
        let netns = self.run.netns(&spec.short)?;
        let node = &mut self.nodes[node];
        let pod = node.wire(netns, spec)?;
        node.pods.push(pod);
        Ok(&node.pods[node.pods.len() - 1])
    }

    /// Adds a pod of the namespace `default` to node `node`.
    ///
    /// # Errors
    /// As [`add_pod`](Self::add_pod).
    pub fn add_plain_pod(&mut self, node: usize, name: &str) -> Result<&Pod> {
        let spec = PodSpec { namespace: "default".into(), name: name.into(), short: name.into() };
        self.add_pod(node, spec)
    }

    /// The nodes.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The pod of that short name.
    ///
    /// # Panics
    /// When there is none.
    pub fn pod(&self, short: &str) -> &Pod {
        self.pods().find(|pod| pod.spec.short == short).expect("a pod of that name was added")
    }

    /// Every pod.
    pub fn pods(&self) -> impl Iterator<Item = &Pod> {
        self.nodes.iter().flat_map(|node| &node.pods)
    }

    /// The namespace outside the cluster.
    pub fn world(&self) -> &Netns {
        &self.world
    }

    /// The run that owns it all.
    pub fn run(&self) -> &Run {
        &self.run
    }

    fn add_node(&mut self, name: &str) -> Result<()> {
        let number = u8::try_from(self.nodes.len() + 1).expect("a handful of nodes");
        let netns = self.run.netns(name)?;
        let ipv4 = Ipv4Addr::new(172, 18, 0, 10 + number);
        let ipv6 = Ipv6Addr::new(0xfd00, 0x172, 0x18, 0, 0, 0, 0, 0x10 + u16::from(number));
        netns.sysctl("net/ipv4/ip_forward", "1")?;
        netns.sysctl("net/ipv6/conf/all/forwarding", "1")?;
        netns.ip(&format!(
            "link add eth0 type veth peer name to-{name} netns {world}\n\
             addr add {ipv4}/24 dev eth0\n\
             addr add {ipv6}/64 dev eth0 nodad\n\
             link set eth0 up\n\
             route add default via 172.18.0.1\n\
             route add default via fd00:172:18::1",
            world = self.world.name(),
        ))?;
        let (cidr4, cidr6) =
            (format!("10.244.{number}.0/24"), format!("fd00:10:244:{number}::/64"));
        self.world.ip(&format!(
            "link set dev to-{name} master br0 up\n\
             route add {cidr4} via {ipv4}\n\
             route add {cidr6} via {ipv6}",
        ))?;
        for other in &self.nodes {
            let to = other.number;
            netns.ip(&format!(
                "route add 10.244.{to}.0/24 via {}\nroute add fd00:10:244:{to}::/64 via {}",
                other.ipv4, other.ipv6,
            ))?;
            other
                .netns
                .ip(&format!("route add {cidr4} via {ipv4}\nroute add {cidr6} via {ipv6}"))?;
        }
        self.nodes.push(Node {
            name: name.to_owned(),
            netns,
            ipv4,
            ipv6,
            pods: Vec::new(),
            number,
        });
        Ok(())
    }
}

// === impl Node ===

impl Node {
    /// Counters of the node's interfaces, by name; loopback is left out.
    ///
    /// # Errors
    /// When the namespace is gone.
    pub fn counters(&self) -> Result<BTreeMap<String, Counters>> {
        let mut all = self.netns.counters()?;
        all.remove("lo");
        Ok(all)
    }

    fn wire(&self, netns: Netns, spec: PodSpec) -> Result<Pod> {
        let host = u8::try_from(10 + self.pods.len()).expect("a handful of pods");
        let ipv4 = Ipv4Addr::new(10, 244, self.number, host);
        let ipv6 = Ipv6Addr::new(0xfd00, 0x10, 0x244, self.number.into(), 0, 0, 0, u16::from(host));
        let interface = format!("veth-{}", spec.short);
        self.netns.ip(&format!(
            "link add {interface} type veth peer name eth0 netns {pod}\n\
             addr add {GATEWAY}/32 dev {interface}\n\
             addr add fe80::1/64 dev {interface} nodad\n\
             link set {interface} up\n\
             route add {ipv4}/32 dev {interface}\n\
             route add {ipv6}/128 dev {interface}",
            pod = netns.name(),
        ))?;
        netns.ip(&format!(
            "addr add {ipv4}/32 dev eth0\n\
             addr add {ipv6}/128 dev eth0 nodad\n\
             link set eth0 up\n\
             route add {GATEWAY} dev eth0 scope link\n\
             route add default via {GATEWAY} dev eth0\n\
             route add default via fe80::1 dev eth0",
        ))?;
        Ok(Pod { spec, netns, interface, ipv4, ipv6 })
    }
}
