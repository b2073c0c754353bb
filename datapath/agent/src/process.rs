//! Which process has a socket, where the kernel half could not tell: by `/proc`.
//!
//! A scan reads every process's open files, so it runs on a thread of its own, only when a
//! connection of this host has no process yet, and at most every two seconds.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hashbrown::HashMap;
use parking_lot::{Condvar, Mutex};

/// Shortest time between two scans.
const PAUSE: Duration = Duration::from_secs(2);
/// Sockets remembered of a scan.
const MAX_SOCKETS: usize = 65_536;

/// A process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ProcessName {
    pub(crate) pid: u32,
    pub(crate) name: String,
}

/// Finds processes; `Off` finds none.
#[derive(Debug)]
pub(crate) enum Processes {
    Off,
    Scan(Arc<Scanner>),
}

/// The shared state of the scanning thread.
#[derive(Debug, Default)]
pub(crate) struct Scanner {
    sockets: Mutex<Sockets>,
    wanted: AtomicBool,
    stopped: AtomicBool,
    wake: Condvar,
    gate: Mutex<()>,
}

/// Sockets of one scan.
#[derive(Debug, Default)]
struct Sockets {
    connected: HashMap<(u8, IpAddr, u16, IpAddr, u16), Arc<ProcessName>>,
    /// Sockets without a peer: listeners, and UDP sockets that were not connected.
    bound: HashMap<(u8, u16), Arc<ProcessName>>,
}

// === impl Processes ===

impl Processes {
    /// Starts the scanning thread.
    ///
    /// # Errors
    /// When no thread can be had.
    pub(crate) fn scan() -> std::io::Result<Self> {
        let scanner = Arc::new(Scanner::default());
        let shared = Arc::clone(&scanner);
        std::thread::Builder::new()
            .name("weir-processes".to_owned())
            .stack_size(256 << 10)
            .spawn(move || shared.run())?;
        Ok(Self::Scan(scanner))
    }

    /// The process with the socket at `local`, whose peer is `remote`. If none is known, a scan is
    /// asked for, and a later question may be answered.
    pub(crate) fn find(
        &self,
        protocol: u8,
        local: (IpAddr, u16),
        remote: (IpAddr, u16),
    ) -> Option<Arc<ProcessName>> {
        let Self::Scan(scanner) = self else { return None };
        let found = scanner.sockets.lock().find(protocol, local, remote);
        if found.is_none() && !scanner.wanted.swap(true, Ordering::Relaxed) {
            scanner.wake.notify_one();
        }
        found
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        if let Self::Scan(scanner) = self {
            scanner.stopped.store(true, Ordering::Relaxed);
            scanner.wake.notify_one();
        }
    }
}

// === impl Scanner ===

impl Scanner {
    fn run(&self) {
        let mut last: Option<Instant> = None;
        while !self.stopped.load(Ordering::Relaxed) {
            let wait = last.map_or(Duration::ZERO, |last| PAUSE.saturating_sub(last.elapsed()));
            if !wait.is_zero() || !self.wanted.load(Ordering::Relaxed) {
                let pause = if wait.is_zero() { PAUSE } else { wait };
                self.wake.wait_for(&mut self.gate.lock(), pause);
                continue;
            }
            self.wanted.store(false, Ordering::Relaxed);
            let sockets = Sockets::scan();
            *self.sockets.lock() = sockets;
            last = Some(Instant::now());
        }
    }
}

// === impl Sockets ===

impl Sockets {
    fn find(
        &self,
        protocol: u8,
        local: (IpAddr, u16),
        remote: (IpAddr, u16),
    ) -> Option<Arc<ProcessName>> {
        let connected = (protocol, local.0, local.1, remote.0, remote.1);
        self.connected.get(&connected).or_else(|| self.bound.get(&(protocol, local.1))).cloned()
    }

