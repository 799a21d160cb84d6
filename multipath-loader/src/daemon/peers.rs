//! Peers and the numbers of their paths: from the configuration, and from what an earlier daemon left in the maps.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, SocketAddr},
};

use anyhow::{Context, Result};
use bytemuck::Zeroable;
use multipath_common::maps::{
    MAX_PATHS, Path as PathEntry, PathSettings, Peer as PeerEntry, TROUBLE_CIPHER, TROUBLE_NONE, TROUBLE_NOT_AUTHENTIC,
    TROUBLE_WEAK_KEY, address_from, path_slot,
};

use super::{
    Daemon, ManagedPath, ManagedPeer,
    bonding::{PathBonding, PeerBonding},
    learning::SILENT,
    probing::Lengths,
    settings::role,
};
use crate::{
    clock,
    config::{Peer, PublicKey},
    control::{
        clock_offset::ClockOffset, monitor::Monitor, numbering::assign, path_mtu::PathMtu, rate::RateController,
        resolve::PathIdentity, train::Trains,
    },
    dataplane::{name_bytes, name_text},
    protocol::Trouble,
};

impl Daemon {
    /// Writes peers, prefixes and the peers' configured paths, of which those that were looked after already go on as they
    /// are. `true` if sessions were retired: those of peers that are gone, and those that the configuration would not
    /// have made.
    pub(super) fn write_peers(&mut self) -> Result<bool> {
        let mut known: HashMap<u32, ManagedPeer> =
            std::mem::take(&mut self.peers).into_iter().map(|peer| (peer.number, peer)).collect();
        self.positions.clear();
        let now = clock::since_boot()?;
        let had = self.maps.peers()?;
        let keys: Vec<(u32, [u8; 32])> = had.iter().map(|record| (record.number, record.peer.public_key)).collect();
        let wanted: Vec<[u8; 32]> = self.config.peers.iter().map(|peer| *peer.public_key.as_bytes()).collect();
        let numbers: Option<Vec<u32>> = assign(&wanted, &keys, self.maps.peer_capacity()).into_iter().collect();
        let numbers = numbers.context("more peers than the maps hold")?;
        let wanted: HashMap<u32, [u8; 32]> = numbers.iter().copied().zip(wanted).collect();
        let mut stay = HashMap::new();
        let mut has_retired = false;
        for record in had {
            // A number may be another peer's from now on, who must not have the sessions.
            if wanted.get(&record.number) == Some(&record.peer.public_key) {
                stay.insert(record.number, record.peer);
            } else {
                known.remove(&record.number);
                has_retired |= self.remove_peer(record.number)?;
            }
        }
        let mut prefixes = Vec::new();
        let own = self.config.tunnel.private_key.public();
        let made_with: Vec<(u32, u32)> =
            self.config.peers.iter().map(|peer| (peer.cipher.number(), credentials(&own, peer))).collect();
        for (position, (number, (cipher, credentials))) in numbers.into_iter().zip(made_with).enumerate() {
            let (session, handshake_ns) = match stay.get(&number) {
                Some(entry) => {
                    let (retired, session) = self.retire_unfit(number, entry, cipher, credentials)?;
                    has_retired |= retired;
                    (session, entry.handshake_ns)
                }
                None => (0, 0),
            };
            self.positions.insert(number, self.peers.len());
            let (heard_at, clock, bonding) = match known.remove(&number) {
                Some(peer) => (peer.heard_at, peer.clock, peer.bonding),
                None => (now, ClockOffset::default(), PeerBonding::resume(now, &self.maps, number)?),
            };
            self.peers.push(ManagedPeer { number, credentials, session, handshake_ns, heard_at, clock, bonding });
            prefixes.extend(self.config.peers[position].allowed_ips.iter().map(|&prefix| (prefix, number)));
        }
        let mut looked_after = std::mem::take(&mut self.paths);
        for position in 0..self.config.peers.len() {
            self.number_paths(position, &mut looked_after)?;
        }
        let gone = looked_after.into_values().filter(|path| !path.identity.is_learned);
        self.withdrawn.extend(gone.map(|path| ((path.identity.uplink, path.identity.remote), now + 2 * SILENT)));
        self.has_changed_paths = true;
        self.maps.set_allowed_ips(&prefixes)?;
        Ok(has_retired)
    }

    /// Retires the sessions of a peer that were made with other keys or another cipher than the configuration has now.
    /// Whether there were any, and the session that the peer's packets are sealed with after that.
    fn retire_unfit(&mut self, number: u32, entry: &PeerEntry, cipher: u32, credentials: u32) -> Result<(bool, u32)> {
        let (mut has_retired, mut sealing) = (false, entry.session);
        for session in self.maps.sessions_of(number)? {
            if entry.credentials != credentials || session.cipher != cipher {
                self.maps.retire_session(session.index)?;
                has_retired = true;
                if sealing == session.index {
                    sealing = 0;
                }
            }
        }
        Ok((has_retired, sealing))
    }

