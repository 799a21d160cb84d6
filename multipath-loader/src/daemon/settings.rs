//! What the paths are for and how much of the traffic is theirs: roles, quotas, rates and weights, from the configuration, the
//! operator and what was measured.

use std::{
    collections::BTreeMap,
    fs::{self, DirBuilder, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::Result;
use multipath_common::{
    health::{Reason, Role},
    maps::PathSettings,
};
use tracing::{info, warn};

use super::Daemon;
use crate::{
    clock,
    config::Uplink,
    control::{
        quota::Usage,
        rate::PathRate,
        weights::{automatic, configured_rate},
    },
};

/// How often the file of usage is written, at most.
const WRITE_USAGE: Duration = Duration::from_secs(30);

/// What uplinks with a quota have carried, and the file that remembers it.
pub(super) struct UsageFile {
    path: PathBuf,
    usage: Usage,
    /// What stands in the file, or will when the writer is done; `None` when that is not known.
    written: Option<Usage>,
    write_at: Duration,
    /// Writes the file meanwhile: a slow disk must not keep the daemon from its paths.
    writer: Option<JoinHandle<io::Result<()>>>,
}

impl UsageFile {
    /// Reads the file; one that is not there, or that nobody can read any more, says that nothing was carried.
    pub(super) fn open(path: PathBuf) -> Self {
        let usage: Usage = match fs::read_to_string(&path) {
            Ok(text) => text.parse().unwrap_or_else(|error| {
                warn!("{}: {error}; quotas begin anew", path.display());
                Usage::default()
            }),
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    warn!("can't read {}: {error}; quotas begin anew", path.display());
                }
                Usage::default()
            }
        };
        Self { path, written: Some(usage.clone()), usage, write_at: Duration::ZERO, writer: None }
    }

    /// Begins to write the file, if something has changed.
    fn begin_write(&mut self) -> io::Result<()> {
        if self.written.as_ref() == Some(&self.usage) {
            return Ok(());
        }
        let (path, text) = (self.path.clone(), self.usage.to_string());
        self.writer = Some(thread::Builder::new().spawn(move || write(&path, &text))?);
        self.written = Some(self.usage.clone());
        Ok(())
    }

    /// Waits for the writer, and says so if it has failed.
    fn end_write(&mut self) {
        let Some(writer) = self.writer.take() else { return };
        let written = writer.join().unwrap_or_else(|_| Err(io::Error::other("the writer has panicked")));
        self.note(written);
    }

    /// Says that the file could not be written, if so. The tunnel works without.
    fn note(&mut self, written: io::Result<()>) {
        if let Err(error) = written {
            self.written = None;
            warn!("can't write {}: {error}: what counts against quotas will be forgotten", self.path.display());
        }
    }
}

/// Writes a file: beside it first, so that it is whole at any time.
fn write(path: &Path, text: &str) -> io::Result<()> {
    let new = path.with_extension("usage.new");
    if let Some(directory) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    }
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(text.as_bytes())?;
    // Else the new name may be there after a power failure, and the content not.
    file.sync_all()?;
    fs::rename(&new, path)
}

impl Daemon {
    /// Writes the daemon's settings of a path, if they are others than those in the map.
    pub(super) fn write_automatic(&mut self, slot: u32) -> Result<()> {
        let Some(path) = self.paths.get_mut(&slot) else { return Ok(()) };
        let uplink = &self.config.uplinks[path.uplink];
        let configured = configured_rate(uplink);
        let settings = PathSettings {
            weight: path.weight,
            rate_kbps: if configured == 0 { path.rate.rate_kbps() } else { configured },
            role: uplink.role_with(is_used_up(uplink, &self.used_bytes)) as u32,
        };
        if bytemuck::bytes_of(&settings) != bytemuck::bytes_of(&path.automatic) {
            self.maps.set_automatic(path.peer, path.id, settings)?;
            path.automatic = settings;
        }
        Ok(())
    }

    /// Weighs the paths of all peers, and writes what has changed of their settings.
    pub(super) fn weigh(&mut self) -> Result<()> {
        let mut has_changed = false;
        for position in 0..self.peers.len() {
            has_changed |= self.weigh_for(self.peers[position].number);
        }
        let slots: Vec<u32> = self.paths.keys().copied().collect();
        slots.into_iter().try_for_each(|slot| self.write_automatic(slot))?;
        if has_changed { self.maps.advance_automatic() } else { Ok(()) }
    }

