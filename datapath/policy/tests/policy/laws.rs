//! What holds of the tables whatever the policies say, and what happens when they are full.

use std::collections::BTreeSet;

use datapath_abi::policy::{ALLOW, ANYBODY, DENY, INGRESS};
use datapath_policy::{Capacity, Change, Compiler, Endpoint, Node, Options, parse};

use super::case::{Op, Run, compare_all};
use super::generate::{Dice, change, cluster, probes};

#[test]
fn every_list_ends_with_everybody() {
    for seed in 0..100 {
        let mut dice = Dice::new(seed);
        let mut run = Run::of(&cluster(&mut dice));
        for _ in 0..5 {
            run.step(&change(&mut dice));
            run.step(&Op::Commit);
        }
        let tables = &run.kernel;
        for policy in tables.policies.values() {
            for side in &policy.sides {
                for section in side.enforced.iter().chain(&side.audited) {
                    let intervals = tables.section(*section);
                    assert_eq!(intervals.len(), section.count as usize);
                    assert!(intervals.first().is_none_or(|first| first.first == 0));
                    assert!(intervals.is_sorted_by(|a, b| a.first < b.first));
                    for interval in intervals {
                        let rules = tables.rules_of(*interval);
                        let last = rules.last().expect("a rule");
                        assert_eq!(last.selector, ANYBODY);
                        let selectors: BTreeSet<u32> =
                            rules.iter().map(|rule| rule.selector).collect();
                        assert_eq!(selectors.len(), rules.len(), "a rule that is never reached");
                        for rule in rules {
                            assert!(tables.origins.contains_key(&(rule.origin & !(1 << 31))));
                        }
                    }
                }
            }
        }
        for subject in tables.subjects.values() {
            assert!(tables.policies.contains_key(&subject.policy));
        }
    }
}

fn pod(n: u32) -> Endpoint {
    Endpoint {
        namespace: "x".to_owned(),
        labels: [("app".to_owned(), format!("a{n}"))].into(),
        addresses: [format!("10.0.{}.{}", n >> 8, n & 255).parse().unwrap()].into(),
        interface: (n == 0).then_some(1),
        ..Endpoint::default()
    }
}

fn policy(name: &str, peers: std::ops::Range<u32>, list: &str) -> String {
    let mut rules = String::new();
    for n in peers {
        rules.push_str(&format!("  - fromEndpoints: [{{matchLabels: {{app: a{n}}}}}]\n"));
    }
    format!(
        "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{name: {name}, namespace: x}}\n\
         spec:\n  endpointSelector: {{matchLabels: {{app: a0}}}}\n  {list}:\n{rules}"
    )
}

/// More selectors than a class has bits: what does not fit is denied, and is put right when there is room.
#[test]
fn too_many_selectors_deny() {
    let mut compiler = Compiler::new(Options::default());
    for n in 0..4600 {
        compiler.put_endpoint(&format!("p{n}"), pod(n));
    }
    for part in 0..5u32 {
        let text = policy(&format!("p{part}"), part * 900 + 1..part * 900 + 901, "ingress");
        compiler.put_policy(parse(&text).unwrap());
    }
    compiler.commit();
    let judge = |compiler: &Compiler, n: u32| {
        let peer = pod(n).addresses.first().copied().unwrap();
        compiler.tables().judge(1, INGRESS, peer, 6, 80).unwrap().verdict
    };
    assert!(!compiler.problems().is_empty());
    // Rules of one port are limited as well.
    let allowed = (1..4501).filter(|n| judge(&compiler, *n) == ALLOW).count();
    assert!((1000..1024).contains(&allowed), "{allowed}");
    for part in 0..5u32 {
        let key = parse(&policy(&format!("p{part}"), 1..2, "ingress")).unwrap().key();
        if part != 4 {
            compiler.remove_policy(&key);
        }
    }
    compiler.commit();
    compiler.commit();
    assert!(compiler.problems().is_empty(), "{:?}", compiler.problems());
    assert_eq!((judge(&compiler, 4500), judge(&compiler, 1)), (ALLOW, DENY));
}

