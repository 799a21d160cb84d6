//! What a path carries about, before anything has filled it: trains of long probes.
//!
//! Probes that leave at once arrive as far apart as the path's bottleneck takes for each of them, and the peer's programs
//! write down when. That is no limit, and nothing is refused because of it: a shaper lets a burst pass faster than what
//! follows, and radio links deliver in bursts. But it tells what striping may begin with, so that the first flow of a new
//! tunnel neither floods a modem nor leaves a link idle while the true limits are being found ([`super::rate`]).
//!
//! A train is about as long as the path carries in 8 ms, so it delays what else is sent by no more than that. What it says
//! is the slope of the line through its packets' places and times (least squares), because single packets may be shaken.
//! Where jitter hides the slope, trains become longer and are taken together, and in the end the slope is taken for as
//! much steeper as it may well be: then the path carries at least what is said.

use std::time::Duration;

/// How long a train takes to pass, roughly.
const SPAN: Duration = Duration::from_millis(8);
/// Probes of the first train, of which nothing is known, and the fewest of any.
const FEWEST: u32 = 4;
/// The most: what a small buffer before a fast link holds.
const MOST: u32 = 48;
/// Good trains that an estimate takes; it is their median.
const TRAINS: usize = 3;
/// Trains that say nothing by themselves after which what they say together counts, however rough.
const FAILURES: u32 = 12;
/// A slope says enough when it is so many times its standard error: of one train,
const CLEAR: f64 = 6.0;
/// and of several together,
const CLEAR_TOGETHER: f64 = 4.0;
/// when these have so many packets, about: the errors of few packets are known badly.
const FREEDOM: f64 = 100.0;
/// From so many on, they say at least what the path carries at least.
const LITTLE_FREEDOM: f64 = 10.0;
/// From train to train.
const PAUSE: Duration = Duration::from_millis(120);
/// How long the first answer is waited for,
const PATIENCE: Duration = Duration::from_secs(1);
/// and each one after another: longer than jitter, and some packets are lost.
const NEXT_PATIENCE: Duration = Duration::from_millis(150);
/// An estimate is renewed so often while no limit is known.
const RENEW: Duration = Duration::from_hours(1);
/// Paths of a peer begin one after another, so that trains do not disturb each other,
const STAGGER: Duration = Duration::from_millis(60);
/// and peers as well: many may share a line.
const STAGGER_PEERS: Duration = Duration::from_millis(5);
/// The part of it that makes no queue.
const NEARLY: f64 = 0.97;
/// No estimate is higher, kbit/s: times are in microseconds.
const CEILING_KBPS: f64 = 1_000_000.0;

/// A train under way.
#[derive(Clone, Debug)]
struct Train {
    sent_at: Duration,
    /// Number of its first probe; the others follow.
    first: u32,
    count: u32,
    /// Bytes of an outer packet.
    outer_len: u32,
    answers: Answers,
    /// When the last of them came.
    heard_at: Option<Duration>,
}

/// When the probes of a train came, by their places: what a straight line through them needs.
#[derive(Clone, Copy, Debug, Default)]
struct Answers {
    count: u32,
    /// When the first of them came that was heard of, microseconds of the peer's clock.
    origin_us: u32,
    places: f64,
    times: f64,
    places_squared: f64,
    products: f64,
    times_squared: f64,
}

/// What trains say of the time that a packet takes, each with its own beginning: sums of squares about the means.
#[derive(Clone, Copy, Debug, Default)]
struct Line {
    places: f64,
    products: f64,
    /// What the lines leave of the times.
    rest: f64,
    freedom: f64,
}

impl Answers {
    fn add(&mut self, place: u32, reached_us: u32) {
        if self.count == 0 {
            self.origin_us = reached_us;
        }
        let (place, time) = (f64::from(place), f64::from(reached_us.wrapping_sub(self.origin_us).cast_signed()));
        self.count += 1;
        self.places += place;
        self.times += time;
        self.places_squared += place * place;
        self.products += place * time;
        self.times_squared += time * time;
    }

    fn line(&self) -> Line {
        let count = f64::from(self.count);
        let places = self.places_squared - self.places * self.places / count;
        let products = self.products - self.places * self.times / count;
        let times = self.times_squared - self.times * self.times / count;
        Line { places, products, rest: (times - products * products / places).max(0.0), freedom: count - 2.0 }
    }
}

impl Line {
    fn add(&mut self, other: &Self) {
        self.places += other.places;
        self.products += other.products;
        self.rest += other.rest;
        self.freedom += other.freedom;
    }

    /// Microseconds that a packet takes.
    fn slope_us(&self) -> f64 {
        self.products / self.places
    }

    /// Its standard error.
    fn error_us(&self) -> f64 {
        (self.rest / self.freedom / self.places).sqrt()
    }

    fn is_clear(&self, times: f64) -> bool {
        self.slope_us() > self.error_us() * times
    }
}

