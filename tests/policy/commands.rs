//! The user's commands about policy, against a node that enforces.

use std::process::Command;
use std::time::Duration;

use harness::weir::{Agent, Binaries, Relay};
use harness::{serial, wait_until};
use serde_json::Value;

use crate::fixture::{self, Fixture};
use crate::traffic::{Servers, probe_all};
use crate::{IN_FORCE, enforcing};

/// x/a → x/b on 80/TCP.
const PATH: (&str, &str, usize) = ("x/a", "x/b", 0);

const CLOSED: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: closed, namespace: x}
spec:
  podSelector: {matchLabels: {pod: b}}
  ingress:
  - from: [{podSelector: {matchLabels: {pod: c}}}]
    ports: [{port: 80}]
";

struct Node {
    fixture: Fixture,
    agent: Agent,
    relay: Relay,
    _servers: Servers,
}

// === impl Node ===

impl Node {
    fn start(name: &str) -> Self {
        let fixture = Fixture::build(name).unwrap();
        let servers = Servers::start(&fixture);
        let agent = enforcing(&fixture);
        let binaries = Binaries::beside_this().unwrap();
        let listen = ([127, 0, 0, 1], 0).into();
        let relay = Relay::start(fixture.cluster.run(), &binaries, &[&agent], listen, &[]).unwrap();
        Self { fixture, agent, relay, _servers: servers }
    }

    /// Runs `weir …` with a policy file in place of `FILE`; exit code and output.
    fn weir(&self, arguments: &[&str], file: &str) -> (i32, String) {
        let path = self.fixture.cluster.run().directory("cli").unwrap().join("policy.yaml");
        std::fs::write(&path, file).unwrap();
        let path = path.to_string_lossy().into_owned();
        let binary = Binaries::beside_this().unwrap().path("weir").unwrap();
        let arguments =
            arguments.iter().map(|word| if *word == "FILE" { path.as_str() } else { *word });
        let output = Command::new(binary)
            .args(arguments)
            .env("WEIR_AGENT_SOCKET", self.agent.local_socket())
            .env("WEIR_SERVER", format!("http://{}", self.relay.address))
            .stdin(std::process::Stdio::null())
            .output()
            .unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.code().unwrap(), String::from_utf8(text).unwrap())
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let (code, text) = self.weir(&[arguments, &["-o", "json"]].concat(), "");
        assert_eq!(code, 0, "{arguments:?}: {text}");
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    fn open(&self) -> bool {
        let cell = (fixture::end(PATH.0), fixture::end(PATH.1), PATH.2);
        probe_all(&self.fixture, Some(&[cell]))[&cell]
    }

    fn becomes(&self, open: bool) {
        wait_until("the policy shows", IN_FORCE, || self.open() == open).unwrap();
    }
}

#[test]
fn a_policy_is_applied_explained_and_deleted() {
    let _turn = serial();
    let node = Node::start("pcli");
    assert!(node.open());

    let (code, text) = node.weir(&["policy", "apply", "FILE"], CLOSED);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("added NetworkPolicy/x/closed") && text.contains("in force"), "{text}");
    assert!(!node.open(), "in force when the command has ended");

    let policies = node.json(&["policy", "get"]);
    let policy = &policies["policies"][0];
    assert_eq!(policy["name"], "closed");
    assert_eq!((&policy["source"], &policy["state"]), (&"applied".into(), &"enforced".into()));
    assert_eq!(policy["selects"], serde_json::json!(["x/b"]));

    let endpoints = node.json(&["endpoint", "list", "--local"]);
    let endpoints = endpoints["endpoints"].as_array().unwrap();
    assert_eq!(endpoints.len(), fixture::PODS);
    let selected = endpoints.iter().find(|endpoint| endpoint["id"] == "x/b").unwrap();
    assert_eq!((&selected["ingress"], &selected["egress"]), (&"enforced".into(), &"open".into()));
    let identities = node.json(&["identity", "list", &selected["identity"].to_string()]);
    assert_eq!(identities["identities"][0]["endpoints"], serde_json::json!(["x/b"]));

    let tables = node.json(&["bpf", "policy", "x/b"]);
    assert_eq!(tables["differs"], serde_json::json!([]));
    let sections = tables["subjects"][0]["sections"].as_array().unwrap();
    let tcp80 = sections
        .iter()
        .find(|section| {
            section["protocol"] == "tcp" && section["ports"] == serde_json::json!([80, 80])
        })
        .unwrap();
    let verdicts: Vec<_> =
        tcp80["rules"].as_array().unwrap().iter().map(|it| &it["verdict"]).collect();
    assert_eq!(verdicts.last().unwrap(), &"deny", "{tcp80:#}");
    let peer = endpoints.iter().find(|endpoint| endpoint["id"] == "x/c").unwrap();
    let allowed = tcp80["rules"].as_array().unwrap().iter().any(|rule| {
        let identities = rule["identities"].as_array().unwrap();
        rule["verdict"] == "allow" && identities.contains(&peer["identity"])
    });
    assert!(allowed, "{tcp80:#}");

    // Why, by its ends: the policy's own words now, and what was recorded.
    wait_until("the refusal is recorded", Duration::from_secs(20), || {
        node.open();
        let why = node.json(&["why", "x/a", "x/b:80"]);
        assert_eq!(why["now"]["outcome"], "denied");
        assert_eq!(why["now"]["change"]["outcome"], "allowed");
        why["recorded"]["intervals"].as_array().is_some_and(|intervals| {
            intervals.iter().any(|interval| interval["verdict"] == "DROPPED")
        })
    })
    .unwrap();
    let (code, text) = node.weir(&["why", "x/a", "x/b:80"], "");
    for part in
        ["Recorded: flow", "DENIED", "x/closed", "pod=a", "to change that", "entry: interface"]
    {
        assert!(code == 0 && text.contains(part), "{part} is not in:\n{text}");
    }
    // And by its id.
    let recorded = node.json(&["why", "x/a", "x/b:80"]);
    let id = recorded["recorded"]["flow_id"].as_str().unwrap();
    let (code, text) = node.weir(&["why", id], "");
    assert!(code == 0 && text.contains(id) && text.contains("DENIED"), "{text}");

    let (code, text) = node.weir(&["policy", "delete", "x/closed"], "");
    assert_eq!(code, 0, "{text}");
    assert!(node.open(), "out of force when the command has ended");
    let (code, text) = node.weir(&["policy", "delete", "x/closed"], "");
    assert!(code != 0 && text.contains("no such policy"), "{text}");
}

