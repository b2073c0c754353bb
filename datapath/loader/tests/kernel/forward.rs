//! Established connections to services leave without the stack, which decides about them first.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use datapath_abi::service::{Backend, FROM_POD, Served};

use crate::kernel::cluster::{Cluster, backend, pod, remote, simple};
use crate::kernel::lab::{ip, within};

/// How often a client asks.
const TIMES: u64 = 200;
/// Longer than what was looked up is used, whatever the kernel's tick.
const OLD: Duration = Duration::from_secs(3);

fn vip(v6: bool) -> SocketAddr {
    if v6 { "[fd96::1]:53" } else { "10.96.0.1:53" }.parse().unwrap()
}

/// A cluster with one service, whose backend is on the other node and says how many hops a datagram had left.
fn serve(name: &str) -> Cluster {
    let mut cluster = Cluster::new(name);
    for v6 in [false, true] {
        let backend = SocketAddr::new(remote(v6), 8053);
        let socket = within(&cluster.ns("other"), move || UdpSocket::bind(backend).unwrap());
        std::thread::spawn(move || {
            while let Ok((left, from)) = receive(&socket) {
                let _ = socket.send_to(&[left], from);
            }
        });
        cluster.service(1 + u32::from(v6), &vip(v6).to_string(), &[backend]);
    }
    cluster
}

/// A socket of pod 0 to the service.
fn client(cluster: &Cluster, v6: bool) -> UdpSocket {
    within(&cluster.ns("p0"), move || {
        let socket = UdpSocket::bind(if v6 { "[::]:0" } else { "0.0.0.0:0" }).unwrap();
        socket.connect(vip(v6)).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        // Errors that may pass are told too.
        let (level, option) = if v6 {
            (libc::IPPROTO_IPV6, libc::IPV6_RECVERR)
        } else {
            (libc::IPPROTO_IP, libc::IP_RECVERR)
        };
        set(&socket, level, option, 1);
        socket
    })
}

/// Hops that a datagram of `bytes` had left where it arrived.
fn ask(socket: &UdpSocket, bytes: usize) -> io::Result<u8> {
    socket.send(&vec![1; bytes])?;
    let mut left = [0];
    socket.recv(&mut left)?;
    Ok(left[0])
}

fn set(socket: &UdpSocket, level: i32, option: i32, value: i32) {
    let value = (&raw const value).cast();
    // SAFETY: the option's value is a number.
    assert_eq!(unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, value, 4) }, 0);
}

/// Receives a datagram, and its time to live or hop limit.
fn receive(socket: &UdpSocket) -> io::Result<(u8, SocketAddr)> {
    let is_v6 = socket.local_addr()?.is_ipv6();
    let (level, option) = if is_v6 {
        (libc::IPPROTO_IPV6, libc::IPV6_RECVHOPLIMIT)
    } else {
        (libc::IPPROTO_IP, libc::IP_RECVTTL)
    };
    set(socket, level, option, 1);
    let fd = socket.as_raw_fd();
    let mut data = [0u8; 65536];
    let mut control = [0u64; 16];
    // SAFETY: zero is a value of both; the buffers live as long as the call.
    let (length, header, from) = unsafe {
        let mut from: libc::sockaddr_storage = std::mem::zeroed();
        let mut header: libc::msghdr = std::mem::zeroed();
        let mut part = libc::iovec { iov_base: data.as_mut_ptr().cast(), iov_len: data.len() };
        header.msg_name = (&raw mut from).cast();
        header.msg_namelen = size_of_val(&from) as u32;
        (header.msg_iov, header.msg_iovlen) = (&raw mut part, 1);
        header.msg_control = control.as_mut_ptr().cast();
        header.msg_controllen = size_of_val(&control);
        (libc::recvmsg(fd, &raw mut header, 0), header, from)
    };
    if length < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has filled the buffer with one message, a number.
    let left = unsafe { *libc::CMSG_DATA(libc::CMSG_FIRSTHDR(&raw const header)).cast::<i32>() };
    Ok((left as u8, address(&from)))
}

