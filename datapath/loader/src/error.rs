//! What can go wrong, named by the object it went wrong with.

use std::io;
use std::path::PathBuf;

/// Errors of the loader.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A system call failed.
    #[error("{what}")]
    System {
        /// What was being done, and to what.
        what: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The pin directory does not lie on a BPF file system.
    #[error("{path}: not on a bpf file system (mount -t bpf bpf /sys/fs/bpf, or take default_pin_root())", path = path.display())]
    NotBpffs {
        /// The directory.
        path: PathBuf,
    },
    /// The object was not accepted.
    #[error(
        "eBPF object was refused (a kernel older than 5.10, or missing CAP_BPF, CAP_NET_ADMIN or CAP_PERFMON?)"
    )]
    Object(#[source] Box<aya::EbpfError>),
    /// The verifier did not accept a program.
    #[error("program {name} was refused by the kernel")]
    Program {
        /// The program.
        name: &'static str,
        /// Why not, with the verifier's log.
        #[source]
        source: Box<aya::programs::ProgramError>,
    },
    /// The object lacks something it should have: it was built from other sources.
    #[error("eBPF object has no {what}")]
    Missing {
        /// What it lacks.
        what: String,
    },
    /// The pinned maps are of another layout.
    #[error("{path}: pinned maps have layout {found}, this program has {expected}; stop the other version, then remove them with `cleanup` (unreported counters are lost)", path = path.display())]
    Layout {
        /// The pin directory.
        path: PathBuf,
        /// Number of the pinned layout.
        found: u32,
        /// Our number.
        expected: u32,
    },
    /// A pinned map has another size than asked for.
    #[error("{path}: pinned map has {found}, asked for {expected}; ask for the same, or remove it with `cleanup` (unreported counters are lost)", path = path.display())]
    Size {
        /// The map's pin.
        path: PathBuf,
        /// Its shape.
        found: String,
        /// The shape wanted.
        expected: String,
    },
    /// There is no such interface here.
    #[error("interface {name}: not found in this network namespace")]
    NoInterface {
        /// The interface.
        name: String,
    },
    /// The interface's index does not fit into a connection's key.
    #[error(
        "interface {name}: index {ifindex} is above 2^23 - 1, which connection keys cannot hold"
    )]
    Ifindex {
        /// The interface.
        name: String,
        /// Its index.
        ifindex: u32,
    },
    /// The kernel cannot destroy sockets: those that are connected to a backend that is gone stay so.
    #[error(
        "the kernel cannot destroy sockets of protocol {protocol} (no CONFIG_INET_DIAG_DESTROY, or no tcp_diag, udp_diag?): they stay with backends that are gone"
    )]
    NoDestroy {
        /// IP protocol number.
        protocol: u8,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// Only one reader may drain the events.
    #[error("events are already being read")]
    EventsTaken,
    /// An option's value cannot be used.
    #[error("option {option}: {why}")]
    Option {
        /// The option.
        option: &'static str,
        /// Why not.
        why: String,
    },
}

/// Names what failed.
pub(crate) trait Doing<T> {
    /// `what` is evaluated on failure only.
    fn doing<W: Into<String>>(self, what: impl FnOnce() -> W) -> Result<T, Error>;
}

impl<T> Doing<T> for io::Result<T> {
    fn doing<W: Into<String>>(self, what: impl FnOnce() -> W) -> Result<T, Error> {
        self.map_err(|source| Error::System { what: what().into(), source })
    }
}
