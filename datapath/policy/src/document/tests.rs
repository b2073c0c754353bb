use std::collections::BTreeMap;

use super::*;

const DB: &str = r"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: db, namespace: shop}
spec:
  podSelector: {matchLabels: {app: db}}
  ingress:
  - from:
    - podSelector: {matchLabels: {app: api}}
    - ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}
    ports: [{port: 5432, protocol: TCP}, {port: 8000, endPort: 8010}, {port: metrics}]
";

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

fn selects(policy: &Policy, namespace: &str, app: &str) -> bool {
    policy.selects(&Subject {
        namespace,
        labels: &labels(&[("app", app)]),
        namespace_labels: &BTreeMap::new(),
        service_account: "",
        cluster: "",
        reserved: &[],
    })
}

fn cilium(kind: &str, spec: &str) -> String {
    format!("apiVersion: cilium.io/v2\nkind: {kind}\nmetadata: {{name: x}}\nspec: {spec}\n")
}

#[test]
fn a_network_policy_selects_and_isolates() {
    let policy = parse(DB).unwrap();
    assert_eq!((policy.kind, policy.name.as_str()), (PolicyKind::NetworkPolicy, "db"));
    assert!(selects(&policy, "shop", "db"));
    assert!(!selects(&policy, "shop", "web"));
    assert!(!selects(&policy, "bank", "db"));
    let section = &policy.sections[0];
    assert!(section.isolates_ingress && !section.isolates_egress);
    assert_eq!((section.ingress.len(), section.egress.len()), (1, 0));
    assert_eq!(section.ingress[0].lines, Some(8..=11));
    assert!(policy.spec.starts_with(r#"{"podSelector""#), "{}", policy.spec);
}

#[test]
fn policy_types_follow_the_api_reference() {
    let of = |rest: &str| {
        let head = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: x}\n";
        let section = parse(&format!("{head}spec: {{podSelector: {{}}{rest}}}")).unwrap().sections;
        (section[0].isolates_ingress, section[0].isolates_egress)
    };
    assert_eq!(of(""), (true, false));
    assert_eq!(of(", egress: []"), (true, true));
    assert_eq!(of(", policyTypes: [Egress]"), (false, true));
    assert_eq!(of(", policyTypes: [Ingress, Egress]"), (true, true));
}

#[test]
fn cilium_policies() {
    let spec = "{endpointSelector: {matchLabels: {app: db}}, ingress: [{fromEntities: [cluster], \
                toPorts: [{ports: [{port: '80', protocol: TCP}]}]}], egressDeny: [{toCIDR: [1.2.3.4/32]}]}";
    let policy = parse(&cilium("CiliumNetworkPolicy", spec)).unwrap();
    assert_eq!(policy.namespace, "default");
    assert!(selects(&policy, "default", "db"));
    assert!(policy.sections[0].isolates_egress);

    let everywhere = "{endpointSelector: {}, enableDefaultDeny: {egress: false}, egress: [{}]}";
    let policy = parse(&cilium("CiliumClusterwideNetworkPolicy", everywhere)).unwrap();
    assert!(selects(&policy, "anything", "at-all"));
    assert!(!policy.sections[0].isolates_egress);
}

#[test]
fn names_what_is_wrong() {
    let replaced = |from: &str, to: &str| parse(&DB.replace(from, to)).unwrap_err();
    for (from, to, expected) in [
        ("name: db,", "", "metadata.name"),
        ("networking.k8s.io/v1", "v1", "expected \"networking.k8s.io/v1\""),
        ("kind: NetworkPolicy", "kind: Policy", "no kind of policy"),
        ("10.1.0.0/16", "11.1.0.0/16", "not inside"),
        ("10.0.0.0/8", "10.0.0.0/33", "not a CIDR"),
        ("protocol: TCP", "protocol: ICMP", "not TCP, UDP or SCTP"),
        ("endPort: 8010", "endPort: 80", "spec.ingress[0].ports[1]: endPort 80 is below"),
        ("port: 5432", "port: 70000", "between 1 and 65535"),
        ("app: api", "app: 'a p i'", "not a valid label value"),
        ("ipBlock: {", "podSelector: {}, ipBlock: {", ""),
    ] {
        let error = replaced(from, to);
        assert!(error.message.contains(expected), "{from} → {to}: {error}");
    }
    let error = replaced("podSelector: {matchLabels", "podSelecter: {matchLabels");
    assert!(error.line.is_some() && error.message.contains("podSelecter"), "{error}");
    for spec in [
        "{ingress: []}",
        "{endpointSelector: {}, ingress: [{fromEntities: [moon]}]}",
        "{endpointSelector: {}, ingres: []}",
        "{nodeSelector: {}}",
    ] {
        parse(&cilium("CiliumNetworkPolicy", spec)).expect_err(spec);
    }
}

#[test]
fn cilium_names_what_is_wrong() {
    let rule = |rule: &str| format!("{{endpointSelector: {{}}, ingress: [{rule}]}}");
    let ports = |ports: &str| rule(&format!("{{toPorts: [{ports}]}}"));
    let many = vec!["{port: '1'}"; 41].join(", ");
    for (spec, expected) in [
        ("{endpointSelector: {}}".to_owned(), "at least one of"),
        ("{endpointSelector: {}, nodeSelector: {}, ingress: [{}]}".to_owned(), "exactly one of"),
        (rule("{fromRequires: [{}]}"), "spec.ingress[0].fromRequires: no longer supported"),
        (rule("{fromEndpoints: [{}], fromCIDR: [10.0.0.0/8]}"), "combining it with fromCIDR"),
        (rule("{toEndpoints: [{}]}"), "unknown field `toEndpoints`"),
        (
            rule("{fromCIDR: [10.0.0.0/40]}"),
            "spec.ingress[0].fromCIDR[0]: \"10.0.0.0/40\" is not a CIDR",
        ),
        (rule("{fromCIDRSet: [{cidr: 10.0.0.0/8, except: [11.0.0.0/8]}]}"), "is not inside"),
        (rule("{fromCIDRSet: [{cidr: 10.0.0.0/8, cidrGroupRef: a}]}"), "exactly one of cidr"),
        (rule("{fromEntities: [moon]}"), "spec.ingress[0].fromEntities[0]: there is no entity"),
        (ports(&format!("{{ports: [{many}]}}")), "toPorts[0].ports: 41 of them; at most 40"),
        (ports("{ports: [{port: '80', protocol: ICMP}]}"), "ICMP is written under icmps"),
        (ports("{ports: [{port: '80', endPort: 79}]}"), "endPort: 79 is below port 80"),
        (ports("{ports: [{port: '65536'}]}"), "not between 0 and 65535"),
        (ports("{ports: [{port: 80}]}"), "invalid type: integer `80`"),
        (ports("{ports: [{port: 'not_a_name'}]}"), "is not a port name"),
        (ports("{ports: [{port: '80', protocol: GRE}]}"), "GRE has no ports"),
        (ports("{ports: [{protocol: TCP}]}"), "port: it is missing"),
        (ports("{ports: [{port: '9092'}], rules: {kafka: [{topic: a}]}}"), "no longer supported"),
        (
            ports("{ports: [{port: '80', protocol: UDP}], rules: {http: [{}]}}"),
            "needs protocol TCP",
        ),
        (ports("{ports: [{port: '53'}], rules: {dns: [{matchPattern: '*'}]}}"), "only for egress"),
        (rule("{icmps: [{fields: [{type: 300}]}]}"), "icmps[0].fields[0].type"),
        (
            rule("{icmps: [{fields: [{type: 8}]}], toPorts: [{ports: [{port: '1'}]}]}"),
            "with toPorts",
        ),
        (rule("{authentication: {mode: maybe}}"), "there is no mode"),
        (
            "{endpointSelector: {}, egressDeny: [{toFQDNs: [{matchName: a.b}]}]}".to_owned(),
            "deny rule",
        ),
        (
            "{endpointSelector: {}, egress: [{toFQDNs: [{matchName: 'a b'}]}]}".to_owned(),
            "DNS name",
        ),
        (
            "{endpointSelector: {}, egress: [{toServices: [{}]}]}".to_owned(),
            "exactly one of k8sService",
        ),
        (
            "{endpointSelector: {matchLabels: {'foo:a/b': c}}, egress: [{}]}".to_owned(),
            "label name",
        ),
    ] {
        let error = parse(&cilium("CiliumNetworkPolicy", &spec)).expect_err(&spec);
        assert!(error.message.contains(expected), "{spec}: {error}");
    }
    let node = "{nodeSelector: {}, ingress: [{}]}";
    parse(&cilium("CiliumNetworkPolicy", node)).expect_err(node);
    parse(&cilium("CiliumClusterwideNetworkPolicy", node)).unwrap();
}

#[test]
fn what_is_not_enforced_is_said() {
    let spec = "{endpointSelector: {}, egress: [{toFQDNs: [{matchPattern: '*.Example.com'}]}, \
                {toPorts: [{ports: [{port: '80', protocol: TCP}], rules: {http: [{method: GET}]}}]}, \
                {authentication: {mode: required}, toEndpoints: [{}]}]}";
    let policy = parse(&cilium("CiliumNetworkPolicy", spec)).unwrap();
    let notes = policy.not_enforced();
    assert_eq!(notes.len(), 3, "{notes:?}");
    assert!(notes[0].starts_with("egress[0].toFQDNs: it allows nothing"));
    assert!(notes[1].starts_with("egress[1].toPorts: rules not enforced yet"));
    assert!(!policy.sections[0].egress[2].effective);
    let name = crate::Peer::Name("*.example.com".to_owned());
    assert_eq!(policy.sections[0].egress[0].peers, Some(vec![name]));
}

#[test]
fn rules_know_their_lines() {
    let text = "\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata:
  name: x
specs:
- endpointSelector: {}
  ingress:
    - fromEntities:
        - world
      # Not the others.
      toPorts:
        - ports: [{port: '80'}]

    - fromEntities: [host]
  egressDeny: [{toEntities: [all]},
    {toCIDR: [10.0.0.0/8]}]
- endpointSelector:
    matchLabels: {egress: a}
  egress:
  - toCIDR: [10.0.0.0/8]
";
    let policy = parse(text).unwrap();
    let lines = |section: usize, egress: bool| -> Vec<_> {
        let section = &policy.sections[section];
        let rules = if egress { &section.egress } else { &section.ingress };
        rules.iter().map(|rule| rule.lines.clone().unwrap()).collect()
    };
    assert_eq!(lines(0, false), [8..=12, 14..=14]);
    assert_eq!(lines(0, true), [15..=16, 15..=16]);
    assert_eq!(lines(1, true), [20..=20]);
}
