//! `/complete`: values for the filter bar that really occur.

use axum::extract::State;
use axum::response::Response;
use serde::Serialize;

use crate::answer;
use crate::app::App;
use crate::ask::text;
use crate::error::ApiError;
use crate::flows::DEFAULT_SPAN;
use crate::params::Params;
use crate::{filter, statement, time};

#[derive(Serialize)]
struct Values {
    values: Vec<String>,
}

/// Answers with values of `field` that contain `prefix`; those that begin with it come first.
pub(crate) async fn get(State(app): State<App>, params: Params) -> Result<Response, ApiError> {
    let field = params.get("field").ok_or_else(|| ApiError::bad_request("field is needed"))?;
    let field = field.trim_start_matches('-');
    if !filter::NAMES.iter().any(|(name, _)| *name == field) {
        return Err(ApiError::bad_request(format!("there is no filter {field:?}")));
    }
    let prefix = params.get("prefix").unwrap_or_default();
    let range = params.range(time::now(), DEFAULT_SPAN)?;
    let mut values = Vec::new();
    if let Some(sql) = statement::values(field, prefix, range) {
        let found = app.ask(sql).await?;
        found.each(|batch, row| values.extend(text(batch, "value", row)));
    }
    if field == "node" {
        let part = prefix.to_lowercase();
        for node in app.backend().nodes() {
            if node.name.to_lowercase().contains(&part) && !values.contains(&node.name) {
                values.push(node.name);
            }
        }
    }
    let prefix = prefix.to_lowercase();
    values.sort_by_key(|value| !value.to_lowercase().starts_with(&prefix));
    Ok(answer::json(&Values { values }))
}
