//! The XDP program's flow cache, from outside: its settings, its sweep, its counters. What it is:
//! [`datapath_abi::flow_cache`].

use std::io;
use std::mem::offset_of;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use datapath_abi::flow_cache::{
    self, Bucket4, Bucket6, CacheSettings, CpuState, HOPS_PER_CPU, Hop, REASONS, SWEEP,
    SWEEP_AGAIN, SWEEP_HOPS, SWEEP_V4, SWEEP_V6, Tail, Way4, Way6,
};

use crate::error::Doing;
use crate::pins::Pins;
use crate::sys::{self, info, map, run};
use crate::table::read_array;
use crate::{Error, bench};

mod pending;

use pending::Pending;

/// Which kind of XDP hook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum XdpMode {
    /// The driver's own; where it has none, none.
    Native,
    /// The kernel's, behind the driver: for tests.
    Generic,
}

/// XDP at the host's own interfaces: packets of direct server return are sent on before the kernel has made anything of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Acceleration {
    /// Which kind of hook.
    pub mode: XdpMode,
    /// Buckets of two flows each, for each CPU: a power of two, from 64 on. IPv4: 64 bytes each.
    pub buckets4: u32,
    /// IPv6: 128 bytes each.
    pub buckets6: u32,
    /// Flows that may enter the cache of one CPU in a second.
    pub new_per_second: u32,
}

/// How the cache fares, all CPUs together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CacheCounters {
    /// Room for flows of IPv4 and IPv6.
    pub capacity: [u64; 2],
    /// Packets sent by a way.
    pub hits: u64,
    /// Packets that the tables were asked about.
    pub misses: u64,
    /// Flows that another one took the way from.
    pub evictions: u64,
    /// Packets of new flows beyond what may enter, sent without an entry.
    pub flood: u64,
    /// Additions to connections' entries.
    pub flushes: u64,
    /// Next hops asked of the routing table.
    pub routes: u64,
    /// Packets left to the tc programs, by [`flow_cache::REASON_NAMES`].
    pub passes: [u64; REASONS],
}

/// The cache. Cheap to clone; usable from any thread.
#[derive(Debug, Clone)]
pub struct FlowCache(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    settings: OwnedFd,
    state: OwnedFd,
    sweep: Option<OwnedFd>,
    /// By the numbers of tables.
    pending: [Pending; 3],
    /// Sweeps so far.
    sweeps: AtomicU32,
    cpus: u32,
    /// Buckets of a CPU, by family.
    buckets: [u32; 2],
    /// Whether anything may be in it.
    active: AtomicBool,
    /// One writer at a time.
    writing: Mutex<()>,
}

/// Of so many sweeps one looks at every way, and takes it from a flow that is gone.
const ALL: u32 = 256;
/// How often a chunk is tried while the XDP program is busy on its CPU.
const TRIES: u32 = 200;

// === impl Acceleration ===

impl Acceleration {
    /// For some hundred thousand flows on each CPU: 12 MB each.
    pub const USUAL: Self = Self {
        mode: XdpMode::Native,
        buckets4: 1 << 17,
        buckets6: 1 << 15,
        new_per_second: 125_000,
    };

    pub(crate) fn check(&self) -> Result<(), Error> {
        for buckets in [self.buckets4, self.buckets6] {
            if !buckets.is_power_of_two() || !(64..=1 << 22).contains(&buckets) {
                let why = format!("{buckets} buckets are no power of two from 64 to 2^22");
                return Err(Error::Option { option: "xdp", why });
            }
        }
        Ok(())
    }
}

// === impl FlowCache ===

