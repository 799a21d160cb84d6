//! The status of a tunnel as data: printed as tables by the commands, and as JSON.

use std::time::Duration;

use anyhow::Result;
use multipath_common::{
    maps::{Peer, TROUBLE_CIPHER, TROUBLE_NONE, TROUBLE_WEAK_KEY},
    playout::{STAGE_FQ, STAGE_LOADER, Stage},
};
use serde::Serialize;

use super::{
    bond::{BondRecord, BondStatus},
    interface_name,
    path::{PathStatus, paths_of},
};
use crate::{
    clock,
    config::{Cipher, PublicKey},
    dataplane::{Maps, Pins, name_text},
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
    /// Seconds since a probe was last answered: the age of what was measured. Absent when none was.
    pub measured_seconds: Option<f64>,
    /// Who holds packets that are delivered by time: `fq` (the queueing discipline), `daemon`, or `nobody`: then they are
    /// delivered at once.
    pub held_by: &'static str,
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
    /// How its paths are used together.
    pub bond: BondStatus,
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
        let bond = BondRecord::read(&maps, record.number)?;
        let paths = paths_of(&maps, record.number, &peer, &bond, now_ns)?;
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
            bond: bond.status(),
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
    let answered = peers.iter().flat_map(|peer| &peer.paths).filter_map(|path| path.quality.answered_seconds);
    Ok(TunnelStatus {
        name: name_text(tunnel.name),
        daemon: pins.has_daemon(),
        listen_port: tunnel.listen_port,
        mtu: tunnel.mtu,
        maps: maps.directory().display().to_string(),
        measured_seconds: answered.min_by(f64::total_cmp),
        held_by: match maps.stage()? {
            Stage { kind: STAGE_FQ, alive_until_ns, .. } if alive_until_ns > now_ns => "fq",
            Stage { kind: STAGE_LOADER, alive_until_ns, .. } if alive_until_ns > now_ns => "daemon",
            _ => "nobody",
        },
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
