//! Sockets that connect, or send, to a service: they do so to a backend at once, and no packet of theirs is translated.
//!
//! These programs run where a process may be interrupted by another on the same CPU, so nothing is put together in a
//! per-CPU map.

use core::hint::black_box;

use aya_ebpf::Global;
use aya_ebpf::bindings::bpf_sock_addr;
use aya_ebpf::helpers::generated::{
    bpf_get_netns_cookie, bpf_get_prandom_u32, bpf_get_socket_cookie, bpf_ktime_get_ns,
    bpf_set_retval,
};
use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use datapath_abi::service::{ALIVE, Asked, FrontendKey, INTERNAL, ReplyKey};
use datapath_engine::Services;
use datapath_engine::cells::Counter;
use datapath_engine::parse::{TCP, UDP};
use datapath_engine::service::{Choice, choose};

use crate::cells::Word;
use crate::service::{ASKED, COUNTERS, SOCKET_REPLIES};

/// Cookie of the one network namespace whose sockets are balanced; 0 for all.
#[unsafe(no_mangle)]
static NETNS: Global<u64> = Global::new(0);
/// Whether a program can say why it refuses (`bpf_set_retval`, Linux 5.18); else it is `EPERM`.
#[unsafe(no_mangle)]
static HAS_RETVAL: Global<u8> = Global::new(0);

const ECONNREFUSED: i32 = 111;

/// What these programs answer.
const ALLOW: i32 = 1;
const REFUSE: i32 = 0;

/// A system call of a socket, with the address that it is about.
#[derive(Clone, Copy)]
pub(crate) struct Call(*mut bpf_sock_addr);

/// The other side. Aligned, for it lies on the stack.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Peer {
    address: [u8; 16],
    port: u16,
}

/// connect(2), IPv4.
#[cgroup_sock_addr(connect4)]
pub fn connect4(ctx: SockAddrContext) -> i32 {
    balance(Call(ctx.sock_addr), false, false)
}

/// connect(2), IPv6.
#[cgroup_sock_addr(connect6)]
pub fn connect6(ctx: SockAddrContext) -> i32 {
    balance(Call(ctx.sock_addr), true, false)
}

/// sendmsg(2) of a datagram with an address, IPv4.
#[cgroup_sock_addr(sendmsg4)]
pub fn sendmsg4(ctx: SockAddrContext) -> i32 {
    balance(Call(ctx.sock_addr), false, true)
}

/// sendmsg(2) of a datagram with an address, IPv6.
#[cgroup_sock_addr(sendmsg6)]
pub fn sendmsg6(ctx: SockAddrContext) -> i32 {
    balance(Call(ctx.sock_addr), true, true)
}

/// recvmsg(2), IPv4: the sender is whom was asked.
#[cgroup_sock_addr(recvmsg4)]
pub fn recvmsg4(ctx: SockAddrContext) -> i32 {
    conceal(Call(ctx.sock_addr), false)
}

/// recvmsg(2), IPv6.
#[cgroup_sock_addr(recvmsg6)]
pub fn recvmsg6(ctx: SockAddrContext) -> i32 {
    conceal(Call(ctx.sock_addr), true)
}

/// getpeername(2), IPv4.
#[cgroup_sock_addr(getpeername4)]
pub fn getpeername4(ctx: SockAddrContext) -> i32 {
    conceal(Call(ctx.sock_addr), false)
}

/// getpeername(2), IPv6.
#[cgroup_sock_addr(getpeername6)]
pub fn getpeername6(ctx: SockAddrContext) -> i32 {
    conceal(Call(ctx.sock_addr), true)
}

