//! Why a connection is allowed or denied: which end decided, by which rule and which table entry, what
//! of both ends matched or failed to, and the smallest change that would alter the verdict.

mod miss;
mod remedy;

use std::net::IpAddr;

use datapath_abi::policy::{
    ALLOW, ANYBODY, AUDIT, DENY_BIT, EGRESS, INGRESS, NO_ORIGIN, PolicySide, Subject,
};
use datapath_engine::policy::{Decision, Tables};
use serde::{Deserialize, Serialize};

use crate::address::octets;
use crate::compiler::{Compiler, OriginInfo, OriginKind, ports};
use crate::document::{PolicyKey, PolicyKind};

/// A connection, or its first packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// Client.
    pub source: IpAddr,
    /// Server, after any translation by a service.
    pub destination: IpAddr,
    /// IP protocol.
    pub protocol: u8,
    /// Server's port, or ICMP type.
    pub port: u16,
}

/// The whole answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// What was asked.
    pub question: Question,
    /// What becomes of it.
    pub outcome: Outcome,
    /// The direction whose policy decided: that which denied, or the latest that has something to
    /// say. None: neither end is enforced here.
    pub decided: Option<Side>,
    /// Client.
    pub source: End,
    /// Server.
    pub destination: End,
    /// What the client's policy says, where the client is local.
    pub egress: Option<Judged>,
    /// What the server's policy says, where the server is local.
    pub ingress: Option<Judged>,
    /// What would alter the outcome; none where nothing that was tried does.
    pub change: Option<Remedy>,
}

/// What becomes of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It goes through.
    Allowed,
    /// It does not.
    Denied,
    /// It would not, were it not for audit mode.
    Audited,
}

/// Directions, from the endpoint's view.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// Of the server.
    Ingress,
    /// Of the client.
    Egress,
}

/// One end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// Address.
    pub address: IpAddr,
    /// `endpoint ID`, `node NAME`, `world`.
    pub who: String,
    /// Security identity; 0: none.
    pub identity: u32,
    /// Labels of the identity.
    pub labels: Vec<String>,
    /// Row of `CLASSES`.
    pub class: Option<u32>,
}

/// What one end's policy says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Judged {
    /// What it says.
    pub outcome: Outcome,
    /// Who says so; None: not enforced.
    pub origin: Option<OriginInfo>,
    /// The rule itself.
    pub rule: Option<RuleText>,
    /// What of the peer made the rule match.
    pub matched: Vec<String>,
    /// Where in the tables.
    pub entry: TableEntry,
    /// Rules that could have decided otherwise, nearest first, and what they ask for in vain.
    pub misses: Vec<Miss>,
}

/// A rule in its document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleText {
    /// Policy.
    pub policy: PolicyKey,
    /// Such as `spec.ingress[0]`.
    pub path: String,
    /// First and last line in the document, from 1.
    pub lines: Option<(usize, usize)>,
    /// These lines.
    pub text: String,
}

/// The entry that decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableEntry {
    /// Interface of the endpoint.
    pub interface: u32,
    /// Key in `POLICIES`.
    pub policy: u32,
    /// Revision of that policy.
    pub revision: u64,
    /// Ports that the interval covers.
    pub ports: Option<(u32, u32)>,
    /// Index in `RULES`.
    pub rule: Option<u32>,
    /// Its selector; None: everybody.
    pub selector: Option<u32>,
    /// Number of the origin.
    pub origin: u32,
}

/// A rule that did not match.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Miss {
    /// Which one.
    pub rule: RuleText,
    /// Every requirement that failed.
    pub failed: Vec<String>,
}

/// A change of policies that alters the outcome, found by trying.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remedy {
    /// In words, one step each.
    pub steps: Vec<String>,
    /// The documents as they would be, YAML; a policy that would be removed is not there.
    pub documents: Vec<String>,
    /// The outcome with the change made.
    pub outcome: Outcome,
}

impl Compiler {
    /// Explains, by the tables of the latest commit.
    pub fn explain(&self, question: &Question) -> Explanation {
        let mut explanation = self.explain_only(question);
        explanation.change = self.remedy(question, &explanation);
        explanation
    }

    /// As [`Self::explain`], without looking for a change.
    pub fn explain_only(&self, question: &Question) -> Explanation {
        let egress = self.judged(question, EGRESS);
        let ingress = self.judged(question, INGRESS);
        let says = |judged: &Option<Judged>| judged.as_ref().map(|judged| judged.outcome);
        let (outcome, decided) = match (says(&egress), says(&ingress)) {
            (Some(Outcome::Denied), _) => (Outcome::Denied, Some(Side::Egress)),
            (_, Some(Outcome::Denied)) => (Outcome::Denied, Some(Side::Ingress)),
            (Some(Outcome::Audited), _) => (Outcome::Audited, Some(Side::Egress)),
            (_, Some(Outcome::Audited)) => (Outcome::Audited, Some(Side::Ingress)),
            _ => {
                let says =
                    |judged: &Option<Judged>| judged.as_ref().is_some_and(|j| j.origin.is_some());
                let side = says(&ingress).then_some(Side::Ingress);
                (Outcome::Allowed, side.or_else(|| says(&egress).then_some(Side::Egress)))
            }
        };
        Explanation {
            question: *question,
            outcome,
            decided,
            source: self.end(question.source),
            destination: self.end(question.destination),
            egress,
            ingress,
            change: None,
        }
    }

