//! `weir policy apply`, `delete`, `confirm` and `revert`: changes of what this node enforces.

use std::io::{IsTerminal as _, Read as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use datapath_agent::local::policies::Policies;
use datapath_policy::PolicyKey;
use wire::agent::{ApplyRequest, ApplyResponse, ConfirmRequest, PoliciesRequest};

use crate::cli::node::{self, Socket};
use crate::size;

/// Options of `weir policy apply`.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Apply {
    /// Files, folders of them, or `-` for standard input.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    #[command(flatten)]
    how: How,
}

/// Options of `weir policy delete`.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Delete {
    /// `namespace/name`, or `Kind/namespace/name` where that is not clear.
    #[arg(required = true, value_name = "POLICY")]
    policies: Vec<String>,
    #[command(flatten)]
    how: How,
}

/// Options of both.
#[derive(Debug, Clone, clap::Args)]
struct How {
    /// Take the change back after this time unless it is confirmed: so a policy that locks you out of this
    /// host undoes itself.
    #[arg(long, value_name = "SPAN", value_parser = size::duration)]
    confirm_within: Option<Duration>,
    #[command(flatten)]
    socket: Socket,
}

/// Options of `weir policy confirm` and `revert`.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Confirm {
    #[command(flatten)]
    socket: Socket,
}

/// Applies. Exit code 1: it was not confirmed.
pub(super) async fn apply(args: &Apply) -> Result<ExitCode> {
    let mut documents = Vec::new();
    for file in &args.files {
        documents.extend(read(file)?);
    }
    change(documents.join("\n---\n"), Vec::new(), &args.how).await
}

/// Takes out of force. Exit code 1: it was not confirmed.
pub(super) async fn delete(args: &Delete) -> Result<ExitCode> {
    let answer = args.how.socket.connect().await?.policies(PoliciesRequest {}).await;
    let (_, known) = node::read::<Policies>(answer)?;
    let mut remove = Vec::new();
    for name in &args.policies {
        if name.matches('/').count() >= 2 {
            remove.push(name.clone());
            continue;
        }
        let keys = known.policies.iter().map(|policy| &policy.key);
        let keys: Vec<String> = keys
            .filter(|key| key.to_string().trim_matches('/') == *name)
            .map(PolicyKey::with_kind)
            .collect();
        match &keys[..] {
            [key] => remove.push(key.clone()),
            [] => bail!("{name}: no such policy (see weir policy get)"),
            several => bail!("{name}: which one? {}", several.join(", ")),
        }
    }
    change(String::new(), remove, &args.how).await
}

/// Confirms, or takes back. Exit code 1: nothing waited.
pub(super) async fn confirm(args: &Confirm, revert: bool) -> Result<ExitCode> {
    let mut agent = args.socket.connect().await?;
    let answer = agent.confirm(ConfirmRequest { revert }).await.map_err(node::words)?;
    if !answer.into_inner().waited {
        eprintln!("no change waits for confirmation");
        return Ok(ExitCode::FAILURE);
    }
    println!("{}", if revert { "taken back" } else { "confirmed" });
    Ok(ExitCode::SUCCESS)
}

fn read(path: &PathBuf) -> Result<Vec<String>> {
    if path.as_os_str() == "-" {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).context("standard input")?;
        return Ok(vec![text]);
    }
    let name = || path.display().to_string();
    if !path.is_dir() {
        return Ok(vec![std::fs::read_to_string(path).with_context(name)?]);
    }
    let entries =
        std::fs::read_dir(path).and_then(|entries| entries.collect::<Result<Vec<_>, _>>());
    let mut files: Vec<PathBuf> =
        entries.with_context(name)?.into_iter().map(|entry| entry.path()).collect();
    files.retain(|file| {
        file.extension()
            .is_some_and(|ending| ending == "yaml" || ending == "yml" || ending == "json")
    });
    files.sort();
    let read =
        |file: PathBuf| std::fs::read_to_string(&file).with_context(|| file.display().to_string());
    files.into_iter().map(read).collect()
}

async fn change(documents: String, remove: Vec<String>, how: &How) -> Result<ExitCode> {
    let confirm_within_ms = how.confirm_within.map_or(0, |span| span.as_millis() as u64);
    if how.confirm_within.is_some() && confirm_within_ms == 0 {
        bail!("--confirm-within: more than nothing, as in 60s");
    }
    let mut agent = how.socket.connect().await?;
    let request = ApplyRequest { documents, remove, confirm_within_ms };
    let changed = agent.apply(request).await.map_err(node::words)?.into_inner();
    print(&changed);
    let Some(span) = how.confirm_within else { return Ok(ExitCode::SUCCESS) };
    if !std::io::stdin().is_terminal() {
        println!("taken back in {} s unless confirmed: weir policy confirm", span.as_secs_f64());
        return Ok(ExitCode::SUCCESS);
    }
    let revert = !asked(span).await?;
    let answer = agent.confirm(ConfirmRequest { revert }).await.map_err(node::words)?;
    let waited = answer.into_inner().waited;
    println!("{}", if waited && !revert { "kept" } else { "taken back" });
    Ok(if waited && !revert { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn print(changed: &ApplyResponse) {
    let ApplyResponse { revision, added, replaced, removed, notes } = changed;
    for (word, keys) in [("added", added), ("replaced", replaced), ("removed", removed)] {
        keys.iter().for_each(|key| println!("{word} {key}"));
    }
    notes.iter().for_each(|note| println!("note: {note}"));
    println!("in force, revision {revision}");
}

/// Whether the person says yes in time.
async fn asked(span: Duration) -> Result<bool> {
    print!("Keep it? It is taken back in {} s. [y/N] ", span.as_secs_f64());
    std::io::stdout().flush()?;
    let line = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        std::io::stdin().read_line(&mut line).map(|_| line)
    });
    let Ok(line) = tokio::time::timeout(span, line).await else {
        println!();
        return Ok(false);
    };
    Ok(matches!(line??.trim(), "y" | "Y" | "yes"))
}
