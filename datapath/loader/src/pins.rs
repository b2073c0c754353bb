//! Pins: what outlives the process, and where.
//!
//! ```text
//! <pin_dir>/<map>                        maps
//! <pin_dir>/links/<ifindex>-<hook>       tcx links
//! <pin_dir>/links/<ifindex>-<hook>_tc    marks a clsact filter as ours (pins its program)
//! <pin_dir>/links/<ifindex>_clsact       marks a clsact qdisc as ours
//! <pin_dir>/links/<ifindex>_xdp          XDP links
//! <pin_dir>/links/{kfree_skb,sock_create}
//! ```
//!
//! bpffs reserves names with dots.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::Error;
use crate::error::Doing;
use crate::hooks::{Hook, tc};
use crate::sys::{self, link};

/// `BPF_FS_MAGIC` (include/uapi/linux/magic.h).
const BPF_FS_MAGIC: i64 = 0xcafe_4a11;

const USUAL: &str = "/sys/fs/bpf";
/// Inside `ip netns exec` /sys is another mount, without /sys/fs/bpf; that of init has it.
const OF_INIT: &str = "/proc/1/root/sys/fs/bpf";
const OWN: &str = "/run/weir/bpf";

/// A pin directory's files.
#[derive(Debug, Clone)]
pub(crate) struct Pins(PathBuf);

/// What a file in `links` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Pin {
    /// A tcx link.
    Tcx(u32, Hook),
    /// Our filter in a clsact qdisc.
    Filter(u32, Hook),
    /// Our clsact qdisc.
    Qdisc(u32),
    /// An XDP link.
    Xdp(u32),
    /// Another link.
    Other,
}

/// Where pin directories belong: /sys/fs/bpf, which is mounted if need be; where that is not
/// possible, the bpf file system of the first process; else one of our own at /run/weir/bpf.
pub fn default_pin_root() -> Result<PathBuf, Error> {
    let usual = Path::new(USUAL);
    if is_bpffs(usual) || (usual.is_dir() && mount(usual).is_ok()) {
        return Ok(usual.to_owned());
    }
    let of_init = Path::new(OF_INIT);
    if is_bpffs(of_init) {
        return Ok(of_init.to_owned());
    }
    let own = Path::new(OWN);
    if !is_bpffs(own) {
        std::fs::create_dir_all(own).doing(|| OWN)?;
        mount(own).doing(|| format!("mounting a bpf file system at {OWN}"))?;
    }
    Ok(own.to_owned())
}

/// Removes all that a datapath left behind under `pin_dir`: links and filters first, then maps. It
/// needs no running agent, but the network namespace in which the interfaces were attached. Returns
/// what it removed; a directory that does not exist holds nothing.
pub fn cleanup(pin_dir: &Path) -> Result<Vec<String>, Error> {
    if !pin_dir.exists() {
        return Ok(Vec::new());
    }
    let pins = Pins(pin_dir.to_owned());
    let mut removed = Vec::new();
    for (path, pin) in pins.links()? {
        pins.undo(&path, &pin)?;
        removed.push(path.display().to_string());
    }
    for path in entries(pin_dir)? {
        if path.is_dir() {
            std::fs::remove_dir(&path).doing(|| format!("removing {}", path.display()))?;
        } else {
            unpin(&path)?;
            removed.push(path.display().to_string());
        }
    }
    std::fs::remove_dir(pin_dir).doing(|| format!("removing {}", pin_dir.display()))?;
    Ok(removed)
}

// === impl Pins ===

impl Pins {
    /// Makes the directories.
    pub(crate) fn create(directory: &Path) -> Result<Self, Error> {
        let pins = Self(directory.to_owned());
        let parent = directory.ancestors().find(|path| path.exists());
        if !parent.is_some_and(is_bpffs) {
            return Err(Error::NotBpffs { path: directory.to_owned() });
        }
        let links = pins.link("");
        std::fs::create_dir_all(&links).doing(|| format!("creating {}", links.display()))?;
        Ok(pins)
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.0
    }

