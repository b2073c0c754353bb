//! The compiled tables against the specification, over random histories.

use std::fs;
use std::path::Path;

use datapath_abi::policy::{EGRESS, INGRESS};
use datapath_policy::naive::Attempt;

use super::case::{Op, Probes, Run, compare, compare_all, refill, shrink, subjects};
use super::generate::{Dice, change, cluster, probes};

/// Changes of each cluster, after the first commit.
const STEPS: usize = 10;

/// Questions after each commit.
const QUESTIONS: usize = 700;

fn long() -> bool {
    std::env::var_os("WEIR_LONG").is_some()
}

#[test]
fn every_verdict_is_the_specifications() {
    let goal: usize = if long() { 10_000_000 } else { 2_000_000 };
    let base = std::env::var("WEIR_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1u64);
    let start = std::time::Instant::now();
    let asked: usize = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..2u64)
            .map(|n| scope.spawn(move || campaign(base + n * 1_000_000, goal / 2)))
            .collect();
        workers.into_iter().map(|worker| worker.join().unwrap()).sum()
    });
    println!("{asked} verdicts in {:?}", start.elapsed());
    assert!(asked >= goal);
}

fn campaign(first: u64, goal: usize) -> usize {
    let (probes, mut asked, mut seed) = (probes(), 0, first);
    while asked < goal {
        asked += history(seed, &probes);
        seed += 1;
    }
    asked
}

fn history(seed: u64, probes: &Probes) -> usize {
    let mut dice = Dice::new(seed);
    let mut ops = cluster(&mut dice);
    let mut run = Run::of(&ops);
    let mut asked =
        sample(&run, probes, &mut dice).unwrap_or_else(|error| report(seed, &ops, &error));
    for _ in 0..STEPS {
        for _ in 0..1 + dice.roll(2) {
            ops.push(change(&mut dice));
            run.step(&ops[ops.len() - 1]);
        }
        ops.push(Op::Commit);
        run.step(&Op::Commit);
        asked += sample(&run, probes, &mut dice).unwrap_or_else(|error| report(seed, &ops, &error));
        assert_eq!(run.compiler.problems().len(), 0, "seed {seed}");
    }
    // A fresh compiler says the same, and takes as many classes and selectors or fewer.
    let mut fresh = Run::new();
    fresh.compiler.set_options(run.compiler.cluster().options.clone());
    refill(&mut fresh.compiler, run.compiler.cluster());
    fresh.step(&Op::Commit);
    asked += sample(&fresh, probes, &mut dice).unwrap_or_else(|error| report(seed, &ops, &error));
    assert_eq!(fresh.compiler.sizes().selectors, run.compiler.sizes().selectors, "seed {seed}");
    assert_eq!(fresh.compiler.sizes().policies, run.compiler.sizes().policies, "seed {seed}");
    assert_eq!(fresh.compiler.sizes().peers, run.compiler.sizes().peers, "seed {seed}");
    assert_eq!(fresh.kernel.policies.len(), run.kernel.policies.len(), "seed {seed}");
    assert_eq!(fresh.kernel.hosts.len(), run.kernel.hosts.len(), "seed {seed}");
    assert_eq!(fresh.kernel.cidrs.len(), run.kernel.cidrs.len(), "seed {seed}");
    assert_eq!(fresh.kernel.subjects.len(), run.kernel.subjects.len(), "seed {seed}");
    asked
}

fn sample(run: &Run, probes: &Probes, dice: &mut Dice) -> Result<usize, String> {
    let subjects = subjects(&run.compiler);
    if subjects.is_empty() {
        return Ok(0);
    }
    for _ in 0..QUESTIONS {
        let (interface, who) = subjects[dice.roll(subjects.len())];
        let peer = probes.peers[dice.roll(probes.peers.len())];
        let (protocol, port) = probes.ports[dice.roll(probes.ports.len())];
        let direction = if dice.one_in(2) { INGRESS } else { EGRESS };
        let attempt = Attempt { direction, peer, protocol, port };
        compare(&run.compiler, &run.kernel, interface, who, &attempt)?;
    }
    Ok(QUESTIONS)
}

/// Shrinks a failing history, keeps it, and fails.
fn report(seed: u64, ops: &[Op], error: &str) -> ! {
    let probes = probes();
    let fails = |ops: &[Op]| compare_all(&Run::of(ops), &probes).is_err();
    let mut ops = ops.to_vec();
    if fails(&ops) {
        ops = shrink(ops, fails);
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/regressions");
    let file = folder.join(format!("seed-{seed}.yaml"));
    fs::write(&file, serde_norway::to_string(&ops).unwrap()).unwrap();
    let now = compare_all(&Run::of(&ops), &probes).err();
    panic!("seed {seed}: {error}\nshrunk to {}: {now:?}", file.display());
}

#[test]
fn regressions_stay_mended() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/regressions");
    let probes = probes();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        let ops: Vec<Op> = serde_norway::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        if let Err(error) = compare_all(&Run::of(&ops), &probes) {
            panic!("{}: {error}", path.display());
        }
    }
}
