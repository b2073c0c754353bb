//! What every request and every answer passes.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

use crate::app::App;
use crate::error::ApiError;

/// The page loads its own scripts, styles and pictures and talks to its own server: nothing else.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
    connect-src 'self'; img-src 'self'; font-src 'self'; worker-src 'self'; base-uri 'none'; \
    form-action 'none'; frame-ancestors 'none'";

/// Names that a request may be for.
#[derive(Debug, Clone)]
pub(crate) struct Hosts(Option<Arc<[String]>>);

// === impl Hosts ===

impl Hosts {
    pub(crate) fn new(loopback: bool, more: &[String]) -> Self {
        Self(loopback.then(|| more.iter().map(|name| name.to_ascii_lowercase()).collect()))
    }

    fn allow(&self, host: &str) -> bool {
        let Some(more) = &self.0 else { return true };
        let name = name_of(host).to_ascii_lowercase();
        let literal = name.trim_start_matches('[').trim_end_matches(']');
        name == "localhost"
            || name.ends_with(".localhost")
            || literal.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
            || more.contains(&name)
    }
}

/// The name in `name:port`; an IPv6 address keeps its brackets.
fn name_of(host: &str) -> &str {
    match host.rfind(':') {
        Some(at) if !host[at..].contains(']') => &host[..at],
        _ => host,
    }
}

/// Refuses requests for names that are not this machine's, when only this machine can connect: a
/// page whose name resolves to 127.0.0.1 would read what is here (DNS rebinding).
pub(crate) async fn host(State(hosts): State<Hosts>, request: Request, next: Next) -> Response {
    let host = request
        .headers()
        .get(header::HOST)
        .and_then(|value| value.to_str().ok())
        .or_else(|| request.uri().authority().map(|authority| authority.as_str()))
        .unwrap_or_default();
    if hosts.allow(host) {
        return next.run(request).await;
    }
    ApiError::new(
        StatusCode::MISDIRECTED_REQUEST,
        "bad_host",
        format!("{host:?} is not a name of this machine"),
    )
    .hint("open it as http://127.0.0.1 or http://localhost, or allow the name with --allow-host")
    .into_response()
}

/// Refuses what a browser says comes from another site's page.
pub(crate) async fn same_origin(request: Request, next: Next) -> Response {
    let site = request.headers().get("sec-fetch-site").map(HeaderValue::as_bytes);
    let cross = matches!(site, Some(b"cross-site" | b"same-site"));
    // Following a link here is fine: the browser shows the answer to nobody but its user.
    let mode = request.headers().get("sec-fetch-mode").map(HeaderValue::as_bytes);
    if cross && mode != Some(b"navigate") {
        return ApiError::new(
            StatusCode::FORBIDDEN,
            "cross_site",
            "the page of another site asked for this",
        )
        .into_response();
    }
    next.run(request).await
}

/// Counts requests by route.
pub(crate) async fn measure(State(app): State<App>, request: Request, next: Next) -> Response {
    let path = request
        .extensions()
        .get::<MatchedPath>()
        .map_or_else(|| "unknown".to_owned(), |path| path.as_str().to_owned());
    let started = Instant::now();
    let response = next.run(request).await;
    let metrics = app.metrics();
    let elapsed = started.elapsed().as_secs_f64();
    metrics.seconds.with_label_values(&[path.as_str()]).observe(elapsed);
    metrics.requests.with_label_values(&[path.as_str(), response.status().as_str()]).inc();
    response
}

/// Sets the headers that keep a page to itself.
pub(crate) async fn headers(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    let mut set = |name: HeaderName, value: &'static str| {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    };
    set(header::CONTENT_SECURITY_POLICY, POLICY);
    set(header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    set(header::REFERRER_POLICY, "no-referrer");
    set(HeaderName::from_static("cross-origin-resource-policy"), "same-origin");
    set(HeaderName::from_static("cross-origin-opener-policy"), "same-origin");
    // Answers are of the moment they were asked.
    set(header::CACHE_CONTROL, "no-store");
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts() {
        let local = Hosts::new(true, &["Weir.Example".to_owned()]);
        for good in [
            "localhost",
            "localhost:4280",
            "127.0.0.1:4280",
            "127.8.9.1",
            "[::1]:4280",
            "[::1]",
            "weir.localhost:1",
            "weir.example:4280",
        ] {
            assert!(local.allow(good), "{good}");
        }
        for bad in
            ["", "example.com", "example.com:4280", "10.0.0.1", "localhost.evil.com", "[::2]"]
        {
            assert!(!local.allow(bad), "{bad}");
        }
        assert!(Hosts::new(false, &[]).allow("example.com"));
    }
}
