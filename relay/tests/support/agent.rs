//! An agent that says what a test tells it to.
#![allow(dead_code, reason = "each test uses a part")]

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use columns::Table;
use columns::ipc::{Compression, encode};
use columns::rows::{BatchBuilder, FlowRow};
use flowstore::{QueryRequest, Store};
use futures::Stream;
use parking_lot::Mutex;
use stage::StopToken;
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status, Streaming};
use wire::export::export_server::{Export, ExportServer};
use wire::export::subscribe_request::Request as Asked;
use wire::export::subscribe_response::Response as Said;
use wire::export::{
    Batch, Heartbeat, Hello, Part, Position, StatusRequest, StatusResponse, SubscribeRequest,
    SubscribeResponse,
};

pub(crate) const NODE: &str = "node-a";

/// What the agent has: batches by number, oldest first, until they are acknowledged.
#[derive(Debug, Default)]
pub(crate) struct Spool {
    pub(crate) boot: String,
    pub(crate) batches: Vec<Batch>,
    /// What `Hello` says it can still send; `None` for the first of `batches`.
    pub(crate) oldest: Option<u64>,
    /// Where each stream asked to start.
    pub(crate) starts: Vec<Option<u64>>,
    /// Every acknowledgement that came.
    pub(crate) acks: Vec<u64>,
    /// Batches handed to the stream, repeats included.
    pub(crate) sent: u64,
    /// How many streams to refuse first.
    pub(crate) refuse: u32,
}

/// A fake agent on a unix socket.
#[derive(Debug)]
pub(crate) struct Agent {
    pub(crate) socket: PathBuf,
    pub(crate) spool: Arc<Mutex<Spool>>,
    changed: Arc<watch::Sender<u64>>,
    stop: StopToken,
}

#[derive(Debug)]
struct Service {
    spool: Arc<Mutex<Spool>>,
    changed: Arc<watch::Sender<u64>>,
    stop: StopToken,
}

// === impl Agent ===

impl Agent {
    pub(crate) fn start(directory: &Path) -> Self {
        let spool = Arc::new(Mutex::new(Spool { boot: "boot-1".to_owned(), ..Spool::default() }));
        Self::serve(directory, spool)
    }

    fn serve(directory: &Path, spool: Arc<Mutex<Spool>>) -> Self {
        let socket = directory.join("agent.sock");
        let _ = std::fs::remove_file(&socket);
        let listener = UnixListener::bind(&socket).unwrap();
        let changed = Arc::new(watch::channel(0).0);
        let stop = StopToken::new();
        let service = Service {
            spool: Arc::clone(&spool),
            changed: Arc::clone(&changed),
            stop: stop.clone(),
        };
        let stopped = stop.clone();
        tokio::spawn(async move {
            tonic::transport::Server::builder()
                .add_service(ExportServer::new(service))
                .serve_with_incoming_shutdown(UnixListenerStream::new(listener), async move {
                    stopped.stopped().await;
                })
                .await
        });
        Self { socket, spool, changed, stop }
    }

    /// Ends it and starts another over the same spool.
    pub(crate) async fn restart(self, directory: &Path) -> Self {
        self.stop.stop();
        tokio::time::sleep(Duration::from_millis(100)).await;
        Self::serve(directory, Arc::clone(&self.spool))
    }

    pub(crate) fn peer(&self) -> relay::Peer {
        relay::Peer::new(&format!("unix://{}", self.socket.display())).unwrap()
    }

    /// Adds a batch with one flow of that id.
    pub(crate) fn add(&self, sequence: u64) {
        self.add_parts(sequence, vec![flow_part(sequence)]);
    }

    pub(crate) fn add_parts(&self, sequence: u64, parts: Vec<Part>) {
        let mut spool = self.spool.lock();
        let position = Position { boot_id: spool.boot.clone(), sequence };
        spool.batches.push(Batch { position: Some(position), parts, closed_at: now() });
        drop(spool);
        self.changed.send_modify(|n| *n += 1);
    }

    /// Waits until a batch is acknowledged.
    pub(crate) async fn acked(&self, sequence: u64) {
        let spool = Arc::clone(&self.spool);
        until(&format!("{sequence} is acknowledged"), || {
            spool.lock().acks.last().is_some_and(|last| *last >= sequence)
        })
        .await;
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.stop.stop();
    }
}

// === impl Service ===

#[tonic::async_trait]
impl Export for Service {
    type SubscribeStream = Pin<Box<dyn Stream<Item = Result<SubscribeResponse, Status>> + Send>>;

