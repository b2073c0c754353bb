//! Documents made to hurt: an error, soon, whatever they are.

use std::time::{Duration, Instant};

use datapath_policy::{CidrGroup, parse};

use super::generate::{Dice, policy};

fn refused(name: &str, text: &str) {
    let start = Instant::now();
    let policy = parse(text);
    let group = CidrGroup::parse(text);
    let took = start.elapsed();
    let message = policy.map(|policy| policy.name).expect_err(name).message;
    group.expect_err(name);
    assert!(took < Duration::from_secs(3), "{name}: {took:?}");
    assert!(!message.is_empty() && message.len() < 1000, "{name}: {message}");
}

const HEAD: &str = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: x}\n";

#[test]
fn hostile_documents_are_refused_soon() {
    // Nine levels of nine aliases each.
    let mut bomb = format!("{HEAD}a0: &a0 [x, x, x, x, x, x, x, x, x]\n");
    for n in 1..10 {
        let list = vec![format!("*a{}", n - 1); 9].join(", ");
        bomb.push_str(&format!("a{n}: &a{n} [{list}]\n"));
    }
    refused("anchors", &bomb);
    // One long text, many times.
    let long = "x".repeat(1 << 19);
    let mut bomb = format!("{HEAD}a: &a {long}\nb:\n");
    for _ in 0..10_000 {
        bomb.push_str("- *a\n");
    }
    refused("long texts", &bomb);
    refused("10 MB", &format!("{HEAD}spec: {}", "x".repeat(10 << 20)));
    refused("10 MB of lines", &format!("{HEAD}spec:\n{}", "- a\n".repeat(5 << 19)));
    for (open, name) in [("[", "brackets"), ("{a: ", "braces"), ("- ", "dashes"), ("? ", "keys")] {
        refused(name, &format!("{HEAD}spec: {}", open.repeat(300_000)));
        refused(name, &format!("{HEAD}spec:\n{}", open.repeat(300_000)));
    }
    let mut deep = HEAD.to_owned();
    for n in 0..1000 {
        deep.push_str(&format!("{}a:\n", " ".repeat(n)));
    }
    refused("indentation", &deep);
    refused("a key that holds itself", &format!("{HEAD}a: &a [*a]\n"));
    refused("no text", "");
    refused("no YAML", "\u{0}\u{1}\u{2}");
    refused("two documents", &format!("{HEAD}---\n{HEAD}"));
    refused("a merge", &format!("{HEAD}a: &a {{podSelector: {{}}}}\nspec:\n  <<: *a\n  x: 1\n"));
}

#[test]
fn wrong_types_are_refused() {
    for spec in [
        "spec: 1",
        "spec: [a]",
        "spec: {podSelector: a}",
        "spec: {podSelector: {matchLabels: [a]}}",
        "spec: {podSelector: {}, ingress: {}}",
        "spec: {podSelector: {}, ingress: [a]}",
        "spec: {podSelector: {}, ingress: [{from: {}}]}",
        "spec: {podSelector: {}, ingress: [{ports: [80]}]}",
        "spec: {podSelector: {}, ingress: [{ports: [{port: 1.5}]}]}",
        "spec: {podSelector: {}, ingress: [{ports: [{port: -1}]}]}",
        "spec: {podSelector: {}, ingress: [{ports: [{port: 99999999999999999999}]}]}",
        "spec: {podSelector: {}, ingress: [{ports: [{port: 80, endPort: 65536}]}]}",
        "spec: {podSelector: {}, policyTypes: [Both]}",
        "spec: {podSelector: {}, policyTypes: Ingress}",
        "spec: {podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: 1}}]}]}",
        "specs: []\nspec: {podSelector: {}}",
    ] {
        refused(spec, &format!("{HEAD}{spec}\n"));
    }
}

/// Documents with bytes changed, cut and doubled: no panic, and no endless one.
#[test]
fn broken_documents_do_no_harm() {
    let rounds = if std::env::var_os("WEIR_LONG").is_some() { 200_000 } else { 6_000 };
    let mut dice = Dice::new(7);
    let mut parsed = 0;
    for round in 0..rounds {
        let mut bytes = if dice.one_in(2) {
            policy(&mut dice, 1).to_string().into_bytes()
        } else {
            serde_norway::to_string(&policy(&mut dice, 1)).unwrap().into_bytes()
        };
        for _ in 0..dice.roll(4) {
            let at = dice.roll(bytes.len());
            match dice.roll(5) {
                0 => bytes[at] = dice.roll(256) as u8,
                1 => bytes[at] = b"{}[]:,&*!|>'\"-? \n#0a"[dice.roll(20)],
                2 => bytes.truncate(at + 1),
                3 => {
                    let end = (at + dice.roll(40)).min(bytes.len());
                    let copy = bytes[at..end].to_vec();
                    bytes.splice(at..at, copy);
                }
                _ => {
                    bytes.remove(at);
                    bytes.push(b' ');
                }
            }
        }
        let text = String::from_utf8_lossy(&bytes);
        let start = Instant::now();
        parsed += usize::from(parse(&text).is_ok());
        assert!(start.elapsed() < Duration::from_secs(1), "round {round}: {text}");
    }
    assert!(parsed > rounds / 20 && parsed < rounds, "{parsed}");
}
