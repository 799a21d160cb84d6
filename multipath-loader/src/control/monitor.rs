//! One path: what is measured of it, and what becomes of it.

use std::time::Duration;

use multipath_common::{
    control::{Message, Probe, REPLY_LEN, Reply},
    health::{Health, Reason, Role},
    maps::{MAX_PATHS, PATH_DOWN, PATH_STANDBY, PATH_UP},
    quality::{Arrivals, LOSS_WINDOWS_S, PathQuality, ProbeEvent},
};

use super::{
    clock_offset::{ClockOffset, OneWay, SmoothedDelay},
    delivery::Delivery,
    health::{OVERDUE_PROBES, PathHealth, Silence, patience, silence_until_down},
    losses::{Count, Losses},
    probes::{Pace, Probes, SentBytes},
    round_trip::{RoundTrip, Stamps},
    selection::{Candidate, Verdict},
};

/// A daemon that wakes later than this did not look, and sent no probes: what is overdue then may not be.
const LATE: Duration = Duration::from_millis(5);
/// Data packets in [`BUSY_SPAN`] that make a path busy: a stream of 50 a second, but not an answer that was counted on
/// the wrong side of a look.
const BUSY_PACKETS: u64 = 2;
/// See [`BUSY_PACKETS`].
const BUSY_SPAN: Duration = Duration::from_millis(80);
/// A path stays busy for so long: pauses between packets of a call or of a page are shorter.
const BUSY_LASTS: Duration = Duration::from_millis(500);
/// A path that lost a probe is probed often for so long: whether it is lossy shows within a second.
const SUSPECT_LASTS: Duration = Duration::from_millis(500);
/// A path that is down for longer is probed less often;
const DOWN_SHORTLY: Duration = Duration::from_mins(1);
/// one that costs money, and that nobody sends by, already after this.
const SPARED_DOWN_SHORTLY: Duration = Duration::from_secs(5);
/// Bytes of the outer packet of an answer over IPv4 (headers 28 and 20, tag 16), as long as none came.
const ANSWER_LEN: u32 = 64 + REPLY_LEN as u32;
/// Lossy paths are compared anew when the loss of one changes by this, parts per million.
const LOSS_STEP_PPM: u32 = 50_000;
/// So much more data than short probes is lost where packets are too large, parts per million; half of the probes' losses
/// are on their way back.
const LARGE_LOST_PPM: u32 = 20_000;
/// So many lost packets of an idle path make no lossy one.
const CHANCE_PACKETS: u64 = 2;
/// Packets of so many jitters may have been overtaken.
const OVERTAKEN_JITTERS: u64 = 2;
/// So many packets may tell what is lost of a thousand.
const TELLING_PACKETS: u64 = 250;
/// See [`PathQuality::probe_bytes_per_day`].
const DAY: Duration = Duration::from_hours(24);

/// What the maps say of a path, read just before [`Monitor::poll`].
#[derive(Clone, Copy, Debug)]
pub struct Counters {
    /// Packets sent on the path alone: [`PathStats`](multipath_common::maps::PathStats)' `egress.packets - doubled`.
    pub sent_packets: u64,
    /// Bytes sent on it.
    pub sent_bytes: SentBytes,
    /// What came over it.
    pub arrivals: Arrivals,
}

/// An answer to one of the probes.
#[derive(Clone, Copy, Debug)]
pub struct Answer {
    /// The probe's number.
    pub sequence: u32,
    /// The answer itself.
    pub reply: Reply,
    /// When the daemon sent the probe, time since boot.
    pub sent_at: Duration,
    /// When the answer came, time since boot.
    pub received_at: Duration,
    /// [`Counters::sent_bytes`] when the probe was sent.
    pub sent_bytes: SentBytes,
    /// The round trip. `None` when the times contradict one another.
    pub round_trip: Option<Duration>,
    /// The one-way delays of this probe and this answer.
    pub delay: Option<OneWay>,
}

/// A change that belongs into the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// Health before.
    pub from: Health,
    /// Health after.
    pub to: Health,
    /// Why.
    pub reason: Reason,
    /// Of a lossy path: parts per million lost.
    pub detail: u32,
}

