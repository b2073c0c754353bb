//! `/nodes`: the nodes now.

use std::collections::HashMap;

use axum::extract::State;
use axum::response::Response;
use serde::Serialize;

use crate::answer;
use crate::app::App;
use crate::ask::{number, text};
use crate::backend::{Feature, Interface, Node};
use crate::error::ApiError;
use crate::time::Range;
use crate::{statement, time};

/// Losses of the last hour stand beside a node.
const RECENT: i64 = 3_600_000_000_000;

#[derive(Serialize)]
struct Nodes {
    nodes: Vec<NodeJson>,
}

#[derive(Serialize)]
struct NodeJson {
    name: String,
    address: Option<String>,
    connected: bool,
    last_seen: Option<String>,
    lag_ms: Option<u64>,
    flows_per_s: Option<f64>,
    lost_events: u64,
    version: Option<String>,
    mode: Option<String>,
    kernel: Option<String>,
    problem: Option<String>,
    warnings: Vec<String>,
    features: Vec<Feature>,
    interfaces: Vec<Interface>,
}

/// Answers with every node that is known.
pub(crate) async fn get(State(app): State<App>) -> Result<Response, ApiError> {
    let range = Range { since: Some(time::now() - RECENT), until: None };
    let found = app.ask(statement::losses_by_cause(range)).await?;
    let mut lost: HashMap<String, u64> = HashMap::new();
    found.each(|batch, row| {
        if let Some(node) = text(batch, "node", row) {
            *lost.entry(node).or_default() += number(batch, "events", row).unwrap_or(0);
        }
    });
    let mut nodes = app.backend().nodes();
    nodes.sort_by(|a, b| a.name.cmp(&b.name));
    let nodes = nodes.into_iter().map(|node| NodeJson::new(node, &lost)).collect();
    Ok(answer::json(&Nodes { nodes }))
}

// === impl NodeJson ===

impl NodeJson {
    fn new(node: Node, lost: &HashMap<String, u64>) -> Self {
        Self {
            lost_events: lost.get(&node.name).copied().unwrap_or(0),
            name: node.name,
            address: node.address,
            connected: node.connected,
            last_seen: node.last_seen.map(time::format),
            lag_ms: node.lag_ms,
            flows_per_s: node.flows_per_s,
            version: node.version,
            mode: node.mode,
            kernel: node.kernel,
            problem: node.problem,
            warnings: node.warnings,
            features: node.features,
            interfaces: node.interfaces,
        }
    }
}
