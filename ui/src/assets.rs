//! The page: files built from `ui/web`, inside the program.
//!
//! Files under `assets/` carry a hash of their content in their name and are kept for a year;
//! everything else is asked for again each time and answered with 304 while it is the same.

use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use rust_embed::{EmbeddedFile, RustEmbed};

use crate::error::ApiError;

/// Served in place of a page that was not built.
const NOT_BUILT: &str = include_str!("not_built.html");

/// The files of the page; none when it was not built.
#[derive(RustEmbed)]
#[folder = "$CARGO_MANIFEST_DIR/web/dist"]
#[allow_missing = true]
struct Dist;

/// A file of the page, or the page itself for every path that is a view of it.
pub(crate) async fn get(method: Method, uri: Uri, headers: HeaderMap) -> Response {
    if method != Method::GET && method != Method::HEAD {
        return ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "bad_method", "expected GET")
            .into_response();
    }
    let path = uri.path().trim_start_matches('/');
    if let Some(file) = (!path.is_empty()).then(|| Dist::get(path)).flatten() {
        return answer(path, &file, &headers);
    }
    if path.starts_with("assets/") {
        return (StatusCode::NOT_FOUND, "there is no such file\n").into_response();
    }
    match Dist::get("index.html") {
        Some(file) => answer("index.html", &file, &headers),
        None => {
            let kind = HeaderValue::from_static("text/html; charset=utf-8");
            ([(header::CONTENT_TYPE, kind)], NOT_BUILT).into_response()
        }
    }
}

fn answer(path: &str, file: &EmbeddedFile, headers: &HeaderMap) -> Response {
    let tag = tag(file);
    let lasting = path.starts_with("assets/");
    let cache = if lasting { "public, max-age=31536000, immutable" } else { "no-cache" };
    let known =
        headers.get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok()).is_some_and(
            |known| known.split(',').any(|one| one.trim().trim_start_matches("W/") == tag),
        );
    let mut response = if known {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        let kind = file.metadata.mimetype();
        let kind = HeaderValue::from_str(kind)
            .unwrap_or(HeaderValue::from_static("application/octet-stream"));
        ([(header::CONTENT_TYPE, kind)], file.data.clone().into_owned()).into_response()
    };
    let own = response.headers_mut();
    own.insert(header::CACHE_CONTROL, HeaderValue::from_static(cache));
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        own.insert(header::ETAG, tag);
    }
    response
}

/// The first half of the content's SHA-256.
fn tag(file: &EmbeddedFile) -> String {
    let mut tag = String::with_capacity(34);
    tag.push('"');
    for byte in &file.metadata.sha256_hash()[..16] {
        tag.push_str(&format!("{byte:02x}"));
    }
    tag.push('"');
    tag
}
