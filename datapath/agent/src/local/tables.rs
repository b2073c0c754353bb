//! The policy tables as the kernel has them, in words.

use std::collections::{BTreeMap, BTreeSet};

use datapath_abi::policy::{
    ANYBODY, AUDIT_ALL, Class, DENY_BIT, Interval, Origin, Policy, PolicySide, Rule, SECTIONS,
    SUBJECT_AUDIT, SUBJECT_HOST, Settings,
};
use datapath_loader::{PolicySnapshot, PolicyTables as Kernel};
use datapath_policy::{Compiler, OriginInfo};
use serde::{Deserialize, Serialize};
use wire::export::Interface;

/// Names of the sections of a side, in the order of `datapath_abi::policy`.
const PROTOCOLS: [&str; SECTIONS] = ["tcp", "udp", "sctp", "icmp", "icmpv6", "other"];

/// The tables, read from the kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyTables {
    /// Policy revision: an entry of another is judged again.
    pub revision: u32,
    /// Everything is only tried.
    pub audit: bool,
    /// Whether the kernel's entries are what the agent compiled; what is different, in words.
    pub differs: Vec<String>,
    /// Interfaces with a policy.
    pub subjects: Vec<SubjectEntry>,
    /// What is used of each table.
    pub used: BTreeMap<String, usize>,
}

/// An interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubjectEntry {
    /// Its index.
    pub ifindex: u32,
    /// Its name; empty where it is gone.
    pub interface: String,
    /// The endpoint behind it, `namespace/name`; empty for the host's own.
    pub endpoint: String,
    /// Key in `policies`.
    pub policy: u32,
    /// Security identity.
    pub identity: u32,
    /// The host's own interface.
    pub host: bool,
    /// Denials are only said.
    pub audit: bool,
    /// Rules by direction and protocol, in order of precedence.
    pub sections: Vec<SectionEntry>,
}

/// Rules of a range of ports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SectionEntry {
    /// `ingress` or `egress`.
    pub direction: String,
    /// `tcp`, `udp`, `sctp`, `icmp`, `icmpv6`, `other`.
    pub protocol: String,
    /// With the policies in audit mode.
    pub audited: bool,
    /// First port (ICMP: type; other: protocol number), and last.
    pub ports: (u32, u32),
    /// The first that has the peer decides.
    pub rules: Vec<RuleEntry>,
}

/// A rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleEntry {
    /// Index in `policy_rules`.
    pub index: u32,
    /// Whom it selects; none: everybody.
    pub selector: Option<u32>,
    /// Identities that the selector has.
    pub identities: Vec<u32>,
    /// `allow` or `deny`.
    pub verdict: String,
    /// Why.
    pub origin: Option<OriginInfo>,
}

/// Reads the kernel's tables; `of`: an endpoint or an interface, or empty for all.
///
/// # Errors
/// In words, when they cannot be read, or there is no such subject.
pub(crate) fn decode(
    kernel: &Kernel,
    compiler: &Compiler,
    interfaces: &[Interface],
    of: &str,
) -> Result<PolicyTables, String> {
    let found = kernel.snapshot().map_err(|error| error.to_string())?;
    let settings = found.settings.unwrap_or(Settings { revision: 0, flags: 0 });
    let named = |ifindex: u32| interfaces.iter().find(|interface| interface.index == ifindex);
    let owner = |ifindex: u32| {
        let endpoints = compiler.cluster().endpoints.iter();
        let mut behind = endpoints.filter(|(_, endpoint)| endpoint.interface == Some(ifindex));
        behind.next().map(|(id, _)| id.clone()).unwrap_or_default()
    };
    let decoder = Decoder::new(&found);
    let mut subjects = Vec::new();
    for (ifindex, subject) in &found.subjects {
        let interface = named(*ifindex).map(|interface| interface.name.clone()).unwrap_or_default();
        let endpoint = owner(*ifindex);
        if !of.is_empty() && of != interface && of != endpoint && of != ifindex.to_string() {
            continue;
        }
        subjects.push(SubjectEntry {
            ifindex: *ifindex,
            interface,
            endpoint,
            policy: subject.policy,
            identity: subject.identity,
            host: subject.flags & SUBJECT_HOST != 0,
            audit: subject.flags & SUBJECT_AUDIT != 0,
            sections: decoder.policy(subject.policy),
        });
    }
    if subjects.is_empty() && !of.is_empty() {
        return Err(format!(
            "{of}: no interface or endpoint of this node with a policy (see weir endpoint list)"
        ));
    }
    subjects.sort_by_key(|subject| subject.ifindex);
    let sizes = compiler.sizes();
    let used = [
        ("policy_subjects", found.subjects.len()),
        ("policies", found.policies.len()),
        ("policy_classes", sizes.classes),
        ("policy_origins", found.origins.len()),
        ("ipcache", found.hosts.len()),
        ("ipcache_cidrs", found.cidrs.len()),
    ];
    Ok(PolicyTables {
        revision: settings.revision,
        audit: settings.flags & AUDIT_ALL != 0,
        differs: differences(&found, compiler),
        used: used.map(|(name, used)| (name.to_owned(), used)).into(),
        subjects,
    })
}

