//! What an agent costs: resident memory and processor time, with nothing to do and under load.
//!
//! `make bench` runs it; it prints rows and writes `target/bench/agent_cost.json`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use harness::traffic::{EchoServer, short_connections};
use harness::weir::{Agent, AgentOptions, Binaries};
use harness::{Cluster, Process};

const IDLE: Duration = Duration::from_secs(30);
const LOAD: Duration = Duration::from_secs(20);
/// What an idle agent may use.
const IDLE_MIB: f64 = 40.0;
/// See [`IDLE_MIB`]; percent of one processor.
const IDLE_PERCENT: f64 = 1.0;

struct Cost {
    mib: f64,
    percent: f64,
}

fn main() -> harness::Result<()> {
    let mut cluster = Cluster::for_test("cost", &["a"])?;
    cluster.add_plain_pod(0, "client")?;
    cluster.add_plain_pod(0, "server")?;
    let binaries = Binaries::beside_this()?;
    // As it is deployed: the default interval.
    let options = AgentOptions { interval: Duration::from_secs(10), ..AgentOptions::default() };
    let agent = Agent::start(cluster.run(), &binaries, &cluster.nodes()[0], &options)?;

    let idle = measure(&agent.process, IDLE, || std::thread::sleep(IDLE));
    let (client, server) = (cluster.pod("client"), cluster.pod("server"));
    let to = SocketAddr::new(server.ipv4.into(), 8080);
    let _server = EchoServer::start(&server.netns, to)?;
    let connections = AtomicU64::new(0);
    let stop = AtomicBool::new(false);
    let load = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let made = short_connections(&client.netns, to, 100, 500).unwrap_or(0);
                connections.fetch_add(made as u64, Ordering::Relaxed);
            }
        });
        let load = measure(&agent.process, LOAD, || std::thread::sleep(LOAD));
        stop.store(true, Ordering::Relaxed);
        load
    });
    let rate = connections.load(Ordering::Relaxed) as f64 / LOAD.as_secs_f64();
    let each = load.percent / 100.0 / rate * 1e6;
    println!("agent               resident   processor");
    println!(
        "  idle            {:6.1} MiB  {:6.2} %   (limits {IDLE_MIB} MiB, {IDLE_PERCENT} %: {:.2}, {:.2} of them)",
        idle.mib,
        idle.percent,
        idle.mib / IDLE_MIB,
        idle.percent / IDLE_PERCENT,
    );
    println!(
        "  {rate:6.0} conn./s  {:6.1} MiB  {:6.2} %   ({each:.1} µs a connection, seen at two interfaces)",
        load.mib, load.percent,
    );
    let report = serde_json::json!({
        "idle_rss_mib": idle.mib, "idle_cpu_percent": idle.percent,
        "load_rss_mib": load.mib, "load_cpu_percent": load.percent,
        "load_connections_per_s": rate, "cpu_us_per_connection": each,
        "limit_idle_rss_mib": IDLE_MIB, "limit_idle_cpu_percent": IDLE_PERCENT,
    });
    let directory =
        std::env::var_os("WEIR_BENCH_DIR").map_or_else(|| "target/bench".into(), PathBuf::from);
    let path = directory.join("agent_cost.json");
    let written = std::fs::create_dir_all(&directory)
        .and_then(|()| std::fs::write(&path, report.to_string()));
    written.map_err(|source| harness::Error::File { path, source })
}

/// Memory at the end of, and processor share during, what `during` does.
fn measure(process: &Process, least: Duration, during: impl FnOnce()) -> Cost {
    let (before, start) = (process.cpu_time().unwrap_or_default(), Instant::now());
    during();
    let used = process.cpu_time().unwrap_or_default() - before;
    let share = used.as_secs_f64() / start.elapsed().max(least).as_secs_f64();
    Cost {
        mib: process.resident_bytes().unwrap_or_default() as f64 / 1048576.0,
        percent: share * 100.0,
    }
}