fn address(from: &libc::sockaddr_storage) -> SocketAddr {
    // SAFETY: each is what the family says.
    unsafe {
        if i32::from(from.ss_family) == libc::AF_INET {
            let from = &*(&raw const *from).cast::<libc::sockaddr_in>();
            SocketAddr::from((from.sin_addr.s_addr.to_ne_bytes(), u16::from_be(from.sin_port)))
        } else {
            let from = &*(&raw const *from).cast::<libc::sockaddr_in6>();
            SocketAddr::from((from.sin6_addr.s6_addr, u16::from_be(from.sin6_port)))
        }
    }
}

/// Packets that the node's stack has forwarded.
fn forwarded(cluster: &Cluster, v6: bool) -> u64 {
    let (file, name) =
        if v6 { ("snmp6", "Ip6OutForwDatagrams") } else { ("snmp", "ForwDatagrams") };
    let node = cluster.ns("node");
    let output = ip(&["netns", "exec", &node, "cat", &format!("/proc/net/{file}")]);
    let text = String::from_utf8(output.stdout).unwrap();
    let mut lines = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    if v6 {
        let found = lines.find(|words| words.first() == Some(&name)).unwrap();
        return found[1].parse().unwrap();
    }
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let at = names.iter().position(|word| *word == name).unwrap();
    values[at].parse().unwrap()
}

#[test]
fn established_connections_pass_the_stack_by() {
    let cluster = serve("fwd");
    for v6 in [false, true] {
        let socket = client(&cluster, v6);
        for direct in [true, false] {
            if !direct {
                let pods: Vec<_> = cluster.datapath.attached();
                let pod0 = pods.iter().find(|attached| attached.name == "pod0").unwrap();
                let none = Served { flags: FROM_POD, pad: 0, v4: [0; 16], v6: [0; 16] };
                cluster.datapath.services().put_served(&[(pod0.ifindex, none)]).unwrap();
                std::thread::sleep(OLD);
            }
            for _ in 0..4 {
                assert_eq!(ask(&socket, 10).unwrap(), 63);
            }
            let before = forwarded(&cluster, v6);
            for _ in 0..TIMES {
                assert_eq!(ask(&socket, 1000).unwrap(), 63, "one router is one hop");
            }
            let went = forwarded(&cluster, v6) - before;
            // The answers go by the stack, and so does a question now and then.
            let expected = if direct { TIMES..TIMES + TIMES / 4 } else { 2 * TIMES..3 * TIMES };
            assert!(expected.contains(&went), "v6 {v6}, direct {direct}: {went} of {TIMES}");
        }
        // For the other family.
        let pods = cluster.datapath.attached();
        let pod0 = pods.iter().find(|attached| attached.name == "pod0").unwrap();
        let flags = FROM_POD | datapath_abi::service::DIRECT;
        let again = Served { flags, pad: 0, v4: [0; 16], v6: [0; 16] };
        cluster.datapath.services().put_served(&[(pod0.ifindex, again)]).unwrap();
    }
}

#[test]
fn what_only_the_stack_can_do_it_does() {
    let cluster = serve("fwds");
    let node = cluster.ns("node");
    ip(&["-n", &node, "link", "set", "up1", "mtu", "1300"]);
    for v6 in [false, true] {
        let socket = client(&cluster, v6);
        for _ in 0..5 {
            assert_eq!(ask(&socket, 100).unwrap(), 63);
        }
        // Too large for the way on: the sender is told (by the stack), and sends smaller ones.
        let mut told = false;
        for _ in 0..5 {
            told |= ask(&socket, 1340).is_err();
        }
        assert!(told, "v6 {v6}: nobody said that it is too large");
        assert_eq!(ask(&socket, 1200).unwrap(), 63);
        // No hop left: the sender is told as well.
        let at = |left| {
            let (level, option) = if v6 {
                (libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS)
            } else {
                (libc::IPPROTO_IP, libc::IP_TTL)
            };
            set(&socket, level, option, left);
            ask(&socket, 100)
        };
        assert_eq!(at(2).unwrap(), 1);
        let error = at(1).unwrap_err();
        assert!(
            matches!(error.raw_os_error(), Some(libc::EHOSTUNREACH | libc::EACCES)),
            "v6 {v6}: {error}"
        );
        assert_eq!(at(64).unwrap(), 63);
    }
}

