//! The lists that user space hands to the programs `retire` and `retire_denied` as their packet.

use crate::conn::ConnKey;
use crate::layout;
use crate::policy::DeniedKey;

layout! {
    /// One connection to retire.
    pub struct Record {
        /// Which entry.
        pub key: ConnKey,
        /// Its [`ConnValue::id`](crate::conn::ConnValue::id): another connection by then stays.
        pub id: u64,
    } = 48
}

/// No refusal: records of the program `retire_denied` are keys, as large as the others.
pub const DENIED_ZERO: DeniedKey = DeniedKey {
    source: [0; 16],
    destination: [0; 16],
    ifindex: 0,
    origin: 0,
    port: 0,
    protocol: 0,
    hook: 0,
    pad: 0,
};
const _: () = assert!(size_of::<DeniedKey>() == size_of::<Record>());

/// Where the first record begins: behind the Ethernet header that the kernel asks of a test packet.
pub const OFFSET: u32 = 14;

/// Most records in one packet; with [`OFFSET`] and what the kernel adds they fit in a page.
pub const MAX_RECORDS: u32 = 64;

// === impl Record ===

impl Record {
    /// No connection.
    pub const ZERO: Self = Self {
        key: ConnKey { low_addr: [0; 16], high_addr: [0; 16], low_port: 0, high_port: 0, link: 0 },
        id: 0,
    };
}