/// A role, and who says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Wish {
    role: Role,
    reason: Reason,
}

/// What the choice among the peer's paths goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct News {
    health: Health,
    reason: Reason,
    role: Role,
    role_reason: Reason,
    is_fresh: bool,
    /// Of a lossy path: how lossy, in steps that matter beside another one.
    loss_level: Option<u32>,
}

/// One path.
#[derive(Clone, Debug)]
pub struct Monitor {
    slot: u32,
    has_session: bool,
    wish: Wish,
    /// Whether packets are striped over it.
    is_member: bool,
    peer_role: Role,
    health: PathHealth,
    verdict: Verdict,
    /// When the verdict's health was another one last.
    verdict_since: Duration,
    /// What the choice among the peer's paths was last told.
    told: Option<News>,
    probes: Probes,
    /// When it was to be looked at next, as the last look had it.
    planned: Duration,
    round_trip: RoundTrip,
    delay: SmoothedDelay,
    lost_out: Losses,
    lost_in: Losses,
    delivered_out: Delivery,
    delivered_in: Delivery,
    answered_at: Option<Duration>,
    answer_len: u32,
    jitter_out_us: u32,
    jitter_in_us: u32,
    /// Data packets sent, and when they were counted.
    data_sent: Option<(Duration, u64)>,
    busy_until: Duration,
    suspect_until: Duration,
}

impl Monitor {
    /// A new path, without link and session. `slot`: its [`path_slot`](multipath_common::maps::path_slot).
    pub fn new(now: Duration, slot: u32) -> Self {
        Self {
            slot,
            has_session: false,
            wish: Wish { role: Role::Active, reason: Reason::Configuration },
            is_member: false,
            peer_role: Role::Automatic,
            health: PathHealth::new(now),
            verdict: Verdict {
                health: Health::Unknown,
                reason: Reason::New,
                state: PATH_DOWN,
                is_used: false,
                is_spare: false,
            },
            verdict_since: now,
            told: None,
            probes: Probes::new(now),
            planned: now,
            round_trip: RoundTrip::default(),
            delay: SmoothedDelay::default(),
            lost_out: Losses::default(),
            lost_in: Losses::default(),
            delivered_out: Delivery::default(),
            delivered_in: Delivery::default(),
            answered_at: None,
            answer_len: ANSWER_LEN,
            jitter_out_us: 0,
            jitter_in_us: 0,
            data_sent: None,
            busy_until: Duration::ZERO,
            suspect_until: Duration::ZERO,
        }
    }

    /// A path that an earlier daemon has watched, and whose way is still there: what it left of it in `path_quality` holds
    /// until something else is seen.
    pub fn resume(now: Duration, slot: u32, left: &PathQuality) -> Self {
        let new = Self::new(now, slot);
        let known = Health::from_number(left.health).filter(|health| *health != Health::Unknown);
        let Some(health) = known else { return new };
        let reason = Reason::from_number(left.reason).unwrap_or(Reason::None);
        let is_used = left.is_used != 0;
        Self {
            // Until the first look says what it is, so that a path that was spared is not used meanwhile.
            peer_role: Role::from_number(left.role).unwrap_or(Role::Automatic),
            health: PathHealth::resume(now, health, reason, left.flaps),
            verdict: Verdict {
                health,
                reason,
                state: if is_used { PATH_UP } else { PATH_STANDBY },
                is_used,
                is_spare: false,
            },
            verdict_since: Duration::from_nanos(left.since_ns),
            probes: Probes::resume(now, left.probes, left.unanswered),
            round_trip: RoundTrip::resume(
                now,
                [left.rtt_min_us, left.rtt_us, left.rtt_deviation_us, left.rtt_last_us]
                    .map(|micros| Duration::from_micros(micros.into())),
            ),
            answered_at: (left.answered_ns > 0).then(|| Duration::from_nanos(left.answered_ns)),
            ..new
        }
    }

    fn is_probed(&self) -> bool {
        self.has_session && self.health.has_link()
    }

    /// When [`Monitor::poll`] is to be called next; `None` while there is no way to probe.
    pub fn next_deadline(&self) -> Option<Duration> {
        self.is_probed().then(|| self.probes.next_deadline(self.pace(), patience(&self.round_trip)))
    }

