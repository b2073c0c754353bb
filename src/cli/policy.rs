//! `weir policy`: network policies checked, asked about, and put into force.

use std::process::ExitCode;

use anyhow::Result;

mod apply;
mod get;
mod trace;
mod validate;

/// Check network policies, see which are in force, apply them, and ask what they decide.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Clone, clap::Subcommand)]
enum Command {
    /// The policies that this node's agent knows: state, and the endpoints here that each selects.
    #[command(after_help = "Examples:
  sudo weir policy get
  sudo weir policy get shop/allow-web -o yaml")]
    Get(get::Args),
    /// Parse and validate documents; says file, line and reason of whatever is wrong.
    #[command(after_help = "Examples:
  weir policy validate policies/
  weir policy validate allow-web.yaml -o json")]
    Validate(validate::Args),
    /// What the policies of a folder decide about a connection: the rule, its lines, and the smallest change.
    #[command(after_help = "Examples:
  weir policy trace --manifests cluster/ shop/web-0 shop/db-0:5432
  weir policy trace --manifests cluster/ 10.0.0.7 10.244.1.9:53/udp -o json")]
    Trace(trace::Args),
    /// Put policies into force on this node, all or none; with --confirm-within they are taken back unless
    /// confirmed in time.
    #[command(after_help = "Examples:
  sudo weir policy apply host.yaml --confirm-within 60s
  sudo weir policy apply policies/*.yaml
  kubectl get networkpolicy web -o yaml | sudo weir policy apply -")]
    Apply(apply::Apply),
    /// Take policies that were applied out of force again.
    #[command(after_help = "Examples:
  sudo weir policy delete shop/allow-web
  sudo weir policy delete CiliumClusterwideNetworkPolicy//host --confirm-within 60s")]
    Delete(apply::Delete),
    /// Keep a change that waits for confirmation.
    #[command(after_help = "Example:
  sudo weir policy confirm")]
    Confirm(apply::Confirm),
    /// Take a change back that waits for confirmation.
    #[command(after_help = "Example:
  sudo weir policy revert")]
    Revert(apply::Confirm),
}

/// Runs the command. Exit code 1: something is wrong with a document, or nothing was found.
///
/// # Errors
/// When a file cannot be read, the question not be understood, or the agent not be asked.
pub async fn run(args: &Args) -> Result<ExitCode> {
    match &args.command {
        Command::Get(args) => get::run(args).await,
        Command::Validate(args) => validate::run(args),
        Command::Trace(args) => trace::run(args),
        Command::Apply(args) => apply::apply(args).await,
        Command::Delete(args) => apply::delete(args).await,
        Command::Confirm(args) => apply::confirm(args, false).await,
        Command::Revert(args) => apply::confirm(args, true).await,
    }
}
