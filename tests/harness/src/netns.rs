//! One network namespace: code and processes inside it.
//!
//! Namespaces are named (bound under `/run/netns`), so that `ip netns exec` finds them too. Only
//! the network namespace is entered: mounts, and with them bpffs and unix sockets, stay shared.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::counters::{self, Counters};
use crate::{Error, Result, file_error};

/// Where `ip netns` keeps its names.
pub(crate) const NAMES: &str = "/run/netns";

/// A named network namespace; removed when dropped, if it was made here.
#[derive(Debug)]
pub struct Netns {
    name: String,
    owned: bool,
}

// === impl Netns ===

impl Netns {
    /// Makes a namespace; its loopback is up, and it sends nothing of its own accord (no duplicate
    /// address detection, no router solicitation).
    ///
    /// # Errors
    /// When the name is taken, or without root.
    pub fn create(name: &str) -> Result<Self> {
        if !rustix::process::geteuid().is_root() {
            return Err(Error::NotRoot);
        }
        output(Command::new("ip").args(["netns", "add", name]))?;
        let netns = Self { name: name.to_owned(), owned: true };
        for scope in ["all", "default"] {
            netns.sysctl(&format!("net/ipv6/conf/{scope}/accept_dad"), "0")?;
            netns.sysctl(&format!("net/ipv6/conf/{scope}/router_solicitations"), "0")?;
            netns.sysctl(&format!("net/ipv6/conf/{scope}/accept_ra"), "0")?;
        }
        netns.ip("link set lo up")?;
        Ok(netns)
    }

    /// A namespace that exists already and is left alone when this is dropped.
    pub fn existing(name: &str) -> Self {
        Self { name: name.to_owned(), owned: false }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that stands for it.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(NAMES).join(&self.name)
    }

    /// Runs `code` on a thread inside the namespace and waits for it.
    ///
    /// # Errors
    /// When the namespace is gone.
    ///
    /// # Panics
    /// When `code` does.
    pub fn run<T: Send>(&self, code: impl FnOnce() -> T + Send) -> Result<T> {
        let file = File::open(self.path()).map_err(|source| self.error(source))?;
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?;
                Ok(code())
            });
            match inside.join() {
                Ok(result) => result.map_err(|errno: io::Error| self.error(errno)),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// Starts `command` inside the namespace.
    ///
    /// # Errors
    /// When the program is not there or the namespace is gone.
    pub fn spawn(&self, command: &mut Command) -> Result<Child> {
        let program = command.get_program().to_string_lossy().into_owned();
        // A child inherits the namespaces of the thread that makes it.
        self.run(|| command.spawn())?.map_err(|source| Error::Program { program, source })
    }

    /// Runs `command` inside the namespace to its end.
    ///
    /// # Errors
    /// As [`spawn`](Self::spawn), or when it fails; what it printed is in the error.
    pub fn output(&self, command: &mut Command) -> Result<Output> {
        self.run(|| output(command))?
    }

    /// Runs lines of `ip` commands (without the word `ip`) inside the namespace.
    ///
    /// # Errors
    /// With what `ip` printed.
    pub fn ip(&self, lines: &str) -> Result<()> {
        let mut command = Command::new("ip");
        command.args(["-batch", "-"]);
        self.run(|| feed(&mut command, lines))?
    }

    /// Loads an nftables script inside the namespace.
    ///
    /// # Errors
    /// With what `nft` printed.
    pub fn nft(&self, script: &str) -> Result<()> {
        let mut command = Command::new("nft");
        command.args(["-f", "-"]);
        self.run(|| feed(&mut command, script))?
    }

    /// Sets a sysctl of the namespace; `key` with slashes (`net/ipv4/ip_forward`).
    ///
    /// # Errors
    /// When there is no such key.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        let path = format!("/proc/sys/{key}");
        self.run(|| fs::write(&path, value))?.map_err(file_error(path))
    }

    /// The kernel's counters of every interface in the namespace.
    ///
    /// # Errors
    /// When the namespace is gone.
    pub fn counters(&self) -> Result<BTreeMap<String, Counters>> {
        self.run(counters::read)?.map_err(file_error("/proc/thread-self/net/dev"))
    }

    /// Processes inside the namespace.
    ///
    /// # Errors
    /// When the namespace can't be asked.
    pub fn pids(&self) -> Result<Vec<i32>> {
        let listed = output(Command::new("ip").args(["netns", "pids", &self.name]))?;
        let text = String::from_utf8_lossy(&listed.stdout);
        Ok(text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect())
    }

    fn error(&self, source: io::Error) -> Error {
        Error::Namespace { name: self.name.clone(), source }
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        if self.owned {
            // Nothing more can be done about a failure here; the next run removes what is left.
            let _ = output(Command::new("ip").args(["netns", "del", &self.name]));
        }
    }
}

/// Runs a command to its end; an exit code other than 0 is an error with what was printed.
pub(crate) fn output(command: &mut Command) -> Result<Output> {
    let output = command.stdin(Stdio::null()).output().map_err(|source| Error::Program {
        program: command.get_program().to_string_lossy().into_owned(),
        source,
    })?;
    check(command, output)
}

fn feed(command: &mut Command, input: &str) -> Result<()> {
    let program = || command_line(command);
    let named = program();
    let io = |source| Error::Program { program: named.clone(), source };
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(io)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that stops reading reports why in its own words, below.
        let _ = stdin.write_all(input.as_bytes()).and_then(|()| stdin.write_all(b"\n"));
    }
    let output = child.wait_with_output().map_err(io)?;
    check(command, output).map(drop).map_err(|error| match error {
        Error::Command { command, output } => {
            Error::Command { command, output: format!("{output}\n{input}") }
        }
        other => other,
    })
}

fn check(command: &Command, output: Output) -> Result<Output> {
    if output.status.success() {
        return Ok(output);
    }
    let mut said = String::from_utf8_lossy(&output.stderr).into_owned();
    said.push_str(&String::from_utf8_lossy(&output.stdout));
    let output = format!("{} {}", output.status, said.trim());
    Err(Error::Command { command: command_line(command), output })
}

fn command_line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}