#[test]
fn routes_that_change_are_followed() {
    let cluster = serve("fwdr");
    let (node, route) = (cluster.ns("node"), "10.244.2.0/24");
    let socket = client(&cluster, false);
    for _ in 0..5 {
        ask(&socket, 100).unwrap();
    }
    ip(&["-n", &node, "route", "replace", "blackhole", route]);
    let start = Instant::now();
    while ask(&socket, 100).is_ok() {
        assert!(start.elapsed() < OLD, "packets still take the old way");
        std::thread::sleep(Duration::from_millis(20));
    }
    ip(&["-n", &node, "route", "replace", route, "via", "192.168.78.11"]);
    let start = Instant::now();
    while ask(&socket, 100).is_err() {
        assert!(start.elapsed() < OLD, "packets do not take the new way");
    }
    // The neighbour gets another address and says so.
    let other = cluster.ns("other");
    ip(&["netns", "exec", &other, "sysctl", "-qw", "net.ipv4.conf.eth0.arp_notify=1"]);
    ip(&["-n", &other, "link", "set", "eth0", "address", "02:00:00:00:77:78"]);
    let start = Instant::now();
    while ask(&socket, 100).is_err() {
        assert!(start.elapsed() < 4 * OLD, "packets go to the neighbour's old address");
    }
}

#[test]
fn what_the_stack_does_not_let_through_has_no_short_way() {
    let cluster = serve("fwdn");
    let node = cluster.ns("node");
    let rules = "add table inet t; add chain inet t f { type filter hook forward priority 0; }; \
        add rule inet t f udp dport 8053 drop";
    ip(&["netns", "exec", &node, "nft", rules]);
    let socket = client(&cluster, false);
    socket.set_read_timeout(Some(Duration::from_millis(5))).unwrap();
    for _ in 0..50 {
        assert!(ask(&socket, 10).is_err());
    }
    ip(&["netns", "exec", &node, "nft", "flush", "ruleset"]);
    socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    assert_eq!(ask(&socket, 10).unwrap(), 63);
}

#[test]
fn another_backend_is_another_way() {
    let mut cluster = serve("fwdb");
    let near = SocketAddr::new(pod(false, 1), 8053);
    let socket = within(&cluster.ns("p1"), move || UdpSocket::bind(near).unwrap());
    std::thread::spawn(move || {
        while let Ok((left, from)) = receive(&socket) {
            let _ = socket.send_to(&[left, b'n'], from);
        }
    });
    let socket = client(&cluster, false);
    for _ in 0..5 {
        assert_eq!(ask(&socket, 100).unwrap(), 63);
    }
    // The first backend is gone: datagrams go to the other one, at once, and not the way that led to the first.
    let slots = cluster.backends(1, &[near]);
    cluster.frontend(17, vip(false), simple(1, slots));
    let gone = backend(0, "0.0.0.0:0".parse().unwrap());
    cluster.datapath.services().put_backends(&[(0, Backend { flags: 0, ..gone })]).unwrap();
    for _ in 0..20 {
        socket.send(&[1; 100]).unwrap();
        let mut answer = [0; 2];
        assert_eq!(socket.recv(&mut answer).unwrap(), 2, "not the backend that serves now");
        assert_eq!(answer, [63, b'n']);
    }
}
