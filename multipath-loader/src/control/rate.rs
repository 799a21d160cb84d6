//! How fast a path may be sent on: closed-loop control of its rate by what the other side says that it got.
//!
//! A modem holds a second of packets in its buffer when it is sent more than its line carries. The virtual clock of the
//! egress program ([`multipath_common::pacing`]) refuses what is beyond the path's rate before it gets there; this
//! controller finds the rate. It sees one [`Report`] for each answered probe of one path, and no packet.
//!
//! - **No limit** at first. A limit is suspected where the delay stands above the base by more than noise explains, for
//!   at least three reports, and came there little by little; or where more is lost than is lost anyway (a buffer too
//!   short to be seen as a delay). What is delivered meanwhile is what the bottleneck carries.
//! - **Trial.** Whoever suspects a bottleneck sends less for a moment, and looks whether that helps. If the queue goes,
//!   it was ours, and the rate becomes what was delivered, less a little. If not, the route has become longer, somebody
//!   else fills the buffer, or packets are lost at random: the base is learned anew and the rate is as before.
//! - **Steady.** Near the last capacity the rate follows a queue of a few milliseconds, up and down in steps of a per
//!   cent, as TCP Vegas does with its window. Above it each round without a queue makes the step larger. The rate goes
//!   up only when packets wanted more (`pressed`) and about as much was sent and delivered, so a path that is idle, or
//!   that has less to send, stays where it is.
//! - **Noise.** Packets of a path with jitter overtake one another, and its delay is told by the median of half a second.
//!   A queue counts only beyond what that noise explains, and what may just be late is not lost. The steps upward are
//!   no smaller than what noise would hide; large ones go on after a few reports, as on a quiet path, until these tell of
//!   a queue, or less comes than is sent: then the rate is what is delivered.
//! - **Disuse.** A limit is not forgotten, because a full buffer is dearer than a second of growth; but after a minute
//!   without demand it counts as old, and the steps upward are large from the first.
//!
//! The base is the least delay of the last twenty seconds: for so long, clocks that drift apart cannot hide a queue. A
//! path that is never without one empties it by a trial within that time.

mod base;
mod history;
mod shares;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

use std::time::Duration;

use base::Base;
use history::{BRIEF_AGE_US, History, Transfer, microseconds};
pub use shares::{PathRate, weights};

/// Rates above this are no limit, kbit/s: no modem with a deep buffer is that fast, but processors are that slow.
const CEILING_KBPS: u32 = 500_000;
/// No rate is set below this, kbit/s. A path that carries less is spoiled anyway, and a phone call always fits.
const FLOOR_KBPS: u32 = 200;
/// Bytes on the way that a measured rate needs at least: less is no load.
const LEAST_TRANSFER: u64 = 4_000;
/// Bits of a long packet.
const PACKET_BITS: i64 = 1500 * 8;

/// A standing queue that makes a limit where there was none, microseconds,
const FIRST_QUEUE_US: i64 = 20_000;
/// and bytes: four packets. A processor that is busy elsewhere delays a few small packets as long.
const FIRST_QUEUE: u64 = 6_000;
/// A standing queue that is too long on a path with a limit, microseconds. (The virtual queue of 10 ms shows in it.)
const LONG_QUEUE_US: i64 = 15_000;
/// Below this a queue is none, microseconds.
const NO_QUEUE_US: i64 = 5_000;
/// Above this the rate goes down a step, microseconds.
const TAUT_QUEUE_US: i64 = 10_000;
/// Within this a trial empties a queue, if the rate need not be below [`LEAST_TRIAL`] for it, microseconds.
const EMPTYING_US: i64 = 200_000;

