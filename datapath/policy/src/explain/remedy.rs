//! The smallest change of a policy that alters the outcome, found by trying it on a copy.

use std::net::IpAddr;

use datapath_abi::policy::{EGRESS, INGRESS};
use serde_norway::{Mapping, Value};

use crate::cluster::EndpointKind;
use crate::compiler::facts::{Facts, Kind};
use crate::compiler::{Compiler, OriginInfo, OriginKind};
use crate::document::{PolicyKey, PolicyKind, parse};
use crate::explain::miss::protocol_name;
use crate::explain::{Explanation, Judged, Outcome, Question, Remedy, Side, spec_path};
use crate::identity::identifies;

/// Steps at most: rules that stand in the way one behind the other.
const STEPS: usize = 8;

/// A document after one step; None: the policy is removed.
struct Edit {
    step: String,
    key: PolicyKey,
    text: Option<String>,
}

impl Compiler {
    pub(super) fn remedy(&self, question: &Question, now: &Explanation) -> Option<Remedy> {
        let mut trial = self.clone();
        let mut steps = Vec::new();
        let mut edited: std::collections::BTreeMap<PolicyKey, Option<String>> = Default::default();
        let mut state = now.clone();
        for _ in 0..STEPS {
            let edit = trial.edit(question, &state, now.outcome)?;
            match &edit.text {
                Some(text) => trial.put_policy(parse(text).ok()?),
                None => trial.remove_policy(&edit.key),
            }
            trial.commit();
            steps.push(edit.step);
            edited.insert(edit.key, edit.text);
            state = trial.explain_only(question);
            let altered = if now.outcome == Outcome::Allowed {
                state.outcome != Outcome::Allowed
            } else {
                state.outcome == Outcome::Allowed
            };
            if altered {
                let documents = edited.into_values().flatten().collect();
                return Some(Remedy { steps, documents, outcome: state.outcome });
            }
        }
        None
    }

    fn edit(&self, question: &Question, state: &Explanation, was: Outcome) -> Option<Edit> {
        let side = state.decided.or_else(|| {
            // Nothing is enforced: the server's end first, for it is where isolation is expected.
            let server = state.ingress.as_ref().map(|_| Side::Ingress);
            server.or_else(|| state.egress.as_ref().map(|_| Side::Egress))
        })?;
        let judged = match side {
            Side::Ingress => state.ingress.as_ref()?,
            Side::Egress => state.egress.as_ref()?,
        };
        let by_rule = judged.origin.as_ref().filter(|o| matches!(o.kind, OriginKind::Policy(_)));
        match (was, by_rule) {
            // The rule that decides is taken away, whether it denies or allows.
            (_, Some(origin)) => self.without(origin),
            (Outcome::Allowed, None) => self.isolated(question, side, judged),
            (_, None) => self.allowed(question, side, judged),
        }
    }

    /// The policy without a rule. An allow list of Cilium's that would be empty keeps an empty element,
    /// or else it would isolate nobody.
    fn without(&self, origin: &OriginInfo) -> Option<Edit> {
        let OriginKind::Policy(kind) = origin.kind else { return None };
        let (namespace, name) = origin.name.split_once('/')?;
        let key = PolicyKey { kind, namespace: namespace.to_owned(), name: name.to_owned() };
        let policy = self.cluster().policies.get(&key)?;
        let mut document: Value = serde_norway::from_str(&policy.text).ok()?;
        let section = origin.section?;
        let spec = spec(&mut document, policy.has_spec(), section)?;
        let list = match (origin.egress, origin.deny_list) {
            (false, false) => "ingress",
            (false, true) => "ingressDeny",
            (true, false) => "egress",
            (true, true) => "egressDeny",
        };
        let rules = spec.get_mut(list)?.as_sequence_mut()?;
        let index = origin.rule?;
        if index >= rules.len() {
            return None;
        }
        rules.remove(index);
        if rules.is_empty() && kind != PolicyKind::NetworkPolicy {
            rules.push(Value::Mapping(Mapping::new()));
        }
        let path = spec_path(kind, policy.has_spec(), section);
        let step = format!("remove {path}.{list}[{index}] of {} {key}", kind.name());
        self.finish(step, key, &document)
    }

