//! Documents, separated by `---`, in a small fixed cluster: the tables judge as the specification does.
#![no_main]

use datapath_abi::policy::{ALLOW, AUDIT, EGRESS, INGRESS};
use datapath_policy::naive::{Attempt, Verdict, Who, judge};
use datapath_policy::{Compiler, Endpoint, MemoryTables, NamedPort, Node, Options, parse};
use libfuzzer_sys::fuzz_target;

fn compiler() -> Compiler {
    let mut compiler = Compiler::new(Options::default());
    for n in 1..=4u32 {
        let name = ["a", "b"][n as usize % 2];
        compiler.put_endpoint(
            &n.to_string(),
            Endpoint {
                namespace: ["default", "x"][n as usize / 3].to_owned(),
                labels: [("app".to_owned(), name.to_owned())].into(),
                addresses: [format!("10.0.0.{n}").parse().expect("an address")].into(),
                ports: vec![NamedPort { name: "web".to_owned(), protocol: 6, port: 80 }],
                interface: Some(n),
                ..Endpoint::default()
            },
        );
    }
    let node = Node {
        addresses: ["192.168.0.1".parse().expect("an address")].into(),
        this: true,
        interfaces: [9].into(),
        ..Node::default()
    };
    compiler.put_node("here", node);
    compiler
}

fn check(compiler: &Compiler, kernel: &MemoryTables) {
    let cluster = compiler.cluster();
    for (id, endpoint) in &cluster.endpoints {
        for peer in ["10.0.0.1", "10.0.0.4", "192.168.0.1", "8.8.8.8", "fd00::1"] {
            for (protocol, port) in [(6, 80), (6, 443), (17, 53), (1, 8), (47, 0)] {
                for direction in [INGRESS, EGRESS] {
                    let peer = peer.parse().expect("an address");
                    let attempt = Attempt { direction, peer, protocol, port };
                    let (verdict, _) = judge(cluster, Who::Endpoint(id), &attempt).expect("known");
                    let interface = endpoint.interface.expect("local");
                    let judged = kernel.judge(interface, direction, peer, protocol, port);
                    let judged = judged.expect("enforced").verdict;
                    let same = match verdict {
                        Verdict::Allow => judged == ALLOW,
                        Verdict::Audit => judged == AUDIT,
                        Verdict::Deny => judged != ALLOW && judged != AUDIT,
                    };
                    assert!(same, "{id} {attempt:?} {verdict:?} {judged}");
                }
            }
        }
    }
}

fuzz_target!(|text: &str| {
    let mut compiler = compiler();
    let mut kernel = MemoryTables::default();
    for document in text.split("\n---\n").take(8) {
        if let Ok(policy) = parse(document) {
            compiler.put_policy(policy);
            kernel.apply(&compiler.commit().changes);
            if compiler.problems().is_empty() {
                check(&compiler, &kernel);
            }
        }
    }
});
