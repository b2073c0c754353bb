//! `weir policy trace`: what the policies of a folder decide, without an agent.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, anyhow};
use datapath_agent::control::Manifests;
use datapath_agent::enforce::cluster;
use datapath_agent::local::question;
use datapath_policy::{Compiler, Options};

use crate::cli::explain;
use crate::cli::node::Output;
use crate::cli::text;

/// Options of `weir policy trace`.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Args {
    /// The client: `namespace/pod`, or an address.
    source: String,
    /// The server: `namespace/pod` or an address, then `:port` and `/tcp`, `/udp` or `/sctp`; or `/icmp`.
    destination: String,
    /// Folder of Kubernetes manifests: pods with status.podIP, namespaces, policies.
    #[arg(long, value_name = "DIR")]
    manifests: PathBuf,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

/// Asks and prints. Every pod of the folder counts as if it were on the node that answers.
pub(super) fn run(args: &Args) -> Result<ExitCode> {
    std::fs::metadata(&args.manifests).with_context(|| args.manifests.display().to_string())?;
    let snapshot = Manifests::new(&args.manifests).poll().unwrap_or_default();
    for problem in &snapshot.problems {
        eprintln!("left out: {problem}");
    }
    let question = question::parse(&snapshot, &args.source, &args.destination);
    let question = question.map_err(|why| anyhow!(why))?;
    let mut compiler = Compiler::new(Options::default());
    cluster::feed_all(&mut compiler, &snapshot, "");
    compiler.commit();
    let answer = compiler.explain(&question);
    match args.output {
        Output::Json => text::json(&answer)?,
        Output::Text => text::print(&explain::text(&answer))?,
    }
    Ok(ExitCode::SUCCESS)
}
