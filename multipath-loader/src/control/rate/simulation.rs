//! A sender, the virtual clock of the egress program, a modem and the reports about it, in simulated time.
//!
//! Packets carry [`PACKET`] bytes each. All of it is deterministic: equal scenarios give equal runs.

#![expect(
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    clippy::cast_possible_wrap,
    reason = "times and counts of some minutes stay far below 2^52"
)]

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    num::NonZeroU32,
    time::Duration,
};

use multipath_common::{
    pacing::{Pace, Verdict},
    quality::PathClock,
};

use super::{RateController, Report};

/// Bytes of a data packet with all headers.
const PACKET: u64 = 1_464;
/// Bytes of a probe with all headers.
const PROBE: u64 = 128;
/// Time between probes while something is sent and while nothing is, microseconds.
const BUSY_US: u64 = 20_000;
const IDLE_US: u64 = 80_000;
/// How long a row of a trace lasts, microseconds.
const ROW_US: u64 = 100_000;

/// What a path does for 100 ms.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    pub capacity_kbps: u64,
    pub delay_us: u64,
    pub jitter_us: u64,
    pub loss_ppm: u64,
}

/// A recorded path: rows of 100 ms; the last one goes on.
#[derive(Clone, Debug)]
pub struct Trace(Vec<Row>);

impl Trace {
    /// One row that goes on.
    pub fn of(row: Row) -> Self {
        Self(vec![row])
    }

    /// Reads `capacity_kbps,delay_us,jitter_us,loss_ppm` per line, after a header line and comments with `#`.
    pub fn parse(text: &str) -> Self {
        let rows = text.lines().filter(|line| line.starts_with(|first: char| first.is_ascii_digit())).map(|line| {
            let mut fields = line.split(',').map(|field| field.trim().parse().expect("a number"));
            let mut next = || fields.next().expect("four fields");
            Row { capacity_kbps: next(), delay_us: next(), jitter_us: next(), loss_ppm: next() }
        });
        Self(rows.collect())
    }

    pub fn at(&self, now_us: u64) -> Row {
        self.0[((now_us / ROW_US) as usize).min(self.0.len() - 1)]
    }

    pub fn len_us(&self) -> u64 {
        self.0.len() as u64 * ROW_US
    }
}

/// What is to be sent.
#[derive(Clone, Copy, Debug)]
pub enum Load {
    /// So many TCP flows (CUBIC, without `HyStart`) that have no end.
    Greedy { flows: usize },
    /// From a rate upward, twice as much after each period, up to another rate, whatever is lost.
    Ramp { from_kbps: u64, to_kbps: u64, period_us: u64 },
    /// A constant rate, whatever is lost.
    Constant { kbps: u64 },
    /// A constant rate in the first half of each period, silence in the second.
    Intermittent { kbps: u64, period_us: u64 },
}

/// What else is sent through the modem: a constant rate in the first part of each period.
#[derive(Clone, Copy, Debug)]
pub struct CrossTraffic {
    pub kbps: u64,
    pub begin_us: u64,
    pub on_us: u64,
    pub period_us: u64,
}

/// A run.
#[derive(Clone, Debug)]
pub struct Scenario {
    pub trace: Trace,
    /// Load and when it ends, microseconds, one after another.
    pub loads: Vec<(Load, u64)>,
    pub buffer_bytes: u64,
    pub cross_traffic: Option<CrossTraffic>,
    /// How much faster the peer's clock goes, parts per million.
    pub drift_ppm: i64,
    /// Of all that is random.
    pub seed: u64,
    /// False: no controller, for comparison.
    pub is_controlled: bool,
}

/// What happened in [`Outcome::STEP_US`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Moment {
    /// Data that arrived, kbit/s.
    pub delivered_kbps: u64,
    /// Data that the modem had no room for, kbit/s.
    pub overflown_kbps: u64,
    /// The longest wait in the modem of a packet that it took, microseconds.
    pub queue_us: u64,
    /// Rate in force at the end, kbit/s.
    pub rate_kbps: u32,
    /// Capacity, kbit/s.
    pub capacity_kbps: u64,
}