/// Parts per thousand of the capacity that a trial goes down to at the most.
const LEAST_TRIAL: i64 = 250;
/// The same at the least.
const MOST_TRIAL: i64 = 950;
/// Parts per thousand of the capacity that a trial on losses, or one that only looks for the base, goes down to.
const MILD_TRIAL: i64 = 800;
/// Parts per thousand of the capacity that become the rate when a trial has shown it.
const SETTLED: i64 = 970;
/// The smallest step of the rate, parts per thousand.
const SMALL_STEP: i64 = 10;
/// The step back to the last capacity, parts per thousand.
const RETURN_STEP: i64 = 30;
/// The first step when the last capacity is old, parts per thousand.
const OLD_STEP: i64 = 80;
/// The largest step of the rate, parts per thousand.
const LARGE_STEP: i64 = 250;
/// A step beyond this makes a queue that is seen in spite of noise after a few reports, parts per thousand.
const STRIDE: i64 = 40;
/// Queue that the largest step may make in a round, microseconds.
const OVERSHOOT_US: i64 = 50_000;
/// Parts per thousand of the last capacity up to which steps stay small.
const KNOWN: i64 = 1020;
/// Parts per thousand of the rate that must have been sent and delivered for the rate to go up.
const MOSTLY: u64 = 750;

/// Parts per thousand of the rate that must have been sent for a queue, or losses, to be likely to be ours.
const HALF: u64 = 400;
/// The same for that to be possible.
const LITTLE: u64 = 50;
/// Reports that a queue stands in before little traffic is made responsible for it: a second.
const LONG_STANDING: usize = 50;
/// Losses beyond those that are there anyway that tell of a full buffer, parts per thousand: chance
/// may add as much to what a bad radio link loses.
const LOSS: u64 = 30;
/// Reports that a rate is measured over, and how long that takes at least, microseconds: what an access point held back
/// and then delivered at once is no rate.
const RATE_REPORTS: usize = 25;
/// See [`RATE_REPORTS`].
const LEAST_RATE_US: u64 = 200_000;
/// Reports that tell what is delivered at present, and how long that takes at least, microseconds: a single burst is no
/// rate.
const RECENT_REPORTS: usize = 8;
/// See [`RECENT_REPORTS`].
const LEAST_RECENT_US: u64 = 100_000;
/// Lost bytes that say nothing: eight packets.
const LOSS_SLACK: u64 = 12_000;

/// Time that a trial on a queue is given beyond what it must take, microseconds.
const MARGIN_US: i64 = 40_000;
/// The shortest round, microseconds.
const LEAST_ROUND_US: i64 = 100_000;
/// Rounds that a step down is given before another one.
const ROUNDS_DOWN: u32 = 4;
/// Reports that a capacity is measured over at least.
const LEAST_STANDING: usize = 3;
/// How long a trial that looks for the base goes, microseconds.
const BASE_TRIAL_US: i64 = 100_000;
/// How long a trial on losses watches, microseconds.
const LOSS_TRIAL_US: i64 = 200_000;
/// For so long after a trial that has not helped the next one needs a stronger suspicion, microseconds; each time twice
/// as long.
const FIRST_BACKOFF_US: i64 = 1_000_000;
/// The longest of these times, microseconds.
const LAST_BACKOFF_US: i64 = 32_000_000;
/// Without demand for this long, the last capacity is old, microseconds.
const OLD_US: i64 = 60_000_000;
/// A base that was not met again for this long is looked for, microseconds.
const STALE_BASE_US: i64 = 12_000_000;
/// The most that was delivered is forgotten by a thousandth in this time, microseconds: by half in twelve minutes.
const FORGET_US: i64 = 1_000_000;

/// What an answered probe says about its path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Now.
    pub now: Duration,
    /// When the probe was sent.
    pub sent_at: Duration,
    /// How long it took to the peer, microseconds, plus an unknown that is always the same.
    pub delay_us: i64,
    /// Bytes of outer IP packets that had been sent on the path by then.
    pub sent_bytes: u64,
    /// Bytes of outer IP packets that had come over the path when the probe did.
    pub received_bytes: u64,
    /// Packets that have found the path's virtual queue above its target.
    pub pressed: u64,
}

/// Why a trial is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Suspicion {
    /// The delay stands above the base.
    Queue,
    /// More packets than usual are lost.
    Loss,
    /// None: the base was not met for long.
    Base,
}

