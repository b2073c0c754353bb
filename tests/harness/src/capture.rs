//! Packet captures: what passed an interface, byte for byte.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::{Error, Netns, Process, Result, Run, file_error, wait_until};

/// A running tcpdump.
#[derive(Debug)]
pub struct Capture {
    process: Process,
    file: PathBuf,
}

// === impl Capture ===

impl Capture {
    /// Captures every frame that matches `filter` on `interface`, whole.
    ///
    /// # Errors
    /// When tcpdump is not installed or does not start.
    pub fn start(run: &Run, netns: &Netns, interface: &str, filter: &str) -> Result<Self> {
        let name = format!("capture-{}-{interface}", netns.name());
        let file = run.directory("captures")?.join(format!("{name}.pcap"));
        let log = run.directory("logs")?.join(format!("{name}.log"));
        // The log of an earlier capture would make this one look ready before it is.
        let _ = fs::remove_file(log);
        let mut command = Command::new("tcpdump");
        // -U: written at once; -B: room, so that nothing is missed.
        command.args(["-i", interface, "-s", "0", "-U", "-n", "-B", "65536", "-Z", "root", "-w"]);
        command.arg(&file).arg(filter);
        let process = Process::spawn(run, Some(netns), &name, &mut command)?;
        let ready = || process.log().contains("listening on");
        wait_until("tcpdump listens", Duration::from_secs(10), ready)?;
        Ok(Self { process, file })
    }

    /// Ends it and answers the frames in order.
    ///
    /// # Errors
    /// When tcpdump missed frames, or wrote something unreadable.
    pub fn frames(mut self) -> Result<Vec<Vec<u8>>> {
        // Frames under way are written within tcpdump's own timeout.
        std::thread::sleep(Duration::from_millis(1500));
        self.process.stop();
        let log = self.process.log();
        let missed = !log.contains("\n0 packets dropped by kernel");
        let data = fs::read(&self.file).map_err(file_error(&self.file))?;
        let frames = if missed { None } else { parse(&data) };
        frames.ok_or_else(|| Error::Command {
            command: self.process.name().to_owned(),
            output: format!("an incomplete capture\n{log}"),
        })
    }
}

/// The records of a pcap file in this machine's byte order, microseconds.
fn parse(data: &[u8]) -> Option<Vec<Vec<u8>>> {
    let (header, mut rest) = data.split_at_checked(24)?;
    if header[..4] != 0xa1b2_c3d4_u32.to_ne_bytes() {
        return None;
    }
    let mut frames = Vec::new();
    while !rest.is_empty() {
        let (record, after) = rest.split_at_checked(16)?;
        let captured = u32::from_ne_bytes(record[8..12].try_into().ok()?);
        let whole = u32::from_ne_bytes(record[12..16].try_into().ok()?);
        if captured != whole {
            return None;
        }
        let (frame, after) = after.split_at_checked(captured as usize)?;
        frames.push(frame.to_vec());
        rest = after;
    }
    Some(frames)
}
