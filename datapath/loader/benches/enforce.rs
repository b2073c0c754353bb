//! What policy costs: nanoseconds per packet, by running the programs over a test packet in the kernel
//! (`BPF_PROG_TEST_RUN`), as `observe.rs` does and with the same rules.
//!
//! Beside ours runs what is usual (`ebpf/src/bench/policy.rs`): connection table, address trie with 20,000
//! pods, policy trie with 1,000 rules asked twice. `cargo bench -p datapath-loader --bench enforce`; the last
//! line is JSON.

use std::time::Instant;

use datapath_abi::policy::{
    ANYBODY, Class, DENY_BIT, Interval, Peer, Policy, PolicySide, Prefix, Rule, SECTIONS,
    SELECTORS, Section, Settings, Subject,
};
use datapath_loader::bench::{Bench, BenchProgram, pin_thread};
use datapath_loader::{
    Datapath, Events, Options, PolicySizes, Transport, cleanup, default_pin_root,
};

type Failure = Box<dyn std::error::Error>;

const ROUNDS: usize = 9;
const RUNS: u32 = 1 << 17;
/// New flows in one run: as many events as the ring holds.
const NEW: u32 = 1 << 15;
const PODS: u32 = 20_000;
const PROGRAMS: [&str; 4] = ["bench_empty", "bench_located", "bench_enforce", "bench_composite"];

fn main() -> Result<(), Failure> {
    let options = Options {
        pin_dir: default_pin_root()?.join(format!("weir-bench-{}", std::process::id())),
        max_connections: 1 << 21,
        ring_bytes: 1 << 22,
        transport: Transport::Ring,
        dns: false,
        drops: false,
        cgroup: None,
        policy: Some(PolicySizes::USUAL),
        services: None,
        socket_services: None,
        xdp: None,
    };
    pin_thread(1);
    let measured = measure(&options);
    cleanup(&options.pin_dir)?;
    println!("{}", measured?);
    Ok(())
}

fn measure(options: &Options) -> Result<String, Failure> {
    let start = Instant::now();
    let mut datapath = Datapath::open(options.clone())?;
    println!("loading took {:?}", start.elapsed());
    let mut events = datapath.events()?;
    let mut bench = Bench::open(options, tcp())?;
    let programs: Vec<_> =
        PROGRAMS.into_iter().map(|name| bench.program(name)).collect::<Result<_, _>>()?;
    usual(&bench)?;
    let mut json = Vec::new();
    println!("{:28} {:>8} {:>8} {:>10} {:>6}", "established", "ours", "usual", "ratio", "base");
    for identities in [100, 16_384] {
        tables(&datapath, identities, 0)?;
        bench.flows(0, 1 << 32)?;
        bench.run(&programs[2], 1 << 18)?;
        clear(&datapath)?;
        for flows in [1, 1 << 10, 1 << 16] {
            let [_, base, ours, usual] = established(&mut bench, &programs, flows)?;
            let (ours, usual) = (ours.saturating_sub(base), usual.saturating_sub(base));
            let name = format!("{identities} identities, {flows} flows");
            let ratio = f64::from(ours) / f64::from(usual.max(1));
            println!("{name:28} {ours:>5} ns {usual:>5} ns {ratio:>10.2} {base:>6}");
            json.push(format!("\"{name}\":{{\"ours\":{ours},\"usual\":{usual}}}"));
        }
        clear(&datapath)?;
    }
    println!("{:28} {:>8} {:>8}", "new flow, entries", "allowed", "refused");
    for (identities, entries) in
        [(100, 1 << 10), (16_384, 1 << 10), (16_384, 1 << 16), (16_384, 1 << 20)]
    {
        let name = format!("{identities} identities, {entries}");
        let allowed =
            new_flows(&mut bench, &programs, &datapath, &mut events, identities, entries)?;
        tables(&datapath, identities, DENY_BIT)?;
        let mut refused = Vec::new();
        for round in 0..ROUNDS as u64 {
            bench.flows((1 << 24) + round * u64::from(NEW), 1 << 32)?;
            let base = bench.run(&programs[1], NEW)?;
            bench.flows((1 << 24) + round * u64::from(NEW), 1 << 32)?;
            refused.push(bench.run(&programs[2], NEW)?.saturating_sub(base));
        }
        let refused = median(refused);
        println!("{name:28} {allowed:>5} ns {refused:>5} ns");
        json.push(format!("\"new, {name}\":{{\"allowed\":{allowed},\"refused\":{refused}}}"));
        clear(&datapath)?;
    }
    Ok(format!("{{{}}}", json.join(",")))
}

