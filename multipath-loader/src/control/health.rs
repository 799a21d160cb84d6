//! How a path is: the states between `probing` and `down`, and what leads from one to another.
//!
//! ```text
//! probing -- answer --> up <-- few losses for a while -- lossy
//!    ^                  | ^ \------- many losses ---------^
//!    | answer    overdue| | answer                        |
//!    |                  v |                               |
//!   down <-- silence -- stalled          silence ---------+--> down
//! ```
//!
//! Nothing is lost in `stalled`, for another path carries a copy of each packet; so it is entered at the first doubt,
//! and left for `down` only when random loss can't be the reason any more. `backup` and `disabled` are no matter of one
//! path alone: [`super::selection`].

use std::time::Duration;

use multipath_common::health::{Health, Reason};

use super::{damping::Damping, losses::Losses, round_trip::RoundTrip};

/// An answer is overdue when it takes so much longer than the smoothed round trip, or four deviations: what two
/// computers and a radio link with retransmissions add now and then without being broken.
const MARGIN: Duration = Duration::from_millis(12);
/// The round trip before any was measured (RFC 6298 section 2).
const UNKNOWN_ROUND_TRIP: Duration = Duration::from_secs(1);
/// An answer is not waited for any longer, however much the round trips differ: at worst the path is doubted.
const PATIENCE_MAX: Duration = Duration::from_secs(2);
/// An idle path is down when a probe is unanswered for so long: with the interval of 80 ms before that probe 300 ms.
const SILENCE_IDLE: Duration = Duration::from_millis(220);
/// A busy one is given more, for its packets go by another path as well: an LTE handover takes up to 300 ms.
const SILENCE_BUSY: Duration = Duration::from_millis(350);
/// A lossy one is given still more: several probes in a row are lost there without being a sign of anything new.
const SILENCE_LOSSY: Duration = Duration::from_secs(1);
/// A path with long round trips is down when so much more time than for an answer has passed: that of the probes below.
const SILENCE_AFTER_OVERDUE: Duration = Duration::from_millis(130);
/// So many probes must be overdue besides. With 2 % loss each way they all are by chance once in 10^7 doubts.
pub const OVERDUE_PROBES: usize = 5;
/// So many probes in a row must be answered before a path that was down is used.
const PROOF: u32 = 3;
/// A path that is answered so soon after it was put down, by a probe from before, was slow for once: that costs it
/// nothing.
const SECOND_THOUGHTS: Duration = Duration::from_secs(2);
/// A lossy path is used again when it loses less than this, parts per million,
const CALM_PPM: u32 = 50_000;
/// over this time, seconds, and so many packets: an answer every 80 ms makes a few more;
const CALM: (u64, u64) = (3, 30);
/// or over this time and so many packets where fewer pass: probes and answers every 5 s make a few more.
const CALM_SELDOM: (u64, u64) = (60, 20);
/// Routers' complaints raise a doubt at most so often: anybody can forge one.
const COMPLAINT_EVERY: Duration = Duration::from_secs(1);

/// What is known about the probes of a path at a moment.
#[derive(Clone, Copy, Debug)]
pub struct Silence {
    /// Probes whose answers are overdue.
    pub overdue: usize,
    /// For how long the first of them has been unanswered.
    pub lasts: Duration,
    /// For how long an answer may take: [`patience`].
    pub patience: Duration,
    /// Whether the path carries data.
    pub is_busy: bool,
}

/// For how long an answer may take before it is overdue.
pub fn patience(round_trip: &RoundTrip) -> Duration {
    match (round_trip.smoothed(), round_trip.deviation()) {
        (Some(smoothed), Some(deviation)) => (smoothed + (deviation * 4).max(MARGIN)).min(PATIENCE_MAX),
        _ => UNKNOWN_ROUND_TRIP,
    }
}

/// For how long a probe is unanswered before an idle path is down.
pub fn silence_until_down(patience: Duration) -> Duration {
    (patience + SILENCE_AFTER_OVERDUE).max(SILENCE_IDLE)
}

