//! Two gateways with one path between them, whose fate a test decides, and another one beside it that works, or not.

use std::{cmp::Reverse, collections::BinaryHeap, time::Duration};

use bytemuck::Zeroable;
use multipath_common::{
    control::{Message, Probe, Reply},
    health::{Health, Reason, Role},
    maps::{PATH_DOUBTED, path_slot},
    quality::{Arrivals, ProbeEvent},
};
use proptest::prelude::*;

use super::{Counters, Monitor};
use crate::control::{
    clock_offset::ClockOffset,
    probes::SentBytes,
    selection::{Candidate, choose},
};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
/// When the simulations begin.
const START: Duration = Duration::from_secs(1000);

/// Draws that repeat (xorshift, Marsaglia 2003).
struct Draws(u64);

impl Draws {
    fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    fn uniform(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        f64::from((self.0 >> 32) as u32) / 2f64.powi(32)
    }

    /// About normal, with deviation 1: the sum of twelve uniform draws (Irwin-Hall).
    fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.uniform()).sum::<f64>() - 6.0
    }
}

#[derive(Clone, Copy)]
enum Kind {
    /// Whether it goes by the other path as well.
    Data {
        is_doubled: bool,
    },
    Probe(Probe, u32),
    Reply(Reply, u32),
}

#[derive(Clone, Copy)]
enum Event {
    /// The daemon of a gateway wakes, as planned for this time.
    Wake(Duration),
    /// The inner network sends a packet.
    Data,
    /// A packet comes.
    Arrival(Kind),
}

struct Gateway {
    monitor: Monitor,
    clock: ClockOffset,
    sent: u64,
    arrivals: Arrivals,
    ring: Vec<ProbeEvent>,
    /// How much longer than the simulated time it is since this gateway booted.
    ahead: Duration,
    data_every: Option<Duration>,
    /// Health over time.
    history: Vec<(Duration, Health, Reason)>,
    planned: Duration,
}

/// What becomes of a packet in this direction at this time: its delay, or it is lost.
type Fate<'a> = Box<dyn FnMut(&mut Draws, usize, Duration) -> Option<Duration> + 'a>;

struct World<'a> {
    now: Duration,
    gateways: [Gateway; 2],
    events: BinaryHeap<Reverse<(Duration, u64, usize)>>,
    payloads: Vec<Option<Event>>,
    free: Vec<usize>,
    order: u64,
    draws: Draws,
    fate: Fate<'a>,
    /// How the other path is.
    other: Health,
    /// How late a daemon wakes.
    lateness: Box<dyn FnMut(Duration) -> Duration + 'a>,
}

impl<'a> World<'a> {
    /// Both gateways send so many data packets in a second.
    fn new(seed: u64, pps: u32, fate: impl FnMut(&mut Draws, usize, Duration) -> Option<Duration> + 'a) -> Self {
        let gateway = |number: u32| {
            let ahead = 4_000_033 * MS * number;
            let mut monitor = Monitor::new(START + ahead, path_slot(number, 3));
            monitor.set_link(START + ahead, Ok(()));
            monitor.set_session(START + ahead, true);
            Gateway {
                monitor,
                clock: ClockOffset::default(),
                sent: 0,
                arrivals: Arrivals::zeroed(),
                ring: Vec::new(),
                ahead,
                data_every: (pps > 0).then(|| SECOND / pps),
                history: vec![(START, Health::Unknown, Reason::None)],
                planned: START,
            }
        };
        let mut world = Self {
            now: START,
            gateways: [gateway(0), gateway(1)],
            events: BinaryHeap::new(),
            payloads: Vec::new(),
            free: Vec::new(),
            order: 0,
            draws: Draws::new(seed),
            fate: Box::new(fate),
            other: Health::Up,
            lateness: Box::new(|_| Duration::ZERO),
        };
        for number in 0..2 {
            world.wake(number, START);
            let phase = world.draws.uniform() / 100.0;
            world.at(START + Duration::from_secs_f64(phase), number, Event::Data);
        }
        world
    }

