//! Fuzz campaigns with a seed: well-formed frames, mutated. Ten million in every run, a million of them enforced;
//! ten times as many with `WEIR_LONG=1`. The coverage-guided one is in `fuzz/`.

use crate::engine::build::{A4, A6, B4, B6, Build, C4, Segment};
use crate::engine::sim::Sim;
use crate::engine::wild::Wild;

/// xorshift64*: the same frames every time.
struct Random(u64);

// === impl Random ===

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() >> 33) as usize % end
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let tcp = |flags| Segment { ports: (40000, 443), flags, sequence: 7, acknowledgement: 9 };
    let service = |flags| Segment { ports: (40000, 80), ..tcp(flags) };
    let about = Build::payload(0).tcp(Segment { ports: (80, 40000), ..tcp(16) }).v4(6, C4, A4);
    let about = about.icmp(3, 3, 0);
    let udp = || Build::payload(40).udp(53, 5000);
    vec![
        Build::payload(0).tcp(tcp(2)).v4(6, A4, B4).eth4().0,
        Build::payload(9).tcp(tcp(0x18)).v6(6, A6, B6).eth6().0,
        Build::payload(0).tcp(tcp(4)).v4(6, B4, A4).tag(0x8100, 0x0800).0,
        udp().v4(17, B4, A4).eth4().padded().0,
        udp().v4_part(17, B4, A4, 3, 0x2000).tags(0x88a8, 0x8100, 0x0800).0,
        Build::payload(80).v4_part(17, B4, A4, 3, 6).eth4().0,
        udp().options(17, 1).authentication(60, 3).options(51, 0).v6(0, A6, B6).eth6().0,
        udp().options(17, 0).fragment6(60, 1, 8).v6(44, A6, B6).eth6().0,
        Build::payload(30).fragment6(60, 24, 8).v6(44, A6, B6).eth6().0,
        Build::payload(4).sctp(1, 2).v6(132, A6, B6).eth6().0,
        Build::payload(9).icmp(8, 0, 1).v4(1, A4, B4).eth4().0,
        Build::payload(9).icmp(135, 0, 1).v6(58, A6, B6).eth6().0,
        Build::payload(0).tcp(service(2)).v4(6, A4, C4).v4(4, A4, B4).eth4().0,
        Build::payload(0).tcp(service(16)).v4(6, A4, C4).v4(4, A4, B4).eth4().padded().0,
        Build::payload(30).udp(9, 81).v4_part(17, A4, C4, 3, 0x2000).v4(4, A4, B4).eth4().0,
        udp().options(60, 0).v6(60, A6, B6).v6(41, B6, A6).eth6().0,
        about.v4(1, A4, C4).v4(4, A4, B4).eth4().0,
        Build::payload(0).tcp(service(2)).v4(6, A4, C4).eth4().0,
        Build::payload(28).ethernet(0x0806).0,
        Build::bytes(&[0x45; 60]).ethernet(0x0800).0,
    ]
}

fn mutate(random: &mut Random, frame: &mut Vec<u8>) {
    for _ in 0..=random.below(4) {
        let at = random.below(frame.len());
        match random.below(6) {
            0 => frame[at] ^= 1 << random.below(8),
            1 => frame[at] = random.next() as u8,
            2 => frame[at] = [0, 1, 0x7f, 0x80, 0xff][random.below(5)],
            3 => frame.truncate(at.max(14)),
            4 => frame.extend_from_within(at..),
            _ => {
                let from = random.below(frame.len());
                frame[at] = frame[from];
            }
        }
        frame.truncate(4096);
    }
}

fn times(usual: u64) -> u64 {
    let long = std::env::var_os("WEIR_LONG").is_some_and(|value| value != "0");
    if long { usual * 10 } else { usual }
}

#[test]
fn campaign() {
    let cases = times(10_000_000);
    let seeds = seeds();
    let mut random = Random(0x005e_ed0f_4e11);
    let mut frames = 0;
    while frames < cases {
        // A table that fills up now and then, and a balance at the end of each.
        let mut sim = Sim::new();
        sim.capacity = 512;
        for _ in 0..cases.min(20_000) {
            let mut frame = seeds[random.below(seeds.len())].clone();
            mutate(&mut random, &mut frame);
            let hook = random.below(2) as u32;
            let segments = [0, 0, 1, 45][random.below(4)];
            // What is paged out cannot be read here, but counts.
            let paged = [0, 0, 0, 60_000][random.below(4)];
            sim.observe(&frame, hook, 14, frame.len() as u32 + paged, segments);
            if random.below(16) == 0 {
                sim.after_ms(random.below(50) as u64);
            }
            frames += 1;
        }
        sim.balance();
        assert!(sim.connections().len() == 512, "the campaign misses the table");
        assert!(sim.causes.borrow().iter().filter(|cause| cause.packets > 0).count() >= 4);
    }
}

/// Whatever the tables hold: it ends, nothing is counted twice or not at all.
#[test]
fn enforced() {
    let cases = times(1_000_000);
    let seeds = seeds();
    let mut random = Random(0x0e4f_0ce5_eed5);
    let (mut frames, mut refused, mut passed) = (0, 0, 0);
    while frames < cases {
        let mut wild = Wild::new(random.next());
        wild.sim.capacity = 64;
        for _ in 0..1000 {
            let mut frame = seeds[random.below(seeds.len())].clone();
            if random.below(2) == 0 {
                mutate(&mut random, &mut frame);
            }
            let hook = random.below(2) as u32;
            wild.enforce(
                &frame,
                hook,
                [0, 0, 60_000][random.below(3)],
                [0, 1, 45][random.below(3)],
            );
            if random.below(16) == 0 {
                wild.sim.after_ms(random.below(50) as u64);
            }
        }
        wild.balance();
        frames += 1000;
        refused += u64::from(wild.refused() > 100);
        passed += u64::from(wild.refused() < 900);
    }
    let tables = cases / 1000;
    assert!(refused > tables / 5 && passed > tables / 5, "{refused}, {passed} of {tables}");
}
