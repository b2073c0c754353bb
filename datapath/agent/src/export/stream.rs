//! One export stream.
//!
//! It is pulled: gRPC asks for the next message when it can send one, and only then is a batch
//! read from the spool. So a relay that does not read holds up nothing but its own stream.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Interval, MissedTickBehavior};
use tonic::{Status as GrpcStatus, Streaming};
use wire::export::subscribe_request::Request as Kind;
use wire::export::subscribe_response::Response as Kinds;
use wire::export::{
    Batch, Heartbeat, Hello, Part, Position, Start, SubscribeRequest, SubscribeResponse,
};

use super::Shared;
use crate::spool::{Cursor, Stored};
use crate::{VERSION, status};

/// Batches under way without acknowledgement, unless the relay asks for less or more: a few
/// megabytes, enough to keep a slow disk at the other end busy.
const WINDOW: u32 = 16;
/// Most that a relay may ask for.
const MAX_WINDOW: u32 = 1024;
/// A quiet stream says something as often as this; the relay gives up after several.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// Pause after the disk could not be read.
const RETRY: Duration = Duration::from_millis(200);

/// The state of a stream.
#[derive(Debug)]
pub(super) struct Subscription {
    shared: Arc<Shared>,
    inbound: Streaming<SubscribeRequest>,
    relay: String,
    after: Option<Position>,
    /// Set if this stream's acknowledgements count.
    claim: Option<u64>,
    window: u64,
    /// The last batch sent, and the last one acknowledged by this relay.
    sent: Cursor,
    acked: Cursor,
    greeted: bool,
    newest: watch::Receiver<Cursor>,
    heartbeat: Interval,
}

// === impl Subscription ===

impl Subscription {
    pub(super) fn new(
        shared: Arc<Shared>,
        inbound: Streaming<SubscribeRequest>,
        start: Start,
    ) -> Self {
        let claim = shared.claim(&start.relay);
        let after = start.after.as_ref();
        if let Some(after) = after.filter(|_| claim.is_some()) {
            trim(&shared, after);
        }
        // Of a boot that this spool does not know, the relay has something else, or nothing of
        // what is here: then everything is sent that was not acknowledged.
        let found = after.and_then(|after| shared.spool.find(&after.boot_id, after.sequence));
        let cursor = found.unwrap_or(0).max(shared.spool.state().acked);
        let mut heartbeat = tokio::time::interval(HEARTBEAT);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let window = if start.window == 0 { WINDOW } else { start.window.min(MAX_WINDOW) };
        Self {
            newest: shared.spool.subscribe(),
            shared,
            inbound,
            relay: start.relay,
            after: start.after,
            claim,
            window: u64::from(window),
            sent: cursor,
            acked: cursor,
            greeted: false,
            heartbeat,
        }
    }

    /// The next message; `None` ends the stream.
    pub(super) async fn next(&mut self) -> Option<Result<SubscribeResponse, GrpcStatus>> {
        if !std::mem::replace(&mut self.greeted, true) {
            return Some(Ok(response(Kinds::Hello(self.hello()))));
        }
        loop {
            if self.shared.closing.is_stopped() {
                return None;
            }
            let mut pause = None;
            if self.has_room() {
                // Read here and not on another thread: it is in the page cache, or one seek away.
                match self.shared.spool.next_after(self.sent) {
                    Ok(Some((cursor, stored))) => {
                        self.sent = cursor;
                        return Some(Ok(response(Kinds::Batch(batch(stored)))));
                    }
                    Ok(None) => {}
                    Err(error) => {
                        tracing::warn!(%error, "spool cannot be read");
                        pause = Some(RETRY);
                    }
                }
            }
            let waiting = self.has_room() && pause.is_none();
            tokio::select! {
                message = self.inbound.message() => match message {
                    Ok(Some(message)) => {
                        if let Err(status) = self.take(message) {
                            return Some(Err(status));
                        }
                    }
                    // The relay is gone, or has said its last.
                    Ok(None) | Err(_) => return None,
                },
                changed = self.newest.changed(), if waiting => changed.ok()?,
                () = sleep(pause), if pause.is_some() => {}
                _ = self.heartbeat.tick() => {
                    return Some(Ok(response(Kinds::Heartbeat(self.beat()))));
                }
                () = self.shared.closing.stopped() => return None,
            }
        }
    }

    fn has_room(&self) -> bool {
        self.sent - self.acked.min(self.sent) < self.window
    }

    fn take(&mut self, message: SubscribeRequest) -> Result<(), GrpcStatus> {
        let up_to = match message.request {
            Some(Kind::Ack(ack)) => ack.up_to,
            _ => return Err(GrpcStatus::invalid_argument("only `ack` may follow `start`")),
        };
        let Some(up_to) = up_to else {
            return Err(GrpcStatus::invalid_argument("an ack without a position"));
        };
        let cursor = self.shared.spool.find(&up_to.boot_id, up_to.sequence);
        if cursor.is_some_and(|cursor| cursor > self.sent) {
            return Err(GrpcStatus::invalid_argument("acknowledged what was not sent"));
        }
        self.acked = self.acked.max(cursor.unwrap_or(0));
        if self.shared.owns(self.claim) {
            trim(&self.shared, &up_to);
        }
        Ok(())
    }

    fn hello(&self) -> Hello {
        let spool = &self.shared.spool;
        let after = self.after.as_ref().map(|after| (after.boot_id.as_str(), after.sequence));
        let (oldest, newest) = (spool.oldest_after(after), spool.state().newest);
        self.shared.status.update(|report| Hello {
            node: report.node.clone(),
            cluster: report.cluster.clone(),
            boot_id: report.boot_id.clone(),
            version: VERSION.to_owned(),
            mode: report.mode.to_owned(),
            oldest,
            newest,
        })
    }

    fn beat(&self) -> Heartbeat {
        let state = self.shared.spool.state();
        Heartbeat {
            time: status::now(),
            newest: state.newest,
            spool_bytes: state.bytes,
            flows_per_second: self.shared.status.update(|report| report.flows_per_second),
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        tracing::info!(relay = self.relay, "export stream ends");
        self.shared.release(self.claim);
    }
}

async fn sleep(pause: Option<Duration>) {
    tokio::time::sleep(pause.unwrap_or_default()).await;
}

fn trim(shared: &Shared, up_to: &Position) {
    if let Err(error) = shared.spool.ack(&up_to.boot_id, up_to.sequence) {
        tracing::warn!(%error, "acknowledgement not written; a later one will do");
    }
}

fn response(kind: Kinds) -> SubscribeResponse {
    SubscribeResponse { response: Some(kind) }
}

fn batch(stored: Stored) -> Batch {
    let parts = stored.parts.into_iter();
    Batch {
        position: Some(Position { boot_id: stored.boot, sequence: stored.sequence }),
        parts: parts.map(|p| Part { table: p.table, rows: p.rows, ipc: p.ipc }).collect(),
        closed_at: stored.closed_at,
    }
}
