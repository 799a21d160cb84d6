//! The largest packet that a path carries whole, found by padded probes (after RFC 8899; no ICMP is needed).
//!
//! A path begins with what every path should carry, and is asked for its full size at once. Without an answer the
//! search goes over the usual sizes, and then byte by byte as far as needed. What was found is asked for again all the
//! time, and larger sizes now and then, because routes change.
//!
//! A probe without an answer may have been lost by chance. So it counts only when another answer, most often to a short
//! probe, has come since it was sent, and only several in a row show that a size does not pass.
//!
//! Sizes are bytes of inner packets, and so of messages, which take the same place, unless another is said.

use std::time::Duration;

use multipath_common::{
    control::REPLY_LEN,
    wire::{OVERHEAD_IPV4, OVERHEAD_IPV6},
};

/// An outer packet that every path should carry, bytes (RFC 8200 section 5).
const BASE: u32 = 1280;
/// Outer packets that links, and tunnels on them, often carry, bytes: `PPPoE`, 6in4, GRE, `WireGuard`, L2TP, LTE.
const USUAL: [u32; 12] = [BASE, 1358, 1400, 1420, 1428, 1440, 1450, 1460, 1472, 1480, 1492, 1500];
/// What short probes show to pass.
const FLOOR: u32 = REPLY_LEN as u32;

/// How often the present size is asked for while large packets pass: what a black hole costs them.
const CHECK_EVERY: Duration = Duration::from_secs(10);
/// The same while none do.
const CHECK_QUIET_EVERY: Duration = Duration::from_mins(1);
/// The same while more data than short probes is lost.
const CHECK_SUSPECT_EVERY: Duration = Duration::from_millis(500);
/// The same where bytes cost money; and how often a larger size is asked for (RFC 8899 section 5.1.1).
const RAISE_EVERY: Duration = Duration::from_mins(10);

/// Fewest and most probes without an answer that show that a size does not pass.
const TRIES: (u32, u32) = (3, 20);
/// How probable it may be that all of them were lost by chance, while hundreds of sizes are asked for in an hour.
const CHANCE: f64 = 1e-6;

/// What passes over a path beside probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// Packets of about its size.
    Large,
    /// Some that are lost, and it may be the large ones.
    Suspect,
    /// Small ones, or none.
    Quiet,
    /// As little as possible: it is metered.
    Metered,
}

/// What is known of a path by other probes.
#[derive(Clone, Copy, Debug)]
pub struct Conditions {
    /// How long an answer may take.
    pub patience: Duration,
    /// When the last probe of any size was answered, time since boot.
    pub answered_at: Duration,
    /// Round trips of short probes that are lost, parts per million.
    pub loss_ppm: u32,
    /// What passes beside probes.
    pub load: Load,
}

/// The search on one path.
#[derive(Clone, Debug)]
pub struct PathMtu {
    /// Bytes around an inner packet.
    overhead: u32,
    /// What the interface and the route allow.
    largest: u32,
    /// What the path carries as far as is known.
    low: u32,
    /// What was said of it: while the search goes on it rises by usual sizes alone, since everybody else must follow.
    inner_mtu: u32,
    goal: Goal,
    asked: Option<Asked>,
}

/// What probes are for.
#[derive(Clone, Copy, Debug)]
enum Goal {
    /// To find the size between the present one and `too_big`, which does not pass.
    Search {
        too_big: u32,
        /// Whether the present size was seen to pass.
        is_proven: bool,
        /// The present size has been right for a while: one byte more is asked for first.
        is_raise: bool,
    },
    /// To see that the size is still right.
    Watch { checked_at: Duration, raise_at: Duration },
}

/// A size that no answer has come for yet.
#[derive(Clone, Copy, Debug)]
struct Asked {
    len: u32,
    sent_at: Duration,
    lost: u32,
}

impl PathMtu {
    /// A path that nothing is known of but what its interface and route allow, bytes of an inner packet.
    pub fn new(largest: u32, is_ipv4: bool) -> Self {
        let overhead = if is_ipv4 { OVERHEAD_IPV4 } else { OVERHEAD_IPV6 } as u32;
        Self::beginning_with(BASE - overhead, largest, overhead)
    }

    /// A path that an earlier daemon has found to carry so many bytes, which are asked for at once.
    pub fn resume(largest: u32, is_ipv4: bool, inner_mtu: u32) -> Self {
        let fresh = Self::new(largest, is_ipv4);
        Self::beginning_with(inner_mtu.max(fresh.inner_mtu), largest, fresh.overhead)
    }

    fn beginning_with(inner_mtu: u32, largest: u32, overhead: u32) -> Self {
        let largest = largest.min(u16::MAX.into());
        let goal = Goal::Search { too_big: largest + 1, is_proven: false, is_raise: false };
        let low = inner_mtu.min(largest);
        Self { overhead, largest, low, inner_mtu: low, goal, asked: None }
    }