    /// One element more, in the policy that comes nearest.
    fn allowed(&self, question: &Question, side: Side, judged: &Judged) -> Option<Edit> {
        let (own, peer, direction) = ends(question, side);
        let near = judged.misses.first().map(|miss| miss.rule.policy.clone());
        let sections = self.sections_at(own);
        let fitting = |key: &PolicyKey| {
            let audit = self.cluster().policies.get(key).is_none_or(|policy| policy.audit);
            let speaks =
                key.kind != PolicyKind::NetworkPolicy || !matches!(question.protocol, 1 | 58);
            !audit && speaks
        };
        let isolating = sections.iter().filter(|(key, index)| {
            let policy = self.cluster().policies.get(&**key);
            let section = policy.and_then(|policy| policy.sections.get(*index));
            fitting(key) && section.is_some_and(|section| section.isolates(direction))
        });
        let mut isolating: Vec<_> = isolating.collect();
        // The nearest miss first.
        isolating.sort_by_key(|(key, _)| near.as_ref() != Some(&**key));
        let list = if direction == EGRESS { "egress" } else { "ingress" };
        let facts = self.facts_at(peer);
        let Some((key, section)) = isolating.first() else {
            return self.new_policy(question, side, true);
        };
        let policy = self.cluster().policies.get(&**key)?;
        let mut document: Value = serde_norway::from_str(&policy.text).ok()?;
        let rule = rule(key.kind, &key.namespace, direction, &facts, peer, question);
        let spec = spec(&mut document, policy.has_spec(), *section)?;
        let text = serde_norway::to_string(&rule).ok()?;
        match spec.get_mut(list).and_then(Value::as_sequence_mut) {
            Some(rules) => rules.push(rule),
            None => {
                spec.as_mapping_mut()?.insert(list.into(), Value::Sequence(vec![rule]));
            }
        }
        let path = spec_path(key.kind, policy.has_spec(), *section);
        let step = format!("add to {path}.{list} of {} {key}:\n{text}", key.kind.name());
        self.finish(step, (**key).clone(), &document)
    }

    /// A policy that isolates an end which nothing isolates, or denies the node.
    fn isolated(&self, question: &Question, side: Side, judged: &Judged) -> Option<Edit> {
        match judged.origin.as_ref().map(|origin| origin.kind) {
            // What the operator has fixed is no matter of policies.
            Some(OriginKind::Failsafe) => None,
            _ => self.new_policy(question, side, false),
        }
    }

    fn new_policy(&self, question: &Question, side: Side, allow: bool) -> Option<Edit> {
        let (own, peer, direction) = ends(question, side);
        let facts = self.facts_at(own);
        if facts.kind != Kind::Endpoint(EndpointKind::Pod) {
            return None;
        }
        let subject = labels(&facts, "");
        let (list, name) =
            if direction == EGRESS { ("egress", "Egress") } else { ("ingress", "Ingress") };
        let other = self.facts_at(peer);
        let localhost = other.kind == Kind::Host && direction == INGRESS && !allow;
        let mut spec = Mapping::new();
        let (kind, version) = if localhost || matches!(question.protocol, 1 | 58) {
            let kind = PolicyKind::CiliumNetworkPolicy;
            spec.insert("endpointSelector".into(), selector(subject));
            let rule = rule(kind, &facts.namespace, direction, &other, peer, question);
            let list = if allow { list.to_owned() } else { format!("{list}Deny") };
            spec.insert(list.into(), Value::Sequence(vec![rule]));
            (kind, "cilium.io/v2")
        } else {
            let kind = PolicyKind::NetworkPolicy;
            spec.insert("podSelector".into(), selector(subject));
            spec.insert("policyTypes".into(), Value::Sequence(vec![name.into()]));
            if allow {
                let rule = rule(kind, &facts.namespace, direction, &other, peer, question);
                spec.insert(list.into(), Value::Sequence(vec![rule]));
            }
            (kind, "networking.k8s.io/v1")
        };
        let name = (0..).map(|n| format!("weir-why-{n}")).find(|name| {
            let key = PolicyKey { kind, namespace: facts.namespace.clone(), name: name.clone() };
            !self.cluster().policies.contains_key(&key)
        })?;
        let key = PolicyKey { kind, namespace: facts.namespace.clone(), name };
        let mut metadata = Mapping::new();
        metadata.insert("namespace".into(), key.namespace.clone().into());
        metadata.insert("name".into(), key.name.clone().into());
        let mut document = Mapping::new();
        document.insert("apiVersion".into(), version.into());
        document.insert("kind".into(), kind.name().into());
        document.insert("metadata".into(), Value::Mapping(metadata));
        document.insert("spec".into(), Value::Mapping(spec));
        let step = format!("add {} {key}", kind.name());
        self.finish(step, key, &Value::Mapping(document))
    }

    /// A document that is no longer valid is one that says nothing: the policy goes.
    fn finish(&self, step: String, key: PolicyKey, document: &Value) -> Option<Edit> {
        let text = serde_norway::to_string(document).ok()?;
        let text = parse(&text).is_ok().then_some(text);
        if text.is_none() && !self.cluster().policies.contains_key(&key) {
            return None;
        }
        Some(Edit { step, key, text })
    }
}

