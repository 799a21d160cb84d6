//! Delivery by time: when packets are due, and how late a path's packets come. The maps, and their places in
//! [`crate::maps`]' table:
//!
//! | map | kind | key | value | writer |
//! | --- | --- | --- | --- | --- |
//! | `playouts` | array | peer number | [`Playout`] | daemon |
//! | `playout_stage` | array | 0 | [`Stage`] | playout stage |
//! | `held` | ring buffer | | [`HeldHeader`], then the inner packet | programs |
//! | `held_scratch` | per-CPU array | 0 | [`HeldPacket`] | programs |
//!
//! Transit times are those of [`crate::transit`]: the receiver's clock minus the sender's, microseconds, wrapping.

use crate::{
    maps::{MAX_PATHS, Shared, shared},
    quality::Arrivals,
    transit::JITTER_SHIFT,
};

/// Bytes of the ring buffer of `held`: a tenth of a second at 300 Mbit/s, that the stage may be late.
pub const HELD_LEN: usize = 1 << 22;
/// Longest inner packet that is held, bytes; a longer one is delivered at once.
pub const MAX_HELD_LEN: usize = 9216;
/// Largest spread: longer than this no packet is held, whatever was measured or configured, microseconds.
pub const MAX_SPREAD_US: u32 = 600_000;

shared! {
    /// When packets of a peer are due that are delivered by time.
    pub struct Playout {
        /// Transit time of the nearest path.
        pub near_us: u32,
        /// How much longer than that fully held packets take: a packet with hold n is due when
        /// `near_us + spread_us * n / 255` have passed since its sender timestamp.
        pub spread_us: u32,
        /// How much longer than by the nearest path nearly all packets take by each path, microseconds, by our path id.
        pub need_us: [u32; MAX_PATHS],
    }

    /// Who holds packets.
    pub struct Stage {
        /// Until when the stage can be relied on, nanoseconds of `CLOCK_BOOTTIME`; it says so again and again.
        pub alive_until_ns: u64,
        /// [`STAGE_NONE`], [`STAGE_LOADER`] or [`STAGE_FQ`].
        pub kind: u32,
        /// 1 while the loader's stage sleeps until it is woken; 0 while it looks into the ring by itself.
        pub is_asleep: u32,
    }

    /// What a packet in the ring begins with.
    pub struct HeldHeader {
        /// Number of the peer.
        pub peer: u32,
        /// Sender timestamp, microseconds of the peer's clock.
        pub timestamp: u32,
        /// How much of D it is held for, n/255.
        pub hold: u32,
        /// Bytes of the inner packet, which follows.
        pub len: u32,
    }
}

/// A packet on its way into the ring.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct HeldPacket {
    /// What it begins with.
    pub header: HeldHeader,
    /// The inner packet; what stands beyond `header.len` has no meaning.
    pub bytes: [u8; MAX_HELD_LEN],
}

/// Nobody holds packets: they are delivered at once.
pub const STAGE_NONE: u32 = 0;
/// The loader's playout stage does.
pub const STAGE_LOADER: u32 = 1;
/// The queueing discipline fq on `mp0-port` does (`net/sched/sch_fq.c`).
pub const STAGE_FQ: u32 = 2;

/// A packet is late when it comes so long after it was due, microseconds. What comes sooner than that still goes through
/// the stage, which looks only so often: delivered at once, it would overtake others.
pub const LATE_US: i32 = 1000;
/// Longest time that a packet is held, microseconds: [`MAX_SPREAD_US`] and the longest virtual queue that the sender may
/// have had wrongly. What would wait longer was sent by another clock than D was measured by.
pub const MAX_WAIT_US: i32 = 1_000_000;

/// Down for each packet that is not above: of so many steps one leads up, so that one in so many is above.
const ONE_IN: u32 = 200;
/// The step down is the jitter through this power of two. (The step up is then a fifth of the jitter.)
const DRIFT_SHIFT: u32 = 10;
/// Longest step down, microseconds.
const MAX_DRIFT_US: u32 = 32;
/// A transit time that differs by more than this from what it should be about, microseconds, is by another clock: the peer
/// was booted. (Twice what is ever waited for.)
const CLOCK_STEP_US: u32 = 1 << 21;

impl Playout {
    /// How long a packet has to wait for its delivery, microseconds, that was sent at `timestamp` of the peer's clock with
    /// a hold of `hold`/255 and is looked at at `now_us` of ours; negative: it was due before.
    #[inline(always)]
    pub const fn wait_us(&self, timestamp: u32, hold: u32, now_us: u32) -> i32 {
        let share_us = self.spread_us as u64 * hold as u64 / 255;
        let due = timestamp.wrapping_add(self.near_us).wrapping_add(share_us as u32);
        due.wrapping_sub(now_us).cast_signed()
    }
}

