//! The daemon of one tunnel: the one place that joins configuration, netlink, maps, programs and time.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    path::Path,
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, bail};
use bytemuck::Zeroable;
use futures::StreamExt;
use multipath_common::maps::{
    Capacity, MAX_PATHS, OriginKey, PATH_UP, Path as PathEntry, PathSettings, Peer as PeerEntry, Tunnel as TunnelEntry,
    address_bytes, address_from,
};
use tokio::{
    net::UdpSocket,
    signal::unix::{Signal, SignalKind, signal},
    time::Instant,
};
use tracing::{debug, info, warn};

use crate::{
    config::{Config, Uplink},
    control::{
        mtu::device_mtu,
        numbering::assign,
        resolve::{PathIdentity, Way, entry},
        weights,
    },
    dataplane::{Attachments, LoadedPrograms, Lock, Maps, OriginEvents, Pins, TcHook, name_bytes, name_text},
    protocol::static_session,
    underlay::{Change, Changes, Link, Offloads, TunnelDevice, TunnelLink, Underlay, UnderlayError, set_offloads},
};

/// How long `take_down` waits for a daemon to notice that its device is gone.
const DAEMON_ENDS_WITHIN: Duration = Duration::from_secs(5);

/// How long after a failed request to the kernel everything is read anew.
const TRY_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Why a daemon ended.
enum End {
    /// It was told to end; the kernel goes on forwarding.
    Detached,
    /// It was told to take the tunnel down.
    TakenDown,
    /// Somebody else took the tunnel down.
    DeviceGone,
}

/// A path that the daemon looks after.
struct ManagedPath {
    peer: u32,
    id: u8,
    name: String,
    identity: PathIdentity,
    /// Index in the configuration's uplinks.
    uplink: usize,
    /// For a learned path: our address that the peer sends to, which must be the source of what we send.
    preferred_local: Option<IpAddr>,
    /// What stands in the map.
    written: PathEntry,
}

/// A running tunnel.
struct Daemon {
    config: Config,
    underlay: Underlay,
    device: TunnelLink,
    programs: LoadedPrograms,
    maps: Maps,
    attachments: Attachments,
    paths: Vec<ManagedPath>,
    /// Number of each of the configuration's peers.
    peer_numbers: Vec<u32>,
    automatic: Vec<PathSettings>,
    #[expect(dead_code, reason = "held for its drop: while it lives, no other daemon takes the tunnel")]
    lock: Lock,
    #[expect(dead_code, reason = "held so that no other program gets the tunnel's port")]
    port: Option<UdpSocket>,
}