/// Sends the call to a backend if it is to a service; `again`: to the one before, if there is one.
#[inline(always)]
fn balance(call: Call, v6: bool, again: bool) -> i32 {
    let namespace = call.namespace();
    let only = NETNS.load();
    if only != 0 && only != namespace {
        return ALLOW;
    }
    let Some(protocol) = call.protocol() else {
        return ALLOW;
    };
    let peer = call.peer(v6);
    if peer.port == 0 {
        // Nobody is sent to: resolvers ask so which source an address would have (RFC 6724).
        return ALLOW;
    }
    let cookie = call.cookie();
    let mut backend = peer;
    if again && known(call, cookie, &mut backend) {
        call.set_peer(v6, &backend);
        return ALLOW;
    }
    let mut choice = Choice::NONE;
    choice.frontend =
        FrontendKey { address: peer.address, port: peer.port, protocol, pad: 0, pad2: 0 };
    let [a, b, c, d, e, f, g, h] = namespace.to_ne_bytes();
    choice.client = [a, b, c, d, e, f, g, h, 0, 0, 0, 0, 0, 0, 0, 0];
    // SAFETY: no arguments.
    (choice.client_port, choice.now_ns) = unsafe { (bpf_get_prandom_u32(), bpf_ktime_get_ns()) };
    choice.scope = INTERNAL as u32;
    if !choose(&call, &mut choice) {
        if !again {
            black_box(forget(cookie, &peer));
        }
        return ALLOW;
    }
    if choice.refused != 0 {
        return refuse();
    }
    backend = Peer { address: choice.address, port: choice.port as u16 };
    let asked = Asked {
        address: peer.address,
        port: peer.port,
        pad: 0,
        service: choice.service,
        backend: choice.backend,
        pad2: 0,
    };
    black_box(remember(cookie, &backend, &asked));
    if again {
        black_box(keep(cookie, &asked));
    }
    call.set_peer(v6, &backend);
    ALLOW
}

/// Refuses the call, as the network would refuse a packet.
#[inline(always)]
fn refuse() -> i32 {
    if let Some(counters) = COUNTERS.get_ptr_mut(0) {
        // SAFETY: as in `remember`.
        unsafe { (*(&raw const (*counters).no_backend).cast::<Word<u64>>()).add(1) };
    }
    if HAS_RETVAL.load() != 0 {
        // SAFETY: takes a number. Where the kernel has no such helper, the verifier does not come here.
        let _ = unsafe { bpf_set_retval(-ECONNREFUSED) };
    }
    REFUSE
}

/// Puts the backend of this socket's datagrams to a service in its place, while that lives.
#[inline(never)]
fn known(call: Call, cookie: u64, peer: &mut Peer) -> bool {
    let mut key = ReplyKey { cookie, address: peer.address, port: peer.port, pad: 0, pad2: 0 };
    let Some(asked) = SOCKET_REPLIES.get_ptr(key) else {
        return false;
    };
    // SAFETY: preallocated; at worst another socket's by now, whose frontend is compared.
    let asked = unsafe { &*asked };
    let Some(backend) = call.backend(asked.backend) else {
        return false;
    };
    let same = u128::from_ne_bytes(asked.address) == u128::from_ne_bytes(peer.address)
        && asked.port == peer.port
        && backend.service == asked.service
        && backend.flags & ALIVE != 0;
    if !same {
        return false;
    }
    // The place may be another's by now: whose answers would not look like the service's.
    key.address = backend.address;
    key.port = backend.port;
    let Some(reply) = SOCKET_REPLIES.get_ptr(key) else {
        return false;
    };
    // SAFETY: as above.
    let reply = unsafe { &*reply };
    if u128::from_ne_bytes(reply.address) != u128::from_ne_bytes(asked.address)
        || reply.port != asked.port
    {
        // It serves two services that this socket asks: the last one is answered.
        let _ = SOCKET_REPLIES.insert(key, asked, 0);
    }
    peer.address = key.address;
    peer.port = key.port;
    true
}

/// Keeps the backend for the socket's next datagram to the same service: an entry by the service's address.
#[inline(never)]
fn keep(cookie: u64, asked: &Asked) -> u32 {
    let key = ReplyKey { cookie, address: asked.address, port: asked.port, pad: 0, pad2: 0 };
    let _ = SOCKET_REPLIES.insert(key, asked, 0);
    black_box(0)
}

