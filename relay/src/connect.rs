//! Keeps one peer connected.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher as _, Hasher as _};
use std::sync::Arc;
use std::time::Duration;

use flowstore::Store;
use stage::StopToken;
use tonic::transport::{Channel, Endpoint};

use crate::metrics::Metrics;
use crate::session::{End, Session};
use crate::status::Slot;
use crate::{Config, Peer};

/// First pause after a failure; it doubles.
const FIRST_BACKOFF: Duration = Duration::from_millis(100);

/// So many failures in a row, some five seconds of them, are worth a warning.
const WORRY: u32 = 6;

/// A peer that does not answer for so long is taken as gone.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// One peer and what its stream needs.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) config: Arc<Config>,
    pub(crate) peer: Peer,
    pub(crate) slot: Arc<Slot>,
    pub(crate) store: Store,
    pub(crate) metrics: Metrics,
}

// === impl Connection ===

impl Connection {
    /// Connects again and again until `stop`.
    pub(crate) async fn run(self, stop: StopToken) {
        let mut failures = 0;
        let mut confirmed = None;
        while !stop.is_stopped() {
            let before = self.slot.batches();
            let session = Session {
                config: &self.config,
                slot: &self.slot,
                store: &self.store,
                metrics: &self.metrics,
                confirmed: confirmed.take(),
            };
            let end = match self.connect(&stop).await {
                Some(Ok(channel)) => session.run(channel, &stop).await,
                Some(Err(error)) => End::from(tonic::Status::unavailable(chain(&error))),
                None => break,
            };
            self.slot.ended(&end);
            match end {
                End::Stopped => break,
                End::Gap(missing) => {
                    tracing::info!(peer = %self.peer, %missing.sequence, "asking for it again");
                    confirmed = Some(missing);
                    failures = 0;
                }
                end => {
                    failures = if self.slot.batches() > before { 0 } else { failures + 1 };
                    self.log(&end, failures);
                    let pause = backoff(failures, self.config.max_backoff);
                    tokio::select! {
                        () = stop.stopped() => break,
                        () = tokio::time::sleep(pause) => {}
                    }
                }
            }
            self.metrics.reconnects.with_label_values(&[self.peer.name()]).inc();
        }
    }

    /// A peer that starts later than its relay, or is restarted, is nothing to warn of; one that
    /// stays away is, once.
    fn log(&self, end: &End, failures: u32) {
        match (end, failures) {
            (End::Closed, _) | (_, 0..WORRY) => {
                tracing::info!(peer = %self.peer, %end, failures, "stream ended");
            }
            (_, WORRY) => {
                tracing::warn!(peer = %self.peer, %end, "no stream for a while; trying on");
            }
            _ => {}
        }
    }

    /// `None` when told to stop.
    async fn connect(&self, stop: &StopToken) -> Option<Result<Channel, tonic::transport::Error>> {
        self.slot.connecting();
        let endpoint = match Endpoint::from_shared(self.peer.uri().to_owned()) {
            Ok(endpoint) => endpoint,
            Err(error) => return Some(Err(error)),
        };
        let endpoint = endpoint
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            // A peer whose machine is gone closes nothing.
            .http2_keep_alive_interval(Duration::from_secs(10))
            .keep_alive_timeout(Duration::from_secs(10));
        tokio::select! {
            () = stop.stopped() => None,
            channel = endpoint.connect() => Some(channel),
        }
    }
}

/// The pause before the next try: doubling, at most `max`, and by up to a half shorter so that
/// relays and agents do not meet in step.
fn backoff(failures: u32, max: Duration) -> Duration {
    let full = FIRST_BACKOFF.saturating_mul(1 << failures.min(16)).min(max);
    // The keys of a new RandomState are random enough for this.
    let random = RandomState::new().build_hasher().finish() % 1024;
    full - full.mul_f64(random as f64 / 2048.0)
}

/// An error with its causes: "transport error" alone says nothing.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Wrappers often repeat what they wrap.
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_grows_to_its_limit() {
        let max = Duration::from_secs(5);
        for failures in 0..40 {
            let pause = backoff(failures, max);
            assert!(pause <= max && pause >= FIRST_BACKOFF / 2, "{failures}: {pause:?}");
        }
        assert!(backoff(20, max) >= max / 2);
    }
}
