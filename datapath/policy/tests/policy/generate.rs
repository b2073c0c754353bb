//! Random clusters and policies from a seed, with few names so that things meet.

use std::collections::BTreeSet;
use std::net::IpAddr;

use datapath_policy::{
    CidrGroup, Endpoint, EndpointKind, Enforcement, Labels, NamedPort, Node, Options, Service,
};
use serde_json::{Value, json};

use super::case::{Op, Probes};

/// xorshift64*.
pub(crate) struct Dice(u64);

const NAMESPACES: [&str; 3] = ["x", "y", "z"];
const BLOCKS: [&str; 13] = [
    "0.0.0.0/0",
    "::/0",
    "10.0.0.0/8",
    "10.0.0.0/24",
    "10.0.0.0/29",
    "10.0.0.4/30",
    "10.0.0.5/32",
    "192.168.0.0/16",
    "192.168.0.1/32",
    "1.2.0.0/16",
    "1.2.3.4/32",
    "fd00::/64",
    "fd00::4/126",
];
const ENTITIES: [&str; 14] = [
    "all",
    "world",
    "world-ipv4",
    "world-ipv6",
    "cluster",
    "host",
    "remote-node",
    "kube-apiserver",
    "health",
    "init",
    "ingress",
    "unmanaged",
    "none",
    "cluster-mesh",
];

// === impl Dice ===

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % sides
    }

    pub(crate) fn one_in(&mut self, n: usize) -> bool {
        self.roll(n) == 0
    }

    pub(crate) fn pick<'a, T: ?Sized>(&mut self, list: &[&'a T]) -> &'a T {
        list[self.roll(list.len())]
    }

    fn labels(&mut self) -> Labels {
        let mut labels = Labels::new();
        for (key, values) in [("app", ["a", "b", "c"]), ("tier", ["f", "b", "b"])] {
            if !self.one_in(4) {
                labels.insert(key.to_owned(), self.pick(&values).to_owned());
            }
        }
        labels
    }
}

/// What every run is asked about.
pub(crate) fn probes() -> Probes {
    let mut peers: Vec<IpAddr> = (1..=9).map(|n| format!("10.0.0.{n}").parse().unwrap()).collect();
    for text in [
        "fd00::1",
        "fd00::4",
        "fd00::5",
        "fd00::7",
        "192.168.0.1",
        "192.168.0.2",
        "192.168.0.3",
        "1.2.3.4",
        "1.2.9.9",
        "8.8.8.8",
        "2001:db8::1",
    ] {
        peers.push(text.parse().unwrap());
    }
    let ports = vec![
        (6, 80),
        (6, 81),
        (6, 8080),
        (6, 22),
        (6, 443),
        (6, 65535),
        (6, 0),
        (17, 53),
        (17, 80),
        (132, 80),
        (1, 8),
        (1, 3),
        (58, 128),
        (47, 0),
        (112, 9),
    ];
    Probes { peers, ports }
}

/// The inputs of a fresh cluster.
pub(crate) fn cluster(dice: &mut Dice) -> Vec<Op> {
    let mut ops = Vec::new();
    for name in NAMESPACES {
        ops.push(Op::Namespace(name.to_owned(), dice.labels()));
    }
    for n in 1..=3 {
        ops.push(node(dice, n));
    }
    for n in 1..=4 + dice.roll(5) {
        ops.push(endpoint(dice, n));
    }
    for _ in 0..dice.roll(3) {
        ops.push(group(dice));
        ops.push(service(dice));
    }
    for n in 0..1 + dice.roll(5) {
        ops.push(Op::Policy(policy(dice, n).to_string()));
    }
    ops.push(Op::Commit);
    ops
}

/// One change of the cluster.
pub(crate) fn change(dice: &mut Dice) -> Op {
    let n = 1 + dice.roll(9);
    match dice.roll(24) {
        0..=7 => Op::Policy(policy(dice, n % 6).to_string()),
        8..=9 => {
            let document = policy(dice, n % 6).to_string();
            Op::NoPolicy(super::case::parsed(&document).key())
        }
        10..=13 => endpoint(dice, n),
        14 => Op::NoEndpoint(format!("e{n}")),
        15 => node(dice, 1 + n % 3),
        16 => Op::NoNode(format!("n{}", 1 + n % 3)),
        17 => Op::Namespace(dice.pick(&NAMESPACES).to_owned(), dice.labels()),
        18 => Op::NoNamespace(dice.pick(&NAMESPACES).to_owned()),
        19 => group(dice),
        20 => match dice.roll(3) {
            0 => Op::NoGroup(dice.pick(&["g1", "g2"]).to_owned()),
            1 => Op::NoService(dice.pick(&NAMESPACES).to_owned(), "s1".to_owned()),
            _ => Op::Restart,
        },
        21 => service(dice),
        22 => {
            let count = dice.roll(3);
            let all = ["192.168.0.2", "1.2.3.4", "10.0.0.3", "fd00::5"];
            Op::ApiServers((0..count).map(|_| dice.pick(&all).parse().unwrap()).collect())
        }
        _ => Op::Options(options(dice)),
    }
}

