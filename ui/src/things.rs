//! `/services` and `/policies`: as the control source tells them, now or at a moment.

use axum::extract::State;
use axum::response::Response;

use crate::app::App;
use crate::error::ApiError;
use crate::params::Params;
use crate::{answer, json, statement, time};

const SERVICES: &str =
    "cluster, namespace, name, service_type, cluster_ips, ports, backends, valid_from";
const POLICIES: &str = "cluster, kind, namespace, name, revision, spec, valid_from";

/// Services and their backends.
pub(crate) async fn services(State(app): State<App>, params: Params) -> Result<Response, ApiError> {
    list(&app, &params, "services", SERVICES, "cluster, namespace, name").await
}

/// Policies.
pub(crate) async fn policies(State(app): State<App>, params: Params) -> Result<Response, ApiError> {
    list(&app, &params, "policies", POLICIES, "cluster, kind, namespace, name").await
}

async fn list(
    app: &App,
    params: &Params,
    table: &str,
    columns: &str,
    key: &str,
) -> Result<Response, ApiError> {
    let now = time::now();
    let at = params.moment("at", now)?.unwrap_or(now);
    let found = app.ask(statement::things(table, columns, key, at)).await?;
    let mut body = format!("{{\"{table}\":[");
    let mut first = true;
    found.each(|batch, row| {
        if !std::mem::take(&mut first) {
            body.push(',');
        }
        json::object(&mut body, batch, row, true);
    });
    body.push(']');
    Ok(answer::with_completeness(body, &found.completeness))
}
