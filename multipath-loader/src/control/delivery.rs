//! What a path delivers in a second.

use std::{collections::VecDeque, time::Duration};

/// The time that a rate is taken over.
const SPAN: Duration = Duration::from_secs(1);
/// Counters are remembered so often.
const STEP: Duration = Duration::from_millis(100);
/// Without newer counters for so long nothing is known: longer than a metered path is silent.
const STALE: Duration = Duration::from_secs(11);

/// The delivery rate of one direction, from a running counter of bytes.
#[derive(Clone, Debug, Default)]
pub struct Delivery {
    /// When there were how many, oldest first.
    counts: VecDeque<(Duration, u64)>,
    /// The receiver's clock at the last count, microseconds, wrapping, and the same as a time that does not wrap.
    clock: (u32, Duration),
}

impl Delivery {
    /// Takes a counter into account that stood there at this time.
    pub fn count(&mut self, at: Duration, bytes: u64) {
        match self.counts.back() {
            Some((last, before)) if at < *last || bytes < *before => self.counts.clear(),
            Some((last, _)) if at < *last + STEP => return,
            _ => {}
        }
        self.counts.push_back((at, bytes));
        while self.counts.get(1).is_some_and(|(second, _)| at >= *second + SPAN) {
            self.counts.pop_front();
        }
    }

    /// The same by the clock of another machine, microseconds, wrapping. Not to be mixed with [`Delivery::count`].
    pub fn count_at(&mut self, clock_us: u32, bytes: u64) {
        let (before, time) = self.clock;
        let step = clock_us.wrapping_sub(before);
        // Half the range back is an answer that was overtaken, or another clock.
        if step > u32::MAX / 2 && !self.counts.is_empty() {
            self.counts.clear();
        }
        let time = time + Duration::from_micros(step.into());
        self.clock = (clock_us, time);
        self.count(time, bytes);
    }

    /// Bytes that were delivered in a second, as kbit/s. `silent_for`: for how long no counter has come.
    pub fn kbps(&self, silent_for: Duration) -> u32 {
        let (Some((first, before)), Some((last, bytes))) = (self.counts.front(), self.counts.back()) else { return 0 };
        let millis = last.saturating_sub(*first).as_millis();
        if millis == 0 || silent_for > STALE {
            return 0;
        }
        u32::try_from(u128::from(bytes - before) * 8 / millis).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_constant_rate_is_found_over_a_wrap() {
        let mut delivery = Delivery::default();
        let mut clock = u32::MAX - 300_000;
        for step in 0..200u64 {
            // 1,250 bytes in 1 ms: 10 Mbit/s.
            delivery.count_at(clock, step * 25_000);
            clock = clock.wrapping_add(20_000);
            if step > 20 {
                assert_eq!(delivery.kbps(Duration::ZERO), 10_000);
            }
        }
        assert_eq!(delivery.kbps(STALE * 2), 0);
    }

    #[test]
    fn a_change_shows_after_a_second() {
        let mut delivery = Delivery::default();
        let mut bytes = 0;
        for step in 0..200u32 {
            delivery.count(Duration::from_millis(20) * step, bytes);
            bytes += if step < 100 { 25_000 } else { 2_500 };
        }
        assert_eq!(delivery.kbps(Duration::ZERO), 1_000);
        assert!(delivery.counts.len() < 15);
    }

    proptest! {
        #[test]
        fn nothing_overflows(counts in prop::collection::vec(any::<(u32, u64)>(), 0..50)) {
            let mut delivery = Delivery::default();
            for (clock, bytes) in counts {
                delivery.count_at(clock, bytes);
                delivery.kbps(Duration::ZERO);
            }
        }
    }
}
