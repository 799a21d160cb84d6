//! What the times of packets that come over a path say about it: transit time, jitter, order.
//!
//! A transit time is the receiver's clock at arrival minus the sender's at departure, microseconds, wrapping: the
//! one-way delay plus an unknown, so only differences mean anything.

use crate::{
    control::REPLY_LEN,
    quality::Arrivals,
    wire::{DataHeader, PacketType},
};

/// A packet is late when it took so much longer than the smoothed transit time plus four times the jitter,
/// microseconds. A path without jitter of its own has that of the processors at both ends, some hundred microseconds;
/// and nobody who waits for packets out of order gives up sooner.
const LATE_MARGIN_US: u32 = 1000;
/// Clocks or order that differ by more than this from one packet to the next, microseconds (67 s), say nothing: the
/// sender has another clock (it was booted), or was silent for so long that its timestamps have wrapped.
const MAX_STEP_US: u32 = 1 << 26;
/// The smoothed transit time follows by this power of two: an eighth of the difference (as RFC 6298 section 2.3 has it
/// for round trips).
const SMOOTHING_SHIFT: u32 = 3;
/// Jitter is kept times 16, and follows by a sixteenth (RFC 3550 appendix A.8).
pub const JITTER_SHIFT: u32 = 4;

/// Whether a packet tells by its arrival, or by being lost, how its path is: not one that goes by another path as well,
/// nor a padded probe, which is meant to be lost when it is longer than the path carries. Both ends go by this.
#[inline(always)]
pub const fn tells(header: &DataHeader, payload_len: u32) -> bool {
    match header.packet_type {
        PacketType::Control => payload_len <= REPLY_LEN as u32,
        _ => !header.flags.class.is_doubled(),
    }
}

/// What is special about a packet that came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// One that was sent after it has come already.
    pub is_reordered: bool,
    /// It came later than the path's usual transit time and jitter explain.
    pub is_late: bool,
}

impl Arrivals {
    /// Takes a packet into `timestamp`, `transit_us`, `smoothed_us` and `jitter_scaled_us` that was sent at `sent_us` of
    /// the sender's clock and came at `came_us` of ours.
    #[inline(always)]
    pub const fn take(&mut self, sent_us: u32, came_us: u32) -> Seen {
        let transit = came_us.wrapping_sub(sent_us);
        let step = transit.wrapping_sub(self.transit_us).cast_signed().unsigned_abs();
        self.transit_us = transit;
        if self.is_begun == 0 || step > MAX_STEP_US {
            self.timestamp = sent_us;
            self.smoothed_us = transit;
            self.jitter_scaled_us = 0;
            self.is_begun = 1;
            return Seen { is_reordered: false, is_late: false };
        }
        let smoothed = self.smoothed_us;
        let jitter = self.jitter_scaled_us;
        let excess = transit.wrapping_sub(smoothed).cast_signed();
        self.smoothed_us = smoothed.wrapping_add((excess >> SMOOTHING_SHIFT).cast_unsigned());
        self.jitter_scaled_us = jitter + step - ((jitter + (1 << (JITTER_SHIFT - 1))) >> JITTER_SHIFT);
        // Four times the jitter is a quarter of the scaled one.
        let is_late = excess > (LATE_MARGIN_US + (jitter >> (JITTER_SHIFT - 2))).cast_signed();
        let behind = self.timestamp.wrapping_sub(sent_us);
        let is_reordered = behind != 0 && behind <= MAX_STEP_US;
        if !is_reordered {
            self.timestamp = sent_us;
        }
        Seen { is_reordered, is_late }
    }

