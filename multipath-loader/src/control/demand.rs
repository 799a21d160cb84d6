//! What is asked of all of a peer's paths together, so that it is known when the nearer of them carry it alone.
//!
//! A flow that does not fill the nearer paths is held up by something else: by its source, or by the round trip, because
//! its window is small or it has to win it back after each loss. A farther path brings such a flow nothing, and makes the
//! round trip longer. So what was sent in each of the last seconds is compared with what the nearer paths carry.

use std::{collections::VecDeque, time::Duration};

/// For so long it must have been the same: longer than a flow takes to begin, or stands still after a loss.
const SPAN: Duration = Duration::from_secs(3);
/// The time that a rate is taken over.
const WINDOW: Duration = Duration::from_secs(1);
/// Counters are remembered so often.
const STEP: Duration = Duration::from_millis(250);

/// What paths carry is enough when less than so many parts per hundred of it was asked for in each second,
const ENOUGH: u64 = 80;
/// and is not any more when more than so many were.
const FULL: u64 = 90;
/// Less than this in some second, in parts per hundred, is a flow that begins, or none that paths are chosen for.
const IDLE: u64 = 10;

/// Bytes sent by all paths, each packet counted once.
#[derive(Clone, Debug, Default)]
pub struct Demand {
    /// When there were how many, oldest first.
    counts: VecDeque<(Duration, u64)>,
    /// The least and the most that was sent in a second, kbit/s; `None` until all of the span was seen.
    range_kbps: Option<(u64, u64)>,
}

impl Demand {
    /// Takes a counter into account that stands there now. One that runs backwards has begun anew.
    pub fn count(&mut self, now: Duration, bytes: u64) {
        match self.counts.back() {
            Some((last, before)) if now < *last || bytes < *before => self.forget(),
            Some((last, _)) if now < *last + STEP => return,
            _ => {}
        }
        self.counts.push_back((now, bytes));
        while self.counts.get(1).is_some_and(|(second, _)| now >= *second + SPAN) {
            self.counts.pop_front();
        }
        let is_whole = self.counts.front().is_some_and(|(first, _)| now >= *first + SPAN);
        self.range_kbps = is_whole.then(|| self.range());
    }

    /// Begins anew.
    pub fn forget(&mut self) {
        (self.counts, self.range_kbps) = (VecDeque::new(), None);
    }

    /// Whether paths that carry `kbps` together are enough. `was_enough`: whether they were, as far as was known.
    pub fn is_met_by(&self, kbps: u64, was_enough: bool) -> bool {
        let Some((least, most)) = self.range_kbps else { return was_enough };
        let (least, most, idle) = (least * 100, most * 100, kbps * IDLE);
        if was_enough { most >= idle && least < kbps * FULL } else { least >= idle && most < kbps * ENOUGH }
    }

    fn range(&self) -> (u64, u64) {
        let mut range = (u64::MAX, 0);
        let mut end = self.counts.iter();
        for (from, before) in &self.counts {
            let Some((to, after)) = end.find(|(to, _)| *to >= *from + WINDOW) else { break };
            let kbps = (after - before) * 8 / to.saturating_sub(*from).as_millis() as u64;
            range = (range.0.min(kbps), range.1.max(kbps));
        }
        range
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
