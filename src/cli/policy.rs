//! `weir policy`: documents checked, and questions answered from a folder of manifests; both without an agent.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, anyhow, bail};
use datapath_agent::control::{Manifests, Snapshot};
use datapath_agent::enforce::cluster;
use datapath_policy::explain::{Explanation, Judged, Outcome, Question};
use datapath_policy::{Compiler, Options, OriginInfo};

/// Check network policies, and ask what they decide.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Clone, clap::Subcommand)]
enum Command {
    /// Parse and validate documents; says file, line and reason of whatever is wrong.
    #[command(after_help = "Examples:
  weir policy validate policies/
  weir policy validate allow-web.yaml -o json")]
    Validate(Validate),
    /// What the policies of a folder decide about a connection: the rule, its lines, and the smallest change.
    #[command(after_help = "Examples:
  weir policy trace --manifests cluster/ shop/web-0 shop/db-0:5432
  weir policy trace --manifests cluster/ 10.0.0.7 10.244.1.9:53/udp -o json")]
    Trace(Trace),
}

#[derive(Debug, Clone, clap::Args)]
struct Validate {
    /// Files, or folders of them.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Debug, Clone, clap::Args)]
struct Trace {
    /// The client: `namespace/pod`, or an address.
    source: String,
    /// The server: `namespace/pod` or an address, then `:port` and `/tcp`, `/udp` or `/sctp`; or `/icmp`.
    destination: String,
    /// Folder of Kubernetes manifests: pods with status.podIP, namespaces, policies.
    #[arg(long, value_name = "DIR")]
    manifests: PathBuf,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

/// Formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Output {
    /// For people.
    Text,
    /// One JSON object.
    Json,
}

/// Runs the command. Exit code 1: something is wrong with a document.
///
/// # Errors
/// When a file cannot be read, or the question not be understood.
pub fn run(args: &Args) -> Result<ExitCode> {
    match &args.command {
        Command::Validate(args) => validate(args),
        Command::Trace(args) => trace(args),
    }
}

fn validate(args: &Validate) -> Result<ExitCode> {
    let (mut policies, mut groups, mut problems, mut notes) = (0, 0, Vec::new(), Vec::new());
    for path in &args.files {
        std::fs::metadata(path).with_context(|| path.display().to_string())?;
        let snapshot = Manifests::new(path).poll().unwrap_or_default();
        policies += snapshot.policies.len();
        groups += snapshot.groups.len();
        problems.extend(snapshot.problems.iter().map(ToString::to_string));
        for policy in &snapshot.policies {
            let of = format!("{}/{}", policy.namespace, policy.name);
            notes.extend(policy.not_enforced().into_iter().map(|part| format!("{of}: {part}")));
        }
    }
    if args.output == Output::Json {
        let answer = serde_json::json!({
            "policies": policies, "groups": groups, "problems": problems, "not_enforced": notes,
        });
        println!("{answer:#}");
    } else {
        problems.iter().for_each(|problem| println!("{problem}"));
        notes.iter().for_each(|note| println!("not enforced yet: {note}"));
        println!(
            "{policies} policies and {groups} CIDR groups are valid, {} documents are not",
            problems.len()
        );
    }
    Ok(if problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Interfaces are made up: every pod of the folder counts as if it were on the node that answers.
fn trace(args: &Trace) -> Result<ExitCode> {
    std::fs::metadata(&args.manifests).with_context(|| args.manifests.display().to_string())?;
    let snapshot = Manifests::new(&args.manifests).poll().unwrap_or_default();
    for problem in &snapshot.problems {
        eprintln!("left out: {problem}");
    }
    let question = question(&snapshot, &args.source, &args.destination)?;
    let interfaces: HashMap<String, u32> = snapshot
        .pods
        .iter()
        .zip(1..)
        .map(|(pod, index)| (format!("{}/{}", pod.namespace, pod.name), index))
        .collect();
    let mut compiler = Compiler::new(Options::default());
    cluster::feed(&mut compiler, &snapshot, "", &[], &interfaces, &[]);
    compiler.commit();
    let answer = compiler.explain(&question);
    match args.output {
        Output::Json => println!("{}", serde_json::to_string_pretty(&answer)?),
        Output::Text => print!("{}", text(&answer)),
    }
    Ok(ExitCode::SUCCESS)
}

fn question(snapshot: &Snapshot, source: &str, destination: &str) -> Result<Question> {
    let (rest, protocol) = match destination.rsplit_once('/') {
        Some((rest, name)) if number(name).is_some() => (rest, number(name)),
        _ => (destination, None),
    };
    let ip: Option<IpAddr> = rest.parse().ok();
    let (end, port) = match rest.rsplit_once(':') {
        Some((end, port)) if ip.is_none() => {
            let port = port.parse().with_context(|| format!("{destination}: port {port:?}"))?;
            (end.trim_matches(['[', ']']), port)
        }
        _ => (rest, 0),
    };
    let protocol = protocol.unwrap_or(6);
    let icmp = protocol == 1 || protocol == 58;
    if port == 0 && !icmp {
        bail!("{destination}: a port is missing, as in {end}:80 or {end}:53/udp; or {end}/icmp");
    }
    let echo = if protocol == 58 { 128 } else { 8 };
    let source = address(snapshot, source)?;
    let destination = address(snapshot, end)?;
    Ok(Question { source, destination, protocol, port: if icmp { echo } else { port } })
}

fn number(name: &str) -> Option<u8> {
    match name.to_ascii_lowercase().as_str() {
        "tcp" => Some(6),
        "udp" => Some(17),
        "sctp" => Some(132),
        "icmp" | "icmpv4" => Some(1),
        "icmpv6" => Some(58),
        _ => None,
    }
}

fn address(snapshot: &Snapshot, end: &str) -> Result<IpAddr> {
    if let Ok(ip) = end.parse() {
        return Ok(ip);
    }
    let (namespace, name) = end.split_once('/').unwrap_or(("default", end));
    let pods = snapshot.pods.iter();
    let mut pods = pods.filter(|pod| pod.namespace == namespace && pod.name == name);
    let pod = pods.next().ok_or_else(|| {
        anyhow!("{end}: neither an address nor a pod of these manifests (namespace/name)")
    })?;
    pod.ips.first().copied().ok_or_else(|| anyhow!("{end}: the pod has no status.podIP"))
}

fn text(answer: &Explanation) -> String {
    use std::fmt::Write as _;
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
    use std::fmt::Write as _;
    let Some(origin) = &judged.origin else {
        let _ = writeln!(out, "\n{name}: no policy selects it");
        return;
    };
    let _ = writeln!(out, "\n{name}: {:?} by {}", judged.outcome, words(origin));
    if let Some(rule) = &judged.rule {
        let lines = rule.lines.map(|(a, b)| format!(", lines {a} to {b}")).unwrap_or_default();
        let _ = writeln!(out, "  {}{lines}", rule.path);
        rule.text.lines().for_each(|line| {
            let _ = writeln!(out, "  | {line}");
        });
    }
    judged.matched.iter().for_each(|what| {
        let _ = writeln!(out, "  matched: {what}");
    });
    for miss in &judged.misses {
        let of = &miss.rule.policy;
        let _ = writeln!(
            out,
            "  not by {}/{} {}: {}",
            of.namespace,
            of.name,
            miss.rule.path,
            miss.failed.join("; ")
        );
    }
}

fn words(origin: &OriginInfo) -> String {
    let list = match (origin.egress, origin.deny_list) {
        (true, true) => "egressDeny",
        (true, false) => "egress",
        (false, true) => "ingressDeny",
        (false, false) => "ingress",
    };
    let rule = origin.rule.map(|rule| format!(" {list}[{rule}]")).unwrap_or_default();
    format!("{:?} {}{rule}", origin.kind, origin.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot() -> Snapshot {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(
            dir.path().join("all.yaml"),
            "apiVersion: v1\nkind: Pod\nmetadata: {name: web, namespace: shop, labels: {app: web}}\nstatus: {podIP: 10.0.0.1}\n\
             ---\napiVersion: v1\nkind: Pod\nmetadata: {name: db, namespace: shop, labels: {app: db}}\nstatus: {podIP: 'fd00::2'}\n",
        )
        .unwrap();
        Manifests::new(dir.path()).poll().unwrap()
    }

    #[test]
    fn questions_in_every_form() {
        let snapshot = snapshot();
        let ask = |from, to| question(&snapshot, from, to);
        let asked = ask("shop/web", "shop/db:5432").unwrap();
        assert_eq!((asked.protocol, asked.port), (6, 5432));
        assert_eq!(asked.destination.to_string(), "fd00::2");
        let asked = ask("10.9.9.9", "[fd00::2]:53/udp").unwrap();
        assert_eq!(
            (asked.protocol, asked.port, asked.source.to_string()),
            (17, 53, "10.9.9.9".into())
        );
        let asked = ask("shop/db", "shop/web/icmp").unwrap();
        assert_eq!((asked.protocol, asked.port), (1, 8));
        for (from, to) in
            [("shop/web", "shop/db"), ("shop/none", "10.0.0.1:1"), ("shop/web", "shop/db:http")]
        {
            assert!(ask(from, to).is_err(), "{from} {to}");
        }
    }
}
