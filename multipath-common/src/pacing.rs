//! A path's virtual transmit clock, and the active queue management on it.
//!
//! Packets leave at once; the clock says when each of them will have passed the path's bottleneck at the path's rate. So
//! the queue there is known exactly before a packet joins it, and this gateway decides who waits, not a modem with a
//! second of buffer. Packets are refused or marked by `CoDel` (RFC 8289; Linux does the same), asked when a packet
//! joins the queue instead of when it leaves: how long it will wait is known by then, and the sender hears of it sooner
//! by just that time.
//!
//! `CoDel` alone does not hold a sender that does not listen. Therefore the queue has a limit, which becomes smaller the
//! longer the queue stands: a burst may be five targets long, what stands for half a second at most two. The limit
//! shrinks slowly, because a sender that does listen is better told by one lost packet than by many. What is striped over
//! a bond may be ten targets long, because its senders have longer round trips, and who begins there is warned.
//!
//! The functions are inlined and call nothing, because kernel 6.1 allows no call while a `bpf_spin_lock` is held; the
//! division is made before.

use core::num::NonZeroU32;

use crate::quality::PathClock;

/// Queueing that is always allowed, nanoseconds.
const TARGET_NS: u64 = 10_000_000;
/// On slow paths so many bytes are always allowed: two packets of full size, or a path would idle between them.
const TARGET_LEN: u32 = 2 * 1500;
/// For how long the queue may be above the target before packets are dropped, nanoseconds: a round trip, so that
/// senders can react (RFC 8289 section 4.2).
const INTERVAL_NS: u64 = 100_000_000;
/// Packets are not held for longer, microseconds.
const MAX_HELD_US: u32 = crate::playout::MAX_SPREAD_US;
/// Targets that a burst may be long.
const BURST_TARGETS: u64 = 5;
/// The same for a bond, whose senders have longer round trips.
const BOND_BURST_TARGETS: u64 = 10;
/// Targets that a standing queue is long at most.
const STANDING_TARGETS: u64 = 2;
/// A sender that has just begun sends twice as much with each round trip, and hears only a round trip later that it was
/// too much: by then it has sent for one or two round trips more than passes. So it is warned by one packet when the
/// queue has become longer by this part of the time since it was empty. Within a round trip that tells nothing: each
/// packet that arrives lets two be sent, so half of those under way queue for a moment, however few they are. The time
/// that packets are held is the part of the round trip that is known.
const RISING_PART: u64 = 6;
/// The part of the round trip that is not known is taken for this, nanoseconds.
const WARNED_FROM_NS: u64 = 20_000_000;
/// Then it is left alone for so many intervals.
const WARNED_FOR: u64 = 2;
/// However long packets are held, it is not for longer than this.
const LONGEST_WARNED_NS: u64 = WARNED_FOR * (INTERVAL_NS + MAX_HELD_US as u64 * 1000);
/// Values of `is_dropping`.
const DROPPING: u32 = 1;
const WARNED: u32 = 2;
/// The limit becomes one nanosecond smaller in so many (as a shift) that the queue stands.
const SHRINK_SHIFT: u32 = 3;
/// After a pause of so many intervals `CoDel` begins anew instead of where it was.
const MEMORY_INTERVALS: u64 = 16;

/// Bits of one kbit and nanoseconds of one second: bytes take `len * 8 * 10^9 / (rate_kbps * 10^3)` nanoseconds.
const BYTE_AT_ONE_KBPS_NS: u64 = 8_000_000;
/// Fraction bits of the time that a byte takes.
const FRACTION_BITS: u32 = 16;

/// How a packet fits a path's rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// How long it takes to pass, nanoseconds.
    pub duration_ns: u64,
    /// Queueing that is always allowed, nanoseconds.
    pub target_ns: u64,
    /// For how long the queue may be above that before packets are dropped, nanoseconds.
    pub interval_ns: u64,
    /// How many times the target a burst may make the queue.
    pub burst_targets: u64,
    /// Whether a sender that has just begun is warned.
    pub warns: bool,
}

