//! Builds frames, from the inside out.

/// A frame under construction: what is there already is the payload of what is put before it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Build(Vec<u8>);

/// Addresses that the tests use.
pub(crate) const A4: [u8; 4] = [10, 0, 0, 1];
pub(crate) const B4: [u8; 4] = [10, 0, 0, 2];
pub(crate) const C4: [u8; 4] = [203, 0, 113, 80];
pub(crate) const A6: [u8; 16] = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
pub(crate) const B6: [u8; 16] = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];

/// A TCP segment between two ports.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Segment {
    pub(crate) ports: (u16, u16),
    pub(crate) flags: u8,
    pub(crate) sequence: u32,
    pub(crate) acknowledgement: u32,
}

// === impl Build ===

impl Build {
    pub(crate) fn payload(length: usize) -> Self {
        Self(vec![0x5a; length])
    }

    pub(crate) fn bytes(bytes: &[u8]) -> Self {
        Self(bytes.to_vec())
    }

    fn before(mut self, header: &[u8]) -> Self {
        self.0.splice(0..0, header.iter().copied());
        self
    }

    pub(crate) fn udp(self, source: u16, destination: u16) -> Self {
        let mut header = Vec::new();
        header.extend(source.to_be_bytes());
        header.extend(destination.to_be_bytes());
        header.extend((self.0.len() as u16 + 8).to_be_bytes());
        header.extend([0; 2]);
        self.before(&header)
    }

    pub(crate) fn sctp(self, source: u16, destination: u16) -> Self {
        let mut header = [0; 12];
        header[..2].copy_from_slice(&source.to_be_bytes());
        header[2..4].copy_from_slice(&destination.to_be_bytes());
        self.before(&header)
    }

    pub(crate) fn tcp(self, segment: Segment) -> Self {
        let mut header = [0; 20];
        header[..2].copy_from_slice(&segment.ports.0.to_be_bytes());
        header[2..4].copy_from_slice(&segment.ports.1.to_be_bytes());
        header[4..8].copy_from_slice(&segment.sequence.to_be_bytes());
        header[8..12].copy_from_slice(&segment.acknowledgement.to_be_bytes());
        header[12] = 5 << 4;
        header[13] = segment.flags;
        self.before(&header)
    }

    pub(crate) fn icmp(self, kind: u8, code: u8, identifier: u16) -> Self {
        let [a, b] = identifier.to_be_bytes();
        self.before(&[kind, code, 0, 0, a, b, 0, 1])
    }

    pub(crate) fn v4(self, protocol: u8, source: [u8; 4], destination: [u8; 4]) -> Self {
        self.v4_part(protocol, source, destination, 0, 0)
    }

    /// `part`: the flags and the offset, as they stand in the header.
    pub(crate) fn v4_part(
        self,
        protocol: u8,
        source: [u8; 4],
        destination: [u8; 4],
        identification: u16,
        part: u16,
    ) -> Self {
        let mut header = [0; 20];
        header[0] = 0x45;
        header[2..4].copy_from_slice(&(self.0.len() as u16 + 20).to_be_bytes());
        header[4..6].copy_from_slice(&identification.to_be_bytes());
        header[6..8].copy_from_slice(&part.to_be_bytes());
        header[8] = 64;
        header[9] = protocol;
        header[12..16].copy_from_slice(&source);
        header[16..].copy_from_slice(&destination);
        self.before(&header)
    }

    pub(crate) fn v6(self, next: u8, source: [u8; 16], destination: [u8; 16]) -> Self {
        let mut header = [0; 40];
        header[0] = 0x60;
        header[4..6].copy_from_slice(&(self.0.len() as u16).to_be_bytes());
        header[6] = next;
        header[7] = 64;
        header[8..24].copy_from_slice(&source);
        header[24..].copy_from_slice(&destination);
        self.before(&header)
    }

    /// Hop-by-hop, routing or destination options: `words` further units of 8 bytes.
    pub(crate) fn options(self, next: u8, words: u8) -> Self {
        let mut header = vec![0; 8 + usize::from(words) * 8];
        header[0] = next;
        header[1] = words;
        self.before(&header)
    }

    /// An authentication header of `words` + 2 units of 4 bytes.
    pub(crate) fn authentication(self, next: u8, words: u8) -> Self {
        let mut header = vec![0; 8 + usize::from(words) * 4];
        header[0] = next;
        header[1] = words;
        self.before(&header)
    }

    pub(crate) fn fragment6(self, next: u8, part: u16, identification: u32) -> Self {
        let mut header = vec![next, 0];
        header.extend(part.to_be_bytes());
        header.extend(identification.to_be_bytes());
        self.before(&header)
    }

    pub(crate) fn tag(self, tag: u16, inner: u16) -> Frame {
        let mut bytes = vec![0; 12];
        bytes.extend(tag.to_be_bytes());
        bytes.extend([0, 7]);
        bytes.extend(inner.to_be_bytes());
        bytes.extend(self.0);
        Frame(bytes)
    }

    pub(crate) fn tags(self, outer: u16, inner: u16, ethertype: u16) -> Frame {
        let mut bytes = vec![0; 12];
        bytes.extend(outer.to_be_bytes());
        bytes.extend([0, 8]);
        bytes.extend(inner.to_be_bytes());
        bytes.extend([0, 7]);
        bytes.extend(ethertype.to_be_bytes());
        bytes.extend(self.0);
        Frame(bytes)
    }

    pub(crate) fn ethernet(self, ethertype: u16) -> Frame {
        let mut bytes = vec![0; 12];
        bytes.extend(ethertype.to_be_bytes());
        bytes.extend(self.0);
        Frame(bytes)
    }

    pub(crate) fn eth4(self) -> Frame {
        self.ethernet(0x0800)
    }

    pub(crate) fn eth6(self) -> Frame {
        self.ethernet(0x86dd)
    }

    /// For a device without link header.
    pub(crate) fn bare(self) -> Vec<u8> {
        self.0
    }
}

/// An Ethernet frame.
#[derive(Debug, Clone)]
pub(crate) struct Frame(pub(crate) Vec<u8>);

// === impl Frame ===

impl Frame {
    /// Padded to Ethernet's minimum, as some devices hand frames up.
    pub(crate) fn padded(mut self) -> Self {
        if self.0.len() < 60 {
            self.0.resize(60, 0);
        }
        self
    }
}

pub(crate) fn mapped([a, b, c, d]: [u8; 4]) -> [u8; 16] {
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]
}
