//! `weir identity list`: the security identities that this node's agent has given or seen.

use std::process::ExitCode;

use anyhow::Result;
use datapath_agent::local::identities::Identities;
use wire::agent::IdentitiesRequest;

use crate::cli::node::{self, Output, Socket};
use crate::cli::text::{self, Table};

/// Security identities: numbers that stand for sets of labels, prefixes, and the reserved ones.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Clone, clap::Subcommand)]
enum Command {
    /// List them.
    #[command(after_help = "Examples:
  sudo weir identity list
  sudo weir identity list 16777217 -o json")]
    List(List),
}

#[derive(Debug, Clone, clap::Args)]
struct List {
    /// Only these.
    #[arg(value_name = "NUMBER")]
    numbers: Vec<u32>,
    #[command(flatten)]
    socket: Socket,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

/// Asks and prints. Exit code 1: none of the numbers is in use.
///
/// # Errors
/// When the agent cannot be asked, or enforces nothing.
pub async fn run(args: Args) -> Result<ExitCode> {
    let Command::List(list) = args.command;
    let answer = list.socket.connect().await?.identities(IdentitiesRequest {}).await;
    let (_, mut all) = node::read::<Identities>(answer)?;
    if !list.numbers.is_empty() {
        all.identities.retain(|identity| list.numbers.contains(&identity.number));
    }
    match list.output {
        Output::Json => text::json(&all)?,
        Output::Text => text::print(&as_text(&all))?,
    }
    Ok(if all.identities.is_empty() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn as_text(all: &Identities) -> String {
    let mut table =
        Table::new(&["IDENTITY>", "SCOPE", "ENDPOINTS>", "ADDRESSES>", "PREFIXES>", "LABELS"]);
    for identity in &all.identities {
        table.row(vec![
            identity.number.to_string(),
            identity.scope.clone(),
            identity.endpoints.len().to_string(),
            identity.addresses.to_string(),
            identity.prefixes.to_string(),
            text::harmless(&identity.labels.join(",")),
        ]);
    }
    if table.is_empty() {
        return "no such identity is in use\n".to_owned();
    }
    table.text(2)
}
