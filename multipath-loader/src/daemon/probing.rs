//! Probes: what is due is sent, what was answered is passed on to those who measure.

use std::{net::SocketAddr, time::Duration};

use anyhow::Result;
use multipath_common::{
    control::{ControlMark, Message, Probe, REPLY_LEN},
    health::{Health, Reason, Role},
    maps::{FAMILY_IPV4, Path as PathEntry, Traffic, address_from, path_slot},
    quality::{PROBE_EVENTS_LEN, ProbeEvent},
};
use nix::libc;
use tracing::debug;

use super::{Daemon, ManagedPath, health::has_way};
use crate::{
    control::{
        monitor::Counters,
        path_mtu::{Conditions, Load},
        probes::SentBytes,
        rate::{RateController, Report},
    },
    dataplane::Maps,
};

/// How much longer than usual the answer to a long probe may take: 1,500 bytes take 12 ms at 1 Mbit/s.
const LONG_PROBE_PATIENCE: Duration = Duration::from_millis(50);
/// How long an answer may take on a path that has given none yet.
const FIRST_PATIENCE: Duration = Duration::from_secs(1);
/// Packets that are lost behind a queue of this length, microseconds, are lost because too much was sent: that is over with
/// a lower rate, and no reason to leave the path.
const OWN_QUEUE_US: u32 = 20_000;
/// How often the sockets are asked for what routers have said, at most: it is a hint, and anybody can forge it.
const HEAR_ROUTERS: Duration = Duration::from_millis(20);

/// Over how long a time the mean length of packets is taken.
const MEASURE_LENGTHS: Duration = Duration::from_millis(100);
/// Bytes of the frame that a probe or a reply is written in.
const FRAME_LEN: usize = 14 + REPLY_LEN;
/// A probe as it is written to the device.
type Frame = [u8; FRAME_LEN];

/// `EtherType` of a control message for a path over IPv4.
const ETHERTYPE_IPV4: u16 = libc::ETH_P_IP.cast_unsigned() as u16;
/// The same over IPv6.
const ETHERTYPE_IPV6: u16 = libc::ETH_P_IPV6.cast_unsigned() as u16;

/// How long packets are, on the average.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Lengths {
    since: Duration,
    packets: u64,
    bytes: u64,
    /// Bytes of an outer packet, over the last [`MEASURE_LENGTHS`].
    mean_len: u32,
}

impl Lengths {
    fn look(&mut self, now: Duration, sent: &Traffic) {
        if now < self.since + MEASURE_LENGTHS {
            return;
        }
        let (packets, bytes) = (sent.packets.saturating_sub(self.packets), sent.bytes.saturating_sub(self.bytes));
        let mean_len = bytes.checked_div(packets).unwrap_or_default() as u32;
        *self = Self { since: now, packets: sent.packets, bytes: sent.bytes, mean_len };
    }
}

impl Daemon {
    /// When the next path must be looked at; `None` while there is none that could be probed.
    pub(super) fn next_probe(&self) -> Option<Duration> {
        self.paths.values().filter_map(|path| path.monitor.next_deadline()).min()
    }

    /// Hears the answers that came, looks at the paths that are due, and sends their probes.
    pub(super) fn probe(&mut self, now: Duration) -> Result<()> {
        // Not until there is none: a peer that sends more than it was asked for must not keep the daemon from the others.
        for _ in 0..PROBE_EVENTS_LEN / size_of::<ProbeEvent>() {
            let Some(event) = self.answers.take() else { break };
            self.hear_answer(&event)?;
        }
        self.hear_routers(now);
        self.send_probes(now)?;
        self.bond(now)?;
        let has_other_mtu =
            |path: &&ManagedPath| has_way(&path.written) && path.written.inner_mtu != path.mtu.inner_mtu();
        let found: Vec<u32> = self.paths.values().filter(has_other_mtu).map(ManagedPath::slot).collect();
        for slot in found {
            if let Some(path) = self.paths.get_mut(&slot).filter(|path| path.mtu.inner_mtu() < path.written.inner_mtu) {
                path.monitor.acquit(now, Reason::PathMtu);
            }
            self.write_path(slot)?;
            self.log_mtu(slot)?;
        }
        Ok(())
    }