#[test]
fn what_is_not_confirmed_is_taken_back() {
    let _turn = serial();
    let mut node = Node::start("pback");
    let apply = ["policy", "apply", "FILE", "--confirm-within", "3s"];

    let (code, text) = node.weir(&apply, CLOSED);
    assert!(code == 0 && text.contains("taken back in 3 s"), "{text}");
    assert!(!node.open());
    let (code, text) = node.weir(&apply, CLOSED);
    assert!(code == 1 && text.contains("confirm it or revert it first"), "{text}");
    node.becomes(true);
    assert_eq!(node.json(&["policy", "get"])["policies"], serde_json::json!([]));

    // Confirmed, it stays; the agent's restart is no confirmation and no denial.
    let minute = ["policy", "apply", "FILE", "--confirm-within", "1m"];
    assert_eq!(node.weir(&minute, CLOSED).0, 0);
    node.agent.process.kill();
    node.agent.restart(node.fixture.cluster.run()).unwrap();
    node.becomes(false);
    let policies = node.json(&["policy", "get"]);
    assert!(policies["reverts_in_ms"].as_u64().unwrap() > 1000, "{policies}");
    assert_eq!(node.weir(&["policy", "confirm"], ""), (0, "confirmed\n".to_owned()));
    assert_eq!(node.weir(&["policy", "confirm"], "").0, 1);

    // An agent that was away when the time was over takes it back when it starts.
    let seconds = ["policy", "delete", "x/closed", "--confirm-within", "2s"];
    assert_eq!(node.weir(&seconds, "").0, 0);
    assert!(node.open());
    node.agent.process.kill();
    std::thread::sleep(Duration::from_secs(3));
    assert!(node.open(), "while no agent runs, the kernel goes on as it was told");
    node.agent.restart(node.fixture.cluster.run()).unwrap();
    node.becomes(false);
}

#[test]
fn bad_documents_change_nothing() {
    let _turn = serial();
    let node = Node::start("pbad");
    for (text, part) in [
        ("", "nothing to apply"),
        ("kind: [", "document 1"),
        ("apiVersion: v1\nkind: Pod\nmetadata: {name: a}", "exactly one policy"),
        (&CLOSED.replace("ingress:", "ingres:"), "ingres"),
        (&CLOSED.replace("port: 80", "port: 80000"), "80000"),
    ] {
        let (code, said) = node.weir(&["policy", "apply", "FILE"], text);
        assert!(code == 1 && said.contains(part), "{text}: {code} {said}");
    }
    assert_eq!(node.json(&["policy", "get"])["policies"], serde_json::json!([]));
    assert!(node.open());
    let (code, said) = node.weir(&["why", "x/a", "nowhere/pod:80"], "");
    assert!(said.contains("neither an address nor a known pod"), "{code} {said}");
    let (code, said) = node.weir(&["bpf", "policy", "nowhere"], "");
    assert!(code == 1 && said.contains("no interface or endpoint"), "{said}");
}
