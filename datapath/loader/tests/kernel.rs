//! The datapath in a real kernel, on real packets: namespaces, veth pairs, sockets.
//!
//! These tests need root, iproute2, ping, iperf3, tcpdump and a kernel with BTF; without, they fail.
//! Each makes namespaces and a pin directory of its own (prefix `wl-`), which vanish with it, also when it is killed.

mod kernel {
    pub(crate) mod cluster;
    pub(crate) mod lab;
    pub(crate) mod native;
    pub(crate) mod raw;
    pub(crate) mod stage;
    pub(crate) mod tables;
    pub(crate) mod traffic;

    mod adopt;
    mod answer;
    mod balance;
    mod clients;
    mod drops;
    mod dsr;
    mod enforce;
    mod events;
    mod flood;
    mod forward;
    mod fragment;
    mod object;
    mod oracle;
    mod process;
    mod retire;
    mod services;
    mod sockets;
    mod stale;
    mod traces;
    mod xdp;
}
