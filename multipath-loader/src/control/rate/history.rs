//! What the last probes said, and what follows from it: the delay of now, its noise, and what was delivered and lost.

use std::{collections::VecDeque, time::Duration};

use super::Report;

/// Time between the reports of a busy path, microseconds.
const REPORT_US: i64 = 20_000;
/// Reports that are kept: 1.3 s of a busy path.
const LEN: usize = 64;
/// Reports that the delay of now is the median of, on a quiet path.
const QUIET_WINDOW: usize = 5;
/// The same on the noisiest path: half a second of a busy one.
const NOISY_WINDOW: usize = 25;
/// How much later the delay of these shows what happens to a busy path, microseconds.
pub(super) const BRIEF_AGE_US: i64 = 50_000;
/// Bends between three neighbours that the noise is the median of.
const NOISE_WINDOW: usize = 32;
/// Reports in which the usual noise comes closer to that of now by two thirds: what is measured of a few is sometimes
/// far too little.
const NOISE_MEMORY: i64 = 32;
/// Reports that the fastest delivery is measured over at the most: packets that came early must not make it.
const BEST_SPAN: usize = 10;
/// A pause between probes that were answered that makes what was before it useless, microseconds: nothing is known of
/// what happened meanwhile. (Longer than the interval of an idle path.)
const GAP_US: i64 = 250_000;
/// Delays that differ by less than this are level, microseconds.
const LEVEL_US: i64 = 2_000;
/// A step is so many times the noise.
const CLEAR: i64 = 8;
/// Hardly any packet that was sent so many times the noise before another one comes after it.
const LATE: i64 = 5;
/// Noise beyond this is not waited for, microseconds.
const MOST_NOISE_US: i64 = 100_000;
/// Level delays that make a step.
const LEAST_LEVEL: usize = 3;
/// Beyond this no time is believed, microseconds: sums of a few stay within an `i64`.
const HORIZON_US: i64 = 1 << 50;

/// One report, with times in microseconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    /// When the probe left, sender's clock.
    pub sent_us: i64,
    /// One-way delay and an unknown constant.
    pub delay_us: i64,
    /// Bytes sent before it.
    pub sent: u64,
    /// Bytes that had come when it came.
    pub received: u64,
}

impl Sample {
    /// Whether the counters go on from those of an earlier sample. A probe may overtake data, so what was received may
    /// go back a little; what goes back far was restarted.
    fn follows(&self, before: &Self) -> bool {
        self.sent >= before.sent && self.received >= before.received / 2
    }
}

/// What was sent and what of it came between two samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Transfer {
    /// Bytes sent.
    pub sent: u64,
    /// Bytes that came.
    pub received: u64,
    /// How long the sending took, microseconds, above zero.
    pub sending_us: u64,
    /// How long the receiving took, microseconds, above zero.
    pub receiving_us: u64,
}

impl Transfer {
    /// Rate of sending, kbit/s.
    pub(super) fn sent_kbps(self) -> u32 {
        kbps(self.sent, self.sending_us)
    }

    /// Rate of receiving, kbit/s.
    pub(super) fn delivered_kbps(self) -> u32 {
        kbps(self.received, self.receiving_us)
    }

    /// Whether clearly less is delivered than is sent: a queue becomes longer.
    pub(super) fn is_slower(self) -> bool {
        u64::from(self.delivered_kbps()) * 10 < u64::from(self.sent_kbps()) * 9
    }

    /// Whether clearly more is delivered than is sent: a queue becomes shorter.
    pub(super) fn is_faster(self) -> bool {
        u64::from(self.delivered_kbps()) * 9 > u64::from(self.sent_kbps()) * 10
    }

    /// Bytes that would have come besides, had they come as fast as they were sent.
    pub(super) fn missing(self) -> u64 {
        u64::from(self.sent_kbps().saturating_sub(self.delivered_kbps())).saturating_mul(self.receiving_us) / 8000
    }

    /// Bytes that did not come (yet).
    pub(super) fn lost(self) -> u64 {
        self.sent.saturating_sub(self.received)
    }

    /// The same, parts per thousand of what was sent.
    pub(super) fn lost_thousandths(self) -> u64 {
        self.lost().saturating_mul(1000) / self.sent.max(1)
    }
}

