//! What a path carries about, before anything has filled it: trains of long probes.
//!
//! Probes that leave at once arrive as far apart as the path's bottleneck takes for each of them, and the peer's programs
//! write down when. That is no limit, and nothing is refused because of it: a shaper lets a burst pass faster than what
//! follows, and radio links deliver in bursts. But it tells what striping may begin with, so that the first flow of a new
//! tunnel neither floods a modem nor leaves a link idle while the true limits are being found ([`super::rate`]).
//!
//! A train is about as long as the path carries in 8 ms, so it delays what else is sent by no more than that. Where jitter
//! hides so short a time it becomes longer, and what it says then is rough: good enough to know whether a path is worth
//! its delay.

use std::time::Duration;

/// How long a train takes to pass, roughly.
const SPAN: Duration = Duration::from_millis(8);
/// Probes of the first train, of which nothing is known, and the fewest of any.
const FEWEST: u32 = 4;
/// The most: what a small buffer before a fast link holds.
const MOST: u32 = 48;
/// Good trains that an estimate takes; it is their median.
const TRAINS: usize = 3;
/// Trains without an outcome after which it is given up for a while.
const FAILURES: u32 = 6;
/// From train to train.
const PAUSE: Duration = Duration::from_millis(240);
/// How long answers are waited for.
const PATIENCE: Duration = Duration::from_secs(1);
/// An estimate is renewed so often while no limit is known.
const RENEW: Duration = Duration::from_hours(1);
/// Paths of a peer begin one after another, so that trains do not disturb each other,
const STAGGER: Duration = Duration::from_millis(60);
/// and peers as well: many may share a line.
const STAGGER_PEERS: Duration = Duration::from_millis(5);
/// Jitter of the processors at both ends, microseconds, which does not count.
const NOISE_US: u64 = 300;
/// No estimate is higher, kbit/s: times are in microseconds.
const CEILING_KBPS: u64 = 1_000_000;

/// A train under way.
#[derive(Clone, Debug)]
struct Train {
    sent_at: Duration,
    /// Number of its first probe; the others follow.
    first: u32,
    count: u32,
    /// Bytes of an outer packet.
    outer_len: u32,
    answered: u32,
    /// The first and the last probe that were answered: their places in the train, and when they came, microseconds of the
    /// peer's clock.
    ends: Option<[(u32, u32); 2]>,
}

impl Train {
    /// What the probes that came say, kbit/s; `None` if they are too few or too shaken.
    fn outcome(&self, jitter_us: u32) -> Option<u32> {
        let [first, last] = self.ends?;
        let span_us = u64::try_from(last.1.wrapping_sub(first.1).cast_signed()).ok()?.max(1);
        if self.answered < 3 || self.answered * 4 < self.count * 3 || u64::from(jitter_us) > span_us.max(NOISE_US) {
            return None;
        }
        let bits = u64::from(last.0 - first.0) * u64::from(self.outer_len) * 8;
        Some((bits * 1000 / span_us).clamp(1, CEILING_KBPS) as u32)
    }
}

