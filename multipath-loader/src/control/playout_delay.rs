//! How long packets of a peer are held that are delivered by time.
//!
//! A packet is due a fixed time after it left its sender, whichever path it came by: late enough that 99.5 % of the
//! packets of the slowest path in use are there by then, and no later. To whoever sends through the tunnel this time is
//! the delay of the line, so it is kept steady: it grows at once when packets would come too late, and shrinks slowly, and
//! only when it is clearly too long.
//!
//! Each path has a *need*: how much longer than by the nearest path nearly all of its packets take. It is known before the
//! first packet is delivered by time, from the transit times of probes and their jitter; then what such packets really
//! took replaces the guess. The spread is the largest need of the paths that the peer uses for such packets.

use std::time::Duration;

use multipath_common::{
    maps::MAX_PATHS,
    playout::{MAX_SPREAD_US, Playout},
    quality::Arrivals,
};

use super::transit_floor::{TransitFloor, later_by, least};

/// What the need is guessed to be in jitters (the mean difference of two packets, RFC 3550 section 6.4.1),
const GUESS_JITTERS: f64 = 6.0;
/// and beyond that, microseconds. Normally distributed delays need five: the least of some hundred lies 3 deviations below
/// the mean, 99.5 % of them 2.6 above it; but the least is not known at first, and jitter by a few packets only. A guess that is too short is dearer than one that is too long: a delay that
/// grows while a flow begins looks like a queue, and ends the slow start of whoever watches for that (RFC 9406).
const GUESS_US: f64 = 2_000.0;
/// How much longer than nearly all packets have taken so far they are waited for, beside their jitter, microseconds: TCP
/// takes one late packet in two hundred for losses.
const MARGIN_US: f64 = 1_000.0;
/// Packets that must have come before they may tell that the guess is too long: some of them are among the slowest 0.5 %.
const ENOUGH_STRIPED: u64 = 1_000;
/// A modem whose rate is not found yet holds packets for much longer than it will: nobody waits for them beyond five times
/// the jitter and the first of these, or the second in all, microseconds.
const QUEUE_US: f64 = 10_000.0;
/// See [`QUEUE_US`].
const LEAST_BOUND_US: f64 = 30_000.0;
/// Looks that the jitter is averaged over: a single estimate is off by a fifth.
const JITTER_LOOKS: f64 = 128.0;

/// What was needed for so long no more is let go.
const LOWER_AFTER: Duration = Duration::from_secs(2);
/// The same while there are no packets to be delivered by time.
const LOWER_UNUSED_AFTER: Duration = Duration::from_millis(500);
/// No packet to be delivered by time for so long: nobody notices a step.
const UNUSED_AFTER: Duration = Duration::from_secs(1);
/// How fast the spread shrinks while it is used, microseconds per second: no congestion control takes that for news.
const DESCENT_US: f64 = 4_000.0;
/// The same when the peer has left a path out: there is no reason to wait for it soon. Packets come faster by so many
/// parts in a million, which is less than their rate varies by.
const WITHDRAWAL_US: f64 = 50_000.0;
/// How fast it grows for a path by which no packets come yet: the peer waits for that, and nobody else has to.
const ASCENT_US: f64 = 50_000.0;
/// A spread that is longer than needed by this, microseconds, or by an eighth, is clearly too long.
const CLEARLY_US: i32 = 4_000;
/// Due times that move by more than this, microseconds, are those of another clock.
const JUMP_US: i32 = 2_000_000;
/// How long the first look at all paths takes.
const SETTLING: Duration = Duration::from_secs(1);
/// Changes below this are not worth a write, microseconds: of the time when packets are due,
const SMALL_US: i32 = 250;
/// and of other figures.
const SMALL_NEED_US: i32 = 1_000;

/// How packets of a peer come by one path.
#[derive(Clone, Debug, Default)]
pub struct PathTransit {
    floor: TransitFloor,
    /// Packets and probes that had come at the last look.
    came: Option<u64>,
    jitter_us: f64,
    looks: f64,
    /// Packets to be delivered by time that had come at the last look, those since the first one, and when one came last.
    striped: Option<u64>,
    striped_seen: u64,
    striped_at: Option<Duration>,
    /// The longest transit time of those that were seen at a look in the last ten seconds, its sign turned. What went
    /// through a queue that is gone is forgotten sooner by this than by the quantile that the programs keep.
    ceiling: TransitFloor,
    /// How much longer than the least nearly all of these take.
    above_us: f64,
}

