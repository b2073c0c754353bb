//! How tests take turns, and whether the long forms were asked for.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// One test of a process at a time: each needs every processor, and some stop time for others.
pub fn serial() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    // A test that failed while it held the turn has cleaned up nonetheless.
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether the long forms of tests were asked for (`WEIR_LONG=1`).
pub fn long() -> bool {
    std::env::var_os("WEIR_LONG").is_some_and(|value| value != "0")
}
