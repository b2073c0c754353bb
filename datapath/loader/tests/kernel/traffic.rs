//! Traffic between the two namespaces, bounded in count and time.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, TcpStream, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use crate::kernel::lab::{Lab, there, within};

/// A socket with a port that no other of this process has had: the kernel may give one again that was given back, and
/// then two sockets are one connection.
fn client_socket(v6: bool) -> UdpSocket {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let port = 10_000 + NEXT.fetch_add(1, Ordering::Relaxed) % 50_000;
    let any =
        if v6 { IpAddr::V6(Ipv6Addr::UNSPECIFIED) } else { IpAddr::V4(Ipv4Addr::UNSPECIFIED) };
    UdpSocket::bind((any, port)).unwrap()
}

/// Sends `count` datagrams of `size` bytes, each from a port of its own, and gets each back.
pub(crate) fn udp(lab: &Lab, v6: bool, port: u16, count: usize, size: usize) {
    let ready = Arc::new(Barrier::new(2));
    let listens = Arc::clone(&ready);
    let server = lab.there();
    let echo = std::thread::spawn(move || {
        within(&server, move || {
            let socket = UdpSocket::bind(there(v6, port)).unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            listens.wait();
            let mut buffer = vec![0; 65536];
            for _ in 0..count {
                let (length, from) = socket.recv_from(&mut buffer).unwrap();
                socket.send_to(&buffer[..length], from).unwrap();
            }
        });
    });
    ready.wait();
    within(&lab.here(), move || {
        let mut buffer = vec![0; 65536];
        for _ in 0..count {
            let socket = client_socket(v6);
            socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            socket.send_to(&vec![7; size], there(v6, port)).unwrap();
            assert_eq!(socket.recv_from(&mut buffer).unwrap().0, size);
        }
    });
    echo.join().unwrap();
}

/// Sends datagrams to a port where nobody listens, each from a port of its own.
pub(crate) fn udp_into_the_void(lab: &Lab, port: u16, count: usize) {
    within(&lab.here(), move || {
        for _ in 0..count {
            let socket = client_socket(false);
            socket.send_to(b"anyone?", there(false, port)).unwrap();
        }
    });
}

/// Opens `count` connections one after the other; on each, a question and an answer.
pub(crate) fn tcp(lab: &Lab, v6: bool, port: u16, count: usize, answer: usize) {
    let ready = Arc::new(Barrier::new(2));
    let listens = Arc::clone(&ready);
    let server = lab.there();
    let serve = std::thread::spawn(move || {
        within(&server, move || {
            let listener = TcpListener::bind(there(v6, port)).unwrap();
            listens.wait();
            for _ in 0..count {
                let (mut stream, _) = listener.accept().unwrap();
                stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
                let mut question = [0; 64];
                stream.read_exact(&mut question).unwrap();
                stream.write_all(&vec![1; answer]).unwrap();
            }
        });
    });
    ready.wait();
    within(&lab.here(), move || {
        for _ in 0..count {
            let mut stream = TcpStream::connect(there(v6, port)).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            stream.write_all(&[9; 64]).unwrap();
            let mut answer_read = Vec::new();
            stream.read_to_end(&mut answer_read).unwrap();
            assert_eq!(answer_read.len(), answer);
        }
    });
    serve.join().unwrap();
}

/// Runs an iperf3 client in `here` against a server in `there`.
pub(crate) fn iperf(lab: &Lab, arguments: &[&str]) {
    let mut server = Command::new("ip")
        .args(["netns", "exec", &lab.there(), "iperf3", "-s", "-1"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("iperf3");
    wait_for_listener(lab, 5201);
    let mut command = vec!["iperf3", "-c", "10.9.0.2"];
    command.extend(arguments);
    lab.run(&lab.here(), &command);
    server.wait().unwrap();
}

fn wait_for_listener(lab: &Lab, port: u16) {
    let start = Instant::now();
    let filter = format!("sport = :{port}");
    while lab.run(&lab.there(), &["ss", "-Hltn", &filter]).stdout.is_empty() {
        assert!(start.elapsed() < Duration::from_secs(5), "nobody listens on {port}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A capture in a namespace; packets as they are, in hexadecimal.
pub(crate) struct Capture(Child, std::path::PathBuf);

// === impl Capture ===

impl Capture {
    /// Starts capturing what comes in to `veth0` of a namespace.
    pub(crate) fn start(namespace: &str, filter: &str) -> Self {
        Self::start_of(namespace, filter, "in")
    }

    /// As [`Capture::start`], of one direction: `in` or `out`.
    pub(crate) fn start_of(namespace: &str, filter: &str, direction: &str) -> Self {
        let path = std::env::temp_dir().join(format!("{namespace}.pcap"));
        let file = path.to_string_lossy().into_owned();
        let mut child = Command::new("ip")
            .args(["netns", "exec", namespace, "tcpdump", "-i", "veth0", "-Q", direction])
            .args(["--immediate-mode", "-s", "2000", "-B", "16384", "-U", "-w", &file, filter])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("tcpdump");
        // It says "listening on" once it does.
        let mut line = [0; 16];
        child.stderr.as_mut().unwrap().read_exact(&mut line).unwrap();
        std::thread::sleep(Duration::from_millis(200));
        Self(child, path)
    }

    /// Stops, and gives back each packet's bytes.
    pub(crate) fn stop(mut self) -> Vec<String> {
        std::thread::sleep(Duration::from_millis(300));
        // SAFETY: a process that this test has started and not yet waited for.
        unsafe { libc::kill(self.0.id() as i32, libc::SIGINT) };
        self.0.wait().unwrap();
        let file = self.1.to_string_lossy().into_owned();
        let output =
            Command::new("tcpdump").args(["-r", &file, "-t", "-nn", "-xx"]).output().unwrap();
        std::fs::remove_file(&self.1).unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let mut packets: Vec<String> = Vec::new();
        for line in text.lines() {
            match line.trim_start().split_once(':') {
                Some((offset, bytes)) if offset.starts_with("0x") => {
                    packets.last_mut().expect("a packet's line comes first").push_str(bytes);
                }
                _ => packets.push(String::new()),
            }
        }
        packets
    }
}
