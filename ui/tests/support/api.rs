//! A server over a real store, and a client.
#![allow(dead_code, reason = "each test uses a part")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use columns::Table;
use columns::ipc::{Compression, encode};
use columns::rows::{BatchBuilder, FlowEnd, FlowRow, LossRow};
use flowstore::Store;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{HeaderMap, Request, Response};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use stage::StopToken;
use ui::{Backend, Node, Server};

/// What the process around the server would say.
#[derive(Debug)]
struct Fixed(prometheus::Registry);

impl Backend for Fixed {
    fn nodes(&self) -> Vec<Node> {
        let node = |name: &str, connected| Node {
            name: name.to_owned(),
            connected,
            mode: Some("observe".to_owned()),
            ..Node::default()
        };
        vec![node("a", true), node("b", false)]
    }

    fn metrics(&self) -> String {
        prometheus::TextEncoder::new().encode_to_string(&self.0.gather()).unwrap()
    }

    fn ready(&self) -> Result<(), String> {
        Ok(())
    }
}

/// A server and a client of it.
pub(crate) struct Api {
    pub(crate) address: SocketAddr,
    pub(crate) store: Store,
    client: Client<HttpConnector, Full<Bytes>>,
    stop: StopToken,
    _directory: tempfile::TempDir,
}

/// An answer, read to its end.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// A live stream.
pub(crate) struct Live {
    body: Incoming,
    buffer: String,
}

/// A server-sent event.
#[derive(Debug)]
pub(crate) struct Event {
    pub(crate) kind: String,
    pub(crate) id: Option<String>,
    pub(crate) data: Value,
}

// === impl Api ===

impl Api {
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub(crate) async fn start_with(change: impl FnOnce(&mut ui::Config)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let registry = prometheus::Registry::new();
        let stages = stage::Registry::new();
        let stop = StopToken::new();
        let config = flowstore::Config::new(directory.path());
        let (store, _) = Store::open(config, &registry, stages.clone(), stop.clone()).unwrap();
        let mut config = ui::Config::new("127.0.0.1:0".parse().unwrap());
        change(&mut config);
        let backend = Arc::new(Fixed(registry.clone()));
        let server =
            Server::bind(config, store.clone(), backend, &registry, &stages).await.unwrap();
        let address = server.local_addr();
        tokio::spawn(server.run(stop.clone()));
        let client = Client::builder(TokioExecutor::new()).build_http();
        Self { address, store, client, stop, _directory: directory }
    }