    /// Puts the number of a peer out of use. `true` if it had sessions.
    fn remove_peer(&mut self, number: u32) -> Result<bool> {
        self.maps.set_peer(number, PeerEntry::zeroed())?;
        let sessions = self.maps.sessions_of(number)?;
        for session in &sessions {
            self.maps.retire_session(session.index)?;
        }
        // Its number may become another peer's, who is not at these addresses.
        self.maps.forget_origins(number)?;
        self.maps.reset_bond(number)?;
        (0..MAX_PATHS as u8).try_for_each(|id| self.clear_path(number, id))?;
        Ok(!sessions.is_empty())
    }

    /// Gives the paths of a peer their ids: those that it had, as far as they are still configured or learned. What is
    /// `looked_after` goes on as it is.
    fn number_paths(&mut self, position: usize, looked_after: &mut BTreeMap<u32, ManagedPath>) -> Result<()> {
        let peer = &self.config.peers[position];
        let number = self.peers[position].number;
        let had = self.maps.paths_of(number)?;
        let identity_of = |path: &PathEntry| PathIdentity {
            uplink: path.uplink,
            remote: SocketAddr::new(address_from(path.remote), path.remote_port),
            endpoint: path.endpoint,
            is_learned: path.learned != 0,
            flow: path.flow,
        };
        let mut wanted: Vec<(usize, PathIdentity)> = Vec::new();
        for candidate in self.config.candidates(peer) {
            let Some(remote) = candidate.endpoint else { continue };
            let identity = PathIdentity {
                uplink: name_bytes(&self.config.uplinks[candidate.uplink].name),
                remote,
                endpoint: candidate.number,
                is_learned: false,
                flow: candidate.flow,
            };
            wanted.push((candidate.uplink, identity));
        }
        for mut identity in had.iter().map(|record| identity_of(&record.path)).filter(|identity| identity.is_learned) {
            // A file that names the address now, or another one under this number, comes first.
            let is_there = |same: &dyn Fn(&PathIdentity) -> bool| {
                wanted
                    .iter()
                    .any(|(_, other)| (other.uplink, other.flow) == (identity.uplink, identity.flow) && same(other))
            };
            if is_there(&|other| !other.is_learned && other.remote == identity.remote) {
                continue;
            }
            let is_free = |number: &u32| !is_there(&|other| other.endpoint == *number);
            identity.endpoint =
                [identity.endpoint].into_iter().chain(0..=wanted.len() as u32).find(is_free).unwrap_or_default();
            let uplink = self.config.uplinks.iter().position(|uplink| name_bytes(&uplink.name) == identity.uplink);
            if let Some(uplink) = uplink.filter(|_| identity.flow < self.config.port_count()) {
                wanted.push((uplink, identity));
            }
        }
        wanted.truncate(MAX_PATHS);
        let identities: Vec<PathIdentity> = wanted.iter().map(|(_, identity)| *identity).collect();
        let had: Vec<(u32, PathIdentity)> =
            had.iter().map(|record| (u32::from(record.id), identity_of(&record.path))).collect();
        let ids = assign(&identities, &had, MAX_PATHS as u32);
        for (id, identity) in &had {
            if !identities.contains(identity) {
                self.clear_path(number, *id as u8)?;
            }
        }
        for (id, (uplink, identity)) in ids.into_iter().flatten().zip(wanted) {
            let id = id as u8;
            let slot = path_slot(number, id);
            // Another path that had the id is gone, which is seen by what is left over.
            let is_same = |path: &ManagedPath| path.identity == identity;
            if looked_after.get(&slot).is_some_and(is_same)
                && let Some(path) = looked_after.remove(&slot)
            {
                let name = path_name(&self.config.peers[position].name, &identity);
                self.paths.insert(path.slot(), ManagedPath { name, uplink, ..path });
                continue;
            }
            let is_new = !had.contains(&(u32::from(id), identity));
            if is_new {
                self.clear_path(number, id)?;
            }
            let local = address_from(self.maps.path(number, id)?.local);
            let preferred_local = Some(local).filter(|local| identity.is_learned && !is_new && !local.is_unspecified());
            self.add_path(position, id, uplink, identity, preferred_local)?;
        }
        self.write_peer(position)
    }

