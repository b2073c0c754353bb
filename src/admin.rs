//! The small HTTP server of each process: `/metrics`, `/healthz`, `/readyz`, `/debug/config`.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::CONTENT_TYPE;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use stage::StopToken;
use tokio::net::TcpListener;

/// What the server tells.
pub struct Admin {
    /// The process's metrics.
    pub registry: prometheus::Registry,
    /// Its stages; brought up to date before each answer.
    pub stages: stage::StageMetrics,
    /// Whether it can do its work now, else why not.
    pub ready: Box<dyn Fn() -> Result<(), String> + Send + Sync>,
    /// The configuration in force.
    pub config: String,
}

// === impl Admin ===

impl std::fmt::Debug for Admin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Admin").finish_non_exhaustive()
    }
}

impl Admin {
    /// The text of `/metrics`.
    pub fn metrics(&self) -> String {
        self.stages.refresh();
        prometheus::TextEncoder::new()
            .encode_to_string(&self.registry.gather())
            .unwrap_or_else(|error| format!("# {error}\n"))
    }

    /// Opens `address` and answers until `stop`.
    ///
    /// # Errors
    /// When the port is taken.
    pub async fn serve(self: Arc<Self>, address: SocketAddr, stop: StopToken) -> Result<()> {
        let listener = TcpListener::bind(address).await.with_context(|| {
            format!("cannot listen on {address} for metrics (choose another with --metrics, or `--metrics off`)")
        })?;
        tokio::spawn(async move {
            loop {
                let accepted = tokio::select! {
                    () = stop.stopped() => return,
                    accepted = listener.accept() => accepted,
                };
                let Ok((stream, _)) = accepted else { continue };
                let admin = Arc::clone(&self);
                tokio::spawn(async move {
                    let service = service_fn(move |request| {
                        let answer = admin.answer(&request);
                        async move { Ok::<_, Infallible>(answer) }
                    });
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        Ok(())
    }

    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let (status, text) = match request.uri().path() {
            "/metrics" => (StatusCode::OK, self.metrics()),
            "/healthz" => (StatusCode::OK, "ok\n".to_owned()),
            "/readyz" => match (self.ready)() {
                Ok(()) => (StatusCode::OK, "ok\n".to_owned()),
                Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
            },
            "/debug/config" => (StatusCode::OK, self.config.clone()),
            _ => (StatusCode::NOT_FOUND, "not found\n".to_owned()),
        };
        let mut response = Response::new(Full::new(Bytes::from(text)));
        *response.status_mut() = status;
        let kind = "text/plain; version=0.0.4; charset=utf-8";
        response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(kind));
        response
    }
}
