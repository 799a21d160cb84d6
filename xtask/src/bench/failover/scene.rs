//! Two gateways with a tunnel over all their links, ready for an experiment.

use std::net::Ipv4Addr;

use anyhow::{Context, Result};
use multipath_tests::{Daemon, Gateway, Process, Topology, TunnelConfig, eventually};
use serde::Deserialize;

use super::case::{Case, Kind, STRICKEN};
use super::mptcp::{self, OpenVpnMptcp};

const TUNNEL: &str = "mp0";
/// Address of gateway b in our tunnel.
const INSIDE: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 2);
/// Weight of the link that is to fail beside the others' 1: practically every flow takes it.
const DOMINANT: u32 = 1_000_000;

/// A tunnel that carries packets from gateway a to gateway b.
pub(super) struct Scene {
    tunnel: Tunnel,
    case: Case,
    /// The gateways and what is between them. Goes last.
    pub(super) topology: Topology,
}

/// Held for its drop.
#[expect(dead_code, reason = "held for its drop")]
enum Tunnel {
    Ours([Daemon; 2]),
    OpenVpnMptcp(OpenVpnMptcp),
}

/// A change of a path's health.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Change {
    /// Nanoseconds of `CLOCK_REALTIME`.
    pub(super) at_ns: u64,
    /// The uplink.
    pub(super) uplink: String,
    /// Health before it.
    pub(super) from: String,
    /// Health after it.
    pub(super) to: String,
}

impl Scene {
    /// Brings a tunnel up, and waits until all its paths are.
    pub(super) fn new(case: &Case) -> Result<Self> {
        let topology = Topology::new(&case.specs())?;
        let tunnel = match case.kind {
            Kind::Ours => Tunnel::Ours(ours(&topology)?),
            Kind::OpenVpnMptcp => Tunnel::OpenVpnMptcp(OpenVpnMptcp::start(&topology)?),
        };
        Ok(Self { tunnel, case: case.clone(), topology })
    }

    /// Whether it is one for this case too.
    pub(super) fn suits(&self, case: &Case) -> bool {
        self.case.shares_lab(case)
    }

    /// Makes our tunnel forget the link that failed: what a path did before counts against it.
    pub(super) fn renew(&self) -> Result<()> {
        if matches!(self.tunnel, Tunnel::OpenVpnMptcp(_)) {
            return Ok(());
        }
        let Topology { a, b, .. } = &self.topology;
        let whole = configs(&self.topology);
        let without = whole.clone().map(|config| without(config, self.stricken_uplink()));
        for configs in [&without, &whole] {
            for (gateway, config) in [a, b].into_iter().zip(configs) {
                gateway.write_config(config)?;
                gateway.mpvpn(&["reload", TUNNEL])?.success()?;
            }
        }
        settle(&self.topology)
    }

    /// Address of gateway b inside the tunnel.
    pub(super) fn inside(&self) -> Ipv4Addr {
        match self.tunnel {
            Tunnel::Ours(_) => INSIDE,
            Tunnel::OpenVpnMptcp(_) => mptcp::INSIDE,
        }
    }

    /// Name of the uplink that fails.
    pub(super) fn stricken_uplink(&self) -> &str {
        &self.topology.connections[STRICKEN].ends[0].interface
    }

    /// The changes of the paths' health at both gateways; none where the tunnel keeps no history.
    pub(super) fn history(&self) -> Result<[Vec<Change>; 2]> {
        let Topology { a, b, .. } = &self.topology;
        match self.tunnel {
            Tunnel::Ours(_) => Ok([history(a)?, history(b)?]),
            Tunnel::OpenVpnMptcp(_) => Ok([Vec::new(), Vec::new()]),
        }
    }

    /// A program for each processor that does nothing but occupy it.
    pub(super) fn occupy_processors(&self) -> Result<Vec<Process>> {
        let processors = std::thread::available_parallelism()?.get();
        let program = || self.topology.ha().spawn(&["sh", "-c", "while :; do :; done"]);
        (0..processors).map(|_| program()).collect()
    }
}

fn ours(topology: &Topology) -> Result<[Daemon; 2]> {
    let Topology { a, b, .. } = topology;
    let [config_a, config_b] = configs(topology);
    let daemons = [a.up(&config_a)?, b.up(&config_b)?];
    topology.wait_for_session(TUNNEL)?;
    settle(topology)?;
    Ok(daemons)
}

/// Of a tunnel whose flows take the link that is to fail.
fn configs(topology: &Topology) -> [TunnelConfig; 2] {
    topology.tunnel_configs(0).map(|mut config| {
        for (number, uplink) in config.uplinks.iter_mut().enumerate() {
            uplink.weight = Some(if number == STRICKEN { DOMINANT } else { 1 });
        }
        config
    })
}

fn without(mut config: TunnelConfig, uplink: &str) -> TunnelConfig {
    config.uplinks.retain(|own| own.name != uplink);
    for peer in &mut config.peers {
        peer.endpoints.retain(|endpoint| endpoint.uplinks.iter().all(|own| own != uplink));
    }
    config
}

/// Waits until all paths are up at both gateways.
fn settle(topology: &Topology) -> Result<()> {
    for gateway in [&topology.a, &topology.b] {
        let all_are_up = |paths: &Vec<String>| {
            paths.len() == topology.connections.len() && paths.iter().all(|health| health == "up")
        };
        eventually("all paths are up", || gateway.health(TUNNEL), all_are_up)?;
    }
    Ok(())
}

fn history(gateway: &Gateway) -> Result<Vec<Change>> {
    #[derive(Deserialize)]
    struct Document {
        changes: Vec<Change>,
    }
    let output = gateway.mpvpn(&["path", "log", TUNNEL, "--json"])?;
    let document: Document = serde_json::from_str(output.success()?).context("`mpvpn path log --json`")?;
    // What changes besides, such as the path MTU, stands there too.
    Ok(document.changes.into_iter().filter(|change| change.from != change.to).collect())
}
