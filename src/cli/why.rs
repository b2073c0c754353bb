//! `weir why`: what decided about a connection: what was recorded of it, what the kernel dropped of it, and
//! what the policy in force says now.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, bail};
use datapath_policy::explain::Explanation;
use serde_json::{Value, json};
use wire::agent::WhyRequest;

use crate::cli::client::{Client, Server};
use crate::cli::node::{self, Output, Socket};
use crate::cli::text;
use crate::size;

mod print;
mod record;

use record::Pair;

/// Why a connection was allowed or dropped: the verdict, the rule and its lines, the table entry, the labels
/// that matched or failed to, kernel drops with what they mean, and the smallest change that would alter it.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:
  sudo weir why 5f0c2ad8be41e977
  sudo weir why shop/web-0 shop/db-0:5432
  sudo weir why 10.0.0.7 [fd00::9]:53/udp --since 15m -o json

The recorded part comes from the relay (--server); the rule, its lines and the change from the agent of this \
node (--agent-socket). Where one of them cannot be asked, the other's part is printed.")]
pub struct Args {
    /// A flow's id; or the client (`namespace/pod` or an address).
    #[arg(value_name = "FLOW_ID|SOURCE")]
    what: String,
    /// The server: `namespace/pod` or an address, then `:port` and `/tcp`, `/udp` or `/sctp`; or `/icmp`.
    destination: Option<String>,
    /// How far back to look for what was recorded.
    #[arg(long, value_name = "SPAN", default_value = "1h", value_parser = size::duration)]
    since: Duration,
    #[command(flatten)]
    server: Server,
    #[command(flatten)]
    socket: Socket,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

/// What was found.
#[derive(Debug, Default)]
struct Report {
    /// `GET /flows/{flow_id}`.
    recorded: Option<Value>,
    /// Rows of `drops`, with `help` where there is some.
    drops: Vec<Value>,
    /// What the policy in force says, as the agent said it, and typed.
    now: Option<(Value, Explanation)>,
    /// What could not be asked.
    notes: Vec<String>,
}

/// Asks and prints. Exit code 1: nothing is known.
///
/// # Errors
/// When the question is not understood.
pub async fn run(args: &Args) -> Result<ExitCode> {
    let client = args.server.client()?;
    let report = match &args.destination {
        Some(destination) => between(args, &client, destination).await?,
        None => of_flow(args, &client).await?,
    };
    match args.output {
        Output::Json => text::json(&report.json())?,
        Output::Text => text::print(&print::report(&report))?,
    }
    Ok(if report.is_empty() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

async fn of_flow(args: &Args, client: &Client) -> Result<Report> {
    let id = args.what.to_ascii_lowercase();
    if id.len() != 16 || !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        bail!(
            "{}: no flow id (16 hexadecimal digits, as `weir observe -o json` prints them); \
             to ask about two ends: weir why SOURCE DESTINATION:PORT",
            args.what
        );
    }
    let mut report = Report::default();
    let recorded: Value = client.json(&format!("/flows/{id}"), &[]).await?;
    report.drops = record::explained(recorded["drops"].as_array().cloned().unwrap_or_default());
    match record::question(&recorded) {
        Some((source, destination)) => ask(args, &mut report, source, destination).await,
        None => report.notes.push("the policy has nothing to say about this protocol".to_owned()),
    }
    report.recorded = Some(recorded);
    Ok(report)
}

async fn between(args: &Args, client: &Client, destination: &str) -> Result<Report> {
    let mut report = Report::default();
    ask(args, &mut report, args.what.clone(), destination.to_owned()).await;
    let mut pair = Pair::new(&args.what, destination);
    if let Some((_, now)) = &report.now {
        pair.addresses(now.source.address, now.destination.address);
    }
    match pair.look(client, args.since).await {
        Ok((recorded, drops)) => {
            report.recorded = recorded;
            report.drops = record::explained(drops);
        }
        Err(error) => report.notes.push(format!("what was recorded is not known: {error:#}")),
    }
    Ok(report)
}

async fn ask(args: &Args, report: &mut Report, source: String, destination: String) {
    let asked = async {
        let request = WhyRequest { source, destination, verdict_only: false };
        node::read::<Explanation>(args.socket.connect().await?.why(request).await)
    };
    match asked.await {
        Ok(now) => report.now = Some(now),
        Err(error) => {
            report.notes.push(format!("what the policy says now is not known: {error:#}"))
        }
    }
}

// === impl Report ===

impl Report {
    fn is_empty(&self) -> bool {
        self.recorded.is_none() && self.drops.is_empty() && self.now.is_none()
    }

    fn json(&self) -> Value {
        json!({
            "recorded": self.recorded,
            "drops": self.drops,
            "now": self.now.as_ref().map(|(now, _)| now),
            "notes": self.notes,
        })
    }
}
