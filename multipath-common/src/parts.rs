//! Inner packets that no path carries whole travel in two parts, under two counters that follow each other.

use crate::maps::MAX_PART_LEN;

/// Bytes of the first part of an inner packet of `len` bytes, when a path carries `max` bytes whole; `None` when two
/// parts are not enough.
///
/// Halves of the same size, the first a multiple of eight, so that both carry as little as possible.
#[inline(always)]
pub const fn split(len: u32, max: u32) -> Option<u32> {
    let max = if max < MAX_PART_LEN as u32 { max } else { MAX_PART_LEN as u32 };
    let first = len.div_ceil(16) * 8;
    if first > max || first >= len { None } else { Some(first) }
}

/// The largest inner packet that [`split`] accepts for paths that carry `max` bytes whole.
pub const fn largest(max: u32) -> u32 {
    let max = if max < MAX_PART_LEN as u32 { max } else { MAX_PART_LEN as u32 };
    max / 8 * 16
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn both_parts_fit(len in 0u32..10_000, max in 0u32..3000) {
            let limit = max.min(MAX_PART_LEN as u32);
            match split(len, max) {
                Some(first) => prop_assert!(first <= limit && len - first <= first && first < len),
                None => prop_assert!(len > largest(max) || len <= 8),
            }
        }
    }

    #[test]
    fn an_mtu_of_1280_always_fits_two_parts_of_the_smallest_path() {
        // A path of 1,280 bytes (the least that IPv6 allows) carries 1,280 - 84 bytes whole.
        assert!(largest(1280 - crate::wire::OVERHEAD_IPV6 as u32) >= 1500);
        assert_eq!(split(1500, 1196), Some(752));
    }
}