/// Flows that are in the tables of both.
fn established(
    bench: &mut Bench,
    programs: &[BenchProgram],
    flows: u64,
) -> Result<[u32; 4], Failure> {
    for program in &programs[2..] {
        bench.flows(0, flows)?;
        bench.run(program, RUNS.max(flows as u32))?;
    }
    assert_eq!(bench.verdict(&programs[2], &tcp())?, -1, "ours allows");
    assert_eq!(bench.verdict(&programs[3], &tcp())?, -1, "the usual one allows");
    let mut rounds: [Vec<u32>; 4] = Default::default();
    for _ in 0..ROUNDS {
        for (program, round) in programs.iter().zip(&mut rounds) {
            bench.flows(0, flows)?;
            round.push(bench.run(program, RUNS)?);
        }
    }
    Ok(rounds.map(median))
}

/// Flows that are not, beside so many that are.
fn new_flows(
    bench: &mut Bench,
    programs: &[BenchProgram],
    datapath: &Datapath,
    events: &mut Events,
    identities: u32,
    entries: u64,
) -> Result<u32, Failure> {
    tables(datapath, identities, 0)?;
    bench.flows(0, 1 << 32)?;
    bench.run(&programs[2], entries as u32)?;
    let mut found = Vec::new();
    for round in 0..ROUNDS as u64 {
        let next = entries + round * u64::from(NEW);
        events.drain(&mut |_| ());
        bench.flows(next, 1 << 32)?;
        let base = bench.run(&programs[1], NEW)?;
        bench.flows(next, 1 << 32)?;
        found.push(bench.run(&programs[2], NEW)?.saturating_sub(base));
    }
    Ok(median(found))
}

/// A policy of 100 ports with 10 rules each, of which the last has the peer, or refuses it.
fn tables(datapath: &Datapath, identities: u32, deny: u32) -> Result<(), Failure> {
    let policy = datapath.policy();
    let mut bits = [0; SELECTORS / 64];
    bits[0] = 1 << 9;
    policy.write_class(1, &Class { bits });
    let rules: Vec<_> = (0..10)
        .map(|selector| Rule { selector, origin: (selector + 1) | deny })
        .chain([Rule { selector: ANYBODY, origin: 11 | DENY_BIT }])
        .collect();
    policy.write_rules(0, &rules)?;
    let intervals: Vec<_> =
        (0..100).map(|n| Interval { first: n * 10, count: 11, rules: 0 }).collect();
    policy.write_intervals(0, &intervals)?;
    let section = Section { start: 0, count: 100 };
    let none = [Section { start: 0, count: 0 }; SECTIONS];
    let side = PolicySide { enforced: [section; SECTIONS], audited: none };
    policy.put_policies(&[(1, Policy { sides: [side; 2], revision: 1 })])?;
    let hosts: Vec<_> =
        (0..identities).map(|n| (mapped(n), Peer { identity: 256 + n, class: 1 })).collect();
    policy.put_hosts(&hosts)?;
    policy
        .put_cidrs(&[(Prefix { length: 0, address: [0; 16] }, Peer { identity: 2, class: 1 })])?;
    policy.put_subjects(&[(1, Subject { policy: 1, identity: 9, flags: 0, pad: 0 })])?;
    let revision = policy.settings()?.revision + 1;
    Ok(policy.set_settings(Settings { revision, flags: 0 })?)
}

/// The usual program's tables.
fn usual(bench: &Bench) -> Result<(), Failure> {
    for n in 0..PODS {
        let [a, b] = halves(mapped(n));
        let key = [160, 0x0100_0000, a as u32, (a >> 32) as u32, b as u32, (b >> 32) as u32];
        bench.put_prefix("bench_ipcache", &key, &[256 + n, 0, 0, 0])?;
    }
    for identity in 0..1000u32 {
        let protocol_and_port = u32::from_ne_bytes([0, 6, 80, 0]);
        bench.put_prefix("bench_rules", &[64, identity, protocol_and_port], &[1u32, 0])?;
    }
    Ok(())
}

/// Source address of flow `n`; see `ebpf/src/bench.rs`.
fn mapped(n: u32) -> [u8; 16] {
    let [a, b, ..] = n.wrapping_mul(0x9e37_79b1).to_be_bytes();
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 10, 0, a, b]
}

fn halves(address: [u8; 16]) -> [u64; 2] {
    let number = u128::from_ne_bytes(address);
    [number as u64, (number >> 64) as u64]
}

fn clear(datapath: &Datapath) -> Result<(), Failure> {
    let connections = datapath.connections();
    let mut keys = Vec::new();
    connections.walk(&mut |key, _| keys.push(*key))?;
    Ok(connections.remove(&keys)?)
}

fn median(mut values: Vec<u32>) -> u32 {
    values.sort_unstable();
    values[values.len() / 2]
}

/// A TCP segment with data, of a connection in use, from 10.0.0.1 to 10.0.0.2.
fn tcp() -> Vec<u8> {
    let mut packet = vec![0; 12];
    packet.extend([0x08, 0x00, 0x45, 0, 0, 50, 0, 0, 0, 0, 64, 6, 0, 0]);
    packet.extend([10, 0, 0, 1, 10, 0, 0, 2]);
    packet.extend([0x30, 0x39, 0, 80, 0, 0, 1, 0, 0, 0, 2, 0, 5 << 4, 0x18]);
    packet.resize(64, 0);
    packet
}
