//! What the paths' health comes to: their states in the maps, what is known of them, and the log of changes.

use std::{collections::BTreeSet, time::Duration};

use anyhow::Result;
use bytemuck::Zeroable;
use multipath_common::{
    health::{Health, Reason},
    maps::{NAME_LEN, PATH_DOUBTED, PATH_UP, Path as PathEntry},
    quality::{PathLogEntry, PathQuality},
};
use tracing::{debug, info};

use super::{Daemon, ManagedPath};
use crate::{
    clock,
    config::Quota,
    control::{monitor::Change, selection::choose},
    dataplane::name_bytes,
};

/// How often what is known of a path is written, while its health stays as it is.
const WRITE_QUALITY: Duration = Duration::from_millis(250);
/// A doubt that is over sooner is no news, nanoseconds.
const SHORT_DOUBT_NS: u64 = 100_000_000;

/// Whether data goes by a path with this entry.
pub(super) const fn is_usable(path: &PathEntry) -> bool {
    matches!(path.state, PATH_UP | PATH_DOUBTED)
}

/// Whether the entry leads anywhere.
pub(super) const fn has_way(path: &PathEntry) -> bool {
    path.ifindex != 0
}

impl Daemon {
    /// Chooses anew for the peers of which a path has changed.
    pub(super) fn choose_paths(&mut self, now: Duration) -> Result<()> {
        let changed: BTreeSet<u32> =
            self.paths.values_mut().filter_map(|path| path.monitor.take_changed().then_some(path.peer)).collect();
        let mut has_moved = false;
        for peer in changed {
            has_moved |= self.choose_for(now, peer)?;
        }
        if has_moved { self.maps.advance_automatic() } else { Ok(()) }
    }

    /// Chooses which paths carry a peer's packets. Whether others do than before.
    fn choose_for(&mut self, now: Duration, peer: u32) -> Result<bool> {
        let candidates: Vec<_> = self.paths_of(peer).map(|path| path.monitor.candidate(now)).collect();
        let was_used: Vec<bool> = self.paths_of(peer).map(|path| path.monitor.verdict().is_used).collect();
        let verdicts = choose(&candidates, &was_used);
        let mut changes = Vec::new();
        for (path, verdict) in self.paths_of_mut(peer).zip(verdicts) {
            if let Some(change) = path.monitor.decide(now, verdict) {
                match change.to {
                    Health::Down => path.mtu.pause(),
                    Health::Lossy => path.mtu.doubt(),
                    _ => {}
                }
                changes.push((path.slot(), change));
            }
        }
        // What carries packets from now on comes before what carries none any more.
        let mut slots: Vec<(bool, u32)> =
            self.paths_of(peer).map(|path| (!is_usable(&path.wanted()), path.slot())).collect();
        slots.sort_unstable();
        let mut has_moved = false;
        for (_, slot) in slots {
            has_moved |= self.write_path(slot)?;
        }
        for (slot, change) in changes {
            self.log_change(slot, &change)?;
            self.write_quality(now, slot)?;
        }
        Ok(has_moved)
    }

    /// Writes a path's entry, if it is another one than what stands in the map. Whether flows must be given
    /// their paths anew.
    pub(super) fn write_path(&mut self, slot: u32) -> Result<bool> {
        let Some(path) = self.paths.get_mut(&slot) else { return Ok(false) };
        let (new, old) = (path.wanted(), path.written);
        if bytemuck::bytes_of(&new) == bytemuck::bytes_of(&old) {
            return Ok(false);
        }
        let amended = PathEntry { state: new.state, inner_mtu: new.inner_mtu, largest: new.largest, ..old };
        let is_amended = bytemuck::bytes_of(&new) == bytemuck::bytes_of(&amended);
        if is_amended {
            self.maps.amend_path(path.peer, path.id, new)?;
        } else {
            self.maps.set_path(path.peer, path.id, new)?;
        }
        path.written = new;
        self.has_changed_paths |= has_way(&new) != has_way(&old) || new.inner_mtu != old.inner_mtu;
        // Flows stay on a path in doubt, while a spare one carries copies of their packets.
        let is_other = is_usable(&new) != is_usable(&old) && !path.monitor.verdict().is_spare;
        // While it was out of use for a moment, flows may have left it.
        Ok(is_other || (is_usable(&new) && !is_amended))
    }

