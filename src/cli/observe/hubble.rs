//! A flow as Hubble's JSON (`GetFlowsResponse` by protojson): names and order of the fields are
//! those of its proto files, defaults are left out, 64-bit numbers are text.

use serde::Serialize;

use super::reasons;
use super::row::{End, Row};

#[derive(Serialize)]
pub(super) struct Response<'a> {
    flow: Flow<'a>,
    #[serde(skip_serializing_if = "String::is_empty")]
    node_name: String,
    time: String,
}

#[derive(Serialize)]
struct Flow<'a> {
    time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    uuid: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    verdict: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    drop_reason: Option<u32>,
    #[serde(rename = "IP")]
    ip: Ip<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    l4: Option<Layer4>,
    source: Endpoint<'a>,
    destination: Endpoint<'a>,
    #[serde(rename = "Type")]
    kind: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    node_name: String,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    source_names: &'a [String],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    destination_names: &'a [String],
    event_type: EventType,
    #[serde(skip_serializing_if = "Option::is_none")]
    destination_service: Option<Service<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    traffic_direction: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_observation_point: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    drop_reason_desc: Option<&'a str>,
    is_reply: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    interface: Option<Interface<'a>>,
    #[serde(rename = "Summary")]
    summary: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    egress_allowed_by: Vec<Policy<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ingress_allowed_by: Vec<Policy<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    egress_denied_by: Vec<Policy<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ingress_denied_by: Vec<Policy<'a>>,
}

#[derive(Serialize)]
struct Ip<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    destination: Option<&'a str>,
    #[serde(rename = "ipVersion", skip_serializing_if = "Option::is_none")]
    version: Option<&'static str>,
}

#[derive(Serialize)]
enum Layer4 {
    #[serde(rename = "TCP")]
    Tcp {
        #[serde(flatten)]
        ports: Ports,
        #[serde(skip_serializing_if = "Option::is_none")]
        flags: Option<Flags>,
    },
    #[serde(rename = "UDP")]
    Udp(Ports),
    #[serde(rename = "SCTP")]
    Sctp(Ports),
    #[serde(rename = "ICMPv4")]
    Icmp4(Icmp),
    #[serde(rename = "ICMPv6")]
    Icmp6(Icmp),
}

#[derive(Serialize)]
struct Ports {
    #[serde(skip_serializing_if = "Option::is_none")]
    source_port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    destination_port: Option<u16>,
}

#[derive(Serialize)]
struct Icmp {
    #[serde(rename = "type", skip_serializing_if = "is_zero")]
    kind: u8,
    #[serde(skip_serializing_if = "is_zero")]
    code: u8,
}

#[derive(Serialize)]
#[serde(rename_all = "UPPERCASE")]
struct Flags {
    #[serde(skip_serializing_if = "is_false")]
    fin: bool,
    #[serde(skip_serializing_if = "is_false")]
    syn: bool,
    #[serde(skip_serializing_if = "is_false")]
    rst: bool,
    #[serde(skip_serializing_if = "is_false")]
    psh: bool,
    #[serde(skip_serializing_if = "is_false")]
    ack: bool,
    #[serde(skip_serializing_if = "is_false")]
    urg: bool,
    #[serde(skip_serializing_if = "is_false")]
    ece: bool,
    #[serde(skip_serializing_if = "is_false")]
    cwr: bool,
    #[serde(skip_serializing_if = "is_false")]
    ns: bool,
}

#[derive(Serialize)]
struct Endpoint<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    identity: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cluster_name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace: Option<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    labels: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pod_name: Option<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    workloads: Vec<Workload<'a>>,
}

#[derive(Serialize)]
struct Workload<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<&'a str>,
}

#[derive(Serialize)]
struct EventType {
    #[serde(rename = "type")]
    kind: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    sub_type: Option<u32>,
}

#[derive(Serialize)]
struct Service<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    namespace: &'a str,
}

#[derive(Serialize)]
struct Interface<'a> {
    name: &'a str,
}

#[derive(Serialize)]
struct Policy<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    revision: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<&'a str>,
}

#[derive(Serialize)]
struct LostResponse<'a> {
    lost_events: Lost<'a>,
    time: String,
}

#[derive(Serialize)]
struct Lost<'a> {
    source: &'static str,
    num_events_lost: String,
    /// Beyond Hubble: why.
    cause: &'a str,
}

// === impl Response ===

impl<'a> Response<'a> {
    pub(super) fn of(row: &'a Row) -> Self {
        let time = trimmed(&row.end_time);
        Self { flow: Flow::of(row), node_name: row.node_name(), time }
    }

    /// One line, as Go writes it.
    pub(super) fn line(&self) -> String {
        go(&serde_json::to_string(self).expect("plain fields always serialise"))
    }
}

/// The line that stands where flows are left out.
pub(super) fn lost_line(lost: u64, cause: &str, time: &str) -> String {
    let response = LostResponse {
        lost_events: Lost {
            source: "HUBBLE_RING_BUFFER",
            num_events_lost: lost.to_string(),
            cause,
        },
        time: trimmed(time),
    };
    go(&serde_json::to_string(&response).expect("plain fields always serialise"))
}

// === impl Flow ===

