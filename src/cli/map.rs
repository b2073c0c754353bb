//! `weir map`: who talks to whom.

use std::process::ExitCode;

use anyhow::Result;
use serde::Deserialize;
use serde_json::Value;

use crate::cli::client::{Completeness, Server};
use crate::cli::text::{self, Table};

/// Who talks to whom: bytes, packets, flows and drops between workloads.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:
  weir map --since 15m
  weir map --by namespace -o dot | dot -Tsvg > map.svg
  weir map --filter namespace=shop --filter -destination_port=53")]
pub struct Args {
    /// Where to ask.
    #[command(flatten)]
    pub server: Server,
    /// Start of the range.
    #[arg(long, value_name = "TIME", default_value = "5m")]
    pub since: String,
    /// End of the range.
    #[arg(long, value_name = "TIME", default_value = "now")]
    pub until: String,
    /// What the ends are.
    #[arg(long, value_enum, default_value_t = By::Workload)]
    pub by: By,
    /// Only flows that pass, `name=value` as in the API; `-name=value` negates. Repeatable.
    #[arg(long = "filter", value_name = "NAME=VALUE", allow_hyphen_values = true)]
    pub filters: Vec<String>,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    pub output: Output,
}

/// What the ends are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
#[expect(missing_docs, reason = "each says itself")]
pub enum By {
    Workload,
    Pod,
    Namespace,
}

/// How to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// For people.
    Text,
    /// As the API gives it.
    Json,
    /// For Graphviz.
    Dot,
}

#[derive(Debug, Deserialize)]
struct Map {
    nodes: Vec<Node>,
    edges: Vec<Edge>,
    completeness: Completeness,
}

#[derive(Debug, Deserialize)]
struct Node {
    id: String,
    kind: String,
}

#[derive(Debug, Deserialize)]
struct Edge {
    source: String,
    target: String,
    bytes: u64,
    packets: u64,
    flows: u64,
    dropped: u64,
    ports: Vec<String>,
    rtt_us: Option<u64>,
}

/// Asks and prints.
///
/// # Errors
/// When the server cannot be reached or a filter is wrong.
pub async fn run(args: Args) -> Result<ExitCode> {
    let client = args.server.client()?;
    let by = match args.by {
        By::Workload => "workload",
        By::Pod => "pod",
        By::Namespace => "namespace",
    };
    let mut parameters = vec![
        ("since".to_owned(), args.since.clone()),
        ("until".to_owned(), args.until.clone()),
        ("by".to_owned(), by.to_owned()),
    ];
    for filter in &args.filters {
        let (name, value) = filter
            .split_once('=')
            .ok_or_else(|| anyhow::anyhow!("--filter {filter}: expected name=value"))?;
        parameters.push((name.to_owned(), value.to_owned()));
    }
    let answer: Value = client.json("/map", &parameters).await?;
    if args.output == Output::Json {
        text::print(&format!("{answer:#}\n"))?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut map: Map = serde_json::from_value(answer)?;
    map.edges.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.source.cmp(&b.source)));
    text::print(&if args.output == Output::Dot { dot(&map) } else { table(&map) })?;
    if let Some(missing) = map.completeness.summary() {
        eprintln!("{missing}");
    }
    Ok(ExitCode::SUCCESS)
}

fn table(map: &Map) -> String {
    let mut table = Table::new(&[
        "SOURCE",
        "DESTINATION",
        "PORTS",
        "BYTES>",
        "PACKETS>",
        "FLOWS>",
        "DROPPED>",
        "RTT>",
    ]);
    for edge in &map.edges {
        let mut ports = edge.ports.iter().take(4).cloned().collect::<Vec<_>>().join(",");
        if edge.ports.len() > 4 {
            ports.push_str(&format!(",+{}", edge.ports.len() - 4));
        }
        table.row(vec![
            text::harmless(&edge.source),
            text::harmless(&edge.target),
            ports,
            text::bytes(edge.bytes),
            text::count(edge.packets),
            text::count(edge.flows),
            text::count(edge.dropped),
            edge.rtt_us.map_or("-".to_owned(), |rtt| format!("{rtt} us")),
        ]);
    }
    table.text(2)
}

fn dot(map: &Map) -> String {
    let mut out = String::from("digraph weir {\n  rankdir=LR;\n  node [shape=box];\n");
    for node in &map.nodes {
        let shape = match node.kind.as_str() {
            "workload" | "pod" => "box",
            "service" => "hexagon",
            "host" => "component",
            _ => "ellipse",
        };
        out.push_str(&format!("  {} [shape={shape}];\n", quoted(&node.id)));
    }
    for edge in &map.edges {
        let colour = if edge.dropped > 0 { ", color=red" } else { "" };
        let label = format!(
            "{}\n{}",
            edge.ports.first().map_or("", String::as_str),
            text::bytes(edge.bytes)
        );
        out.push_str(&format!(
            "  {} -> {} [label={}{colour}];\n",
            quoted(&edge.source),
            quoted(&edge.target),
            quoted(&label)
        ));
    }
    out.push_str("}\n");
    out
}

/// A quoted identifier of the DOT language.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map() -> Map {
        serde_json::from_value(serde_json::json!({
            "nodes": [{"id": "shop/web", "kind": "workload"}, {"id": "name:a\"b", "kind": "name"}],
            "edges": [{"source": "shop/web", "target": "name:a\"b", "bytes": 2048, "packets": 12,
                "flows": 3, "dropped": 1, "ports": ["TCP/443"], "rtt_us": null}],
            "completeness": {"nodes_expected": 1, "nodes_reporting": 1, "lost_events": 0,
                "lost_flows": 0, "unattributed_bytes": 0, "late_ms": 0, "complete": true}
        }))
        .unwrap()
    }

    #[test]
    fn as_table_and_as_graph() {
        assert_eq!(
            table(&map()),
            "SOURCE    DESTINATION  PORTS       BYTES  PACKETS  FLOWS  DROPPED  RTT\n\
             shop/web  name:a\"b     TCP/443  2.00 KiB       12      3        1    -\n"
        );
        let dot = dot(&map());
        assert!(
            dot.contains(r#""shop/web" -> "name:a\"b" [label="TCP/443\n2.00 KiB", color=red];"#),
            "{dot}"
        );
    }
}
