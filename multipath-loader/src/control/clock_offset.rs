//! One-way delays without synchronised clocks.
//!
//! The time on the way to a peer is the peer's clock at arrival minus ours at departure, minus what its clock is ahead.
//! How far it is ahead can't be measured, only guessed: half of the round trip of one path, the reference, is taken for
//! each direction. The guess is wrong by half the difference of that path's two delays, and this same constant stands
//! in the delays of all paths of the peer: they are comparable. What must be found is how the guess drifts.

use std::{collections::VecDeque, time::Duration};

use super::round_trip::Stamps;

/// Of each such span the sample with the shortest round trip counts: it waited least in queues.
const SPAN: Duration = Duration::from_secs(2);
/// Spans that the line is laid through: long enough for a drift of 10 ppm to show against a millisecond of jitter.
const SPANS: usize = 32;
/// The line's slope is not believed before its points cover this.
const SLOPE_FROM: Duration = Duration::from_secs(16);
/// Clocks of two computers drift apart by at most this, parts per million: crystals keep 100 ppm each, with a margin.
const DRIFT_MAX: f64 = 300.0;
/// A reference that is silent for so long is replaced. A metered path is probed every 5 s.
const REFERENCE_SILENT: Duration = Duration::from_secs(20);
/// A one-way delay that lies so far, microseconds, outside the round trip means that the peer's clock jumped (it has
/// rebooted): no guess is wrong by more than half a round trip.
const JUMP_US: f64 = 1e6;
/// Excess over the shortest round trip at which a sample has half the weight, microseconds, on a quiet path.
const EXCESS_US: f64 = 500.0;

/// Relative one-way delays, microseconds: their sum is the round trip.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OneWay {
    /// From here to the peer.
    pub out_us: i32,
    /// From the peer to here.
    pub in_us: i32,
    /// Delays of different epochs can't be compared: the peer's clock has jumped in between.
    pub epoch: u32,
}

/// How far a peer's clock is ahead, as seen over all its paths.
#[derive(Clone, Debug, Default)]
pub struct ClockOffset {
    epoch: u32,
    state: Option<State>,
}

#[derive(Clone, Debug)]
struct State {
    /// Path that the line is laid through, and when it had its last sample.
    reference: u32,
    heard_at: Duration,
    /// What the guess by the reference differs from the guess by the first one, microseconds.
    bias: f64,
    /// Offsets are relative to this one, microseconds, wrapping.
    base: u32,
    line: Line,
    /// The best sample of the present span.
    best: Point,
    points: VecDeque<Point>,
}

/// The offset over time, microseconds.
#[derive(Clone, Copy, Debug)]
struct Line {
    at: Duration,
    level: f64,
    /// Microseconds per second: parts per million.
    slope: f64,
}

#[derive(Clone, Copy, Debug)]
struct Point {
    at: Duration,
    offset: f64,
    round_trip: f64,
}

impl Line {
    fn value(&self, at: Duration) -> f64 {
        self.level + self.slope * seconds(at, self.at)
    }
}

/// Seconds from one time to another, which may be the later one.
fn seconds(to: Duration, from: Duration) -> f64 {
    to.as_secs_f64() - from.as_secs_f64()
}

impl ClockOffset {
    /// The one-way delays of a probe and its answer, which came at `received_at` over a path of the peer (any number
    /// that tells the paths apart). `None` when the times contradict one another.
    pub fn sample(&mut self, received_at: Duration, path: u32, stamps: &Stamps) -> Option<OneWay> {
        let round_trip = stamps.round_trip()?.as_secs_f64() * 1e6;
        let raw = stamps.reached_us.wrapping_sub(stamps.sent_us);
        let fits = |state: &State| {
            let out = state.out(received_at, raw);
            (-JUMP_US..round_trip + JUMP_US).contains(&out)
        };
        if !self.state.as_ref().is_some_and(fits) {
            self.epoch = self.epoch.wrapping_add(1);
            self.state = Some(State::new(received_at, path, raw, round_trip));
        }
        let state = self.state.as_mut()?;
        state.learn(received_at, path, raw, round_trip);
        let out_us = state.out(received_at, raw).round() as i32;
        Some(OneWay { out_us, in_us: round_trip.round() as i32 - out_us, epoch: self.epoch })
    }

    /// How fast the peer's clock runs away from ours, parts per million.
    pub fn drift_ppm(&self) -> f64 {
        self.state.as_ref().map_or(0.0, |state| state.line.slope)
    }
}

impl State {
    fn new(at: Duration, reference: u32, raw: u32, round_trip: f64) -> Self {
        let base = raw.wrapping_sub((round_trip as i32 / 2).cast_unsigned());
        Self {
            reference,
            heard_at: at,
            bias: 0.0,
            base,
            line: Line { at, level: 0.0, slope: 0.0 },
            best: Point { at, offset: 0.0, round_trip },
            points: VecDeque::with_capacity(SPANS),
        }
    }

    fn out(&self, at: Duration, raw: u32) -> f64 {
        f64::from(raw.wrapping_sub(self.base).cast_signed()) - self.line.value(at)
    }