/// What a path carries on which a packet of so many bytes takes so long, kbit/s.
#[expect(clippy::cast_sign_loss, reason = "clamped to positive numbers")]
fn rate_kbps(outer_len: u32, takes_us: f64) -> u32 {
    let kbps = f64::from(outer_len) * 8.0 * 1000.0 / takes_us.max(f64::MIN_POSITIVE) * NEARLY;
    kbps.clamp(1.0, CEILING_KBPS) as u32
}

impl Train {
    /// What the probes that came say; `None` if they are too few.
    fn outcome(&self) -> Option<Line> {
        let answered = self.answers.count;
        (answered >= FEWEST - 1 && answered * 4 >= self.count * 3).then(|| self.answers.line())
    }
}

/// The estimate of one path.
#[derive(Clone, Debug)]
pub struct Trains {
    next_at: Duration,
    under_way: Option<Train>,
    outcomes: Vec<u32>,
    failures: u32,
    /// What trains say together of which each says too little.
    together: Line,
    estimate_kbps: u32,
}

impl Trains {
    /// Nothing is known yet of the path with this id to the peer with this number.
    pub fn new(now: Duration, peer: u32, id: u8) -> Self {
        Self {
            next_at: now + PAUSE + STAGGER * u32::from(id) + STAGGER_PEERS * peer,
            under_way: None,
            outcomes: Vec::new(),
            failures: 0,
            together: Line::default(),
            estimate_kbps: 0,
        }
    }

    /// How many long probes are to be sent now; most often 0. `is_idle`: nothing else passes, and no limit is known.
    pub fn poll(&mut self, now: Duration, is_idle: bool) -> u32 {
        if let Some(train) = &self.under_way {
            let until = train.heard_at.map_or(train.sent_at + PATIENCE, |heard_at| heard_at + NEXT_PATIENCE);
            if train.answers.count < train.count && now < until {
                return 0;
            }
            let (outcome, outer_len) = (train.outcome(), train.outer_len);
            self.under_way = None;
            self.next_at = now + PAUSE;
            self.note(now, outcome, outer_len);
        }
        if !is_idle || now < self.next_at {
            return 0;
        }
        let known_kbps = self.outcomes.last().copied().unwrap_or(self.estimate_kbps);
        let fits = u64::from(known_kbps) * SPAN.as_millis() as u64 / (8 * 1500);
        (fits as u32).max(FEWEST << self.failures).min(MOST)
    }

    /// The train was sent: probes numbered from `first` on, as outer packets of so many bytes.
    pub fn sent(&mut self, now: Duration, first: u32, count: u32, outer_len: u32) {
        self.under_way =
            Some(Train { sent_at: now, first, count, outer_len, answers: Answers::default(), heard_at: None });
    }

    /// A probe was answered, which reached the peer at `reached_us` of its clock.
    pub fn answered(&mut self, now: Duration, sequence: u32, reached_us: u32) {
        let Some(train) = &mut self.under_way else { return };
        let place = sequence.wrapping_sub(train.first);
        if place >= train.count {
            return;
        }
        train.answers.add(place, reached_us);
        train.heard_at = Some(now);
    }

    /// What the path carries about, kbit/s of outer IP packets; 0: unknown.
    pub fn estimate_kbps(&self) -> u32 {
        self.estimate_kbps
    }

