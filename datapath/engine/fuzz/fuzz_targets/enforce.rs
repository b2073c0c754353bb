//! Any bytes as frames under any tables: no panic, an end, and every frame counted once, to the byte.
//! Input: a seed for the tables (8 bytes); then for each frame its length (2 bytes), a byte of circumstances, and
//! its bytes.

#![no_main]

#[path = "../../tests/engine/sim.rs"]
mod sim;
#[path = "../../tests/engine/wild.rs"]
mod wild;

use libfuzzer_sys::fuzz_target;
use wild::Wild;

fuzz_target!(|input: &[u8]| {
    let Some((seed, mut rest)) = input.split_first_chunk() else {
        return;
    };
    let mut wild = Wild::new(u64::from_le_bytes(*seed));
    wild.sim.capacity = 64;
    while let Some((&[high, low, how], after)) = rest.split_first_chunk() {
        let length = usize::from(u16::from_be_bytes([high, low])).min(after.len());
        let (frame, next) = after.split_at(length);
        rest = next;
        if length >= 14 {
            let paged = u32::from(how >> 3) * 1000;
            wild.enforce(frame, u32::from(how & 1), paged, u32::from(how >> 1 & 3));
        }
    }
    wild.balance();
});
