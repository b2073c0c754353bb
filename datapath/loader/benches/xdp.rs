//! What the XDP program costs: nanoseconds per packet of direct server return, beside the least that could be done.
//!
//! The packet is restored before each run, as another flow's (`ebpf/src/bench/xdp.rs`); what that costs is measured too, and
//! subtracted. Rounds interleave the programs; medians count. `cargo bench -p datapath-loader --bench xdp`; the last
//! line is JSON.

use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::process::Command;

use datapath_abi::policy::Prefix;
use datapath_abi::service::{
    ALIVE, Backend, CHOSEN, DSR, Frontend, FrontendKey, HASHED, NODE, Served, ServiceSettings,
    Slots, UPLINK,
};
use datapath_loader::bench::{Bench, BenchProgram, pin_thread};
use datapath_loader::{
    Acceleration, Datapath, Mode, Options, PolicySizes, ServiceSizes, Transport, cleanup,
    default_pin_root,
};

type Failure = Box<dyn std::error::Error>;

const ROUNDS: usize = 9;
const PACKETS: u32 = 1 << 19;
const NEW: u32 = 1 << 17;
const BACKENDS: u32 = 3;
const SLOTS: u32 = 65537;
const PROGRAMS: [&str; 3] = ["bench_xdp_restore", "bench_xdp_floor", "bench_xdp_forward"];

fn main() -> Result<(), Failure> {
    pin_thread(1);
    let namespace = format!("wx-{}", std::process::id());
    let script = format!(
        "set -e; n={namespace}; ip netns add $n; ip -n $n link set lo up
         ip -n $n link add in address 02:00:00:00:00:01 type veth peer name inp
         ip -n $n link set in up; ip -n $n link set inp up; ip -n $n addr add 10.11.0.1/16 dev in
         ip -n $n neigh add 10.11.0.2 lladdr 02:00:00:00:00:02 dev in nud permanent
         ip -n $n route add 10.10.0.0/16 via 10.11.0.2 dev in
         ip netns exec $n sysctl -qw net.ipv4.ip_forward=1"
    );
    shell(&script)?;
    let options = Options {
        pin_dir: default_pin_root()?.join(format!("weir-bench-xdp-{}", std::process::id())),
        max_connections: 1 << 20,
        ring_bytes: 1 << 20,
        transport: Transport::Ring,
        dns: false,
        drops: false,
        cgroup: None,
        policy: Some(PolicySizes { subjects: 64, ..PolicySizes::USUAL }),
        services: Some(ServiceSizes::USUAL),
        socket_services: None,
        xdp: Some(Acceleration { new_per_second: u32::MAX, ..Acceleration::USUAL }),
    };
    let measured = enter(&namespace).and_then(|()| measure(&options));
    let cleaned = cleanup(&options.pin_dir);
    shell(&format!("ip netns del {namespace}"))?;
    println!("{}", measured?);
    cleaned?;
    Ok(())
}

fn measure(options: &Options) -> Result<String, Failure> {
    let datapath = serve(options)?;
    let mut bench = Bench::open(options, Vec::new())?;
    let programs: Vec<BenchProgram> =
        PROGRAMS.into_iter().map(|name| bench.program(name)).collect::<Result<_, _>>()?;
    let ifindex = datapath.attached().first().ok_or("not attached")?.ifindex;
    let mut json = Vec::new();
    println!("{:28}{:>9}{:>9}{:>9}{:>9}", "ns a packet", "restore", "floor", "net", "ratio");
    for flows in [1u64, 1 << 10, 1 << 16, 1 << 18] {
        let once = PACKETS.max(flows as u32 * 2);
        bench.xdp_flows(0, flows)?;
        bench.run_xdp(&programs[2], &packet(0x10), ifindex, once)?;
        let mut rounds: [Vec<u32>; 3] = Default::default();
        for _ in 0..ROUNDS {
            for (program, round) in programs.iter().zip(&mut rounds) {
                bench.xdp_flows(0, flows)?;
                round.push(bench.run_xdp(program, &packet(0x10), ifindex, PACKETS)?);
            }
            assert_eq!(bench.xdp_sent()?, u64::from(PACKETS), "all are sent on");
        }
        json.push(report(&format!("{flows} flows"), rounds));
    }
    println!("{:?}", datapath.flow_cache().counters()?);
    forget(&datapath)?;
    json.push(new("new, all enter", &mut bench, &programs, &datapath, ifindex)?);
    datapath.flow_cache().limit(0)?;
    json.push(new("new, beyond what may enter", &mut bench, &programs, &datapath, ifindex)?);
    println!("{:?}", datapath.flow_cache().counters()?);
    Ok(format!("{{{}}}", json.join(",")))
}

