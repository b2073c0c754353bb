//! What only the benchmark and the tests use; no part of the interface.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use std::time::Instant;

use aya::maps::{Array, Map, MapData};

use datapath_abi::event;
use zerocopy::{Immutable, IntoBytes};

use crate::Error;
use crate::error::Doing;
use crate::events::Wake;
use crate::kernel::btf::Btf;
use crate::kernel::cpus;
use crate::kernel::types::Types;
use crate::pins::Pins;
use crate::sys::{link, map, run};
use crate::{Events, Options, maps, object};

/// A benchmark's programs, on the maps of a datapath that is open.
#[derive(Debug)]
pub struct Bench {
    ebpf: aya::Ebpf,
    packet: Vec<u8>,
}

/// Maps of `ebpf/src/bench/policy.rs`.
const OWN: [(&str, u32); 3] =
    [("bench_ct", 1 << 18), ("bench_ipcache", 1 << 15), ("bench_rules", 1 << 11)];

/// One of its programs.
#[derive(Debug)]
pub struct BenchProgram(OwnedFd);

/// Waits until one of the perf buffers has something, at most for `milliseconds`.
pub fn wait(events: &Events, milliseconds: i32) {
    let mut polls: Vec<_> = events
        .wakers()
        .iter()
        .map(|fd| libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 })
        .collect();
    // SAFETY: the kernel writes to the structures given, as many as it is told.
    unsafe { libc::poll(polls.as_mut_ptr(), polls.len() as u64, milliseconds) };
}

/// Binds this thread to a CPU.
pub fn pin_thread(cpu: usize) {
    // SAFETY: zero is a value of the set, and the calls stay within it.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set);
    }
}

fn missing() -> Error {
    Error::Missing { what: "map bench_services".to_owned() }
}

// === impl Bench ===

impl Bench {
    /// Loads the object once more. `packet` is what programs run over.
    pub fn open(options: &Options, packet: Vec<u8>) -> Result<Self, Error> {
        let pins = Pins::create(&options.pin_dir)?;
        let cpus = cpus::possible().doing(|| "/sys/devices/system/cpu/possible")?;
        let shapes = maps::shapes(options, cpus);
        let types = Types::of(&Btf::of_kernel().doing(|| "BTF")?);
        Ok(Self { ebpf: object::parse(options, &types, &pins, &shapes, &OWN)?, packet })
    }

    /// Writes an element to one of the benchmark's own tries.
    pub fn put_prefix<K, V>(&self, name: &str, key: &K, value: &V) -> Result<(), Error>
    where
        K: IntoBytes + Immutable,
        V: IntoBytes + Immutable,
    {
        let missing = || Error::Missing { what: format!("map {name}") };
        let Some(Map::LpmTrie(data)) = self.ebpf.map(name) else {
            return Err(missing());
        };
        map::update(data.fd().as_fd(), key, value, map::ANY).doing(|| format!("writing {name}"))
    }

    /// Loads a program.
    pub fn program(&mut self, name: &'static str) -> Result<BenchProgram, Error> {
        let loaded = object::program(&mut self.ebpf, name)?;
        let fd = loaded.map_err(|source| Error::Program { name, source: Box::new(source) })?;
        Ok(BenchProgram(fd))
    }

    /// Sets the number of the next packet, and the number of flows (a power of two).
    pub fn flows(&mut self, next: u64, flows: u64) -> Result<(), Error> {
        let missing = || Error::Missing { what: "map bench".to_owned() };
        let map: &mut Map = self.ebpf.map_mut("bench").ok_or_else(missing)?;
        let mut array = Array::<_, [u64; 2]>::try_from(map).map_err(|_| missing())?;
        array.set(0, [next, flows - 1], 0).map_err(|_| missing())
    }

    /// A perf buffer per CPU that wakes its reader for each event, as they usually do.
    pub fn perf_events(&self, bytes: u32) -> Result<Events, Error> {
        Events::of_perf(object::map(&self.ebpf, event::PERF_MAP)?, bytes, Wake::Each)
    }

    /// Runs a program `repeat` times; mean nanoseconds per run.
    pub fn run(&self, program: &BenchProgram, repeat: u32) -> Result<u32, Error> {
        let ran = run::run(program.0.as_fd(), &self.packet, &mut [], repeat);
        ran.map(|ran| ran.nanoseconds).doing(|| "running a program")
    }

    /// Sets the number of the next packet, flows (a power of two) and services of `bench_generate`.
    pub fn services(&mut self, next: u64, flows: u64, services: u64) -> Result<(), Error> {
        self.counters()?.set(0, [next, flows - 1, services, 0], 0).map_err(|_| missing())
    }

    /// Runs an XDP program over `packet` as frames that come in by an interface; nanoseconds per run.
    pub fn run_xdp(
        &self,
        program: &BenchProgram,
        packet: &[u8],
        ifindex: u32,
        repeat: u32,
    ) -> Result<u32, Error> {
        // The kernel wants room for the packet as it has become.
        let mut out = vec![0; 4096];
        let ran = run::run_at(program.0.as_fd(), packet, &mut out, repeat, ifindex);
        ran.map(|ran| ran.nanoseconds).doing(|| "running an XDP program")
    }

    /// Sets the number of the next packet, and the number of flows, of `ebpf/src/bench/xdp.rs`.
    pub fn xdp_flows(&mut self, next: u64, flows: u64) -> Result<(), Error> {
        self.xdp_counters()?.set(0, [next, flows - 1, 0], 0).map_err(|_| missing())
    }

    /// Packets that were sent on since [`Bench::xdp_flows`].
    pub fn xdp_sent(&mut self) -> Result<u64, Error> {
        self.xdp_counters()?.get(&0, 0).map(|bench| bench[2]).map_err(|_| missing())
    }

    fn xdp_counters(&mut self) -> Result<Array<&mut MapData, [u64; 3]>, Error> {
        let map = self.ebpf.map_mut("bench_xdp").ok_or_else(missing)?;
        Array::try_from(map).map_err(|_| missing())
    }

    /// Packets that have come through to `bench_drop` since [`Bench::services`].
    pub fn arrived(&mut self) -> Result<u64, Error> {
        self.counters()?.get(&0, 0).map(|bench| bench[3]).map_err(|_| missing())
    }

    fn counters(&mut self) -> Result<Array<&mut MapData, [u64; 4]>, Error> {
        let map = self.ebpf.map_mut("bench_services").ok_or_else(missing)?;
        Array::try_from(map).map_err(|_| missing())
    }

    /// Sends `repeat` packets in by an interface of this thread's network namespace; nanoseconds each.
    pub fn send(&self, program: &BenchProgram, ifindex: u32, repeat: u32) -> Result<u32, Error> {
        let start = Instant::now();
        run::run_live(program.0.as_fd(), &self.packet, ifindex, repeat)
            .doing(|| "sending packets")?;
        Ok((start.elapsed().as_nanos() / u128::from(repeat)) as u32)
    }

    /// Attaches a classifier to the egress hook of an interface of this thread's network namespace, for as long as
    /// what it returns lives.
    pub fn attach(&self, program: &BenchProgram, ifindex: u32) -> Result<OwnedFd, Error> {
        link::create(program.0.as_fd(), ifindex, link::TCX_EGRESS, 0).doing(|| "attaching")
    }

    /// What a program returns for a packet, which comes from interface 1 (loopback).
    pub fn verdict(&self, program: &BenchProgram, packet: &[u8]) -> Result<i32, Error> {
        let ran = run::run(program.0.as_fd(), packet, &mut [], 1);
        ran.map(|ran| ran.returned).doing(|| "running a program")
    }
}
