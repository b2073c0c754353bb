//! A history of inputs, and whether the compiled tables judge as the specification says at its end.

use std::collections::BTreeSet;
use std::net::IpAddr;

use datapath_abi::policy::{ALLOW, AUDIT, DENY, EGRESS, INGRESS, NO_ORIGIN};
use datapath_policy::naive::{Attempt, RuleName, Verdict, Who, Why, judge};
use datapath_policy::{
    Change, CidrGroup, Compiler, Endpoint, Labels, MemoryTables, Node, Options, OriginInfo,
    OriginKind, Policy, PolicyKey, Service, parse,
};
use serde::{Deserialize, Serialize};

/// One input.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Op {
    Policy(String),
    NoPolicy(PolicyKey),
    Group(CidrGroup),
    NoGroup(String),
    Endpoint(String, Endpoint),
    NoEndpoint(String),
    Node(String, Node),
    NoNode(String),
    Namespace(String, Labels),
    NoNamespace(String),
    Service(Service),
    NoService(String, String),
    ApiServers(BTreeSet<IpAddr>),
    Options(Options),
    Commit,
    /// The agent starts again over the tables that it left.
    Restart,
}

/// A compiler together with what a kernel would have.
#[derive(Clone)]
pub(crate) struct Run {
    pub(crate) compiler: Compiler,
    pub(crate) kernel: MemoryTables,
    pub(crate) changes: Vec<Change>,
    /// Parsed policies by text: a shrinking run parses the same ones over and over.
    pub(crate) moved: bool,
}

/// What is asked of every subject.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Probes {
    pub(crate) peers: Vec<IpAddr>,
    pub(crate) ports: Vec<(u8, u16)>,
}

// === impl Run ===

impl Run {
    pub(crate) fn new() -> Self {
        Self {
            compiler: Compiler::new(Options::default()),
            kernel: MemoryTables::default(),
            changes: Vec::new(),
            moved: false,
        }
    }

    pub(crate) fn of(ops: &[Op]) -> Self {
        let mut run = Self::new();
        for op in ops {
            run.step(op);
        }
        run.step(&Op::Commit);
        run
    }

    pub(crate) fn step(&mut self, op: &Op) {
        let compiler = &mut self.compiler;
        match op {
            Op::Policy(text) => compiler.put_policy(parsed(text)),
            Op::NoPolicy(key) => compiler.remove_policy(key),
            Op::Group(group) => compiler.put_group(group.clone()),
            Op::NoGroup(name) => compiler.remove_group(name),
            Op::Endpoint(id, endpoint) => compiler.put_endpoint(id, endpoint.clone()),
            Op::NoEndpoint(id) => compiler.remove_endpoint(id),
            Op::Node(name, node) => compiler.put_node(name, node.clone()),
            Op::NoNode(name) => compiler.remove_node(name),
            Op::Namespace(name, labels) => compiler.put_namespace(name, labels.clone()),
            Op::NoNamespace(name) => compiler.remove_namespace(name),
            Op::Service(service) => compiler.put_service(service.clone()),
            Op::NoService(namespace, name) => compiler.remove_service(namespace, name),
            Op::ApiServers(addresses) => compiler.set_api_servers(addresses.clone()),
            Op::Options(options) => compiler.set_options(options.clone()),
            Op::Commit => self.commit(),
            Op::Restart => self.restart(),
        }
    }

    fn commit(&mut self) {
        let commit = self.compiler.commit();
        self.kernel.apply(&commit.changes);
        self.changes = commit.changes;
        self.moved = commit.moved;
    }

    /// Everything is put again, as an agent does that has listed its objects.
    fn restart(&mut self) {
        let cluster = self.compiler.cluster().clone();
        let known = self.compiler.identities();
        self.compiler = Compiler::resume(cluster.options.clone(), self.kernel.clone(), known);
        refill(&mut self.compiler, &cluster);
        self.commit();
    }
}

pub(crate) fn refill(compiler: &mut Compiler, cluster: &datapath_policy::Cluster) {
    for (name, labels) in &cluster.namespaces {
        compiler.put_namespace(name, labels.clone());
    }
    for (name, node) in &cluster.nodes {
        compiler.put_node(name, node.clone());
    }
    for (id, endpoint) in &cluster.endpoints {
        compiler.put_endpoint(id, endpoint.clone());
    }
    for service in cluster.services.values() {
        compiler.put_service(service.clone());
    }
    for group in cluster.groups.values() {
        compiler.put_group(group.clone());
    }
    compiler.set_api_servers(cluster.api_servers.clone());
    for policy in cluster.policies.values() {
        compiler.put_policy(Policy::clone(policy));
    }
}

