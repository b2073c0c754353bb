//! `weir up`: agent, relay, store and page in one process.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use stage::StopToken;

use crate::admin::Admin;
use crate::store_side::StoreSide;
use crate::{node_side, stop, store_side, telemetry};

/// Time that the relay has to take what the agent sends last.
const DRAIN: Duration = Duration::from_secs(5);

/// Observe this machine: agent, relay, store and page in one process.
#[derive(Debug, Clone, clap::Args)]
#[group(id = "up_options")]
#[command(after_help = "Examples:
  sudo weir up
  sudo weir up --interfaces eth0,veth* --manifests ./manifests --listen 127.0.0.1:0")]
pub struct Args {
    /// Where flows are kept.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/weir")]
    pub data_dir: PathBuf,
    /// Where sockets are made.
    #[arg(long, value_name = "DIR", default_value = "/var/run/weir")]
    pub run_dir: PathBuf,
    /// Options from a YAML file; each key is a flag's name. A flag or variable wins over it.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Take in flows of another agent too: `unix:///path`, `http://host:port`. Repeatable.
    #[arg(long = "peer", value_name = "URI")]
    pub peers: Vec<relay::Peer>,
    /// Leave the datapath counting when this process ends, for the next start to take over.
    #[arg(long)]
    pub keep: bool,
    /// Where the agent's metrics are served; `off` for nowhere.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9965")]
    pub metrics: store_side::Listen,
    /// See `weir-agent --help`.
    #[command(flatten)]
    pub node: node_side::Args,
    /// See `weir-relay --help`.
    #[command(flatten)]
    pub store: store_side::Args,
    /// Logging and telemetry.
    #[command(flatten)]
    pub telemetry: telemetry::Args,
}

/// Runs until a signal or a failure.
///
/// # Errors
/// When a part cannot start or fails.
pub async fn run(args: Args) -> Result<ExitCode> {
    node_side::require_root("weir up")?;
    let mut telemetry = telemetry::Telemetry::install(&args.telemetry, "weir")?;
    make_dir(&args.data_dir)?;
    make_dir(&args.run_dir)?;
    let signalled = stop::on_signal()?;

    let registry = prometheus::Registry::new();
    let stages = stage::Registry::new();
    let stage_metrics = stages.metrics(&registry)?;
    // The relay knows it by its URL, which has no working directory.
    let socket = std::path::absolute(&args.run_dir)?.join("hubble.sock");
    let mut config = args.node.config(&args.data_dir.join("spool"), socket.clone(), Vec::new())?;
    config.keep_datapath = args.keep;

    let mut peers = args.peers.clone();
    peers.push(relay::Peer::named(&config.node, &format!("unix://{}", socket.display()))?);
    let store_dir = args.data_dir.join("store");
    let mut store =
        StoreSide::start(&args.store, store_dir, peers, &registry, &stages, stage_metrics.clone())
            .await?;
    if let Some(address) = args.metrics.0 {
        let admin = Admin {
            registry: registry.clone(),
            stages: stage_metrics,
            ready: Box::new(|| Ok(())),
            config: format!("{args:#?}\n"),
        };
        Arc::new(admin).serve(address, signalled.child()).await?;
    }

    // The agent ends first and the relay takes the rest, so their tokens are not one.
    let agent_stop = StopToken::new();
    let (ready, told) = tokio::sync::oneshot::channel();
    let mut agent = tokio::spawn({
        let (stop, registry, stages) = (agent_stop.clone(), registry.clone(), stages.clone());
        async move {
            datapath_agent::run(config, &registry, &stages, stop, |state| {
                let _ = ready.send(state);
            })
            .await
        }
    });
    let outcome = async {
        tokio::select! {
            state = told => if let Ok(state) = state { welcome(&args, &store, &state) },
            ended = &mut agent => { ended??; bail!("the agent ended before it was ready") }
        }
        telemetry.export_metrics(&args.telemetry, "weir", &registry)?;
        tokio::select! {
            () = signalled.stopped() => Ok(()),
            ended = &mut agent => { ended??; bail!("the agent ended by itself") }
            failed = store.failed() => failed,
        }
    }
    .await;

    eprintln!("stopping …");
    agent_stop.stop();
    if !agent.is_finished() {
        match tokio::time::timeout(DRAIN, &mut agent).await {
            Ok(ended) => ended??,
            Err(_) => {
                tracing::warn!("the agent did not end in time; what it holds stays in its spool")
            }
        }
    }
    store.stop().await?;
    telemetry.close().await;
    outcome.map(|()| ExitCode::SUCCESS)
}

fn welcome(args: &Args, store: &StoreSide, state: &datapath_agent::Ready) {
    let page = store.address;
    println!("weir {} observes {} interfaces", env!("CARGO_PKG_VERSION"), state.interfaces.len());
    println!();
    println!("  page and HTTP API   http://{page}/");
    if let Some(grpc) = args.store.grpc.0 {
        println!("  relay gRPC          {grpc}");
    }
    println!("  data                {}", args.data_dir.display());
    println!();
    let server =
        if page.port() == 4280 { String::new() } else { format!(" --server http://{page}") };
    println!("Try:");
    println!("  weir status{server}");
    println!("  weir observe --follow{server}");
    println!(
        "  weir sql{server} \"SELECT process_name, destination_ip, sum(bytes_out + bytes_in) AS bytes FROM flows GROUP BY 1, 2 ORDER BY 3 DESC LIMIT 10\""
    );
    println!();
    println!(
        "Ctrl-C ends it{}.",
        if args.keep {
            "; the datapath keeps counting"
        } else {
            " and leaves no trace in the kernel"
        }
    );
}

fn make_dir(dir: &Path) -> Result<()> {
    std::fs::create_dir_all(dir)
        .with_context(|| format!("cannot make {} (choose another folder)", dir.display()))
}
