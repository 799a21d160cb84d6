//! Leads flows that have turned out to be bulk from one path to all of the bond, without their rate falling.
//!
//! The more of D a flow's packets are held for, the more paths it may use, and the longer its round trip is. Its sender has
//! only so many packets under way: a round trip that grows faster than they do costs rate, and `BBR` takes its rate to be
//! the path's then. Two things tell that the hold may grow:
//!
//! - Packets queue in front of the paths that the flow may use: its window is larger than they need. That much is moved from
//!   the queue into the hold, so that the queue never becomes so long that a packet is dropped. A window that grows without
//!   a loss grows faster and faster (CUBIC, RFC 9438 section 4.2; by a twentieth a round trip before the first loss), so
//!   the hold follows with a speed that is learned.
//! - The paths are full although nothing queues: a sender that paces, as `BBR` does, and has room in its window, which is
//!   twice what it needs. Then the hold grows slowly until the paths are no longer full, and falls back a little. `BBR`
//!   measures its shortest round trip anew every ten seconds (`net/ipv4/tcp_bbr.c`), and has room again.
//!
//! A path joins when the hold covers its delay. If all of them together do not carry more than they did without it, the
//! hold falls below it again. All of this is about what passes the paths, whoever sends it: where several flows share a bond
//! each is led by what they do together.

use std::time::Duration;

use multipath_common::classes::FULL_HOLD;

use super::bond::HOLD_SLACK;

#[cfg(test)]
mod senders;

#[cfg(test)]
mod simulation;

/// How often a flow is looked at on its way.
pub const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How often it is looked at when it uses all paths.
pub const LOOK_WHEN_SETTLED: Duration = Duration::from_millis(100);

/// Below this, milliseconds, a longer round trip is not noticed: what the queue is allowed to vary by.
const UNNOTICED: f64 = 10.0;
/// Queue that stays when the hold grows, and the one from which on it does, milliseconds.
const QUEUE_KEPT: f64 = 3.0;
const QUEUE_MOVED: f64 = 4.0;
/// How much of the queue beyond that moves in a round trip, and how much it speeds the hold up by.
const MOVED: f64 = 0.7;
const SPED_UP: f64 = 0.15;
/// How fast the hold may grow: a flow hears of its packets half as fast then.
const FASTEST: f64 = 0.5;
/// How fast it grows and falls by what the paths carry, milliseconds per millisecond.
const FEELING: f64 = 0.015;
const FALLING: f64 = 0.1;
/// What queues while a sender is still starting says little, and for that time the hold stays below half a round trip.
const START: Duration = Duration::from_secs(1);
/// Paths that carry so much of their rate are full; below the other one they have become idle.
const FULL: f64 = 0.96;
const IDLE: f64 = 0.93;
/// Paths that carry less than this have paused, as `BBR` does for a fifth of a second to measure its round trip: so long
/// that is taken for a pause.
const PAUSED: f64 = 0.5;
const LONGEST_PAUSE: Duration = Duration::from_millis(600);
/// Over how much time, milliseconds, it is averaged what paths carry: to feel whether they are full, and whether one more
/// was worth it.
const SOON: f64 = 150.0;
const LATE: f64 = 1000.0;
/// Bits that are looked at together at least: eight packets.
const LEAST_BITS: f64 = 8.0 * 12_000.0;
/// How long a path is left alone that was of no use: at first, and after it was of none again and again.
const FIRST_BAN: Duration = Duration::from_secs(10);
const LONGEST_BAN: Duration = Duration::from_mins(5);
/// Bytes that a flow carries by all members before its destination is remembered.
const PROVEN_BYTES: u64 = 2_000_000;

/// A member of the bond.
#[derive(Clone, Copy, Debug)]
pub struct Member {
    /// The least hold that covers its delay, n/255 of D.
    pub hold: u32,
    /// Rate that packets are striped by, kbit/s.
    pub rate_kbps: u32,
    /// Bytes of outer IP packets that it has sent, copies not counted.
    pub sent_bytes: u64,
    /// How long a packet that is sent now waits before it leaves.
    pub queue: Duration,
}

/// A peer's bond at one time.
#[derive(Clone, Copy, Debug)]
pub struct Look<'a> {
    /// Time since boot.
    pub now: Duration,
    /// Its members, in the order of their path ids.
    pub members: &'a [Member],
    /// How much longer than by the nearest path fully held packets take.
    pub spread: Duration,
    /// Round trip of the nearest path.
    pub round_trip: Duration,
}

