//! Makes packets for the benchmark of services (`datapath/loader/benches/services.rs`): an XDP program that gives every
//! frame another source and destination before the stack takes it, and a classifier that ends them behind it.

use aya_ebpf::bindings::{BPF_F_INGRESS, TC_ACT_SHOT, xdp_action::XDP_PASS};
use aya_ebpf::btf_maps::Array;
use aya_ebpf::helpers::generated::bpf_redirect;
use aya_ebpf::macros::{btf_map, classifier, xdp};
use aya_ebpf::programs::{TcContext, XdpContext};

/// Number of the next packet; mask: flows − 1; services, or 0: straight to a backend; packets that arrived.
#[btf_map(name = "bench_services")]
static BENCH: Array<[u64; 4], 1> = Array::new();

/// Bytes of Ethernet, IPv4 and UDP headers.
const HEADERS: usize = 14 + 20 + 8;

/// Gives the frame its addresses: from 10.9.x.y, to 10.96.x.y:80 (a service) or 10.10.x.y:8080.
#[xdp]
pub fn bench_generate(ctx: XdpContext) -> u32 {
    let Some(bench) = BENCH.get_ptr_mut(0) else {
        return XDP_PASS;
    };
    // SAFETY: the benchmark runs one program at a time, on one CPU.
    let (number, services) = unsafe {
        (*bench)[0] += 1;
        ((*bench)[0] & (*bench)[1], (*bench)[2])
    };
    if ctx.data() + HEADERS > ctx.data_end() {
        return XDP_PASS;
    }
    // Spread, so that neighbours in time are not neighbours in a table.
    let spread = (number as u32).wrapping_mul(0x9e37_79b1);
    let [a, b] = ((spread >> 16) as u16).to_be_bytes();
    let port = (spread as u16 | 1024).to_be_bytes();
    let other = (number as u32).wrapping_mul(0x85eb_ca6b) >> 8;
    let (to, place, to_port) = if services == 0 {
        (10, other as u16 & 0x7fff, 8080u16)
    } else {
        (96, ((u64::from(other) * services) >> 24) as u16, 80)
    };
    let [c, d] = place.to_be_bytes();
    let to_port = to_port.to_be_bytes();
    let frame = ctx.data() as *mut u8;
    // SAFETY: within the headers by the comparison above.
    unsafe {
        let put =
            |at: usize, bytes: [u8; 4]| frame.add(at).cast::<[u8; 4]>().write_unaligned(bytes);
        // The kernel uses a frame again as the stack has left it.
        put(0, [2, 0, 0, 0]);
        put(4, [0, 1, 2, 0]);
        put(8, [0, 0, 0, 9]);
        put(22, [64, 17, 0, 0]);
        put(26, [10, 9, a, b]);
        put(30, [10, to, c, d]);
        put(34, [port[0], port[1], to_port[0], to_port[1]]);
        let word = |at: usize| u32::from(frame.add(at).cast::<u16>().read_unaligned());
        let sum = word(14) + word(16) + word(18) + word(20) + word(22);
        let sum = sum + word(26) + word(28) + word(30) + word(32);
        let once = (sum & 0xffff) + (sum >> 16);
        let sum = !((once & 0xffff) + (once >> 16)) as u16;
        frame.add(24).cast::<u16>().write_unaligned(sum);
    }
    XDP_PASS
}

/// Answers: the packet goes back to whom it came from.
#[classifier]
pub fn bench_echo(ctx: TcContext) -> i32 {
    if ctx.data() + HEADERS > ctx.data_end() {
        return TC_ACT_SHOT;
    }
    let frame = ctx.data() as *mut u8;
    // SAFETY: within the headers by the comparison above.
    unsafe {
        swap::<6>(frame, frame.add(6));
        swap::<4>(frame.add(26), frame.add(30));
        swap::<2>(frame.add(34), frame.add(36));
        bpf_redirect((*ctx.skb.skb).ifindex, u64::from(BPF_F_INGRESS)) as i32
    }
}

/// # Safety
/// Both are `N` bytes of a packet.
#[inline(always)]
unsafe fn swap<const N: usize>(a: *mut u8, b: *mut u8) {
    let (a, b) = (a.cast::<[u8; N]>(), b.cast::<[u8; N]>());
    // SAFETY: by the caller.
    unsafe {
        let (first, second) = (a.read_unaligned(), b.read_unaligned());
        a.write_unaligned(second);
        b.write_unaligned(first);
    }
}

/// Counts what has come through, and ends it.
#[classifier]
pub fn bench_drop(_: TcContext) -> i32 {
    if let Some(bench) = BENCH.get_ptr_mut(0) {
        // SAFETY: as above.
        unsafe { (*bench)[3] += 1 };
    }
    TC_ACT_SHOT
}