fn kbps(bytes: u64, microseconds: u64) -> u32 {
    let kbps = u128::from(bytes) * 8000 / u128::from(microseconds.max(1));
    u32::try_from(kbps).unwrap_or(u32::MAX)
}

/// The last reports, in the order in which their probes were sent.
#[derive(Debug, Default)]
pub(super) struct History {
    samples: VecDeque<Sample>,
    /// Noise of now, microseconds,
    noise_us: i64,
    /// and over a longer time.
    usual_noise_us: i64,
}

impl History {
    /// Takes a report in; one that was overtaken finds its place.
    pub(super) fn add(&mut self, report: &Report) {
        let sample = Sample {
            sent_us: microseconds(report.sent_at),
            delay_us: report.delay_us.clamp(-HORIZON_US, HORIZON_US),
            sent: report.sent_bytes,
            received: report.received_bytes,
        };
        if self.samples.back().is_some_and(|last| (sample.sent_us - last.sent_us).abs() > GAP_US) {
            self.samples.clear();
        }
        if self.samples.len() == LEN {
            self.samples.pop_front();
        }
        let place = self.samples.partition_point(|other| other.sent_us <= sample.sent_us);
        let is_continued = place.checked_sub(1).is_none_or(|before| sample.follows(&self.samples[before]))
            && self.samples.get(place).is_none_or(|after| after.follows(&sample));
        if is_continued {
            self.samples.insert(place, sample);
        } else {
            self.samples.clear();
            self.samples.push_back(sample);
        }
        self.note_noise();
    }

    /// Samples, the newest first.
    pub(super) fn newest(&self) -> impl Iterator<Item = &Sample> {
        self.samples.iter().rev()
    }

    /// How many of the last reports tell the delay of now: the more, the noisier the path.
    pub(super) fn window(&self) -> usize {
        let extra = usize::try_from(self.noise_us() / 1000).unwrap_or(NOISY_WINDOW);
        (QUIET_WINDOW + extra).min(NOISY_WINDOW)
    }

    /// How much later the delay of now shows what happens to a busy path, microseconds.
    pub(super) fn age_us(&self) -> i64 {
        i64::try_from(self.window()).unwrap_or(0) * REPORT_US / 2
    }

    /// Whether there are enough reports to tell the delay of now.
    pub(super) fn is_full(&self) -> bool {
        self.samples.len() >= self.window()
    }

    /// The median delay of the window, or of what there is of it, microseconds.
    pub(super) fn delay_us(&self) -> i64 {
        let mut delays: Vec<i64> = self.newest().take(self.window()).map(|sample| sample.delay_us).collect();
        median(&mut delays)
    }

    /// The mean of the last few delays, microseconds: noisier than [`Self::delay_us`], and newer.
    pub(super) fn brief_delay_us(&self) -> i64 {
        let count = QUIET_WINDOW.min(self.samples.len());
        self.newest().take(count).map(|sample| sample.delay_us).sum::<i64>() / i64::try_from(count).unwrap_or(1).max(1)
    }

    /// About the standard deviation of what the delay has besides queueing, microseconds.
    pub(super) fn noise_us(&self) -> i64 {
        // On a calm path bends come from the queue, and go with it.
        if self.usual_noise_us > LEVEL_US { self.usual_noise_us } else { self.noise_us }
    }

    /// How much later than a probe packets may come that were sent before it, microseconds.
    pub(super) fn lateness_us(&self) -> i64 {
        LATE * self.noise_us().min(MOST_NOISE_US)
    }

    fn note_noise(&mut self) {
        self.noise_us = self.measure_noise();
        let is_new = (QUIET_WINDOW + 1..NOISE_WINDOW).contains(&self.samples.len());
        self.usual_noise_us += (self.noise_us - self.usual_noise_us) / if is_new { 1 } else { NOISE_MEMORY };
    }