/// A run's history.
#[derive(Clone, Debug)]
pub struct Outcome(pub Vec<Moment>);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Data { flow: usize },
    Probe { sent_us: u64, sent_bytes: u64 },
    Cross,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Packet {
    kind: Kind,
    bytes: u64,
    queued_us: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Send,
    Cross,
    Probe,
    Served,
    Arrived(Packet),
    Acked { flow: usize, sent_us: u64 },
    Lost { flow: usize, sent_us: u64 },
    Replied { sent_us: u64, sent_bytes: u64, delay_us: i64, received_bytes: u64 },
}

/// CUBIC (RFC 9438) with selective acknowledgements; windows in packets.
#[derive(Clone, Debug)]
struct Flow {
    window: f64,
    threshold: f64,
    before_loss: f64,
    epoch_us: u64,
    in_flight: u64,
    recovery_us: u64,
    round_trip_us: u64,
}

impl Flow {
    fn new() -> Self {
        let window = 10.0;
        Self {
            window,
            threshold: f64::MAX,
            before_loss: 0.0,
            epoch_us: 0,
            in_flight: 0,
            recovery_us: 0,
            round_trip_us: 0,
        }
    }

    fn acked(&mut self, now_us: u64, sent_us: u64) {
        self.in_flight = self.in_flight.saturating_sub(1);
        self.round_trip_us = now_us - sent_us;
        if self.window < self.threshold {
            self.window += 1.0;
            return;
        }
        let seconds = (now_us - self.epoch_us) as f64 / 1e6;
        let round_trip = self.round_trip_us as f64 / 1e6;
        let origin = (self.before_loss * 0.3 / 0.4).cbrt();
        let cubic = 0.4 * (seconds + round_trip - origin).powi(3) + self.before_loss;
        let friendly = self.before_loss * 0.7 + 0.53 * seconds / round_trip;
        let target = cubic.max(friendly).clamp(self.window, self.window * 1.5);
        self.window += (target - self.window) / self.window;
    }

    fn lost(&mut self, now_us: u64, sent_us: u64) {
        self.in_flight = self.in_flight.saturating_sub(1);
        if sent_us < self.recovery_us {
            return;
        }
        self.recovery_us = now_us;
        self.epoch_us = now_us;
        self.before_loss = self.window;
        self.window = (self.window * 0.7).max(2.0);
        self.threshold = self.window;
    }
}

/// Whether the egress program sends a packet.
fn passes(clock: &mut PathClock, now_us: u64, bytes: u64, rate_kbps: u32, is_control: bool) -> bool {
    let Some(rate_kbps) = NonZeroU32::new(rate_kbps) else { return true };
    let pace = Pace::new(rate_kbps, bytes as u32);
    let now = now_us * 1000;
    if is_control {
        clock.carry(now, pace);
        return true;
    }
    clock.admit(now, pace, false) == Verdict::Send
}

/// xorshift64* (Vigna 2016).
#[derive(Debug)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11
    }

    fn unit(&mut self) -> f64 {
        self.next() as f64 / (1_u64 << 53) as f64
    }

    /// Standard normal: twelve uniforms.
    fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.unit()).sum::<f64>() - 6.0
    }
}

struct Simulation<'a> {
    scenario: &'a Scenario,
    now_us: u64,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    sequence: u64,
    random: Random,
    flows: Vec<Flow>,
    clock: PathClock,
    controller: RateController,
    modem: VecDeque<Packet>,
    modem_bytes: u64,
    sent_bytes: u64,
    received_bytes: u64,
    last_send_us: u64,
    moments: Vec<Moment>,
}

impl Outcome {
    /// Length of a [`Moment`], microseconds.
    pub const STEP_US: u64 = 10_000;

