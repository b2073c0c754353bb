//! `weir bpf list`: this node's maps and programs, by asking its agent.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use serde_json::json;
use tonic::transport::Endpoint;
use wire::export::export_client::ExportClient;
use wire::export::{StatusRequest, StatusResponse};

use crate::cli::node::Output;
use crate::cli::text::{self, Table};

/// Options of `weir bpf list`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Example:
  sudo weir bpf list")]
pub(super) struct Args {
    /// The agent's socket.
    #[arg(
        long,
        value_name = "PATH",
        env = "WEIR_SOCKET",
        default_value = "/var/run/weir/hubble.sock"
    )]
    socket: PathBuf,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

/// Asks and prints.
///
/// # Errors
/// When the agent cannot be reached.
pub(super) async fn run(list: &Args) -> Result<ExitCode> {
    let status = ask(list).await?;
    match list.output {
        Output::Json => text::json(&as_json(&status))?,
        Output::Text => text::print(&as_text(&status))?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn ask(list: &Args) -> Result<StatusResponse> {
    let path = std::path::absolute(&list.socket)?;
    let reached = async {
        let channel =
            Endpoint::from_shared(format!("unix://{}", path.display()))?.connect().await?;
        let status = ExportClient::new(channel).status(StatusRequest {}).await?;
        anyhow::Ok(status.into_inner())
    };
    reached.await.with_context(|| {
        format!(
            "cannot ask the agent at {} (is it running? are you root? --socket says where it is)",
            path.display()
        )
    })
}

fn as_text(status: &StatusResponse) -> String {
    let mut maps =
        Table::new(&["MAP", "KIND", "ENTRIES>", "CAPACITY>", "USE>", "KEY>", "VALUE>", "MEMORY>"]);
    for map in &status.maps {
        let share = map.entries as f64 * 100.0 / (map.capacity.max(1)) as f64;
        let bytes = map.capacity * u64::from(map.key_bytes + map.value_bytes);
        maps.row(vec![
            map.name.clone(),
            map.kind.clone(),
            text::count(map.entries),
            text::count(map.capacity),
            format!("{share:.1}%"),
            map.key_bytes.to_string(),
            map.value_bytes.to_string(),
            text::bytes(bytes),
        ]);
    }
    let mut interfaces =
        Table::new(&["INTERFACE", "INDEX>", "ATTACHED", "RX>", "TX>", "UNATTRIBUTED>", "POD"]);
    for interface in &status.interfaces {
        interfaces.row(vec![
            text::harmless(&interface.name),
            interface.index.to_string(),
            interface.attached_by.clone(),
            text::bytes(interface.rx_bytes),
            text::bytes(interface.tx_bytes),
            text::bytes(interface.unattributed_bytes),
            text::harmless(&interface.pod),
        ]);
    }
    let mut stages = Table::new(&["STAGE", "TAKEN>", "HANDED ON>", "HELD>", "CAPACITY>", "LOST"]);
    for stage in &status.stages {
        let mut lost: Vec<String> = stage
            .lost
            .iter()
            .map(|(cause, count)| format!("{cause} {}", text::count(*count)))
            .collect();
        lost.sort();
        stages.row(vec![
            stage.name.clone(),
            text::count(stage.taken),
            text::count(stage.handed),
            text::count(stage.held),
            if stage.capacity == 0 { "-".to_owned() } else { text::count(stage.capacity) },
            if lost.is_empty() { "-".to_owned() } else { lost.join(", ") },
        ]);
    }
    let tables = [maps, interfaces, stages];
    let texts: Vec<String> =
        tables.iter().filter(|table| !table.is_empty()).map(|table| table.text(2)).collect();
    texts.join("\n")
}

fn as_json(status: &StatusResponse) -> serde_json::Value {
    json!({
        "node": status.node,
        "maps": status.maps.iter().map(|map| json!({
            "name": map.name, "kind": map.kind, "entries": map.entries, "capacity": map.capacity,
            "key_bytes": map.key_bytes, "value_bytes": map.value_bytes,
        })).collect::<Vec<_>>(),
        "interfaces": status.interfaces.iter().map(|it| json!({
            "name": it.name, "index": it.index, "attached_by": it.attached_by,
            "rx_bytes": it.rx_bytes, "rx_packets": it.rx_packets, "tx_bytes": it.tx_bytes,
            "tx_packets": it.tx_packets, "unattributed_bytes": it.unattributed_bytes,
            "unattributed_packets": it.unattributed_packets, "pod": it.pod,
        })).collect::<Vec<_>>(),
        "stages": status.stages.iter().map(|it| json!({
            "name": it.name, "capacity": it.capacity, "taken": it.taken, "handed": it.handed,
            "held": it.held, "lost": it.lost,
        })).collect::<Vec<_>>(),
    })
}