/// The tables, with what finds things in them.
struct Decoder<'a> {
    found: &'a PolicySnapshot,
    /// Identities of each class.
    members: BTreeMap<u32, BTreeSet<u32>>,
    policies: BTreeMap<u32, &'a Policy>,
    origins: BTreeMap<u32, &'a Origin>,
}

// === impl Decoder ===

impl<'a> Decoder<'a> {
    fn new(found: &'a PolicySnapshot) -> Self {
        let hosts = found.hosts.iter().map(|(_, peer)| peer);
        let peers = hosts.chain(found.cidrs.iter().map(|(_, peer)| peer));
        let mut members: BTreeMap<u32, BTreeSet<u32>> = BTreeMap::new();
        for peer in peers {
            members.entry(peer.class).or_default().insert(peer.identity);
        }
        Self {
            found,
            members,
            policies: found.policies.iter().map(|(number, policy)| (*number, policy)).collect(),
            origins: found.origins.iter().map(|(number, origin)| (*number, origin)).collect(),
        }
    }

    fn policy(&self, number: u32) -> Vec<SectionEntry> {
        let sides = self.policies.get(&number).map(|policy| &policy.sides);
        let sides = sides.into_iter().flatten().zip(["ingress", "egress"]);
        sides.flat_map(|(side, direction)| self.side(side, direction)).collect()
    }

    fn side(&self, side: &PolicySide, direction: &str) -> Vec<SectionEntry> {
        let mut entries = Vec::new();
        for (audited, sections) in [(false, &side.enforced), (true, &side.audited)] {
            for (section, protocol) in sections.iter().zip(PROTOCOLS) {
                let intervals = slice(&self.found.intervals, section.start, section.count);
                for (at, interval) in intervals.iter().enumerate() {
                    let end = intervals.get(at + 1).map_or(0xffff, |next| next.first - 1);
                    entries.push(SectionEntry {
                        direction: direction.to_owned(),
                        protocol: protocol.to_owned(),
                        audited,
                        ports: (interval.first, end),
                        rules: self.rules(*interval),
                    });
                }
            }
        }
        entries
    }

    fn rules(&self, interval: Interval) -> Vec<RuleEntry> {
        let rules = slice(&self.found.rules, interval.rules, interval.count);
        let entry = |(rule, index): (&Rule, u32)| RuleEntry {
            index,
            selector: (rule.selector != ANYBODY).then_some(rule.selector),
            identities: self.selected(rule.selector),
            verdict: if rule.origin & DENY_BIT == 0 { "allow" } else { "deny" }.to_owned(),
            origin: self.origins.get(&(rule.origin & !DENY_BIT)).map(|it| OriginInfo::of(it)),
        };
        rules.iter().zip(interval.rules..).map(entry).collect()
    }

    /// Identities that a selector has; none for everybody.
    fn selected(&self, selector: u32) -> Vec<u32> {
        if selector == ANYBODY {
            return Vec::new();
        }
        let has = |class: &Class| {
            let word = class.bits.get(selector as usize / 64);
            word.is_some_and(|word| word >> (selector % 64) & 1 == 1)
        };
        let classes = self
            .members
            .iter()
            .filter(|(index, _)| self.found.classes.get(**index as usize).is_some_and(has));
        let all: BTreeSet<u32> = classes.flat_map(|(_, members)| members).copied().collect();
        all.into_iter().collect()
    }
}

fn slice<T>(all: &[T], start: u32, count: u32) -> &[T] {
    let start = start as usize;
    all.get(start..start.saturating_add(count as usize)).unwrap_or_default()
}

/// Where the kernel has something else than was compiled.
fn differences(found: &PolicySnapshot, compiler: &Compiler) -> Vec<String> {
    let tables = compiler.tables();
    let subjects: BTreeMap<_, _> = found.subjects.iter().copied().collect();
    let policies: BTreeMap<_, _> = found.policies.iter().copied().collect();
    let mut words = Vec::new();
    let mut differ = |what: &str, kernel: usize, compiled: usize, equal: bool| {
        if !equal {
            words.push(format!("{what}: {kernel} entries in the kernel, {compiled} compiled"));
        }
    };
    differ("policy_subjects", subjects.len(), tables.subjects.len(), subjects == tables.subjects);
    differ("policies", policies.len(), tables.policies.len(), policies == tables.policies);
    let hosts = found.hosts.iter().all(|(at, peer)| tables.hosts.get(at) == Some(peer))
        && found.hosts.len() == tables.hosts.len();
    differ("ipcache", found.hosts.len(), tables.hosts.len(), hosts);
    let cidrs = found.cidrs.len() == tables.cidrs.len();
    differ("ipcache_cidrs", found.cidrs.len(), tables.cidrs.len(), cidrs);
    words
}
