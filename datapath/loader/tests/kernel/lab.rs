//! A place to test in: two namespaces, a veth pair between them, a pin directory.

use std::io::{BufRead, BufReader};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use datapath_abi::iface::IfaceCounters;
use datapath_loader::{Attached, Datapath, Mode, Options, Transport, default_pin_root};

/// Two namespaces, `here` and `there`, with a veth pair `veth0`–`veth0`.
pub(crate) struct Lab {
    pub(crate) name: String,
    pub(crate) options: Options,
    keeper: Child,
}

/// What an interface has counted itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) rx: (u64, u64),
    pub(crate) tx: (u64, u64),
}

// === impl Lab ===

impl Lab {
    /// Makes the place; `name` must be unique among the tests.
    pub(crate) fn new(name: &str) -> Self {
        // SAFETY: no arguments.
        assert_eq!(unsafe { libc::geteuid() }, 0, "these tests need root");
        let name = format!("wl-{name}-{}", std::process::id());
        let options = Options {
            pin_dir: default_pin_root().unwrap().join(&name),
            max_connections: 65536,
            ring_bytes: 1 << 20,
            transport: Transport::Ring,
            dns: true,
            drops: true,
            cgroup: Some(cgroup()),
            policy: None,
            services: None,
            socket_services: None,
            xdp: None,
        };
        let keeper = keeper(&name, &options.pin_dir);
        let lab = Self { name, options, keeper };
        let (here, there) = (lab.here(), lab.there());
        ip(&["netns", "add", &here]);
        ip(&["netns", "add", &there]);
        ip(&[
            "-n", &here, "link", "add", "veth0", "type", "veth", "peer", "name", "veth0", "netns",
            &there,
        ]);
        for (namespace, v4, v6) in
            [(&here, "10.9.0.1/24", "fd09::1/64"), (&there, "10.9.0.2/24", "fd09::2/64")]
        {
            ip(&["-n", namespace, "addr", "add", v4, "dev", "veth0"]);
            ip(&["-n", namespace, "addr", "add", v6, "dev", "veth0", "nodad"]);
            ip(&["-n", namespace, "link", "set", "lo", "up"]);
            ip(&["-n", namespace, "link", "set", "veth0", "up"]);
        }
        lab
    }

    pub(crate) fn here(&self) -> String {
        format!("{}-a", self.name)
    }

    pub(crate) fn there(&self) -> String {
        format!("{}-b", self.name)
    }

    /// Loads the datapath (from the namespace `here`, so that it attaches there).
    pub(crate) fn open(&self) -> Datapath {
        self.open_with(false)
    }

    pub(crate) fn open_with(&self, clsact: bool) -> Datapath {
        let options = self.options.clone();
        within(&self.here(), move || {
            Datapath::open_with(options, clsact).unwrap_or_else(|error| panic!("{}", chain(&error)))
        })
    }

    /// Attaches to `veth0` of the namespace `here`.
    pub(crate) fn attach(&self, datapath: &mut Datapath) -> Attached {
        self.attach_as(datapath, Mode::Observe)
    }

    pub(crate) fn attach_as(&self, datapath: &mut Datapath, mode: Mode) -> Attached {
        let here = self.here();
        std::thread::scope(|scope| {
            let attach = scope.spawn(|| {
                enter(&here);
                datapath.attach("veth0", mode).unwrap_or_else(|error| panic!("{}", chain(&error)))
            });
            attach.join().unwrap()
        })
    }

    /// Runs a command in a namespace; it must succeed.
    pub(crate) fn run(&self, namespace: &str, command: &[&str]) -> Output {
        let mut all = vec!["netns", "exec", namespace];
        all.extend(command);
        ip(&all)
    }

    /// Counters of an interface of the namespace `here`.
    pub(crate) fn link_of(&self, interface: &str) -> Link {
        let output = ip(&["-n", &self.here(), "-j", "-s", "link", "show", "dev", interface]);
        let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let stats = &json[0]["stats64"];
        let count = |direction: &str| {
            let direction = &stats[direction];
            (direction["packets"].as_u64().unwrap(), direction["bytes"].as_u64().unwrap())
        };
        Link { rx: count("rx"), tx: count("tx") }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let (options, here) = (self.options.clone(), self.here());
        let cleaned = std::thread::spawn(move || {
            enter(&here);
            datapath_loader::cleanup(&options.pin_dir)
        });
        drop(cleaned.join());
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
    }
}

// === impl Link ===

impl std::ops::Sub for Link {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        let minus = |a: (u64, u64), b: (u64, u64)| (a.0 - b.0, a.1 - b.1);
        Self { rx: minus(self.rx, before.rx), tx: minus(self.tx, before.tx) }
    }
}

/// A process that removes the lab once nobody holds the other end of its input: also when this process is killed.
fn keeper(name: &str, pins: &std::path::Path) -> Child {
    const SCRIPT: &str =
        r#"cat; ip netns del "$0-a"; ip netns del "$0-b"; [ ! -e "$1" ] || rm -r "$1""#;
    Command::new("sh")
        .args(["-c", SCRIPT, name])
        .arg(pins)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .expect("sh")
}

