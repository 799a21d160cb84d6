//! Losses of one direction of a path, from running counters of both ends.

use std::{collections::VecDeque, time::Duration};

use multipath_common::quality::LOSS_WINDOWS_S;

/// Seconds that are kept: the longest span.
const KEPT_S: u64 = LOSS_WINDOWS_S[LOSS_WINDOWS_S.len() - 1];

/// Running counters, both of the moment when one packet of the path was sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Packets that the sender had sent.
    pub sent: u64,
    /// Packets of these that the receiver had got when that packet came.
    pub received: u64,
    /// Packets that came late.
    pub late: u64,
    /// Packets that came out of order.
    pub reordered: u64,
}

/// The losses of the last minute, and whether the path is lossy.
#[derive(Clone, Debug, Default)]
pub struct Losses {
    /// The newest counters, and when they came.
    last: Option<(Duration, Count)>,
    /// One for each second that had packets, oldest first.
    seconds: VecDeque<(u64, Sum)>,
    suspicion: f64,
    /// Packets that were missing at each report of the last [`OVERTAKEN`], on the whole.
    missing: VecDeque<(Duration, i64)>,
    /// The fewest of them at the end of the last block.
    surely_missing: i64,
    block: Option<Block>,
}

/// Reports that count as one.
#[derive(Clone, Copy, Debug)]
struct Block {
    until: Duration,
    sent: u64,
}

/// Packets of some time. `lost` is below zero where some that counted as lost before were only overtaken.
#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    sent: u64,
    lost: i64,
    late: u64,
    reordered: u64,
}

/// Suspicion (a cumulative sum: Page 1954; its increments are Wald's likelihood ratio of 30 % loss against 5 %) grows by
/// this for a packet lost, ln(30 % / 5 %), and
const LOST: f64 = 1.79;
/// changes by this for one that came, ln(70 % / 95 %): it grows on the whole from 14.6 % loss on.
const CAME: f64 = -0.305;
/// Suspicion at which a path is lossy: 37 packets at 30 %. With 2 % random loss it is reached once in 10^8 packets.
const LOSSY: f64 = 12.0;
/// A packet that is overtaken by a report comes within this time, or is lost.
const OVERTAKEN: Duration = Duration::from_millis(100);
/// Counters are below the last ones when the packet that they are of was overtaken, or what said so. If that goes on for so
/// long, or there are few of a sudden, a gateway has begun anew.
const BEGUN_ANEW: Duration = Duration::from_secs(1);
/// Reports of so much time count as one, so that the packets that each of them has overtaken matter less.
const BLOCK: Duration = Duration::from_millis(60);
/// And that one counts for at most so many packets, which alone must not make a path lossy: neither a short gap does, nor
/// a queue that overflows for a moment.
const PER_BLOCK: f64 = 6.0;

impl Losses {
    /// Takes counters into account.
    ///
    /// Counters below the former ones begin anew: a gateway has restarted, or the path's number is another path's now.
    pub fn count(&mut self, now: Duration, count: Count) {
        let Some((counted_at, before)) = self.last else {
            self.last = Some((now, count));
            return;
        };
        let pairs = [
            (count.sent, before.sent),
            (count.received, before.received),
            (count.late, before.late),
            (count.reordered, before.reordered),
        ];
        let is_lower = pairs.into_iter().any(|(now, before)| now < before);
        let has_begun_anew = count.received < before.received / 2 || now >= counted_at + BEGUN_ANEW;
        if is_lower && !has_begun_anew {
            return;
        }
        self.last = Some((now, count));
        if is_lower {
            self.acquit();
            return;
        }
        let sum = Sum {
            sent: count.sent - before.sent,
            lost: (count.sent - before.sent).wrapping_sub(count.received - before.received).cast_signed(),
            late: count.late - before.late,
            reordered: count.reordered - before.reordered,
        };
        if sum.sent == 0 && sum.lost == 0 {
            return;
        }
        self.suspect(now, &sum);
        let second = now.as_secs();
        match self.seconds.back_mut() {
            Some((last, bucket)) if *last >= second => bucket.add(&sum),
            _ => self.seconds.push_back((second, sum)),
        }
        self.seconds.retain(|(old, _)| old + KEPT_S > second);
    }

