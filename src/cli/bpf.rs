//! `weir bpf`: this node's maps and programs, by asking its agent.

use std::process::ExitCode;

use anyhow::Result;

mod list;
mod policy;
mod services;

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
    /// Frontends with their backends, as the kernel has them.
    #[command(after_help = "Example:
  sudo weir bpf lb -o json")]
    Lb(services::Args),
    /// Maglev tables: how many slots each backend has.
    #[command(after_help = "Example:
  sudo weir bpf maglev")]
    Maglev(services::Args),
    /// Translated connections: how packets look to the host's routing, and on the wire.
    #[command(after_help = "Example:
  sudo weir bpf nat --limit 50")]
    Nat(services::Args),
    /// Connections, with what was counted.
    #[command(after_help = "Example:
  sudo weir bpf ct --limit 50")]
    Ct(services::Args),
}

/// Asks and prints.
///
/// # Errors
/// When the agent cannot be asked.
pub async fn run(args: Args) -> Result<ExitCode> {
    match args.command {
        Command::List(args) => list::run(&args).await,
        Command::Policy(args) => policy::run(&args).await,
        Command::Lb(args) => services::run("lb", &args).await,
        Command::Maglev(args) => services::run("maglev", &args).await,
        Command::Nat(args) => services::run("nat", &args).await,
        Command::Ct(args) => services::run("ct", &args).await,
    }
}
