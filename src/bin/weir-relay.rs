//! The relay, with store and page.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Result;
use clap::Parser;
use weir::admin::Admin;
use weir::store_side::StoreSide;
use weir::{stop, store_side, telemetry};

/// Takes in the flows of agents, keeps them, and answers questions about them.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Example:
  weir-relay --peers unix:///var/run/weir/hubble.sock,http://10.0.0.2:4244 --data-dir /var/lib/weir/store"
)]
struct Args {
    /// The agents: `unix:///path` or `http://host:port`, comma-separated.
    #[arg(
        long,
        value_name = "URI",
        value_delimiter = ',',
        default_value = "unix:///var/run/weir/hubble.sock"
    )]
    peers: Vec<relay::Peer>,
    /// Where flows are kept.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/weir/store")]
    data_dir: PathBuf,
    /// Where metrics and health are served, beside the page's port; `off` for nowhere.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9966")]
    metrics: store_side::Listen,
    /// Check the options and end.
    #[arg(long)]
    check_config: bool,
    #[command(flatten)]
    store: store_side::Args,
    #[command(flatten)]
    telemetry: telemetry::Args,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let outcome = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime.block_on(run(args)),
        Err(error) => Err(error.into()),
    };
    weir::exit(outcome)
}

async fn run(args: Args) -> Result<ExitCode> {
    if args.check_config {
        println!("{args:#?}");
        return Ok(ExitCode::SUCCESS);
    }
    let mut telemetry = telemetry::Telemetry::install(&args.telemetry, "weir-relay")?;
    let signalled = stop::on_signal()?;
    let registry = prometheus::Registry::new();
    let stages = stage::Registry::new();
    let stage_metrics = stages.metrics(&registry)?;
    let mut side = StoreSide::start(
        &args.store,
        args.data_dir.clone(),
        args.peers.clone(),
        &registry,
        &stages,
        stage_metrics.clone(),
    )
    .await?;
    if let Some(address) = args.metrics.0 {
        let store = side.store.clone();
        let admin = Admin {
            registry: registry.clone(),
            stages: stage_metrics,
            ready: Box::new(move || match store.ingest() {
                flowstore::Ingest::Stopped(why) => Err(format!("ingest stopped: {why}")),
                _ => Ok(()),
            }),
            config: format!("{args:#?}\n"),
        };
        Arc::new(admin).serve(address, signalled.child()).await?;
    }
    telemetry.export_metrics(&args.telemetry, "weir-relay", &registry)?;
    println!("page and HTTP API at http://{}/", side.address);
    let outcome = tokio::select! {
        () = signalled.stopped() => Ok(()),
        failed = side.failed() => failed,
    };
    side.stop().await?;
    telemetry.close().await;
    outcome.map(|()| ExitCode::SUCCESS)
}
