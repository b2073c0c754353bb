//! `weir endpoint list`: the endpoints that this node's agent knows.

use std::process::ExitCode;

use anyhow::Result;
use datapath_agent::local::endpoints::{Endpoints, Enforced};
use wire::agent::EndpointsRequest;

use crate::cli::node::{self, Output, Socket};
use crate::cli::text::{self, Table};

/// Endpoints (pods) with identity, labels and the state of enforcement.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Clone, clap::Subcommand)]
enum Command {
    /// List them.
    #[command(after_help = "Examples:
  sudo weir endpoint list
  sudo weir endpoint list --local -o json")]
    List(List),
}

#[derive(Debug, Clone, clap::Args)]
struct List {
    /// Only those on this node.
    #[arg(long)]
    local: bool,
    #[command(flatten)]
    socket: Socket,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

/// Asks and prints.
///
/// # Errors
/// When the agent cannot be asked.
pub async fn run(args: Args) -> Result<ExitCode> {
    let Command::List(list) = args.command;
    let answer = list.socket.connect().await?.endpoints(EndpointsRequest {}).await;
    let (_, mut all) = node::read::<Endpoints>(answer)?;
    if list.local {
        all.endpoints.retain(|endpoint| endpoint.ifindex.is_some());
    }
    match list.output {
        Output::Json => text::json(&all)?,
        Output::Text => text::print(&as_text(&all))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn as_text(all: &Endpoints) -> String {
    let mut table = Table::new(&[
        "ENDPOINT",
        "IDENTITY>",
        "ADDRESSES",
        "INTERFACE",
        "INGRESS",
        "EGRESS",
        "POLICIES",
        "LABELS",
    ]);
    for endpoint in &all.endpoints {
        let policies: Vec<String> = endpoint.policies.iter().map(ToString::to_string).collect();
        table.row(vec![
            text::harmless(&endpoint.id),
            endpoint.identity.map_or_else(|| "-".to_owned(), |number| number.to_string()),
            endpoint.addresses.join(","),
            endpoint.interface.clone().unwrap_or_else(|| "-".to_owned()),
            word(endpoint.ingress).to_owned(),
            word(endpoint.egress).to_owned(),
            dash(&policies.join(",")),
            text::harmless(&endpoint.labels.join(",")),
        ]);
    }
    if table.is_empty() {
        return "no endpoints are known (pods come from --manifests)\n".to_owned();
    }
    table.text(2)
}

fn word(enforced: Enforced) -> &'static str {
    match enforced {
        Enforced::Enforced => "enforced",
        Enforced::Audit => "audit",
        Enforced::Open => "open",
        Enforced::Elsewhere => "-",
    }
}

fn dash(text: &str) -> String {
    if text.is_empty() { "-".to_owned() } else { text::harmless(text) }
}
