//! What observing costs: nanoseconds per packet and per event, by running the programs over a test
//! packet in the kernel (`BPF_PROG_TEST_RUN`).
//!
//! A packet repeated is one flow, all in cache: so the programs under test make each run another
//! flow (`ebpf/src/bench.rs`), and what that costs is a row of its own (`flow`), to be subtracted.
//! Rounds interleave the programs; medians count. Needs root; alone on the machine it is steadier.
//!
//! `cargo bench --workspace --bench observe`; the last line is JSON, which with `WEIR_BENCH_DIR` is
//! also written there, as `observe.json`.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use datapath_loader::bench::{Bench, BenchProgram, pin_thread, wait};
use datapath_loader::{Datapath, Events, Options, Transport, cleanup, default_pin_root};

type Failure = Box<dyn std::error::Error>;

const ROUNDS: usize = 9;
const RUNS: u32 = 1 << 17;
/// New flows in one run: as many events as the ring holds.
const NEW: u32 = 1 << 15;
const EVENTS: u32 = 4096;

const PROGRAMS: [&str; 4] = ["bench_empty", "bench_flow", "bench_floor", "bench_observe"];

fn main() -> Result<(), Failure> {
    let options = Options {
        pin_dir: default_pin_root()?.join(format!("weir-bench-{}", std::process::id())),
        max_connections: 1 << 18,
        ring_bytes: 1 << 22,
        transport: Transport::Ring,
        dns: false,
        drops: false,
        cgroup: None,
        policy: None,
        services: None,
        socket_services: None,
        xdp: None,
    };
    pin_thread(1);
    let measured = measure(&options);
    cleanup(&options.pin_dir)?;
    let measured = measured?;
    println!("{measured}");
    if let Some(directory) = std::env::var_os("WEIR_BENCH_DIR").map(PathBuf::from) {
        std::fs::create_dir_all(&directory)?;
        std::fs::write(directory.join("observe.json"), measured)?;
    }
    Ok(())
}

fn measure(options: &Options) -> Result<String, Failure> {
    let mut datapath = Datapath::open(options.clone())?;
    let mut events = datapath.events()?;
    let mut json = Vec::new();
    println!(
        "{:20} {:>8} {:>8} {:>8} {:>8} {:>10} {:>10} {:>8}",
        "", "empty", "flow", "floor", "observe", "net floor", "net", "ratio"
    );
    for (name, packet) in [("udp", udp()), ("tcp", tcp())] {
        let mut bench = Bench::open(options, packet)?;
        let programs = programs(&mut bench)?;
        churn(&mut bench, &programs[3], &datapath)?;
        for flows in [1, 1 << 10, 1 << 16] {
            let row = established(&mut bench, &programs, flows)?;
            json.push(report(&format!("{name} {flows} flows"), row));
        }
        clear(&datapath)?;
        let row = new_flows(&mut bench, &programs, &datapath, &mut events)?;
        json.push(report(&format!("{name} new flows"), row));
        clear(&datapath)?;
    }
    let mut bench = Bench::open(options, udp())?;
    let (ring, ring_reader) = ring_events(&mut bench, &mut events)?;
    drop(datapath);
    let options = Options { transport: Transport::Perf, ..options.clone() };
    let mut bench = Bench::open(&options, udp())?;
    let (perf, perf_reader) = perf_events(&mut bench, &options)?;
    println!("{:20} {:>10} {:>10}", "events", "producer", "reader");
    println!("{:20} {ring:>7.0} ns {ring_reader:>7.1} ns", "ring, no wake-up");
    println!("{:20} {perf:>7.0} ns {perf_reader:>7.1} ns", "perf, wake-up each");
    let ratio = (perf + perf_reader) / (ring + ring_reader);
    println!("{:20} {ratio:>7.0} x", "ratio, both sides");
    json.push(format!(
        "\"events\":{{\"ring\":{ring},\"ring_reader\":{ring_reader},\"perf\":{perf},\
         \"perf_reader\":{perf_reader},\"ratio\":{ratio}}}"
    ));
    Ok(format!("{{{}}}", json.join(",")))
}

/// Flows that are in the table.
fn established(
    bench: &mut Bench,
    programs: &[BenchProgram],
    flows: u64,
) -> Result<[u32; 4], Failure> {
    // Once around, so that all of them are there.
    bench.flows(0, flows)?;
    bench.run(&programs[3], RUNS.max(flows as u32))?;
    let mut rounds: [Vec<u32>; 4] = Default::default();
    for _ in 0..ROUNDS {
        for (program, round) in programs.iter().zip(&mut rounds) {
            bench.flows(0, flows)?;
            round.push(bench.run(program, RUNS)?);
        }
    }
    Ok(rounds.map(median))
}

/// Flows that are not: each run makes an entry and an event.
fn new_flows(
    bench: &mut Bench,
    programs: &[BenchProgram],
    datapath: &Datapath,
    events: &mut Events,
) -> Result<[u32; 4], Failure> {
    let mut rounds: [Vec<u32>; 4] = Default::default();
    for _ in 0..ROUNDS {
        for (program, round) in programs.iter().zip(&mut rounds) {
            bench.flows(0, 1 << 32)?;
            let mut nanoseconds = 0;
            for _ in 0..4 {
                events.drain(&mut |_| ());
                nanoseconds += bench.run(program, NEW)?;
            }
            round.push(nanoseconds / 4);
        }
        clear(datapath)?;
    }
    Ok(rounds.map(median))
}

