//! A row of `flows` as the API gives it.

use serde::Deserialize;

/// The columns that are printed; what is unknown is left out or null.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct Row {
    pub(super) flow_id: Option<String>,
    pub(super) seq: Option<u32>,
    pub(super) end_time: String,
    pub(super) cluster: Option<String>,
    pub(super) node: Option<String>,
    pub(super) interface: Option<String>,
    pub(super) reporter: Option<String>,
    pub(super) direction: Option<String>,
    pub(super) ip_version: Option<u8>,
    pub(super) protocol: Option<String>,
    pub(super) source_ip: Option<String>,
    pub(super) source_port: Option<u16>,
    pub(super) source_identity: Option<u32>,
    pub(super) source_namespace: Option<String>,
    pub(super) source_pod: Option<String>,
    pub(super) source_workload: Option<String>,
    pub(super) source_workload_kind: Option<String>,
    pub(super) source_labels: Option<Vec<String>>,
    pub(super) source_names: Option<Vec<String>>,
    pub(super) destination_ip: Option<String>,
    pub(super) destination_port: Option<u16>,
    pub(super) destination_identity: Option<u32>,
    pub(super) destination_namespace: Option<String>,
    pub(super) destination_pod: Option<String>,
    pub(super) destination_workload: Option<String>,
    pub(super) destination_workload_kind: Option<String>,
    pub(super) destination_labels: Option<Vec<String>>,
    pub(super) destination_names: Option<Vec<String>>,
    pub(super) destination_service: Option<String>,
    pub(super) destination_service_namespace: Option<String>,
    pub(super) verdict: Option<String>,
    pub(super) drop_reason: Option<String>,
    pub(super) policy_kind: Option<String>,
    pub(super) policy_namespace: Option<String>,
    pub(super) policy_name: Option<String>,
    pub(super) policy_revision: Option<u64>,
    pub(super) tcp_flags: Option<Vec<String>>,
    pub(super) icmp_type: Option<u8>,
    pub(super) icmp_code: Option<u8>,
}

/// What tells a row from every other.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    flow_id: Option<String>,
    end_time: String,
    node: Option<String>,
    interface: Option<String>,
    seq: Option<u32>,
}

/// One end of a flow.
#[derive(Debug, Clone, Copy)]
pub(super) struct End<'a> {
    pub(super) ip: Option<&'a str>,
    pub(super) port: Option<u16>,
    pub(super) identity: Option<u32>,
    pub(super) namespace: Option<&'a str>,
    pub(super) pod: Option<&'a str>,
    pub(super) workload: Option<&'a str>,
    pub(super) workload_kind: Option<&'a str>,
    pub(super) labels: &'a [String],
    pub(super) names: &'a [String],
    /// Namespace and name of the service that was called.
    pub(super) service: Option<(&'a str, &'a str)>,
}

/// Where a flow was seen, as Hubble's trace observation points: datapath number, number in the
/// API, name in the API, name on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Point {
    pub(super) sub_type: u32,
    pub(super) name: &'static str,
    pub(super) text: &'static str,
}

const TO_ENDPOINT: Point = Point { sub_type: 0, name: "TO_ENDPOINT", text: "to-endpoint" };
const TO_STACK: Point = Point { sub_type: 3, name: "TO_STACK", text: "to-stack" };
const FROM_NETWORK: Point = Point { sub_type: 10, name: "FROM_NETWORK", text: "from-network" };
const TO_NETWORK: Point = Point { sub_type: 11, name: "TO_NETWORK", text: "to-network" };

/// TCP flags in the order that Hubble prints them.
pub(super) const FLAGS: [&str; 9] = ["SYN", "ACK", "RST", "FIN", "PSH", "URG", "ECE", "CWR", "NS"];

// === impl Row ===

