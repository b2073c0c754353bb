use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint};
use wire::export::export_client::ExportClient;
use wire::export::subscribe_response::Response as Kinds;
use wire::export::{Ack, Hello, Position};

use super::serve::Listeners;
use super::*;
use crate::spool::{Disk, Limits, Part};

/// An agent's serving half over a real unix socket.
struct Served {
    dir: tempfile::TempDir,
    spool: Arc<Spool>,
    closing: StopToken,
}

/// A relay's end of a stream.
struct Client {
    requests: stage::Sender<SubscribeRequest>,
    responses: Streaming<SubscribeResponse>,
    hello: Hello,
}

const LONG: Duration = Duration::from_secs(10);

// === impl Served ===

impl Served {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let stages = stage::Registry::new();
        let limits = Limits { bytes: 1 << 20, segment: 4096 };
        let ledger = stages.ledger("spool", 0);
        let spool = Spool::open(&dir.path().join("spool"), limits, Disk::default(), ledger);
        let spool = Arc::new(spool.unwrap());
        spool.begin("boot-a").unwrap();
        let status = Status::default();
        status.update(|report| {
            report.node = "n1".into();
            report.boot_id = "boot-a".into();
        });
        status.warn("manifests", vec!["a.yaml:3: broken".into()]);
        let closing = StopToken::new();
        let exporter = Exporter::new(Arc::clone(&spool), status, stages, closing.clone());
        let socket = dir.path().join("run/hubble.sock");
        let listeners = Listeners::bind(Some(&socket), &[]).await.unwrap();
        tokio::spawn(listeners.serve(exporter, closing.clone()));
        Self { dir, spool, closing }
    }

    fn socket(&self) -> String {
        format!("unix://{}", self.dir.path().join("run/hubble.sock").display())
    }

    fn commit(&self, sequences: std::ops::RangeInclusive<u64>) {
        for sequence in sequences {
            let part =
                Part { table: "flows".into(), rows: sequence, ipc: Bytes::from_static(b"x") };
            self.spool.commit(sequence, 0, vec![part]).unwrap();
        }
    }

    async fn channel(&self) -> Channel {
        Endpoint::from_shared(self.socket()).unwrap().connect().await.unwrap()
    }

    async fn subscribe(&self, relay: &str, after: Option<Position>, window: u32) -> Client {
        let (requests, outbound) = stage::queue(&stage::Registry::new(), "test", 16);
        let outbound = futures::stream::unfold(outbound, |mut outbound| async move {
            outbound.recv().await.map(|message| (message, outbound))
        });
        let start = Start { relay: relay.into(), after, window };
        requests.send(request(Kind::Start(start))).await.unwrap();
        let mut client = ExportClient::new(self.channel().await);
        let mut responses = client.subscribe(outbound).await.unwrap().into_inner();
        match responses.message().await.unwrap().unwrap().response.unwrap() {
            Kinds::Hello(hello) => Client { requests, responses, hello },
            other => panic!("first message is {other:?}"),
        }
    }
}

fn request(kind: Kind) -> SubscribeRequest {
    SubscribeRequest { request: Some(kind) }
}

fn at(boot: &str, sequence: u64) -> Position {
    Position { boot_id: boot.into(), sequence }
}

// === impl Client ===

impl Client {
    async fn ack(&self, boot: &str, sequence: u64) {
        let ack = Ack { up_to: Some(at(boot, sequence)) };
        self.requests.send(request(Kind::Ack(ack))).await.unwrap();
    }

    /// Sequence of the next batch; 0 for a heartbeat, `None` at the end.
    async fn next(&mut self) -> Option<u64> {
        let message = timeout(LONG, self.responses.message()).await.expect("a heartbeat at least");
        match message.ok()??.response? {
            Kinds::Batch(batch) => {
                assert_eq!(batch.parts[0].rows, batch.position.as_ref()?.sequence);
                Some(batch.position?.sequence)
            }
            Kinds::Heartbeat(_) => Some(0),
            Kinds::Hello(_) => panic!("a second hello"),
        }
    }

    /// Batches up to the next pause.
    async fn batches(&mut self) -> Vec<u64> {
        let mut found = Vec::new();
        // The first heartbeat of a stream comes at once.
        let mut beats = 0;
        while beats < 2 {
            match self.next().await.unwrap() {
                0 => beats += 1,
                sequence => found.push(sequence),
            }
        }
        found
    }

    async fn batch(&mut self) -> u64 {
        loop {
            match self.next().await.unwrap() {
                0 => {}
                sequence => return sequence,
            }
        }
    }
}

#[tokio::test]
async fn no_more_than_the_window_is_under_way() {
    let served = Served::new().await;
    served.commit(1..=10);
    let mut client = served.subscribe("relay", None, 4).await;
    assert_eq!(
        (client.hello.node.as_str(), client.hello.oldest, client.hello.newest),
        ("n1", 1, 10)
    );
    assert_eq!(client.batches().await, [1, 2, 3, 4]);
    client.ack("boot-a", 2).await;
    assert_eq!(client.batches().await, [5, 6]);
    client.ack("boot-a", 6).await;
    assert_eq!(client.batches().await, [7, 8, 9, 10]);
    client.ack("boot-a", 10).await;
    // A batch that is committed comes without waiting for a heartbeat.
    served.commit(11..=11);
    assert_eq!(client.batch().await, 11);
}

