//! What it costs to carry flows from agent to relay: Weir's export stream beside one protobuf
//! message per flow in the shape of Hubble's, both over tonic and a unix socket, in one process.
//!
//! Each way begins with the same plain rows, as an agent has them, and ends with what a receiver can
//! work with (record batches; structs). Agent and receiver have a thread each, so that the processor
//! time of the two can be told apart. Rounds interleave the ways; medians count.
//!
//! Prints rows with ratios, the last line is JSON; with `WEIR_BENCH_DIR` it is also written there,
//! as `export.json`. `WEIR_BENCH_ROWS` sets the number of flows (default 262 144).

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use columns::Table;
use columns::ipc::Compression;
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};
use tonic::transport::{Channel, Endpoint, Server};
use wire::export::export_server::ExportServer;

#[path = "export/batches.rs"]
mod batches;
#[path = "export/messages.rs"]
mod messages;
#[path = "export/rows.rs"]
mod rows;
#[path = "export/socket.rs"]
mod socket;

use rows::{Checksum, Rows};
use socket::Traffic;

type Failure = Box<dyn std::error::Error + Send + Sync>;

const FLOWS: usize = 1 << 18;
/// Measured rounds; one more warms up.
const ROUNDS: usize = 9;
const WAYS: [Way; 3] = [Way::Batches, Way::Uncompressed, Way::Messages];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// As the agent sends them.
    Batches,
    /// The same without compression.
    Uncompressed,
    /// One message per flow.
    Messages,
}

/// One way, ready to be measured.
#[derive(Debug)]
struct Line {
    way: Way,
    channel: Channel,
    traffic: Arc<Traffic>,
    samples: Vec<Sample>,
}

/// What one flow cost: nanoseconds, and bytes on the socket.
#[derive(Debug, Clone, Copy)]
struct Sample {
    wall: f64,
    agent: f64,
    receiver: f64,
    sent: f64,
    returned: f64,
}