/// The health of a path for itself.
#[derive(Clone, Debug)]
pub struct PathHealth {
    health: Health,
    reason: Reason,
    since: Duration,
    /// Why it leads nowhere, if so.
    link: Result<(), Reason>,
    /// Nothing speaks against it yet.
    is_fresh: bool,
    /// An answer is overdue, or a router complains.
    is_doubted: bool,
    complained_at: Option<Duration>,
    /// Probes in a row that were answered while it is `Probing`.
    proof: u32,
    /// It is not used before, although it works.
    held_until: Duration,
    damping: Damping,
    /// What it was before it fell.
    fallen_from: Health,
}

/// Whether hardly anything was lost for long enough.
fn is_calm(now: Duration, losses: &Losses) -> bool {
    let has_packets = |(seconds, packets): &(u64, u64)| losses.sent(now, *seconds) >= *packets;
    let span = [CALM, CALM_SELDOM].into_iter().find(has_packets);
    !losses.is_lossy() && span.is_some_and(|(seconds, _)| losses.lost_ppm(now, seconds) < CALM_PPM)
}

impl PathHealth {
    /// A new path, of which not even the uplink is known.
    pub fn new(now: Duration) -> Self {
        Self {
            health: Health::Down,
            reason: Reason::New,
            since: now,
            link: Err(Reason::New),
            is_fresh: true,
            is_doubted: false,
            complained_at: None,
            proof: 0,
            held_until: now,
            damping: Damping::default(),
            fallen_from: Health::Probing,
        }
    }

    /// A path that had this health, and went down so often, when an earlier daemon ended. Its way is still there.
    pub fn resume(now: Duration, health: Health, reason: Reason, falls: u32) -> Self {
        let health = match health {
            Health::Stalled | Health::Backup => Health::Up,
            Health::Disabled | Health::Unknown => Health::Probing,
            health => health,
        };
        let is_fresh = health == Health::Probing;
        Self { health, reason, link: Ok(()), is_fresh, damping: Damping::resume(now, falls), ..Self::new(now) }
    }

    /// `Probing`, `Up`, `Lossy`, `Stalled` or `Down`.
    pub fn health(&self) -> Health {
        match self.health {
            Health::Up if self.is_doubted => Health::Stalled,
            health => health,
        }
    }

    /// Why.
    pub fn reason(&self) -> Reason {
        self.reason
    }

    /// Since when.
    pub fn since(&self) -> Duration {
        self.since
    }

    /// Whether interface, address and route are there.
    pub fn has_link(&self) -> bool {
        self.link.is_ok()
    }

    /// Whether nothing speaks against it yet.
    pub fn is_fresh(&self) -> bool {
        self.is_fresh
    }

    /// Whether an answer is overdue, or a router complains: it must be probed often.
    pub fn is_doubted(&self) -> bool {
        self.is_doubted
    }

    /// How often it went down, or became lossy, in the last ten minutes.
    pub fn falls(&self, now: Duration) -> u32 {
        self.damping.falls(now)
    }

    fn change(&mut self, now: Duration, health: Health, reason: Reason) {
        (self.health, self.reason, self.since) = (health, reason, now);
        (self.is_doubted, self.proof) = (false, 0);
    }

    fn fall(&mut self, now: Duration, reason: Reason) {
        // Also while it proves itself, or else a path that fails just then would be let off.
        let has_worked = match self.health {
            Health::Up | Health::Lossy => true,
            Health::Probing => matches!(self.reason, Reason::Answers | Reason::Flapping),
            _ => false,
        };
        if has_worked {
            self.damping.fell(now);
        }
        self.is_fresh &= self.link.is_err() && self.health == Health::Probing;
        self.fallen_from = self.health;
        self.change(now, Health::Down, reason);
    }

    fn prove(&mut self, now: Duration, reason: Reason) {
        let hold = self.damping.hold(now);
        self.held_until = now + hold;
        self.change(now, Health::Probing, if hold.is_zero() { reason } else { Reason::Flapping });
    }

