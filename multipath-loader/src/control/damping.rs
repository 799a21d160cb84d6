//! A path that comes and goes has to work for longer, each time, before it is used again.

use std::{collections::VecDeque, time::Duration};

/// Half of what is held against a path is forgotten in this time. Long beside a handover, short beside a repair.
const HALF_LIFE: Duration = Duration::from_secs(20);
/// So many falls in a short time cost nothing.
const FREE: f64 = 2.5;
/// The first pause; each further fall doubles it.
const FIRST_HOLD: Duration = Duration::from_millis(500);
/// The longest one.
const LONGEST_HOLD: Duration = Duration::from_mins(1);
/// More is not held against a path, so that it is free again after a few minutes: the pauses double up to the longest.
const MOST: f64 = 10.0;
/// For how long falls are remembered for the status.
const REMEMBERED: Duration = Duration::from_mins(10);
/// Falls that are remembered at most.
const REMEMBERED_MOST: usize = 1024;

/// What is held against a path: a penalty with a half-life (RFC 2439 section 4.2 has the idea).
#[derive(Clone, Debug, Default)]
pub struct Damping {
    penalty: f64,
    counted_at: Duration,
    falls: VecDeque<Duration>,
}

impl Damping {
    /// It fell so often before, in the time of an earlier daemon: no reason to be strict with it now.
    pub fn resume(now: Duration, falls: u32) -> Self {
        let falls = (falls as usize).min(REMEMBERED_MOST);
        Self { falls: VecDeque::from(vec![now; falls]), ..Self::default() }
    }

    /// The path has fallen.
    pub fn fell(&mut self, now: Duration) {
        self.penalty = (self.penalty(now) + 1.0).min(MOST);
        self.counted_at = now;
        if self.falls.len() == REMEMBERED_MOST {
            self.falls.pop_front();
        }
        self.falls.push_back(now);
    }

    /// The last fall was none.
    pub fn forgive(&mut self) {
        if self.falls.pop_back().is_some() {
            self.penalty = (self.penalty - 1.0).max(0.0);
        }
    }

    /// For how long it must work, from now on, before it is used.
    pub fn hold(&self, now: Duration) -> Duration {
        let penalty = self.penalty(now);
        if penalty < FREE {
            return Duration::ZERO;
        }
        FIRST_HOLD.mul_f64((penalty - FREE).exp2()).min(LONGEST_HOLD)
    }

    /// How often it fell in the last ten minutes.
    pub fn falls(&self, now: Duration) -> u32 {
        self.falls.iter().filter(|at| **at + REMEMBERED >= now).count() as u32
    }

    fn penalty(&self, now: Duration) -> f64 {
        let half_lives = now.saturating_sub(self.counted_at).as_secs_f64() / HALF_LIFE.as_secs_f64();
        self.penalty * (-half_lives).exp2()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(every: Duration, count: u32) -> Vec<Duration> {
        let mut damping = Damping::default();
        let fall = |number| {
            let now = every * number;
            damping.fell(now);
            damping.hold(now)
        };
        (1..=count).map(fall).collect()
    }

    #[test]
    fn rare_falls_cost_nothing() {
        assert!(holds(Duration::from_secs(15), 100).iter().all(Duration::is_zero));
        assert!(holds(Duration::from_secs(1), 2).iter().all(Duration::is_zero));
    }

    #[test]
    fn frequent_ones_cost_more_and_more() {
        let holds = holds(Duration::from_secs(1), 20);
        assert!(holds.is_sorted());
        assert!((500..1000).contains(&holds[2].as_millis()), "{:?}", holds[2]);
        assert_eq!(holds[19], LONGEST_HOLD);
    }

    #[test]
    fn it_is_forgotten() {
        let mut damping = Damping::default();
        for _ in 0..100 {
            damping.fell(Duration::ZERO);
        }
        assert!(damping.hold(Duration::from_secs(45)).is_zero());
        assert_eq!((damping.falls(Duration::from_mins(9)), damping.falls(Duration::from_mins(11))), (100, 0));
    }

    #[test]
    fn a_fall_that_was_none_is_taken_back() {
        let mut damping = Damping::default();
        for _ in 0..50 {
            damping.fell(Duration::ZERO);
            damping.forgive();
        }
        damping.forgive();
        assert_eq!((damping.hold(Duration::ZERO), damping.falls(Duration::ZERO)), (Duration::ZERO, 0));
    }
}
