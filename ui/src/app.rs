//! The routes, and what all of them share.

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, Uri, header};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use flowstore::Store;
use stage::StopToken;
use tower_http::compression::CompressionLayer;

use crate::backend::Backend;
use crate::error::ApiError;
use crate::hub::Hub;
use crate::metrics::Metrics;
use crate::{Config, assets, flows, graph, guard, nodes, sql, status, things, timeline, values};

/// The description of the API, served as it is.
const OPENAPI: &str = include_str!("openapi.json");

/// What every handler may use.
#[derive(Debug, Clone)]
pub(crate) struct App(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    config: Config,
    store: Store,
    backend: Arc<dyn Backend>,
    hub: Hub,
    metrics: Metrics,
    started: Instant,
}

// === impl App ===

impl App {
    pub(crate) fn new(
        config: Config,
        store: Store,
        backend: Arc<dyn Backend>,
        hub: Hub,
        metrics: Metrics,
    ) -> Self {
        let started = Instant::now();
        Self(Arc::new(Inner { config, store, backend, hub, metrics, started }))
    }

    pub(crate) fn config(&self) -> &Config {
        &self.0.config
    }

    pub(crate) fn store(&self) -> &Store {
        &self.0.store
    }

    pub(crate) fn backend(&self) -> &dyn Backend {
        &*self.0.backend
    }

    pub(crate) fn hub(&self) -> &Hub {
        &self.0.hub
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    pub(crate) fn uptime_s(&self) -> u64 {
        self.0.started.elapsed().as_secs()
    }
}

/// Every route. `loopback`: the server can be reached from this machine only, so a request for
/// another host's name was led here by somebody's page.
pub(crate) fn router(app: App, loopback: bool, stop: &StopToken) -> Router {
    let api = Router::new()
        .route("/sql", post(sql::post))
        .route("/flows", get(flows::list))
        .route("/flows/{flow_id}", get(flows::one))
        .route("/map", get(graph::get))
        .route("/timeline", get(timeline::get))
        .route("/complete", get(values::get))
        .route("/nodes", get(nodes::get))
        .route("/losses", get(status::losses))
        .route("/services", get(things::services))
        .route("/policies", get(things::policies))
        .route("/status", get(status::get))
        .route("/openapi.json", get(openapi))
        .fallback(unknown_path)
        .method_not_allowed_fallback(unknown_method)
        .layer(middleware::from_fn_with_state(app.clone(), guard::measure))
        .layer(middleware::from_fn(guard::same_origin));
    let hosts = guard::Hosts::new(loopback, &app.config().hosts);
    Router::new()
        .nest("/api/v1", api)
        .route("/api", get(unknown_path))
        .route("/api/{*rest}", get(unknown_path).fallback(unknown_path))
        .route("/metrics", get(metrics))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .fallback(assets::get)
        .layer(CompressionLayer::new())
        .layer(middleware::from_fn(guard::headers))
        .layer(middleware::from_fn_with_state(hosts, guard::host))
        .layer(axum::Extension(stop.clone()))
        .with_state(app)
}

async fn openapi() -> Response {
    ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], OPENAPI)
        .into_response()
}

async fn metrics(State(app): State<App>) -> Response {
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    ([(header::CONTENT_TYPE, kind)], app.backend().metrics()).into_response()
}

async fn ready(State(app): State<App>) -> Response {
    match app.backend().ready() {
        Ok(()) => "ok\n".into_response(),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response(),
    }
}

async fn unknown_path(uri: Uri) -> ApiError {
    ApiError::not_found(format!("there is no {}", uri.path()))
        .hint("the paths are listed in /api/v1/openapi.json")
}

async fn unknown_method(uri: Uri) -> ApiError {
    ApiError::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "bad_method",
        format!("{} does not take this method", uri.path()),
    )
    .hint("/api/v1/sql takes POST, everything else GET")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn description_is_json() {
        let description: serde_json::Value = serde_json::from_str(OPENAPI).unwrap();
        assert_eq!(description["openapi"], "3.1.0");
        for (name, _) in crate::filter::NAMES {
            let parameters = &description["components"]["parameters"];
            assert!(parameters.get(name).is_some(), "{name} is not described");
        }
    }
}
