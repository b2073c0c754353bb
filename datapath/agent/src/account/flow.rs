//! Rows of `flows`: a connection's counters, told in words.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::LazyLock;

use columns::Table;
use columns::rows::FlowRow;
use datapath_abi::conn::{ConnKey, ConnValue};
use datapath_abi::policy::{AUDIT, NO_ORIGIN, UNJUDGED};
use datapath_abi::reported::TOTALS;
use datapath_abi::service::ReplyKey;
use datapath_policy::octets;
use model::{DropReason, FlowId, Protocol, Verdict};

use super::batch::Batch;
use super::book::{Account, PER_DIRECTION};
use super::denied::Denied;
use super::expiry::Close;
use super::origin::Origins;
use crate::drops;
use crate::kernel::Kernel;
use crate::metrics::{Metrics, state_name};
use crate::process::ProcessName;
use crate::view::ports::Port;
use crate::view::{Ends, Reached, View};

/// What one row says, beside what is known of the connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Interval {
    /// What moved.
    pub(super) delta: [u64; TOTALS],
    /// Rows before this one.
    pub(super) seq: u32,
    /// Nanoseconds since the epoch.
    pub(super) start: i64,
    /// Nanoseconds since the epoch.
    pub(super) end: i64,
    /// Set for the last row.
    pub(super) close: Option<Close>,
    /// The row is for the connection that had the tuple before the one in the value.
    pub(super) before: bool,
}

/// Writes rows; holds the buffers that they are spelled in.
#[derive(Debug, Default)]
pub(super) struct Writer {
    source: String,
    destination: String,
    backend: String,
}

/// What rows are written from.
pub(super) struct Sources<'a> {
    pub(super) view: &'a mut View,
    pub(super) kernel: &'a dyn Kernel,
    pub(super) metrics: &'a Metrics,
    pub(super) denied: &'a Denied,
    pub(super) origins: &'a mut Origins,
    pub(super) now: i64,
}

/// Names of every combination of TCP flags (RFC 9293, 3.1), so that a row only borrows them.
static FLAGS: LazyLock<Vec<Vec<&'static str>>> = LazyLock::new(|| {
    const NAMES: [&str; 8] = ["FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR"];
    let names = |bits: usize| (0..8).filter(move |bit| bits >> bit & 1 == 1).map(|bit| NAMES[bit]);
    (0..256).map(|bits| names(bits).collect()).collect()
});

// === impl Writer ===

