//! libFuzzer target for the DNS parser; the property tests of `src/names/dns.rs` run without it.
//!
//! `cargo fuzz` wants a package of its own for targets; to use it, `cargo fuzz init` in a scratch
//! folder, depend on `datapath-agent` by path, and take this file as the target.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Some(answer) = datapath_agent::fuzz::parse_dns(bytes) {
        assert!(answer.addresses.len() + answer.aliases.len() <= 64);
        assert!(!answer.name.contains(' '));
    }
});
