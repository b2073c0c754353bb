//! Waiting for a condition, with a deadline.

use std::time::{Duration, Instant};

use crate::{Error, Result};

const STEP: Duration = Duration::from_millis(50);

/// Asks `probe` until it answers `Some`.
///
/// # Errors
/// [`Error::Timeout`] naming `what`, when `within` has passed.
pub fn wait_for<T>(
    what: &str,
    within: Duration,
    mut probe: impl FnMut() -> Option<T>,
) -> Result<T> {
    let start = Instant::now();
    loop {
        if let Some(value) = probe() {
            return Ok(value);
        }
        if start.elapsed() >= within {
            return Err(Error::Timeout { what: what.to_owned(), seconds: within.as_secs() });
        }
        std::thread::sleep(STEP);
    }
}

/// Asks `probe` until it answers true.
///
/// # Errors
/// As [`wait_for`].
pub fn wait_until(what: &str, within: Duration, mut probe: impl FnMut() -> bool) -> Result<()> {
    wait_for(what, within, || probe().then_some(()))
}
