//! Where peers are, learned from the authentic packets that they send.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

use anyhow::Result;
use multipath_common::{
    health::{Health, Reason},
    maps::{MAX_PATHS, OriginKey, address_from, path_slot},
};
use tracing::{info, warn};

use super::{Daemon, End, ManagedPath, health::has_way};
use crate::{
    config::Uplink,
    control::{monitor::Change, resolve::PathIdentity},
    dataplane::name_bytes,
};

/// How long nothing may come by a learned path before it is forgotten: the mappings of address translators for UDP live
/// for two minutes or longer (RFC 4787 section 4.3), and then for somebody else.
pub(super) const SILENT: Duration = Duration::from_mins(3);

impl Daemon {
    /// Learns from origins that the programs have just noted down.
    pub(super) async fn learn_from(&mut self, keys: Vec<OriginKey>) -> Result<Option<End>> {
        // Each tells only that its origin is another one: what it is now stands in the map.
        let keys: BTreeMap<(u32, u32), OriginKey> = keys.into_iter().map(|key| ((key.peer, key.path), key)).collect();
        self.learn_together(keys.into_values()).await?;
        Ok(None)
    }

    /// Learns from all origins that the programs have noted down, also while no daemon ran.
    pub(super) async fn learn_all(&mut self) -> Result<()> {
        let keys = self.maps.origins()?;
        self.learn_together(keys).await
    }

    async fn learn_together(&mut self, keys: impl IntoIterator<Item = OriginKey>) -> Result<()> {
        let mut interfaces = BTreeSet::new();
        for key in keys {
            interfaces.extend(self.learn(key)?);
        }
        if interfaces.is_empty() {
            return Ok(());
        }
        let interfaces: Vec<u32> = interfaces.into_iter().collect();
        self.refresh(Some(&interfaces)).await
    }

    /// Learns by which of our paths the packets of a peer's path come; an address that no path has becomes a path.
    /// Returns the interface whose paths must be looked up.
    fn learn(&mut self, key: OriginKey) -> Result<Option<u32>> {
        let Some(origin) = self.maps.origin(key) else { return Ok(None) };
        let Some(position) = self.position(key.peer) else { return Ok(None) };
        let attached = |uplink: &Uplink| self.attachments.uplink(&uplink.name).map(|attached| attached.ifindex);
        let Some(uplink) = self.config.uplinks.iter().position(|uplink| attached(uplink) == Some(origin.ifindex))
        else {
            return Ok(None);
        };
        let peers_id = key.path as u8;
        let remote = SocketAddr::new(address_from(origin.remote), origin.remote_port);
        let flow = u32::from(origin.local_port.saturating_sub(self.config.tunnel.listen_port));
        let local = Some(address_from(origin.local));
        let arrives_by = self.maps.arrival_path(key.peer, peers_id)?;
        let sends_from = |path: &&mut ManagedPath| path.uplink == uplink && path.identity.flow == flow;
        // Two endpoints of ours are two ways for the peer, and each is answered by its own.
        let is_way = |path: &&mut ManagedPath| {
            path.identity.remote == remote && (!has_way(&path.resolved) || path.resolved.local == origin.local)
        };
        let known = self.paths_of_mut(key.peer).filter(sends_from).find(is_way);
        let id = if let Some(path) = known {
            if path.identity.is_learned {
                path.preferred_local = local;
            }
            path.id
        } else if let Some(path) = self
            .paths_of_mut(key.peer)
            .filter(sends_from)
            .find(|path| Some(path.id) == arrives_by && path.identity.is_learned)
        {
            info!("path {}: the peer's address is now {remote}", path.name);
            path.identity.remote = remote;
            path.preferred_local = local;
            path.id
        } else {
            if self.withdrawn.contains_key(&(name_bytes(&self.config.uplinks[uplink].name), remote)) {
                return Ok(None);
            }
            let used = |id: u8| self.paths.contains_key(&path_slot(key.peer, id));
            let Some(id) = [peers_id].into_iter().chain(0..MAX_PATHS as u8).find(|id| !used(*id)) else {
                warn!("peer {}: more than {MAX_PATHS} paths, {remote} is left out", self.config.peers[position].name);
                return Ok(None);
            };
            let same_uplink =
                self.paths_of(key.peer).filter(|path| path.uplink == uplink && path.identity.flow == flow);
            let taken: Vec<u32> = same_uplink.map(|path| path.identity.endpoint).collect();
            let endpoint = (0..=taken.len() as u32).find(|number| !taken.contains(number)).unwrap_or_default();
            let name = name_bytes(&self.config.uplinks[uplink].name);
            let identity = PathIdentity { uplink: name, remote, endpoint, is_learned: true, flow };
            self.clear_path(key.peer, id)?;
            self.add_path(position, id, uplink, identity, local)?;
            self.weigh()?;
            self.write_peer(position)?;
            id
        };
        self.maps.set_arrival_path(key.peer, peers_id, Some(id))?;
        if let Some(old) = arrives_by.filter(|old| *old != id) {
            self.forget_learned(position, old)?;
        }
        Ok(Some(origin.ifindex))
    }

    /// Forgets a learned path that none of the peer's paths comes by any more: nobody is at that address.
    fn forget_learned(&mut self, position: usize, id: u8) -> Result<()> {
        let peer = self.peers[position].number;
        for peers_id in 0..MAX_PATHS as u8 {
            if self.maps.arrival_path(peer, peers_id)? == Some(id) {
                return Ok(());
            }
        }
        self.abandon(position, path_slot(peer, id))
    }

    /// Forgets the learned paths by which nothing has come for long, and that endpoints were withdrawn.
    pub(super) fn abandon_silent(&mut self, now: Duration) -> Result<()> {
        let withdrawn = self.withdrawn.len();
        self.withdrawn.retain(|_, until| now < *until);
        self.must_learn |= self.withdrawn.len() != withdrawn;
        let is_silent = |path: &&ManagedPath| path.identity.is_learned && now.saturating_sub(path.heard_at) >= SILENT;
        let silent: Vec<(u32, u32)> =
            self.paths.values().filter(is_silent).map(|path| (path.peer, path.slot())).collect();
        for (peer, slot) in silent {
            // Whatever comes from there again is news.
            for key in self.maps.origins()?.into_iter().filter(|key| key.peer == peer) {
                if self.maps.arrival_path(peer, key.path as u8)?.map(|id| path_slot(peer, id)) == Some(slot) {
                    self.maps.forget_origin(key)?;
                }
            }
            if let Some(position) = self.position(peer) {
                self.abandon(position, slot)?;
            }
        }
        Ok(())
    }

    /// Forgets a learned path; a configured one stays.
    fn abandon(&mut self, position: usize, slot: u32) -> Result<()> {
        let Some(path) = self.paths.get(&slot).filter(|path| path.identity.is_learned) else { return Ok(()) };
        let (peer, id, from) = (path.peer, path.id, path.monitor.verdict().health);
        info!("path {}: nothing comes from {} any more", path.name, path.identity.remote);
        self.log_change(slot, &Change { from, to: Health::Unknown, reason: Reason::Abandoned, detail: 0 })?;
        self.paths.remove(&slot);
        self.has_changed_paths = true;
        self.write_peer(position)?;
        self.clear_path(peer, id)?;
        self.maps.advance_automatic()
    }
}
