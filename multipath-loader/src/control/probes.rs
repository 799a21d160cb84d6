//! When probes are due, and which of them are unanswered.

use std::{collections::VecDeque, time::Duration};

/// Unanswered probes that are remembered: more than are sent, every 10 ms, before the first of them is overdue, after 2 s
/// at the latest.
const REMEMBERED: usize = 256;
/// Probes over which their loss is averaged: more than half a second of a busy path.
const LOSS_SPAN: f64 = 32.0;

/// How often a path is probed, and looked at in between.
///
/// All times are multiples of these since boot, so that many paths share a wake-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// From probe to probe.
    pub interval: Duration,
    /// Answers are looked for at multiples of this, once they are overdue.
    look: Duration,
    /// The path is looked at at each multiple of this besides: an answer is waited for that may come at any time, or what
    /// passes would not be noticed before the next probe.
    watch: Option<Duration>,
}

impl Pace {
    /// A path without traffic: a failure is left within 300 ms.
    pub const IDLE: Self = Self::new(80, 80, None);
    /// A path that carries data, or lost a probe a moment ago: a failure is noticed within a round trip and 35 ms.
    pub const BUSY: Self = Self::new(20, 4, None);
    /// An answer is overdue. Nine probes and more are unanswered before a path is down, so that random loss puts none down.
    pub const DOUBT: Self = Self::new(10, 10, None);
    /// A path that is down, for its first minute.
    pub const DOWN: Self = Self::new(160, 80, Some(80));
    /// A path that is down for longer: it is still used again within a second of its return.
    pub const LONG_DOWN: Self = Self::new(640, 80, Some(80));
    /// A path that costs money, or that is put out of use. What the peer says of its role is heard within a second.
    pub const SPARED: Self = Self::new(5000, 80, Some(1000));
    /// A path that costs money and carries what there is to carry: that there is something is noticed soon.
    pub const SPARED_USED: Self = Self::new(5000, 80, Some(80));

    const fn new(interval: u64, look: u64, watch: Option<u64>) -> Self {
        let watch = match watch {
            Some(watch) => Some(Duration::from_millis(watch)),
            None => None,
        };
        Self { interval: Duration::from_millis(interval), look: Duration::from_millis(look), watch }
    }

    /// Within what time so many probes are overdue, two or more, when one of this pace and all after it are lost: it is
    /// noticed at the next look, and the others follow at the pace of a doubt.
    pub fn overdue_within(self, patience: Duration, probes: u32) -> Duration {
        round_up(patience, self.look) + Self::DOUBT.interval * probes.saturating_sub(2) + patience
    }
}

/// The first multiple of `step` that is not before `at`.
fn round_up(at: Duration, step: Duration) -> Duration {
    let step = step.as_nanos() as u64;
    Duration::from_nanos((at.as_nanos() as u64).next_multiple_of(step))
}

/// The probes of a path.
#[derive(Clone, Debug)]
pub struct Probes {
    /// When the last one was sent; `None`: the next one is due at once.
    last_sent: Option<Duration>,
    looked_at: Duration,
    outstanding: VecDeque<Outstanding>,
    /// Those of them with padding: it is no wonder when they are lost.
    padded: VecDeque<Outstanding>,
    next_sequence: u32,
    /// Probes without padding sent so far.
    sent: u64,
    unanswered: u64,
    /// Part of the last ones that had no answer.
    loss: f64,
}

/// Bytes that had been sent on a path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SentBytes {
    /// By it alone.
    pub alone: u64,
    /// By another one as well: these the peer does not count.
    pub doubled: u64,
}

/// A probe that was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outstanding {
    /// Its number.
    pub sequence: u32,
    /// When the daemon sent it.
    pub sent_at: Duration,
    /// Packets that had been sent on the path, the probe included.
    pub sent_packets: u64,
    /// Bytes that had been sent on the path.
    pub sent_bytes: SentBytes,
    /// Whether it was padded.
    pub is_padded: bool,
    /// Time during which the daemon did not look.
    excused: Duration,
}

impl Outstanding {
    /// For how long its answer has been waited for.
    fn age(&self, now: Duration) -> Duration {
        now.saturating_sub(self.sent_at + self.excused)
    }
}