/// Producer and reader of the rings, the reader coming by when some have gathered.
fn ring_events(bench: &mut Bench, events: &mut Events) -> Result<(f64, f64), Failure> {
    let program = bench.program("bench_event")?;
    let empty = bench.program("bench_empty")?;
    events.drain(&mut |_| ());
    let (mut producer, mut reader) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS * 8 {
        let base = bench.run(&empty, EVENTS)?;
        producer.push(bench.run(&program, EVENTS)?.saturating_sub(base));
        let start = Instant::now();
        let read = events.drain(&mut |_| ());
        assert_eq!(read, EVENTS as usize, "every event arrives");
        reader.push((start.elapsed().as_nanos() * 10 / u128::from(EVENTS)) as u32);
    }
    Ok((f64::from(median(producer)), f64::from(median(reader)) / 10.0))
}

/// Producer and reader of perf buffers as they usually are: each event wakes a reader that waits on
/// another CPU. Its CPU time counts.
fn perf_events(bench: &mut Bench, options: &Options) -> Result<(f64, f64), Failure> {
    let program = bench.program("bench_event")?;
    let empty = bench.program("bench_empty")?;
    let mut events = bench.perf_events(options.ring_bytes)?;
    let stop = Arc::new(AtomicBool::new(false));
    let (read, used) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let reader = std::thread::spawn({
        let (stop, read, used) = (Arc::clone(&stop), Arc::clone(&read), Arc::clone(&used));
        move || {
            pin_thread(0);
            while !stop.load(Ordering::Relaxed) {
                wait(&events, 10);
                let count = events.drain(&mut |_| ());
                read.fetch_add(count as u64, Ordering::Relaxed);
            }
            used.store(thread_cpu_ns(), Ordering::Relaxed);
        }
    });
    let mut producer = Vec::new();
    for _ in 0..ROUNDS {
        let base = bench.run(&empty, EVENTS)?;
        producer.push(bench.run(&program, EVENTS)?.saturating_sub(base));
    }
    stop.store(true, Ordering::Relaxed);
    reader.join().map_err(|_| "the reader panicked")?;
    let read = read.load(Ordering::Relaxed).max(1);
    Ok((f64::from(median(producer)), used.load(Ordering::Relaxed) as f64 / read as f64))
}

fn programs(bench: &mut Bench) -> Result<Vec<BenchProgram>, Failure> {
    Ok(PROGRAMS.into_iter().map(|name| bench.program(name)).collect::<Result<_, _>>()?)
}

/// Fills and empties the table, so that the kernel hands out its elements in no order: those of a
/// fresh table lie in the order in which flows come, which flatters.
fn churn(bench: &mut Bench, observe: &BenchProgram, datapath: &Datapath) -> Result<(), Failure> {
    bench.flows(0, 1 << 32)?;
    bench.run(observe, 1 << 18)?;
    clear(datapath)
}

fn clear(datapath: &Datapath) -> Result<(), Failure> {
    let connections = datapath.connections();
    let mut keys = Vec::new();
    connections.walk(&mut |key, _| keys.push(*key))?;
    Ok(connections.remove(&keys)?)
}

fn report(name: &str, [empty, flow, floor, observe]: [u32; 4]) -> String {
    let (net_floor, net) = (floor.saturating_sub(flow), observe.saturating_sub(flow));
    let ratio = f64::from(net) / f64::from(net_floor.max(1));
    println!(
        "{name:20} {empty:>8} {flow:>8} {floor:>8} {observe:>8} {net_floor:>7} ns {net:>7} ns \
         {ratio:>7.2}x"
    );
    format!(
        "\"{name}\":{{\"empty\":{empty},\"flow\":{flow},\"floor\":{floor},\"observe\":{observe},\
         \"net_floor\":{net_floor},\"net\":{net},\"ratio\":{ratio}}}"
    )
}

fn median(mut values: Vec<u32>) -> u32 {
    values.sort_unstable();
    values[values.len() / 2]
}

/// CPU time of this thread, from /proc.
fn thread_cpu_ns() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split(' ').next().and_then(|first| first.parse().ok()).unwrap_or(0)
}

/// A UDP packet of 64 bytes, from 10.0.0.1 to 10.0.0.2.
fn udp() -> Vec<u8> {
    ipv4(17, &[0x30, 0x39, 0x1b, 0x58, 0, 30, 0, 0])
}

/// A TCP segment with data, of a connection in use.
fn tcp() -> Vec<u8> {
    let mut header = [0; 20];
    header[..4].copy_from_slice(&[0x30, 0x39, 0, 80]);
    header[4..12].copy_from_slice(&[0, 0, 1, 0, 0, 0, 2, 0]);
    header[12..14].copy_from_slice(&[5 << 4, 0x18]);
    ipv4(6, &header)
}

fn ipv4(protocol: u8, transport: &[u8]) -> Vec<u8> {
    let mut packet = vec![0; 12];
    packet.extend([0x08, 0x00, 0x45, 0, 0, 50, 0, 0, 0, 0, 64, protocol, 0, 0]);
    packet.extend([10, 0, 0, 1, 10, 0, 0, 2]);
    packet.extend(transport);
    packet.resize(64, 0);
    packet
}
