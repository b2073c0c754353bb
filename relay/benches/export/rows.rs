//! What a node has seen: the rows that both ways carry.

use columns::rows::{BatchBuilder, FlowEnd, FlowRow};

pub(crate) const NODE: &str = "node-3.example.internal";
const PODS: usize = 64;
/// Replicas of each workload.
const REPLICAS: usize = 4;
/// Beginning of the first reporting interval, nanoseconds since the epoch.
const BASE: i64 = 1_772_323_200_000_000_000;
/// The default reporting interval.
const INTERVAL: u64 = 10_000_000_000;

/// Pods of the node and their neighbours, and flows between them.
#[derive(Debug)]
pub(crate) struct Rows {
    pub(crate) parties: Vec<Party>,
    flows: Vec<Flow>,
    checksum: Checksum,
}

/// A pod, or who is outside.
#[derive(Debug, Default)]
pub(crate) struct Party {
    pub(crate) ip: String,
    pub(crate) identity: u32,
    pub(crate) namespace: String,
    pub(crate) pod: String,
    pub(crate) workload: String,
    pub(crate) labels: Vec<String>,
    pub(crate) names: Vec<String>,
    pub(crate) node: &'static str,
    pub(crate) interface: String,
    pub(crate) service: String,
}

#[derive(Debug)]
pub(crate) struct Flow {
    pub(crate) id: String,
    /// What Hubble names its flows by.
    pub(crate) uuid: String,
    pub(crate) seq: u32,
    pub(crate) start: i64,
    pub(crate) end: i64,
    pub(crate) source: usize,
    pub(crate) destination: usize,
    pub(crate) source_port: u16,
    pub(crate) destination_port: u16,
    pub(crate) tcp: bool,
    pub(crate) dropped: bool,
    pub(crate) closed: bool,
    packets: [u64; 2],
    bytes: [u64; 2],
    rtt_us: u64,
    connect_us: u64,
}

/// Whether all arrived, unchanged and once.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Checksum {
    flows: u64,
    ports: u64,
}

/// xorshift: the same rows each time.
struct Random(u64);

// === impl Rows ===

impl Rows {
    pub(crate) fn new(count: usize) -> Self {
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        let mut parties: Vec<Party> = (0..PODS).map(Party::pod).collect();
        parties.extend((0..PODS).map(Party::outside));
        let mut checksum = Checksum::default();
        let flows: Vec<Flow> = (0..count)
            .map(|row| {
                let flow = Flow::new(row as u64, &mut random);
                checksum.add(flow.source_port);
                flow
            })
            .collect();
        Self { parties, flows, checksum }
    }

    pub(crate) fn len(&self) -> usize {
        self.flows.len()
    }

    pub(crate) fn checksum(&self) -> Checksum {
        self.checksum
    }

    pub(crate) fn get(&self, row: usize) -> Option<&Flow> {
        self.flows.get(row)
    }

    pub(crate) fn chunk(&self, number: usize, length: usize) -> Option<&[Flow]> {
        self.flows.chunks(length).nth(number)
    }

    /// Appends a flow as the agent does.
    pub(crate) fn push(&self, flow: &Flow, builder: &mut BatchBuilder) {
        let (source, destination) = (&self.parties[flow.source], &self.parties[flow.destination]);
        FlowRow {
            flow_id: &flow.id,
            seq: flow.seq,
            start_time: flow.start,
            end_time: flow.end,
            cluster: "default",
            node: NODE,
            interface: &source.interface,
            reporter: "SOURCE",
            direction: "EGRESS",
            ip_version: 4,
            protocol: if flow.tcp { "TCP" } else { "UDP" },
            source_ip: &source.ip,
            source_port: Some(flow.source_port),
            destination_ip: &destination.ip,
            destination_port: Some(flow.destination_port),
            source: source.end(),
            destination: destination.end(),
            destination_service: &destination.service,
            destination_service_namespace: &destination.namespace,
            verdict: if flow.dropped { "DROPPED" } else { "FORWARDED" },
            drop_reason: if flow.dropped { "POLICY_DENIED" } else { "" },
            policy_kind: "NetworkPolicy",
            policy_namespace: &source.namespace,
            policy_name: &source.workload,
            policy_rule: Some(1),
            policy_revision: Some(7),
            packets_out: flow.packets[0],
            bytes_out: flow.bytes[0],
            packets_in: flow.packets[1],
            bytes_in: flow.bytes[1],
            tcp_flags: flow.flags(),
            tcp_state: match (flow.tcp, flow.closed) {
                (false, _) => "",
                (true, true) => "CLOSED",
                (true, false) => "ESTABLISHED",
            },
            retransmits: flow.tcp.then_some(0),
            rtt_us: flow.tcp.then_some(flow.rtt_us),
            connect_us: flow.tcp.then_some(flow.connect_us),
            closed: flow.closed,
            close_reason: if flow.closed { "FIN" } else { "" },
            ..FlowRow::default()
        }
        .push(builder);
    }
}

