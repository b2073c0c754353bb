//! The socket of the local service.

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use stage::StopToken;
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;
use wire::agent::agent_server::AgentServer;

use super::Local;
use crate::export::serve::{ListenError, bind_unix};

/// Largest request, bytes: documents to apply.
const MAX_REQUEST: usize = 32 << 20;

/// The socket, or none.
#[derive(Debug)]
pub(crate) struct Socket(Option<(PathBuf, UnixListener)>);

// === impl Socket ===

impl Socket {
    /// Opens it for root alone.
    pub(crate) async fn bind(path: Option<&Path>) -> Result<Self, ListenError> {
        let Some(path) = path else { return Ok(Self(None)) };
        let failed =
            |source: io::Error| ListenError { address: path.display().to_string(), source };
        let listener = bind_unix(path).await.map_err(failed)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
        Ok(Self(Some((path.to_owned(), listener))))
    }

    /// Answers until `closing`, and takes the socket away.
    pub(crate) async fn serve(self, local: Local, closing: StopToken) {
        let Some((path, listener)) = self.0 else { return };
        let service = AgentServer::new(local).max_decoding_message_size(MAX_REQUEST);
        let served = Server::builder()
            .add_service(service)
            .serve_with_incoming_shutdown(UnixListenerStream::new(listener), closing.stopped())
            .await;
        if let Err(error) = served {
            tracing::error!(%error, "the local service ended");
        }
        let _ = std::fs::remove_file(path);
    }
}
