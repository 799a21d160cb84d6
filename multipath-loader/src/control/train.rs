//! What a path carries about, before anything has filled it: trains of long probes.
//!
//! Probes that leave at once arrive as far apart as the path's bottleneck takes for each of them, and the peer's programs
//! write down when. That is no limit, and nothing is refused because of it: a shaper lets a burst pass faster than what
//! follows, and radio links deliver in bursts. But it tells what striping may begin with, so that the first flow of a new
//! tunnel neither floods a modem nor leaves a link idle while the true limits are being found ([`super::rate`]).
//!
//! A train is about as long as the path carries in [`SPAN`], so it delays what else is sent by no more than that.

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
    /// When the first answered probe came, microseconds of the peer's clock, and how much earlier and later others did.
    reached_us: Option<(u32, i32, i32)>,
}

impl Train {
    /// What the probes that came say, kbit/s; `None` if they are too few or too shaken.
    fn outcome(&self, jitter_us: u32) -> Option<u32> {
        let (_, earliest, latest) = self.reached_us?;
        let span_us = u64::from(latest.abs_diff(earliest)).max(1);
        if self.answered < 3 || self.answered * 4 < self.count * 3 || u64::from(jitter_us) * 4 > span_us.max(1000) {
            return None;
        }
        let bits = u64::from(self.answered - 1) * u64::from(self.outer_len) * 8;
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
        (fits as u32).clamp(FEWEST, MOST)
    }

    /// The train was sent: probes numbered from `first` on, as outer packets of so many bytes.
    pub fn sent(&mut self, now: Duration, first: u32, count: u32, outer_len: u32) {
        self.under_way = Some(Train { sent_at: now, first, count, outer_len, answered: 0, reached_us: None });
    }

    /// A probe was answered, which reached the peer at `reached_us` of its clock.
    pub fn answered(&mut self, sequence: u32, reached_us: u32) {
        let Some(train) = &mut self.under_way else { return };
        if sequence.wrapping_sub(train.first) >= train.count {
            return;
        }
        train.answered += 1;
        let (first_us, earliest, latest) = train.reached_us.get_or_insert((reached_us, 0, 0));
        let behind_us = reached_us.wrapping_sub(*first_us).cast_signed();
        *earliest = (*earliest).min(behind_us);
        *latest = (*latest).max(behind_us);
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
        let sent = run(&mut trains, 50_000, || late.next(), 20_000);
        assert_eq!(trains.estimate_kbps(), 0);
        // And is not asked for again and again.
        assert_eq!(sent, FAILURES * FEWEST);
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
            // A few probes of a slow path at the ends of a train that are lost make it shorter, as those are that mark its span.
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
