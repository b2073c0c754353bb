//! The oracle: random tables and packets, through the programs in the kernel and through the same code
//! natively. Fates, connections, refusals and causes must be equal.

use std::collections::HashMap;

use datapath_abi::conn::{ConnKey, ConnValue};
use datapath_abi::iface::{EGRESS, INGRESS};
use datapath_abi::policy::{
    ANYBODY, AUDIT_ALL, DENY_BIT, HOST_IDENTITY, KEEP_ESTABLISHED, Peer, Policy, PolicySide, Rule,
    SECTIONS, SUBJECT_AUDIT, SUBJECT_HOST, Section, Subject,
};
use datapath_engine::{Change, Fate, Frame, Slice, enforce};
use datapath_loader::bench::Bench;
use datapath_loader::{Connections, PolicyTables};

use crate::kernel::lab::{Lab, enter};
use crate::kernel::native::Native;
use crate::kernel::tables::{NO_SIDE, SIZES, Tables};

const ROUNDS: u64 = 250;
const PACKETS: u64 = 500;
/// What the kernel gives a test packet for its interface.
const LOOPBACK: u32 = 1;
const SHOT: i32 = 2;

/// A generator (splitmix64): every round can be repeated by its number.
struct Random(u64);

// === impl Random ===

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn one_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }

    fn address(&mut self, v6: bool) -> [u8; 16] {
        let last = self.below(6) as u8;
        if v6 {
            [0xfd, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last / 3, last]
        } else {
            [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 10, 9, last / 3, last]
        }
    }

    fn rules(&mut self) -> Vec<Rule> {
        let mut rules: Vec<_> = (0..self.below(6))
            .map(|_| Rule { selector: self.below(12) as u32 * 37, origin: self.origin() })
            .collect();
        // Now and then as no compiler would write it.
        if !self.one_in(10) {
            rules.push(Rule { selector: ANYBODY, origin: self.origin() });
        }
        rules
    }

    fn origin(&mut self) -> u32 {
        (self.below(1000) as u32 + 1) | if self.one_in(2) { DENY_BIT } else { 0 }
    }

    fn section(&mut self, tables: &mut Tables) -> Section {
        if self.one_in(4) {
            return Section { start: 0, count: 0 };
        }
        let mut firsts = vec![0];
        for _ in 0..self.below(5) {
            firsts.push(self.pick(&[1, 8, 9, 47, 53, 80, 81, 128, 443, 1024, 8080, 60000]));
        }
        firsts.sort_unstable();
        firsts.dedup();
        let rules: Vec<_> = firsts.iter().map(|_| self.rules()).collect();
        let intervals: Vec<_> =
            firsts.iter().zip(&rules).map(|(&first, rules)| (first, &rules[..])).collect();
        tables.section(&intervals)
    }

    fn side(&mut self, tables: &mut Tables) -> PolicySide {
        let mut side = NO_SIDE;
        for index in 0..SECTIONS {
            side.enforced[index] = self.section(tables);
            if self.one_in(3) {
                side.audited[index] = self.section(tables);
            }
        }
        side
    }

    fn tables(&mut self, revision: u32) -> Tables {
        let mut tables = Tables { revision, ..Tables::default() };
        for _ in 0..8 {
            let selectors: Vec<_> = (0..12).filter(|_| self.one_in(3)).map(|n| n * 37).collect();
            tables.class(&selectors);
        }
        for policy in 1..=2 {
            let sides = [self.side(&mut tables), self.side(&mut tables)];
            tables.policies.insert(policy, Policy { sides, revision: 1 });
        }
        for v6 in [false, true] {
            for _ in 0..4 {
                let peer = self.peer();
                tables.hosts.insert(self.address(v6), peer);
            }
            let base = if v6 { 0 } else { 96 };
            for length in [0, 16, 24, 31, 32] {
                let address = u128::from_be_bytes(self.address(v6));
                let length = base + length;
                let mask = if length == 0 { 0 } else { u128::MAX << (128 - length) };
                if !self.one_in(4) {
                    let peer = self.peer();
                    tables.cidrs.insert((length, (address & mask).to_be_bytes()), peer);
                }
            }
        }
        let flag = |on: bool, flag: u32| if on { flag } else { 0 };
        let flags = flag(self.one_in(3), SUBJECT_HOST) | flag(self.one_in(6), SUBJECT_AUDIT);
        let policy = self.pick(&[1, 1, 1, 2, 2, 2, 3]);
        if !self.one_in(12) {
            tables.subjects.insert(LOOPBACK, Subject { policy, identity: 9, flags, pad: 0 });
        }
        tables.flags = flag(self.one_in(8), AUDIT_ALL) | flag(self.one_in(4), KEEP_ESTABLISHED);
        tables
    }

    fn peer(&mut self) -> Peer {
        let identity = self.pick(&[HOST_IDENTITY, HOST_IDENTITY, 2, 100, 101, 102]);
        // Now and then a class that there is not.
        let class = if self.one_in(20) { SIZES.classes } else { self.below(8) as u32 };
        Peer { identity, class }
    }

    /// Transport header and payload.
    fn transport(&mut self, protocol: u8) -> Vec<u8> {
        let ports = [53, 80, 443, 8080, 40000, 40001];
        let mut bytes = Vec::new();
        bytes.extend(u16::to_be_bytes(self.pick(&ports)));
        bytes.extend(u16::to_be_bytes(self.pick(&ports)));
        match protocol {
            6 => {
                bytes.extend([0; 8]);
                let flags = self.pick(&[2, 2, 18, 16, 16, 24, 17, 4, 20]);
                bytes.extend([5 << 4, flags, 0, 0, 0, 0, 0, 0]);
            }
            17 => bytes.extend([0, 8, 0, 0]),
            132 => bytes.extend([0; 8]),
            _ => bytes.extend([0; 20]),
        }
        bytes.resize(bytes.len() + self.below(20) as usize, 7);
        bytes
    }

    fn icmp(&mut self, v6: bool, deep: bool) -> Vec<u8> {
        let kinds: &[u8] = if v6 {
            &[128, 129, 1, 2, 3, 4, 135, 136, 143, 200]
        } else {
            &[8, 0, 3, 11, 12, 13, 5]
        };
        let kind = self.pick(kinds);
        let code = self.pick(&[0, 3, 4]);
        let mut bytes = vec![kind, code, 0, 0, 0, self.below(2) as u8, 0, 1];
        let is_error = if v6 { kind < 5 } else { matches!(kind, 3 | 11 | 12) };
        if is_error && deep {
            let inner = self.ip(v6, false);
            bytes.extend(&inner[..inner.len() - self.below(12) as usize]);
        } else {
            bytes.resize(bytes.len() + self.below(20) as usize, 7);
        }
        bytes
    }

    /// An IP packet; `deep`: an error may carry another.
    fn ip(&mut self, v6: bool, deep: bool) -> Vec<u8> {
        let icmp = if v6 { 58 } else { 1 };
        let protocol = self.pick(&[6, 6, 6, 17, 17, 132, icmp, icmp, 47]);
        let mut rest =
            if protocol == icmp { self.icmp(v6, deep) } else { self.transport(protocol) };
        let (source, destination) = (self.address(v6), self.address(v6));
        let identification = self.below(3) as u8;
        let part = if self.one_in(10) { self.pick(&[0x2000u16, 0x2001, 1, 4]) } else { 0 };
        let mut packet = Vec::new();
        if v6 {
            let mut next = protocol;
            if part != 0 {
                let bits = part.rotate_left(3);
                let mut header = vec![next, 0];
                header.extend(bits.to_be_bytes());
                header.extend([0, 0, 0, identification]);
                rest.splice(0..0, header);
                next = 44;
            }
            packet.extend([0x60, 0, 0, 0]);
            packet.extend((rest.len() as u16).to_be_bytes());
            packet.extend([next, 64]);
            packet.extend(source);
            packet.extend(destination);
        } else {
            packet.extend([0x45, 0]);
            packet.extend((rest.len() as u16 + 20).to_be_bytes());
            packet.extend([0, identification]);
            packet.extend(part.to_be_bytes());
            packet.extend([64, protocol, 0, 0]);
            packet.extend(&source[12..]);
            packet.extend(&destination[12..]);
        }
        packet.extend(rest);
        // Contradictions.
        if deep && self.one_in(40) {
            let at = self.below(packet.len().min(44) as u64) as usize;
            packet[at] ^= self.next() as u8;
        }
        packet
    }

    fn frame(&mut self) -> Vec<u8> {
        let v6 = self.one_in(2);
        let ethertype = if v6 { [0x86, 0xdd] } else { [8, 0] };
        let mut frame = vec![0; 12];
        frame.extend(if self.one_in(50) { [8, 6] } else { ethertype });
        frame.extend(self.ip(v6, true));
        frame
    }
}