/// A flow that is led.
#[derive(Debug)]
pub struct Lead {
    /// How long its packets are held, milliseconds.
    held: f64,
    /// How fast that grows because the sender's window does, milliseconds per millisecond.
    speed: f64,
    /// What is written: n/255 of D.
    hold: u32,
    since: Duration,
    at: Duration,
    /// Which paths it could use, their rates' sum and what they had sent at the last look.
    usable: (usize, u32, u64),
    /// What they have sent since the last sample, bytes, and for how long that was gathered, milliseconds.
    gathered: (u64, f64),
    /// Their load, of their rate, over [`SOON`], and over [`LATE`].
    load: f64,
    lasting_load: f64,
    /// Since when it has paused.
    paused_at: Option<Duration>,
    /// The queue at the last look, milliseconds.
    queue: f64,
    /// Until when it must not come to this hold, and how long it was kept from one last.
    banned: Option<(u32, Duration)>,
    ban: Duration,
    /// It uses all members,
    is_settled: bool,
    /// and how many bytes it had sent when it first did.
    settled_since: Option<u64>,
}

/// Milliseconds.
fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

impl Lead {
    /// A flow that goes by a path with this hold, or that was led so far before.
    pub const fn new(now: Duration, hold: u32) -> Self {
        Self {
            held: 0.0,
            speed: 0.0,
            hold,
            since: now,
            at: now,
            usable: (0, 0, 0),
            gathered: (0, 0.0),
            load: 1.0,
            lasting_load: 1.0,
            paused_at: None,
            queue: 0.0,
            banned: None,
            ban: Duration::ZERO,
            is_settled: false,
            settled_since: None,
        }
    }

    /// How much of D the flow's packets are held for, n/255.
    pub const fn hold(&self) -> u32 {
        self.hold
    }

    /// Whether it is held so long that it uses all paths.
    pub const fn is_settled(&self) -> bool {
        self.is_settled
    }

    /// Whether a flow that has sent so many bytes has carried enough by all members that others to where it goes had better
    /// be so from the beginning.
    pub fn is_proven(&self, bytes: u64) -> bool {
        self.settled_since.is_some_and(|since| bytes.saturating_sub(since) >= PROVEN_BYTES)
    }

    /// Looks at the bond; the flow has sent so many bytes. Returns the hold.
    pub fn look(&mut self, look: &Look, bytes: u64) -> u32 {
        self.is_settled = false;
        self.hold = self.decide(look);
        self.settled_since = if self.is_settled { self.settled_since.or(Some(bytes)) } else { None };
        self.hold
    }

    fn decide(&mut self, look: &Look) -> u32 {
        let elapsed = ms(look.now.saturating_sub(self.at));
        self.at = look.now;
        let spread = ms(look.spread);
        let Some(furthest) = look.members.iter().map(|member| member.hold).max() else { return self.hold };
        if spread < UNNOTICED {
            self.is_settled = true;
            return FULL_HOLD;
        }
        let usable = || look.members.iter().filter(|member| member.hold <= self.hold);
        let Some(queue) = usable().map(|member| ms(member.queue)).min_by(f64::total_cmp) else {
            // None is near enough: the nearest must be.
            return look.members.iter().map(|member| member.hold).min().unwrap_or_default();
        };
        let level = usable().map(|member| member.hold).max().unwrap_or_default();
        let kbps: u32 = usable().map(|member| member.rate_kbps).fold(0, u32::saturating_add);
        let sent = usable().map(|member| member.sent_bytes).sum();
        let now_usable = (usable().count(), kbps, sent);
        let nearer: f64 = usable().filter(|member| member.hold < level).map(|member| f64::from(member.rate_kbps)).sum();
        let floor = held(level, spread);
        let before = std::mem::replace(&mut self.usable, now_usable);
        if before.0 != now_usable.0 {
            // Everything begins anew, and from what is written: D may be another one too.
            (self.held, self.speed, self.gathered) = (held(self.hold, spread), 0.0, (0, 0.0));
            (self.load, self.lasting_load, self.paused_at) = (1.0, 1.0, None);
            return if level == furthest { self.settle(furthest, spread) } else { self.hold };
        }
        self.sample(look.now, sent.saturating_sub(before.2), f64::from(kbps), elapsed);
        if self.paused_at.is_some_and(|since| look.now.saturating_sub(since) <= LONGEST_PAUSE) {
            return self.hold;
        }
        // The shorter of two: what a burst leaves behind is gone at the next look.
        let standing = std::mem::replace(&mut self.queue, queue).min(queue);
        if self.lasting_load * f64::from(kbps) < IDLE * nearer {
            self.ban(look.now, level);
        } else if level == furthest {
            return self.settle(furthest, spread);
        } else {
            self.move_on(standing, elapsed, ms(look.round_trip), floor);
        }
        let most = self.most(look, spread);
        self.held = self.held.clamp(0.0, most);
        covering(self.held, spread)
    }

