//! Rules of services, and laws of their numbers.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use datapath_abi::service::{
    ALIVE, Backend, CHOSEN, CLUSTER_ONLY, Frontend, FrontendKey, HASHED, LOCAL, LocalKey, RANGED,
    SILENT, Slots, SourceRange,
};
use datapath_loader::{ServiceSizes, ServiceSnapshot};
use datapath_policy::octets;

use super::book::{Book, Changes, Hashing, NO_BACKEND};
use super::desired::{Here, Port, PortId, desired};
use super::{Latest, Roles};
use crate::control::{
    Algorithm, Endpoint, EndpointSlice, Forwarding, HostPort, Node, Pod, Service, ServicePort,
    SlicePort, Snapshot, Spread, Target,
};

mod forwarding;

const HASHING: Hashing = Hashing { size: 251, seed: 1 };
const SIZES: ServiceSizes = ServiceSizes {
    frontends: 64,
    slots: 4096,
    backends: 64,
    source_ranges: 16,
    clients: 1,
    interfaces: 1,
    locals: 64,
    prefixes: 1,
    translations: 1,
};

mod redirect;
mod weight;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn here() -> Here {
    Here {
        node: "n1".to_owned(),
        addresses: vec![ip("192.168.0.1"), ip("fd99::1")],
        pods: BTreeSet::new(),
        algorithm: Algorithm::Random,
        forwarding: Forwarding::Snat,
    }
}

fn service(kind: &str) -> Service {
    Service {
        namespace: "shop".to_owned(),
        name: "web".to_owned(),
        kind: kind.to_owned(),
        cluster_ips: vec![ip("10.96.0.1")],
        ports: vec![ServicePort {
            name: "http".to_owned(),
            protocol: 6,
            port: 80,
            node_port: 30080,
            target: Target::Same,
        }],
        ..Service::default()
    }
}

fn endpoint(address: &str, node: &str) -> Endpoint {
    Endpoint { addresses: vec![ip(address)], node: node.to_owned(), ..Endpoint::default() }
}

fn slice(endpoints: Vec<Endpoint>) -> EndpointSlice {
    EndpointSlice {
        namespace: "shop".to_owned(),
        service: "web".to_owned(),
        endpoints,
        ports: vec![SlicePort { name: "http".to_owned(), protocol: 6, port: 8080 }],
    }
}

fn cluster(service: Service, endpoints: Vec<Endpoint>) -> Snapshot {
    Snapshot { services: vec![service], slices: vec![slice(endpoints)], ..Snapshot::default() }
}

fn key(address: &str, port: u16) -> FrontendKey {
    FrontendKey { address: octets(ip(address)), port, protocol: 6, pad: 0, pad2: 0 }
}

/// The only port of a snapshot.
fn one(snapshot: &Snapshot) -> Port {
    let (ports, problems) = desired(snapshot, &here());
    assert!(problems.is_empty(), "{problems:?}");
    assert_eq!(ports.len(), 1, "{ports:#?}");
    ports.into_values().next().unwrap()
}

/// Flags and candidates' last bytes of a frontend, for clients inside and outside.
fn at(port: &Port, address: &str, number: u16) -> (u32, [Vec<u8>; 2]) {
    let frontend = &port.frontends[&key(address, number)];
    let last =
        |list: &Vec<(IpAddr, u16)>| list.iter().map(|(ip, _)| octets(*ip)[15]).collect::<Vec<_>>();
    (frontend.flags, [last(&frontend.candidates[0]), last(&frontend.candidates[1])])
}

#[test]
fn each_type_has_its_addresses() {
    let both = || vec![endpoint("10.1.0.1", "n1"), endpoint("10.1.0.2", "n2")];
    let port = one(&cluster(service("ClusterIP"), both()));
    // And one for all that is not served at its address.
    let others = FrontendKey { port: 0, protocol: 0, ..key("10.96.0.1", 0) };
    assert_eq!(port.frontends.len(), 2);
    assert_eq!(port.frontends[&others].flags, CLUSTER_ONLY);
    assert_eq!(at(&port, "10.96.0.1", 80), (CLUSTER_ONLY, [vec![1, 2], vec![1, 2]]));
    assert_eq!(port.backends[&(ip("10.1.0.1"), 8080)], ALIVE | CHOSEN | LOCAL);
    assert_eq!(port.backends[&(ip("10.1.0.2"), 8080)], ALIVE | CHOSEN);

    let balanced = Service {
        external_ips: vec![ip("203.0.113.5")],
        balancer_ips: vec![ip("203.0.113.9")],
        source_ranges: vec!["192.0.2.0/24".parse().unwrap()],
        ..service("LoadBalancer")
    };
    let port = one(&cluster(balanced, both()));
    assert_eq!(at(&port, "203.0.113.5", 80).0, 0);
    assert_eq!(at(&port, "203.0.113.9", 80).0, RANGED);
    assert_eq!(at(&port, "192.168.0.1", 30080), (0, [vec![1, 2], vec![1, 2]]));
    // The node's IPv6 address has no IPv6 endpoint to lead to.
    assert_eq!(at(&port, "fd99::1", 30080), (0, [vec![], vec![]]));
    assert_eq!(port.frontends.len(), 6);
}