impl Pace {
    /// For an outer IP packet of `len` bytes at a rate.
    #[inline(always)]
    pub const fn new(rate_kbps: NonZeroU32, len: u32) -> Self {
        let byte = (BYTE_AT_ONE_KBPS_NS << FRACTION_BITS) / rate_kbps.get() as u64;
        let least = (byte * TARGET_LEN as u64) >> FRACTION_BITS;
        let target_ns = if least > TARGET_NS { least } else { TARGET_NS };
        Self {
            duration_ns: (byte * (len & 0xffff) as u64) >> FRACTION_BITS,
            target_ns,
            interval_ns: INTERVAL_NS,
            burst_targets: BURST_TARGETS,
            warns: false,
        }
    }

    /// The longest queue that any packet may make, nanoseconds: the clock is never further ahead.
    #[inline(always)]
    const fn longest_ns(self) -> u64 {
        self.target_ns * BOND_BURST_TARGETS
    }

    /// For how long there must have been a queue before a sender that has just begun is warned, nanoseconds.
    #[inline(always)]
    const fn warned_from_ns(self) -> u64 {
        self.interval_ns - (INTERVAL_NS - WARNED_FROM_NS)
    }

    /// The same for a packet that is striped.
    #[must_use]
    #[inline(always)]
    pub const fn striped(self) -> Self {
        Self { burst_targets: BOND_BURST_TARGETS, ..self }
    }

    /// The same by the clock of a whole bond, for packets that are held at their destination, so many microseconds: round
    /// trips are longer by that.
    #[must_use]
    #[inline(always)]
    pub const fn held(self, held_us: u32) -> Self {
        let longer_us = if held_us < MAX_HELD_US { held_us } else { MAX_HELD_US };
        Self { interval_ns: INTERVAL_NS + longer_us as u64 * 1000, warns: true, ..self.striped() }
    }
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Verdict {
    /// It is sent.
    Send = 0,
    /// It is sent with a congestion mark.
    Mark = 1,
    /// It is dropped.
    Drop = 2,
}

/// 1 / sqrt(count) of the interval, nanoseconds: the time to the next drop (RFC 8289 section 5.3).
///
/// Three Newton steps from a straight line over [1, 4), to which the count is scaled by a power of four.
#[expect(clippy::manual_ilog2, reason = "ilog2 looks for a zero that cannot be; its panic would not load as BPF")]
#[inline(always)]
const fn spacing(count: u32, interval_ns: u64) -> u64 {
    const ONE: u64 = 1 << 30;
    let half = (31 - (count | 1).leading_zeros()) / 2;
    let scaled = (count as u64) << (30 - 2 * half);
    // From 1 for 1 to 1/2 for 4.
    let mut root = (7 * ONE - scaled) / 6;
    let mut step = 0;
    while step < 3 {
        let square = (root * root) >> 30;
        root = (root * (3 * ONE - ((scaled * square) >> 30))) >> 31;
        step += 1;
    }
    (interval_ns * root) >> 30 >> half
}

impl PathClock {
    /// How long a packet that comes now will wait, nanoseconds. Not longer than the limit, whatever the clock or the
    /// rate was before.
    #[inline(always)]
    const fn queue_ns(&self, now: u64, limit: u64) -> u64 {
        let ahead = self.next_free_ns.saturating_sub(now);
        if ahead < limit { ahead } else { limit }
    }

    /// Lets a packet pass that is not refused here. Returns when it leaves the queue.
    #[inline(always)]
    pub const fn carry(&mut self, now: u64, pace: Pace) -> u64 {
        let leaves = now + self.queue_ns(now, pace.longest_ns());
        self.next_free_ns = leaves + pace.duration_ns;
        leaves
    }

    /// The same for a packet that the clock of its peer's whole bond has let pass: it counts what the path is asked for, and
    /// takes its share of the drops that are due here, although it is the bond that drops it. Otherwise the few packets
    /// of other flows would have to make up for a queue that is not theirs.
    #[inline(always)]
    pub const fn carry_striped(&mut self, now: u64, pace: Pace) -> u64 {
        self.judge(now, self.queue_ns(now, pace.longest_ns()), pace, true);
        let leaves = self.carry(now, pace);
        if leaves - now > pace.target_ns {
            self.pressed += 1;
        }
        leaves
    }