    /// A queue grows and shrinks steadily over some reports, and noise does not: second differences have only the noise.
    /// For normally distributed noise their median is 1.65 standard deviations.
    fn measure_noise(&self) -> i64 {
        let neighbours = self.newest().zip(self.newest().skip(1)).zip(self.newest().skip(2)).take(NOISE_WINDOW);
        let mut bends: Vec<i64> = neighbours
            .map(|((after, middle), before)| (after.delay_us - 2 * middle.delay_us + before.delay_us).abs())
            .collect();
        median(&mut bends) * 100 / 165
    }

    /// Whether the delay came up from the base in one step and has been level since, and while it rose less was
    /// delivered: a longer route. A queue grows with what is sent, and delivers at one rate all the time.
    pub(super) fn is_step(&self, base_us: i64) -> bool {
        let delay_us = |index: usize| self.samples[self.samples.len() - 1 - index].delay_us;
        let window = (2 * self.window()).min(self.samples.len());
        let Some(step) = (1..window).max_by_key(|&index| delay_us(index - 1) - delay_us(index)) else { return false };
        let rise_us = delay_us(step - 1) - delay_us(step);
        let low_us = (0..step).map(delay_us).min().unwrap_or(0);
        let high_us = (0..step).map(delay_us).max().unwrap_or(0);
        let kbps = |last, first| self.between(last, first).map_or(0, Transfer::delivered_kbps);
        let (after, amid, before) = (kbps(0, step - 1), kbps(step - 1, step), kbps(step, window - 1));
        // What is sent may stop for a moment, because its acknowledgements come later.
        let is_gap = amid < before / 4 * 3 && after.abs_diff(amid) > amid / 4;
        step >= LEAST_LEVEL
            && rise_us > CLEAR * self.noise_us()
            && rise_us * 2 > low_us - base_us
            && high_us - low_us < LEVEL_US.max(rise_us / 4)
            && (amid < after / 4 * 3 || is_gap)
    }

    /// What happened between the newest report and the one `count` before it, or the oldest that there is and that was
    /// sent at `since_us` or later.
    pub(super) fn transfer(&self, count: usize, since_us: i64) -> Option<Transfer> {
        let first = self.newest().skip(1).take(count).take_while(|sample| sample.sent_us >= since_us).count();
        self.between(0, first)
    }

    /// The fastest delivery of the window: it is long on a noisy path, and what is sent may have grown in it.
    pub(super) fn best(&self) -> Option<Transfer> {
        let window = self.window().min(self.samples.len().saturating_sub(1));
        let span = window.min(BEST_SPAN);
        let spans = (0..=window - span).filter_map(|last| self.between(last, last + span));
        spans.max_by_key(|transfer| transfer.delivered_kbps())
    }

    /// What was sent since then and must have come by now, even if it was as late as noise explains, and what came.
    pub(super) fn overdue(&self, since_us: i64) -> Option<Transfer> {
        let newest = self.newest().next()?;
        let in_time_us = newest.sent_us - self.lateness_us();
        let late = self.newest().take_while(|sample| sample.sent_us > in_time_us).count();
        let first = self.newest().skip(1).take_while(|sample| sample.sent_us >= since_us).count();
        let transfer = self.between(0, first)?;
        let due = self.between(late, first)?;
        Some(Transfer { sent: due.sent, sending_us: due.sending_us, ..transfer })
    }

    /// What happened between two reports, counted from the newest, the later one first.
    fn between(&self, last: usize, first: usize) -> Option<Transfer> {
        let (last, first) = (self.newest().nth(last)?, self.newest().nth(first)?);
        let sending_us = last.sent_us - first.sent_us;
        let receiving_us = sending_us + last.delay_us - first.delay_us;
        Some(Transfer {
            sent: last.sent.saturating_sub(first.sent),
            received: last.received.saturating_sub(first.received),
            sending_us: u64::try_from(sending_us).ok().filter(|&time| time > 0)?,
            receiving_us: u64::try_from(receiving_us).ok().filter(|&time| time > 0)?,
        })
    }
}

/// Microseconds of a time since boot.
pub(super) fn microseconds(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(HORIZON_US).min(HORIZON_US)
}

/// The upper median; of nothing, 0.
fn median(values: &mut [i64]) -> i64 {
    if values.is_empty() {
        return 0;
    }
    let middle = values.len() / 2;
    *values.select_nth_unstable(middle).1
}
