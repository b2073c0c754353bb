//! Every way to be let through or dropped names its reason: in the row of the flow, or in `drops`.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use harness::weir::{Agent, Binaries, Relay};
use harness::{serial, wait_until};

use crate::fixture::{self, ENDS, Fixture, PORTS};
use crate::traffic::{Cell, Servers, probe_all};
use crate::{IN_FORCE, enforcing_with};

/// Verdict, drop reason, kind, policy, rule and selecting policies of a row.
type Row = [&'static str; 6];

pub(crate) struct Lab {
    pub(crate) fixture: Fixture,
    pub(crate) relay: Relay,
    pub(crate) agent: Agent,
    _servers: Servers,
}

// === impl Lab ===

impl Lab {
    pub(crate) fn start(name: &str, flags: &[&str]) -> Self {
        let fixture = Fixture::build(name).unwrap();
        let servers = Servers::start(&fixture);
        let agent = enforcing_with(&fixture, flags);
        let binaries = Binaries::beside_this().unwrap();
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let relay = Relay::start(fixture.cluster.run(), &binaries, &[&agent], listen, &[]).unwrap();
        Self { fixture, relay, agent, _servers: servers }
    }

    /// Until each of these cells is as it is said to be.
    fn becomes(&self, cells: &[(Cell, bool)]) {
        let asked: Vec<Cell> = cells.iter().map(|(cell, _)| *cell).collect();
        wait_until("the policies are in force", IN_FORCE, || {
            let answers: BTreeMap<_, _> =
                probe_all(&self.fixture, Some(&asked)).into_iter().collect();
            cells.iter().all(|(cell, open)| answers[cell] == *open)
        })
        .unwrap();
    }

    /// Until the latest row of a connection, at one of its ends, is this one.
    fn told(
        &self,
        (from, to): (Ipv4Addr, Ipv4Addr),
        (protocol, port): (u8, u16),
        side: &str,
        row: Row,
    ) {
        let protocol = if protocol == 6 { "TCP" } else { "UDP" };
        let query = format!(
            "SELECT verdict, coalesce(drop_reason, '') AS reason, coalesce(policy_kind, '') AS kind, \
             CASE WHEN policy_name IS NULL THEN '' ELSE coalesce(policy_namespace, '') || '/' || policy_name END AS policy, \
             coalesce(CAST(policy_rule AS VARCHAR), '') AS rule, \
             coalesce(array_to_string(policies_selecting, ','), '') AS selecting FROM flows \
             WHERE source_ip = '{from}' AND destination_ip = '{to}' \
             AND destination_port = {port} AND protocol = '{protocol}' AND {side} \
             ORDER BY end_time DESC LIMIT 1"
        );
        let wanted = row.map(serde_json::Value::from);
        let mut found = None;
        let told = wait_until("the row names its reason", Duration::from_secs(20), || {
            found = self.relay.sql().query(&query).ok().and_then(|rows| rows.rows.first().cloned());
            found.as_ref().is_some_and(|row| *row == wanted)
        });
        assert!(told.is_ok(), "{from} → {to}:{port}: {found:?}, not {wanted:?}");
    }

    /// Tries each, and checks its row. From, to, port; the hook that decides; whether it goes through.
    fn matrix(&self, ways: &[(&str, &str, usize, &str, bool, Row)]) {
        let cell = |from, to, port| (fixture::end(from), fixture::end(to), port);
        let cells: Vec<_> = ways
            .iter()
            .map(|(from, to, port, _, open, _)| (cell(from, to, *port), *open))
            .collect();
        self.becomes(&cells);
        for (from, to, port, side, _, row) in ways {
            let ends = (ENDS[fixture::end(from)].1, ENDS[fixture::end(to)].1);
            let (_, protocol, number) = PORTS[*port];
            let side = format!("direction = '{side}' AND interface LIKE 'veth%'");
            self.told(ends, (protocol, number), &side, *row);
        }
    }
}

const TCP80: usize = 0;
const TCP81: usize = 1;
const UDP80: usize = 2;

#[test]
fn every_row_names_its_reason() {
    let _turn = serial();
    let mut lab = Lab::start("pwhy", &[]);
    lab.fixture.put_policies(POLICIES);
    let (knp, cnp, ccnp) =
        ("NetworkPolicy", "CiliumNetworkPolicy", "CiliumClusterwideNetworkPolicy");
    let forwarded = |kind, policy, rule| ["FORWARDED", "", kind, policy, rule, ""];
    let default_deny = |selecting| ["DROPPED", "POLICY_DENIED", "default-deny", "", "", selecting];
    lab.matrix(&[
        ("x/a", "x/b", TCP80, "INGRESS", true, forwarded(knp, "x/web", "0")),
        ("x/a", "x/b", TCP81, "INGRESS", false, default_deny("x/web,x/more")),
        ("x/a", "x/b", UDP80, "INGRESS", false, default_deny("x/web,x/more")),
        ("y/a", "x/b", TCP80, "INGRESS", true, forwarded(cnp, "x/more", "0")),
        ("z/a", "x/b", TCP80, "INGRESS", false, ["DROPPED", "POLICY_DENY", cnp, "x/more", "0", ""]),
        ("x/a", "y/b", TCP80, "INGRESS", true, ["AUDIT", "", "default-deny", "", "", "y/tried"]),
        ("x/a", "z/b", TCP80, "INGRESS", true, forwarded(ccnp, "/everyone", "1")),
        ("x/c", "x/a", TCP80, "INGRESS", true, forwarded("", "", "")),
        ("node", "x/b", TCP81, "INGRESS", true, forwarded("allow-localhost", "", "")),
        ("z/c", "x/c", TCP80, "EGRESS", false, default_deny("z/closed")),
        ("y/c", "x/a", TCP80, "EGRESS", true, forwarded(cnp, "y/out", "0")),
        ("y/c", "z/a", TCP80, "EGRESS", false, ["DROPPED", "POLICY_DENY", cnp, "y/out", "0", ""]),
        ("y/c", "y/a", TCP80, "EGRESS", false, default_deny("y/out")),
        (
            "x/a",
            "y/a",
            TCP80,
            "INGRESS",
            true,
            ["FORWARDED", "", "no-default-deny", "", "", "y/soft"],
        ),
    ]);
    // Refusals are counted: one attempt a SYN, and nothing of them is a connection.
    let sql = "SELECT sum(attempts) FROM flows WHERE verdict = 'DROPPED' AND packets_denied > 0";
    assert!(lab.relay.sql().number(sql).unwrap() >= 6);
}

#[test]
fn modes_and_the_host_name_their_reasons() {
    let _turn = serial();
    let mut lab = Lab::start("palways", &["--policy-enforcement", "always"]);
    lab.fixture.put_policies(HOST);
    let always = ["DROPPED", "POLICY_DENIED", "enforcement-always", "", "", ""];
    lab.matrix(&[("x/a", "x/b", TCP80, "EGRESS", false, always)]);
    // The host: what its policy does not allow, and a port that no policy closes.
    let to = ENDS[fixture::end("node")].1;
    let world = lab.fixture.netns(fixture::end("world"));
    let from = world.run(|| source(to)).unwrap();
    let connect = |port| {
        let to = SocketAddr::from((to, port));
        let tried = world.run(|| TcpStream::connect_timeout(&to, Duration::from_millis(300)));
        tried.unwrap().err().map(|error| error.kind())
    };
    wait_until("the host's policy is in force", IN_FORCE, || {
        connect(8080) == Some(std::io::ErrorKind::TimedOut)
    })
    .unwrap();
    // Nobody serves it, and that is what the client hears.
    assert_eq!(connect(22), Some(std::io::ErrorKind::ConnectionRefused));
    let uplink = "interface = 'eth0'";
    let closed = ["DROPPED", "POLICY_DENIED", "default-deny", "", "", "/host"];
    lab.told((from, to), (6, 8080), uplink, closed);
    let failsafe = ["FORWARDED", "", "failsafe", "", "", ""];
    lab.told((from, to), (6, 22), uplink, failsafe);
}

/// The address that this network namespace reaches another from.
fn source(to: Ipv4Addr) -> Ipv4Addr {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.connect((to, 9)).unwrap();
    match socket.local_addr().unwrap().ip() {
        std::net::IpAddr::V4(address) => address,
        std::net::IpAddr::V6(address) => panic!("{address}"),
    }
}

pub(crate) const POLICIES: &str = r#"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web, namespace: x}
spec:
  podSelector: {matchLabels: {pod: b}}
  ingress:
  - from: [{podSelector: {matchLabels: {pod: a}}}]
    ports: [{port: 80}]
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: more, namespace: x}
spec:
  endpointSelector: {matchLabels: {pod: b}}
  ingress:
  - fromEndpoints: [{matchLabels: {"k8s:io.kubernetes.pod.namespace": y}}]
  ingressDeny:
  - fromEndpoints: [{matchLabels: {"k8s:io.kubernetes.pod.namespace": z}}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: tried, namespace: y, annotations: {weir.io/audit: "true"}}
