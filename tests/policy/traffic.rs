//! Real connections between the fixture's ends.

use std::collections::HashMap;
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use harness::Netns;

use crate::fixture::{self, ENDS, Fixture, IN_TABLES, PODS, PORTS, Port};
use crate::probe::{self, Attempt};

/// How long an answer is waited for; what is denied takes all of it.
const PATIENCE: Duration = Duration::from_millis(250);

/// A cell of the table: from, to, port.
pub(crate) type Cell = (usize, usize, usize);

/// In every pod, an echo on each port.
pub(crate) struct Servers {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

// === impl Servers ===

impl Servers {
    pub(crate) fn start(fixture: &Fixture) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        for (to, _, address) in fixture::pods() {
            let netns = fixture.netns(to);
            let stopped = Arc::clone(&stop);
            let socket = netns.run(|| probe::raw(probe::SCTP)).unwrap().unwrap();
            rustix::net::bind(&socket, &SocketAddrV4::new(address, 0)).unwrap();
            threads.push(std::thread::spawn(move || {
                probe::reflect_sctp(&socket, address, &stopped);
            }));
            let served = PORTS.iter().filter(|port| matches!(port.1, probe::TCP | probe::UDP));
            for (_, protocol, port) in served.copied() {
                let at = SocketAddr::from((address, port));
                let stop = Arc::clone(&stop);
                if protocol == probe::TCP {
                    let listener = netns.run(|| TcpListener::bind(at)).unwrap().unwrap();
                    threads.push(std::thread::spawn(move || accept(&listener, &stop)));
                } else {
                    let socket = netns.run(|| UdpSocket::bind(at)).unwrap().unwrap();
                    threads.push(std::thread::spawn(move || reflect(&socket, &stop)));
                }
            }
        }
        Self { stop, threads }
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn accept(listener: &TcpListener, stop: &Arc<AtomicBool>) {
    listener.set_nonblocking(true).unwrap();
    while !stop.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((mut stream, _)) => {
                let stop = Arc::clone(stop);
                let echo = move || {
                    let _ = stream.set_nonblocking(false);
                    let _ = stream.set_read_timeout(Some(Duration::from_millis(500)));
                    let mut buffer = [0; 64];
                    while !stop.load(Ordering::Relaxed) {
                        match stream.read(&mut buffer) {
                            Ok(0) => return,
                            Ok(read) => {
                                if stream.write_all(&buffer[..read]).is_err() {
                                    return;
                                }
                            }
                            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                            Err(_) => return,
                        }
                    }
                };
                std::thread::Builder::new().stack_size(128 << 10).spawn(echo).unwrap();
            }
            Err(_) => std::thread::sleep(Duration::from_millis(2)),
        }
    }
}

fn reflect(socket: &UdpSocket, stop: &AtomicBool) {
    socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let mut buffer = [0; 64];
    while !stop.load(Ordering::Relaxed) {
        if let Ok((read, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(&buffer[..read], from);
        }
    }
}

/// Tries these cells, or all that lead to a pod other than the one they come from.
pub(crate) fn probe_all(fixture: &Fixture, cells: Option<&[Cell]>) -> HashMap<Cell, bool> {
    let mut pairs: HashMap<(usize, usize), Vec<usize>> = HashMap::new();
    match cells {
        Some(cells) => {
            for (from, to, port) in cells {
                pairs.entry((*from, *to)).or_default().push(*port);
            }
        }
        None => {
            for from in 0..IN_TABLES {
                for to in (0..PODS).filter(|to| *to != from) {
                    pairs.insert((from, to), (0..PORTS.len()).collect());
                }
            }
        }
    }
    std::thread::scope(|scope| {
        let tried: Vec<_> = pairs
            .into_iter()
            .map(|((from, to), ports)| {
                let netns = fixture.netns(from);
                let work = move || {
                    // All at once: what is denied takes all of the patience.
                    let end = Instant::now() + PATIENCE;
                    let start = |port: &usize| {
                        let (_, protocol, number) = PORTS[*port];
                        let to = SocketAddrV4::new(ENDS[to].1, number);
                        Attempt::start(ENDS[from].1, to, protocol)
                    };
                    let started: Vec<_> = netns.run(|| ports.iter().map(start).collect()).unwrap();
                    let cells = ports.iter().map(|port| (from, to, *port));
                    let open = |attempt: io::Result<Attempt>| {
                        attempt.is_ok_and(|attempt| attempt.answered(end))
                    };
                    cells.zip(started.into_iter().map(open)).collect::<Vec<_>>()
                };
                std::thread::Builder::new().stack_size(128 << 10).spawn_scoped(scope, work).unwrap()
            })
            .collect();
        tried.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    })
}

/// Whether a connection is answered in time.
fn probe(netns: &Netns, from: Ipv4Addr, to: Ipv4Addr, (_, protocol, port): Port) -> bool {
    let end = Instant::now() + PATIENCE;
    let started = netns.run(|| Attempt::start(from, SocketAddrV4::new(to, port), protocol));
    started.unwrap().is_ok_and(|attempt| attempt.answered(end))
}

/// How a connection over TCP fails; `None` where it does not, or times out.
pub(crate) fn refusal(fixture: &Fixture, (from, to, port): Cell) -> Option<std::io::ErrorKind> {
    let (_, _, port) = PORTS[port];
    let to = SocketAddrV4::new(ENDS[to].1, port);
    let tried = fixture.netns(from).run(|| connect(ENDS[from].1, to).err()).unwrap();
    tried.map(|error| error.kind()).filter(|kind| *kind != std::io::ErrorKind::TimedOut)
}

fn connect(from: Ipv4Addr, to: SocketAddrV4) -> std::io::Result<TcpStream> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
    rustix::net::bind(&socket, &SocketAddrV4::new(from, 0))?;
    match rustix::net::connect(&socket, &to) {
        Ok(()) => {}
        Err(rustix::io::Errno::INPROGRESS) => {
            let mut ready = [rustix::event::PollFd::new(&socket, rustix::event::PollFlags::OUT)];
            let patience = rustix::time::Timespec::try_from(PATIENCE).unwrap();
            if rustix::event::poll(&mut ready, Some(&patience))? == 0 {
                return Err(std::io::ErrorKind::TimedOut.into());
            }
            rustix::net::sockopt::socket_error(&socket)??;
        }
        Err(error) => return Err(error.into()),
    }
    let stream = TcpStream::from(socket);
    stream.set_nonblocking(false)?;
    Ok(stream)
}

