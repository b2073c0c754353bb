//! What only the benchmark and the tests use; no part of the interface.

use std::os::fd::{AsFd, OwnedFd};

use aya::maps::{Array, Map};

use crate::Error;
use crate::error::Doing;
use crate::kernel::btf::Btf;
use crate::kernel::cpus;
use crate::kernel::types::Types;
use crate::pins::Pins;
use crate::sys::run;
use crate::{Options, maps, object};

/// A benchmark's programs, on the maps of a datapath that is open.
#[derive(Debug)]
pub struct Bench {
    ebpf: aya::Ebpf,
    packet: Vec<u8>,
}

/// One of its programs.
#[derive(Debug)]
pub struct BenchProgram(OwnedFd);

// === impl Bench ===

impl Bench {
    /// Loads the object once more. `packet` is what programs run over.
    pub fn open(options: &Options, packet: Vec<u8>) -> Result<Self, Error> {
        let pins = Pins::create(&options.pin_dir)?;
        let cpus = cpus::possible().doing(|| "/sys/devices/system/cpu/possible")?;
        let shapes = maps::shapes(options, cpus);
        let types = Types::of(&Btf::of_kernel().doing(|| "BTF")?);
        Ok(Self { ebpf: object::parse(options, &types, &pins, &shapes)?, packet })
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

    /// Runs a program `repeat` times; mean nanoseconds per run.
    pub fn run(&self, program: &BenchProgram, repeat: u32) -> Result<u32, Error> {
        let ran = run::run(program.0.as_fd(), &self.packet, &mut [], repeat);
        ran.map(|ran| ran.nanoseconds).doing(|| "running a program")
    }
}
