//! The cases that cyclonus generates for NetworkPolicy (github.com/mattfenwick/cyclonus, pkg/generator),
//! rebuilt: a base policy, with one thing of it at a time replaced. What each comes to is not written
//! here: the specification as a program says it (`datapath_policy::naive`), over the manifests that the
//! agent reads.

use serde_json::{Value, json};

/// A case, and what is there after each of its steps.
#[derive(Debug)]
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) steps: Vec<Step>,
}

/// All policies, and what is different from the fixture.
#[derive(Debug, Default)]
pub(crate) struct Step {
    pub(crate) policies: Vec<Value>,
    /// Labels of a pod, `namespace/name`.
    pub(crate) pods: Vec<(&'static str, Value)>,
    /// Labels of a namespace.
    pub(crate) namespaces: Vec<(&'static str, Value)>,
    /// Pods that are there besides the fixture's.
    pub(crate) spares: Vec<&'static str>,
}

const WAYS: [&str; 2] = ["ingress", "egress"];

/// Every case.
pub(crate) fn cases() -> Vec<Case> {
    let groups = [targets(), rules(), peers(), ports(), examples(), actions(), conflicts()];
    groups.into_iter().flatten().chain(default_labels()).collect()
}

fn single(name: String, policies: Vec<Value>) -> Case {
    Case { name, steps: vec![Step { policies, ..Step::default() }] }
}

/// Pod a of namespace x: 80/TCP from b and c of x and y, and to a and b of y and z; DNS anywhere.
fn base() -> Value {
    policy("base", "x", json!({"pod": "a"}), Some(vec![base_rule("ingress")]), {
        Some(vec![base_rule("egress"), dns()])
    })
}

fn policy(
    name: &str,
    namespace: &str,
    pods: Value,
    ingress: Option<Vec<Value>>,
    egress: Option<Vec<Value>>,
) -> Value {
    let types: Vec<&str> = [("Ingress", &ingress), ("Egress", &egress)]
        .into_iter()
        .filter_map(|(word, rules)| rules.as_ref().map(|_| word))
        .collect();
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "podSelector": {"matchLabels": pods},
            "policyTypes": types,
            "ingress": ingress.unwrap_or_default(),
            "egress": egress.unwrap_or_default(),
        },
    })
}

fn base_rule(way: &str) -> Value {
    let (pods, namespaces, list) = match way {
        "ingress" => (["b", "c"], ["x", "y"], "from"),
        _ => (["a", "b"], ["y", "z"], "to"),
    };
    json!({
        "ports": [{"protocol": "TCP", "port": 80}],
        list: [{"podSelector": one_of("pod", &pods), "namespaceSelector": one_of("ns", &namespaces)}],
    })
}

fn dns() -> Value {
    json!({"ports": [{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53}]})
}

fn one_of(key: &str, values: &[&str]) -> Value {
    json!({"matchExpressions": [{"key": key, "operator": "In", "values": values}]})
}

/// The base policy with the first rule's part replaced.
fn with(way: &str, part: &str, value: Value) -> Value {
    let part = match (part, way) {
        ("peers", "ingress") => "from",
        ("peers", _) => "to",
        (part, _) => part,
    };
    let mut policy = base();
    policy["spec"][way][0][part] = value;
    policy
}

fn targets() -> Vec<Case> {
    let namespaces = ["x", "y", "z"].map(|namespace| {
        let mut policy = base();
        policy["metadata"]["namespace"] = json!(namespace);
        single(format!("target: namespace {namespace}"), vec![policy])
    });
    let selectors = [json!({}), json!({"matchLabels": {"pod": "a"}}), one_of("pod", &["a", "b"])];
    let selectors = selectors.map(|selector| {
        let name = format!("target: pods {selector}");
        let mut policy = base();
        policy["spec"]["podSelector"] = selector;
        single(name, vec![policy])
    });
    namespaces.into_iter().chain(selectors).collect()
}

fn rules() -> Vec<Case> {
    let sets = [("deny all", json!([])), ("allow all", json!([{}]))];
    let case = |way: &str, (name, rules): &(&str, Value)| {
        let mut policy = base();
        policy["spec"][way] = rules.clone();
        single(format!("rules: {way}: {name}"), vec![policy])
    };
    WAYS.iter().flat_map(|way| sets.iter().map(move |set| case(way, set))).collect()
}

