use super::*;

fn row() -> Row {
    serde_json::from_value(serde_json::json!({
        "flow_id": "00000000000000aa", "seq": 0,
        "start_time": "2026-05-04T13:23:40.000000000Z", "end_time": "2026-05-04T13:23:40.501000000Z",
        "cluster": "default", "node": "k8s1", "interface": "lxc1", "reporter": "DESTINATION",
        "direction": "INGRESS", "ip_version": 4, "protocol": "TCP",
        "source_ip": "10.0.0.1", "source_port": 42690, "source_identity": 21212,
        "source_namespace": "default", "source_pod": "tiefighter", "source_workload": "tiefighter",
        "source_workload_kind": "Deployment", "source_labels": ["class=tiefighter"],
        "destination_ip": "10.0.0.2", "destination_port": 80, "destination_identity": 30004,
        "destination_namespace": "default", "destination_pod": "deathstar-6c94dcc57b-jmnxg",
        "destination_service": "deathstar", "destination_service_namespace": "default",
        "verdict": "FORWARDED", "tcp_flags": ["ACK", "SYN"], "drop_reason": null
    }))
    .unwrap()
}

fn outside() -> Row {
    Row {
        flow_id: Some("bb".to_owned()),
        end_time: "1970-01-01T00:20:34.567800000Z".to_owned(),
        node: Some("k8s1".to_owned()),
        cluster: Some("prod".to_owned()),
        direction: Some("EGRESS".to_owned()),
        protocol: Some("TCP".to_owned()),
        source_ip: Some("1.1.1.1".to_owned()),
        source_port: Some(31793),
        source_identity: Some(4),
        destination_ip: Some("2.2.2.2".to_owned()),
        destination_port: Some(8080),
        destination_identity: Some(12345),
        verdict: Some("DROPPED".to_owned()),
        drop_reason: Some("POLICY_DENIED".to_owned()),
        tcp_flags: Some(vec!["SYN".to_owned()]),
        ..Row::default()
    }
}

fn printer(output: Output) -> Printer {
    Printer::new(output, TimeFormat::StampMilli, false, false, false, false)
}

/// The lines that Hubble's own printer makes (its golden tests), where we have the facts.
#[test]
fn compact() {
    let mut plain = printer(Output::Compact);
    assert_eq!(
        plain.flow(&row()),
        "May  4 13:23:40.501: default/tiefighter:42690 (ID:21212) -> default/deathstar-6c94dcc57b-jmnxg:80 (ID:30004) to-endpoint FORWARDED (TCP Flags: SYN, ACK)\n"
    );
    assert_eq!(
        plain.flow(&outside()),
        "Jan  1 00:20:34.567: 1.1.1.1:31793 (health) -> 2.2.2.2:8080 (ID:12345) Policy denied DROPPED (TCP Flags: SYN)\n"
    );
    plain.node_name = true;
    plain.numeric = true;
    assert_eq!(
        plain.flow(&row()),
        "May  4 13:23:40.501 [k8s1]: 10.0.0.1:42690 (ID:21212) -> 10.0.0.2:80 (ID:30004) to-endpoint FORWARDED (TCP Flags: SYN, ACK)\n"
    );
    assert!(plain.flow(&outside()).starts_with("Jan  1 00:20:34.567 [prod/k8s1]: "));
}

#[test]
fn compact_with_little_known() {
    let mut plain = printer(Output::Compact);
    let bare = Row {
        end_time: "2026-05-04T13:23:40.700000000Z".to_owned(),
        reporter: Some("HOST".to_owned()),
        direction: Some("EGRESS".to_owned()),
        protocol: Some("ICMPv6".to_owned()),
        icmp_type: Some(133),
        source_ip: Some("fe80::1".to_owned()),
        destination_ip: Some("ff02::2".to_owned()),
        verdict: Some("FORWARDED".to_owned()),
        ..Row::default()
    };
    assert_eq!(
        plain.flow(&bare),
        "May  4 13:23:40.700: fe80::1 (unknown) -> ff02::2 (unknown) to-network FORWARDED (ICMPv6 RouterSolicitation)\n"
    );
    let six = Row {
        source_ip: Some("::1".to_owned()),
        source_port: Some(80),
        destination_names: Some(vec!["a.example".to_owned(), "b\u{1b}[31m".to_owned()]),
        destination_port: Some(443),
        destination_identity: Some(2),
        protocol: Some("UDP".to_owned()),
        ..bare
    };
    assert_eq!(
        plain.flow(&six),
        "May  4 13:23:40.700: [::1]:80 (unknown) -> a.example,b^[[31m:443 (world) to-network FORWARDED (UDP)\n"
    );
}

/// A drop of the kernel that belongs to no connection that is known.
#[test]
fn kernel_drops() {
    let drop: Row = serde_json::from_value(serde_json::json!({
        "flow_id": null, "end_time": "2026-05-04T13:23:40.700000000Z", "protocol": "TCP",
        "source_ip": "10.0.0.1", "source_port": 4000, "destination_ip": "10.0.0.2",
        "destination_port": 81, "verdict": "DROPPED", "drop_reason": "NO_SOCKET"
    }))
    .unwrap();
    assert_eq!(
        printer(Output::Compact).flow(&drop),
        "May  4 13:23:40.700: 10.0.0.1:4000 (unknown) -> 10.0.0.2:81 (unknown) NO_SOCKET DROPPED (TCP)\n"
    );
    let json: serde_json::Value = serde_json::from_str(&printer(Output::Json).flow(&drop)).unwrap();
    assert_eq!(json["flow"]["event_type"], serde_json::json!({"type": 1}));
    assert!(json["flow"].get("drop_reason_desc").is_none() && json["flow"].get("uuid").is_none());
}

