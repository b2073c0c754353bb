//! What services cost: nanoseconds per packet through a node's stack, in one run beside plain forwarding and beside
//! rule sets of kube-proxy's shape.
//!
//! Packets are made by an XDP program (`ebpf/src/bench/services.rs`, live frames), come in by a veth, are balanced or not,
//! routed, and dropped at the egress hook of another veth. Every contender has a network namespace of its own; rounds are
//! interleaved. `cargo bench -p datapath-loader --bench services`; the last line is JSON.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::{Command, Stdio};
use std::time::Instant;

use datapath_abi::service::{
    ALIVE, Backend, CHOSEN, DIRECT, FROM_POD, Frontend, FrontendKey, Served, ServiceSettings, Slots,
};
use datapath_loader::bench::{Bench, BenchProgram, pin_thread};
use datapath_loader::{
    Datapath, Mode, Options, PolicySizes, ServiceSizes, Transport, cleanup, default_pin_root,
};

type Failure = Box<dyn std::error::Error>;

const ROUNDS: usize = 9;
const PACKETS: u32 = 1 << 18;
const BACKENDS: u32 = 3;

/// Who is measured.
struct Contender {
    name: &'static str,
    namespace: String,
    services: u32,
    datapath: Option<(Datapath, Options)>,
    end: Option<OwnedFd>,
    ifindex: u32,
    out: u32,
    /// What it takes to tell it of all services, milliseconds.
    programmed_ms: f64,
}

fn main() -> Result<(), Failure> {
    pin_thread(1);
    let services: u32 = std::env::var("WEIR_BENCH_SERVICES")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(10_000);
    let mut contenders = Vec::new();
    let measured = run(services, &mut contenders);
    for contender in &mut contenders {
        contender.leave();
    }
    println!("{}", measured?);
    Ok(())
}

fn run(services: u32, contenders: &mut Vec<Contender>) -> Result<String, Failure> {
    contenders.push(Contender::new("plain", 0)?);
    for (name, count, flags) in [
        ("weir, 1", 1, FROM_POD | DIRECT),
        ("weir", services, FROM_POD | DIRECT),
        ("weir, by the stack", services, FROM_POD),
    ] {
        let mut contender = Contender::new(name, count)?;
        contender.serve(flags)?;
        contenders.push(contender);
    }
    for (name, rules) in
        [("nftables", nftables as fn(u32) -> String), ("iptables-legacy", iptables)]
    {
        let mut contender = Contender::new(name, services)?;
        contender.load(rules)?;
        contenders.push(contender);
    }
    let options = options("gen");
    let pins = options.pin_dir.clone();
    // The bench needs a datapath's maps; nothing is attached by it.
    let _maps = Datapath::open(options.clone())?;
    let mut bench = Bench::open(&options, packet())?;
    let generate = bench.program("bench_generate")?;
    let ends = [bench.program("bench_drop")?, bench.program("bench_echo")?];
    let mut json = Vec::new();
    println!("{:28}{:>10}{:>10}{:>10}{:>10}", "ns a packet", "1 flow", "1,024", "65,536", "new");
    let mut table = vec![[0; 4]; contenders.len()];
    for (column, flows) in [1u64, 1 << 10, 1 << 16, 1 << 32].into_iter().enumerate() {
        let found = rounds(&mut bench, &generate, &ends, contenders, flows)?;
        for (row, value) in table.iter_mut().zip(found) {
            row[column] = value;
        }
    }
    for (contender, row) in contenders.iter().zip(&table) {
        let [a, b, c, d] = row;
        println!("{:28}{a:>10}{b:>10}{c:>10}{d:>10}", contender.name);
        json.push(format!("\"{}\":{row:?}", contender.name));
    }
    let ratio = |a: usize, b: usize, column: usize| {
        f64::from(table[a][column]) / f64::from(table[b][column])
    };
    println!(
        "established / plain forwarding: {:.2} {:.2} {:.2}",
        ratio(2, 0, 0),
        ratio(2, 0, 1),
        ratio(2, 0, 2)
    );
    println!(
        "{services} services / 1: {:.2} {:.2} {:.2}",
        ratio(2, 1, 0),
        ratio(2, 1, 1),
        ratio(2, 1, 2)
    );
    println!("new / nftables {:.2}, new / iptables-legacy {:.3}", ratio(2, 4, 3), ratio(2, 5, 3));
    for contender in contenders.iter().filter(|contender| contender.programmed_ms > 0.0) {
        println!(
            "{}: all services programmed in {:.1} ms",
            contender.name, contender.programmed_ms
        );
        json.push(format!("\"{} programmed ms\":{:.1}", contender.name, contender.programmed_ms));
    }
    drop(bench);
    cleanup(&pins)?;
    Ok(format!("{{{}}}", json.join(",")))
}

