//! Numbers for peers and paths. They are keys in maps that outlive the daemon, so they stay what they were as long as
//! the peer or path is still configured, and are given to others only when nothing else is free.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;

/// Gives every wanted item a number below `limit`: the one that it had, else the lowest that nobody had or has, else
/// the lowest that is free now. `None` for those that find no room.
pub fn assign<T: Eq + Hash>(wanted: &[T], had: &[(u32, T)], limit: u32) -> Vec<Option<u32>> {
    let old: HashSet<u32> = had.iter().map(|(number, _)| *number).collect();
    let had: HashMap<&T, u32> =
        had.iter().filter(|(number, _)| *number < limit).map(|(number, item)| (item, *number)).collect();
    let mut numbers: Vec<Option<u32>> = wanted.iter().map(|item| had.get(item).copied()).collect();
    let given: HashSet<u32> = numbers.iter().flatten().copied().collect();
    let free = || (0..limit).filter(|number| !given.contains(number));
    let never_had = free().filter(|number| !old.contains(number));
    let mut rest = never_had.chain(free().filter(|number| old.contains(number)));
    for number in numbers.iter_mut().filter(|number| number.is_none()) {
        *number = rest.next();
    }
    numbers
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_stay() {
        let had = [(0, 'a'), (1, 'b'), (2, 'c')];
        assert_eq!(assign(&['c', 'd', 'a'], &had, 4), [Some(2), Some(3), Some(0)]);
        assert_eq!(assign(&['d', 'e'], &had, 3), [Some(0), Some(1)]);
        assert_eq!(assign(&['a', 'b'], &[], 1), [Some(0), None]);
    }

    proptest! {
        #[test]
        fn no_number_is_given_twice(wanted in prop::collection::hash_set(0u8..30, 0..20), had in prop::collection::hash_map(0u32..20, 0u8..30, 0..10)) {
            let wanted: Vec<u8> = wanted.into_iter().collect();
            let mut had: Vec<(u32, u8)> = had.into_iter().collect();
            had.sort_by_key(|&(_, item)| item);
            had.dedup_by_key(|&mut (_, item)| item);
            let numbers = assign(&wanted, &had, 16);
            let mut given: Vec<u32> = numbers.iter().flatten().copied().collect();
            let count = given.len();
            given.sort_unstable();
            given.dedup();
            prop_assert_eq!(given.len(), count);
            prop_assert_eq!(count, wanted.len().min(16));
        }
    }
}