#[test]
fn families_are_kept_apart() {
    let dual =
        Service { cluster_ips: vec![ip("10.96.0.1"), ip("fd96::1")], ..service("ClusterIP") };
    let port = one(&cluster(dual, vec![endpoint("10.1.0.1", "n1"), endpoint("fd44::7", "n1")]));
    assert_eq!(at(&port, "10.96.0.1", 80).1[0], [1]);
    assert_eq!(at(&port, "fd96::1", 80).1[0], [7]);
}

#[test]
fn headless_foreign_and_unnamed_ports_are_left_alone() {
    let none = |service| desired(&cluster(service, vec![endpoint("10.1.0.1", "n1")]), &here()).0;
    assert!(none(Service { cluster_ips: Vec::new(), ..service("ClusterIP") }).is_empty());
    assert!(none(Service { foreign: true, ..service("ClusterIP") }).is_empty());
    // A port of another name finds no endpoint.
    let mut other = service("ClusterIP");
    other.ports[0].name = "admin".to_owned();
    let port = one(&cluster(other, vec![endpoint("10.1.0.1", "n1")]));
    assert!(at(&port, "10.96.0.1", 80).1[0].is_empty());
}

#[test]
fn terminating_endpoints_serve_when_nobody_else_does() {
    let terminating = |address, serving| Endpoint {
        ready: false,
        serving,
        terminating: true,
        ..endpoint(address, "n2")
    };
    let both = vec![endpoint("10.1.0.1", "n1"), terminating("10.1.0.2", true)];
    let port = one(&cluster(service("ClusterIP"), both));
    assert_eq!(at(&port, "10.96.0.1", 80).1[0], [1]);
    assert_eq!(port.backends[&(ip("10.1.0.2"), 8080)], ALIVE, "what it has goes on");
    let only = vec![terminating("10.1.0.2", true), terminating("10.1.0.3", false)];
    let port = one(&cluster(service("ClusterIP"), only));
    assert_eq!(at(&port, "10.96.0.1", 80).1[0], [2]);
    let unready = Endpoint { ready: false, serving: false, ..endpoint("10.1.0.4", "n1") };
    let port = one(&cluster(service("ClusterIP"), vec![unready]));
    assert_eq!(at(&port, "10.96.0.1", 80), (CLUSTER_ONLY, [vec![], vec![]]));
}

#[test]
fn traffic_policies() {
    let two = || vec![endpoint("10.1.0.1", "n1"), endpoint("10.1.0.2", "n2")];
    let local = Service { external_local: true, ..service("NodePort") };
    let port = one(&cluster(local.clone(), two()));
    assert_eq!(at(&port, "192.168.0.1", 30080), (0, [vec![1, 2], vec![1]]));
    assert_eq!(at(&port, "10.96.0.1", 80).1, [vec![1, 2], vec![1, 2]]);
    // None here: clients outside are to try another node, and get no answer.
    let port = one(&cluster(local, vec![endpoint("10.1.0.2", "n2")]));
    assert_eq!(at(&port, "192.168.0.1", 30080), (SILENT << 1, [vec![2], vec![]]));
    let internal = Service { internal_local: true, ..service("ClusterIP") };
    let port = one(&cluster(internal.clone(), two()));
    assert_eq!(at(&port, "10.96.0.1", 80).1[0], [1]);
    let port = one(&cluster(internal, vec![endpoint("10.1.0.2", "n2")]));
    assert_eq!(at(&port, "10.96.0.1", 80).0 & SILENT, SILENT);
}

