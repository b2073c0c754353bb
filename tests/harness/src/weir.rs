//! Starts the real binaries over a cluster.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::sql::Sql;
use crate::{Error, Node, Process, Result, Run, file_error, http, wait_until};

/// How long a process may take to be ready.
const READY: Duration = Duration::from_secs(60);

/// Where an agent serves metrics and readiness, inside its node's namespace.
pub const AGENT_METRICS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9965);

/// Where the binaries are.
#[derive(Debug, Clone)]
pub struct Binaries {
    directory: PathBuf,
}

/// One agent.
#[derive(Debug)]
pub struct Agent {
    /// The process.
    pub process: Process,
    /// Its Hubble and export socket.
    pub socket: PathBuf,
    command: AgentCommand,
}

/// How an agent is started; the same again after it was killed.
#[derive(Debug, Clone)]
struct AgentCommand {
    binary: PathBuf,
    arguments: Vec<String>,
    netns: String,
    name: String,
}

/// What differs from one test to the next.
#[derive(Debug, Clone)]
pub struct AgentOptions {
    /// Directory of Kubernetes manifests.
    pub manifests: Option<PathBuf>,
    /// Interfaces to observe, a pattern.
    pub interfaces: String,
    /// Reporting interval.
    pub interval: Duration,
    /// Further flags.
    pub flags: Vec<String>,
}

/// The relay with its store and page.
#[derive(Debug)]
pub struct Relay {
    /// The process.
    pub process: Process,
    /// Where page and API are.
    pub address: SocketAddr,
    binary: PathBuf,
    arguments: Vec<String>,
}

// === impl Binaries ===

impl Binaries {
    /// Those beside the running program, be it one of them or a test.
    ///
    /// # Errors
    /// When the running program's own path is unknown.
    pub fn beside_this() -> Result<Self> {
        let this = std::env::current_exe().map_err(file_error("/proc/self/exe"))?;
        let directory = this.parent().unwrap_or(Path::new("/"));
        let directory = if directory.ends_with("deps") || directory.ends_with("examples") {
            directory.parent().unwrap_or(directory)
        } else {
            directory
        };
        Ok(Self { directory: directory.to_owned() })
    }

    /// Path of one.
    ///
    /// # Errors
    /// When it is not there.
    pub fn path(&self, name: &str) -> Result<PathBuf> {
        let path = self.directory.join(name);
        match path.is_file() {
            true => Ok(path),
            false => Err(Error::File { path, source: std::io::ErrorKind::NotFound.into() }),
        }
    }
}

// === impl AgentOptions ===

impl Default for AgentOptions {
    fn default() -> Self {
        Self {
            manifests: None,
            interfaces: "eth0,veth-*".to_owned(),
            interval: Duration::from_secs(1),
            flags: Vec::new(),
        }
    }
}

// === impl Agent ===

impl Agent {
    /// Starts an agent in the node's namespace and waits until it is ready: its programs are attached.
    ///
    /// # Errors
    /// When it ends, or is not ready in time; with the end of its log.
    pub fn start(
        run: &Run,
        binaries: &Binaries,
        node: &Node,
        options: &AgentOptions,
    ) -> Result<Self> {
        let data = run.directory(&format!("{}-data", node.name))?;
        let socket = run.directory("run")?.join(format!("{}.sock", node.name));
        let pins = run.pins(&node.name);
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let mut arguments: Vec<String> = [
            ("--node", node.name.clone()),
            ("--cluster", run.id().to_owned()),
            ("--interfaces", options.interfaces.clone()),
            ("--interval", format!("{}ms", options.interval.as_millis())),
            ("--data-dir", text(&data)),
            ("--socket", text(&socket)),
            ("--pin-dir", text(&pins)),
            ("--metrics", AGENT_METRICS.to_string()),
        ]
        .into_iter()
        .flat_map(|(flag, value)| [flag.to_owned(), value])
        .collect();
        if let Some(manifests) = &options.manifests {
            arguments.extend(["--manifests".to_owned(), text(manifests)]);
        }
        arguments.extend(options.flags.iter().cloned());
        let command = AgentCommand {
            binary: binaries.path("weir-agent")?,
            arguments,
            netns: node.netns.name().to_owned(),
            name: format!("agent-{}", node.name),
        };
        let process = command.spawn(run)?;
        let mut agent = Self { process, socket, command };
        agent.ready()?;
        Ok(agent)
    }

