//! The kernel's own interface counters.
//!
//! Read from `/proc/thread-self/net/dev`, which belongs to the calling thread's namespace and shows
//! the same 64-bit numbers as `ip -s link`.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::ops::Sub;

/// Counters of one interface; bytes at the link layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(missing_docs, reason = "the kernel's own names")]
pub struct Counters {
    pub rx_bytes: u64,
    pub rx_packets: u64,
    pub rx_dropped: u64,
    pub tx_bytes: u64,
    pub tx_packets: u64,
    pub tx_dropped: u64,
}

// === impl Counters ===

impl Counters {
    /// Bytes both ways.
    pub fn bytes(&self) -> u64 {
        self.rx_bytes + self.tx_bytes
    }

    /// Packets both ways.
    pub fn packets(&self) -> u64 {
        self.rx_packets + self.tx_packets
    }
}

impl Sub for Counters {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            rx_bytes: self.rx_bytes - before.rx_bytes,
            rx_packets: self.rx_packets - before.rx_packets,
            rx_dropped: self.rx_dropped - before.rx_dropped,
            tx_bytes: self.tx_bytes - before.tx_bytes,
            tx_packets: self.tx_packets - before.tx_packets,
            tx_dropped: self.tx_dropped - before.tx_dropped,
        }
    }
}

pub(crate) fn read() -> io::Result<BTreeMap<String, Counters>> {
    Ok(parse(&fs::read_to_string("/proc/thread-self/net/dev")?))
}

fn parse(text: &str) -> BTreeMap<String, Counters> {
    text.lines().skip(2).filter_map(line).collect()
}

/// `name: rx bytes packets errs drop fifo frame compressed multicast, tx bytes packets errs drop …`
fn line(text: &str) -> Option<(String, Counters)> {
    let (name, rest) = text.split_once(':')?;
    let n: Vec<u64> = rest.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let [rx_bytes, rx_packets, _, rx_dropped, _, _, _, _, tx_bytes, tx_packets, _, tx_dropped, ..] =
        n[..]
    else {
        return None;
    };
    let counters = Counters { rx_bytes, rx_packets, rx_dropped, tx_bytes, tx_packets, tx_dropped };
    Some((name.trim().to_owned(), counters))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_kernels_table() {
        let text = "Inter-|   Receive |  Transmit\n face |bytes packets …\n\
                      lo: 10 1 0 0 0 0 0 0 10 1 0 0 0 0 0 0\n  eth0:20 2 0 3 0 0 0 0 40 4 0 5 0 0 0 0\n";
        let eth0 = parse(text)["eth0"];
        assert_eq!((eth0.rx_bytes, eth0.rx_packets, eth0.rx_dropped), (20, 2, 3));
        assert_eq!((eth0.tx_bytes, eth0.tx_packets, eth0.tx_dropped), (40, 4, 5));
        assert_eq!(parse(text).len(), 2);
    }
}
