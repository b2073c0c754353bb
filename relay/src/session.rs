//! One export stream: receive, append, acknowledge.
//!
//! ```text
//! ask status ──▶ subscribe(after durable) ──▶ hello ──▶ batch ──▶ append ──▶ acknowledge ─┐
//!                                                         ▲                               │
//!                                                         └───────────────────────────────┘
//! ```
//!
//! Batches are appended one after the other. The next one must not become durable before this
//! one: the store knows a node's batches by the highest number it has. Streams of several peers
//! share the syncs of the log.

use std::time::Duration;

use bytes::Bytes;
use columns::Table;
use flowstore::Store;
use futures::{Stream, StreamExt as _};
use stage::StopToken;
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_stream::wrappers::WatchStream;
use tonic::Streaming;
use tonic::transport::Channel;
use wire::export::export_client::ExportClient;
use wire::export::subscribe_request::Request;
use wire::export::subscribe_response::Response;
use wire::export::{
    Ack, Batch, Heartbeat, Hello, Part, Position, Start, StatusRequest, SubscribeRequest,
    SubscribeResponse,
};

use crate::Config;
use crate::loss::{self, At};
use crate::metrics::Metrics;
use crate::sequence::{Arrival, Sequence};
use crate::status::Slot;

/// Room for one encoded batch of the largest size that is accepted, and its envelope.
const MAX_MESSAGE: usize = columns::ipc::MAX_DECODED + (1 << 20);

/// How long the stream may go on after `stop` while it still brings something.
const DRAIN: Duration = Duration::from_secs(5);

