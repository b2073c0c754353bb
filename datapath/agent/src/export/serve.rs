//! Listening: a unix socket and any number of TCP addresses, one server.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use stage::StopToken;
use tokio::net::{TcpListener, UnixListener};
use tokio::task::JoinSet;
use tokio_stream::wrappers::{TcpListenerStream, UnixListenerStream};
use tonic::service::Routes;
use tonic::transport::Server;
use wire::export::export_server::ExportServer;

use super::Exporter;

/// What is listened on.
#[derive(Debug)]
pub(crate) struct Listeners {
    unix: Option<(PathBuf, UnixListener)>,
    tcp: Vec<TcpListener>,
}

/// An address that could not be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} (is another agent running?): {source}")]
pub struct ListenError {
    /// The address or path.
    pub address: String,
    /// Why not.
    pub source: io::Error,
}

// === impl Listeners ===

impl Listeners {
    /// Opens them. A socket that a dead agent left is replaced, a living one's is not.
    pub(crate) async fn bind(
        socket: Option<&Path>,
        addresses: &[SocketAddr],
    ) -> Result<Self, ListenError> {
        let failed = |address: String| move |source| ListenError { address, source };
        let unix = match socket {
            Some(path) => {
                let listener = bind_unix(path).await.map_err(failed(path.display().to_string()))?;
                Some((path.to_owned(), listener))
            }
            None => None,
        };
        let mut tcp = Vec::new();
        for address in addresses {
            let listener = TcpListener::bind(address).await;
            tcp.push(listener.map_err(failed(address.to_string()))?);
        }
        Ok(Self { unix, tcp })
    }

    /// The TCP addresses, with the ports that were given for 0.
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        self.tcp.iter().filter_map(|listener| listener.local_addr().ok()).collect()
    }

    /// Serves until `closing`; then ends what is under way, and takes the socket away.
    pub(crate) async fn serve(self, exporter: Exporter, closing: StopToken) {
        let routes = routes(exporter).await;
        let mut servers = JoinSet::new();
        let mut path = None;
        if let Some((at, listener)) = self.unix {
            path = Some(at);
            let (routes, closing) = (routes.clone(), closing.clone());
            servers.spawn(async move {
                let incoming = UnixListenerStream::new(listener);
                let stopped = closing.stopped();
                Server::builder()
                    .add_routes(routes)
                    .serve_with_incoming_shutdown(incoming, stopped)
                    .await
            });
        }
        for listener in self.tcp {
            let (routes, closing) = (routes.clone(), closing.clone());
            servers.spawn(async move {
                let incoming = TcpListenerStream::new(listener);
                let stopped = closing.stopped();
                // A relay whose machine is gone closes nothing.
                let mut server = Server::builder()
                    .http2_keepalive_interval(Some(std::time::Duration::from_secs(10)))
                    .tcp_nodelay(true);
                server.add_routes(routes).serve_with_incoming_shutdown(incoming, stopped).await
            });
        }
        while let Some(ended) = servers.join_next().await {
            if let Ok(Err(error)) = ended {
                tracing::error!(%error, "a gRPC server ended");
            }
        }
        if let Some(path) = path {
            let _ = std::fs::remove_file(path);
        }
    }
}

async fn routes(exporter: Exporter) -> Routes {
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_serving::<ExportServer<Exporter>>().await;
    let routes = Routes::new(ExportServer::new(exporter)).add_service(health);
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(wire::DESCRIPTORS)
        .build_v1();
    match reflection {
        Ok(reflection) => routes.add_service(reflection),
        Err(error) => {
            tracing::warn!(%error, "no gRPC reflection");
            routes
        }
    }
}

pub(crate) async fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    if let Some(parent) = path.parent().filter(|parent| !parent.exists()) {
        std::fs::create_dir_all(parent)?;
        std::fs::set_permissions(parent, std::fs::Permissions::from_mode(0o755))?;
    }
    if path.exists() {
        if tokio::net::UnixStream::connect(path).await.is_ok() {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        std::fs::remove_file(path)?;
    }
    UnixListener::bind(path)
}