    /// The largest inner packet that the path carries whole, bytes, as far as is known.
    pub const fn inner_mtu(&self) -> u32 {
        self.inner_mtu
    }

    /// The same as an outer packet, bytes; 0 when there is nothing that it carries.
    pub const fn outer_mtu(&self) -> u32 {
        if self.inner_mtu == 0 { 0 } else { self.inner_mtu + self.overhead }
    }

    /// The interface or the route allows another size now.
    pub fn set_largest(&mut self, largest: u32) {
        let largest = largest.min(u16::MAX.into());
        if largest == self.largest {
            return;
        }
        // What was limited by the old size alone begins anew.
        let begin = if self.largest < BASE - self.overhead { BASE - self.overhead } else { self.low };
        *self = Self::beginning_with(begin, largest, self.overhead);
    }

    /// The path is down: what was asked for last may be lost for that reason.
    pub fn pause(&mut self) {
        self.asked = None;
    }

    /// The size of the probe that is due now, if there is one. To be called often while the path is not down.
    pub fn poll(&mut self, now: Duration, seen: &Conditions) -> Option<u16> {
        if let Some(asked) = &mut self.asked {
            let is_lost = now >= asked.sent_at + seen.patience && seen.answered_at > asked.sent_at;
            if !is_lost {
                return None;
            }
            asked.lost += 1;
            if asked.lost < tries(seen.loss_ppm) {
                asked.sent_at = now;
                return Some(asked.len as u16);
            }
            let len = asked.len;
            self.asked = None;
            self.give_up(len);
        }
        let len = self.next(now, seen.load)?;
        self.asked = Some(Asked { len, sent_at: now, lost: 0 });
        Some(len as u16)
    }

    /// Much is lost, and that may be the large packets: the present size is asked for at once.
    pub fn doubt(&mut self) {
        if let Goal::Watch { checked_at, .. } = &mut self.goal {
            *checked_at = Duration::ZERO;
        }
    }

    /// A padded probe of this size was answered.
    pub fn answered(&mut self, len: u16) {
        let len = u32::from(len).min(self.largest);
        self.asked = self.asked.filter(|asked| asked.len > len);
        if let Goal::Search { too_big, is_proven, .. } = &mut self.goal {
            *is_proven |= len >= self.low;
            if len >= *too_big {
                // An answer that came after all.
                *too_big = self.largest + 1;
            }
        }
        self.low = self.low.max(len);
        if self.low == self.largest || self.usual().contains(&self.low) {
            self.inner_mtu = self.low;
        }
    }

    /// A size does not pass.
    fn give_up(&mut self, len: u32) {
        if len > self.low {
            if let Goal::Search { too_big, .. } = &mut self.goal {
                *too_big = len;
            }
            return;
        }
        // What seemed to pass does not: a black hole (RFC 8899 section 4.3).
        let base = BASE - self.overhead;
        self.low = if len > base { base } else { FLOOR.min(len) };
        self.inner_mtu = self.low;
        self.goal = Goal::Search { too_big: len, is_proven: self.low <= FLOOR, is_raise: false };
    }

    /// The size to ask for next.
    fn next(&mut self, now: Duration, load: Load) -> Option<u32> {
        if self.largest <= FLOOR {
            return None;
        }
        match self.goal {
            Goal::Search { too_big, .. } if too_big > self.largest && self.low < self.largest => Some(self.largest),
            Goal::Search { is_proven: false, .. } => Some(self.low),
            Goal::Search { too_big, .. } if too_big <= self.low + 1 => {
                self.inner_mtu = self.low;
                self.goal = Goal::Watch { checked_at: now, raise_at: now + RAISE_EVERY };
                None
            }
            Goal::Search { too_big, is_proven, is_raise: true } => {
                self.goal = Goal::Search { too_big, is_proven, is_raise: false };
                // Where one byte more does not pass, nothing more does.
                Some(self.low + 1)
            }
            Goal::Search { too_big, .. } => Some(self.between(too_big)),
            Goal::Watch { raise_at, .. } if now >= raise_at && self.low < self.largest => {
                self.goal = Goal::Search { too_big: self.largest + 1, is_proven: true, is_raise: true };
                Some(self.largest)
            }
            Goal::Watch { checked_at, raise_at } => {
                let every = match load {
                    Load::Suspect => CHECK_SUSPECT_EVERY,
                    Load::Large => CHECK_EVERY,
                    Load::Quiet => CHECK_QUIET_EVERY,
                    Load::Metered => RAISE_EVERY,
                };
                (now >= checked_at + every).then(|| {
                    self.goal = Goal::Watch { checked_at: now, raise_at };
                    self.low
                })
            }
        }
    }