/// One path at a certain time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transit {
    /// The path id, in our numbering.
    pub id: u8,
    /// Whether the peer uses it for packets that are delivered by time, or is about to.
    pub is_member: bool,
    /// Whether such packets have come by it lately.
    pub is_used: bool,
    /// Its least transit time, microseconds.
    pub base_us: u32,
    /// How much longer than that nearly all packets take, microseconds.
    pub extra_us: u32,
}

impl PathTransit {
    /// Takes into account what has come by the path so far.
    pub fn look(&mut self, now: Duration, arrivals: &Arrivals) {
        let came = arrivals.packets.wrapping_add(arrivals.probes);
        let is_newer = self.came.replace(came).is_some_and(|before| before != came);
        if is_newer && arrivals.is_begun != 0 {
            self.floor.sample(now, arrivals.transit_us);
            self.looks = (self.looks + 1.0).min(JITTER_LOOKS);
            // An average over sixteen packets that began with zero is too small by what has not come yet. It is of packets
            // that are not striped, from the second one on.
            let averaged = arrivals.packets.saturating_sub(arrivals.striped).saturating_sub(1);
            let part = 1.0 - (15.0_f64 / 16.0).powi(averaged.clamp(1, 1000) as i32);
            self.jitter_us += (f64::from(arrivals.jitter_us()) / part - self.jitter_us) / self.looks;
        }
        let striped = self.striped.replace(arrivals.striped).map_or(0, |before| arrivals.striped.wrapping_sub(before));
        // A counter that began anew looks like one that ran backwards.
        if striped == 0 || striped > u64::MAX / 2 {
            return;
        }
        if let Some(base_us) = self.floor.get(now) {
            self.striped_seen += striped;
            self.striped_at = Some(now);
            self.ceiling.sample(now, arrivals.striped_us.wrapping_neg());
            let longest_us = self.ceiling.get(now).map_or(arrivals.high_us, u32::wrapping_neg);
            self.above_us = later_by(arrivals.high_us, base_us).min(later_by(longest_us, base_us)).into();
        }
    }

    /// What is known now; `None` while nothing is. `id`: the path id.
    pub fn get(&self, now: Duration, id: u8, is_member: bool) -> Option<Transit> {
        Some(Transit {
            id,
            is_member,
            is_used: self.is_used(now),
            base_us: self.floor.get(now)?,
            extra_us: self.extra_us(),
        })
    }

    /// Whether packets that are delivered by time have come by it lately.
    pub fn is_used(&self, now: Duration) -> bool {
        self.striped_at.is_some_and(|at| now < at + UNUSED_AFTER)
    }

    fn extra_us(&self) -> u32 {
        let guess_us = GUESS_JITTERS * self.jitter_us + GUESS_US;
        let bound_us = (5.0 * self.jitter_us + QUEUE_US).max(LEAST_BOUND_US);
        let seen_us = self.above_us + self.jitter_us + MARGIN_US;
        let extra_us = match self.striped_seen {
            0 => guess_us,
            1..ENOUGH_STRIPED => guess_us.max(seen_us),
            ENOUGH_STRIPED.. => seen_us,
        };
        (extra_us.clamp(MARGIN_US, bound_us.min(MAX_SPREAD_US.into())) as i32).cast_unsigned()
    }
}

/// How much longer than by the nearest path packets take, microseconds.
#[derive(Clone, Copy, Default)]
struct Longest {
    /// By the slowest member.
    us: u32,
    /// By the slowest one that packets come by already; they would be late.
    urgent_us: u32,
}

/// When packets of a peer are due.
#[derive(Clone, Debug)]
pub struct PlayoutDelay {
    /// What stands in the map.
    written: Playout,
    /// Transit time after which fully held packets are due; `None` while no path is known.
    due_us: Option<u32>,
    /// Since when it has been clearly longer than needed.
    long_since: Option<Duration>,
    is_shrinking: bool,
    /// Bit n is set when path n was a member at the last look.
    members: u32,
    /// One was withdrawn since the spread was last as long as needed.
    is_withdrawn: bool,
    updated_at: Duration,
    settled_at: Duration,
}

impl PlayoutDelay {
    /// Goes on with what an earlier daemon left in the map; all zero for a new peer.
    pub fn resume(now: Duration, left: &Playout) -> Self {
        Self {
            written: *left,
            due_us: (left.spread_us > 0).then(|| left.near_us.wrapping_add(left.spread_us)),
            long_since: None,
            is_shrinking: false,
            members: 0,
            is_withdrawn: false,
            updated_at: now,
            settled_at: now + SETTLING,
        }
    }