    fn at(&mut self, at: Duration, gateway: usize, event: Event) {
        let place = self.free.pop().unwrap_or_else(|| {
            self.payloads.push(None);
            self.payloads.len() - 1
        });
        self.payloads[place] = Some(event);
        self.order += 1;
        self.events.push(Reverse((at, self.order, place * 2 + gateway)));
    }

    fn wake(&mut self, number: usize, planned: Duration) {
        self.gateways[number].planned = planned;
        let late = (self.lateness)(planned);
        self.at(planned.max(self.now) + late, number, Event::Wake(planned));
    }

    fn send(&mut self, number: usize, kind: Kind) {
        self.gateways[number].sent += u64::from(!matches!(kind, Kind::Data { is_doubled: true }));
        if let Some(delay) = (self.fate)(&mut self.draws, number, self.now) {
            self.at(self.now + delay, 1 - number, Event::Arrival(kind));
        }
    }

    /// Lets time pass.
    fn run(&mut self, until: Duration) {
        while let Some(Reverse((at, _, code))) = self.events.peek().copied().filter(|event| event.0.0 <= until) {
            self.events.pop();
            self.now = at;
            let (place, number) = (code / 2, code % 2);
            self.free.push(place);
            match self.payloads[place].take() {
                Some(Event::Wake(planned)) if planned == self.gateways[number].planned => self.daemon(number),
                Some(Event::Data) => {
                    if let Some(every) = self.gateways[number].data_every {
                        let verdict = self.gateways[number].monitor.verdict();
                        if verdict.is_used {
                            self.send(number, Kind::Data { is_doubled: verdict.state == PATH_DOUBTED });
                        }
                        self.at(at + every, number, Event::Data);
                    }
                }
                Some(Event::Arrival(kind)) => self.arrive(number, kind),
                _ => {}
            }
        }
        self.now = until;
    }

    fn daemon(&mut self, number: usize) {
        let gateway = &mut self.gateways[number];
        let now = self.now + gateway.ahead;
        for event in gateway.ring.drain(..) {
            if let Some(answer) = gateway.monitor.answered(&event, &mut gateway.clock) {
                let delay = answer.delay.unwrap();
                let sum = Duration::from_micros((delay.out_us + delay.in_us).cast_unsigned().into());
                assert_eq!(Some(sum), answer.round_trip);
            }
        }
        let sent_bytes = SentBytes { alone: gateway.sent * 100, doubled: 0 };
        let counters = Counters { sent_packets: gateway.sent, sent_bytes, arrivals: gateway.arrivals };
        let probe = gateway.monitor.poll(now, &counters);
        if gateway.monitor.take_changed() {
            let other = Candidate {
                health: self.other,
                reason: Reason::Answers,
                role: Role::Active,
                role_reason: Reason::Configuration,
                has_link: true,
                is_fresh: false,
                loss_ppm: 0,
                answered_at: now,
            };
            let verdicts = choose(&[gateway.monitor.candidate(now), other], &[false, true]);
            gateway.monitor.decide(now, verdicts[0]);
            let verdict = gateway.monitor.verdict();
            if gateway.history.last().is_none_or(|(_, health, _)| *health != verdict.health) {
                gateway.history.push((self.now, verdict.health, verdict.reason));
            }
        }
        let next = gateway.monitor.next_deadline().map(|next| next.saturating_sub(gateway.ahead));
        if let Some(probe) = probe {
            self.send(number, Kind::Probe(probe, now.as_micros() as u32));
        }
        if let Some(next) = next {
            assert!(next > self.now, "it would spin");
            self.wake(number, next);
        }
    }

