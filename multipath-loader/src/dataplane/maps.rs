//! Typed access to the pinned maps. Which of them a process may write is said in `multipath_common::maps`.

use std::{
    collections::{BTreeMap, BTreeSet},
    marker::PhantomData,
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use aya::maps::{
    Array, HashMap, LpmTrie, Map, MapData, PerCpuArray, PerCpuHashMap, PerCpuValues, RingBuf, lpm_trie::Key,
};
use bytemuck::{AnyBitPattern, Zeroable};
use ipnet::{IpNet, Ipv4Net};
use multipath_common::quality::{Arrivals, PathClock, PathLogEntry, PathQuality};
use multipath_common::{
    bond::{Bond, BondMember},
    classes::{ClassRule, ClassStats, Destination, DestinationKey, Lead},
    drops::DropReason,
    maps::{
        Address, ControlEvent, DropKey, DropStats, Flow, FlowKey, GENERATION_AUTOMATIC, GENERATION_OPERATOR,
        MAX_LOCAL_ADDRESSES, MAX_PATHS, NAME_LEN, NO_PEER, Origin, OriginKey, PATH_DOWN, PATH_UNUSED,
        Path as PathEntry, PathSettings, PathStats, Peer, SESSIONS_PER_PEER, Session, SessionKeys, Traffic, Tunnel,
        address_bytes, first_session_slot, path_slot, session_slot,
    },
    playout::{Playout, Stage},
};
use tokio::io::unix::AsyncFd;
use zeroize::Zeroize as _;

use crate::clock;

pub use self::{leads::FlowEvents, playout::PlayoutMaps, quality::ProbeEvents};

/// Flag of the system call: copy under the value's lock (`BPF_F_LOCK`, linux/bpf.h).
const UNDER_LOCK: u64 = 4;

/// Events that one turn takes, so that a flood of them leaves time for everything else.
const EVENTS_PER_TURN: usize = 64;

/// A peer and its number.
#[derive(Clone, Copy, Debug)]
pub struct PeerRecord {
    /// Number of the peer.
    pub number: u32,
    /// What stands in the map.
    pub peer: Peer,
}

/// A path with everything that is known of it.
#[derive(Clone, Copy, Debug)]
pub struct PathRecord {
    /// Number of the peer.
    pub peer: u32,
    /// Path id.
    pub id: u8,
    /// What stands in `paths`.
    pub path: PathEntry,
    /// The daemon's settings.
    pub automatic: PathSettings,
    /// The operator's settings; 0 means automatic.
    pub operator: PathSettings,
    /// Sums over all CPUs.
    pub stats: PathStats,
}

impl PathRecord {
    /// Key of the path in the maps.
    pub const fn slot(&self) -> u32 {
        path_slot(self.peer, self.id)
    }

    /// The weight in force.
    pub const fn weight(&self) -> u32 {
        if self.operator.weight != 0 { self.operator.weight } else { self.automatic.weight }
    }

    /// The rate in force, kbit/s; 0 when it is not known.
    pub const fn rate_kbps(&self) -> u32 {
        if self.operator.rate_kbps != 0 { self.operator.rate_kbps } else { self.automatic.rate_kbps }
    }
}

/// Packets dropped for one reason, summed over all CPUs.
#[derive(Clone, Copy, Debug)]
pub struct DropCount {
    /// Why.
    pub reason: DropReason,
    /// Interface index that they came in by.
    pub ifindex: u32,
    /// Peer number and path id, when the path was known.
    pub path: Option<(u32, u8)>,
    /// Packets.
    pub packets: u64,
    /// Bytes of frames.
    pub bytes: u64,
}

/// The maps of one tunnel.
pub struct Maps {
    directory: PathBuf,
    tunnel: Array<MapData, Tunnel>,
    spreading: Array<MapData, u32>,
    generation: Array<MapData, u64>,
    allowed_ips: LpmTrie<MapData, [u8; 16], u32>,
    local_addresses: HashMap<MapData, Address, u32>,
    peers: Array<MapData, Peer>,
    sessions: Array<MapData, Session>,
    session_keys: Array<MapData, SessionKeys>,
    paths: Array<MapData, PathEntry>,
    path_automatic: Array<MapData, PathSettings>,
    path_operator: Array<MapData, PathSettings>,
    arrival_paths: Array<MapData, u32>,
    path_stats: PerCpuArray<MapData, PathStats>,
    drops: PerCpuHashMap<MapData, DropKey, DropStats>,
    origins: HashMap<MapData, OriginKey, Origin>,
    arrivals: Array<MapData, Arrivals>,
    path_clocks: Array<MapData, PathClock>,
    path_quality: Array<MapData, PathQuality>,
    path_log: Array<MapData, PathLogEntry>,
    bonds: Array<MapData, Bond>,
    bond_members: Array<MapData, BondMember>,
    playouts: Array<MapData, Playout>,
    playout_stage: Array<MapData, Stage>,
    class_rules: Array<MapData, ClassRule>,
    class_stats: PerCpuArray<MapData, ClassStats>,
    flows: HashMap<MapData, FlowKey, Flow>,
    leads: HashMap<MapData, FlowKey, Lead>,
    destinations: HashMap<MapData, DestinationKey, Destination>,
}

fn open(directory: &Path, name: &str) -> Result<MapData> {
    let pin = directory.join(name);
    MapData::from_pin(&pin).with_context(|| format!("can't open the map {}", pin.display()))
}

macro_rules! typed {
    ($directory:expr, $name:literal, $kind:ident) => {
        Map::$kind(open($directory, $name)?)
            .try_into()
            .with_context(|| format!("the map {} is of another layout", $directory.join($name).display()))?
    };
}

mod bond;
mod classes;
mod leads;
mod playout;
mod quality;

impl Maps {
    /// Opens the maps that are pinned in a directory.
    pub fn open(directory: &Path) -> Result<Self> {
        Ok(Self {
            directory: directory.to_owned(),
            tunnel: typed!(directory, "tunnel", Array),
            spreading: typed!(directory, "spreading", Array),
            generation: typed!(directory, "generation", Array),
            allowed_ips: typed!(directory, "allowed_ips", LpmTrie),
            local_addresses: typed!(directory, "local_addresses", HashMap),
            peers: typed!(directory, "peers", Array),
            sessions: typed!(directory, "sessions", Array),
            session_keys: typed!(directory, "session_keys", Array),
            paths: typed!(directory, "paths", Array),
            path_automatic: typed!(directory, "path_automatic", Array),
            path_operator: typed!(directory, "path_operator", Array),
            arrival_paths: typed!(directory, "arrival_paths", Array),
            path_stats: typed!(directory, "path_stats", PerCpuArray),
            drops: typed!(directory, "drops", PerCpuLruHashMap),
            origins: typed!(directory, "origins", HashMap),
            arrivals: typed!(directory, "arrivals", Array),
            path_clocks: typed!(directory, "path_clocks", Array),
            path_quality: typed!(directory, "path_quality", Array),
            path_log: typed!(directory, "path_log", Array),
            bonds: typed!(directory, "bonds", Array),
            bond_members: typed!(directory, "bond_members", Array),
            playouts: typed!(directory, "playouts", Array),
            playout_stage: typed!(directory, "playout_stage", Array),
            class_rules: typed!(directory, "class_rules", Array),
            class_stats: typed!(directory, "class_stats", PerCpuArray),
            flows: typed!(directory, "flows", LruHashMap),
            leads: typed!(directory, "leads", LruHashMap),
            destinations: typed!(directory, "destinations", LruHashMap),
        })
    }

    /// Where the maps are pinned.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// How many peers fit.
    pub fn peer_capacity(&self) -> u32 {
        self.peers.len()
    }

    /// The tunnel.
    pub fn tunnel(&self) -> Result<Tunnel> {
        self.tunnel.get(&0, 0).context("can't read the map tunnel")
    }

    /// Writes the tunnel.
    pub fn set_tunnel(&mut self, tunnel: Tunnel) -> Result<()> {
        self.tunnel.set(0, tunnel, 0).context("can't write the map tunnel")
    }

    /// Lets the programs spread their work over so many processors, from the first one on; below two, not at all.
    pub fn set_spreading(&mut self, cpus: u32) -> Result<()> {
        self.spreading.set(0, cpus, 0).context("can't write the map spreading")
    }

    /// Makes the programs choose anew for every flow, after the daemon changed something that choices depend on.
    pub fn advance_automatic(&mut self) -> Result<()> {
        self.advance(GENERATION_AUTOMATIC)
    }

    /// The same, after the command line changed something.
    pub fn advance_operator(&mut self) -> Result<()> {
        self.advance(GENERATION_OPERATOR)
    }

    fn advance(&mut self, writer: u32) -> Result<()> {
        let generation = self.generation.get(&writer, 0).context("can't read the map generation")?;
        // Two command lines at once must not write the same number: nobody would notice the second one.
        let next = (generation + 1).max(clock::since_boot()?.as_nanos() as u64);
        self.generation.set(writer, next, 0).context("can't write the map generation")
    }

    /// Makes the prefixes of the peers exactly these. Prefixes that stay are never missing in between.
    pub fn set_allowed_ips(&mut self, wanted: &[(IpNet, u32)]) -> Result<()> {
        let has_mapped_range = |net: &IpNet| net.contains(&IpAddr::V6(Ipv4Addr::UNSPECIFIED.to_ipv6_mapped()));
        let is_barred = wanted.iter().any(|(prefix, _)| has_mapped_range(prefix));
        // IPv4 addresses lie in the IPv4-mapped range, which an IPv6 prefix as short as ::/0 holds but does not mean.
        let barrier = is_barred.then(|| (trie_key(Ipv4Net::default().into()), NO_PEER));
        let wanted: BTreeMap<(u32, [u8; 16]), u32> =
            barrier.into_iter().chain(wanted.iter().map(|(prefix, peer)| (trie_key(*prefix), *peer))).collect();
        for (&(len, data), peer) in &wanted {
            self.allowed_ips.insert(&Key::new(len, data), peer, 0).context("can't write the map allowed_ips")?;
        }
        let present: Vec<Key<[u8; 16]>> = self.allowed_ips.keys().collect::<Result<_, _>>()?;
        for key in present {
            if !wanted.contains_key(&(key.prefix_len(), key.data())) {
                self.allowed_ips.remove(&key).context("can't write the map allowed_ips")?;
            }
        }
        Ok(())
    }

    /// Makes the gateway's own addresses exactly these, as far as there is room: a packet to one that is left out, and of
    /// no session, reaches the kernel instead of being counted as dropped.
    pub fn set_local_addresses(&mut self, wanted: &[IpAddr]) -> Result<()> {
        let failed = "can't write the map local_addresses";
        let wanted: BTreeSet<[u8; 16]> = wanted.iter().copied().map(address_bytes).take(MAX_LOCAL_ADDRESSES).collect();
        let present: Vec<Address> = self.local_addresses.keys().collect::<Result<_, _>>().context(failed)?;
        for old in present.iter().filter(|old| !wanted.contains(&old.address)) {
            self.local_addresses.remove(old).context(failed)?;
        }
        for address in wanted {
            self.local_addresses.insert(Address { address }, 1, 0).context(failed)?;
        }
        Ok(())
    }

    /// All peers.
    pub fn peers(&self) -> Result<Vec<PeerRecord>> {
        let mut peers = Vec::new();
        for number in 0..self.peers.len() {
            let peer = self.peers.get(&number, 0).context("can't read the map peers")?;
            if peer.public_key != [0; 32] {
                peers.push(PeerRecord { number, peer });
            }
        }
        Ok(peers)
    }

    /// Writes a peer; an entry without public key is none.
    pub fn set_peer(&mut self, number: u32, peer: Peer) -> Result<()> {
        self.peers.set(number, peer, 0).context("can't write the map peers")
    }

    /// Fills the empty slot that the session's index names. The keys (RFC 8439) are those of either direction.
    ///
    /// # Errors
    /// The slot holds another session, or the kernel refuses.
    pub fn fill_session(&mut self, session: &Session, send: &[u8; 32], receive: &[u8; 32]) -> Result<()> {
        let slot = session_slot(session.index);
        ensure!(self.session_at(slot)?.index == 0, "the session slot {slot} is taken");
        let mut keys = SessionKeys { send: key_words(send), receive: key_words(receive) };
        #[expect(clippy::needless_borrows_for_generic_args, reason = "a copy would not be wiped")]
        let written = self.session_keys.set(slot, &keys, 0);
        bytemuck::bytes_of_mut(&mut keys).zeroize();
        written.context("can't write the map session_keys")?;
        for index in [0, session.index] {
            self.set_session(slot, &Session { index, ..*session })?;
        }
        Ok(())
    }

    /// Empties the slot of a session, unless the session is gone. The keys stay for programs that are under way:
    /// [`Self::wipe_session`] when [`WIPE_DELAY_MS`](multipath_common::maps::WIPE_DELAY_MS) have passed.
    pub fn retire_session(&mut self, index: u32) -> Result<()> {
        if self.session(index)?.is_none() {
            return Ok(());
        }
        self.set_session(session_slot(index), &Session::RETIRED)
    }

    /// Makes the keys of a retired session zero; its slot is free then.
    ///
    /// # Errors
    /// The slot is not empty, or the kernel refuses.
    pub fn wipe_session(&mut self, index: u32) -> Result<()> {
        let slot = session_slot(index);
        ensure!(self.session_at(slot)?.index == 0, "the session slot {slot} is in use");
        self.session_keys.set(slot, SessionKeys::zeroed(), 0).context("can't write the map session_keys")
    }

    /// Does so for all empty slots: a daemon that died may have retired sessions and not wiped them.
    pub fn wipe_empty_slots(&mut self) -> Result<()> {
        for slot in 0..self.sessions.len() {
            if self.session_at(slot)?.index == 0 {
                self.session_keys.set(slot, SessionKeys::zeroed(), 0).context("can't write the map session_keys")?;
            }
        }
        Ok(())
    }

    /// The session with this receiver index (ours), if there is one.
    pub fn session(&self, index: u32) -> Result<Option<Session>> {
        let slot = session_slot(index);
        if index == 0 || slot >= self.sessions.len() {
            return Ok(None);
        }
        Ok(Some(self.session_at(slot)?).filter(|session| session.index == index))
    }

    /// The sessions with a peer.
    pub fn sessions_of(&self, peer: u32) -> Result<Vec<Session>> {
        let first = first_session_slot(peer);
        let slots = first..first + SESSIONS_PER_PEER as u32;
        let sessions = slots.map(|slot| self.session_at(slot)).filter(|session| {
            // An error is kept, and ends the collection.
            session.as_ref().map_or(true, |session| session.index != 0)
        });
        sessions.collect()
    }

    fn session_at(&self, slot: u32) -> Result<Session> {
        self.sessions.get(&slot, UNDER_LOCK).context("can't read the map sessions")
    }

    fn set_session(&mut self, slot: u32, session: &Session) -> Result<()> {
        self.sessions.set(slot, session, UNDER_LOCK).context("can't write the map sessions")
    }

    /// A path's entry.
    pub fn path(&self, peer: u32, id: u8) -> Result<PathEntry> {
        self.paths.get(&path_slot(peer, id), 0).context("can't read the map paths")
    }

    /// Writes a path's entry: first out of use, then in full, so that no program uses half of it.
    pub fn set_path(&mut self, peer: u32, id: u8, path: PathEntry) -> Result<()> {
        if !matches!(path.state, PATH_UNUSED | PATH_DOWN) {
            self.amend_path(peer, id, PathEntry { state: PATH_DOWN, ..path })?;
        }
        self.amend_path(peer, id, path)
    }

    /// Writes a path's entry that differs from what stands there by its state or its MTU alone, or is out of use.
    pub fn amend_path(&mut self, peer: u32, id: u8, path: PathEntry) -> Result<()> {
        self.paths.set(path_slot(peer, id), path, 0).context("can't write the map paths")
    }

    /// Writes the daemon's settings of a path.
    pub fn set_automatic(&mut self, peer: u32, id: u8, settings: PathSettings) -> Result<()> {
        self.path_automatic.set(path_slot(peer, id), settings, 0).context("can't write the map path_automatic")
    }

    /// Writes the operator's settings of a path.
    pub fn set_operator(&mut self, peer: u32, id: u8, settings: PathSettings) -> Result<()> {
        self.path_operator.set(path_slot(peer, id), settings, 0).context("can't write the map path_operator")
    }

    /// All paths of a peer.
    pub fn paths_of(&self, peer: u32) -> Result<Vec<PathRecord>> {
        let mut records = Vec::new();
        for id in 0..MAX_PATHS as u8 {
            let slot = path_slot(peer, id);
            let path = self.path(peer, id)?;
            if path.state == PATH_UNUSED {
                continue;
            }
            records.push(PathRecord {
                peer,
                id,
                path,
                automatic: self.path_automatic.get(&slot, 0).context("can't read the map path_automatic")?,
                operator: self.path_operator.get(&slot, 0).context("can't read the map path_operator")?,
                stats: self.path_stats(slot)?,
            });
        }
        Ok(records)
    }

    /// Sets the counters of a path to zero and forgets what was measured, while no program uses it: its id is given to
    /// another path.
    pub fn reset_stats(&mut self, peer: u32, id: u8) -> Result<()> {
        self.reset_measurements(path_slot(peer, id))?;
        self.path_stats.set(path_slot(peer, id), zeroed_per_cpu()?, 0).context("can't write the map path_stats")
    }

    /// What passed over the path with this key, summed over all CPUs.
    pub fn path_stats(&self, slot: u32) -> Result<PathStats> {
        let values = self.path_stats.get(&slot, 0).context("can't read the map path_stats")?;
        Ok(PathStats {
            egress: sum(values.iter().map(|stats| stats.egress)),
            doubled: values.iter().map(|stats| stats.doubled).sum(),
            doubled_bytes: values.iter().map(|stats| stats.doubled_bytes).sum(),
            ingress: sum(values.iter().map(|stats| stats.ingress)),
        })
    }

    /// Our path for packets of a peer's path id; `None` when it is not known.
    pub fn arrival_path(&self, peer: u32, peers_id: u8) -> Result<Option<u8>> {
        let entry =
            self.arrival_paths.get(&path_slot(peer, peers_id), 0).context("can't read the map arrival_paths")?;
        Ok(entry.checked_sub(1).map(|slot| (slot % MAX_PATHS as u32) as u8))
    }

    /// Says by which of our paths the packets of a peer's path id come.
    pub fn set_arrival_path(&mut self, peer: u32, peers_id: u8, ours: Option<u8>) -> Result<()> {
        let entry = ours.map_or(0, |id| path_slot(peer, id) + 1);
        self.arrival_paths.set(path_slot(peer, peers_id), entry, 0).context("can't write the map arrival_paths")
    }

    /// What was dropped, summed over all CPUs, most packets first.
    pub fn drops(&self) -> Result<Vec<DropCount>> {
        let mut counts = Vec::new();
        for item in &self.drops {
            let (key, values) = item.context("can't read the map drops")?;
            let Some(reason) = DropReason::from_number(key.reason) else { continue };
            counts.push(DropCount {
                reason,
                ifindex: key.ifindex,
                path: key.path.checked_sub(1).map(|slot| (slot / MAX_PATHS as u32, (slot % MAX_PATHS as u32) as u8)),
                packets: values.iter().map(|stats| stats.packets).sum(),
                bytes: values.iter().map(|stats| stats.bytes).sum(),
            });
        }
        counts.sort_by_key(|count| std::cmp::Reverse(count.packets));
        Ok(counts)
    }

    /// Where the packets of a peer's path come from.
    pub fn origin(&self, key: OriginKey) -> Option<Origin> {
        self.origins.get(&key, 0).ok()
    }

    /// All of them.
    pub fn origins(&self) -> Result<Vec<OriginKey>> {
        self.origins.keys().collect::<Result<_, _>>().context("can't read the map origins")
    }

    /// Forgets where the packets of a peer's path came from.
    pub fn forget_origin(&mut self, key: OriginKey) -> Result<()> {
        self.origins.remove(&key).context("can't write the map origins")
    }

    /// Forgets where the packets of a peer came from.
    pub fn forget_origins(&mut self, peer: u32) -> Result<()> {
        for key in self.origins()?.iter().filter(|key| key.peer == peer) {
            self.origins.remove(key).context("can't write the map origins")?;
        }
        Ok(())
    }

    /// The events about new origins.
    pub fn origin_events(&self) -> Result<OriginEvents> {
        Events::of(typed!(&self.directory, "origin_events", RingBuf), "origin_events")
    }

    /// The control messages that came.
    pub fn control_events(&self) -> Result<ControlEvents> {
        Events::of(typed!(&self.directory, "control_events", RingBuf), "control_events")
    }
}

/// Makes all session keys in a directory of maps zero, whatever the layout of the other maps is.
///
/// # Errors
/// There is no such map, its entries have another size, or the kernel refuses.
pub fn wipe_session_keys(directory: &Path) -> Result<()> {
    let mut keys: Array<MapData, SessionKeys> = typed!(directory, "session_keys", Array);
    for slot in 0..keys.len() {
        keys.set(slot, SessionKeys::zeroed(), 0).context("can't write the map session_keys")?;
    }
    Ok(())
}

/// The events about new origins.
pub type OriginEvents = Events<OriginKey>;
/// The control messages that came.
pub type ControlEvents = Events<ControlEvent>;

/// A ring buffer of events.
pub struct Events<T> {
    ring: AsyncFd<RingBuf<MapData>>,
    name: &'static str,
    event: PhantomData<T>,
}

impl<T: AnyBitPattern> Events<T> {
    fn of(ring: RingBuf<MapData>, name: &'static str) -> Result<Self> {
        // SAFETY: the ring buffer owns its descriptor, and does not change or close it before it is dropped.
        let ring = unsafe { AsyncFd::register(ring) }.with_context(|| format!("can't wait for {name}"))?;
        Ok(Self { ring, name, event: PhantomData })
    }

    /// Waits for events and returns them in their order, [`EVENTS_PER_TURN`] at most.
    pub async fn next(&mut self) -> Result<Vec<T>> {
        loop {
            let mut ready = self.ring.readable_mut().await.with_context(|| format!("can't wait for {}", self.name))?;
            let mut events = Vec::new();
            loop {
                if events.len() == EVENTS_PER_TURN {
                    // More may wait: the ring stays ready.
                    return Ok(events);
                }
                let Some(item) = ready.get_inner_mut().next() else { break };
                if let Ok(event) = bytemuck::try_pod_read_unaligned::<T>(&item) {
                    events.push(event);
                }
            }
            ready.clear_ready();
            if !events.is_empty() {
                return Ok(events);
            }
        }
    }
}

/// A key as the cipher reads it.
fn key_words(bytes: &[u8; 32]) -> [u32; 8] {
    std::array::from_fn(|word| u32::from_le_bytes(std::array::from_fn(|byte| bytes[word * 4 + byte])))
}

/// A value of zeros for each CPU.
fn zeroed_per_cpu<T: aya::Pod + Zeroable>() -> Result<PerCpuValues<T>> {
    let cpus = aya::util::nr_cpus().map_err(|(file, error)| anyhow::anyhow!("can't read {file}: {error}"))?;
    PerCpuValues::try_from(vec![T::zeroed(); cpus]).context("can't make per-CPU values")
}

fn sum(values: impl Iterator<Item = Traffic>) -> Traffic {
    values.fold(Traffic { packets: 0, bytes: 0, last_seen_ns: 0 }, |sum, cpu| Traffic {
        packets: sum.packets + cpu.packets,
        bytes: sum.bytes + cpu.bytes,
        last_seen_ns: sum.last_seen_ns.max(cpu.last_seen_ns),
    })
}

/// A prefix as the trie stores it: IPv4 prefixes lie in the IPv4-mapped range.
fn trie_key(prefix: IpNet) -> (u32, [u8; 16]) {
    let len = u32::from(prefix.prefix_len());
    let offset = if prefix.addr().is_ipv4() { 96 } else { 0 };
    (len + offset, address_bytes(prefix.network()))
}

/// A name as the maps store it: zero-padded.
pub fn name_bytes(name: &str) -> [u8; NAME_LEN] {
    let mut bytes = [0; NAME_LEN];
    let len = name.len().min(NAME_LEN - 1);
    bytes[..len].copy_from_slice(&name.as_bytes()[..len]);
    bytes
}

/// A name of the maps.
pub fn name_text(bytes: [u8; NAME_LEN]) -> String {
    String::from_utf8_lossy(&bytes).trim_end_matches('\0').to_owned()
}
