//! How long packets take by a path that need not wait on it.
//!
//! A transit time is the receiver's clock at arrival minus the sender's at departure, microseconds, wrapping: only
//! differences between the paths of two gateways mean anything, and only of one time, because clocks drift apart.

use std::{collections::VecDeque, time::Duration};

/// How long one minimum is gathered.
const STEP: Duration = Duration::from_secs(1);
/// Minima that are kept: ten seconds, within which a busy path is met without a queue, and in which clocks that drift
/// apart by 100 parts per million hide a millisecond.
const STEPS: usize = 10;
/// When the newest of them so many
const SHIFTED_STEPS: usize = 3;
/// all lie so far above the least, microseconds, the route has become longer.
const SHIFT_US: i32 = 30_000;
/// The peer's clock jumps when it is booted; this is more than any transit time changes by, microseconds.
const JUMP_US: i32 = 1 << 26;
/// Samples that a minimum means something from.
const ENOUGH: u32 = 8;

/// The least transit time of a path's last ten seconds.
#[derive(Clone, Debug, Default)]
pub struct TransitFloor {
    /// When each step began and the least of it, oldest first.
    steps: VecDeque<(Duration, u32)>,
    samples: u32,
}

impl TransitFloor {
    /// Takes a packet into account that came now.
    pub fn sample(&mut self, now: Duration, transit_us: u32) {
        self.steps.retain(|(begun_at, _)| now < *begun_at + STEP * STEPS as u32);
        let jump = self.steps.back().map(|(_, last_us)| later_by(transit_us, *last_us));
        if jump.is_none_or(|jump| jump.abs() > JUMP_US) {
            self.steps.clear();
            self.samples = 0;
        }
        self.samples = self.samples.saturating_add(1);
        match self.steps.back_mut() {
            Some((begun_at, least_us)) if now < *begun_at + STEP => {
                if later_by(transit_us, *least_us) < 0 {
                    *least_us = transit_us;
                }
            }
            _ => self.steps.push_back((now, transit_us)),
        }
        let newest = self.steps.len().saturating_sub(SHIFTED_STEPS);
        let least_since = |from: usize| least(self.steps.range(from..).map(|(_, least_us)| *least_us));
        if newest > 0
            && let (Some(lately_us), Some(least_us)) = (least_since(newest), least_since(0))
            && later_by(lately_us, least_us) > SHIFT_US
        {
            self.steps.drain(..newest);
        }
    }

    /// The least transit time; `None` while there are too few samples, or none that are new.
    pub fn get(&self, now: Duration) -> Option<u32> {
        let is_silent = self.steps.back().is_none_or(|(begun_at, _)| now >= *begun_at + STEP * STEPS as u32);
        if is_silent || self.samples < ENOUGH {
            return None;
        }
        least(self.steps.iter().map(|(_, least_us)| *least_us))
    }
}

/// By how much a transit time, or a point in time, is larger than another one: microseconds, less than half an hour.
pub const fn later_by(time_us: u32, than_us: u32) -> i32 {
    time_us.wrapping_sub(than_us).cast_signed()
}

/// The least of transit times that lie close together.
pub fn least(times_us: impl Iterator<Item = u32>) -> Option<u32> {
    times_us.reduce(|least_us, time_us| if later_by(time_us, least_us) < 0 { time_us } else { least_us })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TICK: Duration = Duration::from_millis(20);

    #[test]
    fn a_queue_is_not_the_floor() {
        let mut floor = TransitFloor::default();
        for tick in 0..1000u32 {
            // A queue of half a second of the ten, several times.
            let queue_us = if tick % 100 < 80 { 150_000 } else { 0 };
            floor.sample(TICK * tick, (u32::MAX - 5_000).wrapping_add(10_000 + queue_us));
            if tick > 120 {
                assert_eq!(floor.get(TICK * tick), Some(4_999), "{tick}");
            }
        }
    }

    #[test]
    fn a_longer_route_is_believed_after_three_seconds() {
        let mut floor = TransitFloor::default();
        for tick in 0..1000u32 {
            floor.sample(TICK * tick, if tick < 500 { 10_000 } else { 110_000 });
            let expected = if tick < 500 { 10_000 } else { 110_000 };
            // Two seconds of it are no route, four are.
            match tick {
                ..7 => assert_eq!(floor.get(TICK * tick), None),
                7..600 => assert_eq!(floor.get(TICK * tick), Some(10_000), "{tick}"),
                700.. => assert_eq!(floor.get(TICK * tick), Some(expected), "{tick}"),
                _ => {}
            }
        }
    }

    #[test]
    fn silence_and_another_clock_begin_anew() {
        let mut floor = TransitFloor::default();
        for tick in 0..100 {
            floor.sample(TICK * tick, 10_000);
        }
        assert_eq!(floor.get(TICK * 100), Some(10_000));
        assert_eq!(floor.get(TICK * 100 + STEP * 10), None);
        floor.sample(TICK * 101, 3_000_000_000);
        assert_eq!(floor.get(TICK * 101), None);
        for tick in 102..110 {
            floor.sample(TICK * tick, 3_000_000_000 - tick);
        }
        assert_eq!(floor.get(TICK * 110), Some(3_000_000_000 - 109));
    }

    proptest! {
        /// The least of the kept steps, as far as no route became longer.
        #[test]
        fn it_is_the_least(offset: u32, delays in prop::collection::vec(0..30_000u32, 8..2000)) {
            let mut floor = TransitFloor::default();
            for (tick, delay) in delays.iter().enumerate() {
                floor.sample(TICK * tick as u32, offset.wrapping_add(*delay));
            }
            let per_step = 50;
            let steps = delays.len().div_ceil(per_step);
            let first = steps.saturating_sub(STEPS) * per_step;
            let expected = delays[first..].iter().min().map(|least| offset.wrapping_add(*least));
            prop_assert_eq!(floor.get(TICK * delays.len() as u32), expected);
        }

        #[test]
        fn nothing_overflows(samples in prop::collection::vec((any::<u32>(), any::<u32>()), 0..200)) {
            let mut floor = TransitFloor::default();
            for (at, transit_us) in samples {
                let now = Duration::from_millis(at.into());
                floor.sample(now, transit_us);
                floor.get(now);
                prop_assert!(floor.steps.len() <= STEPS + 1);
            }
        }
    }
}