/// What must be equal of a connection: all but times.
fn essence(value: &ConnValue) -> impl PartialEq + std::fmt::Debug + use<> {
    let dirs = value.dirs.map(|dir| (dir.packets, dir.bytes));
    let policy = (value.verdict, value.revision, value.origin, value.peer_identity);
    (dirs, policy, value.client, value.state, value.tcp_flags, value.reuses)
}

fn compare(round: u64, native: &Native, connections: &Connections, policy: &PolicyTables) {
    let mut found: HashMap<ConnKey, ConnValue> = HashMap::new();
    connections
        .walk(&mut |key, value| {
            found.insert(*key, *value);
        })
        .unwrap();
    let expected = native.connections();
    assert_eq!(found.len(), expected.len(), "round {round}");
    for (key, value) in &expected {
        assert_eq!(essence(&found[key]), essence(value), "round {round}: {key:?}");
    }
    let mut denied = HashMap::new();
    policy
        .denied(&mut |key, value| {
            denied.insert(*key, *value);
        })
        .unwrap();
    let expected = native.denied.borrow();
    assert_eq!(denied.len(), expected.len(), "round {round}");
    for (key, value) in expected.iter() {
        let what = |value: &datapath_abi::policy::DeniedCounter| {
            let counts = (value.packets, value.bytes, value.attempts);
            (counts, value.peer_identity, value.source_port)
        };
        assert_eq!(what(&denied[key]), what(value), "round {round}: {key:?}");
    }
}