#[test]
fn topology_hints_are_followed_where_all_have_them() {
    let hinted = |address, zone: &str| Endpoint {
        for_zones: vec![zone.to_owned()],
        ..endpoint(address, "n2")
    };
    let nodes = vec![Node {
        name: "n1".to_owned(),
        labels: BTreeMap::from([("topology.kubernetes.io/zone".to_owned(), "a".to_owned())]),
        ..Node::default()
    }];
    let close = Service { spread: Spread::Hints, ..service("ClusterIP") };
    let of = |service: &Service, endpoints| {
        let snapshot = Snapshot { nodes: nodes.clone(), ..cluster(service.clone(), endpoints) };
        at(&one(&snapshot), "10.96.0.1", 80).1[0].clone()
    };
    let all = || vec![hinted("10.1.0.1", "a"), hinted("10.1.0.2", "b")];
    assert_eq!(of(&close, all()), [1]);
    assert_eq!(of(&service("ClusterIP"), all()), [1, 2], "not asked for");
    let some = vec![hinted("10.1.0.1", "a"), endpoint("10.1.0.2", "n2")];
    assert_eq!(of(&close, some), [1, 2], "one has none");
    assert_eq!(of(&close, vec![hinted("10.1.0.2", "b")]), [2], "none is for here");
    let for_node = Endpoint { for_nodes: vec!["n1".to_owned()], ..endpoint("10.1.0.1", "n1") };
    let for_other = Endpoint { for_nodes: vec!["n2".to_owned()], ..endpoint("10.1.0.2", "n2") };
    assert_eq!(of(&close, vec![for_node, for_other]), [1]);
}

#[test]
fn endpoints_follow_from_pods_where_nobody_lists_them() {
    let pod = |name: &str, address: &str| Pod {
        namespace: "shop".to_owned(),
        name: name.to_owned(),
        labels: BTreeMap::from([("app".to_owned(), "web".to_owned())]),
        ips: vec![ip(address)],
        node: "n1".to_owned(),
        ready: true,
        ports: vec![datapath_policy::NamedPort { name: "web".to_owned(), protocol: 6, port: 9000 }],
        ..Pod::default()
    };
    let mut selecting = service("ClusterIP");
    selecting.selector = Some(BTreeMap::from([("app".to_owned(), "web".to_owned())]));
    selecting.ports[0].target = Target::Name("web".to_owned());
    let unready = Pod { ready: false, ..pod("b", "10.1.0.2") };
    let ended = Pod { ended: true, ..pod("c", "10.1.0.3") };
    let pods = vec![pod("a", "10.1.0.1"), unready, ended];
    let mut snapshot = Snapshot { services: vec![selecting], pods, ..Snapshot::default() };
    let port = one(&snapshot);
    assert_eq!(at(&port, "10.96.0.1", 80).1[0], [1]);
    assert!(port.backends.contains_key(&(ip("10.1.0.1"), 9000)));
    snapshot.services[0].publish_not_ready = true;
    assert_eq!(at(&one(&snapshot), "10.96.0.1", 80).1[0], [1, 2]);
}

#[test]
fn host_ports_and_who_comes_first() {
    let host_port = |own| HostPort { ip: own, port: 30080, protocol: 6, container_port: 80 };
    let pod = |own| Pod {
        namespace: "shop".to_owned(),
        name: "edge".to_owned(),
        ips: vec![ip("10.1.0.9")],
        node: "n1".to_owned(),
        host_ports: vec![host_port(own)],
        ..Pod::default()
    };
    let snapshot = Snapshot { pods: vec![pod(None)], ..Snapshot::default() };
    assert_eq!(at(&one(&snapshot), "192.168.0.1", 30080).1[0], [9]);
    let elsewhere = Snapshot { pods: vec![pod(Some(ip("192.168.0.7")))], ..Snapshot::default() };
    assert!(one(&elsewhere).frontends.is_empty());
    // A NodePort of the same number: one of them has it, and that is said.
    let mut both = cluster(service("NodePort"), vec![endpoint("10.1.0.1", "n1")]);
    both.pods = vec![pod(None)];
    let (ports, problems) = desired(&both, &here());
    let having =
        ports.values().filter(|port| port.frontends.contains_key(&key("192.168.0.1", 30080)));
    assert_eq!((having.count(), problems.len()), (1, 1), "{problems:?}");
}

/// The tables as changes make them, and what a reader may see in between.
#[derive(Debug, Default)]
struct Kernel {
    frontends: BTreeMap<FrontendKey, Frontend>,
    slots: Vec<u32>,
    backends: Vec<Backend>,
    ranges: BTreeSet<(u32, u32, [u8; 16])>,
    locals: BTreeMap<LocalKey, u32>,
}

