//! `/status` and `/losses`.

use std::collections::BTreeSet;

use axum::extract::State;
use axum::response::Response;
use flowstore::{Covered, Ingest};
use serde::Serialize;

use crate::answer;
use crate::app::App;
use crate::ask::{Answer, number, store_error, text};
use crate::completeness::Report;
use crate::error::ApiError;
use crate::params::Params;
use crate::time::Range;
use crate::{statement, time};

/// Status looks back an hour, nanoseconds.
const RECENT: i64 = 3_600_000_000_000;

/// Completeness of "now" looks back five minutes.
const PRESENT: i64 = 300_000_000_000;

#[derive(Serialize)]
struct Status<'a> {
    version: &'a str,
    uptime_s: u64,
    mode: String,
    nodes: NodeCounts,
    flows_per_s: f64,
    flows_stored: u64,
    storage: Storage,
    losses_1h: Vec<Loss>,
    completeness: Report<'a>,
}

#[derive(Serialize)]
struct NodeCounts {
    expected: usize,
    reporting: usize,
}

#[derive(Serialize)]
struct Storage {
    bytes: u64,
    hot_rows: usize,
    segments: usize,
    oldest: Option<String>,
    disk_free_bytes: Option<u64>,
    ingest: String,
}

#[derive(Serialize)]
struct Loss {
    #[serde(skip_serializing_if = "Option::is_none")]
    time: Option<String>,
    stage: Option<String>,
    cause: Option<String>,
    node: Option<String>,
    events: u64,
    flows: u64,
    bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
}

#[derive(Serialize)]
struct Losses {
    losses: Vec<Loss>,
}

/// Answers with one screen about everything.
pub(crate) async fn get(State(app): State<App>) -> Result<Response, ApiError> {
    let now = time::now();
    let store = app.store().status();
    let nodes = app.backend().nodes();
    let covered = Covered { from: Some(now - PRESENT), until: None };
    let completeness = app.store().completeness(covered).await.map_err(store_error)?;
    let range = Range { since: Some(now - RECENT), until: None };
    let losses = app.ask(statement::losses_by_cause(range)).await?;
    let modes: BTreeSet<&str> = nodes.iter().filter_map(|node| node.mode.as_deref()).collect();
    let mode = match modes.len() {
        0 => "unknown".to_owned(),
        1 => modes.into_iter().collect(),
        _ => modes.into_iter().collect::<Vec<_>>().join(", "),
    };
    Ok(answer::json(&Status {
        version: &app.config().version,
        uptime_s: app.uptime_s(),
        mode,
        nodes: NodeCounts {
            expected: nodes.len(),
            reporting: nodes.iter().filter(|node| node.connected).count(),
        },
        flows_per_s: nodes.iter().filter_map(|node| node.flows_per_s).sum(),
        flows_stored: store.flows,
        storage: Storage {
            bytes: store.segment_bytes + store.hot_bytes as u64,
            hot_rows: store.hot_rows,
            segments: store.segments,
            oldest: store.oldest.map(time::format),
            disk_free_bytes: store.free_bytes,
            ingest: match store.ingest {
                Ingest::Running => "ok".to_owned(),
                Ingest::Stopped(why) => format!("stopped: {why}"),
            },
        },
        losses_1h: Loss::all(&losses),
        completeness: Report(&completeness),
    }))
}

/// Answers with what was lost, newest first.
pub(crate) async fn losses(State(app): State<App>, params: Params) -> Result<Response, ApiError> {
    let range = params.range(time::now(), RECENT)?;
    let found = app.ask(statement::losses(range)).await?;
    Ok(answer::json(&Losses { losses: Loss::all(&found) }))
}

// === impl Loss ===

impl Loss {
    fn all(answer: &Answer) -> Vec<Self> {
        let mut all = Vec::with_capacity(answer.rows());
        answer.each(|batch, row| {
            let count = |column| number(batch, column, row).unwrap_or(0);
            all.push(Self {
                time: text(batch, "time", row),
                stage: text(batch, "stage", row),
                cause: text(batch, "cause", row),
                node: text(batch, "node", row),
                events: count("events"),
                flows: count("flows"),
                bytes: count("bytes"),
                detail: text(batch, "detail", row),
            });
        });
        all
    }
}
