//! Many elements of a map at once, with errors that name it.

use std::io;
use std::os::fd::BorrowedFd;

use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::Error;
use crate::error::Doing;
use crate::sys::{info, map};

/// Elements moved by one system call.
const BATCH: usize = 1024;

/// Writes elements, in batches where the kernel has them for this kind of map.
pub(crate) fn put<K, V>(map: BorrowedFd<'_>, entries: &[(K, V)], name: &str) -> Result<(), Error>
where
    K: IntoBytes + Immutable + Copy,
    V: IntoBytes + Immutable + Copy,
{
    for chunk in entries.chunks(BATCH) {
        let (keys, values): (Vec<K>, Vec<V>) = chunk.iter().copied().unzip();
        map::update_all(map, &keys, &values).doing(|| format!("writing {name}"))?;
    }
    Ok(())
}

/// Writes elements of an array, from an index on.
pub(crate) fn write<V>(
    map: BorrowedFd<'_>,
    start: u32,
    values: &[V],
    name: &str,
) -> Result<(), Error>
where
    V: IntoBytes + Immutable + Copy,
{
    let mut next = start;
    for chunk in values.chunks(BATCH) {
        let keys: Vec<u32> = (next..).take(chunk.len()).collect();
        map::update_all(map, &keys, chunk).doing(|| format!("writing {name}"))?;
        next += chunk.len() as u32;
    }
    Ok(())
}

/// Removes elements; those that are not there are passed over.
pub(crate) fn remove<K: IntoBytes + Immutable>(
    map: BorrowedFd<'_>,
    keys: &[K],
    name: &str,
) -> Result<(), Error> {
    map::delete_all(map, keys).doing(|| format!("removing from {name}"))
}

/// All elements; `zero` is any key.
pub(crate) fn read<K, V>(map: BorrowedFd<'_>, zero: K, name: &str) -> Result<Vec<(K, V)>, Error>
where
    K: FromBytes + IntoBytes + Immutable + Copy,
    V: FromBytes + IntoBytes + Copy,
{
    let mut found = Vec::new();
    let zero = (zero, V::new_zeroed());
    map::walk(map, zero, &mut |key: &K, value: &V| found.push((*key, *value)))
        .doing(|| format!("reading {name}"))?;
    Ok(found)
}

/// As [`read`], key by key: tries have no batches on older kernels.
pub(crate) fn read_slowly<K, V>(map: BorrowedFd<'_>, name: &str) -> Result<Vec<(K, V)>, Error>
where
    K: FromBytes + IntoBytes + Immutable + Copy,
    V: FromBytes + IntoBytes + Copy,
{
    let mut found = Vec::new();
    map::walk_slowly(map, V::new_zeroed(), &mut |key: &K, value: &V| found.push((*key, *value)))
        .doing(|| format!("reading {name}"))?;
    Ok(found)
}

/// All elements of an array.
pub(crate) fn read_array<V>(map: BorrowedFd<'_>, name: &str) -> Result<Vec<V>, Error>
where
    V: FromBytes + IntoBytes + Copy,
{
    let read = || -> io::Result<Vec<V>> {
        let entries = info::info::<aya_obj::generated::bpf_map_info>(map)?.max_entries;
        let mut values = vec![V::new_zeroed(); entries as usize];
        map::read_array(map, &mut values)?;
        Ok(values)
    };
    read().doing(|| format!("reading {name}"))
}