    fn arrive(&mut self, number: usize, kind: Kind) {
        let gateway = &mut self.gateways[number];
        let now = self.now + gateway.ahead;
        let clock = now.as_micros() as u32;
        let arrivals = &mut gateway.arrivals;
        if matches!(kind, Kind::Data { is_doubled: true }) {
            return;
        }
        arrivals.packets += 1;
        arrivals.bytes += 100;
        arrivals.is_begun = 1;
        match kind {
            Kind::Data { .. } => {}
            Kind::Probe(probe, sent_us) => {
                if probe.sent_packets > arrivals.peer_sent {
                    (arrivals.peer_sent, arrivals.received_then) = (probe.sent_packets, arrivals.packets);
                    arrivals.peer_role = probe.role.into();
                }
                arrivals.probes += 1;
                let reply = Reply {
                    path: probe.path,
                    len: probe.len,
                    sequence: probe.sequence,
                    sent_us,
                    reached_us: clock,
                    packets: arrivals.packets,
                    bytes: arrivals.bytes,
                    ..Reply::default()
                };
                self.send(number, Kind::Reply(reply, clock));
            }
            Kind::Reply(reply, timestamp) => {
                let (reply, _) = Message::Reply(reply).to_bytes();
                let received_ns = now.as_nanos() as u64;
                gateway.ring.push(ProbeEvent { peer: 0, slot: 0, timestamp, len: 128, received_ns, reply });
            }
        }
    }

    /// How the path is, as the gateway with this number sees it.
    fn health(&self, number: usize) -> Health {
        self.gateways[number].monitor.verdict().health
    }

    /// When a gateway first saw one of these from a time on.
    fn first(&self, number: usize, from: Duration, wanted: &[Health]) -> Option<Duration> {
        let mut before = self.gateways[number].history.iter().rev().skip_while(|(at, ..)| *at > from);
        if before.next().is_some_and(|(_, health, _)| wanted.contains(health)) {
            return Some(from);
        }
        let found = |(at, health, _): &&(Duration, Health, Reason)| *at > from && wanted.contains(health);
        self.gateways[number].history.iter().find(found).map(|(at, ..)| *at)
    }

    /// For how long altogether a gateway saw this.
    fn total(&self, number: usize, wanted: Health) -> Duration {
        let history = &self.gateways[number].history;
        let ends = history.iter().skip(1).map(|(at, ..)| *at).chain([self.now]);
        history
            .iter()
            .zip(ends)
            .filter(|((_, health, _), _)| *health == wanted)
            .map(|((at, ..), end)| end.saturating_sub(*at))
            .sum()
    }

    fn saw(&self, wanted: Health) -> bool {
        (0..2).any(|number| self.gateways[number].history.iter().any(|(_, health, _)| *health == wanted))
    }
}

fn constant(delay: Duration) -> impl FnMut(&mut Draws, usize, Duration) -> Option<Duration> {
    move |_, _, _| Some(delay)
}

/// Both directions lose packets at random.
fn lossy(
    delay: Duration,
    loss: [f64; 2],
    from: Duration,
) -> impl FnMut(&mut Draws, usize, Duration) -> Option<Duration> {
    move |draws, direction, at| (at < from || draws.uniform() >= loss[direction]).then_some(delay)
}

#[test]
fn it_comes_up_with_the_first_answer() {
    let mut world = World::new(1, 0, constant(10 * MS));
    world.run(START + 60 * MS);
    assert_eq!((world.health(0), world.health(1)), (Health::Up, Health::Up));
}

#[test]
fn a_dead_path_never_comes_up() {
    let mut world = World::new(1, 200, |_, _, _| None);
    world.run(START + 100 * SECOND);
    assert!(!world.saw(Health::Up));
    assert_eq!(world.health(0), Health::Down);
    assert_eq!(world.gateways[0].history[1].1, Health::Probing);
}