/// Selectors of pods and namespaces, absent, empty and by label, and address blocks.
fn every_peer() -> Vec<(&'static str, Value)> {
    let (all, c, x) =
        (json!({}), json!({"matchLabels": {"pod": "c"}}), json!({"matchLabels": {"ns": "x"}}));
    // Of the pod z/c, 10.0.3.3: as many zero bits as cyclonus takes, 8 and 4.
    let block = json!({"ipBlock": {"cidr": "10.0.3.0/24"}});
    let except = json!({"ipBlock": {"cidr": "10.0.3.0/24", "except": ["10.0.3.0/28"]}});
    vec![
        ("empty pods + no ns", json!({"podSelector": all})),
        ("pods by label + no ns", json!({"podSelector": c})),
        ("no pods + empty ns", json!({"namespaceSelector": all})),
        ("empty pods + empty ns", json!({"podSelector": all, "namespaceSelector": all})),
        ("pods by label + empty ns", json!({"podSelector": c, "namespaceSelector": all})),
        ("no pods + ns by label", json!({"namespaceSelector": x})),
        ("empty pods + ns by label", json!({"podSelector": all, "namespaceSelector": x})),
        ("pods by label + ns by label", json!({"podSelector": c, "namespaceSelector": x})),
        ("block", block),
        ("block with except", except),
    ]
}

fn peers() -> Vec<Case> {
    let mut cases = Vec::new();
    let peers = every_peer();
    for way in WAYS {
        let mut add = |name: String, list: Value| {
            cases.push(single(format!("peers: {way}: {name}"), vec![with(way, "peers", list)]));
        };
        add("empty".to_owned(), json!([]));
        for (at, (name, peer)) in peers.iter().enumerate() {
            add((*name).to_owned(), json!([peer]));
            for (other, second) in &peers[at + 1..] {
                add(format!("{name}, {other}"), json!([peer, second]));
            }
        }
    }
    cases
}

fn every_port() -> Vec<Value> {
    let mut ports = Vec::new();
    for protocol in [None, Some("TCP"), Some("UDP"), Some("SCTP")] {
        for port in [None, Some(80), Some(81)] {
            let mut entry = json!({});
            if let Some(protocol) = protocol {
                entry["protocol"] = json!(protocol);
            }
            if let Some(port) = port {
                entry["port"] = json!(port);
            }
            ports.push(entry);
        }
    }
    for protocol in ["TCP", "UDP", "SCTP"] {
        let lower = protocol.to_lowercase();
        for port in [80, 81] {
            ports.push(json!({"protocol": protocol, "port": format!("serve-{port}-{lower}")}));
        }
        for end in [80, 84] {
            ports.push(json!({"protocol": protocol, "port": 53, "endPort": end}));
        }
    }
    // Names of another protocol, of nothing, and a number that nobody serves.
    for port in [json!("serve-81-udp"), json!("serve-7981-udp"), json!(7981)] {
        ports.push(json!({"protocol": "TCP", "port": port}));
    }
    ports
}

fn ports() -> Vec<Case> {
    let pairs = [
        json!([{}, {"port": 80}]),
        json!([{}, {"port": "serve-80-tcp"}]),
        json!([{}, {"protocol": "UDP"}]),
        json!([{"port": 80}, {"port": 81}]),
        json!([{"port": 80}, {"port": "serve-81-tcp"}]),
        json!([{"port": 80}, {"protocol": "UDP", "port": "serve-81-udp"}]),
        json!([{"protocol": "UDP", "port": 80}, {"protocol": "UDP", "port": "serve-81-udp"}]),
    ];
    let singles = every_port().into_iter().map(|port| json!([port]));
    let lists: Vec<Value> = [json!([])].into_iter().chain(singles).chain(pairs).collect();
    let case = |way: &str, list: &Value| {
        single(format!("ports: {way}: {list}"), vec![with(way, "ports", list.clone())])
    };
    WAYS.iter().flat_map(|way| lists.iter().map(move |list| case(way, list))).collect()
}

fn examples() -> Vec<Case> {
    let named = json!({"ports": [{"port": "serve-81-tcp"}]});
    let policies = vec![policy("allow-all", "x", json!({}), Some(vec![named]), None)];
    let step = |spares: &[&'static str]| Step {
        policies: policies.clone(),
        namespaces: vec![("w", json!({"ns": "w"}))],
        spares: spares.to_vec(),
        ..Step::default()
    };
    let steps = vec![step(&[]), step(&["w/a"]), step(&[])];
    vec![Case { name: "example: one named port".to_owned(), steps }]
}