fn options(dice: &mut Dice) -> Options {
    let enforcement = match dice.roll(6) {
        0 => Enforcement::Never,
        1 => Enforcement::Always,
        _ => Enforcement::Default,
    };
    Options {
        enforcement,
        allow_localhost: !dice.one_in(3),
        audit: dice.one_in(6),
        node_identities: dice.one_in(2),
        ..Options::default()
    }
}

fn node(dice: &mut Dice, n: usize) -> Op {
    let mut addresses: BTreeSet<IpAddr> = [format!("192.168.0.{n}").parse().unwrap()].into();
    if dice.one_in(5) {
        addresses.insert(format!("10.0.0.{}", 1 + dice.roll(9)).parse().unwrap());
    }
    let this = n == 1;
    let interfaces = if this && !dice.one_in(3) { [100].into() } else { BTreeSet::new() };
    let audit = dice.one_in(8);
    Op::Node(format!("n{n}"), Node { labels: dice.labels(), addresses, this, interfaces, audit })
}

fn endpoint(dice: &mut Dice, n: usize) -> Op {
    let kind = match dice.roll(24) {
        0 => EndpointKind::Init,
        1 => EndpointKind::Health,
        2 => EndpointKind::Ingress,
        3 => EndpointKind::Unmanaged,
        _ => EndpointKind::Pod,
    };
    let mut addresses: BTreeSet<IpAddr> = [format!("10.0.0.{n}").parse().unwrap()].into();
    if dice.one_in(2) {
        addresses.insert(format!("fd00::{n}").parse().unwrap());
    }
    // Sometimes one that another has as well.
    if dice.one_in(12) {
        addresses.insert(format!("10.0.0.{}", 1 + dice.roll(9)).parse().unwrap());
    }
    let mut ports = Vec::new();
    for (name, protocol, numbers) in
        [("web", 6, [80, 8080, 81]), ("web", 17, [80, 80, 80]), ("dns", 17, [53, 53, 80])]
    {
        if dice.one_in(2) {
            let port = numbers[dice.roll(3)];
            ports.push(NamedPort { name: name.to_owned(), protocol, port });
        }
    }
    let (labels, namespace) = if kind == EndpointKind::Pod {
        (dice.labels(), dice.pick(&NAMESPACES).to_owned())
    } else {
        (Labels::new(), String::new())
    };
    let endpoint = Endpoint {
        kind,
        namespace,
        labels,
        service_account: String::new(),
        addresses,
        ports,
        interface: (!dice.one_in(3)).then_some(n as u32),
        audit: dice.one_in(10),
    };
    Op::Endpoint(format!("e{n}"), endpoint)
}

fn group(dice: &mut Dice) -> Op {
    let cidrs = (0..dice.roll(4)).map(|_| dice.pick(&BLOCKS).parse().unwrap()).collect();
    Op::Group(CidrGroup { name: dice.pick(&["g1", "g2"]).to_owned(), labels: dice.labels(), cidrs })
}

fn service(dice: &mut Dice) -> Op {
    let selector = dice.one_in(2).then(|| dice.labels());
    let addresses = (0..dice.roll(3))
        .map(|_| dice.pick(&["1.2.3.4", "10.0.0.2", "8.8.8.8", "fd00::1"]).parse().unwrap())
        .collect();
    Op::Service(Service {
        namespace: dice.pick(&NAMESPACES).to_owned(),
        name: "s1".to_owned(),
        labels: dice.labels(),
        selector,
        addresses,
    })
}

