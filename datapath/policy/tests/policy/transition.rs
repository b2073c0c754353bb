//! What a reader finds between two writes of a commit: the old verdict or the new one.

use datapath_abi::policy::{DENY_RESET, DENY_RESPONSE, EGRESS, INGRESS};
use datapath_policy::{Change, DenyResponse, MemoryTables};

use super::case::{Op, Run, subjects};
use super::generate::{Dice, change, cluster, probes};

type Flow = (u32, usize, std::net::IpAddr, u8, u16);

fn flows(run: &Run, dice: &mut Dice, count: usize) -> Vec<Flow> {
    let (probes, subjects) = (probes(), subjects(&run.compiler));
    if subjects.is_empty() {
        return Vec::new();
    }
    (0..count)
        .map(|_| {
            let (interface, _) = subjects[dice.roll(subjects.len())];
            let peer = probes.peers[dice.roll(probes.peers.len())];
            let (protocol, port) = probes.ports[dice.roll(probes.ports.len())];
            (interface, if dice.one_in(2) { INGRESS } else { EGRESS }, peer, protocol, port)
        })
        .collect()
}

fn judge(tables: &MemoryTables, flow: &Flow) -> Option<(u8, u32)> {
    let (interface, direction, peer, protocol, port) = *flow;
    let decision = tables.judge(interface, direction, peer, protocol, port)?;
    Some((decision.verdict, decision.origin))
}

/// Inputs that alter rules and not peers: those of one peer are not one write.
fn is_atomic(op: &Op) -> bool {
    matches!(
        op,
        Op::Policy(_)
            | Op::NoPolicy(_)
            | Op::Group(_)
            | Op::NoGroup(_)
            | Op::Service(_)
            | Op::NoService(..)
            | Op::Restart
    )
}

#[test]
fn a_reader_never_sees_half_of_a_change() {
    let mut seen = 0;
    for seed in 0..250 {
        let mut dice = Dice::new(seed);
        let mut run = Run::of(&cluster(&mut dice));
        for _ in 0..8 {
            let op = change(&mut dice);
            let before = run.clone();
            run.step(&op);
            run.step(&Op::Commit);
            if !is_atomic(&op) {
                continue;
            }
            if matches!(op, Op::Restart) {
                // Its own commit is the one of interest.
                run = before.clone();
                run.step(&op);
            }
            for flow in flows(&before, &mut dice, 40) {
                let old = judge(&before.kernel, &flow);
                let new = judge(&run.kernel, &flow);
                let mut tables = before.kernel.clone();
                let mut lists = before.kernel.clone();
                let mut waited = false;
                for (i, one) in run.changes.iter().enumerate() {
                    tables.apply(std::slice::from_ref(one));
                    waited |= matches!(one, Change::Barrier);
                    let now = judge(&tables, &flow);
                    let fine = now == old || now == new;
                    assert!(
                        fine,
                        "seed {seed}, write {i}, {flow:?}: {old:?} {now:?} {new:?}\n{one:?}"
                    );
                    // Until the grace period a reader may hold the old policy, and must find what
                    // it refers to.
                    if !waited && !matches!(one, Change::Policy { .. } | Change::Subject { .. }) {
                        lists.apply(std::slice::from_ref(one));
                        assert_eq!(judge(&lists, &flow), old, "seed {seed}, write {i}, {flow:?}");
                    }
                    seen += 1;
                }
                assert_eq!(judge(&tables, &flow), new);
            }
        }
    }
    assert!(seen > 100_000, "{seen}");
}

#[test]
fn the_revision_moves_with_every_verdict() {
    let (mut still, mut moved) = (0, 0);
    for seed in 1000..1400 {
        let mut dice = Dice::new(seed);
        let mut run = Run::of(&cluster(&mut dice));
        for _ in 0..8 {
            let before = run.kernel.clone();
            run.step(&change(&mut dice));
            run.step(&Op::Commit);
            if run.kernel.settings.revision != before.settings.revision {
                moved += 1;
                continue;
            }
            still += 1;
            for flow in flows(&run, &mut dice, 100) {
                // A new interface has no connections yet.
                if before.subjects.contains_key(&flow.0) {
                    let (old, new) = (judge(&before, &flow), judge(&run.kernel, &flow));
                    assert_eq!(old, new, "seed {seed}, {flow:?}");
                }
            }
        }
    }
    println!("{still} changes left the revision, {moved} moved it");
    assert!(still > 200 && moved > 200);
}

#[test]
fn options_say_what_senders_are_told() {
    let mut run = Run::of(&[Op::Commit]);
    let mut options = run.compiler.cluster().options.clone();
    for (response, flags) in [
        (DenyResponse::Icmp, DENY_RESPONSE),
        (DenyResponse::Reset, DENY_RESPONSE | DENY_RESET),
        (DenyResponse::None, 0),
    ] {
        options.deny_response = response;
        run.step(&Op::Options(options.clone()));
        run.step(&Op::Commit);
        assert_eq!(run.kernel.settings.flags, flags, "{response:?}");
    }
}
