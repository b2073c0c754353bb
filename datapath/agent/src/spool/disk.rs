//! Changes to files; in tests, the place where they fail.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::Path;

/// The file system as the spool changes it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Disk {
    #[cfg(test)]
    pub(crate) faults: Faults,
}

/// What is about to be done.
#[cfg(test)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Op {
    Create,
    Append(usize),
    Truncate,
    Remove,
}

/// How it fails.
#[cfg(test)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fault {
    /// Bytes of an append that reach the file nevertheless.
    pub(crate) keep: usize,
}

#[cfg(test)]
type Judge = dyn Fn(Op) -> Option<Fault> + Send + Sync;

/// Decides which operations fail.
#[cfg(test)]
#[derive(Clone, Default)]
pub(crate) struct Faults(pub(crate) Option<std::sync::Arc<Judge>>);

// === impl Disk ===

impl Disk {
    /// Creates a file that must not be there yet, for appending and reading.
    pub(crate) fn create(&self, path: &Path) -> io::Result<File> {
        #[cfg(test)]
        self.faults.judge(Op::Create)?;
        OpenOptions::new().create_new(true).append(true).read(true).open(path)
    }

    /// Opens a file for appending and reading.
    pub(crate) fn open(path: &Path) -> io::Result<File> {
        OpenOptions::new().append(true).read(true).open(path)
    }

    /// Appends all of `bytes`, or fails with some of them written.
    pub(crate) fn append(&self, file: &File, bytes: &[u8]) -> io::Result<()> {
        let mut file = file;
        #[cfg(test)]
        if let Some(fault) = self.faults.ask(Op::Append(bytes.len())) {
            file.write_all(&bytes[..fault.keep.min(bytes.len())])?;
            return Err(io::Error::other("injected"));
        }
        file.write_all(bytes)
    }

    /// Cuts a file to `length`.
    pub(crate) fn truncate(&self, file: &File, length: u64) -> io::Result<()> {
        #[cfg(test)]
        self.faults.judge(Op::Truncate)?;
        file.set_len(length)
    }

    /// Removes a file.
    pub(crate) fn remove(&self, path: &Path) -> io::Result<()> {
        #[cfg(test)]
        self.faults.judge(Op::Remove)?;
        std::fs::remove_file(path)
    }
}

// === impl Faults ===

#[cfg(test)]
impl Faults {
    fn ask(&self, op: Op) -> Option<Fault> {
        self.0.as_ref().and_then(|judge| judge(op))
    }

    fn judge(&self, op: Op) -> io::Result<()> {
        match self.ask(op) {
            Some(_) => Err(io::Error::other("injected")),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
impl std::fmt::Debug for Faults {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Faults")
    }
}