/// Brings the tunnel up, or takes it over from a daemon that ended, and follows the network until it is told to end.
/// Calls `ready` when packets can pass.
pub async fn run(config: Config, bpffs: &Path, tc: TcHook, ready: impl FnOnce()) -> Result<()> {
    let mut interrupt = signal(SignalKind::interrupt()).context("can't wait for SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("can't wait for SIGTERM")?;
    let underlay = Underlay::open()?;
    let mut changes = Underlay::changes()?;
    let name = config.tunnel.name.clone();
    let pins = Pins::new(bpffs, &name);
    let was_up = pins.exist();
    let had_maps = pins.current_maps().ok();
    let mut daemon = match Daemon::start(config, underlay.clone(), &pins, tc).await {
        Ok(daemon) => daemon,
        Err(error) => {
            // A first start leaves nothing half-made behind; a tunnel that forwards already stays as it is.
            let cleaned = match had_maps {
                _ if pins.has_daemon() => Ok(()),
                _ if !was_up => remove(&underlay, &pins, &name).await,
                Some(maps) => pins.remove_other_layouts(&maps),
                None => Ok(()),
            };
            if let Err(left) = cleaned {
                warn!("can't clean up after the failed start: {left:#}");
            }
            return Err(error);
        }
    };
    let mut origins = daemon.maps.origin_events()?;
    daemon.learn_all().await?;
    ready();
    let end = daemon.follow(&mut changes, &mut origins, &mut interrupt, &mut terminate).await?;
    drop(daemon);
    match end {
        End::Detached => {
            info!("the daemon ends, the kernel goes on forwarding: `mpvpn down {name}` removes the tunnel");
        }
        End::DeviceGone => {
            info!(
                "the device {name} is gone, the daemon ends: `mpvpn down {name}` removes what may be left of the tunnel"
            );
        }
        End::TakenDown => remove(&underlay, &pins, &name).await?,
    }
    Ok(())
}

/// Takes a tunnel down, whether its daemon runs or not. `false` when there is none.
pub async fn take_down(bpffs: &Path, name: &str) -> Result<bool> {
    let underlay = Underlay::open()?;
    let pins = Pins::new(bpffs, name);
    let existed = pins.exist();
    let deleted = underlay.delete_tunnel(name).await?;
    let started = Instant::now();
    while existed && pins.has_daemon() {
        if started.elapsed() > DAEMON_ENDS_WITHIN {
            bail!("the daemon of {name} does not end although its device is gone: end it by hand, then run this again");
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    if existed {
        pins.remove()?;
    }
    Ok(existed || deleted)
}

/// Removes all that is the tunnel's. A device that has its name and is another's stays.
async fn remove(underlay: &Underlay, pins: &Pins, name: &str) -> Result<()> {
    match underlay.delete_tunnel(name).await {
        Ok(_) | Err(UnderlayError::NameTaken { .. }) => pins.remove(),
        Err(error) => Err(error.into()),
    }
}

impl Daemon {
    async fn start(config: Config, underlay: Underlay, pins: &Pins, tc: TcHook) -> Result<Self> {
        let name = config.tunnel.name.clone();
        let prefixes: usize = config.peers.iter().map(|peer| peer.allowed_ips.len()).sum();
        // One more: what keeps IPv6 prefixes from holding IPv4 addresses.
        let capacity = Capacity::for_counts(config.peers.len(), prefixes + 1);
        pins.prepare()?;
        let Some(lock) = pins.lock().await? else {
            bail!("another mpvpn is the daemon of {name} already: end it first, or `mpvpn down {name}`");
        };
        let directory = pins.prepare_maps(capacity)?;
        let old = underlay.tunnel(&name).await?;
        let device = underlay
            .ensure_tunnel(&tunnel_device(&config, old.map_or(crate::config::MTU_MIN, |old| old.device.mtu)))
            .await?;
        for (end, offloads) in [(&device.device, Offloads::DEVICE), (&device.port, Offloads::PORT)] {
            set_offloads(&end.name, offloads).with_context(|| format!("can't set the offloads of {}", end.name))?;
        }
        let mut programs = LoadedPrograms::load(&directory, capacity)?;
        programs.follow_log()?;
        let maps = Maps::open(&directory)?;
        let automatic = weights::automatic(&config.uplinks);
        let mut daemon = Self {
            port: bind_port(config.tunnel.listen_port).await,
            attachments: Attachments::new(pins.links(), tc),
            peer_numbers: Vec::new(),
            paths: Vec::new(),
            automatic,
            config,
            underlay,
            device,
            programs,
            maps,
            lock,
        };
        daemon.write_peers()?;
        daemon.write_local_addresses().await?;
        daemon.write_tunnel()?;
        let links = daemon.underlay.links().await?;
        // New ones first: if one of them can't be attached, the others still have their old programs.
        let mut uplinks = unattached(&daemon.config, &daemon.attachments, &links);
        uplinks.sort_by_key(|(uplink, link)| daemon.attachments.is_pinned(uplink, link));
        for (uplink, link) in uplinks {
            daemon.attachments.attach_uplink(&mut daemon.programs, uplink, link)?;
        }
        daemon.refresh(None).await?;
        // Weights, prefixes or the MTU may be others than the last daemon's although the paths are the same.
        daemon.maps.advance_automatic()?;
        daemon.adapt_mtu().await?;
        daemon.attachments.attach_egress(&mut daemon.programs, &daemon.device.port)?;
        daemon.underlay.set_addresses(&daemon.device.device, &daemon.config.tunnel.addresses).await?;
        if daemon.config.tunnel.routes == crate::config::Routes::Auto {
            let routes: Vec<_> = daemon.config.peers.iter().flat_map(|peer| peer.allowed_ips.clone()).collect();
            daemon.underlay.set_routes(&daemon.device.device, &routes).await?;
        }
        daemon.attachments.remove_stale(&daemon.device.port)?;
        pins.remove_other_layouts(&directory)?;
        Ok(daemon)
    }

    /// Waits for whatever comes next, and does it.
    async fn follow(
        &mut self,
        changes: &mut Changes,
        origins: &mut OriginEvents,
        interrupt: &mut Signal,
        terminate: &mut Signal,
    ) -> Result<End> {
        // A request that failed is no reason to stop following the network: everything is read anew soon.
        let mut again_at: Option<Instant> = None;
        loop {
            let again = async { tokio::time::sleep_until(again_at.unwrap_or_else(Instant::now)).await };
            let done = tokio::select! {
                change = changes.next() => {
                    let Some(change) = change else { bail!("the kernel's routing socket failed: start mpvpn again") };
                    self.apply(change).await
                }
                keys = origins.next() => self.learn_from(keys?).await,
                () = again, if again_at.is_some() => {
                    again_at = None;
                    self.apply(Change::Anything).await
                }
                _ = interrupt.recv() => return Ok(End::TakenDown),
                _ = terminate.recv() => return Ok(End::Detached),
            };
            match done {
                Ok(Some(end)) => return Ok(end),
                Ok(None) => {}
                Err(error) => {
                    warn!("the network changed, and not all of it could be followed: {error:#}; trying again");
                    again_at = Some(Instant::now() + TRY_AGAIN_AFTER);
                }
            }
        }
    }

    /// Learns from origins that the programs have just noted down.
    async fn learn_from(&mut self, keys: Vec<OriginKey>) -> Result<Option<End>> {
        for key in keys {
            self.learn(key).await?;
        }
        Ok(None)
    }

    fn write_tunnel(&mut self) -> Result<()> {
        let TunnelLink { device, port } = &self.device;
        self.maps.set_tunnel(TunnelEntry {
            device_ifindex: device.index,
            port_ifindex: port.index,
            mtu: device.mtu,
            listen_port: self.config.tunnel.listen_port,
            device_mac: device.mac.with_context(|| format!("{} has no hardware address", device.name))?,
            name: name_bytes(&self.config.tunnel.name),
        })
    }

    /// Writes peers, sessions, prefixes and the peers' configured paths.
    fn write_peers(&mut self) -> Result<()> {
        let had: Vec<(u32, [u8; 32])> =
            self.maps.peers()?.iter().map(|record| (record.number, record.peer.public_key)).collect();
        let wanted: Vec<[u8; 32]> = self.config.peers.iter().map(|peer| *peer.public_key.as_bytes()).collect();
        let numbers: Option<Vec<u32>> = assign(&wanted, &had, self.maps.peer_capacity()).into_iter().collect();
        self.peer_numbers = numbers.context("more peers than the maps hold")?;
        for (number, _) in had {
            if self.peer_numbers.contains(&number) {
                continue;
            }
            self.maps.set_peer(number, PeerEntry::zeroed())?;
            // Its number may become another peer's, who is not at these addresses.
            self.maps.forget_origins(number)?;
            for id in 0..MAX_PATHS as u8 {
                self.clear_path(number, id)?;
            }
        }
        let unix_ns =
            SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).context("the clock stands before 1970")?;
        let own = self.config.tunnel.private_key.public();
        let mut indices = BTreeSet::new();
        let mut prefixes = Vec::new();
        for (peer, &number) in self.config.peers.iter().zip(&self.peer_numbers) {
            warn!("peer {}: cipher = \"none\": nothing is encrypted, anybody on the way can read and forge", peer.name);
            let (index, session) = static_session::session(&own, &peer.public_key, number, unix_ns.as_nanos() as u64);
            if !indices.insert(index) {
                bail!("peer {}: its session index is another peer's too: make a new key for it", peer.name);
            }
            self.maps.add_session(index, &session)?;
            prefixes.extend(peer.allowed_ips.iter().map(|&prefix| (prefix, number)));
        }
        let indices: Vec<u32> = indices.into_iter().collect();
        for position in 0..self.config.peers.len() {
            self.number_paths(position)?;
        }
        self.maps.set_allowed_ips(&prefixes)?;
        self.maps.retain_sessions(&indices)
    }

    /// Gives the paths of a peer their ids: those that it had, as far as they are still configured or learned.
    fn number_paths(&mut self, position: usize) -> Result<()> {
        let peer = &self.config.peers[position];
        let number = self.peer_numbers[position];
        let had = self.maps.paths_of(number)?;
        let identity_of = |path: &PathEntry| PathIdentity {
            uplink: path.uplink,
            remote: SocketAddr::new(address_from(path.remote), path.remote_port),
            endpoint: path.endpoint,
            is_learned: path.learned != 0,
        };
        let mut wanted: Vec<(usize, PathIdentity)> = Vec::new();
        for candidate in self.config.candidates(peer) {
            let Some(remote) = candidate.endpoint else { continue };
            let uplink = name_bytes(&self.config.uplinks[candidate.uplink].name);
            let before = wanted.iter().filter(|(other, _)| *other == candidate.uplink).count();
            let identity = PathIdentity { uplink, remote, endpoint: before as u32, is_learned: false };
            wanted.push((candidate.uplink, identity));
        }
        for identity in had.iter().map(|record| identity_of(&record.path)).filter(|identity| identity.is_learned) {
            let uplink = self.config.uplinks.iter().position(|uplink| name_bytes(&uplink.name) == identity.uplink);
            if let Some(uplink) = uplink {
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
            let is_new = !had.contains(&(id, identity));
            let local = address_from(self.maps.path(number, id as u8)?.local);
            let preferred_local = Some(local).filter(|local| identity.is_learned && !is_new && !local.is_unspecified());
            self.add_path(position, id as u8, uplink, identity, preferred_local, is_new)?;
        }
        self.write_peer(position)
    }

    /// Takes a path under management; a new one starts down and without history.
    fn add_path(
        &mut self,
        position: usize,
        id: u8,
        uplink: usize,
        identity: PathIdentity,
        preferred_local: Option<IpAddr>,
        is_new: bool,
    ) -> Result<()> {
        let number = self.peer_numbers[position];
        if is_new {
            self.clear_path(number, id)?;
        }
        self.maps.set_automatic(number, id, self.automatic[uplink])?;
        let name = path_name(&self.config.peers[position].name, &identity);
        let written = self.maps.path(number, id)?;
        self.paths.push(ManagedPath { peer: number, id, name, identity, uplink, preferred_local, written });
        Ok(())
    }

    /// Puts a path id out of use.
    fn clear_path(&mut self, peer: u32, id: u8) -> Result<()> {
        self.maps.set_path(peer, id, PathEntry::zeroed())?;
        self.maps.set_operator(peer, id, PathSettings::zeroed())?;
        self.maps.reset_stats(peer, id)?;
        for peers_id in 0..MAX_PATHS as u8 {
            if self.maps.arrival_path(peer, peers_id)? == Some(id) {
                self.maps.set_arrival_path(peer, peers_id, None)?;
            }
        }
        Ok(())
    }

    /// Writes a peer's entry with the set of its paths.
    fn write_peer(&mut self, position: usize) -> Result<()> {
        let peer = &self.config.peers[position];
        let number = self.peer_numbers[position];
        let own = self.config.tunnel.private_key.public();
        let path_set = self.paths.iter().filter(|path| path.peer == number).fold(0, |set, path| set | 1 << path.id);
        self.maps.set_peer(
            number,
            PeerEntry {
                session: static_session::receiver_index(&own, &peer.public_key),
                path_set,
                name: name_bytes(&peer.name),
                public_key: *peer.public_key.as_bytes(),
            },
        )
    }

    async fn write_local_addresses(&mut self) -> Result<()> {
        let addresses: Vec<IpAddr> =
            self.underlay.addresses().await?.iter().map(|address| address.net.addr()).collect();
        self.maps.set_local_addresses(&addresses)
    }

    /// Applies a change of the underlay. `Some` when the daemon must end.
    async fn apply(&mut self, change: Change) -> Result<Option<End>> {
        debug!("{change:?}");
        match change {
            Change::LinkGone { index, .. } if index == self.device.device.index => return Ok(Some(End::DeviceGone)),
            Change::LinkGone { index, .. } => {
                self.put_down(|path| path.ifindex == index)?;
                for uplink in &self.config.uplinks {
                    if self.attachments.uplink(&uplink.name).is_some_and(|attached| attached.ifindex == index) {
                        self.attachments.forget_uplink(&uplink.name);
                    }
                }
                self.attachments.remove_stale(&self.device.port)?;
                self.refresh(Some(&[index])).await?;
            }
            Change::Link(link) => {
                if !link.is_usable() {
                    self.put_down(|path| path.ifindex == link.index)?;
                }
                if self.uplink_of(&link).is_some() {
                    self.refresh(Some(&[link.index])).await?;
                }
            }
            Change::AddressGone(address) => {
                let gone = address_bytes(address.net.addr());
                self.put_down(|path| path.ifindex == address.index && path.local == gone)?;
                self.write_local_addresses().await?;
                self.refresh(Some(&[address.index])).await?;
            }
            Change::Address(address) => {
                self.write_local_addresses().await?;
                self.refresh(Some(&[address.index])).await?;
            }
            // A full BGP table that flaps must not keep the daemon from what concerns its paths.
            Change::Route { prefix, .. }
                if !self.paths.iter().any(|path| prefix.contains(&path.identity.remote.ip())) => {}
            Change::Route { interfaces, .. } => {
                let all = interfaces.is_empty();
                self.refresh(if all { None } else { Some(&interfaces) }).await?;
            }
            // That the device is gone may be among the messages that were lost.
            Change::Anything if !self.has_device().await => return Ok(Some(End::DeviceGone)),
            Change::Anything => {
                self.write_local_addresses().await?;
                self.refresh(None).await?;
            }
        }
        Ok(None)
    }

    fn uplink_of(&self, link: &Link) -> Option<&Uplink> {
        self.config.uplinks.iter().find(|uplink| uplink.interface == link.name)
    }

    /// Puts paths down at once, before anything is asked of the kernel.
    fn put_down(&mut self, is_affected: impl Fn(&PathEntry) -> bool) -> Result<()> {
        let mut any = false;
        for path in &mut self.paths {
            if path.written.state == PATH_UP && is_affected(&path.written) {
                path.written = entry(&path.identity, None, self.config.tunnel.listen_port);
                self.maps.set_path(path.peer, path.id, path.written)?;
                info!("path {}: down", path.name);
                any = true;
            }
        }
        if any { self.maps.advance_automatic() } else { Ok(()) }
    }

    /// Looks up the way of every path, or of those whose uplink has one of these interface indices (or had, or may
    /// have now), and writes what changed. Attaches programs to uplinks that have appeared.
    async fn refresh(&mut self, interfaces: Option<&[u32]>) -> Result<()> {
        let links = self.underlay.links().await?;
        for (uplink, link) in unattached(&self.config, &self.attachments, &links) {
            // It may be gone again already; whatever happens to it next is another reason to try.
            if let Err(error) = self.attachments.attach_uplink(&mut self.programs, uplink, link) {
                warn!("uplink {}: {error:#}", uplink.name);
            }
        }
        let mut any = false;
        for index in 0..self.paths.len() {
            let path = &self.paths[index];
            let link = links.iter().find(|link| link.name == self.config.uplinks[path.uplink].interface);
            let concerned = |interfaces: &[u32]| {
                link.is_none_or(|link| interfaces.contains(&link.index)) || interfaces.contains(&path.written.ifindex)
            };
            if !interfaces.is_none_or(concerned) {
                continue;
            }
            let way = self.way(path, link).await?;
            let new = entry(&path.identity, way, self.config.tunnel.listen_port);
            let path = &mut self.paths[index];
            if bytemuck::bytes_of(&new) == bytemuck::bytes_of(&path.written) {
                continue;
            }
            self.maps.set_path(path.peer, path.id, new)?;
            if new.state == PATH_UP {
                let remote = path.identity.remote;
                info!("path {}: up, {} to {remote}, inner MTU {}", path.name, address_from(new.local), new.inner_mtu);
            } else {
                info!("path {}: down", path.name);
            }
            path.written = new;
            any = true;
        }
        if any {
            self.maps.advance_automatic()?;
            self.adapt_mtu().await?;
        }
        Ok(())
    }

    /// The way to a path's endpoint; `None` while there is none.
    async fn way(&self, path: &ManagedPath, link: Option<&Link>) -> Result<Option<Way>> {
        // What the peer sends on an uplink without programs would be lost.
        let attached = self.attachments.uplink(&self.config.uplinks[path.uplink].name);
        let has_programs = |link: &&Link| attached.is_some_and(|attached| attached.ifindex == link.index);
        let Some(link) = link.filter(|link| link.is_usable()).filter(has_programs) else { return Ok(None) };
        let remote = path.identity.remote.ip();
        let Some(route) = self.underlay.route_to(remote, link.index).await? else { return Ok(None) };
        let preferred = match path.preferred_local {
            Some(local) => {
                let addresses = self.underlay.addresses().await?;
                Some(local).filter(|local| addresses.iter().any(|address| address.net.addr() == *local))
            }
            None => None,
        };
        let mtu = route.mtu.unwrap_or(link.mtu).min(link.mtu);
        Ok(preferred.or(route.source).map(|local| Way { ifindex: link.index, local, next_hop: route.next_hop, mtu }))
    }

    /// Gives the device the MTU that the paths carry.
    async fn adapt_mtu(&mut self) -> Result<()> {
        let usable = self.paths.iter().filter(|path| path.written.state == PATH_UP).map(|path| path.written.inner_mtu);
        let Some(mtu) = device_mtu(self.config.tunnel.mtu, usable) else { return Ok(()) };
        // A device that was just taken down must not be made again.
        if mtu == self.device.device.mtu || !self.has_device().await {
            return Ok(());
        }
        if let Some(configured) = self.config.tunnel.mtu.filter(|configured| *configured > mtu) {
            warn!("the MTU is {mtu}, not {configured} as configured: the paths carry no more, not even in two parts");
        }
        self.device = self.underlay.ensure_tunnel(&tunnel_device(&self.config, mtu)).await?;
        self.write_tunnel()
    }

    /// Whether the tunnel's device is still there.
    async fn has_device(&self) -> bool {
        matches!(self.underlay.tunnel(&self.config.tunnel.name).await, Ok(Some(_)))
    }

    /// Learns from all origins that the programs have noted down, also while no daemon ran.
    async fn learn_all(&mut self) -> Result<()> {
        for key in self.maps.origins()? {
            self.learn(key).await?;
        }
        Ok(())
    }

    /// Learns by which of our paths the packets of a peer's path come; an address that no path has becomes a path.
    async fn learn(&mut self, key: OriginKey) -> Result<()> {
        let Some(origin) = self.maps.origin(key) else { return Ok(()) };
        let Some(position) = self.peer_numbers.iter().position(|number| *number == key.peer) else { return Ok(()) };
        let attached = |uplink: &Uplink| self.attachments.uplink(&uplink.name).map(|attached| attached.ifindex);
        let Some(uplink) = self.config.uplinks.iter().position(|uplink| attached(uplink) == Some(origin.ifindex))
        else {
            return Ok(());
        };
        let peers_id = key.path as u8;
        let remote = SocketAddr::new(address_from(origin.remote), origin.remote_port);
        let local = Some(address_from(origin.local));
        let known =
            |path: &&mut ManagedPath| path.peer == key.peer && path.uplink == uplink && path.identity.remote == remote;
        let arrives_by = self.maps.arrival_path(key.peer, peers_id)?;
        let id = if let Some(path) = self.paths.iter_mut().find(known) {
            if path.identity.is_learned {
                path.preferred_local = local;
            }
            path.id
        } else if let Some(path) = self.paths.iter_mut().find(|path| {
            path.peer == key.peer && Some(path.id) == arrives_by && path.identity.is_learned && path.uplink == uplink
        }) {
            info!("path {}: the peer's address is now {remote}", path.name);
            path.identity.remote = remote;
            path.preferred_local = local;
            path.id
        } else {
            let used = |id: u8| self.paths.iter().any(|path| path.peer == key.peer && path.id == id);
            let Some(id) = [peers_id].into_iter().chain(0..MAX_PATHS as u8).find(|id| !used(*id)) else {
                warn!("peer {}: more than {MAX_PATHS} paths, {remote} is left out", self.config.peers[position].name);
                return Ok(());
            };
            let same_uplink = |path: &&ManagedPath| path.peer == key.peer && path.uplink == uplink;
            let taken: Vec<u32> = self.paths.iter().filter(same_uplink).map(|path| path.identity.endpoint).collect();
            let endpoint = (0..=taken.len() as u32).find(|number| !taken.contains(number)).unwrap_or_default();
            let name = name_bytes(&self.config.uplinks[uplink].name);
            let identity = PathIdentity { uplink: name, remote, endpoint, is_learned: true };
            self.add_path(position, id, uplink, identity, local, true)?;
            self.write_peer(position)?;
            id
        };
        self.maps.set_arrival_path(key.peer, peers_id, Some(id))?;
        if let Some(old) = arrives_by.filter(|old| *old != id) {
            self.forget_learned(position, old)?;
        }
        self.refresh(Some(&[origin.ifindex])).await
    }

    /// Forgets a learned path that none of the peer's paths comes by any more: nobody is at that address.
    fn forget_learned(&mut self, position: usize, id: u8) -> Result<()> {
        let peer = self.peer_numbers[position];
        for peers_id in 0..MAX_PATHS as u8 {
            if self.maps.arrival_path(peer, peers_id)? == Some(id) {
                return Ok(());
            }
        }
        let is_it = |path: &ManagedPath| path.peer == peer && path.id == id && path.identity.is_learned;
        let Some(index) = self.paths.iter().position(is_it) else { return Ok(()) };
        info!("path {}: nothing comes from {} any more", self.paths[index].name, self.paths[index].identity.remote);
        self.paths.remove(index);
        self.write_peer(position)?;
        self.clear_path(peer, id)?;
        self.maps.advance_automatic()
    }
}

/// The uplinks whose interface is there and has none of our programs yet.
fn unattached<'a>(config: &'a Config, attachments: &Attachments, links: &'a [Link]) -> Vec<(&'a Uplink, &'a Link)> {
    let link_of = |uplink: &'a Uplink| Some((uplink, links.iter().find(|link| link.name == uplink.interface)?));
    let is_new = |(uplink, link): &(&Uplink, &Link)| {
        attachments.uplink(&uplink.name).is_none_or(|attached| attached.ifindex != link.index)
    };
    config.uplinks.iter().filter_map(link_of).filter(is_new).collect()
}

/// The name of a path: PEER/UPLINK, with a number from the second endpoint on.
fn path_name(peer: &str, identity: &PathIdentity) -> String {
    crate::observe::path_name(peer, &name_text(identity.uplink), identity.endpoint)
}

/// The tunnel's device. Its hardware addresses come from the key, so that they stay the same.
fn tunnel_device(config: &Config, mtu: u32) -> TunnelDevice {
    let hash = blake3::hash(config.tunnel.private_key.public().as_bytes());
    // 02: locally administered, not multicast (IEEE 802, section 8.4).
    let mac = |from: usize| {
        let bytes = hash.as_bytes();
        [0x02, 0x6d, 0x70, bytes[from], bytes[from + 1], bytes[from + 2]]
    };
    TunnelDevice { name: config.tunnel.name.clone(), mtu, mac: mac(0), port_mac: mac(3) }
}

/// Keeps the tunnel's port from other programs. The programs take the packets before any socket does, so a port that
/// is taken is no error.
async fn bind_port(port: u16) -> Option<UdpSocket> {
    match UdpSocket::bind(("::", port)).await {
        Ok(socket) => Some(socket),
        Err(error) => {
            warn!(
                "UDP port {port} is not free ({error}): if another tunnel has it, give one of them another listen_port, or \
                 one of them gets nothing; another program gets nothing from the uplinks while the tunnel is up"
            );
            None
        }
    }
}