/// Median of the rounds, for each contender.
fn rounds(
    bench: &mut Bench,
    generate: &BenchProgram,
    [drop, echo]: &[BenchProgram; 2],
    contenders: &mut [Contender],
    flows: u64,
) -> Result<Vec<u32>, Failure> {
    let mut found = vec![Vec::new(); contenders.len()];
    for round in 0..=ROUNDS as u64 {
        for (contender, found) in contenders.iter_mut().zip(&mut found) {
            enter(&contender.namespace)?;
            contender.forget()?;
            let fresh = flows > 1 << 20;
            // What is new each time must fit into the tables.
            let packets = if fresh { PACKETS / 4 } else { PACKETS };
            let next = if fresh { (1 << 24) + round * u64::from(packets) } else { 0 };
            if !fresh {
                // Established: there is an answer, after which the way is looked up.
                contender.end = None;
                contender.end = Some(bench.attach(echo, contender.out)?);
                bench.services(0, flows, u64::from(contender.services))?;
                bench.send(generate, contender.ifindex, flows.max(1024) as u32)?;
                bench.send(generate, contender.ifindex, flows.max(1024) as u32)?;
            }
            contender.end = None;
            contender.end = Some(bench.attach(drop, contender.out)?);
            bench.services(next, flows, u64::from(contender.services))?;
            let took = bench.send(generate, contender.ifindex, packets)?;
            let arrived = bench.arrived()?;
            if arrived < u64::from(packets) * 99 / 100 {
                let _ = Command::new("sh").args(["-c", &format!("ip netns exec {} sh -c 'cat /proc/net/snmp | grep -A1 Ip: ; ip -s link show in; nstat -az | grep -i -E \"martian|IpIn|IpExtIn|OutNoRou|Forw\"'", contender.namespace)]).status();
                return Err(
                    format!("{}: {arrived} of {packets} came through", contender.name).into()
                );
            }
            if round > 0 {
                found.push(took);
            }
        }
    }
    Ok(found
        .into_iter()
        .map(|mut values| {
            values.sort_unstable();
            values[values.len() / 2]
        })
        .collect())
}

// === impl Contender ===

impl Contender {
    fn new(name: &'static str, services: u32) -> Result<Self, Failure> {
        let short: String = name.chars().filter(char::is_ascii_alphanumeric).collect();
        let namespace = format!("wb-{short}-{}", std::process::id());
        let script = format!(
            "set -e; n={namespace}; ip netns add $n; ip -n $n link set lo up
             # The generator's frames carry this address.
             ip -n $n link add in address 02:00:00:00:00:01 type veth peer name inp; ip -n $n link add out type veth peer name outp
             for l in in inp out outp; do ip -n $n link set $l up; done
             ip -n $n addr add 10.12.0.1/16 dev in; ip -n $n addr add 10.11.0.1/16 dev out
             ip -n $n neigh add 10.11.0.2 lladdr 02:00:00:00:00:02 dev out nud permanent
             ip -n $n neigh add 10.12.0.2 lladdr 02:00:00:00:00:09 dev in nud permanent
             ip -n $n route add 10.9.0.0/16 via 10.12.0.2 dev in
             ip -n $n route add 10.10.0.0/16 via 10.11.0.2 dev out
             ip netns exec $n sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.rp_filter=0 \
                net.ipv4.conf.in.rp_filter=0 net.ipv6.conf.all.disable_ipv6=1"
        );
        shell(&script)?;
        enter(&namespace)?;
        let ifindex = index("in")?;
        Ok(Self {
            name,
            namespace,
            services,
            datapath: None,
            end: None,
            ifindex,
            out: index("out")?,
            programmed_ms: 0.0,
        })
    }