    /// The jitter as replies tell it, microseconds.
    #[inline(always)]
    pub const fn jitter_us(&self) -> u32 {
        self.jitter_scaled_us >> JITTER_SHIFT
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::vec::Vec;

    use bytemuck::Zeroable;
    use proptest::prelude::*;

    use super::*;

    /// The same in floating point, with times that never wrap.
    #[derive(Default)]
    struct Naive {
        newest: Option<f64>,
        transit: f64,
        smoothed: f64,
        jitter: f64,
    }

    impl Naive {
        /// Returns by how much the packet was sent before the newest one, and by how much it was late.
        fn take(&mut self, sent: f64, came: f64) -> (f64, f64) {
            let transit = came - sent;
            let Some(newest) = self.newest else {
                *self = Self { newest: Some(sent), transit, smoothed: transit, jitter: 0.0 };
                return (0.0, f64::MIN);
            };
            let late = transit - self.smoothed - 4.0 * self.jitter - f64::from(LATE_MARGIN_US);
            self.smoothed += (transit - self.smoothed) / 8.0;
            self.jitter += ((transit - self.transit).abs() - self.jitter) / 16.0;
            self.transit = transit;
            self.newest = Some(newest.max(sent));
            (newest - sent, late)
        }
    }

    /// A packet every so often, and how long each takes.
    fn packets() -> impl Strategy<Value = Vec<(u32, u32)>> {
        let steady = (1u32..100_000, 0u32..2_000);
        let shaky = (1u32..100_000, 0u32..1_000_000);
        prop_oneof![prop::collection::vec(steady, 1..300), prop::collection::vec(shaky, 1..300)]
    }

    proptest! {
        #[test]
        fn integers_do_what_real_numbers_would(packets in packets(), sender: u32, receiver: u32) {
            let mut arrivals = Arrivals::zeroed();
            let mut naive = Naive::default();
            let mut sent = 0_u32;
            // In the order in which they come.
            let mut came: Vec<(u32, u32)> = packets
                .iter()
                .map(|&(gap, delay)| {
                    sent += gap;
                    (sent + delay, sent)
                })
                .collect();
            came.sort_unstable();
            for (came, sent) in came {
                let seen = arrivals.take(sender.wrapping_add(sent), receiver.wrapping_add(came));
                let (behind, late) = naive.take(sent.into(), came.into());
                prop_assert_eq!(seen.is_reordered, behind > 0.0);
                let offset = receiver.wrapping_sub(sender);
                let smoothed = f64::from(arrivals.smoothed_us.wrapping_sub(offset).cast_signed());
                prop_assert!((smoothed - naive.smoothed).abs() <= 9.0, "{smoothed} and {}", naive.smoothed);
                let jitter = f64::from(arrivals.jitter_scaled_us) / 16.0;
                prop_assert!((jitter - naive.jitter).abs() <= 1.0, "{jitter} and {}", naive.jitter);
                // Both differ from the real numbers by less than this.
                prop_assert!(seen.is_late == (late > 0.0) || late.abs() <= 15.0, "late by {late}");
            }
        }

        #[test]
        fn any_times_are_taken(times in prop::collection::vec((any::<u32>(), any::<u32>()), 0..100), mut arrivals in any_arrivals()) {
            for (sent, came) in times {
                arrivals.take(sent, came);
                prop_assert_eq!(arrivals.transit_us, came.wrapping_sub(sent));
                prop_assert!(arrivals.jitter_scaled_us <= 16 * MAX_STEP_US + 8);
            }
        }
    }

    fn any_arrivals() -> impl Strategy<Value = Arrivals> {
        any::<(u32, u32, u32)>().prop_map(|(timestamp, transit_us, smoothed_us)| Arrivals {
            timestamp,
            transit_us,
            smoothed_us,
            is_begun: 1,
            ..Arrivals::zeroed()
        })
    }

    #[test]
    fn another_clock_begins_anew() {
        let mut arrivals = Arrivals::zeroed();
        for at in 0..100 {
            assert_eq!(arrivals.take(at * 1000, 5_000_000 + at * 1000 + at % 7 * 100), Seen::default());
        }
        // The peer was booted: its clock begins at zero.
        assert_eq!(arrivals.take(7, 500_000_000), Seen::default());
        assert_eq!((arrivals.smoothed_us, arrivals.jitter_scaled_us, arrivals.timestamp), (499_999_993, 0, 7));
    }

    #[test]
    fn silence_is_no_disorder() {
        let mut arrivals = Arrivals::zeroed();
        arrivals.take(1000, 1500);
        // Forty minutes, more than half of what a timestamp can say.
        let later = 2_400_000_000;
        assert_eq!(arrivals.take(1000 + later, 1500 + later), Seen::default());
        assert_eq!(arrivals.take(2000 + later, 2500 + later), Seen::default());
        assert_eq!(arrivals.take(1500 + later, 2600 + later), Seen { is_reordered: true, is_late: false });
    }
}
