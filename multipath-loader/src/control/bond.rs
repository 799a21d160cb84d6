//! Which of a peer's paths aggregate flows use together, and how.
//!
//! A path takes part when it brings more than it costs. What it costs is delay: everything that is striped is held until
//! what goes by the slowest path is there. So paths are looked at from the farthest to the nearest, and those are left out
//! without which packets are there much sooner and that would add little. The receiver is told first, by the probes; the
//! path is used once the receiver's answer says that it holds packets for long enough.
//!
//! A path whose limit is known is striped by it. One whose limit was not met yet begins with what trains of probes say
//! ([`super::train`]), and grows slowly as long as that arrives, until its limit is met. Where they say nothing, it begins
//! with little and doubles; only the nearest one is sent what comes until then, as it would be without a bond.

use std::time::Duration;

use bytemuck::Zeroable;
use multipath_common::{
    bond::{Bond, BondMember},
    classes::FULL_HOLD,
    maps::MAX_PATHS,
};

use super::{
    demand::Demand,
    transit_floor::{later_by, least},
};

/// Rate that a path begins with whose limit is unknown, kbit/s.
const FIRST_KBPS: u32 = 1_000;
/// Rate of the nearest path while its limit is unknown, kbit/s: more than any processor seals.
const UNLIMITED_KBPS: u32 = 10_000_000;
/// How fast a rate that is not filled becomes what is; longer than what is sent takes to be seen to arrive.
const APPROACH: Duration = Duration::from_secs(2);
/// In what time an estimate that is filled doubles, about.
const GROWTH: Duration = Duration::from_secs(20);
/// A path that is slower than the others by more than this, microseconds,
const FAR_US: u32 = 250_000;
/// is taken when the farther ones carry so many parts per thousand of what the nearer ones do.
const FAR_GAIN: u64 = 1_100;
/// The same below: a path that is slower by more than this, microseconds,
const SLOWER_US: u32 = 10_000;
/// for so many parts per thousand.
const GAIN: u64 = 110;
/// One that is slower and adds fewer parts per thousand than this is for when the nearer ones are full. With more it is
/// used always: a flow takes long to get used to another round trip.
const LITTLE: u64 = 300;
/// A path that loses more, parts per million, is left out
const LOSSY_PPM: u32 = 40_000;
/// when others lose less than this.
const CLEAN_PPM: u32 = 10_000;
/// A path that was left out must be so many parts per hundred better than one that is used.
const BETTER: u64 = 125;
/// For so long a reason to use a path or to leave it must hold.
const HYSTERESIS: Duration = Duration::from_secs(2);

/// Paths that lose more than this, parts per million, need another one of the bond for repairs.
const REPAIRED_PPM: u32 = 200;
/// From this loss on packets go by others first, and small ones by two paths; parts per million.
const SOME_LOSS_PPM: u32 = 2_000;
/// Below this they do not any more.
const NO_LOSS_PPM: u32 = 1_000;
/// How much later a lossy path is taken than others, microseconds.
const PENALTY_US: u32 = 10_000;
/// By how much a need may exceed the spread, microseconds, before the path is not used any more: the peer is about to
/// follow, unless it was told not to.
const UNCOVERED_US: u32 = 5_000;

/// A hold that is larger than necessary by less than this stays.
pub const HOLD_SLACK: u32 = 6;
/// Changes below an eighth and this are not worth a write: microseconds,
const SMALL_US: u32 = 1_000;
/// parts per million,
const SMALL_PPM: u32 = 500;
/// and, of a rate below a thirty-second and this, kbit/s: where an estimate was enough and grows, each step is what queues
/// at the link until its limit is found.
const SMALL_KBPS: u32 = 100;

/// The nearest path stays it until another one is nearer by this, microseconds.
const NEARER_US: u32 = 2_000;

/// How long the first look at all paths takes.
const SETTLING: Duration = Duration::from_secs(1);

/// What is known of one of the peer's paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The path id.
    pub id: u8,
    /// Whether it carries data.
    pub is_usable: bool,
    /// Its limit, kbit/s; 0: none is known.
    pub limit_kbps: u32,
    /// What trains of probes say that it carries about, kbit/s; 0: nothing.
    pub estimate_kbps: u32,
    /// What has arrived lately, kbit/s.
    pub delivered_kbps: u32,
    /// What was sent by it since the beginning, bytes; what went by another one as well counts half.
    pub sent_bytes: u64,
    /// Packets that it loses, parts per million.
    pub loss_ppm: u32,
    /// Packets that it may lose, as far as few packets can say: whoever has room repairs that. Parts per million.
    pub likely_loss_ppm: u32,
    /// Its least transit time, microseconds, wrapping; `None`: not measured.
    pub base_us: Option<u32>,
    /// Its jitter, microseconds.
    pub jitter_us: u32,
    /// How much longer than by the nearest path nearly all packets take by it, as the peer says, microseconds; 0: it does
    /// not know.
    pub need_us: u32,
}