impl Probes {
    /// No probes so far. Their numbers begin where an earlier daemon's did not come to, whose answers may still come.
    pub fn new(now: Duration) -> Self {
        Self {
            last_sent: None,
            looked_at: now,
            outstanding: VecDeque::new(),
            padded: VecDeque::new(),
            next_sequence: now.as_micros() as u32,
            sent: 0,
            unanswered: 0,
            loss: 0.0,
        }
    }

    /// An earlier daemon has sent so many, of which so many were not answered.
    pub fn resume(now: Duration, sent: u64, unanswered: u64) -> Self {
        Self { sent, unanswered, ..Self::new(now) }
    }

    /// Whether one is due.
    pub fn is_due(&self, now: Duration, pace: Pace) -> bool {
        self.due(pace) <= now
    }

    fn due(&self, pace: Pace) -> Duration {
        self.last_sent.map_or(Duration::ZERO, |last| round_up(last + Duration::from_nanos(1), pace.interval))
    }

    /// The next one is due at once.
    pub fn hurry(&mut self) {
        self.last_sent = None;
    }

    /// Notes that one is sent now.
    pub fn send(&mut self, now: Duration, sent_packets: u64, sent_bytes: SentBytes, is_padded: bool) -> u32 {
        let sequence = self.next_sequence;
        self.next_sequence = sequence.wrapping_add(1);
        let new = Outstanding { sequence, sent_at: now, sent_packets, sent_bytes, is_padded, excused: Duration::ZERO };
        let queue = if is_padded { &mut self.padded } else { &mut self.outstanding };
        queue.push_back(new);
        if queue.len() > REMEMBERED {
            queue.pop_front();
            self.unanswered += u64::from(!is_padded);
        }
        if !is_padded {
            self.sent += 1;
            self.last_sent = Some(now);
        }
        sequence
    }

    /// The probe that this number answers. Those before it have no answer. `None`: it has one, or none is waited for.
    pub fn answered(&mut self, sequence: u32) -> Option<Outstanding> {
        // Those of a train may overtake each other: the others are still waited for.
        if let Some(at) = self.padded.iter().position(|probe| probe.sequence == sequence) {
            return self.padded.remove(at);
        }
        let at = self.outstanding.iter().position(|probe| probe.sequence == sequence)?;
        self.unanswered += at as u64;
        for lost in std::iter::repeat_n(1.0, at).chain([0.0]) {
            self.loss += (lost - self.loss) / LOSS_SPAN;
        }
        self.outstanding.drain(..=at).next_back()
    }

    /// Probes without padding that have no answer, parts per million of about the last 32.
    #[expect(clippy::cast_sign_loss, reason = "a mean of zeros and ones")]
    pub fn loss_ppm(&self) -> u32 {
        (self.loss * 1e6) as u32
    }

    /// How many probes have had no answer for so long, and for how long the first of them.
    pub fn overdue_count(&self, now: Duration, patience: Duration) -> (usize, Duration) {
        let count = self.overdue(now, patience).count();
        (count, self.overdue(now, patience).map(|probe| probe.age(now)).max().unwrap_or_default())
    }

    fn overdue(&self, now: Duration, patience: Duration) -> impl Iterator<Item = &Outstanding> {
        self.outstanding.iter().filter(move |probe| probe.age(now) >= patience)
    }

    /// The daemon was late: nobody looked for answers meanwhile, and no other probe was sent.
    pub fn excuse(&mut self, late_by: Duration) {
        for probe in &mut self.outstanding {
            probe.excused += late_by;
        }
    }

    /// What was sent so far is waited for no longer.
    pub fn forget(&mut self) {
        self.unanswered += self.outstanding.len() as u64;
        self.outstanding.clear();
        self.padded.clear();
    }

    /// Notes that everything was looked at.
    pub fn looked(&mut self, now: Duration) {
        self.looked_at = now;
    }

    /// When everything was looked at last.
    pub fn looked_at(&self) -> Duration {
        self.looked_at
    }

    /// When to send the next one, or to look for answers before.
    pub fn next_deadline(&self, pace: Pace, patience: Duration) -> Duration {
        let overdue_at = |probe: &Outstanding| probe.sent_at + probe.excused + patience;
        let overdue = self.outstanding.iter().map(overdue_at).filter(|at| *at > self.looked_at).min();
        let watch = pace.watch.map(|step| round_up(self.looked_at + Duration::from_nanos(1), step));
        let look = overdue.map(|at| round_up(at, pace.look));
        [look, watch].into_iter().flatten().fold(self.due(pace), Duration::min)
    }