impl FlowCache {
    pub(crate) fn open(pins: &Pins, cpus: u32, sweep: Option<OwnedFd>) -> Result<Self, Error> {
        let open = |name: &str| {
            let path = pins.map(name);
            sys::open_pin(&path).doing(|| format!("opening {}", path.display()))
        };
        let buckets = |name: &'static str| -> Result<u32, Error> {
            let found: io::Result<aya_obj::generated::bpf_map_info> =
                info::info(open(name)?.as_fd());
            found.map(|info| info.max_entries / cpus).doing(|| name)
        };
        let pending = |name: &str, size: usize, at: [usize; 2]| {
            Pending::map(open(name)?, size, at).doing(|| format!("mapping {name}"))
        };
        let tail = offset_of!(Tail, pending);
        let ways4 = offset_of!(Way4, tail) + tail;
        let ways6 = offset_of!(Way6, tail) + tail;
        let packets = offset_of!(Hop, packets);
        let pending = [
            pending(
                flow_cache::BUCKETS4,
                size_of::<Bucket4>(),
                [ways4, ways4 + size_of::<Way4>()],
            )?,
            pending(
                flow_cache::BUCKETS6,
                size_of::<Bucket6>(),
                [ways6, ways6 + size_of::<Way6>()],
            )?,
            pending(flow_cache::HOPS, size_of::<Hop>(), [packets; 2])?,
        ];
        Ok(Self(Arc::new(Shared {
            pending,
            sweeps: AtomicU32::new(0),
            settings: open(flow_cache::SETTINGS)?,
            state: open(flow_cache::STATE)?,
            sweep,
            cpus,
            buckets: [buckets(flow_cache::BUCKETS4)?, buckets(flow_cache::BUCKETS6)?],
            active: AtomicBool::new(false),
            writing: Mutex::new(()),
        })))
    }

    /// Says how large it is and what holds for it, and that it is used from now on.
    pub(crate) fn begin(&self, new_per_second: u32, tick_ns: u64) -> Result<(), Error> {
        let shared = &*self.0;
        let ticks = |milliseconds: u64| (milliseconds * 1_000_000 / tick_ns.max(1)) as u32;
        let seed = std::collections::hash_map::RandomState::new();
        self.change(|settings| {
            settings.new_per_second = new_per_second;
            settings.second = ticks(1000);
            settings.hop = ticks(1000);
            settings.idle = ticks(60_000);
            settings.mask4 = shared.buckets[0] - 1;
            settings.mask6 = shared.buckets[1] - 1;
            if settings.seed == 0 {
                settings.seed = std::hash::BuildHasher::hash_one(&seed, 0) as u32 | 1;
            }
        })?;
        shared.active.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// How many flows may enter the cache of one CPU in a second, from now on.
    pub fn limit(&self, new_per_second: u32) -> Result<(), Error> {
        self.change(|settings| settings.new_per_second = new_per_second)
    }

    /// Takes out what an earlier process has left in it.
    pub(crate) fn use_up(&self) -> Result<(), Error> {
        self.0.active.store(true, Ordering::Relaxed);
        self.sweep().map(drop)
    }

    /// Has every way looked at again: something that it follows from has changed. Where nothing is in the cache, nothing
    /// is done.
    pub(crate) fn renew(&self) -> Result<(), Error> {
        if self.0.active.load(Ordering::Relaxed) { self.change(|_| ()) } else { Ok(()) }
    }

    fn change(&self, what: impl FnOnce(&mut CacheSettings)) -> Result<(), Error> {
        let _writing = self.0.writing.lock();
        let mut settings = CacheSettings::default();
        let map = self.0.settings.as_fd();
        map::lookup(map, &0u32, &mut settings).doing(|| "reading xdp_settings")?;
        what(&mut settings);
        settings.generation = (settings.generation + 1) & 0xff_ffff;
        if settings.generation == 0 {
            // 0 is that of a cache that is not used.
            settings.generation = 1;
        }
        if settings.second == 0 {
            return Ok(());
        }
        map::update(map, &0u32, &settings, map::ANY).doing(|| "writing xdp_settings")
    }

    /// Adds all that is in the cache to the connection table. What the table's locks did not let through stays for the
    /// next time; how many ways that are.
    pub fn sweep(&self) -> Result<u64, Error> {
        let shared = &*self.0;
        let (Some(_), true) = (&shared.sweep, shared.active.load(Ordering::Relaxed)) else {
            return Ok(0);
        };
        // From a thread that is not on the CPU in question: there the program runs as an interrupt, and no packet comes
        // in between.
        std::thread::scope(|scope| {
            let sweeper = scope.spawn(|| {
                let mut left = 0;
                for cpu in 0..shared.cpus {
                    bench::pin_thread(((cpu + 1) % shared.cpus) as usize);
                    left += shared.sweep(cpu).doing(|| format!("sweeping CPU {cpu}"))?;
                }
                Ok(left)
            });
            sweeper.join().unwrap_or(Ok(0))
        })
    }

    /// How it fares.
    pub fn counters(&self) -> Result<CacheCounters, Error> {
        let states: Vec<CpuState> = read_array(self.0.state.as_fd(), flow_cache::STATE)?;
        let mut sum = CacheCounters {
            capacity: self.0.buckets.map(|buckets| u64::from(buckets * self.0.cpus) * 2),
            ..CacheCounters::default()
        };
        for state in &states {
            sum.hits += state.hits;
            sum.misses += state.misses;
            sum.evictions += state.evictions;
            sum.flood += state.flood;
            sum.flushes += state.flushes;
            sum.routes += state.routes;
            sum.passes.iter_mut().zip(state.passes).for_each(|(sum, passes)| *sum += passes);
        }
        Ok(sum)
    }
}

// === impl Shared ===

impl Shared {
    fn sweep(&self, cpu: u32) -> io::Result<u64> {
        let tables =
            [(SWEEP_V4, self.buckets[0]), (SWEEP_V6, self.buckets[1]), (SWEEP_HOPS, HOPS_PER_CPU)];
        let mut left = 0;
        let all = self.sweeps.fetch_add(1, Ordering::Relaxed) % ALL == ALL - 1;
        for (table, entries) in tables {
            for start in (0..entries).step_by(SWEEP as usize) {
                let first = (cpu * entries + start) as usize;
                if !all && !self.pending[table as usize].is_any(first..first + SWEEP as usize) {
                    continue;
                }
                match self.chunk(cpu, table, start) {
                    Ok(kept) => left += u64::from(kept),
                    // A CPU that is off has swept nothing, and sends nothing.
                    Err(error) if error.raw_os_error() == Some(libc::ENXIO) => return Ok(left),
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(left)
    }

    fn chunk(&self, cpu: u32, table: u64, start: u32) -> io::Result<u32> {
        let Some(program) = &self.sweep else {
            return Ok(0);
        };
        for _ in 0..TRIES {
            let left = run::run_on(program.as_fd(), &[table, u64::from(start)], cpu)?;
            if left != SWEEP_AGAIN {
                return Ok(left);
            }
        }
        Ok(SWEEP)
    }
}