impl Kernel {
    fn new() -> Self {
        Self {
            slots: vec![0; SIZES.slots as usize],
            backends: vec![NO_BACKEND; SIZES.backends as usize],
            ..Self::default()
        }
    }

    /// In their order; after each single write every frontend leads to backends of its own service only.
    fn apply(&mut self, changes: &Changes) {
        for (index, backend) in &changes.backends {
            self.backends[*index as usize] = *backend;
            self.check();
        }
        for (start, slots) in &changes.slots {
            for (place, slot) in (*start as usize..).zip(slots) {
                self.slots[place] = *slot;
                self.check();
            }
        }
        self.locals.extend(changes.locals.iter().copied());
        self.check();
        self.ranges.extend(changes.source_ranges.iter().map(of));
        for (key, frontend) in &changes.frontends {
            self.frontends.insert(*key, *frontend);
            self.check();
        }
        for key in &changes.gone_frontends {
            assert!(self.frontends.remove(key).is_some());
        }
        for key in &changes.gone_locals {
            assert!(self.locals.remove(key).is_some());
        }
        for index in &changes.gone_backends {
            self.backends[*index as usize] = NO_BACKEND;
            self.check();
        }
        for range in &changes.gone_source_ranges {
            assert!(self.ranges.remove(&of(range)));
        }
    }

    fn check(&self) {
        for (key, frontend) in &self.frontends {
            for slots in frontend.slots {
                let Slots { start, count } = slots;
                for slot in &self.slots[start as usize..(start + count) as usize] {
                    let backend = self.backends[*slot as usize];
                    assert_eq!(backend.service, frontend.service, "{key:?}");
                    assert_ne!(backend.flags, 0, "{key:?}");
                }
            }
        }
    }

    fn snapshot(&self) -> ServiceSnapshot {
        ServiceSnapshot {
            frontends: self.frontends.iter().map(|(key, value)| (*key, *value)).collect(),
            slots: self.slots.clone(),
            backends: self.backends.clone(),
            source_ranges: self
                .ranges
                .iter()
                .map(|(length, service, address)| SourceRange {
                    length: *length,
                    service: *service,
                    address: *address,
                })
                .collect(),
            locals: self.locals.iter().map(|(key, index)| (*key, *index)).collect(),
            ..ServiceSnapshot::default()
        }
    }
}

fn of(range: &SourceRange) -> (u32, u32, [u8; 16]) {
    (range.length, range.service, range.address)
}

/// Some services with some endpoints.
fn anything(random: &mut impl FnMut(u32) -> u32) -> BTreeMap<PortId, Port> {
    let mut snapshot = Snapshot::default();
    for number in 0..6 {
        if random(3) == 0 {
            continue;
        }
        let name = format!("s{number}");
        let algorithm = (number % 3 == 0).then_some(Algorithm::Maglev);
        let ranges = (random(2) == 0).then(|| "192.0.2.0/24".parse().unwrap());
        snapshot.services.push(Service {
            name: name.clone(),
            cluster_ips: vec![ip(&format!("10.96.0.{number}"))],
            algorithm,
            external_local: random(2) == 0,
            balancer_ips: vec![ip(&format!("203.0.113.{number}"))],
            source_ranges: ranges.into_iter().collect(),
            ports: vec![ServicePort { node_port: 30_000 + number, ..service("").ports[0].clone() }],
            ..service("LoadBalancer")
        });
        let places: Vec<u32> = (0..5).filter(|_| random(2) == 0).collect();
        let endpoints = places.into_iter().map(|place| {
            let node = if place % 2 == 0 { "n1" } else { "n2" };
            let ready = random(4) != 0;
            let terminating = random(5) == 0;
            let weight = [100, 100, 50, 0][random(4) as usize];
            let at = format!("10.{number}.0.{place}");
            Endpoint { ready, terminating, weight, ..endpoint(&at, node) }
        });
        let endpoints = endpoints.collect();
        snapshot.slices.push(EndpointSlice { service: name, ..slice(endpoints) });
    }
    desired(&snapshot, &here()).0
}

