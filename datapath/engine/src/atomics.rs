//! Cells for user space: Rust's atomics, relaxed.

use core::sync::atomic::Ordering::Relaxed;
use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64};

use crate::cells::{Cell, Counter, Shared};

/// Rust's atomics as cells.
#[derive(Debug, Clone, Copy, Default)]
pub struct Atomics;

// === impl Atomics ===

impl Shared for Atomics {
    type U8 = AtomicU8;
    type U32 = AtomicU32;
    type U64 = AtomicU64;
}

macro_rules! cell {
    ($($atomic:ty: $plain:ty),+) => {
        $(impl Cell<$plain> for $atomic {
            fn get(&self) -> $plain {
                self.load(Relaxed)
            }

            fn set(&self, value: $plain) {
                self.store(value, Relaxed);
            }
        })+
    };
}
cell!(AtomicU8: u8, AtomicU32: u32, AtomicU64: u64);

impl Counter for AtomicU64 {
    fn add(&self, value: u64) {
        self.fetch_add(value, Relaxed);
    }
}