    /// Looks at the paths that are due, and sends their probes.
    fn send_probes(&mut self, now: Duration) -> Result<()> {
        let mut frames = Vec::new();
        for path in self.paths.values_mut().filter(|path| path.monitor.next_deadline().is_some_and(|due| due <= now)) {
            let Some(position) = self.positions.get(&path.peer) else { continue };
            path.look(now, &self.maps, &mut frames)?;
            let peer = &mut self.peers[*position];
            peer.bonding.follow(path.monitor.is_busy(now) || path.bonding.is_used(now));
            peer.heard_at = peer.heard_at.max(path.heard_at);
        }
        if let Err(error) = self.frames.send_all(&frames) {
            debug!("probes were not sent: {error}");
        }
        Ok(())
    }

    fn hear_answer(&mut self, event: &ProbeEvent) -> Result<()> {
        let Ok(Message::Reply(reply)) = Message::from_bytes(&event.reply) else { return Ok(()) };
        // It may have come by another path than it was asked on: the peer knows fewer of them.
        let slot = path_slot(event.peer, reply.path);
        // The path id is what the peer says, and may lead beyond its own.
        let path = self.paths.get_mut(&slot).filter(|path| path.peer == event.peer);
        let Some(path) = path else { return Ok(()) };
        let Some(position) = self.positions.get(&path.peer) else { return Ok(()) };
        let peer = &mut self.peers[*position];
        let Some(answer) = path.monitor.answered(event, &mut peer.clock) else { return Ok(()) };
        path.heard_at = answer.received_at;
        peer.heard_at = peer.heard_at.max(answer.received_at);
        if usize::from(answer.reply.len) > REPLY_LEN {
            path.mtu.answered(answer.reply.len);
            path.trains.answered(answer.received_at, answer.sequence, answer.reply.reached_us);
        }
        let Some(delay) = answer.delay else { return Ok(()) };
        path.bonding.hear(&answer);
        peer.bonding.hear(&answer);
        if std::mem::replace(&mut path.delay_epoch, delay.epoch) != delay.epoch {
            // The peer's clock has jumped: delays from before can't be compared with those from now on.
            path.rate = RateController::new();
        }
        let before_kbps = path.rate.rate_kbps();
        let rate_kbps = path.rate.report(&Report {
            now: answer.received_at,
            sent_at: answer.sent_at,
            delay_us: delay.out_us.into(),
            // Second packets fill the path as well. Nobody counts those that arrive: let them be all.
            sent_bytes: answer.sent_bytes.alone + answer.sent_bytes.doubled,
            received_bytes: answer.reply.bytes.saturating_add(answer.sent_bytes.doubled),
            pressed: self.maps.path_clock(slot)?.pressed,
        });
        let is_slower = rate_kbps != 0 && (before_kbps == 0 || rate_kbps < before_kbps);
        if is_slower && path.rate.queue_us() > OWN_QUEUE_US {
            path.monitor.acquit(answer.received_at, Reason::LossEnded);
        }
        self.write_automatic(slot)
    }

    /// Raises a doubt about paths whose packets could not be delivered, as routers say.
    fn hear_routers(&mut self, now: Duration) {
        if now < self.hear_routers_at {
            return;
        }
        self.hear_routers_at = now + HEAR_ROUTERS;
        for (ifindex, remote) in self.ports.undelivered() {
            let goes_there = |entry: &PathEntry| {
                entry.ifindex == ifindex && SocketAddr::new(address_from(entry.remote), entry.remote_port) == remote
            };
            for path in self.paths.values_mut().filter(|path| goes_there(&path.written)) {
                path.monitor.doubt(now, Reason::Unreachable);
            }
        }
    }
}