    /// Runs a scenario to its last load's end.
    pub fn of(scenario: &Scenario) -> Self {
        let mut simulation = Simulation {
            scenario,
            now_us: 0,
            events: BinaryHeap::new(),
            sequence: 0,
            random: Random(0x9e37_79b9_7f4a_7c15 ^ scenario.seed),
            flows: Vec::new(),
            clock: bytemuck::Zeroable::zeroed(),
            controller: RateController::new(),
            modem: VecDeque::new(),
            modem_bytes: 0,
            sent_bytes: 0,
            received_bytes: 0,
            last_send_us: 0,
            moments: Vec::new(),
        };
        simulation.run();
        Self(simulation.moments)
    }

    /// When the run ended, seconds.
    pub fn end_s(&self) -> f64 {
        self.0.len() as f64 * Self::STEP_US as f64 / 1e6
    }

    /// Moments from one time to another, seconds.
    pub fn between(&self, from_s: f64, to_s: f64) -> &[Moment] {
        let index = |seconds: f64| ((seconds * 1e6) as usize / Self::STEP_US as usize).min(self.0.len());
        &self.0[index(from_s)..index(to_s)]
    }

    /// What was delivered of the capacity in that time, per cent.
    pub fn goodput(&self, from_s: f64, to_s: f64) -> f64 {
        let moments = self.between(from_s, to_s);
        let delivered: u64 = moments.iter().map(|moment| moment.delivered_kbps).sum();
        let capacity: u64 = moments.iter().map(|moment| moment.capacity_kbps).sum();
        delivered as f64 * 100.0 / capacity as f64
    }

    /// What the modem had no room for in that time, per cent of the capacity.
    pub fn overflown(&self, from_s: f64, to_s: f64) -> f64 {
        let moments = self.between(from_s, to_s);
        let overflown: u64 = moments.iter().map(|moment| moment.overflown_kbps).sum();
        let capacity: u64 = moments.iter().map(|moment| moment.capacity_kbps).sum();
        overflown as f64 * 100.0 / capacity as f64
    }

    /// A quantile of the queue in that time, milliseconds.
    pub fn queue_ms(&self, from_s: f64, to_s: f64, quantile: f64) -> f64 {
        let mut queues: Vec<u64> = self.between(from_s, to_s).iter().map(|moment| moment.queue_us).collect();
        queues.sort_unstable();
        queues[((queues.len() - 1) as f64 * quantile) as usize] as f64 / 1000.0
    }

    /// Seconds from a change until, for 300 ms, at least 90 % of the capacity is delivered and no packet waits for more
    /// than 30 ms.
    pub fn found_after_s(&self, change_s: f64) -> f64 {
        let window_s = 0.3;
        let mut at_s = change_s;
        while at_s < self.end_s() - window_s {
            if self.goodput(at_s, at_s + window_s) >= 90.0 && self.queue_ms(at_s, at_s + window_s, 1.0) < 30.0 {
                return at_s - change_s;
            }
            at_s += 0.01;
        }
        f64::INFINITY
    }
}

