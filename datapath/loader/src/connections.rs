//! The connection table.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex};

use datapath_abi::conn::{ConnKey, ConnValue};
use datapath_abi::retire::{MAX_RECORDS, OFFSET, Record};
use zerocopy::IntoBytes;

use crate::error::Doing;
use crate::sys::map::{self, Position};
use crate::sys::run;
use crate::{Error, FlowCache};

/// Elements fetched by one system call: 300 KB of them.
const BATCH: usize = 1024;

/// `MEMBARRIER_CMD_GLOBAL` (membarrier(2)): returns after an RCU grace period.
const MEMBARRIER_GLOBAL: i32 = 1;

/// The connection table. Cheap to clone; usable from any thread.
#[derive(Clone)]
pub struct Connections(Arc<Shared>);

struct Shared {
    map: Arc<OwnedFd>,
    retire: OwnedFd,
    rings: Arc<OwnedFd>,
    cache: FlowCache,
    /// Reused by walks; one at a time has it, others make their own.
    buffers: Mutex<Option<Buffers>>,
}

struct Buffers {
    keys: Vec<ConnKey>,
    values: Vec<ConnValue>,
}

// === impl Connections ===

impl Connections {
    pub(crate) fn new(
        map: Arc<OwnedFd>,
        retire: OwnedFd,
        rings: Arc<OwnedFd>,
        cache: FlowCache,
    ) -> Self {
        Self(Arc::new(Shared { map, retire, rings, cache, buffers: Mutex::new(None) }))
    }

    /// Shows every connection to `on`; returns how many. What is created or removed meanwhile may
    /// be shown or not; nothing is shown twice unless buckets are too full for a batch. What the XDP program
    /// has counted is in it.
    pub fn walk(&self, on: &mut dyn FnMut(&ConnKey, &ConnValue)) -> Result<u64, Error> {
        self.0.cache.sweep()?;
        let kept = self.0.buffers.lock().ok().and_then(|mut kept| kept.take());
        let mut buffers = kept.unwrap_or_else(|| Buffers::new(BATCH));
        let walked = self.walk_with(&mut buffers, on);
        if let Ok(mut kept) = self.0.buffers.lock() {
            *kept = Some(buffers);
        }
        walked.doing(|| "walking the connection table")
    }

    fn walk_with(
        &self,
        buffers: &mut Buffers,
        on: &mut dyn FnMut(&ConnKey, &ConnValue),
    ) -> io::Result<u64> {
        let mut position = Position::default();
        let mut walked = 0;
        loop {
            let Buffers { keys, values } = buffers;
            match map::lookup_batch(self.fd(), &mut position, keys, values) {
                Ok((count, last)) => {
                    for (key, value) in keys.iter().zip(values.iter()).take(count) {
                        on(key, value);
                    }
                    walked += count as u64;
                    if last {
                        return Ok(walked);
                    }
                }
                // A bucket holds more than there was room for; nothing of it was copied.
                Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => {
                    *buffers = Buffers::new(buffers.keys.len() * 2);
                }
                Err(error) if walked == 0 && map::is_unknown(&error) => {
                    return self.walk_slowly(on);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Key by key, for a kernel without batches.
    fn walk_slowly(&self, on: &mut dyn FnMut(&ConnKey, &ConnValue)) -> io::Result<u64> {
        let mut walked = 0;
        let mut next = map::next_key::<ConnKey>(self.fd(), None)?;
        while let Some(key) = next {
            let mut value = ConnValue::ZERO;
            if map::lookup(self.fd(), &key, &mut value)? {
                on(&key, &value);
                walked += 1;
            }
            next = map::next_key(self.fd(), Some(&key))?;
        }
        Ok(walked)
    }

    /// One connection.
    pub fn get(&self, key: &ConnKey) -> Result<Option<ConnValue>, Error> {
        let mut value = ConnValue::ZERO;
        let found = map::lookup(self.fd(), key, &mut value).doing(|| "reading a connection")?;
        Ok(found.then_some(value))
    }

    /// Ends the counting of these connections (key and `id`) and returns their final values. After
    /// this, their packets count as unattributed (cause retiring) until [`Connections::remove`],
    /// which frees the tuple. Left out are those that are gone, or were taken over by another
    /// connection meanwhile.
    ///
    /// It waits for an RCU grace period, some 10 to 50 ms, whatever the number of connections:
    /// packets that were being counted when the entry was marked have been counted by then.
    pub fn retire(&self, keys: &[(ConnKey, u64)]) -> Result<Vec<(ConnKey, ConnValue)>, Error> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        for chunk in keys.chunks(MAX_RECORDS as usize) {
            self.mark(chunk).doing(|| "marking connections as retired")?;
        }
        self.barrier()?;
        let mut retired = Vec::with_capacity(keys.len());
        for (key, _) in keys {
            if let Some(value) = self.get(key)?
                && value.retired != 0
            {
                retired.push((*key, value));
            }
        }
        Ok(retired)
    }

    /// Runs the retire program with a list for its packet.
    fn mark(&self, keys: &[(ConnKey, u64)]) -> io::Result<()> {
        let mut packet = vec![0; OFFSET as usize];
        for &(key, id) in keys {
            packet.extend_from_slice(Record { key, id }.as_bytes());
        }
        run::run(self.0.retire.as_fd(), &packet, &mut [], 1).map(drop)
    }

    /// The flow cache in front of the table.
    pub(crate) fn cache(&self) -> &FlowCache {
        &self.0.cache
    }

    /// Waits for an RCU grace period: what packets were doing when it was called, they have done by then.
    pub(crate) fn barrier(&self) -> Result<(), Error> {
        self.wait().doing(|| "waiting for packets in flight")
    }

    fn wait(&self) -> io::Result<()> {
        // SAFETY: no addresses.
        if unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_GLOBAL, 0, 0) } == 0 {
            return Ok(());
        }
        // Not there, or refused with `nohz_full`. An update of a map of maps waits as well
        // (kernel/bpf/syscall.c, maybe_wait_bpf_programs), even one that changes nothing.
        let mut id = 0u32;
        let rings = self.0.rings.as_fd();
        if map::lookup(rings, &0u32, &mut id)? {
            let ring = crate::sys::map_of_id(id)?;
            let fd = std::os::fd::AsRawFd::as_raw_fd(&ring) as u32;
            return map::update(rings, &0u32, &fd, map::ANY);
        }
        Err(io::Error::other("neither membarrier(2) nor a map of maps"))
    }

    /// Removes connections; what they held is gone, so only after it was reported.
    pub fn remove(&self, keys: &[ConnKey]) -> Result<(), Error> {
        map::delete_batch(self.fd(), keys).doing(|| "removing connections")?;
        // A flow that comes back may be sent elsewhere by another CPU, so no way may outlive its entry.
        if keys.is_empty() { Ok(()) } else { self.0.cache.renew() }
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.0.map.as_fd()
    }
}

impl fmt::Debug for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Connections").field(&self.0.map).finish()
    }
}

// === impl Buffers ===

impl Buffers {
    fn new(length: usize) -> Self {
        let key = Record::ZERO.key;
        Self { keys: vec![key; length], values: vec![ConnValue::ZERO; length] }
    }
}
