//! How long a change of policy takes to decide: from the rename of its file to the first packet let through,
//! on a node with many endpoints.

use std::fmt::Write as _;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use harness::{long, serial, wait_until};

use crate::fixture::{self, Fixture};
use crate::traffic::Servers;
use crate::{IN_FORCE, enforcing};

const CLOSED: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: closed, namespace: x}
spec:
  podSelector: {matchLabels: {pod: b}}
  policyTypes: [Ingress]
";

const OPEN: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: closed, namespace: x}
spec:
  podSelector: {matchLabels: {pod: b}}
  ingress:
  - from: [{podSelector: {matchLabels: {pod: a}}}]
";

/// Interfaces with nothing behind them, and the pods that are there by their manifests.
fn crowd(fixture: &Fixture, endpoints: usize) {
    let node = &fixture.cluster.nodes()[0].netns;
    let (mut links, mut pods) = (String::new(), String::new());
    for n in 0..endpoints {
        let address = format!("10.0.{}.{}", 8 + n / 250, 1 + n % 250);
        let _ = write!(
            links,
            "link add veth-many{n} type veth peer name many{n}\nlink set many{n} up\n\
             link set veth-many{n} up\nroute add {address}/32 dev veth-many{n}\n"
        );
        let _ = write!(
            pods,
            "---\napiVersion: v1\nkind: Pod\n\
             metadata: {{name: many{n}, namespace: y, labels: {{pod: many, group: g{}}}}}\n\
             spec: {{nodeName: a, containers: [{{name: c}}]}}\nstatus: {{podIP: {address}}}\n",
            n % 100
        );
    }
    node.ip(links.trim_end()).unwrap();
    std::fs::write(fixture.manifests().join("many.yaml"), pods).unwrap();
}

#[test]
fn a_change_decides_within_milliseconds() {
    let _turn = serial();
    let mut fixture = Fixture::build("pfast").unwrap();
    let _servers = Servers::start(&fixture);
    let (endpoints, changes) = if long() { (1000, 100) } else { (100, 10) };
    crowd(&fixture, endpoints);
    fixture.put_policies(CLOSED);
    let _agent = enforcing(&fixture);
    let (client, server) = (fixture::end("x/a"), fixture::end("x/b"));
    let to = SocketAddr::from((fixture.address(server), 80));
    let from = (fixture.address(client), 0);
    let socket = fixture.netns(client).run(|| UdpSocket::bind(from)).unwrap().unwrap();
    socket.connect(to).unwrap();
    socket.set_read_timeout(Some(Duration::from_micros(200))).unwrap();
    let mut took = Vec::new();
    for _ in 0..changes {
        wait_until("the policy is closed", IN_FORCE, || {
            // What was under way is read first.
            while answers(&socket) {}
            let quiet = Instant::now();
            while quiet.elapsed() < Duration::from_millis(30) {
                if answers(&socket) {
                    return false;
                }
            }
            true
        })
        .unwrap();
        let start = Instant::now();
        fixture.put_policies(OPEN);
        while !answers(&socket) {
            assert!(start.elapsed() < IN_FORCE, "the change is not in force");
        }
        took.push(start.elapsed());
        fixture.put_policies(CLOSED);
    }
    took.sort();
    println!(
        "{endpoints} endpoints, {changes} changes, file to packet: p50 {:?}, p90 {:?}, longest {:?}",
        took[changes / 2],
        took[changes * 9 / 10],
        took[changes - 1]
    );
}

fn answers(socket: &UdpSocket) -> bool {
    let _ = socket.send(b"?");
    socket.recv(&mut [0; 8]).is_ok()
}
