//! A flow that is led over a simulated bond.

#![expect(clippy::cast_precision_loss, clippy::cast_sign_loss, reason = "far below 2^52, and nothing is negative")]

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    num::NonZeroU32,
    time::Duration,
};

use bytemuck::Zeroable;
use multipath_common::{
    classes::FULL_HOLD,
    pacing::{Pace, Verdict},
    quality::PathClock,
};

use super::{
    senders::{Ack, Bbr, Cubic, Sender},
    {Lead, Look, Member},
};

const SECOND: u64 = 1_000_000_000;
const MS: u64 = 1_000_000;
/// Bytes of an outer IP packet.
const LEN: u32 = 1500;
/// How long the bins are in which deliveries are counted.
const BIN: u64 = 100 * MS;
const TICK: u64 = 20 * MS;

/// A path: kbit/s, one-way delay in milliseconds.
type Link = (u32, u64);

#[derive(Clone, Copy, Debug, PartialEq)]
enum Mode {
    /// Pinned to the nearest path, and led when it is bulk.
    Automatic,
    /// Fully held from the first packet.
    Aggregate,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Ack(u64),
    Send,
    Timeout(u64),
    Tick,
}

struct Path {
    rate: NonZeroU32,
    delay: u64,
    hold: u32,
    clock: PathClock,
    bytes: u64,
}

struct Flight {
    sent: u64,
    delivered: u64,
    delivered_at: u64,
    first_sent: u64,
    is_dropped: bool,
}

/// What became of a flow.
struct Outcome {
    /// Mbit/s delivered in each bin.
    rates: Vec<f64>,
    /// Hold at the end of each bin, n/255.
    holds: Vec<u32>,
    /// Packets dropped later than a second after the application had less to send.
    drops: u64,
    /// Packets that came after three or more later ones.
    reordered: u64,
}

impl Outcome {
    fn mean(&self, from: f64, to: f64) -> f64 {
        let bins = &self.rates[(from * 10.0) as usize..(to * 10.0) as usize];
        bins.iter().sum::<f64>() / bins.len() as f64
    }

    /// The least mean of two seconds that begin after this time.
    fn worst(&self, from: f64) -> f64 {
        let bins = &self.rates[(from * 10.0) as usize..];
        bins.windows(20).map(|window| window.iter().sum::<f64>() / 20.0).fold(f64::MAX, f64::min)
    }
}

struct World {
    links: Vec<Link>,
    mode: Mode,
    seconds: u64,
    /// Mbit/s of an application that has no more to send after so many seconds.
    limit: Option<(u64, f64)>,
}

