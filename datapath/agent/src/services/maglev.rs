//! Maglev tables (Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016, 3.4).
//!
//! Every node fills the same table from the same backends, whatever their order: a permutation of the table belongs to a
//! backend's address and port alone.

use std::net::IpAddr;

use datapath_policy::octets;

/// Sizes that a table may have: primes.
pub const SIZES: [u32; 10] = [251, 509, 1021, 2039, 4093, 8191, 16381, 32749, 65521, 131_071];

/// The table: for every slot the index of a backend in `backends`, which are given with their weights. Backends of weight
/// 0 have no slot; `size` is one of [`SIZES`]. Empty without backends.
pub(crate) fn table(backends: &[((IpAddr, u16), u32)], size: u32, seed: u32) -> Vec<u32> {
    const FREE: u32 = u32::MAX;
    let mut order: Vec<usize> =
        (0..backends.len()).filter(|&index| backends[index].1 > 0).collect();
    if order.is_empty() || size < 2 {
        return Vec::new();
    }
    order.sort_unstable_by_key(|&index| backends[index].0);
    let most = order.iter().map(|&index| backends[index].1).max().unwrap_or(1);
    // Of each backend: offset and skip of its permutation, how far it is in it, and its share of turns so far.
    let mut turns: Vec<(u64, u64, u64, u64)> = order
        .iter()
        .map(|&index| {
            let hash = hash(backends[index].0, seed);
            let size = u64::from(size);
            (hash % size, (hash >> 32) % (size - 1) + 1, 0, 0)
        })
        .collect();
    let mut slots = vec![FREE; size as usize];
    let mut filled = 0;
    loop {
        for (turn, &index) in turns.iter_mut().zip(&order) {
            // A backend takes its turn as often as its weight is of the largest one.
            turn.3 += u64::from(backends[index].1);
            if turn.3 < u64::from(most) {
                continue;
            }
            turn.3 -= u64::from(most);
            loop {
                let slot = ((turn.0 + turn.2 * turn.1) % u64::from(size)) as usize;
                turn.2 += 1;
                if let Some(place @ &mut FREE) = slots.get_mut(slot) {
                    *place = index as u32;
                    break;
                }
            }
            filled += 1;
            if filled == size {
                return slots;
            }
        }
    }
}

fn hash((ip, port): (IpAddr, u16), seed: u32) -> u64 {
    let address = u128::from_be_bytes(octets(ip));
    let [mut hash, rest] = [(address >> 64) as u64, address as u64];
    hash = mix(hash ^ u64::from(seed) << 16 ^ u64::from(port));
    mix(hash ^ rest)
}

/// The finalizer of SplitMix64 (Steele, Lea, Flood 2014).
fn mix(number: u64) -> u64 {
    let number = (number ^ number >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ number >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ number >> 31
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn backends(count: u16) -> Vec<((IpAddr, u16), u32)> {
        (0..count)
            .map(|number| ((IpAddr::from([10, 0, (number >> 8) as u8, number as u8]), 80), 1))
            .collect()
    }

    fn counts(table: &[u32], backends: usize) -> Vec<u32> {
        let mut counts = vec![0; backends];
        table.iter().for_each(|&index| counts[index as usize] += 1);
        counts
    }

    #[test]
    fn shares_are_even_and_follow_weights() {
        for size in SIZES {
            let all = backends(10);
            let counts = counts(&table(&all, size, 1), 10);
            let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
            // The turns go round: shares differ by one slot at most.
            assert!(most - least <= 1, "{size}: {counts:?}");
        }
        let mut weighted = backends(3);
        (weighted[0].1, weighted[1].1, weighted[2].1) = (3, 1, 0);
        let counts = counts(&table(&weighted, 1021, 1), 3);
        assert_eq!(counts[2], 0);
        assert!((764..=768).contains(&counts[0]), "{counts:?}");
        assert!(table(&[], 1021, 1).is_empty());
    }

    fn weights(list: &[u32]) -> Vec<((IpAddr, u16), u32)> {
        let all = backends(list.len() as u16);
        all.into_iter().zip(list).map(|((at, _), weight)| (at, *weight)).collect()
    }

    proptest! {
        /// Turns go round: each has its part of them, and at most one more or less for each that rounds.
        #[test]
        fn shares_are_those_of_weights(
            list in prop::collection::vec(0u32..=100, 1..60),
            size in prop::sample::select(&SIZES[..6]),
            seed: u32,
        ) {
            let sum: u32 = list.iter().sum();
            let counts = counts(&table(&weights(&list), size, seed), list.len());
            prop_assert_eq!(counts.iter().sum::<u32>(), if sum == 0 { 0 } else { size });
            for (weight, count) in list.iter().zip(&counts).filter(|_| sum != 0) {
                let part = f64::from(*weight) / f64::from(sum);
                let error = (f64::from(*count) - part * f64::from(size)).abs();
                prop_assert!(error <= 1.0 + part * list.len() as f64, "{weight} of {sum}: {count}");
            }
        }
    }

    /// As without weights: beside the slots of the one that leaves, or that a new weight moves, few change.
    #[test]
    fn one_leaves_or_weighs_less_and_few_move() {
        let list: Vec<u32> = (0..50).map(|number| 100 - number % 4 * 25).collect();
        let all = weights(&list);
        let before = table(&all, 8191, 1);
        let [mut left, mut lighter] = [0.0f64; 2];
        for (gone, weight) in list.iter().enumerate() {
            for (worst, new) in [(&mut left, 0), (&mut lighter, weight / 2)] {
                let mut others = all.clone();
                others[gone].1 = new;
                let after = table(&others, 8191, 1);
                let moved = before.iter().zip(&after);
                let moved = moved.filter(|(was, is)| **was as usize != gone && was != is).count();
                *worst = worst.max(moved as f64 / 8191.0);
            }
        }
        assert!(left < 0.08 && lighter < 0.08, "{left} {lighter}");
        println!("{:.2} % and {:.2} % moved besides", left * 100.0, lighter * 100.0);
    }

    #[test]
    fn order_does_not_matter() {
        let all = backends(7);
        let mut turned = all.clone();
        turned.reverse();
        let at = |list: &[((IpAddr, u16), u32)], table: &[u32]| {
            table.iter().map(|&index| list[index as usize].0).collect::<Vec<_>>()
        };
        assert_eq!(at(&all, &table(&all, 1021, 5)), at(&turned, &table(&turned, 1021, 5)));
        assert_ne!(table(&all, 1021, 5), table(&all, 1021, 6));
    }

    /// Beside the slots of the one that leaves, few change: the paper (5.3) has below 2 % of further ones for tables a
    /// hundred times as large as the number of backends.
    #[test]
    fn one_leaves_and_few_move() {
        for (count, size) in [(10u16, 1021u32), (100, 16381), (50, 8191)] {
            let all = backends(count);
            let before = table(&all, size, 1);
            let mut worst = 0.0f64;
            for gone in 0..usize::from(count).min(20) {
                let mut rest = all.clone();
                rest.remove(gone);
                let after = table(&rest, size, 1);
                let moved = before.iter().zip(&after).filter(|(was, is)| {
                    let was = **was as usize;
                    was != gone && all[was].0 != rest[**is as usize].0
                });
                worst = worst.max(moved.count() as f64 / f64::from(size));
            }
            assert!(worst < 0.08, "{count} backends, {size} slots: {worst}");
            println!(
                "{count} backends, {size} slots: at most {:.2} % moved besides",
                worst * 100.0
            );
        }
    }
}