/// What is to stand in the maps, and what the peer is to be told.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// The bond.
    pub bond: Bond,
    /// The peer's paths, by their ids.
    pub members: [BondMember; MAX_PATHS],
    /// Bit n is set when path n is a member, or will be once the peer holds packets for long enough.
    pub announced: u32,
}

impl Plan {
    const EMPTY: Self = Self {
        bond: Bond { members: 0, measured: 0, is_lossy: 0, spread_us: 0 },
        members: [BondMember { rate_kbps: 0, hold: 0, penalty_us: 0, delay_us: 0, loss_ppm: 0, reserved: 0 };
            MAX_PATHS],
        announced: 0,
    };
}

/// What has been decided about a path.
#[derive(Clone, Copy, Debug, Default)]
struct Decision {
    /// It was looked at before, while it was usable.
    is_known: bool,
    is_wanted: bool,
    /// Since when there has been reason to decide otherwise.
    doubted_since: Option<Duration>,
    /// The most that it is striped by while its limit is unknown, kbit/s.
    level_kbps: u32,
    /// The nearer ones carry all that is sent.
    is_superfluous: bool,
}

/// The bond with one peer.
#[derive(Clone, Debug)]
pub struct BondController {
    decisions: [Decision; MAX_PATHS],
    /// Bit n is set when path n could be chosen at the last look.
    offered: u32,
    demand: Demand,
    plan: Plan,
    chosen_at: Duration,
    settled_at: Duration,
}

impl BondController {
    /// Goes on with what an earlier daemon left in the maps; all zero for a new peer.
    pub fn resume(now: Duration, bond: &Bond, members: &[BondMember; MAX_PATHS]) -> Self {
        // What the nearest one was given says nothing of what it carries.
        let level = |id: usize| Some(members[id].rate_kbps).filter(|rate| *rate != UNLIMITED_KBPS).unwrap_or_default();
        let decision = |id: usize| match bond.members >> id & 1 {
            0 => Decision::default(),
            _ => Decision { is_known: true, is_wanted: true, level_kbps: level(id), ..Decision::default() },
        };
        Self {
            decisions: std::array::from_fn(decision),
            offered: bond.members,
            demand: Demand::default(),
            plan: Plan { bond: *bond, members: *members, announced: bond.members },
            chosen_at: now,
            settled_at: now + SETTLING,
        }
    }

    /// What was decided last.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Looks at all of the peer's paths. `spread_us`: how much longer than by the nearest path the peer holds packets.
    pub fn update(&mut self, now: Duration, candidates: &[Candidate], spread_us: u32) -> &Plan {
        if now < self.settled_at {
            return &self.plan;
        }
        self.choose(now, candidates);
        let near_us = least(measured(candidates).filter_map(|candidate| candidate.base_us));
        let nearest = self.nearest(candidates);
        let before = std::mem::replace(&mut self.plan, Plan::EMPTY);
        for candidate in candidates {
            let (id, bit) = (slot(candidate), 1 << slot(candidate));
            let old = &before.members[id];
            let is_nearest = nearest == Some(id);
            let mut member = BondMember {
                rate_kbps: self.rate_of(candidate, is_nearest, old),
                hold: hold_of(candidate, is_nearest, spread_us, old),
                loss_ppm: settled(old.loss_ppm, candidate.likely_loss_ppm, SMALL_PPM),
                ..BondMember::zeroed()
            };
            if let (Some(near_us), Some(base_us)) = (near_us, candidate.base_us) {
                let behind_us = later_by(base_us, near_us).max(0).cast_unsigned();
                member.delay_us = settled(old.delay_us, behind_us.saturating_add(candidate.jitter_us), SMALL_US);
                self.plan.bond.measured |= bit;
            }
            self.plan.members[id] = member;
            // One path alone is no bond.
            if self.decisions[id].is_wanted && candidates.len() > 1 {
                self.plan.announced |= bit;
                let slack_us = if before.bond.members & bit == 0 { 0 } else { UNCOVERED_US };
                if candidate.need_us <= spread_us.saturating_add(slack_us) {
                    self.plan.bond.members |= bit;
                }
            }
        }
        let is_changed = spread_us.abs_diff(before.bond.spread_us) >= SMALL_US || spread_us == 0;
        self.plan.bond.spread_us = if is_changed { spread_us } else { before.bond.spread_us };
        self.judge_losses(candidates, &before);
        &self.plan
    }

