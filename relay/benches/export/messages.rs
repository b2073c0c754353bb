//! Hubble's way: `observer.Observer/GetFlows`, a stream with a protobuf message per flow.
//!
//! The messages have the fields, numbers and types of Hubble's; what the rows have nothing for
//! (MAC addresses, emitter, tunnel, trace context) is left out, which makes them smaller.

use std::convert::Infallible;
use std::future::Ready;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::Stream;
use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic::server::{NamedService, ServerStreamingService};
use tonic::transport::Channel;
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

use crate::Failure;
use crate::rows::{self, Checksum, Party, Rows};

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct GetFlowsRequest {
    #[prost(uint64, tag = "1")]
    number: u64,
    #[prost(bool, tag = "3")]
    follow: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct GetFlowsResponse {
    #[prost(message, optional, tag = "1")]
    flow: Option<Flow>,
    #[prost(string, tag = "1000")]
    node_name: String,
    #[prost(message, optional, tag = "1001")]
    time: Option<Timestamp>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Flow {
    #[prost(message, optional, tag = "1")]
    time: Option<Timestamp>,
    #[prost(string, tag = "34")]
    uuid: String,
    #[prost(int32, tag = "2")]
    verdict: i32,
    #[prost(message, optional, tag = "5")]
    ip: Option<Ip>,
    #[prost(message, optional, tag = "6")]
    l4: Option<Layer4>,
    #[prost(message, optional, tag = "8")]
    source: Option<FlowEndpoint>,
    #[prost(message, optional, tag = "9")]
    destination: Option<FlowEndpoint>,
    #[prost(int32, tag = "10")]
    flow_type: i32,
    #[prost(string, tag = "11")]
    node_name: String,
    #[prost(string, repeated, tag = "13")]
    source_names: Vec<String>,
    #[prost(string, repeated, tag = "14")]
    destination_names: Vec<String>,
    #[prost(message, optional, tag = "19")]
    event_type: Option<CiliumEventType>,
    #[prost(message, optional, tag = "21")]
    destination_service: Option<Named>,
    #[prost(int32, tag = "22")]
    traffic_direction: i32,
    #[prost(uint32, tag = "23")]
    policy_match_type: u32,
    #[prost(int32, tag = "24")]
    trace_observation_point: i32,
    #[prost(int32, tag = "36")]
    trace_reason: i32,
    #[prost(int32, tag = "25")]
    drop_reason_desc: i32,
    #[prost(message, optional, tag = "26")]
    is_reply: Option<BoolValue>,
    #[prost(message, optional, tag = "28")]
    interface: Option<NetworkInterface>,
    #[prost(message, repeated, tag = "21001")]
    egress_allowed_by: Vec<Policy>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Timestamp {
    #[prost(int64, tag = "1")]
    seconds: i64,
    #[prost(int32, tag = "2")]
    nanos: i32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Ip {
    #[prost(string, tag = "1")]
    source: String,
    #[prost(string, tag = "2")]
    destination: String,
    #[prost(int32, tag = "3")]
    version: i32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Layer4 {
    #[prost(oneof = "Protocol", tags = "1, 2")]
    protocol: Option<Protocol>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Protocol {
    #[prost(message, tag = "1")]
    Tcp(Tcp),
    #[prost(message, tag = "2")]
    Udp(Udp),
}

#[derive(Clone, PartialEq, prost::Message)]
struct Tcp {
    #[prost(uint32, tag = "1")]
    source_port: u32,
    #[prost(uint32, tag = "2")]
    destination_port: u32,
    #[prost(message, optional, tag = "3")]
    flags: Option<TcpFlags>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Udp {
    #[prost(uint32, tag = "1")]
    source_port: u32,
    #[prost(uint32, tag = "2")]
    destination_port: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct TcpFlags {
    #[prost(bool, tag = "1")]
    fin: bool,
    #[prost(bool, tag = "2")]
    syn: bool,
    #[prost(bool, tag = "4")]
    psh: bool,
    #[prost(bool, tag = "5")]
    ack: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
struct FlowEndpoint {
    #[prost(uint32, tag = "1")]
    id: u32,
    #[prost(uint32, tag = "2")]
    identity: u32,
    #[prost(string, tag = "7")]
    cluster_name: String,
    #[prost(string, tag = "3")]
    namespace: String,
    #[prost(string, repeated, tag = "4")]
    labels: Vec<String>,
    #[prost(string, tag = "5")]
    pod_name: String,
    #[prost(message, repeated, tag = "6")]
    workloads: Vec<Named>,
}

/// A workload (name, kind) or a service (name, namespace).
#[derive(Clone, PartialEq, prost::Message)]
struct Named {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    of: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct CiliumEventType {
    #[prost(int32, tag = "1")]
    event: i32,
    #[prost(int32, tag = "2")]
    sub_type: i32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct BoolValue {
    #[prost(bool, tag = "1")]
    value: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
struct NetworkInterface {
    #[prost(uint32, tag = "1")]
    index: u32,
    #[prost(string, tag = "2")]
    name: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Policy {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    namespace: String,
    #[prost(uint64, tag = "4")]
    revision: u64,
    #[prost(string, tag = "5")]
    kind: String,
}

/// Serves the flows, from the first, to everyone.
#[derive(Debug, Clone)]
pub(crate) struct Observer(Arc<Rows>);

type Answer<T> = Ready<Result<Response<T>, Status>>;

/// Receives and decodes everything.
pub(crate) async fn receive(channel: Channel) -> Result<Checksum, Failure> {
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await?;
    let codec = ProstCodec::<GetFlowsRequest, GetFlowsResponse>::default();
    let path = http::uri::PathAndQuery::from_static("/observer.Observer/GetFlows");
    let request = Request::new(GetFlowsRequest { number: u64::MAX, follow: false });
    let mut inbound = client.server_streaming(request, path, codec).await?.into_inner();
    let mut checksum = Checksum::default();
    while let Some(message) = inbound.message().await? {
        let flow = message.flow.ok_or("no flow")?;
        match flow.l4.and_then(|l4| l4.protocol).ok_or("no protocol")? {
            Protocol::Tcp(tcp) => checksum.add(tcp.source_port as u16),
            Protocol::Udp(udp) => checksum.add(udp.source_port as u16),
        }
    }
    Ok(checksum)
}

// === impl Observer ===

impl Observer {
    pub(crate) fn new(rows: Arc<Rows>) -> Self {
        Self(rows)
    }
}

impl NamedService for Observer {
    const NAME: &'static str = "observer.Observer";
}

impl Service<http::Request<Body>> for Observer {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let observer = self.clone();
        Box::pin(async move {
            let codec = ProstCodec::<GetFlowsResponse, GetFlowsRequest>::default();
            Ok(tonic::server::Grpc::new(codec).server_streaming(observer, request).await)
        })
    }
}

impl ServerStreamingService<GetFlowsRequest> for Observer {
    type Response = GetFlowsResponse;
    type ResponseStream = Pin<Box<dyn Stream<Item = Result<GetFlowsResponse, Status>> + Send>>;
    type Future = Answer<Self::ResponseStream>;

    fn call(&mut self, _: Request<GetFlowsRequest>) -> Self::Future {
        let rows = Arc::clone(&self.0);
        let responses = (0..rows.len()).map_while(move |row| Some(Ok(response(&rows, row)?)));
        std::future::ready(Ok(Response::new(Box::pin(futures::stream::iter(responses)))))
    }
}

fn response(rows: &Rows, row: usize) -> Option<GetFlowsResponse> {
    let flow = rows.get(row)?;
    let (source, destination) = (&rows.parties[flow.source], &rows.parties[flow.destination]);
    let (source_port, destination_port) =
        (u32::from(flow.source_port), u32::from(flow.destination_port));
    let protocol = if flow.tcp {
        let flags = TcpFlags { fin: flow.closed, syn: flow.seq == 0, psh: true, ack: true };
        Protocol::Tcp(Tcp { source_port, destination_port, flags: Some(flags) })
    } else {
        Protocol::Udp(Udp { source_port, destination_port })
    };
    let time = Timestamp {
        seconds: flow.start / 1_000_000_000,
        nanos: (flow.start % 1_000_000_000) as i32,
    };
    let service = Named { name: destination.service.clone(), of: destination.namespace.clone() };
    let policy = Policy {
        name: source.workload.clone(),
        namespace: source.namespace.clone(),
        revision: 7,
        kind: "NetworkPolicy".to_owned(),
    };
    let flow = Flow {
        time: Some(time.clone()),
        uuid: flow.uuid.clone(),
        verdict: if flow.dropped { 2 } else { 1 },
        ip: Some(Ip { source: source.ip.clone(), destination: destination.ip.clone(), version: 1 }),
        l4: Some(Layer4 { protocol: Some(protocol) }),
        source: Some(source.into()),
        destination: Some(destination.into()),
        flow_type: 1,
        node_name: rows::NODE.to_owned(),
        source_names: source.names.clone(),
        destination_names: destination.names.clone(),
        event_type: Some(CiliumEventType { event: 4, sub_type: 3 }),
        destination_service: (!destination.service.is_empty()).then_some(service),
        traffic_direction: 2,
        policy_match_type: 1,
        trace_observation_point: 3,
        trace_reason: 1,
        drop_reason_desc: if flow.dropped { 133 } else { 0 },
        is_reply: Some(BoolValue { value: false }),
        interface: Some(NetworkInterface { index: 7, name: source.interface.clone() }),
        egress_allowed_by: vec![policy],
    };
    Some(GetFlowsResponse { flow: Some(flow), node_name: rows::NODE.to_owned(), time: Some(time) })
}

// === impl FlowEndpoint ===

impl From<&Party> for FlowEndpoint {
    fn from(party: &Party) -> Self {
        let workload = Named { name: party.workload.clone(), of: party.kind().to_owned() };
        Self {
            id: party.identity & 0xfff,
            identity: party.identity,
            cluster_name: if party.pod.is_empty() { String::new() } else { "default".to_owned() },
            namespace: party.namespace.clone(),
            labels: party.labels.clone(),
            pod_name: party.pod.clone(),
            workloads: if party.pod.is_empty() { Vec::new() } else { vec![workload] },
        }
    }
}