impl Simulation<'_> {
    fn run(&mut self) {
        let end_us = self.scenario.loads.last().map_or(0, |&(_, end_us)| end_us);
        self.at(0, Event::Probe);
        self.at(0, Event::Send);
        if let Some(cross) = self.scenario.cross_traffic {
            self.at(cross.begin_us, Event::Cross);
        }
        while let Some(Reverse((now_us, _, event))) = self.events.pop() {
            if now_us >= end_us {
                return;
            }
            self.now_us = now_us;
            self.moment();
            self.happen(event);
        }
    }

    fn at(&mut self, time_us: u64, event: Event) {
        self.sequence += 1;
        self.events.push(Reverse((time_us, self.sequence, event)));
    }

    fn moment(&mut self) -> &mut Moment {
        let index = (self.now_us / Outcome::STEP_US) as usize;
        while self.moments.len() <= index {
            let start_us = self.moments.len() as u64 * Outcome::STEP_US;
            let capacity_kbps = self.scenario.trace.at(start_us).capacity_kbps;
            self.moments.push(Moment { rate_kbps: self.controller.rate_kbps(), capacity_kbps, ..Moment::default() });
        }
        &mut self.moments[index]
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Send => self.send_load(),
            Event::Cross => self.send_cross_traffic(),
            Event::Probe => {
                let kind = Kind::Probe { sent_us: self.now_us, sent_bytes: self.sent_bytes };
                self.send(kind, PROBE);
                let is_busy = self.now_us - self.last_send_us < BUSY_US;
                self.at(self.now_us + if is_busy { BUSY_US } else { IDLE_US }, Event::Probe);
            }
            Event::Served => self.served(),
            Event::Arrived(packet) => self.arrived(packet),
            Event::Acked { flow, sent_us } => {
                self.flows[flow].acked(self.now_us, sent_us);
                self.fill(flow);
            }
            Event::Lost { flow, sent_us } => {
                self.flows[flow].lost(self.now_us, sent_us);
                self.fill(flow);
            }
            Event::Replied { sent_us, sent_bytes, delay_us, received_bytes } => {
                let report = Report {
                    now: Duration::from_micros(self.now_us),
                    sent_at: Duration::from_micros(sent_us),
                    delay_us,
                    sent_bytes,
                    received_bytes,
                    pressed: self.clock.pressed,
                };
                if self.scenario.is_controlled {
                    let rate_kbps = self.controller.report(&report);
                    self.moment().rate_kbps = rate_kbps;
                }
            }
        }
    }

    fn load(&self) -> Option<(Load, u64)> {
        self.scenario.loads.iter().copied().find(|&(_, end_us)| self.now_us < end_us)
    }

    fn send_load(&mut self) {
        let Some((load, end_us)) = self.load() else { return };
        let constant = |kbps: u64| PACKET * 8000 / kbps.max(1);
        match load {
            Load::Greedy { flows } => {
                self.flows.resize(flows.max(self.flows.len()), Flow::new());
                (0..flows).for_each(|flow| self.fill(flow));
                self.at(end_us, Event::Send);
            }
            Load::Ramp { from_kbps, to_kbps, period_us } => {
                let begin_us = self.scenario.loads.iter().map(|load| load.1).rfind(|&end_us| end_us <= self.now_us);
                let periods = (self.now_us - begin_us.unwrap_or(0)) as f64 / period_us as f64;
                let kbps = (from_kbps as f64 * periods.exp2()).min(to_kbps as f64);
                self.send(Kind::Data { flow: usize::MAX }, PACKET);
                self.at((self.now_us + constant(kbps as u64)).min(end_us), Event::Send);
            }
            Load::Constant { kbps } => {
                if kbps > 0 {
                    self.send(Kind::Data { flow: usize::MAX }, PACKET);
                }
                self.at((self.now_us + constant(kbps)).min(end_us), Event::Send);
            }
            Load::Intermittent { kbps, period_us } => {
                let phase_us = self.now_us % period_us;
                if phase_us < period_us / 2 {
                    self.send(Kind::Data { flow: usize::MAX }, PACKET);
                    self.at(self.now_us + constant(kbps), Event::Send);
                } else {
                    self.at(self.now_us + period_us - phase_us, Event::Send);
                }
            }
        }
    }

    fn fill(&mut self, flow: usize) {
        let is_active = matches!(self.load(), Some((Load::Greedy { flows }, _)) if flow < flows);
        while is_active && (self.flows[flow].in_flight as f64) < self.flows[flow].window {
            self.flows[flow].in_flight += 1;
            self.send(Kind::Data { flow }, PACKET);
        }
    }

    fn send_cross_traffic(&mut self) {
        let Some(cross) = self.scenario.cross_traffic else { return };
        let phase_us = self.now_us % cross.period_us;
        if phase_us < cross.on_us {
            self.queue(Packet { kind: Kind::Cross, bytes: PACKET, queued_us: self.now_us });
            self.at(self.now_us + PACKET * 8000 / cross.kbps, Event::Cross);
        } else {
            self.at(self.now_us + cross.period_us - phase_us, Event::Cross);
        }
    }

    fn send(&mut self, kind: Kind, bytes: u64) {
        let is_probe = matches!(kind, Kind::Probe { .. });
        if !is_probe {
            self.last_send_us = self.now_us;
        }
        let packet = Packet { kind, bytes, queued_us: self.now_us };
        if passes(&mut self.clock, self.now_us, bytes, self.controller.rate_kbps(), is_probe) {
            self.sent_bytes += bytes;
            self.queue(packet);
        } else {
            self.lose(packet);
        }
    }

    /// The flow notices by the packets after it: somewhat later than the acknowledgement would have come.
    fn lose(&mut self, packet: Packet) {
        let Kind::Data { flow } = packet.kind else { return };
        if let Some(state) = self.flows.get(flow) {
            let delay_us = self.scenario.trace.at(self.now_us).delay_us;
            let noticed_us = packet.queued_us + state.round_trip_us.max(2 * delay_us) * 5 / 4;
            self.at(noticed_us.max(self.now_us), Event::Lost { flow, sent_us: packet.queued_us });
        }
    }

    fn queue(&mut self, packet: Packet) {
        if self.modem_bytes + packet.bytes > self.scenario.buffer_bytes {
            if packet.kind != Kind::Cross {
                self.moment().overflown_kbps += packet.bytes * 8000 / Outcome::STEP_US;
            }
            return self.lose(packet);
        }
        self.modem_bytes += packet.bytes;
        self.modem.push_back(packet);
        if self.modem.len() == 1 {
            self.serve();
        }
    }

    fn serve(&mut self) {
        let Some(&packet) = self.modem.front() else { return };
        let capacity_kbps = self.scenario.trace.at(self.now_us).capacity_kbps;
        if packet.kind != Kind::Cross {
            let waited_us = self.now_us - packet.queued_us;
            let moment = self.moment();
            moment.queue_us = moment.queue_us.max(waited_us);
        }
        self.at(self.now_us + packet.bytes * 8000 / capacity_kbps, Event::Served);
    }

    fn served(&mut self) {
        let Some(packet) = self.modem.pop_front() else { return };
        self.modem_bytes -= packet.bytes;
        self.serve();
        let row = self.scenario.trace.at(self.now_us);
        if packet.kind == Kind::Cross {
            return;
        }
        if self.random.next() % 1_000_000 < row.loss_ppm {
            return self.lose(packet);
        }
        let jitter_us = self.random.normal() * row.jitter_us as f64;
        let delay_us = (row.delay_us as f64 + jitter_us).max(0.0) as u64;
        self.at(self.now_us + delay_us, Event::Arrived(packet));
    }

    fn arrived(&mut self, packet: Packet) {
        self.received_bytes += packet.bytes;
        let back_us = self.now_us + self.scenario.trace.at(self.now_us).delay_us;
        match packet.kind {
            Kind::Cross => {}
            Kind::Data { flow } => {
                self.moment().delivered_kbps += packet.bytes * 8000 / Outcome::STEP_US;
                if flow < self.flows.len() {
                    self.at(back_us, Event::Acked { flow, sent_us: packet.queued_us });
                }
            }
            Kind::Probe { sent_us, sent_bytes } => {
                let drift_us = self.now_us as i64 * self.scenario.drift_ppm / 1_000_000;
                let delay_us = (self.now_us - sent_us) as i64 + drift_us - 123_456_789;
                let received_bytes = self.received_bytes;
                self.at(back_us, Event::Replied { sent_us, sent_bytes, delay_us, received_bytes });
            }
        }
    }
}