    fn suspect(&mut self, now: Duration, sum: &Sum) {
        let missing = self.missing.back().map_or(0, |(_, missing)| *missing).saturating_add(sum.lost);
        self.missing.push_back((now, missing));
        while self.missing.front().is_some_and(|(at, _)| *at + OVERTAKEN < now) {
            self.missing.pop_front();
        }
        let block = self.block.get_or_insert(Block { until: now + BLOCK, sent: 0 });
        block.sent = block.sent.saturating_add(sum.sent);
        if now < block.until {
            return;
        }
        let sent = f64::from(u32::try_from(block.sent).unwrap_or(u32::MAX).max(1));
        let surely_missing = self.missing.iter().map(|(_, missing)| *missing).min().unwrap_or_default();
        let lost = surely_missing.saturating_sub(std::mem::replace(&mut self.surely_missing, surely_missing));
        let share = (f64::from(lost.clamp(i32::MIN.into(), i32::MAX.into()) as i32) / sent).clamp(-1.0, 1.0);
        let grown = sent.min(PER_BLOCK) * (share * LOST + (1.0 - share) * CAME);
        self.suspicion = (self.suspicion + grown).clamp(0.0, LOSSY);
        self.block = None;
    }

    /// What was lost so far is no reason to call it lossy.
    pub fn acquit(&mut self) {
        self.suspicion = 0.0;
        self.missing.clear();
        self.surely_missing = 0;
        self.block = None;
    }

    /// Whether so much was lost for so long that the path should be left.
    pub fn is_lossy(&self) -> bool {
        self.suspicion >= LOSSY
    }

    /// Parts per million lost in the last so many seconds, and the present one.
    pub fn lost_ppm(&self, now: Duration, seconds: u64) -> u32 {
        let sum = self.sum(now, seconds);
        ppm(sum.lost.max(0).cast_unsigned(), sum.sent)
    }

    /// Parts per million that came late.
    pub fn late_ppm(&self, now: Duration, seconds: u64) -> u32 {
        let sum = self.sum(now, seconds);
        ppm(sum.late, sum.sent)
    }

    /// Parts per million that came out of order.
    pub fn reordered_ppm(&self, now: Duration, seconds: u64) -> u32 {
        let sum = self.sum(now, seconds);
        ppm(sum.reordered, sum.sent)
    }

    /// Packets sent in the last so many seconds.
    pub fn sent(&self, now: Duration, seconds: u64) -> u64 {
        self.sum(now, seconds).sent
    }

    fn sum(&self, now: Duration, seconds: u64) -> Sum {
        let mut sum = Sum::default();
        for (_, bucket) in self.seconds.iter().filter(|(second, _)| second + seconds >= now.as_secs()) {
            sum.add(bucket);
        }
        sum
    }
}

impl Sum {
    fn add(&mut self, other: &Self) {
        self.sent = self.sent.saturating_add(other.sent);
        self.lost = self.lost.saturating_add(other.lost);
        self.late = self.late.saturating_add(other.late);
        self.reordered = self.reordered.saturating_add(other.reordered);
    }
}