    fn learn(&mut self, at: Duration, path: u32, raw: u32, round_trip: f64) {
        let guess = f64::from(raw.wrapping_sub(self.base).cast_signed()) - round_trip / 2.0;
        if path != self.reference {
            if at.saturating_sub(self.heard_at) <= REFERENCE_SILENT {
                return;
            }
            // From now on by another path, in such a way that no delay changes.
            (self.reference, self.bias) = (path, guess - self.line.value(at));
            self.points.clear();
            self.best = Point { at, offset: guess - self.bias, round_trip };
        }
        let point = Point { at, offset: guess - self.bias, round_trip };
        self.heard_at = self.heard_at.max(at);
        let span = |at: Duration| at.as_secs() / SPAN.as_secs();
        if span(at) <= span(self.best.at) {
            if round_trip < self.best.round_trip {
                self.best = point;
            }
            return;
        }
        if self.points.len() == SPANS {
            self.points.pop_front();
        }
        self.points.push_back(self.best);
        self.best = point;
        self.fit(at);
    }

    /// Lays the line through the points: weighted least squares, where a sample weighs less the longer it waited.
    fn fit(&mut self, now: Duration) {
        let shortest = self.points.iter().map(|point| point.round_trip).fold(f64::INFINITY, f64::min);
        let mut excesses: Vec<f64> = self.points.iter().map(|point| point.round_trip - shortest).collect();
        excesses.sort_unstable_by(f64::total_cmp);
        let scale = excesses[excesses.len() / 2].max(EXCESS_US);
        let (mut total, mut time, mut offset) = (0.0, 0.0, 0.0);
        let weighted: Vec<(f64, f64, f64)> = self
            .points
            .iter()
            .map(|point| {
                let excess = (point.round_trip - shortest) / scale;
                (1.0 / (1.0 + excess * excess), seconds(point.at, now), point.offset)
            })
            .collect();
        for (weight, at, value) in &weighted {
            total += weight;
            time += weight * at;
            offset += weight * value;
        }
        let (time, offset) = (time / total, offset / total);
        if self.points.front().is_some_and(|first| now.saturating_sub(first.at) >= SLOPE_FROM) {
            let (mut above, mut below) = (0.0, 0.0);
            for (weight, at, value) in &weighted {
                above += weight * (at - time) * (value - offset);
                below += weight * (at - time) * (at - time);
            }
            if below > 0.0 {
                self.line.slope = (above / below).clamp(-DRIFT_MAX, DRIFT_MAX);
            }
        }
        self.line = Line { at: now, level: offset - self.line.slope * time, slope: self.line.slope };
        self.fold();
    }

    /// Keeps the level near zero: it would leave the range of wrapping differences after weeks.
    fn fold(&mut self) {
        let moved = self.line.level.round();
        if moved.abs() < JUMP_US {
            return;
        }
        self.base = self.base.wrapping_add((moved as i32).cast_unsigned());
        self.line.level -= moved;
        for point in self.points.iter_mut().chain([&mut self.best]) {
            point.offset -= moved;
        }
    }
}

/// The smoothed one-way delay of a path.
#[derive(Clone, Copy, Debug, Default)]
pub struct SmoothedDelay {
    out: Option<(f64, u32)>,
}

impl SmoothedDelay {
    /// Takes a sample into account, with the gain of RFC 6298.
    pub fn sample(&mut self, delay: OneWay) {
        let sample = f64::from(delay.out_us);
        let out = match self.out {
            Some((out, epoch)) if epoch == delay.epoch => out + (sample - out) / 8.0,
            _ => sample,
        };
        self.out = Some((out, delay.epoch));
    }

    /// The delays that add up to this smoothed round trip.
    pub fn split(&self, round_trip: Duration) -> Option<OneWay> {
        let (out, epoch) = self.out?;
        let out_us = out.round() as i32;
        Some(OneWay { out_us, in_us: round_trip.as_micros() as i32 - out_us, epoch })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Draws that repeat (xorshift, Marsaglia 2003).
    struct Draws(u64);

    impl Draws {
        fn next(&mut self) -> f64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            f64::from((self.0 >> 32) as u32) / 2f64.powi(32)
        }
    }

    /// A path as it really is: delays and how much more a packet may take, microseconds.
    #[derive(Clone, Copy, Debug)]
    struct Truth {
        out: f64,
        back: f64,
        jitter: f64,
        interval: Duration,
    }

    struct Clocks {
        offset: f64,
        drift_ppm: f64,
    }

    impl Clocks {
        fn peer(&self, at: Duration) -> u32 {
            ((at.as_secs_f64() * (1e6 + self.drift_ppm) + self.offset).rem_euclid(2f64.powi(32)) as i64).cast_unsigned()
                as u32
        }

        fn stamps(&self, at: Duration, out: f64, back: f64) -> (Stamps, Duration) {
            let reached = at + Duration::from_secs_f64(out / 1e6);
            let received = reached + Duration::from_secs_f64(back / 1e6);
            let peer_at = self.peer(reached);
            let stamps = Stamps {
                sent_us: at.as_micros() as u32,
                reached_us: peer_at,
                replied_us: peer_at,
                received_us: received.as_micros() as u32,
            };
            (stamps, received)
        }
    }