impl World {
    #[expect(clippy::too_many_lines, reason = "one loop over all that happens")]
    fn run(&self, sender: &mut dyn Sender) -> Outcome {
        const MARGIN: u64 = 1500 * 1000;
        // With the time that a packet takes.
        let transit = |&(rate, delay): &Link| delay * MS + Pace::new(NonZeroU32::new(rate).unwrap(), LEN).duration_ns;
        let near = self.links.iter().map(transit).min().unwrap();
        let far = self.links.iter().map(transit).max().unwrap();
        let spread = far - near + MARGIN;
        let mut paths: Vec<Path> = self
            .links
            .iter()
            .map(|link @ &(rate, delay)| Path {
                rate: NonZeroU32::new(rate).unwrap(),
                delay: delay * MS,
                hold: if transit(link) == near {
                    0
                } else {
                    ((transit(link) - near + MARGIN / 2) * 255).div_ceil(spread) as u32
                },
                clock: PathClock::zeroed(),
                bytes: 0,
            })
            .collect();
        let pinned = (0..paths.len()).min_by_key(|&n| (paths[n].hold, paths[n].delay)).unwrap();
        let back = near;
        let mut bond = PathClock::zeroed();
        let mut events: BinaryHeap<Reverse<(u64, Event)>> = BinaryHeap::new();
        let mut flights: BTreeMap<u64, Flight> = BTreeMap::new();
        let (mut next, mut delivered, mut delivered_at, mut first_sent) = (0_u64, 0_u64, 0_u64, 0_u64);
        let (mut bytes, mut timestamp, mut last_progress, mut srtt) = (0_u64, 0_u64, 0_u64, 2 * near);
        let mut recovery: Option<u64> = None;
        let mut next_send = 0;
        let mut wake = 0;
        let mut lead: Option<Lead> = None;
        let (mut pressed, mut pressed_since) = (0, 0);
        let mut hold = 0;
        let bins = (self.seconds * SECOND / BIN) as usize;
        let mut outcome = Outcome { rates: vec![0.0; bins + 1], holds: vec![], drops: 0, reordered: 0 };
        events.push(Reverse((0, Event::Tick)));
        events.push(Reverse((0, Event::Send)));
        while let Some(Reverse((now, event))) = events.pop() {
            if now >= self.seconds * SECOND {
                break;
            }
            match event {
                Event::Send => {}
                Event::Timeout(progress) => {
                    if progress == last_progress && !flights.is_empty() {
                        flights.clear();
                        sender.timed_out(now);
                        last_progress = now;
                        recovery = None;
                    }
                }
                Event::Ack(sequence) => {
                    if let Some(flight) = flights.remove(&sequence) {
                        if flights.range(..sequence).any(|(other, flight)| other + 3 <= sequence && !flight.is_dropped)
                        {
                            outcome.reordered += 1;
                        }
                        delivered += 1;
                        let rtt = now - flight.sent;
                        srtt = (srtt * 7 + rtt) / 8;
                        let interval = (now - flight.delivered_at).max(flight.sent - flight.first_sent).max(1);
                        let rate = (delivered - flight.delivered) as f64 * SECOND as f64 / interval as f64;
                        delivered_at = now;
                        first_sent = flight.sent;
                        last_progress = now;
                        let lost: Vec<u64> =
                            flights.range(..=sequence.saturating_sub(3)).map(|(number, _)| *number).collect();
                        for number in &lost {
                            flights.remove(number);
                        }
                        if recovery.is_some_and(|end| sequence >= end) {
                            recovery = None;
                            sender.recovered();
                        }
                        let in_flight = flights.len() as u64;
                        if !lost.is_empty() {
                            let is_new = recovery.is_none();
                            sender.lost(now, lost.len() as u64, in_flight, is_new);
                            recovery.get_or_insert(next);
                        }
                        sender.acked(&Ack {
                            now,
                            rtt,
                            sequence,
                            next,
                            in_flight,
                            delivered,
                            prior_delivered: flight.delivered,
                            rate,
                        });
                        events.push(Reverse((now + 200 * MS + 2 * srtt, Event::Timeout(last_progress))));
                    }
                }
                Event::Tick => {
                    events.push(Reverse((now + TICK, Event::Tick)));
                    let members: Vec<Member> = paths
                        .iter()
                        .map(|path| Member {
                            hold: path.hold,
                            rate_kbps: path.rate.get(),
                            sent_bytes: path.bytes,
                            queue: Duration::from_nanos(path.clock.next_free_ns.saturating_sub(now)),
                        })
                        .collect();
                    let look = Look {
                        now: Duration::from_nanos(now),
                        members: &members,
                        spread: Duration::from_nanos(spread),
                        round_trip: Duration::from_nanos(2 * near),
                    };
                    if self.mode == Mode::Automatic && lead.is_none() {
                        // 500 ms looks.
                        if now - pressed_since > 500 * MS {
                            (pressed, pressed_since) = (0, now);
                        }
                    }
                    if let Some(lead) = &mut lead {
                        hold = lead.look(&look, bytes);
                    }
                    if now % BIN == 0 {
                        outcome.holds.push(hold);
                    }
                }
            }
            // Sends what the window and the pacing allow.
            while (flights.len() as f64) < sender.window().floor() {
                let limit =
                    self.limit.filter(|(from, _)| now > from * SECOND).map(|(_, mbps)| mbps * 1e6 / f64::from(LEN * 8));
                if let Some(rate) = [sender.pacing(), limit].into_iter().flatten().min_by(f64::total_cmp) {
                    if now < next_send {
                        if wake <= now {
                            wake = next_send;
                            events.push(Reverse((next_send, Event::Send)));
                        }
                        break;
                    }
                    next_send = next_send.max(now.saturating_sub(MS)) + (SECOND as f64 / rate) as u64;
                }
                let striped = match self.mode {
                    Mode::Aggregate => Some(FULL_HOLD),
                    Mode::Automatic => lead.as_ref().map(|_| hold),
                };
                let chosen = match striped {
                    Some(hold) => (0..paths.len())
                        .filter(|&n| paths[n].hold <= hold)
                        .min_by_key(|&n| paths[n].clock.next_free_ns)
                        .unwrap_or(pinned),
                    None => pinned,
                };
                let held_for = striped.unwrap_or_default();
                let together = paths.iter().filter(|path| path.hold <= held_for).map(|path| path.rate.get()).sum();
                let path = &mut paths[chosen];
                let pace = Pace::new(path.rate, LEN);
                let held_us = spread / 1000 * u64::from(held_for) / u64::from(FULL_HOLD);
                let of_all = Pace::new(NonZeroU32::new(together).unwrap_or(path.rate), LEN).held(held_us as u32);
                let ahead = path.clock.next_free_ns.saturating_sub(now);
                if ahead > pace.target_ns && lead.is_none() && self.mode == Mode::Automatic {
                    pressed += 1;
                    if pressed >= 8 && bytes > 65_536 {
                        lead = Some(Lead::new(Duration::from_nanos(now), 0));
                    }
                }
                let verdict = if striped.is_some() {
                    let verdict = bond.admit_to_bond(now, path.clock.next_free_ns, of_all, false);
                    if verdict != Verdict::Drop {
                        path.clock.carry_striped(now, pace.striped());
                    }
                    verdict
                } else {
                    path.clock.admit(now, pace, false)
                };
                let is_dropped = verdict == Verdict::Drop;
                if flights.is_empty() {
                    (delivered_at, first_sent) = (now, now);
                }
                flights.insert(next, Flight { sent: now, delivered, delivered_at, first_sent, is_dropped });
                bytes += u64::from(LEN);
                if is_dropped {
                    outcome.drops += u64::from(self.limit.is_some_and(|(from, _)| now > (from + 1) * SECOND));
                } else {
                    path.bytes += u64::from(LEN);
                    let arrival = path.clock.next_free_ns + path.delay;
                    // What is held less than the packet before is not due before it.
                    let delayed = striped.map_or(0, |hold| spread * u64::from(hold) / 255);
                    timestamp = (timestamp + 1000).max(now + ahead + delayed);
                    let due = if delayed == 0 { 0 } else { timestamp + near };
                    let out = arrival.max(due);
                    if let Some(bin) = outcome.rates.get_mut((out / BIN) as usize) {
                        *bin += f64::from(LEN) * 8.0 / 1e6 / (BIN as f64 / SECOND as f64);
                    }
                    events.push(Reverse((out + back, Event::Ack(next))));
                }
                next += 1;
            }
            if events.len() < 2 {
                events.push(Reverse((now + 300 * MS, Event::Timeout(last_progress))));
            }
        }
        outcome.rates.truncate(bins);
        outcome
    }
}