    /// Weighs the paths of a peer. Whether one weighs something else than before.
    fn weigh_for(&mut self, peer: u32) -> bool {
        let mut uplinks = Vec::new();
        let (mut measured, mut in_force, mut had) = (Vec::new(), Vec::new(), Vec::new());
        for path in self.paths_of(peer) {
            let uplink = &self.config.uplinks[path.uplink];
            // What was measured varies, and a weight stays for it; a rate that was set by hand is meant.
            let (rate_kbps, in_force_for) = match (path.operator.rate_kbps, configured_rate(uplink)) {
                (0, 0) => (path.rate.capacity_kbps(), path.weight),
                (0, configured) => (configured, 0),
                (operator, _) => (operator, 0),
            };
            uplinks.push(uplink);
            measured.push(PathRate { rate_kbps, most_delivered_kbps: path.rate.most_delivered_kbps() });
            in_force.push(in_force_for);
            had.push(path.weight);
        }
        let weights = automatic(&uplinks, &measured, &in_force);
        let has_changed = weights != had;
        for (path, weight) in self.paths_of_mut(peer).zip(weights) {
            path.weight = weight;
        }
        has_changed
    }

    /// Follows what the operator has set, if that has changed.
    pub(super) fn follow_operator(&mut self) -> Result<()> {
        let generation = self.maps.operator_generation()?;
        if generation == self.operator_generation {
            return Ok(());
        }
        self.operator_generation = generation;
        for path in self.paths.values_mut() {
            path.operator = self.maps.operator(path.slot())?;
        }
        self.set_roles();
        Ok(())
    }

    /// Tells every path's monitor what the path is for.
    pub(super) fn set_roles(&mut self) {
        for path in self.paths.values_mut() {
            let (role, reason) = role(&self.config.uplinks[path.uplink], &path.operator, &self.used_bytes);
            path.monitor.set_role(role, reason);
        }
    }

    /// Counts what uplinks with a quota have carried, and puts those aside that have used it up.
    pub(super) fn count_quotas(&mut self) -> Result<()> {
        let unix = Duration::from_nanos(clock::unix_ns()?);
        let mut has_changed = false;
        for (index, uplink) in self.config.uplinks.iter().enumerate() {
            let Some(quota) = uplink.quota else { continue };
            let mut carried = Vec::new();
            for path in self.paths.values().filter(|path| path.uplink == index) {
                let stats = self.maps.path_stats(path.slot())?;
                carried.push((path.slot(), stats.egress.bytes + stats.ingress.bytes));
            }
            let was_used_up = is_used_up(uplink, &self.used_bytes);
            let used = self.usage.usage.count(&uplink.name, quota.period(), unix, carried);
            self.used_bytes.insert(uplink.name.clone(), used);
            if is_used_up(uplink, &self.used_bytes) != was_used_up {
                has_changed = true;
                info!("uplink {}: {used} bytes of a quota of {quota}", uplink.name);
            }
        }
        if has_changed {
            self.usage.write_at = Duration::ZERO;
            self.set_roles();
        }
        Ok(())
    }

    /// Has the file of usage be written, if that is due. Not before the start is over: capabilities are given up by a
    /// process of one thread.
    pub(super) fn keep_usage(&mut self, now: Duration) {
        if self.usage.write_at > now || self.usage.writer.as_ref().is_some_and(|writer| !writer.is_finished()) {
            return;
        }
        self.usage.write_at = now + WRITE_USAGE;
        self.usage.end_write();
        let begun = self.usage.begin_write();
        self.usage.note(begun);
    }

    /// Writes the file of usage for the last time.
    pub(super) fn write_usage(&mut self) {
        self.usage.end_write();
        let begun = self.usage.begin_write();
        self.usage.note(begun);
        self.usage.end_write();
    }

    /// Forgets what uplinks without a quota have carried.
    pub(super) fn forget_usage(&mut self) {
        let uplinks = &self.config.uplinks;
        let has_quota = |name: &str| uplinks.iter().any(|uplink| uplink.name == name && uplink.quota.is_some());
        self.usage.usage.retain(has_quota);
        self.used_bytes.retain(|name, _| has_quota(name));
    }
}

/// What a path of an uplink is for, and who says so.
pub(super) fn role(uplink: &Uplink, operator: &PathSettings, used_bytes: &BTreeMap<String, u64>) -> (Role, Reason) {
    match Role::from_number(operator.role) {
        Some(role) if role != Role::Automatic => (role, Reason::Operator),
        _ if uplink.quota.is_some() => (uplink.role_with(is_used_up(uplink, used_bytes)), Reason::Quota),
        _ => (uplink.role, Reason::Configuration),
    }
}

fn is_used_up(uplink: &Uplink, used_bytes: &BTreeMap<String, u64>) -> bool {
    uplink.quota.is_some_and(|quota| used_bytes.get(&uplink.name).is_some_and(|used| *used >= quota.bytes()))
}
