//! `weir demo`: a small cluster of network namespaces with services, a policy, traffic and failures,
//! observed by the real agent, relay and page.
//!
//! Nothing in it is simulated: pods are namespaces, workloads are processes that speak HTTP, DNS and
//! RESP over the kernel's network, and what the page shows is what the datapath counted.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::{Parser, Subcommand};
use harness::weir::{Agent, AgentOptions, Binaries, Relay};
use harness::{Cluster, Process, Run};

mod cast;
mod manifests;
mod net;
mod text;
mod workloads;

/// Name of the run: namespaces are `weir-demo-…`.
const RUN: &str = "demo";
/// How often agents report long-lived connections here: often enough to watch.
const INTERVAL: Duration = Duration::from_secs(2);
/// How long the first flows may take.
const FIRST_FLOWS: Duration = Duration::from_secs(60);

/// Builds a small cluster of network namespaces with real traffic and a network policy, and observes it.
#[derive(Debug, Parser)]
#[command(after_help = "Example: sudo weir demo --seconds 60 --ready-file /tmp/ready.json")]
pub struct Args {
    /// Where page and API listen; port 0 picks one.
    #[arg(long, value_name = "ADDR", default_value_t = SocketAddr::from((Ipv4Addr::LOCALHOST, 4280)))]
    listen: SocketAddr,
    /// Stop after so many seconds; without it, on Ctrl-C.
    #[arg(long, value_name = "N", env = "DEMO_SECONDS")]
    seconds: Option<u64>,
    /// File that is written once the page answers and flows are stored (JSON).
    #[arg(long, value_name = "FILE", env = "DEMO_READY_FILE")]
    ready_file: Option<PathBuf>,
    /// Remove what a killed demo left behind, and nothing else.
    #[arg(long)]
    cleanup: bool,
    #[command(subcommand)]
    part: Option<Part>,
}

#[derive(Debug, Subcommand)]
enum Part {
    /// One of the demo's workloads; started by the demo inside a pod.
    #[command(hide = true)]
    Workload(workloads::Args),
}

/// A running demo. Fields are dropped in order: traffic first, the cluster last.
#[derive(Debug)]
struct Demo {
    workloads: Vec<Process>,
    relay: Relay,
    agents: Vec<Agent>,
    cluster: Cluster,
}

/// Runs the demo until Ctrl-C, the end of its time, or the end of one of its parts.
///
/// # Errors
/// Without root, when a needed program is missing, or when a part of the demo fails.
pub async fn run(args: Args) -> Result<()> {
    if let Some(Part::Workload(workload)) = args.part {
        return workloads::run(workload).await;
    }
    if args.cleanup {
        return cleanup();
    }
    if let Some(path) = &args.ready_file {
        // One of an earlier demo would tell a lie.
        let _ = std::fs::remove_file(path);
    }
    let listen = args.listen;
    let mut demo = tokio::task::spawn_blocking(move || Demo::start(listen)).await??;
    if let Some(path) = &args.ready_file {
        let ready = serde_json::json!({
            "ui": format!("http://{}/", demo.relay.address),
            "hubble": null, "sql_pg": null, "flight": null, "kubeconfig": null,
        });
        std::fs::write(path, ready.to_string()).with_context(|| path.display().to_string())?;
    }
    text::print(&demo.cluster, &demo.agents, demo.relay.address);
    let ended = demo.watch(args.seconds).await;
    println!("cleaning up …");
    tokio::task::spawn_blocking(move || drop(demo)).await?;
    ended
}

fn cleanup() -> Result<()> {
    match harness::run::remove_run(RUN) {
        Ok(true) => println!("removed what an earlier demo left behind"),
        Ok(false) => println!("nothing to remove"),
        Err(harness::Error::Busy(_)) => bail!("a demo is running; stop it with Ctrl-C first"),
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

// === impl Demo ===

impl Demo {
    fn start(listen: SocketAddr) -> Result<Self> {
        let run = match Run::claim(RUN) {
            Err(harness::Error::NotRoot) => {
                bail!(
                    "the demo makes network namespaces and loads eBPF programs: run it as root (sudo weir demo)"
                )
            }
            Err(harness::Error::Busy(_)) => {
                bail!("a demo is running already; stop it with Ctrl-C first")
            }
            other => other?,
        };
        println!("building the cluster …");
        let binaries = Binaries::beside_this()?;
        let cluster = net::build(run)?;
        let manifests = cluster.run().directory("manifests")?;
        manifests::write(&cluster, &manifests)?;
        // Observed from the first packet: agents are up before there is traffic.
        let options = AgentOptions {
            manifests: Some(manifests),
            interval: INTERVAL,
            flags: vec!["--mode".to_owned(), "enforce".to_owned()],
            ..AgentOptions::default()
        };
        let agents = cluster
            .nodes()
            .iter()
            .map(|node| Agent::start(cluster.run(), &binaries, node, &options))
            .collect::<harness::Result<Vec<_>>>()?;
        let peers: Vec<&Agent> = agents.iter().collect();
        let relay = Relay::start(cluster.run(), &binaries, &peers, listen, &[])?;
        let workloads = workloads::start(&cluster, &binaries)?;
        let mut demo = Self { workloads, relay, agents, cluster };
        demo.first_flows()?;
        Ok(demo)
    }

    /// Waits until flows of every node are stored.
    fn first_flows(&mut self) -> Result<()> {
        let sql = self.relay.sql();
        let nodes = self.cluster.nodes().len() as u64;
        let stored = || sql.number("SELECT count(DISTINCT node) FROM flows").ok() == Some(nodes);
        harness::wait_until("flows of every node are stored", FIRST_FLOWS, stored)?;
        match self.ended() {
            Some(what) => bail!("{what}"),
            None => Ok(()),
        }
    }

    async fn watch(&mut self, seconds: Option<u64>) -> Result<()> {
        let stop = stop_signal()?;
        tokio::pin!(stop);
        let deadline = seconds.map(|n| tokio::time::Instant::now() + Duration::from_secs(n));
        let mut tick = tokio::time::interval(Duration::from_secs(1));
        loop {
            tokio::select! {
                () = &mut stop => return Ok(()),
                now = tick.tick() => if deadline.is_some_and(|deadline| now >= deadline) {
                    return Ok(());
                },
            }
            if let Some(what) = self.ended() {
                bail!("{what}");
            }
        }
    }

    /// The first part that has ended although it should not have.
    fn ended(&mut self) -> Option<String> {
        let agents = self.agents.iter_mut().map(|agent| &mut agent.process);
        let mut all = agents.chain([&mut self.relay.process]).chain(&mut self.workloads);
        all.find_map(|process| {
            let status = process.ended()?;
            Some(format!("{} ended ({status}):\n{}", process.name(), process.log_tail(10)))
        })
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        // All at once; the fields' own ends then find them gone, or wait.
        let agents = self.agents.iter().map(|agent| &agent.process);
        for process in self.workloads.iter().chain([&self.relay.process]).chain(agents) {
            process.signal(harness::process::Signal::TERM);
        }
    }
}

/// Resolves on Ctrl-C or TERM.
fn stop_signal() -> Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}
