//! Models of the congestion controls that most bulk flows have, as far as a lead can be felt by them.

#![expect(clippy::cast_precision_loss, reason = "far below 2^52")]

/// Nanoseconds of a second.
const SECOND: u64 = 1_000_000_000;
const MS: u64 = 1_000_000;

/// What an acknowledgement of one packet tells.
#[derive(Clone, Copy, Debug)]
pub struct Ack {
    /// When it came, nanoseconds.
    pub now: u64,
    /// Round trip of the packet, nanoseconds.
    pub rtt: u64,
    /// Number of the packet, and of the one that is sent next.
    pub sequence: u64,
    pub next: u64,
    /// Packets under way, without this one.
    pub in_flight: u64,
    /// Packets delivered so far, and when the packet was sent.
    pub delivered: u64,
    pub prior_delivered: u64,
    /// Delivery rate over the packet's flight, packets per second.
    pub rate: f64,
}

/// A congestion control.
pub trait Sender {
    /// Packets that may be under way.
    fn window(&self) -> f64;
    /// Packets per second, if it paces.
    fn pacing(&self) -> Option<f64>;
    fn acked(&mut self, ack: &Ack);
    /// Packets were lost; `is_new`: none of the round trip before were.
    fn lost(&mut self, now: u64, count: u64, in_flight: u64, is_new: bool);
    /// A round trip after the last new loss has passed.
    fn recovered(&mut self) {}
    fn timed_out(&mut self, now: u64);
}

/// CUBIC as in Linux (`net/ipv4/tcp_cubic.c`, RFC 9438): slow start with `HyStart`, cubic growth, 0.7 after a loss, which
/// the window comes down to over a round trip (RFC 6937).
pub struct Cubic {
    window: f64,
    threshold: f64,
    last_max: f64,
    epoch: Option<u64>,
    origin: f64,
    k: f64,
    friendly: f64,
    delay_min: u64,
    is_recovering: bool,
    // HyStart.
    round_end: u64,
    round_start: u64,
    last_ack: u64,
    samples: u32,
    round_rtt: u64,
    is_found: bool,
}

impl Cubic {
    pub fn new() -> Self {
        Self {
            window: 10.0,
            threshold: f64::MAX,
            last_max: 0.0,
            epoch: None,
            origin: 0.0,
            k: 0.0,
            friendly: 0.0,
            delay_min: u64::MAX,
            is_recovering: false,
            round_end: 0,
            round_start: 0,
            last_ack: 0,
            samples: 0,
            round_rtt: u64::MAX,
            is_found: false,
        }
    }

    /// Slow start without `HyStart`, as QUIC implementations have it (RFC 9002 section 7.3.1).
    pub fn without_hystart() -> Self {
        Self { is_found: true, ..Self::new() }
    }

    fn hystart(&mut self, ack: &Ack) {
        if ack.sequence >= self.round_end {
            (self.round_start, self.last_ack) = (ack.now, ack.now);
            (self.round_end, self.round_rtt, self.samples) = (ack.next, u64::MAX, 0);
        }
        if self.is_found || self.window < 16.0 {
            return;
        }
        if ack.now - self.last_ack <= 2 * MS {
            self.last_ack = ack.now;
            // Half the round trip, because nothing is paced.
            if ack.now - self.round_start > self.delay_min / 2 {
                self.is_found = true;
            }
        }
        self.round_rtt = self.round_rtt.min(ack.rtt);
        self.samples += 1;
        if self.samples >= 8 && self.round_rtt > self.delay_min + (self.delay_min / 8).clamp(4 * MS, 16 * MS) {
            self.is_found = true;
        }
        if self.is_found {
            self.threshold = self.window;
        }
    }

    fn growth(&mut self, ack: &Ack) -> f64 {
        let epoch = *self.epoch.get_or_insert_with(|| {
            self.friendly = self.window;
            self.origin = self.window.max(self.last_max);
            self.k = ((self.origin - self.window) / 0.4).cbrt();
            ack.now
        });
        let time = (ack.now - epoch + self.delay_min) as f64 / SECOND as f64;
        let target = self.origin + 0.4 * (time - self.k).powi(3);
        // Acknowledgements for one packet more.
        let mut count = if target > self.window { self.window / (target - self.window) } else { 100.0 * self.window };
        if self.last_max == 0.0 {
            count = count.min(20.0);
        }
        self.friendly += 3.0 * 0.3 / 1.7 / self.window;
        if self.friendly > self.window {
            count = count.min(self.window / (self.friendly - self.window));
        }
        1.0 / count.max(2.0)
    }
}

