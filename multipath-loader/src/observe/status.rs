//! The status of a tunnel as data: printed as tables by the commands, and as JSON.

use std::{net::SocketAddr, time::Duration};

use anyhow::Result;
use multipath_common::maps::{PATH_UP, Peer, TROUBLE_CIPHER, TROUBLE_NONE, TROUBLE_WEAK_KEY, Traffic, address_from};
use nix::net::if_::if_indextoname;
use serde::Serialize;

use super::path_name;
use crate::{
    clock,
    config::{Cipher, PublicKey},
    dataplane::{Maps, PathRecord, Pins, name_text},
};

/// A tunnel.
#[derive(Debug, Clone, Serialize)]
pub struct TunnelStatus {
    /// Name of the tunnel and its device.
    pub name: String,
    /// Whether its daemon runs.
    pub daemon: bool,
    /// UDP port that it listens on.
    pub listen_port: u16,
    /// MTU of its device, bytes.
    pub mtu: u32,
    /// Where its maps are pinned.
    pub maps: String,
    /// Its peers.
    pub peers: Vec<PeerStatus>,
    /// What was dropped, most packets first.
    pub drops: Vec<DropStatus>,
}

/// A peer.
#[derive(Debug, Clone, Serialize)]
pub struct PeerStatus {
    /// Name.
    pub name: String,
    /// Public key, base64.
    pub public_key: String,
    /// How packets are sealed, as configured: `chacha20-poly1305`, `auth` or `none`.
    pub cipher: &'static str,
    /// What packets are sealed with now; absent while there is no session.
    pub session: Option<SessionStatus>,
    /// Handshakes begun since the last one was through.
    pub handshake_attempts: u32,
    /// Why no handshake gets through, as far as that is known.
    pub trouble: Option<&'static str>,
    /// Its paths.
    pub paths: Vec<PathStatus>,
}

/// The session with a peer.
#[derive(Debug, Clone, Serialize)]
pub struct SessionStatus {
    /// How its packets are sealed: `chacha20-poly1305`, `auth` or `none`.
    pub cipher: &'static str,
    /// Our receiver index.
    pub index: u32,
    /// The peer's receiver index.
    pub remote_index: u32,
    /// Seconds since the handshake that made it.
    pub handshake_seconds: f64,
    /// Seconds until it ends, unless another one replaces it; negative when it has ended.
    pub expires_seconds: f64,
    /// Packets sealed with it.
    pub packets: u64,
}

/// A path.
#[derive(Debug, Clone, Serialize)]
pub struct PathStatus {
    /// PEER/UPLINK.
    pub name: String,
    /// Name of the uplink.
    pub uplink: String,
    /// Name of the uplink's interface now; absent while the path is down.
    pub interface: Option<String>,
    /// Path id on the wire.
    pub id: u8,
    /// Key of the path in the maps.
    pub key: u32,
    /// `up` or `down`.
    pub state: &'static str,
    /// The weight in force.
    pub weight: u32,
    /// The operator's weight; absent while it is automatic.
    pub operator_weight: Option<u32>,
    /// This path's part of the weights of the peer's usable paths, from 0 to 1.
    pub share: f64,
    /// The rate in force, kbit/s; absent when it is not known.
    pub rate_kbps: Option<u32>,
    /// Source address and port; absent while the path is down.
    pub local: Option<SocketAddr>,
    /// The peer's endpoint.
    pub remote: SocketAddr,
    /// Whether the endpoint was learned from the peer's packets.
    pub learned: bool,
    /// Largest inner packet that travels whole, bytes; absent while the path is down.
    pub inner_mtu: Option<u32>,
    /// From the inner network to the uplink.
    pub egress: TrafficStatus,
    /// From the uplink to the inner network.
    pub ingress: TrafficStatus,
}

/// One direction of a path.
#[derive(Debug, Clone, Serialize)]
pub struct TrafficStatus {
    /// Packets.
    pub packets: u64,
    /// Bytes of outer IP packets.
    pub bytes: u64,
    /// Seconds since the last packet; absent when there was none.
    pub last_seen_seconds: Option<f64>,
}

/// Packets dropped for one reason.
#[derive(Debug, Clone, Serialize)]
pub struct DropStatus {
    /// Why.
    pub reason: &'static str,
    /// The interface that they came in by.
    pub interface: String,
    /// The path, when it was known.
    pub path: Option<String>,
    /// Packets.
    pub packets: u64,
    /// Bytes of frames.
    pub bytes: u64,
}

