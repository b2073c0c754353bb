//! What is forwarded directly, and what it is named.

use datapath_abi::service::DSR;

use super::*;

/// Two nodes, and an endpoint on each.
fn nodes(service: Service) -> Snapshot {
    let node = |name: &str, address: &str| Node {
        name: name.to_owned(),
        addresses: vec![ip(address)],
        ..Node::default()
    };
    let endpoints = vec![endpoint("10.1.0.1", "n1"), endpoint("10.1.0.2", "n2")];
    let nodes = vec![node("n1", "192.168.0.1"), node("n2", "192.168.0.2")];
    Snapshot { nodes, ..cluster(service, endpoints) }
}

fn balancer() -> Service {
    Service { balancer_ips: vec![ip("203.0.113.9")], ..service("LoadBalancer") }
}

/// Whether the port's frontends are forwarded directly: cluster IP, load balancer's, node port.
fn direct(snapshot: &Snapshot, forwarding: Forwarding) -> [bool; 3] {
    let (ports, _) = desired(snapshot, &Here { forwarding, ..here() });
    let port = ports.values().next().unwrap();
    [("10.96.0.1", 80), ("203.0.113.9", 80), ("192.168.0.1", 30080)].map(|(address, number)| {
        let protocol = snapshot.services[0].ports[0].protocol;
        port.frontends[&FrontendKey { protocol, ..key(address, number) }].flags & DSR != 0
    })
}

#[test]
fn what_comes_from_outside_is_forwarded_as_was_asked() {
    let (none, outside) = ([false; 3], [false, true, true]);
    assert_eq!(direct(&nodes(balancer()), Forwarding::Snat), none);
    assert_eq!(direct(&nodes(balancer()), Forwarding::Dsr), outside);
    assert_eq!(direct(&nodes(balancer()), Forwarding::Hybrid), outside);
    let says = |forwarding| Service { forwarding: Some(forwarding), ..balancer() };
    assert_eq!(direct(&nodes(says(Forwarding::Dsr)), Forwarding::Snat), outside);
    assert_eq!(direct(&nodes(says(Forwarding::Snat)), Forwarding::Dsr), none);
    let mut datagrams = nodes(balancer());
    datagrams.services[0].ports[0].protocol = 17;
    datagrams.slices[0].ports[0].protocol = 17;
    assert_eq!(direct(&datagrams, Forwarding::Hybrid), none);
    assert_eq!(direct(&datagrams, Forwarding::Dsr), outside);
}

#[test]
fn what_cannot_be_forwarded_says_why() {
    let why = |snapshot: &Snapshot, here: Here| {
        let (ports, problems) = desired(snapshot, &Here { forwarding: Forwarding::Dsr, ..here });
        let port = ports.values().next().unwrap();
        assert!(port.frontends.values().all(|frontend| frontend.flags & DSR == 0));
        assert_eq!((port.obstacles.len(), problems.len()), (1, 1), "{problems:?}");
        assert!(problems[0].starts_with("shop/web:http/TCP: "), "{problems:?}");
        problems[0].clone()
    };
    let unknown = Snapshot { nodes: Vec::new(), ..nodes(balancer()) };
    assert!(why(&unknown, here()).contains("no IPv4 address of this host is one of Node n1"));
    let v6 = Here { addresses: vec![ip("fd99::1")], ..here() };
    assert!(why(&nodes(balancer()), v6).contains("this host has no IPv4 address"));
    let mut twice = nodes(balancer());
    let ports = vec![SlicePort { name: "http".to_owned(), protocol: 6, port: 8081 }];
    let again = slice(vec![endpoint("10.1.0.2", "n2")]);
    twice.slices.push(EndpointSlice { ports, ..again });
    assert!(why(&twice, here()).contains("two of its endpoints have the address 10.1.0.2"));
    // Nothing of it comes from outside: nothing is missed.
    let inside = Snapshot { nodes: Vec::new(), ..nodes(service("ClusterIP")) };
    let (_, problems) = desired(&inside, &Here { forwarding: Forwarding::Dsr, ..here() });
    assert!(problems.is_empty(), "{problems:?}");
}

#[test]
fn backends_of_this_node_have_names_for_others() {
    let names = |snapshot: &Snapshot| {
        let wanted = desired(snapshot, &here()).0;
        let mut book = Book::new(SIZES);
        let changes = book.change(&wanted, HASHING).unwrap();
        let index = changes.backends.iter().find(|(_, backend)| backend.flags & LOCAL != 0);
        let index = index.map(|(index, _)| *index);
        assert!(changes.locals.iter().all(|(_, named)| Some(*named) == index));
        let again = book.change(&BTreeMap::new(), HASHING).unwrap();
        assert_eq!(again.gone_locals.len(), changes.locals.len());
        let names = changes.locals.iter();
        names.map(|(key, _)| (key.address, key.service, key.port, key.protocol)).collect::<Vec<_>>()
    };
    let pod = octets(ip("10.1.0.1"));
    // Whether they forward is for them to say: here it is not asked for.
    assert_eq!(names(&nodes(balancer())), [(pod, 0, 30080, 6), (pod, 1, 0, 0)]);
    assert_eq!(names(&nodes(service("NodePort"))), [(pod, 0, 30080, 6), (pod, 1, 0, 0)]);
    let external = Service { external_ips: vec![ip("203.0.113.5")], ..service("ClusterIP") };
    assert_eq!(names(&nodes(external)), [(pod, 1, 0, 0)]);
    assert!(names(&nodes(service("ClusterIP"))).is_empty());
}