    fn end(&self, address: IpAddr) -> End {
        let peer = self.tables().peer(&octets(address));
        let identity = peer.map_or(0, |peer| peer.identity);
        End {
            address,
            who: self.who(address),
            identity,
            labels: self.identity_labels(identity),
            class: peer.map(|peer| peer.class),
        }
    }

    fn judged(&self, question: &Question, direction: usize) -> Option<Judged> {
        let (own, peer) = if direction == EGRESS {
            (question.source, question.destination)
        } else {
            (question.destination, question.source)
        };
        let interface = self.interface_of(own)?;
        let subject = *self.tables().subjects.get(&interface)?;
        let Question { protocol, port, .. } = *question;
        let decision = self.tables().judge(interface, direction, peer, protocol, port)?;
        let outcome = match decision.verdict {
            ALLOW => Outcome::Allowed,
            AUDIT => Outcome::Audited,
            _ => Outcome::Denied,
        };
        let origin = self.origin(decision.origin);
        let entry = self.entry(interface, subject, direction, peer, (protocol, port), decision);
        let rule = origin.as_ref().and_then(|origin| self.rule_text(origin));
        let misses = self.misses(own, direction, peer, (protocol, port), &decision);
        let matched = rule.is_some().then(|| self.matched(origin.as_ref(), direction, peer));
        let matched = matched.unwrap_or_default();
        Some(Judged { outcome, origin, rule, matched, entry, misses })
    }

    fn entry(
        &self,
        interface: u32,
        subject: Subject,
        direction: usize,
        peer: IpAddr,
        (protocol, port): (u8, u16),
        decision: Decision,
    ) -> TableEntry {
        let tables = self.tables();
        let policy = tables.policies.get(&subject.policy);
        let mut entry = TableEntry {
            interface,
            policy: subject.policy,
            revision: policy.map_or(0, |policy| policy.revision),
            ports: None,
            rule: None,
            selector: None,
            origin: decision.origin,
        };
        if decision.origin == NO_ORIGIN {
            return entry;
        }
        let Some(side) = policy.and_then(|policy| policy.sides.get(direction)) else {
            return entry;
        };
        let (section, number) = ports::section(protocol);
        let port = u32::from(number.unwrap_or(port));
        let class = tables.peer(&octets(peer)).and_then(|peer| tables.class(peer.class));
        let PolicySide { enforced, audited } = side;
        for section in [enforced[section], audited[section]] {
            let intervals = tables.section(section);
            let at = intervals.partition_point(|interval| interval.first <= port);
            let Some(interval) = at.checked_sub(1).and_then(|at| intervals.get(at)) else {
                continue;
            };
            let rules = tables.rules_of(*interval);
            let hit = (0u32..).zip(rules).find(|(_, rule)| {
                let has = |class: &datapath_abi::policy::Class| {
                    let word = class.bits.get((rule.selector / 64) as usize);
                    word.is_some_and(|word| word >> (rule.selector % 64) & 1 != 0)
                };
                rule.selector == ANYBODY || class.is_some_and(has)
            });
            if let Some((index, rule)) = hit
                && rule.origin & !DENY_BIT == decision.origin
            {
                let end = intervals.get(at).map_or(65535, |next| next.first - 1);
                entry.ports = Some((interval.first, end));
                entry.rule = Some(interval.rules + index);
                entry.selector = (rule.selector != ANYBODY).then_some(rule.selector);
                break;
            }
        }
        entry
    }

    /// A rule by its origin.
    fn rule_text(&self, origin: &OriginInfo) -> Option<RuleText> {
        let OriginKind::Policy(kind) = origin.kind else { return None };
        let (namespace, name) = origin.name.split_once('/')?;
        let key = PolicyKey { kind, namespace: namespace.to_owned(), name: name.to_owned() };
        self.text_of(&key, origin.section?, origin.rule?, origin.egress, origin.deny_list)
    }

    pub(crate) fn text_of(
        &self,
        key: &PolicyKey,
        section: usize,
        rule: usize,
        egress: bool,
        deny: bool,
    ) -> Option<RuleText> {
        let policy = self.cluster().policies.get(key)?;
        let found = policy.sections.get(section)?.rules(if egress { EGRESS } else { INGRESS });
        let found = found.iter().find(|one| one.deny == deny && one.index == rule)?;
        let lines = found.lines.clone().map(|lines| (*lines.start(), *lines.end()));
        let text = lines.map(|(first, last)| {
            let lines = policy.text.lines().skip(first - 1).take(last + 1 - first);
            lines.collect::<Vec<_>>().join("\n")
        });
        let list = match (egress, deny) {
            (false, false) => "ingress",
            (false, true) => "ingressDeny",
            (true, false) => "egress",
            (true, true) => "egressDeny",
        };
        let place = spec_path(policy.kind, policy.has_spec(), section);
        Some(RuleText {
            policy: key.clone(),
            path: format!("{place}.{list}[{rule}]"),
            lines,
            text: text.unwrap_or_default(),
        })
    }
}

/// Path of a section: `spec` comes before `specs`.
pub(crate) fn spec_path(kind: PolicyKind, has_spec: bool, section: usize) -> String {
    match (kind, has_spec, section) {
        (PolicyKind::NetworkPolicy, ..) | (_, true, 0) => "spec".to_owned(),
        (_, true, section) => format!("specs[{}]", section - 1),
        (_, false, section) => format!("specs[{section}]"),
    }
}
