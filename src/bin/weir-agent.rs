//! The node agent.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use clap::Parser;
use weir::admin::Admin;
use weir::{node_side, stop, store_side, telemetry};

/// Observes this node and exports its flows to a relay.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Example:
  weir-agent --interfaces eth0,veth* --manifests /etc/weir/manifests"
)]
struct Args {
    /// Where flows wait for the relay.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/weir/spool")]
    data_dir: PathBuf,
    /// Unix socket of the export stream.
    #[arg(long, value_name = "PATH", default_value = "/var/run/weir/hubble.sock")]
    socket: PathBuf,
    /// TCP address of the export stream, 4244 by custom. Repeatable; none by default, for there
    /// is no authentication yet.
    #[arg(long, value_name = "ADDR")]
    listen: Vec<SocketAddr>,
    /// Where metrics and health are served; `off` for nowhere.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9965")]
    metrics: store_side::Listen,
    /// Check the options and end.
    #[arg(long)]
    check_config: bool,
    /// Remove this node's programs and maps from the kernel, and end.
    #[arg(long)]
    detach: bool,
    #[command(flatten)]
    node: node_side::Args,
    #[command(flatten)]
    telemetry: telemetry::Args,
}

fn main() -> ExitCode {
    let args = Args::parse();
    // One thread: the account has its own, and an idle agent should cost nothing.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let outcome = match runtime {
        Ok(runtime) => runtime.block_on(run(args)),
        Err(error) => Err(error.into()),
    };
    weir::exit(outcome)
}

async fn run(args: Args) -> Result<ExitCode> {
    node_side::require_root("weir-agent")?;
    if args.detach {
        for removed in datapath_agent::cleanup(&args.node.pin_dir(&args.node.node_name())?)? {
            println!("removed {removed}");
        }
        return Ok(ExitCode::SUCCESS);
    }
    let mut config = args.node.config(&args.data_dir, args.socket.clone(), args.listen.clone())?;
    config.keep_datapath = true;
    if args.check_config {
        println!("{config:#?}");
        return Ok(ExitCode::SUCCESS);
    }
    let mut telemetry = telemetry::Telemetry::install(&args.telemetry, "weir-agent")?;
    let stop = stop::on_signal()?;
    let registry = prometheus::Registry::new();
    let stages = stage::Registry::new();
    let (ready, mut told) = tokio::sync::watch::channel(false);
    if let Some(address) = args.metrics.0 {
        let is_ready = told.clone();
        let admin =
            Admin {
                registry: registry.clone(),
                stages: stages.metrics(&registry)?,
                ready: Box::new(move || {
                    if *is_ready.borrow() { Ok(()) } else { Err("starting".to_owned()) }
                }),
                config: format!("{args:#?}\n"),
            };
        Arc::new(admin).serve(address, stop.child()).await?;
    }
    let run = datapath_agent::run(config, &registry, &stages, stop, |state| {
        tracing::info!(interfaces = state.interfaces.len(), adopted = state.adopted, "ready");
        ready.send_replace(true);
    });
    let mut run = std::pin::pin!(run);
    tokio::select! {
        ended = &mut run => { ended?; return Ok(ExitCode::SUCCESS) }
        _ = told.wait_for(|ready| *ready) => {}
    }
    telemetry.export_metrics(&args.telemetry, "weir-agent", &registry)?;
    let outcome = run.await.context("weir-agent");
    telemetry.close().await;
    outcome?;
    Ok(ExitCode::SUCCESS)
}
