//! `weir bpf`: this node's maps and programs, by asking its agent.

use std::process::ExitCode;

use anyhow::Result;

mod list;
mod policy;

/// What this node's agent has in the kernel.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Clone, clap::Subcommand)]
enum Command {
    /// Maps with use and capacity, interfaces with how the programs are attached, and stages.
    List(list::Args),
    /// The policy tables as the kernel has them, decoded; and whether they are what was compiled.
    Policy(policy::Args),
}

/// Asks and prints.
///
/// # Errors
/// When the agent cannot be asked.
pub async fn run(args: Args) -> Result<ExitCode> {
    match args.command {
        Command::List(args) => list::run(&args).await,
        Command::Policy(args) => policy::run(&args).await,
    }
}