    /// Starts it again, as it was, after it has ended.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn restart(&mut self, run: &Run) -> Result<()> {
        self.process.stop();
        self.process = self.command.spawn(run)?;
        self.ready()
    }

    /// Ends it as an upgrade does, and starts another binary in its place.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn replace(&mut self, run: &Run, binary: &Path) -> Result<()> {
        binary.clone_into(&mut self.command.binary);
        self.restart(run)
    }

    /// Removes its programs and maps from the kernel; the process must have ended.
    ///
    /// # Errors
    /// With what the command printed.
    pub fn detach(&self) -> Result<()> {
        let netns = crate::Netns::existing(&self.command.netns);
        let mut command = Command::new(&self.command.binary);
        netns.output(command.args(&self.command.arguments).arg("--detach")).map(drop)
    }

    /// The socket for the CLI of its node.
    pub fn local_socket(&self) -> PathBuf {
        let stem = self.socket.file_stem().unwrap_or_default().to_string_lossy();
        self.socket.with_file_name(format!("{stem}-agent.sock"))
    }

    fn ready(&mut self) -> Result<()> {
        let netns = crate::Netns::existing(&self.command.netns);
        let is_ready =
            || http::get(AGENT_METRICS, "/readyz").is_ok_and(|answer| answer.status == 200);
        ready(&mut self.process, || netns.run(is_ready).unwrap_or(false))
    }
}

impl AgentCommand {
    fn spawn(&self, run: &Run) -> Result<Process> {
        let netns = crate::Netns::existing(&self.netns);
        let mut command = Command::new(&self.binary);
        Process::spawn(run, Some(&netns), &self.name, command.args(&self.arguments))
    }
}

// === impl Relay ===

impl Relay {
    /// Starts a relay of these agents and waits until it answers.
    ///
    /// # Errors
    /// When it ends, or does not answer in time; with the end of its log.
    pub fn start(
        run: &Run,
        binaries: &Binaries,
        agents: &[&Agent],
        listen: SocketAddr,
        flags: &[&str],
    ) -> Result<Self> {
        let address = if listen.port() == 0 { free_port(listen)? } else { listen };
        let peers: Vec<String> =
            agents.iter().map(|agent| format!("unix://{}", agent.socket.display())).collect();
        let data = run.directory("relay-data")?;
        let mut arguments: Vec<String> =
            ["--peers", &peers.join(","), "--data-dir", &data.to_string_lossy()]
                .into_iter()
                .map(str::to_owned)
                .collect();
        arguments.extend(["--listen".to_owned(), address.to_string()]);
        // Metrics are on the page's port as well; these would be the same for every relay here.
        arguments.extend(["--grpc", "off", "--metrics", "off"].map(str::to_owned));
        arguments.extend(flags.iter().map(|&flag| flag.to_owned()));
        let binary = binaries.path("weir-relay")?;
        let process = Self::spawn(run, &binary, &arguments)?;
        let mut relay = Self { process, address, binary, arguments };
        relay.ready()?;
        Ok(relay)
    }

    /// Starts it again, as it was, after it has ended.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn restart(&mut self, run: &Run) -> Result<()> {
        self.process.stop();
        self.process = Self::spawn(run, &self.binary, &self.arguments)?;
        self.ready()
    }

    /// Its SQL.
    pub fn sql(&self) -> Sql {
        Sql::new(self.address)
    }

    fn spawn(run: &Run, binary: &Path, arguments: &[String]) -> Result<Process> {
        Process::spawn(run, None, "relay", Command::new(binary).args(arguments))
    }

    fn ready(&mut self) -> Result<()> {
        let address = self.address;
        ready(&mut self.process, || {
            http::get(address, "/readyz").is_ok_and(|answer| answer.status == 200)
        })
    }
}

/// A port that is free on that address at this moment.
///
/// # Errors
/// When there is none.
pub fn free_port(listen: SocketAddr) -> Result<SocketAddr> {
    let free = TcpListener::bind((listen.ip(), 0)).and_then(|listener| listener.local_addr());
    free.map_err(file_error(listen.to_string()))
}

fn ready(process: &mut Process, mut probe: impl FnMut() -> bool) -> Result<()> {
    let mut ended = None;
    let waited = wait_until(&format!("{} is ready", process.name()), READY, || {
        ended = process.ended();
        ended.is_some() || probe()
    });
    if let (Ok(()), None) = (&waited, ended) {
        return Ok(());
    }
    let how = ended.map_or_else(|| "is not ready".to_owned(), |status| status.to_string());
    Err(Error::Command {
        command: process.name().to_owned(),
        output: format!("{how}\n{}", process.log_tail(30)),
    })
}
