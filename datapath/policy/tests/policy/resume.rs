//! An agent that starts again over tables in use.

use datapath_policy::Compiler;

use super::case::{Op, Run, compare_all, refill};
use super::generate::{Dice, change, cluster, probes};

#[test]
fn numbers_survive_a_restart() {
    for seed in 0..60 {
        let mut dice = Dice::new(seed);
        let mut run = Run::of(&cluster(&mut dice));
        let (origins, identities) = (run.kernel.origins.clone(), run.compiler.identities());
        let hosts = run.kernel.hosts.clone();
        let sizes = run.compiler.sizes();
        for _ in 0..3 {
            run.step(&Op::Restart);
            assert_eq!(run.kernel.origins, origins, "seed {seed}");
            assert_eq!(run.compiler.identities(), identities, "seed {seed}");
            assert_eq!(run.compiler.sizes(), sizes, "seed {seed}");
            assert_eq!(run.kernel.policies.len(), sizes.policies, "seed {seed}");
            for (address, peer) in &run.kernel.hosts {
                assert_eq!(peer.identity, hosts[address].identity, "seed {seed}");
            }
            // Restarts take no more places as time goes by.
            assert!(run.kernel.classes.len() <= 64 && run.kernel.rules.len() <= 4096);
            compare_all(&run, &probes()).unwrap();
        }
        // And then there is nothing to do.
        run.step(&Op::Commit);
        assert!(run.changes.is_empty(), "seed {seed}: {:?}", run.changes);
    }
}

#[test]
fn the_world_may_change_while_the_agent_is_down() {
    for seed in 500..700 {
        let mut dice = Dice::new(seed);
        let old = Run::of(&cluster(&mut dice));
        let mut new = old.clone();
        for _ in 0..5 {
            new.step(&change(&mut dice));
        }
        let cluster = new.compiler.cluster().clone();
        let known = old.compiler.identities();
        let compiler = Compiler::resume(cluster.options.clone(), old.kernel.clone(), known);
        let mut run = Run { compiler, ..old };
        refill(&mut run.compiler, &cluster);
        run.step(&Op::Commit);
        if let Err(error) = compare_all(&run, &probes()) {
            panic!("seed {seed}: {error}");
        }
        for key in run.kernel.subjects.values() {
            assert!(run.kernel.policies.contains_key(&key.policy), "seed {seed}");
        }
        new.step(&Op::Commit);
        assert_eq!(run.kernel.hosts.len(), new.kernel.hosts.len(), "seed {seed}");
        assert_eq!(run.kernel.cidrs.len(), new.kernel.cidrs.len(), "seed {seed}");
        assert_eq!(run.kernel.subjects.len(), new.kernel.subjects.len(), "seed {seed}");
    }
}
