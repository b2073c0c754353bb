//! Questions to the kernel over netlink(7), and its answers.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// Flags of a request.
pub(crate) const REQUEST: u16 = 1;
/// See [`REQUEST`].
pub(crate) const ACK: u16 = 4;
/// See [`REQUEST`].
pub(crate) const DUMP: u16 = 0x300;

/// Length of `struct nlmsghdr`.
pub(crate) const HEADER: usize = 16;

const ERROR: u16 = 2;
const DONE: u16 = 3;

/// Sends a request to a netlink protocol, in this thread's network namespace, and collects the answers up to the
/// acknowledgement or the end of the dump.
pub(crate) fn exchange(protocol: libc::c_int, request: &[u8]) -> io::Result<Vec<Vec<u8>>> {
    let socket = open(protocol)?;
    // SAFETY: the kernel reads the request.
    let sent = unsafe {
        libc::send(socket.as_raw_fd(), request.as_ptr().cast(), request.len(), libc::MSG_NOSIGNAL)
    };
    if sent < 0 {
        return Err(io::Error::last_os_error());
    }
    let mut answers = Vec::new();
    let mut buffer = vec![0u8; 1 << 16];
    loop {
        // SAFETY: the kernel writes at most the buffer's length.
        let received =
            unsafe { libc::recv(socket.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) };
        if received < 0 {
            return Err(io::Error::last_os_error());
        }
        if take(&buffer[..received as usize], &mut answers)? {
            return Ok(answers);
        }
    }
}

/// Takes the answers from a datagram; whether the last was among them.
fn take(mut datagram: &[u8], answers: &mut Vec<Vec<u8>>) -> io::Result<bool> {
    while let (Some(length), Some(kind)) = (field::<4>(datagram, 0), field::<2>(datagram, 4)) {
        let length = u32::from_ne_bytes(length) as usize;
        match u16::from_ne_bytes(kind) {
            // Both carry a code: a dump that fails says so at its end.
            kind @ (DONE | ERROR) => {
                let code = field(datagram, HEADER).map_or(0, i32::from_ne_bytes);
                return match code {
                    code if code < 0 => Err(io::Error::from_raw_os_error(-code)),
                    _ => Ok(kind == DONE || code == 0),
                };
            }
            _ => answers.push(datagram.get(..length).unwrap_or_default().to_vec()),
        }
        if length < HEADER {
            break;
        }
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

/// Bytes of a message, if it is that long.
pub(crate) fn field<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

fn open(protocol: libc::c_int) -> io::Result<OwnedFd> {
    // SAFETY: opens a descriptor.
    let socket =
        unsafe { libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, protocol) };
    if socket < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    let timeout = libc::timeval { tv_sec: 5, tv_usec: 0 };
    // SAFETY: the kernel reads one timeval.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVTIMEO,
            (&raw const timeout).cast(),
            size_of::<libc::timeval>() as u32,
        )
    };
    if set != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, body: &[u8]) -> Vec<u8> {
        let mut bytes = ((HEADER + body.len()) as u32).to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.resize(HEADER, 0);
        bytes.extend(body);
        bytes
    }

    #[test]
    fn ends_and_errors() {
        let mut answers = Vec::new();
        let code = |kind, code: i32| message(kind, &code.to_ne_bytes());
        let all = [message(20, b"one."), message(20, b"two."), code(DONE, 0)].concat();
        assert!(take(&all, &mut answers).unwrap());
        assert_eq!(answers, [message(20, b"one."), message(20, b"two.")]);
        assert!(!take(&message(20, b"more"), &mut answers).unwrap());
        assert!(take(&code(ERROR, 0), &mut answers).unwrap());
        for kind in [DONE, ERROR] {
            let error = take(&code(kind, -libc::ENOENT), &mut answers).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
        }
    }
}
