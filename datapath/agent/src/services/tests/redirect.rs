//! CiliumLocalRedirectPolicy.

use datapath_policy::{NamedPort, Selector};

use super::*;
use crate::control::{LocalRedirect, RedirectFrontend};
use crate::services::redirect::KIND;

fn port(name: &str, protocol: u8, port: u16) -> NamedPort {
    NamedPort { name: name.to_owned(), protocol, port }
}

fn policy(frontend: RedirectFrontend, ports: Vec<NamedPort>) -> LocalRedirect {
    let match_labels = BTreeMap::from([("app".to_owned(), "cache".to_owned())]);
    LocalRedirect {
        namespace: "shop".to_owned(),
        name: "near".to_owned(),
        frontend,
        selector: Selector { match_labels, ..Selector::default() },
        ports,
        skip_from_backend: false,
    }
}

fn pod(name: &str, address: &str, node: &str) -> Pod {
    Pod {
        namespace: "shop".to_owned(),
        name: name.to_owned(),
        labels: BTreeMap::from([("app".to_owned(), "cache".to_owned())]),
        ips: vec![ip(address)],
        node: node.to_owned(),
        ready: true,
        ..Pod::default()
    }
}

/// Two pods here, one elsewhere, and those that are not meant.
fn pods() -> Vec<Pod> {
    let mut others = pod("d", "10.2.0.4", "n1");
    others.namespace = "other".to_owned();
    let mut unlike = pod("e", "10.2.0.5", "n1");
    unlike.labels.clear();
    let unready = Pod { ready: false, ..pod("f", "10.2.0.6", "n1") };
    let hosts = Pod { host_network: true, ..pod("g", "192.168.0.1", "n1") };
    let here = [pod("a", "10.2.0.1", "n1"), pod("b", "10.2.0.2", "n1"), pod("c", "10.2.0.3", "n2")];
    here.into_iter().chain([others, unlike, unready, hosts]).collect()
}

fn address(ports: Vec<NamedPort>) -> RedirectFrontend {
    RedirectFrontend::Address { ip: ip("169.254.20.10"), ports }
}

fn web(ports: Vec<NamedPort>) -> RedirectFrontend {
    RedirectFrontend::Service { name: "web".to_owned(), ports }
}

/// A service with backends on both nodes, and the policy.
fn both(redirect: LocalRedirect) -> Snapshot {
    let endpoints = vec![endpoint("10.1.0.1", "n1"), endpoint("10.1.0.2", "n2")];
    Snapshot { pods: pods(), redirects: vec![redirect], ..cluster(service("ClusterIP"), endpoints) }
}

#[test]
fn an_address_leads_to_ready_pods_of_this_node() {
    let redirect = policy(address(vec![port("", 17, 53)]), vec![port("", 17, 1053)]);
    let mut snapshot = Snapshot { pods: pods(), redirects: vec![redirect], ..Snapshot::default() };
    let udp = FrontendKey { protocol: 17, ..key("169.254.20.10", 53) };
    let made = one(&snapshot);
    let places = vec![(ip("10.2.0.1"), 1053), (ip("10.2.0.2"), 1053)];
    assert_eq!(made.kind, KIND);
    assert_eq!(made.frontends[&udp].flags, CLUSTER_ONLY);
    assert_eq!(made.frontends[&udp].candidates, [places.clone(), places]);
    assert!(made.backends.values().all(|flags| *flags == ALIVE | CHOSEN | LOCAL));
    assert_eq!(made.backends.len(), 2);

    // Without one it is nobody's address: packets go on to it.
    snapshot.pods.retain(|pod| pod.node == "n2");
    let made = one(&snapshot);
    assert!(made.frontends.is_empty() && made.backends.is_empty());
    // And of another family nobody is there.
    let of_v6 = RedirectFrontend::Address { ip: ip("fd00::53"), ports: vec![port("", 17, 53)] };
    snapshot = Snapshot { pods: pods(), ..snapshot };
    snapshot.redirects[0].frontend = of_v6;
    assert!(one(&snapshot).frontends.is_empty());
}

#[test]
fn a_service_leads_to_pods_of_this_node_while_there_are_any() {
    let redirect = policy(web(Vec::new()), vec![port("", 6, 9000)]);
    let mut snapshot = both(redirect);
    let made = one(&snapshot);
    assert_eq!(made.kind, KIND);
    assert_eq!(at(&made, "10.96.0.1", 80), (CLUSTER_ONLY, [vec![1, 2], vec![1, 2]]));
    assert_eq!(made.backends[&(ip("10.2.0.1"), 9000)], ALIVE | CHOSEN | LOCAL);
    assert_eq!(made.backends[&(ip("10.1.0.2"), 8080)], ALIVE, "what it has goes on");
    // Whatever the service itself says of nodes.
    snapshot.services[0].internal_local = true;
    snapshot.slices[0].endpoints.remove(0);
    assert_eq!(at(&one(&snapshot), "10.96.0.1", 80).0, CLUSTER_ONLY);

    snapshot.pods.iter_mut().for_each(|pod| pod.ready = false);
    let without = Snapshot { redirects: Vec::new(), ..snapshot.clone() };
    assert_eq!(one(&snapshot), one(&without), "as if there were no policy");
}