impl Writer {
    /// Appends one row to `batch`.
    pub(super) fn write(
        &mut self,
        sources: &mut Sources<'_>,
        batch: &mut Batch,
        key: &ConnKey,
        value: &ConnValue,
        account: &mut Account,
        interval: &Interval,
    ) {
        let client = if interval.before { account.memory.client } else { value.client };
        let mut ends = Ends::of(key, client);
        let reached = Reached::of(key, value).filter(|_| !interval.before);
        // A socket that was connected to a backend at once: its packets have never seen the frontend.
        let at_once = match reached {
            None if !interval.before => asked(sources.kernel, value.cookie, &ends),
            _ => None,
        };
        let reached = reached.unwrap_or(Reached {
            source: (ends.source, ends.source_port),
            destination: (ends.destination, ends.destination_port),
            balanced: at_once.is_some(),
        });
        // As the client sent them.
        (ends.source, ends.source_port) = reached.source;
        if let Some(frontend) = at_once {
            (ends.destination, ends.destination_port) = frontend;
        }
        find_names(sources, account, &ends);
        find_process(sources, key, value, account, &ends);

        let judged = value.verdict != UNJUDGED && !interval.before;
        let number = if judged { value.origin } else { NO_ORIGIN };
        let origin = sources.origins.words(sources.kernel, number);
        let view = &*sources.view;
        let unknown = Port::default();
        let port = view.ports.get(key.ifindex()).unwrap_or(&unknown);
        let (reporter, direction) = port.role(&ends, &view.directory);
        let first = interval.seq == 0;
        let judged = Judged::of(sources, key, value, &ends, interval);
        let forwarded = judged.verdict != Verdict::Dropped;
        sources.metrics.flow(key.protocol(), reporter, ends.destination_port, first, forwarded);

        spell(&mut self.source, ends.source);
        spell(&mut self.destination, ends.destination);
        let initial_seq =
            if interval.before { account.memory.initial_seq } else { value.initial_seq };
        // Of the ends as they reach each other: so it is the same wherever the connection passes.
        let flow = FlowId::new(key.protocol(), reached.source, reached.destination, initial_seq);
        let source = party(view, port, ends.source, ends.enters);
        let destination = party(view, port, reached.destination.0, !ends.enters);
        spell(&mut self.backend, reached.destination.0);
        let service =
            view.directory.service(ends.destination, ends.destination_port, key.protocol());
        let protocol = Protocol(key.protocol());
        let has_ports = matches!(protocol, Protocol::TCP | Protocol::UDP | Protocol::SCTP);
        let icmp = icmp(key, value);
        let process = account.process.as_deref();
        let (out, back) = (ends.out * PER_DIRECTION, (ends.out ^ 1) * PER_DIRECTION);
        let delta = &interval.delta;
        let tcp = Tcp::of(protocol, value, account, interval);
        FlowRow {
            flow_id: flow.hex(&mut [0; 16]),
            seq: interval.seq,
            start_time: interval.start,
            end_time: interval.end.max(interval.start),
            cluster: &view.cluster,
            node: &view.node,
            interface: &port.name,
            reporter: reporter.name(),
            direction: direction.name(),
            ip_version: if ends.source.is_ipv4() { 4 } else { 6 },
            protocol: &protocol.name(),
            source_ip: &self.source,
            source_port: has_ports.then_some(ends.source_port),
            destination_ip: &self.destination,
            destination_port: has_ports.then_some(ends.destination_port),
            backend_ip: if reached.balanced { &self.backend } else { "" },
            backend_port: reached.balanced.then_some(reached.destination.1),
            source: source.end(account.names[0].as_ref()),
            destination: destination.end(account.names[1].as_ref()),
            destination_service: service.map_or("", |service| &service.name),
            destination_service_namespace: service.map_or("", |service| &service.namespace),
            process_name: process.map_or("", |process| &process.name),
            pid: process.map(|process| process.pid),
            verdict: judged.verdict.name(),
            drop_reason: judged.reason,
            drop_location: &judged.location,
            policy_kind: origin.kind,
            policy_namespace: &origin.namespace,
            policy_name: &origin.name,
            policy_rule: origin.rule,
            policy_revision: origin.revision,
            policies_selecting: &origin.selecting,
            packets_out: delta[out],
            bytes_out: delta[out + 1],
            extra_segments_out: delta[out + 2],
            extra_bytes_out: delta[out + 3],
            packets_in: delta[back],
            bytes_in: delta[back + 1],
            extra_segments_in: delta[back + 2],
            extra_bytes_in: delta[back + 3],
            tcp_flags: tcp.flags,
            tcp_state: tcp.state,
            retransmits: tcp.retransmits,
            rtt_us: tcp.rtt_us,
            connect_us: tcp.connect_us,
            closed: interval.close.is_some(),
            close_reason: interval.close.map_or("", Close::name),
            estimated: false,
            icmp_type: icmp.map(|(kind, _)| kind),
            icmp_code: icmp.map(|(_, code)| code),
            ..FlowRow::default()
        }
        .push(batch.table(Table::Flows));
        if protocol == Protocol::TCP && !interval.before {
            let order = |flags: [u8; 2]| [flags[ends.out], flags[ends.out ^ 1]];
            let v6 = ends.source.is_ipv6();
            let before = if first { [0; 2] } else { account.memory.flags };
            sources.metrics.flags(v6, order(before), order(value.tcp_flags));
        }
    }
}

/// The frontend that the client's socket asked for, where it was connected to a backend at once.
fn asked(kernel: &dyn Kernel, cookie: u64, ends: &Ends) -> Option<(IpAddr, u16)> {
    if cookie == 0 {
        return None;
    }
    let address = octets(ends.destination);
    let key = ReplyKey { cookie, address, port: ends.destination_port, pad: 0, pad2: 0 };
    let asked = kernel.asked(&key)?;
    Some((crate::view::address(&asked.address), asked.port))
}

fn spell(text: &mut String, address: IpAddr) {
    text.clear();
    // Writing to a string cannot fail.
    let _ = write!(text, "{address}");
}

/// Who has an address at this interface.
fn party<'a>(
    view: &'a View,
    port: &'a Port,
    address: IpAddr,
    on_its_side: bool,
) -> &'a crate::view::directory::Party {
    use crate::view::directory::PartyKind;
    let party = view.directory.party(address);
    match party.kind {
        PartyKind::Unknown => port.sole(on_its_side).unwrap_or(party),
        _ => party,
    }
}

fn find_names(sources: &mut Sources<'_>, account: &mut Account, ends: &Ends) {
    let view = &mut *sources.view;
    if account.names[1].is_none() {
        let client = view.client(ends.source);
        account.names[1] = view.names.get(client, ends.destination, sources.now);
    }
    if account.names[0].is_none() {
        let client = view.client(ends.destination);
        account.names[0] = view.names.get(client, ends.source, sources.now);
    }
}

