//! `weir bpf policy`: the policy tables in the kernel.

use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::Result;
use datapath_agent::local::tables::{PolicyTables, RuleEntry, SubjectEntry};
use wire::agent::PolicyTablesRequest;

use crate::cli::explain;
use crate::cli::node::{self, Output, Socket};
use crate::cli::text;

/// Options of `weir bpf policy`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:
  sudo weir bpf policy
  sudo weir bpf policy shop/web-0
  sudo weir bpf policy vethab12 -o json")]
pub(super) struct Args {
    /// Only of this endpoint (`namespace/pod`) or interface.
    #[arg(value_name = "ENDPOINT")]
    of: Option<String>,
    #[command(flatten)]
    socket: Socket,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

/// Asks and prints. Exit code 1: the kernel has something else than was compiled.
pub(super) async fn run(args: &Args) -> Result<ExitCode> {
    let request = PolicyTablesRequest { of: args.of.clone().unwrap_or_default() };
    let answer = args.socket.connect().await?.policy_tables(request).await;
    let (json, tables) = node::read::<PolicyTables>(answer)?;
    match args.output {
        Output::Json => text::json(&json)?,
        Output::Text => text::print(&as_text(&tables))?,
    }
    Ok(if tables.differs.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn as_text(tables: &PolicyTables) -> String {
    let audit = if tables.audit { ", everything in audit mode" } else { "" };
    let mut out = format!("revision {}{audit}\n", tables.revision);
    let used: Vec<String> =
        tables.used.iter().map(|(name, used)| format!("{name} {used}")).collect();
    let _ = writeln!(out, "entries: {}", used.join(", "));
    for what in &tables.differs {
        let _ = writeln!(out, "DIFFERS {what}");
    }
    tables.subjects.iter().for_each(|subject| subject_text(&mut out, subject));
    out
}

fn subject_text(out: &mut String, subject: &SubjectEntry) {
    let SubjectEntry { ifindex, interface, endpoint, policy, identity, host, audit, sections } =
        subject;
    let who = match (host, endpoint.as_str()) {
        (true, _) => "host",
        (false, "") => "gone",
        (false, endpoint) => endpoint,
    };
    let audit = if *audit { ", audit" } else { "" };
    let _ = writeln!(
        out,
        "\n{who} on {} ({ifindex}): policy {policy}, identity {identity}{audit}",
        text::harmless(interface)
    );
    if sections.is_empty() {
        let _ = writeln!(out, "  not enforced in either direction");
    }
    for section in sections {
        let ports = match section.ports {
            (0, 0xffff) => "all".to_owned(),
            (first, last) if first == last => first.to_string(),
            (first, last) => format!("{first}-{last}"),
        };
        let audited = if section.audited { " (audited)" } else { "" };
        let _ = writeln!(out, "  {} {} {ports}{audited}", section.direction, section.protocol);
        section.rules.iter().for_each(|rule| rule_text(out, rule));
    }
}

fn rule_text(out: &mut String, rule: &RuleEntry) {
    let whom = match rule.selector {
        None => "everybody".to_owned(),
        Some(selector) if rule.identities.is_empty() => format!("selector {selector}: nobody now"),
        Some(selector) => {
            let identities: Vec<String> = rule.identities.iter().map(u32::to_string).collect();
            format!("selector {selector}: identities {}", identities.join(" "))
        }
    };
    let why = rule.origin.as_ref().map_or_else(|| "no origin".to_owned(), explain::words);
    let _ = writeln!(out, "    [{}] {:5} {whom} — {why}", rule.index, rule.verdict);
}
