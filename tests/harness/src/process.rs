//! A child process that ends with its owner.

use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

pub use rustix::process::Signal;
use rustix::process::{Pid, kill_process};

use crate::{Error, Netns, Result, Run, file_error, wait_for};

/// How long a process may take to end when it is asked to.
const GRACE: Duration = Duration::from_secs(10);

/// A running program; its output goes to a file. Told to end (TERM, then KILL) when dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

// === impl Process ===

impl Process {
    /// Starts `command` as `name`, inside `netns` if there is one.
    ///
    /// # Errors
    /// When the program is not there.
    pub fn spawn(
        run: &Run,
        netns: Option<&Netns>,
        name: &str,
        command: &mut Command,
    ) -> Result<Self> {
        let log = run.directory("logs")?.join(format!("{name}.log"));
        let file =
            File::options().create(true).append(true).open(&log).map_err(file_error(&log))?;
        let errors = file.try_clone().map_err(file_error(&log))?;
        // A group of its own: Ctrl-C at the terminal reaches the owner alone, which ends the rest in
        // order.
        command.stdin(Stdio::null()).stdout(file).stderr(errors).process_group(0);
        let child = match netns {
            Some(netns) => netns.spawn(command)?,
            None => command.spawn().map_err(|source| Error::Program {
                program: command.get_program().to_string_lossy().into_owned(),
                source,
            })?,
        };
        run.adopt(child.id())?;
        Ok(Self { name: name.to_owned(), child, log })
    }

    /// What it was called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its number.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where its output goes.
    pub fn log_path(&self) -> &Path {
        &self.log
    }

    /// What it has printed so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The last lines of what it printed.
    pub fn log_tail(&self, lines: usize) -> String {
        let log = self.log();
        let all: Vec<&str> = log.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }

    /// How it ended, if it did.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Sends a signal; one to a process that is gone is nothing.
    pub fn signal(&self, signal: Signal) {
        if let Some(pid) = Pid::from_raw(self.child.id().cast_signed()) {
            let _ = kill_process(pid, signal);
        }
    }

    /// Stops it where it is (SIGSTOP).
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it go on (SIGCONT).
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// `kill -9`, and waits until it is gone.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Waits until it ends by itself.
    ///
    /// # Errors
    /// [`Error::Timeout`] with the end of its output.
    pub fn wait(&mut self, within: Duration) -> Result<ExitStatus> {
        let name = self.name.clone();
        let child = &mut self.child;
        let waited = wait_for(&format!("{name} ends"), within, || child.try_wait().ok().flatten());
        waited.map_err(|error| match error {
            Error::Timeout { what, seconds } => {
                Error::Timeout { what: format!("{what}\n{}", self.log_tail(20)), seconds }
            }
            other => other,
        })
    }

    /// Asks it to end (TERM) and waits; kills it when it does not.
    pub fn stop(&mut self) -> Option<ExitStatus> {
        if let Some(status) = self.ended() {
            return Some(status);
        }
        self.signal(Signal::TERM);
        self.signal(Signal::CONT);
        let child = &mut self.child;
        let status = wait_for("end", GRACE, || child.try_wait().ok().flatten()).ok();
        if status.is_none() {
            self.kill();
        }
        status
    }

    /// Resident memory, bytes (`VmRSS` of proc(5)); `None` when it is gone.
    pub fn resident_bytes(&self) -> Option<u64> {
        let text = fs::read_to_string(format!("/proc/{}/status", self.pid())).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
    }

    /// Processor time used so far, user and system (`/proc/PID/stat`, ticks of 10 ms).
    pub fn cpu_time(&self) -> Option<Duration> {
        let text = fs::read_to_string(format!("/proc/{}/stat", self.pid())).ok()?;
        let (_, rest) = text.rsplit_once(") ")?;
        let mut ticks =
            rest.split(' ').skip(11).take(2).filter_map(|word| word.parse::<u64>().ok());
        Some(Duration::from_millis((ticks.next()? + ticks.next()?) * 10))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.stop();
    }
}
