//! `weir`: the user's command.

use std::process::ExitCode;

use anyhow::Result;
use clap::{CommandFactory as _, Parser, Subcommand};
use weir::{cli, demo};

/// Who talks to whom on this machine or cluster, exactly, and for as long as you keep it.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true, args_override_self = true)]
struct Weir {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    #[command(args_override_self = true)]
    Up(Box<cli::up::Args>),
    Demo(demo::Args),
    Status(cli::status::Args),
    Observe(Box<cli::observe::Args>),
    Sql(cli::sql::Args),
    Map(cli::map::Args),
    Why(cli::why::Args),
    Policy(cli::policy::Args),
    Endpoint(cli::endpoint::Args),
    Identity(cli::identity::Args),
    Service(cli::service::Args),
    Bpf(cli::bpf::Args),
    Cleanup(cli::cleanup::Args),
    Completion(cli::completion::Args),
}

fn main() -> ExitCode {
    let arguments = cli::config::expand(std::env::args_os().collect());
    let arguments = match arguments.and_then(cli::observe::fold_not) {
        Ok(arguments) => arguments,
        Err(error) => {
            eprintln!("error: {error:#}");
            return ExitCode::from(2);
        }
    };
    let command = Weir::parse_from(arguments).command;
    let outcome = match tokio::runtime::Runtime::new() {
        Ok(runtime) => {
            let outcome = runtime.block_on(run(command));
            // A question that nobody answers on standard input must not hold up the end.
            runtime.shutdown_background();
            outcome
        }
        Err(error) => Err(error.into()),
    };
    weir::exit(outcome)
}

async fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Up(args) => cli::up::run(*args).await,
        Command::Demo(args) => demo::run(args).await.map(|()| ExitCode::SUCCESS),
        Command::Status(args) => cli::status::run(args).await,
        Command::Observe(args) => cli::observe::run(*args).await,
        Command::Sql(args) => cli::sql::run(args).await,
        Command::Map(args) => cli::map::run(args).await,
        Command::Bpf(args) => cli::bpf::run(args).await,
        Command::Why(args) => cli::why::run(&args).await,
        Command::Policy(args) => cli::policy::run(&args).await,
        Command::Endpoint(args) => cli::endpoint::run(args).await,
        Command::Identity(args) => cli::identity::run(args).await,
        Command::Service(args) => cli::service::run(args).await,
        Command::Completion(args) => cli::completion::run(&args, Weir::command()),
        Command::Cleanup(args) => cli::cleanup::run(&args),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Weir::command().debug_assert();
    }

    #[test]
    fn every_command_has_an_example() {
        let mut all = vec![Weir::command()];
        let mut lacking = Vec::new();
        while let Some(command) = all.pop() {
            let subcommands = command.get_subcommands().filter(|one| !one.is_hide_set());
            let before = all.len();
            all.extend(subcommands.cloned());
            if all.len() == before && command.get_after_help().is_none() {
                lacking.push(command.get_name().to_owned());
            }
        }
        assert!(lacking.is_empty(), "no example: {lacking:?}");
    }
}