fn cubic() -> Box<dyn Sender> {
    Box::new(Cubic::new())
}

fn quic() -> Box<dyn Sender> {
    Box::new(Cubic::without_hystart())
}

fn bbr() -> Box<dyn Sender> {
    Box::new(Bbr::new())
}

fn run(
    links: &[Link],
    mode: Mode,
    seconds: u64,
    limit: Option<(u64, f64)>,
    sender: fn() -> Box<dyn Sender>,
) -> Outcome {
    World { links: links.to_vec(), mode, seconds, limit }.run(&mut *sender())
}

/// Kinds of sender, by what a lead may cost them. `BBR` pauses for a fifth of a second and a round trip each time that it
/// measures its shortest round trip, which takes a seventh of two seconds.
type Kind = (&'static str, fn() -> Box<dyn Sender>, f64);
const KINDS: [Kind; 2] = [("CUBIC", cubic, 0.92), ("BBR", bbr, 0.75)];

#[test]
fn a_flow_comes_to_all_paths_and_loses_nothing_on_the_way() {
    // With the least part of all paths' rate that CUBIC and BBR carry at the end: over 160 ms a loss costs CUBIC much,
    // however its packets were held before.
    for (links, least_ends) in [
        ([(10_000, 10), (10_000, 100)], [0.85, 0.9]),
        ([(5000, 10), (10_000, 100)], [0.85, 0.9]),
        ([(20_000, 20), (20_000, 20)], [0.9, 0.9]),
        ([(20_000, 20), (20_000, 40)], [0.9, 0.9]),
        ([(20_000, 20), (20_000, 120)], [0.65, 0.9]),
        ([(40_000, 8), (4000, 40)], [0.9, 0.9]),
        ([(20_000, 20), (5000, 20)], [0.9, 0.9]),
    ] {
        let sum = f64::from(links.iter().map(|(rate, _)| rate).sum::<u32>()) / 1000.0;
        let pinned_to = f64::from(links[0].0) / 1000.0;
        for ((kind, sender, least), least_end) in KINDS.into_iter().zip(least_ends) {
            let outcome = run(&links, Mode::Automatic, 50, None, sender);
            let worst = outcome.worst(3.0) / pinned_to;
            let end = outcome.mean(35.0, 50.0) / sum;
            let case =
                format!("{kind} over {links:?}: worst two seconds {worst:.2} of one path, {end:.2} of all at the end");
            assert!(worst > least && end > least_end, "{case}");
            // What is held longer and longer, or less and less, stays in order.
            assert!(outcome.reordered < 20, "{case}: {} reordered", outcome.reordered);
        }
    }
}

#[test]
fn who_needs_one_path_falls_back_to_it() {
    for links in [[(10_000, 10), (10_000, 60)], [(20_000, 20), (5000, 80)]] {
        for (kind, sender, _) in KINDS {
            let rate = f64::from(links[0].0) / 1000.0 * 0.6;
            let outcome = run(&links, Mode::Automatic, 50, Some((25, rate)), sender);
            let case = format!("{kind} over {links:?}: {:?}", outcome.holds);
            assert_eq!((outcome.holds[249], outcome.holds[490], outcome.drops), (FULL_HOLD, 0, 0), "{case}");
            assert!(outcome.mean(27.0, 50.0) > 0.98 * rate, "{case}");
        }
    }
}

#[test]
fn who_is_fully_held_from_the_first_packet_is_fast_at_once() {
    let senders = KINDS.map(|(kind, sender, _)| (kind, sender));
    for (kind, sender) in senders.into_iter().chain([("QUIC", quic as fn() -> Box<dyn Sender>)]) {
        for (links, least) in [
            ([(10_000, 10), (10_000, 100)], 0.92),
            ([(50_000, 20), (50_000, 20)], 0.97),
            ([(50_000, 20), (50_000, 40)], 0.94),
            ([(50_000, 20), (50_000, 120)], 0.78),
            ([(30_000, 20), (20_000, 50)], 0.94),
        ] {
            let outcome = run(&links, Mode::Aggregate, 25, None, sender);
            let part = outcome.mean(3.0, 25.0) * 1000.0 / f64::from(links[0].0 + links[1].0);
            assert!(part > least, "{kind} over {links:?}: {part:.2} of all");
        }
    }
}

#[test]
fn a_path_that_adds_nothing_is_left_alone_longer_and_longer() {
    let spread = Duration::from_millis(50);
    let mut lead = Lead::new(Duration::ZERO, 200);
    let (mut now, mut sent) = (Duration::ZERO, 0);
    let mut joined = Vec::new();
    let mut before = 0;
    while now < Duration::from_mins(5) {
        // Whatever may be used, only half as much passes as the nearer path carries; without the other one, all of it.
        let kbps = if lead.hold() >= 200 { 5000 } else { 10_000 };
        now += Duration::from_millis(20);
        sent += kbps * 20 / 8;
        let members = [(0, sent), (200, 0)].map(|(hold, sent_bytes)| Member {
            hold,
            rate_kbps: 10_000,
            sent_bytes,
            queue: Duration::from_millis(if hold == 0 { 5 } else { 0 }),
        });
        let look = Look { now, members: &members, spread, round_trip: Duration::from_millis(40) };
        let hold = lead.look(&look, sent);
        if hold >= 200 && before < 200 {
            joined.push(now);
        }
        before = hold;
    }
    let pauses: Vec<Duration> = joined.windows(2).map(|pair| pair[1].saturating_sub(pair[0])).collect();
    assert!((3..8).contains(&joined.len()) && pauses.is_sorted(), "{joined:?}");
}

#[test]
fn a_destination_is_proven_by_what_was_carried_by_all_members() {
    let member = Member { hold: 0, rate_kbps: 10_000, sent_bytes: 0, queue: Duration::ZERO };
    let look =
        Look { now: Duration::ZERO, members: &[member], spread: Duration::from_millis(3), round_trip: Duration::ZERO };
    let mut lead = Lead::new(Duration::ZERO, 0);
    assert!(!lead.is_proven(u64::MAX));
    assert_eq!(lead.look(&look, 5_000_000), FULL_HOLD);
    assert!(!lead.is_proven(6_999_999) && lead.is_proven(7_000_000));
}