    /// What the usual outer packets hold.
    fn usual(&self) -> [u32; USUAL.len()] {
        USUAL.map(|outer| outer - self.overhead)
    }

    /// A size between the present one and one that does not pass, at least two bytes apart: the middle one of the usual
    /// sizes; where there is none, one byte more than a usual one, which shows that it was right; else the middle.
    fn between(&self, too_big: u32) -> u32 {
        let (low, usual) = (self.low, self.usual());
        let from = usual.partition_point(|size| *size <= low);
        let to = usual.partition_point(|size| *size < too_big);
        if from < to {
            usual[usize::midpoint(from, to)]
        } else if usual.contains(&low) {
            low + 1
        } else {
            u32::midpoint(low, too_big)
        }
    }
}

/// How many probes without an answer show that a size does not pass.
fn tries(loss_ppm: u32) -> u32 {
    let loss = f64::from(loss_ppm) / 1e6;
    let (mut tries, mut chance) = (0, 1.0);
    while tries < TRIES.0 || (tries < TRIES.1 && chance > CHANCE) {
        chance *= loss;
        tries += 1;
    }
    tries
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TICK: Duration = Duration::from_millis(20);
    const ROUND_TRIP: Duration = Duration::from_millis(60);
    const MINUTE: Duration = Duration::from_mins(1);

    /// A path of which packets over `truth` bytes are lost, and others by chance.
    struct Link {
        search: PathMtu,
        truth: u32,
        /// Packets lost in each direction, per cent.
        loss: u32,
        load: Load,
        is_cut: bool,
        now: Duration,
        answered_at: Duration,
        under_way: Vec<(Duration, Option<u16>)>,
        random: u64,
        /// Padded probes sent.
        padded: u32,
    }

    impl Link {
        fn new(search: PathMtu, truth: u32, loss: u32, seed: u64) -> Self {
            Self {
                search,
                truth,
                loss,
                load: Load::Large,
                is_cut: false,
                now: Duration::from_secs(1000),
                answered_at: Duration::ZERO,
                under_way: Vec::new(),
                random: seed | 1,
                padded: 0,
            }
        }

        fn passes(&mut self) -> bool {
            // xorshift64 (Marsaglia).
            self.random ^= self.random << 13;
            self.random ^= self.random >> 7;
            self.random ^= self.random << 17;
            !self.is_cut && self.random % 100 >= u64::from(self.loss)
        }

        fn send(&mut self, len: Option<u16>) {
            let [out, back] = [self.passes(), self.passes()];
            if out && back && len.is_none_or(|len| u32::from(len) <= self.truth) {
                self.under_way.push((self.now + ROUND_TRIP, len));
            }
        }

        fn run(&mut self, duration: Duration) {
            let end = self.now + duration;
            let loss_ppm = 1_000_000 - (100 - self.loss).pow(2) * 100;
            while self.now < end {
                self.now += TICK;
                let (come, rest) = self.under_way.iter().partition(|(at, _)| *at <= self.now);
                self.under_way = rest;
                let come: Vec<(Duration, Option<u16>)> = come;
                for (_, len) in come {
                    self.answered_at = self.now;
                    if let Some(len) = len {
                        self.search.answered(len);
                    }
                }
                if self.now.as_millis().is_multiple_of(80) {
                    self.send(None);
                }
                let seen = Conditions {
                    patience: ROUND_TRIP + 2 * TICK,
                    answered_at: self.answered_at,
                    loss_ppm,
                    load: self.load,
                };
                if let Some(len) = self.search.poll(self.now, &seen) {
                    self.padded += 1;
                    self.send(Some(len));
                }
            }
        }
    }

    #[test]
    fn the_full_size_is_found_in_one_round_trip() {
        let mut link = Link::new(PathMtu::new(1436, true), 1436, 0, 1);
        assert_eq!((link.search.inner_mtu(), link.search.outer_mtu()), (1216, 1280));
        link.run(ROUND_TRIP + 2 * TICK);
        assert_eq!((link.search.inner_mtu(), link.search.outer_mtu()), (1436, 1500));
    }

    #[test]
    fn usual_sizes_are_found_soon() {
        for outer in USUAL {
            let mut link = Link::new(PathMtu::new(1436, true), outer - 64, 0, 1);
            link.run(Duration::from_secs(4));
            assert_eq!(link.search.outer_mtu(), outer);
        }
    }

    #[test]
    fn few_sizes_are_said() {
        let mut link = Link::new(PathMtu::new(1436, true), 1372, 0, 1);
        let mut said = vec![link.search.inner_mtu()];
        for _ in 0..500 {
            link.run(TICK);
            said.push(link.search.inner_mtu());
        }
        said.dedup();
        assert_eq!(said, [1216, 1356, 1364, 1372]);
    }

    #[test]
    fn a_path_that_is_smaller_than_any_should_be() {
        let mut link = Link::new(PathMtu::new(1416, false), 548, 0, 1);
        link.run(Duration::from_secs(1));
        assert!(link.search.inner_mtu() <= 548);
        link.run(Duration::from_secs(10));
        assert_eq!(link.search.inner_mtu(), 548);
    }

    #[test]
    fn a_black_hole_is_left_and_the_way_back_found() {
        for (load, within) in [(Load::Large, 11), (Load::Quiet, 61), (Load::Metered, 601)] {
            let mut link = Link::new(PathMtu::new(1436, true), 1436, 0, 1);
            link.load = load;
            link.run(MINUTE);
            link.truth = 1300;
            link.run(Duration::from_secs(within));
            assert!(link.search.inner_mtu() <= 1300);
            link.run(Duration::from_secs(5));
            assert_eq!(link.search.inner_mtu(), 1300);
            link.truth = 1428;
            link.run(RAISE_EVERY + 10 * TICK);
            link.run(Duration::from_secs(5));
            assert_eq!(link.search.inner_mtu(), 1428);
        }
    }

    #[test]
    fn a_path_that_is_down_keeps_its_size() {
        let mut link = Link::new(PathMtu::new(1436, true), 1400, 0, 1);
        link.run(MINUTE);
        for _ in 0..20 {
            link.is_cut = true;
            link.run(Duration::from_secs(7));
            link.search.pause();
            link.is_cut = false;
            link.run(Duration::from_millis(2700));
            assert_eq!(link.search.inner_mtu(), 1400);
        }
    }

    #[test]
    fn another_interface_mtu() {
        let mut link = Link::new(PathMtu::new(1436, true), 1436, 0, 1);
        link.run(MINUTE);
        link.search.set_largest(1336);
        assert_eq!(link.search.inner_mtu(), 1336);
        link.search.set_largest(0);
        link.run(MINUTE);
        assert_eq!(link.search.inner_mtu(), 0);
        link.search.set_largest(8936);
        assert_eq!(link.search.inner_mtu(), 1216);
        link.truth = 8936;
        link.run(ROUND_TRIP + 2 * TICK);
        assert_eq!(link.search.inner_mtu(), 8936);
    }

    #[test]
    fn a_new_daemon_goes_on_with_what_the_last_one_found() {
        let mut link = Link::new(PathMtu::resume(1436, true, 1388), 1388, 0, 1);
        assert_eq!(link.search.inner_mtu(), 1388);
        link.run(MINUTE);
        assert_eq!(link.search.inner_mtu(), 1388);
        let mut link = Link::new(PathMtu::resume(1436, true, 1388), 1300, 0, 1);
        link.run(Duration::from_secs(1));
        assert!(link.search.inner_mtu() <= 1300);
    }

    #[test]
    fn little_is_sent_for_it() {
        for (load, most) in [(Load::Large, 410), (Load::Quiet, 110), (Load::Metered, 50)] {
            let mut link = Link::new(PathMtu::new(1436, true), 1400, 0, 1);
            link.load = load;
            link.run(MINUTE);
            link.padded = 0;
            link.run(60 * MINUTE);
            assert!(link.padded <= most, "{load:?}: {}", link.padded);
        }
    }

    #[test]
    fn more_tries_where_more_is_lost() {
        assert_eq!([0, 50_000, 360_000, 1_000_000].map(tries), [3, 5, 14, 20]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn the_truth_is_found(
            largest in prop_oneof![Just(1436_u32), 200..9000_u32],
            number in 0..USUAL.len(),
            any in 0..=1000_u32,
            is_usual: bool,
            loss in 0..=20_u32,
            seed: u64,
        ) {
            let usual = USUAL[number] - 64;
            let truth = if is_usual && usual <= largest { usual } else { FLOOR + (largest - FLOOR) * any / 1000 };
            let mut link = Link::new(PathMtu::new(largest, true), truth, loss, seed);
            link.run(MINUTE);
            // It may be small by bad luck, never too large.
            prop_assert!(link.search.inner_mtu() <= truth, "{} of {truth}", link.search.inner_mtu());
            link.run(60 * MINUTE);
            prop_assert_eq!(link.search.inner_mtu(), truth);
        }

        #[test]
        fn never_too_large_for_long(truths in prop::collection::vec(FLOOR..1436_u32, 1..5), loss in 0..=20_u32, seed: u64) {
            let mut link = Link::new(PathMtu::new(1436, true), 1436, loss, seed);
            for truth in truths {
                link.truth = truth;
                link.run(Duration::from_secs(25));
                prop_assert!(link.search.inner_mtu() <= truth, "{} of {truth}", link.search.inner_mtu());
            }
        }
    }
}
