//! Map keys, map values and events: all that kernel and user space share.
//!
//! `#[repr(C)]`, fixed-width integers and byte arrays only; no `bool`, no `Option`, no `usize`, no
//! Rust enum, no implicit padding (with the feature `user`, zerocopy refuses it at compile time).
//! Keys are aligned to 8 bytes, for they are put together on the stack, where BPF allows no unaligned
//! access. Integers are in host byte order; addresses are in network order, IPv4 as `::ffff:a.b.c.d`.

#![no_std]
#![forbid(unsafe_code)]

pub mod answer;
pub mod conn;
pub mod drops;
pub mod event;
pub mod flow_cache;
pub mod fragment;
pub mod iface;
pub mod names;
pub mod policy;
pub mod process;
pub mod reported;
pub mod retire;
pub mod service;

/// Number of this layout. Pinned maps of another number are not adopted.
pub const ABI: u32 = 5;

/// Derives what crosses the border between kernel and user space.
macro_rules! layout {
    ($(#[$meta:meta])* pub struct $name:ident { $($body:tt)* } = $size:literal) => {
        $(#[$meta])*
        #[repr(C)]
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[cfg_attr(
            feature = "user",
            derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable, zerocopy::KnownLayout)
        )]
        pub struct $name { $($body)* }

        const _: () = assert!(core::mem::size_of::<$name>() == $size);
    };
}
pub(crate) use layout;
