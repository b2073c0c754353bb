//! `/map`: who talks to whom.

use std::collections::BTreeMap;

use arrow::array::RecordBatch;
use axum::extract::State;
use axum::response::Response;
use serde::Serialize;

use crate::answer;
use crate::app::App;
use crate::ask::{number, text};
use crate::completeness::Report;
use crate::error::ApiError;
use crate::flows::DEFAULT_SPAN;
use crate::params::Params;
use crate::statement::{self, MapBy};
use crate::time;

/// Ports that an edge lists; those of most bytes come first.
const PORTS: usize = 20;

#[derive(Serialize)]
struct Map<'a> {
    nodes: Vec<Node>,
    edges: Vec<Edge>,
    completeness: Report<'a>,
}

#[derive(Serialize, Clone)]
struct Node {
    id: String,
    namespace: Option<String>,
    name: String,
    kind: String,
}

#[derive(Serialize, Default)]
struct Edge {
    source: String,
    target: String,
    bytes: u64,
    packets: u64,
    flows: u64,
    dropped: u64,
    ports: Vec<String>,
    /// Mean of the round trips that were seen, microseconds.
    rtt_us: Option<u64>,
    #[serde(skip)]
    rtt: (u64, u64),
}

/// Answers with nodes and edges.
pub(crate) async fn get(State(app): State<App>, params: Params) -> Result<Response, ApiError> {
    let filters = params.filters(&["since", "until", "by"])?;
    let range = params.range(time::now(), DEFAULT_SPAN)?;
    let by = match params.get("by") {
        None | Some("workload") => MapBy::Workload,
        Some("pod") => MapBy::Pod,
        Some("namespace") => MapBy::Namespace,
        Some(other) => {
            return Err(ApiError::bad_request(format!(
                "by={other:?}: expected workload, pod or namespace"
            )));
        }
    };
    let found = app.ask(statement::map(&filters, range, by)).await?;
    let mut nodes = BTreeMap::new();
    let mut edges: BTreeMap<(String, String), Edge> = BTreeMap::new();
    found.each(|batch, row| {
        let source = Node::of(batch, "source", by, row);
        let target = Node::of(batch, "destination", by, row);
        let edge = edges.entry((source.id.clone(), target.id.clone())).or_default();
        edge.add(batch, row);
        nodes.entry(source.id.clone()).or_insert(source);
        nodes.entry(target.id.clone()).or_insert(target);
    });
    let edges = edges.into_iter().map(|((source, target), mut edge)| {
        edge.rtt_us = edge.rtt.0.checked_div(edge.rtt.1);
        Edge { source, target, ..edge }
    });
    Ok(answer::json(&Map {
        nodes: nodes.into_values().collect(),
        edges: edges.collect(),
        completeness: Report(&found.completeness),
    }))
}

// === impl Node ===

impl Node {
    fn of(batch: &RecordBatch, side: &str, by: MapBy, row: usize) -> Self {
        let word = |what| text(batch, &format!("{side}_{what}"), row);
        let kind = word("kind").unwrap_or_default();
        let name = word("name").unwrap_or_else(|| "?".to_owned());
        let inside = matches!(kind.as_str(), "workload" | "pod" | "service");
        let namespace = word("space").filter(|_| inside);
        let id = match (kind.as_str(), &namespace) {
            ("service", Some(space)) => format!("service:{space}/{name}"),
            (_, Some(_)) if by == MapBy::Namespace => name.clone(),
            (_, Some(space)) => format!("{space}/{name}"),
            (kind, None) => format!("{kind}:{name}"),
        };
        Self { id, namespace, name, kind }
    }
}

// === impl Edge ===

impl Edge {
    fn add(&mut self, batch: &RecordBatch, row: usize) {
        let count = |column| number(batch, column, row).unwrap_or(0);
        self.bytes += count("bytes");
        self.packets += count("packets");
        self.flows += count("flows");
        self.dropped += count("dropped");
        self.rtt.0 += count("rtt_sum");
        self.rtt.1 += count("rtt_count");
        if self.ports.len() < PORTS
            && let Some(protocol) = text(batch, "protocol", row)
        {
            let port = number(batch, "destination_port", row);
            self.ports.push(port.map_or(protocol.clone(), |port| format!("{protocol}/{port}")));
        }
    }
}