    /// Probes without padding sent so far.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// How many of them have no answer and are waited for no longer.
    pub fn unanswered(&self) -> u64 {
        self.unanswered
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn paths_share_their_wake_ups() {
        let mut all = [(); 3].map(|()| Probes::new(MS));
        for (number, probes) in all.iter_mut().enumerate() {
            let now = MS * (1000 + 13 * number as u32);
            assert!(probes.is_due(now, Pace::IDLE));
            probes.send(now, 0, SentBytes::default(), false);
            assert!(!probes.is_due(now, Pace::IDLE));
            assert_eq!(probes.next_deadline(Pace::IDLE, 60 * MS) / 80, MS * 13);
        }
    }

    #[test]
    fn an_answer_settles_what_was_sent_before() {
        let mut probes = Probes::new(Duration::ZERO);
        let sequences: Vec<u32> = (0..5).map(|at| probes.send(MS * at, 0, SentBytes::default(), false)).collect();
        let padded = probes.send(MS * 6, 0, SentBytes::default(), true);
        assert_eq!(probes.answered(sequences[3]).map(|probe| probe.sent_at), Some(MS * 3));
        assert_eq!((probes.unanswered(), probes.sent()), (3, 5));
        assert_eq!(probes.answered(sequences[1]), None);
        assert!(probes.answered(padded).is_some_and(|probe| probe.is_padded));
        assert_eq!((probes.answered(padded), probes.answered(77)), (None, None));
        assert_eq!(probes.overdue_count(MS * 100, MS * 50), (1, MS * 96));
    }

    #[test]
    fn a_busy_path_is_looked_at_soon_after_an_answer_is_overdue() {
        let mut probes = Probes::new(Duration::ZERO);
        probes.send(MS * 1000, 0, SentBytes::default(), false);
        probes.looked(MS * 1000);
        assert_eq!(probes.next_deadline(Pace::BUSY, 13 * MS), MS * 1016);
        assert_eq!(probes.next_deadline(Pace::BUSY, 42 * MS), MS * 1020);
        probes.looked(MS * 1016);
        assert_eq!(probes.next_deadline(Pace::BUSY, 13 * MS), MS * 1020);
        // A path that is down: its answer is waited for, however long it may take.
        assert_eq!(probes.next_deadline(Pace::LONG_DOWN, 1000 * MS), MS * 1040);
    }

    #[test]
    fn lateness_is_excused() {
        let mut probes = Probes::new(Duration::ZERO);
        probes.send(MS, 0, SentBytes::default(), false);
        assert_eq!(probes.overdue_count(MS * 61, MS * 60), (1, MS * 60));
        probes.excuse(MS * 2000);
        assert_eq!(probes.overdue_count(MS * 2060, MS * 60).0, 0);
        assert_eq!(probes.overdue_count(MS * 2061, MS * 60), (1, MS * 60));
    }

    proptest! {
        /// Whoever wakes at each deadline sends one probe in each interval, and each deadline is later than the last.
        #[test]
        fn deadlines_keep_the_interval(start in 0..1_000_000u64, patience in 1..500u32, pace in prop::sample::select(vec![Pace::IDLE, Pace::BUSY, Pace::DOUBT, Pace::DOWN, Pace::LONG_DOWN, Pace::SPARED, Pace::SPARED_USED])) {
            let mut probes = Probes::new(Duration::ZERO);
            let mut now = Duration::from_micros(start);
            let mut sent_at = Vec::new();
            while sent_at.len() < 20 {
                if probes.is_due(now, pace) {
                    probes.send(now, 0, SentBytes::default(), false);
                    sent_at.push(now);
                }
                probes.looked(now);
                let next = probes.next_deadline(pace, MS * patience);
                prop_assert!(next > now);
                now = next;
            }
            for pair in sent_at[1..].windows(2) {
                prop_assert_eq!(pair[1], pair[0] + pace.interval);
            }
            prop_assert!(probes.outstanding.len() <= REMEMBERED);
        }
    }
}
