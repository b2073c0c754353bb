//! The explainer: it says what the tables say, and what it proposes works.

use datapath_policy::explain::{Explanation, Outcome, Question, Side};
use datapath_policy::naive::{Attempt, Verdict, Who, judge};
use datapath_policy::{Compiler, Endpoint, OriginKind, parse};

use super::case::{Op, Run};
use super::generate::{Dice, change, cluster, probes};

/// The whole path by the specification, for ends that are on this node.
fn outcome(compiler: &Compiler, question: &Question) -> Outcome {
    let cluster = compiler.cluster();
    let end = |address| {
        if let Some((_, node)) = cluster.nodes.iter().find(|(_, n)| n.addresses.contains(&address))
        {
            return (node.this && !node.interfaces.is_empty()).then_some(Who::Host);
        }
        let (id, endpoint) =
            cluster.endpoints.iter().find(|(_, e)| e.addresses.contains(&address))?;
        endpoint.interface.map(|_| Who::Endpoint(id.as_str()))
    };
    let mut verdicts = Vec::new();
    for (own, peer, direction) in [
        (question.source, question.destination, datapath_abi::policy::EGRESS),
        (question.destination, question.source, datapath_abi::policy::INGRESS),
    ] {
        let Question { protocol, port, .. } = *question;
        let attempt = Attempt { direction, peer, protocol, port };
        verdicts.extend(end(own).and_then(|who| judge(cluster, who, &attempt)).map(|(v, _)| v));
    }
    if verdicts.contains(&Verdict::Deny) {
        Outcome::Denied
    } else if verdicts.contains(&Verdict::Audit) {
        Outcome::Audited
    } else {
        Outcome::Allowed
    }
}

#[test]
fn what_it_says_is_so_and_what_it_proposes_works() {
    let probes = probes();
    let (mut denied, mut mended, mut allowed, mut broken) = (0, 0, 0, 0);
    for seed in 0..150 {
        let mut dice = Dice::new(seed);
        let mut run = Run::of(&cluster(&mut dice));
        run.step(&change(&mut dice));
        run.step(&Op::Commit);
        for _ in 0..12 {
            let question = Question {
                source: probes.peers[dice.roll(probes.peers.len())],
                destination: probes.peers[dice.roll(9)],
                protocol: [6, 6, 17, 1][dice.roll(4)],
                port: [80, 53, 8][dice.roll(3)],
            };
            let explanation = run.compiler.explain(&question);
            assert_eq!(explanation.outcome, outcome(&run.compiler, &question), "seed {seed}");
            let judged = explanation.egress.is_some() || explanation.ingress.is_some();
            let bad = explanation.outcome == Outcome::Denied;
            denied += usize::from(bad);
            allowed += usize::from(judged && explanation.outcome == Outcome::Allowed);
            // Endpoints without labels need labels, not policies.
            let Some(change) = &explanation.change else { continue };
            mended += usize::from(bad);
            broken += usize::from(explanation.outcome == Outcome::Allowed);
            assert_ne!(change.outcome, explanation.outcome);
            assert!(!change.steps.is_empty());
            serde_json::to_string(&explanation).unwrap();
        }
    }
    println!(
        "denied {denied}, of which mended {mended}; allowed {allowed}, of which broken {broken}"
    );
    assert!(mended * 10 > denied * 8, "{mended} of {denied}");
    assert!(broken * 10 > allowed * 5, "{broken} of {allowed}");
}

const POLICY: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: db, namespace: shop}
spec:
  podSelector: {matchLabels: {app: db}}
  ingress:
  # The interface.
  - from:
    - podSelector: {matchLabels: {app: api, tier: front}}
    ports: [{port: 5432}]
  - from:
    - podSelector: {matchLabels: {app: backup}}
";

fn pod(app: &str, n: u32) -> Endpoint {
    Endpoint {
        namespace: "shop".to_owned(),
        labels: [("app".to_owned(), app.to_owned()), ("tier".to_owned(), "back".to_owned())].into(),
        addresses: [format!("10.0.0.{n}").parse().unwrap()].into(),
        interface: Some(n),
        ..Endpoint::default()
    }
}

fn ask(compiler: &Compiler, from: u32, port: u16) -> Explanation {
    compiler.explain(&Question {
        source: format!("10.0.0.{from}").parse().unwrap(),
        destination: "10.0.0.1".parse().unwrap(),
        protocol: 6,
        port,
    })
}

#[test]
fn a_near_miss_is_named_with_its_lines() {
    let mut compiler = Compiler::new(datapath_policy::Options::default());
    for (app, n) in [("db", 1), ("api", 2), ("backup", 3)] {
        compiler.put_endpoint(&format!("shop/{app}"), pod(app, n));
    }
    compiler.put_policy(parse(POLICY).unwrap());
    compiler.commit();

    let denied = ask(&compiler, 2, 5432);
    assert_eq!((denied.outcome, denied.decided), (Outcome::Denied, Some(Side::Ingress)));
    let ingress = denied.ingress.as_ref().unwrap();
    let origin = ingress.origin.as_ref().unwrap();
    assert_eq!((origin.kind, origin.name.as_str()), (OriginKind::DefaultDeny, "shop/db"));
    assert_eq!(ingress.misses[0].failed, ["label tier: wants front, is back"]);
    assert_eq!(ingress.misses[0].rule.lines, Some((8, 10)));
    assert_eq!(ingress.misses[0].rule.path, "spec.ingress[0]");
    let change = denied.change.unwrap();
    assert_eq!((change.outcome, change.steps.len()), (Outcome::Allowed, 1));
    assert!(change.steps[0].contains("app: api") && change.steps[0].contains("port: 5432"));

    let allowed = ask(&compiler, 3, 80);
    let rule = allowed.ingress.as_ref().unwrap().rule.as_ref().unwrap();
    assert_eq!((rule.lines, rule.path.as_str()), (Some((11, 12)), "spec.ingress[1]"));
    assert!(rule.text.starts_with("  - from:"));
    assert_eq!(allowed.ingress.as_ref().unwrap().matched, ["namespace shop", "label app=backup"]);
    assert_eq!(allowed.change.unwrap().steps, ["remove spec.ingress[1] of NetworkPolicy shop/db"]);
    assert_eq!(allowed.egress.unwrap().origin, None);
}
