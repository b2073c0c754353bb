//! `weir completion`: scripts that complete the command line.

use std::process::ExitCode;

use anyhow::Result;

/// Print a script that completes commands and flags in a shell.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:
  weir completion bash > /etc/bash_completion.d/weir
  source <(weir completion zsh)
  weir completion fish > ~/.config/fish/completions/weir.fish")]
pub struct Args {
    /// The shell.
    #[arg(value_enum)]
    pub shell: clap_complete::Shell,
}

/// Prints the script for `command`.
///
/// # Errors
/// None.
pub fn run(args: &Args, mut command: clap::Command) -> Result<ExitCode> {
    clap_complete::generate(args.shell, &mut command, "weir", &mut std::io::stdout());
    Ok(ExitCode::SUCCESS)
}