/// Sends less and looks what that changes.
#[derive(Clone, Copy, Debug)]
struct Trial {
    suspicion: Suspicion,
    /// Rate before; 0: no limit.
    before_kbps: u32,
    /// What the path carries, if the suspicion is right.
    capacity_kbps: u32,
    /// What the rate of the trial is a part of: the capacity, or less when that has shown nothing.
    tried_kbps: u32,
    /// Since when, microseconds.
    since_us: i64,
    /// The longest queue in it, microseconds.
    peak_us: i64,
    /// The longest time from sending a probe to its report in it, microseconds.
    lag_us: i64,
    /// What was lost before it, parts per thousand.
    loss: u64,
    /// How often the rate went down further in it.
    repeated: u32,
}

/// The controller of one direction of one path.
#[derive(Debug, Default)]
pub struct RateController {
    history: History,
    base: Base,
    /// In force, kbit/s; 0: no limit is known.
    rate_kbps: u32,
    /// What was met last, kbit/s; 0: nothing, or long ago.
    capacity_kbps: u32,
    /// Standing queue, microseconds.
    queue_us: i64,
    trial: Option<Trial>,
    /// No trial without need before this, microseconds.
    no_trial_until_us: i64,
    backoff_us: i64,
    /// Losses that are there at any rate, parts per thousand.
    usual_loss: u64,
    /// When the last trial ended, microseconds: probes sent before do not tell what is lost since.
    tried_us: i64,
    round: Round,
    pressed: u64,
    pressed_at_us: i64,
    most_kbps: u32,
    most_at_us: i64,
}

/// A round of the steady state.
#[derive(Debug, Default)]
struct Round {
    /// When it began, microseconds.
    since_us: i64,
    /// Whether packets wanted more in it.
    is_pressed: bool,
    /// Step that the next growth has, parts per thousand.
    step: i64,
    /// Rounds that remain before the rate may go down again.
    hold: u32,
}

impl RateController {
    /// One that knows nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the answer to a probe in, and says which rate the path has from now on, kbit/s of outer IP packets; 0: no
    /// limit is known.
    pub fn report(&mut self, report: &Report) -> u32 {
        self.history.add(report);
        let now_us = microseconds(report.now);
        self.note_demand(now_us, report.pressed);
        self.note_delivery(now_us);
        let delay_us = self.history.delay_us();
        self.base.add(now_us, delay_us, self.history.noise_us(), self.history.is_full());
        // The least of many noisy delays lies below what is usual.
        self.queue_us = delay_us - self.base.delay_us() - self.history.noise_us() / 2;
        let lag_us = (now_us - microseconds(report.sent_at)).max(0);
        match self.trial {
            Some(trial) => self.try_on(trial, now_us, lag_us),
            None => self.watch(now_us, lag_us),
        }
        self.rate_kbps
    }

    /// The rate in force, kbit/s of outer IP packets; 0: no limit is known.
    pub fn rate_kbps(&self) -> u32 {
        self.rate_kbps
    }

    /// What the path carries as far as is known, kbit/s; 0: no limit was met yet.
    pub fn capacity_kbps(&self) -> u32 {
        self.trial.map_or(self.rate_kbps, |trial| match trial.suspicion {
            Suspicion::Base => trial.before_kbps,
            Suspicion::Queue | Suspicion::Loss => trial.capacity_kbps,
        })
    }

    /// Delay that packets sent here make for one another, microseconds.
    pub fn queue_us(&self) -> u32 {
        u32::try_from(self.queue_us.max(0)).unwrap_or(u32::MAX)
    }

    /// What arrives at the peer, kbit/s, over up to the last 64 reports (1.3 s of a busy path).
    pub fn delivered_kbps(&self) -> u32 {
        self.history.transfer(usize::MAX, i64::MIN).map_or(0, Transfer::delivered_kbps)
    }

    /// What arrives at the peer at present, kbit/s; 0 while too few reports tell.
    pub fn recently_delivered_kbps(&self) -> u32 {
        let transfer = self.history.transfer(RECENT_REPORTS, i64::MIN);
        transfer.filter(|transfer| transfer.receiving_us > LEAST_RECENT_US).map_or(0, Transfer::delivered_kbps)
    }