#[test]
fn a_daemon_that_restarts_goes_on() {
    for is_dead in [false, true] {
        let died = START + 20 * SECOND;
        let mut world = World::new(1, 200, move |_, _, at| (!is_dead || at < died).then_some(10 * MS));
        world.other = Health::Down;
        world.gateways[1].monitor.set_role(Role::Backup, Reason::Operator);
        world.run(START + 25 * SECOND);
        let (now, before) = (world.now, world.health(0));
        assert_eq!(before, if is_dead { Health::Down } else { Health::Up });
        let mut quality = super::PathQuality::zeroed();
        world.gateways[0].monitor.fill(now, &mut quality);
        let mut monitor = Monitor::resume(now, path_slot(0, 3), &quality);
        assert_eq!(monitor.role(), Role::Backup, "as the peer has said");
        monitor.set_link(now, Ok(()));
        monitor.set_session(now, true);
        assert_eq!((monitor.candidate(now).health, monitor.round_trip().smoothed()), (before, Some(20 * MS)));
        world.gateways[0].monitor = monitor;
        let changes = world.gateways[0].history.len();
        world.wake(0, now);
        world.run(START + 30 * SECOND);
        assert_eq!(world.gateways[0].history.len(), changes);
        let mut again = super::PathQuality::zeroed();
        world.gateways[0].monitor.fill(world.now, &mut again);
        assert_eq!((again.health, again.since_ns, again.flaps), (quality.health, quality.since_ns, quality.flaps));
        assert!(again.probes > quality.probes && again.rtt_min_us == 20_000);
    }
}

#[test]
fn idle_gateways_do_not_keep_each_other_busy() {
    let mut world = World::new(1, 0, constant(10 * MS));
    world.run(START + 100 * SECOND);
    let sent = world.gateways[0].monitor.probes.sent();
    assert!((1250..1300).contains(&sent), "{sent}");
}

#[test]
fn a_call_makes_it_busy() {
    let mut world = World::new(1, 50, constant(10 * MS));
    world.run(START + 100 * SECOND);
    let sent = world.gateways[0].monitor.probes.sent();
    assert!((4900..5100).contains(&sent), "{sent}");
}

#[test]
fn a_lost_carrier_is_left_at_once_and_proves_itself_again() {
    let mut world = World::new(1, 200, constant(10 * MS));
    world.run(START + 10 * SECOND);
    let monitor = &mut world.gateways[0].monitor;
    monitor.set_link(START + 10 * SECOND, Err(Reason::Carrier));
    assert!(monitor.take_changed());
    let candidate = monitor.candidate(START + 10 * SECOND);
    assert_eq!((candidate.health, candidate.reason, candidate.has_link), (Health::Down, Reason::Carrier, false));
    assert_eq!(monitor.next_deadline(), None);
    monitor.set_link(START + 20 * SECOND, Ok(()));
    assert_eq!(monitor.candidate(START + 20 * SECOND).health, Health::Probing);
    world.now = START + 20 * SECOND;
    world.wake(0, START + 20 * SECOND);
    world.run(START + 20 * SECOND + 100 * MS);
    assert_eq!(world.health(0), Health::Up);
}

#[test]
fn a_complaint_is_a_short_doubt() {
    let mut world = World::new(1, 200, constant(10 * MS));
    world.run(START + 10 * SECOND);
    let now = world.now;
    let monitor = &mut world.gateways[0].monitor;
    monitor.doubt(now, Reason::Unreachable);
    assert_eq!((monitor.candidate(now).health, monitor.candidate(now).reason), (Health::Stalled, Reason::Unreachable));
    assert!(monitor.next_deadline() <= Some(now));
    world.wake(0, now);
    world.run(now + 50 * MS);
    assert_eq!(world.health(0), Health::Up);
    let now = world.now;
    world.gateways[0].monitor.doubt(now, Reason::Unreachable);
    assert_eq!(world.gateways[0].monitor.candidate(now).health, Health::Up, "too many complaints");
}

#[test]
fn a_metered_path_is_probed_seldom_by_both() {
    let mut world = World::new(1, 0, constant(10 * MS));
    world.gateways[0].monitor.set_role(Role::Metered, Reason::Configuration);
    world.run(START + 10 * SECOND);
    let before = [0, 1].map(|number| world.gateways[number].monitor.probes.sent());
    world.run(START + 60 * SECOND);
    for (number, before) in before.into_iter().enumerate() {
        let sent = world.gateways[number].monitor.probes.sent() - before;
        assert!((10..=12).contains(&sent), "{sent}");
        assert_eq!(world.gateways[number].monitor.role(), Role::Metered);
    }
    let mut quality = super::PathQuality::zeroed();
    world.gateways[0].monitor.fill(START + 60 * SECOND, &mut quality);
    assert_eq!((quality.probe_bytes_per_day, quality.failover_us), (4 * 128 * 17_280, 5_220_000));
}

