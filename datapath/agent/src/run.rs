//! The agent as a whole: makes the parts and lets each have what it needs.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use stage::StopToken;
use tokio::sync::{oneshot, watch};

use crate::Config;
use crate::control::Snapshot;
use crate::enforce::Compiled;
use crate::export::Exporter;
use crate::export::serve::{ListenError, Listeners};
use crate::kernel::{Feature, KernelError};
use crate::local;
use crate::services::health;
use crate::spool::Spool;
use crate::status::Status;

use shared::Shared;

mod shared;

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
    if shared.programmed.kernel().is_some() {
        watching.spawn(health::run(shared.programmed.clone(), control.clone()));
    }
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
