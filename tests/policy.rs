//! Policies in force on real packets between namespaces: the truth tables of
//! `datapath/policy/tests/conformance`, the reason in every row, and an agent that is killed meanwhile.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use harness::weir::{Agent, AgentOptions, Binaries, Relay};
use harness::{long, serial, wait_until};

#[path = "policy/commands.rs"]
mod commands;
#[path = "policy/conformance.rs"]
mod conformance;
#[path = "policy/cyclonus.rs"]
mod cyclonus;
#[path = "policy/fixture.rs"]
mod fixture;
#[path = "policy/latency.rs"]
mod latency;
#[path = "policy/options.rs"]
mod options;
#[path = "policy/probe.rs"]
mod probe;
#[path = "policy/table.rs"]
mod table;
#[path = "policy/traffic.rs"]
mod traffic;

use fixture::{ENDS, Fixture, PORTS};
use traffic::{Servers, probe_all};

/// How long a change of policy may take to show: the table must come true within it.
const IN_FORCE: Duration = Duration::from_secs(15);

fn enforcing(fixture: &Fixture) -> Agent {
    enforcing_with(fixture, &[])
}

fn enforcing_with(fixture: &Fixture, flags: &[&str]) -> Agent {
    let flags = ["--mode", "enforce"].iter().chain(flags);
    let options = AgentOptions {
        manifests: Some(fixture.manifests().to_owned()),
        flags: flags.map(|flag| (*flag).to_owned()).collect(),
        ..AgentOptions::default()
    };
    let cluster = &fixture.cluster;
    let binaries = Binaries::beside_this().unwrap();
    Agent::start(cluster.run(), &binaries, &cluster.nodes()[0], &options).unwrap()
}

#[test]
fn every_row_names_its_reason() {
    let _turn = serial();
    let mut fixture = Fixture::build("pwhy").unwrap();
    let _servers = Servers::start(&fixture);
    let agent = enforcing(&fixture);
    let cluster = &fixture.cluster;
    let listen = SocketAddr::from(([127, 0, 0, 1], 0));
    let binaries = Binaries::beside_this().unwrap();
    let relay = Relay::start(cluster.run(), &binaries, &[&agent], listen, &[]).unwrap();
    fixture.put_policies(REASONS);
    let cell = |from: &str, to: &str, port: usize| (fixture::end(from), fixture::end(to), port);
    // From, to, port, goes through; verdict, reason, kind, policy, rule, selecting policies of the row.
    let matrix = [
        (cell("x/a", "x/b", 0), true, ["FORWARDED", "", "NetworkPolicy", "x/web", "0", ""]),
        (
            cell("x/a", "x/b", 1),
            false,
            ["DROPPED", "POLICY_DENIED", "default-deny", "", "", "x/web,x/more"],
        ),
        (cell("y/a", "x/b", 0), true, ["FORWARDED", "", "CiliumNetworkPolicy", "x/more", "0", ""]),
        (
            cell("z/a", "x/b", 0),
            false,
            ["DROPPED", "POLICY_DENY", "CiliumNetworkPolicy", "x/more", "0", ""],
        ),
        (cell("x/a", "y/b", 0), true, ["AUDIT", "", "default-deny", "", "", "y/tried"]),
        (
            cell("x/a", "z/b", 0),
            true,
            ["FORWARDED", "", "CiliumClusterwideNetworkPolicy", "/everyone", "1", ""],
        ),
        (cell("x/c", "x/a", 0), true, ["FORWARDED", "", "", "", "", ""]),
        (cell("node", "x/b", 1), true, ["FORWARDED", "", "allow-localhost", "", "", ""]),
        (
            cell("z/c", "x/c", 0),
            false,
            ["DROPPED", "POLICY_DENIED", "default-deny", "", "", "z/closed"],
        ),
    ];
    let cells: Vec<_> = matrix.iter().map(|(cell, ..)| *cell).collect();
    wait_until("the policies are in force", IN_FORCE, || {
        let answers: BTreeMap<_, _> = probe_all(&fixture, Some(&cells)).into_iter().collect();
        matrix.iter().all(|(cell, open, _)| answers[cell] == *open)
    })
    .unwrap();
    for ((from, to, port), _, [verdict, reason, kind, policy, rule, selecting]) in matrix {
        let (source, destination) = (fixture.address(from), fixture.address(to));
        let (_, protocol, number) = PORTS[port];
        // Where it was denied, else where it was accepted.
        let side = if verdict == "DROPPED" && kind == "default-deny" && selecting == "z/closed" {
            "EGRESS"
        } else {
            "INGRESS"
        };
        let query = format!(
            "SELECT verdict, coalesce(drop_reason, '') AS reason, coalesce(policy_kind, '') AS kind, \
             CASE WHEN policy_name IS NULL THEN '' ELSE coalesce(policy_namespace, '') || '/' || policy_name END AS policy, \
             coalesce(CAST(policy_rule AS VARCHAR), '') AS rule, \
             coalesce(array_to_string(policies_selecting, ','), '') AS selecting FROM flows \
             WHERE source_ip = '{source}' AND destination_ip = '{destination}' \
             AND destination_port = {number} AND protocol = '{}' AND direction = '{side}' \
             AND interface LIKE 'veth%' ORDER BY end_time DESC LIMIT 1",
            if protocol == 6 { "TCP" } else { "UDP" },
        );
        let wanted = [verdict, reason, kind, policy, rule, selecting].map(serde_json::Value::from);
        let mut found = None;
        let told = wait_until("the row names its reason", Duration::from_secs(20), || {
            found = relay.sql().query(&query).ok().and_then(|rows| rows.rows.first().cloned());
            found.as_ref().is_some_and(|row| *row == wanted)
        });
        let (from, to) = (ENDS[from].0, ENDS[to].0);
        assert!(told.is_ok(), "{from} → {to}:{number}: {found:?}, not {wanted:?}");
    }
    // Refusals are counted: one attempt a SYN, and nothing of them is a connection.
    let sql = "SELECT sum(attempts) FROM flows WHERE verdict = 'DROPPED' AND packets_denied > 0";
    assert!(relay.sql().number(sql).unwrap() >= 3);
}