    /// The nearest of the wanted paths: the one by which nearly all packets take the least. One that is hardly farther stays
    /// it.
    fn nearest(&self, candidates: &[Candidate]) -> Option<usize> {
        let was_nearest = |id: usize| self.plan.bond.members >> id & 1 != 0 && self.plan.members[id].hold == 0;
        let wanted = measured(candidates).filter(|candidate| self.decisions[slot(candidate)].is_wanted);
        let needs = |candidate: &&Candidate| {
            candidate.need_us.saturating_sub(if was_nearest(slot(candidate)) { NEARER_US } else { 0 })
        };
        wanted.min_by_key(needs).map(slot)
    }

    /// What a path is striped by where nobody knows its limit.
    fn rate_of(&self, candidate: &Candidate, is_nearest: bool, old: &BondMember) -> u32 {
        let decision = &self.decisions[slot(candidate)];
        match candidate.limit_kbps {
            0 if is_nearest && candidate.estimate_kbps == 0 => UNLIMITED_KBPS,
            0 if decision.is_wanted => {
                let is_small = decision.level_kbps.abs_diff(old.rate_kbps) < SMALL_KBPS.max(old.rate_kbps / 32);
                if is_small { old.rate_kbps } else { decision.level_kbps }
            }
            _ => 0,
        }
    }

    /// Who goes first, and whether small packets go by two paths.
    fn judge_losses(&mut self, candidates: &[Candidate], before: &Plan) {
        let Plan { bond, members, .. } = &mut self.plan;
        let loses =
            |candidate: &Candidate, did: bool| candidate.loss_ppm >= if did { NO_LOSS_PPM } else { SOME_LOSS_PPM };
        let is_member = |candidate: &&Candidate| bond.members >> slot(candidate) & 1 != 0;
        let least_ppm = candidates.iter().filter(is_member).map(|member| member.loss_ppm).min().unwrap_or_default();
        for candidate in candidates.iter().filter(is_member) {
            let did = before.members[slot(candidate)].penalty_us != 0;
            let is_worse = loses(candidate, did) && candidate.loss_ppm / 2 > least_ppm;
            members[slot(candidate)].penalty_us = if is_worse { PENALTY_US } else { 0 };
        }
        let is_lossy = measured(candidates).any(|candidate| loses(candidate, before.bond.is_lossy != 0));
        bond.is_lossy = is_lossy.into();
    }

    /// Decides which paths are wanted.
    fn choose(&mut self, now: Duration, candidates: &[Candidate]) {
        let elapsed = now.saturating_sub(std::mem::replace(&mut self.chosen_at, now));
        for (id, decision) in self.decisions.iter_mut().enumerate() {
            let candidate = measured(candidates).find(|candidate| slot(candidate) == id);
            let Some(candidate) = candidate.filter(|candidate| candidate.need_us > 0) else {
                *decision = Decision::default();
                continue;
            };
            decision.level_kbps = level(decision.level_kbps, candidate, elapsed);
        }
        let offered =
            measured(candidates).fold(0, |set, candidate| set | u32::from(candidate.need_us > 0) << slot(candidate));
        // What one path is worth depends on the others: where one has come or gone, all is decided anew.
        if std::mem::replace(&mut self.offered, offered) != offered {
            self.decisions.iter_mut().for_each(|decision| {
                (decision.is_known, decision.is_superfluous) = (false, false);
            });
            self.demand.forget();
        }
        self.demand.count(now, candidates.iter().map(|candidate| candidate.sent_bytes).sum());
        let superfluous = self.decisions.map(|decision| decision.is_superfluous);
        let paying = self.paying(candidates);
        for candidate in measured(candidates).filter(|candidate| candidate.need_us > 0) {
            let decision = &mut self.decisions[slot(candidate)];
            let is_paying = paying >> slot(candidate) & 1 != 0;
            // What is asked for has been looked at for a while.
            let is_certain = !decision.is_known || decision.is_superfluous != superfluous[slot(candidate)];
            if is_paying == decision.is_wanted {
                decision.doubted_since = None;
            } else if is_certain || now >= *decision.doubted_since.get_or_insert(now) + HYSTERESIS {
                decision.is_wanted = is_paying;
                decision.doubted_since = None;
            }
            decision.is_known = true;
        }
    }

