//! `weir bpf lb|maglev|nat|ct`: the service tables and connections in the kernel.

use std::collections::BTreeMap;
use std::process::ExitCode;

use anyhow::{Result, bail};
use datapath_agent::local::services::Tables;
use wire::agent::ServiceTablesRequest;

use crate::cli::node::{self, Output, Socket};
use crate::cli::text::{self, Table, harmless};

/// Options of these commands.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Args {
    /// At most so many connections; 0 for all.
    #[arg(long, value_name = "N", default_value_t = 1000)]
    limit: u32,
    #[command(flatten)]
    socket: Socket,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

/// Asks and prints.
///
/// # Errors
/// When the agent cannot be asked, or serves nothing.
pub(super) async fn run(what: &str, args: &Args) -> Result<ExitCode> {
    let request = ServiceTablesRequest { what: what.to_owned(), limit: args.limit };
    let answer = args.socket.connect().await?.service_tables(request).await;
    let (json, tables) = node::read::<Tables>(answer)?;
    match args.output {
        Output::Json => match json.get(what) {
            Some(list) => text::json(list)?,
            None => bail!("the agent answered with another table"),
        },
        Output::Text => text::print(&as_text(&tables))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn as_text(tables: &Tables) -> String {
    let table = match tables {
        Tables::Lb(entries) => {
            let mut table = Table::new(&["ID>", "SERVICE", "FRONTEND", "INSIDE", "OUTSIDE"]);
            for entry in entries {
                table.row(vec![
                    entry.service.to_string(),
                    harmless(&entry.name),
                    format!("{}/{}", entry.frontend, entry.protocol),
                    backends(&entry.internal),
                    backends(&entry.external),
                ]);
            }
            table
        }
        Tables::Maglev(entries) => {
            let mut table = Table::new(&["ID>", "SERVICE", "SLOTS>", "SHARES"]);
            for entry in entries {
                let shares =
                    entry.shares.iter().map(|(backend, count)| format!("{backend} {count}"));
                table.row(vec![
                    entry.service.to_string(),
                    harmless(&entry.name),
                    entry.size.to_string(),
                    shares.collect::<Vec<_>>().join(", "),
                ]);
            }
            table
        }
        Tables::Nat(entries) => {
            let mut table =
                Table::new(&["IF>", "PROTOCOL", "KIND", "STACK SIDE (OUT)", "WIRE SIDE (OUT)"]);
            for entry in entries {
                table.row(vec![
                    entry.interface.to_string(),
                    entry.protocol.clone(),
                    entry.kind.clone(),
                    format!("{} → {}", entry.stack_source, entry.stack_destination),
                    format!("{} → {}", entry.wire_source, entry.wire_destination),
                ]);
            }
            table
        }
        Tables::Ct(entries) => {
            let mut table = Table::new(&[
                "IF>",
                "PROTOCOL",
                "SOURCE",
                "DESTINATION",
                "TRANSLATED",
                "KIND",
                "STATE",
                "PACKETS>",
                "BYTES>",
            ]);
            for entry in entries {
                table.row(vec![
                    entry.interface.to_string(),
                    entry.protocol.clone(),
                    entry.source.clone(),
                    entry.destination.clone(),
                    entry.translated.clone(),
                    entry.kind.clone(),
                    entry.state.clone(),
                    format!("{}/{}", entry.packets[0], entry.packets[1]),
                    format!("{}/{}", entry.bytes[0], entry.bytes[1]),
                ]);
            }
            table
        }
    };
    if table.is_empty() { "nothing\n".to_owned() } else { table.text(2) }
}

fn backends(of: &BTreeMap<String, u32>) -> String {
    const SHOWN: usize = 4;
    let mut shown: Vec<String> = of.keys().take(SHOWN).cloned().collect();
    if of.len() > SHOWN {
        shown.push(format!("+{}", of.len() - SHOWN));
    }
    if shown.is_empty() { "none".to_owned() } else { shown.join(" ") }
}