#[tokio::test]
async fn a_new_stream_goes_on_after_what_is_durable() {
    let served = Served::new().await;
    served.commit(1..=6);
    let mut client = served.subscribe("relay", None, 0).await;
    assert_eq!(client.batches().await, [1, 2, 3, 4, 5, 6]);
    client.ack("boot-a", 3).await;
    // The acknowledgement is taken in order, so this shows that it was.
    served.commit(7..=7);
    assert_eq!(client.batch().await, 7);
    drop(client);
    let mut client = served.subscribe("relay", Some(at("boot-a", 5)), 0).await;
    assert_eq!(client.hello.oldest, 1, "nothing was evicted");
    assert_eq!(client.batches().await, [6, 7]);
    drop(client);
    // A relay that knows another boot, or nothing, or whose disk was put back to an older state,
    // gets what was not acknowledged; the last one can tell that it misses something.
    for (after, oldest) in [(Some(at("boot-z", 99)), 6), (None, 6), (Some(at("boot-a", 2)), 1)] {
        let mut client = served.subscribe("relay", after, 0).await;
        assert_eq!(client.hello.oldest, oldest);
        assert_eq!(client.batches().await, [6, 7]);
    }
    // Batches of the boot before come first.
    served.spool.begin("boot-b").unwrap();
    served.commit(1..=2);
    let mut client = served.subscribe("relay", Some(at("boot-a", 6)), 0).await;
    assert_eq!(client.batches().await, [7, 1, 2]);
    client.ack("boot-b", 1).await;
    served.commit(3..=3);
    assert_eq!(client.batch().await, 3);
    assert_eq!(served.spool.state().oldest, 2);
}

#[tokio::test]
async fn only_one_relays_acknowledgements_let_go() {
    let served = Served::new().await;
    served.commit(1..=5);
    let mut relay = served.subscribe("relay", None, 0).await;
    let mut other = served.subscribe("other", None, 0).await;
    let mut nameless = served.subscribe("", None, 0).await;
    for client in [&mut other, &mut nameless] {
        assert_eq!(client.batches().await, [1, 2, 3, 4, 5]);
        client.ack("boot-a", 5).await;
        client.batches().await;
    }
    assert_eq!(served.spool.state().oldest, 1);
    assert_eq!(relay.batches().await, [1, 2, 3, 4, 5]);
    // The same relay on a new stream takes over from its old one, which may only seem alive.
    let mut again = served.subscribe("relay", None, 0).await;
    assert_eq!(again.batches().await, [1, 2, 3, 4, 5]);
    relay.ack("boot-a", 3).await;
    relay.batches().await;
    assert_eq!(served.spool.state().oldest, 1);
    again.ack("boot-a", 4).await;
    again.batches().await;
    assert_eq!(served.spool.state().oldest, 5);
}

#[tokio::test]
async fn out_of_turn_is_an_error_and_the_end_is_an_end() {
    let served = Served::new().await;
    served.commit(1..=8);
    let mut client = served.subscribe("relay", None, 2).await;
    assert_eq!(client.batches().await, [1, 2]);
    client.ack("boot-a", 7).await;
    while let Some(message) = client.next().await {
        assert_eq!(message, 0);
    }
    assert_eq!(served.spool.state().oldest, 1, "what was not sent is not let go");

    let mut client = served.subscribe("relay", None, 2).await;
    served.closing.stop();
    while client.next().await.is_some() {}
    let gone = async {
        while Path::new(&served.dir.path().join("run/hubble.sock")).exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(LONG, gone).await.expect("the socket is taken away");
}

#[tokio::test]
async fn says_how_it_is() {
    let served = Served::new().await;
    served.commit(1..=2);
    let mut client = ExportClient::new(served.channel().await);
    let status = client.status(StatusRequest {}).await.unwrap().into_inner();
    assert_eq!((status.node.as_str(), status.boot_id.as_str()), ("n1", "boot-a"));
    assert_eq!(status.warnings, ["manifests: a.yaml:3: broken"]);
    let spool = status.stages.iter().find(|stage| stage.name == "spool").unwrap();
    assert_eq!((spool.taken, spool.held), (2, 2));
}

#[tokio::test]
async fn a_dead_agents_socket_is_replaced_and_a_living_ones_is_not() {
    let served = Served::new().await;
    let path = served.dir.path().join("run/hubble.sock");
    let error = Listeners::bind(Some(&path), &[]).await.unwrap_err();
    assert!(error.to_string().contains("another agent"), "{error}");
    let stale = served.dir.path().join("stale.sock");
    drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
    assert!(stale.exists());
    Listeners::bind(Some(&stale), &[]).await.unwrap();
}
