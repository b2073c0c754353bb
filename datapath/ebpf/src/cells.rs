//! Memory that other CPUs change meanwhile, as the engine wants it.

use core::arch::asm;
use core::cell::UnsafeCell;

use datapath_engine::cells::{Cell, Counter, Shared};

/// Cells in map values.
pub(crate) struct Bpf;

/// One value in a map.
#[repr(transparent)]
pub(crate) struct Word<T>(UnsafeCell<T>);

// SAFETY: every access is one of those below.
unsafe impl<T> Sync for Word<T> {}

/// 0, which the verifier does not know.
static ZERO: Word<u32> = Word(UnsafeCell::new(0));

/// See [`ZERO`].
#[inline(always)]
pub(crate) fn unknown_zero() -> u32 {
    ZERO.get()
}

// === impl Bpf ===

impl Shared for Bpf {
    type U8 = Word<u8>;
    type U32 = Word<u32>;
    type U64 = Word<u64>;
}

// === impl Word ===

impl<T: Copy> Cell<T> for Word<T> {
    #[inline(always)]
    fn get(&self) -> T {
        // SAFETY: the verifier has proved that the map value spans the cell. The access is one
        // aligned load of at most 8 bytes, which no CPU that runs Linux tears.
        unsafe { self.0.get().read_volatile() }
    }

    #[inline(always)]
    fn set(&self, value: T) {
        // SAFETY: as in `get`.
        unsafe { self.0.get().write_volatile(value) }
    }
}

impl Counter for Word<u64> {
    #[inline(always)]
    fn add(&self, value: u64) {
        // By hand, because Rust has no atomic addition on BPF, and because the form that does not
        // fetch is the one that kernels before 5.12 know.
        // SAFETY: the pointer is to an aligned u64 in a map value, as in `get`.
        unsafe {
            asm!(
                "lock *(u64 *)({cell} + 0) += {value}",
                cell = in(reg) self.0.get(),
                value = in(reg) value,
                options(nostack),
            );
        }
    }
}
