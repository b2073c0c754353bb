//! What this kernel makes of the datapath: loads it, says what is on, observes an interface for some
//! seconds, compares with the interface's own counters, and leaves nothing behind.
//!
//! `cargo run -p datapath-loader --example probe -- [INTERFACE [SECONDS]]`, as root.

use std::time::Duration;

use datapath_loader::{Datapath, Mode, Options, PolicySizes, Transport, default_pin_root};

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let interface = arguments.next().unwrap_or_else(|| "lo".to_owned());
    let seconds = arguments.next().map_or(Ok(3), |text| text.parse())?;
    let options = Options {
        pin_dir: default_pin_root()?.join(format!("weir-probe-{}", std::process::id())),
        max_connections: 4096,
        ring_bytes: 1 << 16,
        transport: Transport::Ring,
        dns: true,
        drops: true,
        cgroup: cgroup(),
        policy: Some(PolicySizes::USUAL),
        services: None,
        socket_services: None,
        xdp: None,
    };
    let mut datapath = Datapath::open(options)?;
    for feature in datapath.features() {
        let on = if feature.on { "on" } else { "off" };
        println!("{:20} {on:4} {}", feature.name, feature.why);
    }
    for program in datapath.programs() {
        println!(
            "{:20} {:5} instructions, {:6} verified",
            program.name, program.instructions, program.verified
        );
    }
    let observed = observe(&mut datapath, &interface, seconds);
    datapath.remove()?;
    observed
}

fn observe(datapath: &mut Datapath, interface: &str, seconds: u64) -> Result<(), Failure> {
    let mut events = datapath.events()?;
    let before = counters(interface)?;
    let attached = datapath.attach(interface, Mode::Enforce)?;
    std::thread::sleep(Duration::from_secs(seconds));
    let (mut packets, mut bytes) = (0, 0);
    let connections = datapath.connections().walk(&mut |_, value| {
        for hot in &value.dirs {
            packets += hot.packets;
            bytes += hot.bytes + hot.packets * u64::from(attached.link_header);
        }
    })?;
    for hook in datapath.interfaces(attached.ifindex)? {
        packets += hook.causes.iter().map(|cause| cause.packets).sum::<u64>();
        bytes += hook.causes.iter().map(|cause| cause.bytes).sum::<u64>();
    }
    let after = counters(interface)?;
    println!("{interface}, attached by {:?}: {connections} connections", attached.by);
    println!("counted      {packets} packets, {bytes} bytes");
    println!("interface    {} packets, {} bytes", after.0 - before.0, after.1 - before.1);
    println!("events       {}, lost {:?}", events.drain(&mut |_| ()), datapath.lost_events()?);
    for (key, counter) in datapath.drops()? {
        let reason = datapath.drop_reason(key.reason).unwrap_or("unknown");
        println!("dropped      {} packets, {reason}", counter.packets);
    }
    Ok(())
}

/// Packets and bytes, received and sent, by sysfs.
fn counters(interface: &str) -> Result<(u64, u64), Failure> {
    let read = |name: &str| -> Result<u64, Failure> {
        let path = format!("/sys/class/net/{interface}/statistics/{name}");
        Ok(std::fs::read_to_string(path)?.trim().parse()?)
    };
    Ok((read("rx_packets")? + read("tx_packets")?, read("rx_bytes")? + read("tx_bytes")?))
}

fn cgroup() -> Option<std::path::PathBuf> {
    let mounts = std::fs::read_to_string("/proc/mounts").ok()?;
    let mount = mounts.lines().find(|line| line.split(' ').nth(2) == Some("cgroup2"))?;
    mount.split(' ').nth(1).map(Into::into)
}