impl<'a> Flow<'a> {
    fn of(row: &'a Row) -> Self {
        let (source, destination) = (row.source(), row.destination());
        let cluster = row.cluster.as_deref();
        let point = row.point();
        let reason = row.drop_reason.as_deref().filter(|_| row.dropped());
        let number = reason.and_then(reasons::by_name).map(|(number, _)| number);
        // The kernel's own words are none of Hubble's.
        let desc = reason.filter(|_| number.is_some());
        let event_type = match (point, number) {
            (Some(point), _) => EventType {
                kind: 4,
                sub_type: Some(point.sub_type).filter(|sub_type| *sub_type != 0),
            },
            (None, number) => EventType { kind: 1, sub_type: number },
        };
        let policy = || row.policy_name.as_deref().map(|name| Policy::of(row, name));
        let egress = row.direction.as_deref() == Some("EGRESS");
        let by = |want_egress: bool, denied: bool| {
            policy().filter(|_| want_egress == egress && denied == row.dropped())
        };
        Self {
            time: trimmed(&row.end_time),
            uuid: row.flow_id.as_deref(),
            verdict: row.verdict.as_deref(),
            drop_reason: number,
            ip: Ip {
                source: source.ip,
                destination: destination.ip,
                version: match row.ip_version {
                    Some(4) => Some("IPv4"),
                    Some(6) => Some("IPv6"),
                    _ => None,
                },
            },
            l4: Layer4::of(row),
            source: Endpoint::of(source, cluster),
            destination: Endpoint::of(destination, cluster),
            kind: "L3_L4",
            node_name: row.node_name(),
            source_names: source.names,
            destination_names: destination.names,
            event_type,
            destination_service: destination
                .service
                .map(|(namespace, name)| Service { name, namespace }),
            traffic_direction: row.direction.as_deref(),
            trace_observation_point: point.map(|point| point.name),
            drop_reason_desc: desc,
            is_reply: false,
            interface: row.interface.as_deref().map(|name| Interface { name }),
            summary: row.summary(),
            egress_allowed_by: by(true, false).into_iter().collect(),
            ingress_allowed_by: by(false, false).into_iter().collect(),
            egress_denied_by: by(true, true).into_iter().collect(),
            ingress_denied_by: by(false, true).into_iter().collect(),
        }
    }
}

// === impl Layer4 ===

impl Layer4 {
    fn of(row: &Row) -> Option<Self> {
        let some = |port: Option<u16>| port.filter(|port| *port != 0);
        let ports = Ports {
            source_port: some(row.source_port),
            destination_port: some(row.destination_port),
        };
        let icmp = Icmp { kind: row.icmp_type.unwrap_or(0), code: row.icmp_code.unwrap_or(0) };
        Some(match row.protocol.as_deref()? {
            "TCP" => Self::Tcp { ports, flags: Flags::of(row) },
            "UDP" => Self::Udp(ports),
            "SCTP" => Self::Sctp(ports),
            "ICMPv4" => Self::Icmp4(icmp),
            "ICMPv6" => Self::Icmp6(icmp),
            _ => return None,
        })
    }
}

// === impl Flags ===

impl Flags {
    fn of(row: &Row) -> Option<Self> {
        let flags = row.flags();
        let has = |flag: &str| flags.contains(&flag);
        (!flags.is_empty()).then(|| Self {
            fin: has("FIN"),
            syn: has("SYN"),
            rst: has("RST"),
            psh: has("PSH"),
            ack: has("ACK"),
            urg: has("URG"),
            ece: has("ECE"),
            cwr: has("CWR"),
            ns: has("NS"),
        })
    }
}

// === impl Endpoint ===

impl<'a> Endpoint<'a> {
    fn of(end: End<'a>, cluster: Option<&'a str>) -> Self {
        // Hubble writes the source of a label before it.
        let labels = end.labels.iter().map(|label| match label.split_once('=') {
            Some((key, _)) if key.contains(':') => label.clone(),
            _ => format!("k8s:{label}"),
        });
        Self {
            identity: end.identity.filter(|identity| *identity != 0),
            cluster_name: cluster.filter(|_| end.pod.is_some()),
            namespace: end.namespace,
            labels: labels.collect(),
            pod_name: end.pod,
            workloads: end
                .workload
                .map(|name| Workload { name, kind: end.workload_kind })
                .into_iter()
                .collect(),
        }
    }
}

// === impl Policy ===

impl<'a> Policy<'a> {
    fn of(row: &'a Row, name: &'a str) -> Self {
        Self {
            name,
            namespace: row.policy_namespace.as_deref(),
            revision: row.policy_revision.map(|revision| revision.to_string()),
            kind: row.policy_kind.as_deref(),
        }
    }
}

/// A time with 0, 3, 6 or 9 digits of a second's fraction, as few as it needs.
fn trimmed(time: &str) -> String {
    let Some((seconds, fraction)) = time.trim_end_matches('Z').split_once('.') else {
        return time.to_owned();
    };
    let mut fraction = fraction;
    while fraction.len() >= 3 && fraction.ends_with("000") {
        fraction = &fraction[..fraction.len() - 3];
    }
    if fraction.is_empty() { format!("{seconds}Z") } else { format!("{seconds}.{fraction}Z") }
}

/// What Go's encoding/json writes differently; these characters stand in strings only.
fn go(json: &str) -> String {
    json.replace('&', "\\u0026")
        .replace('<', "\\u003c")
        .replace('>', "\\u003e")
        .replace('\u{2028}', "\\u2028")
        .replace('\u{2029}', "\\u2029")
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_zero(number: &u8) -> bool {
    *number == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_false(flag: &bool) -> bool {
    !*flag
}
