//! Frames as they are, by a packet socket.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use crate::kernel::lab::{ip, within};

/// Sends frames out of `veth0` of a namespace, past everything but the egress hook.
pub(crate) fn send(namespace: &str, frames: Vec<Vec<u8>>) {
    within(namespace, move || {
        let socket = open();
        for frame in frames {
            // SAFETY: reads the frame.
            let sent =
                unsafe { libc::send(socket.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
            let error = std::io::Error::last_os_error();
            // What an egress hook refuses, it is told of.
            let refused = sent < 0 && error.raw_os_error() == Some(libc::ENOBUFS);
            assert!(sent == frame.len() as isize || refused, "{error}");
        }
    });
    // They are received by the time that the queue of the other side has been emptied.
    std::thread::sleep(std::time::Duration::from_millis(100));
}

fn open() -> OwnedFd {
    // SAFETY: the descriptor is new and nobody else's; the address is a whole one.
    unsafe {
        let socket = libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0);
        assert!(socket >= 0, "{}", std::io::Error::last_os_error());
        let socket = OwnedFd::from_raw_fd(socket);
        let mut address: libc::sockaddr_ll = std::mem::zeroed();
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_ifindex = libc::if_nametoindex(c"veth0".as_ptr()) as i32;
        let length = size_of_val(&address) as u32;
        let bound = libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length);
        assert_eq!(bound, 0, "{}", std::io::Error::last_os_error());
        socket
    }
}

/// An Ethernet header before a packet, from `veth0` of one namespace to that of the other.
pub(crate) fn frame(from: &str, to: &str) -> impl Fn(&[u8]) -> Vec<u8> + use<> {
    let (from, to) = (hardware(from), hardware(to));
    move |packet| {
        let kind: [u8; 2] = if packet[0] >> 4 == 6 { [0x86, 0xdd] } else { [8, 0] };
        [&to[..], &from, &kind, packet].concat()
    }
}

/// An IPv4 packet; `part`: fragment flags and offset, as they stand in the header.
pub(crate) fn ipv4(protocol: u8, ends: [[u8; 4]; 2], part: (u16, u16), rest: &[u8]) -> Vec<u8> {
    let [a, b] = (rest.len() as u16 + 20).to_be_bytes();
    let ([c, d], [e, f]) = (part.0.to_be_bytes(), part.1.to_be_bytes());
    let mut header = vec![0x45, 0, a, b, c, d, e, f, 64, protocol, 0, 0];
    header.extend(ends.concat());
    let words = header.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1]));
    let sum: u32 = words.sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    let checksum = !((sum & 0xffff) + (sum >> 16)) as u16;
    header[10..12].copy_from_slice(&checksum.to_be_bytes());
    header.extend(rest);
    header
}

/// A SYN without a checksum: good for hooks, not for a socket.
pub(crate) fn syn(source: u16, destination: u16) -> Vec<u8> {
    let mut header = [source.to_be_bytes(), destination.to_be_bytes()].concat();
    header.extend([0, 0, 0, 1, 0, 0, 0, 0, 5 << 4, 2, 0xff, 0xff, 0, 0, 0, 0]);
    header
}

/// A UDP header, without a checksum, of a datagram with so many bytes of data.
pub(crate) fn udp(source: u16, destination: u16, data: u16) -> Vec<u8> {
    let length = (data + 8).to_be_bytes();
    [source.to_be_bytes(), destination.to_be_bytes(), length, [0, 0]].concat()
}

/// Address of `veth0` of a namespace.
pub(crate) fn hardware(namespace: &str) -> Vec<u8> {
    let output = ip(&["-n", namespace, "-j", "link", "show", "dev", "veth0"]);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let text = json[0]["address"].as_str().unwrap();
    text.split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect()
}
