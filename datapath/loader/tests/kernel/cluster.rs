//! A node with pods, a client outside of the cluster and another node, each a namespace; and services.
//!
//! ```text
//! pods 10.244.1.10+ ── pod0, pod1, … ─ node ─ up0 192.168.77.10 ── 192.168.77.1 outside
//!                                          └ up1 192.168.78.10 ── 192.168.78.11 other node, 10.244.2.10
//! ```

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use datapath_abi::policy::Prefix;
use datapath_abi::service::{
    ALIVE, Backend, CHOSEN, Frontend, FrontendKey, LOCAL, MASQUERADE, MASQUERADED, NATIVE, Served,
    ServiceSettings, Slots, UPLINK,
};
use datapath_abi::service::{DIRECT, FROM_POD, ServiceCounters};
use datapath_loader::{
    Datapath, Mode, Options, ServiceSizes, SocketServices, Transport, default_pin_root,
};

use crate::kernel::lab::{chain, enter, ip, within};
use crate::kernel::tables::SIZES;

/// How many pods there are.
pub(crate) const PODS: usize = 3;

/// The namespaces, and the datapath in `node`.
pub(crate) struct Cluster {
    pub(crate) name: String,
    pub(crate) datapath: Datapath,
    pub(crate) options: Options,
    keeper: Child,
    next_backend: u32,
    next_slot: u32,
}

/// Sizes for tests.
pub(crate) const SERVICE_SIZES: ServiceSizes = ServiceSizes {
    frontends: 1024,
    slots: 1 << 16,
    backends: 1024,
    source_ranges: 64,
    clients: 1024,
    interfaces: 64,
    locals: 64,
    prefixes: 64,
    translations: 1 << 14,
};

// === impl Cluster ===

impl Cluster {
    pub(crate) fn new(name: &str) -> Self {
        Self::with(name, None)
    }

    pub(crate) fn with(name: &str, sockets: Option<SocketServices>) -> Self {
        // SAFETY: no arguments.
        assert_eq!(unsafe { libc::geteuid() }, 0, "these tests need root");
        let name = format!("wl-{name}-{}", std::process::id());
        let options = Options {
            pin_dir: default_pin_root().unwrap().join(&name),
            max_connections: 65536,
            ring_bytes: 1 << 20,
            transport: Transport::Ring,
            dns: false,
            drops: false,
            cgroup: None,
            policy: Some(SIZES),
            services: Some(SERVICE_SIZES),
            socket_services: sockets,
            xdp: None,
        };
        let keeper = keeper(&name, &options.pin_dir);
        make(&name);
        let open = options.clone();
        let datapath = within(&format!("{name}-node"), move || {
            Datapath::open(open).unwrap_or_else(|error| panic!("{}", chain(&error)))
        });
        let mut cluster = Self { name, datapath, options, keeper, next_backend: 0, next_slot: 0 };
        cluster.attach();
        cluster
    }

    pub(crate) fn ns(&self, role: &str) -> String {
        format!("{}-{role}", self.name)
    }

    /// Attaches to all interfaces of the node and says what they are.
    fn attach(&mut self) {
        let node = self.ns("node");
        let names: Vec<String> = (0..PODS)
            .map(|pod| format!("pod{pod}"))
            .chain(["up0", "up1"].map(str::to_owned))
            .collect();
        let datapath = &mut self.datapath;
        let attached: Vec<_> = std::thread::scope(|scope| {
            let attach = scope.spawn(|| {
                enter(&node);
                names
                    .iter()
                    .map(|name| {
                        datapath
                            .attach(name, Mode::Enforce)
                            .unwrap_or_else(|error| panic!("{}", chain(&error)))
                    })
                    .collect()
            });
            attach.join().unwrap()
        });
        let served = |name: &str| match name {
            "up0" => uplink("192.168.77.10", "fd77::10"),
            "up1" => uplink("192.168.78.10", "fd78::10"),
            _ => Served { flags: FROM_POD | DIRECT, pad: 0, v4: [0; 16], v6: [0; 16] },
        };
        let entries: Vec<_> =
            attached.iter().map(|attached| (attached.ifindex, served(&attached.name))).collect();
        let tables = self.datapath.services();
        tables.put_served(&entries).unwrap();
        let settings = ServiceSettings {
            port_min: 40000,
            port_max: 60000,
            seed: 7,
            hairpin_v4: address("169.254.42.1"),
            hairpin_v6: address("fd57:6569::1"),
        };
        tables.set_settings(settings).unwrap();
        let prefix = |text: &str, length| Prefix { length, address: address(text) };
        tables
            .put_prefixes(&[
                (prefix("10.244.1.0", 96 + 24), MASQUERADED | NATIVE),
                (prefix("10.244.2.0", 96 + 24), NATIVE),
                (prefix("fd44:1::", 64), MASQUERADED | NATIVE),
                (prefix("fd44:2::", 64), NATIVE),
            ])
            .unwrap();
    }