/// The process with this host's end of the connection: by the socket that the kernel half saw, else
/// by the tables of `/proc`.
fn find_process(
    sources: &Sources<'_>,
    key: &ConnKey,
    value: &ConnValue,
    account: &mut Account,
    ends: &Ends,
) {
    if account.process.is_some() {
        return;
    }
    if value.cookie != 0 && !account.process_sought {
        account.process_sought = true;
        account.process = sources.kernel.process(value.cookie).map(|process| {
            let end = process.comm.iter().position(|b| *b == 0).unwrap_or(process.comm.len());
            let name = String::from_utf8_lossy(&process.comm[..end]).into_owned();
            std::sync::Arc::new(ProcessName { pid: process.pid, name })
        });
    }
    let has_sockets = matches!(Protocol(key.protocol()), Protocol::TCP | Protocol::UDP);
    if account.process.is_none()
        && has_sockets
        && account.memory.state <= datapath_abi::conn::STATE_FIN_WAIT
    {
        let view = &*sources.view;
        let source = (ends.source, ends.source_port);
        let destination = (ends.destination, ends.destination_port);
        // A packet that leaves is the client's, one that enters the server's.
        account.process = if !ends.enters && view.directory.is_local(ends.source) {
            view.processes.find(key.protocol(), source, destination)
        } else if ends.enters && view.directory.is_local(ends.destination) {
            view.processes.find(key.protocol(), destination, source)
        } else {
            None
        };
    }
}

/// Type and code. An echo's key holds its identifier, anything else's its type and code; what looks
/// like one of the message types that get no answer (RFC 792, RFC 4443, RFC 4861), and got none, is
/// taken for that.
fn icmp(key: &ConnKey, value: &ConnValue) -> Option<(u8, u8)> {
    let [kind, code] = key.low_port.to_be_bytes();
    let answered = value.dirs.iter().all(|direction| direction.packets != 0);
    match Protocol(key.protocol()) {
        Protocol::ICMP if !answered && matches!(kind, 3 | 4 | 5 | 9..=14) && code < 16 => {
            Some((kind, code))
        }
        Protocol::ICMP => Some((8, 0)),
        Protocol::ICMPV6 if matches!(kind, 1..=4 | 130..=143) && code < 8 => Some((kind, code)),
        Protocol::ICMPV6 => Some((128, 0)),
        _ => None,
    }
}

/// What became of the packets.
struct Judged {
    verdict: Verdict,
    reason: &'static str,
    location: String,
}

// === impl Judged ===

impl Judged {
    /// Dropped is what a rule dropped in this interval and what nothing ever answered: one packet
    /// lost of a conversation is no verdict on it.
    fn of(
        sources: &Sources<'_>,
        key: &ConnKey,
        value: &ConnValue,
        ends: &Ends,
        interval: &Interval,
    ) -> Self {
        let answered = value.dirs[ends.out ^ 1].packets != 0;
        let denial = sources.denied.of(key, interval.start);
        let denial = denial.filter(|_| !answered && !interval.before).and_then(|denial| {
            let kernel = sources.kernel.drop_reason(denial.reason)?;
            let reason = drops::reason(&kernel);
            (reason != DropReason::Unknown).then_some((reason, denial.location))
        });
        match denial {
            Some((reason, location)) => Self {
                verdict: Verdict::Dropped,
                reason: reason.name(),
                location: sources.kernel.symbol(location).unwrap_or_default(),
            },
            None => {
                let audited = value.verdict == AUDIT && !interval.before;
                let verdict = if audited { Verdict::Audit } else { Verdict::Forwarded };
                Self { verdict, reason: "", location: String::new() }
            }
        }
    }
}

/// The columns that only TCP has.
#[derive(Default)]
struct Tcp {
    flags: &'static [&'static str],
    state: &'static str,
    retransmits: Option<u64>,
    rtt_us: Option<u64>,
    connect_us: Option<u64>,
}

// === impl Tcp ===

impl Tcp {
    fn of(protocol: Protocol, value: &ConnValue, account: &Account, interval: &Interval) -> Self {
        let before = interval.before;
        if protocol != Protocol::TCP {
            return Self::default();
        }
        let flags = if before { account.memory.flags } else { value.tcp_flags };
        let names = &FLAGS[usize::from(flags[0] | flags[1])];
        if before {
            return Self {
                flags: names,
                state: state_name(account.memory.state),
                ..Self::default()
            };
        }
        let more = &value.more;
        let reported = if interval.seq == 0 { [0; 2] } else { account.memory.retransmits };
        let new = |i: usize| u64::from(more[i].retransmits.saturating_sub(reported[i]));
        // From this hook to the receiver and back, both ways: together the whole path.
        let rtt_ns = u64::from(more[0].srtt_ns) + u64::from(more[1].srtt_ns);
        let connect_ns = value.ack_ns.saturating_sub(value.syn_ns);
        let seen = value.syn_ns != 0 && value.ack_ns != 0;
        Self {
            flags: names,
            state: state_name(value.state),
            retransmits: Some(new(0) + new(1)),
            rtt_us: (rtt_ns != 0).then_some(rtt_ns / 1000),
            connect_us: seen.then_some(connect_ns / 1000),
        }
    }
}