    /// Interface, address and route are there, or are not. `true` when a probe should go at once.
    pub fn set_link(&mut self, now: Duration, link: Result<(), Reason>) -> bool {
        let before = std::mem::replace(&mut self.link, link);
        match (before, link) {
            (Ok(()), Err(reason)) => self.fall(now, reason),
            (Err(_), Err(reason)) => self.reason = reason,
            (Err(_), Ok(())) => {
                self.prove(now, if self.is_fresh { Reason::New } else { Reason::Resolved });
            }
            (Ok(()), Ok(())) => {}
        }
        link.is_ok()
    }

    /// There is no session any more: nothing can be known, and nothing is the path's fault.
    pub fn session_ended(&mut self, now: Duration) {
        if self.has_link() {
            self.change(now, Health::Probing, Reason::Session);
            self.is_fresh = true;
        }
    }

    /// A router complains, or somebody else doubts the path. `true` when a probe should go at once.
    pub fn doubt(&mut self, now: Duration, reason: Reason) -> bool {
        let is_new = self.complained_at.is_none_or(|last| now >= last + COMPLAINT_EVERY);
        let is_meant = self.health == Health::Up && !self.is_doubted && is_new;
        if is_meant {
            self.complained_at = Some(now);
            self.change(now, Health::Up, reason);
            self.is_doubted = true;
        }
        is_meant
    }

    /// A probe that was sent at `sent_at` is answered. `true` when it has come up: what was lost before is history.
    pub fn answered(&mut self, now: Duration, sent_at: Duration) -> bool {
        match self.health {
            _ if self.link.is_err() => false,
            // What was on its way already proves nothing against a complaint.
            Health::Up if self.is_doubted && (self.complained_at != Some(self.since) || sent_at >= self.since) => {
                self.change(now, Health::Up, Reason::Answers);
                false
            }
            Health::Down if self.fallen_from != Health::Probing && self.is_second_thought(now, sent_at) => {
                self.damping.forgive();
                let reason = if self.fallen_from == Health::Lossy { Reason::Loss } else { Reason::Answers };
                self.change(now, self.fallen_from, reason);
                false
            }
            Health::Down => {
                self.prove(now, Reason::Answers);
                self.proof = 1;
                false
            }
            Health::Probing => {
                self.proof += 1;
                let is_proven = (self.is_fresh || self.proof >= PROOF) && now >= self.held_until;
                if is_proven {
                    self.change(now, Health::Up, Reason::Answers);
                    self.is_fresh = false;
                }
                is_proven
            }
            Health::Lossy => {
                self.is_doubted = false;
                false
            }
            _ => false,
        }
    }

    /// The path has lost nothing by itself.
    pub fn acquit(&mut self, now: Duration, reason: Reason) {
        if self.health == Health::Lossy {
            self.change(now, Health::Up, reason);
        }
    }

    fn is_second_thought(&self, now: Duration, sent_at: Duration) -> bool {
        sent_at < self.since && now < self.since + SECOND_THOUGHTS
    }

