//! What the packets are made of: short connections, datagrams, pings, iperf3.

use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::{Netns, Result, Run, file_error};

/// Longest wait for one connection.
const PATIENCE: Duration = Duration::from_secs(5);

/// A TCP server that reads each connection to its end and answers with as many bytes.
#[derive(Debug)]
pub struct EchoServer {
    address: SocketAddr,
    netns: String,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

// === impl EchoServer ===

impl EchoServer {
    /// Listens on `address` inside `netns`.
    ///
    /// # Errors
    /// When the address is taken.
    pub fn start(netns: &Netns, address: SocketAddr) -> Result<Self> {
        let listener =
            netns.run(|| TcpListener::bind(address))?.map_err(file_error(address.to_string()))?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                if let Ok(stream) = stream {
                    // A client that goes away in the middle is part of the traffic.
                    let _ = answer(stream);
                }
            }
        });
        Ok(Self { address, netns: netns.name().to_owned(), stop, thread: Some(thread) })
    }
}

impl Drop for EchoServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let address = self.address;
        let netns = Netns::existing(&self.netns);
        let woken = netns.run(|| TcpStream::connect_timeout(&address, PATIENCE).is_ok());
        // Without its namespace the thread can't be woken; it ends with the process.
        if let (Ok(true), Some(thread)) = (woken, self.thread.take()) {
            let _ = thread.join();
        }
    }
}

fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut buffer = [0; 4096];
    loop {
        let n = stream.read(&mut buffer)?;
        if n == 0 {
            return Ok(());
        }
        stream.write_all(&buffer[..n])?;
    }
}

/// Opens `count` TCP connections one after the other from inside `netns`, sends and receives
/// `bytes` on each, and closes it. Answers how many were complete.
///
/// # Errors
/// When the namespace is gone.
pub fn short_connections(
    netns: &Netns,
    to: SocketAddr,
    count: usize,
    bytes: usize,
) -> Result<usize> {
    netns.run(|| {
        let data = vec![b'w'; bytes];
        (0..count).filter(|_| short_connection(to, &data).is_ok()).count()
    })
}

fn short_connection(to: SocketAddr, data: &[u8]) -> std::io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(data)?;
    let mut echo = vec![0; data.len()];
    stream.read_exact(&mut echo)?;
    stream.shutdown(Shutdown::Write)
}

/// Sends `count` datagrams of `bytes` bytes from inside `netns`, each from a port of its own if
/// `new_ports`: then each is a connection of its own.
///
/// # Errors
/// When the namespace is gone or a socket can't be made.
pub fn datagrams(
    netns: &Netns,
    to: SocketAddr,
    count: usize,
    bytes: usize,
    new_ports: bool,
) -> Result<()> {
    let any: SocketAddr = match to {
        SocketAddr::V4(_) => ([0, 0, 0, 0], 0).into(),
        SocketAddr::V6(_) => ([0u16; 8], 0).into(),
    };
    let send = || -> std::io::Result<()> {
        let data = vec![b'w'; bytes];
        let mut socket = UdpSocket::bind(any)?;
        for i in 0..count {
            if new_ports && i > 0 {
                socket = UdpSocket::bind(any)?;
            }
            // Not connected: an ICMP error for an earlier one must not stop the next.
            socket.send_to(&data, to)?;
        }
        Ok(())
    };
    netns.run(send)?.map_err(file_error(to.to_string()))
}

/// `ping` with `count` requests of `bytes` bytes (above the MTU: fragments), 5 ms apart.
///
/// # Errors
/// When not every request is answered.
pub fn ping(netns: &Netns, to: IpAddr, count: usize, bytes: usize) -> Result<()> {
    let (count, bytes) = (count.to_string(), bytes.to_string());
    let mut ping = Command::new("ping");
    ping.args(["-n", "-q", "-i", "0.005", "-W", "2", "-c", &count, "-s", &bytes]);
    netns.output(ping.arg(to.to_string())).map(drop)
}

/// One iperf3 run of `seconds` from `client` to `to`, whose namespace is `server`; `flags` as
/// iperf3's client takes them (`-u`, `-R`, `-b 100M`).
///
/// # Errors
/// With what iperf3 printed.
pub fn iperf3(
    run: &Run,
    server: &Netns,
    client: &Netns,
    to: IpAddr,
    seconds: u32,
    flags: &[&str],
) -> Result<()> {
    let address = to.to_string();
    let mut listen = Command::new("iperf3");
    listen.args(["-s", "-1", "-B", &address]);
    let mut listening = crate::Process::spawn(run, Some(server), "iperf3-server", &mut listen)?;
    crate::wait_until("iperf3 listens", PATIENCE, || listens(server, 5201))?;
    let seconds_text = seconds.to_string();
    let mut connect = Command::new("iperf3");
    connect.args(["-c", &address, "-t", &seconds_text]).args(flags);
    client.output(&mut connect)?;
    listening.wait(Duration::from_secs(u64::from(seconds) + 10)).map(drop)
}

/// Whether something listens on the TCP port inside the namespace. Asked of `/proc`: a connection
/// would be traffic.
pub fn listens(netns: &Netns, port: u16) -> bool {
    let tables = || {
        ["tcp", "tcp6"]
            .map(|table| {
                std::fs::read_to_string(format!("/proc/thread-self/net/{table}"))
                    .unwrap_or_default()
            })
            .concat()
    };
    let listening = format!(":{port:04X}");
    netns.run(tables).is_ok_and(|text| {
        text.lines().any(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            // Columns: slot, local address:port, remote, state (0A is LISTEN).
            words.get(1).is_some_and(|local| local.ends_with(&listening))
                && words.get(3) == Some(&"0A")
        })
    })
}