const REASONS: &str = r#"
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
"#;

/// Connections go on, and what is denied stays denied, while the agent is killed and comes back, and while
/// its binary is replaced. `WEIR_OLDER_AGENT` names an older build of the same ABI to go back to.
#[test]
fn verdicts_outlive_the_agent() {
    let _turn = serial();
    let mut fixture = Fixture::build("plive").unwrap();
    let _servers = Servers::start(&fixture);
    fixture.put_policies(REASONS);
    let mut agent = enforcing(&fixture);
    let run = fixture.cluster.run();
    let (open, closed) = (
        (fixture::end("x/a"), fixture::end("x/b"), 0),
        (fixture::end("x/a"), fixture::end("x/b"), 1),
    );
    let (connections, kills, replacements) = if long() { (1000, 100, 20) } else { (200, 6, 2) };
    let streams = traffic::Streams::open(&fixture, open, connections);
    let watch = traffic::Watch::start(&fixture, closed);
    for round in 0..kills {
        agent.process.kill();
        std::thread::sleep(Duration::from_millis(50 + round * 97 % 400));
        agent.restart(run).unwrap();
    }
    let present = Binaries::beside_this().unwrap().path("weir-agent").unwrap();
    let other = std::env::var_os("WEIR_OLDER_AGENT").map_or_else(
        || {
            let copy = run.directory("other").unwrap().join("weir-agent");
            fs::copy(&present, &copy).unwrap();
            copy
        },
        std::path::PathBuf::from,
    );
    for round in 0..replacements {
        agent.replace(run, if round % 2 == 0 { &other } else { &present }).unwrap();
        std::thread::sleep(Duration::from_millis(200));
    }
    let (longest, broken) = streams.close();
    println!(
        "{connections} connections, {kills} kills, {replacements} replacements: longest pause {longest:?}, \
         {broken} broken, {} let through",
        watch.let_through()
    );
    assert_eq!(broken, 0, "connections that were reset or ended");
    assert_eq!(watch.let_through(), 0, "denied connections that went through");
    // Linux' first retransmission timeout is 200 ms (TCP_RTO_MIN), and these machines are busy.
    assert!(longest < Duration::from_secs(3), "a connection stood still for {longest:?}");
}
