//! Bytes as documents: an error or a policy, never a panic, within the limits of time and memory that
//! libFuzzer watches.
#![no_main]

use datapath_policy::{CidrGroup, parse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let _ = CidrGroup::parse(text);
    if let Ok(policy) = parse(text) {
        // What was accepted is accepted again, and means the same.
        let again = parse(&policy.text).expect("parsed before");
        assert_eq!(again, policy);
    }
});