fn ends(question: &Question, side: Side) -> (IpAddr, IpAddr, usize) {
    match side {
        Side::Egress => (question.source, question.destination, EGRESS),
        Side::Ingress => (question.destination, question.source, INGRESS),
    }
}

fn spec(document: &mut Value, has_spec: bool, section: usize) -> Option<&mut Value> {
    match (has_spec, section) {
        (true, 0) => document.get_mut("spec"),
        (true, section) => document.get_mut("specs")?.get_mut(section - 1),
        (false, section) => document.get_mut("specs")?.get_mut(section),
    }
}

/// Labels that tell a workload.
fn labels(facts: &Facts, namespace_label: &str) -> Mapping {
    let own = facts.labels.iter().filter(|(key, _)| identifies(key));
    let mut labels: Mapping =
        own.map(|(key, value)| (key.clone().into(), value.clone().into())).collect();
    if !namespace_label.is_empty() {
        labels.insert(namespace_label.into(), facts.namespace.clone().into());
    }
    labels
}

fn selector(labels: Mapping) -> Value {
    let mut selector = Mapping::new();
    if !labels.is_empty() {
        selector.insert("matchLabels".into(), Value::Mapping(labels));
    }
    Value::Mapping(selector)
}

fn pair(key: &str, value: Value) -> Value {
    let mut mapping = Mapping::new();
    mapping.insert(key.into(), value);
    Value::Mapping(mapping)
}

/// A rule for one peer and one port.
fn rule(
    kind: PolicyKind,
    namespace: &str,
    direction: usize,
    facts: &Facts,
    peer: IpAddr,
    question: &Question,
) -> Value {
    let pod = facts.kind == Kind::Endpoint(EndpointKind::Pod);
    let host = format!("{peer}/{}", if peer.is_ipv4() { 32 } else { 128 });
    let mut rule = Mapping::new();
    if kind == PolicyKind::NetworkPolicy {
        let one = if pod {
            let mut one = Mapping::new();
            if facts.namespace != namespace {
                let name = "kubernetes.io/metadata.name";
                let labels = [(name.into(), facts.namespace.clone().into())].into_iter().collect();
                one.insert("namespaceSelector".into(), selector(labels));
            }
            one.insert("podSelector".into(), selector(labels(facts, "")));
            Value::Mapping(one)
        } else {
            pair("ipBlock", pair("cidr", host.into()))
        };
        let peers = if direction == EGRESS { "to" } else { "from" };
        rule.insert(peers.into(), Value::Sequence(vec![one]));
        if matches!(question.protocol, 6 | 17 | 132) && question.port != 0 {
            let mut port = Mapping::new();
            port.insert("port".into(), u64::from(question.port).into());
            port.insert("protocol".into(), protocol_name(question.protocol).into());
            rule.insert("ports".into(), Value::Sequence(vec![Value::Mapping(port)]));
        }
        return Value::Mapping(rule);
    }
    let side = if direction == EGRESS { "to" } else { "from" };
    let (member, one) = match facts.kind {
        Kind::Endpoint(EndpointKind::Pod) => {
            let same = facts.namespace == namespace;
            let name = if same { "" } else { "k8s:io.kubernetes.pod.namespace" };
            ("Endpoints", selector(labels(facts, name)))
        }
        Kind::Host => ("Entities", "host".into()),
        Kind::RemoteNode => ("Entities", "remote-node".into()),
        Kind::Endpoint(EndpointKind::Health) => ("Entities", "health".into()),
        Kind::Endpoint(EndpointKind::Init) => ("Entities", "init".into()),
        Kind::Endpoint(EndpointKind::Ingress) => ("Entities", "ingress".into()),
        Kind::Endpoint(EndpointKind::Unmanaged) => ("Entities", "unmanaged".into()),
        Kind::World => ("CIDR", host.into()),
    };
    rule.insert(format!("{side}{member}").into(), Value::Sequence(vec![one]));
    match question.protocol {
        6 | 17 | 132 => {
            let mut port = Mapping::new();
            port.insert("port".into(), question.port.to_string().into());
            port.insert("protocol".into(), protocol_name(question.protocol).into());
            let ports = Value::Sequence(vec![Value::Mapping(port)]);
            rule.insert("toPorts".into(), Value::Sequence(vec![pair("ports", ports)]));
        }
        1 | 58 => {
            let mut field = Mapping::new();
            field.insert("type".into(), u64::from(question.port).into());
            let family = if question.protocol == 1 { "IPv4" } else { "IPv6" };
            field.insert("family".into(), family.into());
            let fields = Value::Sequence(vec![Value::Mapping(field)]);
            rule.insert("icmps".into(), Value::Sequence(vec![pair("fields", fields)]));
        }
        _ => {}
    }
    Value::Mapping(rule)
}
