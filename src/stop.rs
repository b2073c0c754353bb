//! Signals.

use anyhow::Result;
use stage::StopToken;
use tokio::signal::unix::{SignalKind, signal};

/// A token that stops at SIGINT or SIGTERM. A second signal ends the process at once.
///
/// # Errors
/// When the signals cannot be listened to.
pub fn on_signal() -> Result<StopToken> {
    let token = StopToken::new();
    let (mut interrupt, mut terminate) =
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let stop = token.clone();
    tokio::spawn(async move {
        let mut told = false;
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            if told {
                std::process::exit(130);
            }
            told = true;
            stop.stop();
        }
    });
    Ok(token)
}
