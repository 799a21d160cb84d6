//! The maps of the playout stage: see [`multipath_common::playout`].

use std::os::fd::{AsFd, BorrowedFd};

use anyhow::{Context, Result};
use aya::maps::{Array, Map, MapData, RingBuf, ring_buf::RingBufItem};
use multipath_common::playout::{Playout, Stage};

use super::{Maps, open};

/// What the playout stage reads and writes. It has descriptors of its own, because it has a thread of its own.
pub struct PlayoutMaps {
    held: RingBuf<MapData>,
    playouts: Array<MapData, Playout>,
    stage: Array<MapData, Stage>,
}

impl PlayoutMaps {
    /// The next record of the ring, a [`HeldHeader`](multipath_common::playout::HeldHeader) and the packet.
    pub fn take(&mut self) -> Option<RingBufItem<'_>> {
        self.held.next()
    }

    /// When a peer's packets are due.
    pub fn playout(&self, peer: u32) -> Result<Playout> {
        self.playouts.get(&peer, 0).context("can't read the map playouts")
    }

    /// Tells the programs who holds packets.
    pub fn set_stage(&mut self, stage: Stage) -> Result<()> {
        self.stage.set(0, stage, 0).context("can't write the map playout_stage")
    }
}

/// Readable while there is something in the ring; a program wakes who waits for that only if it was told that the stage
/// is asleep.
impl AsFd for PlayoutMaps {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.held.as_fd()
    }
}

impl Maps {
    /// Who holds packets.
    pub fn stage(&self) -> Result<Stage> {
        self.playout_stage.get(&0, 0).context("can't read the map playout_stage")
    }

    /// The maps of the playout stage.
    pub fn playout_maps(&self) -> Result<PlayoutMaps> {
        Ok(PlayoutMaps {
            held: typed!(&self.directory, "held", RingBuf),
            playouts: typed!(&self.directory, "playouts", Array),
            stage: typed!(&self.directory, "playout_stage", Array),
        })
    }
}
