//! The maps about how good the paths are: see [`multipath_common::quality`].

use anyhow::{Context, Result};
use aya::maps::{Map, MapData, RingBuf};
use bytemuck::Zeroable;
use multipath_common::{
    maps::{GENERATION_OPERATOR, PathSettings},
    quality::{Arrivals, PATH_LOG_LEN, PathClock, PathLogEntry, PathQuality, ProbeEvent},
};

use super::{Maps, open};

/// The answers to probes that came. Nobody is woken by them: whoever wants them looks.
pub struct ProbeEvents {
    ring: RingBuf<MapData>,
}

impl ProbeEvents {
    /// The next one that is there.
    pub fn take(&mut self) -> Option<ProbeEvent> {
        while let Some(item) = self.ring.next() {
            if let Ok(event) = bytemuck::try_pod_read_unaligned(&item) {
                return Some(event);
            }
        }
        None
    }
}

impl Maps {
    /// The answers to probes that came.
    pub fn probe_events(&self) -> Result<ProbeEvents> {
        Ok(ProbeEvents { ring: typed!(&self.directory, "probe_events", RingBuf) })
    }

    /// What came over the path with this key.
    pub fn arrivals(&self, slot: u32) -> Result<Arrivals> {
        self.arrivals.get(&slot, 0).context("can't read the map arrivals")
    }

    /// The transmit clock of the path with this key; its parts may be of different packets.
    pub fn path_clock(&self, slot: u32) -> Result<PathClock> {
        self.path_clocks.get(&slot, 0).context("can't read the map path_clocks")
    }

    /// What is known of the path with this key.
    pub fn quality(&self, slot: u32) -> Result<PathQuality> {
        self.path_quality.get(&slot, 0).context("can't read the map path_quality")
    }

    /// Writes what is known of a path.
    pub fn set_quality(&mut self, slot: u32, quality: &PathQuality) -> Result<()> {
        self.path_quality.set(slot, quality, 0).context("can't write the map path_quality")
    }

    /// Forgets what was measured of a path, while no program uses it: its id is given to another path.
    pub(super) fn reset_measurements(&mut self, slot: u32) -> Result<()> {
        self.arrivals.set(slot, Arrivals::zeroed(), 0).context("can't write the map arrivals")?;
        self.path_clocks.set(slot, PathClock::zeroed(), 0).context("can't write the map path_clocks")?;
        self.set_quality(slot, &PathQuality::zeroed())
    }

    /// The daemon's settings of the path with this key.
    pub fn automatic(&self, slot: u32) -> Result<PathSettings> {
        self.path_automatic.get(&slot, 0).context("can't read the map path_automatic")
    }

    /// The operator's settings of the path with this key.
    pub fn operator(&self, slot: u32) -> Result<PathSettings> {
        self.path_operator.get(&slot, 0).context("can't read the map path_operator")
    }

    /// How often the command line has changed something.
    pub fn operator_generation(&self) -> Result<u64> {
        self.generation.get(&GENERATION_OPERATOR, 0).context("can't read the map generation")
    }

    /// The changes of paths that are remembered, oldest first.
    pub fn path_log(&self) -> Result<Vec<PathLogEntry>> {
        let entries: Result<Vec<PathLogEntry>, _> = self.path_log.iter().collect();
        let mut entries = entries.context("can't read the map path_log")?;
        entries.retain(|entry| entry.sequence != 0);
        entries.sort_by_key(|entry| entry.sequence);
        Ok(entries)
    }

    /// The change with this number, if it is remembered.
    pub fn path_log_entry(&self, sequence: u64) -> Result<Option<PathLogEntry>> {
        let entry = self.path_log.get(&log_slot(sequence), 0).context("can't read the map path_log")?;
        Ok(Some(entry).filter(|entry| entry.sequence == sequence && sequence != 0))
    }

    /// Writes a change of a path in the place of the oldest one.
    pub fn log_change(&mut self, entry: &PathLogEntry) -> Result<()> {
        self.path_log.set(log_slot(entry.sequence), entry, 0).context("can't write the map path_log")
    }
}

fn log_slot(sequence: u64) -> u32 {
    (sequence % PATH_LOG_LEN as u64) as u32
}