    fn note(&mut self, now: Duration, outcome: Option<Line>, outer_len: u32) {
        match outcome {
            Some(line) if line.is_clear(CLEAR) => self.outcomes.push(rate_kbps(outer_len, line.slope_us())),
            Some(line) => {
                self.failures += 1;
                self.together.add(&line);
            }
            None => self.failures += 1,
        }
        let is_sure = self.together.freedom >= FREEDOM && self.together.is_clear(CLEAR_TOGETHER);
        // The first train is too short to count beside those that its outcome has made longer.
        if self.outcomes.len() > TRAINS {
            let mut good = self.outcomes[1..].to_vec();
            good.sort_unstable();
            self.estimate_kbps = good[TRAINS / 2];
        } else if is_sure {
            self.estimate_kbps = rate_kbps(outer_len, self.together.slope_us());
        } else if self.together.freedom >= LITTLE_FREEDOM {
            let steepest_us = self.together.slope_us().max(0.0) + self.together.error_us();
            self.estimate_kbps = rate_kbps(outer_len, steepest_us);
        }
        if self.outcomes.len() <= TRAINS && !is_sure && self.failures < FAILURES {
            return;
        }
        self.outcomes.clear();
        self.failures = 0;
        self.together = Line::default();
        self.next_at = now + RENEW;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OUTER_LEN: u32 = 1500;
    const TICK: Duration = Duration::from_millis(80);

    /// Runs trains over a path of this rate for some seconds; `disturb` says how much later than planned a probe comes,
    /// microseconds, or that it is lost. Returns the probes that were sent.
    fn run(trains: &mut Trains, rate_kbps: u64, mut disturb: impl FnMut() -> Option<u32>) -> u32 {
        let (mut sequence, mut total) = (u32::MAX - 10, 0);
        for tick in 0..125 {
            let now = TICK * tick;
            let count = trains.poll(now, true);
            if count == 0 {
                continue;
            }
            total += count;
            trains.sent(now, sequence, count, OUTER_LEN);
            for probe in 0..count {
                let passes_us = (u64::from(probe) * u64::from(OUTER_LEN) * 8000 / rate_kbps) as u32;
                if let Some(late_us) = disturb() {
                    let sent_us = now.as_micros() as u32;
                    let reached_us = (u32::MAX - 3_000_000).wrapping_add(sent_us + passes_us + late_us);
                    trains.answered(now, sequence.wrapping_add(probe), reached_us);
                }
            }
            sequence = sequence.wrapping_add(count);
        }
        total
    }

    #[test]
    fn every_rate_is_found() {
        for rate in [300, 3_000, 10_000, 50_000, 300_000, 900_000] {
            let mut trains = Trains::new(Duration::ZERO, 7, 3);
            let sent = run(&mut trains, rate, || Some(0));
            let found = u64::from(trains.estimate_kbps());
            assert!(found.abs_diff(rate) <= rate / 20, "{rate}: {found}");
            assert!(sent <= FEWEST + 3 * MOST, "{sent} probes");
        }
    }

    /// Normally distributed times: mean 0, deviation 1.
    fn normal(seed: u64) -> impl FnMut() -> f64 {
        let mut state = seed;
        let mut uniform = move || {
            // splitmix64 (Steele and others, 2014).
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mixed = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
            f64::from((mixed ^ mixed >> 31) as u32) / f64::from(u32::MAX)
        };
        move || (0..12).map(|_| uniform()).sum::<f64>() - 6.0
    }

    /// The estimates of so many tunnels over a path with jitter of this deviation, microseconds, in order.
    #[expect(clippy::cast_sign_loss, reason = "four deviations from zero; less becomes zero")]
    fn estimates(rate_kbps: u64, jitter_us: f64, tunnels: u64) -> Vec<u32> {
        let estimate = |seed| {
            let mut trains = Trains::new(Duration::ZERO, 0, 0);
            let mut normal = normal(seed);
            run(&mut trains, rate_kbps, || Some((100_000.0 + normal() * jitter_us) as u32));
            trains.estimate_kbps()
        };
        let mut estimates: Vec<u32> = (0..tunnels).map(estimate).collect();
        estimates.sort_unstable();
        estimates
    }

    #[test]
    fn jitter_that_hides_one_train_does_not_hide_all() {
        for (rate, jitter_us) in [(3_000, 10_000.0), (8_000, 3_000.0), (25_000, 8_000.0), (40_000, 8_000.0)] {
            let found = estimates(rate, jitter_us, 50);
            let (low, high) = (u64::from(found[2]), u64::from(found[47]));
            assert!(low * 2 > rate && high < rate * 2, "{rate}, {jitter_us}: {found:?}");
        }
    }

    #[test]
    fn where_jitter_hides_the_rate_it_is_rather_too_low() {
        for (rate, jitter_us) in [(50_000, 20_000.0), (100_000, 25_000.0), (300_000, 25_000.0)] {
            let found = estimates(rate, jitter_us, 50);
            assert!(found[0] > 10_000 && u64::from(found[40]) < rate * 2, "{rate}, {jitter_us}: {found:?}");
        }
    }

    #[test]
    fn a_path_that_answers_nothing_is_left_alone_after_a_while() {
        let mut trains = Trains::new(Duration::ZERO, 0, 0);
        let sent = run(&mut trains, 50_000, || None);
        assert_eq!(trains.estimate_kbps(), 0);
        assert!(sent <= FAILURES * MOST);
    }

    #[test]
    fn nothing_is_sent_while_the_path_is_in_use() {
        let mut trains = Trains::new(Duration::ZERO, 0, 0);
        assert!((0..100).all(|tick| trains.poll(TICK * tick, false) == 0));
    }

    proptest! {
        #[test]
        fn some_losses_and_noise_do_no_harm(
            rate in 1_000u64..100_000, noise in prop::collection::vec((0u32..300, 0u8..20), 400)
        ) {
            let mut noise = noise.into_iter().cycle();
            let mut trains = Trains::new(Duration::ZERO, 0, 0);
            run(&mut trains, rate, || noise.next().and_then(|(late, lost)| (lost != 0).then_some(late)));
            let found = u64::from(trains.estimate_kbps());
            prop_assert!(found == 0 || found.abs_diff(rate) <= rate / 3, "{rate}: {found}");
        }

        #[test]
        fn any_answers_are_taken(answers in prop::collection::vec((any::<u32>(), any::<u32>()), 0..50), first: u32, len in 1u32..9000) {
            let mut trains = Trains::new(Duration::ZERO, 0, 0);
            trains.sent(Duration::ZERO, first, 8, len);
            for (sequence, reached_us) in answers {
                trains.answered(Duration::ZERO, first.wrapping_add(sequence % 9), reached_us);
            }
            trains.poll(PATIENCE, true);
        }
    }
}
