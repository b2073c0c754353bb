//! Map elements, one by one and in batches.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::{Attributes, Command, bpf, bpf_fd};

/// `BPF_MAP_TYPE_RINGBUF`.
pub(crate) const RINGBUF: u32 = 27;

/// Insert or replace (`BPF_ANY`).
pub(crate) const ANY: u64 = 0;
/// Insert only (`BPF_NOEXIST`).
pub(crate) const NOEXIST: u64 = 1;

#[repr(C)]
struct Create {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
    inner_map_fd: u32,
    numa_node: u32,
    name: [u8; 16],
}

#[repr(C)]
struct Element {
    map: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[repr(C)]
struct Batch {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map: u32,
    element_flags: u64,
    flags: u64,
}

// SAFETY: as the trait asks; fields of `BPF_MAP_CREATE`.
unsafe impl Attributes for Create {}
// SAFETY: as the trait asks; fields of `BPF_MAP_*_ELEM`.
unsafe impl Attributes for Element {}
// SAFETY: as the trait asks; fields of `BPF_MAP_*_BATCH`.
unsafe impl Attributes for Batch {}

/// Makes a ring buffer.
pub(crate) fn create_ring(bytes: u32) -> io::Result<OwnedFd> {
    let mut attributes = Create {
        map_type: RINGBUF,
        key_size: 0,
        value_size: 0,
        max_entries: bytes,
        map_flags: 0,
        inner_map_fd: 0,
        numa_node: 0,
        name: *b"weir_ring\0\0\0\0\0\0\0",
    };
    // SAFETY: no addresses.
    unsafe { bpf_fd(Command::MapCreate, &mut attributes) }
}

/// Copies an element to `value`, whose size must be the map's (times the possible CPUs, each
/// rounded up to 8 bytes, for a per-CPU map). Whether there is one.
pub(crate) fn lookup<K, V>(map: BorrowedFd<'_>, key: &K, value: &mut V) -> io::Result<bool>
where
    K: IntoBytes + Immutable,
    V: FromBytes + IntoBytes + ?Sized,
{
    let mut attributes = Element {
        map: map.as_raw_fd() as u32,
        pad: 0,
        key: std::ptr::from_ref(key) as u64,
        value: value.as_mut_bytes().as_mut_ptr() as u64,
        flags: 0,
    };
    // SAFETY: the caller gives key and value of the map's sizes, where any bytes are a value.
    match unsafe { bpf(Command::MapLookup, &mut attributes) } {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Writes an element; `value` as in [`lookup`].
pub(crate) fn update<K, V>(map: BorrowedFd<'_>, key: &K, value: &V, flags: u64) -> io::Result<()>
where
    K: IntoBytes + Immutable,
    V: IntoBytes + Immutable + ?Sized,
{
    let mut attributes = Element {
        map: map.as_raw_fd() as u32,
        pad: 0,
        key: std::ptr::from_ref(key) as u64,
        value: value.as_bytes().as_ptr() as u64,
        flags,
    };
    // SAFETY: the caller gives key and value of the map's sizes; the kernel only reads them.
    unsafe { bpf(Command::MapUpdate, &mut attributes) }.map(drop)
}

/// Deletes an element; whether there was one.
pub(crate) fn delete<K: IntoBytes + Immutable>(map: BorrowedFd<'_>, key: &K) -> io::Result<bool> {
    let mut attributes = Element {
        map: map.as_raw_fd() as u32,
        pad: 0,
        key: std::ptr::from_ref(key) as u64,
        value: 0,
        flags: 0,
    };
    // SAFETY: the caller gives a key of the map's size; the kernel only reads it.
    match unsafe { bpf(Command::MapDelete, &mut attributes) } {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

/// The key after `key` (the first one for none), or none at the end.
pub(crate) fn next_key<K>(map: BorrowedFd<'_>, key: Option<&K>) -> io::Result<Option<K>>
where
    K: FromBytes + IntoBytes + Immutable,
{
    let mut next = K::new_zeroed();
    let mut attributes = Element {
        map: map.as_raw_fd() as u32,
        pad: 0,
        key: key.map_or(0, |key| std::ptr::from_ref(key) as u64),
        value: (&raw mut next) as u64,
        flags: 0,
    };
    // SAFETY: the caller gives a key of the map's size, where any bytes are a value.
    match unsafe { bpf(Command::MapNextKey, &mut attributes) } {
        Ok(_) => Ok(Some(next)),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Where a walk in batches stands; a hash map's is a bucket number.
#[derive(Debug, Default)]
pub(crate) struct Position(Option<u32>);

/// Copies the next elements of a hash map to `keys` and `values`; how many, and whether these are
/// the last. Fails with `ENOSPC` where a bucket holds more than there is room for.
pub(crate) fn lookup_batch<K, V>(
    map: BorrowedFd<'_>,
    position: &mut Position,
    keys: &mut [K],
    values: &mut [V],
) -> io::Result<(usize, bool)>
where
    K: FromBytes + IntoBytes,
    V: FromBytes + IntoBytes,
{
    let room = keys.len().min(values.len());
    let mut next = 0u32;
    let mut attributes = Batch {
        in_batch: position.0.as_ref().map_or(0, |bucket| std::ptr::from_ref(bucket) as u64),
        out_batch: (&raw mut next) as u64,
        keys: keys.as_mut_ptr() as u64,
        values: values.as_mut_ptr() as u64,
        count: room as u32,
        map: map.as_raw_fd() as u32,
        element_flags: 0,
        flags: 0,
    };
    // SAFETY: there is room for `count` keys and values of the map's sizes, where any bytes are a
    // value; positions are the 4 bytes that a hash map uses.
    let result = unsafe { bpf(Command::LookupBatch, &mut attributes) };
    let count = (attributes.count as usize).min(room);
    match result {
        Ok(_) => {
            position.0 = Some(next);
            Ok((count, false))
        }
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok((count, true)),
        Err(error) => Err(error),
    }
}

/// Writes elements.
pub(crate) fn update_batch<K, V>(map: BorrowedFd<'_>, keys: &[K], values: &[V]) -> io::Result<()>
where
    K: IntoBytes + Immutable,
    V: IntoBytes + Immutable,
{
    let count = keys.len().min(values.len());
    if count == 0 {
        return Ok(());
    }
    let mut attributes = Batch {
        in_batch: 0,
        out_batch: 0,
        keys: keys.as_ptr() as u64,
        values: values.as_ptr() as u64,
        count: count as u32,
        map: map.as_raw_fd() as u32,
        element_flags: ANY,
        flags: 0,
    };
    // SAFETY: `count` keys and values of the map's sizes; the kernel only reads them.
    unsafe { bpf(Command::UpdateBatch, &mut attributes) }.map(drop)
}

/// Deletes elements; those that are not there are passed over.
pub(crate) fn delete_batch<K>(map: BorrowedFd<'_>, mut keys: &[K]) -> io::Result<()>
where
    K: IntoBytes + Immutable,
{
    while !keys.is_empty() {
        let mut attributes = Batch {
            in_batch: 0,
            out_batch: 0,
            keys: keys.as_ptr() as u64,
            values: 0,
            count: keys.len() as u32,
            map: map.as_raw_fd() as u32,
            element_flags: 0,
            flags: 0,
        };
        // SAFETY: `count` keys of the map's size; the kernel only reads them.
        match unsafe { bpf(Command::DeleteBatch, &mut attributes) } {
            Ok(_) => return Ok(()),
            // The kernel stopped at a key that is not there, having deleted those before it.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {
                keys = keys.get(attributes.count as usize + 1..).unwrap_or_default();
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Writes elements: in one batch, or one by one where the kernel has no batches for this map.
pub(crate) fn update_all<K, V>(map: BorrowedFd<'_>, keys: &[K], values: &[V]) -> io::Result<()>
where
    K: IntoBytes + Immutable,
    V: IntoBytes + Immutable,
{
    match update_batch(map, keys, values) {
        Err(error) if is_unknown(&error) => {
            keys.iter().zip(values).try_for_each(|(key, value)| update(map, key, value, ANY))
        }
        result => result,
    }
}

/// Deletes elements; those that are not there are passed over.
pub(crate) fn delete_all<K>(map: BorrowedFd<'_>, keys: &[K]) -> io::Result<()>
where
    K: IntoBytes + Immutable,
{
    match delete_batch(map, keys) {
        Err(error) if is_unknown(&error) => {
            keys.iter().try_for_each(|key| delete(map, key).map(drop))
        }
        result => result,
    }
}

/// Shows every element of a hash map to `on`; `zero` is what buffers are filled with.
pub(crate) fn walk<K, V>(
    map: BorrowedFd<'_>,
    zero: (K, V),
    on: &mut dyn FnMut(&K, &V),
) -> io::Result<()>
where
    K: FromBytes + IntoBytes + Immutable + Copy,
    V: FromBytes + IntoBytes + Copy,
{
    let mut room = 1024;
    let (mut keys, mut values) = (vec![zero.0; room], vec![zero.1; room]);
    let mut position = Position::default();
    let mut any = false;
    loop {
        match lookup_batch(map, &mut position, &mut keys, &mut values) {
            Ok((count, last)) => {
                keys.iter().zip(&values).take(count).for_each(|(key, value)| on(key, value));
                any |= count != 0;
                if last {
                    return Ok(());
                }
            }
            // A bucket holds more than there was room for; nothing of it was copied.
            Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => {
                room *= 2;
                keys.resize(room, zero.0);
                values.resize(room, zero.1);
            }
            Err(error) if !any && is_unknown(&error) => return walk_slowly(map, zero.1, on),
            Err(error) => return Err(error),
        }
    }
}

/// As [`walk`], key by key.
pub(crate) fn walk_slowly<K, V>(
    map: BorrowedFd<'_>,
    zero: V,
    on: &mut dyn FnMut(&K, &V),
) -> io::Result<()>
where
    K: FromBytes + IntoBytes + Immutable,
    V: FromBytes + IntoBytes + Copy,
{
    let mut next = next_key::<K>(map, None)?;
    while let Some(key) = next {
        let mut value = zero;
        if lookup(map, &key, &mut value)? {
            on(&key, &value);
        }
        next = next_key(map, Some(&key))?;
    }
    Ok(())
}

/// Copies the elements of an array, from the first on.
pub(crate) fn read_array<V>(map: BorrowedFd<'_>, values: &mut [V]) -> io::Result<()>
where
    V: FromBytes + IntoBytes,
{
    let mut keys = vec![0u32; values.len()];
    match lookup_batch(map, &mut Position::default(), &mut keys, values) {
        Err(error) if is_unknown(&error) => {
            for (index, value) in (0u32..).zip(values) {
                lookup(map, &index, value)?;
            }
            Ok(())
        }
        result => result.map(drop),
    }
}

/// The kernel does not know the command, or not for this map.
pub(crate) fn is_unknown(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP | 524))
}
