//! Two nodes behind a router, a client on its other side, and a pod: what goes from whom to whom is counted on each way.
//!
//! ```text
//! client 192.168.10.1 ── router ── up0 192.168.20.10 a
//!                             └── up0 192.168.30.10 b ── pod0 ── 10.244.2.10 pod
//! ```

use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::process::Child;

use datapath_abi::policy::Prefix;
use datapath_abi::service::{
    ALIVE, Backend, CHOSEN, DSR, FROM_POD, Frontend, LOCAL, LocalKey, NATIVE, NODE, Served,
    ServiceSettings, Slots, UPLINK,
};
use datapath_loader::{
    Acceleration, Attached, Datapath, Mode, Options, Transport, XdpMode, default_pin_root,
};

use crate::kernel::cluster::{SERVICE_SIZES, address, keeper, key, mapped};
use crate::kernel::lab::{Link, account, chain, enter, ip, within};
use crate::kernel::tables::SIZES;
use crate::kernel::xdp::pass_all;

/// The namespaces, and the two nodes in `a` and `b`.
pub(super) struct Site {
    pub(super) name: String,
    pub(super) a: Node,
    pub(super) b: Node,
    keeper: Child,
}

/// A node with its datapath.
pub(super) struct Node {
    ns: String,
    pub(super) datapath: Datapath,
    pub(super) attached: Vec<Attached>,
    options: Options,
}

/// The pod, or its address with a port.
pub(super) fn pod(v6: bool) -> IpAddr {
    if v6 { "fd44:2::10" } else { "10.244.2.10" }.parse().unwrap()
}

pub(super) fn client(v6: bool) -> IpAddr {
    if v6 { "fd10::1" } else { "192.168.10.1" }.parse().unwrap()
}

/// An address that a load balancer gives to node a.
pub(super) fn vip(v6: bool) -> SocketAddr {
    if v6 { "[fd99::80]:80" } else { "203.0.113.80:80" }.parse().unwrap()
}

/// A port of node a.
pub(super) fn node_port(v6: bool) -> SocketAddr {
    if v6 { "[fd20::10]:30080" } else { "192.168.20.10:30080" }.parse().unwrap()
}

/// Port of the pod's server.
pub(super) const PORT: u16 = 8080;
const SERVICES: [(bool, u32); 2] = [(false, 1), (true, 2)];

// === impl Site ===

impl Site {
    /// With a service of both families that node a forwards to the pod.
    pub(super) fn new(name: &str) -> Self {
        Self::with(name, None)
    }

    /// Node a's half by XDP.
    pub(super) fn accelerated(name: &str) -> (Self, OwnedFd) {
        let mode = XdpMode::Native;
        let acceleration =
            Acceleration { mode, buckets4: 1024, buckets6: 1024, new_per_second: 1 << 20 };
        let mut site = Self::with(name, Some(acceleration));
        // What XDP sends out of a veth is only taken where the other side polls.
        let peer = pass_all(&site.ns("router"), c"to-a");
        let (ns, a) = (site.ns("a"), &mut site.a.datapath);
        std::thread::scope(|scope| {
            let run = scope.spawn(|| {
                enter(&ns);
                a.accelerate("up0").unwrap().unwrap();
            });
            run.join().unwrap();
        });
        (site, peer)
    }

    fn with(name: &str, xdp: Option<Acceleration>) -> Self {
        // SAFETY: no arguments.
        assert_eq!(unsafe { libc::geteuid() }, 0, "these tests need root");
        let name = format!("wl-{name}-{}", std::process::id());
        let pins = default_pin_root().unwrap().join(&name);
        let keeper = keeper(&name, &pins);
        make(&name);
        let (a, b) = (Node::open(&name, "a", xdp), Node::open(&name, "b", None));
        let site = Self { name, a, b, keeper };
        for node in [&site.a, &site.b] {
            node.settle();
        }
        site.a.serve(false);
        site.b.serve(true);
        site
    }