    fn scan() -> Self {
        let owners = owners();
        let mut sockets = Self::default();
        for (table, protocol) in [("tcp", 6), ("tcp6", 6), ("udp", 17), ("udp6", 17)] {
            // The thread's own namespace, which is the agent's.
            let text = std::fs::read_to_string(format!("/proc/thread-self/net/{table}"));
            for line in text.unwrap_or_default().lines().skip(1) {
                if sockets.connected.len() >= MAX_SOCKETS {
                    return sockets;
                }
                sockets.take(protocol, line, &owners);
            }
        }
        sockets
    }

    fn take(&mut self, protocol: u8, line: &str, owners: &HashMap<u64, Arc<ProcessName>>) {
        let Some(((local, remote), inode)) = socket(line) else { return };
        let Some(owner) = owners.get(&inode) else { return };
        if remote.1 == 0 {
            self.bound.insert((protocol, local.1), Arc::clone(owner));
        } else {
            let key = (protocol, local.0, local.1, remote.0, remote.1);
            self.connected.insert(key, Arc::clone(owner));
        }
    }
}

/// Processes by the inodes of their sockets.
fn owners() -> HashMap<u64, Arc<ProcessName>> {
    let mut owners = HashMap::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let mut process = None;
        for file in std::fs::read_dir(entry.path().join("fd")).into_iter().flatten().flatten() {
            let Ok(target) = std::fs::read_link(file.path()) else { continue };
            let Some(inode) = target.to_str().and_then(socket_inode) else { continue };
            let process = process.get_or_insert_with(|| {
                let comm = std::fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
                Arc::new(ProcessName { pid, name: comm.trim_end().to_owned() })
            });
            owners.insert(inode, Arc::clone(process));
        }
    }
    owners
}

fn socket_inode(target: &str) -> Option<u64> {
    target.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

type End = (IpAddr, u16);

/// Ends and inode of a line of `/proc/net/tcp` and its like.
fn socket(line: &str) -> Option<((End, End), u64)> {
    let mut fields = line.split_ascii_whitespace();
    let local = end(fields.nth(1)?)?;
    let remote = end(fields.next()?)?;
    let inode = fields.nth(6)?.parse().ok()?;
    Some(((local, remote), inode))
}

/// `0100007F:1F90`: 32-bit words of the address in host order, then the port.
fn end(field: &str) -> Option<End> {
    let (address, port) = field.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |i: usize| u32::from_str_radix(address.get(i * 8..i * 8 + 8)?, 16).ok();
    let ip = match address.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(0)?.to_ne_bytes())),
        32 => {
            let mut octets = [0; 16];
            for i in 0..4 {
                octets[i * 4..][..4].copy_from_slice(&word(i)?.to_ne_bytes());
            }
            Ipv6Addr::from(octets).to_canonical()
        }
        _ => return None,
    };
    Some((ip, port))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn reads_both_families() {
        let v4 = "   1: 0100007F:1F90 0200007F:C350 01 00000000:00000000 00:00000000 00000000  0  0 4711 1";
        let expected =
            (("127.0.0.1".parse().unwrap(), 8080), ("127.0.0.2".parse().unwrap(), 50000));
        assert_eq!(socket(v4), Some((expected, 4711)));
        assert_eq!(
            end("0000000000000000FFFF00000100007F:0050"),
            Some(("127.0.0.1".parse().unwrap(), 80))
        );
        assert_eq!(
            end("00000000000000000000000001000000:0050"),
            Some(("::1".parse().unwrap(), 80))
        );
        for odd in ["", "x", "1: 2", "1: 0100007F 0:0"] {
            assert_eq!(socket(odd), None);
        }
    }

    #[test]
    fn finds_this_very_process() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = listener.local_addr().unwrap();
        let stream = TcpStream::connect(server).unwrap();
        let client = stream.local_addr().unwrap();
        let processes = Processes::scan().unwrap();
        let ask = |local: std::net::SocketAddr, remote: std::net::SocketAddr| {
            processes.find(6, (local.ip(), local.port()), (remote.ip(), remote.port()))
        };
        let start = Instant::now();
        while ask(client, server).is_none() && start.elapsed() < Duration::from_secs(20) {
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(ask(client, server).unwrap().pid, std::process::id());
        assert_eq!(ask(server, client).unwrap().pid, std::process::id(), "by the listener");
    }
}