    /// Bit n is set when path n brings more than it costs.
    fn paying(&mut self, candidates: &[Candidate]) -> u32 {
        let wanted = self.decisions.map(|decision| decision.is_wanted);
        let superfluous = self.decisions.map(|decision| decision.is_superfluous);
        self.decisions.iter_mut().for_each(|decision| decision.is_superfluous = false);
        let is_in = |candidate: &Candidate| wanted[slot(candidate)];
        let mut paths: Vec<&Candidate> = measured(candidates).filter(|candidate| candidate.need_us > 0).collect();
        let has_clean = paths.iter().any(|path| path.loss_ppm < CLEAN_PPM);
        paths.retain(|path| !has_clean || path.loss_ppm <= easier(LOSSY_PPM, is_in(path)));
        paths.sort_by_key(|path| path.need_us);
        for first in (1..paths.len()).rev() {
            let (nearer, farther) = paths.split_at(first);
            let (is_in, need_us) = (is_in(farther[0]), farther[0].need_us);
            let is_far = need_us > easier(FAR_US, is_in);
            let is_slower = need_us - nearer[first - 1].need_us > easier(SLOWER_US, is_in);
            let is_known =
                |paths: &[&Candidate]| paths.iter().all(|path| path.limit_kbps > 0 || path.estimate_kbps > 0);
            let rate = |paths: &[&Candidate]| paths.iter().map(|path| u64::from(self.rate_kbps(path))).sum::<u64>();
            let gain = rate(farther) * 1000 * if is_in { BETTER } else { 100 } / BETTER;
            let was_superfluous = superfluous[slot(farther[0])];
            // A single loss more or less must not change it.
            let repaired_ppm = if was_superfluous { 2 * REPAIRED_PPM } else { REPAIRED_PPM };
            let can_repair = nearer.len() > 1 || nearer[0].likely_loss_ppm < repaired_ppm;
            let is_dispensable = is_slower && can_repair && is_known(&paths) && gain < rate(nearer) * LITTLE;
            let is_superfluous = is_dispensable && self.demand.is_met_by(rate(nearer), was_superfluous);
            let is_paying = match () {
                () if is_superfluous => false,
                () if is_far => is_known(&paths) && gain >= rate(nearer) * FAR_GAIN,
                // Nobody knows what a path adds whose limit is unknown: it is tried.
                () if is_slower => !is_known(farther) || gain >= rate(nearer) * GAIN,
                () => true,
            };
            for path in farther {
                self.decisions[slot(path)].is_superfluous = is_superfluous;
            }
            if !is_paying {
                paths.truncate(first);
            }
        }
        paths.iter().fold(0, |set, path| set | 1 << slot(path))
    }

    /// What a path carries, as far as is known.
    fn rate_kbps(&self, candidate: &Candidate) -> u32 {
        match candidate.limit_kbps {
            0 => self.decisions[slot(candidate)].level_kbps,
            limit => limit,
        }
    }
}

/// What a path is striped by while its limit is unknown, kbit/s. With an estimate: that, or more as long as it is filled.
/// Without: twice what arrives as long as it is filled, and then soon hardly more than that. A rate that is far too high
/// would keep packets from paths whose rate is known.
fn level(before_kbps: u32, candidate: &Candidate, elapsed: Duration) -> u32 {
    let least_kbps = candidate.estimate_kbps.max(FIRST_KBPS);
    let (before, delivered) =
        (u64::from(before_kbps.max(candidate.estimate_kbps)), u64::from(candidate.delivered_kbps));
    let part = |whole: u64, of: Duration| whole * elapsed.min(of).as_millis() as u64 / of.as_millis() as u64;
    let level = match candidate.estimate_kbps {
        0 if delivered * 10 >= before * 9 => delivered * 2,
        0 if delivered * 4 >= before => before - part(before.saturating_sub(delivered * 5 / 4), APPROACH),
        0 => before,
        // Less than above: what is written follows only when it differs by an eighth.
        estimate if delivered * 10 < before * 8 => before - part(before.saturating_sub(estimate.into()), APPROACH),
        _ => before + part(before, GROWTH),
    };
    level.clamp(least_kbps.into(), UNLIMITED_KBPS.into()) as u32
}

/// The paths that may be used, as far as they are measured.
fn measured(candidates: &[Candidate]) -> impl Iterator<Item = &Candidate> {
    candidates.iter().filter(|candidate| candidate.is_usable && candidate.base_us.is_some())
}

