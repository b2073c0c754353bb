//! JSON answers.

use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse as _, Response};
use model::Completeness;
use serde::Serialize;

use crate::completeness::Report;

/// An answer of JSON text.
pub(crate) fn text(body: String) -> Response {
    ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], body).into_response()
}

/// An answer of plain fields.
pub(crate) fn json(body: &impl Serialize) -> Response {
    text(serde_json::to_string(body).expect("plain fields always serialise"))
}

/// Ends an object that was begun with how complete it is.
pub(crate) fn with_completeness(mut body: String, completeness: &Completeness) -> Response {
    body.push_str(",\"completeness\":");
    body.push_str(&Report(completeness).json());
    body.push('}');
    text(body)
}