fn ppm(part: u64, whole: u64) -> u32 {
    (u128::from(part.min(whole)) * 1_000_000 / u128::from(whole.max(1))) as u32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TICK: Duration = Duration::from_millis(20);

    /// Sends `per_tick` packets before each report; `fate` tells for each packet and for each report whether it is lost.
    fn run(losses: &mut Losses, ticks: std::ops::Range<u32>, per_tick: u64, mut is_lost: impl FnMut() -> bool) -> u32 {
        let mut count = losses.last.unwrap_or_default().1;
        for tick in ticks {
            for _ in 0..per_tick {
                count.sent += 1;
                count.received += u64::from(!is_lost());
            }
            if !is_lost() {
                losses.count(TICK * tick, count);
            }
            if losses.is_lossy() {
                return tick;
            }
        }
        u32::MAX
    }

    fn draws(seed: u64, probability: f64) -> impl FnMut() -> bool {
        let mut state = seed | 1;
        move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            f64::from((state >> 32) as u32) / 2f64.powi(32) < probability
        }
    }

    #[test]
    fn shares_are_of_the_span() {
        let mut losses = Losses::default();
        let mut count = Count::default();
        for second in 0..100u64 {
            count.sent += 100;
            count.received += if second < 90 { 100 } else { 80 };
            count.late += 2;
            count.reordered += 1;
            losses.count(Duration::from_secs(second), count);
        }
        let now = Duration::from_secs(99);
        assert_eq!(losses.lost_ppm(now, 5), 200_000);
        assert!((60_000..70_000).contains(&losses.lost_ppm(now, 30)), "{}", losses.lost_ppm(now, 30));
        assert!((32_000..34_000).contains(&losses.lost_ppm(now, 60)), "{}", losses.lost_ppm(now, 60));
        assert_eq!((losses.late_ppm(now, 60), losses.reordered_ppm(now, 60)), (20_000, 10_000));
        assert_eq!(losses.lost_ppm(now + Duration::from_secs(200), 60), 0);
        assert!(losses.seconds.len() <= KEPT_S as usize);
    }

    /// Reports that overtake each other, on their way out or back, tell of all losses and of no others.
    #[test]
    fn overtaking_hides_no_losses_and_makes_none() {
        // (comes there, its counter; `None`: lost), in steps of a millisecond; the report comes back later still.
        let shaken = |number: u64, by: u64| (number * 7919 + 13) % by;
        for lost_one_in in [u64::MAX, 50] {
            let is_lost = |number: u64| number % lost_one_in == lost_one_in - 1;
            let came: Vec<Option<u64>> =
                (0..20_000).map(|number| (!is_lost(number)).then(|| number + shaken(number, 60))).collect();
            // Every twentieth packet is a probe; those that come last were sent a while ago.
            let mut arrivals: Vec<u64> = came.iter().flatten().copied().collect();
            arrivals.sort_unstable();
            let mut reports: Vec<(u64, Count)> = (0..20_000)
                .step_by(20)
                .filter_map(|number| {
                    let at = came[number as usize]?;
                    let received = arrivals.partition_point(|arrival| *arrival <= at) as u64;
                    let count = Count { sent: number + 1, received, ..Count::default() };
                    Some((at + shaken(number / 20, 70), count))
                })
                .collect();
            reports.sort_unstable_by_key(|(at, _)| *at);
            let mut losses = Losses::default();
            for (at, count) in &reports {
                losses.count(Duration::from_millis(*at), *count);
            }
            let now = Duration::from_millis(reports.last().unwrap().0);
            let lost = i64::from(losses.lost_ppm(now, 60)) * 20_000 / 1_000_000;
            let truly_lost = (20_000 / lost_one_in).cast_signed();
            assert!((lost - truly_lost).abs() <= 60, "{lost} of {truly_lost}");
        }
    }

    #[test]
    fn a_restarted_counter_is_no_loss() {
        let mut losses = Losses::default();
        losses.count(TICK, Count { sent: 1000, received: 1000, ..Count::default() });
        losses.count(TICK * 2, Count { sent: 1100, received: 40, ..Count::default() });
        losses.count(TICK * 3, Count { sent: 1200, received: 140, ..Count::default() });
        assert_eq!((losses.lost_ppm(TICK * 3, 5), losses.sent(TICK * 3, 5)), (0, 100));
        for (tick, more) in [(4, 0), (30, 50), (60, 100), (61, 200)] {
            losses.count(TICK * tick, Count { sent: 50 + more, received: 160 + more, ..Count::default() });
        }
        assert_eq!((losses.lost_ppm(TICK * 61, 5), losses.sent(TICK * 61, 5)), (0, 200));
    }

    #[test]
    fn an_overtaken_report_hides_no_loss() {
        let mut losses = Losses::default();
        let mut is_lost = draws(7, 0.3);
        let (mut count, mut older) = (Count::default(), Count::default());
        for tick in 0..150 {
            for _ in 0..10 {
                count.sent += 1;
                count.received += u64::from(!is_lost());
            }
            losses.count(TICK * tick, count);
            // It was sent before the one that has just come, and came after it.
            losses.count(TICK * tick, Count { sent: older.sent + 5, ..count });
            older = count;
        }
        assert!(losses.is_lossy());
        assert!((250_000..350_000).contains(&losses.lost_ppm(TICK * 150, 5)), "{}", losses.lost_ppm(TICK * 150, 5));
    }

    #[test]
    fn a_gap_is_not_lossy() {
        for per_tick in [1, 10, 1000] {
            let mut losses = Losses::default();
            run(&mut losses, 0..50, per_tick, || false);
            assert_eq!(run(&mut losses, 50..55, per_tick, || true), u32::MAX);
            assert_eq!(run(&mut losses, 55..500, per_tick, || false), u32::MAX);
        }
    }

    #[test]
    fn thirty_percent_are_found_soon() {
        // Within a second; a second and a half, and three, where few packets tell it.
        for (per_tick, ticks) in [(100, 50), (10, 50), (3, 75), (1, 150)] {
            let found = (1..=200u64).filter(|seed| {
                let mut losses = Losses::default();
                assert_eq!(run(&mut losses, 0..100, per_tick, || false), u32::MAX);
                run(&mut losses, 100..100 + ticks, per_tick, draws(seed * 7919, 0.3)) < u32::MAX
            });
            let found = found.count();
            assert!(found >= 190, "{found} of 200 with {per_tick} packets in 20 ms");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn two_percent_are_never_lossy(seed: u64, per_tick in 1..10u64) {
            let mut losses = Losses::default();
            prop_assert_eq!(run(&mut losses, 0..600 * 50, per_tick, draws(seed, 0.02)), u32::MAX);
            let lost = losses.lost_ppm(TICK * (600 * 50 - 1), 60);
            prop_assert!((8_000..35_000).contains(&lost), "{lost}");
        }

        /// However many reports are lost, and whatever is overtaken: at the end every packet is counted once.
        #[test]
        fn lost_reports_and_overtaking_change_nothing(steps in prop::collection::vec((1..50u64, 0..50u64, any::<bool>(), 0..3u64), 1..100)) {
            let mut losses = Losses::default();
            losses.count(Duration::ZERO, Count::default());
            let mut count = Count::default();
            let mut overtaken = 0;
            for (at, (sent, lost, is_reported, behind)) in steps.iter().enumerate() {
                count.sent += sent;
                count.received += sent - sent.min(lost) + overtaken;
                overtaken = (*behind).min(sent - sent.min(lost));
                count.received -= overtaken;
                if *is_reported {
                    losses.count(TICK * at as u32, count);
                }
            }
            let now = TICK * steps.len() as u32;
            losses.count(now, count);
            prop_assert_eq!(losses.lost_ppm(now, 60), ppm(count.sent - count.received, count.sent));
        }

        #[test]
        fn nothing_overflows(counts in prop::collection::vec(any::<(u32, [u64; 4])>(), 0..50)) {
            let mut losses = Losses::default();
            for (at, [sent, received, late, reordered]) in counts {
                let now = Duration::from_millis(at.into());
                losses.count(now, Count { sent, received, late, reordered });
                prop_assert!(losses.lost_ppm(now, 60) <= 1_000_000);
            }
        }
    }
}
