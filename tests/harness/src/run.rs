//! What one run owns, and how leftovers of a killed run are removed.
//!
//! A run named `x` owns: namespaces `weir-x-…`, pins `/sys/fs/bpf/weir-x-…`, the directory
//! `/var/lib/weir/lab/x` and what is mounted below it, and the processes listed in its file `pids`. Its lock
//! `/run/weir/lab/x.lock` is held while the run lives: a run whose lock can be taken is dead, and
//! what it left is removed by the next run, whichever that is.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal, kill_process};

use crate::netns::{NAMES, Netns};
use crate::{Error, Result, file_error, wait_until};

const LOCKS: &str = "/run/weir/lab";
const DIRECTORIES: &str = "/var/lib/weir/lab";
const BPFFS: &str = "/sys/fs/bpf";

/// A run: a name under which namespaces, processes and files are made. Everything is removed when
/// it is dropped.
#[derive(Debug)]
pub struct Run {
    id: String,
    directory: PathBuf,
    /// Held open for its lock.
    _lock: File,
}

// === impl Run ===

impl Run {
    /// Takes the name `id`, after removing what dead runs left behind.
    ///
    /// # Errors
    /// [`Error::Busy`] when a living run has the name; [`Error::NotRoot`] without root.
    pub fn claim(id: &str) -> Result<Self> {
        if !rustix::process::geteuid().is_root() {
            return Err(Error::NotRoot);
        }
        let mut held = lock(id)?;
        // Another run that looks for what dead ones left may hold it for a moment.
        let _ = wait_until("the name is free", Duration::from_secs(1), || {
            held = held.take().or_else(|| lock(id).ok().flatten());
            held.is_some()
        });
        let lock = held.ok_or_else(|| Error::Busy(id.to_owned()))?;
        remove(id);
        remove_dead();
        let directory = Path::new(DIRECTORIES).join(id);
        fs::create_dir_all(&directory).map_err(file_error(&directory))?;
        Ok(Self { id: id.to_owned(), directory, _lock: lock })
    }

    /// A run of this process alone, for a test: `name` and the process's number.
    ///
    /// # Errors
    /// As [`claim`](Self::claim).
    pub fn for_test(name: &str) -> Result<Self> {
        Self::claim(&format!("t{}{name}", std::process::id()))
    }

    /// Its name.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// A directory that is removed with the run.
    ///
    /// # Errors
    /// When it can't be made.
    pub fn directory(&self, name: &str) -> Result<PathBuf> {
        let path = self.directory.join(name);
        fs::create_dir_all(&path).map_err(file_error(&path))?;
        Ok(path)
    }

    /// Path of a pin directory for `name` under bpffs; it is not made.
    pub fn pins(&self, name: &str) -> PathBuf {
        Path::new(BPFFS).join(format!("weir-{}-{name}", self.id))
    }

    /// Makes a namespace that belongs to the run.
    ///
    /// # Errors
    /// As [`Netns::create`].
    pub fn netns(&self, name: &str) -> Result<Netns> {
        Netns::create(&format!("weir-{}-{name}", self.id))
    }

    /// Records a process, so that it is ended even if this process is killed.
    ///
    /// # Errors
    /// When the list can't be written.
    pub fn adopt(&self, pid: u32) -> Result<()> {
        let path = self.directory.join("pids");
        let mut file =
            File::options().append(true).create(true).open(&path).map_err(file_error(&path))?;
        let started = start_time(pid.cast_signed()).unwrap_or(0);
        writeln!(file, "{pid} {started}").map_err(file_error(path))
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        remove(&self.id);
        let _ = fs::remove_file(lock_path(&self.id));
    }
}

/// Removes what dead runs left behind; living ones are not touched. Answers the names removed.
pub fn remove_dead() -> Vec<String> {
    let mut removed = Vec::new();
    for path in entries(LOCKS) {
        let Some(id) =
            path.file_name().and_then(|n| n.to_str()).and_then(|n| n.strip_suffix(".lock"))
        else {
            continue;
        };
        if let Ok(Some(_held)) = lock(id) {
            remove(id);
            let _ = fs::remove_file(&path);
            removed.push(id.to_owned());
        }
    }
    removed
}