    pub(crate) async fn put_flows(&self, rows: &[FlowRow<'_>]) {
        let mut builder = BatchBuilder::new(Table::Flows);
        for row in rows {
            row.push(&mut builder);
        }
        self.put(Table::Flows, builder).await;
    }

    pub(crate) async fn put_drops(&self, rows: &[columns::rows::DropRow<'_>]) {
        let mut builder = BatchBuilder::new(Table::Drops);
        for row in rows {
            row.push(&mut builder);
        }
        self.put(Table::Drops, builder).await;
    }

    pub(crate) async fn put_losses(&self, rows: &[LossRow<'_>]) {
        let mut builder = BatchBuilder::new(Table::Losses);
        for row in rows {
            row.push(&mut builder);
        }
        self.put(Table::Losses, builder).await;
    }

    async fn put(&self, table: Table, mut builder: BatchBuilder) {
        let bytes = encode(&builder.finish(), Compression::None).unwrap();
        self.store.append_local(vec![(table, bytes.into())]).await.unwrap();
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.get_with(path, &[]).await
    }

    pub(crate) async fn get_with(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        let mut request = Request::get(format!("http://{}{path}", self.address));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send(request.body(Full::default()).unwrap()).await
    }

    /// The JSON of an answer that must be fine.
    pub(crate) async fn json(&self, path: &str) -> Value {
        let answer = self.get(path).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        answer.parse()
    }

    pub(crate) async fn post(&self, path: &str, kind: &str, body: String) -> Answer {
        let request = Request::post(format!("http://{}{path}", self.address))
            .header("content-type", kind)
            .body(Full::from(body));
        self.send(request.unwrap()).await
    }

    pub(crate) async fn post_sql(&self, query: &str, accept: &str) -> Answer {
        let request = Request::post(format!("http://{}/api/v1/sql", self.address))
            .header("content-type", "text/plain")
            .header("accept", accept)
            .body(Full::from(query.to_owned()));
        self.send(request.unwrap()).await
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> Answer {
        let response: Response<Incoming> = self.client.request(request).await.unwrap();
        let (head, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Answer { status: head.status.as_u16(), headers: head.headers, body }
    }

    pub(crate) async fn follow(&self, query: &str, last: Option<&str>) -> Live {
        let uri = format!("http://{}/api/v1/flows?follow=true&{query}", self.address);
        let mut request = Request::get(uri);
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let response = self.client.request(request.body(Full::default()).unwrap()).await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Live { body: response.into_body(), buffer: String::new() }
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        self.stop.stop();
    }
}

// === impl Answer ===

impl Answer {
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub(crate) fn parse(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The code of an error.
    pub(crate) fn code(&self) -> String {
        let body = self.parse();
        assert!(body["error"]["message"].is_string(), "{body}");
        body["error"]["code"].as_str().unwrap().to_owned()
    }
}

// === impl Live ===

impl Live {
    pub(crate) async fn next(&mut self) -> Event {
        loop {
            if let Some(end) = self.buffer.find("\n\n") {
                let text: String = self.buffer.drain(..end + 2).collect();
                let field = |name: &str| {
                    text.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned)
                };
                return Event {
                    kind: field("event: ").unwrap_or_default(),
                    id: field("id: "),
                    data: serde_json::from_str(&field("data: ").unwrap_or_default()).unwrap(),
                };
            }
            let frame = tokio::time::timeout(Duration::from_secs(10), self.body.frame());
            let frame = frame.await.expect("an event in time").expect("no end").unwrap();
            self.buffer.push_str(std::str::from_utf8(frame.data_ref().unwrap()).unwrap());
        }
    }

    pub(crate) async fn until(&mut self, kind: &str) -> Event {
        loop {
            let event = self.next().await;
            if event.kind == kind {
                return event;
            }
        }
    }
}

/// A flow from shop/web to data/redis, a moment ago.
pub(crate) fn flow(
    id: u64,
    reporter: &'static str,
    node: &'static str,
    interface: &'static str,
    seq: u32,
) -> FlowRow<'static> {
    let end = ui::time::now() - 1_000_000_000;
    FlowRow {
        flow_id: leak(format!("{id:016x}")),
        seq,
        start_time: end - 500_000_000,
        end_time: end,
        cluster: "default",
        node,
        interface,
        reporter,
        direction: "EGRESS",
        ip_version: 4,
        protocol: "TCP",
        source_ip: "10.0.0.1",
        source_port: Some(40_000),
        destination_ip: "10.96.0.9",
        destination_port: Some(6379),
        source: FlowEnd {
            identity: Some(1001),
            namespace: "shop",
            pod: "web-7d",
            workload: "web",
            workload_kind: "Deployment",
            labels: list(&["app=web", "tier=front"]),
            node: "a",
            ..FlowEnd::default()
        },
        destination: FlowEnd {
            identity: Some(1002),
            namespace: "data",
            pod: "redis-0",
            workload: "redis",
            workload_kind: "StatefulSet",
            labels: list(&["app=redis"]),
            names: list(&["redis.data.svc.cluster.local"]),
            node: "b",
        },
        destination_service: "redis",
        destination_service_namespace: "data",
        process_name: "nginx",
        verdict: "FORWARDED",
        packets_out: 10,
        bytes_out: 1000,
        packets_in: 8,
        bytes_in: 2000,
        tcp_flags: &["SYN", "ACK"],
        rtt_us: Some(250),
        ..FlowRow::default()
    }
}

/// A loss, a moment ago.
pub(crate) fn loss(
    node: &'static str,
    stage: &'static str,
    cause: &'static str,
    events: u64,
) -> LossRow<'static> {
    let time = ui::time::now() - 1_000_000_000;
    LossRow { time, node, stage, cause, events, ..LossRow::default() }
}

fn leak(text: String) -> &'static str {
    Box::leak(text.into_boxed_str())
}

fn list(words: &[&str]) -> &'static [String] {
    let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
    Box::leak(words.into_boxed_slice())
}

/// Three packets from shop/web to data/redis that the kernel dropped a moment ago.
pub(crate) fn drop() -> columns::rows::DropRow<'static> {
    columns::rows::DropRow {
        time: ui::time::now() - 1_000_000_000,
        cluster: "default",
        node: "a",
        interface: "veth0",
        protocol: "TCP",
        source_ip: "10.0.0.1",
        destination_ip: "10.96.0.9",
        destination_port: Some(6379),
        destination_namespace: "data",
        destination_workload: "redis",
        drop_reason: "POLICY_DENIED",
        kernel_reason: "NETFILTER_DROP",
        drop_location: "nf_hook_slow",
        packets: 3,
        bytes: 180,
        ..columns::rows::DropRow::default()
    }
}