impl Sender for Cubic {
    fn window(&self) -> f64 {
        self.window
    }

    fn pacing(&self) -> Option<f64> {
        None
    }

    fn acked(&mut self, ack: &Ack) {
        self.delay_min = self.delay_min.min(ack.rtt);
        if self.is_recovering {
            self.window = (self.window - 0.3).max(self.threshold);
            return;
        }
        // A window that is not used does not grow.
        if ((ack.in_flight + 1) as f64) < self.window - 2.0 {
            return;
        }
        if self.window < self.threshold {
            self.hystart(ack);
            self.window += 1.0;
        } else {
            self.window += self.growth(ack);
        }
    }

    fn lost(&mut self, _now: u64, _count: u64, _in_flight: u64, is_new: bool) {
        if !is_new {
            return;
        }
        self.epoch = None;
        self.last_max = if self.window < self.last_max { self.window * 0.85 } else { self.window };
        self.threshold = (self.window * 0.7).max(2.0);
        self.is_recovering = true;
    }

    fn recovered(&mut self) {
        if self.is_recovering {
            self.window = self.threshold;
            self.is_recovering = false;
        }
    }

    fn timed_out(&mut self, now: u64) {
        self.lost(now, 1, 0, true);
        self.is_recovering = false;
        self.window = 1.0;
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Mode {
    Startup,
    Drain,
    ProbeBandwidth,
    ProbeRtt,
}

/// `BBRv1` as in Linux (`net/ipv4/tcp_bbr.c`).
pub struct Bbr {
    mode: Mode,
    window: f64,
    prior_window: f64,
    is_conserving: bool,
    is_recovering: bool,
    bandwidths: Vec<(u64, f64)>,
    round: u64,
    round_delivered: u64,
    full_bandwidth: f64,
    full_count: u32,
    min_rtt: u64,
    min_rtt_at: u64,
    phase: usize,
    phase_at: u64,
    probe_rtt_until: Option<u64>,
    probe_rtt_round: u64,
    has_lost: bool,
}

const HIGH_GAIN: f64 = 2.885;
const MIN_RTT_LASTS: u64 = 10 * SECOND;

impl Bbr {
    pub fn new() -> Self {
        Self {
            mode: Mode::Startup,
            window: 10.0,
            prior_window: 0.0,
            is_conserving: false,
            is_recovering: false,
            bandwidths: Vec::new(),
            round: 0,
            round_delivered: 0,
            full_bandwidth: 0.0,
            full_count: 0,
            min_rtt: u64::MAX,
            min_rtt_at: 0,
            phase: 0,
            phase_at: 0,
            probe_rtt_until: None,
            probe_rtt_round: 0,
            has_lost: false,
        }
    }

    fn bandwidth(&self) -> f64 {
        self.bandwidths.iter().map(|(_, rate)| *rate).fold(0.0, f64::max)
    }

    fn target(&self, gain: f64) -> f64 {
        if self.min_rtt == u64::MAX {
            return 10.0;
        }
        self.bandwidth() * self.min_rtt as f64 / SECOND as f64 * gain
    }

    fn gains(&self) -> (f64, f64) {
        match self.mode {
            Mode::Startup => (HIGH_GAIN, HIGH_GAIN),
            Mode::Drain => (1.0 / HIGH_GAIN, HIGH_GAIN),
            Mode::ProbeBandwidth => ([1.25, 0.75, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0][self.phase], 2.0),
            Mode::ProbeRtt => (1.0, 1.0),
        }
    }

    fn probe_bandwidth(&mut self, now: u64) {
        (self.mode, self.phase, self.phase_at) = (Mode::ProbeBandwidth, 3, now);
    }
}

impl Sender for Bbr {
    fn window(&self) -> f64 {
        self.window
    }

    fn pacing(&self) -> Option<f64> {
        let bandwidth = self.bandwidth();
        let gain = self.gains().0;
        if bandwidth == 0.0 { None } else { Some(gain * bandwidth * 0.99) }
    }

    fn acked(&mut self, ack: &Ack) {
        let is_round = ack.prior_delivered >= self.round_delivered;
        if is_round {
            self.round_delivered = ack.delivered;
            self.round += 1;
            self.is_conserving = false;
        }
        let round = self.round;
        self.bandwidths.retain(|(at, rate)| at + 10 > round && *rate > ack.rate);
        self.bandwidths.push((round, ack.rate));

        if self.mode == Mode::ProbeBandwidth {
            let is_full_length = ack.now - self.phase_at > self.min_rtt;
            let gain = self.gains().0;
            let in_flight = (ack.in_flight + 1) as f64;
            let is_over = if gain > 1.0 {
                is_full_length && (self.has_lost || in_flight >= self.target(gain))
            } else if gain < 1.0 {
                is_full_length || in_flight <= self.target(1.0)
            } else {
                is_full_length
            };
            if is_over {
                (self.phase, self.phase_at) = ((self.phase + 1) % 8, ack.now);
            }
        }
        self.has_lost = false;
        if is_round && self.full_count < 3 {
            if self.bandwidth() >= self.full_bandwidth * 1.25 {
                (self.full_bandwidth, self.full_count) = (self.bandwidth(), 0);
            } else {
                self.full_count += 1;
            }
        }
        if self.mode == Mode::Startup && self.full_count >= 3 {
            self.mode = Mode::Drain;
        }
        if self.mode == Mode::Drain && ack.in_flight as f64 <= self.target(1.0) {
            self.probe_bandwidth(ack.now);
        }
        let is_expired = ack.now > self.min_rtt_at + MIN_RTT_LASTS;
        if ack.rtt <= self.min_rtt || is_expired {
            (self.min_rtt, self.min_rtt_at) = (ack.rtt, ack.now);
        }
        if is_expired && self.mode != Mode::ProbeRtt {
            self.mode = Mode::ProbeRtt;
            self.prior_window = self.window;
            self.probe_rtt_until = None;
        }
        if self.mode == Mode::ProbeRtt {
            match self.probe_rtt_until {
                None if ack.in_flight <= 4 => {
                    self.probe_rtt_until = Some(ack.now + 200 * MS);
                    self.probe_rtt_round = self.round + 1;
                }
                Some(until) if ack.now > until && self.round > self.probe_rtt_round => {
                    self.min_rtt_at = ack.now;
                    self.window = self.window.max(self.prior_window);
                    if self.full_count >= 3 {
                        self.probe_bandwidth(ack.now);
                    } else {
                        self.mode = Mode::Startup;
                    }
                }
                _ => {}
            }
        }
        let target = self.target(self.gains().1) + 6.0;
        if self.is_conserving {
            self.window = self.window.max((ack.in_flight + 1) as f64);
        } else if self.full_count >= 3 {
            self.window = (self.window + 1.0).min(target);
        } else if self.window < target || ack.delivered < 10 {
            self.window += 1.0;
        }
        self.window = self.window.max(4.0);
        if self.mode == Mode::ProbeRtt {
            self.window = self.window.min(4.0);
        }
    }

    fn lost(&mut self, _now: u64, count: u64, in_flight: u64, is_new: bool) {
        self.has_lost = true;
        if is_new && !self.is_recovering {
            if self.mode != Mode::ProbeRtt {
                self.prior_window = self.window;
            }
            self.is_recovering = true;
            self.is_conserving = true;
            self.window = (in_flight + 1) as f64;
        } else {
            self.window = (self.window - count as f64).max(4.0);
        }
    }

    fn recovered(&mut self) {
        if self.is_recovering {
            self.is_recovering = false;
            self.is_conserving = false;
            if self.mode != Mode::ProbeRtt {
                self.window = self.window.max(self.prior_window);
            }
        }
    }

    fn timed_out(&mut self, now: u64) {
        self.lost(now, 1, 0, true);
    }
}
