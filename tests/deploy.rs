//! Deployment files call the binaries with flags that they have.

use std::fs;
use std::path::Path;
use std::process::Command;

use harness::weir::Binaries;

/// Files, and the binary that each starts.
const FILES: [(&str, &str, &[&str]); 5] = [
    ("deploy/systemd/weir.service", "weir", &["up", "--help"]),
    ("deploy/systemd/weir-agent.service", "weir-agent", &["--help"]),
    ("deploy/systemd/weir-relay.service", "weir-relay", &["--help"]),
    ("deploy/helm/weir/templates/agent.yaml", "weir-agent", &["--help"]),
    ("deploy/helm/weir/templates/relay.yaml", "weir-relay", &["--help"]),
];

#[test]
fn flags_exist() {
    let binaries = Binaries::beside_this().unwrap();
    let mut wrong = Vec::new();
    for (file, binary, arguments) in FILES {
        let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap();
        let help = Command::new(binaries.path(binary).unwrap()).args(arguments).output().unwrap();
        assert!(help.status.success(), "{binary} {arguments:?}: {help:?}");
        let help = String::from_utf8_lossy(&help.stdout).into_owned();
        let known: Vec<&str> = flags(&help).collect();
        let called: Vec<&str> = text.lines().filter(|line| calls(line)).flat_map(flags).collect();
        assert!(!called.is_empty(), "{file} calls nothing");
        let unknown = called.iter().filter(|flag| !known.contains(flag));
        wrong.extend(unknown.map(|flag| format!("{file}: {binary} has no {flag}")));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A line of a unit or a chart that starts the binary or gives it an argument.
fn calls(line: &str) -> bool {
    let line = line.trim_start();
    line.starts_with("ExecStart=") || line.starts_with("- --")
}

fn flags(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '-')
        .filter(|word| word.starts_with("--") && word.len() > 3)
}