    /// Decides about a packet of a bond at the time `now`, whose first free path is free at `free_ns`. `pace` is that of
    /// all members together.
    #[inline(always)]
    pub const fn admit_to_bond(&mut self, now: u64, free_ns: u64, pace: Pace, is_capable: bool) -> Verdict {
        self.next_free_ns = free_ns;
        self.admit(now, pace, is_capable)
    }

    /// Decides about a packet at the time `now`, and counts it. `is_capable`: its flow hears of congestion marks.
    #[inline(always)]
    pub const fn admit(&mut self, now: u64, pace: Pace, is_capable: bool) -> Verdict {
        let queue = self.queue_ns(now, pace.longest_ns());
        let verdict = self.judge(now, queue, pace, is_capable);
        if queue > pace.target_ns {
            self.pressed += 1;
        }
        self.next_free_ns = now + queue;
        match verdict {
            Verdict::Drop => {
                self.dropped += 1;
                return verdict;
            }
            Verdict::Mark => self.marked += 1,
            Verdict::Send => {}
        }
        self.next_free_ns += pace.duration_ns;
        verdict
    }

    #[inline(always)]
    const fn judge(&mut self, now: u64, queue: u64, pace: Pace, is_capable: bool) -> Verdict {
        if queue == 0 || self.busy_since_ns > now {
            self.busy_since_ns = now;
        }
        if queue <= pace.target_ns {
            self.above_since_ns = 0;
            self.is_dropping = 0;
            return Verdict::Send;
        }
        if self.above_since_ns == 0 || self.above_since_ns > now {
            self.above_since_ns = now;
        }
        let standing = now - self.above_since_ns;
        let least = pace.target_ns * STANDING_TARGETS;
        let burst = pace.target_ns * pace.burst_targets;
        let shrunk = burst.saturating_sub(standing.saturating_sub(pace.interval_ns) >> SHRINK_SHIFT);
        if queue + pace.duration_ns > (if shrunk > least { shrunk } else { least }) {
            return Verdict::Drop;
        }
        let is_dropping = self.is_dropping == DROPPING;
        let is_warned = !is_dropping && now < self.drop_next_ns && self.drop_next_ns - now <= LONGEST_WARNED_NS;
        if standing < pace.interval_ns || is_warned {
            let busy = now - self.busy_since_ns;
            // Packets that are held for different times have different intervals: what drops by one of them does not warn.
            if !pace.warns || is_warned || is_dropping || busy < pace.warned_from_ns() || queue < busy / RISING_PART {
                return Verdict::Send;
            }
            // What was enough when packets were dropped last need not be for who begins now.
            self.last_count = self.count;
            // For as long as it takes to hear and to obey.
            self.is_dropping = WARNED;
            self.drop_next_ns = now + WARNED_FOR * pace.interval_ns;
            return if is_capable { Verdict::Mark } else { Verdict::Drop };
        }
        if self.is_dropping != DROPPING {
            // It may have ended just now, and not by itself: begin with the pace that was enough.
            let enough = self.count.wrapping_sub(self.last_count);
            let is_recent = now < self.drop_next_ns.saturating_add(MEMORY_INTERVALS * pace.interval_ns);
            self.count = if enough > 1 && is_recent { enough } else { 1 };
            self.last_count = self.count;
            self.is_dropping = DROPPING;
        } else if now < self.drop_next_ns && self.drop_next_ns - now <= pace.interval_ns {
            return Verdict::Send;
        } else {
            self.count = self.count.saturating_add(1);
        }
        // From now on, not from the time that was planned: packets come one by one here, and there is no queue from
        // whose front those that are overdue could be taken.
        self.drop_next_ns = now + spacing(self.count, pace.interval_ns);
        if is_capable { Verdict::Mark } else { Verdict::Drop }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::{
        cmp::Reverse,
        collections::{BinaryHeap, VecDeque},
        vec::Vec,
    };

    use bytemuck::Zeroable;
    use proptest::prelude::*;

    use super::*;

    const MS: u64 = 1_000_000;
    const SECOND: u64 = 1000 * MS;

    fn pace(rate_kbps: u32, len: u32) -> Pace {
        Pace::new(NonZeroU32::new(rate_kbps).unwrap(), len)
    }

    /// A bottleneck that works on one packet after another: the bits of each that are still to be sent, scaled by 10^6
    /// so that a nanosecond at 1 kbit/s is one.
    struct Bottleneck {
        rate_kbps: u32,
        waiting: VecDeque<u128>,
    }

    impl Bottleneck {
        fn work(&mut self, nanoseconds: u64) {
            let mut budget = u128::from(nanoseconds) * u128::from(self.rate_kbps);
            while let Some(first) = self.waiting.front_mut() {
                if *first > budget {
                    *first -= budget;
                    return;
                }
                budget -= *first;
                self.waiting.pop_front();
            }
        }

        fn join(&mut self, len: u32) {
            self.waiting.push_back(u128::from(len) * 8_000_000);
        }

        fn wait_ns(&self) -> u64 {
            u64::try_from(self.waiting.iter().sum::<u128>() / u128::from(self.rate_kbps)).unwrap()
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    #[test]
    fn spacing_is_the_interval_over_the_root() {
        for count in (1..5000).chain((0..32).map(|bit| 1 << bit)).chain([u32::MAX, 0x5555_5555]) {
            let exact = INTERVAL_NS as f64 / f64::from(count).sqrt();
            assert!(
                (spacing(count, INTERVAL_NS) as f64 / exact - 1.0).abs() < 1e-3,
                "{count}: {} instead of {exact}",
                spacing(count, INTERVAL_NS)
            );
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    #[test]
    fn a_packet_takes_its_bits_over_the_rate() {
        for rate in [1, 7, 640, 10_000, 123_457, 1_000_000, 100_000_000] {
            for len in [1, 40, 1500, 9000, 65_535] {
                let exact = f64::from(len) * 8e6 / f64::from(rate);
                let duration = pace(rate, len).duration_ns as f64;
                assert!((duration - exact).abs() <= 1.0 + exact * 2e-4, "{len} at {rate}: {duration}, not {exact}");
            }
        }
        assert_eq!((pace(10_000, 1500).target_ns, pace(1000, 40).target_ns), (10 * MS, 24 * MS));
    }

    /// Packets that come at these times, nanoseconds, of 1500 bytes by a bond of 10 Mbit/s: how many are dropped, and how
    /// long the queue is when the first is.
    fn dropped(times: impl Iterator<Item = u64>) -> (u64, u64) {
        let (mut clock, mut queue) = (PathClock::zeroed(), 0);
        for now in times.map(|time| SECOND + time) {
            let free_ns = clock.next_free_ns;
            if clock.admit(now, pace(10_000, 1500).held(60_000), false) == Verdict::Drop && clock.dropped == 1 {
                queue = free_ns - now;
            }
        }
        (clock.dropped, queue)
    }

    #[expect(clippy::cast_sign_loss, reason = "times that are not negative")]
    #[test]
    fn who_begins_is_warned_by_one_packet_and_bursts_are_not() {
        // A rate that doubles every 100 ms, from an eighth of what passes to two and a half times as much.
        let (mut time, mut times) = (0.0_f64, Vec::new());
        while time < 430.0 {
            times.push((time * 1e6) as u64);
            time += 1.2 * 8.0 / (time / 100.0).exp2();
        }
        let (count, queue) = dropped(times.into_iter());
        assert!(count == 1 && (10 * MS..30 * MS).contains(&queue), "{count} at {queue}");
        for spread in [0, 5, 15] {
            assert_eq!(dropped((0..60).map(|packet| packet * spread * MS / 60)).0, 0, "72 ms within {spread} ms");
        }
        // Slow start with half of what fills the path: a round trip of 60 ms, and two packets for each that has passed.
        let round = (0..50).map(|packet| packet * 600_000);
        assert_eq!(dropped((0..20).flat_map(|number| round.clone().map(move |at| number * 60 * MS + at))).0, 0);
        assert_eq!(dropped((0..300).map(|packet| packet * 1_160_000)).0, 0, "three percent too much");
    }

    proptest! {
        /// What the clock says is what a bottleneck does, and what data makes of it stays within the limit.
        #[test]
        fn the_clock_is_the_queue(
            rate in 500u32..1_000_000, start in 0u64..1 << 60,
            packets in prop::collection::vec((0u64..3_000, 40u32..1500, any::<bool>(), 0u8..10), 1..600)
        ) {
            let mut clock = PathClock::zeroed();
            let mut bottleneck = Bottleneck { rate_kbps: rate, waiting: VecDeque::new() };
            let mut now = start;
            for (count, (gap, len, is_capable, kind)) in packets.into_iter().enumerate() {
                // Gaps in thousandths of the time that a packet takes.
                let gap = gap * pace(rate, 1500).duration_ns / 1000;
                now += gap;
                bottleneck.work(gap);
                let packet = pace(rate, len);
                let (wait, limit, longest) = (bottleneck.wait_ns(), packet.target_ns * packet.burst_targets, packet.longest_ns());
                let said = clock.next_free_ns.saturating_sub(now);
                // Every packet is rounded by a nanosecond, or by 2^-16 nanoseconds a byte at great rates.
                let slack = 2 * count as u64 + wait / 5000;
                prop_assert!(said <= wait && wait <= said + slack, "packet {count}: {said} instead of {wait}");
                if kind == 0 && wait + packet.duration_ns <= longest {
                    clock.carry(now, packet);
                    bottleneck.join(len);
                } else if clock.admit(now, packet, is_capable) != Verdict::Drop {
                    bottleneck.join(len);
                    prop_assert!(clock.next_free_ns - now <= limit);
                    prop_assert!(said + packet.duration_ns <= limit);
                }
            }
            prop_assert!(clock.marked == 0 || clock.pressed >= clock.marked);
        }

        /// Whatever stands in the clock and whichever way time goes: after a second of silence it takes packets.
        #[test]
        fn nothing_blocks_a_path_for_long(
            next_free_ns in any::<u64>(), above_since_ns in any::<u64>(), drop_next_ns in any::<u64>(),
            count in any::<u32>(), last_count in any::<u32>(), is_dropping in 0u32..3, busy_since_ns in any::<u64>(),
            held_us in prop::option::of(0u32..1_000_000),
            rate in 500u32..10_000_000, times in prop::collection::vec(0u64..1 << 62, 1..20)
        ) {
            let mut clock = PathClock {
                next_free_ns, busy_since_ns, above_since_ns, drop_next_ns, count, last_count, is_dropping, ..PathClock::zeroed()
            };
            let pace = pace(rate, 1500);
            let pace = held_us.map_or(pace, |us| pace.held(us));
            for now in times {
                let _ = clock.admit(now, pace, false);
                prop_assert!(clock.next_free_ns <= now + pace.longest_ns() + pace.duration_ns);
                prop_assert_eq!(clock.admit(now + 2 * SECOND, pace, false), Verdict::Send);
            }
        }
    }

    #[test]
    fn a_burst_passes_after_idleness() {
        for rate in [640, 2400, 10_000, 1_000_000] {
            let mut clock = PathClock::zeroed();
            for burst in 1..20 {
                let now = burst * SECOND;
                // The first window of a TCP connection (RFC 6928).
                for _ in 0..10 {
                    assert_eq!(clock.admit(now, pace(rate, 1500), false), Verdict::Send, "{rate}");
                }
            }
        }
    }

    /// Sends packets in even steps; the mean queue of each second, and the percentage of the rate that passes.
    fn flood(clock: &mut PathClock, rate: u32, sent_kbps: u32, seconds: u64) -> (Vec<u64>, u64) {
        let mut means = Vec::new();
        let mut passed = 0;
        let gap = pace(sent_kbps, 1500).duration_ns;
        for second in 1..=seconds {
            let (mut sum, mut count) = (0, 0);
            let mut now = second * SECOND;
            while now < (second + 1) * SECOND {
                if clock.admit(now, pace(rate, 1500), false) != Verdict::Drop {
                    passed += 12;
                    (sum, count) = (sum + clock.next_free_ns - now, count + 1);
                }
                now += gap;
            }
            means.push(sum / count);
        }
        (means, passed * 100 / (u64::from(rate) * seconds))
    }

    #[test]
    fn a_thin_flow_does_not_pay_for_what_is_striped() {
        let mut clock = PathClock::zeroed();
        let (mut sent, mut next) = (0, SECOND);
        // A striped flow whose queue goes up and down between 8 ms and 18 ms every second, and 50 small packets a second.
        for now in (SECOND..61 * SECOND).step_by(500_000) {
            let depth = 8 * MS + (now % SECOND).abs_diff(SECOND / 2) / 50;
            while clock.next_free_ns.saturating_sub(now) < depth {
                clock.carry_striped(now, pace(10_000, 1500));
            }
            if now >= next {
                clock.admit(now, pace(10_000, 200), false);
                (sent, next) = (sent + 1, next + 20 * MS);
            }
        }
        assert!(sent == 3000 && clock.dropped < sent / 10, "{} of {sent} dropped", clock.dropped);
    }

    #[test]
    fn who_does_not_listen_stands_at_two_targets() {
        for (rate, sent) in [(10_000, 10_500), (10_000, 15_000), (10_000, 100_000), (200_000, 1_000_000)] {
            let target = pace(rate, 1500).target_ns;
            let (means, percent) = flood(&mut PathClock::zeroed(), rate, sent, 5);
            assert!(means[1..].iter().all(|&mean| mean <= STANDING_TARGETS * target), "{sent} at {rate}: {means:?}");
            assert!((99..=101).contains(&percent), "{sent} at {rate}: {percent} % pass");
        }
        let mut clock = PathClock::zeroed();
        let (means, _) = flood(&mut clock, 10_000, 9_900, 5);
        assert!(means.iter().all(|&mean| mean < 2 * MS) && clock.pressed + clock.dropped == 0, "{means:?}");
    }

    /// One flow with a congestion window over the bottleneck: one packet more in a round trip, 0.7 of it after a loss or
    /// a mark (RFC 9438 without its cubic growth). Returns the mean queue of the packets that passed, milliseconds, and
    /// the percentage of the rate that passed, both after the first five seconds.
    #[expect(clippy::cast_precision_loss, reason = "a simulation")]
    fn responsive(rate: u32, round_trip: u64, flows: usize, is_capable: bool) -> (f64, f64) {
        const LEN: u32 = 1500;
        let mut clock = PathClock::zeroed();
        let mut windows: Vec<(f64, f64, u64)> = std::vec![(10.0, f64::MAX, 0); flows];
        // When who hears what of one packet.
        let mut news: BinaryHeap<Reverse<(u64, usize, bool)>> = BinaryHeap::new();
        let mut under_way = std::vec![0_u32; flows];
        let (mut queues, mut passed) = (Vec::new(), 0_u64);
        let mut now = SECOND;
        let end = 30 * SECOND;
        while now < end {
            for flow in 0..flows {
                while f64::from(under_way[flow]) < windows[flow].0 {
                    let verdict = clock.admit(now, pace(rate, LEN), is_capable);
                    let queue = clock.next_free_ns.saturating_sub(now);
                    if verdict != Verdict::Drop && now > 6 * SECOND {
                        queues.push(queue);
                        passed += u64::from(LEN);
                    }
                    news.push(Reverse((now + queue + round_trip, flow, verdict == Verdict::Send)));
                    under_way[flow] += 1;
                }
            }
            let Some(Reverse((time, flow, is_good))) = news.pop() else { break };
            now = time;
            under_way[flow] -= 1;
            let (window, threshold, recovered) = &mut windows[flow];
            if is_good {
                *window += if *window < *threshold { 1.0 } else { 1.0 / *window };
            } else if now >= *recovered {
                *window = (*window * 0.7).max(2.0);
                *threshold = *window;
                *recovered = now + round_trip;
            }
        }
        let mean = queues.iter().sum::<u64>() as f64 / queues.len() as f64 / MS as f64;
        (mean, passed as f64 * 8e6 / f64::from(rate) / (end - 6 * SECOND) as f64 * 100.0)
    }

    #[test]
    fn who_listens_waits_little_and_fills_the_path() {
        for (rate, round_trip, flows) in
            [(10_000, 20, 1), (10_000, 50, 1), (4000, 40, 1), (20_000, 40, 4), (50_000, 60, 1), (10_000, 30, 16)]
        {
            for is_capable in [false, true] {
                let (mean, percent) = responsive(rate, round_trip * MS, flows, is_capable);
                let case = std::format!("{rate} kbit/s, {round_trip} ms, {flows} flows, ECN {is_capable}");
                assert!(mean < 20.0 && percent > 85.0, "{case}: mean queue {mean:.1} ms, {percent:.0} % pass");
            }
        }
    }
}