/// Reads the status of the tunnel with these pins.
pub fn collect(pins: &Pins) -> Result<TunnelStatus> {
    let maps = Maps::open(&pins.current_maps()?)?;
    let tunnel = maps.tunnel()?;
    let now_ns = clock::since_boot()?.as_nanos() as u64;
    let mut peers = Vec::new();
    let mut names = Vec::new();
    for record in maps.peers()? {
        let peer = name_text(record.peer.name);
        let paths = maps.paths_of(record.number)?;
        let total: u64 =
            paths.iter().filter(|path| path.path.state == PATH_UP).map(|path| u64::from(path.weight())).sum();
        let paths: Vec<PathStatus> = paths.iter().map(|path| path_status(&peer, path, total, now_ns)).collect();
        names.extend(paths.iter().map(|path| ((record.number, path.id), path.name.clone())));
        peers.push(PeerStatus {
            name: peer,
            public_key: PublicKey::from(record.peer.public_key).to_string(),
            cipher: Cipher::from_number(record.peer.cipher).map_or("unknown", Cipher::name),
            session: session_status(&maps, &record.peer, now_ns)?,
            handshake_attempts: record.peer.attempts,
            trouble: match record.peer.trouble {
                TROUBLE_NONE => None,
                TROUBLE_CIPHER => Some("the peer's configuration names another cipher"),
                TROUBLE_WEAK_KEY => Some("the peer's public key is nobody's"),
                _ => Some("the peer's answers are not authentic: the preshared keys differ, or they are forged"),
            },
            paths,
        });
    }
    let drops = maps
        .drops()?
        .iter()
        .map(|count| DropStatus {
            reason: count.reason.name(),
            interface: interface_name(count.ifindex),
            path: count.path.and_then(|path| names.iter().find(|(key, _)| *key == path).map(|(_, name)| name.clone())),
            packets: count.packets,
            bytes: count.bytes,
        })
        .collect();
    Ok(TunnelStatus {
        name: name_text(tunnel.name),
        daemon: pins.has_daemon(),
        listen_port: tunnel.listen_port,
        mtu: tunnel.mtu,
        maps: maps.directory().display().to_string(),
        peers,
        drops,
    })
}

fn session_status(maps: &Maps, peer: &Peer, now_ns: u64) -> Result<Option<SessionStatus>> {
    let seconds = |from_ns: u64, to_ns: u64| {
        let distance = Duration::from_nanos(to_ns.abs_diff(from_ns)).as_secs_f64();
        if from_ns <= to_ns { distance } else { -distance }
    };
    Ok(maps.session(peer.session)?.map(|session| SessionStatus {
        cipher: Cipher::from_number(session.cipher).map_or("unknown", Cipher::name),
        index: session.index,
        remote_index: session.remote_index,
        handshake_seconds: seconds(peer.handshake_ns, now_ns),
        expires_seconds: seconds(now_ns, session.expires_ns),
        packets: session.next_counter,
    }))
}

#[expect(clippy::cast_precision_loss, reason = "16 weights of 32 bits stay far below 2^52")]
fn path_status(peer: &str, record: &PathRecord, total_weight: u64, now_ns: u64) -> PathStatus {
    let path = &record.path;
    let up = path.state == PATH_UP;
    let uplink = name_text(path.uplink);
    let share = if up && total_weight != 0 { f64::from(record.weight()) / total_weight as f64 } else { 0.0 };
    PathStatus {
        name: path_name(peer, &uplink, path.endpoint),
        uplink,
        interface: up.then(|| interface_name(path.ifindex)),
        id: record.id,
        key: record.slot(),
        state: if up { "up" } else { "down" },
        weight: record.weight(),
        operator_weight: Some(record.operator.weight).filter(|weight| *weight != 0),
        share,
        rate_kbps: Some(record.rate_kbps()).filter(|rate| *rate != 0),
        local: up.then(|| SocketAddr::new(address_from(path.local), path.local_port)),
        remote: SocketAddr::new(address_from(path.remote), path.remote_port),
        learned: path.learned != 0,
        inner_mtu: up.then_some(path.inner_mtu),
        egress: traffic_status(&record.stats.egress, now_ns),
        ingress: traffic_status(&record.stats.ingress, now_ns),
    }
}

fn traffic_status(traffic: &Traffic, now_ns: u64) -> TrafficStatus {
    let ago = (traffic.last_seen_ns != 0)
        .then(|| Duration::from_nanos(now_ns.saturating_sub(traffic.last_seen_ns)).as_secs_f64());
    TrafficStatus { packets: traffic.packets, bytes: traffic.bytes, last_seen_seconds: ago }
}

/// The name of an interface, or its index when it is gone.
fn interface_name(ifindex: u32) -> String {
    let name = if_indextoname(ifindex).unwrap_or_default().to_string_lossy().into_owned();
    if name.is_empty() { format!("#{ifindex}") } else { name }
}