    /// By Weir.
    fn serve(&mut self, flags: u32) -> Result<(), Failure> {
        let short: String = self.name.chars().filter(char::is_ascii_alphanumeric).collect();
        let options = options(&short);
        let mut datapath = Datapath::open(options.clone())?;
        let attached = datapath.attach("in", Mode::Enforce)?;
        let tables = datapath.services();
        let none = [0; 16];
        tables.put_served(&[(attached.ifindex, Served { flags, pad: 0, v4: none, v6: none })])?;
        tables.set_settings(ServiceSettings {
            port_min: 32768,
            port_max: 65535,
            seed: 1,
            hairpin_v4: none,
            hairpin_v6: none,
        })?;
        let start = Instant::now();
        let backends: Vec<_> = (0..self.services * BACKENDS)
            .map(|number| {
                let address = mapped(backend(number));
                let service = number / BACKENDS + 1;
                (number, Backend { address, port: 8080, flags: CHOSEN | ALIVE, service })
            })
            .collect();
        tables.put_backends(&backends)?;
        let slots: Vec<u32> = (0..self.services * BACKENDS).collect();
        tables.write_slots(0, &slots)?;
        let frontends: Vec<_> = (0..self.services)
            .map(|number| {
                let key = FrontendKey {
                    address: mapped(service(number)),
                    port: 80,
                    protocol: 17,
                    pad: 0,
                    pad2: 0,
                };
                let slots = Slots { start: number * BACKENDS, count: BACKENDS };
                let frontend = Frontend {
                    service: number + 1,
                    flags: 0,
                    affinity: 0,
                    pad: 0,
                    slots: [slots; 2],
                };
                (key, frontend)
            })
            .collect();
        tables.put_frontends(&frontends)?;
        self.programmed_ms = start.elapsed().as_secs_f64() * 1000.0;
        self.datapath = Some((datapath, options));
        Ok(())
    }

    /// By a rule set.
    fn load(&mut self, rules: fn(u32) -> String) -> Result<(), Failure> {
        let text = rules(self.services);
        let program: &[&str] = if self.name == "nftables" {
            &["nft", "-f", "-"]
        } else {
            &["iptables-legacy-restore"]
        };
        let start = Instant::now();
        let mut child = Command::new("ip")
            .args(["netns", "exec", &self.namespace])
            .args(program)
            .stdin(Stdio::piped())
            .spawn()?;
        child.stdin.take().ok_or("no input")?.write_all(text.as_bytes())?;
        if !child.wait()?.success() {
            return Err(format!("{} refused its rules", self.name).into());
        }
        self.programmed_ms = start.elapsed().as_secs_f64() * 1000.0;
        shell(&format!(
            "ip netns exec {} sysctl -qw net.netfilter.nf_conntrack_max=2000000",
            self.namespace
        ))
        .or(Ok(()))
    }

    /// Empties the connection tables.
    fn forget(&self) -> Result<(), Failure> {
        let Some((datapath, _)) = &self.datapath else {
            return Ok(());
        };
        let connections = datapath.connections();
        let mut all = Vec::new();
        connections.walk(&mut |key, value| all.push((*key, *value)))?;
        let keys: Vec<_> = all.iter().map(|(key, _)| *key).collect();
        connections.remove(&keys)?;
        Ok(datapath.services().forget(&all)?)
    }

    fn leave(&mut self) {
        self.end = None;
        if let Some((datapath, options)) = self.datapath.take() {
            let _ = enter(&self.namespace);
            drop(datapath);
            let _ = cleanup(&options.pin_dir);
        }
        let _ = shell(&format!("ip netns del {}", self.namespace));
    }
}

fn options(name: &str) -> Options {
    Options {
        pin_dir: default_pin_root()
            .unwrap_or_default()
            .join(format!("weir-bench-{name}-{}", std::process::id())),
        max_connections: 1 << 19,
        ring_bytes: 1 << 20,
        transport: Transport::Ring,
        dns: false,
        drops: false,
        cgroup: None,
        policy: Some(PolicySizes { subjects: 64, ..PolicySizes::USUAL }),
        services: Some(ServiceSizes { translations: 1 << 19, ..ServiceSizes::USUAL }),
        socket_services: None,
        xdp: None,
    }
}

fn service(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 96, 0, 0)) + number)
}

fn backend(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 10, 0, 0)) + number)
}

