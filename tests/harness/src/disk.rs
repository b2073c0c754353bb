//! A small disk, to be filled.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::netns::output;
use crate::{Result, Run, file_error};

/// A file system of its own (tmpfs); unmounted with the run.
#[derive(Debug)]
pub struct SmallDisk {
    path: PathBuf,
}

// === impl SmallDisk ===

impl SmallDisk {
    /// Mounts one of `kib` KiB at the run's directory `name`.
    ///
    /// # Errors
    /// When it can't be mounted.
    pub fn mount(run: &Run, name: &str, kib: u64) -> Result<Self> {
        let path = run.directory(name)?;
        let options = format!("size={kib}k,mode=0755");
        output(Command::new("mount").args(["-t", "tmpfs", "-o", &options, "weir-lab"]).arg(&path))?;
        Ok(Self { path })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes that are free.
    ///
    /// # Errors
    /// When it is not there any more.
    pub fn free(&self) -> Result<u64> {
        let said = rustix::fs::statvfs(&self.path);
        let said = said.map_err(|errno| file_error(&self.path)(errno.into()))?;
        Ok(said.f_bavail * said.f_frsize)
    }
}

/// Unmounts what is mounted below `directory`.
pub(crate) fn unmount_below(directory: &Path) {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let places = mounts.lines().filter_map(|line| line.split(' ').nth(1).map(Path::new));
    for place in places.filter(|place| place.starts_with(directory)) {
        // Lazily: a process that is just ending may hold it for a moment.
        let _ = output(Command::new("umount").arg("-l").arg(place));
    }
}