    /// Looks at the peer's paths that packets have come by lately. What is returned is to be written into the map.
    ///
    /// `fixed`: the spread that was set by hand.
    pub fn update(&mut self, now: Duration, paths: &[Transit], fixed: Option<Duration>) -> Option<Playout> {
        let elapsed = now.saturating_sub(std::mem::replace(&mut self.updated_at, now));
        let near_us = least(paths.iter().map(|path| path.base_us)).filter(|_| now >= self.settled_at)?;
        let is_used = paths.iter().any(|path| path.is_used);
        let (mut need_us, mut members) = ([0; MAX_PATHS], 0);
        let mut longest = Longest::default();
        for path in paths {
            let behind_us = later_by(path.base_us, near_us).clamp(0, JUMP_US).cast_unsigned();
            let need = &mut need_us[usize::from(path.id) % MAX_PATHS];
            *need = behind_us + path.extra_us;
            if path.is_member {
                members |= 1 << (usize::from(path.id) % MAX_PATHS);
                longest.us = longest.us.max((*need).min(MAX_SPREAD_US));
                if path.is_used || !is_used {
                    longest.urgent_us = longest.urgent_us.max((*need).min(MAX_SPREAD_US));
                }
            }
        }
        self.is_withdrawn |= std::mem::replace(&mut self.members, members) & !members != 0;
        let due_us = match fixed {
            Some(fixed) => near_us.wrapping_add((fixed.as_micros() as u32).min(MAX_SPREAD_US)),
            None => self.approach(now, elapsed, near_us, longest, is_used),
        };
        self.due_us = Some(due_us);
        let spread_us = later_by(due_us, near_us).cast_unsigned().min(MAX_SPREAD_US);
        let playout = Playout { near_us, spread_us, need_us };
        if !self.is_news(&playout, paths) {
            return None;
        }
        self.written = playout;
        Some(playout)
    }

    /// The time when packets are due, on its way to what is needed now.
    fn approach(&mut self, now: Duration, elapsed: Duration, near_us: u32, longest: Longest, is_used: bool) -> u32 {
        let needed_us = near_us.wrapping_add(longest.us);
        let Some(due_us) = self.due_us else { return needed_us };
        let too_long_us = later_by(due_us, needed_us);
        let clearly_us = CLEARLY_US.max(longest.us.cast_signed() / 8);
        let step = |per_second: f64| (per_second * elapsed.as_secs_f64()) as i32;
        if too_long_us <= 0 || too_long_us > JUMP_US {
            (self.long_since, self.is_shrinking, self.is_withdrawn) = (None, false, false);
            let can_wait_us = longest.us.saturating_sub(longest.urgent_us).cast_signed();
            let left_us = (-too_long_us - step(ASCENT_US)).min(can_wait_us).max(0);
            return if too_long_us > JUMP_US { needed_us } else { needed_us.wrapping_sub(left_us.cast_unsigned()) };
        }
        if too_long_us <= clearly_us && !self.is_shrinking {
            (self.long_since, self.is_withdrawn) = (None, false);
            return due_us;
        }
        let long_since = *self.long_since.get_or_insert(now);
        if now < long_since + if is_used { LOWER_AFTER } else { LOWER_UNUSED_AFTER } {
            return due_us;
        }
        let (left_us, step_us) = (clearly_us / 4, step(if self.is_withdrawn { WITHDRAWAL_US } else { DESCENT_US }));
        self.is_shrinking = is_used && too_long_us > left_us + step_us;
        if !self.is_shrinking {
            (self.long_since, self.is_withdrawn) = (None, false);
        }
        let shorter_us = if self.is_shrinking { step_us } else { (too_long_us - left_us).max(0) };
        due_us.wrapping_sub(shorter_us.cast_unsigned())
    }

