//! Aggregation: what was measured of a peer's paths becomes the entries by which its packets are striped, and those by
//! which packets from it are delivered by time.

use std::time::Duration;

use anyhow::Result;
use bytemuck::bytes_of;
use multipath_common::{
    maps::{MAX_PATHS, path_slot},
    playout::MAX_SPREAD_US,
};

use super::{Daemon, ManagedPath, health::has_way};
use crate::{
    config::Config,
    control::{
        bond::{BondController, Candidate, Plan},
        monitor::{Answer, Counters},
        playout_delay::{PathTransit, PlayoutDelay, Transit},
        transit_floor::TransitFloor,
        weights::configured_rate,
    },
    dataplane::Maps,
};

/// A peer that packets go to or come from is looked at so often at most: as often as its paths are probed.
const LOOK: Duration = Duration::from_millis(20);
/// The same while there are none.
const IDLE_LOOK: Duration = Duration::from_millis(240);

/// What aggregation goes by of one path.
#[derive(Default)]
pub(super) struct PathBonding {
    /// How packets come by it.
    arriving: PathTransit,
    /// How packets leave by it.
    leaving: TransitFloor,
    /// Bytes that left by it so far; those that left by another one as well count half.
    sent_bytes: u64,
    /// How much longer than by the nearest path packets take by it, as the peer has said last, microseconds.
    need_us: u32,
    /// Whether the peer uses it, or is about to.
    peer_is_member: bool,
}

impl PathBonding {
    /// Takes into account what has come by the path so far.
    pub(super) fn look(&mut self, now: Duration, counters: &Counters) {
        self.arriving.look(now, &counters.arrivals);
        self.sent_bytes = counters.sent_bytes.alone + counters.sent_bytes.doubled / 2;
        self.peer_is_member = counters.arrivals.peer_is_member != 0;
    }

    /// Whether packets that are delivered by time have come by it lately.
    pub(super) fn is_used(&self, now: Duration) -> bool {
        self.arriving.is_used(now)
    }

    /// Takes the answer to a probe into account.
    pub(super) fn hear(&mut self, answer: &Answer) {
        let reply = &answer.reply;
        self.leaving.sample(answer.received_at, reply.reached_us.wrapping_sub(reply.sent_us));
        self.need_us = reply.need_us.min(MAX_SPREAD_US);
    }
}

/// The bond with one peer, in both directions.
pub(super) struct PeerBonding {
    controller: BondController,
    playout: PlayoutDelay,
    /// What stands in the maps.
    written: Plan,
    /// How long the peer holds packets, as it has said last, microseconds.
    spread_us: u32,
    /// One of its paths was looked at since the bond was,
    is_due: bool,
    /// and carries packets.
    is_busy: bool,
    looked_at: Duration,
}

impl PeerBonding {
    /// Goes on with what stands in the maps.
    pub(super) fn resume(now: Duration, maps: &Maps, peer: u32) -> Result<Self> {
        let controller = BondController::resume(now, &maps.bond(peer)?, &maps.bond_members(peer)?);
        let written = *controller.plan();
        Ok(Self {
            playout: PlayoutDelay::resume(now, &maps.playout(peer)?),
            spread_us: written.bond.spread_us,
            controller,
            written,
            is_due: false,
            is_busy: false,
            looked_at: now,
        })
    }

    /// One of the paths was looked at.
    pub(super) fn follow(&mut self, is_busy: bool) {
        self.is_due = true;
        self.is_busy |= is_busy;
    }

    /// Takes the answer to a probe into account.
    pub(super) fn hear(&mut self, answer: &Answer) {
        self.spread_us = answer.reply.spread_us.min(MAX_SPREAD_US);
    }

    /// What stands in the maps.
    pub(super) const fn plan(&self) -> &Plan {
        &self.written
    }

    /// Whether the peer is told that the path with this id takes part.
    pub(super) fn has_announced(&self, id: u8) -> bool {
        self.written.announced >> id & 1 != 0
    }
}

impl Daemon {
    /// Looks at the bonds of the peers whose paths were looked at, and writes what has changed.
    pub(super) fn bond(&mut self, now: Duration) -> Result<()> {
        for position in 0..self.peers.len() {
            let bonding = &mut self.peers[position].bonding;
            let pause = if bonding.is_busy { LOOK } else { IDLE_LOOK };
            if bonding.is_due && now >= bonding.looked_at + pause {
                (bonding.is_due, bonding.is_busy, bonding.looked_at) = (false, false, now);
                self.stripe_to(now, position)?;
                self.time_from(now, position)?;
            }
        }
        Ok(())
    }

    /// How packets to a peer are striped.
    fn stripe_to(&mut self, now: Duration, position: usize) -> Result<()> {
        let peer = self.peers[position].number;
        let candidates: Vec<Candidate> =
            self.paths_of(peer).map(|path| path.bond_candidate(now, &self.config)).collect();
        // Whoever has given weights wants flows to be spread by them.
        let is_weighted = self.paths_of(peer).any(|path| self.config.uplinks[path.uplink].weight.is_some());
        let bonding = &mut self.peers[position].bonding;
        let mut plan = *bonding.controller.update(now, &candidates, bonding.spread_us);
        if is_weighted {
            plan.bond.measured = 0;
        }
        let before = std::mem::replace(&mut bonding.written, plan);
        // What a member is comes before that it is one.
        for (id, (new, old)) in (0..MAX_PATHS as u8).zip(plan.members.iter().zip(&before.members)) {
            if bytes_of(new) != bytes_of(old) {
                self.maps.set_bond_member(path_slot(peer, id), *new)?;
            }
        }
        if bytes_of(&plan.bond) != bytes_of(&before.bond) {
            self.maps.set_bond(peer, plan.bond)?;
        }
        // Flows were spread by hash before it was known which path is the nearest.
        if plan.bond.measured != before.bond.measured {
            self.maps.advance_automatic()?;
        }
        for path in self.paths_of_mut(peer) {
            path.monitor.set_member(plan.announced >> path.id & 1 != 0);
        }
        Ok(())
    }

    /// When packets from a peer are due.
    fn time_from(&mut self, now: Duration, position: usize) -> Result<()> {
        let peer = self.peers[position].number;
        let transit = |path: &ManagedPath| path.bonding.arriving.get(now, path.id, path.bonding.peer_is_member);
        let transits: Vec<Transit> = self.paths_of(peer).filter_map(transit).collect();
        let fixed = self.config.tunnel.playout_delay;
        match self.peers[position].bonding.playout.update(now, &transits, fixed) {
            Some(playout) => self.maps.set_playout(peer, playout),
            None => Ok(()),
        }
    }
}

impl ManagedPath {
    /// What the bond must know of the path.
    fn bond_candidate(&self, now: Duration, config: &Config) -> Candidate {
        let configured = configured_rate(&config.uplinks[self.uplink]);
        let limits = [self.operator.rate_kbps, configured, self.rate.capacity_kbps()];
        Candidate {
            id: self.id,
            is_usable: self.monitor.verdict().is_used && has_way(&self.written),
            limit_kbps: limits.into_iter().find(|limit| *limit != 0).unwrap_or_default(),
            estimate_kbps: self.trains.estimate_kbps(),
            delivered_kbps: self.rate.recently_delivered_kbps(),
            sent_bytes: self.bonding.sent_bytes,
            loss_ppm: self.monitor.loss_out_ppm(now),
            likely_loss_ppm: self.monitor.likely_loss_out_ppm(now),
            base_us: self.bonding.leaving.get(now),
            jitter_us: self.monitor.jitter_out_us(),
            need_us: self.bonding.need_us,
        }
    }
}