/// Each packet a SYN of another flow.
fn new(
    name: &str,
    bench: &mut Bench,
    programs: &[BenchProgram],
    datapath: &Datapath,
    ifindex: u32,
) -> Result<String, Failure> {
    let mut rounds: [Vec<u32>; 3] = Default::default();
    let mut next = 1 << 20;
    for _ in 0..ROUNDS {
        for (program, round) in programs.iter().zip(&mut rounds) {
            bench.xdp_flows(next, 1 << 32)?;
            round.push(bench.run_xdp(program, &packet(2), ifindex, NEW)?);
        }
        assert_eq!(bench.xdp_sent()?, u64::from(NEW), "all are sent on");
        next += u64::from(NEW);
        forget(datapath)?;
    }
    Ok(report(name, rounds))
}

fn report(name: &str, rounds: [Vec<u32>; 3]) -> String {
    let [restore, floor, ours] = rounds.map(|mut values| {
        values.sort_unstable();
        values[values.len() / 2]
    });
    let (floor, net) = (floor.saturating_sub(restore), ours.saturating_sub(restore));
    let ratio = f64::from(net) / f64::from(floor.max(1));
    println!("{name:28}{restore:>9}{floor:>9}{net:>9}{ratio:>9.1}");
    format!("\"{name}\":{{\"restore\":{restore},\"floor\":{floor},\"net\":{net}}}")
}

/// A service with direct server return, at 10.96.0.1:80.
fn serve(options: &Options) -> Result<Datapath, Failure> {
    let mut datapath = Datapath::open(options.clone())?;
    let attached = datapath.attach("in", Mode::Enforce)?;
    let tables = datapath.services();
    let none = [0; 16];
    let own = mapped(Ipv4Addr::new(10, 11, 0, 1));
    tables
        .put_served(&[(attached.ifindex, Served { flags: UPLINK, pad: 0, v4: own, v6: none })])?;
    tables.put_prefixes(&[(Prefix { length: 128, address: own }, NODE)])?;
    tables.set_settings(ServiceSettings {
        port_min: 32768,
        port_max: 65535,
        seed: 1,
        hairpin_v4: none,
        hairpin_v6: none,
    })?;
    let backends: Vec<_> = (0..BACKENDS)
        .map(|number| {
            let address = mapped(Ipv4Addr::new(10, 10, 0, number as u8 + 1));
            (number, Backend { address, port: 80, flags: CHOSEN | ALIVE, service: 1 })
        })
        .collect();
    tables.put_backends(&backends)?;
    let slots: Vec<u32> = (0..SLOTS).map(|slot| slot % BACKENDS).collect();
    tables.write_slots(0, &slots)?;
    let key = FrontendKey {
        address: mapped(Ipv4Addr::new(10, 96, 0, 1)),
        port: 80,
        protocol: 6,
        pad: 0,
        pad2: 0,
    };
    let slots = [Slots { start: 0, count: SLOTS }; 2];
    let flags = DSR | HASHED;
    tables.put_frontends(&[(key, Frontend { service: 1, flags, affinity: 0, pad: 0, slots })])?;
    datapath.accelerate("in")??;
    Ok(datapath)
}

fn forget(datapath: &Datapath) -> Result<(), Failure> {
    let connections = datapath.connections();
    let mut keys = Vec::new();
    connections.walk(&mut |key, _| keys.push(*key))?;
    Ok(connections.remove(&keys)?)
}

/// To 10.96.0.1:80, 64 bytes; the programs write the rest.
fn packet(flags: u8) -> Vec<u8> {
    let mut packet = vec![0; 12];
    packet.extend([0x08, 0x00, 0x45, 0, 0, 50, 0, 0, 0, 0, 64, 6, 0, 0]);
    packet.extend([10, 9, 0, 1, 10, 96, 0, 1]);
    packet.extend([0x30, 0x39, 0, 80, 0, 0, 1, 0, 0, 0, 2, 0, 5 << 4, flags]);
    packet.resize(64, 0);
    packet
}

fn mapped(ip: Ipv4Addr) -> [u8; 16] {
    ip.to_ipv6_mapped().octets()
}

fn shell(script: &str) -> Result<(), Failure> {
    let status = Command::new("sh").args(["-c", script]).status()?;
    if status.success() { Ok(()) } else { Err(format!("failed: {script}").into()) }
}

fn enter(namespace: &str) -> Result<(), Failure> {
    let file = std::fs::File::open(format!("/run/netns/{namespace}"))?;
    // SAFETY: the descriptor is a namespace's.
    let result = unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) };
    if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error().into()) }
}
