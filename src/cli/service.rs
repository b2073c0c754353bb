//! `weir service list|get`: services as this node serves them.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::Result;
use datapath_agent::local::services::Services;
use datapath_agent::services::state::ServedPort;
use wire::agent::ServicesRequest;

use crate::cli::node::{self, Output, Socket};
use crate::cli::text::{self, Table, harmless};

/// Services: the addresses that clients use, and the backends behind them, as this node serves them.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Clone, clap::Subcommand)]
enum Command {
    /// List them, one line a port.
    #[command(after_help = "Examples:
  sudo weir service list
  sudo weir service list -n shop -o json")]
    List(List),
    /// Everything about one: frontends, backends and their state.
    #[command(after_help = "Example:
  sudo weir service get shop/web")]
    Get(Get),
}

#[derive(Debug, Clone, clap::Args)]
struct List {
    /// Only of this namespace.
    #[arg(short, long, value_name = "NAME")]
    namespace: Option<String>,
    #[command(flatten)]
    socket: Socket,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Debug, Clone, clap::Args)]
struct Get {
    /// `namespace/name`; without a namespace, any.
    #[arg(value_name = "SERVICE")]
    service: String,
    #[command(flatten)]
    socket: Socket,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

/// Asks and prints. Exit code 1: there is no such service.
///
/// # Errors
/// When the agent cannot be asked, or serves nothing.
pub async fn run(args: Args) -> Result<ExitCode> {
    let (socket, output) = match &args.command {
        Command::List(list) => (&list.socket, list.output),
        Command::Get(get) => (&get.socket, get.output),
    };
    let answer = socket.connect().await?.services(ServicesRequest {}).await;
    let (_, mut all) = node::read::<Services>(answer)?;
    let mut wanted = None;
    let known: BTreeSet<String> =
        all.services.iter().map(|port| format!("{}/{}", port.namespace, port.name)).collect();
    match &args.command {
        Command::List(List { namespace: Some(namespace), .. }) => {
            all.services.retain(|port| port.namespace == *namespace);
        }
        Command::List(_) => {}
        Command::Get(get) => {
            let (namespace, name) = match get.service.split_once('/') {
                Some((namespace, name)) => (Some(namespace), name),
                None => (None, get.service.as_str()),
            };
            all.services.retain(|port| {
                port.name == name && namespace.is_none_or(|namespace| port.namespace == namespace)
            });
            wanted = Some(&get.service);
        }
    }
    if let (Some(name), true) = (wanted, all.services.is_empty()) {
        eprintln!(
            "no service {name} is served on this node{}; `weir service list` shows those that are",
            match near(name, &known).as_slice() {
                [] => String::new(),
                near => format!(" (near: {})", near.join(", ")),
            }
        );
        return Ok(ExitCode::FAILURE);
    }
    match (output, wanted) {
        (Output::Json, Some(_)) => text::json(&all.services)?,
        (Output::Json, None) => text::json(&all)?,
        (Output::Text, Some(_)) => text::print(&details(&all.services))?,
        (Output::Text, None) => text::print(&as_text(&all))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn as_text(all: &Services) -> String {
    let mut table =
        Table::new(&["ID>", "SERVICE", "PORT", "TYPE", "FRONTENDS", "BACKENDS>", "ALGORITHM"]);
    for port in &all.services {
        let active = port.backends.iter().filter(|backend| backend.state == "active").count();
        table.row(vec![
            port.number.to_string(),
            harmless(&format!("{}/{}", port.namespace, port.name)),
            harmless(&label(port)),
            harmless(&port.kind),
            frontends(port),
            match port.backends.len() - active {
                0 => active.to_string(),
                draining => format!("{active} (+{draining} draining)"),
            },
            port.algorithm.clone(),
        ]);
    }
    if table.is_empty() {
        return "no service is served on this node\n".to_owned();
    }
    let mut out = table.text(2);
    let uses: Vec<String> = all
        .tables
        .iter()
        .map(|table| {
            format!(
                "{} {} of {}",
                table.name,
                text::count(table.entries),
                text::count(table.capacity)
            )
        })
        .collect();
    let _ = writeln!(out, "\ntables: {}", uses.join(", "));
    let counters: Vec<String> = all
        .counters
        .iter()
        .map(|(name, count)| format!("{name} {}", text::count(*count)))
        .collect();
    let _ = writeln!(out, "since they were made: {}", counters.join(", "));
    out
}

/// A few names that may have been meant: of another namespace, longer or shorter, or with letters in another order.
fn near(wanted: &str, known: &BTreeSet<String>) -> Vec<String> {
    const SHOWN: usize = 5;
    let name = |id: &str| id.rsplit('/').next().unwrap_or_default().to_lowercase();
    let sorted = |name: &str| {
        let mut letters: Vec<char> = name.chars().collect();
        letters.sort_unstable();
        letters
    };
    let wanted = name(wanted);
    let alike = |id: &&String| {
        let name = name(id);
        let start = wanted.chars().zip(name.chars()).take_while(|(a, b)| a == b).count();
        let part = !wanted.is_empty() && (name.contains(&wanted) || wanted.contains(&name));
        part || start * 2 > wanted.chars().count() || sorted(&name) == sorted(&wanted)
    };
    known.iter().filter(alike).take(SHOWN).map(|id| harmless(id)).collect()
}

fn label(port: &ServedPort) -> String {
    match port.port.as_str() {
        "" => port.protocol.clone(),
        name => format!("{name}/{}", port.protocol),
    }
}

/// The first few; `get` shows all.
fn frontends(port: &ServedPort) -> String {
    const SHOWN: usize = 3;
    let mut shown: Vec<&str> =
        port.frontends.iter().take(SHOWN).map(|frontend| frontend.address.as_str()).collect();
    let more = format!("+{}", port.frontends.len().saturating_sub(SHOWN));
    if port.frontends.len() > SHOWN {
        shown.push(&more);
    }
    if shown.is_empty() { "-".to_owned() } else { shown.join(" ") }
}

fn details(ports: &[ServedPort]) -> String {
    let mut out = String::new();
    for port in ports {
        let _ = writeln!(
            out,
            "{}/{} {} ({}, id {}), {}, {}",
            harmless(&port.namespace),
            harmless(&port.name),
            harmless(&label(port)),
            harmless(&port.kind),
            port.number,
            port.algorithm,
            port.forwarding
        );
        for why in &port.obstacles {
            let _ = writeln!(out, "  {}", harmless(why));
        }
        if port.affinity_seconds > 0 {
            let _ = writeln!(out, "  a client keeps its backend for {} s", port.affinity_seconds);
        }
        if !port.source_ranges.is_empty() {
            let _ = writeln!(out, "  clients from outside: {}", port.source_ranges.join(", "));
        }
        let mut table = Table::new(&["FRONTEND", "CLIENTS", "BACKENDS INSIDE>", "OUTSIDE>"]);
        for frontend in &port.frontends {
            let outside =
                if frontend.cluster_only { "-".to_owned() } else { frontend.external.to_string() };
            table.row(vec![
                frontend.address.clone(),
                if frontend.cluster_only { "in the cluster" } else { "all" }.to_owned(),
                frontend.internal.to_string(),
                outside,
            ]);
        }
        out.push_str(&indented(&table.text(2)));
        let mut table = Table::new(&["BACKEND", "STATE", "WHERE", "WEIGHT>", "INDEX>"]);
        for backend in &port.backends {
            table.row(vec![
                backend.address.clone(),
                backend.state.clone(),
                if backend.local { "this node" } else { "elsewhere" }.to_owned(),
                backend.weight.to_string(),
                backend.index.to_string(),
            ]);
        }
        match table.is_empty() {
            true if port.kind == "LocalRedirect" => {
                out.push_str("  no pod of this node: nothing is redirected\n");
            }
            true => out.push_str("  no backends: clients are refused\n"),
            false => out.push_str(&indented(&table.text(2))),
        }
    }
    out
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("  {line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_may_have_been_meant() {
        let known = ["shop/web", "shop/web-admin", "shop/database", "kube-system/kube-dns"];
        let known = known.map(str::to_owned).into();
        for (wanted, expected) in [
            ("web", "shop/web shop/web-admin"),
            ("prod/web-admin", "shop/web shop/web-admin"),
            ("wbe", "shop/web"),
            ("databse", "shop/database"),
            ("dns", "kube-system/kube-dns"),
            ("cache", ""),
            ("", ""),
        ] {
            assert_eq!(near(wanted, &known).join(" "), expected, "{wanted}");
        }
    }
}
