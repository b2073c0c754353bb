//! What was reported: read and written by user space only.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use datapath_abi::reported::{Reported, ReportedKey, TOTALS};

use crate::Error;
use crate::error::Doing;
use crate::sys::map::{self, Position};

/// Elements moved by one system call.
const BATCH: usize = 1024;

/// The map `reported`. Cheap to clone; usable from any thread.
#[derive(Debug, Clone)]
pub struct ReportedMap(Arc<OwnedFd>);

// === impl ReportedMap ===

impl ReportedMap {
    pub(crate) fn new(map: Arc<OwnedFd>) -> Self {
        Self(map)
    }

    /// Writes entries, over what was there. On an error some may have been written.
    pub fn write(&self, entries: &[(ReportedKey, Reported)]) -> Result<(), Error> {
        let mut keys = Vec::with_capacity(entries.len().min(BATCH));
        let mut values = Vec::with_capacity(entries.len().min(BATCH));
        for chunk in entries.chunks(BATCH) {
            keys.clear();
            values.clear();
            keys.extend(chunk.iter().map(|&(key, _)| key));
            values.extend(chunk.iter().map(|&(_, value)| value));
            map::update_batch(self.0.as_fd(), &keys, &values)
                .doing(|| "writing what was reported")?;
        }
        Ok(())
    }

    /// Shows every entry to `on`. Not to be written to meanwhile.
    pub fn walk(&self, on: &mut dyn FnMut(&ReportedKey, &Reported)) -> Result<(), Error> {
        let mut room = BATCH;
        let mut keys = vec![ReportedKey { kind: 0, link: 0, ends: 0 }; room];
        let mut values = vec![EMPTY; room];
        let mut position = Position::default();
        loop {
            match map::lookup_batch(self.0.as_fd(), &mut position, &mut keys, &mut values) {
                Ok((count, last)) => {
                    keys.iter().zip(&values).take(count).for_each(|(key, value)| on(key, value));
                    if last {
                        return Ok(());
                    }
                }
                Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => {
                    room *= 2;
                    keys.resize(room, keys[0]);
                    values.resize(room, EMPTY);
                }
                Err(error) => return Err(error).doing(|| "reading what was reported"),
            }
        }
    }

    /// Removes entries; those that are not there are passed over.
    pub fn remove(&self, keys: &[ReportedKey]) -> Result<(), Error> {
        map::delete_batch(self.0.as_fd(), keys).doing(|| "removing what was reported")
    }
}

const EMPTY: Reported =
    Reported { id: 0, batch: 0, seq_was: 0, seq_now: 0, was: [0; TOTALS], now: [0; TOTALS] };
