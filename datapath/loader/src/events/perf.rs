//! A perf buffer (perf_event_open(2), "MMAP layout").
//!
//! The wake-up watermark is set to the whole buffer, because nobody waits: a wake-up per event
//! costs the producer microseconds (`benches/observe.rs` shows it).

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use aya_obj::generated::perf_event_attr;

use super::mapping::{Mapping, page};
use crate::sys::map;

const TYPE_SOFTWARE: u32 = 1;
const COUNT_SW_BPF_OUTPUT: u64 = 10;
const SAMPLE_RAW: u64 = 1 << 10;
const FLAG_CLOEXEC: u64 = 8;
const IOC_ENABLE: u64 = 0x2400;

/// `PERF_RECORD_SAMPLE`. Lost records are passed over: the programs count what they could not send.
const SAMPLE: u32 = 9;
/// `struct perf_event_header`, then the raw data's length.
const HEADER: usize = 8;
const RAW: usize = 12;

/// Places of `data_head` and `data_tail` in `struct perf_event_mmap_page`.
const HEAD: usize = 1024;
const TAIL: usize = 1032;

/// Whether the kernel wakes whoever waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wake {
    /// For no event: the reader comes by on a timer.
    None,
    /// For each event, as perf buffers usually do. Only the benchmark does.
    Each,
}

/// One CPU's buffer, and its only reader.
#[derive(Debug)]
pub(super) struct Buffer {
    mapping: Mapping,
    page: usize,
    size: usize,
    /// A record, contiguous and aligned, which in the buffer it is not.
    record: Vec<u64>,
    /// Sends to the buffer while it is open.
    event: OwnedFd,
}

// === impl Buffer ===

impl Buffer {
    /// Makes the buffer, and puts it into the perf event array.
    pub(super) fn open(
        array: BorrowedFd<'_>,
        cpu: u32,
        bytes: u32,
        wake: Wake,
    ) -> io::Result<Self> {
        let event = open_event(cpu, bytes, wake)?;
        let (page, size) = (page(), bytes as usize);
        let mapping = Mapping::new(event.as_fd(), page + size, true, 0)?;
        // SAFETY: no addresses.
        if unsafe { libc::ioctl(event.as_raw_fd(), IOC_ENABLE as _, 0) } != 0 {
            return Err(io::Error::last_os_error());
        }
        map::update(array, &cpu, &(event.as_raw_fd() as u32), map::ANY)?;
        Ok(Self { mapping, page, size, record: Vec::new(), event })
    }

    /// Becomes readable when the kernel wakes.
    pub(super) fn waker(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }

    /// Shows every record to `on`.
    pub(super) fn drain(&mut self, on: &mut dyn FnMut(&[u8])) {
        let mut tail = self.mapping.number(TAIL).load(Relaxed);
        loop {
            let head = self.mapping.number(HEAD).load(Acquire);
            if tail == head {
                break;
            }
            while tail < head {
                tail += self.take(tail, on).max(HEADER) as u64;
            }
            self.mapping.number(TAIL).store(tail, Release);
        }
    }

    /// Takes the record at a position; its length.
    fn take(&mut self, position: u64, on: &mut dyn FnMut(&[u8])) -> usize {
        let at = (position & (self.size as u64 - 1)) as usize;
        // Records are multiples of 8 bytes, so a header does not wrap around.
        let header = self.mapping.number(self.page + at).load(Relaxed);
        let (kind, length) = (header as u32, (header >> 48) as usize);
        if kind == SAMPLE && (RAW..=self.size).contains(&length) {
            self.copy(at, length);
            let record = zerocopy::IntoBytes::as_bytes(self.record.as_slice());
            let size = u32::from_ne_bytes([record[4], record[5], record[6], record[7]]) as usize;
            if let Some(data) = record.get(8..8 + size) {
                on(data);
            }
        }
        length
    }

    /// Copies a record so that its data begins at `record[1]`, and the data's length is the upper
    /// half of `record[0]`.
    fn copy(&mut self, at: usize, length: usize) {
        let bytes = length - HEADER;
        self.record.resize(bytes.div_ceil(8) + 1, 0);
        let to = zerocopy::IntoBytes::as_mut_bytes(self.record.as_mut_slice());
        let to = &mut to[4..4 + bytes];
        let at = (at + HEADER) % self.size;
        let first = bytes.min(self.size - at);
        // SAFETY: between tail and head, so written, and not given back yet.
        to[..first].copy_from_slice(unsafe { self.mapping.bytes(self.page + at, first) });
        // SAFETY: as above, the part that wraps around.
        to[first..].copy_from_slice(unsafe { self.mapping.bytes(self.page, bytes - first) });
    }
}

fn open_event(cpu: u32, bytes: u32, wake: Wake) -> io::Result<OwnedFd> {
    // SAFETY: zero is a value of this structure of integers.
    let mut attributes: perf_event_attr = unsafe { std::mem::zeroed() };
    attributes.size = size_of::<perf_event_attr>() as u32;
    attributes.type_ = TYPE_SOFTWARE;
    attributes.config = COUNT_SW_BPF_OUTPUT;
    attributes.sample_type = SAMPLE_RAW;
    attributes.__bindgen_anon_1.sample_period = 1;
    match wake {
        Wake::None => {
            attributes.set_watermark(1);
            attributes.__bindgen_anon_2.wakeup_watermark = bytes;
        }
        Wake::Each => attributes.__bindgen_anon_2.wakeup_events = 1,
    }
    // SAFETY: the kernel reads the attributes; all processes, one CPU.
    let fd = unsafe {
        libc::syscall(libc::SYS_perf_event_open, &raw mut attributes, -1, cpu, -1, FLAG_CLOEXEC)
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}
