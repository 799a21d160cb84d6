//! What `mpvpn status --json` says.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use anyhow::{Context, Result};
use multipath_tests::Gateway;
use serde::Deserialize;

/// A tunnel.
#[derive(Clone, Debug, Deserialize)]
pub struct Status {
    pub name: String,
    pub mtu: u32,
    pub maps: String,
    peers: Vec<Peer>,
    drops: Vec<Drop>,
}

/// A path.
#[derive(Clone, Debug, Deserialize)]
pub struct Path {
    pub uplink: String,
    pub id: u8,
    pub state: String,
    pub remote: SocketAddr,
    pub learned: bool,
    pub inner_mtu: Option<u32>,
    pub egress: Traffic,
    pub ingress: Traffic,
}

/// One direction of a path.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Traffic {
    pub packets: u64,
}

#[derive(Clone, Debug, Deserialize)]
struct Peer {
    name: String,
    paths: Vec<Path>,
}

#[derive(Clone, Debug, Deserialize)]
struct Drop {
    reason: String,
    packets: u64,
}

impl Status {
    /// The status of tunnel `name` on a gateway.
    pub fn of(gateway: &Gateway, name: &str) -> Result<Self> {
        #[derive(Deserialize)]
        struct Document {
            tunnels: Vec<Status>,
        }
        let output = gateway.mpvpn(&["status", "--json"])?;
        let document: Document = serde_json::from_str(output.success()?).context("`mpvpn status --json`")?;
        let tunnel = document.tunnels.into_iter().find(|tunnel| tunnel.name == name);
        tunnel.with_context(|| format!("there is no tunnel {name}"))
    }

    /// The paths to all peers.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.peers.iter().flat_map(|peer| &peer.paths)
    }

    /// The paths to one peer.
    pub fn paths_to(&self, peer: &str) -> impl Iterator<Item = &Path> {
        self.peers.iter().filter(move |found| found.name == peer).flat_map(|found| &found.paths)
    }

    /// Packets dropped for a reason.
    pub fn dropped(&self, reason: &str) -> u64 {
        self.drops.iter().filter(|drop| drop.reason == reason).map(|drop| drop.packets).sum()
    }

    /// Packets dropped by reason, without those that a gateway's own multicast brings about.
    pub fn drops(&self) -> BTreeMap<String, u64> {
        let mut drops = BTreeMap::new();
        for drop in self.drops.iter().filter(|drop| drop.reason != "no_peer") {
            *drops.entry(drop.reason.clone()).or_default() += drop.packets;
        }
        drops
    }
}

impl Path {
    pub fn is_up(&self) -> bool {
        self.state == "up"
    }
}
