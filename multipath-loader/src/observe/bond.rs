//! How the paths of a peer are used together, as data.

use anyhow::Result;
use multipath_common::{
    bond::{Bond, BondMember},
    maps::MAX_PATHS,
    playout::Playout,
    quality::Arrivals,
};
use serde::Serialize;

use crate::dataplane::Maps;

/// How the paths of a peer are used together for aggregate flows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BondStatus {
    /// How much longer than by the nearest path packets to the peer take, microseconds: the peer holds earlier ones until
    /// then, as it has said last.
    pub spread_out_us: u32,
    /// The same for packets from the peer, which are held here.
    pub spread_in_us: u32,
    /// Whether a path to the peer loses so much that small control packets go twice.
    pub lossy: bool,
}

/// How a path takes part. Delays are those beyond the nearest path's.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PathBondStatus {
    /// Whether packets to the peer are striped over it.
    pub out: bool,
    /// Whether the peer stripes packets over it, or is about to.
    #[serde(rename = "in")]
    pub inward: bool,
    /// Delay out, microseconds; absent while it is not measured.
    pub delay_out_us: Option<u32>,
    /// Delay in that nearly all packets keep, microseconds.
    pub need_in_us: u32,
    /// How much of the spread packets must be held for to be sent by it, n/255.
    pub hold: u32,
    /// How much later than others it is taken because it loses packets, microseconds.
    pub penalty_us: u32,
    /// Packets that it loses out, parts per million.
    pub loss_ppm: u32,
    /// Rate that packets are striped by, kbit/s; absent when that is the path's rate in force.
    pub rate_kbps: Option<u32>,
    /// Its part of the striped packets that came from the peer, from 0 to 1.
    pub share_in: f64,
}

/// What the maps say of a peer's bond.
pub(super) struct BondRecord {
    bond: Bond,
    members: [BondMember; MAX_PATHS],
    playout: Playout,
}

impl BondRecord {
    /// That of the peer with this number.
    pub(super) fn read(maps: &Maps, peer: u32) -> Result<Self> {
        Ok(Self { bond: maps.bond(peer)?, members: maps.bond_members(peer)?, playout: maps.playout(peer)? })
    }

    pub(super) fn status(&self) -> BondStatus {
        BondStatus {
            spread_out_us: self.bond.spread_us,
            spread_in_us: self.playout.spread_us,
            lossy: self.bond.is_lossy != 0,
        }
    }

    /// How the path with this id takes part, when so many striped packets have come by all of the peer's.
    #[expect(clippy::cast_precision_loss, reason = "a share needs no 52 bits")]
    pub(super) fn path_status(&self, id: u8, arrivals: &Arrivals, striped: u64) -> PathBondStatus {
        let (bit, place) = (1 << id, usize::from(id));
        let member = &self.members[place];
        PathBondStatus {
            out: self.bond.members & bit != 0,
            inward: arrivals.peer_is_member != 0,
            delay_out_us: (self.bond.measured & bit != 0).then_some(member.delay_us),
            need_in_us: self.playout.need_us[place],
            hold: member.hold,
            penalty_us: member.penalty_us,
            loss_ppm: member.loss_ppm,
            rate_kbps: Some(member.rate_kbps).filter(|rate| *rate != 0),
            share_in: if striped == 0 { 0.0 } else { arrivals.striped as f64 / striped as f64 },
        }
    }
}
