//! Truth tables: tests/conformance/*.yaml (see the README there), by the specification and by the tables.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::path::Path;

use datapath_abi::policy::{ALLOW, EGRESS, INGRESS};
use datapath_policy::naive::{Attempt, Verdict, Who, judge};
use datapath_policy::{Endpoint, Labels, NamedPort, Node, PolicyKey};
use serde::Deserialize;

use super::case::{Op, Run, parsed};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    steps: Vec<Step>,
}

/// What changes, and the whole table after it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Step {
    /// All policies from now on; absent: as before.
    policies: Option<Vec<serde_json::Value>>,
    /// Labels of pods that change.
    #[serde(default)]
    pods: BTreeMap<String, Labels>,
    /// Labels of namespaces that change.
    #[serde(default)]
    namespaces: BTreeMap<String, Labels>,
    /// The last line that fits decides; where none does, it is allowed.
    expect: Vec<Line>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    verdict: Word,
    #[serde(default)]
    from: Vec<String>,
    #[serde(default)]
    to: Vec<String>,
    #[serde(default)]
    ports: Vec<String>,
}

#[derive(Deserialize, PartialEq, Eq, Clone, Copy, Debug)]
#[serde(rename_all = "lowercase")]
enum Word {
    Allow,
    Deny,
}

const NAMESPACES: [&str; 3] = ["x", "y", "z"];
const PODS: [&str; 3] = ["a", "b", "c"];
const PORTS: [(&str, u8, u16); 8] = [
    ("80/TCP", 6, 80),
    ("81/TCP", 6, 81),
    ("80/UDP", 17, 80),
    ("81/UDP", 17, 81),
    ("80/SCTP", 132, 80),
    ("81/SCTP", 132, 81),
    ("8/ICMP", 1, 8),
    ("3/ICMP", 1, 3),
];
/// Ends that are no pods: this node, another, and the world.
const OUTSIDE: [(&str, &str); 3] =
    [("node", "192.168.0.1"), ("remote", "192.168.0.2"), ("world", "1.2.3.4")];

fn pod(namespace: usize, pod: usize) -> (String, Endpoint) {
    let ports = PORTS[..6].iter().map(|(name, protocol, port)| {
        let (_, name) = name.split_once('/').unwrap();
        let name = format!("serve-{port}-{}", name.to_lowercase());
        NamedPort { name, protocol: *protocol, port: *port }
    });
    let endpoint = Endpoint {
        namespace: NAMESPACES[namespace].to_owned(),
        labels: [("pod".to_owned(), PODS[pod].to_owned())].into(),
        addresses: [format!("10.0.{}.{}", namespace + 1, pod + 1).parse().unwrap()].into(),
        ports: ports.collect(),
        interface: Some((namespace * 3 + pod + 1) as u32),
        ..Endpoint::default()
    };
    (format!("{}/{}", NAMESPACES[namespace], PODS[pod]), endpoint)
}

fn fixture() -> (Run, BTreeMap<String, Endpoint>) {
    let mut run = Run::new();
    for name in NAMESPACES {
        let labels = [("ns".to_owned(), name.to_owned())].into();
        run.step(&Op::Namespace(name.to_owned(), labels));
    }
    for (name, address) in &OUTSIDE[..2] {
        let node = Node {
            addresses: [address.parse().unwrap()].into(),
            this: *name == "node",
            ..Node::default()
        };
        run.step(&Op::Node((*name).to_owned(), node));
    }
    let pods: BTreeMap<String, Endpoint> = (0..9).map(|n| pod(n / 3, n % 3)).collect();
    for (id, endpoint) in &pods {
        run.step(&Op::Endpoint(id.clone(), endpoint.clone()));
    }
    run.step(&Op::Commit);
    (run, pods)
}

/// `x/a`, `x/*`, or the name of an end outside.
fn fits(patterns: &[String], name: &str) -> bool {
    patterns.is_empty()
        || patterns.iter().any(|pattern| {
            let whole = pattern.strip_suffix('*').is_some_and(|start| name.starts_with(start));
            pattern == name || whole
        })
}

fn expected(step: &Step, from: &str, to: &str, port: &str) -> Word {
    let mut lines = step
        .expect
        .iter()
        .filter(|line| fits(&line.from, from) && fits(&line.to, to) && fits(&line.ports, port));
    lines.next_back().map_or(Word::Allow, |line| line.verdict)
}

fn run_case(path: &Path) -> usize {
    let case: Case = serde_norway::from_str(&fs::read_to_string(path).unwrap())
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let (mut run, mut pods) = fixture();
    let mut present: Vec<PolicyKey> = Vec::new();
    let mut checked = 0;
    for (index, step) in case.steps.iter().enumerate() {
        for (id, labels) in &step.pods {
            let endpoint = pods.get_mut(id).expect("a pod of the fixture");
            endpoint.labels = labels.clone();
            run.step(&Op::Endpoint(id.clone(), endpoint.clone()));
        }
        for (name, labels) in &step.namespaces {
            run.step(&Op::Namespace(name.clone(), labels.clone()));
        }
        if let Some(policies) = &step.policies {
            for key in present.drain(..) {
                run.step(&Op::NoPolicy(key));
            }
            for policy in policies {
                let text = policy.to_string();
                present.push(parsed(&text).key());
                run.step(&Op::Policy(text));
            }
        }
        run.step(&Op::Commit);
        let mut ends: Vec<(String, IpAddr, Option<u32>)> = pods
            .iter()
            .map(|(id, pod)| (id.clone(), *pod.addresses.first().unwrap(), pod.interface))
            .collect();
        ends.extend(
            OUTSIDE
                .iter()
                .map(|(name, address)| (name.to_string(), address.parse().unwrap(), None)),
        );
        for from in &ends {
            // A pod reaches itself without leaving its namespace.
            for to in
                ends.iter().filter(|to| to.0 != from.0 && (to.2.is_some() || from.2.is_some()))
            {
                for (name, protocol, port) in PORTS {
                    let verdicts = both_ends(&run, from, to, protocol, port);
                    let word = expected(step, &from.0, &to.0, name);
                    assert_eq!(
                        verdicts,
                        (word, word),
                        "{}: {}, step {index}: {} → {} {name}: (specification, tables)",
                        path.display(),
                        case.name,
                        from.0,
                        to.0
                    );
                    checked += 1;
                }
            }
        }
    }
    checked
}

fn both_ends(
    run: &Run,
    from: &(String, IpAddr, Option<u32>),
    to: &(String, IpAddr, Option<u32>),
    protocol: u8,
    port: u16,
) -> (Word, Word) {
    let (mut plain, mut compiled) = (true, true);
    for (own, peer, direction) in [(from, to, EGRESS), (to, from, INGRESS)] {
        let Some(interface) = own.2 else { continue };
        let attempt = Attempt { direction, peer: peer.1, protocol, port };
        let who = Who::Endpoint(&own.0);
        plain &= judge(run.compiler.cluster(), who, &attempt).unwrap().0 == Verdict::Allow;
        let decision = run.kernel.judge(interface, direction, peer.1, protocol, port).unwrap();
        compiled &= decision.verdict == ALLOW;
    }
    let word = |allowed| if allowed { Word::Allow } else { Word::Deny };
    (word(plain), word(compiled))
}

#[test]
fn truth_tables() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conformance");
    let (mut cases, mut checked) = (0, 0);
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "yaml") {
            checked += run_case(&path);
            cases += 1;
        }
    }
    println!("{cases} cases, {checked} cells");
    assert!(cases >= 50);
}
