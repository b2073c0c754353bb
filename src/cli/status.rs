//! `weir status`: one screen.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::cli::client::{Client, Completeness, Loss, Server};
use crate::cli::text::{self, Table};

/// How the whole is doing: version, nodes, datapath, flows, losses, storage, completeness.
///
/// Exits with 1 when something is wrong, and says what.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:
  weir status
  weir status --wait --timeout 60s && echo ready")]
pub struct Args {
    /// Where to ask.
    #[command(flatten)]
    pub server: Server,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    pub output: Output,
    /// Wait until nothing is wrong.
    #[arg(long)]
    pub wait: bool,
    /// How long to wait.
    #[arg(long, value_name = "SPAN", default_value = "60s", value_parser = crate::size::duration)]
    pub timeout: Duration,
}

/// How to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// For people.
    Text,
    /// `{"status":…,"nodes":…,"problems":[…]}`.
    Json,
}

#[derive(Debug, Deserialize)]
struct Status {
    version: String,
    uptime_s: u64,
    mode: String,
    flows_per_s: f64,
    flows_stored: u64,
    storage: Storage,
    losses_1h: Vec<Loss>,
    completeness: Completeness,
}

#[derive(Debug, Deserialize)]
struct Storage {
    bytes: u64,
    segments: u64,
    oldest: Option<String>,
    disk_free_bytes: Option<u64>,
    ingest: String,
}

#[derive(Debug, Deserialize)]
struct Nodes {
    nodes: Vec<Node>,
}

#[derive(Debug, Deserialize)]
struct Node {
    name: String,
    connected: bool,
    lag_ms: Option<u64>,
    flows_per_s: Option<f64>,
    version: Option<String>,
    mode: Option<String>,
    problem: Option<String>,
    #[serde(default)]
    warnings: Vec<String>,
    #[serde(default)]
    features: Vec<Feature>,
    #[serde(default)]
    interfaces: Vec<Value>,
}

#[derive(Debug, Deserialize)]
struct Feature {
    name: String,
    on: bool,
    why: Option<String>,
}

/// Asks and prints.
///
/// # Errors
/// When the server cannot be reached.
pub async fn run(args: Args) -> Result<ExitCode> {
    let client = args.server.client()?;
    let deadline = Instant::now() + args.timeout;
    loop {
        let asked = ask(&client).await;
        let good = asked.as_ref().is_ok_and(|(.., problems)| problems.is_empty());
        if args.wait && !good && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(250)).await;
            continue;
        }
        let (status, nodes, problems) = asked?;
        match args.output {
            Output::Json => {
                let all =
                    json!({ "status": status, "nodes": nodes["nodes"], "problems": problems });
                text::print(&format!("{all:#}\n"))?;
            }
            Output::Text => {
                let text = screen(
                    &serde_json::from_value(status)?,
                    &serde_json::from_value(nodes)?,
                    &problems,
                );
                text::print(&text)?;
            }
        }
        return Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
}

async fn ask(client: &Client) -> Result<(Value, Value, Vec<String>)> {
    let status: Value = client.json("/status", &[]).await?;
    let nodes: Value = client.json("/nodes", &[]).await?;
    let problems =
        problems(&serde_json::from_value(status.clone())?, &serde_json::from_value(nodes.clone())?);
    Ok((status, nodes, problems))
}

/// What is wrong, in sentences.
fn problems(status: &Status, nodes: &Nodes) -> Vec<String> {
    let mut problems = Vec::new();
    if nodes.nodes.is_empty() {
        problems.push("no node is known: is an agent running?".to_owned());
    }
    for node in &nodes.nodes {
        match (&node.problem, node.connected) {
            (Some(why), _) => problems.push(format!("node {}: {why}", node.name)),
            (None, false) => problems.push(format!("node {} is not connected", node.name)),
            (None, true) => {}
        }
        problems.extend(node.warnings.iter().map(|why| format!("node {}: {why}", node.name)));
    }
    if status.storage.ingest != "ok" {
        problems.push(format!("ingest is {}", status.storage.ingest));
    }
    problems.extend(status.completeness.summary().map(|what| format!("last 5 minutes {what}")));
    problems
}

fn screen(status: &Status, nodes: &Nodes, problems: &[String]) -> String {
    let storage = &status.storage;
    let connected = nodes.nodes.iter().filter(|node| node.connected).count();
    let mut facts = vec![
        ("Weir", format!("{}, up {}", status.version, text::span(status.uptime_s))),
        ("Nodes", format!("{connected} of {} connected", nodes.nodes.len())),
        ("Mode", status.mode.clone()),
        (
            "Flows",
            format!("{:.1}/s, {} stored", status.flows_per_s, text::count(status.flows_stored)),
        ),
        (
            "Storage",
            format!(
                "{} in {} segments{}, ingest {}",
                text::bytes(storage.bytes),
                storage.segments,
                storage
                    .disk_free_bytes
                    .map(|free| format!(", {} free", text::bytes(free)))
                    .unwrap_or_default(),
                storage.ingest
            ),
        ),
    ];
    if let Some(oldest) = &storage.oldest {
        facts.push(("Oldest", oldest.get(..19).unwrap_or(oldest).replace('T', " ") + " UTC"));
    }
    let completeness = match status.completeness.summary() {
        None => "the last 5 minutes are complete".to_owned(),
        Some(what) => what,
    };
    facts.push(("Answers", completeness));
    if status.completeness.unattributed_bytes > 0 {
        let bytes = text::bytes(status.completeness.unattributed_bytes);
        facts.push((
            "Unattributed",
            format!(
                "{bytes} in the last 5 minutes (ARP and other frames that are no flow included)"
            ),
        ));
    }
    let mut out = String::new();
    for (name, value) in facts {
        out.push_str(&format!("{name:<13} {}\n", text::harmless(&value)));
    }
    out.push('\n');
    out.push_str(&node_table(nodes));
    out.push_str(&features(nodes));
    if !status.losses_1h.is_empty() {
        out.push_str("\nLosses of the last hour\n");
        for loss in &status.losses_1h {
            out.push_str(&format!("  {}\n", text::harmless(&loss.text())));
        }
    }
    if !problems.is_empty() {
        out.push_str("\nWrong\n");
        for problem in problems {
            out.push_str(&format!("  {}\n", text::harmless(problem)));
        }
    }
    out
}

