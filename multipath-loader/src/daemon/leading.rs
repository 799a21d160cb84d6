//! Flows that have turned out to be bulk are led from their path to all of the bond.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use anyhow::Result;
use multipath_common::{
    classes::{Destination, FlowClass, FlowEvent, Lead as LeadEntry, destination_key},
    maps::{Flow, FlowKey, MAX_PATHS},
};

use super::{Daemon, End, ManagedPeer};
use crate::{
    clock,
    control::{
        bond::Plan,
        lead::{LOOK_EVERY, LOOK_WHEN_SETTLED, Lead, Look, Member},
    },
    dataplane::Maps,
};

/// Flows that are led at once: a look at one of them is a system call.
const MOST_FLOWS: usize = 256;
/// How long a flow may be silent before it goes on alone.
const SILENT: Duration = Duration::from_secs(10);
/// How long a destination is remembered, and how often that is said anew.
const REMEMBERED: Duration = Duration::from_hours(1);
const REMIND_EVERY: Duration = Duration::from_mins(1);

/// A flow on its way.
struct LedFlow {
    peer: u32,
    lead: Lead,
    /// What stands in the map.
    written: u32,
    /// When it is said next that its destination is to be remembered.
    remind_at: Duration,
}

/// All flows that are led.
#[derive(Default)]
pub(super) struct Leads {
    flows: HashMap<FlowKey, LedFlow>,
    look_at: Duration,
}

impl Leads {
    /// Goes on with those that stand in the map.
    pub(super) fn resume(now: Duration, maps: &mut Maps) -> Result<Self> {
        let mut leads = Self::default();
        for (key, entry) in maps.leads()? {
            match maps.flow(&key).filter(|flow| is_led(flow, now)) {
                Some(flow) if leads.flows.len() < MOST_FLOWS => leads.add(now, key, flow.peer, entry.hold),
                _ => maps.end_lead(&key)?,
            }
        }
        Ok(leads)
    }

    /// When they are looked at next; `None` while there are none.
    pub(super) fn deadline(&self) -> Option<Duration> {
        (!self.flows.is_empty()).then_some(self.look_at)
    }

    fn add(&mut self, now: Duration, key: FlowKey, peer: u32, hold: u32) {
        self.look_at = now;
        self.flows.insert(key, LedFlow { peer, lead: Lead::new(now, hold), written: hold, remind_at: now });
    }
}

/// Whether a flow still is one to lead.
fn is_led(flow: &Flow, now: Duration) -> bool {
    let silent = now.saturating_sub(Duration::from_nanos(flow.last_ns));
    flow.class == FlowClass::Automatic as u32 && flow.is_bulk != 0 && silent < SILENT
}

/// What leading goes by of a peer's bond.
struct BondState {
    members: Vec<Member>,
    spread: Duration,
    round_trip: Duration,
}

impl Daemon {
    /// Begins to lead flows. Those that have no other path to go to are heard of again.
    pub(super) fn begin_leads(&mut self, events: &[FlowEvent]) -> Result<Option<End>> {
        let now = clock::since_boot()?;
        for event in events {
            let is_known = self.leads.flows.contains_key(&event.flow);
            let Some(position) = self.position(event.peer) else { continue };
            let Plan { bond, members, .. } = self.peers[position].bonding.plan();
            if is_known || self.leads.flows.len() >= MOST_FLOWS || bond.members.count_ones() < 2 {
                continue;
            }
            // By its own path it takes as long as if it were held for what covers that.
            let is_member = event.path < MAX_PATHS as u32 && bond.members >> event.path & 1 != 0;
            let hold = if is_member { members[event.path as usize].hold } else { 0 };
            self.maps.set_lead(&event.flow, LeadEntry { hold, reserved: 0 })?;
            self.leads.add(now, event.flow, event.peer, hold);
        }
        Ok(None)
    }

    /// Leads all flows a step further, when that is due.
    pub(super) fn lead(&mut self, now: Duration) -> Result<()> {
        if self.leads.deadline().is_none_or(|due| now < due) {
            return Ok(());
        }
        let peers: BTreeSet<u32> = self.leads.flows.values().map(|led| led.peer).collect();
        let mut bonds = BTreeMap::new();
        for peer in peers {
            if let Some(position) = self.position(peer) {
                bonds.insert(peer, self.bond_state(position)?);
            }
        }
        let mut ended = Vec::new();
        for (key, led) in &mut self.leads.flows {
            let flow = self.maps.flow(key).filter(|flow| is_led(flow, now) && flow.peer == led.peer);
            let (Some(flow), Some(bond)) = (flow, bonds.get(&led.peer)) else {
                ended.push(*key);
                continue;
            };
            let look = Look { now, members: &bond.members, spread: bond.spread, round_trip: bond.round_trip };
            let hold = led.lead.look(&look, flow.bytes);
            if hold != led.written {
                self.maps.set_lead(key, LeadEntry { hold, reserved: 0 })?;
                led.written = hold;
            }
            if led.remind_at <= now && led.lead.is_proven(flow.bytes) {
                let until_ns = (now + REMEMBERED).as_nanos() as u64;
                self.maps.set_destination(&destination_key(key), Destination { until_ns })?;
                led.remind_at = now + REMIND_EVERY;
            }
        }
        for key in ended {
            self.maps.end_lead(&key)?;
            self.leads.flows.remove(&key);
        }
        let is_settled = self.leads.flows.values().all(|led| led.lead.is_settled());
        self.leads.look_at = now + if is_settled { LOOK_WHEN_SETTLED } else { LOOK_EVERY };
        Ok(())
    }

    /// What leading goes by of a peer's bond.
    fn bond_state(&self, position: usize) -> Result<BondState> {
        let ManagedPeer { number: peer, ref bonding, .. } = self.peers[position];
        let Plan { bond, members: entries, .. } = bonding.plan();
        let now_ns = clock::since_boot()?.as_nanos() as u64;
        let mut members = Vec::new();
        for path in self.paths_of(peer).filter(|path| bond.members >> path.id & 1 != 0) {
            let entry = &entries[usize::from(path.id)];
            let rates = [path.operator.rate_kbps, path.automatic.rate_kbps, entry.rate_kbps];
            let stats = self.maps.path_stats(path.slot())?;
            let free_ns = self.maps.path_clock(path.slot())?.next_free_ns;
            members.push(Member {
                hold: entry.hold,
                rate_kbps: rates.into_iter().find(|rate| *rate != 0).unwrap_or_default(),
                sent_bytes: stats.egress.bytes.saturating_sub(stats.doubled_bytes),
                queue: Duration::from_nanos(free_ns.saturating_sub(now_ns)),
            });
        }
        // Without its rate a path is not striped over.
        members.retain(|member| member.rate_kbps != 0);
        let round_trip = self.paths_of(peer).filter_map(|path| path.monitor.round_trip().minimum()).min();
        Ok(BondState {
            members,
            spread: Duration::from_micros(bond.spread_us.into()),
            round_trip: round_trip.unwrap_or_default(),
        })
    }
}
