//! What gateways know: their sessions, where their peers are, and what they have dropped.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use aya::maps::{Array, Map, MapData};
use multipath_common::maps::SessionKeys;
use multipath_loader::dataplane::{Maps, Pins};
use multipath_loader::observe::{PathStatus, TunnelStatus, collect};
use multipath_tests::Gateway;

/// Packets dropped, by reason.
pub type Drops = BTreeMap<&'static str, u64>;

/// What no stranger may change. Counters of packets and what is measured of paths, which genuine
/// probes move, are not in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// Receiver indices of the sessions that are sealed with, by peer.
    current: Vec<u32>,
    sessions: Vec<Session>,
    paths: Vec<String>,
    origins: Vec<String>,
}

/// A session of a gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Session {
    /// Receiver index at the gateway.
    pub index: u32,
    /// Receiver index at its peer.
    pub remote_index: u32,
    /// When it ends, nanoseconds of `CLOCK_BOOTTIME`.
    pub expires_ns: u64,
    /// The peer's packets are sealed with it.
    pub is_current: bool,
}

impl State {
    /// The state of tunnel `mp0` on a gateway.
    pub fn of(gateway: &Gateway) -> Result<Self> {
        let maps = maps(gateway)?;
        let mut origins = Vec::new();
        for key in maps.origins()? {
            origins.push(format!("{key:?} {:?}", maps.origin(key)));
        }
        origins.sort();
        let describe =
            |path: PathStatus| format!("{} {:?} -> {}, learned: {}", path.name, path.local, path.remote, path.learned);
        Ok(Self {
            current: maps.peers()?.iter().map(|record| record.peer.session).collect(),
            sessions: sessions(gateway)?,
            paths: paths(gateway)?.into_iter().map(describe).collect(),
            origins,
        })
    }
}

/// The maps of tunnel `mp0`.
pub fn maps(gateway: &Gateway) -> Result<Maps> {
    Maps::open(&Pins::new(gateway.bpffs(), "mp0").current_maps()?)
}

/// What `mpvpn status` says about tunnel `mp0`.
pub fn status(gateway: &Gateway) -> Result<TunnelStatus> {
    collect(&Pins::new(gateway.bpffs(), "mp0"))
}

/// All paths of tunnel `mp0`.
pub fn paths(gateway: &Gateway) -> Result<Vec<PathStatus>> {
    Ok(status(gateway)?.peers.into_iter().flat_map(|peer| peer.paths).collect())
}

/// All sessions of tunnel `mp0`.
pub fn sessions(gateway: &Gateway) -> Result<Vec<Session>> {
    let maps = maps(gateway)?;
    let mut sessions = Vec::new();
    for record in maps.peers()? {
        sessions.extend(maps.sessions_of(record.number)?.into_iter().map(|session| Session {
            index: session.index,
            remote_index: session.remote_index,
            expires_ns: session.expires_ns,
            is_current: session.index == record.peer.session,
        }));
    }
    sessions.sort();
    Ok(sessions)
}

/// The session that a gateway with one peer seals with.
pub fn current(gateway: &Gateway) -> Result<Option<Session>> {
    Ok(sessions(gateway)?.into_iter().find(|session| session.is_current))
}

/// Each of two gateways seals with a session that the other one has too.
pub fn have_keys(a: &Gateway, b: &Gateway) -> Result<bool> {
    let opens = |sealer: &Gateway, opener: &Gateway| -> Result<bool> {
        let Some(current) = current(sealer)? else { return Ok(false) };
        let matching =
            |session: &Session| (session.index, session.remote_index) == (current.remote_index, current.index);
        Ok(sessions(opener)?.iter().any(matching))
    };
    Ok(opens(a, b)? && opens(b, a)?)
}

/// What a gateway has dropped, but for the multicast of its own device.
pub fn drops(maps: &Maps) -> Result<Drops> {
    let mut drops = Drops::new();
    for count in maps.drops()? {
        *drops.entry(count.reason.name()).or_default() += count.packets;
    }
    drops.remove("no_peer");
    Ok(drops)
}

/// How many packets tunnel `mp0` of a gateway has dropped for a reason.
pub fn dropped(gateway: &Gateway, reason: &str) -> Result<u64> {
    Ok(drops(&maps(gateway)?)?.get(reason).copied().unwrap_or_default())
}

/// The keys in all slots of tunnel `mp0`, used or not.
pub fn session_keys(gateway: &Gateway) -> Result<Vec<SessionKeys>> {
    let pin = Pins::new(gateway.bpffs(), "mp0").current_maps()?.join("session_keys");
    let keys: Array<MapData, SessionKeys> = Map::Array(MapData::from_pin(pin)?).try_into()?;
    keys.iter().map(|keys| keys.context("can't read the map session_keys")).collect()
}
