//! Explanations of verdicts, as text.

use std::fmt::Write as _;

use datapath_policy::explain::{Explanation, Judged, Outcome};
use datapath_policy::{OriginInfo, OriginKind};

use crate::cli::text::harmless;

/// An explanation for people.
pub fn text(answer: &Explanation) -> String {
    let mut out = String::new();
    let word = match answer.outcome {
        Outcome::Allowed => "ALLOWED",
        Outcome::Denied => "DENIED",
        Outcome::Audited => "AUDIT (it would be denied, were it enforced)",
    };
    let _ = writeln!(out, "{word}: {} → {}", answer.source.who, answer.destination.who);
    for (name, end) in [("from", &answer.source), ("to", &answer.destination)] {
        let labels = end.labels.join(", ");
        let _ = writeln!(out, "  {name:4} {}, identity {} ({labels})", end.address, end.identity);
    }
    for (name, judged) in
        [("egress of the client", &answer.egress), ("ingress of the server", &answer.ingress)]
    {
        match judged {
            Some(judged) => side(&mut out, name, judged),
            None => {
                let _ = writeln!(out, "\n{name}: not enforced here");
            }
        }
    }
    if let Some(change) = &answer.change {
        let _ = writeln!(out, "\nto change that (tried, then {:?}):", change.outcome);
        change.steps.iter().flat_map(|step| step.lines()).for_each(|line| {
            let _ = writeln!(out, "  {line}");
        });
    }
    out
}

fn side(out: &mut String, name: &str, judged: &Judged) {
    let Some(origin) = &judged.origin else {
        let _ = writeln!(out, "\n{name}: no policy selects it");
        return;
    };
    let _ = writeln!(out, "\n{name}: {:?} by {}", judged.outcome, words(origin));
    if let Some(rule) = &judged.rule {
        let lines = rule.lines.map(|(a, b)| format!(", lines {a} to {b}")).unwrap_or_default();
        let _ = writeln!(out, "  {}{lines}", rule.path);
        rule.text.lines().for_each(|line| {
            let _ = writeln!(out, "  | {}", harmless(line));
        });
    }
    let entry = &judged.entry;
    let ports = entry.ports.map(|(first, last)| match last {
        last if last == first => format!(", port {first}"),
        last => format!(", ports {first} to {last}"),
    });
    let rule = entry.rule.map(|rule| format!(", policy_rules[{rule}]")).unwrap_or_default();
    let _ = writeln!(
        out,
        "  entry: interface {}, policy {}{}{rule}, revision {}",
        entry.interface,
        entry.policy,
        ports.unwrap_or_default(),
        entry.revision
    );
    judged.matched.iter().for_each(|what| {
        let _ = writeln!(out, "  matched: {what}");
    });
    for miss in &judged.misses {
        let of = &miss.rule.policy;
        let _ = writeln!(out, "  not by {of} {}: {}", miss.rule.path, miss.failed.join("; "));
    }
}

/// Who decides, in a few words.
pub fn words(origin: &OriginInfo) -> String {
    let list = match (origin.egress, origin.deny_list) {
        (true, true) => "egressDeny",
        (true, false) => "egress",
        (false, true) => "ingressDeny",
        (false, false) => "ingress",
    };
    let name = harmless(&origin.name);
    match origin.kind {
        OriginKind::Policy(kind) => {
            // Cilium's documents may have several sections, `specs[n]`.
            let section = origin.section.filter(|section| *section > 0);
            let section = section.map(|at| format!(" section {at}")).unwrap_or_default();
            let rule = origin.rule.map(|rule| format!(" {list}[{rule}]")).unwrap_or_default();
            format!("{} {name}{section}{rule}", kind.name())
        }
        OriginKind::DefaultDeny => format!("default deny of {name}: no rule allows it"),
        OriginKind::EnforceAlways => {
            "enforcement mode `always`, or an endpoint without labels: no rule allows it".to_owned()
        }
        OriginKind::Localhost => "a node always reaches its own pods".to_owned(),
        OriginKind::Failsafe => "a failsafe port of the host".to_owned(),
        OriginKind::NoDefaultDeny => format!("{name}: no rule denies it, and no default deny"),
        OriginKind::None => "no policy".to_owned(),
    }
}
