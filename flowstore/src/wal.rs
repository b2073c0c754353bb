//! The write-ahead log: what makes an acknowledged batch last.
//!
//! A folder of numbered files, each a mark and a row of records. The writer thread owns the newest;
//! the others wait until their rows are in segments.

mod record;
mod replay;
mod writer;

pub(crate) use record::{MAX_RECORD, Record};
pub(crate) use replay::{Replay, replay};
pub(crate) use writer::{Append, Command, Cut, Writer, decode_parts};

use std::path::{Path, PathBuf};

/// Opens every file of the log; the last byte is the version of the format.
const MAGIC: &[u8; 8] = b"WEIRWAL\x01";

/// The file of that number.
pub(crate) fn path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:010}.wal"))
}

/// The number of the file of that name.
pub(crate) fn number(name: &str) -> Option<u64> {
    name.strip_suffix(".wal")?.parse().ok()
}
