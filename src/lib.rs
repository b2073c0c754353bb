//! Process plumbing: what the binaries share. The only place that reads the environment, installs
//! loggers and handles signals.

pub mod admin;
pub mod cli;
pub mod demo;
pub mod node_side;
pub mod size;
pub mod stop;
pub mod store_side;
pub mod telemetry;

use std::process::ExitCode;

/// Ends a process: prints an error with its causes, and chooses the exit code.
pub fn exit(outcome: anyhow::Result<ExitCode>) -> ExitCode {
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
