//! Policies in force on real packets between namespaces: the truth tables of
//! `datapath/policy/tests/conformance`, the reason in every row, and an agent that is killed meanwhile.

use std::fs;
use std::time::Duration;

use harness::weir::{Agent, AgentOptions, Binaries};
use harness::{long, serial};

#[path = "policy/attribution.rs"]
mod attribution;
#[path = "policy/commands.rs"]
mod commands;
#[path = "policy/conformance.rs"]
mod conformance;
#[path = "policy/cyclonus.rs"]
mod cyclonus;
#[path = "policy/drops.rs"]
mod drops;
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

use fixture::Fixture;
use traffic::Servers;

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

/// Connections go on, and what is denied stays denied, while the agent is killed and comes back, and while
/// its binary is replaced. `WEIR_OLDER_AGENT` names an older build of the same ABI to go back to.
#[test]
fn verdicts_outlive_the_agent() {
    let _turn = serial();
    let mut fixture = Fixture::build("plive").unwrap();
    let _servers = Servers::start(&fixture);
    fixture.put_policies(attribution::POLICIES);
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