    /// How often it is probed, as of the last look.
    fn pace(&self) -> Pace {
        let now = self.probes.looked_at();
        let (role, is_busy) = (self.role(), self.is_busy(now));
        let is_metered = role == Role::Metered;
        match self.health.health() {
            _ if role == Role::Down => Pace::SPARED,
            Health::Down if is_metered && !is_busy && now >= self.health.since() + SPARED_DOWN_SHORTLY => Pace::SPARED,
            Health::Down if now < self.health.since() + DOWN_SHORTLY => Pace::DOWN,
            Health::Down => Pace::LONG_DOWN,
            _ if self.health.is_doubted() => Pace::DOUBT,
            Health::Probing if self.health.reason() != Reason::Flapping => Pace::BUSY,
            _ if is_busy || (now < self.suspect_until && !is_metered) => Pace::BUSY,
            _ if is_metered && self.verdict.is_used => Pace::SPARED_USED,
            _ if is_metered => Pace::SPARED,
            _ => Pace::IDLE,
        }
    }

    /// Looks at the path, after the answers that have come were given to [`Monitor::answered`]. A probe that is returned is
    /// to be written now.
    pub fn poll(&mut self, now: Duration, counters: &Counters) -> Option<Probe> {
        let deadline = self.next_deadline()?;
        // What has happened since may have brought the deadline forward, which nobody could know, or put it off.
        let late_by = now.saturating_sub(self.planned.max(deadline));
        if late_by > LATE {
            self.probes.excuse(late_by);
        }
        self.look_at_arrivals(now, &counters.arrivals);
        self.look_whether_busy(now, counters);
        let patience = patience(&self.round_trip);
        let (overdue, lasts) = self.probes.overdue_count(now, patience);
        if overdue > 0 {
            self.suspect_until = now + SUSPECT_LASTS;
        }
        let silence = Silence { overdue, lasts, patience, is_busy: self.is_busy(now) };
        self.health.look(now, silence, [&self.lost_out, &self.lost_in]);
        self.probes.looked(now);
        let pace = self.pace();
        let probe = self.probes.is_due(now, pace).then(|| self.probe(now, REPLY_LEN as u16, counters));
        self.planned = self.probes.next_deadline(pace, patience);
        probe
    }

    /// Says whether packets are striped over the path, or are about to be: the next probe tells the peer.
    pub fn set_member(&mut self, is_member: bool) {
        self.is_member = is_member;
    }

    /// A probe of this length (bytes of the message, more than [`REPLY_LEN`]), to see whether so large packets pass.
    /// Nothing follows from its loss.
    pub fn padded_probe(&mut self, now: Duration, len: u16, counters: &Counters) -> Probe {
        self.probe(now, len, counters)
    }

    fn probe(&mut self, now: Duration, len: u16, counters: &Counters) -> Probe {
        let is_padded = usize::from(len) > REPLY_LEN;
        // A padded one counts for no losses.
        let sent_packets = counters.sent_packets + u64::from(!is_padded);
        let sequence = self.probes.send(now, sent_packets, counters.sent_bytes, is_padded);
        let path = (self.slot % MAX_PATHS as u32) as u8;
        Probe { role: self.wish.role as u8, len, sequence, path, is_member: self.is_member.into(), sent_packets }
    }

    fn look_at_arrivals(&mut self, now: Duration, arrivals: &Arrivals) {
        self.peer_role = Role::from_number(arrivals.peer_role).unwrap_or(Role::Automatic);
        if arrivals.is_begun == 0 {
            return;
        }
        self.jitter_in_us = arrivals.jitter_scaled_us / 16;
        self.delivered_in.count(now, arrivals.bytes);
        // Before the first probe the peer has said nothing of what it sent.
        if arrivals.peer_sent == 0 {
            return;
        }
        self.lost_in.count(
            now,
            Count {
                sent: arrivals.peer_sent,
                received: arrivals.received_then,
                late: arrivals.late,
                reordered: arrivals.reordered,
            },
        );
    }

