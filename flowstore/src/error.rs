//! What can go wrong.

use std::io;
use std::path::{Path, PathBuf};

use columns::ipc::IpcError;

use crate::query::QueryError;

/// An error of the store.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The disk takes no more for now; nothing of the batch was kept, and it may be sent again.
    #[error("ingest is stopped: {why}")]
    Stopped {
        /// What the disk said.
        why: String,
    },
    /// A part of the batch is no batch of its table; sending it again is of no use.
    #[error("part {part} ({table}) cannot be decoded: {source}")]
    Undecodable {
        /// Index of the part.
        part: usize,
        /// Its table.
        table: &'static str,
        /// What is wrong with it.
        source: IpcError,
    },
    /// A batch is over what one record of the log may hold; sending it again is of no use.
    #[error("batch of {bytes} bytes is over the limit of {limit}")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// The store is shutting down.
    #[error("the store is closed")]
    Closed,
    /// Another process uses the data directory.
    #[error("{} is in use by another process", .0.display())]
    InUse(PathBuf),
    /// The disk failed.
    #[error("{what} {}: {source}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A segment could not be written or read.
    #[error("segment {}: {source}", path.display())]
    Segment {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: parquet::errors::ParquetError,
    },
    /// Columns could not be computed.
    #[error(transparent)]
    Arrow(#[from] arrow::error::ArrowError),
    /// A metric's name was taken.
    #[error(transparent)]
    Metrics(#[from] prometheus::Error),
    /// A query failed.
    #[error(transparent)]
    Query(#[from] QueryError),
    /// A background task ended without an answer: a defect.
    #[error("internal: {0}")]
    Internal(String),
}

/// The result of an operation of the store.
pub type Result<T, E = Error> = std::result::Result<T, E>;

// === impl Error ===

impl Error {
    pub(crate) fn io<'a>(
        what: &'static str,
        path: &'a Path,
    ) -> impl FnOnce(io::Error) -> Self + use<'a> {
        move |source| Self::Io { what, path: path.to_owned(), source }
    }

    pub(crate) fn segment<'a>(
        path: &'a Path,
    ) -> impl Fn(parquet::errors::ParquetError) -> Self + use<'a> {
        move |source| Self::Segment { path: path.to_owned(), source }
    }
}