    /// Whether this differs enough from what stands in the map.
    fn is_news(&self, new: &Playout, paths: &[Transit]) -> bool {
        let old = &self.written;
        let due_us = |playout: &Playout| playout.near_us.wrapping_add(playout.spread_us);
        let moved_us = |new: u32, old: u32| later_by(new, old).abs();
        let is_other_need = |(new, old): (&u32, &u32)| {
            (*new == 0) != (*old == 0) || moved_us(*new, *old) >= SMALL_NEED_US.max(old.cast_signed() / 16)
        };
        // Who reads that a path needs more than the spread does not use it any more.
        let is_beyond = |path: &Transit| {
            let id = usize::from(path.id) % MAX_PATHS;
            path.is_member && old.need_us[id] > old.spread_us && new.need_us[id] <= new.spread_us
        };
        moved_us(due_us(new), due_us(old)) >= SMALL_US
            || moved_us(new.near_us, old.near_us) >= SMALL_NEED_US
            || new.need_us.iter().zip(&old.need_us).any(is_other_need)
            || paths.iter().any(is_beyond)
    }
}

#[cfg(test)]
mod tests {
    use bytemuck::Zeroable;
    use proptest::prelude::*;

    use super::*;

    const TICK: Duration = Duration::from_millis(20);

    fn path(id: u8, base_us: u32, extra_us: u32) -> Transit {
        Transit { id, is_member: true, is_used: true, base_us, extra_us }
    }

    fn new() -> PlayoutDelay {
        PlayoutDelay::resume(Duration::ZERO, &Playout::zeroed())
    }

    /// What stands in the map after each tick; the paths at each tick are `paths(tick)`.
    fn run(delay: &mut PlayoutDelay, ticks: std::ops::Range<u32>, paths: impl Fn(u32) -> Vec<Transit>) -> Vec<Playout> {
        let ticks = ticks.map(|tick| {
            delay.update(TICK * tick, &paths(tick), None);
            delay.written
        });
        ticks.collect()
    }

    fn spreads(playouts: &[Playout]) -> Vec<u32> {
        playouts.iter().map(|playout| playout.spread_us).collect()
    }

    #[test]
    fn every_path_has_a_need_and_members_make_the_spread() {
        let paths = [path(2, 4_000_000_000, 3_000), path(5, 4_000_090_000, 5_000), path(9, 4_000_300_000, 6_000)];
        let paths = paths.map(|path| Transit { is_member: path.id != 9, ..path });
        let mut delay = new();
        assert!(delay.update(TICK, &paths, None).is_none(), "not all paths may have been heard of yet");
        let playout = delay.update(SETTLING, &paths, None).unwrap();
        assert_eq!((playout.near_us, playout.spread_us), (4_000_000_000, 95_000));
        assert_eq!([2, 5, 9, 0].map(|id: usize| playout.need_us[id]), [3_000, 95_000, 306_000, 0]);
        assert!(delay.update(SETTLING + TICK, &paths, None).is_none(), "nothing is new");
        let fixed = delay.update(SETTLING + TICK, &paths, Some(Duration::from_millis(40))).unwrap();
        assert_eq!((fixed.near_us, fixed.spread_us), (4_000_000_000, 40_000));
    }

    #[test]
    fn it_grows_at_once_and_shrinks_slowly() {
        let mut delay = new();
        let extra_us = |tick: u32| match tick {
            200..210 => 40_000,
            _ => 10_000,
        };
        let spreads = spreads(&run(&mut delay, 0..1000, |tick| vec![path(0, 77, extra_us(tick))]));
        assert_eq!(spreads[199..202], [10_000, 40_000, 40_000]);
        // Two seconds after the last tick with the long one.
        assert!(spreads[200..309].iter().all(|spread| *spread == 40_000), "{spreads:?}");
        let per_second: Vec<u32> = spreads[310..].windows(50).map(|second| second[0] - second[49]).collect();
        assert!(per_second.iter().all(|step| *step < 5_000), "{per_second:?}");
        assert!((11_000..11_500).contains(&spreads[999]), "{}", spreads[999]);
    }

    #[test]
    fn a_path_that_is_left_out_or_taken_up_moves_it_evenly() {
        let mut delay = new();
        let at = |tick: u32| {
            let is_member = !(200..600).contains(&tick);
            vec![path(0, 77, 10_000), Transit { is_member, is_used: is_member && tick < 800, ..path(1, 77, 110_000) }]
        };
        let spreads = spreads(&run(&mut delay, 0..800, at));
        assert_eq!((spreads[199], spreads[299]), (110_000, 110_000));
        let steps: Vec<i64> = spreads.windows(2).map(|tick| i64::from(tick[1]) - i64::from(tick[0])).collect();
        assert!(steps[300..395].iter().all(|step| *step == -1_000), "{steps:?}");
        assert_eq!(spreads[450], 11_000);
        // What comes by it at once is waited for at once.
        assert_eq!(spreads[600], 110_000);
        let waits = |tick: u32| match tick {
            ..100 => vec![path(0, 77, 10_000)],
            _ => vec![path(0, 77, 10_000), Transit { is_used: false, ..path(1, 77, 110_000) }],
        };
        let spreads = self::spreads(&run(&mut new(), 0..300, waits));
        assert_eq!((spreads[99], spreads[100], spreads[149], spreads[250]), (10_000, 11_000, 60_000, 110_000));
        // The last step is a small one, and it is what lets the path be used.
        let little = |tick: u32| match tick {
            ..100 => vec![path(0, 77, 10_000)],
            _ => vec![path(0, 77, 10_000), Transit { is_used: false, ..path(1, 77, 110_100) }],
        };
        assert_eq!(self::spreads(&run(&mut new(), 0..300, little))[250], 110_100);
    }

