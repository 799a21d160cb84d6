//! What the tunnel does now: `mpvpn status --json` of both gateways and the links' own counters, as rates.

use std::time::Instant;

use anyhow::{Context, Result};
use serde::Deserialize;

/// Bytes that the tunnel adds to an inner packet over IPv4: IP 20, UDP 8, header 20, tag 16.
pub(crate) const OVERHEAD: u32 = 64;
/// Bytes of IPv4 and TCP headers, with timestamps, in an inner packet.
pub(crate) const INNER_HEADERS: u32 = 52;

/// Counters at one time.
#[derive(Clone)]
pub(crate) struct Snapshot {
    at: Instant,
    /// Inner MTU of the tunnel, bytes.
    pub(crate) mtu: u32,
    /// In the order of the uplinks.
    pub(crate) paths: Vec<PathCounters>,
    /// Packets that both gateways have dropped, whatever the reason.
    dropped: u64,
}

/// One path from the sending gateway to the receiving one.
#[derive(Clone)]
pub(crate) struct PathCounters {
    /// PEER/UPLINK, as `mpvpn` calls it at the sending gateway.
    pub(crate) name: String,
    /// Name of the uplink.
    pub(crate) uplink: String,
    health: String,
    rtt_us: Option<u32>,
    weight: u32,
    due_share: f64,
    /// Packets that have arrived through the path.
    pub(crate) packets: u64,
    bytes: u64,
    lost: u64,
}

/// What happened between two snapshots.
#[derive(Clone)]
pub(crate) struct Figures {
    /// In the order of the uplinks.
    pub(crate) paths: Vec<PathFigures>,
    /// Packets that the tunnel has dropped.
    pub(crate) dropped: u64,
}

/// One path between two snapshots.
#[derive(Clone)]
pub(crate) struct PathFigures {
    /// PEER/UPLINK.
    pub(crate) name: String,
    /// Name of the uplink.
    pub(crate) uplink: String,
    /// What the sender held of it at the end: `up`, `stalled`, `down` ...
    pub(crate) health: String,
    /// The smoothed round trip at the end, milliseconds.
    pub(crate) rtt_ms: Option<f64>,
    /// Weight in force at the end.
    pub(crate) weight: u32,
    /// Part of the usable paths' weights, 0 to 1.
    pub(crate) due_share: f64,
    /// Part of the payload, 0 to 1.
    pub(crate) share: f64,
    /// Payload that arrived, Mbit/s.
    pub(crate) mbps: f64,
    /// Packets that the link lost on their way: its queue was full, or its loss.
    pub(crate) lost: u64,
}

impl Snapshot {
    /// Joins the status of the sender and of the receiver; `lost` is what each uplink's link has lost.
    pub(crate) fn read(sender: &str, receiver: &str, lost: &[(&str, u64)]) -> Result<Self> {
        let at = Instant::now();
        let [sender, receiver] = [Tunnel::parse(sender)?, Tunnel::parse(receiver)?];
        let dropped = sender.drops.iter().chain(&receiver.drops).map(|drop| drop.packets).sum();
        let arrived: Vec<Path> = receiver.into_paths();
        let mtu = sender.mtu;
        let paths = sender.into_paths().into_iter().map(|path| {
            let far = arrived.iter().find(|far| far.uplink == path.uplink);
            let far = far.with_context(|| format!("the receiving gateway has no path of uplink {}", path.uplink))?;
            Ok(PathCounters {
                health: path.health,
                rtt_us: path.quality.rtt_us,
                weight: path.weight,
                due_share: path.share,
                packets: far.ingress.packets,
                bytes: far.ingress.bytes,
                lost: lost.iter().find(|(uplink, _)| *uplink == path.uplink).map_or(0, |(_, lost)| *lost),
                name: path.name,
                uplink: path.uplink,
            })
        });
        Ok(Self { at, mtu, paths: paths.collect::<Result<_>>()?, dropped })
    }

    /// What happened since an earlier snapshot of the same tunnel.
    pub(crate) fn since(&self, earlier: &Self) -> Figures {
        let seconds = self.at.duration_since(earlier.at).as_secs_f64().max(1e-3);
        let payload = |now: &PathCounters, before: &PathCounters| {
            let headers = (now.packets - before.packets) * u64::from(OVERHEAD + INNER_HEADERS);
            (now.bytes - before.bytes).saturating_sub(headers) as f64 * 8e-6 / seconds
        };
        let pairs = || self.paths.iter().zip(&earlier.paths);
        let total: f64 = pairs().map(|(now, before)| payload(now, before)).sum();
        let paths = pairs().map(|(now, before)| {
            let mbps = payload(now, before);
            PathFigures {
                name: now.name.clone(),
                uplink: now.uplink.clone(),
                health: now.health.clone(),
                rtt_ms: now.rtt_us.map(|us| f64::from(us) / 1e3),
                weight: now.weight,
                due_share: now.due_share,
                share: if total > 0.0 { mbps / total } else { 0.0 },
                mbps,
                lost: now.lost - before.lost,
            }
        });
        Figures { paths: paths.collect(), dropped: self.dropped - earlier.dropped }
    }

    /// Time since another snapshot, seconds.
    pub(crate) fn age(&self, earlier: &Self) -> f64 {
        self.at.duration_since(earlier.at).as_secs_f64()
    }
}

impl Figures {
    /// Payload of all paths, Mbit/s.
    pub(crate) fn total(&self) -> f64 {
        self.paths.iter().map(|path| path.mbps).sum()
    }

    /// The path of an uplink.
    pub(crate) fn path(&self, uplink: &str) -> Result<&PathFigures> {
        let path = self.paths.iter().find(|path| path.uplink == uplink);
        path.with_context(|| format!("`mpvpn status` shows no path of uplink {uplink}"))
    }

    /// The largest distance of a share from what the weights want, in points of a hundred.
    pub(crate) fn largest_deviation(&self) -> f64 {
        self.paths.iter().map(|path| (path.share - path.due_share).abs() * 100.0).fold(0.0, f64::max)
    }
}

/// The parts of `mpvpn status --json` that are read.
#[derive(Deserialize)]
struct Status {
    tunnels: Vec<Tunnel>,
}

#[derive(Deserialize)]
struct Tunnel {
    mtu: u32,
    peers: Vec<Peer>,
    drops: Vec<Drops>,
}

#[derive(Deserialize)]
struct Peer {
    paths: Vec<Path>,
}

#[derive(Deserialize)]
struct Path {
    name: String,
    uplink: String,
    health: String,
    quality: Quality,
    weight: u32,
    share: f64,
    ingress: Traffic,
}

#[derive(Deserialize)]
struct Quality {
    rtt_us: Option<u32>,
}

#[derive(Deserialize)]
struct Traffic {
    packets: u64,
    bytes: u64,
}

#[derive(Deserialize)]
struct Drops {
    packets: u64,
}

impl Tunnel {
    fn parse(text: &str) -> Result<Self> {
        let status: Status = serde_json::from_str(text).context("cannot read `mpvpn status --json`")?;
        status.tunnels.into_iter().next().context("`mpvpn status --json` shows no tunnel")
    }

    fn into_paths(self) -> Vec<Path> {
        self.peers.into_iter().flat_map(|peer| peer.paths).collect()
    }
}
