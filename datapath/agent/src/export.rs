//! The export service (`proto/export.proto`): batches to the relay, each until it is acknowledged.

use std::pin::Pin;
use std::sync::Arc;

use futures::Stream;
use parking_lot::Mutex;
use stage::StopToken;
use tonic::{Request, Response, Status as GrpcStatus, Streaming};
use wire::export::export_server::Export;
use wire::export::subscribe_request::Request as Kind;
use wire::export::{Start, StatusRequest, StatusResponse, SubscribeRequest, SubscribeResponse};

pub(crate) mod serve;
mod stream;

use crate::spool::Spool;
use crate::status::Status;
use stream::Subscription;

/// Serves any number of streams. The acknowledgements of one relay, the first that names itself,
/// let batches be forgotten; others may read along.
#[derive(Debug)]
pub(crate) struct Exporter {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    spool: Arc<Spool>,
    status: Status,
    stages: stage::Registry,
    owner: Mutex<Owner>,
    /// Streams end.
    closing: StopToken,
}

/// Whose acknowledgements count.
#[derive(Debug, Default)]
struct Owner {
    relay: String,
    /// Number of the stream; 0 when there is none.
    stream: u64,
    last_stream: u64,
}

// === impl Exporter ===

impl Exporter {
    /// A service over `spool`; its streams end at `closing`.
    pub(crate) fn new(
        spool: Arc<Spool>,
        status: Status,
        stages: stage::Registry,
        closing: StopToken,
    ) -> Self {
        let owner = Mutex::default();
        Self { shared: Arc::new(Shared { spool, status, stages, owner, closing }) }
    }
}

#[tonic::async_trait]
impl Export for Exporter {
    type SubscribeStream =
        Pin<Box<dyn Stream<Item = Result<SubscribeResponse, GrpcStatus>> + Send>>;

    async fn subscribe(
        &self,
        request: Request<Streaming<SubscribeRequest>>,
    ) -> Result<Response<Self::SubscribeStream>, GrpcStatus> {
        let mut inbound = request.into_inner();
        let start = first(&mut inbound).await?;
        tracing::info!(relay = start.relay, "export stream begins");
        let subscription = Subscription::new(Arc::clone(&self.shared), inbound, start);
        let stream = futures::stream::unfold(subscription, |mut subscription| async move {
            subscription.next().await.map(|response| (response, subscription))
        });
        Ok(Response::new(Box::pin(stream)))
    }

    async fn status(
        &self,
        _: Request<StatusRequest>,
    ) -> Result<Response<StatusResponse>, GrpcStatus> {
        Ok(Response::new(self.shared.status.response(&self.shared.stages)))
    }
}

async fn first(inbound: &mut Streaming<SubscribeRequest>) -> Result<Start, GrpcStatus> {
    match inbound.message().await?.and_then(|message| message.request) {
        Some(Kind::Start(start)) => Ok(start),
        _ => Err(GrpcStatus::invalid_argument("the first message must be `start`")),
    }
}

// === impl Shared ===

impl Shared {
    /// A number for a new stream of `relay`, if its acknowledgements count: no other relay's do,
    /// or it has come back before its last stream was found to be dead.
    fn claim(&self, relay: &str) -> Option<u64> {
        let mut owner = self.owner.lock();
        if relay.is_empty() || (owner.stream != 0 && owner.relay != relay) {
            return None;
        }
        owner.last_stream += 1;
        owner.stream = owner.last_stream;
        relay.clone_into(&mut owner.relay);
        Some(owner.stream)
    }

    fn owns(&self, stream: Option<u64>) -> bool {
        stream.is_some_and(|stream| self.owner.lock().stream == stream)
    }

    fn release(&self, stream: Option<u64>) {
        let mut owner = self.owner.lock();
        if stream == Some(owner.stream) {
            owner.stream = 0;
        }
    }
}

#[cfg(test)]
mod tests;
