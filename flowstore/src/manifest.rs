//! The list of what the store consists of. Whatever is not in it does not exist.
//!
//! A line with version and checksum, then JSON. The copy before the last is kept; if both are
//! damaged, the list is made anew from the footers of the segments (`recover.rs`).

use std::collections::BTreeSet;
use std::path::Path;

use columns::Table;
use serde::{Deserialize, Serialize};

use crate::disk::{self, Disk};
use crate::error::Result;
use crate::hot::Span;
use crate::watermark::Watermarks;

const NAME: &str = "manifest.json";
const PREVIOUS: &str = "manifest.previous.json";
const TEMPORARY: &str = "manifest.tmp";
const VERSION: u32 = 1;

/// The state that the log's files from `wal` on are to be replayed upon.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    /// The first file of the log whose rows are not in segments.
    pub(crate) wal: u64,
    /// The number of the next segment.
    pub(crate) next: u64,
    pub(crate) segments: Vec<SegmentMeta>,
    pub(crate) marks: Watermarks,
    #[serde(default)]
    pub(crate) quarantined: Vec<Quarantined>,
    #[serde(default)]
    pub(crate) removed: Vec<Removed>,
}

/// One segment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SegmentMeta {
    #[serde(with = "table_name")]
    pub(crate) table: Table,
    pub(crate) file: String,
    pub(crate) rows: u64,
    /// Size of the file; 0 inside the file itself.
    pub(crate) bytes: u64,
    /// Checksum of the file; 0 inside the file itself.
    pub(crate) crc: u32,
    pub(crate) min_time: i64,
    pub(crate) max_time: i64,
    pub(crate) nodes: BTreeSet<String>,
    /// The rows came from files of the log from this one …
    pub(crate) wal_from: u64,
    /// … up to but without this one.
    pub(crate) wal_until: u64,
    /// Segments that were merged into this one, also indirectly.
    #[serde(default)]
    pub(crate) replaces: Vec<String>,
}

/// A segment that turned out damaged and was put aside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Quarantined {
    #[serde(with = "table_name")]
    pub(crate) table: Table,
    pub(crate) file: String,
    pub(crate) rows: u64,
    pub(crate) min_time: i64,
    pub(crate) max_time: i64,
    pub(crate) why: String,
}

/// What retention took from a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Removed {
    #[serde(with = "table_name")]
    pub(crate) table: Table,
    pub(crate) rows: u64,
    /// The latest time of a removed row.
    pub(crate) until: i64,
}

/// Where a manifest was found.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Loaded {
    /// There is none: a new store.
    None,
    Good(Manifest),
    /// The last one is damaged; the one before it may be good.
    Damaged {
        previous: Option<Manifest>,
    },
}

mod table_name {
    use columns::Table;
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(table: &Table, out: S) -> Result<S::Ok, S::Error> {
        out.serialize_str(table.name())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(input: D) -> Result<Table, D::Error> {
        let name = String::deserialize(input)?;
        Table::by_name(&name).ok_or_else(|| D::Error::custom(format!("no table {name}")))
    }
}

// === impl Manifest ===

impl Manifest {
    pub(crate) fn load(root: &Path) -> Loaded {
        let read = |name: &str| std::fs::read(root.join(name)).map(|bytes| Self::parse(&bytes));
        match (read(NAME), read(PREVIOUS)) {
            (Ok(Some(manifest)), _) => Loaded::Good(manifest),
            (Err(_), Err(_)) => Loaded::None,
            (_, previous) => Loaded::Damaged { previous: previous.ok().flatten() },
        }
    }

    /// Replaces the manifest in one step that lasts; there is a whole one at every moment.
    pub(crate) fn write(&self, disk: &Disk, root: &Path) -> Result<()> {
        let (path, previous) = (root.join(NAME), root.join(PREVIOUS));
        let temporary = root.join(TEMPORARY);
        disk::remove(&temporary);
        if path.exists() {
            // A link first: renaming the manifest away would leave a moment without one.
            std::fs::hard_link(&path, &temporary).map_err(crate::Error::io("link", &temporary))?;
            disk.rename(&temporary, &previous)?;
            // If both were names of one file, renaming did nothing.
            disk::remove(&temporary);
        }
        let bytes = self.render()?;
        let mut file = disk.create(&temporary)?;
        disk.write(&mut file, &temporary, &bytes)?;
        disk.sync(&file, &temporary)?;
        disk.rename(&temporary, &path)?;
        disk.sync_dir(root)
    }

    fn render(&self) -> Result<Vec<u8>> {
        let body = serde_json::to_vec(self)
            .map_err(|error| crate::Error::Internal(format!("manifest: {error}")))?;
        let mut bytes =
            format!("weir-store {VERSION} {:08x}\n", crc32c::crc32c(&body)).into_bytes();
        bytes.extend(body);
        Ok(bytes)
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let line = bytes.iter().position(|byte| *byte == b'\n')?;
        let mut words = std::str::from_utf8(&bytes[..line]).ok()?.split(' ');
        if words.next()? != "weir-store" || words.next()?.parse::<u32>().ok()? != VERSION {
            return None;
        }
        let crc = u32::from_str_radix(words.next()?, 16).ok()?;
        let body = &bytes[line + 1..];
        (crc32c::crc32c(body) == crc).then_some(())?;
        serde_json::from_slice(body).ok()
    }

    /// Notes what retention took.
    pub(crate) fn note_removed(&mut self, segment: &SegmentMeta) {
        match self.removed.iter_mut().find(|removed| removed.table == segment.table) {
            Some(removed) => {
                removed.rows += segment.rows;
                removed.until = removed.until.max(segment.max_time);
            }
            None => self.removed.push(Removed {
                table: segment.table,
                rows: segment.rows,
                until: segment.max_time,
            }),
        }
    }
}

// === impl SegmentMeta ===

impl SegmentMeta {
    pub(crate) fn span(&self) -> Span {
        Span { min: self.min_time, max: self.max_time }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A crash after the copy was made and before the manifest was replaced.
    #[test]
    fn two_names_of_one_file_are_no_obstacle() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk::new(None);
        Manifest::default().write(&disk, dir.path()).unwrap();
        std::fs::hard_link(dir.path().join(NAME), dir.path().join(PREVIOUS)).unwrap();
        std::fs::hard_link(dir.path().join(NAME), dir.path().join(TEMPORARY)).unwrap();
        let next = Manifest { wal: 7, ..Manifest::default() };
        next.write(&disk, dir.path()).unwrap();
        assert_eq!(Manifest::load(dir.path()), Loaded::Good(next));
    }

    #[test]
    fn survives_damage_of_the_last_copy() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk::new(None);
        assert_eq!(Manifest::load(dir.path()), Loaded::None);
        let first = Manifest { wal: 1, ..Manifest::default() };
        let second = Manifest { wal: 2, ..Manifest::default() };
        first.write(&disk, dir.path()).unwrap();
        second.write(&disk, dir.path()).unwrap();
        assert_eq!(Manifest::load(dir.path()), Loaded::Good(second.clone()));
        let path = dir.path().join(NAME);
        let good = std::fs::read(&path).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            std::fs::write(&path, &bad).unwrap();
            let previous = Some(first.clone());
            assert_eq!(Manifest::load(dir.path()), Loaded::Damaged { previous }, "byte {at}");
        }
    }
}