#[test]
fn a_metered_path_that_is_down_is_probed_seldom() {
    let onset = START + 20 * SECOND;
    let mut world = World::new(1, 0, move |_, _, at| (at < onset).then_some(10 * MS));
    world.gateways[0].monitor.set_role(Role::Metered, Reason::Configuration);
    world.run(onset + 20 * SECOND);
    let sent = |world: &World| world.gateways[0].monitor.probes.sent();
    let before = sent(&world);
    world.run(onset + 70 * SECOND);
    assert_eq!((world.health(0), sent(&world) - before), (Health::Down, 10));
}

#[test]
fn a_metered_path_that_is_used_is_left_soon() {
    for phase in 0..20 {
        let onset = START + 20 * SECOND + 271 * MS * phase;
        let mut world = World::new(phase.into(), 0, move |_, _, at| (at < onset).then_some(10 * MS));
        world.other = Health::Down;
        for number in 0..2 {
            world.gateways[number].monitor.set_role(Role::Metered, Reason::Configuration);
        }
        world.run(onset);
        // Nothing was sent before it broke.
        for number in 0..2 {
            world.gateways[number].data_every = Some(5 * MS);
            world.at(onset, number, Event::Data);
        }
        let before = world.gateways[0].monitor.probes.sent();
        assert!(before < 80, "{before}");
        world.run(onset + SECOND);
        for number in 0..2 {
            let left = world.first(number, onset, &[Health::Stalled, Health::Down]);
            assert!(left.is_some_and(|at| at <= onset + 250 * MS), "{:?}", world.gateways[number].history);
            assert_eq!(world.health(number), Health::Down);
        }
    }
}

#[test]
fn a_probe_that_is_hurried_puts_no_failure_off() {
    let onset = START + 20 * SECOND;
    let mut world = World::new(1, 0, move |_, _, at| (at < onset).then_some(10 * MS));
    for step in 1..=30u32 {
        world.run(onset + 10 * MS * step);
        let role = if step.is_multiple_of(2) { Reason::Operator } else { Reason::Configuration };
        world.gateways[0].monitor.set_role(Role::Active, role);
        let now = world.now;
        world.wake(0, now);
    }
    world.run(onset + 310 * MS);
    assert_eq!(world.health(0), Health::Down, "{:?}", world.gateways[0].history);
}

#[test]
fn a_handover_is_a_short_doubt() {
    for (pps, seed) in [(0, 1), (200, 2), (200, 3), (1000, 4)] {
        let step = START + 30 * SECOND + 7 * MS * seed as u32;
        let mut world = World::new(seed, pps, |_, _, at| Some(if at < step { 10 * MS } else { 150 * MS }));
        world.run(START + 60 * SECOND);
        for number in 0..2 {
            assert_eq!(world.health(number), Health::Up);
            assert!(world.total(number, Health::Stalled) < 350 * MS);
            // An idle path may be left for a moment, which is not held against it.
            let down = world.total(number, Health::Down);
            assert!(down <= if pps == 0 { 160 * MS } else { Duration::ZERO }, "{down:?}");
            assert_eq!(world.gateways[number].monitor.health.falls(world.now + 4_000_033 * MS * number as u32), 0);
        }
    }
}

#[test]
fn a_modem_that_fills_its_buffer_is_not_down() {
    // A second of buffer fills in a second, drains in half a second, again and again; or stays full.
    for period in [1500u64, 3000, 60_000] {
        let mut world = World::new(period, 200, |_, direction, at| {
            let phase = (at.as_millis() as u64) % period;
            let filled = if phase < period * 2 / 3 {
                phase.min(1000)
            } else {
                1000u64.saturating_sub((phase - period * 2 / 3) * 2)
            };
            Some(10 * MS + if direction == 0 { Duration::from_millis(filled) } else { Duration::ZERO })
        });
        world.run(START + 120 * SECOND);
        assert!(!world.saw(Health::Down) && !world.saw(Health::Lossy), "{period}: {:?}", world.gateways[0].history);
    }
}

