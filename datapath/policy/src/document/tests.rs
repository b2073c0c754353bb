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