/// A pause so long means that nothing more is under way.
const DRAINED: Duration = Duration::from_millis(250);

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum End {
    /// The relay was told to stop.
    #[error("stopped")]
    Stopped,
    /// A batch is missing that the agent may still have: to be asked again.
    #[error("batch {} of boot {} did not come", .0.sequence, .0.boot_id)]
    Gap(Position),
    /// The agent said nothing, not even that it lives.
    #[error("no heartbeat for {0:?}")]
    Quiet(Duration),
    /// The agent ended the stream.
    #[error("the agent closed the stream")]
    Closed,
    /// The agent could not be reached or refused.
    #[error("{}", .0.message())]
    Refused(Box<tonic::Status>),
    /// The agent said something out of turn.
    #[error("protocol: {0}")]
    Protocol(&'static str),
    /// The store failed.
    #[error("store: {0}")]
    Store(#[from] flowstore::Error),
}

/// What one stream needs.
#[derive(Debug)]
pub(crate) struct Session<'a> {
    pub(crate) config: &'a Config,
    pub(crate) slot: &'a Slot,
    pub(crate) store: &'a Store,
    pub(crate) metrics: &'a Metrics,
    /// A gap that the agent was asked again about: it is real.
    pub(crate) confirmed: Option<Position>,
}

/// What was learnt from `Hello`, and where the stream is.
#[derive(Debug)]
struct Progress {
    node: String,
    cluster: String,
    sequence: Sequence,
    acks: watch::Sender<Option<Position>>,
}

// === impl End ===

impl From<tonic::Status> for End {
    fn from(status: tonic::Status) -> Self {
        Self::Refused(Box::new(status))
    }
}

// === impl Session ===

impl Session<'_> {
    /// Runs one stream to its end. It always ends; `Stopped` is the good way.
    pub(crate) async fn run(&self, channel: Channel, stop: &StopToken) -> End {
        match self.stream(channel, stop).await {
            Ok(()) => End::Stopped,
            Err(end) => end,
        }
    }

    async fn stream(&self, channel: Channel, stop: &StopToken) -> Result<(), End> {
        let mut client = ExportClient::new(channel).max_decoding_message_size(MAX_MESSAGE);
        // The name comes first: what is durable is known by it.
        let status = client.status(StatusRequest {}).await?.into_inner();
        let durable = self.durable(&status.node);
        self.slot.agent(status);

        let (acks, acked) = watch::channel(None);
        let start = Start {
            relay: self.config.name.clone(),
            after: durable.clone(),
            window: self.config.window,
        };
        let mut inbound = client.subscribe(requests(start, acked)).await?.into_inner();
        let hello = match self.receive(&mut inbound).await? {
            Response::Hello(hello) => hello,
            _ => return Err(End::Protocol("the first message was no hello")),
        };
        self.slot.hello(&hello, durable.as_ref());
        let mut progress = Progress::new(hello, durable.as_ref(), acks);
        let asking = self.ask(client);
        let receiving = async {
            while !stop.is_stopped() {
                tokio::select! {
                    biased;
                    () = stop.stopped() => break,
                    message = self.receive(&mut inbound) => {
                        self.take(&mut progress, message?, stop).await?;
                    }
                }
            }
            self.drain(&mut progress, &mut inbound, stop).await
        };
        tokio::select! {
            received = receiving => received,
            () = asking => unreachable!("asking has no end"),
        }
    }

    /// Asks the agent how it does, from time to time. That it does not answer is for the stream to
    /// find out.
    async fn ask(&self, mut client: ExportClient<Channel>) {
        loop {
            tokio::time::sleep(self.config.status_interval).await;
            let answer = timeout(self.config.silence, client.status(StatusRequest {})).await;
            if let Ok(Ok(status)) = answer {
                self.slot.agent(status.into_inner());
            }
        }
    }

    /// What the store has of `node`.
    fn durable(&self, node: &str) -> Option<Position> {
        let (boot_id, sequence) = self.store.watermark(node)?;
        Some(Position { boot_id, sequence })
    }

    async fn receive(&self, inbound: &mut Streaming<SubscribeResponse>) -> Result<Response, End> {
        let silence = self.config.silence;
        let message =
            timeout(silence, inbound.message()).await.map_err(|_| End::Quiet(silence))??;
        message.ok_or(End::Closed)?.response.ok_or(End::Protocol("an empty message"))
    }

    /// Takes what is under way when the relay is told to stop: an agent that stops with it has
    /// just sent its last batch.
    async fn drain(
        &self,
        progress: &mut Progress,
        inbound: &mut Streaming<SubscribeResponse>,
        stop: &StopToken,
    ) -> Result<(), End> {
        let drain = async {
            let mut quiet = Instant::now() + DRAINED;
            while let Ok(message) = timeout_at(quiet, self.receive(inbound)).await {
                let message = message?;
                // A heartbeat says that the agent lives, not that there is more.
                let more = matches!(message, Response::Batch(_));
                self.take(progress, message, stop).await?;
                if more {
                    quiet = Instant::now() + DRAINED;
                }
            }
            Ok(())
        };
        timeout(DRAIN, drain).await.unwrap_or(Ok(()))
    }

    async fn take(
        &self,
        progress: &mut Progress,
        message: Response,
        stop: &StopToken,
    ) -> Result<(), End> {
        match message {
            Response::Hello(_) => Err(End::Protocol("a second hello")),
            Response::Heartbeat(heartbeat) => {
                self.heartbeat(&heartbeat);
                Ok(())
            }
            Response::Batch(batch) => self.batch(progress, batch, stop).await,
        }
    }

    fn heartbeat(&self, heartbeat: &Heartbeat) {
        self.slot.heartbeat(heartbeat);
    }

    async fn batch(
        &self,
        progress: &mut Progress,
        batch: Batch,
        stop: &StopToken,
    ) -> Result<(), End> {
        let position = batch.position.clone().ok_or(End::Protocol("a batch without position"))?;
        let mut lost = None;
        match progress.sequence.arrival(&position) {
            Arrival::Next => {}
            // The acknowledgement before was lost: say it again.
            Arrival::Duplicate => {
                progress.acks.send_replace(Some(position));
                return Ok(());
            }
            Arrival::Gap(missed) => {
                let missing = progress.sequence.missing();
                if missing != self.confirmed {
                    return Err(missing.map_or(End::Protocol("a gap before the start"), End::Gap));
                }
                let at = progress.at();
                lost = Some(loss::gap(at, &position.boot_id, position.sequence, missed));
                self.metrics.gaps.with_label_values(&[&progress.node]).inc_by(missed);
                tracing::warn!(node = progress.node, missed, "batches never came");
            }
        }
        let bytes = batch.parts.iter().map(|part| part.ipc.len() as u64).sum();
        let rows = self.append(progress, &position, batch.parts, lost, stop).await?;
        self.metrics.batches.with_label_values(&[&progress.node]).inc();
        self.metrics.bytes.with_label_values(&[&progress.node]).inc_by(bytes);
        progress.sequence.advance(&position);
        self.slot.durable(&position, batch.closed_at, rows);
        progress.acks.send_replace(Some(position));
        Ok(())
    }

    /// Makes a batch durable, waiting while the disk takes nothing; returns its rows.
    #[tracing::instrument(name = "ingest", skip_all, fields(node = progress.node, sequence = position.sequence))]
    async fn append(
        &self,
        progress: &Progress,
        position: &Position,
        parts: Vec<Part>,
        lost: Option<(Table, Bytes)>,
        stop: &StopToken,
    ) -> Result<u64, End> {
        let mut rows = Vec::with_capacity(parts.len() + 1);
        let mut readable = Vec::with_capacity(parts.len() + 1);
        for part in parts {
            match Table::by_name(&part.table) {
                Some(table) => {
                    readable.push((table, part.ipc));
                    rows.push(part.rows);
                }
                None => {
                    readable.push(self.corrupt(progress, &part.table, part.rows, "unknown table"));
                    rows.push(1);
                }
            }
        }
        if let Some(lost) = lost {
            readable.push(lost);
            rows.push(1);
        }
        loop {
            let batch = flowstore::Batch {
                node: progress.node.clone(),
                boot_id: position.boot_id.clone(),
                sequence: position.sequence,
                parts: readable.clone(),
            };
            match self.store.append(batch).await {
                Ok(_) => break,
                Err(flowstore::Error::Stopped { why }) => self.wait(why, stop).await?,
                Err(flowstore::Error::Undecodable { part, source, .. }) => {
                    let table = readable[part].0.name();
                    readable[part] = self.corrupt(progress, table, rows[part], &source.to_string());
                    rows[part] = 1;
                }
                Err(flowstore::Error::TooLarge { bytes, limit }) => {
                    let why = format!("batch of {bytes} bytes is over the limit of {limit}");
                    for (part, rows) in readable.iter_mut().zip(&mut rows) {
                        *part = self.corrupt(progress, part.0.name(), *rows, &why);
                        *rows = 1;
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
        self.slot.stalled(None);
        for ((table, _), rows) in readable.iter().zip(&rows) {
            self.metrics.rows.with_label_values(&[table.name()]).inc_by(*rows);
        }
        Ok(rows.iter().sum())
    }

    /// The disk takes nothing. Not to read on is what tells the agent.
    async fn wait(&self, why: String, stop: &StopToken) -> Result<(), End> {
        self.slot.stalled(Some(why));
        tokio::select! {
            () = stop.stopped() => Err(End::Stopped),
            () = tokio::time::sleep(self.config.stopped_retry) => Ok(()),
        }
    }

    fn corrupt(&self, progress: &Progress, table: &str, rows: u64, why: &str) -> (Table, Bytes) {
        self.metrics.corrupt_parts.with_label_values(&[&progress.node]).inc();
        tracing::warn!(node = progress.node, table, rows, why, "a part cannot be read");
        loss::corrupt(progress.at(), table, rows, why)
    }
}

// === impl Progress ===

impl Progress {
    fn new(
        hello: Hello,
        durable: Option<&Position>,
        acks: watch::Sender<Option<Position>>,
    ) -> Self {
        let sequence = Sequence::new(&hello, durable);
        Self { node: hello.node, cluster: hello.cluster, sequence, acks }
    }

    fn at(&self) -> At<'_> {
        At { cluster: &self.cluster, node: &self.node }
    }
}

/// What the relay says on the stream: where to start, then how far it has got. Acknowledgements
/// are cumulative, so only the newest one matters.
fn requests(
    start: Start,
    acked: watch::Receiver<Option<Position>>,
) -> impl Stream<Item = SubscribeRequest> + Send + 'static {
    let acks = WatchStream::from_changes(acked).filter_map(|position| async {
        position.map(|up_to| Request::Ack(Ack { up_to: Some(up_to) }))
    });
    futures::stream::iter([Request::Start(start)])
        .chain(acks)
        .map(|request| SubscribeRequest { request: Some(request) })
}
