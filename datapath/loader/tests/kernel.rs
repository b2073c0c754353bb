//! The datapath in a real kernel, on real packets: namespaces, veth pairs, sockets.
//!
//! These tests need root and a kernel with BTF; without, they fail. Each makes namespaces and a pin
//! directory of its own (prefix `wl-`), and removes them.

mod kernel {
    pub(crate) mod lab;
    mod object;
}