fn main() -> Result<(), Failure> {
    let flows = std::env::var("WEIR_BENCH_ROWS").ok().and_then(|rows| rows.parse().ok());
    let rows = Arc::new(Rows::new(flows.unwrap_or(FLOWS)));
    let directory = tempfile::tempdir()?;
    let mut agents = Vec::new();
    for way in WAYS {
        let traffic = Arc::new(Traffic::default());
        agents.push((way, directory.path().join(way.name()), traffic));
    }
    // The agent's side ends with the process.
    std::thread::spawn({
        let (agents, rows) = (agents.clone(), Arc::clone(&rows));
        move || serve(agents, &rows)
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let lines = runtime.block_on(measure(agents, &rows))?;
    let report = report(&lines, &rows);
    println!("{report}");
    if let Some(directory) = std::env::var_os("WEIR_BENCH_DIR").map(PathBuf::from) {
        std::fs::create_dir_all(&directory)?;
        std::fs::write(directory.join("export.json"), report.to_string())?;
    }
    Ok(())
}

fn serve(agents: Vec<(Way, PathBuf, Arc<Traffic>)>, rows: &Arc<Rows>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime for the agent's side");
    let served = runtime.block_on(async {
        futures::future::try_join_all(agents.into_iter().map(|(way, path, traffic)| {
            let rows = Arc::clone(rows);
            async move {
                let incoming = socket::listen(&path, traffic)?;
                let mut server = Server::builder();
                let export =
                    |compression| ExportServer::new(batches::Agent::new(rows.clone(), compression));
                let router = match way {
                    Way::Batches => server.add_service(export(Compression::Zstd)),
                    Way::Uncompressed => server.add_service(export(Compression::None)),
                    Way::Messages => server.add_service(messages::Observer::new(rows.clone())),
                };
                router.serve_with_incoming(incoming).await?;
                Ok::<_, Failure>(())
            }
        }))
        .await
    });
    served.expect("the agent's side serves");
}

async fn measure(
    agents: Vec<(Way, PathBuf, Arc<Traffic>)>,
    rows: &Rows,
) -> Result<Vec<Line>, Failure> {
    let mut lines = Vec::new();
    for (way, path, traffic) in agents {
        let channel = connect(&path).await?;
        lines.push(Line { way, channel, traffic, samples: Vec::new() });
    }
    for round in 0..=ROUNDS {
        for line in &mut lines {
            let sample = line.round(rows).await?;
            if round > 0 {
                line.samples.push(sample);
            }
        }
    }
    Ok(lines)
}

/// As the relay connects, but until the agent listens.
async fn connect(path: &Path) -> Result<Channel, Failure> {
    let endpoint = Endpoint::from_shared(format!("unix://{}", path.display()))?;
    for _ in 0..100 {
        if let Ok(channel) = endpoint.connect().await {
            return Ok(channel);
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    Ok(endpoint.connect().await?)
}

fn report(lines: &[Line], rows: &Rows) -> Value {
    println!(
        "{:36} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8}",
        "per flow", "cpu ns", "agent", "receiver", "wall ns", "bytes", "back"
    );
    let mut report = serde_json::Map::new();
    report.insert("flows".to_owned(), json!(rows.len()));
    report.insert("columns".to_owned(), json!(Table::Flows.columns().len()));
    report.insert("rounds".to_owned(), json!(ROUNDS));
    let row = |name: &str, values: [f64; 6], digits: usize| {
        let [cpu, agent, receiver, wall, sent, back] = values;
        println!(
            "{name:36} {cpu:>8.digits$} {agent:>8.digits$} {receiver:>8.digits$} {wall:>8.digits$} \
             {sent:>8.1} {back:>8.3}"
        );
    };
    let medians: Vec<[f64; 6]> = lines.iter().map(Line::medians).collect();
    for (line, values) in lines.iter().zip(&medians) {
        let name = line.way.name();
        row(line.way.title(), *values, 0);
        let [cpu, agent, receiver, wall, sent, back] = *values;
        report.insert(
            name.to_owned(),
            json!({
                "cpu_ns": cpu, "agent_cpu_ns": agent, "receiver_cpu_ns": receiver, "wall_ns": wall,
                "bytes": sent, "bytes_back": back, "flows_per_cpu_s": 1e9 / cpu,
            }),
        );
    }
    let messages = medians[2];
    for (name, ours) in [("ratio", medians[0]), ("ratio_uncompressed", medians[1])] {
        let [cpu, agent, receiver, wall, sent, _] =
            std::array::from_fn(|at| messages[at] / ours[at]);
        println!(
            "{:36} {cpu:>7.1}x {agent:>7.1}x {receiver:>7.1}x {wall:>7.1}x {sent:>7.1}x",
            format!("messages / {}", if name == "ratio" { "batches" } else { "uncompressed" })
        );
        report.insert(
            name.to_owned(),
            json!({
                "cpu": cpu, "agent_cpu": agent, "receiver_cpu": receiver, "wall": wall,
                "bytes": sent,
            }),
        );
    }
    Value::Object(report)
}

fn cpu_ns(clock: ClockId) -> f64 {
    let time = clock_gettime(clock);
    time.tv_sec as f64 * 1e9 + time.tv_nsec as f64
}

// === impl Way ===

impl Way {
    fn name(self) -> &'static str {
        match self {
            Self::Batches => "batches",
            Self::Uncompressed => "uncompressed",
            Self::Messages => "messages",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Batches => "Weir: batches of 4096, zstd",
            Self::Uncompressed => "Weir: batches of 4096, uncompressed",
            Self::Messages => "Hubble's shape: a message per flow",
        }
    }
}

// === impl Line ===

impl Line {
    /// Carries all rows once.
    async fn round(&self, rows: &Rows) -> Result<Sample, Failure> {
        let channel = self.channel.clone();
        let (sent, returned) = self.traffic.bytes();
        let process = cpu_ns(ClockId::ProcessCPUTime);
        let thread = cpu_ns(ClockId::ThreadCPUTime);
        let started = Instant::now();
        let received: Checksum = match self.way {
            Way::Batches | Way::Uncompressed => batches::receive(channel).await?,
            Way::Messages => messages::receive(channel).await?,
        };
        let wall = started.elapsed().as_nanos() as f64;
        // This thread is the receiver; the process has no other but the agent's.
        let receiver = cpu_ns(ClockId::ThreadCPUTime) - thread;
        let agent = cpu_ns(ClockId::ProcessCPUTime) - process - receiver;
        let (sent_after, returned_after) = self.traffic.bytes();
        assert_eq!(received, rows.checksum(), "{}: every flow arrives, once", self.way.name());
        let each = |total: f64| total / rows.len() as f64;
        Ok(Sample {
            wall: each(wall),
            agent: each(agent),
            receiver: each(receiver),
            sent: each((sent_after - sent) as f64),
            returned: each((returned_after - returned) as f64),
        })
    }

    /// Processor time, the agent's, the receiver's, wall time, bytes, bytes back.
    fn medians(&self) -> [f64; 6] {
        let of = |value: fn(&Sample) -> f64| {
            let mut values: Vec<f64> = self.samples.iter().map(value).collect();
            values.sort_by(f64::total_cmp);
            values[values.len() / 2]
        };
        [
            of(|s| s.agent + s.receiver),
            of(|s| s.agent),
            of(|s| s.receiver),
            of(|s| s.wall),
            of(|s| s.sent),
            of(|s| s.returned),
        ]
    }
}
