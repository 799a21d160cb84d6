//! Path choice by hash: weighted rendezvous hashing.
//!
//! Each path draws a number from the hash of flow and path id, scaled by its weight, and the smallest draw wins
//! (Schindelhauer and Schomaker, "Weighted Distributed Hash Tables", the logarithmic method: -ln(u)/w is
//! exponentially distributed with rate w, and the smallest of such draws is path i's with probability `w_i` / sum).
//! A draw depends on its own path alone. So a path that appears or gains weight can only win flows, one that
//! disappears or loses weight can only lose some, and no flow ever moves between two other paths.

use crate::maps::FlowKey;

/// Odd constants with well spread bits (from the fractional part of the golden ratio, and of pi).
const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;
const SECOND_MULTIPLIER: u64 = 0xc2b2_ae3d_27d4_eb4f;

#[inline(always)]
const fn mix(state: u64, word: u64) -> u64 {
    let mixed = (state ^ word).wrapping_mul(MULTIPLIER);
    mixed ^ (mixed >> 32)
}

/// Spreads every input bit over all output bits (the finaliser of `MurmurHash3` with other constants).
#[inline(always)]
const fn finish(state: u64) -> u64 {
    let state = (state ^ (state >> 33)).wrapping_mul(SECOND_MULTIPLIER);
    let state = (state ^ (state >> 29)).wrapping_mul(MULTIPLIER);
    state ^ (state >> 32)
}

/// The hash of a flow.
#[inline(always)]
pub const fn flow_hash(key: &FlowKey) -> u64 {
    let mut hash = mix(SECOND_MULTIPLIER, key.ports as u64 | ((key.protocol as u64) << 32));
    let mut i = 0;
    while i < 4 {
        hash = mix(hash, key.source[i] as u64 | ((key.destination[i] as u64) << 32));
        i += 1;
    }
    finish(hash)
}

/// Bits after the binary point of [`negative_log2`].
const LOG_FRACTION_BITS: u32 = 24;

/// -log2((u + 1) / 2^32) in units of 2^-24, within 2^-13.
///
/// The mantissa's logarithm is a polynomial of degree five (least squares over [0, 1), ends pinned to 0 and 1).
#[expect(clippy::manual_ilog2, reason = "ilog2 looks for a zero that cannot be; its panic would not load as BPF")]
#[inline(always)]
const fn negative_log2(u: u32) -> u64 {
    const ONE: i64 = 1 << 30;
    // log2(1 + f) = f + f * (1 - f) * (A + f * (B + f * (C + f * D))), coefficients in units of 2^-30.
    const A: i64 = 474_315_039;
    const B: i64 = -285_647_405;
    const C: i64 = 157_103_825;
    const D: i64 = -47_249_676;
    let value = u as u64 + 1;
    let exponent = 63 - value.leading_zeros();
    let fraction = (value << 30 >> exponent).cast_signed() & (ONE - 1);
    let inner = C + ((fraction * D) >> 30);
    let inner = B + ((fraction * inner) >> 30);
    let inner = A + ((fraction * inner) >> 30);
    let log = fraction + ((fraction * (((ONE - fraction) * inner) >> 30)) >> 30);
    let total = ((exponent as i64) << 30) + log;
    ((32 << 30) - total).cast_unsigned() >> (30 - LOG_FRACTION_BITS)
}

/// The choice of one path for one flow: offer every path that may be used, then ask for the winner.
#[derive(Clone, Copy, Debug)]
pub struct Rendezvous {
    hash: u64,
    /// Draw of the best path so far; at most 2^29.
    pub draw: u64,
    /// Weight of the best path so far; 0 while there is none.
    pub weight: u32,
    /// Id of the best path so far.
    pub path: u8,
}

impl Rendezvous {
    /// A choice for the flow with this [`flow_hash`].
    #[inline(always)]
    pub const fn new(hash: u64) -> Self {
        Self { hash, draw: 0, weight: 0, path: 0 }
    }

    /// Offers a path. A weight of 0 never wins.
    #[inline(always)]
    pub const fn offer(&mut self, path: u8, weight: u32) {
        let draw = negative_log2((finish(self.hash ^ (path as u64 + 1).wrapping_mul(SECOND_MULTIPLIER)) >> 32) as u32);
        // draw / weight < best draw / best weight, without division: a draw is at most 2^29, a weight below 2^32.
        if weight != 0 && (self.weight == 0 || draw * (self.weight as u64) < self.draw * weight as u64) {
            self.draw = draw;
            self.weight = weight;
            self.path = path;
        }
    }