pub(crate) fn parsed(text: &str) -> Policy {
    parse(text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// Interfaces with their owners.
pub(crate) fn subjects(compiler: &Compiler) -> Vec<(u32, Who<'_>)> {
    let cluster = compiler.cluster();
    let mut all: Vec<(u32, Who<'_>)> = cluster
        .endpoints
        .iter()
        .filter_map(|(id, endpoint)| Some((endpoint.interface?, Who::Endpoint(id))))
        .collect();
    if let Some((_, node)) = cluster.this_node() {
        all.extend(node.interfaces.iter().map(|interface| (*interface, Who::Host)));
    }
    all
}

/// The first way in which tables and specification differ, or the number of questions asked.
pub(crate) fn compare(
    compiler: &Compiler,
    kernel: &MemoryTables,
    interface: u32,
    who: Who<'_>,
    attempt: &Attempt,
) -> Result<(), String> {
    let Some((verdict, why)) = judge(compiler.cluster(), who, attempt) else {
        return Err(format!("no such end: {who:?}"));
    };
    let judged =
        kernel.judge(interface, attempt.direction, attempt.peer, attempt.protocol, attempt.port);
    let Some(decision) = judged else {
        // Only the host is left alone where nothing selects it.
        let fine = who == Who::Host && why == Why::NotEnforced;
        return if fine { Ok(()) } else { Err(format!("{who:?} has no subject, {why:?}")) };
    };
    let expected = match verdict {
        Verdict::Allow => ALLOW,
        Verdict::Deny => DENY,
        Verdict::Audit => AUDIT,
    };
    if decision.verdict != expected {
        let origin = kernel.origins.get(&decision.origin).map(OriginInfo::of);
        return Err(format!(
            "{who:?} {attempt:?}: expected {verdict:?} {why:?}, got {} {origin:?}",
            decision.verdict
        ));
    }
    if !explains(kernel, decision.origin, attempt.direction, &why) {
        let origin = kernel.origins.get(&decision.origin).map(OriginInfo::of);
        return Err(format!("{who:?} {attempt:?}: {why:?} is not {origin:?}"));
    }
    Ok(())
}

fn explains(kernel: &MemoryTables, origin: u32, direction: usize, why: &Why) -> bool {
    if *why == Why::NotEnforced {
        return origin == NO_ORIGIN;
    }
    let Some(origin) = kernel.origins.get(&origin).map(OriginInfo::of) else { return false };
    let egress = direction == EGRESS;
    let listed = |keys: &[PolicyKey]| {
        let mut names: Vec<String> = keys.iter().map(ToString::to_string).collect();
        // Policies of two kinds may share a name.
        names.dedup();
        origin.name == names.join(",")
    };
    let is_rule = |rules: &[RuleName]| {
        rules.iter().any(|rule| {
            origin.kind == OriginKind::Policy(rule.policy.kind)
                && origin.name == rule.policy.to_string()
                && origin.deny_list == rule.deny
                && origin.section == Some(rule.section)
                && origin.rule == Some(rule.index)
                && origin.egress == egress
        })
    };
    match why {
        Why::NotEnforced => false,
        Why::Rules(rules) => is_rule(rules),
        Why::DefaultDeny(keys) => {
            origin.kind == OriginKind::DefaultDeny && listed(keys) && origin.egress == egress
        }
        Why::EnforceAlways => origin.kind == OriginKind::EnforceAlways,
        Why::Localhost(rules) => origin.kind == OriginKind::Localhost || is_rule(rules),
        Why::Failsafe => origin.kind == OriginKind::Failsafe,
        Why::NoDefaultDeny(keys) => origin.kind == OriginKind::NoDefaultDeny && listed(keys),
    }
}

/// Every subject, peer, port and direction.
pub(crate) fn compare_all(run: &Run, probes: &Probes) -> Result<usize, String> {
    let mut asked = 0;
    for (interface, who) in subjects(&run.compiler) {
        for peer in &probes.peers {
            for (protocol, port) in &probes.ports {
                for direction in [INGRESS, EGRESS] {
                    let attempt =
                        Attempt { direction, peer: *peer, protocol: *protocol, port: *port };
                    compare(&run.compiler, &run.kernel, interface, who, &attempt)?;
                    asked += 1;
                }
            }
        }
    }
    Ok(asked)
}

/// Leaves out inputs, and elements of policies, as long as the history still fails.
pub(crate) fn shrink(mut ops: Vec<Op>, fails: impl Fn(&[Op]) -> bool) -> Vec<Op> {
    loop {
        let before = ops.len();
        let mut size = (ops.len() / 2).max(1);
        loop {
            let mut start = 0;
            while start < ops.len() {
                let end = (start + size).min(ops.len());
                let mut fewer = ops.clone();
                fewer.drain(start..end);
                if fails(&fewer) {
                    ops = fewer;
                } else {
                    start = end;
                }
            }
            if size == 1 {
                break;
            }
            size /= 2;
        }
        let mut smaller = false;
        for i in 0..ops.len() {
            let Op::Policy(text) = &ops[i] else { continue };
            let document: serde_json::Value = serde_json::from_str(text).unwrap();
            for fewer in reduced(&document) {
                let text = fewer.to_string();
                if parse(&text).is_err() {
                    continue;
                }
                let mut candidate = ops.clone();
                candidate[i] = Op::Policy(text);
                if fails(&candidate) {
                    ops = candidate;
                    smaller = true;
                    break;
                }
            }
        }
        if !smaller && ops.len() == before {
            return ops;
        }
    }
}

/// The document with one element or member less.
fn reduced(value: &serde_json::Value) -> Vec<serde_json::Value> {
    use serde_json::Value;
    let mut found = Vec::new();
    match value {
        Value::Array(items) => {
            for i in 0..items.len() {
                let mut fewer = items.clone();
                fewer.remove(i);
                found.push(Value::Array(fewer));
                for inner in reduced(&items[i]) {
                    let mut other = items.clone();
                    other[i] = inner;
                    found.push(Value::Array(other));
                }
            }
        }
        Value::Object(members) => {
            for key in members.keys() {
                let mut fewer = members.clone();
                fewer.remove(key);
                found.push(Value::Object(fewer));
                for inner in reduced(&members[key]) {
                    let mut other = members.clone();
                    other.insert(key.clone(), inner);
                    found.push(Value::Object(other));
                }
            }
        }
        _ => {}
    }
    found
}
