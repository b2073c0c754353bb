//! DNS answers seen on the wire (UDP source port 53).

use crate::conn::ConnKey;
use crate::layout;

/// Longest part of a DNS message that an event carries, bytes (RFC 1035, 4.2.1: UDP without EDNS).
pub const MAX_PAYLOAD: usize = 512;

layout! {
    /// A DNS message and the connection that it belongs to.
    pub struct DnsEvent {
        /// [`DNS`](crate::event::DNS).
        pub kind: u32,
        /// Bytes of `payload` in use.
        pub length: u32,
        /// `bpf_ktime_get_ns`.
        pub time_ns: u64,
        /// [`ConnValue::id`](crate::conn::ConnValue::id).
        pub id: u64,
        /// Which connection.
        pub key: ConnKey,
        /// The message, from its header; cut at [`MAX_PAYLOAD`].
        pub payload: [u8; MAX_PAYLOAD],
    } = 576
}
