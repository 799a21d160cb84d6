//! The maps about striping and delivery by time that the daemon fills: see [`multipath_common::bond`] and
//! [`multipath_common::playout`].

use anyhow::{Context, Result};
use bytemuck::Zeroable;
use multipath_common::{
    bond::{Bond, BondMember},
    maps::{MAX_PATHS, path_slot},
    playout::Playout,
};

use super::Maps;

impl Maps {
    /// Which of a peer's paths aggregate flows use together.
    pub fn bond(&self, peer: u32) -> Result<Bond> {
        self.bonds.get(&peer, 0).context("can't read the map bonds")
    }

    /// Writes it.
    pub fn set_bond(&mut self, peer: u32, bond: Bond) -> Result<()> {
        self.bonds.set(peer, bond, 0).context("can't write the map bonds")
    }

    /// How a peer's paths take part, by path id.
    pub fn bond_members(&self, peer: u32) -> Result<[BondMember; MAX_PATHS]> {
        let mut members = [BondMember::zeroed(); MAX_PATHS];
        for (id, member) in (0..).zip(&mut members) {
            *member = self.bond_members.get(&path_slot(peer, id), 0).context("can't read the map bond_members")?;
        }
        Ok(members)
    }

    /// Writes how the path with this key takes part.
    pub fn set_bond_member(&mut self, slot: u32, member: BondMember) -> Result<()> {
        self.bond_members.set(slot, member, 0).context("can't write the map bond_members")
    }

    /// When a peer's packets are due.
    pub fn playout(&self, peer: u32) -> Result<Playout> {
        self.playouts.get(&peer, 0).context("can't read the map playouts")
    }

    /// Writes it.
    pub fn set_playout(&mut self, peer: u32, playout: Playout) -> Result<()> {
        self.playouts.set(peer, playout, 0).context("can't write the map playouts")
    }

    /// Forgets all of it: the peer is gone, and its number may become another's.
    pub fn reset_bond(&mut self, peer: u32) -> Result<()> {
        self.set_bond(peer, Bond::zeroed())?;
        self.set_playout(peer, Playout::zeroed())?;
        (0..MAX_PATHS as u8).try_for_each(|id| self.set_bond_member(path_slot(peer, id), BondMember::zeroed()))
    }
}