/// A document as JSON, which is YAML.
pub(crate) fn policy(dice: &mut Dice, n: usize) -> Value {
    let kind = ["NetworkPolicy", "CiliumNetworkPolicy", "CiliumClusterwideNetworkPolicy"]
        [[0, 1, 1, 2][dice.roll(4)]];
    let mut metadata = json!({"name": format!("p{n}")});
    if kind != "CiliumClusterwideNetworkPolicy" {
        metadata["namespace"] = json!(dice.pick(&NAMESPACES));
    }
    if dice.one_in(8) {
        metadata["annotations"] = json!({"weir.io/audit": "true"});
    }
    let version = if kind == "NetworkPolicy" { "networking.k8s.io/v1" } else { "cilium.io/v2" };
    let mut document = json!({"apiVersion": version, "kind": kind, "metadata": metadata});
    if kind == "NetworkPolicy" {
        document["spec"] = kubernetes(dice);
    } else {
        let clusterwide = kind == "CiliumClusterwideNetworkPolicy";
        if dice.one_in(5) {
            document["specs"] = json!([cilium(dice, clusterwide), cilium(dice, clusterwide)]);
        } else {
            document["spec"] = cilium(dice, clusterwide);
        }
    }
    document
}

fn selector(dice: &mut Dice, cilium: bool) -> Value {
    let mut selector = json!({});
    let source = if cilium { dice.pick(&["", "", "k8s:", "any:"]) } else { "" };
    if dice.one_in(2) {
        let (key, value) = (dice.pick(&["app", "tier"]), dice.pick(&["a", "b", "f"]));
        selector["matchLabels"] = json!({format!("{source}{key}"): value});
    }
    if dice.one_in(4) {
        let key = dice.pick(&["app", "tier", "none"]);
        let key = format!("{source}{key}");
        selector["matchExpressions"] = json!([match dice.roll(4) {
            0 => json!({"key": key, "operator": "In", "values": ["a", "b"]}),
            1 => json!({"key": key, "operator": "NotIn", "values": ["a"]}),
            2 => json!({"key": key, "operator": "Exists"}),
            _ => json!({"key": key, "operator": "DoesNotExist"}),
        }]);
    }
    if cilium && dice.one_in(8) {
        let (key, value) = match dice.roll(5) {
            0 => ("reserved:host", ""),
            1 => ("reserved:init", ""),
            2 => ("k8s:io.kubernetes.pod.namespace", "y"),
            3 => ("io.cilium.k8s.namespace.labels.app", "a"),
            _ => ("reserved:kube-apiserver", ""),
        };
        selector["matchLabels"] = json!({key: value});
    }
    selector
}

fn kubernetes(dice: &mut Dice) -> Value {
    let mut spec = json!({"podSelector": selector(dice, false)});
    if dice.one_in(2) {
        let types: &[Value] =
            &[json!(["Ingress"]), json!(["Egress"]), json!(["Ingress", "Egress"]), json!([])];
        spec["policyTypes"] = types[dice.roll(4)].clone();
    }
    for (name, peers) in [("ingress", "from"), ("egress", "to")] {
        if dice.one_in(3) {
            continue;
        }
        let rules: Vec<Value> = (0..dice.roll(3))
            .map(|_| {
                let mut rule = json!({});
                if !dice.one_in(5) {
                    let list: Vec<Value> =
                        (0..dice.roll(3)).map(|_| kubernetes_peer(dice)).collect();
                    rule[peers] = json!(list);
                }
                if !dice.one_in(3) {
                    let list: Vec<Value> =
                        (0..dice.roll(3)).map(|_| kubernetes_port(dice)).collect();
                    rule["ports"] = json!(list);
                }
                rule
            })
            .collect();
        spec[name] = json!(rules);
    }
    spec
}

fn kubernetes_peer(dice: &mut Dice) -> Value {
    match dice.roll(4) {
        0 => json!({"podSelector": selector(dice, false)}),
        1 => json!({"namespaceSelector": selector(dice, false)}),
        2 => json!({
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": dice.pick(&NAMESPACES)}},
            "podSelector": selector(dice, false)
        }),
        _ => {
            let (block, except) = block(dice);
            json!({"ipBlock": {"cidr": block, "except": except}})
        }
    }
}

/// A block, and blocks inside of it.
fn block(dice: &mut Dice) -> (&'static str, Vec<&'static str>) {
    let outer = dice.pick(&BLOCKS);
    let parsed: datapath_policy::Cidr = outer.parse().unwrap();
    let mut except = Vec::new();
    for inner in BLOCKS {
        let inside: datapath_policy::Cidr = inner.parse().unwrap();
        if inner != outer && parsed.contains(&inside) && dice.one_in(4) {
            except.push(inner);
        }
    }
    (outer, except)
}