    /// Backends of a service's port; returns their slots.
    pub(crate) fn backends(&mut self, service: u32, backends: &[SocketAddr]) -> Slots {
        let first = self.next_backend;
        let entries: Vec<_> =
            (first..).zip(backends.iter().map(|at| backend(service, *at))).collect();
        self.next_backend += backends.len() as u32;
        self.datapath.services().put_backends(&entries).unwrap();
        let slots: Vec<u32> = entries.iter().map(|(index, _)| *index).collect();
        self.slots(&slots)
    }

    pub(crate) fn slots(&mut self, slots: &[u32]) -> Slots {
        let start = self.next_slot;
        self.next_slot += slots.len() as u32;
        self.datapath.services().write_slots(start, slots).unwrap();
        Slots { start, count: slots.len() as u32 }
    }

    pub(crate) fn frontend(&self, protocol: u8, at: SocketAddr, frontend: Frontend) {
        self.datapath.services().put_frontends(&[(key(protocol, at), frontend)]).unwrap();
    }

    /// A TCP and UDP service.
    pub(crate) fn service(&mut self, service: u32, at: &str, backends: &[SocketAddr]) -> Frontend {
        let slots = self.backends(service, backends);
        let frontend = simple(service, slots);
        for protocol in [6, 17] {
            self.frontend(protocol, at.parse().unwrap(), frontend);
        }
        frontend
    }

    pub(crate) fn counters(&self) -> ServiceCounters {
        self.datapath.services().counters().unwrap()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let (pins, node) = (self.options.pin_dir.clone(), self.ns("node"));
        let cleaned = std::thread::spawn(move || {
            enter(&node);
            datapath_loader::cleanup(&pins)
        });
        drop(cleaned.join());
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
    }
}

pub(crate) fn simple(service: u32, slots: Slots) -> Frontend {
    Frontend { service, flags: 0, affinity: 0, pad: 0, slots: [slots; 2] }
}

pub(crate) fn key(protocol: u8, at: SocketAddr) -> FrontendKey {
    FrontendKey { address: mapped(at.ip()), port: at.port(), protocol, pad: 0, pad2: 0 }
}

pub(crate) fn backend(service: u32, at: SocketAddr) -> Backend {
    let local = matches!(at.ip(), IpAddr::V4(ip) if ip.octets()[2] == 1);
    let flags = CHOSEN | ALIVE | if local { LOCAL } else { 0 };
    Backend { address: mapped(at.ip()), port: at.port(), flags, service }
}

pub(crate) fn mapped(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    }
}

pub(crate) fn address(text: &str) -> [u8; 16] {
    mapped(text.parse().unwrap())
}

/// Address of a pod of this node.
pub(crate) fn pod(v6: bool, number: usize) -> IpAddr {
    if v6 {
        Ipv6Addr::new(0xfd44, 1, 0, 0, 0, 0, 0, 16 + number as u16).into()
    } else {
        Ipv4Addr::new(10, 244, 1, 10 + number as u8).into()
    }
}

/// Address of the pod of the other node.
pub(crate) fn remote(v6: bool) -> IpAddr {
    if v6 { "fd44:2::10" } else { "10.244.2.10" }.parse().unwrap()
}