    /// The hold for all members. Not the whole of D: it may be longer because a farther path is about to become one.
    fn settle(&mut self, furthest: u32, spread: f64) -> u32 {
        self.is_settled = true;
        // What covers the furthest changes until the next look: D may become shorter by a twentieth of a second in a second.
        let hold = (furthest + furthest / 8 + HOLD_SLACK).min(FULL_HOLD);
        (self.held, self.speed) = (held(hold, spread), 0.0);
        hold
    }

    /// The longest hold now, milliseconds.
    fn most(&self, look: &Look, spread: f64) -> f64 {
        let start = if look.now.saturating_sub(self.since) < START {
            (ms(look.round_trip) / 2.0).max(UNNOTICED).max(held(self.hold, spread))
        } else {
            spread
        };
        match self.banned {
            Some((hold, until)) if look.now < until => start.min(held(hold.saturating_sub(1), spread)),
            _ => start.min(spread),
        }
    }

    /// Notes what the paths that the flow may use have carried.
    fn sample(&mut self, now: Duration, bytes: u64, kbps: f64, elapsed: f64) {
        self.gathered = (self.gathered.0 + bytes, self.gathered.1 + elapsed);
        if self.gathered.1 * kbps < LEAST_BITS {
            return;
        }
        let (bytes, elapsed) = std::mem::take(&mut self.gathered);
        let load = f64::from(u32::try_from(bytes).unwrap_or(u32::MAX)) * 8.0 / elapsed / kbps;
        self.paused_at = if load < PAUSED { self.paused_at.or(Some(now)) } else { None };
        if self.paused_at.is_none_or(|since| now.saturating_sub(since) > LONGEST_PAUSE) {
            self.load += (load - self.load) * (elapsed / SOON).min(1.0);
            self.lasting_load += (load - self.lasting_load) * (elapsed / LATE).min(1.0);
        }
    }

    /// Lengthens or shortens the hold between two paths.
    fn move_on(&mut self, queue: f64, elapsed: f64, round_trip: f64, floor: f64) {
        // Until the sender feels what is done here: with what already queues, and something beyond the tunnel.
        let response = round_trip + self.held + 2.0 * UNNOTICED;
        if queue > QUEUE_MOVED || self.speed > 0.0 && queue > 1.0 {
            let excess = queue - QUEUE_KEPT;
            self.speed = (self.speed + SPED_UP * excess * elapsed / response / response).clamp(0.0, FASTEST);
            self.held += (self.speed + (MOVED * excess / response).max(0.0)).min(FASTEST) * elapsed;
        } else if self.load > FULL {
            self.speed = 0.0;
            self.held += FEELING * elapsed;
        } else if self.load < IDLE {
            self.speed = 0.0;
            self.held = (self.held - FALLING * elapsed).max(floor);
        }
    }

    /// The paths with this hold are of no use: back to below it, for some time.
    fn ban(&mut self, now: Duration, hold: u32) {
        self.ban = (self.ban * 2).clamp(FIRST_BAN, LONGEST_BAN);
        self.banned = Some((hold, now + self.ban));
    }
}

/// A hold, milliseconds.
fn held(hold: u32, spread: f64) -> f64 {
    f64::from(hold) / f64::from(FULL_HOLD) * spread
}

/// The least hold that lasts so long: a member's own comes out as itself.
#[expect(clippy::cast_sign_loss, reason = "neither is negative")]
fn covering(held: f64, spread: f64) -> u32 {
    // Rounding must not make it one more.
    ((held / spread * f64::from(FULL_HOLD) - 1e-6).ceil() as u32).min(FULL_HOLD)
}