impl ManagedPath {
    /// Looks at a path that is due: adds the probes that it has to send.
    fn look(&mut self, now: Duration, maps: &Maps, frames: &mut Vec<Frame>) -> Result<()> {
        let slot = self.slot();
        let stats = maps.path_stats(slot)?;
        let counters = Counters {
            sent_packets: stats.egress.packets.saturating_sub(stats.doubled),
            sent_bytes: SentBytes {
                alone: stats.egress.bytes.saturating_sub(stats.doubled_bytes),
                doubled: stats.doubled_bytes,
            },
            arrivals: maps.arrivals(slot)?,
        };
        let arrived = counters.arrivals.packets + counters.arrivals.probes;
        if std::mem::replace(&mut self.arrived, arrived) != arrived {
            self.heard_at = now;
        }
        self.lengths.look(now, &stats.egress);
        self.bonding.look(now, &counters);
        if let Some(probe) = self.monitor.poll(now, &counters) {
            frames.push(self.frame(probe));
        }
        if self.monitor.verdict().health == Health::Down {
            return Ok(());
        }
        let conditions = self.conditions(now);
        if let Some(len) = self.mtu.poll(now, &conditions) {
            let probe = self.monitor.padded_probe(now, len, &counters);
            frames.push(self.frame(probe));
        }
        self.send_train(now, &counters, frames);
        Ok(())
    }

    /// Sends a train of long probes, if one is due: what the path carries is unknown, and bytes cost nothing.
    fn send_train(&mut self, now: Duration, counters: &Counters, frames: &mut Vec<Frame>) {
        let is_unknown = self.rate.capacity_kbps() == 0 && self.monitor.role() != Role::Metered;
        let is_idle = is_unknown && self.monitor.verdict().is_used && !self.monitor.is_busy(now);
        let count = self.trains.poll(now, is_idle);
        for number in 0..count {
            let probe = self.monitor.padded_probe(now, self.mtu.inner_mtu() as u16, counters);
            if number == 0 {
                self.trains.sent(now, probe.sequence, count, self.mtu.outer_mtu());
            }
            frames.push(self.frame(probe));
        }
    }

    /// What the search for the path's MTU must know.
    fn conditions(&self, now: Duration) -> Conditions {
        let round_trip = self.monitor.round_trip();
        let patience = round_trip.smoothed().map_or(FIRST_PATIENCE, |smoothed| {
            smoothed + 4 * round_trip.deviation().unwrap_or_default() + LONG_PROBE_PATIENCE
        });
        let candidate = self.monitor.candidate(now);
        Conditions {
            patience,
            answered_at: candidate.answered_at,
            loss_ppm: self.monitor.probe_loss_ppm(),
            load: match self.monitor.role() {
                // Also where bytes cost money: packets that are lost cost it for nothing.
                _ if self.monitor.loses_large(now) => Load::Suspect,
                Role::Metered => Load::Metered,
                _ if self.lengths.mean_len > self.mtu.outer_mtu() / 2 => Load::Large,
                _ => Load::Quiet,
            },
        }
    }

    fn frame(&self, probe: Probe) -> Frame {
        let mut frame = [0; FRAME_LEN];
        let (message, len) = Message::Probe(probe).to_bytes();
        let (head, body) = frame.split_at_mut(FRAME_LEN - REPLY_LEN);
        head.copy_from_slice(&self.mark(0));
        body[..len].copy_from_slice(&message[..len]);
        frame
    }

    /// What a frame begins with that the egress program is to seal and to send by this path; sealed with a session, or, if
    /// that is 0, with the peer's current one.
    pub(super) fn mark(&self, session: u32) -> [u8; FRAME_LEN - REPLY_LEN] {
        let ethertype = if self.written.family == FAMILY_IPV4 { ETHERTYPE_IPV4 } else { ETHERTYPE_IPV6 };
        ControlMark { path: self.id, peer: self.peer, session }.to_ethernet(ethertype)
    }
}
