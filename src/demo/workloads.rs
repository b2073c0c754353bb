//! The demo's workloads: real servers and clients, each a process in its pod.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::{Parser, ValueEnum};
use harness::cluster::WORLD_IPV4;
use harness::weir::Binaries;
use harness::{Cluster, Netns, Process};

use super::cast::{CAST, PAYMENTS};

mod api;
mod cart;
mod dns;
mod http;
mod loadgen;
mod payments;
mod redis;
mod web;

/// How long a server may take to listen.
const LISTENS: Duration = Duration::from_secs(10);

/// Arguments of `weir demo workload`.
#[derive(Debug, Parser)]
pub(super) struct Args {
    /// What to be.
    kind: Kind,
    /// The DNS server that clients ask.
    #[arg(long)]
    dns: Option<IpAddr>,
    /// File of `name address` lines that the DNS server answers from.
    #[arg(long)]
    zone: Option<PathBuf>,
}

/// A program of the demo.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// The cluster's DNS server.
    Dns,
    /// A key-value server, where redis-server is not installed.
    Redis,
    /// The web front.
    Web,
    /// The HTTP API behind it.
    Api,
    /// The shopping cart, reached over IPv6.
    Cart,
    /// The customers.
    Loadgen,
    /// A payments provider outside the cluster.
    Payments,
}

/// Is one of the workloads until it is ended.
pub(super) async fn run(args: Args) -> Result<()> {
    let names = || Ok::<_, anyhow::Error>(dns::Names::new(args.dns.context("--dns is missing")?));
    match args.kind {
        Kind::Dns => dns::serve(args.zone.as_deref().context("--zone is missing")?).await,
        Kind::Redis => redis::serve().await,
        Kind::Web => web::run(names()?).await,
        Kind::Api => api::run(names()?).await,
        Kind::Cart => cart::run(names()?).await,
        Kind::Loadgen => loadgen::run(names()?).await,
        Kind::Payments => payments::run().await,
    }
}

/// Starts every workload in its pod, servers first.
pub(super) fn start(cluster: &Cluster, binaries: &Binaries) -> Result<Vec<Process>> {
    let zone = cluster.run().directory("dns")?.join("zone");
    std::fs::write(&zone, zone_text(cluster)).with_context(|| zone.display().to_string())?;
    let weir = binaries.path("weir")?;
    let dns = IpAddr::V4(cluster.pod("dns-0").ipv4);
    let mut all =
        vec![spawn(cluster, cluster.world(), "payments", &mut workload(&weir, Kind::Payments))?];
    for role in CAST {
        let kind = Kind::from_str(role.workload, false).map_err(anyhow::Error::msg)?;
        let mut command = match kind {
            Kind::Redis => redis::command(&weir),
            kind => workload(&weir, kind),
        };
        match kind {
            Kind::Dns => command.arg("--zone").arg(&zone),
            Kind::Redis => &mut command,
            _ => command.args(["--dns", &dns.to_string()]),
        };
        let netns = &cluster.pod(role.short).netns;
        all.push(spawn(cluster, netns, role.short, &mut command)?);
        if !matches!(role.port, 0 | 53) {
            let listens = || harness::traffic::listens(netns, role.port);
            harness::wait_until(&format!("{} listens", role.short), LISTENS, listens)?;
        }
    }
    if let Ok(ping) = which("ping") {
        let mut command = Command::new(ping);
        command.args(["-q", "-i", "2", &WORLD_IPV4.to_string()]);
        all.push(spawn(cluster, &cluster.pod("loadgen-0").netns, "ping", &mut command)?);
    }
    Ok(all)
}

fn spawn(cluster: &Cluster, netns: &Netns, name: &str, command: &mut Command) -> Result<Process> {
    Ok(Process::spawn(cluster.run(), Some(netns), name, command)?)
}

fn workload(weir: &Path, kind: Kind) -> Command {
    let kind = kind.to_possible_value().expect("every kind has a name");
    let mut command = Command::new(weir);
    command.args(["demo", "workload", kind.get_name()]);
    command
}

/// The program's path, if it is installed in one of the usual places.
fn which(program: &str) -> Result<PathBuf> {
    ["/usr/bin", "/bin", "/usr/sbin", "/usr/local/bin"]
        .map(|directory| Path::new(directory).join(program))
        .into_iter()
        .find(|path| path.is_file())
        .with_context(|| format!("{program} is not installed"))
}

fn zone_text(cluster: &Cluster) -> String {
    let mut lines = vec![format!("{PAYMENTS} {WORLD_IPV4}")];
    for role in CAST {
        let (name, pod) = (role.service_name(), cluster.pod(role.short));
        let (v4, v6) = role.service_addresses().unwrap_or((pod.ipv4, pod.ipv6));
        lines.extend([format!("{name} {v4}"), format!("{name} {v6}")]);
    }
    lines.dedup();
    lines.join("\n")
}

/// One of the name's addresses, in turn, and a port.
async fn lookup(
    names: &dns::Names,
    name: &str,
    family: dns::Family,
    port: u16,
) -> Result<SocketAddr> {
    let address = names.pick(name, family).await?;
    Ok(SocketAddr::new(address.with_context(|| format!("{name} has no address"))?, port))
}