fn node_table(nodes: &Nodes) -> String {
    let mut table =
        Table::new(&["NODE", "STATE", "LAG>", "FLOWS/S>", "MODE", "VERSION", "INTERFACES>"]);
    for node in &nodes.nodes {
        let word = |word: &Option<String>| word.clone().unwrap_or_else(|| "-".to_owned());
        table.row(vec![
            text::harmless(&node.name),
            if node.connected { "connected" } else { "away" }.to_owned(),
            node.lag_ms.map_or("-".to_owned(), |lag| format!("{lag} ms")),
            node.flows_per_s.map_or("-".to_owned(), |rate| format!("{rate:.1}")),
            word(&node.mode),
            word(&node.version),
            node.interfaces.len().to_string(),
        ]);
    }
    table.text(3)
}

/// Nodes of one kind have the same features: those are said once.
fn features(nodes: &Nodes) -> String {
    let mut seen: Vec<(String, Vec<&str>)> = Vec::new();
    for node in &nodes.nodes {
        let mut lines = String::new();
        for feature in &node.features {
            let state = if feature.on { "on " } else { "off" };
            let why = feature.why.as_deref().map(|why| format!("  {why}")).unwrap_or_default();
            lines.push_str(&format!("  {state} {}{}\n", feature.name, text::harmless(&why)));
        }
        if lines.is_empty() {
            continue;
        }
        match seen.iter_mut().find(|(known, _)| *known == lines) {
            Some((_, names)) => names.push(&node.name),
            None => seen.push((lines, vec![&node.name])),
        }
    }
    seen.into_iter()
        .map(|(lines, names)| format!("\nDatapath of {}\n{lines}", names.join(", ")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status() -> Value {
        json!({
            "version": "0.1.0", "uptime_s": 3700, "mode": "observe", "flows_per_s": 12.34,
            "flows_stored": 1_234_567,
            "nodes": {"expected": 1, "reporting": 1},
            "storage": {"bytes": 5_000_000, "hot_rows": 1, "segments": 3,
                "oldest": "2026-11-24T10:00:00.000000000Z", "disk_free_bytes": 9_000_000_000_u64, "ingest": "ok"},
            "losses_1h": [],
            "completeness": {"from": null, "until": null, "nodes_expected": 1, "nodes_reporting": 1,
                "lost_events": 0, "lost_flows": 0, "unattributed_bytes": 0, "late_ms": 3,
                "complete": true, "causes": []}
        })
    }

    fn nodes() -> Value {
        json!({"nodes": [{
            "name": "a", "address": null, "connected": true, "last_seen": null, "lag_ms": 120,
            "flows_per_s": 12.34, "lost_events": 0, "version": "0.1.0", "mode": "observe",
            "kernel": "6.18", "problem": null, "warnings": [],
            "features": [{"name": "tcx", "on": true, "why": null}, {"name": "process", "on": false, "why": "cgroup v1 only"}],
            "interfaces": [{"name": "eth0"}]
        }]})
    }

    fn parse<T: serde::de::DeserializeOwned>(value: Value) -> T {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn one_screen() {
        let (status, nodes) = (parse(status()), parse(nodes()));
        let problems = problems(&status, &nodes);
        assert!(problems.is_empty(), "{problems:?}");
        assert_eq!(
            screen(&status, &nodes, &problems),
            "\
Weir          0.1.0, up 1h1m
Nodes         1 of 1 connected
Mode          observe
Flows         12.3/s, 1,234,567 stored
Storage       4.77 MiB in 3 segments, 8.38 GiB free, ingest ok
Oldest        2026-11-24 10:00:00 UTC
Answers       the last 5 minutes are complete

NODE   STATE          LAG   FLOWS/S   MODE      VERSION   INTERFACES
a      connected   120 ms      12.3   observe   0.1.0              1

Datapath of a
  on  tcx
  off process  cgroup v1 only
"
        );
    }

    #[test]
    fn what_is_wrong_is_said() {
        let mut bad = status();
        bad["storage"]["ingest"] = json!("stopped: no space");
        bad["completeness"]["complete"] = json!(false);
        bad["completeness"]["nodes_reporting"] = json!(0);
        let mut away = nodes();
        away["nodes"][0]["connected"] = json!(false);
        assert_eq!(
            problems(&parse(bad), &parse(away)),
            [
                "node a is not connected",
                "ingest is stopped: no space",
                "last 5 minutes incomplete: 0 of 1 nodes report"
            ]
        );
        assert_eq!(problems(&parse(status()), &parse(json!({"nodes": []}))).len(), 1);
    }
}