/// What the datapath has counted at an interface, connections and others together, at the
/// interface's layer.
pub(crate) fn account(datapath: &Datapath, attached: &Attached) -> Link {
    let (connections, others) = parts(datapath, attached);
    let sum = |a: (u64, u64), b: (u64, u64)| (a.0 + b.0, a.1 + b.1);
    Link { rx: sum(connections.rx, others.rx), tx: sum(connections.tx, others.tx) }
}

/// What the interface has counted and what we have, at a moment when neither moves: one that is read
/// after the other has seen packets that the other has not (neighbour discovery never rests).
pub(crate) fn settled(lab: &Lab, datapath: &Datapath, attached: &Attached) -> (Link, Link) {
    let look = || (lab.link_of(&attached.name), account(datapath, attached));
    let mut before = look();
    for _ in 0..200 {
        std::thread::sleep(std::time::Duration::from_millis(20));
        let now = look();
        if now == before {
            return now;
        }
        before = now;
    }
    panic!("traffic does not come to rest: {before:?}");
}

/// As [`account`], apart.
pub(crate) fn parts(datapath: &Datapath, attached: &Attached) -> (Link, Link) {
    let mut connections = Link { rx: (0, 0), tx: (0, 0) };
    datapath
        .connections()
        .walk(&mut |key, value| {
            if key.ifindex() != attached.ifindex {
                return;
            }
            for (direction, hot) in value.dirs.iter().enumerate() {
                // Path 0: low to high is ingress; see abi.
                let ingress = direction as u32 == key.path();
                let to = if ingress { &mut connections.rx } else { &mut connections.tx };
                to.0 += hot.packets;
                to.1 += hot.bytes + hot.packets * u64::from(attached.link_header);
            }
        })
        .unwrap();
    let count = |counters: &IfaceCounters| {
        let packets = counters.causes.iter().map(|cause| cause.packets).sum();
        let bytes = counters.causes.iter().map(|cause| cause.bytes).sum();
        (packets, bytes)
    };
    let [ingress, egress] = datapath.interfaces(attached.ifindex).unwrap();
    (connections, Link { rx: count(&ingress), tx: count(&egress) })
}

/// Runs in a thread of its own that has entered a namespace.
pub(crate) fn within<T: Send + 'static>(
    namespace: &str,
    run: impl FnOnce() -> T + Send + 'static,
) -> T {
    let namespace = namespace.to_owned();
    std::thread::spawn(move || {
        enter(&namespace);
        run()
    })
    .join()
    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Moves this thread into a network namespace.
pub(crate) fn enter(namespace: &str) {
    let file = std::fs::File::open(format!("/run/netns/{namespace}")).unwrap();
    // SAFETY: the descriptor is a namespace's.
    let result = unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) };
    assert_eq!(result, 0, "setns: {}", std::io::Error::last_os_error());
}

pub(crate) fn ip(arguments: &[&str]) -> Output {
    let output = Command::new("ip").args(arguments).output().expect("ip (iproute2)");
    assert!(
        output.status.success(),
        "ip {arguments:?}: {}{}",
        String::from_utf8_lossy(&output.stderr),
        String::from_utf8_lossy(&output.stdout)
    );
    output
}

/// An address on the other side.
pub(crate) fn there(v6: bool, port: u16) -> SocketAddr {
    let address: IpAddr = if v6 { "fd09::2" } else { "10.9.0.2" }.parse().unwrap();
    SocketAddr::new(address, port)
}

pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// Where cgroup version 2 is mounted.
pub(crate) fn cgroup() -> PathBuf {
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap();
    let mount = mounts.lines().find(|line| line.split(' ').nth(2) == Some("cgroup2"));
    mount.and_then(|line| line.split(' ').nth(1)).expect("a cgroup2 mount").into()
}

/// Where [`what_is_killed_leaves_nothing`] waits to be killed.
const HOLD: &str = "WEIR_LAB_HOLD";

#[test]
fn what_is_killed_leaves_nothing() {
    if std::env::var_os(HOLD).is_some() {
        let lab = Lab::new("killed");
        let mut datapath = lab.open();
        lab.attach(&mut datapath);
        println!("ready");
        loop {
            std::thread::park();
        }
    }
    let test = "kernel::lab::what_is_killed_leaves_nothing";
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(HOLD, "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("ready")));
    let name = format!("wl-killed-{}", child.id());
    let places = [
        PathBuf::from(format!("/run/netns/{name}-a")),
        PathBuf::from(format!("/run/netns/{name}-b")),
        default_pin_root().unwrap().join(&name),
    ];
    assert!(places.iter().all(|place| place.exists()), "{places:?}");
    child.kill().unwrap();
    child.wait().unwrap();
    let start = Instant::now();
    while places.iter().any(|place| place.exists()) {
        assert!(start.elapsed() < Duration::from_secs(10), "{places:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