#[test]
fn readers_never_see_half_a_service_and_a_restart_changes_nothing() {
    let mut seed = 7u64;
    let mut random = move |below: u32| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((seed >> 33) as u32) % below
    };
    let mut kernel = Kernel::new();
    let mut book = Book::new(SIZES);
    for round in 0..300 {
        let wanted = anything(&mut random);
        let changes = book.change(&wanted, HASHING).unwrap();
        kernel.apply(&changes);
        let again = book.change(&wanted, HASHING).unwrap();
        assert_eq!(again, Changes::default(), "round {round}: nothing is written twice");
        // An agent that starts now finds everything as it wants it.
        let mut next = Book::resume(SIZES, &kernel.snapshot(), &wanted);
        assert_eq!(next.change(&wanted, HASHING).unwrap(), Changes::default(), "round {round}");
        if random(4) == 0 {
            book = next;
        }
        let shown: usize = wanted.values().map(|port| port.frontends.len()).sum();
        assert_eq!(kernel.frontends.len(), shown);
        for (key, index) in &kernel.locals {
            let Backend { address, flags, service, .. } = kernel.backends[*index as usize];
            assert_eq!(address, key.address, "round {round}");
            assert!(flags & LOCAL != 0 && (key.service == service || key.service == 0));
        }
    }
}

/// Each new address has every datagram flow looked at again: endpoints come and go far more often.
#[test]
fn only_addresses_that_were_none_are_new() {
    let both = || vec![endpoint("10.1.0.1", "n1"), endpoint("10.1.0.2", "n2")];
    let with = |service, endpoints| desired(&cluster(service, endpoints), &here()).0;
    let mut book = Book::new(SIZES);
    let mut change = |wanted| book.change(&wanted, HASHING).unwrap();
    assert!(change(with(service("ClusterIP"), both())).new_frontends);
    let fewer = change(with(service("ClusterIP"), vec![endpoint("10.1.0.1", "n1")]));
    assert!(!fewer.frontends.is_empty() && !fewer.new_frontends, "only its backends are others");
    assert!(!change(with(service("ClusterIP"), Vec::new())).new_frontends);
    assert!(change(with(service("NodePort"), both())).new_frontends);
    let gone = change(with(service("ClusterIP"), both()));
    assert!(!gone.gone_frontends.is_empty() && !gone.new_frontends);
}

#[test]
fn a_change_of_policy_alone_is_none_of_services() {
    let snapshot = cluster(service("ClusterIP"), vec![endpoint("10.1.0.1", "n1")]);
    let latest = Latest { snapshot: Arc::new(snapshot.clone()), roles: Roles::default() };
    let policy = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n\
        metadata: {name: deny, namespace: shop}\nspec: {podSelector: {}}\n";
    let policies = vec![datapath_policy::parse(policy).unwrap()];
    let stricter = Snapshot { revision: 2, policies, ..snapshot.clone() };
    assert!(latest.is_as(&stricter, &Roles::default()));

    let of = |change: fn(&mut Snapshot)| {
        let mut other = snapshot.clone();
        change(&mut other);
        latest.is_as(&other, &Roles::default())
    };
    assert!(!of(|other| other.services[0].external_local = true));
    assert!(!of(|other| other.slices[0].endpoints[0].ready = false));
    assert!(!of(|other| other.pods.push(Pod::default())), "endpoints may follow from pods");
    assert!(!of(|other| other.nodes.push(Node::default())), "a node's zone counts");
    let moved = Roles { pods: BTreeSet::from([7]), ..Roles::default() };
    assert!(!latest.is_as(&snapshot, &moved));
}

#[test]
fn hashed_services_have_tables() {
    let maglev = Service { algorithm: Some(Algorithm::Maglev), ..service("ClusterIP") };
    let wanted = desired(
        &cluster(maglev, vec![endpoint("10.1.0.1", "n1"), endpoint("10.1.0.2", "n2")]),
        &here(),
    )
    .0;
    let mut kernel = Kernel::new();
    kernel.apply(&Book::new(SIZES).change(&wanted, HASHING).unwrap());
    let frontend = kernel.frontends[&key("10.96.0.1", 80)];
    assert_ne!(frontend.flags & HASHED, 0);
    assert_eq!(frontend.slots[0], frontend.slots[1], "one table for both");
    assert_eq!(frontend.slots[0].count, 251);
}

#[test]
fn what_does_not_fit_changes_nothing() {
    let mut book = Book::new(SIZES);
    let few = |count: u8| {
        let endpoints = (0..count).map(|n| endpoint(&format!("10.1.0.{n}"), "n1")).collect();
        desired(&cluster(service("ClusterIP"), endpoints), &here()).0
    };
    let first = book.change(&few(10), HASHING).unwrap();
    assert_eq!(first.backends.len(), 10);
    let error = book.change(&few(200), HASHING).unwrap_err();
    assert!(error.contains("backends") && error.contains("64"), "{error}");
    assert_eq!(book.change(&few(10), HASHING).unwrap(), Changes::default());
}