spec:
  podSelector: {matchLabels: {pod: b}}
  policyTypes: [Ingress]
---
apiVersion: cilium.io/v2
kind: CiliumClusterwideNetworkPolicy
metadata: {name: everyone}
spec:
  endpointSelector: {matchLabels: {pod: b, "k8s:io.kubernetes.pod.namespace": z}}
  ingress:
  - fromEntities: [world]
  - fromEntities: [cluster]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: closed, namespace: z}
spec:
  podSelector: {matchLabels: {pod: c}}
  policyTypes: [Egress]
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: out, namespace: y}
spec:
  endpointSelector: {matchLabels: {pod: c}}
  egress:
  - toEndpoints: [{matchLabels: {"k8s:io.kubernetes.pod.namespace": x}}]
  egressDeny:
  - toEndpoints: [{matchLabels: {"k8s:io.kubernetes.pod.namespace": z}}]
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: soft, namespace: y}
spec:
  endpointSelector: {matchLabels: {pod: a}}
  enableDefaultDeny: {ingress: false}
  ingress:
  - fromEndpoints: [{matchLabels: {pod: nobody}}]
"#;

const HOST: &str = r#"
apiVersion: cilium.io/v2
kind: CiliumClusterwideNetworkPolicy
metadata: {name: host}
spec:
  nodeSelector: {}
  ingress:
  - fromEntities: [cluster]
"#;