    pub(crate) fn map(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub(crate) fn link(&self, name: &str) -> PathBuf {
        self.0.join("links").join(name)
    }

    pub(crate) fn tcx(&self, ifindex: u32, hook: Hook) -> PathBuf {
        self.link(&format!("{ifindex}-{hook}"))
    }

    pub(crate) fn xdp(&self, ifindex: u32) -> PathBuf {
        self.link(&format!("{ifindex}_xdp"))
    }

    pub(crate) fn filter(&self, ifindex: u32, hook: Hook) -> PathBuf {
        self.link(&format!("{ifindex}-{hook}_tc"))
    }

    pub(crate) fn qdisc(&self, ifindex: u32) -> PathBuf {
        self.link(&format!("{ifindex}_clsact"))
    }

    /// Links and marks, filters before the qdiscs that hold them.
    pub(crate) fn links(&self) -> Result<Vec<(PathBuf, Pin)>, Error> {
        let directory = self.link("");
        if !directory.exists() {
            return Ok(Vec::new());
        }
        let mut links: Vec<_> = entries(&directory)?
            .into_iter()
            .map(|path| {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                let pin = Pin::of(&name);
                (path, pin)
            })
            .collect();
        links.sort_by_key(|(_, pin)| matches!(pin, Pin::Qdisc(_)));
        Ok(links)
    }

    /// Detaches what a file stands for, and removes the file.
    pub(crate) fn undo(&self, path: &Path, pin: &Pin) -> Result<(), Error> {
        match *pin {
            Pin::Tcx(..) | Pin::Xdp(_) | Pin::Other => {
                if let Ok(link) = sys::open_pin(path) {
                    // A link whose interface is gone has nothing to detach; some kinds cannot.
                    let _ = link::detach(link.as_fd());
                }
            }
            Pin::Filter(ifindex, hook) => tc::delete_filter(ifindex, hook)
                .doing(|| format!("deleting the {hook} filter of interface {ifindex}"))?,
            Pin::Qdisc(ifindex) => tc::delete_qdisc_if_empty(ifindex)
                .doing(|| format!("deleting the clsact qdisc of interface {ifindex}"))?,
        }
        unpin(path)
    }
}

// === impl Pin ===

impl Pin {
    fn of(name: &str) -> Self {
        if let Some(pin) = name.strip_suffix("_clsact").and_then(|index| index.parse().ok()) {
            return Self::Qdisc(pin);
        }
        if let Some(pin) = name.strip_suffix("_xdp").and_then(|index| index.parse().ok()) {
            return Self::Xdp(pin);
        }
        let (name, filter) = match name.strip_suffix("_tc") {
            Some(name) => (name, true),
            None => (name, false),
        };
        let parts = name
            .split_once('-')
            .and_then(|(ifindex, hook)| Some((ifindex.parse().ok()?, Hook::of(hook)?)));
        match parts {
            Some((ifindex, hook)) if filter => Self::Filter(ifindex, hook),
            Some((ifindex, hook)) => Self::Tcx(ifindex, hook),
            None => Self::Other,
        }
    }
}

/// Pins, in place of what was there.
pub(crate) fn repin(object: &OwnedFd, path: &Path) -> Result<(), Error> {
    unpin(path)?;
    sys::pin(object.as_fd(), path).doing(|| format!("pinning {}", path.display()))
}

/// Removes a pin, if it is there.
pub(crate) fn unpin(path: &Path) -> Result<(), Error> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).doing(|| format!("unpinning {}", path.display()))
        }
        _ => Ok(()),
    }
}

fn entries(directory: &Path) -> Result<Vec<PathBuf>, Error> {
    let read = || -> io::Result<Vec<PathBuf>> {
        std::fs::read_dir(directory)?.map(|entry| Ok(entry?.path())).collect()
    };
    read().doing(|| format!("reading {}", directory.display()))
}

/// Whether a path lies on a bpf file system.
pub(crate) fn is_bpffs(path: &Path) -> bool {
    let Ok(path) = CString::new(path.as_os_str().as_bytes()) else {
        return false;
    };
    let mut stat = std::mem::MaybeUninit::<libc::statfs>::zeroed();
    // SAFETY: the path is NUL-terminated, and the call writes one structure.
    let result = unsafe { libc::statfs(path.as_ptr(), stat.as_mut_ptr()) };
    // SAFETY: zeroed, then written by the kernel; integers only.
    result == 0 && unsafe { stat.assume_init() }.f_type == BPF_FS_MAGIC
}

fn mount(path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)?;
    // SAFETY: the strings are NUL-terminated; bpffs takes no data.
    let result = unsafe {
        libc::mount(c"bpf".as_ptr(), path.as_ptr(), c"bpf".as_ptr(), 0, std::ptr::null())
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_pins() {
        assert_eq!(Pin::of("7-ingress"), Pin::Tcx(7, Hook::Ingress));
        assert_eq!(Pin::of("7-egress_tc"), Pin::Filter(7, Hook::Egress));
        assert_eq!(Pin::of("7_clsact"), Pin::Qdisc(7));
        assert_eq!(Pin::of("7_xdp"), Pin::Xdp(7));
        assert_eq!(Pin::of("kfree_skb"), Pin::Other);
        assert_eq!(Pin::of("x-ingress"), Pin::Other);
    }
}