impl Arrivals {
    /// Takes a packet that is delivered by time, and did not go twice, into `high_us`, `striped_us` and
    /// `striped_jitter_scaled_us`. It was sent at `sent_us` of the sender's clock and came at `came_us` of ours;
    /// `is_first`: there was none before.
    ///
    /// `high_us` goes down a little with every packet and 199 times as far up with one that is above, which balances where
    /// one in 200 is (stochastic approximation: Robbins and Monro, 1951). Two in succession that are above are no
    /// chance: the path has become slower, or a queue has, and it follows at once.
    #[inline(always)]
    pub fn take_striped(&mut self, sent_us: u32, came_us: u32, is_first: bool) {
        let transit = came_us.wrapping_sub(sent_us);
        let above = transit.wrapping_sub(self.high_us).cast_signed();
        if is_first || above.unsigned_abs() > CLOCK_STEP_US {
            self.high_us = transit;
            self.striped_us = transit;
            self.striped_jitter_scaled_us = 0;
            return;
        }
        let last_above = self.striped_us.wrapping_sub(self.high_us).cast_signed();
        let step = transit.wrapping_sub(self.striped_us).cast_signed().unsigned_abs().min(CLOCK_STEP_US);
        let jitter = self.striped_jitter_scaled_us.min(CLOCK_STEP_US << JITTER_SHIFT);
        self.striped_us = transit;
        self.striped_jitter_scaled_us = jitter + step - (jitter >> JITTER_SHIFT);
        let drift = (jitter >> (JITTER_SHIFT + DRIFT_SHIFT)).clamp(1, MAX_DRIFT_US);
        self.high_us = if above > 0 {
            let up = above.min(last_above).max((drift * (ONE_IN - 1)).cast_signed());
            self.high_us.wrapping_add(up.cast_unsigned())
        } else {
            self.high_us.wrapping_sub(drift)
        };
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::vec::Vec;

    use bytemuck::Zeroable;
    use proptest::prelude::*;

    use super::*;

    /// Numbers from 0 to 1 (splitmix64, Steele and others, 2014).
    struct Random(u64);

    impl Random {
        fn uniform(&mut self) -> f64 {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
            f64::from((mixed ^ mixed >> 31) as u32) / f64::from(u32::MAX)
        }

        /// Mean 0, deviation 1: the sum of twelve.
        fn normal(&mut self) -> f64 {
            (0..12).map(|_| self.uniform()).sum::<f64>() - 6.0
        }
    }

    #[derive(Clone, Copy, Debug)]
    enum Delays {
        /// Deviation.
        Normal(f64),
        /// Width.
        Uniform(f64),
        /// Share of the slower ones, by how much they are slower, deviation of both.
        Bimodal(f64, f64, f64),
    }

    impl Delays {
        fn draw(self, random: &mut Random) -> f64 {
            match self {
                Self::Normal(deviation) => random.normal() * deviation,
                Self::Uniform(width) => random.uniform() * width,
                Self::Bimodal(share, slower, deviation) => {
                    (if random.uniform() < share { slower } else { 0.0 }) + random.normal() * deviation
                }
            }
        }
    }

    fn delays() -> impl Strategy<Value = Delays> {
        prop_oneof![
            (0.0..20_000.0).prop_map(Delays::Normal),
            (0.0..60_000.0).prop_map(Delays::Uniform),
            (0.02..0.5, 0.0..100_000.0, 0.0..5_000.0)
                .prop_map(|(share, slower, deviation)| Delays::Bimodal(share, slower, deviation)),
        ]
    }

    /// A path whose packets take what is drawn beyond a constant.
    struct Way {
        arrivals: Arrivals,
        random: Random,
        offset: u32,
        base_us: f64,
        sent_us: u32,
    }

    impl Way {
        fn new(seed: u64, offset: u32) -> Self {
            Self { arrivals: Arrivals::zeroed(), random: Random(seed), offset, base_us: 100_000.0, sent_us: 0 }
        }

        /// One packet more; returns how long it took beyond the unknown offset of the clocks.
        #[expect(clippy::cast_sign_loss, reason = "it is not negative")]
        fn pass(&mut self, delays: Delays) -> f64 {
            let transit = (self.base_us + delays.draw(&mut self.random)).max(0.0).round();
            self.sent_us = self.sent_us.wrapping_add(1000);
            let is_first = self.arrivals.striped == 0;
            self.arrivals.striped += 1;
            let came = self.sent_us.wrapping_add(self.offset).wrapping_add(transit as u32);
            self.arrivals.take_striped(self.sent_us, came, is_first);
            transit
        }

        fn high(&self) -> f64 {
            f64::from(self.arrivals.high_us.wrapping_sub(self.offset).cast_signed())
        }
    }

    proptest! {
        #[test]
        fn one_in_two_hundred_is_above(delays in delays(), seed: u64, offset: u32) {
            const PACKETS: u32 = 40_000;
            let mut way = Way::new(seed, offset);
            for _ in 0..10_000 {
                way.pass(delays);
            }
            let (mut above, mut sum) = (0, 0.0);
            let mut transits: Vec<f64> = (0..PACKETS)
                .map(|_| {
                    let high = way.high();
                    let transit = way.pass(delays);
                    above += u32::from(transit > high);
                    sum += high;
                    transit
                })
                .collect();
            // A tenth of a percent would be the deviation of the number itself, were it counted against a constant.
            prop_assert!((PACKETS / 500..=PACKETS / 110).contains(&above), "{above} of {PACKETS} above");
            transits.sort_by(f64::total_cmp);
            let median = transits[transits.len() / 2];
            let quantile = transits[transits.len() - (PACKETS / ONE_IN) as usize];
            let mean = sum / f64::from(PACKETS);
            prop_assert!((mean - quantile).abs() <= 300.0 + (quantile - median) * 0.25, "{mean}, not {quantile}, median {median}");
        }

        #[test]
        fn a_slower_path_is_followed_at_once(delays in delays(), seed: u64, offset: u32, slower in 0.0..1_000_000.0) {
            let mut way = Way::new(seed, offset);
            for _ in 0..5000 {
                way.pass(delays);
            }
            let before = way.high();
            way.base_us += slower;
            let transits: Vec<f64> = (0..8).map(|_| way.pass(delays)).collect();
            let least = transits.iter().copied().fold(f64::MAX, f64::min);
            prop_assert!(way.high() >= least.min(before + slower) - 1000.0, "{} after {before}, {transits:?}", way.high());
        }

        #[test]
        fn any_times_are_taken(times in prop::collection::vec((any::<u32>(), any::<u32>()), 0..100), high: u32, striped: u32, jitter: u32) {
            let (high_us, striped_us, striped_jitter_scaled_us) = (high, striped, jitter);
            let mut arrivals = Arrivals { high_us, striped_us, striped_jitter_scaled_us, ..Arrivals::zeroed() };
            for (sent, came) in times {
                arrivals.take_striped(sent, came, false);
                prop_assert_eq!(arrivals.striped_us, came.wrapping_sub(sent));
            }
        }

        #[test]
        fn waiting_is_the_rest_of_the_time(sent: u32, offset: u32, near in 0_u32..600_000, spread in 0..=MAX_SPREAD_US, hold: u8, transit in 0_u32..2_000_000) {
            let playout = Playout { near_us: near.wrapping_add(offset), spread_us: spread, ..Playout::zeroed() };
            let now = sent.wrapping_add(offset).wrapping_add(transit);
            let expected = f64::from(near) + f64::from(spread) * f64::from(hold) / 255.0 - f64::from(transit);
            let wait = f64::from(playout.wait_us(sent, hold.into(), now));
            prop_assert!((expected - wait).abs() <= 1.0, "{wait}, not {expected}");
        }

        #[test]
        fn any_wait_is_said(near_us: u32, spread_us: u32, sent: u32, hold: u32, now: u32) {
            Playout { near_us, spread_us, ..Playout::zeroed() }.wait_us(sent, hold, now);
        }
    }

    #[test]
    fn the_first_packet_says_all_that_is_known() {
        let mut way = Way::new(1, 3_000_000_000);
        let transit = way.pass(Delays::Uniform(50_000.0));
        assert!((way.high() - transit).abs() < 1.0);
    }

    #[test]
    fn a_single_late_packet_moves_it_by_one_step() {
        let mut way = Way::new(1, 0);
        for _ in 0..1000 {
            way.pass(Delays::Normal(100.0));
        }
        let before = way.high();
        way.base_us += 200_000.0;
        way.pass(Delays::Normal(100.0));
        way.base_us -= 200_000.0;
        way.pass(Delays::Normal(100.0));
        assert!((way.high() - before).abs() < 200.0, "{} after {before}", way.high());
    }

    #[test]
    fn another_clock_begins_anew() {
        let mut way = Way::new(1, 77);
        for _ in 0..1000 {
            way.pass(Delays::Normal(1000.0));
        }
        for offset in [3_000_000_000, 5_000_000, 0] {
            way.offset = offset;
            let transit = way.pass(Delays::Normal(1000.0));
            assert!((way.high() - transit).abs() < 1.0, "{} and {transit}", way.high());
        }
    }
}