    /// Writes a change of a path into the log of changes, and says it. A doubt is written down when it is over, unless it
    /// was a short one: where a few packets get lost there are so many that nothing else would be left in the log.
    pub(super) fn log_change(&mut self, slot: u32, change: &Change) -> Result<()> {
        let at_ns = clock::unix_ns()?;
        let Some(path) = self.paths.get_mut(&slot) else { return Ok(()) };
        let Change { from, to, reason, .. } = *change;
        let text = format!("path {}: {} -> {}: {}", path.name, from.name(), to.name(), reason.name());
        if from == Health::Stalled || to == Health::Stalled {
            debug!("{text}");
        } else {
            info!("{text}");
        }
        let doubt = path.doubt.take();
        if to == Health::Stalled {
            path.doubt = Some((at_ns, *change));
            return Ok(());
        }
        if let Some((doubted_ns, doubt)) = doubt {
            if from == Health::Stalled && to == doubt.from && at_ns < doubted_ns + SHORT_DOUBT_NS {
                return Ok(());
            }
            self.write_log(slot, doubted_ns, &doubt)?;
        }
        self.write_log(slot, at_ns, change)
    }

    fn write_log(&mut self, slot: u32, at_ns: u64, change: &Change) -> Result<()> {
        let Some(path) = self.paths.get(&slot) else { return Ok(()) };
        self.logged += 1;
        let entry = PathLogEntry {
            sequence: self.logged,
            at_ns,
            slot,
            from: change.from as u32,
            to: change.to as u32,
            reason: change.reason as u32,
            detail: change.detail,
            endpoint: path.identity.endpoint,
            flow: path.identity.flow,
            reserved: 0,
            uplink: path.identity.uplink,
            peer: self.position(path.peer).map_or([0; NAME_LEN], |at| name_bytes(&self.config.peers[at].name)),
        };
        self.maps.log_change(&entry)
    }

    /// Says that larger or smaller packets pass than before.
    pub(super) fn log_mtu(&mut self, slot: u32) -> Result<()> {
        let Some(path) = self.paths.get(&slot) else { return Ok(()) };
        let health = path.monitor.verdict().health;
        let change = Change { from: health, to: health, reason: Reason::PathMtu, detail: path.mtu.outer_mtu() };
        self.log_change(slot, &change)
    }

    /// Writes what is known of the paths, as far as that is due.
    pub(super) fn write_qualities(&mut self, now: Duration) -> Result<()> {
        let due: Vec<u32> =
            self.paths.values().filter(|path| path.write_quality_at <= now).map(ManagedPath::slot).collect();
        due.into_iter().try_for_each(|slot| self.write_quality(now, slot))
    }

    fn write_quality(&mut self, now: Duration, slot: u32) -> Result<()> {
        let Some(path) = self.paths.get_mut(&slot) else { return Ok(()) };
        path.write_quality_at = now + WRITE_QUALITY;
        let uplink = &self.config.uplinks[path.uplink];
        let mut quality = PathQuality {
            capacity_out_kbps: path.rate.capacity_kbps(),
            queue_out_us: path.rate.queue_us(),
            mtu: path.mtu.outer_mtu(),
            quota_bytes: uplink.quota.map_or(0, Quota::bytes),
            quota_used_bytes: self.used_bytes.get(&uplink.name).copied().unwrap_or_default(),
            ..PathQuality::zeroed()
        };
        path.monitor.fill(now, &mut quality);
        self.maps.set_quality(slot, &quality)
    }
}

impl ManagedPath {
    /// The entry that belongs into the map.
    fn wanted(&self) -> PathEntry {
        if !has_way(&self.resolved) {
            return self.resolved;
        }
        PathEntry { state: self.monitor.verdict().state, inner_mtu: self.mtu.inner_mtu(), ..self.resolved }
    }
}
