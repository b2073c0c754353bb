use columns::Table;
use columns::rows::{BatchBuilder, FlowEnd, FlowRow};

use super::*;
use crate::filter::condition::Glob;

fn sql(pairs: &[(&str, &str)]) -> String {
    let filters = Filters::parse(pairs.iter().copied(), &[]).unwrap();
    filters.sql().unwrap_or_default().replace("\n  AND ", " AND ")
}

#[test]
fn filters_as_sql() {
    let check = |pairs: &[(&str, &str)], expected: &str| assert_eq!(sql(pairs), expected);
    check(&[], "");
    check(
        &[("namespace", "shop")],
        "(source_namespace = 'shop' OR destination_namespace = 'shop')",
    );
    check(
        &[("source_pod", "shop/web-"), ("source_pod", "db")],
        "((source_namespace = 'shop' AND starts_with(source_pod, 'web-')) OR starts_with(source_pod, 'db'))",
    );
    check(&[("destination_pod", "shop/")], "destination_namespace = 'shop'");
    check(
        &[("destination_workload", "Deployment/web"), ("-destination_workload", "shop/web")],
        "(destination_workload_kind = 'Deployment' AND destination_workload = 'web') \
         AND ((destination_namespace = 'shop' AND destination_workload = 'web')) IS NOT TRUE",
    );
    check(&[("source_ip", "10.0.0.7")], "source_ip = '10.0.0.7'");
    check(&[("source_ip", "10.0.0.7/8")], "cidr_contains('10.0.0.7/8', source_ip)");
    check(&[("source_ip", "2001:DB8::0:1")], "source_ip = '2001:db8::1'");
    check(
        &[("destination_port", "80"), ("destination_port", "443")],
        "(destination_port = 80 OR destination_port = 443)",
    );
    check(
        &[("protocol", "icmp"), ("verdict", "dropped")],
        "(protocol = 'ICMPv4' OR protocol = 'ICMPv6') AND verdict = 'DROPPED'",
    );
    check(&[("-verdict", "FORWARDED")], "(verdict = 'FORWARDED') IS NOT TRUE");
    check(
        &[("source_label", "app=web,!canary")],
        "(array_has(source_labels, 'app=web') \
         AND (strpos(concat(' ', array_to_string(source_labels, ' ')), ' canary=') > 0) IS NOT TRUE)",
    );
    check(
        &[("source_label", "k8s:app in (a, b)")],
        "(array_has(source_labels, 'app=a') OR array_has(source_labels, 'app=b'))",
    );
    check(&[("source_label", "reserved:world")], "source_identity = 2");
    check(&[("destination_identity", "kube-apiserver")], "destination_identity = 7");
    check(&[("tcp_flags", "syn,ack")], "array_has_all(tcp_flags, ['SYN', 'ACK'])");
    check(
        &[("service", "shop/cart*")],
        "(destination_service_namespace = 'shop' AND starts_with(destination_service, 'cart'))",
    );
    check(&[("node", "*-a")], "node LIKE '%-a'");
    check(&[("process", "a_b*c")], "process_name LIKE 'a\\_b%c'");
    check(&[("reporter", "all")], "");
    check(
        &[("reporter", "source"), ("reporter", "HOST")],
        "(reporter = 'SOURCE' OR reporter = 'HOST')",
    );
    check(
        &[("source_name", "*.Example.com.")],
        "regexp_like(array_to_string(source_names, ' '), '(^| )[^ ]*\\x{2e}example\\x{2e}com( |$)')",
    );
}