/// A bound that a path must keep to be used; a path that is used already may exceed it a little.
const fn easier(bound: u32, is_in: bool) -> u32 {
    if is_in { bound } else { (bound as u64 * 100 / BETTER) as u32 }
}

/// The least hold that covers what a path needs; one that is a little more stays.
fn hold_of(candidate: &Candidate, is_nearest: bool, spread_us: u32, old: &BondMember) -> u32 {
    let need = u64::from(candidate.need_us) * u64::from(FULL_HOLD);
    let hold = need.div_ceil(spread_us.max(1).into()).clamp(1, FULL_HOLD.into()) as u32;
    match old.hold {
        _ if is_nearest => 0,
        old if (hold..hold + HOLD_SLACK).contains(&old) => old,
        _ => hold,
    }
}

/// The new value, or the old one if it hardly differs.
fn settled(old: u32, new: u32, small: u32) -> u32 {
    if new.abs_diff(old) < small.max(old / 8) && old != 0 { old } else { new }
}

fn slot(candidate: &Candidate) -> usize {
    usize::from(candidate.id) % MAX_PATHS
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TICK: Duration = Duration::from_millis(80);

    fn path(id: u8, limit_kbps: u32, need_ms: u32) -> Candidate {
        Candidate {
            id,
            is_usable: true,
            limit_kbps,
            estimate_kbps: 0,
            delivered_kbps: 0,
            sent_bytes: 0,
            loss_ppm: 0,
            likely_loss_ppm: 0,
            base_us: Some(0_u32.wrapping_sub(7_000).wrapping_add(need_ms * 1000)),
            jitter_us: 0,
            need_us: need_ms * 1000,
        }
    }

    fn new() -> BondController {
        BondController::resume(Duration::ZERO, &Bond::zeroed(), &[BondMember::zeroed(); MAX_PATHS])
    }

    /// Looks at the same paths for a while; the peer holds packets for as long as what was announced needs.
    fn run(controller: &mut BondController, ticks: std::ops::Range<u32>, candidates: &[Candidate]) -> Plan {
        for tick in ticks {
            let spread_us = spread(candidates, controller.plan().announced);
            controller.update(TICK * tick, candidates, spread_us);
        }
        *controller.plan()
    }

    fn spread(candidates: &[Candidate], announced: u32) -> u32 {
        let is_announced = |candidate: &&Candidate| announced >> candidate.id & 1 != 0;
        candidates.iter().filter(is_announced).map(|candidate| candidate.need_us).max().unwrap_or_default()
    }

    /// What becomes of paths that have been there from the beginning.
    fn members(candidates: &[Candidate]) -> u32 {
        run(&mut new(), 13..20, candidates).bond.members
    }

    #[test]
    fn a_path_is_used_once_the_peer_holds_packets_for_it() {
        let candidates = [path(0, 10_000, 3), path(1, 10_000, 95)];
        let mut controller = new();
        let first = *controller.update(SETTLING, &candidates, 0);
        assert_eq!((first.announced, first.bond.members, first.bond.measured), (0b11, 0, 0b11));
        let near = *controller.update(SETTLING + TICK, &candidates, 3_000);
        assert_eq!((near.announced, near.bond.members), (0b11, 0b01));
        let both = *controller.update(SETTLING + 2 * TICK, &candidates, 100_000);
        assert_eq!((both.announced, both.bond.members), (0b11, 0b11));
        assert_eq!([both.members[0].hold, both.members[1].hold], [0, 243]);
        assert_eq!(both.members.map(|member| member.delay_us)[..2], [0, 92_000]);
        // Who holds them less than that because he was told to, is not sent any by it.
        let fixed = *controller.update(SETTLING + 3 * TICK, &candidates, 80_000);
        assert_eq!((fixed.announced, fixed.bond.members), (0b11, 0b01));
    }

    #[test]
    fn what_pays_is_used() {
        assert_eq!(members(&[path(0, 10_000, 3)]), 0, "one path alone");
        assert_eq!(members(&[path(0, 10_000, 3), path(3, 10_000, 200)]), 0b1001);
        assert_eq!(members(&[path(0, 10_000, 3), path(1, 900, 30)]), 0b01, "little for 27 ms");
        assert_eq!(members(&[path(0, 10_000, 3), path(1, 900, 9)]), 0b11, "little for 6 ms");
        assert_eq!(members(&[path(0, 10_000, 3), path(1, 900, 30), path(2, 900, 31)]), 0b111, "together it is more");
        assert_eq!(members(&[path(0, 10_000, 3), path(1, 900, 30), path(2, 10_000, 50)]), 0b111);
        assert_eq!(members(&[path(0, 10_000, 3), path(1, 10_000, 300)]), 0b01, "no gain is worth that");
        assert_eq!(members(&[path(0, 10_000, 3), path(1, 20_000, 300)]), 0b11, "but what is best alone");
        assert_eq!(members(&[path(0, 10_000, 3), path(1, 0, 100)]), 0b11, "it is tried");
        assert_eq!(members(&[path(0, 10_000, 3), path(1, 0, 300)]), 0b01, "it is not tried");
        assert_eq!(members(&[path(0, 0, 3), path(1, 20_000, 300)]), 0b01);
        let lossy = |loss_ppm, id| Candidate { loss_ppm, ..path(id, 10_000, 3) };
        assert_eq!(members(&[lossy(5_000, 0), lossy(50_000, 1)]), 0b01);
        assert_eq!(members(&[lossy(15_000, 0), lossy(50_000, 1)]), 0b11, "none is better");
    }

    #[test]
    fn an_unknown_limit_is_approached_by_doubling() {
        let mut controller = new();
        let mut candidates = [path(0, 10_000, 3), path(1, 0, 20)];
        let (mut rates, capacity_kbps) = (Vec::new(), 9_000);
        for tick in 13..100 {
            let spread_us = spread(&candidates, controller.plan().announced);
            let plan = controller.update(TICK * tick, &candidates, spread_us);
            rates.push(plan.members[1].rate_kbps);
            candidates[1].delivered_kbps = plan.members[1].rate_kbps.min(capacity_kbps);
        }
        assert_eq!(rates[..5], [1_000, 2_000, 4_000, 8_000, 16_000]);
        let last = rates[86];
        assert!((11_250..13_000).contains(&last), "{rates:?}");
        // Idle, it stays what has passed; a limit that is met takes its place.
        candidates[1].delivered_kbps = 0;
        assert_eq!(run(&mut controller, 100..140, &candidates).members[1].rate_kbps, last);
        candidates[1].limit_kbps = 9_000;
        assert_eq!(run(&mut controller, 140..141, &candidates).members[1].rate_kbps, 0);
        // The nearest one is sent what comes.
        candidates[0].limit_kbps = 0;
        assert_eq!(run(&mut controller, 141..142, &candidates).members[0].rate_kbps, UNLIMITED_KBPS);
    }

    #[test]
    fn an_estimate_is_begun_with_and_grows_slowly() {
        let mut controller = new();
        let mut candidates = [path(0, 0, 3), path(1, 0, 20)].map(|path| Candidate { estimate_kbps: 8_000, ..path });
        let plan = run(&mut controller, 13..20, &candidates);
        assert_eq!(plan.members.map(|member| member.rate_kbps)[..2], [8_000, 8_000]);
        for tick in 20..90 {
            candidates[1].delivered_kbps = controller.plan().members[1].rate_kbps;
            controller.update(TICK * tick, &candidates, 20_000);
        }
        let [unused, filled] = [0, 1].map(|id| controller.plan().members[id].rate_kbps);
        assert_eq!(unused, 8_000);
        assert!((9_500..11_000).contains(&filled), "{filled}");
    }

    #[test]
    fn a_path_that_comes_makes_others_superfluous_at_once() {
        let mut controller = new();
        let far = path(1, 10_000, 310);
        let gone = Candidate { is_usable: false, ..path(0, 10_000, 3) };
        assert_eq!(run(&mut controller, 0..50, &[gone, far]).announced, 0b10);
        assert_eq!(run(&mut controller, 50..51, &[path(0, 10_000, 3), far]).announced, 0b01);
    }

    #[test]
    fn doubts_last_two_seconds_and_failures_none() {
        let mut controller = new();
        let good = [path(0, 10_000, 3), path(1, 10_000, 50)];
        let poor = [path(0, 10_000, 3), path(1, 500, 50)];
        assert_eq!(run(&mut controller, 13..20, &good).bond.members, 0b11);
        assert_eq!(run(&mut controller, 20..45, &poor).bond.members, 0b11);
        assert_eq!(run(&mut controller, 45..46, &good).bond.members, 0b11);
        assert_eq!(run(&mut controller, 46..80, &poor).bond.members, 0b01);
        assert_eq!(run(&mut controller, 80..105, &good).bond.members, 0b01);
        assert_eq!(run(&mut controller, 105..110, &good).bond.members, 0b11);
        let failed = [good[0], Candidate { is_usable: false, ..good[1] }];
        assert_eq!(run(&mut controller, 110..111, &failed).bond.members, 0b01);
        assert_eq!(run(&mut controller, 111..114, &good).bond.members, 0b11);
    }

    /// What is announced after each second in which so many kbit/s were sent.
    fn announced(candidates: &[Candidate], kbps: &[u32]) -> Vec<u32> {
        let (mut controller, mut candidates) = (new(), candidates.to_vec());
        let mut now = SETTLING;
        let mut second = |kbps: &u32| {
            for _ in 0..10 {
                now += Duration::from_millis(100);
                candidates[0].sent_bytes += u64::from(*kbps) * 100 / 8;
                let spread_us = spread(&candidates, controller.plan().announced);
                controller.update(now, &candidates, spread_us);
            }
            controller.plan().announced
        };
        kbps.iter().map(&mut second).collect()
    }

    #[test]
    fn what_the_nearer_paths_carry_alone_is_theirs() {
        let paths = [path(0, 8_000, 3), path(1, 10_000, 9), path(2, 5_000, 90)];
        let mut seconds = vec![13_000; 12];
        assert_eq!(announced(&paths, &seconds)[0], 0b111);
        assert_eq!(announced(&paths, &seconds)[11], 0b011);
        assert_eq!(announced(&paths, &[17_000; 12])[11], 0b111, "they are full");
        seconds.extend([17_000; 12]);
        assert_eq!(announced(&paths, &seconds)[23], 0b111, "they have become full");
        seconds.extend([13_000; 12]);
        assert_eq!(announced(&paths, &seconds)[35], 0b011);
        seconds.extend([100; 12]);
        assert_eq!(announced(&paths, &seconds)[47], 0b111, "idle, for whatever comes next");
        let lossy = Candidate { likely_loss_ppm: 5_000, ..path(0, 10_000, 3) };
        assert_eq!(announced(&[lossy, path(1, 2_000, 50)], &[3_000; 12])[11], 0b11, "for repairs");
        assert_eq!(announced(&[path(0, 10_000, 3), path(1, 2_000, 50)], &[3_000; 12])[11], 0b01);
        assert_eq!(announced(&[path(0, 10_000, 3), path(1, 5_000, 50)], &[3_000; 12])[11], 0b11, "it is half as much");
    }

    #[test]
    fn lossy_paths_come_second() {
        let mut controller = new();
        let lossy = |first, second| {
            [Candidate { loss_ppm: first, ..path(0, 10_000, 3) }, Candidate { loss_ppm: second, ..path(1, 10_000, 5) }]
        };
        let mut look = |tick, losses: [Candidate; 2]| {
            let plan = run(&mut controller, tick..tick + 2, &losses);
            (plan.members[0].penalty_us, plan.members[1].penalty_us, plan.bond.is_lossy)
        };
        assert_eq!(look(13, lossy(0, 1_500)), (0, 0, 0));
        assert_eq!(look(15, lossy(0, 2_500)), (0, PENALTY_US, 1));
        assert_eq!(look(17, lossy(0, 1_500)), (0, PENALTY_US, 1));
        assert_eq!(look(19, lossy(1_200, 1_500)), (0, 0, 1));
        assert_eq!(look(21, lossy(0, 500)), (0, 0, 0));
    }

    #[test]
    fn the_next_daemon_goes_on() {
        let mut before = new();
        let candidates = [path(0, 10_000, 3), path(1, 0, 95), path(2, 500, 180)];
        let left = run(&mut before, 13..60, &candidates);
        let mut after = BondController::resume(Duration::ZERO, &left.bond, &left.members);
        assert_eq!(after.plan().announced, left.announced);
        for tick in 0..30 {
            let plan = *after.update(TICK * tick, &candidates, left.bond.spread_us);
            assert_eq!(bytemuck::bytes_of(&plan.bond), bytemuck::bytes_of(&left.bond));
            assert_eq!(bytemuck::bytes_of(&plan.members), bytemuck::bytes_of(&left.members));
        }
    }

    #[test]
    fn a_nearest_path_without_limit_hides_no_other_from_the_next_daemon() {
        let mut before = new();
        let candidates = [Candidate { delivered_kbps: 20_000, ..path(0, 0, 3) }, path(1, 5_000, 50)];
        let left = run(&mut before, 13..60, &candidates);
        assert_eq!((left.bond.members, left.members[0].rate_kbps), (0b11, UNLIMITED_KBPS));
        let mut after = BondController::resume(Duration::ZERO, &left.bond, &left.members);
        assert_eq!(run(&mut after, 0..60, &candidates).bond.members, 0b11);
    }

    fn candidates() -> impl Strategy<Value = Vec<Candidate>> {
        let rate = prop_oneof![Just(0), 200..50_000u32];
        let loss = prop_oneof![Just(0), 0..60_000u32];
        let one = (rate, 1..400u32, loss, 0..30_000u32, prop::bool::weighted(0.9));
        prop::collection::vec(one, 1..6).prop_map(|paths| {
            let candidate = |(id, (limit_kbps, need_ms, loss_ppm, delivered_kbps, is_usable))| Candidate {
                is_usable,
                delivered_kbps,
                loss_ppm,
                ..path(id as u8, limit_kbps, need_ms)
            };
            paths.into_iter().enumerate().map(candidate).collect()
        })
    }

    /// What [`BondController::paying`] says at the first look, in real numbers and beginning anew with each path left out.
    fn naive(candidates: &[Candidate]) -> u32 {
        let mut paths: Vec<&Candidate> = candidates.iter().filter(|path| path.is_usable).collect();
        if paths.iter().any(|path| path.loss_ppm < CLEAN_PPM) {
            paths.retain(|path| path.loss_ppm <= LOSSY_PPM * 4 / 5);
        }
        paths.sort_by_key(|path| path.need_us);
        let rate = |paths: &[&Candidate]| {
            let rate = |path: &Candidate| {
                f64::from(if path.limit_kbps > 0 { path.limit_kbps } else { FIRST_KBPS.max(path.delivered_kbps * 2) })
            };
            paths.iter().map(|path| rate(path)).sum::<f64>()
        };
        while let Some(first) = (1..paths.len()).rev().find(|first| {
            let (nearer, farther) = paths.split_at(*first);
            let gain = rate(farther) / rate(nearer);
            let need_us = farther[0].need_us;
            let cost_us = need_us - nearer[nearer.len() - 1].need_us;
            let is_known = |paths: &[&Candidate]| paths.iter().all(|path| path.limit_kbps > 0);
            if need_us > 200_000 {
                !is_known(&paths) || gain < 1.375 - 1e-4
            } else {
                cost_us > 8_000 && is_known(farther) && gain < 0.1375 - 1e-4
            }
        }) {
            paths.truncate(first);
        }
        paths.iter().fold(0, |set, path| set | 1 << path.id)
    }

    proptest! {
        #[test]
        fn the_first_choice_is_the_naive_one(candidates in candidates()) {
            let mut controller = new();
            let plan = *controller.update(SETTLING, &candidates, 0);
            prop_assert_eq!(plan.announced, if candidates.len() > 1 { naive(&candidates) } else { 0 });
        }

        #[test]
        fn what_is_used_is_covered(looks in prop::collection::vec((candidates(), 0..600_000u32, 0..3_000u32), 1..50)) {
            let mut controller = new();
            let (mut now, mut before, mut usable_before) = (SETTLING, *controller.plan(), 0);
            for (candidates, spread_us, millis) in looks {
                now += Duration::from_millis(millis.into());
                let plan = *controller.update(now, &candidates, spread_us);
                let usable = measured(&candidates).fold(0, |set, path| set | 1 << path.id);
                prop_assert_eq!(plan.announced & !usable, 0);
                prop_assert_eq!(plan.bond.members & !plan.announced, 0);
                let mut nearest = 0;
                for path in candidates.iter().filter(|path| plan.announced >> path.id & 1 != 0) {
                    let member = plan.members[slot(path)];
                    nearest += u32::from(member.hold == 0);
                    prop_assert!(member.hold <= FULL_HOLD);
                    let held_us = u64::from(spread_us) * u64::from(member.hold) / u64::from(FULL_HOLD);
                    let is_covered = held_us + 1 >= path.need_us.into() || member.hold == 0;
                    prop_assert!(is_covered || path.need_us > spread_us, "{path:?} {member:?} {spread_us}");
                    prop_assert!((member.rate_kbps == 0) == (path.limit_kbps > 0));
                }
                prop_assert_eq!(nearest, u32::from(plan.announced != 0));
                // What stays usable and was used is left for a reason that lasts, or because another one has come or gone.
                let left = before.announced & !plan.announced & usable;
                prop_assert!(left == 0 || candidates.len() < 2 || millis > 0 || usable != usable_before);
                (before, usable_before) = (plan, usable);
            }
        }
    }
}