#[test]
fn ports_are_found_by_name() {
    let of = |frontend, ports| {
        let mut snapshot = both(policy(frontend, ports));
        let https = ServicePort {
            name: "https".to_owned(),
            port: 443,
            ..snapshot.services[0].ports[0].clone()
        };
        snapshot.services[0].ports.push(https);
        let (made, problems) = desired(&snapshot, &here());
        let number = |frontend: u16| {
            let key = key("10.96.0.1", frontend);
            let port = made.values().find(|port| port.frontends.contains_key(&key))?;
            port.backends.keys().find(|at| at.0 == ip("10.2.0.1")).map(|at| at.1)
        };
        (number(80), number(443), problems)
    };
    let named = vec![port("http", 6, 8000), port("https", 6, 8443)];
    assert_eq!(of(web(Vec::new()), named.clone()), (Some(8000), Some(8443), Vec::new()));
    // Only the one that is asked for, whatever it is called.
    let only = web(vec![port("", 6, 80)]);
    assert_eq!(of(only, vec![port("", 6, 9000)]), (Some(9000), None, Vec::new()));
    // The policy's own names count.
    let own = web(vec![port("https", 6, 80), port("http", 6, 443)]);
    assert_eq!(of(own, named), (Some(8443), Some(8000), Vec::new()));
    let (http, https, problems) = of(web(Vec::new()), vec![port("x", 6, 9000)]);
    assert_eq!((http, https), (None, None));
    assert!(problems[0].contains("no port of shop/web is named"), "{problems:?}");
}

#[test]
fn what_cannot_be_redirected_is_said_and_left_alone() {
    let to = || vec![port("", 6, 9000)];
    let at_port = |number| vec![port("", 6, number)];
    let of = |frontend: RedirectFrontend, change: fn(&mut Snapshot)| {
        let mut snapshot = both(policy(frontend, to()));
        change(&mut snapshot);
        let (made, problems) = desired(&snapshot, &here());
        snapshot.redirects.truncate(0);
        assert_eq!(made, desired(&snapshot, &here()).0, "{problems:?}");
        let [problem] = problems.as_slice() else { panic!("{problems:?}") };
        assert!(problem.starts_with("CiliumLocalRedirectPolicy shop/near: "), "{problem}");
        problem.clone()
    };
    let nothing = |_: &mut Snapshot| {};
    let cluster_ip =
        |number| RedirectFrontend::Address { ip: ip("10.96.0.1"), ports: at_port(number) };
    assert!(of(cluster_ip(80), nothing).contains("served for shop/web:http/TCP already"));
    let own = RedirectFrontend::Address { ip: ip("192.168.0.1"), ports: at_port(80) };
    assert!(of(own, nothing).contains("own address"));
    assert!(of(web(at_port(81)), nothing).contains("no TCP port 81"));
    let kind = |snapshot: &mut Snapshot| snapshot.services[0].kind = "NodePort".to_owned();
    assert!(of(web(Vec::new()), kind).contains("no ClusterIP"));
    let headless = |snapshot: &mut Snapshot| snapshot.services[0].cluster_ips.clear();
    assert!(of(web(Vec::new()), headless).contains("no cluster address"));
    let gone = |snapshot: &mut Snapshot| snapshot.services.clear();
    assert!(of(web(Vec::new()), gone).contains("no service web"));
    let skip = |snapshot: &mut Snapshot| snapshot.redirects[0].skip_from_backend = true;
    assert!(of(web(Vec::new()), skip).contains("skipRedirectFromBackend"));

    // Of two policies for the same, the first has it.
    for frontend in [web(Vec::new()), address(at_port(53))] {
        let mut snapshot = both(policy(frontend, to()));
        let first = desired(&snapshot, &here()).0;
        let mut second = snapshot.redirects[0].clone();
        (second.name, second.ports) = ("far".to_owned(), vec![port("", 6, 1)]);
        snapshot.redirects.push(second);
        let (made, problems) = desired(&snapshot, &here());
        assert_eq!(made, first);
        assert!(problems[0].starts_with("CiliumLocalRedirectPolicy shop/far: "), "{problems:?}");
    }
}

#[test]
fn a_policy_that_is_defined_twice_counts_once() {
    let first = policy(address(vec![port("", 6, 53)]), vec![port("", 6, 1053)]);
    let other = RedirectFrontend::Address { ip: ip("169.254.20.11"), ports: vec![port("", 6, 53)] };
    let second = policy(other, vec![port("", 6, 1054)]);
    let redirects = vec![first.clone(), second];
    let snapshot = Snapshot { pods: pods(), redirects, ..Snapshot::default() };
    let alone = Snapshot { redirects: vec![first], ..snapshot.clone() };
    let (made, problems) = desired(&snapshot, &here());
    assert_eq!(made, desired(&alone, &here()).0);
    assert!(problems[0].contains("more than once"), "{problems:?}");
}

#[test]
fn pods_that_come_and_go_change_backends_only() {
    let mut snapshot = both(policy(web(Vec::new()), vec![port("", 6, 9000)]));
    let mut book = Book::new(SIZES);
    let mut kernel = Kernel::new();
    let number = |book: &Book| book.ports().values().map(|entry| entry.number).collect::<Vec<_>>();
    let mut step = |snapshot: &Snapshot| {
        let changes = book.change(&desired(snapshot, &here()).0, HASHING).unwrap();
        kernel.apply(&changes);
        (changes.new_frontends, number(&book))
    };
    assert_eq!(step(&snapshot), (true, vec![1]));
    snapshot.pods.iter_mut().for_each(|pod| pod.ready = false);
    assert_eq!(step(&snapshot), (false, vec![1]));
    snapshot.pods = pods();
    assert_eq!(step(&snapshot), (false, vec![1]));
}
