//! Automatic weights from rates.

/// A weight that differs by no more than this from the one in force stays, parts per hundred: each change moves flows.
const HYSTERESIS: u64 = 20;
/// Weight of paths as long as the rate of none is known.
const UNKNOWN: u32 = 10_000;

/// What is known of the rate of one path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PathRate {
    /// Its limit, kbit/s; 0: none is known.
    pub rate_kbps: u32,
    /// The most that was delivered over it, kbit/s.
    pub most_delivered_kbps: u32,
}

/// The automatic weights of a peer's paths: their rates, kbit/s.
///
/// A path whose limit is unknown has the mean of the known ones, or what it was seen to deliver if that is more. While
/// no limit is known, all weigh the same: what was delivered says more of the traffic than of the paths. `in_force` has
/// the weights of now, in the same order (0 or missing: none yet); one that would change by up to 20 % stays.
pub fn weights(paths: &[PathRate], in_force: &[u32]) -> Vec<u32> {
    let known: Vec<u64> = paths.iter().map(|path| u64::from(path.rate_kbps)).filter(|&rate| rate > 0).collect();
    let mean = known.iter().sum::<u64>().checked_div(known.len() as u64);
    let old = in_force.iter().copied().chain(std::iter::repeat(0));
    paths
        .iter()
        .zip(old)
        .map(|(path, old)| {
            let new = match (path.rate_kbps, mean) {
                (0, None) => UNKNOWN,
                (0, Some(mean)) => path.most_delivered_kbps.max(mean as u32),
                (rate, _) => rate,
            };
            let distance = u64::from(new.abs_diff(old));
            if old > 0 && distance * 100 <= HYSTERESIS * u64::from(old) { old } else { new }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(rate_kbps: u32, most_delivered_kbps: u32) -> PathRate {
        PathRate { rate_kbps, most_delivered_kbps }
    }

    #[test]
    fn follows_what_is_known() {
        assert_eq!(weights(&[path(0, 0), path(0, 90_000)], &[]), [UNKNOWN, UNKNOWN]);
        assert_eq!(weights(&[path(8_000, 0), path(4_000, 9_000), path(0, 500)], &[]), [8_000, 4_000, 6_000]);
        assert_eq!(weights(&[path(8_000, 0), path(0, 300_000)], &[]), [8_000, 300_000]);
    }

    #[test]
    fn small_changes_move_nothing() {
        let paths = [path(8_000, 0), path(5_000, 0)];
        assert_eq!(weights(&paths, &[9_900, 4_200]), [9_900, 4_200]);
        assert_eq!(weights(&paths, &[10_100, 4_100]), [8_000, 5_000]);
    }
}
