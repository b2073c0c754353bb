//! HTTP/1.1 for the workloads: a server around one function, a client of one request.

use std::net::{Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};

/// Longest wait for a connection, and for an answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// Status and body.
pub(super) type Answer = (u16, String);

/// Serves `port` on every address; `answer` is given the path.
pub(super) async fn serve<F, A>(port: u16, answer: F) -> Result<()>
where
    F: Fn(String) -> A + Clone + Send + 'static,
    A: Future<Output = Answer> + Send + 'static,
{
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        let answer = answer.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let answered = answer(request.uri().path().to_owned());
                async move {
                    let (status, body) = answered.await;
                    Response::builder().status(status).body(Full::new(Bytes::from(body)))
                }
            });
            // A client that goes away in the middle is part of the demo.
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

/// `GET path` on a connection of its own.
pub(super) async fn get(to: SocketAddr, host: &str, path: &str) -> Result<Answer> {
    tokio::time::timeout(PATIENCE, exchange(to, host, path)).await.context("timed out")?
}

async fn exchange(to: SocketAddr, host: &str, path: &str) -> Result<Answer> {
    let stream = TcpStream::connect(to).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let driver = tokio::spawn(connection);
    let request = Request::get(path)
        .header("host", host)
        .header("connection", "close")
        .body(Empty::<Bytes>::new())?;
    let response = sender.send_request(request).await?;
    let status = response.status().as_u16();
    let body = response.into_body().collect().await?.to_bytes();
    driver.await??;
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}