    pub(super) fn ns(&self, role: &str) -> String {
        format!("{}-{role}", self.name)
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        for node in [&self.a, &self.b] {
            let (pins, ns) = (node.options.pin_dir.clone(), node.ns.clone());
            let cleaned = std::thread::spawn(move || {
                enter(&ns);
                datapath_loader::cleanup(&pins)
            });
            drop(cleaned.join());
        }
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
    }
}

// === impl Node ===

impl Node {
    fn open(name: &str, role: &str, xdp: Option<Acceleration>) -> Self {
        let options = Options {
            pin_dir: default_pin_root().unwrap().join(name).join(role),
            max_connections: 65536,
            ring_bytes: 1 << 20,
            transport: Transport::Ring,
            dns: false,
            drops: false,
            cgroup: None,
            policy: Some(SIZES),
            services: Some(SERVICE_SIZES),
            socket_services: None,
            xdp,
        };
        let (ns, open) = (format!("{name}-{role}"), options.clone());
        let interfaces: &'static [&'static str] =
            if role == "a" { &["up0"] } else { &["up0", "pod0"] };
        let (datapath, attached) = within(&ns, move || {
            let mut datapath =
                Datapath::open(open).unwrap_or_else(|error| panic!("{}", chain(&error)));
            let attach = |name: &&str| {
                datapath
                    .attach(name, Mode::Enforce)
                    .unwrap_or_else(|error| panic!("{}", chain(&error)))
            };
            let attached: Vec<_> = interfaces.iter().map(attach).collect();
            (datapath, attached)
        });
        Self { ns, datapath, attached, options }
    }

    /// What does not depend on services.
    fn settle(&self) {
        let [v4, v6] = if self.ns.ends_with("-a") {
            ["192.168.20.10", "fd20::10"]
        } else {
            ["192.168.30.10", "fd30::10"]
        };
        let served = |name: &str| match name {
            "up0" => Served { flags: UPLINK, pad: 0, v4: address(v4), v6: address(v6) },
            _ => Served { flags: FROM_POD, pad: 0, v4: [0; 16], v6: [0; 16] },
        };
        let entries: Vec<_> = self
            .attached
            .iter()
            .map(|attached| (attached.ifindex, served(&attached.name)))
            .collect();
        let tables = self.datapath.services();
        tables.put_served(&entries).unwrap();
        let settings = ServiceSettings {
            port_min: 40000,
            port_max: 60000,
            seed: 7,
            hairpin_v4: [0; 16],
            hairpin_v6: [0; 16],
        };
        tables.set_settings(settings).unwrap();
        let nodes = ["192.168.20.10", "192.168.30.10", "fd20::10", "fd30::10"];
        let prefix = |text| Prefix { length: 128, address: address(text) };
        let nodes = nodes.map(|text| (prefix(text), NATIVE | NODE));
        tables.put_prefixes(&nodes).unwrap();
    }

    /// The services as this node has them: the pod is another node's, or here.
    fn serve(&self, here: bool) {
        let tables = self.datapath.services();
        for (v6, service) in SERVICES {
            let at = mapped(pod(v6));
            let local = if here { LOCAL } else { 0 };
            let flags = CHOSEN | ALIVE | local;
            tables
                .put_backends(&[(service, Backend { address: at, port: PORT, flags, service })])
                .unwrap();
            tables.write_slots(service, &[service]).unwrap();
            let slots = [Slots { start: service, count: 1 }; 2];
            let frontend = Frontend { service, flags: DSR, affinity: 0, pad: 0, slots };
            for protocol in [6, 17] {
                let mut frontends = vec![(key(protocol, vip(v6)), frontend)];
                let named = LocalKey { address: at, service, port: 0, protocol: 0, pad: 0 };
                if here {
                    let port = node_port(v6).port();
                    let by_port = LocalKey { service: 0, port, protocol, ..named };
                    tables.put_locals(&[(named, service), (by_port, service)]).unwrap();
                } else {
                    frontends.push((key(protocol, node_port(v6)), frontend));
                }
                tables.put_frontends(&frontends).unwrap();
            }
        }
    }

    /// What each interface has counted, and what we have.
    pub(super) fn links(&self) -> Vec<(String, Link, Link)> {
        let of = |attached: &Attached| {
            let output = ip(&["-n", &self.ns, "-j", "-s", "link", "show", "dev", &attached.name]);
            let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
            let count = |way: &str| {
                let stats = &json[0]["stats64"][way];
                (stats["packets"].as_u64().unwrap(), stats["bytes"].as_u64().unwrap())
            };
            let link = Link { rx: count("rx"), tx: count("tx") };
            (format!("{} {}", self.ns, attached.name), link, account(&self.datapath, attached))
        };
        self.attached.iter().map(of).collect()
    }
}