// === impl Party ===

impl Party {
    fn pod(number: usize) -> Self {
        let (workload, replica) = (number / REPLICAS, number % REPLICAS);
        let namespace = format!("team-{}", workload % 4);
        let hash = 0x5d4f_8c9b_u32.wrapping_mul(workload as u32 + 1);
        let workload = format!("workload-{workload}");
        Self {
            ip: format!("10.244.3.{}", 10 + number),
            identity: 20_000 + (number / REPLICAS) as u32,
            pod: format!("{workload}-{hash:08x}-{:05x}", hash.rotate_left(replica as u32) >> 12),
            labels: vec![
                format!("app.kubernetes.io/instance={workload}-prod"),
                "app.kubernetes.io/managed-by=Helm".to_owned(),
                format!("app.kubernetes.io/name={workload}"),
                format!("app.kubernetes.io/version=2.7.{replica}"),
                format!("pod-template-hash={hash:08x}"),
                format!("team={namespace}"),
            ],
            names: Vec::new(),
            node: if replica < 2 { NODE } else { "node-4.example.internal" },
            interface: format!("lxc{:08x}", hash ^ replica as u32),
            service: workload.clone(),
            namespace,
            workload,
        }
    }

    fn outside(number: usize) -> Self {
        Self {
            ip: format!("203.0.113.{number}"),
            // `world`
            identity: 2,
            names: vec![format!("api-{number}.example.com")],
            ..Self::default()
        }
    }

    /// What owns the pod.
    pub(crate) fn kind(&self) -> &'static str {
        if self.workload.is_empty() { "" } else { "Deployment" }
    }

    fn end(&self) -> FlowEnd<'_> {
        FlowEnd {
            identity: Some(self.identity),
            namespace: &self.namespace,
            pod: &self.pod,
            workload: &self.workload,
            workload_kind: self.kind(),
            labels: &self.labels,
            names: &self.names,
            node: self.node,
        }
    }
}

// === impl Flow ===

impl Flow {
    /// Few pairs have most of the flows; one flow in 16 leaves the cluster.
    fn new(row: u64, random: &mut Random) -> Self {
        let id = format!("{:016x}", random.next());
        let hex = format!("{:032x}", u128::from(random.next()) << 64 | u128::from(random.next()));
        let uuid = [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-");
        let source = random.skewed(PODS as u64) as usize;
        let near = (source * 7 + random.skewed(12) as usize) % PODS;
        let outside = random.below(16) == 0;
        let destination = if outside { PODS + random.skewed(PODS as u64) as usize } else { near };
        // 20 000 rows an interval.
        let start = BASE as u64 + row / 20_000 * INTERVAL + random.below(INTERVAL / 2);
        let packets = [2 + random.skewed(1000), 2 + random.skewed(1000)];
        Self {
            id,
            uuid,
            seq: random.skewed(20) as u32,
            start: start as i64,
            end: (start + random.below(INTERVAL / 2)) as i64,
            source,
            destination,
            source_port: 32_768 + random.below(28_000) as u16,
            destination_port: [80, 443, 53, 5432, 6379, 8080][random.below(6) as usize],
            tcp: random.below(8) != 0,
            dropped: random.below(50) == 0,
            closed: random.below(3) != 0,
            packets,
            bytes: packets.map(|count| count * (60 + random.below(1400))),
            rtt_us: 100 + random.skewed(100_000),
            connect_us: 100 + random.skewed(1000),
        }
    }

    pub(crate) fn flags(&self) -> &'static [&'static str] {
        match (self.tcp, self.closed) {
            (false, _) => &[],
            (true, true) => &["FIN", "SYN", "PSH", "ACK"],
            (true, false) => &["SYN", "PSH", "ACK"],
        }
    }
}

// === impl Checksum ===

impl Checksum {
    pub(crate) fn add(&mut self, port: u16) {
        self.flows += 1;
        self.ports += u64::from(port);
    }
}

// === impl Random ===

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    /// Below `n`, small numbers far more often.
    fn skewed(&mut self, n: u64) -> u64 {
        let fraction = (self.next() >> 11) as f64 / (1_u64 << 53) as f64;
        ((n as f64).powf(fraction) - 1.0) as u64
    }
}