/// The socket is connected elsewhere: what it asked before is not what it is connected to.
#[inline(never)]
fn forget(cookie: u64, peer: &Peer) -> u32 {
    if ASKED.get_ptr(cookie).is_some() {
        let key = ReplyKey { cookie, address: peer.address, port: peer.port, pad: 0, pad2: 0 };
        let _ = SOCKET_REPLIES.remove(key);
        let _ = ASKED.remove(cookie);
    }
    black_box(0)
}

/// Out of line: it needs a stack of its own. Where there is no room, the socket sees its backend's address.
#[inline(never)]
fn remember(cookie: u64, backend: &Peer, asked: &Asked) -> u32 {
    let key = ReplyKey { cookie, address: backend.address, port: backend.port, pad: 0, pad2: 0 };
    let _ = SOCKET_REPLIES.insert(key, asked, 0);
    let _ = ASKED.insert(cookie, asked, 0);
    if let Some(counters) = COUNTERS.get_ptr_mut(0) {
        // SAFETY: within the value, a u64, which the cell is too; another process may be in the middle of this.
        unsafe { (*(&raw const (*counters).sockets).cast::<Word<u64>>()).add(1) };
    }
    black_box(0)
}

/// Where the other side is a backend that the socket was sent to, it is to look like the service.
#[inline(always)]
fn conceal(call: Call, v6: bool) -> i32 {
    let Peer { address, port } = call.peer(v6);
    let key = ReplyKey { cookie: call.cookie(), address, port, pad: 0, pad2: 0 };
    // SAFETY: copied at once.
    if let Some(asked) = unsafe { SOCKET_REPLIES.get(&key).copied() } {
        call.set_peer(v6, &Peer { address: asked.address, port: asked.port });
    }
    ALLOW
}

// === impl Call ===

impl Call {
    #[inline(always)]
    fn cookie(self) -> u64 {
        // SAFETY: the context of a cgroup socket address program.
        unsafe { bpf_get_socket_cookie(self.0.cast()) }
    }

    #[inline(always)]
    fn namespace(self) -> u64 {
        // SAFETY: as above.
        unsafe { bpf_get_netns_cookie(self.0.cast()) }
    }

    #[inline(always)]
    fn protocol(self) -> Option<u8> {
        // SAFETY: as above; the verifier rewrites these loads.
        let protocol = unsafe { (&raw const (*self.0).protocol).read_volatile() } as u8;
        matches!(protocol, TCP | UDP).then_some(protocol)
    }

    #[inline(always)]
    fn peer(self, v6: bool) -> Peer {
        // SAFETY: as above. Each field is read as a whole: the verifier takes no parts of some.
        unsafe {
            let port = u16::from_be((&raw const (*self.0).user_port).read_volatile() as u16);
            let words = if v6 {
                let word = |index: usize| (&raw const (*self.0).user_ip6[index]).read_volatile();
                [word(0), word(1), word(2), word(3)]
            } else {
                let word = (&raw const (*self.0).user_ip4).read_volatile();
                [0, 0, 0xffff_0000, word]
            };
            let [a, b, c, d] = words.map(u64::from);
            let (low, high) = (a | b << 32, c | d << 32);
            let number = u128::from(low) | u128::from(high) << 64;
            Peer { address: number.to_ne_bytes(), port }
        }
    }

    #[inline(always)]
    fn set_peer(self, v6: bool, peer: &Peer) {
        let number = u128::from_ne_bytes(peer.address);
        let words =
            [number as u32, (number >> 32) as u32, (number >> 64) as u32, (number >> 96) as u32];
        // SAFETY: as above; these fields may be written.
        unsafe {
            if v6 {
                (&raw mut (*self.0).user_ip6[0]).write_volatile(words[0]);
                (&raw mut (*self.0).user_ip6[1]).write_volatile(words[1]);
                (&raw mut (*self.0).user_ip6[2]).write_volatile(words[2]);
                (&raw mut (*self.0).user_ip6[3]).write_volatile(words[3]);
            } else {
                (&raw mut (*self.0).user_ip4).write_volatile(words[3]);
            }
            (&raw mut (*self.0).user_port).write_volatile(u32::from(peer.port.to_be()));
        }
    }
}