    #[test]
    fn what_nobody_uses_shrinks_by_one_step() {
        let mut delay = new();
        let at = |tick: u32| vec![Transit { is_used: false, ..path(0, 77, if tick < 100 { 200_000 } else { 10_000 }) }];
        let spreads = spreads(&run(&mut delay, 50..210, at));
        assert_eq!((spreads[60], spreads[74]), (200_000, 200_000));
        assert_eq!(spreads[84], 11_000);
    }

    #[test]
    fn small_changes_move_nothing() {
        let mut delay = new();
        // The nearest path comes and goes, and the needs wander.
        let at = |tick: u32| {
            let wander_us = tick * 7919 % 3000;
            let mut paths = vec![path(0, 0, 5_000 + wander_us / 2), path(1, 90_000, 5_000 + wander_us)];
            paths.drain(..usize::from(tick > 500 && tick % 500 < 250));
            paths
        };
        let playouts = run(&mut delay, 60..3000, at);
        let due = |playout: &Playout| playout.near_us.wrapping_add(playout.spread_us);
        let due_us: Vec<u32> = playouts[100..].iter().map(due).collect();
        assert!(due_us.iter().max().unwrap() - due_us.iter().min().unwrap() < SMALL_US.cast_unsigned(), "{due_us:?}");
    }

    #[test]
    fn another_clock_is_followed_at_once() {
        let mut delay = new();
        let playouts =
            run(&mut delay, 60..200, |tick| vec![path(0, if tick < 100 { 5 } else { 3_000_000_000 }, 9_000)]);
        assert_eq!((playouts[39].near_us, playouts[39].spread_us), (5, 9_000));
        assert_eq!((playouts[40].near_us, playouts[40].spread_us), (3_000_000_000, 9_000));
    }

    #[test]
    fn the_next_daemon_goes_on() {
        let left = Playout { near_us: 5, spread_us: 90_000, need_us: [0; MAX_PATHS] };
        let mut delay = PlayoutDelay::resume(Duration::ZERO, &left);
        let playouts = run(&mut delay, 0..60, |_| vec![path(0, 5, 3_000), path(1, 80_005, 8_000)]);
        assert!(playouts.iter().all(|playout| playout.spread_us == 90_000));
    }

    /// Striped packets of a path: what is known of the path after some thousand of them.
    fn look(striped: u64, jitter_us: u32, above_us: u32) -> u32 {
        let mut transit = PathTransit::default();
        let mut arrivals = Arrivals {
            is_begun: 1,
            packets: 1000,
            transit_us: 500,
            jitter_scaled_us: jitter_us * 16,
            ..Arrivals::zeroed()
        };
        for tick in 0..200u32 {
            arrivals.packets += 10;
            if tick >= 100 {
                arrivals.packets += striped / 100;
                arrivals.striped += striped / 100;
                arrivals.high_us = 500 + above_us;
                arrivals.striped_us = if tick % 50 == 0 { arrivals.high_us } else { 500 };
            }
            transit.look(TICK * tick, &arrivals);
        }
        transit.get(TICK * 200, 0, true).unwrap().extra_us
    }

    #[test]
    fn what_packets_really_took_replaces_the_guess() {
        assert_eq!(look(0, 1_000, 0), 8_000);
        assert_eq!(look(500, 1_000, 2_000), 8_000, "too few to say that it is less");
        assert_eq!(look(500, 1_000, 9_000), 11_000);
        assert_eq!(look(5_000, 1_000, 2_000), 4_000);
        assert_eq!(look(5_000, 1_000, 400_000), 30_000, "a queue that will not stay");
        assert_eq!(look(5_000, 20_000, 400_000), 110_000);
    }