    /// The most that ever arrived, slowly forgotten, kbit/s.
    pub fn most_delivered_kbps(&self) -> u32 {
        self.most_kbps
    }

    fn note_demand(&mut self, now_us: i64, pressed: u64) {
        if pressed > self.pressed {
            self.round.is_pressed = true;
            self.pressed_at_us = now_us;
        } else if now_us - self.pressed_at_us > OLD_US {
            self.capacity_kbps = 0;
        }
        self.pressed = pressed;
    }

    fn note_delivery(&mut self, now_us: i64) {
        let seconds = ((now_us - self.most_at_us) / FORGET_US).clamp(0, 10_000);
        if seconds > 0 {
            self.most_at_us = now_us;
            for _ in 0..seconds {
                self.most_kbps -= self.most_kbps / 1000;
            }
        }
        if let Some(transfer) = self.history.transfer(RATE_REPORTS, i64::MIN)
            && transfer.receiving_us > LEAST_RATE_US
        {
            self.most_kbps = self.most_kbps.max(transfer.delivered_kbps());
        }
    }

    /// Looks for signs of a bottleneck, or steers the rate along it.
    fn watch(&mut self, now_us: i64, lag_us: i64) {
        if let Some((suspicion, capacity_kbps)) = self.suspect(now_us) {
            let before_kbps = self.rate_kbps;
            let loss = self.history.overdue(self.tried_us).map_or(0, Transfer::lost_thousandths);
            let (since_us, peak_us, repeated) = (now_us, 0, 0);
            let tried_kbps = capacity_kbps;
            let trial =
                Trial { suspicion, before_kbps, capacity_kbps, tried_kbps, since_us, peak_us, lag_us, loss, repeated };
            self.try_on(trial, now_us, lag_us);
        } else if self.rate_kbps > 0 {
            self.steer(now_us, lag_us);
        }
    }

    /// Why a trial is due, and what the path carries if the suspicion is right.
    fn suspect(&mut self, now_us: i64) -> Option<(Suspicion, u32)> {
        if !self.history.is_full() {
            return None;
        }
        if let Some(capacity_kbps) = self.suspect_queue(now_us) {
            return Some((Suspicion::Queue, capacity_kbps));
        }
        if self.is_waiting(now_us) {
            return None;
        }
        if let Some(capacity_kbps) = self.suspect_loss() {
            return Some((Suspicion::Loss, capacity_kbps));
        }
        let is_stale = now_us - self.base.met_us() > STALE_BASE_US && self.pressed_at_us > self.base.met_us();
        (is_stale && self.rate_kbps > 0).then_some((Suspicion::Base, self.rate_kbps))
    }

    /// Whether the last trial has failed not long ago, so that the next one needs a stronger suspicion.
    fn is_waiting(&self, now_us: i64) -> bool {
        now_us < self.no_trial_until_us
    }

    fn suspect_queue(&mut self, now_us: i64) -> Option<u32> {
        let noise_us = self.history.noise_us();
        let long_us = match self.rate_kbps {
            0 => FIRST_QUEUE_US + 2 * noise_us,
            rate => LONG_QUEUE_US + noise_us + packets_us(rate),
        };
        let newest_us = self.history.newest().next()?.delay_us - self.base.delay_us();
        let is_falling = newest_us < self.queue_us * 3 / 4 - 2 * noise_us;
        let long_us = if self.is_waiting(now_us) { 2 * long_us } else { long_us };
        if self.queue_us <= long_us || is_falling {
            return None;
        }
        if self.history.is_step(self.base.delay_us()) {
            self.base.restart(now_us, self.history.delay_us());
            return None;
        }
        // Who sends little makes a queue only where the capacity has become tiny, and somebody else's queue goes again.
        let is_long = self.standing_reports() >= LONG_STANDING;
        let transfer = self.standing()?;
        let is_ours = self.is_used(transfer.sent_kbps(), if is_long { LITTLE } else { HALF });
        let queued = |kbps: u32| self.queue_us.max(0).cast_unsigned() * u64::from(kbps) / 8_000;
        let is_known = self.rate_kbps != 0;
        is_ours.then(|| capacity(transfer)).flatten().filter(|kbps| is_known || queued(*kbps) >= FIRST_QUEUE)
    }