/// Removes everything of a run that is dead. Answers whether there was anything.
///
/// # Errors
/// [`Error::Busy`] when it lives.
pub fn remove_run(id: &str) -> Result<bool> {
    let _held = lock(id)?.ok_or_else(|| Error::Busy(id.to_owned()))?;
    let found = remove(id);
    let _ = fs::remove_file(lock_path(id));
    Ok(found)
}

/// Every failure in here leaves something for the next run; none may keep the rest from going.
fn remove(id: &str) -> bool {
    let prefix = format!("weir-{id}-");
    let namespaces: Vec<String> = named(NAMES, &prefix);
    let directory = Path::new(DIRECTORIES).join(id);
    let pins = named(BPFFS, &prefix);
    let found = !namespaces.is_empty() || !pins.is_empty() || directory.exists();
    let mut pids = recorded(&directory.join("pids"));
    for name in &namespaces {
        pids.extend(Netns::existing(name).pids().unwrap_or_default());
    }
    end(&pids);
    for name in &namespaces {
        let _ = crate::netns::output(std::process::Command::new("ip").args(["netns", "del", name]));
    }
    for name in pins {
        let _ = fs::remove_dir_all(Path::new(BPFFS).join(name));
    }
    crate::disk::unmount_below(&directory);
    let _ = fs::remove_dir_all(&directory);
    found
}

/// Processes of a dead run's list that are still the same ones.
fn recorded(list: &Path) -> Vec<i32> {
    let text = fs::read_to_string(list).unwrap_or_default();
    text.lines()
        .filter_map(|line| line.split_once(' '))
        .filter_map(|(pid, started)| Some((pid.parse().ok()?, started.parse().ok()?)))
        .filter(|&(pid, started): &(i32, u64)| start_time(pid) == Some(started))
        .map(|(pid, _)| pid)
        .collect()
}

fn end(pids: &[i32]) {
    let me = std::process::id().cast_signed();
    let pids: Vec<Pid> =
        pids.iter().filter(|&&pid| pid != me).filter_map(|&pid| Pid::from_raw(pid)).collect();
    for &pid in &pids {
        let _ = kill_process(pid, Signal::KILL);
    }
    // Their namespaces and sockets are free once they are gone; zombies hold neither.
    let gone =
        || pids.iter().all(|pid| matches!(state(pid.as_raw_nonzero().get()), None | Some('Z')));
    let _ = wait_until("processes end", Duration::from_secs(5), gone);
}

fn lock_path(id: &str) -> PathBuf {
    Path::new(LOCKS).join(format!("{id}.lock"))
}

/// Takes a run's lock; none where somebody has it.
fn lock(id: &str) -> Result<Option<File>> {
    fs::create_dir_all(LOCKS).map_err(file_error(LOCKS))?;
    let path = lock_path(id);
    loop {
        let file = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(file_error(&path))?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Ok(None);
        }
        // Whoever had it before may have removed the file: then it locks nothing.
        let locked = file.metadata().map_err(file_error(&path))?.ino();
        if fs::metadata(&path).is_ok_and(|there| there.ino() == locked) {
            return Ok(Some(file));
        }
    }
}

fn named(directory: &str, prefix: &str) -> Vec<String> {
    entries(directory)
        .iter()
        .filter_map(|path| path.file_name()?.to_str().map(str::to_owned))
        .filter(|name| name.starts_with(prefix))
        .collect()
}

fn entries(directory: &str) -> Vec<PathBuf> {
    let Ok(list) = fs::read_dir(directory) else { return Vec::new() };
    list.flatten().map(|entry| entry.path()).collect()
}

/// State letter and what follows it in `/proc/PID/stat` (proc(5)); the name before may hold blanks.
fn stat(pid: i32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = text.rsplit_once(") ")?;
    Some(rest.split(' ').map(str::to_owned).collect())
}

fn state(pid: i32) -> Option<char> {
    stat(pid)?.first()?.chars().next()
}

/// Clock ticks after boot at which the process began: with its number, its name for good.
fn start_time(pid: i32) -> Option<u64> {
    stat(pid)?.get(19)?.parse().ok()
}