fn uplink(v4: &str, v6: &str) -> Served {
    Served { flags: UPLINK | MASQUERADE | DIRECT, pad: 0, v4: address(v4), v6: address(v6) }
}

pub(crate) fn keeper(name: &str, pins: &std::path::Path) -> Child {
    const SCRIPT: &str = r#"cat; for n in $(ip netns list | grep -o "^$0-[a-z0-9]*"); do ip netns del "$n"; done; [ ! -e "$1" ] || rm -r "$1""#;
    use std::os::unix::process::CommandExt;
    Command::new("sh")
        .args(["-c", SCRIPT, name])
        .arg(pins)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .expect("sh")
}

fn make(name: &str) {
    let ns = |role: &str| format!("{name}-{role}");
    let node = ns("node");
    for role in ["node", "outside", "other"].map(str::to_owned).into_iter().chain(pods()) {
        ip(&["netns", "add", &ns(&role)]);
        ip(&["-n", &ns(&role), "link", "set", "lo", "up"]);
    }
    let sysctl = |name: &str| {
        let set = ["net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"];
        let mut all = vec!["netns", "exec", name, "sysctl", "-qw"];
        all.extend(set);
        all.extend(["net.ipv4.conf.all.send_redirects=0", "net.ipv4.conf.all.rp_filter=0"]);
        ip(&all);
    };
    sysctl(&node);
    sysctl(&ns("other"));
    for (role, uplink, far, near) in [
        ("outside", "up0", ["192.168.77.1/24", "fd77::1/64"], ["192.168.77.10/24", "fd77::10/64"]),
        ("other", "up1", ["192.168.78.11/24", "fd78::11/64"], ["192.168.78.10/24", "fd78::10/64"]),
    ] {
        ip(&[
            "-n",
            &node,
            "link",
            "add",
            uplink,
            "type",
            "veth",
            "peer",
            "eth0",
            "netns",
            &ns(role),
        ]);
        for address in far {
            ip(&["-n", &ns(role), "addr", "add", address, "dev", "eth0", "nodad"]);
        }
        for address in near {
            ip(&["-n", &node, "addr", "add", address, "dev", uplink, "nodad"]);
        }
        ip(&["-n", &ns(role), "link", "set", "eth0", "up"]);
        ip(&["-n", &node, "link", "set", uplink, "up"]);
    }
    ip(&["-n", &ns("outside"), "route", "add", "default", "via", "192.168.77.10"]);
    ip(&["-n", &ns("outside"), "-6", "route", "add", "default", "via", "fd77::10"]);
    ip(&["-n", &ns("other"), "route", "add", "10.244.1.0/24", "via", "192.168.78.10"]);
    ip(&["-n", &ns("other"), "-6", "route", "add", "fd44:1::/64", "via", "fd78::10"]);
    ip(&["-n", &ns("other"), "addr", "add", "10.244.2.10/32", "dev", "lo"]);
    ip(&["-n", &ns("other"), "addr", "add", "fd44:2::10/128", "dev", "lo", "nodad"]);
    ip(&["-n", &node, "route", "add", "10.244.2.0/24", "via", "192.168.78.11"]);
    ip(&["-n", &node, "-6", "route", "add", "fd44:2::/64", "via", "fd78::11"]);
    for number in 0..PODS {
        let (role, link) = (format!("p{number}"), format!("pod{number}"));
        let role = ns(&role);
        ip(&["-n", &node, "link", "add", &link, "type", "veth", "peer", "eth0", "netns", &role]);
        ip(&["-n", &node, "addr", "add", "169.254.1.1/32", "dev", &link]);
        ip(&["-n", &node, "addr", "add", "fe80::1/64", "dev", &link, "nodad"]);
        ip(&["-n", &node, "link", "set", &link, "up"]);
        ip(&["-n", &role, "link", "set", "eth0", "up"]);
        let (v4, v6) = (pod(false, number), pod(true, number));
        ip(&["-n", &role, "addr", "add", &format!("{v4}/32"), "dev", "eth0"]);
        ip(&["-n", &role, "addr", "add", &format!("{v6}/128"), "dev", "eth0", "nodad"]);
        ip(&["-n", &role, "route", "add", "169.254.1.1", "dev", "eth0"]);
        ip(&["-n", &role, "route", "add", "default", "via", "169.254.1.1"]);
        ip(&["-n", &role, "-6", "route", "add", "default", "via", "fe80::1", "dev", "eth0"]);
        ip(&["-n", &node, "route", "add", &format!("{v4}/32"), "dev", &link]);
        ip(&["-n", &node, "-6", "route", "add", &format!("{v6}/128"), "dev", &link]);
    }
}

