//! Striping: which path the next packet of an aggregate flow takes.
//!
//! It is the one whose virtual transmit clock ([`crate::pacing`]) is free first. So every path is sent just what its own
//! rate carries, however long its delay is, and all of them together are one link with the sum of their rates. When a packet leaves
//! its virtual queue is its sender timestamp, and those of one flow only grow: the peer delivers by them.
//!
//! Two processors may choose at the same time. Each clock is advanced under its lock, so none of them ever says less
//! than what was sent; but both may take the same path for the one that is free first, and the later of them waits there for the other's
//! packet. Its timestamp says so, because it is made of what the clock was when it was advanced.

/// Longer idleness than this is not told apart, nanoseconds.
const MAX_IDLE_NS: u64 = 1 << 30;
/// Timestamps of a flow that lie so far ahead of the clock are not its own, microseconds: a whole queue is shorter.
const MAX_AHEAD_US: u32 = 1 << 20;

/// The path that is free first, of those that were offered.
#[derive(Clone, Copy, Debug)]
pub struct Soonest {
    /// Now, nanoseconds.
    pub now_ns: u64,
    /// When the packet would leave its virtual queue, or arrive: its handicap is part of it.
    pub at_ns: u64,
    /// When its clock is free; in the past while the path is idle.
    pub free_ns: u64,
    /// What could have passed since, in millionths of a bit.
    unused: u64,
    /// Rate of all that were offered, kbit/s.
    pub rate_kbps: u32,
    /// Its path id + 1; 0: none was offered.
    pub found: u32,
}

impl Soonest {
    /// Nothing is offered yet.
    #[inline(always)]
    pub const fn new(now_ns: u64) -> Self {
        Self { now_ns, at_ns: u64::MAX, free_ns: 0, unused: 0, rate_kbps: 0, found: 0 }
    }

    /// Offers a path whose clock is free at `free_ns`, and which counts as `handicap_us` later than that. Of paths that are
    /// idle and equal in that, the one is taken that has left most of its rate unused since: so they share what is less
    /// than all of them carry, in proportion to their rates.
    #[inline(always)]
    pub const fn offer(&mut self, path: u8, free_ns: u64, handicap_us: u32, rate_kbps: u32) {
        let now = self.now_ns;
        let (start, idle) = if free_ns > now { (free_ns, 0) } else { (now, now - free_ns) };
        let unused = (if idle < MAX_IDLE_NS { idle } else { MAX_IDLE_NS }) * rate_kbps as u64;
        let at = start + handicap_us as u64 * 1000;
        self.rate_kbps = self.rate_kbps.saturating_add(rate_kbps);
        if self.found == 0 || at < self.at_ns || at == self.at_ns && unused > self.unused {
            self.at_ns = at;
            self.free_ns = free_ns;
            self.unused = unused;
            self.found = path as u32 + 1;
        }
    }

    /// How long a packet waits for it, nanoseconds.
    #[inline(always)]
    pub const fn wait_ns(&self) -> u64 {
        self.free_ns.saturating_sub(self.now_ns)
    }
}

