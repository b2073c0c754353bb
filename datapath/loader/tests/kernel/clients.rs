//! Clients that keep a socket while services and backends change: whom they reach, and whom they take it for.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use datapath_abi::service::{Backend, SILENT};

use crate::kernel::cluster::{backend, pod, remote, simple};
use crate::kernel::lab::within;
use crate::kernel::sockets::{Group, backends, lab, vip};

/// Set where [`obey`] is to do so.
const OBEY: &str = "WEIR_SOCKET_CLIENT";

/// A process in a cgroup and a network namespace.
struct Client {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

// === impl Client ===

impl Client {
    fn new(group: &Group, namespace: &str) -> Self {
        let script = r#"set -e; echo $$ > "$0/cgroup.procs"; exec ip netns exec "$1" "$2" --exact kernel::clients::obey --nocapture --include-ignored"#;
        let mut child = Command::new("sh")
            .args(["-c", script])
            .arg(&group.0)
            .arg(namespace)
            .arg(std::env::current_exe().unwrap())
            .env(OBEY, "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (to, from) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Self { child, to, from: BufReader::new(from) }
    }

    /// Has something done: what [`act`] says.
    fn tell(&mut self, what: &str) -> String {
        writeln!(self.to, "{what}").unwrap();
        let mut line = String::new();
        while self.from.read_line(&mut line).unwrap() != 0 {
            if let Some(said) = line.strip_prefix("SAID ") {
                return said.trim_end().to_owned();
            }
            line.clear();
        }
        panic!("the client is gone");
    }

    /// Who answered, and whom the client takes it for.
    fn reach(&mut self, what: &str) -> (String, String) {
        let said = self.tell(what);
        let (name, from) = said.split_once(' ').unwrap_or_else(|| panic!("{what}: {said}"));
        (name.to_owned(), from.to_owned())
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[derive(Default)]
struct Sockets {
    udp: BTreeMap<String, UdpSocket>,
    tcp: BTreeMap<String, TcpStream>,
}

/// The client's process; on its own it has nothing to do.
#[test]
#[ignore = "a part of the other tests"]
fn obey() {
    if std::env::var_os(OBEY).is_none() {
        return;
    }
    let mut sockets = Sockets::default();
    for line in std::io::stdin().lines() {
        let line = line.unwrap();
        let said = act(&mut sockets, &line).unwrap_or_else(|error| format!("{:?}", error.kind()));
        println!("\nSAID {said}");
    }
}

fn act(sockets: &mut Sockets, line: &str) -> std::io::Result<String> {
    let mut words = line.split(' ');
    let (what, name) = (words.next().unwrap(), words.next().unwrap());
    let to = words.next().map(|at| at.parse::<SocketAddr>().unwrap());
    match (what, to) {
        // A socket without connection.
        ("udp", Some(own)) => {
            let socket = UdpSocket::bind(own)?;
            socket.set_read_timeout(Some(Duration::from_secs(2)))?;
            sockets.udp.insert(name.to_owned(), socket);
            Ok("done".to_owned())
        }
        ("connect", Some(to)) => {
            let socket = &sockets.udp[name];
            socket.connect(to)?;
            Ok(format!("peer {}", socket.peer_addr()?))
        }
        ("send", to) => {
            let socket = &sockets.udp[name];
            match to {
                Some(to) => socket.send_to(b"x", to)?,
                None => socket.send(b"x")?,
            };
            let mut buffer = [0; 2000];
            let (length, from) = socket.recv_from(&mut buffer)?;
            let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
            Ok(format!("{} {from}", text.split(' ').next().unwrap_or_default()))
        }
        ("tcp", Some(to)) => {
            let stream = TcpStream::connect_timeout(&to, Duration::from_secs(3))?;
            stream.set_read_timeout(Some(Duration::from_secs(3)))?;
            let mut line = String::new();
            BufReader::new(&stream).read_line(&mut line)?;
            let said = format!("{} {}", line.split(' ').next().unwrap(), stream.peer_addr()?);
            sockets.tcp.insert(name.to_owned(), stream);
            Ok(said)
        }
        ("read", None) => {
            let mut stream = &sockets.tcp[name];
            stream.set_read_timeout(Some(Duration::from_millis(100)))?;
            std::io::Read::read(&mut stream, &mut [0]).map(|length| length.to_string())
        }
        other => panic!("{other:?}"),
    }
}

const ANY: &str = "0.0.0.0:0";

fn as_v6(at: SocketAddr) -> SocketAddr {
    let IpAddr::V4(ip) = at.ip() else { panic!("{at}") };
    SocketAddr::new(ip.to_ipv6_mapped().into(), at.port())
}

#[test]
fn ipv6_sockets_reach_ipv4_services() {
    let (mut cluster, group) = lab("mapped", false);
    cluster.service(1, &vip(false).to_string(), &backends(false));
    let vip = as_v6(vip(false));
    let mut client = Client::new(&group, &cluster.ns("p0"));
    assert_eq!(client.reach(&format!("tcp a {vip}")).1, vip.to_string());
    client.tell("udp a [::]:0");
    assert_eq!(client.reach(&format!("send a {vip}")).1, vip.to_string());
    client.tell("udp b [::]:0");
    assert_eq!(client.tell(&format!("connect b {vip}")), format!("peer {vip}"));
    assert_eq!(client.reach("send b").1, vip.to_string());
    assert_eq!(cluster.counters().sockets, 3);
    assert_eq!(cluster.counters().balanced, 0);
}

#[test]
fn one_socket_asks_two_services() {
    let (mut cluster, group) = lab("two", false);
    let vips = ["10.96.0.1:53", "10.96.0.2:53"];
    for (number, vip) in (1..).zip(vips) {
        cluster.service(number, vip, &backends(false));
    }
    let mut client = Client::new(&group, &cluster.ns("p0"));
    client.tell(&format!("udp a {ANY}"));
    let first = vips.map(|vip| client.reach(&format!("send a {vip}")));
    for _ in 0..12 {
        let next = vips.map(|vip| client.reach(&format!("send a {vip}")));
        assert_eq!(next, first);
    }
    // Also where both have the same.
    assert_eq!([first[0].1.as_str(), first[1].1.as_str()], vips);
    assert_eq!(cluster.counters().sockets, 2);
}

#[test]
fn datagrams_leave_a_backend_that_is_gone() {
    let (mut cluster, group) = lab("churn", false);
    cluster.service(1, &vip(false).to_string(), &backends(false));
    let tables = cluster.datapath.services();
    let entries: Vec<(u32, Backend)> =
        (0..).zip(backends(false).map(|at| backend(1, at))).collect();
    let index = |name: &str| ["p1", "p2", "other"].iter().position(|it| *it == name).unwrap();
    let mut client = Client::new(&group, &cluster.ns("p0"));
    client.tell(&format!("udp a {ANY}"));
    let send = format!("send a {}", vip(false));
    let (mut before, _) = client.reach(&send);
    // All candidates are the others; the one before is no backend any more.
    for _ in 0..6 {
        let gone = index(&before);
        let rest: Vec<u32> = (0..3).filter(|it| *it != gone as u32).collect();
        let slots = cluster.slots(&rest);
        cluster.frontend(17, vip(false), simple(1, slots));
        // It serves what it has while it is alive.
        assert_eq!(client.reach(&send), (before.clone(), vip(false).to_string()));
        let none = Backend { address: [0; 16], port: 0, flags: 0, service: 0 };
        tables.put_backends(&[(gone as u32, none)]).unwrap();
        let (name, from) = client.reach(&send);
        assert_ne!(name, before);
        assert_eq!(from, vip(false).to_string());
        assert_eq!(client.reach(&send), (name.clone(), from), "and stays there");
        tables.put_backends(&[entries[gone]]).unwrap();
        before = name;
    }
    // Its place goes to another of the same service: a socket that never heard of that takes it for the service, too.
    let place = index(&before);
    let slots = cluster.slots(&[place as u32]);
    cluster.frontend(17, vip(false), simple(1, slots));
    client.tell(&format!("udp b {ANY}"));
    let send = format!("send b {}", vip(false));
    assert_eq!(index(&client.reach(&send).0), place);
    let other = (place + 1) % 3;
    tables.put_backends(&[(place as u32, backend(1, backends(false)[other]))]).unwrap();
    let (name, from) = client.reach(&send);
    assert_eq!((index(&name), from), (other, vip(false).to_string()));
}

#[test]
fn who_goes_to_a_backend_by_itself_sees_it() {
    let (mut cluster, group) = lab("itself", false);
    let at = SocketAddr::new(pod(false, 1), 8080);
    cluster.service(1, &vip(false).to_string(), &[at]);
    let mut client = Client::new(&group, &cluster.ns("p0"));
    client.tell(&format!("udp a {ANY}"));
    assert_eq!(client.tell(&format!("connect a {}", vip(false))), format!("peer {}", vip(false)));
    assert_eq!(client.reach("send a").1, vip(false).to_string());
    assert_eq!(client.tell(&format!("connect a {at}")), format!("peer {at}"));
    assert_eq!(client.reach("send a").1, at.to_string());
    // Nor is it destroyed when that is gone.
    let tables = cluster.datapath.services();
    let destroyed = within(&cluster.ns("p0"), move || tables.destroy_sockets(17, at).unwrap());
    assert_eq!(destroyed, 0);
    assert_eq!(client.reach("send a").1, at.to_string());
}

#[test]
fn a_namespace_keeps_its_backend() {
    let (mut cluster, group) = lab("affine", false);
    let slots = cluster.backends(1, &backends(false));
    let frontend = datapath_abi::service::Frontend { affinity: 60, ..simple(1, slots) };
    for protocol in [6, 17] {
        cluster.frontend(protocol, vip(false), frontend);
    }
    let mut served = Vec::new();
    for role in ["p0", "node"] {
        let mut client = Client::new(&group, &cluster.ns(role));
        let (first, _) = client.reach(&format!("tcp a {}", vip(false)));
        for _ in 0..10 {
            assert_eq!(client.reach(&format!("tcp a {}", vip(false))).0, first);
            client.tell(&format!("udp a {ANY}"));
            assert_eq!(client.reach(&format!("send a {}", vip(false))).0, first);
        }
        served.push(first);
    }
    let mut clients = 0;
    cluster.datapath.services().affinity(&mut |_, _| clients += 1).unwrap();
    assert_eq!(clients, 2, "one a namespace: {served:?}");
}

#[test]
fn node_ports_are_services_too() {
    let (mut cluster, group) = lab("nodeport", false);
    let ports = ["192.168.77.10:30080", "[fd77::10]:30080"];
    for (number, at) in (1..).zip(ports) {
        cluster.service(number, at, &[SocketAddr::new(remote(number == 2), 8080)]);
    }
    for role in ["p0", "node"] {
        let mut client = Client::new(&group, &cluster.ns(role));
        for at in ports {
            assert_eq!(client.reach(&format!("tcp a {at}")), ("other".to_owned(), at.to_owned()));
        }
    }
    assert_eq!(cluster.counters().sockets, 4);
}

#[test]
fn without_a_backend_clients_are_refused() {
    let (mut cluster, group) = lab("nobody", false);
    let none = cluster.slots(&[]);
    for (number, flags) in [(0, 0), (1, SILENT)] {
        let frontend = datapath_abi::service::Frontend { flags, ..simple(1, none) };
        let at = SocketAddr::new(vip(false).ip(), 80 + number);
        for protocol in [6, 17] {
            cluster.frontend(protocol, at, frontend);
        }
        let mut client = Client::new(&group, &cluster.ns("p0"));
        let refused = client.tell(&format!("tcp a {at}"));
        // Before 5.18 a program cannot say why.
        assert!(["ConnectionRefused", "PermissionDenied"].contains(&&*refused), "{refused}");
        client.tell(&format!("udp a {ANY}"));
        assert_eq!(client.tell(&format!("connect a {at}")), refused);
        assert_eq!(client.tell(&format!("send a {at}")), refused);
    }
    assert_eq!(cluster.counters().no_backend, 6);
    assert_eq!(cluster.counters().sockets, 0);
}

#[test]
fn sockets_of_a_backend_that_is_gone_are_destroyed() {
    let (mut cluster, group) = lab("gone", false);
    let tables = cluster.datapath.services();
    for v6 in [false, true] {
        let [first, second, _] = backends(v6);
        let number = 1 + u32::from(v6);
        cluster.service(number, &vip(v6).to_string(), &[first]);
        let mut client = Client::new(&group, &cluster.ns("p0"));
        let any = if v6 { "[::]:0" } else { ANY };
        client.tell(&format!("udp a {any}"));
        client.tell(&format!("connect a {}", vip(v6)));
        assert_eq!(client.reach("send a").0, "p1");
        assert_eq!(client.reach(&format!("tcp a {}", vip(v6))).0, "p1");
        // This one went there by itself.
        assert_eq!(client.reach(&format!("tcp b {first}")).0, "p1");
        cluster.service(number, &vip(v6).to_string(), &[second]);
        for protocol in [6, 17] {
            let tables = tables.clone();
            let destroy = move || tables.destroy_sockets(protocol, first).unwrap();
            assert_eq!(within(&cluster.ns("p0"), destroy), 1);
        }
        assert_eq!(client.tell("read a"), "ConnectionAborted");
        assert_eq!(client.tell("read b"), "WouldBlock");
        // EDESTADDRREQ: it is connected to nobody.
        assert_eq!(client.tell("send a"), "Uncategorized");
        // Asked again, the service has another.
        client.tell(&format!("udp a {any}"));
        client.tell(&format!("connect a {}", vip(v6)));
        assert_eq!(client.reach("send a"), ("p2".to_owned(), vip(v6).to_string()));
        assert_eq!(client.reach(&format!("tcp a {}", vip(v6))).0, "p2");
    }
}