    /// Whether a rate is more than so many parts per thousand of the limit.
    fn is_used(&self, kbps: u32, parts: u64) -> bool {
        u64::from(kbps) * 1000 > u64::from(self.rate_kbps) * parts
    }

    /// Reports since the queue is there.
    fn standing_reports(&self) -> usize {
        let half_us = self.base.delay_us() + NO_QUEUE_US + self.history.noise_us();
        self.history.newest().take_while(|sample| sample.delay_us > half_us).count()
    }

    /// What was sent and delivered since the queue is there, if it is there for long enough to tell.
    fn standing(&self) -> Option<Transfer> {
        let reports = self.standing_reports();
        let count = (reports >= LEAST_STANDING).then(|| reports.min(self.history.window()))?;
        self.history.transfer(count, i64::MIN)
    }

    fn suspect_loss(&mut self) -> Option<u32> {
        let transfer = self.history.overdue(self.tried_us)?;
        if transfer.sending_us < LEAST_RATE_US || !self.is_used(transfer.sent_kbps(), HALF) {
            return None;
        }
        let unusual = transfer.lost().saturating_sub(LOSS_SLACK);
        if unusual.saturating_mul(1000) < transfer.sent.saturating_mul(self.usual_loss + LOSS) {
            if transfer.sent > 16 * LOSS_SLACK {
                self.usual_loss = self.usual_loss.min(transfer.lost_thousandths());
            }
            return None;
        }
        self.history.best().and_then(capacity)
    }

    /// Begins a trial or goes on with it: sets its rate, and judges it when it must have shown.
    fn try_on(&mut self, mut trial: Trial, now_us: i64, lag_us: i64) {
        if self.history.is_step(self.base.delay_us()) && trial.suspicion == Suspicion::Queue {
            self.base.restart(now_us, self.history.delay_us());
            return self.resume(trial, now_us);
        }
        let elapsed_us = now_us - trial.since_us;
        let median_us = self.history.age_us();
        let noise_us = self.history.noise_us();
        trial.peak_us = trial.peak_us.max(self.queue_us);
        trial.lag_us = trial.lag_us.max(lag_us);
        let lag_us = trial.lag_us;
        if trial.suspicion == Suspicion::Queue && elapsed_us <= lag_us && trial.repeated == 0 {
            // What was sent before the trial, while the queue stands.
            trial.capacity_kbps = self.standing().and_then(capacity).unwrap_or(trial.capacity_kbps);
            trial.tried_kbps = trial.capacity_kbps;
        }
        let share = match trial.suspicion {
            Suspicion::Queue => (1000 - trial.peak_us * 1000 / EMPTYING_US).clamp(LEAST_TRIAL, MOST_TRIAL),
            Suspicion::Loss | Suspicion::Base => MILD_TRIAL,
        };
        self.rate_kbps = thousandths(trial.tried_kbps, share);
        self.trial = Some(trial);
        match trial.suspicion {
            Suspicion::Queue if self.queue_us < NO_QUEUE_US + noise_us / 2 + packets_us(trial.capacity_kbps) => {
                // What went before the lower rate could tell was not ours.
                if elapsed_us > lag_us { self.settle(trial, now_us) } else { self.resume(trial, now_us) }
            }
            Suspicion::Queue => {
                let emptying_us = trial.peak_us * 1000 / (1000 - share);
                if elapsed_us > lag_us + median_us + emptying_us + MARGIN_US {
                    self.judge_queue(trial, now_us);
                }
            }
            Suspicion::Loss => {
                if elapsed_us > lag_us + LOSS_TRIAL_US + self.history.lateness_us() {
                    self.judge_loss(trial, now_us);
                }
            }
            Suspicion::Base => {
                if elapsed_us > lag_us + median_us + BASE_TRIAL_US {
                    self.base.restart(now_us, self.history.delay_us());
                    self.resume(trial, now_us);
                }
            }
        }
    }