/// Connections that send a few bytes again and again, and wait for the echo.
pub(crate) struct Streams {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<(Duration, bool)>>,
}

// === impl Streams ===

impl Streams {
    pub(crate) fn open(fixture: &Fixture, (from, to, port): Cell, count: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (_, _, number) = PORTS[port];
        let to = SocketAddrV4::new(ENDS[to].1, number);
        let open = || -> Vec<TcpStream> {
            let connect = |_| {
                let begun = Instant::now();
                loop {
                    match connect(ENDS[from].1, to) {
                        Ok(stream) => return stream,
                        Err(error) => assert!(begun.elapsed() < Duration::from_secs(20), "{error}"),
                    }
                }
            };
            (0..count).map(connect).collect()
        };
        let streams = fixture.netns(from).run(open).unwrap();
        let threads = streams.into_iter().map(|stream| {
            let stop = Arc::clone(&stop);
            let work = move || converse(stream, &stop);
            std::thread::Builder::new().stack_size(128 << 10).spawn(work).unwrap()
        });
        Self { threads: threads.collect(), stop }
    }

    /// The longest wait for an echo, and how many connections broke.
    pub(crate) fn close(self) -> (Duration, usize) {
        self.stop.store(true, Ordering::Relaxed);
        let ends: Vec<_> = self.threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        let longest = ends.iter().map(|(longest, _)| *longest).max().unwrap_or_default();
        (longest, ends.iter().filter(|(_, broken)| *broken).count())
    }
}

fn converse(mut stream: TcpStream, stop: &AtomicBool) -> (Duration, bool) {
    let mut longest = Duration::ZERO;
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    while !stop.load(Ordering::Relaxed) {
        let begun = Instant::now();
        let mut echo = [0; 4];
        if stream.write_all(b"weir").and_then(|()| stream.read_exact(&mut echo)).is_err() {
            return (longest, true);
        }
        longest = longest.max(begun.elapsed());
        std::thread::sleep(Duration::from_millis(100));
    }
    (longest, false)
}

/// Tries what is denied again and again.
pub(crate) struct Watch {
    stop: Arc<AtomicBool>,
    open: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

// === impl Watch ===

impl Watch {
    pub(crate) fn start(fixture: &Fixture, (from, to, port): Cell) -> Self {
        let (stop, open) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let netns = Netns::existing(fixture.netns(from).name());
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&open));
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let open = probe(&netns, ENDS[from].1, ENDS[to].1, PORTS[port]);
                counted.fetch_add(u64::from(open), Ordering::Relaxed);
            }
        });
        Self { stop, open, thread: Some(thread) }
    }

    /// How often it went through.
    pub(crate) fn let_through(&self) -> u64 {
        self.open.load(Ordering::Relaxed)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