/// The sender timestamp of a packet that leaves its virtual queue at `leaves_ns`, after one with the timestamp `last` of
/// the same flow: strictly later than that. Microseconds, wrapping.
#[inline(always)]
pub const fn timestamp(last: u32, leaves_ns: u64) -> u32 {
    let leaves = (leaves_ns / 1000) as u32;
    if last.wrapping_sub(leaves) < MAX_AHEAD_US { last.wrapping_add(1) } else { leaves }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use core::num::NonZeroU32;
    use std::vec::Vec;

    use bytemuck::Zeroable;
    use proptest::prelude::*;

    use super::*;
    use crate::{pacing::Pace, quality::PathClock};

    const MS: u64 = 1_000_000;
    const SECOND: u64 = 1000 * MS;

    fn pace(rate_kbps: u32, len: u32) -> Pace {
        Pace::new(NonZeroU32::new(rate_kbps).unwrap(), len)
    }

    /// A link that sends one packet after another: exact, in units of 1/rate nanoseconds per bit scaled by 10^6.
    #[derive(Debug)]
    struct Link {
        rate_kbps: u32,
        /// When it has sent everything, times `rate_kbps`.
        ends: u128,
        delay_ns: u64,
        bytes: u64,
    }

    impl Link {
        fn new(rate_kbps: u32, delay_ns: u64) -> Self {
            Self { rate_kbps, ends: 0, delay_ns, bytes: 0 }
        }

        /// When a packet that joins now begins to be sent, nanoseconds.
        fn starts(&self, now: u64) -> u64 {
            u64::try_from(self.ends / u128::from(self.rate_kbps)).unwrap().max(now)
        }

        /// Sends a packet; when it has arrived.
        fn send(&mut self, now: u64, len: u32) -> u64 {
            self.ends = self.ends.max(u128::from(now) * u128::from(self.rate_kbps)) + u128::from(len) * 8_000_000;
            self.bytes += u64::from(len);
            u64::try_from(self.ends / u128::from(self.rate_kbps)).unwrap() + self.delay_ns
        }
    }

    /// The sender of one flow over links, as the egress program does it.
    struct Sender {
        clocks: Vec<PathClock>,
        last: u32,
    }

    impl Sender {
        fn new(links: &[Link]) -> Self {
            Self { clocks: std::vec![PathClock::zeroed(); links.len()], last: 0 }
        }

        fn choose(&self, now: u64, links: &[Link]) -> Soonest {
            let mut soonest = Soonest::new(now);
            for (path, (clock, link)) in self.clocks.iter().zip(links).enumerate() {
                soonest.offer(path as u8, clock.next_free_ns, 0, link.rate_kbps);
            }
            soonest
        }

        /// Sends on what was chosen, a while ago maybe; its link, when it leaves, and when it arrives.
        fn send(&mut self, now: u64, chosen: &Soonest, len: u32, links: &mut [Link]) -> (usize, u64, u64) {
            let path = chosen.found as usize - 1;
            let leaves = self.clocks[path].carry(now, pace(links[path].rate_kbps, len));
            self.last = timestamp(self.last, leaves);
            (path, leaves, links[path].send(now, len))
        }
    }

    fn links() -> impl Strategy<Value = Vec<Link>> {
        prop::collection::vec((1_000u32..200_000, 0u64..300), 1..8)
            .prop_map(|links| links.into_iter().map(|(rate, delay)| Link::new(rate, delay * MS)).collect())
    }

    proptest! {
        /// Every packet takes a link that begins with it first, as an exact simulation of the links has it; timestamps are the
        /// times at which that happens, and strictly increase.
        #[test]
        fn each_packet_takes_the_link_that_is_free_first(
            mut links in links(), packets in prop::collection::vec((0u64..3000, 40u32..1500), 1..400), load in 50u64..180
        ) {
            let mut sender = Sender::new(&links);
            let total: u32 = links.iter().map(|link| link.rate_kbps).sum();
            let mut now = 5 * SECOND;
            let mut last = None;
            for (count, (gap, len)) in packets.into_iter().enumerate() {
                // A load in percent of what all links carry, in uneven steps.
                now += pace(total, 1500).duration_ns * gap / 1500 * 100 / load;
                let best = links.iter().map(|link| link.starts(now)).min().unwrap();
                let chosen = sender.choose(now, &links);
                let (path, leaves, _) = {
                    let starts = links[chosen.found as usize - 1].starts(now);
                    // Every packet before is rounded by a nanosecond, and by 2^-16 nanoseconds a byte.
                    let slack = 2 * count as u64 + (starts - now) / 5000;
                    prop_assert!(starts <= best + slack, "packet {count} begins at {starts} instead of {best}");
                    let sent = sender.send(now, &chosen, len, &mut links);
                    prop_assert!(sent.1 <= starts && starts <= sent.1 + slack, "it leaves at {starts}, not {}", sent.1);
                    sent
                };
                prop_assert!(path < links.len());
                if let Some(last) = last {
                    prop_assert!(sender.last.wrapping_sub(last) < 1 << 31 && sender.last != last);
                }
                last = Some(sender.last);
                // Nothing but the packets of the same microsecond moves it from the time itself.
                prop_assert!(sender.last.wrapping_sub((leaves / 1000) as u32) < 400);
            }
        }

        /// What fills all links fills each of them: they carry the sum of their rates, and what is delivered `timestamp + D`
        /// comes in order for every D that covers the longest delay.
        #[test]
        fn all_links_are_one_with_the_sum_of_the_rates(mut links in links()) {
            let mut sender = Sender::new(&links);
            let total: u32 = links.iter().map(|link| link.rate_kbps).sum();
            let (begin, end) = (SECOND, 3 * SECOND);
            let mut now = begin;
            let mut late = 0;
            let slowest = links.iter().map(|link| link.delay_ns + pace(link.rate_kbps, 1500).duration_ns).max().unwrap();
            while now < end {
                let chosen = sender.choose(now, &links);
                if chosen.wait_ns() > 5 * MS {
                    now += chosen.wait_ns() - 5 * MS;
                    continue;
                }
                let (_, leaves, arrives) = sender.send(now, &chosen, 1500, &mut links);
                // Within the rounding of the clock.
                late += u64::from(arrives > leaves + slowest + MS);
            }
            prop_assert_eq!(late, 0);
            for link in &links {
                let could = u64::from(link.rate_kbps) * (end - begin) / MS / 8;
                prop_assert!(link.bytes + 3000 >= could * 999 / 1000, "{} of {could} by {} kbit/s of {total}", link.bytes, link.rate_kbps);
            }
        }

        /// Two processors whose steps come in any order: each chooses, and advances the chosen clock some time later. No clock
        /// ever says less than its link has to send, and a packet waits for one packet of the other processor at most.
        #[test]
        fn two_processors_at_once(
            mut links in links(), steps in prop::collection::vec((any::<bool>(), 0u64..1500, 40u32..1500), 1..400)
        ) {
            let mut sender = Sender::new(&links);
            let total: u32 = links.iter().map(|link| link.rate_kbps).sum();
            let mut now = 5 * SECOND;
            let mut pending: [Option<(Soonest, u32)>; 2] = [None; 2];
            for (count, (cpu, gap, len)) in steps.into_iter().enumerate() {
                now += pace(total, 1500).duration_ns * gap / 1500;
                let slot = usize::from(cpu);
                let Some((chosen, len)) = pending[slot].take() else {
                    pending[slot] = Some((sender.choose(now, &links), len));
                    continue;
                };
                let path = chosen.found as usize - 1;
                let before = sender.clocks[path].next_free_ns;
                let starts = links[path].starts(now);
                let slack = 2 * count as u64 + (starts - now) / 5000;
                let (_, leaves, _) = sender.send(now, &chosen, len, &mut links);
                prop_assert!(leaves <= starts && starts <= leaves + slack, "{leaves}, not {starts}");
                // Since the choice the other one may have sent any number of packets, but each time it looked first: beyond what
                // stood there it has put its packets only while this clock was the one that was free first.
                let others = links.iter().map(|link| pace(link.rate_kbps, 1500).duration_ns).max().unwrap();
                if before > chosen.free_ns.max(now) {
                    let others_free = sender.clocks.iter().enumerate().filter(|(other, _)| *other != path);
                    let free_first = others_free.map(|(_, clock)| clock.next_free_ns.max(now)).min();
                    prop_assert!(leaves <= free_first.unwrap_or(u64::MAX).saturating_add(others + slack));
                }
            }
        }
    }

    /// Shares in percent of links that are offered half of what they carry together.
    fn shares(rates: &[u32]) -> Vec<u64> {
        let mut links: Vec<Link> = rates.iter().map(|&rate| Link::new(rate, 0)).collect();
        let mut sender = Sender::new(&links);
        let total: u32 = rates.iter().sum();
        for packet in 0..10_000 {
            let now = SECOND + packet * 2 * pace(total, 1500).duration_ns;
            let chosen = sender.choose(now, &links);
            sender.send(now, &chosen, 1500, &mut links);
        }
        links.iter().map(|link| link.bytes / 150_000).collect()
    }

    #[test]
    fn idle_links_share_by_their_rates() {
        assert_eq!(shares(&[10_000, 10_000]), [50, 50]);
        assert_eq!(shares(&[30_000, 10_000]), [75, 25]);
        assert_eq!(shares(&[99_000, 1_000]), [99, 1]);
    }

    #[test]
    fn a_handicap_keeps_a_path_back() {
        let mut soonest = Soonest::new(SECOND);
        soonest.offer(3, SECOND + 4 * MS, 0, 1000);
        soonest.offer(5, 0, 5000, 1_000_000);
        assert_eq!((soonest.found, soonest.at_ns, soonest.wait_ns()), (4, SECOND + 4 * MS, 4 * MS));
        soonest.offer(6, SECOND, 3000, 1);
        assert_eq!((soonest.found, soonest.at_ns, soonest.wait_ns()), (7, SECOND + 3 * MS, 0));
    }

    #[test]
    fn timestamps_begin_anew_when_the_last_one_cannot_be() {
        assert_eq!(timestamp(5_000, 5 * MS), 5_001);
        assert_eq!(timestamp(4_999, 5 * MS), 5_000);
        assert_eq!(timestamp(5_000 + MAX_AHEAD_US, 5 * MS), 5_000);
        assert_eq!(timestamp(u32::MAX, 4_294_967_296_000), 0);
        assert_eq!(timestamp(0, 4_294_967_295_000), 1);
    }
}
