//! Stop tokens: told once, seen by every holder.

use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};

/// Tells the parts of a process to finish. Clones share one state; children stop with their parent
/// and can be stopped alone.
#[derive(Debug, Clone, Default)]
pub struct StopToken(CancellationToken);

// === impl StopToken ===

impl StopToken {
    /// A token of its own.
    pub fn new() -> Self {
        Self::default()
    }

    /// A token that stops with this one.
    pub fn child(&self) -> Self {
        Self(self.0.child_token())
    }

    /// Tells every holder to stop.
    pub fn stop(&self) {
        self.0.cancel();
    }

    /// Whether [`stop`](Self::stop) was called.
    pub fn is_stopped(&self) -> bool {
        self.0.is_cancelled()
    }

    /// Waits until [`stop`](Self::stop) is called.
    pub fn stopped(&self) -> WaitForCancellationFuture<'_> {
        self.0.cancelled()
    }
}
