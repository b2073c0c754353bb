//! gRPC on the relay's port: health and reflection.
//!
//! Healthy means what it means for hubble-relay: at least one peer is connected.

use std::time::Duration;

use stage::StopToken;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic_health::ServingStatus;

use crate::{Error, Handle};

/// How often health is looked at.
const PERIOD: Duration = Duration::from_secs(1);

/// Serves until `stop`.
pub(crate) async fn serve(
    listener: TcpListener,
    peers: Handle,
    stop: StopToken,
) -> Result<(), Error> {
    let (health, health_service) = tonic_health::server::health_reporter();
    let descriptors = tonic_health::pb::FILE_DESCRIPTOR_SET;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(descriptors)
        .build_v1()?;
    let reflection_alpha = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(descriptors)
        .build_v1alpha()?;
    let watch = async {
        loop {
            let healthy = peers.nodes().iter().any(|node| node.connected);
            let status = if healthy { ServingStatus::Serving } else { ServingStatus::NotServing };
            health.set_service_status("", status).await;
            tokio::time::sleep(PERIOD).await;
        }
    };
    let server = tonic::transport::Server::builder()
        .add_service(health_service)
        .add_service(reflection)
        .add_service(reflection_alpha)
        .serve_with_incoming_shutdown(TcpListenerStream::new(listener), async {
            stop.stopped().await;
        });
    tokio::select! {
        served = server => Ok(served?),
        () = watch => unreachable!("the loop has no end"),
    }
}