    fn look_whether_busy(&mut self, now: Duration, counters: &Counters) {
        let control = self.probes.sent().wrapping_add(counters.arrivals.probes);
        let data = counters.sent_packets.wrapping_sub(control);
        match self.data_sent {
            Some((counted_at, _)) if now < counted_at + BUSY_SPAN => return,
            // A counter that began anew looks like one that ran backwards.
            Some((_, before)) if (BUSY_PACKETS..u64::MAX / 2).contains(&data.wrapping_sub(before)) => {
                self.busy_until = now + BUSY_LASTS;
            }
            _ => {}
        }
        self.data_sent = Some((now, data));
    }

    /// An answer that has come; `clock` is its peer's. `None` when it answers no probe that is waited for.
    pub fn answered(&mut self, event: &ProbeEvent, clock: &mut ClockOffset) -> Option<Answer> {
        let Ok(Message::Reply(reply)) = Message::from_bytes(&event.reply) else { return None };
        let probe = self.probes.answered(reply.sequence)?;
        let received_at = Duration::from_nanos(event.received_ns);
        let stamps = Stamps {
            sent_us: reply.sent_us,
            reached_us: reply.reached_us,
            replied_us: event.timestamp,
            received_us: (event.received_ns / 1000) as u32,
        };
        let mut answer = Answer {
            sequence: reply.sequence,
            reply,
            sent_at: probe.sent_at,
            received_at,
            sent_bytes: probe.sent_bytes,
            round_trip: stamps.round_trip(),
            delay: None,
        };
        self.answered_at = self.answered_at.max(Some(received_at));
        self.delivered_out.count_at(reply.reached_us, reply.bytes);
        // A large packet takes longer on a slow link.
        if !probe.is_padded {
            if let Some(round_trip) = answer.round_trip {
                self.round_trip.sample(received_at, round_trip);
            }
            answer.delay = clock.sample(received_at, self.slot, &stamps);
            if let Some(delay) = answer.delay {
                self.delay.sample(delay);
            }
            self.answer_len = event.len;
            self.jitter_out_us = reply.jitter_us;
            self.lost_out.count(
                received_at,
                Count {
                    sent: probe.sent_packets,
                    received: reply.packets,
                    late: reply.late,
                    reordered: reply.reordered,
                },
            );
        }
        if self.health.answered(received_at, probe.sent_at) {
            self.lost_out.acquit();
            self.lost_in.acquit();
        }
        Some(answer)
    }

    /// Interface, address and route are there (called again when they change), or are not, and why.
    pub fn set_link(&mut self, now: Duration, link: Result<(), Reason>) {
        if self.health.set_link(now, link) {
            self.probes.hurry();
        } else {
            self.probes.forget();
        }
    }

    /// Whether there is a session that probes can be sealed with; called again when another one replaces it.
    pub fn set_session(&mut self, now: Duration, has_session: bool) {
        if self.has_session && !has_session {
            self.health.session_ended(now);
            self.probes.forget();
        }
        self.has_session = has_session;
        self.probes.hurry();
    }

    /// What this gateway wants the path to be, and who says so. The peer is told by the next probe.
    pub fn set_role(&mut self, role: Role, reason: Reason) {
        let role = if role == Role::Automatic { Role::Active } else { role };
        if self.wish != (Wish { role, reason }) {
            self.wish = Wish { role, reason };
            self.probes.hurry();
        }
    }

    /// A router's complaint, or any other reason to doubt that the path works.
    pub fn doubt(&mut self, now: Duration, reason: Reason) {
        if self.health.doubt(now, reason) {
            self.probes.hurry();
        }
    }

    /// It was our fault that packets were lost, and that is over: they were too large, or too many.
    pub fn acquit(&mut self, now: Duration, reason: Reason) {
        self.lost_out.acquit();
        self.health.acquit(now, reason);
    }

    /// Whether so much more data than short probes is lost out that its packets may be too large.
    pub fn loses_large(&self, now: Duration) -> bool {
        self.lost_out.lost_ppm(now, LOSS_WINDOWS_S[0]) > LARGE_LOST_PPM + 2 * self.probes.loss_ppm()
    }