    /// A queue ought to be gone, and is not.
    fn judge_queue(&mut self, trial: Trial, now_us: i64) {
        let Some(transfer) = self.history.transfer(self.history.window(), trial.since_us) else {
            return self.fail(trial, now_us);
        };
        let is_shrinking = self.queue_us * 2 < trial.peak_us;
        // Once more in any case: the rate of the trial may just have been the capacity.
        if is_shrinking || transfer.is_slower() || trial.repeated == 0 {
            let tried_kbps = transfer.delivered_kbps();
            // Where just what is sent is delivered, the queue has gone meanwhile, and this is no capacity.
            let is_shown = transfer.is_slower() || (is_shrinking && transfer.is_faster());
            let capacity_kbps = if is_shown { tried_kbps } else { trial.capacity_kbps };
            let (since_us, peak_us, lag_us, repeated) = (now_us, self.queue_us, 0, trial.repeated + 1);
            self.trial = Some(Trial { capacity_kbps, tried_kbps, since_us, peak_us, lag_us, repeated, ..trial });
        } else {
            self.base.restart(now_us, self.history.delay_us());
            self.fail(trial, now_us);
        }
    }

    fn judge_loss(&mut self, trial: Trial, now_us: i64) {
        // Few packets that came tell nothing, chance may have spared them: six ought to have been lost.
        let tells = |transfer: &Transfer| transfer.sent * trial.loss >= LOSS_SLACK * 750;
        let told = self.history.overdue(trial.since_us).filter(tells);
        let Some(loss) = told.map(Transfer::lost_thousandths) else { return self.fail(trial, now_us) };
        // A lower rate ends what a full buffer loses. What is lost at random becomes less by chance, but seldom by half.
        if loss * 2 > trial.loss || loss > (self.usual_loss + LOSS / 2).max(trial.loss / 4) {
            self.usual_loss = loss;
            self.fail(trial, now_us);
        } else {
            self.settle(trial, now_us);
        }
    }

    /// The trial has shown the capacity.
    fn settle(&mut self, trial: Trial, now_us: i64) {
        self.end_trial(now_us);
        self.backoff_us = 0;
        if trial.suspicion == Suspicion::Base {
            self.rate_kbps = trial.before_kbps;
        } else {
            self.capacity_kbps = trial.capacity_kbps;
            self.pressed_at_us = now_us;
            self.rate_kbps = thousandths(trial.capacity_kbps, SETTLED);
        }
    }

    /// The trial has shown nothing.
    fn resume(&mut self, trial: Trial, now_us: i64) {
        self.end_trial(now_us);
        self.rate_kbps = trial.before_kbps;
    }

    /// The trial has not helped.
    fn fail(&mut self, trial: Trial, now_us: i64) {
        self.resume(trial, now_us);
        self.backoff_us = (self.backoff_us * 2).clamp(FIRST_BACKOFF_US, LAST_BACKOFF_US);
        self.no_trial_until_us = now_us + self.backoff_us;
    }

    fn end_trial(&mut self, now_us: i64) {
        self.trial = None;
        self.tried_us = now_us;
        self.round = Round { since_us: now_us, is_pressed: false, step: SMALL_STEP, hold: 0 };
    }