fn make(name: &str) {
    let ns = |role: &str| format!("{name}-{role}");
    for role in ["router", "client", "a", "b", "pod"] {
        ip(&["netns", "add", &ns(role)]);
        ip(&["-n", &ns(role), "link", "set", "lo", "up"]);
    }
    for role in ["router", "a", "b"] {
        let mut all = vec!["netns", "exec", name, "sysctl", "-qw"];
        let ns = ns(role);
        all[2] = &ns;
        all.extend(["net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"]);
        all.extend(["net.ipv4.conf.all.send_redirects=0", "net.ipv4.conf.all.rp_filter=0"]);
        ip(&all);
    }
    let link = |from: &str, near: &str, to: &str, far: &str| {
        let (from, to) = (ns(from), ns(to));
        ip(&["-n", &from, "link", "add", near, "type", "veth", "peer", "name", far, "netns", &to]);
        ip(&["-n", &from, "link", "set", near, "up"]);
        ip(&["-n", &to, "link", "set", far, "up"]);
    };
    let add = |role: &str, device: &str, addresses: [&str; 2]| {
        for address in addresses {
            let nodad: &[&str] = if address.contains(':') { &["nodad"] } else { &[] };
            let ns = ns(role);
            let mut all = vec!["-n", &ns, "addr", "add", address, "dev", device];
            all.extend(nodad);
            ip(&all);
        }
    };
    let route = |role: &str, to: &str, how: &[&str]| {
        let ns = ns(role);
        let mut all = vec!["-n", &ns, "route", "add", to];
        all.extend(how);
        ip(&all);
    };
    for (role, device, net, own) in
        [("client", "eth0", 10, 1), ("a", "up0", 20, 10), ("b", "up0", 30, 10)]
    {
        let near = format!("to-{role}");
        link("router", &near, role, device);
        let gateway = [format!("192.168.{net}.254"), format!("fd{net}::fe")];
        add("router", &near, [&format!("{}/24", gateway[0]), &format!("{}/64", gateway[1])]);
        let own = [format!("192.168.{net}.{own}/24"), format!("fd{net}::{own}/64")];
        add(role, device, [&own[0], &own[1]]);
        route(role, "0.0.0.0/0", &["via", &gateway[0]]);
        route(role, "::/0", &["via", &gateway[1]]);
    }
    route("router", "203.0.113.80", &["via", "192.168.20.10"]);
    route("router", "fd99::80", &["via", "fd20::10"]);
    route("router", "10.244.2.0/24", &["via", "192.168.30.10"]);
    route("router", "fd44:2::/64", &["via", "fd30::10"]);
    link("b", "pod0", "pod", "eth0");
    add("b", "pod0", ["169.254.1.1/32", "fe80::1/64"]);
    let own = [format!("{}/32", pod(false)), format!("{}/128", pod(true))];
    add("pod", "eth0", [&own[0], &own[1]]);
    route("pod", "169.254.1.1", &["dev", "eth0"]);
    route("pod", "0.0.0.0/0", &["via", "169.254.1.1"]);
    route("pod", "::/0", &["via", "fe80::1", "dev", "eth0"]);
    route("b", &own[0], &["dev", "pod0"]);
    route("b", &own[1], &["dev", "pod0"]);
}