    /// Looks whether answers are overdue, and how much is lost.
    pub fn look(&mut self, now: Duration, silence: Silence, losses: [&Losses; 2]) {
        if self.link.is_err() || self.health == Health::Down {
            return;
        }
        if silence.overdue > 0 {
            self.proof = 0;
            if !self.is_doubted && matches!(self.health, Health::Up | Health::Lossy) {
                if self.health == Health::Up {
                    let reason = if silence.is_busy { Reason::Unreported } else { Reason::Overdue };
                    self.change(now, Health::Up, reason);
                }
                self.is_doubted = true;
            }
            let at_least = match self.health {
                Health::Lossy => SILENCE_LOSSY,
                _ if silence.is_busy => SILENCE_BUSY,
                _ => SILENCE_IDLE,
            };
            let limit = at_least.max(silence_until_down(silence.patience));
            if silence.overdue >= OVERDUE_PROBES && silence.lasts >= limit {
                self.fall(now, Reason::Unanswered);
                return;
            }
        }
        match self.health {
            Health::Up if losses.iter().any(|losses| losses.is_lossy()) => {
                self.damping.fell(now);
                self.change(now, Health::Lossy, Reason::Loss);
                self.held_until = now + self.damping.hold(now).max(Duration::from_secs(CALM.0));
            }
            Health::Lossy if now >= self.held_until && losses.iter().all(|losses| is_calm(now, losses)) => {
                let is_doubted = self.is_doubted;
                self.change(now, Health::Up, Reason::LossEnded);
                self.is_doubted = is_doubted;
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::control::losses::Count;

    const MS: Duration = Duration::from_millis(1);

    fn quiet() -> Silence {
        Silence { overdue: 0, lasts: Duration::ZERO, patience: 32 * MS, is_busy: false }
    }

    /// A path that came up at this time, and its losses: none.
    fn up(now: Duration) -> (PathHealth, Losses) {
        let mut path = PathHealth::new(now);
        path.set_link(now, Ok(()));
        assert!(path.answered(now, now));
        assert_eq!(path.health(), Health::Up);
        (path, Losses::default())
    }

    fn look(path: &mut PathHealth, losses: &Losses, now: Duration, overdue: usize, lasts: Duration) {
        path.look(now, Silence { overdue, lasts, ..quiet() }, [losses, losses]);
    }

    fn put_down(path: &mut PathHealth, losses: &Losses, now: Duration) {
        look(path, losses, now, OVERDUE_PROBES, SILENCE_IDLE);
        assert_eq!((path.health(), path.reason()), (Health::Down, Reason::Unanswered));
    }

    #[test]
    fn an_idle_path_is_left_within_300_ms() {
        for round_trip in [1, 20, 50, 78] {
            assert_eq!(silence_until_down(round_trip * MS + MARGIN) + 80 * MS, 300 * MS);
        }
        assert_eq!(silence_until_down(600 * MS + MARGIN), 742 * MS);
    }

    #[test]
    fn few_probes_or_a_short_silence_are_a_doubt_only() {
        let (mut path, losses) = up(MS);
        look(&mut path, &losses, 80 * MS, 1, 80 * MS);
        assert_eq!((path.health(), path.reason()), (Health::Stalled, Reason::Overdue));
        look(&mut path, &losses, 500 * MS, OVERDUE_PROBES - 1, 500 * MS);
        look(&mut path, &losses, 500 * MS, 50, SILENCE_IDLE.saturating_sub(MS));
        assert_eq!(path.health(), Health::Stalled);
        path.answered(510 * MS, 480 * MS);
        assert_eq!((path.health(), path.reason()), (Health::Up, Reason::Answers));
    }

    #[test]
    fn a_path_that_was_down_is_used_after_three_answers_in_a_row() {
        let (mut path, losses) = up(MS);
        put_down(&mut path, &losses, 1000 * MS);
        let at = 9000 * MS;
        assert!(!path.answered(at, at));
        assert!(!path.answered(at, at));
        look(&mut path, &losses, at, 1, 80 * MS);
        assert_eq!([path.answered(at, at), path.answered(at, at), path.answered(at, at)], [false, false, true]);
        assert_eq!((path.health(), path.falls(at)), (Health::Up, 1));
    }

    #[test]
    fn a_late_answer_takes_the_fall_back() {
        let (mut path, losses) = up(MS);
        put_down(&mut path, &losses, 1000 * MS);
        path.answered(1100 * MS, 800 * MS);
        assert_eq!((path.health(), path.falls(1100 * MS)), (Health::Up, 0));
    }

    #[test]
    fn a_late_answer_makes_no_path_better_than_it_was() {
        let (mut path, _) = up(MS);
        let mut losses = Losses::default();
        for at in 0..100u64 {
            losses.count(MS * 20 * at as u32, Count { sent: at * 20, received: at * 10, ..Count::default() });
        }
        look(&mut path, &losses, 2000 * MS, 0, Duration::ZERO);
        assert_eq!(path.health(), Health::Lossy);
        look(&mut path, &losses, 3000 * MS, OVERDUE_PROBES, SILENCE_LOSSY);
        assert_eq!(path.health(), Health::Down);
        path.answered(3100 * MS, 2500 * MS);
        assert_eq!((path.health(), path.reason()), (Health::Lossy, Reason::Loss));

        let (mut path, losses) = up(MS);
        for at in [1000, 2000, 3000] {
            put_down(&mut path, &losses, at * MS);
            (0..PROOF).for_each(|_| {
                path.answered(at * MS, at * MS);
            });
        }
        assert_eq!((path.health(), path.reason()), (Health::Probing, Reason::Flapping));
        put_down(&mut path, &losses, 3200 * MS);
        path.answered(3300 * MS, 3100 * MS);
        assert_eq!((path.health(), path.reason()), (Health::Probing, Reason::Flapping));
    }

    #[test]
    fn a_lossy_path_that_is_probed_seldom_becomes_calm() {
        let (mut path, _) = up(MS);
        let mut losses = Losses::default();
        let mut count = Count::default();
        for at in 0..100 {
            (count.sent, count.received) = (count.sent + 20, count.received + 10);
            losses.count(MS * 20 * at, count);
        }
        look(&mut path, &losses, 2000 * MS, 0, Duration::ZERO);
        assert_eq!(path.health(), Health::Lossy);
        let calm_from = Duration::from_secs(5);
        let calm_after = (0..60).find(|probe| {
            let now = calm_from + Duration::from_secs(5) * *probe;
            (count.sent, count.received) = (count.sent + 2, count.received + 2);
            losses.count(now, count);
            look(&mut path, &losses, now, 0, Duration::ZERO);
            path.health() == Health::Up
        });
        assert!(calm_after.is_some_and(|probes| (11..30).contains(&probes)), "{calm_after:?}");
    }

    #[test]
    fn a_lost_link_says_why() {
        let (mut path, _) = up(MS);
        path.set_link(2 * MS, Err(Reason::Carrier));
        path.set_link(3 * MS, Err(Reason::InterfaceGone));
        assert_eq!((path.health(), path.reason(), path.since()), (Health::Down, Reason::InterfaceGone, 2 * MS));
        assert!(!path.answered(4 * MS, MS), "an answer that was on its way");
        assert_eq!(path.health(), Health::Down);
        path.set_link(5 * MS, Ok(()));
        assert_eq!((path.health(), path.reason(), path.is_fresh()), (Health::Probing, Reason::Resolved, false));
    }

    proptest! {
        /// Whatever comes in whatever order: it is up only after an answer, doubted only when it is up or lossy, and never
        /// anything but down without a link.
        #[test]
        fn states_hold_together(events in prop::collection::vec((0..7u32, 0..3000u64, 0..8usize), 0..200)) {
            let mut path = PathHealth::new(Duration::ZERO);
            let losses = Losses::default();
            let (mut now, mut has_answer) = (Duration::ZERO, false);
            for (event, pause, overdue) in events {
                now += Duration::from_millis(pause);
                match event {
                    0 => { path.set_link(now, Ok(())); }
                    1 => { path.set_link(now, Err(Reason::Carrier)); }
                    2 => { path.doubt(now, Reason::Unreachable); }
                    3 => path.session_ended(now),
                    4 => look(&mut path, &losses, now, overdue, Duration::from_millis(pause)),
                    _ => {
                        has_answer |= path.has_link();
                        path.answered(now, now.saturating_sub(20 * MS));
                    }
                }
                prop_assert!(has_answer || !matches!(path.health(), Health::Up | Health::Stalled));
                prop_assert!(path.has_link() || path.health() == Health::Down);
                prop_assert!(!path.is_doubted() || matches!(path.health(), Health::Stalled | Health::Lossy));
                prop_assert!(!path.is_fresh() || matches!(path.health(), Health::Probing | Health::Down));
            }
        }
    }
}