fn kubernetes_port(dice: &mut Dice) -> Value {
    let protocol = dice.pick(&["TCP", "TCP", "UDP", "SCTP"]);
    match dice.roll(5) {
        0 => json!({"protocol": protocol}),
        1 => json!({"port": dice.pick(&["web", "dns"]), "protocol": protocol}),
        2 => {
            json!({"port": 80, "endPort": ([80, 81, 443, 65535][dice.roll(4)]), "protocol": protocol})
        }
        3 => json!({"port": 81}),
        _ => json!({"port": ([80, 53, 8080][dice.roll(3)]), "protocol": protocol}),
    }
}

fn cilium(dice: &mut Dice, clusterwide: bool) -> Value {
    let mut spec = json!({});
    let subject = if clusterwide && dice.one_in(3) { "nodeSelector" } else { "endpointSelector" };
    spec[subject] = selector(dice, true);
    if subject == "nodeSelector" {
        spec[subject] = selector(dice, false);
    }
    loop {
        for (name, deny, egress) in [
            ("ingress", false, false),
            ("ingressDeny", true, false),
            ("egress", false, true),
            ("egressDeny", true, true),
        ] {
            if dice.one_in(if deny { 4 } else { 2 }) {
                let rules: Vec<Value> =
                    (0..1 + dice.roll(2)).map(|_| cilium_rule(dice, egress)).collect();
                spec[name] = json!(rules);
            }
        }
        if spec.as_object().unwrap().len() > 1 {
            break;
        }
    }
    if dice.one_in(5) {
        spec["enableDefaultDeny"] = [
            json!({"ingress": false}),
            json!({"egress": false}),
            json!({"ingress": true}),
            json!({}),
        ][dice.roll(4)]
        .clone();
    }
    spec
}

fn cilium_rule(dice: &mut Dice, egress: bool) -> Value {
    let mut rule = json!({});
    let side = if egress { "to" } else { "from" };
    let count = dice.roll(3);
    let list = |dice: &mut Dice, one: &dyn Fn(&mut Dice) -> Value| -> Value {
        (0..count).map(|_| one(dice)).collect()
    };
    match dice.roll(9) {
        0 => {}
        1 | 2 => rule[format!("{side}Endpoints")] = list(dice, &|dice| selector(dice, true)),
        3 | 4 => rule[format!("{side}Entities")] = list(dice, &|dice| json!(dice.pick(&ENTITIES))),
        5 => rule[format!("{side}CIDR")] = list(dice, &|dice| json!(dice.pick(&BLOCKS))),
        6 => {
            rule[format!("{side}CIDRSet")] = list(dice, &|dice| match dice.roll(4) {
                0 => json!({"cidrGroupRef": dice.pick(&["g1", "g2"])}),
                1 => json!({"cidrGroupSelector": selector(dice, false), "except": ["10.0.0.5/32"]}),
                _ => {
                    let (block, except) = block(dice);
                    json!({"cidr": block, "except": except})
                }
            });
        }
        7 => rule[format!("{side}Nodes")] = list(dice, &|dice| selector(dice, false)),
        _ if egress => {
            rule["toServices"] = list(dice, &|dice| {
                if dice.one_in(2) {
                    let namespace = dice.pick(&NAMESPACES);
                    json!({"k8sService": {"serviceName": "s1", "namespace": namespace}})
                } else {
                    json!({"k8sServiceSelector": {"selector": selector(dice, false)}})
                }
            });
        }
        _ => {}
    }
    match dice.roll(6) {
        0 | 1 => {}
        2 => {
            rule["icmps"] = json!([{"fields": [
                {"type": dice.pick(&["EchoRequest", "DestinationUnreachable"])},
                {"type": 128, "family": "IPv6"}
            ]}]);
        }
        _ => {
            let ports: Vec<Value> = (0..dice.roll(3)).map(|_| cilium_port(dice)).collect();
            rule["toPorts"] = json!([{"ports": ports}]);
        }
    }
    rule
}

fn cilium_port(dice: &mut Dice) -> Value {
    let protocol = dice.pick(&["TCP", "UDP", "SCTP", "ANY"]);
    match dice.roll(6) {
        0 => json!({"port": "0", "protocol": protocol}),
        1 => json!({"port": dice.pick(&["web", "dns"]), "protocol": protocol}),
        2 => {
            json!({"port": "79", "endPort": ([79, 80, 443, 65535][dice.roll(4)]), "protocol": protocol})
        }
        3 => json!({"port": "80"}),
        4 => json!({"port": "", "protocol": dice.pick(&["GRE", "VRRP"])}),
        _ => json!({"port": dice.pick(&["80", "53", "8080", "81"]), "protocol": protocol}),
    }
}
