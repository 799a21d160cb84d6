//! A hub and many peers that all answer.

use std::thread;

use anyhow::{Context, Result};
use multipath_tests::config::LISTEN_PORT;
use multipath_tests::{Connection, Daemon, Family, Gateway, Lab, LinkSpec, TunnelConfig};

/// Gateways on which the peers are. A peer is a tunnel with a key and a port of its own, and an interface takes 64
/// programs (`BPF_MPROG_MAX`, `include/linux/bpf_mprog.h` of the kernel).
const SITES: [&str; 2] = ["s", "t"];
const TUNNEL: &str = "mp0";

/// A hub with a session with each of its peers.
pub(crate) struct Hub {
    /// The hub's first; before what they run in.
    daemons: Vec<Daemon>,
    gateway: Gateway,
    #[expect(dead_code, reason = "held for their drop")]
    sites: Vec<Gateway>,
    #[expect(dead_code, reason = "held for its drop: goes last")]
    lab: Lab,
}

impl Hub {
    /// Brings up a hub with so many peers, half of them on each site, with so many paths to each.
    pub(crate) fn new(peers: u8, paths: u8) -> Result<Self> {
        let lab = Lab::new()?;
        let gateway = Gateway::new(&lab, "h", 1)?;
        let mut sites = Vec::new();
        let mut config = TunnelConfig::mesh(0, &[&gateway], &[]).pop().context("a hub has a configuration")?;
        let mut spokes = Vec::new();
        for (name, number) in SITES.into_iter().zip(0..) {
            let site = Gateway::new(&lab, name, number + 2)?;
            let links = number * paths..(number + 1) * paths;
            let link = |number| Connection::new(&lab, number, [&gateway, &site], LinkSpec::VETH.family(Family::V4));
            let links = links.map(link).collect::<Result<Vec<_>>>()?;
            let tunnels = (0..peers / SITES.len() as u8).map(|tunnel| pair(tunnel, &gateway, &site, &links));
            let (of_hub, of_site): (Vec<_>, Vec<_>) = tunnels.collect::<Result<Vec<_>>>()?.into_iter().unzip();
            config.uplinks.extend(of_hub.first().into_iter().flat_map(|hub| hub.uplinks.clone()));
            config.peers.extend(of_hub.into_iter().flat_map(|hub| hub.peers));
            spokes.push(of_site);
            sites.push(site);
        }
        let mut daemons = vec![gateway.up(&config)?];
        let up = |(site, spokes): (&Gateway, &Vec<TunnelConfig>)| {
            spokes.iter().map(|spoke| site.up(spoke)).collect::<Result<Vec<_>>>()
        };
        let up = thread::scope(|scope| {
            let threads: Vec<_> = sites.iter().zip(&spokes).map(|site| scope.spawn(move || up(site))).collect();
            threads.into_iter().map(thread::ScopedJoinHandle::join).collect::<Vec<_>>()
        });
        for result in up {
            daemons.extend(result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
        }
        gateway.wait_for_sessions(TUNNEL)?;
        Ok(Self { daemons, gateway, sites, lab })
    }

    /// The hub.
    pub(crate) fn gateway(&self) -> &Gateway {
        &self.gateway
    }

    /// Its daemon.
    pub(crate) fn daemon(&self) -> &Daemon {
        &self.daemons[0]
    }
}

/// The hub's configuration of one peer, and the peer's: tunnel number `number` there, tunnel 0 of the hub.
fn pair(number: u8, hub: &Gateway, site: &Gateway, links: &[Connection]) -> Result<(TunnelConfig, TunnelConfig)> {
    let mesh = |number| -> Result<[TunnelConfig; 2]> {
        let [of_hub, of_site] = TunnelConfig::mesh(number, &[hub, site], links).try_into().ok().context("two ends")?;
        Ok([of_hub, of_site])
    };
    let [mut of_hub, mut of_site] = mesh(number)?;
    for peer in &mut of_hub.peers {
        peer.name = format!("{}{number}", site.name());
    }
    let [_, of_first] = mesh(0)?;
    for (peer, first) in of_site.peers.iter_mut().zip(of_first.peers) {
        peer.public_key = first.public_key;
        peer.endpoints.iter_mut().for_each(|endpoint| endpoint.address.set_port(LISTEN_PORT));
    }
    Ok((of_hub, of_site))
}
