//! Health check node ports: whether this node has endpoints of a service with `externalTrafficPolicy: Local`, as load
//! balancers ask for it (kube-proxy, pkg/proxy/healthcheck/service_health.go).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::Ipv6Addr;
use std::sync::Arc;
use std::time::Duration;

use datapath_abi::service::{CHOSEN, LOCAL};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use super::Programmed;
use crate::control::Snapshot;

/// How often it is looked whether there is another answer.
const LOOK: Duration = Duration::from_millis(500);
/// How long a client may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// Longest request, bytes.
const REQUEST: usize = 2048;
/// Clients at once, of all ports.
const CLIENTS: usize = 64;

/// What is said at a port: namespace and name of the service, and how many endpoints it has here.
type Answer = (String, String, usize);

/// Listens at the ports that services name, until it is dropped.
pub(crate) async fn run(programmed: Programmed, control: watch::Receiver<Arc<Snapshot>>) {
    let mut servers: HashMap<u16, (watch::Sender<Answer>, JoinSet<()>)> = HashMap::new();
    let clients = Arc::new(Semaphore::new(CLIENTS));
    let mut ticks = tokio::time::interval(LOOK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let wanted = answers(&programmed, &control.borrow());
        servers.retain(|port, _| wanted.contains_key(port));
        for (port, answer) in wanted {
            if let Some((sender, _)) = servers.get(&port) {
                sender.send_replace(answer);
                continue;
            }
            match TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).await {
                Ok(listener) => {
                    let (sender, receiver) = watch::channel(answer);
                    let mut server = JoinSet::new();
                    server.spawn(serve(listener, receiver, Arc::clone(&clients)));
                    servers.insert(port, (sender, server));
                }
                Err(error) => tracing::warn!(port, %error, "health check node port"),
            }
        }
    }
}

/// By port.
fn answers(programmed: &Programmed, snapshot: &Snapshot) -> BTreeMap<u16, Answer> {
    let with_port = snapshot
        .services
        .iter()
        .filter(|service| service.health_port != 0 && service.external_local && !service.foreign);
    let here = |namespace: &str, name: &str| {
        programmed.ask(|book| {
            let ports = book.ports().iter();
            let of_it = ports.filter(|(id, _)| id.namespace == namespace && id.service == name);
            let backends = of_it.flat_map(|(_, entry)| &entry.backends);
            let local =
                backends.filter(|(_, (_, flags))| flags & (CHOSEN | LOCAL) == CHOSEN | LOCAL);
            let local: BTreeSet<_> = local.map(|((ip, _), _)| *ip).collect();
            // An endpoint of a dual stack service has an address of each family.
            let v4 = local.iter().filter(|ip| ip.is_ipv4()).count();
            v4.max(local.len() - v4)
        })
    };
    with_port
        .filter_map(|service| {
            let count = here(&service.namespace, &service.name)?;
            Some((service.health_port, (service.namespace.clone(), service.name.clone(), count)))
        })
        .collect()
}

async fn serve(listener: TcpListener, answer: watch::Receiver<Answer>, clients: Arc<Semaphore>) {
    loop {
        let Ok(client) = Arc::clone(&clients).acquire_owned().await else {
            return;
        };
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(LOOK).await;
            continue;
        };
        let answer = answer.borrow().clone();
        tokio::spawn(async move {
            let _ = tokio::time::timeout(PATIENCE, respond(stream, answer)).await;
            drop(client);
        });
    }
}

/// Whatever is asked, the answer is the same.
async fn respond(mut stream: TcpStream, (namespace, name, count): Answer) -> std::io::Result<()> {
    let mut request: Vec<u8> = Vec::new();
    let mut buffer = [0u8; 512];
    while request.len() < REQUEST && !request.windows(4).any(|end| end == b"\r\n\r\n") {
        let length = stream.read(&mut buffer).await?;
        if length == 0 {
            return Ok(());
        }
        request.extend(buffer.iter().take(length));
    }
    let body = serde_json::json!({
        "service": { "namespace": namespace, "name": name },
        "localEndpoints": count,
        "serviceProxyHealthy": true,
    })
    .to_string();
    let status = if count > 0 { "200 OK" } else { "503 Service Unavailable" };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nX-Content-Type-Options: nosniff\r\n\
         X-Load-Balancing-Endpoint-Weight: {count}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    stream.shutdown().await
}