fn mapped(ip: Ipv4Addr) -> [u8; 16] {
    ip.to_ipv6_mapped().octets()
}

/// As kube-proxy writes them in its nftables mode: a verdict map of services, a chain for each and for each endpoint.
fn nftables(services: u32) -> String {
    let mut text = String::from("table ip kube-proxy {\n");
    let mut elements = Vec::new();
    for number in 0..services {
        let first = number * BACKENDS;
        for endpoint in first..first + BACKENDS {
            let to = backend(endpoint);
            let _ = writeln!(
                text,
                "chain e{endpoint} {{ ip saddr {to} meta mark set mark or 0x4000; meta l4proto udp dnat to {to}:8080; }}"
            );
        }
        let _ = writeln!(
            text,
            "chain s{number} {{ numgen random mod 3 vmap {{ 0 : goto e{first}, 1 : goto e{}, 2 : goto e{} }}; }}",
            first + 1,
            first + 2
        );
        elements.push(format!("{} . udp . 80 : goto s{number}", service(number)));
    }
    let _ = writeln!(
        text,
        "map service-ips {{ type ipv4_addr . inet_proto . inet_service : verdict; elements = {{ {} }}; }}",
        elements.join(", ")
    );
    text.push_str("chain services { ip daddr . meta l4proto . th dport vmap @service-ips; }
        chain nat-prerouting { type nat hook prerouting priority dstnat; jump services; }
        chain nat-postrouting { type nat hook postrouting priority srcnat; mark and 0x4000 != 0 masquerade; }\n}\n");
    text
}

/// As kube-proxy writes them in its iptables mode.
fn iptables(services: u32) -> String {
    let mut chains = String::from("*nat\n:KUBE-SERVICES - [0:0]\n");
    let mut rules = String::from(
        "-A PREROUTING -j KUBE-SERVICES\n-A POSTROUTING -m mark --mark 0x4000/0x4000 -j MASQUERADE\n",
    );
    for number in 0..services {
        let _ = writeln!(chains, ":KUBE-SVC-{number} - [0:0]");
        let _ = writeln!(
            rules,
            "-A KUBE-SERVICES -d {}/32 -p udp -m udp --dport 80 -j KUBE-SVC-{number}",
            service(number)
        );
        for (place, odds) in [(0, "0.33333333349"), (1, "0.50000000000"), (2, "")] {
            let endpoint = number * BACKENDS + place;
            let _ = writeln!(chains, ":KUBE-SEP-{endpoint} - [0:0]");
            let chance = if odds.is_empty() {
                String::new()
            } else {
                format!("-m statistic --mode random --probability {odds} ")
            };
            let _ = writeln!(rules, "-A KUBE-SVC-{number} {chance}-j KUBE-SEP-{endpoint}");
            let to = backend(endpoint);
            let _ = writeln!(
                rules,
                "-A KUBE-SEP-{endpoint} -s {to}/32 -j MARK --set-xmark 0x4000/0x4000"
            );
            let _ = writeln!(
                rules,
                "-A KUBE-SEP-{endpoint} -p udp -m udp -j DNAT --to-destination {to}:8080"
            );
        }
    }
    format!("{chains}{rules}COMMIT\n")
}

/// A UDP datagram of 64 bytes to the interface's own address.
fn packet() -> Vec<u8> {
    let mut packet = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 9, 0x08, 0x00];
    packet.extend([0x45, 0, 0, 50, 0, 0, 0, 0, 64, 17, 0, 0]);
    packet.extend([0; 8]);
    packet.extend([0, 0, 0, 0, 0, 30, 0, 0]);
    packet.resize(64, 0);
    packet
}

fn enter(namespace: &str) -> Result<(), Failure> {
    let file = std::fs::File::open(format!("/run/netns/{namespace}"))?;
    // SAFETY: the descriptor is a namespace's.
    if unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) } != 0 {
        return Err(std::io::Error::last_os_error().into());
    }
    Ok(())
}

fn index(name: &str) -> Result<u32, Failure> {
    let name = std::ffi::CString::new(name)?;
    // SAFETY: the name is NUL-terminated.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => Err("no such interface".into()),
        index => Ok(index),
    }
}

fn shell(script: &str) -> Result<(), Failure> {
    let output = Command::new("sh").args(["-c", script]).output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&output.stderr).into_owned().into())
}
