//! Drops that are not policy: the kernel's reason and function are told, and `weir why` says what they mean.

use std::net::{Ipv4Addr, SocketAddrV4, TcpStream, UdpSocket};
use std::process::Command;
use std::time::Duration;

use harness::weir::Binaries;
use harness::{Netns, serial, wait_until};
use rustix::net::{AddressFamily, SendFlags, SocketType, ipproto, socket};

use crate::attribution::Lab;
use crate::fixture::{ENDS, end};

/// A spoofed address that nothing routes to.
const SPOOFED: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
/// An address that the node has no way to.
const NOWHERE: Ipv4Addr = Ipv4Addr::new(172, 31, 0, 1);

/// Lets something be dropped.
struct Way {
    /// The kernel's reason.
    reason: &'static str,
    from: Ipv4Addr,
    to: Ipv4Addr,
    port: u16,
    /// A part of the sentence that explains it.
    help: &'static str,
    drop: Box<dyn Fn()>,
}

fn address(name: &str) -> Ipv4Addr {
    ENDS[end(name)].1
}

fn send(netns: &Netns, from: Ipv4Addr, to: (Ipv4Addr, u16), times: usize) {
    let sent = netns.run(|| {
        let socket = UdpSocket::bind((from, 0)).unwrap();
        (0..times).for_each(|_| drop(socket.send_to(&[7; 1000], to)));
    });
    sent.unwrap();
}

/// A UDP datagram to port 80 with a wrong checksum.
fn damaged(netns: &Netns, from: Ipv4Addr, to: Ipv4Addr) {
    let sent = netns.run(|| {
        let socket = socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::UDP)).unwrap();
        rustix::net::bind(&socket, &SocketAddrV4::new(from, 0)).unwrap();
        let datagram = [0x30, 0x39, 0, 80, 0, 12, 0xde, 0xad, 1, 2, 3, 4];
        let whom = SocketAddrV4::new(to, 0);
        rustix::net::sendto(&socket, &datagram, SendFlags::empty(), &whom).unwrap();
    });
    sent.unwrap();
}

#[test]
fn kernel_drops_name_their_reason() {
    let _turn = serial();
    let lab = Lab::start("pdrops", &[]);
    let netns = |name: &str| Netns::existing(lab.fixture.netns(end(name)).name());
    let node = netns("node");
    let nft = "table inet t { chain forward { type filter hook forward priority 0; tcp dport 7777 drop; }; };";
    node.nft(nft).unwrap();
    node.ip(&format!("route add unreachable {NOWHERE}/32")).unwrap();
    // Strict reverse path on all interfaces, and an address in a pod that has no way back.
    node.sysctl("net/ipv4/conf/all/rp_filter", "1").unwrap();
    netns("x/c").ip(&format!("addr add {SPOOFED}/32 dev lo")).unwrap();
    // A socket that nobody reads, and one whose queue is short.
    let silent = netns("y/a").run(|| UdpSocket::bind((address("y/a"), 5555)).unwrap()).unwrap();
    rustix::net::sockopt::set_socket_recv_buffer_size(&silent, 2048).unwrap();

    let ways = [
        Way {
            reason: "NO_SOCKET",
            from: address("x/a"),
            to: address("x/b"),
            port: 9999,
            help: "Nobody listens",
            drop: {
                let netns = netns("x/a");
                Box::new(move || {
                    drop(netns.run(|| connect(address("x/a"), (address("x/b"), 9999))))
                })
            },
        },
        Way {
            reason: "NETFILTER_DROP",
            from: address("x/a"),
            to: address("x/c"),
            port: 7777,
            help: "nft list ruleset",
            drop: {
                let netns = netns("x/a");
                Box::new(move || {
                    drop(netns.run(|| connect(address("x/a"), (address("x/c"), 7777))))
                })
            },
        },
        Way {
            // In `ip_error`: the function says what the reason does not.
            reason: "NOT_SPECIFIED",
            from: address("x/a"),
            to: NOWHERE,
            port: 53,
            help: "no route",
            drop: {
                let netns = netns("x/a");
                Box::new(move || send(&netns, address("x/a"), (NOWHERE, 53), 1))
            },
        },
        Way {
            reason: "IP_RPFILTER",
            from: SPOOFED,
            to: address("x/b"),
            port: 80,
            help: "Reverse path",
            drop: {
                let netns = netns("x/c");
                Box::new(move || {
                    // ARP would be asked for with the spoofed address, and not be answered.
                    send(&netns, address("x/c"), (address("x/b"), 80), 1);
                    std::thread::sleep(Duration::from_millis(50));
                    send(&netns, SPOOFED, (address("x/b"), 80), 1);
                })
            },
        },
        Way {
            reason: "UDP_CSUM",
            from: address("x/a"),
            to: address("y/b"),
            port: 80,
            help: "checksum",
            drop: {
                let netns = netns("x/a");
                Box::new(move || damaged(&netns, address("x/a"), address("y/b")))
            },
        },
        Way {
            reason: "SOCKET_RCVBUFF",
            from: address("x/a"),
            to: address("y/a"),
            port: 5555,
            help: "buffer is full",
            drop: {
                let netns = netns("x/a");
                Box::new(move || send(&netns, address("x/a"), (address("y/a"), 5555), 50))
            },
        },
    ];
    for way in &ways {
        let Way { reason, from, to, port, help, drop } = way;
        let query = format!(
            "SELECT drop_location FROM drops WHERE kernel_reason = '{reason}' AND source_ip = '{from}' \
             AND destination_ip = '{to}' AND destination_port = {port} AND drop_location <> '' LIMIT 1"
        );
        wait_until(&format!("{reason} is told"), Duration::from_secs(20), || {
            drop();
            lab.relay.sql().query(&query).is_ok_and(|found| !found.rows.is_empty())
        })
        .unwrap_or_else(|error| {
            let all = "SELECT kernel_reason, drop_location, source_ip, destination_ip, destination_port, \
                       sum(packets) FROM drops GROUP BY 1, 2, 3, 4, 5";
            panic!("{error}: {:?}", lab.relay.sql().query(all))
        });
        let said = why(&lab, *from, *to, *port);
        assert!(said.contains(reason) && said.contains(help), "{reason}: {help}: {said}");
    }
}

fn connect(from: Ipv4Addr, to: (Ipv4Addr, u16)) -> std::io::Result<TcpStream> {
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None)?;
    rustix::net::bind(&socket, &SocketAddrV4::new(from, 0))?;
    rustix::net::sockopt::set_socket_timeout(
        &socket,
        rustix::net::sockopt::Timeout::Send,
        Some(Duration::from_millis(200)),
    )?;
    rustix::net::connect(&socket, &SocketAddrV4::new(to.0, to.1))?;
    Ok(socket.into())
}

fn why(lab: &Lab, from: Ipv4Addr, to: Ipv4Addr, port: u16) -> String {
    let output = Command::new(Binaries::beside_this().unwrap().path("weir").unwrap())
        .args(["why", &from.to_string(), &format!("{to}:{port}")])
        .env("WEIR_AGENT_SOCKET", lab.agent.local_socket())
        .env("WEIR_SERVER", format!("http://{}", lab.relay.address))
        .output()
        .unwrap();
    String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
}