fn pods() -> impl Iterator<Item = String> {
    (0..PODS).map(|number| format!("p{number}"))
}

/// A server for TCP and UDP that says its name and whom it talks to; it lives as long as the process.
pub(crate) fn serve(namespace: &str, at: SocketAddr, name: &'static str) {
    let (tcp, udp) =
        within(namespace, move || (TcpListener::bind(at).unwrap(), UdpSocket::bind(at).unwrap()));
    std::thread::spawn(move || {
        for stream in tcp.incoming() {
            let Ok(stream) = stream else { return };
            std::thread::spawn(move || greet(stream, name));
        }
    });
    std::thread::spawn(move || {
        let mut buffer = [0; 2048];
        while let Ok((length, from)) = udp.recv_from(&mut buffer) {
            let mut answer = format!("{name} {from}\n").into_bytes();
            answer.extend(&buffer[..length]);
            let _ = udp.send_to(&answer, from);
        }
    });
}

fn greet(mut stream: TcpStream, name: &str) {
    let Ok(peer) = stream.peer_addr() else { return };
    if writeln!(stream, "{name} {peer}").is_err() {
        return;
    }
    let mut buffer = vec![0; 65536];
    while let Ok(length) = stream.read(&mut buffer) {
        if length == 0 || stream.write_all(&buffer[..length]).is_err() {
            return;
        }
    }
}

/// Connects, exchanges `bytes`, and says who served, and whom it took us for. An error's kind otherwise.
pub(crate) fn ask(
    namespace: &str,
    at: SocketAddr,
    bytes: usize,
) -> Result<(String, SocketAddr), String> {
    within(namespace, move || {
        let text = |error: std::io::Error| format!("{:?}", error.kind());
        let mut stream = TcpStream::connect_timeout(&at, Duration::from_secs(3)).map_err(text)?;
        stream.set_read_timeout(Some(Duration::from_secs(3))).map_err(text)?;
        let mut reader = BufReader::new(stream.try_clone().map_err(text)?);
        let mut line = String::new();
        reader.read_line(&mut line).map_err(text)?;
        let data: Vec<u8> = (0..bytes).map(|byte| byte as u8).collect();
        let mut back = vec![0; bytes];
        let sent = data.clone();
        let writer = std::thread::spawn(move || stream.write_all(&sent));
        reader.read_exact(&mut back).map_err(text)?;
        writer.join().unwrap().map_err(text)?;
        assert!(back == data, "what came back is something else");
        said(&line)
    })
}

/// As [`ask`], one datagram.
pub(crate) fn ask_udp(
    namespace: &str,
    at: SocketAddr,
    bytes: usize,
) -> Result<(String, SocketAddr), String> {
    within(namespace, move || {
        let text = |error: std::io::Error| format!("{:?}", error.kind());
        let any = if at.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(any).map_err(text)?;
        socket.connect(at).map_err(text)?;
        socket.set_read_timeout(Some(Duration::from_secs(3))).map_err(text)?;
        socket.send(&vec![7; bytes]).map_err(text)?;
        let mut buffer = vec![0; 65536];
        let length = socket.recv(&mut buffer).map_err(text)?;
        let line = String::from_utf8_lossy(&buffer[..length]).into_owned();
        said(line.lines().next().unwrap_or_default())
    })
}

fn said(line: &str) -> Result<(String, SocketAddr), String> {
    let (name, peer) = line.trim().split_once(' ').ok_or_else(|| format!("said {line:?}"))?;
    Ok((name.to_owned(), peer.parse().map_err(|_| format!("said {line:?}"))?))
}