    async fn subscribe(
        &self,
        request: Request<Streaming<SubscribeRequest>>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let mut inbound = request.into_inner();
        let Some(Asked::Start(start)) = inbound.message().await?.and_then(|m| m.request) else {
            return Err(Status::invalid_argument("no start"));
        };
        let hello = {
            let mut spool = self.spool.lock();
            if spool.refuse > 0 {
                spool.refuse -= 1;
                return Err(Status::unavailable("not now"));
            }
            spool.starts.push(start.after.as_ref().map(|position| position.sequence));
            let first = spool.batches.first().and_then(|batch| batch.position.clone());
            let newest = spool.batches.last().and_then(|batch| batch.position.clone());
            Hello {
                node: NODE.to_owned(),
                cluster: "test".to_owned(),
                boot_id: spool.boot.clone(),
                oldest: spool.oldest.or(first.map(|p| p.sequence)).unwrap_or(0),
                newest: newest.map_or(0, |p| p.sequence),
                ..Hello::default()
            }
        };
        let spool = Arc::clone(&self.spool);
        tokio::spawn(async move {
            while let Ok(Some(message)) = inbound.message().await {
                if let Some(Asked::Ack(ack)) = message.request {
                    spool.lock().acks.push(ack.up_to.unwrap_or_default().sequence);
                }
            }
        });
        let after = start.after.filter(|p| p.boot_id == hello.boot_id).map_or(0, |p| p.sequence);
        Ok(Response::new(Box::pin(self.stream(hello, after, start.window))))
    }

    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        let boot_id = self.spool.lock().boot.clone();
        Ok(Response::new(StatusResponse {
            node: NODE.to_owned(),
            boot_id,
            mode: "observe".to_owned(),
            ..StatusResponse::default()
        }))
    }
}

impl Service {
    fn stream(
        &self,
        hello: Hello,
        after: u64,
        window: u32,
    ) -> impl Stream<Item = Result<SubscribeResponse, Status>> + Send + use<> {
        let say = |said| Ok(SubscribeResponse { response: Some(said) });
        let (spool, stop) = (Arc::clone(&self.spool), self.stop.clone());
        let state = (Some(hello), after, self.changed.subscribe());
        futures::stream::unfold(state, move |(hello, after, mut changed)| {
            let (spool, stop) = (Arc::clone(&spool), stop.clone());
            async move {
                if let Some(hello) = hello {
                    return Some((say(Said::Hello(hello)), (None, after, changed)));
                }
                loop {
                    if stop.is_stopped() {
                        return None;
                    }
                    let next = {
                        let mut spool = spool.lock();
                        let under_way =
                            after.saturating_sub(spool.acks.last().copied().unwrap_or(0));
                        let open = under_way < u64::from(window);
                        let next = spool.batches.iter().find(|batch| {
                            let position = batch.position.as_ref().unwrap();
                            position.boot_id == spool.boot && position.sequence > after
                        });
                        let next = next.filter(|_| open).cloned();
                        spool.sent += u64::from(next.is_some());
                        next
                    };
                    if let Some(batch) = next {
                        let sequence = batch.position.as_ref().unwrap().sequence;
                        return Some((say(Said::Batch(batch)), (None, sequence, changed)));
                    }
                    let pause = tokio::time::timeout(Duration::from_millis(50), changed.changed());
                    if pause.await.is_err() {
                        let newest = spool.lock().batches.last().and_then(|b| b.position.clone());
                        let beat = Heartbeat {
                            time: now(),
                            newest: newest.map_or(0, |p| p.sequence),
                            flows_per_second: 12.5,
                            ..Heartbeat::default()
                        };
                        return Some((say(Said::Heartbeat(beat)), (None, after, changed)));
                    }
                }
            }
        })
    }
}

/// A part with one flow whose bytes are 2 to the power of `sequence`, so that a sum tells which
/// are there and how often.
pub(crate) fn flow_part(sequence: u64) -> Part {
    let mut builder = BatchBuilder::new(Table::Flows);
    let flow_id = format!("{sequence:016x}");
    FlowRow {
        flow_id: &flow_id,
        start_time: now(),
        end_time: now(),
        node: NODE,
        bytes_out: 1 << sequence,
        verdict: "FORWARDED",
        reporter: "SOURCE",
        ..FlowRow::default()
    }
    .push(&mut builder);
    let ipc = encode(&builder.finish(), Compression::default()).unwrap();
    Part { table: "flows".to_owned(), rows: 1, ipc: ipc.into() }
}

pub(crate) fn now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    since.as_nanos() as i64
}

/// Waits until something holds.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..1000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("in vain: {what}");
}

/// The answer of a query, as rows of text.
pub(crate) async fn ask(store: &Store, sql: &str) -> Vec<Vec<String>> {
    let stream = store.query(QueryRequest::new(sql)).await.unwrap();
    let (batches, _) = stream.collect().await.unwrap();
    let mut rows = Vec::new();
    for batch in &batches {
        for row in 0..batch.num_rows() {
            rows.push(batch.columns().iter().map(|column| cell(column, row)).collect());
        }
    }
    rows
}

fn cell(column: &arrow::array::ArrayRef, row: usize) -> String {
    arrow::util::display::array_value_to_string(column, row).unwrap()
}