impl Row {
    pub(super) fn source(&self) -> End<'_> {
        End {
            ip: self.source_ip.as_deref(),
            port: self.source_port,
            identity: self.source_identity,
            namespace: self.source_namespace.as_deref(),
            pod: self.source_pod.as_deref(),
            workload: self.source_workload.as_deref(),
            workload_kind: self.source_workload_kind.as_deref(),
            labels: self.source_labels.as_deref().unwrap_or_default(),
            names: self.source_names.as_deref().unwrap_or_default(),
            service: None,
        }
    }

    pub(super) fn destination(&self) -> End<'_> {
        let service = self.destination_service.as_deref();
        let space = self.destination_service_namespace.as_deref().unwrap_or_default();
        End {
            ip: self.destination_ip.as_deref(),
            port: self.destination_port,
            identity: self.destination_identity,
            namespace: self.destination_namespace.as_deref(),
            pod: self.destination_pod.as_deref(),
            workload: self.destination_workload.as_deref(),
            workload_kind: self.destination_workload_kind.as_deref(),
            labels: self.destination_labels.as_deref().unwrap_or_default(),
            names: self.destination_names.as_deref().unwrap_or_default(),
            service: service.map(|name| (space, name)),
        }
    }

    pub(super) fn dropped(&self) -> bool {
        matches!(self.verdict.as_deref(), Some("DROPPED" | "ERROR"))
    }

    /// Where it was seen; `None` for what was dropped.
    pub(super) fn point(&self) -> Option<Point> {
        let ingress = self.direction.as_deref() == Some("INGRESS");
        let host = self.reporter.as_deref() == Some("HOST");
        match (self.dropped(), host, ingress) {
            (true, ..) => None,
            (_, true, true) => Some(FROM_NETWORK),
            (_, true, false) => Some(TO_NETWORK),
            (_, false, true) => Some(TO_ENDPOINT),
            (_, false, false) => Some(TO_STACK),
        }
    }

    /// The flags that were seen, in Hubble's order.
    pub(super) fn flags(&self) -> Vec<&'static str> {
        let seen = self.tcp_flags.as_deref().unwrap_or_default();
        FLAGS.into_iter().filter(|flag| seen.iter().any(|one| one == flag)).collect()
    }

    /// Hubble's `Summary`: what is known of the last layer.
    pub(super) fn summary(&self) -> String {
        match self.protocol.as_deref() {
            Some("TCP") if self.flags().is_empty() => "TCP".to_owned(),
            Some("TCP") => format!("TCP Flags: {}", self.flags().join(", ")),
            Some(icmp @ ("ICMPv4" | "ICMPv6")) => {
                let kind = self.icmp_type.and_then(|kind| icmp_type(icmp, kind));
                kind.map_or_else(|| icmp.to_owned(), |kind| format!("{icmp} {kind}"))
            }
            Some(other) => other.to_owned(),
            None => match self.ip_version {
                Some(6) => "IPv6".to_owned(),
                _ => "IPv4".to_owned(),
            },
        }
    }

    /// `cluster/node`, or the node alone in the default cluster.
    pub(super) fn node_name(&self) -> String {
        let node = self.node.as_deref().unwrap_or_default();
        match self.cluster.as_deref() {
            Some(cluster) if !matches!(cluster, "" | "default") => format!("{cluster}/{node}"),
            _ => node.to_owned(),
        }
    }

    /// What tells this row from every other.
    pub(super) fn key(&self) -> Key {
        Key {
            flow_id: self.flow_id.clone(),
            end_time: self.end_time.clone(),
            node: self.node.clone(),
            interface: self.interface.clone(),
            seq: self.seq,
        }
    }
}

/// Names of gopacket, which Hubble prints.
fn icmp_type(protocol: &str, kind: u8) -> Option<&'static str> {
    Some(match (protocol, kind) {
        ("ICMPv4", 0) => "EchoReply",
        ("ICMPv4", 3) => "DestinationUnreachable",
        ("ICMPv4", 5) => "Redirect",
        ("ICMPv4", 8) => "EchoRequest",
        ("ICMPv4", 11) => "TimeExceeded",
        ("ICMPv6", 1) => "DestinationUnreachable",
        ("ICMPv6", 2) => "PacketTooBig",
        ("ICMPv6", 3) => "TimeExceeded",
        ("ICMPv6", 128) => "EchoRequest",
        ("ICMPv6", 129) => "EchoReply",
        ("ICMPv6", 133) => "RouterSolicitation",
        ("ICMPv6", 134) => "RouterAdvertisement",
        ("ICMPv6", 135) => "NeighborSolicitation",
        ("ICMPv6", 136) => "NeighborAdvertisement",
        _ => return None,
    })
}
