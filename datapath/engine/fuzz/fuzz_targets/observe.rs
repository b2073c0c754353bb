//! Any bytes as frames, one after another: no panic, and every frame counted once, to the byte.
//! Input: for each frame its length (2 bytes), a byte of circumstances, and its bytes.

#![no_main]

#[path = "../../tests/engine/sim.rs"]
mod sim;

use libfuzzer_sys::fuzz_target;
use sim::Sim;

fuzz_target!(|input: &[u8]| {
    let sim = Sim::new();
    let mut rest = input;
    while let Some((&[high, low, how], after)) = rest.split_first_chunk() {
        let length = usize::from(u16::from_be_bytes([high, low])).min(after.len());
        let (frame, next) = after.split_at(length);
        rest = next;
        if length < 14 {
            continue;
        }
        let segments = u32::from(how >> 1 & 3);
        let paged = u32::from(how >> 3) * 1000;
        sim.observe(frame, u32::from(how & 1), 14, length as u32 + paged, segments);
    }
    sim.balance();
});
