//! The agent as a whole: makes the parts and lets each have what it needs.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use datapath_loader::{Connections, PolicySizes, PolicyTables};
use datapath_policy::{Capacity, Options};
use stage::StopToken;
use tokio::sync::{oneshot, watch};

use crate::account::{Accountant, Failure, Settings};
use crate::config::Mode;
use crate::control::applied::Applied;
use crate::control::{ControlSource, Manifests, Snapshot};
use crate::enforce::{Compiled, Enforcer};
use crate::events;
use crate::export::Exporter;
use crate::export::serve::{ListenError, Listeners};
use crate::host::Netlink;
use crate::kernel::loader::Loaded;
use crate::kernel::{Feature, Kernel, KernelError};
use crate::local::{self, Local};
use crate::metrics::Metrics;
use crate::process::Processes;
use crate::spool::{Disk, Limits, Spool};
use crate::status::{self, Status};
use crate::view::View;
use crate::view::directory::Directory;
use crate::worker::Worker;
use crate::{Config, boot};

/// Why an agent could not start, or had to end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The datapath could not be loaded or read.
    #[error("datapath: {0}")]
    Kernel(#[from] KernelError),
    /// The spool could not be opened or written.
    #[error("spool in {dir}: {source}")]
    Spool {
        /// Its folder.
        dir: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// Something of the system is not to be had.
    #[error("{what}: {source}")]
    System {
        /// What was wanted.
        what: &'static str,
        /// Why not.
        source: std::io::Error,
    },
    /// An address or socket cannot be listened on.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// A metric's name is taken.
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    /// The rows of the start could not be encoded.
    #[error("rows: {0}")]
    Rows(#[from] columns::ipc::IpcError),
    /// Policies could not be put into force.
    #[error("enforcement: {0}")]
    Enforcement(String),
    /// The accounting thread ended before it was told to.
    #[error("the accounting thread ended; its last words are in the log")]
    Ended,
}

/// What an agent that is ready has to say.
#[derive(Debug, Clone)]
pub struct Ready {
    /// Its node's name.
    pub node: String,
    /// The boot that its batches are numbered in.
    pub boot_id: String,
    /// TCP addresses that it serves on, with the ports that were given for 0.
    pub listen: Vec<SocketAddr>,
    /// The unix socket that it serves on.
    pub socket: Option<PathBuf>,
    /// Whether it took over the datapath of an agent before it.
    pub adopted: bool,
    /// What works here, and what does not and why.
    pub features: Vec<Feature>,
    /// The interfaces that it observes.
    pub interfaces: Vec<String>,
}

/// What all parts share.
struct Shared {
    config: Arc<Config>,
    spool: Arc<Spool>,
    metrics: Arc<Metrics>,
    status: Status,
    stages: stage::Registry,
    compiled: Compiled,
    applied: Arc<Applied>,
}

/// What the accounting thread says when it has begun.
type Begun = Result<(String, bool, Vec<Feature>, Vec<String>), Error>;

/// Runs an agent until `stop`; `ready` is called once it observes and serves.
///
/// It works in the network namespace of the calling thread, and needs root or `CAP_BPF`,
/// `CAP_NET_ADMIN`, `CAP_PERFMON` and `CAP_SYS_ADMIN`. The runtime may have one thread: what takes
/// long is on threads of its own (`weir-account`, `weir-events`, `weir-processes`), and a runtime
/// with one thread is what keeps an idle agent small.
///
/// When told to stop, it reports the rest, gives the relay [`Config::drain`] to take it, and takes
/// the datapath away unless [`Config::keep_datapath`].
///
/// # Errors
/// When it cannot start: each variant of [`Error`] names what was wanted. Once it runs, failures
/// are retried, and told by status, log and metrics.
pub async fn run(
    config: Config,
    metrics: &prometheus::Registry,
    stages: &stage::Registry,
    stop: StopToken,
    ready: impl FnOnce(Ready) + Send,
) -> Result<(), Error> {
    let shared = Shared::new(config, metrics, stages)?;
    let local = local::serve::Socket::bind(shared.config.local_socket.as_deref()).await?;
    let listeners = Listeners::bind(shared.config.socket.as_deref(), &shared.config.listen).await?;
    let addresses = listeners.addresses();

    let (publish, control) = watch::channel(Arc::new(Snapshot::default()));
    let mut watching = shared.watch(publish, control.clone(), &stop).await;
    let (begun, beginning) = oneshot::channel();
    let (ended, mut ending) = oneshot::channel();
    shared.start(control.clone(), stop.clone(), begun, ended)?;
    let (boot_id, adopted, features, interfaces) = beginning.await.map_err(|_| Error::Ended)??;

    let closing = StopToken::new();
    let exporter = Exporter::new(
        Arc::clone(&shared.spool),
        shared.status.clone(),
        shared.stages.clone(),
        closing.clone(),
    );
    let serving = tokio::spawn(listeners.serve(exporter, closing.clone()));
    watching.spawn(Arc::clone(&shared.applied).watch(stop.clone()));
    watching.spawn(wake(control.clone(), shared.compiled.clone()));
    let answering = tokio::spawn(local.serve(shared.local(control), closing.clone()));
    let syncing = tokio::spawn(sync(Arc::clone(&shared.spool), shared.status.clone()));
    ready(Ready {
        node: shared.config.node.clone(),
        boot_id,
        listen: addresses,
        socket: shared.config.socket.clone(),
        adopted,
        features,
        interfaces,
    });

    let kernel = tokio::select! {
        () = stop.stopped() => ending.await,
        kernel = &mut ending => kernel,
    };
    watching.abort_all();
    shared.drain().await;
    closing.stop();
    // A stream that does not end by itself must not hold up the stop.
    let _ = tokio::time::timeout(Duration::from_secs(1), serving).await;
    let _ = tokio::time::timeout(Duration::from_secs(1), answering).await;
    syncing.abort();
    match kernel {
        Ok((kernel, complete)) => shared.leave(kernel, complete),
        Err(_) => Err(Error::Ended),
    }
}

// === impl Shared ===

impl Shared {
    fn new(
        config: Config,
        metrics: &prometheus::Registry,
        stages: &stage::Registry,
    ) -> Result<Self, Error> {
        let status = Status::default();
        status.update(|report| {
            report.node.clone_from(&config.node);
            report.cluster.clone_from(&config.cluster);
            report.mode = config.mode.name();
            report.kernel = status::kernel_release();
            report.started_at = status::now();
        });
        let ledger = stages.ledger("spool", 0);
        let limits = Limits::new(config.spool_bytes);
        let spool = Spool::open(&config.data_dir, limits, Disk::default(), ledger);
        let dir = config.data_dir.clone();
        let boot = match &config.boot_id {
            Some(boot) => boot.clone(),
            None => boot::kernel_boot_id()
                .map_err(|source| Error::System { what: "the kernel's boot id", source })?,
        };
        let applied = Applied::open(&dir, &boot);
        Ok(Self {
            applied: applied.map_err(|error| Error::Enforcement(error.to_string()))?,
            spool: Arc::new(spool.map_err(|source| Error::Spool { dir, source })?),
            metrics: Arc::new(Metrics::register(metrics)?),
            config: Arc::new(config),
            status,
            stages: stages.clone(),
            compiled: Compiled::default(),
        })
    }

    fn local(&self, control: watch::Receiver<Arc<Snapshot>>) -> Local {
        Local {
            control,
            compiled: self.compiled.clone(),
            applied: Arc::clone(&self.applied),
            status: self.status.clone(),
        }
    }

    /// Starts the control source, and waits for its first snapshot, so that the first rows have
    /// names.
    async fn watch(
        &self,
        publish: watch::Sender<Arc<Snapshot>>,
        mut control: watch::Receiver<Arc<Snapshot>>,
        stop: &StopToken,
    ) -> tokio::task::JoinSet<()> {
        let mut tasks = tokio::task::JoinSet::new();
        let mut folders: Vec<PathBuf> = self.config.manifests.iter().cloned().collect();
        if self.config.mode == Mode::Enforce {
            folders.push(self.applied.folder().to_owned());
        }
        if !folders.is_empty() {
            let source = Box::new(Manifests::of(folders));
            tasks.spawn(source.run(publish, stop.clone()));
            let first = control.wait_for(|snapshot| snapshot.revision != 0);
            let _ = tokio::time::timeout(Duration::from_secs(5), first).await;
        }
        tasks
    }

    /// Starts the accounting thread. The kernel half is opened on it, and never leaves it before
    /// the end: it belongs to the network namespace of its thread, which is that of this one.
    fn start(
        &self,
        control: watch::Receiver<Arc<Snapshot>>,
        stop: StopToken,
        begun: oneshot::Sender<Begun>,
        ended: oneshot::Sender<(Box<dyn Kernel>, bool)>,
    ) -> Result<(), Error> {
        let shared = Self {
            config: Arc::clone(&self.config),
            spool: Arc::clone(&self.spool),
            metrics: Arc::clone(&self.metrics),
            status: self.status.clone(),
            stages: self.stages.clone(),
            compiled: self.compiled.clone(),
            applied: Arc::clone(&self.applied),
        };
        let work = move || {
            let worker = match shared.worker(control, stop.clone()) {
                Ok(worker) => worker,
                Err(error) => {
                    // Nobody waits any more: then nobody needs to know.
                    let _ = begun.send(Err(error));
                    return;
                }
            };
            let attached = worker.kernel.attached();
            let names = attached.into_iter().map(|attached| attached.name).collect();
            let boot = worker.accountant.boot().to_owned();
            let kernel = &worker.kernel;
            let _ = begun.send(Ok((boot, kernel.adopted(), kernel.features(), names)));
            let _ = ended.send(worker.run(&stop));
        };
        std::thread::Builder::new()
            .name("weir-account".to_owned())
            .spawn(work)
            .map(drop)
            .map_err(|source| Error::System { what: "a thread", source })
    }

    /// Starts the thread that enforces; the first commit is made before it returns, so that interfaces
    /// are attached to tables that are complete.
    fn enforce(
        &self,
        tables: (PolicyTables, Connections),
        control: watch::Receiver<Arc<Snapshot>>,
        stop: StopToken,
    ) -> Result<(), Error> {
        let config = &self.config;
        let capacity = Capacity {
            intervals: PolicySizes::USUAL.intervals,
            rules: PolicySizes::USUAL.rules,
            classes: PolicySizes::USUAL.classes,
        };
        let options =
            Options { cluster: config.cluster.clone(), capacity, ..config.policy.clone() };
        let started = Enforcer::new(
            &config.node,
            tables,
            options,
            control,
            self.status.clone(),
            self.compiled.clone(),
            &config.data_dir,
        );
        let mut enforcer = started.map_err(Error::Enforcement)?;
        enforcer.enforce().map_err(Error::Enforcement)?;
        std::thread::Builder::new()
            .name("weir-enforce".to_owned())
            .spawn(move || enforcer.run(&stop))
            .map(drop)
            .map_err(|source| Error::System { what: "a thread", source })
    }

    fn worker(
        &self,
        control: watch::Receiver<Arc<Snapshot>>,
        stop: StopToken,
    ) -> Result<Worker, Error> {
        let config = &self.config;
        let system = |what: &'static str| move |source| Error::System { what, source };
        let mut kernel: Box<dyn Kernel> = Box::new(Loaded::open(options(config))?);
        let host = Netlink::open().map_err(system("route netlink"))?;
        let processes = if config.processes {
            Processes::scan().map_err(system("a thread"))?
        } else {
            Processes::Off
        };
        if let Some(tables) = kernel.policy() {
            self.enforce(tables, control.clone(), stop)?;
        }
        let mut view = View::new(&config.cluster, &config.node, processes);
        view.directory = Directory::new(&Snapshot::default(), &config.node, Vec::new());
        let kernel_boot = match &config.boot_id {
            Some(boot) => boot.clone(),
            None => boot::kernel_boot_id().map_err(system("the kernel's boot id"))?,
        };
        let settings = Settings {
            capacity: u64::from(config.max_connections),
            timeouts: config.timeouts,
            netns: network_namespace().map_err(system("the network namespace"))?,
            kernel_boot,
        };
        let opened = Accountant::open(
            &*kernel,
            Arc::clone(&self.spool),
            view,
            Arc::clone(&self.metrics),
            settings,
        );
        let accountant = opened.map_err(|failure| self.failed(failure))?;
        self.status.update(|report| accountant.boot().clone_into(&mut report.boot_id));
        let lanes = events::start(kernel.events()?, &self.stages).map_err(system("a thread"))?;
        let mut worker = Worker {
            config: Arc::clone(config),
            kernel,
            accountant,
            lanes,
            host: Box::new(host),
            control,
            spool: Arc::clone(&self.spool),
            metrics: Arc::clone(&self.metrics),
            status: self.status.clone(),
            following: Default::default(),
            compiled: self.compiled.clone(),
        };
        worker.begin().map_err(|failure| self.failed(failure))?;
        Ok(worker)
    }

    fn failed(&self, failure: Failure) -> Error {
        match failure {
            Failure::Kernel(error) => Error::Kernel(error),
            Failure::Rows(error) => Error::Rows(error),
            Failure::Spool(source) => Error::Spool { dir: self.config.data_dir.clone(), source },
        }
    }

    /// Gives the relay time to take the rest.
    async fn drain(&self) {
        let end = Instant::now() + self.config.drain;
        loop {
            let state = self.spool.state();
            if state.acked >= state.newest_cursor || Instant::now() >= end {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Leaves the datapath for the next agent, or takes it away.
    fn leave(&self, kernel: Box<dyn Kernel>, complete: bool) -> Result<(), Error> {
        if self.config.keep_datapath || !complete {
            return Ok(());
        }
        kernel.dismantle().map_err(Error::Kernel)
    }
}

fn options(config: &Config) -> datapath_loader::Options {
    datapath_loader::Options {
        pin_dir: config.pin_dir.clone(),
        max_connections: config.max_connections,
        ring_bytes: config.ring_bytes,
        transport: config.transport,
        dns: config.dns,
        drops: config.drops,
        cgroup: config.cgroup.clone(),
        policy: (config.mode == Mode::Enforce).then_some(PolicySizes::USUAL),
    }
}

/// Inode of this thread's network namespace; the kernel half has 32 bits of it.
fn network_namespace() -> std::io::Result<u32> {
    use std::os::unix::fs::MetadataExt as _;
    Ok(std::fs::metadata("/proc/thread-self/ns/net")?.ino() as u32)
}

/// Tells the thread that enforces when the control source has news.
async fn wake(mut control: watch::Receiver<Arc<Snapshot>>, compiled: Compiled) {
    while control.changed().await.is_ok() {
        control.borrow_and_update();
        compiled.wake();
    }
}

/// Makes the spool survive power loss, every second.
async fn sync(spool: Arc<Spool>, status: Status) {
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let spool = Arc::clone(&spool);
        match tokio::task::spawn_blocking(move || spool.sync()).await {
            Ok(Ok(())) => status.warn("spool", Vec::new()),
            Ok(Err(error)) => status.warn("spool", vec![format!("not synced: {error}")]),
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A program may run the agent as a task among others.
    #[test]
    fn an_agent_can_be_spawned() {
        fn check<T: Send>(_: impl FnOnce() -> T) {}
        check(|| {
            let (metrics, stages) = Box::leak(Box::<(prometheus::Registry, _)>::default());
            run(Config::new("n", "d", "p"), metrics, stages, StopToken::new(), drop)
        });
    }
}
