//! What is asked of all of a peer's paths together, so that it is known when the nearer of them carry it alone.
//!
//! A flow that does not fill the nearer paths is held up by something else: by its source, or by the round trip, because
//! its window is small or it has to win it back after each loss. A farther path brings such a flow nothing, and makes the
//! round trip longer. So what was sent in each of the last seconds is compared with what the nearer paths carry.

use std::{collections::VecDeque, time::Duration};

use super::delivery::Delivery;

/// For so long it must have been the same: longer than a flow takes to begin, or stands still after a loss.
const SPAN: Duration = Duration::from_secs(3);
/// Rates are remembered so often.
const STEP: Duration = Duration::from_millis(250);

/// What paths carry is enough when less than so many parts per hundred of it was asked for in each second,
const ENOUGH: u64 = 80;
/// and is not any more when more than so many were.
const FULL: u64 = 90;
/// Less than this in some second, in parts per hundred, is a flow that begins, or none that paths are chosen for.
const IDLE: u64 = 10;

/// What was sent by all paths, each packet counted once.
#[derive(Clone, Debug, Default)]
pub struct Demand {
    sent: Delivery,
    /// How much it was in a second, kbit/s, and when that was; oldest first.
    rates: VecDeque<(Duration, u64)>,
}

impl Demand {
    /// Takes a counter of bytes into account that stands there now.
    pub fn count(&mut self, now: Duration, bytes: u64) {
        self.sent.count(now, bytes);
        if self.rates.back().is_some_and(|(last, _)| now < *last + STEP) {
            return;
        }
        self.rates.push_back((now, self.sent.kbps(Duration::ZERO).into()));
        while self.rates.get(1).is_some_and(|(second, _)| now >= *second + SPAN) {
            self.rates.pop_front();
        }
    }

    /// Begins anew.
    pub fn forget(&mut self) {
        *self = Self::default();
    }

    /// Whether paths that carry `kbps` together are enough. `was_enough`: whether they were, as far as was known.
    pub fn is_met_by(&self, kbps: u64, was_enough: bool) -> bool {
        let (Some((oldest, _)), Some((newest, _))) = (self.rates.front(), self.rates.back()) else { return was_enough };
        if *newest < *oldest + SPAN {
            return was_enough;
        }
        let rates = || self.rates.iter().map(|(_, kbps)| kbps * 100);
        let (least, most) = (rates().min().unwrap_or_default(), rates().max().unwrap_or_default());
        let idle = kbps * IDLE;
        if was_enough { most >= idle && least < kbps * FULL } else { least >= idle && most < kbps * ENOUGH }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICK: Duration = Duration::from_millis(80);

    /// What is known after rates in kbit/s, each sent for so many seconds.
    fn after(phases: &[(u64, u64)]) -> Demand {
        let (mut demand, mut now, mut bytes) = (Demand::default(), Duration::ZERO, 1_000);
        for (kbps, seconds) in phases {
            let end = now + Duration::from_secs(*seconds);
            while now < end {
                demand.count(now, bytes);
                bytes += kbps * TICK.as_millis() as u64 / 8;
                now += TICK;
            }
        }
        demand
    }

    #[test]
    fn paths_are_enough_when_no_second_was_more() {
        let is_met = |phases: &[(u64, u64)]| after(phases).is_met_by(10_000, false);
        assert!(is_met(&[(7_500, 5)]));
        assert!(!is_met(&[(8_500, 5)]));
        assert!(!is_met(&[(7_500, 2)]), "too short");
        assert!(!is_met(&[(7_500, 3), (9_500, 1), (3_000, 1)]), "it was more a moment ago");
        assert!(is_met(&[(9_500, 5), (7_500, 6)]));
        assert!(!is_met(&[(500, 6)]), "next to nothing");
        assert!(!is_met(&[(0, 6), (7_500, 2)]), "it begins");
        assert!(!is_met(&[]));
    }

    #[test]
    fn they_stay_enough_until_each_second_fills_them() {
        let is_met = |phases: &[(u64, u64)]| after(phases).is_met_by(10_000, true);
        assert!(is_met(&[(8_500, 5)]));
        assert!(!is_met(&[(9_500, 5)]));
        assert!(is_met(&[(9_500, 5), (5_000, 1), (9_500, 1)]), "it was less a moment ago");
        assert!(!is_met(&[(9_500, 5), (500, 6)]), "idle, for whatever comes next");
        assert!(is_met(&[(9_500, 2)]), "nobody knows yet");
    }

    #[test]
    fn counters_that_begin_anew_tell_nothing() {
        let mut demand = after(&[(7_500, 6)]);
        demand.count(Duration::from_secs(7), 0);
        assert!(!demand.is_met_by(10_000, false) && demand.is_met_by(10_000, true));
        let mut demand = after(&[(7_500, 6)]);
        demand.forget();
        assert!(!demand.is_met_by(10_000, false));
    }
}
