//! Weir's way: rows become columns, batches are acknowledged.

use std::pin::Pin;
use std::sync::Arc;

use arrow::array::AsArray as _;
use arrow::datatypes::UInt16Type;
use columns::Table;
use columns::ipc::{Compression, decode, encode};
use columns::rows::BatchBuilder;
use futures::Stream;
use tokio::sync::watch;
use tokio_stream::wrappers::WatchStream;
use tonic::transport::Channel;
use tonic::{Request, Response, Status, Streaming};
use wire::export::export_client::ExportClient;
use wire::export::export_server::Export;
use wire::export::subscribe_request::Request as Asked;
use wire::export::subscribe_response::Response as Said;
use wire::export::{
    Ack, Batch, Part, Position, Start, StatusRequest, StatusResponse, SubscribeRequest,
    SubscribeResponse,
};

use crate::Failure;
use crate::rows::{Checksum, Rows};

/// Rows after which the agent closes a batch.
const BATCH: usize = 4096;
/// Batches that the relay lets be under way.
const WINDOW: u32 = 16;

/// Sends the same rows to every subscriber.
#[derive(Debug)]
pub(crate) struct Agent {
    rows: Arc<Rows>,
    compression: Compression,
}

/// One stream.
#[derive(Debug)]
struct Sender {
    rows: Arc<Rows>,
    compression: Compression,
    builder: BatchBuilder,
    inbound: Streaming<SubscribeRequest>,
    window: u64,
    sent: u64,
    acked: u64,
}

/// Receives, decodes and acknowledges everything.
pub(crate) async fn receive(channel: Channel) -> Result<Checksum, Failure> {
    let ask = |request| SubscribeRequest { request: Some(request) };
    let start = Start { relay: "bench".to_owned(), after: None, window: WINDOW };
    let (acks, acked) = watch::channel(ask(Asked::Start(start)));
    let mut client = ExportClient::new(channel);
    let mut inbound = client.subscribe(WatchStream::new(acked)).await?.into_inner();
    let mut checksum = Checksum::default();
    while let Some(message) = inbound.message().await? {
        let Some(Said::Batch(batch)) = message.response else { continue };
        for part in &batch.parts {
            let columns = decode(Table::Flows, &part.ipc)?;
            let ports = columns.column_by_name("source_port").ok_or("no ports")?;
            for port in ports.as_primitive::<UInt16Type>().values() {
                checksum.add(*port);
            }
        }
        acks.send_replace(ask(Asked::Ack(Ack { up_to: batch.position })));
    }
    Ok(checksum)
}

// === impl Agent ===

impl Agent {
    pub(crate) fn new(rows: Arc<Rows>, compression: Compression) -> Self {
        Self { rows, compression }
    }
}

#[tonic::async_trait]
impl Export for Agent {
    type SubscribeStream = Pin<Box<dyn Stream<Item = Result<SubscribeResponse, Status>> + Send>>;

    async fn subscribe(
        &self,
        request: Request<Streaming<SubscribeRequest>>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let mut inbound = request.into_inner();
        let Some(Asked::Start(start)) = inbound.message().await?.and_then(|m| m.request) else {
            return Err(Status::invalid_argument("no start"));
        };
        let sender = Sender {
            rows: Arc::clone(&self.rows),
            compression: self.compression,
            builder: BatchBuilder::new(Table::Flows),
            inbound,
            window: u64::from(start.window),
            sent: 0,
            acked: 0,
        };
        Ok(Response::new(Box::pin(futures::stream::try_unfold(sender, |mut sender| async {
            let batch = sender.next().await?;
            let response = |batch| SubscribeResponse { response: Some(Said::Batch(batch)) };
            Ok(batch.map(|batch| (response(batch), sender)))
        }))))
    }

    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        Ok(Response::new(StatusResponse::default()))
    }
}

// === impl Sender ===

impl Sender {
    async fn next(&mut self) -> Result<Option<Batch>, Status> {
        while self.sent - self.acked >= self.window {
            let message = self.inbound.message().await?.and_then(|message| message.request);
            if let Some(Asked::Ack(Ack { up_to: Some(position) })) = message {
                self.acked = position.sequence;
            }
        }
        let Some(rows) = self.rows.chunk(self.sent as usize, BATCH) else {
            return Ok(None);
        };
        for flow in rows {
            self.rows.push(flow, &mut self.builder);
        }
        let ipc = encode(&self.builder.finish(), self.compression)
            .map_err(|error| Status::internal(error.to_string()))?;
        self.sent += 1;
        let position = Position { boot_id: "boot".to_owned(), sequence: self.sent };
        let part = Part { table: "flows".to_owned(), rows: rows.len() as u64, ipc: ipc.into() };
        Ok(Some(Batch { position: Some(position), parts: vec![part], closed_at: 0 }))
    }
}
