//! From the kernel programs' clocks to the time of day.

use std::io;
use std::os::fd::BorrowedFd;

use crate::sys::run;

/// How the two clocks of the kernel programs stand to each other.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ticks {
    ktime_ns: u64,
    jiffies: u64,
    tick_ns: u64,
}

/// Turns kernel times into nanoseconds since the epoch. A snapshot: take a new one (two clock
/// reads, no system call) for each batch, so that adjustments of the time of day are followed.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    ticks: Ticks,
    /// Epoch time less monotonic time.
    offset_ns: i64,
}

// === impl Ticks ===

impl Ticks {
    /// Asks both clocks at once, by a program; the tick is what the coarse clock resolves
    /// (`clock_getres(CLOCK_MONOTONIC_COARSE)`, which is 1/HZ).
    pub(crate) fn measure(program: BorrowedFd<'_>) -> io::Result<Self> {
        let mut packet = [0u8; 64];
        run::run(program, &[0; 64], &mut packet, 1)?;
        let number = |at: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&packet[at..at + 8]);
            u64::from_ne_bytes(bytes)
        };
        let mut resolution = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the call writes one timespec.
        if unsafe { libc::clock_getres(libc::CLOCK_MONOTONIC_COARSE, &mut resolution) } != 0 {
            return Err(io::Error::last_os_error());
        }
        let tick_ns = nanoseconds(resolution) as u64;
        Ok(Self { ktime_ns: number(14), jiffies: number(22), tick_ns: tick_ns.max(1) })
    }

    /// Length of a tick.
    pub(crate) fn nanoseconds(&self) -> u64 {
        self.tick_ns
    }

    /// `bpf_ktime_get_ns` at a tick, less than one tick late.
    fn ktime(&self, jiffies: u64) -> u64 {
        let since = jiffies.wrapping_sub(self.jiffies) as i64;
        self.ktime_ns.saturating_add_signed(since.saturating_mul(self.tick_ns as i64))
    }
}

// === impl Clock ===

impl Clock {
    pub(crate) fn now(ticks: Ticks) -> Self {
        // Between two reads of one clock lies the read of the other; the tightest of three counts.
        let offset_ns = (0..3)
            .map(|_| {
                let before = read(libc::CLOCK_MONOTONIC);
                let epoch = read(libc::CLOCK_REALTIME);
                let after = read(libc::CLOCK_MONOTONIC);
                (after - before, epoch - before.midpoint(after))
            })
            .min()
            .map_or(0, |(_, offset)| offset);
        Self { ticks, offset_ns }
    }

    /// Nanoseconds since the epoch of a `bpf_ktime_get_ns`.
    pub fn epoch_from_ktime(&self, ktime_ns: u64) -> i64 {
        (ktime_ns as i64).saturating_add(self.offset_ns)
    }

    /// Nanoseconds since the epoch of a `bpf_jiffies64`, as exact as a tick (1 to 10 ms).
    pub fn epoch_from_jiffies(&self, jiffies: u64) -> i64 {
        self.epoch_from_ktime(self.ticks.ktime(jiffies))
    }

    /// Length of a tick in nanoseconds.
    pub fn tick_ns(&self) -> u64 {
        self.ticks.tick_ns
    }

    /// `bpf_jiffies64` now, by the monotonic clock.
    pub fn jiffies_now(&self) -> u64 {
        let since = read(libc::CLOCK_MONOTONIC) - self.ticks.ktime_ns as i64;
        self.ticks.jiffies.saturating_add_signed(since / self.ticks.tick_ns as i64)
    }

    /// `bpf_ktime_get_ns` now.
    pub fn ktime_now(&self) -> u64 {
        read(libc::CLOCK_MONOTONIC) as u64
    }
}

fn read(clock: libc::clockid_t) -> i64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call writes one timespec; it cannot fail for these clocks.
    unsafe { libc::clock_gettime(clock, &mut time) };
    nanoseconds(time)
}

fn nanoseconds(time: libc::timespec) -> i64 {
    time.tv_sec * 1_000_000_000 + time.tv_nsec
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_and_nanoseconds_are_one_time_line() {
        let ticks = Ticks { ktime_ns: 1_000_000_000, jiffies: 500, tick_ns: 4_000_000 };
        let clock = Clock { ticks, offset_ns: 1_700_000_000_000_000_000 };
        assert_eq!(clock.epoch_from_jiffies(500), clock.epoch_from_ktime(1_000_000_000));
        assert_eq!(clock.epoch_from_jiffies(501), clock.epoch_from_ktime(1_004_000_000));
        assert_eq!(clock.epoch_from_jiffies(499), clock.epoch_from_ktime(996_000_000));
    }

    #[test]
    fn the_present_is_now() {
        let ticks = Ticks { ktime_ns: 0, jiffies: 0, tick_ns: 4_000_000 };
        let clock = Clock::now(ticks);
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let apart = clock.epoch_from_ktime(clock.ktime_now()) - now.as_nanos() as i64;
        assert!(apart.abs() < 50_000_000, "{apart}");
    }
}
