//! Every write to the disk goes through here, so that each can be made to fail in a test.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use crate::error::{Error, Result};

/// An operation on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskOperation {
    /// A file is made.
    Create,
    /// Bytes are written.
    Write,
    /// A file or directory is synced.
    Sync,
    /// A file is renamed.
    Rename,
}

/// Decides whether an operation fails.
#[derive(Clone)]
pub struct FaultHook(Arc<Fault>);

type Fault = dyn Fn(DiskOperation, &Path) -> io::Result<()> + Send + Sync;

/// The disk, or what a test makes of it.
#[derive(Debug, Clone)]
pub(crate) struct Disk {
    fault: Option<FaultHook>,
}

// === impl FaultHook ===

impl FaultHook {
    /// Wraps a function that is called before each operation.
    pub fn new(
        fault: impl Fn(DiskOperation, &Path) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(fault))
    }
}

impl fmt::Debug for FaultHook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FaultHook")
    }
}

// === impl Disk ===

impl Disk {
    pub(crate) fn new(fault: Option<FaultHook>) -> Self {
        Self { fault }
    }

    fn check(&self, operation: DiskOperation, path: &Path) -> io::Result<()> {
        self.fault.as_ref().map_or(Ok(()), |fault| (fault.0)(operation, path))
    }

    /// Makes a file that must not exist yet.
    pub(crate) fn create(&self, path: &Path) -> Result<File> {
        self.check(DiskOperation::Create, path)
            .and_then(|()| OpenOptions::new().read(true).write(true).create_new(true).open(path))
            .map_err(Error::io("create", path))
    }

    pub(crate) fn write(&self, file: &mut File, path: &Path, bytes: &[u8]) -> Result<()> {
        self.check(DiskOperation::Write, path)
            .and_then(|()| file.write_all(bytes))
            .map_err(Error::io("write", path))
    }

    /// Makes the bytes of a file last; its size too, as that is needed to read them.
    pub(crate) fn sync(&self, file: &File, path: &Path) -> Result<()> {
        self.check(DiskOperation::Sync, path)
            .and_then(|()| file.sync_data())
            .map_err(Error::io("sync", path))
    }

    /// Makes the names in a directory last.
    pub(crate) fn sync_dir(&self, dir: &Path) -> Result<()> {
        self.check(DiskOperation::Sync, dir)
            .and_then(|()| File::open(dir)?.sync_all())
            .map_err(Error::io("sync", dir))
    }

    pub(crate) fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        self.check(DiskOperation::Rename, to)
            .and_then(|()| fs::rename(from, to))
            .map_err(Error::io("rename", to))
    }

    /// Bytes that may still be written to the file system of `dir`.
    pub(crate) fn free(&self, dir: &Path) -> Result<u64> {
        let stat =
            rustix::fs::statvfs(dir).map_err(|errno| Error::io("statvfs", dir)(errno.into()))?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

/// Makes a directory and its parents.
pub(crate) fn make_dir(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(Error::io("create", path))
}

/// Removes a file; that it is gone already is fine, any other failure only costs space.
pub(crate) fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "could not remove a file");
    }
}

/// Names of the files in `dir`, sorted.
pub(crate) fn list(dir: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).map_err(Error::io("list", dir))? {
        let entry = entry.map_err(Error::io("list", dir))?;
        names.extend(entry.file_name().into_string().ok());
    }
    names.sort_unstable();
    Ok(names)
}
