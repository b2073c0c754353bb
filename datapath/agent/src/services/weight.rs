//! Weights of backends: which part of new connections each gets.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use crate::control::{Endpoint, Snapshot};

/// Most slots that weighted backends have where they are chosen by chance, unless there are so many of them that each
/// needs some.
const SLOTS: u64 = 4096;
/// And then so many for each.
const FOR_EACH: u64 = 16;

/// What pods say of themselves, by namespace and address.
#[derive(Debug, Default)]
pub(super) struct PodWeights<'a>(HashMap<(&'a str, IpAddr), u8>);

// === impl PodWeights ===

impl<'a> PodWeights<'a> {
    pub(super) fn new(snapshot: &'a Snapshot) -> Self {
        let mut found = HashMap::new();
        for pod in snapshot.pods.iter().filter(|pod| pod.is_endpoint()) {
            let Some(weight) = pod.weight else { continue };
            found.extend(pod.ips.iter().map(|ip| ((pod.namespace.as_str(), *ip), weight)));
        }
        Self(found)
    }

    /// A pod's word counts before that of its slice.
    pub(super) fn apply(
        &self,
        namespace: &'a str,
        endpoints: &mut BTreeMap<(IpAddr, u16), Endpoint>,
    ) {
        if self.0.is_empty() {
            return;
        }
        for ((ip, _), endpoint) in endpoints {
            if let Some(weight) = self.0.get(&(namespace, *ip)) {
                endpoint.weight = *weight;
            }
        }
    }
}

/// Slots for each of these weights, as few as have their proportions; where that takes too many, as near to them as
/// [`SLOTS`] allow. Each has at least one, but for those of weight 0.
pub(super) fn shares(weights: &[u32]) -> Vec<u32> {
    let divisor = weights.iter().copied().reduce(gcd).unwrap_or(0).max(1);
    let sum: u64 = weights.iter().map(|weight| u64::from(weight / divisor)).sum();
    let room = SLOTS.max(FOR_EACH * weights.len() as u64);
    if sum <= room {
        return weights.iter().map(|weight| weight / divisor).collect();
    }
    // Largest remainders.
    let part = |weight: u32| u64::from(weight / divisor) * room;
    let mut shares: Vec<u32> = weights.iter().map(|weight| (part(*weight) / sum) as u32).collect();
    let mut order: Vec<usize> = (0..weights.len()).collect();
    order.sort_by_key(|&index| std::cmp::Reverse(part(weights[index]) % sum));
    let left = room - shares.iter().map(|share| u64::from(*share)).sum::<u64>();
    order.iter().take(left as usize).for_each(|&index| shares[index] += 1);
    for (share, weight) in shares.iter_mut().zip(weights) {
        *share = (*share).max((*weight).min(1));
    }
    shares
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn as_few_slots_as_will_do() {
        assert_eq!(shares(&[100, 100, 100]), [1, 1, 1]);
        assert_eq!(shares(&[100, 50, 0]), [2, 1, 0]);
        assert_eq!(shares(&[0, 0]), [0, 0]);
        assert_eq!(shares(&[100, 99]), [100, 99]);
        assert!(shares(&[]).is_empty());
    }

    proptest! {
        #[test]
        fn shares_follow_weights(weights in prop::collection::vec(0u32..=100, 1..400)) {
            let shares = shares(&weights);
            let [sum, total] = [&weights, &shares].map(|of| of.iter().map(|n| u64::from(*n)).sum::<u64>());
            let room = SLOTS.max(FOR_EACH * weights.len() as u64);
            prop_assert!(total <= room + weights.len() as u64);
            for (weight, share) in weights.iter().zip(&shares) {
                prop_assert_eq!(*weight == 0, *share == 0);
                let [weight, share] = [*weight, *share].map(u64::from);
                // Of each slot's worth, for rounding, and for those that have one slot whatever their weight.
                let error = (share * sum).abs_diff(weight * total);
                prop_assert!(error <= 2 * sum, "{weight} of {sum}: {share} of {total}");
            }
        }
    }
}
