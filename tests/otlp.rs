//! Weir's own traces and metrics reach an OTLP collector over gRPC: the real processes, and the
//! protocol's own server.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use harness::weir::Binaries;
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_server::{
    MetricsService, MetricsServiceServer,
};
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use tonic::{Request, Response, Status};

/// What came.
#[derive(Debug, Default, Clone)]
struct Collector {
    services: Arc<Mutex<Vec<String>>>,
    spans: Arc<Mutex<Vec<String>>>,
    metrics: Arc<Mutex<Vec<String>>>,
}

// === impl Collector ===

impl Collector {
    fn has(list: &Mutex<Vec<String>>, name: &str) -> bool {
        list.lock().unwrap().iter().any(|one| one == name)
    }

    fn from(&self, resource: Option<&opentelemetry_proto::tonic::resource::v1::Resource>) {
        let attributes = resource.into_iter().flat_map(|resource| &resource.attributes);
        let names = attributes
            .filter(|attribute| attribute.key == "service.name")
            .map(|attribute| format!("{:?}", attribute.value));
        self.services.lock().unwrap().extend(names);
    }
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        for resource in request.into_inner().resource_spans {
            self.from(resource.resource.as_ref());
            let spans = resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
            self.spans.lock().unwrap().extend(spans.map(|span| span.name));
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl MetricsService for Collector {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        for resource in request.into_inner().resource_metrics {
            self.from(resource.resource.as_ref());
            let metrics = resource.scope_metrics.into_iter().flat_map(|scope| scope.metrics);
            self.metrics.lock().unwrap().extend(metrics.map(|metric| metric.name));
        }
        Ok(Response::new(ExportMetricsServiceResponse::default()))
    }
}

fn binary(name: &str) -> PathBuf {
    Binaries::beside_this().unwrap().path(name).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn traces_and_metrics_reach_a_collector() {
    let collector = Collector::default();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = tonic::transport::Server::builder()
        .add_service(TraceServiceServer::new(collector.clone()))
        .add_service(MetricsServiceServer::new(collector.clone()))
        .serve_with_incoming(tokio_stream::wrappers::TcpListenerStream::new(listener));
    let server = tokio::spawn(serving);

    let directory = tempfile::tempdir().unwrap();
    let free: SocketAddr = {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        taken.local_addr().unwrap()
    };
    let page = free.to_string();
    let mut relay = Command::new(binary("weir-relay"))
        .args(["--listen", &page, "--metrics", "off", "--grpc", "off", "--data-dir"])
        .arg(directory.path())
        .args(["--otlp-endpoint", &format!("http://{address}")])
        .args(["--peers", &format!("unix://{}/none.sock", directory.path().display())])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let ask = || {
        let mut command = Command::new(binary("weir"));
        command.args(["sql", "--server", &page, "SELECT 1"]).stderr(Stdio::null());
        command.stdout(Stdio::null()).status().unwrap().success()
    };
    let began = Instant::now();
    while !ask() {
        assert!(began.elapsed() < Duration::from_secs(30), "the relay does not answer");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    // What is left is sent when it stops.
    let pid = relay.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    let status = tokio::task::spawn_blocking(move || relay.wait().unwrap()).await.unwrap();
    assert!(status.success(), "{status}");
    assert!(Collector::has(&collector.spans, "query"), "{:?}", collector.spans);
    // One without labels, and one whose labels came up only with the query.
    for name in ["weir_store_hot_rows", "weir_store_query_seconds"] {
        assert!(Collector::has(&collector.metrics, name), "{name} of {:?}", collector.metrics);
    }
    assert!(collector.services.lock().unwrap().iter().all(|one| one.contains("weir-relay")));
    server.abort();
}
