//! Other tunnels between the same two gateways, to be measured beside ours.

use super::boringtun::Boringtun;
use super::openvpn::OpenVpn;
use super::rig::{Rig, Way};
use crate::workspace::Workspace;
use crate::{boringtun, packages};

/// A tunnel of another kind that is up; it ends when this is dropped.
pub(crate) enum Peer {
    /// `OpenVPN`.
    OpenVpn(OpenVpn),
    /// `WireGuard` in user space.
    Boringtun(Boringtun),
}

/// The name of this project's tunnel in the report.
pub(crate) const OURS: &str = "ours";

/// The names of the peers in the report, and what they are.
pub(crate) const PEERS: [(&str, &str); 2] =
    [("openvpn", "OpenVPN (UDP, AES-256-GCM)"), ("boringtun", "boringtun (WireGuard)")];

impl Peer {
    /// Brings up the peer of this name over uplink number `uplink`. `None` where it cannot be had on this machine: why is
    /// said on standard error.
    pub(crate) fn start(name: &str, workspace: &Workspace, rig: &Rig, uplink: u8) -> Option<Self> {
        let started = match name {
            "openvpn" => packages::measured_beside().and_then(|()| OpenVpn::start(rig, uplink)).map(Self::OpenVpn),
            _ => boringtun::provide(workspace)
                .and_then(|program| Boringtun::start(&program, rig, uplink))
                .map(Self::Boringtun),
        };
        started.map_err(|error| eprintln!("  SKIPPED: {name} cannot be measured: {error:#}")).ok()
    }

    /// The way through it.
    pub(crate) fn way(&self) -> &Way {
        match self {
            Self::OpenVpn(peer) => peer.way(),
            Self::Boringtun(peer) => peer.way(),
        }
    }
}