    /// Once a round, moves the rate along the capacity.
    fn steer(&mut self, now_us: i64, lag_us: i64) {
        // What large steps do shows soon in spite of noise.
        let noise_us = self.history.noise_us();
        let is_striding = self.round.step > STRIDE && noise_us > NO_QUEUE_US;
        let age_us = if is_striding { BRIEF_AGE_US } else { self.history.age_us() };
        let round_us = (lag_us + age_us).max(LEAST_ROUND_US);
        if now_us - self.round.since_us < round_us {
            return;
        }
        let is_used = self
            .history
            .transfer(usize::MAX, self.round.since_us - lag_us)
            .is_some_and(|transfer| self.is_used(transfer.sent_kbps().min(transfer.delivered_kbps()), MOSTLY));
        let is_wanted = self.round.is_pressed && is_used;
        self.round.since_us = now_us;
        self.round.is_pressed = false;
        self.round.hold = self.round.hold.saturating_sub(1);
        let slack_us = noise_us / 2 + packets_us(self.rate_kbps);
        if is_striding && is_wanted && self.has_overshot(NO_QUEUE_US + slack_us) {
            return self.retreat();
        }
        if self.queue_us > NO_QUEUE_US + slack_us || self.round.hold > 0 {
            self.round.step = SMALL_STEP;
            if self.queue_us > TAUT_QUEUE_US + slack_us && self.round.hold == 0 && is_used {
                self.capacity_kbps = self.rate_kbps;
                self.rate_kbps = thousandths(self.rate_kbps, 1000 - 2 * SMALL_STEP);
                self.round.hold = ROUNDS_DOWN;
            }
        } else if is_wanted {
            self.grow(round_us);
        }
    }

    /// Whether the last few reports tell of a queue that is longer than this, microseconds.
    fn has_overshot(&self, queue_us: i64) -> bool {
        let brief_us = self.history.brief_delay_us() - self.base.delay_us() - self.history.noise_us() * 3 / 2;
        let is_missing = |transfer: Transfer| transfer.is_slower() && transfer.missing() > LOSS_SLACK;
        let is_slower = || self.history.transfer(RECENT_REPORTS, i64::MIN).is_some_and(is_missing);
        self.queue_us > queue_us || brief_us > queue_us || is_slower()
    }

    /// Goes back to what is delivered, though not below what was known to be carried.
    fn retreat(&mut self) {
        let least_kbps = self.capacity_kbps.min(self.rate_kbps);
        self.capacity_kbps = match self.recently_delivered_kbps() {
            0 => self.rate_kbps,
            delivered_kbps => delivered_kbps.clamp(least_kbps, self.rate_kbps),
        };
        self.rate_kbps = thousandths(self.capacity_kbps, SETTLED);
        self.round.step = SMALL_STEP;
        self.round.hold = ROUNDS_DOWN;
    }

    fn grow(&mut self, round_us: i64) {
        if self.rate_kbps < self.capacity_kbps {
            // What it carried a moment ago is no risk.
            self.rate_kbps = thousandths(self.rate_kbps, 1000 + RETURN_STEP).min(self.capacity_kbps);
            self.round.step = SMALL_STEP;
            return;
        }
        if self.capacity_kbps == 0 {
            self.round.step = self.round.step.max(OLD_STEP);
        } else if self.rate_kbps < thousandths(self.capacity_kbps, KNOWN) {
            self.round.step = SMALL_STEP;
        }
        // A smaller step would make no queue that could be told from noise.
        self.round.step = self.round.step.max((self.history.noise_us() / 3 * 1000 / round_us).min(LARGE_STEP));
        let rate_kbps = thousandths(self.rate_kbps, 1000 + self.round.step);
        self.rate_kbps = if rate_kbps > CEILING_KBPS { 0 } else { rate_kbps };
        let largest = OVERSHOOT_US * 1000 / round_us;
        self.round.step = (self.round.step * 2).min(LARGE_STEP).min(largest.max(SMALL_STEP));
    }
}

/// What a bottleneck carries that has let this through.
fn capacity(transfer: Transfer) -> Option<u32> {
    let capacity_kbps = transfer.delivered_kbps();
    (transfer.received > LEAST_TRANSFER && capacity_kbps < CEILING_KBPS).then_some(capacity_kbps)
}

/// How long two long packets take at a rate beyond what no queue is anyway, microseconds.
fn packets_us(rate_kbps: u32) -> i64 {
    (2 * PACKET_BITS * 1000 / i64::from(rate_kbps.max(1)) - NO_QUEUE_US).max(0)
}

/// So many parts per thousand of a rate, and never less than the least rate.
fn thousandths(rate_kbps: u32, parts: i64) -> u32 {
    u32::try_from(i64::from(rate_kbps) * parts / 1000).unwrap_or(CEILING_KBPS).max(FLOOR_KBPS)
}