    /// Packets that are lost out all the time, parts per million: in the last seconds, and over a longer time as well,
    /// so that a buffer that has overflown once is forgotten soon.
    pub fn loss_out_ppm(&self, now: Duration) -> u32 {
        let [short, long, _] = LOSS_WINDOWS_S;
        // A probe that overtakes others tells of them as if they were lost.
        let overtaken = self.lost_out.sent(now, 0) * u64::from(self.jitter_out_us) * OVERTAKEN_JITTERS / 1_000_000;
        let lost_ppm = |span| {
            let sent = self.lost_out.sent(now, span).max(1);
            let lost = u64::from(self.lost_out.lost_ppm(now, span)) * sent / 1_000_000;
            // Two standard deviations of what chance makes of rare events.
            let chance = CHANCE_PACKETS + 2 * lost.isqrt();
            (lost.saturating_sub(chance + overtaken) * 1_000_000 / sent) as u32
        };
        lost_ppm(short).min(lost_ppm(long))
    }

    /// Packets that may be lost out, parts per million: the most that any time says that has packets enough to say it. A slow
    /// flow has few packets, and is slow because of what it loses.
    pub fn likely_loss_out_ppm(&self, now: Duration) -> u32 {
        let lost_ppm = |span| {
            let sent = self.lost_out.sent(now, span);
            let chance_ppm = (1_000_000 / sent.max(1)) as u32;
            Some(self.lost_out.lost_ppm(now, span).saturating_sub(chance_ppm)).filter(|_| sent >= TELLING_PACKETS)
        };
        LOSS_WINDOWS_S.into_iter().filter_map(lost_ppm).max().unwrap_or_default()
    }

    /// Jitter out (RFC 3550), microseconds.
    pub fn jitter_out_us(&self) -> u32 {
        self.jitter_out_us
    }

    /// Whether it carries data.
    pub fn is_busy(&self, now: Duration) -> bool {
        now < self.busy_until
    }

    /// Round trips of short probes that are lost, parts per million.
    pub fn probe_loss_ppm(&self) -> u32 {
        self.probes.loss_ppm()
    }

    /// The role in force: the stricter of what both gateways want.
    pub fn role(&self) -> Role {
        if self.peer_role as u32 > self.wish.role as u32 { self.peer_role } else { self.wish.role }
    }

    fn role_reason(&self) -> Reason {
        if self.role() == self.wish.role { self.wish.reason } else { Reason::Peer }
    }

    /// Whether something has changed that the choice among the peer's paths goes by; once after each change.
    pub fn take_changed(&mut self) -> bool {
        let health = self.health.health();
        let is_lossy = health == Health::Lossy;
        let news = Some(News {
            health,
            reason: self.health.reason(),
            role: self.role(),
            role_reason: self.role_reason(),
            is_fresh: self.health.is_fresh(),
            loss_level: is_lossy.then(|| self.loss_ppm(self.probes.looked_at()) / LOSS_STEP_PPM),
        });
        news != std::mem::replace(&mut self.told, news)
    }

    /// What the choice among the peer's paths goes by.
    pub fn candidate(&self, now: Duration) -> Candidate {
        Candidate {
            health: self.health.health(),
            reason: self.health.reason(),
            role: self.role(),
            role_reason: self.role_reason(),
            has_link: self.health.has_link(),
            is_fresh: self.health.is_fresh(),
            loss_ppm: self.loss_ppm(now),
            answered_at: self.answered_at.unwrap_or_default(),
        }
    }

    fn loss_ppm(&self, now: Duration) -> u32 {
        self.lost_out.lost_ppm(now, LOSS_WINDOWS_S[0]).max(self.lost_in.lost_ppm(now, LOSS_WINDOWS_S[0]))
    }

    /// Takes the choice. A change of health, or that a bad path is used because nothing better is there, is returned for
    /// the log.
    pub fn decide(&mut self, now: Duration, verdict: Verdict) -> Option<Change> {
        let before = std::mem::replace(&mut self.verdict, verdict);
        let detail = if verdict.health == Health::Lossy { self.loss_ppm(now) } else { 0 };
        let change = |reason| Some(Change { from: before.health, to: verdict.health, reason, detail });
        if verdict.health != before.health {
            self.verdict_since = now;
            if before.health == Health::Backup && verdict.health == Health::Up {
                self.verdict.reason = Reason::NoBetterTier;
            }
            return change(self.verdict.reason);
        }
        match verdict.health {
            // Answers keep coming: that is not why it was chosen.
            Health::Up | Health::Backup => self.verdict.reason = before.reason,
            _ if verdict.reason != before.reason => return change(verdict.reason),
            Health::Down | Health::Lossy if verdict.is_used && !before.is_used => return change(Reason::LeastBad),
            _ => {}
        }
        None
    }