    /// The path that won; `None` when none could.
    #[inline(always)]
    pub const fn winner(&self) -> Option<u8> {
        if self.weight == 0 { None } else { Some(self.path) }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::{vec, vec::Vec};

    use proptest::prelude::*;

    use super::*;

    fn flow(number: u32) -> FlowKey {
        FlowKey {
            source: crate::maps::map_ipv4((0x0a00_0000 + number / 7).to_be()),
            destination: crate::maps::map_ipv4(0x0a62_0202_u32.to_be()),
            ports: (number << 16 | 0x1451).to_be(),
            protocol: 6,
        }
    }

    fn choose(hash: u64, weights: &[u32]) -> Option<u8> {
        let mut choice = Rendezvous::new(hash);
        for (path, &weight) in weights.iter().enumerate() {
            choice.offer(path as u8, weight);
        }
        choice.winner()
    }

    #[expect(clippy::cast_precision_loss, reason = "a logarithm is at most 2^29")]
    #[test]
    fn the_logarithm_is_close() {
        for u in (0..=u32::MAX).step_by(65_537).chain([0, 1, 2, u32::MAX - 1, u32::MAX]) {
            let exact = 32.0 - (f64::from(u) + 1.0).log2();
            let fixed = negative_log2(u) as f64 / f64::from(1 << LOG_FRACTION_BITS);
            assert!((exact - fixed).abs() < 1.0 / 8192.0, "{u}: {exact} {fixed}");
        }
    }

    fn worst_deviation(weights: &[u32]) -> f64 {
        const FLOWS: u32 = 10_000;
        let mut counts = vec![0_u32; weights.len()];
        for number in 0..FLOWS {
            counts[usize::from(choose(flow_hash(&flow(number)), weights).unwrap())] += 1;
        }
        let total: f64 = weights.iter().map(|&weight| f64::from(weight)).sum();
        counts
            .iter()
            .zip(weights)
            .map(|(&count, &weight)| (f64::from(count) / f64::from(FLOWS) - f64::from(weight) / total).abs())
            .fold(0.0, f64::max)
    }

    #[test]
    fn ten_thousand_flows_follow_the_weights_within_two_percent() {
        for weights in
            [&[1, 1][..], &[8, 3, 10], &[30, 70], &[1, 99], &[1; 16], &[1_000_000, 1, 500_000], &[5, 5, 0, 90]]
        {
            let deviation = worst_deviation(weights);
            assert!(deviation < 0.02, "{weights:?}: {deviation}");
        }
    }

    proptest! {
        #[test]
        fn random_weights_are_followed(weights in prop::collection::vec(1u32..1000, 2..16)) {
            prop_assert!(worst_deviation(&weights) < 0.02);
        }

        /// One weight changes (to 0: the path is lost): flows move only to it when it gains, only from it when it
        /// loses.
        #[test]
        fn only_the_flows_that_must_move(
            weights in prop::collection::vec(0u32..1_000_000, 1..16), changed: prop::sample::Index, new in 0u32..1_000_000, hashes in prop::collection::vec(any::<u64>(), 300)
        ) {
            let changed = changed.index(weights.len());
            let mut after = weights.clone();
            after[changed] = new;
            for hash in hashes {
                let (from, to) = (choose(hash, &weights), choose(hash, &after));
                if from != to {
                    let path = Some(changed as u8);
                    if new > weights[changed] { prop_assert_eq!(to, path) } else { prop_assert_eq!(from, path) }
                }
            }
        }

        #[test]
        fn the_order_of_offers_does_not_matter(weights in prop::collection::vec(1u32..1000, 1..16), hash: u64) {
            let mut backwards = Rendezvous::new(hash);
            for (path, &weight) in weights.iter().enumerate().rev() {
                backwards.offer(path as u8, weight);
            }
            prop_assert_eq!(backwards.winner(), choose(hash, &weights));
        }
    }

    #[test]
    fn neighbouring_flows_spread() {
        let hashes: Vec<u64> = (0..1000).map(|number| flow_hash(&flow(number))).collect();
        let ones: u32 = hashes.iter().map(|hash| hash.count_ones()).sum();
        assert!((31_000..33_000).contains(&ones), "{ones}");
    }
}