#[test]
fn denies_that_do_not_fit_deny_everybody() {
    let mut compiler = Compiler::new(Options::default());
    for n in 0..1300 {
        compiler.put_endpoint(&format!("p{n}"), pod(n));
    }
    compiler.put_policy(parse(&policy("deny", 1..1200, "ingressDeny")).unwrap());
    compiler.put_policy(parse(&policy("allow", 1200..1201, "ingress")).unwrap());
    compiler.commit();
    assert_eq!(compiler.problems().len(), 1);
    for n in [1, 1199, 1200, 1250] {
        let peer = pod(n).addresses.first().copied().unwrap();
        assert_eq!(compiler.tables().judge(1, INGRESS, peer, 6, 80).unwrap().verdict, DENY, "{n}");
    }
}

#[test]
fn full_tables_deny() {
    let none = Capacity { intervals: 0, ..Capacity::default() };
    for capacity in [none, Capacity { rules: 3, ..Capacity::default() }] {
        let mut compiler = Compiler::new(Options { capacity, ..Options::default() });
        for n in 0..5 {
            compiler.put_endpoint(&format!("p{n}"), pod(n));
        }
        compiler.put_policy(parse(&policy("allow", 1..4, "ingress")).unwrap());
        compiler.commit();
        assert!(!compiler.problems().is_empty());
        let peer = pod(1).addresses.first().copied().unwrap();
        assert_eq!(compiler.tables().judge(1, INGRESS, peer, 6, 80).unwrap().verdict, DENY);
    }
}

#[test]
fn peers_without_a_class_are_denied() {
    let capacity = Capacity { classes: 3, ..Capacity::default() };
    let mut compiler = Compiler::new(Options { capacity, ..Options::default() });
    for n in 0..5 {
        compiler.put_endpoint(&format!("p{n}"), pod(n));
    }
    compiler.put_policy(parse(&policy("allow", 1..5, "ingress")).unwrap());
    compiler.commit();
    let verdicts = |compiler: &Compiler| {
        let peers = (1..5).map(|n| pod(n).addresses.first().copied().unwrap());
        let judged = peers.map(|peer| compiler.tables().judge(1, INGRESS, peer, 6, 80).unwrap());
        judged.filter(|decision| decision.verdict == ALLOW).count()
    };
    assert_eq!((verdicts(&compiler), compiler.problems().len()), (2, 1));
    // Two of them go, and the others find room, at the latest by the second commit.
    for n in [1, 2] {
        compiler.remove_endpoint(&format!("p{n}"));
    }
    compiler.commit();
    compiler.commit();
    assert_eq!((verdicts(&compiler), compiler.problems().len()), (2, 0));
}

/// The host is judged only where a policy selects it, and never loses its failsafe ports.
#[test]
fn the_host_keeps_its_failsafe_ports() {
    let mut run = Run::new();
    run.step(&Op::Node(
        "n1".to_owned(),
        Node {
            labels: [("role".to_owned(), "edge".to_owned())].into(),
            addresses: ["192.168.0.1".parse().unwrap()].into(),
            this: true,
            interfaces: [100].into(),
            audit: false,
        },
    ));
    run.step(&Op::Commit);
    assert!(run.kernel.subjects.is_empty());
    let deny = "apiVersion: cilium.io/v2\nkind: CiliumClusterwideNetworkPolicy\nmetadata: {name: h}\n\
                spec: {nodeSelector: {}, ingressDeny: [{fromEntities: [all]}], egress: [{}]}";
    run.step(&Op::Policy(deny.to_owned()));
    run.step(&Op::Commit);
    let judge = |port| {
        let peer = "8.8.8.8".parse().unwrap();
        run.kernel.judge(100, INGRESS, peer, 6, port).unwrap().verdict
    };
    assert_eq!((judge(22), judge(80)), (ALLOW, DENY));
    compare_all(&run, &probes()).unwrap();
}

#[test]
fn origins_go_when_nobody_names_them() {
    let mut run = Run::of(&[Op::Endpoint("p0".to_owned(), pod(0))]);
    for n in 1..5 {
        run.step(&Op::Policy(policy("p", n..n + 1, "ingress")));
        run.step(&Op::Commit);
    }
    let count = run.kernel.origins.len();
    let kept = *run.kernel.origins.keys().next().unwrap();
    let changes = run.compiler.forget_origins(&[kept].into());
    assert!(changes.iter().all(|change| matches!(change, Change::Origin { origin: None, .. })));
    run.kernel.apply(&changes);
    assert!(run.kernel.origins.len() < count && run.kernel.origins.contains_key(&kept));
    compare_all(&run, &probes()).unwrap();
}
