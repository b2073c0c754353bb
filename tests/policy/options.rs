//! What an agent's options make of a refusal.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use harness::weir::Agent;
use harness::{serial, wait_until};

use crate::fixture::{self, Fixture};
use crate::traffic::{self, Servers, probe_all};
use crate::{IN_FORCE, enforcing_with};

/// Nobody may reach x/b.
const CLOSED: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: closed, namespace: x}
spec:
  podSelector: {matchLabels: {pod: b}}
  policyTypes: [Ingress]
";

fn start(name: &str, flags: &[&str]) -> (Fixture, Servers, Agent) {
    let fixture = Fixture::build(name).unwrap();
    let servers = Servers::start(&fixture);
    let agent = enforcing_with(&fixture, flags);
    (fixture, servers, agent)
}

#[test]
fn who_is_refused_is_told_where_that_was_chosen() {
    let _turn = serial();
    for (answer, kind) in
        [("reset", ErrorKind::ConnectionRefused), ("icmp", ErrorKind::HostUnreachable)]
    {
        let (mut fixture, _servers, _agent) =
            start(&format!("pans{answer}"), &["--deny-response", answer]);
        let cell = (fixture::end("x/a"), fixture::end("x/b"), 0);
        assert!(probe_all(&fixture, Some(&[cell]))[&cell]);
        fixture.put_policies(CLOSED);
        wait_until("the answer is that of the option", IN_FORCE, || {
            traffic::refusal(&fixture, cell).is_some_and(|error| error == kind)
        })
        .unwrap_or_else(|error| {
            panic!("{answer}: {error}: {:?}", traffic::refusal(&fixture, cell))
        });
    }
}

/// What a new policy would not let through is refused from its next packet on, or goes on until it ends.
#[test]
fn established_connections_are_refused_or_kept() {
    let _turn = serial();
    for (what, goes_on) in [("refuse", false), ("keep", true)] {
        let (mut fixture, _servers, _agent) =
            start(&format!("pest{what}"), &["--policy-established", what]);
        let cell = (fixture::end("x/a"), fixture::end("x/b"), 0);
        let streams = traffic::Streams::open(&fixture, cell, 20);
        fixture.put_policies(CLOSED);
        wait_until("the policy is in force", IN_FORCE, || {
            !probe_all(&fixture, Some(&[cell]))[&cell]
        })
        .unwrap();
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(3) {
            assert!(!probe_all(&fixture, Some(&[cell]))[&cell], "a new connection");
        }
        let (longest, broken) = streams.close();
        let went_on = broken == 0 && longest < Duration::from_secs(2);
        assert_eq!(went_on, goes_on, "{what}: longest pause {longest:?}, {broken} broken");
    }
}