/// The estimate of one path.
#[derive(Clone, Debug)]
pub struct Trains {
    next_at: Duration,
    under_way: Option<Train>,
    outcomes: Vec<u32>,
    failures: u32,
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
            estimate_kbps: 0,
        }
    }

    /// How many long probes are to be sent now; most often 0. `is_idle`: nothing else passes, and no limit is known.
    pub fn poll(&mut self, now: Duration, is_idle: bool, jitter_us: u32) -> u32 {
        if let Some(train) = &self.under_way {
            if train.answered < train.count && now < train.sent_at + PATIENCE {
                return 0;
            }
            let outcome = train.outcome(jitter_us);
            self.under_way = None;
            self.next_at = now + PAUSE;
            self.note(now, outcome);
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
        self.under_way = Some(Train { sent_at: now, first, count, outer_len, answered: 0, ends: None });
    }

    /// A probe was answered, which reached the peer at `reached_us` of its clock.
    pub fn answered(&mut self, sequence: u32, reached_us: u32) {
        let Some(train) = &mut self.under_way else { return };
        let place = sequence.wrapping_sub(train.first);
        if place >= train.count {
            return;
        }
        train.answered += 1;
        let [first, last] = train.ends.get_or_insert([(place, reached_us); 2]);
        if place < first.0 {
            *first = (place, reached_us);
        } else if place > last.0 {
            *last = (place, reached_us);
        }
    }

    /// What the path carries about, kbit/s of outer IP packets; 0: unknown.
    pub fn estimate_kbps(&self) -> u32 {
        self.estimate_kbps
    }

    fn note(&mut self, now: Duration, outcome: Option<u32>) {
        match outcome {
            Some(kbps) => self.outcomes.push(kbps),
            None => self.failures += 1,
        }
        // The first train is too short to count beside those that its outcome has made longer.
        if self.outcomes.len() > TRAINS {
            let mut good = self.outcomes[1..].to_vec();
            good.sort_unstable();
            self.estimate_kbps = good[TRAINS / 2];
        } else if self.failures < FAILURES {
            return;
        }
        self.outcomes.clear();
        self.failures = 0;
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
    fn run(trains: &mut Trains, rate_kbps: u64, mut disturb: impl FnMut() -> Option<u32>, jitter_us: u32) -> u32 {
        let (mut sequence, mut total) = (u32::MAX - 10, 0);
        for tick in 0..125 {
            let now = TICK * tick;
            let count = trains.poll(now, true, jitter_us);
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
                    trains.answered(sequence.wrapping_add(probe), reached_us);
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
            let sent = run(&mut trains, rate, || Some(0), 0);
            let found = u64::from(trains.estimate_kbps());
            assert!(found.abs_diff(rate) <= rate / 20, "{rate}: {found}");
            assert!(sent <= FEWEST + 3 * MOST, "{sent} probes");
        }
    }

    #[test]
    fn what_jitter_hides_is_unknown() {
        let mut trains = Trains::new(Duration::ZERO, 0, 0);
        let mut late = [0, 31_000, 4_000, 58_000, 17_000].into_iter().cycle();
        let sent = run(&mut trains, 50_000, || late.next(), 70_000);
        assert_eq!(trains.estimate_kbps(), 0);
        // And is not asked for again and again.
        assert_eq!(sent, (0..FAILURES).map(|failures| (FEWEST << failures).min(MOST)).sum::<u32>());
    }

    #[test]
    fn a_longer_train_says_roughly_what_a_short_one_does_not() {
        let mut trains = Trains::new(Duration::ZERO, 0, 0);
        let mut late = [3_000, 9_000, 0, 14_000, 6_000, 11_000, 8_000].into_iter().cycle();
        run(&mut trains, 30_000, || late.next(), 8_000);
        assert!((15_000..60_000).contains(&trains.estimate_kbps()), "{}", trains.estimate_kbps());
    }

    #[test]
    fn nothing_is_sent_while_the_path_is_in_use() {
        let mut trains = Trains::new(Duration::ZERO, 0, 0);
        assert!((0..100).all(|tick| trains.poll(TICK * tick, false, 0) == 0));
    }

    proptest! {
        #[test]
        fn some_losses_and_noise_do_no_harm(
            rate in 1_000u64..100_000, noise in prop::collection::vec((0u32..300, 0u8..20), 400)
        ) {
            let mut noise = noise.into_iter().cycle();
            let mut trains = Trains::new(Duration::ZERO, 0, 0);
            run(&mut trains, rate, || noise.next().and_then(|(late, lost)| (lost != 0).then_some(late)), 100);
            let found = u64::from(trains.estimate_kbps());
            prop_assert!(found == 0 || found.abs_diff(rate) <= rate / 3, "{rate}: {found}");
        }

        #[test]
        fn any_answers_are_taken(answers in prop::collection::vec((any::<u32>(), any::<u32>()), 0..50), first: u32, len in 1u32..9000) {
            let mut trains = Trains::new(Duration::ZERO, 0, 0);
            trains.sent(Duration::ZERO, first, 8, len);
            for (sequence, reached_us) in answers {
                trains.answered(first.wrapping_add(sequence % 9), reached_us);
            }
            trains.poll(PATIENCE, true, 0);
        }
    }
}
