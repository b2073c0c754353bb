//! `weir policy get`: the policies that the agent knows.

use std::process::ExitCode;

use anyhow::Result;
use datapath_agent::local::policies::{Policies, PolicyState, Source, State};
use wire::agent::PoliciesRequest;

use crate::cli::node::{self, Socket};
use crate::cli::text::{self, Table};

/// Options of `weir policy get`.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Args {
    /// Only these: `name` or `namespace/name`.
    #[arg(value_name = "POLICY")]
    names: Vec<String>,
    /// Only those of this namespace.
    #[arg(short, long, value_name = "NAMESPACE")]
    namespace: Option<String>,
    #[command(flatten)]
    socket: Socket,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

/// Formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Output {
    /// For people.
    Text,
    /// For programs.
    Json,
    /// The documents themselves.
    Yaml,
}

/// Asks and prints. Exit code 1: there is none of that name.
pub(super) async fn run(args: &Args) -> Result<ExitCode> {
    let answer = args.socket.connect().await?.policies(PoliciesRequest {}).await;
    let (_, mut all) = node::read::<Policies>(answer)?;
    all.policies.retain(|policy| {
        let key = &policy.key;
        let full = key.to_string();
        args.namespace.as_ref().is_none_or(|namespace| *namespace == key.namespace)
            && (args.names.is_empty()
                || args.names.iter().any(|name| *name == key.name || *name == full))
    });
    match args.output {
        Output::Json => text::json(&all)?,
        Output::Yaml => {
            let texts: Vec<_> = all.policies.iter().map(|policy| policy.text.trim()).collect();
            text::print(&format!("{}\n", texts.join("\n---\n")))?;
        }
        Output::Text => text::print(&as_text(&all))?,
    }
    let none = all.policies.is_empty() && !args.names.is_empty();
    Ok(if none { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn as_text(all: &Policies) -> String {
    let mut table = Table::new(&["NAMESPACE", "NAME", "KIND", "STATE", "SOURCE", "SELECTS HERE"]);
    for policy in &all.policies {
        let key = &policy.key;
        table.row(vec![
            if key.namespace.is_empty() { "-".to_owned() } else { text::harmless(&key.namespace) },
            text::harmless(&key.name),
            key.kind.name().to_owned(),
            state(policy),
            match policy.source {
                Source::Control => "manifests".to_owned(),
                Source::Applied => "applied".to_owned(),
            },
            selects(policy),
        ]);
    }
    let mut out = if table.is_empty() { "no policies\n".to_owned() } else { table.text(2) };
    if let Some(left) = all.reverts_in_ms {
        out.push_str(&format!(
            "\nthe latest change is taken back in {} s unless confirmed: weir policy confirm\n",
            left.div_ceil(1000)
        ));
    }
    for policy in &all.policies {
        for part in &policy.not_enforced {
            out.push_str(&format!("not enforced yet: {}: {part}\n", policy.key));
        }
    }
    all.problems.iter().for_each(|problem| out.push_str(&format!("left out: {problem}\n")));
    out
}

fn state(policy: &PolicyState) -> String {
    let word = match policy.state {
        State::Enforced => "enforced",
        State::Audit => "audit",
        State::Observed => "not enforced (observing)",
    };
    if policy.not_enforced.is_empty() { word.to_owned() } else { format!("{word}, in part") }
}

fn selects(policy: &PolicyState) -> String {
    match &policy.selects[..] {
        [] => "-".to_owned(),
        [first, second, third, rest @ ..] if !rest.is_empty() => {
            format!("{first},{second},{third} and {} more", rest.len())
        }
        some => text::harmless(&some.join(",")),
    }
}