    /// Takes a path under management: as an earlier daemon left it in the maps, or cleared.
    pub(super) fn add_path(
        &mut self,
        position: usize,
        id: u8,
        uplink: usize,
        identity: PathIdentity,
        preferred_local: Option<IpAddr>,
    ) -> Result<()> {
        let now = clock::since_boot()?;
        let ManagedPeer { number: peer, session, .. } = self.peers[position];
        let slot = path_slot(peer, id);
        let written = self.maps.path(peer, id)?;
        let is_ipv4 = identity.remote.is_ipv4();
        let mut path = ManagedPath {
            peer,
            id,
            name: path_name(&self.config.peers[position].name, &identity),
            identity,
            uplink,
            preferred_local,
            link: None,
            resolved: PathEntry::zeroed(),
            measured_by: (written.ifindex, written.local),
            written,
            automatic: self.maps.automatic(slot)?,
            weight: 0,
            operator: self.maps.operator(slot)?,
            // What leads nowhere may lead elsewhere next.
            monitor: if written.ifindex == 0 {
                Monitor::new(now, slot)
            } else {
                Monitor::resume(now, slot, &self.maps.quality(slot)?)
            },
            mtu: if written.inner_mtu == 0 {
                PathMtu::new(written.largest, is_ipv4)
            } else {
                PathMtu::resume(written.largest, is_ipv4, written.inner_mtu)
            },
            rate: RateController::new(),
            trains: Trains::new(now, peer, id),
            delay_epoch: 0,
            lengths: Lengths::default(),
            arrived: 0,
            heard_at: now,
            bonding: PathBonding::default(),
            write_quality_at: now,
            doubt: None,
        };
        path.weight = path.automatic.weight;
        path.monitor.set_session(now, session != 0);
        let (role, reason) = role(&self.config.uplinks[uplink], &path.operator, &self.used_bytes);
        path.monitor.set_role(role, reason);
        path.monitor.set_member(self.peers[position].bonding.has_announced(id));
        self.has_changed_paths = true;
        self.paths.insert(slot, path);
        Ok(())
    }

    /// Puts a path id out of use.
    pub(super) fn clear_path(&mut self, peer: u32, id: u8) -> Result<()> {
        self.maps.set_path(peer, id, PathEntry::zeroed())?;
        self.maps.set_operator(peer, id, PathSettings::zeroed())?;
        self.maps.set_automatic(peer, id, PathSettings::zeroed())?;
        self.maps.reset_stats(peer, id)?;
        for peers_id in 0..MAX_PATHS as u8 {
            if self.maps.arrival_path(peer, peers_id)? == Some(id) {
                self.maps.set_arrival_path(peer, peers_id, None)?;
            }
        }
        Ok(())
    }

    /// Writes a peer's entry: the session that it is sealed with, the set of its paths, and how its handshakes stand.
    pub(super) fn write_peer(&mut self, position: usize) -> Result<()> {
        let peer = &self.config.peers[position];
        let managed = &mut self.peers[position];
        let handshake = self.handshakes.status(managed.number);
        managed.handshake_ns = match handshake.last_handshake {
            _ if managed.session == 0 => 0,
            Some(made) => made.as_nanos() as u64,
            // An earlier daemon made it.
            None => managed.handshake_ns,
        };
        let ManagedPeer { number, credentials, session, handshake_ns, .. } = *managed;
        let path_set = self.paths_of(number).fold(0, |set, path| set | 1 << path.id);
        let entry = PeerEntry {
            session,
            path_set,
            cipher: peer.cipher.number(),
            attempts: handshake.attempts,
            trouble: match handshake.trouble {
                None => TROUBLE_NONE,
                Some(Trouble::CipherDiffers { .. }) => TROUBLE_CIPHER,
                Some(Trouble::NotAuthentic) => TROUBLE_NOT_AUTHENTIC,
                Some(Trouble::WeakKey) => TROUBLE_WEAK_KEY,
            },
            credentials,
            handshake_ns,
            name: name_bytes(&peer.name),
            public_key: *peer.public_key.as_bytes(),
        };
        self.maps.set_peer(number, entry)
    }

    /// The paths to a peer.
    pub(super) fn paths_of(&self, peer: u32) -> impl Iterator<Item = &ManagedPath> {
        self.paths.range(path_slot(peer, 0)..path_slot(peer + 1, 0)).map(|(_, path)| path)
    }

    /// The same, to change them.
    pub(super) fn paths_of_mut(&mut self, peer: u32) -> impl Iterator<Item = &mut ManagedPath> {
        self.paths.range_mut(path_slot(peer, 0)..path_slot(peer + 1, 0)).map(|(_, path)| path)
    }

    /// Where a peer stands in the configuration.
    pub(super) fn position(&self, number: u32) -> Option<usize> {
        self.positions.get(&number).copied()
    }
}

/// Fingerprint of what sessions with a peer are made with, besides its own key. 32 bits tell a changed file from an
/// unchanged one, and nothing of the keys.
fn credentials(own: &PublicKey, peer: &Peer) -> u32 {
    let mut hasher = blake3::Hasher::new_derive_key("mpvpn 1 credentials");
    hasher.update(own.as_bytes());
    hasher.update(peer.preshared_key.as_ref().map_or(&[0; 32], |key| key.as_bytes()));
    let [a, b, c, d, ..] = *hasher.finalize().as_bytes();
    u32::from_le_bytes([a, b, c, d])
}

/// The name of a path.
fn path_name(peer: &str, identity: &PathIdentity) -> String {
    crate::config::path_name(peer, &name_text(identity.uplink), identity.endpoint, identity.flow)
}
