//! Ten thousand identities and a thousand policies: what a change touches. Times are printed.

use std::time::Instant;

use datapath_policy::{Change, Compiler, Endpoint, Labels, NamedPort, Node, Options, parse};

const PODS: usize = 10_000;
const POLICIES: usize = 1_000;
const NAMESPACES: usize = 200;

/// One pod of its own identity. Every 40th is on this node.
fn pod(n: usize, version: &str) -> (String, Endpoint) {
    let namespace = format!("ns{}", n % NAMESPACES);
    let labels: Labels = [
        ("app".to_owned(), format!("app{}", n / NAMESPACES)),
        ("version".to_owned(), version.to_owned()),
    ]
    .into();
    let address = format!("10.{}.{}.{}", n >> 16, n >> 8 & 255, n & 255);
    let endpoint = Endpoint {
        namespace: namespace.clone(),
        labels,
        addresses: [address.parse().unwrap()].into(),
        ports: vec![NamedPort { name: "web".to_owned(), protocol: 6, port: 8080 }],
        interface: n.is_multiple_of(40).then_some(n as u32 + 1),
        ..Endpoint::default()
    };
    (format!("{namespace}/p{n}"), endpoint)
}

/// Each for one application of one namespace, from another application, a namespace, and a block.
fn policy(n: usize, port: u16) -> String {
    let (namespace, app) = (n % NAMESPACES, n / NAMESPACES * 10);
    format!(
        "apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{name: p{n}, namespace: ns{namespace}}}
spec:
  podSelector: {{matchLabels: {{app: app{app}}}}}
  policyTypes: [Ingress, Egress]
  ingress:
  - from:
    - podSelector: {{matchLabels: {{app: app{}}}}}
    - namespaceSelector: {{matchLabels: {{team: t{}}}}}
      podSelector: {{matchLabels: {{app: app{}}}}}
    ports: [{{port: {port}}}, {{port: web}}]
  egress:
  - to: [{{ipBlock: {{cidr: 172.{}.0.0/16}}}}]
  - ports: [{{port: 53, protocol: UDP}}]
",
        app + 1,
        n % 10,
        app + 2,
        n % 250,
    )
}

fn compiler(local: usize) -> Compiler {
    let mut compiler = Compiler::new(Options::default());
    for n in 0..NAMESPACES {
        let labels = [("team".to_owned(), format!("t{}", n % 10))].into();
        compiler.put_namespace(&format!("ns{n}"), labels);
    }
    let node =
        Node { addresses: ["192.168.0.1".parse().unwrap()].into(), this: true, ..Node::default() };
    compiler.put_node("here", node);
    for n in 0..PODS {
        let (id, mut endpoint) = pod(n, "1");
        endpoint.interface = (n % (PODS / local) == 0).then_some(n as u32 + 1);
        compiler.put_endpoint(&id, endpoint);
    }
    for n in 0..POLICIES {
        compiler.put_policy(parse(&policy(n, 80)).unwrap());
    }
    compiler
}

fn count(changes: &[Change], kind: impl Fn(&Change) -> bool) -> usize {
    changes.iter().filter(|change| kind(change)).count()
}

#[test]
fn a_change_touches_its_own_entries() {
    let mut compiler = compiler(250);
    let start = Instant::now();
    let commit = compiler.commit();
    println!(
        "first commit: {:?}, {} writes, {:?}",
        start.elapsed(),
        commit.changes.len(),
        compiler.sizes()
    );
    assert!(compiler.problems().is_empty());

    // A remote pod gets another label that no policy asks for.
    let (id, endpoint) = pod(4321, "2");
    compiler.put_endpoint(&id, endpoint);
    let start = Instant::now();
    let commit = compiler.commit();
    println!("a pod's label: {:?}, {} writes", start.elapsed(), commit.changes.len());
    assert!(commit.changes.len() <= 2 && !commit.moved, "{:?}", commit.changes);

    // A new remote pod of a known kind.
    let (_, mut endpoint) = pod(4321, "1");
    endpoint.addresses = ["10.200.0.1".parse().unwrap()].into();
    compiler.put_endpoint("more", endpoint);
    let start = Instant::now();
    let commit = compiler.commit();
    println!("a pod: {:?}, {} writes", start.elapsed(), commit.changes.len());
    assert!(commit.changes.len() <= 4, "{:?}", commit.changes);

    compiler.remove_endpoint("more");
    let start = Instant::now();
    let commit = compiler.commit();
    println!("a pod gone: {:?}, {} writes", start.elapsed(), commit.changes.len());
    assert!(commit.changes.len() <= 4, "{:?}", commit.changes);

    // A policy that selects one local endpoint gets another port.
    compiler.put_policy(parse(&policy(0, 81)).unwrap());
    let start = Instant::now();
    let commit = compiler.commit();
    println!("a policy's port: {:?}, {} writes", start.elapsed(), commit.changes.len());
    let policies = count(&commit.changes, |change| matches!(change, Change::Policy { .. }));
    let peers = count(&commit.changes, |change| {
        matches!(change, Change::Host { .. } | Change::Cidr { .. } | Change::Class { .. })
    });
    let bits = count(&commit.changes, |change| matches!(change, Change::Bits { .. }));
    assert_eq!((policies, peers, bits), (1, 0, 0), "{:?}", commit.changes);
    assert!(commit.changes.len() < 30);

    // A policy is new: its peers, its subjects, nothing else.
    let text = policy(0, 90).replace("name: p0", "name: new").replace("app: app1}", "app: app7}");
    compiler.put_policy(parse(&text).unwrap());
    let start = Instant::now();
    let commit = compiler.commit();
    println!("a policy: {:?}, {} writes", start.elapsed(), commit.changes.len());
    let peers = count(&commit.changes, |change| matches!(change, Change::Host { .. }));
    let subjects = count(&commit.changes, |change| matches!(change, Change::Subject { .. }));
    assert!(peers <= 30 && subjects <= 1, "{peers} {subjects}");
    assert!(commit.changes.len() < 100, "{}", commit.changes.len());

    // Nothing happened.
    assert!(compiler.commit().changes.is_empty());
}

#[test]
fn every_endpoint_is_local() {
    let mut compiler = compiler(PODS);
    let start = Instant::now();
    let commit = compiler.commit();
    println!(
        "all local: {:?}, {} writes, {:?}",
        start.elapsed(),
        commit.changes.len(),
        compiler.sizes()
    );
    let start = Instant::now();
    for n in 0..20 {
        compiler.put_policy(parse(&policy(n, 82)).unwrap());
        compiler.commit();
    }
    println!("20 policies one by one: {:?}", start.elapsed());
    let start = Instant::now();
    for n in 0..20 {
        let (id, mut endpoint) = pod(n * 7, "3");
        endpoint.interface = Some((n * 7) as u32 + 1);
        compiler.put_endpoint(&id, endpoint);
        compiler.commit();
    }
    println!("20 pods one by one: {:?}", start.elapsed());
}
