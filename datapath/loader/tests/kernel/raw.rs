//! Frames as they are, by a packet socket.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use crate::kernel::lab::within;

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