fn actions() -> Vec<Case> {
    let step = |policies: Vec<Value>| Step { policies, ..Step::default() };
    let case = |name: &str, steps| Case { name: format!("actions: {name}"), steps };
    let labelled = |peer: Value| with("ingress", "peers", json!([peer]));
    let by_namespace = labelled(json!({"namespaceSelector": {"matchLabels": {"new-ns": "qrs"}}}));
    let by_pod = labelled(json!({
        "podSelector": {"matchLabels": {"new-label": "abc"}},
        "namespaceSelector": one_of("ns", &["y", "z"]),
    }));
    let udp = with("ingress", "ports", json!([{"protocol": "UDP", "port": "serve-81-udp"}]));
    let namespace = |labels| Step {
        policies: vec![by_namespace.clone()],
        namespaces: vec![("y", labels)],
        ..Step::default()
    };
    let pod = |labels| Step {
        policies: vec![by_pod.clone()],
        pods: vec![("y/b", labels)],
        ..Step::default()
    };
    let spare = |spares: &[&'static str]| Step {
        policies: vec![base()],
        namespaces: vec![("y-2", json!({"ns": "y"}))],
        spares: spares.to_vec(),
        ..Step::default()
    };
    let (ns, label) = (json!({"ns": "y"}), json!({"pod": "b"}));
    vec![
        case("create, delete policy", vec![step(vec![base()]), step(Vec::new())]),
        case("create, update policy", vec![step(vec![base()]), step(vec![udp])]),
        case("create, delete namespace", vec![spare(&[]), spare(&["y-2/a", "y-2/b"]), spare(&[])]),
        case(
            "label, unlabel namespace",
            vec![
                namespace(ns.clone()),
                namespace(json!({"ns": "y", "new-ns": "qrs"})),
                namespace(ns),
            ],
        ),
        case("create, delete pod", vec![spare(&[]), spare(&["x/d"]), spare(&[])]),
        case(
            "label, unlabel pod",
            vec![pod(label.clone()), pod(json!({"pod": "b", "new-label": "abc"})), pod(label)],
        ),
    ]
}

/// Policies that say opposite things of one pod, or of the two ends.
fn conflicts() -> Vec<Case> {
    let pods = json!([{"namespaceSelector": {}}]);
    let addresses = json!([{"ipBlock": {"cidr": "0.0.0.0/0"}}]);
    let no_addresses = json!([{"ipBlock": {"cidr": "0.0.0.0/31"}}]);
    let no_pods =
        json!([{"namespaceSelector": {"matchLabels": {"this-will-never-happen": "qrs123"}}}]);
    let rules = |word: &str, list: &str| match word {
        "none" => vec![],
        "all" => vec![json!({})],
        "all pods" => vec![json!({list: pods})],
        "all addresses" => vec![json!({list: addresses})],
        "no pods" => vec![json!({list: no_pods})],
        _ => vec![json!({list: no_addresses})],
    };
    let source = |name: &str, word: &str| {
        policy(name, "x", json!({"pod": "b"}), None, Some(rules(word, "to")))
    };
    let accepts = |name: &str, namespace: &str, pod: &str, word: &str| {
        policy(name, namespace, json!({"pod": pod}), Some(rules(word, "from")), None)
    };
    let dns = policy("allow-dns", "x", json!({"pod": "b"}), None, Some(vec![dns()]));
    let mut cases = Vec::new();
    let mut add = |name: String, mut policies: Vec<Value>, egress: bool| {
        if egress {
            policies.push(dns.clone());
        }
        cases.push(single(format!("conflicts: {name}"), policies));
    };
    for (out, into) in [("none", "all"), ("all", "none")] {
        let policies = vec![source("egress", out), accepts("ingress", "y", "c", into)];
        add(format!("egress {out}, ingress {into}"), policies, true);
    }
    let pairs = [
        ("none", "all"),
        ("none", "all pods"),
        ("none", "all addresses"),
        ("no addresses", "all pods"),
        ("no pods", "all addresses"),
    ];
    for (first, second) in pairs {
        let policies = vec![source("first", first), source("second", second)];
        add(format!("egress {first} + {second}"), policies, true);
        // The plain pair is asked of the destination, the others of the source, as upstream does.
        let (namespace, pod) = if second == "all" { ("y", "c") } else { ("x", "b") };
        let policies = vec![
            accepts("first", namespace, pod, first),
            accepts("second", namespace, pod, second),
        ];
        add(format!("ingress {first} + {second}"), policies, false);
    }
    for word in ["no addresses", "no pods"] {
        add(format!("egress {word}"), vec![source("one", word)], true);
        add(format!("ingress {word}"), vec![accepts("one", "x", "b", word)], false);
    }
    cases
}

fn default_labels() -> impl Iterator<Item = Case> {
    let peers =
        json!([{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "z"}}}]);
    WAYS.into_iter().map(move |way| {
        let policy = with(way, "peers", peers.clone());
        single(format!("namespaces: {way}: by default label"), vec![policy])
    })
}