/// Whatever stands in a value stays inside its literal.
#[test]
fn injections_stay_literals() {
    for text in [
        "x' OR '1'='1",
        "'; DROP TABLE flows; --",
        "\\' OR 1=1 --",
        "a\u{0}b'",
        "''''",
        "$1",
        "/* ' */",
        "\u{2019} OR 1=1",
    ] {
        for (name, _) in NAMES {
            let mut filters = Filters::new();
            if filters.add(name, text).is_err() {
                continue;
            }
            let Some(sql) = filters.sql() else { continue };
            // Outside of literals only what the program itself writes is left.
            let mut outside = String::new();
            let mut inside = false;
            for c in sql.chars() {
                if c == '\'' {
                    inside = !inside;
                } else if !inside {
                    outside.push(c);
                }
            }
            assert!(!inside, "{name}: {sql}");
            let known = |c: char| c.is_ascii_alphanumeric() || " _(),=[]%>".contains(c);
            assert!(outside.chars().all(known), "{name}={text:?}: {outside}");
            assert!(!outside.contains("DROP") && !outside.contains("1=1"), "{name}: {outside}");
        }
    }
}

#[test]
fn mistakes_are_told() {
    for (name, value) in [
        ("nonsense", "x"),
        ("port", "99999"),
        ("port", ""),
        ("ip", "10.0.0.0/33"),
        ("ip", "example.com"),
        ("verdict", "MAYBE"),
        ("protocol", "http"),
        ("flow_id", "12"),
        ("name", "a b"),
        ("label", "a=b c"),
        ("label", ""),
        ("identity", "nobody"),
        ("tcp_flags", "SYN,NOPE"),
        ("reporter", "me"),
        ("ip_version", "v"),
    ] {
        let error = Filters::new().add(name, value).unwrap_err().to_string();
        assert!(error.contains(name), "{error}");
    }
}

#[test]
fn globs() {
    let check = |pattern: &str, text: &str, expected: bool| {
        assert_eq!(Glob::new(pattern).matches(text), expected, "{pattern} {text}");
    };
    check("*", "", true);
    check("a*c", "abbc", true);
    check("a*c", "abcd", false);
    check("*.example.com", "a.b.example.com", true);
    check("*.example.com", "example.com", false);
    check("a*b*c", "axxbyyc", true);
    check("a*b*c", "axxcyyb", false);
    check("abc", "abc", true);
    check("abc", "ab", false);
}

#[test]
fn live_rows_are_tested() {
    let labels = ["app=web".to_owned(), "tier=1".to_owned()];
    let names = ["api.example.com".to_owned()];
    let mut builder = BatchBuilder::new(Table::Flows);
    let web = FlowEnd { namespace: "shop", pod: "web-1", labels: &labels, ..FlowEnd::default() };
    let out = FlowEnd { identity: Some(2), names: &names, ..FlowEnd::default() };
    FlowRow {
        flow_id: "00000000000000aa",
        source_ip: "10.0.0.1",
        destination_ip: "192.0.2.7",
        destination_port: Some(443),
        protocol: "TCP",
        verdict: "FORWARDED",
        tcp_flags: &["SYN", "ACK"],
        source: web,
        destination: out,
        ..FlowRow::default()
    }
    .push(&mut builder);
    FlowRow { flow_id: "00000000000000bb", verdict: "DROPPED", ..FlowRow::default() }
        .push(&mut builder);
    let batch = builder.finish();
    let check = |pairs: &[(&str, &str)], expected: [bool; 2]| {
        let filters = Filters::parse(pairs.iter().copied(), &[]).unwrap();
        assert_eq!(filters.matcher().test(&batch), expected, "{pairs:?}");
    };
    check(&[], [true, true]);
    check(&[("pod", "shop/web")], [true, false]);
    check(&[("-pod", "shop/web")], [false, true]);
    check(&[("ip", "192.0.2.0/24")], [true, false]);
    check(&[("ip", "192.0.2.0/29"), ("port", "80")], [false, false]);
    check(&[("name", "*.example.com")], [true, false]);
    check(&[("label", "app=web,tier")], [true, false]);
    check(&[("source_label", "app!=web")], [false, true]);
    check(&[("identity", "world")], [true, false]);
    check(&[("tcp_flags", "ACK")], [true, false]);
    check(&[("tcp_flags", "ACK,FIN")], [false, false]);
    check(&[("verdict", "DROPPED"), ("verdict", "FORWARDED")], [true, true]);
    check(&[("flow_id", "00000000000000BB")], [false, true]);
}
