//! What the stack does with packets that routing tables do not say: then none may go past it.

use std::io;

use rustix::io::Errno;
use rustix::net::netlink::{SocketAddrNetlink, XFRM};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use super::message;
use super::netlink::Netlink;

/// `XFRM_MSG_GETPOLICY` and `XFRM_MSG_NEWPOLICY` of `linux/xfrm.h`.
const GET_POLICY: u16 = 0x15;
const NEW_POLICY: u16 = 0x13;
/// Length of `struct xfrm_userpolicy_id`.
const POLICY_ID: usize = 64;
const BUFFER: usize = 64 << 10;

impl Netlink {
    /// Why packets must go by the stack; `None` where nothing speaks against the short way.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub(crate) fn detour(&mut self) -> io::Result<Option<&'static str>> {
        if self.routes_by_mark()? {
            return Ok(Some("routing rules by fwmark (`ip rule`)"));
        }
        Ok(has_ipsec_policy()?.then_some("IPsec policies (`ip xfrm policy`)"))
    }
}

/// Whether the namespace of the thread has any.
fn has_ipsec_policy() -> io::Result<bool> {
    let kind = SocketType::RAW;
    let opened =
        rustix::net::socket_with(AddressFamily::NETLINK, kind, SocketFlags::CLOEXEC, Some(XFRM));
    let socket = match opened {
        Ok(socket) => socket,
        Err(Errno::PROTONOSUPPORT) => return Ok(false),
        Err(error) => return Err(error.into()),
    };
    rustix::net::bind(&socket, &SocketAddrNetlink::new(0, 0))?;
    let flags = message::NLM_F_REQUEST | message::NLM_F_DUMP;
    let request = message::request(GET_POLICY, flags, 1, &[0; POLICY_ID]);
    rustix::net::send(&socket, &request, SendFlags::empty())?;
    let mut buffer = vec![0; BUFFER];
    loop {
        let (_, length) = rustix::net::recv(&socket, buffer.as_mut_slice(), RecvFlags::TRUNC)?;
        let datagram = buffer.get(..length).ok_or(io::ErrorKind::InvalidData)?;
        for message in message::messages(datagram) {
            match message.kind {
                NEW_POLICY => return Ok(true),
                message::NLMSG_DONE => return Ok(false),
                message::NLMSG_ERROR => match message::errno(message.body) {
                    0 => return Ok(false),
                    code => return Err(io::Error::from_raw_os_error(code)),
                },
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In a namespace of its own: nothing there but the kernel's three rules, none by mark.
    #[test]
    fn a_rule_by_mark_is_a_detour() {
        let there = std::thread::spawn(|| {
            #[allow(deprecated, reason = "its danger is in sharing open files, which stay shared")]
            let left = rustix::thread::unshare(rustix::thread::UnshareFlags::NEWNET);
            left.expect("needs root");
            let mut netlink = Netlink::open().unwrap();
            assert_eq!(netlink.detour().unwrap(), None);
            let run = |line: &str| {
                let status = std::process::Command::new("ip").args(line.split(' ')).status();
                assert!(status.unwrap().success(), "ip {line}");
            };
            run("rule add from 10.9.8.0/24 lookup 77");
            assert_eq!(netlink.detour().unwrap(), None);
            run("-6 rule add fwmark 0x7 lookup 77");
            assert!(netlink.detour().unwrap().unwrap().contains("fwmark"));
            run("-6 rule del fwmark 0x7 lookup 77");
            assert_eq!(netlink.detour().unwrap(), None);
        });
        there.join().unwrap();
    }
}