    fn truth() -> impl Strategy<Value = Truth> {
        (500.0..300_000.0, 500.0..300_000.0, 0.0..2_000.0, prop_oneof![Just(80), Just(20), Just(5000)]).prop_map(
            |(out, back, jitter, interval)| Truth { out, back, jitter, interval: Duration::from_millis(interval) },
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4))]

        /// For an hour the differences between the paths' one-way delays are right, whatever the clocks do.
        #[test]
        fn delays_are_comparable(paths in prop::collection::vec(truth(), 2..4), offset in 0.0..4.2e9, drift_ppm in -200.0..200.0, seed in 1..u64::MAX) {
            let clocks = Clocks { offset, drift_ppm };
            let mut draws = Draws(seed);
            let (mut clock, mut smoothed) = (ClockOffset::default(), vec![SmoothedDelay::default(); paths.len()]);
            let mut spread: Option<(f64, f64)> = None;
            for tick in 0..3600 * 50u32 {
                let at = Duration::from_millis(20) * tick;
                for (number, path) in paths.iter().enumerate() {
                    if !at.as_millis().is_multiple_of(path.interval.as_millis()) {
                        continue;
                    }
                    let (out, back) = (path.out + path.jitter * draws.next(), path.back + path.jitter * draws.next());
                    let (stamps, received) = clocks.stamps(at, out, back);
                    let delay = clock.sample(received, number as u32, &stamps).unwrap();
                    prop_assert_eq!(delay.epoch, 1);
                    let sum = Duration::from_micros((delay.out_us + delay.in_us).cast_unsigned().into());
                    prop_assert_eq!(Some(sum), stamps.round_trip());
                    smoothed[number].sample(delay);
                }
                // A path that is probed every 5 s has enough samples after a minute.
                if at > Duration::from_mins(2) && tick % 500 == 499 {
                    let of = |number: usize| smoothed[number].split(Duration::from_secs(1)).unwrap();
                    for number in 1..paths.len() {
                        let shown = f64::from(of(number).out_us - of(0).out_us);
                        let mean = |path: &Truth| path.out + path.jitter / 2.0;
                        let real = mean(&paths[number]) - mean(&paths[0]);
                        prop_assert!((shown - real).abs() < 1000.0f64.max(real.abs() / 10.0), "{shown} {real} {at:?}");
                    }
                    let out = f64::from(of(0).out_us);
                    let (low, high) = spread.unwrap_or((out, out));
                    spread = Some((low.min(out), high.max(out)));
                }
            }
            let (low, high) = spread.unwrap();
            prop_assert!(high - low < 3000.0, "it wanders: {low}..{high}");
            prop_assert!((clock.drift_ppm() - drift_ppm).abs() < 50.0, "{}", clock.drift_ppm());
        }

        #[test]
        fn nothing_overflows(samples in prop::collection::vec((any::<[u32; 4]>(), 0..10_000_000u32, 0..3u32), 0..200)) {
            let mut clock = ClockOffset::default();
            for ([sent_us, reached_us, replied_us, received_us], at, path) in samples {
                let stamps = Stamps { sent_us, reached_us, replied_us, received_us };
                let delay = clock.sample(Duration::from_millis(at.into()), path, &stamps);
                prop_assert_eq!(delay.is_some(), stamps.round_trip().is_some());
            }
        }
    }

    #[test]
    fn a_reboot_begins_anew() {
        let mut clock = ClockOffset::default();
        let mut epochs = Vec::new();
        for tick in 0..1000u32 {
            let clocks = Clocks { offset: if tick < 500 { 4e9 } else { 5e6 }, drift_ppm: 20.0 };
            let (stamps, received) = clocks.stamps(Duration::from_millis(80) * tick, 10_000.0, 30_000.0);
            let delay = clock.sample(received, 7, &stamps).unwrap();
            assert!((delay.out_us - 20_000).abs() < 200, "{delay:?}");
            epochs.push(delay.epoch);
        }
        assert_eq!((epochs[499], epochs[500], epochs[999]), (1, 2, 2));
    }

    #[test]
    fn another_reference_changes_no_delay() {
        let clocks = Clocks { offset: 77.0, drift_ppm: -100.0 };
        let (mut clock, mut before) = (ClockOffset::default(), None);
        for tick in 0..10_000u32 {
            let at = Duration::from_millis(80) * tick;
            if tick < 5000 {
                let (stamps, received) = clocks.stamps(at, 5_000.0, 5_000.0);
                clock.sample(received, 1, &stamps);
            }
            let (stamps, received) = clocks.stamps(at, 90_000.0, 20_000.0);
            let delay = clock.sample(received, 2, &stamps).unwrap();
            if tick > 1000 {
                let before = *before.get_or_insert(delay.out_us);
                assert!((delay.out_us - before).abs() < 500, "{delay:?} at {tick}, once {before}");
            }
        }
    }
}