    #[test]
    fn a_queue_that_is_gone_is_forgotten() {
        let mut transit = PathTransit::default();
        let mut arrivals = Arrivals { is_begun: 1, transit_us: 500, high_us: 400_000, ..Arrivals::zeroed() };
        let mut extra_us = Vec::new();
        for tick in 0..500u32 {
            arrivals.packets += 10;
            arrivals.striped += 10;
            arrivals.striped_us = if tick < 50 { 300_000 } else { 1_500 };
            transit.look(TICK * tick, &arrivals);
            extra_us.extend(transit.get(TICK * tick, 0, true).map(|path| path.extra_us));
        }
        assert_eq!((extra_us[20], extra_us[50 + 51 * 4]), (30_000, 2_000));
    }

    #[test]
    fn a_silent_path_is_not_known() {
        let mut transit = PathTransit::default();
        let arrivals = Arrivals { is_begun: 1, packets: 100, transit_us: 500, ..Arrivals::zeroed() };
        for tick in 0..100 {
            transit.look(TICK * tick, &arrivals);
            assert_eq!(transit.get(TICK * tick, 0, true), None);
        }
    }

    fn paths() -> impl Strategy<Value = Vec<Transit>> {
        let one = (0..300_000u32, 1_000..200_000u32, any::<(bool, bool)>());
        prop::collection::vec(one, 0..5).prop_map(|paths| {
            let transit = |(id, (base_us, extra_us, (is_member, is_used)))| Transit {
                id: id as u8,
                is_member,
                is_used,
                base_us,
                extra_us,
            };
            paths.into_iter().enumerate().map(transit).collect()
        })
    }

    proptest! {
        /// Whatever the paths do: fully held packets are held for as long as every member needs, and while packets come,
        /// the time when they are due goes back by less than 5 ms in a second, by 55 when a member was withdrawn.
        #[test]
        fn nothing_is_late_and_nothing_jumps(
            offset: u32, is_withdrawn: bool, looks in prop::collection::vec((paths(), 1..500u64), 1..60)
        ) {
            let mut delay = new();
            let (mut now, mut before) = (SETTLING, None);
            for (mut paths, millis) in looks {
                if !is_withdrawn {
                    // The same two members at each look.
                    paths.resize(2, path(0, 0, 1_000));
                    for (id, path) in paths.iter_mut().enumerate() {
                        (path.id, path.is_member) = (id as u8, true);
                    }
                }
                let elapsed = Duration::from_millis(millis);
                now += elapsed;
                for path in &mut paths {
                    path.base_us = path.base_us.wrapping_add(offset);
                    path.is_used = true;
                }
                delay.update(now, &paths, None);
                let playout = delay.written;
                let due_us = playout.near_us.wrapping_add(playout.spread_us);
                prop_assert!(playout.spread_us <= MAX_SPREAD_US);
                for path in paths.iter().filter(|path| path.is_member) {
                    let slack_us = later_by(due_us, path.base_us.wrapping_add(path.extra_us));
                    prop_assert!(slack_us > -SMALL_US, "{playout:?} {path:?}");
                    prop_assert!(playout.need_us[usize::from(path.id)] < playout.spread_us + 250 + 1);
                }
                if let Some(before) = before.filter(|_| !paths.is_empty()) {
                    let back_us = later_by(before, due_us);
                    let most = if is_withdrawn { 55 } else { 5 };
                    prop_assert!(back_us <= 2 * SMALL_US + most * millis as i32, "{back_us} in {elapsed:?}");
                }
                before = (playout.spread_us > 0).then_some(due_us);
            }
        }

        #[test]
        fn nothing_overflows(looks in prop::collection::vec((any::<[u32; 5]>(), any::<[u64; 3]>()), 0..100)) {
            let (mut transit, mut delay) = (PathTransit::default(), new());
            for ([at, transit_us, high_us, jitter_scaled_us, spread_us], [packets, probes, striped]) in looks {
                let now = Duration::from_millis(at.into());
                let arrivals = Arrivals { packets, probes, striped, transit_us, high_us, jitter_scaled_us, is_begun: 1, ..Arrivals::zeroed() };
                transit.look(now, &arrivals);
                let paths: Vec<Transit> = transit.get(now, 3, true).into_iter().collect();
                delay.update(now, &paths, None);
                delay.update(now, &paths, Some(Duration::from_micros(spread_us.into())));
            }
        }
    }
}