    /// The last choice, with the reason of the last change of health.
    pub fn verdict(&self) -> Verdict {
        self.verdict
    }

    /// The round trips.
    pub fn round_trip(&self) -> &RoundTrip {
        &self.round_trip
    }

    /// The smoothed one-way delays; they add up to the smoothed round trip.
    pub fn delays(&self) -> Option<OneWay> {
        self.delay.split(self.round_trip.smoothed()?)
    }

    /// Writes what is known of the path; what is known of its quota, its capacity and its MTU is left as it is.
    pub fn fill(&self, now: Duration, quality: &mut PathQuality) {
        let micros =
            |time: Option<Duration>| time.map_or(0, |time| u32::try_from(time.as_micros()).unwrap_or(u32::MAX));
        let (pace, patience) = (self.pace(), patience(&self.round_trip));
        let interval = pace.interval;
        let left_after = silence_until_down(patience).max(pace.overdue_within(patience, OVERDUE_PROBES as u32));
        let delays = self.delays();
        // Nothing comes, whatever came last.
        let is_down = self.health.health() == Health::Down;
        let delivered = |delivery: &Delivery, silent_for| if is_down { 0 } else { delivery.kbps(silent_for) };
        let silent_for = now.saturating_sub(self.answered_at.unwrap_or_default());
        let [_, _, longest] = LOSS_WINDOWS_S;
        *quality = PathQuality {
            since_ns: self.verdict_since.as_nanos() as u64,
            answered_ns: self.answered_at.unwrap_or_default().as_nanos() as u64,
            probes: self.probes.sent(),
            unanswered: self.probes.unanswered(),
            probe_bytes_per_day: probe_bytes_per_day(interval, self.answer_len),
            health: self.verdict.health as u32,
            reason: self.verdict.reason as u32,
            role: self.role() as u32,
            is_used: u32::from(self.verdict.is_used),
            interval_us: micros(Some(interval)),
            failover_us: micros(Some(interval + left_after)),
            rtt_min_us: micros(self.round_trip.minimum()),
            rtt_us: micros(self.round_trip.smoothed()),
            rtt_deviation_us: micros(self.round_trip.deviation()),
            rtt_last_us: micros(self.round_trip.last()),
            delay_out_us: delays.map_or(0, |delays| delays.out_us),
            delay_in_us: delays.map_or(0, |delays| delays.in_us),
            jitter_out_us: self.jitter_out_us,
            jitter_in_us: self.jitter_in_us,
            loss_out_ppm: LOSS_WINDOWS_S.map(|seconds| self.lost_out.lost_ppm(now, seconds)),
            loss_in_ppm: LOSS_WINDOWS_S.map(|seconds| self.lost_in.lost_ppm(now, seconds)),
            late_out_ppm: LOSS_WINDOWS_S.map(|seconds| self.lost_out.late_ppm(now, seconds)),
            late_in_ppm: LOSS_WINDOWS_S.map(|seconds| self.lost_in.late_ppm(now, seconds)),
            reordered_out_ppm: self.lost_out.reordered_ppm(now, longest),
            reordered_in_ppm: self.lost_in.reordered_ppm(now, longest),
            delivered_out_kbps: delivered(&self.delivered_out, silent_for),
            delivered_in_kbps: delivered(&self.delivered_in, now.saturating_sub(self.probes.looked_at())),
            flaps: self.health.falls(now),
            ..*quality
        };
    }
}

/// Bytes of a day at this interval: probes and answers of both gateways, which go by the same role.
fn probe_bytes_per_day(interval: Duration, len: u32) -> u64 {
    4 * u64::from(len) * (DAY.as_nanos() / interval.as_nanos()) as u64
}

#[cfg(test)]
mod simulation;
