//! What the agent's parts share, and how each is made from it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use datapath_loader::{
    Acceleration, Connections, PolicySizes, PolicyTables, ServiceSizes, ServiceTables,
    SocketServices, XdpMode,
};
use datapath_policy::{Capacity, Options};
use stage::StopToken;
use tokio::sync::{oneshot, watch};

use super::Error;
use crate::account::{Accountant, Failure, Settings};
use crate::config::Mode;
use crate::control::applied::Applied;
use crate::control::{ControlSource, Manifests, Snapshot};
use crate::enforce::{Compiled, Enforcer};
use crate::events;
use crate::host::Netlink;
use crate::kernel::loader::Loaded;
use crate::kernel::{Feature, Kernel};
use crate::local::Local;
use crate::metrics::Metrics;
use crate::process::Processes;
use crate::services::{Programmed, Servicer, Sockets, Xdp};
use crate::spool::{Disk, Limits, Spool};
use crate::status::{self, Status};
use crate::view::View;
use crate::view::directory::Directory;
use crate::worker::Worker;
use crate::{Config, boot};

/// What all parts share.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) config: Arc<Config>,
    /// The kernel's boot id.
    kernel_boot: String,
    pub(super) spool: Arc<Spool>,
    metrics: Arc<Metrics>,
    pub(super) status: Status,
    pub(super) stages: stage::Registry,
    pub(super) compiled: Compiled,
    pub(super) programmed: Programmed,
    pub(super) applied: Arc<Applied>,
}

/// What the accounting thread says when it has begun.
pub(super) type Begun = Result<(String, bool, Vec<Feature>, Vec<String>), Error>;

// === impl Shared ===

impl Shared {
    pub(super) fn new(
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
        let kernel_boot = match &config.boot_id {
            Some(boot) => boot.clone(),
            None => boot::kernel_boot_id()
                .map_err(|source| Error::System { what: "the kernel's boot id", source })?,
        };
        let applied = Applied::open(&dir, &kernel_boot);
        Ok(Self {
            applied: applied.map_err(|error| Error::Enforcement(error.to_string()))?,
            spool: Arc::new(spool.map_err(|source| Error::Spool { dir, source })?),
            metrics: Arc::new(Metrics::register(metrics)?),
            config: Arc::new(config),
            kernel_boot,
            status,
            stages: stages.clone(),
            compiled: Compiled::default(),
            programmed: Programmed::default(),
        })
    }

    pub(super) fn local(&self, control: watch::Receiver<Arc<Snapshot>>) -> Local {
        Local {
            control,
            compiled: self.compiled.clone(),
            programmed: self.programmed.clone(),
            applied: Arc::clone(&self.applied),
            status: self.status.clone(),
        }
    }

    /// Starts the control source, and waits for its first snapshot, so that the first rows have
    /// names.
    pub(super) async fn watch(
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
    pub(super) fn start(
        &self,
        control: watch::Receiver<Arc<Snapshot>>,
        stop: StopToken,
        begun: oneshot::Sender<Begun>,
        ended: oneshot::Sender<(Box<dyn Kernel>, bool)>,
    ) -> Result<(), Error> {
        let shared = self.clone();
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
        services: Option<ServiceTables>,
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
        if let Some(tables) = services {
            let (options, sizes) = (config.services.clone(), service_sizes(config));
            enforcer.serve(Servicer::new(tables, options, sizes, self.programmed.clone()));
        }
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
            self.enforce(tables, kernel.services(), control.clone(), stop)?;
        }
        let mut view = View::new(&config.cluster, &config.node, processes);
        view.directory = Directory::new(&Snapshot::default(), &config.node, Vec::new());
        let settings = Settings {
            capacity: u64::from(config.max_connections),
            timeouts: config.timeouts,
            netns: network_namespace().map_err(system("the network namespace"))?,
            kernel_boot: self.kernel_boot.clone(),
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
            programmed: self.programmed.clone(),
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
    pub(super) async fn drain(&self) {
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
    pub(super) fn leave(&self, kernel: Box<dyn Kernel>, complete: bool) -> Result<(), Error> {
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
        services: serves(config).then(|| service_sizes(config)),
        socket_services: sockets(config),
        xdp: acceleration(config),
    }
}

/// XDP for direct server return, where services are served.
fn acceleration(config: &Config) -> Option<Acceleration> {
    let mode = match config.services.xdp {
        Xdp::Off => return None,
        Xdp::Native => XdpMode::Native,
        Xdp::Generic => XdpMode::Generic,
    };
    let new_per_second = config.services.xdp_new_per_second;
    serves(config).then_some(Acceleration { mode, new_per_second, ..Acceleration::USUAL })
}

/// Whether services are served.
fn serves(config: &Config) -> bool {
    config.mode == Mode::Enforce && config.services.enabled
}

/// Whose sockets go to a backend at once.
fn sockets(config: &Config) -> Option<SocketServices> {
    if !serves(config) || config.services.sockets == Sockets::Off {
        return None;
    }
    let own_namespace = config.services.sockets == Sockets::Host;
    Some(SocketServices { cgroup: config.cgroup.clone()?, own_namespace })
}

/// Room for services; a translation for each connection that the table holds.
fn service_sizes(config: &Config) -> ServiceSizes {
    ServiceSizes { translations: config.max_connections, ..ServiceSizes::USUAL }
}

/// Inode of this thread's network namespace; the kernel half has 32 bits of it.
fn network_namespace() -> std::io::Result<u32> {
    use std::os::unix::fs::MetadataExt as _;
    Ok(std::fs::metadata("/proc/thread-self/ns/net")?.ino() as u32)
}