#[test]
fn colours_and_policies() {
    let mut colourful =
        Printer::new(Output::Compact, TimeFormat::Rfc3339, false, true, false, true);
    let denied = Row {
        policy_name: Some("db-only-api".to_owned()),
        policy_kind: Some("NetworkPolicy".to_owned()),
        ..outside()
    };
    assert_eq!(
        colourful.flow(&denied),
        "1970-01-01T00:20:34Z: \u{1b}[36m1.1.1.1\u{1b}[0m:\u{1b}[33m31793\u{1b}[0m \u{1b}[35m(health)\u{1b}[0m -> \
         \u{1b}[36m2.2.2.2\u{1b}[0m:\u{1b}[33m8080\u{1b}[0m \u{1b}[35m(ID:12345)\u{1b}[0m Policy denied \
         \u{1b}[31mDROPPED\u{1b}[0m BY db-only-api (NetworkPolicy) (TCP Flags: SYN)\n"
    );
}

#[test]
fn table() {
    let mut table = printer(Output::Table);
    assert_eq!(table.flow(&outside()), "");
    assert_eq!(
        table.end(),
        "TIMESTAMP             SOURCE          DESTINATION    TYPE            VERDICT   SUMMARY\n\
         Jan  1 00:20:34.567   1.1.1.1:31793   2.2.2.2:8080   Policy denied   DROPPED   TCP Flags: SYN\n"
    );
}

#[test]
fn dict() {
    let mut dict = printer(Output::Dict);
    assert_eq!(
        dict.flow(&outside()),
        "  TIMESTAMP: Jan  1 00:20:34.567\n     SOURCE: 1.1.1.1:31793\nDESTINATION: 2.2.2.2:8080\n\
         \x20      TYPE: Policy denied\n    VERDICT: DROPPED\n    SUMMARY: TCP Flags: SYN\n"
    );
    assert!(dict.flow(&outside()).starts_with("------------\n  TIMESTAMP"));
}

#[test]
fn json() {
    let mut json = printer(Output::Json);
    assert_eq!(
        json.flow(&outside()),
        concat!(
            r#"{"flow":{"time":"1970-01-01T00:20:34.567800Z","uuid":"bb","verdict":"DROPPED","drop_reason":133,"#,
            r#""IP":{"source":"1.1.1.1","destination":"2.2.2.2"},"#,
            r#""l4":{"TCP":{"source_port":31793,"destination_port":8080,"flags":{"SYN":true}}},"#,
            r#""source":{"identity":4},"destination":{"identity":12345},"Type":"L3_L4","node_name":"prod/k8s1","#,
            r#""event_type":{"type":1,"sub_type":133},"traffic_direction":"EGRESS","drop_reason_desc":"POLICY_DENIED","#,
            r#""is_reply":false,"Summary":"TCP Flags: SYN"},"node_name":"prod/k8s1","time":"1970-01-01T00:20:34.567800Z"}"#,
            "\n"
        )
    );
    let forwarded: serde_json::Value = serde_json::from_str(&json.flow(&row())).unwrap();
    let flow = &forwarded["flow"];
    assert_eq!(flow["event_type"], serde_json::json!({"type": 4}));
    assert_eq!(flow["trace_observation_point"], "TO_ENDPOINT");
    assert_eq!(flow["source"]["labels"][0], "k8s:class=tiefighter");
    assert_eq!(flow["source"]["workloads"][0]["kind"], "Deployment");
    assert_eq!(flow["destination_service"]["name"], "deathstar");
    assert_eq!(flow["interface"]["name"], "lxc1");
    assert_eq!(forwarded["node_name"], "k8s1");
    let odd = Row { node: Some("a<b>&c".to_owned()), ..outside() };
    assert!(json.flow(&odd).contains(r"a\u003cb\u003e\u0026c"));
}

#[test]
fn losses() {
    let now = "2026-05-04T13:23:40.700000000Z";
    assert_eq!(
        printer(Output::Compact).lost(7, "behind", now),
        "May  4 13:23:40.700 EVENTS LOST: 7 (behind)\n"
    );
    assert_eq!(
        printer(Output::Json).lost(7, "behind", now),
        "{\"lost_events\":{\"source\":\"HUBBLE_RING_BUFFER\",\"num_events_lost\":\"7\",\"cause\":\"behind\"},\"time\":\"2026-05-04T13:23:40.700Z\"}\n"
    );
}

#[test]
fn times() {
    let check = |format: TimeFormat, expected: &str| {
        assert_eq!(format.text("2026-11-24T22:04:05.123456789Z"), expected);
    };
    check(TimeFormat::StampMilli, "Nov 24 22:04:05.123");
    check(TimeFormat::YearMonthDay, "2026-11-24");
    check(TimeFormat::YearMonthDayHour, "2026-11-24T22Z");
    check(TimeFormat::YearMonthDayHourMinute, "2026-11-24T22:04Z");
    check(TimeFormat::Rfc3339, "2026-11-24T22:04:05Z");
    check(TimeFormat::Rfc3339Micro, "2026-11-24T22:04:05.123456Z");
    check(TimeFormat::Rfc3339Nano, "2026-11-24T22:04:05.123456789Z");
    check(TimeFormat::Rfc1123Z, "Tue, 24 Nov 2026 22:04:05 +0000");
    assert_eq!(TimeFormat::Rfc3339.text("?"), "N/A");
}