#[test]
fn a_flapping_path_is_damped() {
    let is_alive = |at: Duration| at < START + 5 * SECOND || at.as_secs().is_multiple_of(2);
    let mut world = World::new(3, 200, |_, _, at| is_alive(at).then_some(10 * MS));
    world.run(START + 120 * SECOND);
    for number in 0..2 {
        let ups = world.gateways[number].history.iter().filter(|(_, health, _)| *health == Health::Up).count();
        assert!(ups < 12, "{ups} times: {:?}", world.gateways[number].history);
    }
    assert!(world.gateways[0].history.iter().any(|(.., reason)| *reason == Reason::Flapping));
}

#[test]
fn a_daemon_that_stalls_puts_no_path_down() {
    for pps in [0, 200] {
        let mut world = World::new(5, pps, constant(20 * MS));
        let mut draws = Draws::new(9);
        let mut calm = 0;
        world.lateness = Box::new(move |_| {
            calm += 1;
            match calm % 100 {
                0 => 2000 * MS,
                number if number % 7 == 0 => MS.mul_f64(100.0 * draws.uniform()),
                _ => Duration::ZERO,
            }
        });
        world.run(START + 300 * SECOND);
        assert!(!world.saw(Health::Down) && !world.saw(Health::Stalled), "{:?}", world.gateways[0].history);
    }
}

#[test]
fn jitter_is_no_failure() {
    for pps in [0, 50] {
        let mut world =
            World::new(11, pps, |draws, _, _| Some(Duration::from_secs_f64((0.1 + 0.025 * draws.normal()).max(0.005))));
        world.run(START + 3600 * SECOND);
        assert!(!world.saw(Health::Down) && !world.saw(Health::Lossy), "{pps}: {:?}", world.gateways[0].history);
        let doubted = world.total(0, Health::Stalled);
        assert!(doubted < 36 * SECOND, "{doubted:?}");
    }
}

#[test]
fn two_percent_of_random_loss_for_an_hour() {
    for (seed, pps) in [(1, 0), (2, 50)] {
        let mut world = World::new(seed, pps, lossy(20 * MS, [0.02; 2], START));
        world.run(START + 3600 * SECOND);
        assert!(!world.saw(Health::Down) && !world.saw(Health::Lossy), "{pps}: {:?}", world.gateways[0].history);
        for number in 0..2 {
            let doubted = world.total(number, Health::Stalled);
            assert!(doubted < 400 * SECOND, "{doubted:?} of an hour at {pps} packets per second");
            let lost = world.gateways[number].monitor.lost_out.lost_ppm(world.now, 60);
            assert!((10_000..32_000).contains(&lost), "{lost}");
        }
    }
}

/// The number of 40 cases in which a gateway that sees the loss leaves the path within this time.
fn left_within(pps: u32, loss: [f64; 2], limit: Duration) -> u32 {
    let is_left = |seed: u64| {
        let onset = START + 3 * SECOND + Duration::from_millis(seed * 7919 % 1000);
        let mut world = World::new(seed * 77 + 1, pps, lossy(20 * MS, loss, onset));
        world.run(onset + limit);
        let unused = [Health::Lossy, Health::Down];
        let left = [0, 1].map(|number| world.first(number, onset, &unused).is_some());
        u32::from(if loss[0] > 0.0 && loss[1] > 0.0 { left[0] && left[1] } else { left[0] || left[1] })
    };
    (0..40).map(is_left).sum()
}

#[test]
fn thirty_percent_of_loss_are_left_within_a_second() {
    // An idle path has few packets that could be lost.
    for (pps, limit) in [(200, SECOND), (0, 1500 * MS)] {
        for loss in [[0.3, 0.3], [0.3, 0.0], [0.0, 0.3]] {
            let left = left_within(pps, loss, limit);
            assert!(left >= 37, "{left} of 40 at {pps} packets per second, {loss:?}");
        }
    }
}

