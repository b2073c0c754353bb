//! `weir policy validate`: documents checked, without an agent.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use datapath_agent::control::Manifests;

use crate::cli::node::Output;

/// Options of `weir policy validate`.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Args {
    /// Files, or folders of them.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

/// Checks and prints.
pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let (mut policies, mut groups, mut problems, mut notes) = (0, 0, Vec::new(), Vec::new());
    for path in &args.files {
        std::fs::metadata(path).with_context(|| path.display().to_string())?;
        let snapshot = Manifests::new(path).poll().unwrap_or_default();
        policies += snapshot.policies.len();
        groups += snapshot.groups.len();
        problems.extend(snapshot.problems.iter().map(ToString::to_string));
        for policy in &snapshot.policies {
            let of = policy.key();
            notes.extend(policy.not_enforced().into_iter().map(|part| format!("{of}: {part}")));
        }
    }
    if args.output == Output::Json {
        let answer = serde_json::json!({
            "policies": policies, "groups": groups, "problems": problems, "not_enforced": notes,
        });
        println!("{answer:#}");
    } else {
        problems.iter().for_each(|problem| println!("{problem}"));
        notes.iter().for_each(|note| println!("not enforced yet: {note}"));
        println!(
            "{policies} policies and {groups} CIDR groups are valid, {} documents are not",
            problems.len()
        );
    }
    Ok(if problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
