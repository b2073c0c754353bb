//! `weir cleanup`: take the datapath out of the kernel.

use std::process::ExitCode;

use anyhow::Result;

use crate::node_side;

/// Detach and remove what an agent of this machine left in the kernel.
#[derive(Debug, Clone, clap::Args)]
#[group(id = "cleanup_options")]
#[command(after_help = "Example:
  sudo weir cleanup")]
pub struct Args {
    #[command(flatten)]
    node: node_side::Args,
}

/// Removes links, programs and maps.
///
/// # Errors
/// Without root, or when something cannot be removed.
pub fn run(args: &Args) -> Result<ExitCode> {
    node_side::require_root("weir cleanup")?;
    let pins = args.node.pin_dir(&args.node.node_name())?;
    let removed = datapath_agent::cleanup(&pins)?;
    if removed.is_empty() {
        println!("nothing to remove in {}", pins.display());
    }
    for what in removed {
        println!("removed {what}");
    }
    Ok(ExitCode::SUCCESS)
}
