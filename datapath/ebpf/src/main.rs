//! eBPF programs: hooks and maps that bind the engine to the kernel.
//!
//! Only the classifiers of `enforce` may end a packet's way, make its `answer` of it, `rewrite` its addresses, or encapsulate it (`dsr`), and that of `xdp` sends packets on; those of `observe` answer "next", the socket hook answers "allow". One noun a file; what a packet's account and its verdict
//! mean is in the engine.
//!
//! Kernel floor 5.10: no atomics that fetch, no `bpf_loop`, no kfuncs, bounded loops. See README.md.

#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod answer;
mod bench;
mod cells;
mod drops;
mod dsr;
mod enforce;
mod events;
mod flow_cache;
mod forward;
mod maps;
mod observe;
mod policy;
mod process;
mod retire;
mod rewrite;
mod service;
mod skb;
mod socket;
mod tick;
mod xdp;

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // Never reached: the engine has no panics, and the verifier would refuse this loop.
    loop {}
}

/// The kernel gives some helpers only to programs under a licence compatible with the GPL.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