#[test]
fn a_lossy_path_is_used_again_when_it_is_calm() {
    let (onset, end) = (START + 20 * SECOND, START + 40 * SECOND);
    for pps in [0, 200] {
        let mut fate = lossy(20 * MS, [0.4, 0.0], onset);
        let mut world = World::new(
            8,
            pps,
            move |draws, direction, at| if at < end { fate(draws, direction, at) } else { Some(20 * MS) },
        );
        world.run(end);
        assert!([Health::Lossy, Health::Down, Health::Probing].contains(&world.health(0)), "{:?}", world.health(0));
        world.run(end + 7 * SECOND);
        assert_eq!(
            (world.health(0), world.health(1)),
            (Health::Up, Health::Up),
            "{pps} {:?}",
            world.gateways[0].history
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Black in one direction or in both, at any time, for any time: left soon, and used again within a second.
    #[test]
    fn a_black_hole_is_left_and_a_healed_path_is_used(
        seed: u64,
        pps in prop::sample::select(vec![0, 50, 200, 1000]),
        delays in (1..25u32, 1..25u32),
        phase in 0..1_000_000u64,
        black in prop::sample::select(vec![[true, true], [true, false], [false, true]]),
        lasts in prop_oneof![400..5000u64, 60_000..100_000u64],
    ) {
        let onset = START + 5 * SECOND + Duration::from_micros(phase);
        let end = onset + Duration::from_millis(lasts);
        let delay = [MS * delays.0, MS * delays.1];
        let round_trip = delay[0] + delay[1];
        let mut world = World::new(seed, pps, |_, direction, at| {
            (!(black[direction] && at >= onset && at < end)).then_some(delay[direction])
        });
        world.run(end + 3 * SECOND);
        for number in 0..2 {
            let doubted = world.first(number, onset, &[Health::Stalled, Health::Down]);
            let down = world.first(number, onset, &[Health::Down]);
            // The answers that are on their way still come.
            let limit = if pps == 0 { 300 * MS } else { 400 * MS };
            prop_assert!(down.is_some_and(|at| at <= onset + limit + 25 * MS * u32::from(pps != 0)), "{down:?} {onset:?} {:?}", world.gateways[number].history);
            if pps > 0 {
                prop_assert!(doubted.is_some_and(|at| at <= onset + round_trip + 50 * MS), "{:?}", world.gateways[number].history);
            }
            let up = world.first(number, end, &[Health::Up]);
            prop_assert!(up.is_some_and(|at| at <= end + SECOND), "{:?} {end:?}", world.gateways[number].history);
        }
    }

    /// Whatever happens, a path is up only as long as it answers.
    #[test]
    fn it_is_never_up_without_answers(seed: u64, pps in prop::sample::select(vec![0, 200]), bad in prop::collection::vec((0..2000u64, 0..100u32, 0..400u64), 1..20)) {
        let until = START + SECOND * 20;
        let mut spans = Vec::new();
        let mut at = START;
        for (pause, loss, delay) in bad {
            at += Duration::from_millis(pause);
            spans.push((at, f64::from(loss) / 90.0, Duration::from_millis(delay)));
        }
        let mut world = World::new(seed, pps, move |draws, _, at| {
            let (_, loss, delay) = spans.iter().rfind(|(from, ..)| *from <= at).copied().unwrap_or((at, 0.0, 10 * MS));
            (draws.uniform() >= loss).then_some(delay)
        });
        let mut now = START;
        while now < until {
            now += 40 * MS;
            world.run(now);
            for gateway in &world.gateways {
                let monitor = &gateway.monitor;
                if monitor.verdict().health == Health::Up {
                    let limit = super::patience(&monitor.round_trip) + 240 * MS;
                    let silent = (now + gateway.ahead).saturating_sub(monitor.answered_at.unwrap());
                    prop_assert!(silent <= limit, "{silent:?} {limit:?}");
                }
            }
        }
    }
}