#[test]
fn kernel_and_native_agree() {
    let mut lab = Lab::new("oracle");
    lab.options.policy = Some(SIZES);
    lab.options.drops = false;
    let datapath = lab.open();
    let mut bench = Bench::open(&lab.options, Vec::new()).unwrap();
    let programs = [bench.program("enforce_ingress"), bench.program("enforce_egress")];
    let programs = programs.map(Result::unwrap);
    let (connections, policy) = (datapath.connections(), datapath.policy());
    let (mut refused, mut total) = (0, 0);
    let here = lab.here();
    std::thread::scope(|scope| {
        let run = scope.spawn(|| {
            enter(&here);
            for round in 0..ROUNDS {
                let mut random = Random(round);
                let mut native = Native::default();
                let base = round as u32 * 4;
                // Three sets of tables in one life of the connections.
                for part in 1..=3 {
                    // The same revision with other tables changes nothing for who has a verdict.
                    let revision = if random.one_in(3) { base + 1 } else { base + part };
                    native.tables.remove(&policy);
                    native.tables = random.tables(revision);
                    native.tables.apply(&policy);
                    for number in 0..PACKETS / 3 {
                        let bytes = random.frame();
                        let hook = if random.one_in(2) { INGRESS } else { EGRESS };
                        let frame = Frame {
                            ifindex: LOOPBACK,
                            hook,
                            length: bytes.len() as u32,
                            segments: 0,
                            link_header: 14,
                            ethertype: 0,
                            outer: 0,
                        };
                        let expected =
                            enforce(&Slice(&bytes), &native, &frame, &mut { Change::NONE });
                        let verdict = bench.verdict(&programs[hook as usize], &bytes).unwrap();
                        let fate = if verdict == SHOT { Fate::Refuse } else { Fate::Pass };
                        assert_eq!(
                            fate, expected,
                            "round {round}, part {part}, packet {number}, hook {hook}: {bytes:02x?}"
                        );
                        refused += u32::from(fate == Fate::Refuse);
                        total += 1;
                    }
                }
                compare(round, &native, &connections, &policy);
                let keys: Vec<_> = native.connections().into_keys().collect();
                connections.remove(&keys).unwrap();
                let denied: Vec<_> = native.denied.borrow().keys().copied().collect();
                policy.remove_denied(&denied).unwrap();
                native.tables.remove(&policy);
                forget_fragments(&lab);
            }
        });
        run.join().unwrap();
    });
    println!("{total} packets, {refused} refused");
    assert!(total >= 100_000 && refused > total / 10 && refused < total * 9 / 10);
    datapath.remove().unwrap();
}

/// The next round's fragments are others.
fn forget_fragments(lab: &Lab) {
    let path = lab.options.pin_dir.join("fragments");
    let dump = std::process::Command::new("bpftool")
        .args(["-j", "map", "dump", "pinned"])
        .arg(&path)
        .output()
        .expect("bpftool");
    let json: serde_json::Value = serde_json::from_slice(&dump.stdout).unwrap();
    for entry in json.as_array().unwrap() {
        let key = entry["key"].as_array().unwrap();
        let bytes: Vec<_> = key.iter().map(|byte| byte.as_str().unwrap().to_owned()).collect();
        let deleted = std::process::Command::new("bpftool")
            .args(["map", "delete", "pinned"])
            .arg(&path)
            .args(["key", "hex"])
            .args(bytes.iter().map(|byte| byte.trim_start_matches("0x")))
            .status()
            .unwrap();
        assert!(deleted.success());
    }
}
