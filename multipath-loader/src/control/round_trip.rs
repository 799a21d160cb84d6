//! Round trips: smallest, smoothed, deviation.

use std::{collections::VecDeque, time::Duration};

/// For how long a smallest round trip is remembered: a way that has become longer for good is believed after that.
pub const MINIMUM_LASTS: Duration = Duration::from_mins(10);
/// Spans that [`MINIMUM_LASTS`] is kept in; the oldest one is forgotten as a whole.
const SPANS: u32 = 10;
/// What a way over the earth takes at most, with all its queues: four times that do not fit are of another life.
const LONGEST: u32 = 60_000_000;

/// The four times of a round trip, microseconds, wrapping. The first and the last are of the prober's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamps {
    /// When the probe was sent.
    pub sent_us: u32,
    /// When the probe reached the peer.
    pub reached_us: u32,
    /// When the peer sent the answer.
    pub replied_us: u32,
    /// When the answer came.
    pub received_us: u32,
}

impl Stamps {
    /// Time on the way, without the peer's part (RFC 5905 section 8). `None` when the times contradict one another.
    pub fn round_trip(&self) -> Option<Duration> {
        let whole = self.received_us.wrapping_sub(self.sent_us);
        let at_peer = self.replied_us.wrapping_sub(self.reached_us);
        let on_the_way = whole.checked_sub(at_peer).filter(|_| whole <= LONGEST)?;
        Some(Duration::from_micros(on_the_way.into()))
    }
}

/// The round trips of a path.
///
/// The estimates are those of RFC 6298 with one difference: the deviation falls four times as slowly as it rises,
/// because there are many samples in a round trip here, and jitter must not be forgotten between two bursts of it
/// (RFC 7323 appendix G has the reason).
#[derive(Clone, Debug, Default)]
pub struct RoundTrip {
    estimate: Option<Estimate>,
    /// The smallest of each span of time that had samples, by the number of the span; oldest first.
    minima: VecDeque<(u64, Duration)>,
}

#[derive(Clone, Copy, Debug)]
struct Estimate {
    smoothed: Duration,
    deviation: Duration,
    last: Duration,
}

impl RoundTrip {
    /// What an earlier daemon has measured: smallest, smoothed, deviation, last. Zeros: nothing.
    pub fn resume(now: Duration, [minimum, smoothed, deviation, last]: [Duration; 4]) -> Self {
        if smoothed.is_zero() {
            return Self::default();
        }
        Self { estimate: Some(Estimate { smoothed, deviation, last }), minima: VecDeque::from([(span(now), minimum)]) }
    }

    /// Takes a sample into account.
    pub fn sample(&mut self, now: Duration, sample: Duration) {
        self.estimate = Some(match self.estimate {
            None => Estimate { smoothed: sample, deviation: sample / 2, last: sample },
            Some(Estimate { smoothed, deviation, .. }) => {
                let difference = smoothed.abs_diff(sample);
                let deviation = if difference > deviation {
                    (deviation * 3 + difference) / 4
                } else {
                    (deviation * 15 + difference) / 16
                };
                Estimate { smoothed: (smoothed * 7 + sample) / 8, deviation, last: sample }
            }
        });
        let span = span(now);
        match self.minima.back_mut() {
            Some((last, minimum)) if *last == span => *minimum = sample.min(*minimum),
            _ => self.minima.push_back((span, sample)),
        }
        self.minima.retain(|(old, _)| old + u64::from(SPANS) > span);
    }

    /// The smallest of the last [`MINIMUM_LASTS`].
    pub fn minimum(&self) -> Option<Duration> {
        self.minima.iter().map(|(_, minimum)| *minimum).min()
    }

    /// Smoothed.
    pub fn smoothed(&self) -> Option<Duration> {
        self.estimate.map(|estimate| estimate.smoothed)
    }

    /// Mean deviation from the smoothed one.
    pub fn deviation(&self) -> Option<Duration> {
        self.estimate.map(|estimate| estimate.deviation)
    }

    /// The last one.
    pub fn last(&self) -> Option<Duration> {
        self.estimate.map(|estimate| estimate.last)
    }
}

/// Number of the span of time.
fn span(now: Duration) -> u64 {
    now.as_secs() / (MINIMUM_LASTS.as_secs() / u64::from(SPANS))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn one_sample_is_all_there_is() {
        let mut trips = RoundTrip::default();
        assert_eq!((trips.minimum(), trips.smoothed(), trips.deviation(), trips.last()), (None, None, None, None));
        trips.sample(MS, 20 * MS);
        let all = (trips.minimum(), trips.smoothed(), trips.deviation(), trips.last());
        assert_eq!(all, (Some(20 * MS), Some(20 * MS), Some(10 * MS), Some(20 * MS)));
    }

    #[test]
    fn a_longer_way_is_believed_after_ten_minutes() {
        let mut trips = RoundTrip::default();
        for second in 0..60 {
            trips.sample(Duration::from_secs(second), 20 * MS);
        }
        for second in 60..1300 {
            trips.sample(Duration::from_secs(second), 30 * MS);
            let old = second < 60 * u64::from(SPANS);
            assert_eq!(trips.minimum(), Some(if old { 20 * MS } else { 30 * MS }), "{second}");
        }
        assert!(trips.minima.len() <= SPANS as usize);
    }

    #[test]
    fn the_deviation_rises_fast_and_falls_slowly() {
        let mut trips = RoundTrip::default();
        for at in 0..500 {
            trips.sample(at * MS, 20 * MS);
        }
        assert!(trips.deviation() < Some(MS / 100));
        trips.sample(501 * MS, 60 * MS);
        assert!(trips.deviation() > Some(9 * MS));
        for at in 0..8 {
            trips.sample((510 + at) * MS, 20 * MS);
        }
        assert!(trips.deviation() > Some(6 * MS));
    }

    proptest! {
        /// Whatever the peer's clock shows, and wherever either clock wraps.
        #[test]
        fn the_peers_clock_does_not_matter(sent_us: u32, offset: u32, out in 0..20_000_000u32, held in 0..1000u32, back in 0..20_000_000u32) {
            let reached_us = sent_us.wrapping_add(offset).wrapping_add(out);
            let stamps = Stamps {
                sent_us,
                reached_us,
                replied_us: reached_us.wrapping_add(held),
                received_us: sent_us.wrapping_add(out + held + back),
            };
            prop_assert_eq!(stamps.round_trip(), Some(Duration::from_micros(u64::from(out + back))));
        }

        #[test]
        fn nothing_overflows(stamps: [u32; 4], samples: [u32; 8]) {
            let [sent_us, reached_us, replied_us, received_us] = stamps;
            let trip = Stamps { sent_us, reached_us, replied_us, received_us }.round_trip();
            prop_assert!(trip.is_none_or(|trip| trip <= Duration::from_micros(u64::from(LONGEST))));
            let mut trips = RoundTrip::default();
            for (at, sample) in samples.into_iter().enumerate() {
                trips.sample(Duration::from_secs(at as u64), Duration::from_micros(sample.into()));
            }
        }
    }
}
